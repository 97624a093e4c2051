//! What stands in a project's database now, for whoever is about to replace it.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    app::App,
    catalog::{self, ManageError, ProjectScope},
    tenant::{Caller, Permission},
};

/// Longest look, so that a page does not wait for a database that is away.
const LIMIT: Duration = Duration::from_secs(3);

/// Looks at once in this process: each is a connection to a tenant's database.
static LOOKS: Semaphore = Semaphore::const_new(4);

/// Tables that are looked at.
const MOST_TABLES: i64 = 2_000;

/// A table as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingTable {
    pub schema: String,
    pub table: String,
    /// As PostgreSQL last estimated it (`reltuples`); `None` before it was ever looked at by VACUUM or ANALYZE.
    pub rows: Option<i64>,
}

/// What a restore would replace. `None`: the database cannot be looked at now, or too many are being looked at.
///
/// # Errors
/// The project is out of reach, or the caller may not read.
pub async fn tables(app: &App, caller: &Caller, project_id: &str) -> Result<Option<Vec<StandingTable>>, ManageError> {
    super::require(caller, Permission::Read)?;
    let project = catalog::project(&app.pool, &caller.scope(), project_id).await?;
    let Ok(_turn) = LOOKS.try_acquire() else { return Ok(None) };
    let Ok(info) = app.project_database(&project).await else { return Ok(None) };
    let schema = match project.scope() {
        ProjectScope::Schema(schema) => Some(schema),
        ProjectScope::WholeDatabase => None,
    };
    let look = async {
        let mut connection = info.connect().await.ok()?;
        let tables = look(&mut connection, schema.as_deref()).await;
        connection.close().await.ok();
        tables.ok()
    };
    Ok(timeout(LIMIT, look).await.ok().flatten())
}

async fn look(connection: &mut PgConnection, schema: Option<&str>) -> Result<Vec<StandingTable>, sqlx::Error> {
    let rows: Vec<(String, String, f32)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text, c.reltuples FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND (n.nspname::text = $1 OR ($1 IS NULL AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'))
         ORDER BY 1, 2 LIMIT $2",
    )
    .bind(schema)
    .bind(MOST_TABLES)
    .fetch_all(connection)
    .await?;
    // -1: never looked at.
    let rows = rows.into_iter().map(|(schema, table, rows)| StandingTable {
        schema,
        table,
        rows: (rows >= 0.0).then_some(rows as i64),
    });
    Ok(rows.collect())
}
