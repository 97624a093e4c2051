-- Every object of the scope that has an owner, with its privileges and with the words that name it in a statement.
-- $1: the schema, or NULL for the whole database. Extensions' members are left out: they come with the extension.
-- Reads catalogs only, and turns only names, oids and access lists into JSON: nothing of the tenant's own types or functions runs.
WITH spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname
    FROM pg_catalog.pg_namespace n
    WHERE CASE WHEN $1::text IS NULL
          THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
               -- what the dump of a whole database leaves out: schemas that restores keep or have not finished, and our own control plane
               AND n.nspname !~ '^hf_(before|undone|new|restore)_[0-9a-f]{12}$'
               AND NOT (n.nspname = 'control_plane' AND EXISTS (SELECT FROM pg_catalog.pg_class b WHERE b.relnamespace = n.oid AND b.relname = 'backup_copies'))
          ELSE n.nspname = $1::text END
), objects AS (
    SELECT 'pg_catalog.pg_namespace'::regclass::oid AS class, s.oid AS object, n.nspowner AS owner, n.nspacl AS acl, 'n' AS acl_kind,
           'SCHEMA' AS alter_word, 'SCHEMA' AS grant_word, quote_ident(s.nspname) AS reference, false AS follows
    FROM spaces s JOIN pg_catalog.pg_namespace n ON n.oid = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relowner, c.relacl, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END,
           CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
           CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
           format('%I.%I', s.nspname, c.relname),
           -- a sequence that belongs to a column has its table's owner, always
           c.relkind = 'S' AND EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                                       AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i'))
    FROM spaces s JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL
    SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.proowner, p.proacl, 'f', 'ROUTINE', 'ROUTINE',
           -- with their mode: without it, a procedure is known by its OUT arguments too, and another may have the same types
           format('%I.%I(%s)', s.nspname, p.proname,
                  (SELECT string_agg('IN ' || format_type(t.type, NULL), ', ' ORDER BY t.position) FROM unnest(p.proargtypes) WITH ORDINALITY AS t(type, position))),
           false
    FROM spaces s JOIN pg_catalog.pg_proc p ON p.pronamespace = s.oid
    -- a range's constructors are made with it, always belong to the bootstrap superuser, and are in no dump
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
  UNION ALL
    -- enums, domains, ranges, composites and base types; not row types, array types and multiranges, which follow another
    SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typowner, t.typacl, 'T', 'TYPE', 'TYPE', format('%I.%I', s.nspname, t.typname), false
    FROM spaces s JOIN pg_catalog.pg_type t ON t.typnamespace = s.oid
    WHERE t.typisdefined AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
      AND (t.typtype IN ('e', 'd', 'r', 'b')
           OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid = t.typrelid AND r.relkind = 'c'))
  UNION ALL
    SELECT 'pg_catalog.pg_operator'::regclass, o.oid, o.oprowner, NULL, NULL, 'OPERATOR', NULL,
           format('%I.%s (%s, %s)', s.nspname, o.oprname, CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END,
                  CASE WHEN o.oprright = 0 THEN 'NONE' ELSE format_type(o.oprright, NULL) END), false
    FROM spaces s JOIN pg_catalog.pg_operator o ON o.oprnamespace = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_opclass'::regclass, o.oid, o.opcowner, NULL, NULL, 'OPERATOR CLASS', NULL,
           format('%I.%I USING %I', s.nspname, o.opcname, a.amname), false
    FROM spaces s JOIN pg_catalog.pg_opclass o ON o.opcnamespace = s.oid JOIN pg_catalog.pg_am a ON a.oid = o.opcmethod
  UNION ALL
    SELECT 'pg_catalog.pg_opfamily'::regclass, o.oid, o.opfowner, NULL, NULL, 'OPERATOR FAMILY', NULL,
           format('%I.%I USING %I', s.nspname, o.opfname, a.amname), false
    FROM spaces s JOIN pg_catalog.pg_opfamily o ON o.opfnamespace = s.oid JOIN pg_catalog.pg_am a ON a.oid = o.opfmethod
  UNION ALL
    SELECT 'pg_catalog.pg_collation'::regclass, o.oid, o.collowner, NULL, NULL, 'COLLATION', NULL, format('%I.%I', s.nspname, o.collname), false
    FROM spaces s JOIN pg_catalog.pg_collation o ON o.collnamespace = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_conversion'::regclass, o.oid, o.conowner, NULL, NULL, 'CONVERSION', NULL, format('%I.%I', s.nspname, o.conname), false
    FROM spaces s JOIN pg_catalog.pg_conversion o ON o.connamespace = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_ts_config'::regclass, o.oid, o.cfgowner, NULL, NULL, 'TEXT SEARCH CONFIGURATION', NULL, format('%I.%I', s.nspname, o.cfgname), false
    FROM spaces s JOIN pg_catalog.pg_ts_config o ON o.cfgnamespace = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_ts_dict'::regclass, o.oid, o.dictowner, NULL, NULL, 'TEXT SEARCH DICTIONARY', NULL, format('%I.%I', s.nspname, o.dictname), false
    FROM spaces s JOIN pg_catalog.pg_ts_dict o ON o.dictnamespace = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_statistic_ext'::regclass, o.oid, o.stxowner, NULL, NULL, 'STATISTICS', NULL, format('%I.%I', s.nspname, o.stxname), false
    FROM spaces s JOIN pg_catalog.pg_statistic_ext o ON o.stxnamespace = s.oid
  UNION ALL
    SELECT 'pg_catalog.pg_largeobject'::regclass, o.oid, o.lomowner, o.lomacl, 'L', 'LARGE OBJECT', 'LARGE OBJECT', o.oid::text, false
    FROM pg_catalog.pg_largeobject_metadata o WHERE $1::text IS NULL
)
SELECT i.type AS kind, i.identity, pg_get_userbyid(o.owner)::text AS owner, o.alter_word, o.grant_word, o.reference, o.follows,
       CASE WHEN o.acl IS NOT NULL THEN
           (SELECT coalesce(json_agg(json_build_object('grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END,
                       'grantor', pg_get_userbyid(a.grantor)::text, 'privilege', a.privilege_type, 'grantable', a.is_grantable)), '[]')
            FROM aclexplode(o.acl) a) END AS acl,
       CASE WHEN o.acl_kind IS NOT NULL THEN
           (SELECT coalesce(json_agg(json_build_object('grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END,
                       'grantor', pg_get_userbyid(a.grantor)::text, 'privilege', a.privilege_type, 'grantable', a.is_grantable)), '[]')
            FROM aclexplode(acldefault(o.acl_kind::"char", o.owner)) a) END AS default_acl,
       CASE o.class
           WHEN 'pg_catalog.pg_proc'::regclass::oid THEN
               (SELECT md5(concat_ws(chr(1), l.lanname, p.prosecdef, p.probin, p.prosrc, p.proconfig::text, pg_get_function_sqlbody(p.oid)))
                FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE p.oid = o.object)
           WHEN 'pg_catalog.pg_class'::regclass::oid THEN
               (SELECT md5(string_agg(d.text, chr(1) ORDER BY d.text COLLATE "C"))
                FROM (SELECT pg_get_triggerdef(t.oid) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = o.object AND NOT t.tgisinternal
                      UNION ALL SELECT pg_get_ruledef(r.oid) FROM pg_catalog.pg_rewrite r WHERE r.ev_class = o.object) AS d(text))
       END AS code,
       -- what the server writes anew from what it has parsed, and a digest of the rest
       CASE o.class WHEN 'pg_catalog.pg_proc'::regclass::oid THEN pg_get_function_sqlbody(o.object) END AS body,
       CASE o.class WHEN 'pg_catalog.pg_proc'::regclass::oid THEN
           (SELECT md5(concat_ws(chr(1), l.lanname, p.prosecdef, p.probin, p.prosrc, p.proconfig::text))
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
            WHERE p.oid = o.object AND p.prosqlbody IS NOT NULL) END AS around_body,
       1 + CASE WHEN o.class = 'pg_catalog.pg_class'::regclass THEN
           (SELECT count(*) FROM pg_catalog.pg_index x WHERE x.indrelid = o.object)
           + 2 * (SELECT count(*) FROM pg_catalog.pg_class t WHERE t.oid = o.object AND t.reltoastrelid <> 0) ELSE 0 END AS locks,
       CASE WHEN o.grant_word = 'TABLE' THEN
           (SELECT json_agg(json_build_object('column', t.attname::text, 'grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END,
                       'grantor', pg_get_userbyid(a.grantor)::text, 'privilege', a.privilege_type, 'grantable', a.is_grantable) ORDER BY t.attnum, a.position)
            FROM pg_catalog.pg_attribute t, aclexplode(t.attacl) WITH ORDINALITY AS a(grantor, grantee, privilege_type, is_grantable, position)
            WHERE t.attrelid = o.object AND NOT t.attisdropped AND t.attacl IS NOT NULL) END AS column_acl
FROM objects o, pg_identify_object(o.class, o.object, 0) i
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.class AND d.objid = o.object AND d.deptype = 'e')
ORDER BY o.class, i.identity
