-- The default privileges that exist, and those that could exist for the roles in $2: so that a recorded one is found by its
-- identity whether or not it is there now. $1: the schema, or NULL for the whole database (then also the global ones).
WITH spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname
    FROM pg_catalog.pg_namespace n
    WHERE CASE WHEN $1::text IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ELSE n.nspname = $1::text END
  UNION ALL
    SELECT 0::oid, NULL::name WHERE $1::text IS NULL
), kinds(letter, word) AS (
    VALUES ('r', 'tables'), ('S', 'sequences'), ('f', 'functions'), ('T', 'types'), ('n', 'schemas'),
        ('L', 'large objects') -- from PostgreSQL 18 on
)
-- The identity is written as pg_identify_object writes it (src/backend/catalog/objectaddress.c, case OCLASS_DEFACL).
SELECT 'default acl' AS kind,
       format('for role %s%s on %s', quote_ident(r.rolname), coalesce(' in schema ' || quote_ident(s.nspname), ''), k.word) AS identity,
       r.rolname::text AS owner, s.nspname::text AS schema, upper(k.word) AS grant_word, d.oid IS NOT NULL AS present,
       CASE WHEN d.oid IS NOT NULL THEN
           (SELECT coalesce(json_agg(json_build_object('grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END,
                       'grantor', pg_get_userbyid(a.grantor)::text, 'privilege', a.privilege_type, 'grantable', a.is_grantable)), '[]')
            FROM aclexplode(d.defaclacl) a) END AS acl,
       CASE WHEN s.oid <> 0 THEN '[]'::json ELSE
           (SELECT coalesce(json_agg(json_build_object('grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END,
                       'grantor', pg_get_userbyid(a.grantor)::text, 'privilege', a.privilege_type, 'grantable', a.is_grantable)), '[]')
            FROM aclexplode(acldefault(CASE k.letter WHEN 'S' THEN 's' ELSE k.letter END::"char", r.oid)) a) END AS default_acl
FROM spaces s CROSS JOIN kinds k CROSS JOIN pg_catalog.pg_roles r
LEFT JOIN pg_catalog.pg_default_acl d ON d.defaclnamespace = s.oid AND d.defaclobjtype = k.letter::"char" AND d.defaclrole = r.oid
WHERE (d.oid IS NOT NULL OR r.rolname = ANY ($2::text[])) AND NOT (s.oid <> 0 AND k.letter IN ('n', 'L'))
ORDER BY 2
