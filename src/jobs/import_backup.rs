//! `import_backup`: takes an artifact that lies in a storage, with its manifest beside it, back into the history.
//!
//! What always holds: every byte of the artifact was read and agreed with the manifest before a row says `completed`; a row that is there
//! is not overwritten; a backup that was deleted on purpose comes back only when that was asked for.

use chrono::Duration;
use serde_json::json;

use super::{
    authentic::{self, TakeUp},
    catalog::{self as rebuild, Found},
    context::{JobContext, JobError},
    queue::{self, Ending},
    request::{ImportPayload, ImportRequest},
};
use crate::{
    catalog, db,
    history::{self, BackupStatus, Event, FoundCopy},
    manifest::Head,
    storage::{self, Storage},
    tenant::{Caller, Scope},
};

/// One attempt. A second one finds the row of the first and changes nothing.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let ImportPayload { request, backup_id } = context.payload()?;
    let storage = app.storages.get(&request.storage).ok_or_else(|| {
        JobError::fail("storage.unknown", format!("storage {:?} is no longer configured", request.storage))
    })?;
    context.stage("reading the manifest").await;
    let at = storage
        .find(&request.key.manifest())
        .await?
        .ok_or_else(|| JobError::fail("manifest.missing", format!("there is no {}", request.key.manifest())))?;
    let found = rebuild::look_at(app, storage.as_ref(), at).await?;
    if found.head.backup_id != backup_id {
        return Err(JobError::fail("manifest.misplaced", "the manifest is not the one that was asked for"));
    }
    authentic::may_be_taken_up(&found.seal, TakeUp::unsealed_if(request.allow_unsealed))
        .map_err(|misfit| JobError::fail(misfit.code, misfit.message))?;
    context.check_stop()?;
    context.stage("reading the artifact").await;
    compare(context, storage.as_ref(), &found).await?;
    write(context, &request, &found).await
}

/// Reads the artifact to its end.
async fn compare(context: &JobContext, storage: &dyn Storage, found: &Found) -> Result<(), JobError> {
    if let Some(fault) = &found.fault {
        return Err(JobError::fail("backup.damaged", fault));
    }
    let artifact = found.artifact.as_ref().ok_or_else(|| JobError::fail("backup.no_copy", "the artifact is gone"))?;
    let read = tokio::select! {
        read = storage::fingerprint(storage, artifact) => read?,
        () = context.stop.token.cancelled() => return Err(JobError::Stopped),
    };
    if read == found.head.stored {
        return Ok(());
    }
    let Head { stored, .. } = &found.head;
    Err(JobError::fail(
        "backup.damaged",
        format!(
            "the artifact is not what its manifest says: {} bytes with SHA-256 {} were read, {} with {} were recorded",
            read.bytes, read.sha256, stored.bytes, stored.sha256
        ),
    ))
}

/// The row, its copy, the event and the job's end, in one transaction that the lease fences.
async fn write(context: &JobContext, request: &ImportRequest, found: &Found) -> Result<(), JobError> {
    let app = &context.app;
    let (head, id) = (&found.head, found.head.backup_id);
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let scope = Scope::everything("an operator asked for the import");
    catalog::project(&mut *transaction, &scope, head.project_id.as_str()).await?;
    let row = history::recorded(&mut transaction, id).await?;
    match &row {
        Some(row) if row.status == BackupStatus::Deleted.as_str() => {
            return Err(JobError::fail("backup.deleted", format!("backup {id} is being deleted")));
        }
        Some(row) => rebuild::fits(row, head).map_err(|misfit| JobError::fail(misfit.code, misfit.message))?,
        None => {
            // Looked at after the row: a deletion holds it until its tombstone is there.
            if !request.even_if_deleted && history::is_buried(&mut *transaction, id).await? {
                return Err(JobError::fail("backup.deleted", format!("backup {id} was deleted on purpose")));
            }
            let doubt = if found.seal.is_err() { ", where its manifest has no seal" } else { "" };
            let message = format!("imported from storage {}{doubt}", request.storage);
            let head = Head { expires_at: expiry(context, head), ..head.clone() };
            history::adopt(&mut transaction, &head, &request.storage, true, &message).await?;
        }
    }
    if let Some(manifest) = &found.manifest
        && !row.as_ref().is_some_and(|row| row.has_manifest)
    {
        history::fill_in(&mut *transaction, &manifest.head, &manifest.body).await?;
    }
    let copy = FoundCopy {
        storage: &request.storage,
        artifact: found.artifact.as_ref(),
        manifest: &found.manifest_at,
        fault: None,
    };
    let added_copy = history::add_copy(&mut transaction, id, &copy).await?;
    if added_copy {
        rebuild::require_found(app, &mut transaction, id).await?;
    }
    let is_new = row.is_none();
    let sealed_by = found.seal.as_ref().map(ToString::to_string).ok();
    let detail = json!({
        "job_id": context.lease.job, "storage": request.storage, "key": request.key, "new": is_new, "sealed_by": sealed_by,
    });
    let caller = Caller::system("worker");
    let project_id = head.project_id.as_str();
    let event = Event { backup_id: Some(id), project_id, event: "imported", caller: &caller, outcome: "ok", detail };
    history::record(&mut transaction, &event).await?;
    let result = json!({
        "backup_id": id, "new": is_new, "copy_added": added_copy, "has_manifest": found.manifest.is_some(),
        "size": head.stored.bytes,
    });
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}

/// When it may be deleted. Somebody wants it now: one whose time is over gets a new one.
fn expiry(context: &JobContext, head: &Head) -> Option<crate::clock::Timestamp> {
    let now = context.app.clock.now();
    let days = i64::from(context.app.config.backup.retention_days);
    head.expires_at.map(|at| if at > now { at } else { now + Duration::days(days) })
}
