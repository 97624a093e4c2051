//! A backup's copies: one row per storage. A backup with one good copy or more is stored; with as many as are required it is complete.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::{BackupStatus, HistoryError};
use crate::{ids::BackupId, storage::Locator};

crate::artifact::words! {
    /// What is known of a copy.
    CopyStatus, "copy status" {
        Good = "good",
        /// It waits to be made from a good one.
        Pending = "pending",
        /// It could not be written.
        Failed = "failed",
        /// It was written, and no longer has the bytes that were recorded.
        Damaged = "damaged",
        /// Its backup is being deleted, and it is gone.
        Deleted = "deleted",
        /// Its backup is being deleted, and bytes of it remain that cannot be deleted.
        Remains = "remains",
    }
}

/// What a backup's message begins with while some copies are not good.
const NOT_EVERYWHERE: &str = "stored, but not everywhere: ";
/// What it begins with when none is.
const NOWHERE: &str = "no good copy is left: ";

/// One artifact in one storage.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Copy {
    #[serde(skip)]
    pub backup_id: Uuid,
    pub storage: String,
    /// `good`, `pending` (to be made from a good one), `failed` or `damaged`.
    #[schema(example = "good")]
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

/// A copy that is made later, from a good one.
pub async fn await_copy(executor: impl PgExecutor<'_>, backup: BackupId, storage: &str) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status) VALUES ($1, $2, 'pending')
         ON CONFLICT (backup_id, storage) DO UPDATE SET status = 'pending', locator = NULL, manifest_locator = NULL, message = NULL,
             checked_at = NULL",
        backup.0,
        storage,
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

/// Writes what is known of a copy, whatever was known before.
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

/// What a look at the bytes of a copy found, in a transaction that holds the backup's row. Nothing is written, and `false` returned, when the
/// row is not what it was before the look: those bytes have been replaced meanwhile, or judged by another.
pub async fn judge_copy(
    executor: impl PgExecutor<'_>,
    seen: &Copy,
    status: CopyStatus,
    message: Option<&str>,
) -> Result<bool, HistoryError> {
    let changed = sqlx::query!(
        "UPDATE control_plane.backup_copies SET status = $5, message = $6, checked_at = now()
         WHERE backup_id = $1 AND storage = $2 AND status = $3 AND checked_at IS NOT DISTINCT FROM $4",
        seen.backup_id,
        seen.storage,
        seen.status,
        seen.checked_at,
        status.as_str(),
        message,
    )
    .execute(executor)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// A copy could not be made: the reason is kept. A damaged one stays damaged.
pub async fn copy_failed(
    executor: impl PgExecutor<'_>,
    backup: BackupId,
    storage: &str,
    message: &str,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backup_copies
         SET status = CASE WHEN status = 'damaged' THEN status ELSE 'failed' END, message = $3, checked_at = now()
         WHERE backup_id = $1 AND storage = $2 AND status <> 'good'",
        backup.0,
        storage,
        message,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The copies of these backups, which the caller has reached through its scope already.
pub async fn copies(executor: impl PgExecutor<'_>, backups: &[Uuid]) -> Result<Vec<Copy>, HistoryError> {
    Ok(sqlx::query_as!(
        Copy,
        "SELECT backup_id, storage, status, locator, message, checked_at FROM control_plane.backup_copies
         WHERE backup_id = ANY($1) ORDER BY backup_id, created_at, storage",
        backups,
    )
    .fetch_all(executor)
    .await?)
}

/// Where the manifest beside the copy at `at` was stored, as that copy's row says.
pub async fn manifest_locator(
    executor: impl PgExecutor<'_>,
    backup: BackupId,
    at: &Locator,
) -> Result<Option<Locator>, HistoryError> {
    let rows = sqlx::query!(
        "SELECT locator, manifest_locator FROM control_plane.backup_copies WHERE backup_id = $1 ORDER BY created_at, storage",
        backup.0
    )
    .fetch_all(executor)
    .await?;
    let read = |json: Option<serde_json::Value>| serde_json::from_value::<Locator>(json?).ok();
    Ok(rows
        .into_iter()
        .filter(|row| read(row.locator.clone()).as_ref() == Some(at))
        .find_map(|row| read(row.manifest_locator)))
}

/// Asks for so many good copies: with fewer the backup is stored, but not complete.
pub async fn require_copies(executor: impl PgExecutor<'_>, id: BackupId, copies: i32) -> Result<(), HistoryError> {
    sqlx::query!("UPDATE control_plane.backups SET required_copies = $2 WHERE id = $1", id.0, copies)
        .execute(executor)
        .await?;
    Ok(())
}

/// Holds the row of a backup that has copies (`completed` or `damaged`) until the transaction ends. `false` when it has none, or is gone.
pub async fn hold_stored(connection: &mut PgConnection, id: BackupId) -> Result<bool, HistoryError> {
    let held = sqlx::query_scalar!(
        "SELECT id FROM control_plane.backups WHERE id = $1 AND status IN ('completed', 'damaged') FOR UPDATE",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(held.is_some())
}

/// What a backup's copies come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub good: usize,
    /// Pending, failed and damaged ones.
    pub wanting: usize,
}

/// Brings status and message of a stored backup to what its copies say: `damaged` when none is good. A message about something else
/// stays. `file_id` becomes the first part's Telegram id where there is a good copy in a chat. `None`, and nothing is written, when the backup is not a stored one, or has no copies that are known.
pub async fn settle_copies(connection: &mut PgConnection, id: BackupId) -> Result<Option<Standing>, HistoryError> {
    if !hold_stored(&mut *connection, id).await? {
        return Ok(None);
    }
    let copies = copies(&mut *connection, &[id.0]).await?;
    if copies.is_empty() {
        return Ok(None);
    }
    let good = copies.iter().filter(|copy| copy.is_good()).count();
    let standing = Standing { good, wanting: copies.len() - good };
    let (status, message) = match (good, standing.wanting) {
        (0, _) => (BackupStatus::Damaged, Some(format!("{NOWHERE}{}", reasons(&copies)))),
        (_, 0) => (BackupStatus::Completed, None),
        (_, _) => (BackupStatus::Completed, Some(format!("{NOT_EVERYWHERE}{}", reasons(&copies)))),
    };
    sqlx::query!(
        "UPDATE control_plane.backups
         SET status = $2, file_id = coalesce($6, file_id),
             message = CASE WHEN message IS NULL OR starts_with(message, $4) OR starts_with(message, $5) THEN $3 ELSE message END
         WHERE id = $1",
        id.0,
        status.as_str(),
        message,
        NOT_EVERYWHERE,
        NOWHERE,
        copies.iter().filter(|copy| copy.is_good()).find_map(telegram_file_id),
    )
    .execute(connection)
    .await?;
    Ok(Some(standing))
}

/// The Telegram id of a copy's first part, by which users find it in their chat.
fn telegram_file_id(copy: &Copy) -> Option<String> {
    match copy.locator()? {
        Locator::Telegram { messages, .. } => messages.into_iter().next().map(|part| part.file_id),
        Locator::Local { .. } | Locator::Memory { .. } | Locator::S3 { .. } => None,
    }
}

/// The copies that are not good, and why.
fn reasons(copies: &[Copy]) -> String {
    let reason = |copy: &Copy| match (&copy.message, copy.status == CopyStatus::Pending.as_str()) {
        (Some(message), _) => format!("{}: {message}", copy.storage),
        (None, true) => format!("{}: to be made from a good copy", copy.storage),
        (None, false) => format!("{}: {}", copy.storage, copy.status),
    };
    copies.iter().filter(|copy| !copy.is_good()).map(reason).collect::<Vec<_>>().join("; ")
}

/// A backup with a good copy and one that is not.
#[derive(Clone, Debug)]
pub struct WantingCopy {
    pub backup_id: Uuid,
    pub project_id: String,
    /// How many jobs have been asked for to make its copies.
    pub tried: i64,
}

/// The backups with copies that could be made from good ones, in these storages, each with the most bytes that it takes; and that no job is to
/// make. Those that were tried least often first, then the newest; none while `at_once` such jobs wait.
pub async fn wanting_copies(
    pool: &PgPool,
    storages: &[(String, i64)],
    at_once: i64,
) -> Result<Vec<WantingCopy>, HistoryError> {
    let (names, most): (Vec<String>, Vec<i64>) = storages.iter().cloned().unzip();
    Ok(sqlx::query_as!(
        WantingCopy,
        r#"SELECT b.id AS "backup_id!", b.project_id, jobs.tried AS "tried!"
           FROM control_plane.backups b CROSS JOIN LATERAL (
               SELECT count(*) AS tried, count(*) FILTER (WHERE j.status IN ('pending', 'in_progress')) AS open
               FROM control_plane.jobs j
               WHERE j.type = 'repair_copies' AND j.payload -> 'request' ->> 'backup_id' = b.id::text) jobs
           WHERE b.status = 'completed' AND b.manifest IS NOT NULL AND jobs.open = 0
             AND b.id IN (
                 SELECT c.backup_id FROM control_plane.backup_copies c
                 JOIN unnest($1::text[], $2::int8[]) AS place (storage, most) ON place.storage = c.storage
                 WHERE c.status <> 'good' AND b.size <= place.most)
             AND EXISTS (SELECT 1 FROM control_plane.backup_copies g WHERE g.backup_id = b.id AND g.status = 'good')
           ORDER BY jobs.tried, b.created_at DESC, b.id
           LIMIT greatest(0, $3 - (SELECT count(*) FROM control_plane.jobs w WHERE w.type = 'repair_copies' AND w.status = 'pending'))"#,
        &names,
        &most,
        at_once,
    )
    .fetch_all(pool)
    .await?)
}
