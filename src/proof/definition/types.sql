-- Types and what is named by them. $1: the schemas. Versions of collations are the library's, not the dump's.
SELECT CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'r' THEN 'range' WHEN 'c' THEN 'composite type' ELSE 'type' END AS kind,
       format('%I.%I', n.nspname, t.typname) AS name,
       jsonb_strip_nulls(jsonb_build_object(
           'comment', obj_description(t.oid, 'pg_type'),
           'labels', CASE WHEN t.typtype = 'e' THEN coalesce((SELECT string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum l WHERE l.enumtypid = t.oid), '') END,
           'base type', CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
           'not null', CASE WHEN t.typtype = 'd' AND t.typnotnull THEN 'true' END,
           'default', CASE WHEN t.typtype = 'd' THEN coalesce(pg_get_expr(t.typdefaultbin, 0), t.typdefault) END,
           'collation', CASE WHEN t.typtype = 'd' AND t.typcollation <> (SELECT b.typcollation FROM pg_catalog.pg_type b WHERE b.oid = t.typbasetype) THEN t.typcollation::regcollation::text END,
           'attributes', CASE WHEN t.typtype = 'c' THEN (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END,
           'input and output', CASE WHEN t.typtype = 'b' THEN concat_ws(' ', t.typinput, t.typoutput, t.typreceive, t.typsend, t.typlen, t.typalign, t.typstorage, t.typcategory) END))
         || coalesce((SELECT jsonb_strip_nulls(jsonb_build_object('subtype', format_type(r.rngsubtype, NULL), 'subtype collation', nullif(r.rngcollation::regcollation::text, '-'),
                          'operator class', (SELECT format('%I.%I', m.nspname, o.opcname) FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_namespace m ON m.oid = o.opcnamespace WHERE o.oid = r.rngsubopc),
                          'canonical', nullif(r.rngcanonical::text, '-'), 'difference', nullif(r.rngsubdiff::text, '-'), 'multirange', format_type(r.rngmultitypid, NULL)))
                      FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid), '{}') AS facts
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typnamespace = ANY ($1) AND t.typisdefined AND NOT EXISTS (SELECT FROM pg_catalog.pg_type a WHERE a.typarray = t.oid)
  AND (t.typtype IN ('e', 'd', 'r', 'b') OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
UNION ALL
SELECT 'collation', format('%I.%I', n.nspname, c.collname),
       jsonb_strip_nulls(jsonb_build_object(
           'comment', obj_description(c.oid, 'pg_collation'),
           'provider', CASE c.collprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'default' END,
           'deterministic', c.collisdeterministic::text,
           'collate', CASE WHEN c.collprovider = 'c' THEN c.collcollate::text END, 'ctype', CASE WHEN c.collprovider = 'c' THEN c.collctype::text END,
           'locale', CASE WHEN c.collprovider <> 'c' THEN coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate::text) END,
           'rules', to_jsonb(c) ->> 'collicurules'))
FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
WHERE c.collnamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_collation'::regclass AND e.objid = c.oid AND e.deptype = 'e')
UNION ALL
SELECT 'operator', format('%I.%s (%s, %s)', n.nspname, o.oprname, CASE o.oprleft WHEN 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END, format_type(o.oprright, NULL)),
       jsonb_strip_nulls(jsonb_build_object(
           'comment', obj_description(o.oid, 'pg_operator'), 'function', o.oprcode::text, 'hashes', o.oprcanhash::text, 'merges', o.oprcanmerge::text,
           'commutator', nullif(o.oprcom::regoperator::text, '0'), 'negator', nullif(o.oprnegate::regoperator::text, '0'),
           'restrict', nullif(o.oprrest::text, '-'), 'join', nullif(o.oprjoin::text, '-')))
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
WHERE o.oprnamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_operator'::regclass AND e.objid = o.oid AND e.deptype = 'e')
UNION ALL
SELECT 'operator class', format('%I.%I using %I', n.nspname, o.opcname, m.amname),
       jsonb_strip_nulls(jsonb_build_object(
           'comment', obj_description(o.oid, 'pg_opclass'), 'type', format_type(o.opcintype, NULL), 'default', o.opcdefault::text,
           'storage', CASE WHEN o.opckeytype <> 0 THEN format_type(o.opckeytype, NULL) END,
           'operators', (SELECT string_agg(format('%s %s', x.amopstrategy, x.amopopr::regoperator), ', ' ORDER BY x.amopstrategy, x.amopopr::regoperator::text COLLATE "C")
                         FROM pg_catalog.pg_amop x WHERE x.amopfamily = o.opcfamily),
           'functions', (SELECT string_agg(format('%s %s', x.amprocnum, x.amproc::regprocedure), ', ' ORDER BY x.amprocnum, x.amproc::regprocedure::text COLLATE "C")
                         FROM pg_catalog.pg_amproc x WHERE x.amprocfamily = o.opcfamily)))
FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_namespace n ON n.oid = o.opcnamespace JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
WHERE o.opcnamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_opclass'::regclass AND e.objid = o.oid AND e.deptype = 'e')
UNION ALL
SELECT 'conversion', format('%I.%I', n.nspname, c.conname),
       jsonb_strip_nulls(jsonb_build_object('comment', obj_description(c.oid, 'pg_conversion'), 'default', c.condefault::text, 'function', c.conproc::text,
           'encodings', pg_encoding_to_char(c.conforencoding) || ' to ' || pg_encoding_to_char(c.contoencoding)))
FROM pg_catalog.pg_conversion c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
WHERE c.connamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_conversion'::regclass AND e.objid = c.oid AND e.deptype = 'e')
UNION ALL
SELECT 'text search configuration', format('%I.%I', n.nspname, c.cfgname),
       jsonb_strip_nulls(jsonb_build_object('comment', obj_description(c.oid, 'pg_ts_config'),
           'parser', (SELECT format('%I.%I', q.nspname, p.prsname) FROM pg_catalog.pg_ts_parser p JOIN pg_catalog.pg_namespace q ON q.oid = p.prsnamespace WHERE p.oid = c.cfgparser),
           'dictionaries', (SELECT string_agg(format('%s: %s', m.maptokentype, m.mapdict::regdictionary), ', ' ORDER BY m.maptokentype, m.mapseqno)
                            FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = c.oid)))
FROM pg_catalog.pg_ts_config c JOIN pg_catalog.pg_namespace n ON n.oid = c.cfgnamespace
WHERE c.cfgnamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_ts_config'::regclass AND e.objid = c.oid AND e.deptype = 'e')
UNION ALL
SELECT 'text search dictionary', format('%I.%I', n.nspname, c.dictname),
       jsonb_strip_nulls(jsonb_build_object('comment', obj_description(c.oid, 'pg_ts_dict'), 'options', c.dictinitoption,
           'template', (SELECT format('%I.%I', q.nspname, t.tmplname) FROM pg_catalog.pg_ts_template t JOIN pg_catalog.pg_namespace q ON q.oid = t.tmplnamespace WHERE t.oid = c.dicttemplate)))
FROM pg_catalog.pg_ts_dict c JOIN pg_catalog.pg_namespace n ON n.oid = c.dictnamespace
WHERE c.dictnamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_ts_dict'::regclass AND e.objid = c.oid AND e.deptype = 'e')
