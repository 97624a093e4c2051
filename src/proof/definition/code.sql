-- Functions, procedures and aggregates. $1: the schemas. A range's constructors are made with it.
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
       format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name,
       jsonb_strip_nulls(jsonb_build_object(
           'definition', CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE
               (SELECT concat_ws('; ', 'returns ' || format_type(p.prorettype, NULL), a.aggkind::text, 'step ' || a.aggtransfn::text, 'state ' || format_type(a.aggtranstype, NULL),
                    'space ' || a.aggtransspace::text, 'initially ' || a.agginitval, 'final ' || a.aggfinalfn::text || ' ' || a.aggfinalextra::text || ' ' || a.aggfinalmodify::text,
                    'combine ' || a.aggcombinefn::text, 'serial ' || a.aggserialfn::text, 'deserial ' || a.aggdeserialfn::text, 'sort ' || a.aggsortop::regoperator::text,
                    'moving ' || a.aggmtransfn::text || ' ' || a.aggminvtransfn::text || ' ' || a.aggmfinalfn::text, 'moving initially ' || a.aggminitval,
                    'parallel ' || p.proparallel::text, 'volatile ' || p.provolatile::text)
                FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid) END,
           'comment', obj_description(p.oid, 'pg_proc'))) AS facts
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.pronamespace = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = p.oid AND e.deptype IN ('e', 'i'))
