//! How an attempt that did not succeed ends: another attempt, a failure that says why, a cancellation, or back into the queue. The
//! backup's row, the audit event, the notice and the job's row change in one transaction.

use std::time::Duration;

use rand::RngExt as _;

use super::{
    context::{JobContext, JobError, StopReason},
    export_backup,
    queue::{self, Ending},
};
use crate::{
    db,
    history::{self, BackupStatus, Event},
    ids::BackupId,
    metrics::{self, Outcome},
    notice::{AboutJob, AboutRestore, AboutVerification, Notice, NoticeEvent},
    notify,
    tell::{self, Told},
    tenant::{Caller, Scope},
};

/// Differences that a notice repeats; the job has them all.
const DIFFERENCES_TOLD: usize = 5;

/// The longest that a storage can put a job off: what asks for more is asked again after it.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Ends the attempt. When even that cannot be written, the lease lapses and another worker takes the job.
pub async fn settle(context: &JobContext, error: JobError) {
    let (ending, message, code) = decide(context, error);
    let Some(ending) = ending else {
        metrics::job_attempt(&context.job.r#type, Outcome::Lost, context.began.elapsed());
        tracing::warn!(job = %context.lease.job, "{}: stopped: the lease was lost to another worker", context.component());
        return;
    };
    let component = context.component();
    let outcome = match &ending {
        End::Failed => {
            tracing::error!(job = %context.lease.job, "{component}: failed: {message}");
            Outcome::Failed
        }
        End::Retry(after) => {
            tracing::warn!(job = %context.lease.job, "{component}: trying again in {} s: {message}", after.as_secs());
            Outcome::Retried
        }
        End::Cancelled | End::HandedBack => {
            tracing::info!(job = %context.lease.job, "{component}: {message}");
            if matches!(ending, End::Cancelled) { Outcome::Cancelled } else { Outcome::HandedBack }
        }
    };
    metrics::job_attempt(&context.job.r#type, outcome, context.began.elapsed());
    let level = if matches!(ending, End::Failed) { "error" } else { "warn" };
    context.log(level, &message).await;
    if let Err(error) = write(context, &ending, &message, code).await {
        tracing::error!(job = %context.lease.job, "cannot write how the job ended: {error}");
    }
}

enum End {
    Failed,
    Cancelled,
    Retry(Duration),
    HandedBack,
}

/// How it ends, what is said of it, and the code of a failure. `None`: another worker has the job, so nothing may be written.
fn decide(context: &JobContext, error: JobError) -> (Option<End>, String, &'static str) {
    let code = match &error {
        JobError::Fail { code, .. } | JobError::Retry { code, .. } => *code,
        JobError::Stopped => "",
    };
    let (ending, message) = match (error, context.stop.reason()) {
        (_, Some(StopReason::LeaseLost)) => (None, String::new()),
        (JobError::Stopped, Some(StopReason::Cancelled)) => (Some(End::Cancelled), "cancelled".to_owned()),
        // What went wrong on the way out is not swallowed: a tenant may be away.
        (error, Some(StopReason::Cancelled)) => (Some(End::Cancelled), format!("cancelled; {error}")),
        (_, Some(StopReason::Shutdown)) => (Some(End::HandedBack), "handed back: the worker is stopping".to_owned()),
        (JobError::Stopped, None) => (None, String::new()),
        (JobError::Fail { message, .. }, None) => (Some(End::Failed), message),
        (JobError::Retry { message, .. }, None) if context.job.attempts >= context.job.max_attempts => {
            (Some(End::Failed), format!("{message} (after {} attempts)", context.job.attempts))
        }
        (JobError::Retry { message, wait, .. }, None) => {
            let wait = wait.unwrap_or_default().min(LONGEST_WAIT);
            (Some(End::Retry(backoff(context).max(wait))), message)
        }
    };
    (ending, message, code)
}

/// Doubles with each attempt, at most an hour, with a quarter of chance so that many jobs do not return together.
fn backoff(context: &JobContext) -> Duration {
    let base = context.app.config.worker.backoff_seconds as f64;
    let exponent = context.job.attempts.clamp(1, 20) - 1;
    let seconds = (base * f64::from(2_u32.pow(exponent as u32))).min(3_600.0);
    Duration::from_secs_f64(seconds * rand::rng().random_range(0.75..1.25))
}

async fn write(context: &JobContext, ending: &End, message: &str, code: &str) -> anyhow::Result<()> {
    let is_export = context.job.takes_backup();
    if is_export && matches!(ending, End::Failed) {
        match export_backup::rescue(context).await {
            Ok(true) => {
                tracing::info!(job = %context.lease.job, "{}: completed with what an attempt had stored", context.component());
                return Ok(());
            }
            Ok(false) => {}
            // Nothing can be written now. The next worker to take the job finds what is stored.
            Err(error @ JobError::Retry { code: "control_plane.unavailable", .. }) => anyhow::bail!("{error}"),
            Err(error) => {
                tracing::warn!(job = %context.lease.job, "cannot look for what the attempts have stored: {error}")
            }
        }
    }
    if is_export && matches!(ending, End::Failed | End::Cancelled) {
        // No further attempt will clear away what this one has left under a final name.
        if let Err(error) = export_backup::clean_up(context).await {
            tracing::warn!(job = %context.lease.job, "cannot clear away what the attempts have left: {error}");
        }
    }
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    let backup = backup_of(&payload);
    if let (true, Some(backup)) = (is_export, backup) {
        let status = match ending {
            End::Failed => BackupStatus::Failed,
            End::Cancelled => BackupStatus::Cancelled,
            End::Retry(_) | End::HandedBack => BackupStatus::Pending,
        };
        history::close(&mut *transaction, backup, status, message).await?;
    }
    let job_ending = match ending {
        End::Failed => Ending::Failed(message),
        End::Cancelled => Ending::Cancelled(message),
        End::Retry(after) => Ending::Retry { message, after: *after },
        End::HandedBack => Ending::HandedBack,
    };
    if matches!(ending, End::Failed | End::Cancelled) {
        let event = match (ending, is_export) {
            (End::Cancelled, _) => "cancelled".to_owned(),
            (_, true) => "failed".to_owned(),
            (_, false) => format!("{}_failed", context.job.r#type),
        };
        let caller = Caller::system("worker");
        let event = Event {
            backup_id: backup,
            project_id: context.job.project_id.as_deref().unwrap_or_default(),
            event: &event,
            caller: &caller,
            outcome: if matches!(ending, End::Failed) { "failed" } else { "ok" },
            detail: serde_json::json!({ "job_id": context.lease.job, "message": message }),
        };
        history::record(&mut transaction, &event).await?;
        let (event, hint) = match ending {
            End::Cancelled => (NoticeEvent::Cancelled, None),
            _ => (NoticeEvent::Failed, Some(notify::remedy(code))),
        };
        let said = Said { message, hint };
        say(&mut transaction, context, &payload, backup, event, said).await?;
    }
    queue::end(&mut *transaction, context.lease, &job_ending).await?;
    transaction.commit().await?;
    Ok(())
}

/// The backup a job is about, when its payload names one.
fn backup_of(payload: &serde_json::Value) -> Option<BackupId> {
    let id = payload.get("backup_id").or_else(|| payload.get("request")?.get("backup_id"))?;
    serde_json::from_value(id.clone()).ok()
}

/// Tells everyone who hears of it, and the address that the request named, how a job ended: `completed`, `restored` or `verified`.
pub async fn notify(
    transaction: &mut sqlx::PgConnection,
    context: &JobContext,
    payload: &serde_json::Value,
    backup: Option<BackupId>,
    event: &str,
    message: &str,
) -> anyhow::Result<()> {
    say(transaction, context, payload, backup, event.parse()?, Said { message, hint: None }).await
}

/// Tells that a backup or a restore has begun: once, whatever the number of attempts.
pub async fn started(context: &JobContext) -> anyhow::Result<()> {
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    let said = Said { message: "", hint: None };
    say(&mut transaction, context, &payload, backup_of(&payload), NoticeEvent::Started, said).await?;
    transaction.commit().await?;
    Ok(())
}

/// Tells what a verification has come to, by what its job says.
pub async fn verified(context: &JobContext) -> anyhow::Result<()> {
    let mut transaction = db::begin(&context.app.pool).await?;
    let payload = &context.job.payload;
    let said = Said { message: "", hint: None };
    say(&mut transaction, context, payload, backup_of(payload), NoticeEvent::Verified, said).await?;
    transaction.commit().await?;
    Ok(())
}

/// What is said beside the facts.
#[derive(Clone, Copy)]
struct Said<'a> {
    message: &'a str,
    hint: Option<&'static str>,
}

async fn say(
    transaction: &mut sqlx::PgConnection,
    context: &JobContext,
    payload: &serde_json::Value,
    backup: Option<BackupId>,
    event: NoticeEvent,
    said: Said<'_>,
) -> anyhow::Result<()> {
    let job = context.lease.job;
    let about = match backup {
        Some(id) => tell::backup(transaction, id).await?,
        None => None,
    };
    let mut notice = Notice {
        job: Some(AboutJob { id: job.0, r#type: context.job.r#type.clone() }),
        backup: about,
        message: Some(said.message.to_owned()).filter(|message| !message.is_empty()),
        hint: said.hint.map(str::to_owned),
        ..Notice::default()
    };
    match event {
        NoticeEvent::Restored => notice.restore = restore(transaction, context).await?,
        NoticeEvent::Verified => notice.verification = verification(transaction, context).await?,
        _ => {}
    }
    let told = Told {
        event,
        occurrence: &job.to_string(),
        project_id: context.job.project_id.as_deref(),
        backup_id: backup,
        job_id: Some(job),
        asked_for: payload.pointer("/request/notify_email").and_then(serde_json::Value::as_str),
        notice,
    };
    tell::tell(transaction, &context.app, &told).await?;
    Ok(())
}

/// What this transaction has written of the restore.
async fn restore(transaction: &mut sqlx::PgConnection, context: &JobContext) -> anyhow::Result<Option<AboutRestore>> {
    let Some(row) = history::restore_of_job(transaction, context.lease.job).await? else { return Ok(None) };
    let differences = texts(&row.differences);
    Ok(Some(AboutRestore {
        outcome: row.outcome.unwrap_or_default(),
        difference_count: u32::try_from(differences.len()).unwrap_or(u32::MAX),
        differences: differences.into_iter().take(DIFFERENCES_TOLD).collect(),
        undo_until: row.undo_until,
    }))
}

/// What the job's result says of the verification.
async fn verification(
    transaction: &mut sqlx::PgConnection,
    context: &JobContext,
) -> anyhow::Result<Option<AboutVerification>> {
    let scope = Scope::everything("the job that is told of is the one that was worked on");
    let Some(result) = queue::get(transaction, &scope, context.lease.job).await?.result else { return Ok(None) };
    let word = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let differences = texts(&result["differences"]).into_iter().take(DIFFERENCES_TOLD).collect();
    Ok(Some(AboutVerification { depth: word("depth"), outcome: word("outcome"), differences }))
}

/// The texts of a list.
fn texts(list: &serde_json::Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
