//! Databases beside the control plane's own. Their URLs are sealed before they are stored and opened only to connect.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use super::CatalogError;

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
         ON CONFLICT (name) DO UPDATE SET url_sealed = excluded.url_sealed, shown_as = excluded.shown_as",
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
