//! `verify_backup`: is a stored backup what the history says? `head` asks the storages for the size, `read` decrypts and decompresses every byte,
//! `restore` brings it back into a scratch database and counts.

use std::sync::Arc;

use serde::Serialize;

use super::{
    context::{JobContext, JobError},
    queue::{self, Ending},
    request::{Depth, VerifyPayload},
    restore_backup::{self, CopyFault},
};
use crate::{
    db,
    history::{self, Backup, Copy, CopyStatus, Event},
    ids::BackupId,
    manifest::Manifest,
    storage::{ErrorKind, Storage},
    tenant::{Caller, Scope},
};

/// What was found in one storage.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    storage: String,
    good: bool,
    message: Option<String>,
}

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let VerifyPayload { request } = context.payload()?;
    let everything = Scope::everything("the right to this backup was checked when the verification was asked for");
    let backup = history::get(&app.pool, &everything, request.backup_id).await?;
    let manifest = backup.manifest().ok_or_else(|| {
        JobError::fail(
            "backup.no_manifest",
            "there is no manifest to compare with: the backup was not taken by this program",
        )
    })?;
    let mut findings = Vec::new();
    for copy in history::copies(&app.pool, &[backup.id]).await? {
        context.check_stop()?;
        if let Some(finding) = look_at(context, &manifest, &copy, request.depth).await? {
            findings.push(finding);
        }
    }
    let good = findings.iter().any(|finding| finding.good);
    let mut differences = Vec::new();
    let mut seconds = None;
    if request.depth == Depth::Restore && good {
        let trial = restore_backup::trial(context, &backup, &manifest).await?;
        differences = trial.differences;
        seconds = Some(trial.seconds);
    }
    write(context, &backup, request.depth, &findings, &differences, seconds).await
}

/// Checks one copy; `None` when it was never stored. A storage that cannot be reached is no verdict: it is tried again.
async fn look_at(
    context: &JobContext,
    manifest: &Manifest,
    copy: &Copy,
    depth: Depth,
) -> Result<Option<Finding>, JobError> {
    let Some(at) = copy.locator() else { return Ok(None) };
    let Some(storage) = context.app.storages.get(&copy.storage) else {
        return Err(JobError::fail("storage.unknown", format!("storage {:?} is no longer configured", copy.storage)));
    };
    context.stage(&format!("reading from {}", copy.storage)).await;
    let storage: Arc<dyn Storage> = Arc::clone(storage);
    let fault = match depth {
        Depth::Head => match storage.stat(&at).await {
            Ok(stat) if stat.bytes == manifest.head.stored.bytes => None,
            Ok(stat) => Some(CopyFault::Damaged(format!(
                "{} bytes are stored, {} were recorded",
                stat.bytes, manifest.head.stored.bytes
            ))),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => {
                Some(CopyFault::Damaged(error.to_string()))
            }
            Err(error) => return Err(error.into()),
        },
        Depth::Read | Depth::Restore => restore_backup::read_through(context, &storage, &at, manifest).await.err(),
    };
    match fault {
        None => Ok(Some(Finding { storage: copy.storage.clone(), good: true, message: None })),
        Some(CopyFault::Damaged(message)) => {
            Ok(Some(Finding { storage: copy.storage.clone(), good: false, message: Some(message) }))
        }
        Some(CopyFault::Other(error)) => Err(error),
    }
}

async fn write(
    context: &JobContext,
    backup: &Backup,
    depth: Depth,
    findings: &[Finding],
    differences: &[String],
    seconds: Option<f64>,
) -> Result<(), JobError> {
    let id = BackupId(backup.id);
    let readable = findings.iter().any(|finding| finding.good);
    let outcome = match (readable, differences.is_empty()) {
        (false, _) => "damaged",
        (true, false) => "differences",
        (true, true) => "verified",
    };
    let message = findings.iter().find_map(|f| f.message.clone()).or_else(|| differences.first().cloned());
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    for finding in findings {
        let status = if finding.good { CopyStatus::Good } else { CopyStatus::Damaged };
        history::mark_copy(&mut *transaction, id, &finding.storage, status, finding.message.as_deref()).await?;
    }
    history::verified(&mut *transaction, id, depth.as_str(), outcome == "verified", readable, message.as_deref())
        .await?;
    let result = serde_json::json!({
        "backup_id": id, "depth": depth, "outcome": outcome, "copies": findings, "differences": differences, "restore_seconds": seconds,
    });
    let mut detail = result.clone();
    detail["job_id"] = serde_json::json!(context.lease.job);
    let caller = Caller::system("worker");
    let event = Event {
        backup_id: Some(id),
        project_id: &backup.project_id,
        event: "verified",
        caller: &caller,
        outcome: if outcome == "verified" { "ok" } else { "failed" },
        detail,
    };
    history::record(&mut transaction, &event).await?;
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}
