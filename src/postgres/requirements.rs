//! What a dump needs from outside itself, read from `pg_depend` and `pg_shdepend`: extensions, roles, objects of other schemas;
//! and what it holds that only a superuser can make. A restore by a restricted role is prepared from this.

use sqlx::{AssertSqlSafe, PgConnection, postgres::types::Oid};

use super::inspect::{Selection, namespaces};
use crate::manifest::{DumpScope, ExtensionRequirement, OutsideObject, Requirements};

/// The objects of the schemas `$1`: the schemas, what is in them, and what is part of that (indexes, defaults, constraints,
/// rules, triggers, policies, default privileges). A partition in another schema is not.
const INNER: &str = "
    WITH RECURSIVE inner_object (classid, objid) AS (
        SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid, pg_catalog.unnest($1::pg_catalog.oid[])
      UNION
        SELECT d.classid, d.objid
        FROM inner_object i
        JOIN pg_catalog.pg_depend d ON d.refclassid = i.classid AND d.refobjid = i.objid
        LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
        WHERE (d.deptype IN ('a', 'i')
               OR d.deptype = 'n' AND d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass)
          AND (c.oid IS NULL OR c.relnamespace = ANY ($1::pg_catalog.oid[]))
    )";

/// With [`INNER`]: what those objects refer to. An array or a row type stands for what it is made from.
const REFERENCED: &str = ",
    referenced (classid, objid) AS (
        SELECT d.refclassid, d.refobjid
        FROM inner_object i JOIN pg_catalog.pg_depend d ON d.classid = i.classid AND d.objid = i.objid
        WHERE d.deptype IN ('n', 'a', 'x')
      UNION
        SELECT d.refclassid, d.refobjid
        FROM referenced r JOIN pg_catalog.pg_depend d ON d.classid = r.classid AND d.objid = r.objid
        WHERE d.deptype = 'i' AND r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
    )";

/// What the dump needs from outside itself, and what a restricted role cannot bring back.
pub async fn requirements<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<Requirements, sqlx::Error> {
    let selection = selection.into();
    let namespaces = namespaces(connection, selection).await?;
    let mut not_restorable = made_by_superusers(connection, &namespaces).await?;
    match selection.scope {
        DumpScope::Schema { .. } => not_restorable.extend(lost_by_one_schema(connection, &namespaces).await?),
        DumpScope::Database { .. } => not_restorable.extend(of_the_database(connection).await?),
    }
    Ok(Requirements {
        extensions: extensions(connection, selection.scope, &namespaces).await?,
        roles: roles(connection, &namespaces).await?,
        objects: outside_objects(connection, &namespaces).await?,
        not_restorable,
    })
}

/// Of one schema: the extensions whose objects it uses or that live in it. Of a whole database: all.
async fn extensions(
    connection: &mut PgConnection,
    scope: &DumpScope,
    namespaces: &[Oid],
) -> Result<Vec<ExtensionRequirement>, sqlx::Error> {
    let all = match scope {
        DumpScope::Schema { .. } => "false",
        DumpScope::Database { .. } => "true",
    };
    let statement = format!(
        "{INNER}{REFERENCED},
        used (classid, objid) AS (SELECT * FROM inner_object UNION SELECT * FROM referenced)
        SELECT e.extname::text, e.extversion, n.nspname::text
        FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
        WHERE {all}
           OR e.oid IN (SELECT objid FROM used WHERE classid = 'pg_catalog.pg_extension'::pg_catalog.regclass)
           OR e.oid IN (SELECT d.refobjid FROM used u
                        JOIN pg_catalog.pg_depend d ON d.classid = u.classid AND d.objid = u.objid
                        WHERE d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass)
        ORDER BY 1"
    );
    let rows: Vec<(String, String, String)> =
        sqlx::query_as(AssertSqlSafe(statement)).bind(namespaces).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(name, version, schema)| ExtensionRequirement { name, version, schema }).collect())
}

