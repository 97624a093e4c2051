//! Deleting a backup: its row is marked first, what became of each copy is written down, and at last the whole row moves into
//! `backup_history`. That last event is the *tombstone*: no sweep and no rebuild takes the backup up again.

use serde_json::json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::{CopyStatus, HistoryError, events};
use crate::{
    ids::{BackupId, JobId},
    storage::Locator,
    tenant::Caller,
};

/// What decides whether a backup may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub status: String,
    pub pinned: bool,
}

/// Holds a backup's row until the transaction ends. `None` when there is none (any more).
pub async fn hold(connection: &mut PgConnection, id: BackupId) -> Result<Option<Held>, HistoryError> {
    Ok(sqlx::query_as!(Held, "SELECT status, pinned FROM control_plane.backups WHERE id = $1 FOR UPDATE", id.0)
        .fetch_optional(connection)
        .await?)
}

/// Sets the status of a row that is [held](hold): `deleted`, or back to what it was when the deletion was cancelled before it began.
pub async fn set_status(executor: impl PgExecutor<'_>, id: BackupId, status: &str) -> Result<(), HistoryError> {
    sqlx::query!("UPDATE control_plane.backups SET status = $2 WHERE id = $1", id.0, status).execute(executor).await?;
    Ok(())
}

/// Pins a row that is [held](hold), or takes its pin out.
pub async fn set_pinned(executor: impl PgExecutor<'_>, id: BackupId, pinned: bool) -> Result<(), HistoryError> {
    sqlx::query!("UPDATE control_plane.backups SET pinned = $2 WHERE id = $1", id.0, pinned).execute(executor).await?;
    Ok(())
}

/// Says why a backup that is marked `deleted` is still here.
pub async fn deletion_stuck(executor: impl PgExecutor<'_>, id: BackupId, message: &str) -> Result<(), HistoryError> {
    sqlx::query!("UPDATE control_plane.backups SET message = $2 WHERE id = $1 AND status = 'deleted'", id.0, message)
        .execute(executor)
        .await?;
    Ok(())
}

/// A copy as its deletion needs it.
#[derive(Clone, Debug)]
pub struct DoomedCopy {
    pub storage: String,
    pub status: String,
    pub message: Option<String>,
    locator: Option<serde_json::Value>,
    manifest_locator: Option<serde_json::Value>,
}

impl DoomedCopy {
    /// A storage that has no row, but may have been written to.
    pub fn unrecorded(storage: &str) -> Self {
        Self {
            storage: storage.to_owned(),
            status: CopyStatus::Failed.as_str().to_owned(),
            message: None,
            locator: None,
            manifest_locator: None,
        }
    }

    /// Where the artifact is, as far as that was recorded.
    pub fn locator(&self) -> Option<Locator> {
        serde_json::from_value(self.locator.clone()?).ok()
    }

    /// Where its manifest is, as far as that was recorded.
    pub fn manifest_locator(&self) -> Option<Locator> {
        serde_json::from_value(self.manifest_locator.clone()?).ok()
    }

    /// Nothing more can be done about it: it is gone, or what remains cannot be deleted.
    pub fn is_over(&self) -> bool {
        [CopyStatus::Deleted, CopyStatus::Remains].iter().any(|status| self.status == status.as_str())
    }
}

/// The copies of a backup that is being deleted.
pub async fn doomed_copies(executor: impl PgExecutor<'_>, id: BackupId) -> Result<Vec<DoomedCopy>, HistoryError> {
    Ok(sqlx::query_as!(
        DoomedCopy,
        "SELECT storage, status, message, locator, manifest_locator FROM control_plane.backup_copies
         WHERE backup_id = $1 ORDER BY created_at, storage",
        id.0,
    )
    .fetch_all(executor)
    .await?)
}

