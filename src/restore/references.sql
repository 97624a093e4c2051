-- What DROP SCHEMA … CASCADE would reach outside the schema. $1: the schema's oid. $2: name places in publications too.
WITH RECURSIVE reached(class, object) AS (
    SELECT 'pg_catalog.pg_namespace'::regclass::oid, $1::int8::oid
  UNION
    SELECT d.classid, d.objid
    FROM reached r JOIN pg_catalog.pg_depend d ON d.refclassid = r.class AND d.refobjid = r.object
    WHERE d.deptype <> 'e'
), placed AS (
    SELECT r.class, r.object, CASE r.class
        WHEN 'pg_catalog.pg_namespace'::regclass THEN r.object
        WHEN 'pg_catalog.pg_class'::regclass THEN
            (SELECT CASE WHEN n.nspname = 'pg_toast' THEN $1::int8::oid ELSE n.oid END
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = r.object)
        WHEN 'pg_catalog.pg_type'::regclass THEN (SELECT typnamespace FROM pg_catalog.pg_type WHERE oid = r.object)
        WHEN 'pg_catalog.pg_proc'::regclass THEN (SELECT pronamespace FROM pg_catalog.pg_proc WHERE oid = r.object)
        WHEN 'pg_catalog.pg_constraint'::regclass THEN (SELECT connamespace FROM pg_catalog.pg_constraint WHERE oid = r.object)
        WHEN 'pg_catalog.pg_attrdef'::regclass THEN
            (SELECT c.relnamespace FROM pg_catalog.pg_attrdef a JOIN pg_catalog.pg_class c ON c.oid = a.adrelid WHERE a.oid = r.object)
        WHEN 'pg_catalog.pg_rewrite'::regclass THEN
            (SELECT c.relnamespace FROM pg_catalog.pg_rewrite a JOIN pg_catalog.pg_class c ON c.oid = a.ev_class WHERE a.oid = r.object)
        WHEN 'pg_catalog.pg_trigger'::regclass THEN
            (SELECT c.relnamespace FROM pg_catalog.pg_trigger a JOIN pg_catalog.pg_class c ON c.oid = a.tgrelid WHERE a.oid = r.object)
        WHEN 'pg_catalog.pg_policy'::regclass THEN
            (SELECT c.relnamespace FROM pg_catalog.pg_policy a JOIN pg_catalog.pg_class c ON c.oid = a.polrelid WHERE a.oid = r.object)
        WHEN 'pg_catalog.pg_operator'::regclass THEN (SELECT oprnamespace FROM pg_catalog.pg_operator WHERE oid = r.object)
        WHEN 'pg_catalog.pg_opclass'::regclass THEN (SELECT opcnamespace FROM pg_catalog.pg_opclass WHERE oid = r.object)
        WHEN 'pg_catalog.pg_opfamily'::regclass THEN (SELECT opfnamespace FROM pg_catalog.pg_opfamily WHERE oid = r.object)
        WHEN 'pg_catalog.pg_amop'::regclass THEN
            (SELECT f.opfnamespace FROM pg_catalog.pg_amop a JOIN pg_catalog.pg_opfamily f ON f.oid = a.amopfamily WHERE a.oid = r.object)
        WHEN 'pg_catalog.pg_amproc'::regclass THEN
            (SELECT f.opfnamespace FROM pg_catalog.pg_amproc a JOIN pg_catalog.pg_opfamily f ON f.oid = a.amprocfamily WHERE a.oid = r.object)
        WHEN 'pg_catalog.pg_collation'::regclass THEN (SELECT collnamespace FROM pg_catalog.pg_collation WHERE oid = r.object)
        WHEN 'pg_catalog.pg_conversion'::regclass THEN (SELECT connamespace FROM pg_catalog.pg_conversion WHERE oid = r.object)
        WHEN 'pg_catalog.pg_ts_config'::regclass THEN (SELECT cfgnamespace FROM pg_catalog.pg_ts_config WHERE oid = r.object)
        WHEN 'pg_catalog.pg_ts_dict'::regclass THEN (SELECT dictnamespace FROM pg_catalog.pg_ts_dict WHERE oid = r.object)
        WHEN 'pg_catalog.pg_ts_parser'::regclass THEN (SELECT prsnamespace FROM pg_catalog.pg_ts_parser WHERE oid = r.object)
        WHEN 'pg_catalog.pg_ts_template'::regclass THEN (SELECT tmplnamespace FROM pg_catalog.pg_ts_template WHERE oid = r.object)
        WHEN 'pg_catalog.pg_statistic_ext'::regclass THEN (SELECT stxnamespace FROM pg_catalog.pg_statistic_ext WHERE oid = r.object)
        WHEN 'pg_catalog.pg_default_acl'::regclass THEN (SELECT defaclnamespace FROM pg_catalog.pg_default_acl WHERE oid = r.object)
        -- a cast has no schema; it is reached only through a type or function of this one
        WHEN 'pg_catalog.pg_cast'::regclass THEN $1::int8::oid
        -- a table's place in a publication, and from PostgreSQL 15 on a schema's
        WHEN 'pg_catalog.pg_publication_rel'::regclass THEN CASE WHEN NOT $2 THEN $1::int8::oid END
        ELSE CASE WHEN NOT $2 AND r.class::regclass::text = 'pg_publication_namespace' THEN $1::int8::oid END
    END AS schema
    FROM reached r
)
SELECT p.class::int8 AS class, p.object::int8 AS object, i.type || ' ' || i.identity AS said
FROM placed p, pg_identify_object(p.class, p.object, 0) i
WHERE p.schema IS DISTINCT FROM $1::int8::oid AND i.identity IS NOT NULL
  -- a foreign key's own triggers are named by the foreign key
  AND NOT (p.class = 'pg_catalog.pg_trigger'::regclass AND EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.oid = p.object AND t.tgisinternal))
ORDER BY 3