/// Roles that own, are granted something, or are named by a policy. `pg_shdepend` does not list the bootstrap superuser and
/// other built-in roles, so owners and grantees are read from the catalogs as well.
async fn roles(connection: &mut PgConnection, namespaces: &[Oid]) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "{INNER},
        named (role) AS (
            SELECT s.refobjid
            FROM inner_object i JOIN pg_catalog.pg_shdepend s ON s.classid = i.classid AND s.objid = i.objid
            WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
              AND s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
          UNION SELECT nspowner FROM pg_catalog.pg_namespace WHERE oid = ANY ($1)
          UNION SELECT relowner FROM pg_catalog.pg_class WHERE relnamespace = ANY ($1)
          UNION SELECT proowner FROM pg_catalog.pg_proc WHERE pronamespace = ANY ($1)
          UNION SELECT typowner FROM pg_catalog.pg_type WHERE typnamespace = ANY ($1)
          UNION SELECT a.grantee FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(nspacl) a WHERE oid = ANY ($1)
          UNION SELECT a.grantee FROM pg_catalog.pg_class, pg_catalog.aclexplode(relacl) a WHERE relnamespace = ANY ($1)
          UNION SELECT a.grantee FROM pg_catalog.pg_proc, pg_catalog.aclexplode(proacl) a WHERE pronamespace = ANY ($1)
        )
        SELECT DISTINCT r.rolname::text FROM named JOIN pg_catalog.pg_roles r ON r.oid = named.role ORDER BY 1"
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(namespaces).fetch_all(connection).await
}

/// Objects of other schemas that something inside refers to, but for the system's and the extensions'.
async fn outside_objects(connection: &mut PgConnection, namespaces: &[Oid]) -> Result<Vec<OutsideObject>, sqlx::Error> {
    let statement = format!(
        "{INNER}{REFERENCED}
        SELECT o.type, o.identity, o.schema,
               CASE WHEN r.classid = 'pg_catalog.pg_class'::pg_catalog.regclass THEN c.relname::text END
        FROM referenced r
        CROSS JOIN LATERAL pg_catalog.pg_identify_object(r.classid, r.objid, 0) o
        LEFT JOIN pg_catalog.pg_class c ON r.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = r.objid
        LEFT JOIN pg_catalog.pg_type t ON r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = r.objid
        WHERE NOT EXISTS (SELECT FROM inner_object i WHERE i.classid = r.classid AND i.objid = r.objid)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.classid = r.classid AND d.objid = r.objid AND d.deptype = 'e')
          AND o.schema IS NOT NULL AND o.schema NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
          -- An index, a constraint and a derived type come with the table or type, which is listed too.
          AND r.classid <> 'pg_catalog.pg_constraint'::pg_catalog.regclass
          AND c.relkind IS DISTINCT FROM 'i' AND c.relkind IS DISTINCT FROM 'I'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE t.oid IS NOT NULL
                          AND d.classid = r.classid AND d.objid = r.objid AND d.deptype = 'i')
        ORDER BY 1, 2"
    );
    let rows: Vec<(String, String, String, Option<String>)> =
        sqlx::query_as(AssertSqlSafe(statement)).bind(namespaces).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(kind, identity, schema, name)| OutsideObject { kind, identity, schema, name }).collect())
}

/// Objects inside that a restricted role cannot make, named for people.
async fn made_by_superusers(connection: &mut PgConnection, namespaces: &[Oid]) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "{INNER},
        own (classid, objid) AS (
            SELECT * FROM inner_object i
            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                              WHERE d.classid = i.classid AND d.objid = i.objid AND d.deptype = 'e')
        ),
        reasons (classid, objid, reason) AS (
            SELECT classid, objid, 'written in the language ' || l.lanname
            FROM own JOIN pg_catalog.pg_proc p ON classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = objid
            JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE NOT l.lanpltrusted AND l.lanname <> 'sql'
          UNION ALL
            SELECT classid, objid, 'leakproof'
            FROM own JOIN pg_catalog.pg_proc p ON classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = objid
            WHERE p.proleakproof
          UNION ALL
            SELECT classid, objid, 'a base type'
            FROM own JOIN pg_catalog.pg_type t ON classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = objid
            WHERE t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                                  WHERE d.classid = own.classid AND d.objid = own.objid AND d.deptype = 'i')
          UNION ALL
            SELECT classid, objid, 'made by superusers only' FROM own
            WHERE classid IN ('pg_catalog.pg_opclass'::pg_catalog.regclass, 'pg_catalog.pg_opfamily'::pg_catalog.regclass,
                              'pg_catalog.pg_ts_parser'::pg_catalog.regclass,
                              'pg_catalog.pg_ts_template'::pg_catalog.regclass)
          UNION ALL
            SELECT classid, objid, 'on a foreign server'
            FROM own JOIN pg_catalog.pg_class c ON classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = objid
            WHERE c.relkind = 'f'
          UNION ALL
            SELECT classid, objid, 'in the tablespace ' || s.spcname
            FROM own JOIN pg_catalog.pg_class c ON classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = objid
            JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
        )
        SELECT DISTINCT o.type || ' ' || o.identity || ' (' || reason || ')'
        FROM reasons CROSS JOIN LATERAL pg_catalog.pg_identify_object(classid, objid, 0) o ORDER BY 1"
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(namespaces).fetch_all(connection).await
}

