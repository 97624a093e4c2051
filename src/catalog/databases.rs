//! Databases beside the control plane's own. Their URLs are sealed before they are stored and opened only to connect.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use super::{CatalogError, ManageError, Managed};

/// A database as it may be shown: without its URL.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct DatabaseRow {
    pub name: String,
    /// The URL without its password.
    pub shown_as: String,
    pub created_at: DateTime<Utc>,
}

/// Adds or replaces a database. `url_sealed` was sealed for this name.
pub async fn add_database(
    executor: impl PgExecutor<'_>,
    name: &str,
    url_sealed: &str,
    shown_as: &str,
) -> Result<(), CatalogError> {
    sqlx::query!(
        "INSERT INTO control_plane.databases (name, url_sealed, shown_as) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET url_sealed = excluded.url_sealed, shown_as = excluded.shown_as, updated_at = now()",
        name,
        url_sealed,
        shown_as,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The sealed URL of a database.
pub async fn database_url(executor: impl PgExecutor<'_>, name: &str) -> Result<String, CatalogError> {
    sqlx::query_scalar!("SELECT url_sealed FROM control_plane.databases WHERE name = $1", name)
        .fetch_optional(executor)
        .await?
        .ok_or_else(|| CatalogError::NoSuchDatabase(name.to_owned()))
}

/// Every database, by name.
pub async fn databases(pool: &PgPool) -> Result<Vec<DatabaseRow>, CatalogError> {
    Ok(sqlx::query_as!(DatabaseRow, "SELECT name, shown_as, created_at FROM control_plane.databases ORDER BY name")
        .fetch_all(pool)
        .await?)
}

/// A database and how many projects live in it.
#[derive(Clone, Debug)]
pub struct DatabaseUse {
    pub name: String,
    /// The URL without its password.
    pub shown_as: String,
    pub projects: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Databases after this name, by name.
pub async fn database_page(pool: &PgPool, after: Option<&str>, limit: i64) -> Result<Vec<DatabaseUse>, ManageError> {
    Ok(sqlx::query_as!(
        DatabaseUse,
        r#"SELECT name, shown_as, created_at, updated_at,
                (SELECT count(*) FROM control_plane.projects p WHERE p.database_name = d.name) AS "projects!"
         FROM control_plane.databases d WHERE $1::text IS NULL OR name > $1 ORDER BY name LIMIT $2"#,
        after,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// One database and how many projects live in it.
pub async fn database_use(executor: impl PgExecutor<'_>, name: &str) -> Result<DatabaseUse, ManageError> {
    sqlx::query_as!(
        DatabaseUse,
        r#"SELECT name, shown_as, created_at, updated_at,
                (SELECT count(*) FROM control_plane.projects p WHERE p.database_name = d.name) AS "projects!"
         FROM control_plane.databases d WHERE name = $1"#,
        name,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Database, name))
}

/// Adds a database; [`ManageError::Exists`] when its name is taken.
pub async fn insert_database(
    executor: impl PgExecutor<'_>,
    name: &str,
    url_sealed: &str,
    shown_as: &str,
) -> Result<(), ManageError> {
    let added = sqlx::query!(
        "INSERT INTO control_plane.databases (name, url_sealed, shown_as) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
        name,
        url_sealed,
        shown_as,
    )
    .execute(executor)
    .await?;
    match added.rows_affected() {
        0 => Err(ManageError::Exists { what: Managed::Database, name: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Holds a database's row until the transaction ends, so that it does not go while a project is put into it.
pub async fn hold_database(executor: impl PgExecutor<'_>, name: &str) -> Result<(), ManageError> {
    sqlx::query_scalar!("SELECT name FROM control_plane.databases WHERE name = $1 FOR SHARE", name)
        .fetch_optional(executor)
        .await?
        .map(drop)
        .ok_or_else(|| ManageError::not_found(Managed::Database, name))
}

/// Waits for those who hold it, and keeps others out until the transaction ends.
pub async fn lock_database(executor: impl PgExecutor<'_>, name: &str) -> Result<(), ManageError> {
    sqlx::query_scalar!("SELECT name FROM control_plane.databases WHERE name = $1 FOR UPDATE", name)
        .fetch_optional(executor)
        .await?
        .map(drop)
        .ok_or_else(|| ManageError::not_found(Managed::Database, name))
}

/// Removes a database, in which no project lives.
pub async fn delete_database(executor: impl PgExecutor<'_>, name: &str) -> Result<(), ManageError> {
    sqlx::query!("DELETE FROM control_plane.databases WHERE name = $1", name).execute(executor).await?;
    Ok(())
}
