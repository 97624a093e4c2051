//! The sample platform: three tenants in one database, each a schema with everything that is awkward to back up, made from one
//! template with different data. Plain PostgreSQL 14 or newer, no extensions; the same seed gives the same data.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::postgres::quote;

/// What a tenant's schema is made of, in this order. Names are not qualified: the schema is the only one in `search_path`.
const TEMPLATE: [&str; 5] = [
    include_str!("sql/types.sql"),
    include_str!("sql/tables.sql"),
    include_str!("sql/data.sql"),
    include_str!("sql/code.sql"),
    include_str!("sql/access.sql"),
];
const ROLES: &str = include_str!("sql/roles.sql");
const RUIN: &str = include_str!("sql/ruin.sql");

/// Holds back a second process that makes the sample platform at the same time.
const LOCK: i64 = 0x4846_0064_656d_6f00;

/// A tenant of the sample platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleTenant {
    /// The project's id and slug.
    pub project: &'static str,
    pub name: &'static str,
    pub schema: &'static str,
    /// Decides the data, and how much there is of it.
    pub seed: u32,
}

/// The sample platform's tenants. Acme is big enough for its backup to be watched.
pub const TENANTS: [SampleTenant; 3] = [
    SampleTenant { project: "acme", name: "Acme Corporation", schema: "tenant_acme", seed: 100 },
    SampleTenant { project: "globex", name: "Globex", schema: "tenant_globex", seed: 2 },
    SampleTenant { project: "initech", name: "Initech", schema: "tenant_initech", seed: 1 },
];

/// Makes the tenants that are not there yet, and makes anew one that [`ruin`] has ruined and nobody has restored. Needs a superuser.
///
/// # Errors
/// The server refuses, or cannot be reached.
pub async fn create(c: &mut PgConnection) -> Result<Vec<SampleTenant>, sqlx::Error> {
    for tenant in TENANTS {
        if is_ruined(c, tenant.schema).await? {
            let sql = format!("DROP SCHEMA {} CASCADE", quote::ident(tenant.schema));
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *c).await?;
        }
        create_tenant(c, tenant.schema, tenant.seed).await?;
    }
    Ok(TENANTS.to_vec())
}

/// Makes one tenant in a schema of any name, whole or not at all; `false` when there is such a schema already. The roles
/// `hf_demo_app` and `hf_demo_readonly` are made on the way. Needs a superuser.
///
/// # Errors
/// The server refuses, or cannot be reached.
pub async fn create_tenant(c: &mut PgConnection, schema: &str, seed: u32) -> Result<bool, sqlx::Error> {
    let mut transaction = c.begin().await?;
    sqlx::query("SELECT pg_catalog.pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *transaction)
        .await?;
    if is_there {
        transaction.rollback().await?;
        return Ok(false);
    }
    let name = quote::ident(schema);
    // What the session or the database was set to must not change the data.
    let settings = format!(
        "SET LOCAL client_min_messages = warning; SET LOCAL standard_conforming_strings = on; SET LOCAL timezone = 'UTC'; \
         SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL holdfast_demo.seed = '{seed}';"
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *transaction).await?;
    sqlx::raw_sql(ROLES).execute(&mut *transaction).await?;
    let enter = format!("CREATE SCHEMA {name}; SET LOCAL search_path = {name};");
    sqlx::raw_sql(AssertSqlSafe(enter)).execute(&mut *transaction).await?;
    for part in TEMPLATE {
        sqlx::raw_sql(AssertSqlSafe(part.replace("{schema}", &name))).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// What [`ruin`] does, one line each, for people.
pub fn ruin_statements() -> impl Iterator<Item = &'static str> {
    RUIN.lines().filter(|line| !line.is_empty() && !line.starts_with("--"))
}

/// Does to a sample tenant what people do on a bad afternoon, in one transaction.
///
/// # Errors
/// The server refuses, or cannot be reached.
pub async fn ruin(c: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    let mut transaction = c.begin().await?;
    let enter = format!("SET LOCAL client_min_messages = warning; SET LOCAL search_path = {};", quote::ident(schema));
    sqlx::raw_sql(AssertSqlSafe(enter)).execute(&mut *transaction).await?;
    sqlx::raw_sql(RUIN).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Whether this is a schema of ours (by its comment) without the table that [`ruin`] drops.
async fn is_ruined(c: &mut PgConnection, schema: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = $1 \
             AND pg_catalog.obj_description(n.oid, 'pg_namespace') = 'A tenant of the sample platform' \
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'shipments'))",
    )
    .bind(schema)
    .fetch_one(c)
    .await
}