/// What belongs to a schema's objects but is not, or not only, in its dump.
async fn lost_by_one_schema(connection: &mut PgConnection, namespaces: &[Oid]) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "{INNER},
        -- what can hold a large object's number: domains too (the extension lo has one), and lists
        numbered (type) AS (
            SELECT 'pg_catalog.oid'::pg_catalog.regtype::pg_catalog.oid
          UNION
            SELECT t.oid FROM numbered n JOIN pg_catalog.pg_type t ON t.typbasetype = n.type OR t.typelem = n.type
        )
        SELECT 'table ' || o.identity || ' (a partition or child in another schema)'
        FROM pg_catalog.pg_inherits h
        JOIN pg_catalog.pg_class parent ON parent.oid = h.inhparent
        JOIN pg_catalog.pg_class child ON child.oid = h.inhrelid
        CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, child.oid, 0) o
        WHERE parent.relnamespace = ANY ($1) AND child.relnamespace <> ALL ($1)
      UNION
        SELECT o.type || ' ' || o.identity
        FROM inner_object i CROSS JOIN LATERAL pg_catalog.pg_identify_object(i.classid, i.objid, 0) o
        WHERE o.type IN ('publication relation', 'publication namespace')
      UNION
        -- Without a schema of their own, so that no schema's dump has them.
        SELECT 'cast (' || pg_catalog.format_type(k.castsource, NULL) || ' as ' || pg_catalog.format_type(k.casttarget, NULL) || ')'
        FROM pg_catalog.pg_cast k
        WHERE (EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid IN (k.castsource, k.casttarget) AND t.typnamespace = ANY ($1))
               OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = k.castfunc AND p.pronamespace = ANY ($1)))
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_cast'::pg_catalog.regclass
                          AND d.objid = k.oid AND d.deptype IN ('e', 'i'))
      UNION
        SELECT 'event trigger ' || pg_catalog.quote_ident(e.evtname)
        FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid WHERE p.pronamespace = ANY ($1)
      UNION
        SELECT 'large objects (' || o.identity || ' may refer to some)'
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        CROSS JOIN LATERAL
            pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum) o
        WHERE c.relnamespace = ANY ($1) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
          AND a.atttypid IN (SELECT type FROM numbered)
          AND EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
        ORDER BY 1"
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(namespaces).fetch_all(connection).await
}

/// What a whole database holds beside its schemas that a restricted role cannot make.
async fn of_the_database(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT 'event trigger ' || pg_catalog.quote_ident(evtname) FROM pg_catalog.pg_event_trigger t
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass
                           AND d.objid = t.oid AND d.deptype = 'e')
         UNION ALL SELECT 'publication ' || pg_catalog.quote_ident(pubname) FROM pg_catalog.pg_publication
         UNION ALL SELECT 'subscription ' || pg_catalog.quote_ident(subname) FROM pg_catalog.pg_subscription
                   WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
         UNION ALL SELECT 'foreign server ' || pg_catalog.quote_ident(srvname) FROM pg_catalog.pg_foreign_server
         UNION ALL SELECT 'large objects (' || count(*) || ', without their owners and grants)'
                   FROM pg_catalog.pg_largeobject_metadata HAVING count(*) > 0
         ORDER BY 1",
    )
    .fetch_all(connection)
    .await
}
