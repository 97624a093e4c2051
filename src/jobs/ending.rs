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
    tenant::Caller,
};

/// The longest that a storage can put a job off: what asks for more is asked again after it.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Ends the attempt. When even that cannot be written, the lease lapses and another worker takes the job.
pub async fn settle(context: &JobContext, error: JobError) {
    let (ending, message) = decide(context, error);
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
    if let Err(error) = write(context, &ending, &message).await {
        tracing::error!(job = %context.lease.job, "cannot write how the job ended: {error}");
    }
}

enum End {
    Failed,
    Cancelled,
    Retry(Duration),
    HandedBack,
}

/// `None`: another worker has the job, so nothing may be written.
fn decide(context: &JobContext, error: JobError) -> (Option<End>, String) {
    match (error, context.stop.reason()) {
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
    }
}

/// Doubles with each attempt, at most an hour, with a quarter of chance so that many jobs do not return together.
fn backoff(context: &JobContext) -> Duration {
    let base = context.app.config.worker.backoff_seconds as f64;
    let exponent = context.job.attempts.clamp(1, 20) - 1;
    let seconds = (base * f64::from(2_u32.pow(exponent as u32))).min(3_600.0);
    Duration::from_secs_f64(seconds * rand::rng().random_range(0.75..1.25))
}

async fn write(context: &JobContext, ending: &End, message: &str) -> anyhow::Result<()> {
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
        if matches!(ending, End::Failed) {
            notify(&mut transaction, context, &payload, backup, "failed", message).await?;
        }
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

/// Puts a notice into the outbox for the address that the request named.
pub async fn notify(
    transaction: &mut sqlx::PgConnection,
    context: &JobContext,
    payload: &serde_json::Value,
    backup: Option<BackupId>,
    event: &str,
    message: &str,
) -> anyhow::Result<()> {
    let Some(address) = payload.pointer("/request/notify_email").and_then(serde_json::Value::as_str) else {
        return Ok(());
    };
    let notice = history::NewNotice {
        project_id: context.job.project_id.as_deref(),
        backup_id: backup,
        job_id: context.lease.job,
        event,
        channel: "email",
        recipient: address,
        payload: serde_json::json!({ "message": message }),
    };
    Ok(history::add_notice(transaction, &notice).await?)
}
