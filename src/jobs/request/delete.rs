//! Asking for a backup to be deleted.

use serde::{Deserialize, Serialize};

use super::{RequestError, asked_before, limits, new_job, record, require, to_json};
use crate::{
    app::App,
    db,
    history::{self, BackupStatus},
    ids::BackupId,
    jobs::{
        JobType,
        queue::{self, Enqueued, Job, QueueError},
    },
    tenant::{Caller, Permission},
};

/// A deletion as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteRequest {
    pub backup_id: BackupId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeletePayload {
    pub request: DeleteRequest,
    /// The backup's status when it was asked for: what it gets back when the job is cancelled before it began.
    pub was: String,
}

/// Attempts at a deletion. With the backoff's limit of an hour they fill most of a day; a deletion that fails all the same is taken up again
/// the next day.
pub const DELETE_ATTEMPTS: i32 = 24;

/// Of the deletions that retention asks for: behind whatever somebody waits for. A project's limit does not count them, and its people ask for
/// nothing so low.
pub(super) const RETENTIONS_PRIORITY: i32 = -10;

/// Asks for every copy of a backup to be deleted. From the moment this returns the backup can no longer be used. While it is being deleted,
/// another request gets the same job; after a deletion that failed, a new one that goes on where that one stopped.
pub async fn delete(
    app: &App,
    caller: &Caller,
    request: &DeleteRequest,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::DeleteBackup, request).await? {
        return Ok(job);
    }
    let id = request.backup_id;
    let backup = history::get(&app.pool, &caller.scope(), id).await?;
    let mut transaction = db::begin(&app.pool).await?;
    // Of two that ask at the same time the second waits here, and finds the job of the first.
    let Some(held) = history::hold(&mut transaction, id).await? else {
        return Err(RequestError::NotFound { what: "backup", id: id.to_string() });
    };
    if held.status == BackupStatus::Deleted.as_str()
        && let Some(job) = queue::newest_about(&mut *transaction, JobType::DeleteBackup, &backup.project_id, id).await?
        && !job.is_final()
    {
        return Ok(job);
    }
    refuse(id, &held)?;
    let payload = DeletePayload { request: request.clone(), was: held.status };
    let mut new = new_job(app, caller, JobType::DeleteBackup, &backup.project_id, to_json(&payload)?, idempotency_key);
    new.max_attempts = DELETE_ATTEMPTS;
    let job = match queue::enqueue(&mut transaction, &new).await? {
        Enqueued::Before(job) => return Ok(job),
        Enqueued::Now(job) => job,
    };
    limits::refuse_when_full(&mut transaction, app, &new).await?;
    let detail = serde_json::json!({ "job_id": job.id, "was": payload.was });
    mark(&mut transaction, caller, &backup.project_id, id, detail).await?;
    transaction.commit().await?;
    Ok(job)
}

/// The same for a backup that no rule keeps, whose row the caller holds: in the caller's transaction, behind whatever somebody waits for, and
/// however many others are being deleted.
pub(in crate::jobs) async fn delete_expired(
    transaction: &mut sqlx::PgConnection,
    app: &App,
    caller: &Caller,
    project_id: &str,
    id: BackupId,
    held: history::Held,
    because: &[String],
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    refuse(id, &held)?;
    let payload = DeletePayload { request: DeleteRequest { backup_id: id }, was: held.status };
    let mut new = new_job(app, caller, JobType::DeleteBackup, project_id, to_json(&payload)?, None);
    (new.max_attempts, new.priority) = (DELETE_ATTEMPTS, RETENTIONS_PRIORITY);
    let (Enqueued::Before(job) | Enqueued::Now(job)) = queue::enqueue(&mut *transaction, &new).await?;
    let detail = serde_json::json!({ "job_id": job.id, "was": payload.was, "because": because });
    mark(transaction, caller, project_id, id, detail).await?;
    Ok(job)
}

/// From the end of the transaction on it cannot be used.
async fn mark(
    transaction: &mut sqlx::PgConnection,
    caller: &Caller,
    project_id: &str,
    id: BackupId,
    detail: serde_json::Value,
) -> Result<(), RequestError> {
    history::set_status(&mut *transaction, id, BackupStatus::Deleted.as_str()).await?;
    stop_copying(&mut *transaction, caller, project_id, id).await?;
    record(transaction, caller, Some(id), project_id, "delete_requested", detail).await
}

/// Deletes a backup's record at once and leaves its stored files where they are.
///
/// # Errors
/// It is pinned, still being made, or being deleted with its files.
pub async fn forget(app: &App, caller: &Caller, id: BackupId) -> Result<(), RequestError> {
    require(caller, Permission::Write)?;
    let backup = history::get(&app.pool, &caller.scope(), id).await?;
    let mut transaction = db::begin(&app.pool).await?;
    let Some(held) = history::hold(&mut transaction, id).await? else {
        return Err(RequestError::NotFound { what: "backup", id: id.to_string() });
    };
    refuse(id, &held)?;
    if held.status == BackupStatus::Deleted.as_str() {
        return Err(RequestError::conflict(
            "backup.deleted",
            format!("backup {id} is being deleted with its files"),
            "Follow its job.",
        ));
    }
    stop_copying(&mut transaction, caller, &backup.project_id, id).await?;
    history::forget(&mut transaction, id, caller).await?;
    transaction.commit().await?;
    Ok(())
}

/// A copy that is being made now is not worth finishing.
async fn stop_copying(
    transaction: &mut sqlx::PgConnection,
    caller: &Caller,
    project_id: &str,
    id: BackupId,
) -> Result<(), RequestError> {
    for repair in queue::open_about(&mut *transaction, JobType::RepairCopies, project_id, id).await? {
        match queue::request_cancel(&mut *transaction, &caller.scope(), repair.job_id()).await {
            // It was quicker.
            Ok(_) | Err(QueueError::AlreadyEnded { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What stands against a deletion.
fn refuse(id: BackupId, held: &history::Held) -> Result<(), RequestError> {
    if held.pinned {
        return Err(RequestError::conflict(
            "backup.pinned",
            format!("backup {id} is pinned: it is kept whatever happens"),
            "Unpin it first.",
        ));
    }
    if [BackupStatus::Pending, BackupStatus::InProgress].iter().any(|status| held.status == status.as_str()) {
        return Err(RequestError::conflict(
            "backup.unfinished",
            format!("backup {id} is {}: it is still being made", held.status),
            "Cancel its job first: that removes what it has stored.",
        ));
    }
    Ok(())
}
