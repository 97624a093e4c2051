-- What to drop next of a schema that is more than one transaction should drop; nothing when it is not. What depends on others goes before
-- them, so that no statement takes much more with it than was counted: views, then tables (what inherits before what it inherits from, on
-- all levels; what refers to others before what is referred to), sequences, routines, types.
-- $1: the schema's oid. $2: about how many locks one transaction takes: dropping locks every single object, and what is a part of it.
WITH RECURSIVE relations AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, c.reltoastrelid
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = $1::int8::oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      -- not what goes with something else: a column's own sequence, a row type, a range's constructors, an extension's member
      AND (c.relispartition OR NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                                           AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype IN ('a', 'i', 'e')))
), below(oid, depth) AS (
    SELECT oid, 0 FROM relations
  UNION
    SELECT h.inhrelid, b.depth + 1 FROM below b JOIN pg_catalog.pg_inherits h ON h.inhparent = b.oid
), deepest AS (
    SELECT oid, max(depth) AS depth FROM below GROUP BY oid
), keys AS (
    SELECT confrelid AS oid, count(*) AS count FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid <> confrelid GROUP BY confrelid
), members AS (
    SELECT CASE WHEN r.relkind IN ('v', 'm') THEN 0 WHEN r.relkind = 'S' THEN 2 ELSE 1 END AS turn, r.oid, deepest.depth,
           coalesce(keys.count, 0) AS keys,
           CASE r.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE'
                          WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
           quote_ident(r.relname) AS name,
           2 + CASE WHEN r.reltoastrelid <> 0 THEN 2 ELSE 0 END
           + (SELECT count(*) FROM pg_catalog.pg_index x WHERE x.indrelid = r.oid)
           + (SELECT count(DISTINCT (d.classid, d.objid)) FROM pg_catalog.pg_depend d
              WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = r.oid AND d.deptype IN ('a', 'i', 'P', 'S')
                AND (d.classid <> 'pg_catalog.pg_class'::regclass
                     OR EXISTS (SELECT FROM pg_catalog.pg_class s WHERE s.oid = d.objid AND s.relkind = 'S')))
           -- a foreign key with its triggers, and the table that has it
           + 6 * coalesce(keys.count, 0) AS locks
    FROM relations r JOIN deepest ON deepest.oid = r.oid LEFT JOIN keys ON keys.oid = r.oid
  UNION ALL
    SELECT 3, p.oid, 0, 0, 'ROUTINE',
           -- with their mode: without it, a procedure is known by its OUT arguments too, and another may have the same types
           format('%I(%s)', p.proname, (SELECT string_agg('IN ' || format_type(t.type, NULL), ', ' ORDER BY t.position)
                                        FROM unnest(p.proargtypes) WITH ORDINALITY AS t(type, position))), 2
    FROM pg_catalog.pg_proc p
    WHERE p.pronamespace = $1::int8::oid
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                      AND d.deptype IN ('a', 'i', 'e'))
  UNION ALL
    SELECT 4, t.oid, 0, 0, 'TYPE', quote_ident(t.typname), 4
    FROM pg_catalog.pg_type t
    WHERE t.typnamespace = $1::int8::oid AND t.typtype <> 'p'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid
                      AND d.deptype IN ('a', 'i', 'e'))
), summed AS (
    SELECT *, sum(locks) OVER (ORDER BY turn, depth DESC, keys, oid DESC) AS upto, sum(locks) OVER () AS total FROM members
)
SELECT format('DROP %s IF EXISTS %I.%s CASCADE', s.kind, n.nspname, s.name)
FROM summed s JOIN pg_catalog.pg_namespace n ON n.oid = $1::int8::oid
WHERE s.total > $2 AND s.upto - s.locks < $2
ORDER BY s.upto
