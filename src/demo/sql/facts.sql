-- Everything about the schema $1 but rows and sequences' values, as (section, kind, object, fact). `search_path` is empty, so that every
-- name is written out.
WITH space AS (SELECT oid, nspowner, nspacl FROM pg_catalog.pg_namespace WHERE nspname = $1),
relations AS (
    SELECT c.*, CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialised view'
        WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE c.relkind::text END AS kind
    FROM pg_catalog.pg_class c JOIN space ON c.relnamespace = space.oid
),
routines AS (
    SELECT p.*, CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
        p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' AS signature
    FROM pg_catalog.pg_proc p JOIN space ON p.pronamespace = space.oid
),
-- Without arrays and the row types of tables.
types AS (
    SELECT t.* FROM pg_catalog.pg_type t JOIN space ON t.typnamespace = space.oid
    WHERE t.typtype IN ('d', 'e', 'r', 'm') OR t.typtype = 'c' AND EXISTS (SELECT FROM relations c WHERE c.oid = t.typrelid AND c.relkind = 'c')
        OR t.typtype = 'b' AND t.typcategory <> 'A'
),
owned (kind, object, owner, acl) AS (
    SELECT 'schema', $1, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM space
    UNION ALL SELECT kind, relname, relowner, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))
        FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL SELECT kind, signature, proowner, coalesce(proacl, acldefault('f', proowner)) FROM routines
    UNION ALL SELECT 'type', typname, typowner, coalesce(typacl, acldefault('T', typowner)) FROM types
    UNION ALL SELECT 'collation', collname, collowner, NULL FROM pg_catalog.pg_collation c JOIN space ON c.collnamespace = space.oid
    UNION ALL SELECT 'operator', o.oid::regoperator::text, oprowner, NULL FROM pg_catalog.pg_operator o JOIN space ON o.oprnamespace = space.oid
    UNION ALL SELECT 'statistics', stxname, stxowner, NULL FROM pg_catalog.pg_statistic_ext s JOIN space ON s.stxnamespace = space.oid
),
granted (object, acl) AS (
    SELECT kind || ' ' || object, acl FROM owned
    UNION ALL SELECT format('column %s.%s', relname, attname), attacl
        FROM pg_catalog.pg_attribute a JOIN relations c ON a.attrelid = c.oid WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT format('future objects of type %s of %s', defaclobjtype, defaclrole::regrole), defaclacl
        FROM pg_catalog.pg_default_acl d JOIN space ON d.defaclnamespace = space.oid
),
attributes AS (
    SELECT a.*, c.relname, c.relkind, pg_catalog.row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum) AS place
    FROM pg_catalog.pg_attribute a JOIN relations c ON a.attrelid = c.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
),
defined (kind, object, fact) AS (
    SELECT kind, relname, concat_ws(' ', relpersistence, relrowsecurity, relforcerowsecurity, relreplident, relispopulated, reloptions,
            pg_catalog.pg_get_partkeydef(oid), pg_catalog.pg_get_expr(relpartbound, oid),
            (SELECT pg_catalog.array_agg(inhparent::regclass ORDER BY inhseqno) FROM pg_catalog.pg_inherits WHERE inhrelid = relations.oid),
            CASE WHEN relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(oid) END)
        FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT 'column', relname || '.' || attname, concat_ws(' ', place, pg_catalog.format_type(atttypid, atttypmod), attnotnull,
            attidentity, attgenerated, attstorage, nullif(attstattarget, -1), attcollation::regcollation, pg_catalog.pg_get_expr(d.adbin, d.adrelid))
        FROM attributes a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    UNION ALL SELECT 'constraint', format('%s on %s', conname, coalesce(nullif(conrelid, 0)::regclass::text, contypid::regtype::text)),
            concat_ws(' ', pg_catalog.pg_get_constraintdef(c.oid), convalidated)
        FROM pg_catalog.pg_constraint c JOIN space ON c.connamespace = space.oid
    UNION ALL SELECT 'index', c.relname, concat_ws(' ', pg_catalog.pg_get_indexdef(c.oid), indisclustered, indisvalid, indisreplident)
        FROM relations c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    UNION ALL SELECT kind, signature, CASE WHEN prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid)
            ELSE concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggtranstype::regtype, a.agginitval) END
        FROM routines p LEFT JOIN pg_catalog.pg_aggregate a ON a.aggfnoid = p.oid
    UNION ALL SELECT 'trigger', tgname || ' on ' || relname, concat_ws(' ', pg_catalog.pg_get_triggerdef(t.oid), tgenabled)
        FROM pg_catalog.pg_trigger t JOIN relations c ON t.tgrelid = c.oid WHERE NOT tgisinternal
    UNION ALL SELECT 'policy', polname || ' on ' || relname, concat_ws(' ', polcmd, polpermissive, polroles::regrole[],
            pg_catalog.pg_get_expr(polqual, polrelid), '/', pg_catalog.pg_get_expr(polwithcheck, polrelid))
        FROM pg_catalog.pg_policy p JOIN relations c ON p.polrelid = c.oid
    UNION ALL SELECT 'rule', rulename || ' on ' || relname, concat_ws(' ', pg_catalog.pg_get_ruledef(r.oid), ev_enabled)
        FROM pg_catalog.pg_rewrite r JOIN relations c ON r.ev_class = c.oid WHERE rulename <> '_RETURN'
    UNION ALL SELECT 'type', typname, concat_ws(' ', typtype, typnotnull, typdefault, nullif(typbasetype, 0)::regtype, nullif(typcollation, 0)::regcollation,
            (SELECT pg_catalog.array_agg(enumlabel ORDER BY enumsortorder) FROM pg_catalog.pg_enum WHERE enumtypid = t.oid),
            (SELECT rngsubtype::regtype FROM pg_catalog.pg_range WHERE rngtypid = t.oid))
        FROM types t
    UNION ALL SELECT 'statistics', stxname, pg_catalog.pg_get_statisticsobjdef(s.oid)
        FROM pg_catalog.pg_statistic_ext s JOIN space ON s.stxnamespace = space.oid
    UNION ALL SELECT 'collation', collname, concat_ws(' ', collprovider, collcollate, collctype)
        FROM pg_catalog.pg_collation c JOIN space ON c.collnamespace = space.oid
    UNION ALL SELECT 'operator', o.oid::regoperator::text, concat_ws(' ', oprcode, nullif(oprcom, 0)::regoperator)
        FROM pg_catalog.pg_operator o JOIN space ON o.oprnamespace = space.oid
    UNION ALL SELECT 'sequence', relname, concat_ws(' ', seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle,
            (SELECT format('%s %s.%s', deptype, refobjid::regclass, refobjsubid > 0) FROM pg_catalog.pg_depend
             WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid AND refobjsubid > 0 AND deptype IN ('a', 'i')))
        FROM pg_catalog.pg_sequence s JOIN relations c ON s.seqrelid = c.oid
    -- 16384: the first oid that is not PostgreSQL's own (FirstNormalObjectId).
    UNION ALL SELECT 'comment', i.type || ' ' || i.identity, d.description
        FROM pg_catalog.pg_description d, LATERAL pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) i
        WHERE d.objoid >= 16384 AND (i.schema = $1 OR i.type = 'schema' AND i.identity = quote_ident($1)
            OR strpos(i.identity, ' on ' || quote_ident($1) || '.') > 0)
)
SELECT 'owner' AS section, kind, object::text, pg_catalog.pg_get_userbyid(owner)::text AS fact FROM owned
UNION ALL SELECT 'grant', 'grant', object, concat_ws(' ', privilege_type, 'to',
        CASE grantee WHEN 0 THEN 'everybody' ELSE pg_catalog.pg_get_userbyid(grantee)::text END, 'by', pg_catalog.pg_get_userbyid(grantor),
        CASE WHEN is_grantable THEN 'with grant option' END)
    FROM granted, LATERAL pg_catalog.aclexplode(acl)
UNION ALL SELECT 'definition', kind, object, fact FROM defined
