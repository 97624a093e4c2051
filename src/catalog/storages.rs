//! Storages that are kept in the control plane, beside those of the configuration. Their settings are sealed whole, secrets and all: what
//! could send a secret elsewhere cannot be altered without the key.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::PgExecutor;

use super::{ManageError, Managed, StorageSettings};
use crate::keys::{KeyError, SecretsKey};

/// One row of `control_plane.storages`.
#[derive(Clone, Debug)]
pub struct StorageRow {
    pub name: String,
    /// `local`, `s3` or `telegram`.
    pub kind: String,
    pub settings_sealed: String,
    /// Another with every change.
    pub revision: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

fn context(name: &str) -> String {
    format!("storage {name}")
}

impl StorageRow {
    /// Opens the settings.
    ///
    /// # Errors
    /// They were sealed with another key or for another name, or hold what this version does not know.
    pub fn open(&self, key: &SecretsKey) -> Result<StorageSettings, KeyError> {
        let text = key.open(&self.settings_sealed, &context(&self.name))?;
        // Read at once, into the type that shows no secret.
        serde_json::from_str(text.expose_secret()).map_err(|_| KeyError::CannotOpen)
    }
}

/// Seals settings for the row of this name.
///
/// # Errors
/// The system gives no random numbers.
pub fn seal_storage(key: &SecretsKey, name: &str, settings: &StorageSettings) -> Result<String, KeyError> {
    key.seal(&settings.to_text(), &context(name))
}

/// Every storage of the table, by name.
pub async fn storages(executor: impl PgExecutor<'_>) -> Result<Vec<StorageRow>, sqlx::Error> {
    sqlx::query_as!(
        StorageRow,
        "SELECT name, kind, settings_sealed, revision, created_at, updated_at FROM control_plane.storages ORDER BY name"
    )
    .fetch_all(executor)
    .await
}

/// One storage of the table.
pub async fn storage(executor: impl PgExecutor<'_>, name: &str) -> Result<StorageRow, ManageError> {
    sqlx::query_as!(
        StorageRow,
        "SELECT name, kind, settings_sealed, revision, created_at, updated_at FROM control_plane.storages WHERE name = $1",
        name,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Storage, name))
}

/// The same, and nobody else changes it until the transaction ends.
pub async fn lock_storage(executor: impl PgExecutor<'_>, name: &str) -> Result<StorageRow, ManageError> {
    sqlx::query_as!(
        StorageRow,
        "SELECT name, kind, settings_sealed, revision, created_at, updated_at FROM control_plane.storages WHERE name = $1 FOR UPDATE",
        name,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Storage, name))
}

/// Adds a storage; [`ManageError::Exists`] when its name is taken.
pub async fn insert_storage(
    executor: impl PgExecutor<'_>,
    name: &str,
    kind: &str,
    settings_sealed: &str,
    shown_as: &str,
) -> Result<StorageRow, ManageError> {
    sqlx::query_as!(
        StorageRow,
        "INSERT INTO control_plane.storages (name, kind, settings_sealed, shown_as) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING
         RETURNING name, kind, settings_sealed, revision, created_at, updated_at",
        name,
        kind,
        settings_sealed,
        shown_as,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::Exists { what: Managed::Storage, name: name.to_owned() })
}

/// Gives a storage other settings.
pub async fn update_storage(
    executor: impl PgExecutor<'_>,
    name: &str,
    settings_sealed: &str,
    shown_as: &str,
) -> Result<StorageRow, ManageError> {
    sqlx::query_as!(
        StorageRow,
        "UPDATE control_plane.storages SET settings_sealed = $2, shown_as = $3, updated_at = now(),
             revision = nextval('control_plane.storages_revision_seq')
         WHERE name = $1 RETURNING name, kind, settings_sealed, revision, created_at, updated_at",
        name,
        settings_sealed,
        shown_as,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Storage, name))
}

/// Removes a storage from the table.
pub async fn delete_storage(executor: impl PgExecutor<'_>, name: &str) -> Result<(), ManageError> {
    sqlx::query!("DELETE FROM control_plane.storages WHERE name = $1", name).execute(executor).await?;
    Ok(())
}

/// Forgets the copies that never came to be in a storage that goes: those backups need one copy less.
pub async fn forget_failed_copies(executor: impl PgExecutor<'_>, name: &str) -> Result<(), ManageError> {
    sqlx::query!(
        "WITH gone AS (DELETE FROM control_plane.backup_copies WHERE storage = $1 AND status = 'failed' RETURNING backup_id)
         UPDATE control_plane.backups SET required_copies = required_copies - 1
         WHERE id IN (SELECT backup_id FROM gone) AND required_copies > 1",
        name,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What still needs a storage: copies that are or will be there, projects that name it, jobs that will write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageUse {
    pub copies: i64,
    pub projects: i64,
    pub jobs: i64,
}

/// Counts what needs a storage.
pub async fn storage_use(executor: impl PgExecutor<'_>, name: &str) -> Result<StorageUse, ManageError> {
    Ok(sqlx::query_as!(
        StorageUse,
        r#"SELECT (SELECT count(*) FROM control_plane.backup_copies WHERE storage = $1 AND status NOT IN ('failed', 'deleted')) AS "copies!",
                (SELECT count(*) FROM control_plane.projects WHERE settings -> 'storages' ? $1) AS "projects!",
                (SELECT count(*) FROM control_plane.jobs
                 WHERE status IN ('pending', 'in_progress') AND payload -> 'storages' ? $1) AS "jobs!""#,
        name,
    )
    .fetch_one(executor)
    .await?)
}
