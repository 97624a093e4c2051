//! `verify_backup`: is a stored backup what the history says? `head` asks the storages for the size and checks the manifest's seal, `read` decrypts
//! and decompresses every byte, `restore` brings it back into a scratch database and compares it with its proof.

use serde::Serialize;

use super::{
    context::{JobContext, JobError},
    copies::{self, CopyFault, Readable},
    ending,
    queue::{self, Ending},
    request::{Depth, VerifyPayload},
    trial_restore,
};
use crate::{
    db,
    history::{self, Backup, Copy, CopyStatus, Event},
    ids::BackupId,
    manifest::Manifest,
    proof_record::is_not_compared,
    tenant::Caller,
};

/// What was found in one storage.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    storage: String,
    /// `null`: the bytes could not be read, so nothing is known of them.
    good: Option<bool>,
    message: Option<String>,
    /// The row before the look.
    #[serde(skip)]
    seen: Copy,
}

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let VerifyPayload { request } = context.payload()?;
    let app = &context.app;
    let backup = history::get(&app.pool, &copies::everything(), request.backup_id).await?;
    let manifest = backup.manifest().ok_or_else(|| {
        JobError::fail(
            "backup.no_manifest",
            "there is no manifest to compare with: the backup was not taken by this program",
        )
    })?;
    copies::require_kept(&backup)?;
    let mut findings = Vec::new();
    let mut silent = None;
    for found in copies::readable(app, &backup).await? {
        context.check_stop()?;
        let seen = found.copy.clone();
        let (good, message) = match look_at(context, &backup, &manifest, &found, request.depth).await {
            // A size says nothing about the bytes, so it clears no copy of what is known of it.
            Ok(()) if request.depth == Depth::Head && !seen.is_good() => {
                (Some(false), Some(format!("same size; known to be {}: verify with depth read", seen.status)))
            }
            Ok(()) => (Some(true), None),
            Err(CopyFault::Damaged(reason)) => {
                // Kept at once: the other copies may be out of reach for long.
                copies::mark_damaged(context, &backup, &found.copy, &reason).await?;
                (Some(false), Some(reason))
            }
            Err(CopyFault::OutOfReach(error)) => {
                let told = copies::out_of_reach(&found, &error);
                context.log("warn", &told.to_string()).await;
                let message = told.to_string();
                silent.get_or_insert(told);
                (None, Some(message))
            }
            Err(CopyFault::Other(error)) => return Err(error),
        };
        findings.push(Finding { storage: seen.storage.clone(), good, message, seen });
    }
    let has_good = findings.iter().any(|finding| finding.good == Some(true));
    let has_verdict = findings.iter().any(|finding| finding.good.is_some());
    match silent {
        // A storage that is away may be back for the next attempt; after the last one, what the others told is the answer.
        Some(error @ JobError::Retry { .. }) if !has_verdict || context.job.attempts < context.job.max_attempts => {
            return Err(error);
        }
        Some(error) if !has_verdict => return Err(error),
        None if !has_verdict => {
            return Err(JobError::fail("backup.no_copy", "no configured storage has a copy of this backup"));
        }
        Some(_) | None => {}
    }
    let mut differences = Vec::new();
    let mut seconds = None;
    if request.depth == Depth::Restore && has_good {
        match trial_restore::run(context, &backup, &manifest).await? {
            Ok(trial) => {
                differences = trial.differences;
                seconds = Some(trial.seconds);
            }
            Err(error) => {
                if let JobError::Fail { code, message } = &error {
                    // It is shown at the backup too, until another trial comes to its end; and the clock does not ask for it again.
                    let told = [format!("the trial restore failed ({code}): {message}")];
                    history::tried(&app.pool, request.backup_id, app.clock.now(), None, &told).await?;
                }
                return Err(error);
            }
        }
    }
    write(context, &backup, request.depth, &findings, &differences, seconds).await
}

/// Checks one copy.
async fn look_at(
    context: &JobContext,
    backup: &Backup,
    manifest: &Manifest,
    found: &Readable,
    depth: Depth,
) -> Result<(), CopyFault> {
    context.stage(&format!("reading from {}", found.copy.storage)).await;
    match depth {
        Depth::Head => match found.storage.stat(&found.at).await {
            Ok(stat) if stat.bytes == manifest.head.stored.bytes => copies::sealed(context, backup, found).await,
            Ok(stat) => Err(CopyFault::Damaged(format!(
                "{} bytes are stored, {} were recorded",
                stat.bytes, manifest.head.stored.bytes
            ))),
            Err(error) => Err(copies::of_storage(error)),
        },
        Depth::Read | Depth::Restore => copies::read_through(context, found, manifest).await,
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
    let readable = findings.iter().any(|finding| finding.good == Some(true));
    let outcome = match (readable, differences.is_empty()) {
        (false, _) => "damaged",
        (true, false) => "differences",
        (true, true) => "verified",
    };
    // Then the trial has compared no rows: of them it is known that every byte was read and is as it was stored.
    let is_not_compared = readable && is_not_compared(differences);
    let proved = if is_not_compared { Depth::Read } else { depth };
    let is_fine = outcome == "verified" || is_not_compared;
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    if history::hold_stored(&mut transaction, id).await? {
        // What is damaged was written when it was seen, and of what could not be read nothing is known.
        for finding in findings.iter().filter(|finding| finding.good == Some(true)) {
            let message = finding.seen.message.as_deref().filter(|_| depth == Depth::Head);
            history::judge_copy(&mut *transaction, &finding.seen, CopyStatus::Good, message).await?;
        }
        let message = differences.first().map(String::as_str).filter(|_| !is_not_compared);
        history::verified(&mut *transaction, id, proved.as_str(), is_fine, message).await?;
        if seconds.is_some() {
            history::tried(&mut *transaction, id, context.app.clock.now(), seconds, differences).await?;
        }
        copies::settle(&mut transaction, context, backup).await?;
    }
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
        outcome: if is_fine { "ok" } else { "failed" },
        detail,
    };
    history::record(&mut transaction, &event).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    // After the end: what is told is read from the job's result.
    ending::notify(&mut transaction, context, &payload, Some(id), "verified", "")
        .await
        .map_err(|error| JobError::retry("control_plane.unavailable", error))?;
    transaction.commit().await?;
    Ok(())
}
