-- What belongs to the schemas and lies outside of them. $1: the schemas, $2: roles that count, $3: extensions that count, $4: the whole database.
SELECT 'extension' AS kind, format('%I', x.extname) AS name,
       jsonb_build_object('version', x.extversion, 'schema', format('%I', n.nspname)) AS facts
FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace WHERE x.extname::text = ANY ($3)
UNION ALL
SELECT 'cast', format('%s as %s', format_type(k.castsource, NULL), format_type(k.casttarget, NULL)),
       jsonb_build_object('function', CASE k.castfunc WHEN 0 THEN 'none' ELSE k.castfunc::regprocedure::text END,
           'context', CASE k.castcontext WHEN 'i' THEN 'implicit' WHEN 'a' THEN 'assignment' ELSE 'explicit' END, 'method', k.castmethod)
FROM pg_catalog.pg_cast k
WHERE (EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid IN (k.castsource, k.casttarget) AND t.typnamespace = ANY ($1))
       OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = k.castfunc AND p.pronamespace = ANY ($1)))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_cast'::regclass AND e.objid = k.oid AND e.deptype IN ('e', 'i'))
UNION ALL
SELECT 'security label', format('of %s on %s %s', l.provider, l.objtype, l.objname), jsonb_build_object('label', l.label)
FROM pg_catalog.pg_seclabels l WHERE l.objnamespace = ANY ($1)
UNION ALL
-- Who knows a setting's name may read it; the values of a platform's own ones may be secrets.
SELECT 'setting', format('%s of %s', v.name, CASE s.setrole WHEN 0 THEN 'every role' ELSE 'role ' || quote_ident(pg_get_userbyid(s.setrole)) END),
       jsonb_build_object('value', CASE WHEN strpos(v.name, '.') > 0 THEN 'SHA-256 ' || encode(sha256(textsend(v.value)), 'hex') ELSE v.value END)
FROM pg_catalog.pg_db_role_setting s
CROSS JOIN LATERAL (SELECT split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) FROM unnest(s.setconfig) AS c) AS v (name, value)
WHERE s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND ($4 OR s.setrole <> 0 AND pg_get_userbyid(s.setrole)::text = ANY ($2))
UNION ALL
SELECT 'publication', format('%I of %s', p.pubname, m.prrelid::regclass),
       jsonb_strip_nulls(jsonb_build_object('member', 'true', 'columns', to_jsonb(m) ->> 'prattrs', 'is filtered', (to_jsonb(m) ->> 'prqual' IS NOT NULL)::text))
FROM pg_catalog.pg_publication_rel m JOIN pg_catalog.pg_publication p ON p.oid = m.prpubid
JOIN pg_catalog.pg_class c ON c.oid = m.prrelid WHERE c.relnamespace = ANY ($1)
UNION ALL
SELECT 'large objects', 'of the database', jsonb_build_object('count', count(*)::text)
FROM pg_catalog.pg_largeobject_metadata WHERE $4 HAVING $4 AND count(*) > 0
