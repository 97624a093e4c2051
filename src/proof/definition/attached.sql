-- Constraints, indexes, triggers, rules and policies. $1: the schemas.
WITH relations AS MATERIALIZED (
    SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relnamespace = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
)
-- A foreign key's parts at partitions follow it, under names that depend on the order in which they came.
SELECT 'constraint' AS kind, format('%I on %s', k.conname, r.name) AS name,
       jsonb_strip_nulls(jsonb_build_object('definition', pg_get_constraintdef(k.oid), 'comment', obj_description(k.oid, 'pg_constraint'))) AS facts
FROM pg_catalog.pg_constraint k JOIN relations r ON r.oid = k.conrelid
WHERE k.contype <> 't' AND NOT (k.contype = 'f' AND k.conparentid <> 0)
UNION ALL
SELECT 'constraint', format('%I on %I.%I', k.conname, n.nspname, t.typname),
       jsonb_strip_nulls(jsonb_build_object('definition', pg_get_constraintdef(k.oid), 'comment', obj_description(k.oid, 'pg_constraint')))
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_type t ON t.oid = k.contypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typnamespace = ANY ($1) AND k.contype <> 'n'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
UNION ALL
-- An index that was never finished is in no dump.
SELECT 'index', format('%I.%I', n.nspname, x.relname),
       jsonb_strip_nulls(jsonb_build_object(
           'definition', pg_get_indexdef(x.oid),
           'tablespace', (SELECT t.spcname::text FROM pg_catalog.pg_tablespace t WHERE t.oid = x.reltablespace),
           'part of', (SELECT h.inhparent::regclass::text FROM pg_catalog.pg_inherits h WHERE h.inhrelid = x.oid),
           'statistics targets', (SELECT string_agg(format('%s: %s', a.attnum, a.attstattarget), ', ' ORDER BY a.attnum)
                                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = x.oid AND nullif(a.attstattarget, -1) IS NOT NULL),
           'comment', obj_description(x.oid, 'pg_class')))
FROM pg_catalog.pg_index i JOIN relations r ON r.oid = i.indrelid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace
WHERE i.indisvalid OR x.relkind = 'I'
UNION ALL
-- A trigger at a partition follows its parent, but for whether it is enabled.
SELECT 'trigger', format('%I on %s', g.tgname, r.name),
       jsonb_strip_nulls(jsonb_build_object(
           'definition', CASE WHEN g.tgparentid = 0 THEN pg_get_triggerdef(g.oid) END,
           'state', CASE g.tgenabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END,
           'comment', obj_description(g.oid, 'pg_trigger')))
FROM pg_catalog.pg_trigger g JOIN relations r ON r.oid = g.tgrelid
WHERE g.tgparentid = 0 AND NOT g.tgisinternal
   OR g.tgparentid <> 0 AND g.tgenabled <> (SELECT p.tgenabled FROM pg_catalog.pg_trigger p WHERE p.oid = g.tgparentid)
UNION ALL
SELECT 'rule', format('%I on %s', w.rulename, r.name),
       jsonb_strip_nulls(jsonb_build_object(
           'definition', pg_get_ruledef(w.oid),
           'state', CASE w.ev_enabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END,
           'comment', obj_description(w.oid, 'pg_rewrite')))
FROM pg_catalog.pg_rewrite w JOIN relations r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
UNION ALL
SELECT 'policy', format('%I on %s', y.polname, r.name),
       jsonb_strip_nulls(jsonb_build_object(
           'kind', CASE WHEN y.polpermissive THEN 'permissive' ELSE 'restrictive' END,
           'command', CASE y.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'all' END,
           'roles', (SELECT string_agg(CASE o WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(o)) END, ', ' ORDER BY pg_get_userbyid(o)::text COLLATE "C")
                     FROM unnest(y.polroles) AS o),
           'using', pg_get_expr(y.polqual, y.polrelid),
           'with check', pg_get_expr(y.polwithcheck, y.polrelid),
           'comment', obj_description(y.oid, 'pg_policy')))
FROM pg_catalog.pg_policy y JOIN relations r ON r.oid = y.polrelid
UNION ALL
SELECT 'statistics', format('%I.%I', n.nspname, x.stxname),
       jsonb_strip_nulls(jsonb_build_object(
           'definition', pg_get_statisticsobjdef(x.oid),
           'statistics target', nullif(x.stxstattarget, -1)::text,
           'comment', obj_description(x.oid, 'pg_statistic_ext')))
FROM pg_catalog.pg_statistic_ext x JOIN pg_catalog.pg_namespace n ON n.oid = x.stxnamespace WHERE x.stxnamespace = ANY ($1)
