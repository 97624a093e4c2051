//! What the role that we connect as may do, and what time the server thinks it is: for `doctor`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// The role of a connection.
#[derive(Clone, Debug, FromRow)]
pub struct RoleRights {
    pub role: String,
    pub is_superuser: bool,
    pub bypasses_rls: bool,
    /// Member of `pg_read_all_data` (PostgreSQL 14 and later).
    pub reads_all_data: bool,
    pub creates_roles: bool,
    /// For whole databases, and for trying a backup out.
    pub creates_databases: bool,
    /// CREATE on the connection's database: for new schemas.
    pub creates_schemas: bool,
}

impl RoleRights {
    /// Whether no table and no row of any tenant is hidden from it.
    pub const fn sees_everything(&self) -> bool {
        self.is_superuser || (self.reads_all_data && self.bypasses_rls)
    }

    /// What it lacks to make what restores and trials need, in SQL's words. Membership in the tenants' owners is another matter:
    /// see [`strange_owners`].
    pub fn missing_for_restores(&self) -> Vec<&'static str> {
        let needed = [
            (self.creates_roles, "CREATEROLE"),
            (self.creates_databases, "CREATEDB"),
            (self.creates_schemas, "CREATE on the database"),
        ];
        let missing = needed.into_iter().filter(|(has, _)| !has && !self.is_superuser);
        missing.map(|(_, right)| right).collect()
    }

    /// Whether it can make what restores and trials need.
    pub fn can_restore(&self) -> bool {
        self.missing_for_restores().is_empty()
    }
}

/// Owners of a schema, and of what is in it, that the connection's role is no member of: it can neither rename what they own nor
/// give it back to them. Sorted. None for a superuser.
///
/// Renaming needs the owner's privileges (`USAGE`), giving back needs that it may become the owner. From PostgreSQL 16 on a membership
/// can be without either: whoever made a role, for one, is only its administrator (`pg_has_role`, and "CREATE ROLE").
pub async fn strange_owners(connection: &mut PgConnection, schema: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT r.rolname::text FROM pg_catalog.pg_roles r \
         WHERE NOT (pg_catalog.pg_has_role(current_user, r.oid, 'USAGE') \
                    AND pg_catalog.pg_has_role(current_user, r.oid, \
                        CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 160000 THEN 'SET' ELSE 'MEMBER' END)) \
             AND r.oid IN ( \
             SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = $1 \
             UNION SELECT c.relowner FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 \
             UNION SELECT p.proowner FROM pg_catalog.pg_proc p \
                 JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 \
             UNION SELECT t.typowner FROM pg_catalog.pg_type t \
                 JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = $1) \
         ORDER BY 1",
    )
    .bind(schema)
    .fetch_all(connection)
    .await
}

/// What the connection's role may do.
pub async fn role_rights(connection: &mut PgConnection) -> Result<RoleRights, sqlx::Error> {
    sqlx::query_as(
        "SELECT r.rolname::text AS role, r.rolsuper AS is_superuser, r.rolbypassrls AS bypasses_rls, r.rolcreaterole AS creates_roles, \
                r.rolcreatedb AS creates_databases, \
                pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS creates_schemas, \
                COALESCE((SELECT pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE') FROM pg_catalog.pg_roles g \
                          WHERE g.rolname = 'pg_read_all_data'), false) AS reads_all_data \
         FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
    )
    .fetch_one(connection)
    .await
}

/// The server's clock.
pub async fn server_time(connection: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_catalog.clock_timestamp()").fetch_one(connection).await
}
