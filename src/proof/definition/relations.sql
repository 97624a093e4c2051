-- Schemas, tables, views and sequences. $1: the schemas.
SELECT 'schema' AS kind, format('%I', n.nspname) AS name,
       jsonb_strip_nulls(jsonb_build_object('comment', obj_description(n.oid, 'pg_namespace'))) AS facts
FROM pg_catalog.pg_namespace n WHERE n.oid = ANY ($1)
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' ELSE 'table' END,
       format('%I.%I', n.nspname, c.relname),
       jsonb_strip_nulls(jsonb_build_object(
           'comment', obj_description(c.oid, 'pg_class'),
           'persistence', CASE c.relpersistence WHEN 'u' THEN 'unlogged' END,
           'access method', (SELECT m.amname::text FROM pg_catalog.pg_am m WHERE m.oid = c.relam AND m.amname <> 'heap'),
           'tablespace', (SELECT t.spcname::text FROM pg_catalog.pg_tablespace t WHERE t.oid = c.reltablespace),
           'options', (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM (
                           SELECT unnest(c.reloptions) UNION ALL
                           SELECT 'toast.' || unnest(t.reloptions) FROM pg_catalog.pg_class t WHERE t.oid = c.reltoastrelid) AS options (o)),
           'row level security', CASE WHEN c.relforcerowsecurity AND c.relrowsecurity THEN 'forced' WHEN c.relrowsecurity THEN 'enabled'
                                      WHEN c.relforcerowsecurity THEN 'forced, not enabled' END,
           'replica identity', CASE WHEN c.relkind NOT IN ('r', 'p', 'm') THEN NULL ELSE CASE c.relreplident WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full' WHEN 'i' THEN
               (SELECT format('index %I', x.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                WHERE i.indrelid = c.oid AND i.indisreplident) END END,
           'clustered on', (SELECT format('%I', x.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                            WHERE i.indrelid = c.oid AND i.indisclustered),
           'definition', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
           'populated', CASE WHEN c.relkind = 'm' THEN c.relispopulated::text END,
           'partition key', CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
           'partition bound', pg_get_expr(c.relpartbound, c.oid),
           'inherits from', (SELECT string_agg(h.inhparent::regclass::text, ', ' ORDER BY h.inhseqno) FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid),
           'of type', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
           -- The columns of a child of an ordinary table come in another order when they were added to the parent later.
           'columns', CASE WHEN c.relkind IN ('r', 'p', 'f') AND (c.relispartition OR NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid)) THEN
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END,
           'foreign server', (SELECT format('%I', v.srvname) FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver WHERE f.ftrelid = c.oid),
           'foreign options', (SELECT f.ftoptions::text FROM pg_catalog.pg_foreign_table f WHERE f.ftrelid = c.oid))
         || coalesce((SELECT jsonb_build_object('type', format_type(q.seqtypid, NULL), 'start', q.seqstart::text, 'increment', q.seqincrement::text,
                          'minimum', q.seqmin::text, 'maximum', q.seqmax::text, 'cache', q.seqcache::text, 'cycle', q.seqcycle::text)
                      FROM pg_catalog.pg_sequence q WHERE q.seqrelid = c.oid), '{}')
         || coalesce((SELECT jsonb_build_object('owned by', format('%s.%I', d.refobjid::regclass, a.attname))
                      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                      WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')), '{}'))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relnamespace = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
