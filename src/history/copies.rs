//! A backup's copies: one row per storage.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::HistoryError;
use crate::{ids::BackupId, storage::Locator};

crate::artifact::words! {
    /// What is known of a copy.
    CopyStatus, "copy status" {
        Good = "good",
        /// It could not be written.
        Failed = "failed",
        /// It was written, and no longer has the bytes that were recorded.
        Damaged = "damaged",
    }
}

/// One artifact in one storage.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Copy {
    #[serde(skip)]
    pub backup_id: Uuid,
    pub storage: String,
    /// `good`, `failed` or `damaged`.
    pub status: String,
    #[schema(value_type = Option<Object>)]
    pub locator: Option<serde_json::Value>,
    pub message: Option<String>,
    pub checked_at: Option<DateTime<Utc>>,
}

impl Copy {
    /// Where the bytes are, when they were stored.
    pub fn locator(&self) -> Option<Locator> {
        serde_json::from_value(self.locator.clone()?).ok()
    }

    pub fn is_good(&self) -> bool {
        self.status == CopyStatus::Good.as_str()
    }
}

/// Writes a copy's row, or replaces what an earlier attempt wrote.
pub async fn put_copy(
    executor: impl PgExecutor<'_>,
    backup: BackupId,
    storage: &str,
    stored: Result<(&Locator, &Locator), &str>,
) -> Result<(), HistoryError> {
    let json = |locator: &Locator| serde_json::to_value(locator).map_err(|e| sqlx::Error::Encode(e.into()));
    let (status, locator, manifest, message) = match stored {
        Ok((artifact, manifest)) => (CopyStatus::Good, Some(json(artifact)?), Some(json(manifest)?), None),
        Err(message) => (CopyStatus::Failed, None, None, Some(message)),
    };
    sqlx::query!(
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status, locator, manifest_locator, message, checked_at)
         VALUES ($1, $2, $3, $4, $5, $6, now())
         ON CONFLICT (backup_id, storage) DO UPDATE SET status = excluded.status, locator = excluded.locator,
             manifest_locator = excluded.manifest_locator, message = excluded.message, checked_at = now()",
        backup.0,
        storage,
        status.as_str(),
        locator,
        manifest,
        message,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Whether some backup has a good copy in this storage: it has proved itself.
pub async fn has_good_copy_in(executor: impl PgExecutor<'_>, storage: &str) -> Result<bool, HistoryError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM control_plane.backup_copies WHERE storage = $1 AND status = 'good') AS "proved!""#,
        storage
    )
    .fetch_one(executor)
    .await?)
}

/// What a check of a stored copy found.
pub async fn mark_copy(
    executor: impl PgExecutor<'_>,
    backup: BackupId,
    storage: &str,
    status: CopyStatus,
    message: Option<&str>,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backup_copies SET status = $3, message = $4, checked_at = now() WHERE backup_id = $1 AND storage = $2",
        backup.0,
        storage,
        status.as_str(),
        message,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The copies of these backups, which the caller has reached through its scope already.
pub async fn copies(pool: &PgPool, backups: &[Uuid]) -> Result<Vec<Copy>, HistoryError> {
    Ok(sqlx::query_as!(
        Copy,
        "SELECT backup_id, storage, status, locator, message, checked_at FROM control_plane.backup_copies
         WHERE backup_id = ANY($1) ORDER BY backup_id, created_at, storage",
        backups,
    )
    .fetch_all(pool)
    .await?)
}