/// A copy is gone; or, with the storage's words for it, some of its bytes remain and cannot be deleted.
pub async fn copy_deleted(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    storage: &str,
    remains: Option<&str>,
) -> Result<(), HistoryError> {
    let status = if remains.is_some() { CopyStatus::Remains } else { CopyStatus::Deleted };
    sqlx::query!(
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status, message, checked_at) VALUES ($1, $2, $3, $4, now())
         ON CONFLICT (backup_id, storage) DO UPDATE SET status = excluded.status, message = excluded.message, checked_at = now()",
        id.0,
        storage,
        status.as_str(),
        remains,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// A copy could not be deleted: the reason is kept, its status stays.
pub async fn copy_not_deleted(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    storage: &str,
    reason: &str,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status, message, checked_at) VALUES ($1, $2, 'failed', $3, now())
         ON CONFLICT (backup_id, storage) DO UPDATE SET message = excluded.message, checked_at = now()",
        id.0,
        storage,
        reason,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Moves the whole row with its copies into the history, as the event `deleted`, and out of `backups`. For rows that are [held](hold). `job`: the
/// one that has deleted the files; `None` where they stay.
pub async fn bury(
    connection: &mut PgConnection,
    id: BackupId,
    caller: &Caller,
    job: Option<JobId>,
    outcome: &serde_json::Value,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.backup_history (backup_id, project_id, event, actor, address, outcome, detail)
         SELECT b.id, b.project_id, 'deleted', $2, $5, 'ok', $4::jsonb || jsonb_build_object(
                'job_id', $3::uuid, 'backup', to_jsonb(b),
                'copies', (SELECT coalesce(jsonb_agg(to_jsonb(c) ORDER BY c.storage), '[]'::jsonb)
                           FROM control_plane.backup_copies c WHERE c.backup_id = b.id))
         FROM control_plane.backups b WHERE b.id = $1",
        id.0,
        caller.subject,
        job.map(|job| job.0),
        outcome,
        caller.address.map(|address| address.to_string()),
    )
    .execute(&mut *connection)
    .await?;
    let project_id = sqlx::query_scalar!("DELETE FROM control_plane.backups WHERE id = $1 RETURNING project_id", id.0)
        .fetch_optional(&mut *connection)
        .await?
        .ok_or_else(|| HistoryError::NoSuchBackup(id.to_string()))?;
    // For the project's own people without the row: a manifest can be large.
    let mut metadata = json!({ "source": "holdfast", "event": "deleted", "actor": caller.subject, "outcome": "ok" });
    metadata["detail"] = outcome.clone();
    metadata["backup_id"] = json!(id);
    if let Some(job) = job {
        metadata["job_id"] = json!(job);
    }
    events::project_log(connection, &project_id, "info", "backup deleted", metadata).await
}

/// Whether a backup was deleted on purpose.
pub async fn is_buried(executor: impl PgExecutor<'_>, id: BackupId) -> Result<bool, HistoryError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM control_plane.backup_history WHERE backup_id = $1 AND event = 'deleted' AND outcome = 'ok')
           AS "buried!""#,
        id.0
    )
    .fetch_one(executor)
    .await?)
}

/// A backup whose deletion did not come to its end.
#[derive(Clone, Debug)]
pub struct StuckDeletion {
    pub backup_id: Uuid,
    pub project_id: String,
}

/// The backups whose newest deletion has failed, or was cancelled a day ago when it had begun: nobody has asked for it again since, and what is
/// left of the backup can only be deleted. Rows that a platform marks `deleted` itself are none of ours.
pub async fn stuck_deletions(pool: &PgPool) -> Result<Vec<StuckDeletion>, HistoryError> {
    Ok(sqlx::query_as!(
        StuckDeletion,
        r#"SELECT b.id AS backup_id, b.project_id FROM control_plane.backups b
           CROSS JOIN LATERAL (
               SELECT j.status, j.finished_at FROM control_plane.jobs j
               WHERE j.type = 'delete_backup' AND j.project_id = b.project_id AND j.payload -> 'request' ->> 'backup_id' = b.id::text
               ORDER BY j.created_at DESC, j.id DESC LIMIT 1) newest
           WHERE b.status = 'deleted'
             AND (newest.status = 'failed' OR newest.status = 'cancelled' AND newest.finished_at < now() - interval '1 day')
           ORDER BY b.created_at LIMIT 1000"#
    )
    .fetch_all(pool)
    .await?)
}
