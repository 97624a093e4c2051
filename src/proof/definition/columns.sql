-- Columns of tables, views and composite types. $1: the schemas. The target of statistics is -1 or NULL where none was set (NULL from PostgreSQL 17 on).
-- Newer servers (15.20 for one) keep a column's version of their own among its options, which pg_dump leaves out.
-- Never to_jsonb(a): attmissingval holds values of the tenant's own types, whose casts to json it would run.
SELECT CASE c.relkind WHEN 'c' THEN 'attribute' ELSE 'column' END AS kind, format('%I.%I.%I', n.nspname, c.relname, a.attname) AS name,
       jsonb_strip_nulls(jsonb_build_object(
           'type', format_type(a.atttypid, a.atttypmod),
           'collation', CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END,
           'not null', CASE WHEN a.attnotnull THEN 'true' END,
           'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
           'generated', CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) || CASE a.attgenerated WHEN 's' THEN ' stored' ELSE ' virtual' END END,
           'identity', CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END,
           'statistics target', nullif(a.attstattarget, -1)::text,
           'storage', CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END,
           'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
           'options', (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM unnest(a.attoptions) AS o WHERE NOT starts_with(o, 'pg_attver=')),
           'foreign options', a.attfdwoptions::text,
           'comment', col_description(c.oid, a.attnum))) AS facts
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
