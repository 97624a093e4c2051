WITH space AS (SELECT * FROM pg_catalog.pg_namespace WHERE nspname = $1),
object (kind, name, owner, acl) AS (
    SELECT 'schema', nspname::text, nspowner, COALESCE(nspacl, acldefault('n', nspowner)) FROM space
    UNION ALL
    SELECT 'relation ' || c.relkind::text, c.relname::text, c.relowner,
        CASE WHEN c.relkind IN ('i', 'I', 'c', 't') THEN NULL
             ELSE COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) END
    FROM pg_catalog.pg_class c JOIN space ON c.relnamespace = space.oid
    UNION ALL
    SELECT 'column', c.relname || '.' || a.attname, c.relowner, a.attacl
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN space ON c.relnamespace = space.oid
    WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL
    SELECT 'routine', p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')', p.proowner,
        COALESCE(p.proacl, acldefault('f', p.proowner))
    FROM pg_catalog.pg_proc p JOIN space ON p.pronamespace = space.oid
    UNION ALL
    SELECT 'type', t.typname::text, t.typowner, COALESCE(t.typacl, acldefault('T', t.typowner))
    FROM pg_catalog.pg_type t JOIN space ON t.typnamespace = space.oid
    UNION ALL
    SELECT 'statistics', s.stxname::text, s.stxowner, NULL
    FROM pg_catalog.pg_statistic_ext s JOIN space ON s.stxnamespace = space.oid
    UNION ALL
    SELECT 'default of ' || d.defaclobjtype::text || ' made by ' || d.defaclrole::pg_catalog.regrole::text, '', NULL, d.defaclacl
    FROM pg_catalog.pg_default_acl d JOIN space ON d.defaclnamespace = space.oid
)
SELECT line FROM (
    SELECT kind || ' ' || name || ' is owned by ' || pg_catalog.pg_get_userbyid(owner) AS line FROM object WHERE owner IS NOT NULL
    UNION ALL
    SELECT kind || ' ' || name || ': ' || privilege_type || ' to '
        || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(grantee) END
        || ' by ' || pg_catalog.pg_get_userbyid(grantor) || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END
    FROM object, pg_catalog.aclexplode(acl)
) AS lines
ORDER BY line COLLATE "C"
