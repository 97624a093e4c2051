//! Waits for a job: shows its progress on a terminal, and works on it in this process when no worker is alive.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Context, Exit, Failure};
use crate::{
    app::App,
    ids::JobId,
    jobs::{
        queue::{self, Job, JobStatus},
        request, worker,
    },
};

/// Between two looks at the job.
const POLL: Duration = Duration::from_millis(200);

/// Between two looks for a living worker, while the job waits.
const LOOK_FOR_WORKERS: Duration = Duration::from_secs(2);

/// How long a worker counts as alive after its last sign of life: a lease, as for its jobs, and a little more for a slow database.
pub fn fresh(app: &App) -> Duration {
    Duration::from_secs(app.config.worker.lease_seconds.max(10))
}

/// What a worker writes into `jobs.progress`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    stage: String,
    content_bytes: u64,
    stored_bytes: u64,
    total_bytes: Option<u64>,
    /// Of a dump whose rows are told apart: how many tables have passed, of how many.
    tables_done: Option<u64>,
    tables: Option<u64>,
    /// Of a backup: how far each storage is.
    storages: BTreeMap<String, CopyProgress>,
    /// Of copies being made: which of them, of how many.
    copy: Option<u64>,
    copies: Option<u64>,
}

/// How far one storage's copy is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CopyProgress {
    stored_bytes: u64,
    state: String,
}

impl Progress {
    /// What has been stored: of each storage where there are several.
    fn stored(&self) -> String {
        if self.storages.len() > 1 {
            let share = |(name, copy): (&String, &CopyProgress)| match copy.state.as_str() {
                "failed" => format!("{name} failed"),
                "done" => format!("{name} done"),
                _ => format!("{name} {}", HumanBytes(copy.stored_bytes)),
            };
            return format!(" ({})", self.storages.iter().map(share).collect::<Vec<_>>().join(", "));
        }
        if let (Some(copy), Some(copies)) = (self.copy, self.copies.filter(|copies| *copies > 1)) {
            return format!(" (copy {copy} of {copies})");
        }
        match self.stored_bytes {
            0 => String::new(),
            bytes => format!(" ({} stored)", HumanBytes(bytes)),
        }
    }
}

/// Waits until the job has ended, and gives it as it is then: completed, failed or cancelled.
///
/// # Errors
/// The control plane went away, the worker of this process could not go on, or the user did not want to wait any longer.
pub async fn until_final(app: &App, context: &Context, id: JobId) -> anyhow::Result<Job> {
    let bar = Bar::new(context);
    let mut here: Option<Here> = None;
    let mut interrupts = 0u32;
    let mut looked_at: Option<Instant> = None;
    let outcome = loop {
        let job = queue::get(&app.pool, &context.caller.scope(), id).await?;
        bar.show(&job);
        if job.is_final() {
            break Ok(job);
        }
        if here.is_none() && looked_at.is_none_or(|at| at.elapsed() >= LOOK_FOR_WORKERS) {
            looked_at = Some(Instant::now());
            if !queue::has_live_worker(&app.pool, fresh(app)).await? {
                here = Some(Here::start(app, id));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            result = Here::ended(&mut here) => {
                let job = queue::get(&app.pool, &context.caller.scope(), id).await?;
                if job.is_final() {
                    break Ok(job);
                }
                break Err(result.err().unwrap_or_else(|| anyhow::anyhow!("job {id} stopped at {}", job.status)));
            }
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if here.is_none() {
                    break Err(interrupted(format!("no longer waiting: job {id} goes on"), id));
                }
                if interrupts > 1 {
                    break Err(interrupted(format!("job {id} was handed back to the queue"), id));
                }
                bar.remark(context, "cancelling the job; press Ctrl-C again to hand it back to the queue instead");
                // When it has ended meanwhile there is nothing to cancel, and the loop sees it.
                let _ = request::cancel(app, &context.caller, id).await;
            }
        }
    };
    bar.finish();
    if let Some(here) = here {
        here.stop().await;
    }
    outcome
}

fn interrupted(message: String, id: JobId) -> anyhow::Error {
    let hint = format!("Look at it with `holdfast job show {id}`, or end it with `holdfast job cancel {id}`.");
    Failure::new(Exit::Interrupted, "interrupted", message).hint(hint).into()
}

/// A worker in this process, for one job.
struct Here {
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Here {
    fn start(app: &App, id: JobId) -> Self {
        let stop = CancellationToken::new();
        let (app, token) = (app.clone(), stop.clone());
        Self { task: tokio::spawn(async move { worker::run_until_final(&app, id, token).await }), stop }
    }

    /// Waits for the worker to end; for ever when there is none.
    async fn ended(here: &mut Option<Self>) -> anyhow::Result<()> {
        match here {
            Some(here) => (&mut here.task).await.map_err(anyhow::Error::from)?,
            None => std::future::pending().await,
        }
    }

    /// Stops the worker, which ends its job or hands it back.
    async fn stop(self) {
        self.stop.cancel();
        if !self.task.is_finished() {
            // Its outcome is in the job's row.
            let _ = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        }
    }
}

/// A job that did not complete, as a failure. `None` when it did.
pub fn failure(job: &Job) -> Option<Failure> {
    let id = job.id;
    let (exit, code, what) = match job.status() {
        Some(JobStatus::Completed) => return None,
        Some(JobStatus::Cancelled) => (Exit::JobFailed, "job.cancelled", "was cancelled"),
        _ => (Exit::JobFailed, "job.failed", "failed"),
    };
    let message = match job.error_message.as_deref() {
        Some(why) if !why.is_empty() => format!("{} {what}: {why}", noun(&job.r#type)),
        _ => format!("{} {what}", noun(&job.r#type)),
    };
    Some(Failure::new(exit, code, message).hint(format!("`holdfast job logs {id}` shows what happened.")))
}

/// What a job does, for people.
fn noun(job_type: &str) -> &'static str {
    match job_type {
        "export_backup" | "export_logs" | "export_storage" => "the backup",
        "restore_backup" => "the restore",
        "undo_restore" => "the undo",
        "verify_backup" => "the verification",
        "delete_backup" => "the deletion",
        "repair_copies" => "the repair",
        "try_import" => "the trial",
        _ => "the job",
    }
}

/// A progress bar on standard error, on a terminal only.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new(context: &Context) -> Self {
        if context.is_quiet() || !stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(spinner());
        bar.enable_steady_tick(POLL);
        Self(Some(bar))
    }

    fn show(&self, job: &Job) {
        let Some(bar) = &self.0 else { return };
        let progress: Progress =
            job.progress.clone().and_then(|progress| serde_json::from_value(progress).ok()).unwrap_or_default();
        let stage = match job.status() {
            Some(JobStatus::Pending) if job.attempts > 0 => format!("waiting for attempt {}", job.attempts + 1),
            Some(JobStatus::Pending) => "waiting".to_owned(),
            _ if progress.stage.is_empty() => "working".to_owned(),
            _ => crate::report::one_line(&progress.stage).replace('_', " "),
        };
        let tables = match (progress.tables_done, progress.tables) {
            (Some(done), Some(all)) if job.status() == Some(JobStatus::InProgress) => {
                format!(", {done} of {all} tables")
            }
            _ => String::new(),
        };
        bar.set_message(format!("{stage}{tables}{}", crate::report::one_line(&progress.stored())));
        match progress.total_bytes.filter(|total| *total > 0) {
            // An estimate can be too small: the bar then stays at its end.
            Some(total) => {
                if bar.length() != Some(total) {
                    bar.set_style(whole());
                    bar.set_length(total);
                }
                bar.set_position(progress.content_bytes.max(progress.stored_bytes).min(total));
            }
            None => bar.set_position(progress.content_bytes.max(progress.stored_bytes)),
        }
    }

    fn remark(&self, context: &Context, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| context.remark(text)),
            None => context.remark(text),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}: {bytes}, {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn whole() -> ProgressStyle {
    ProgressStyle::with_template(
        "{spinner} {elapsed_precise} [{bar:30}] {msg}: {bytes} of about {total_bytes}, {bytes_per_sec}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_storages_show_their_own_bytes_and_one_does_not() {
        let stored = |json: serde_json::Value| serde_json::from_value::<Progress>(json).unwrap().stored();
        let one = serde_json::json!({ "stored_bytes": 2048, "storages": { "local": { "stored_bytes": 2048, "state": "uploading" } } });
        assert_eq!(stored(one), " (2.00 KiB stored)");
        let two = serde_json::json!({ "stored_bytes": 2048, "storages": {
            "local": { "stored_bytes": 2048, "state": "uploading" },
            "offsite": { "stored_bytes": 1024, "state": "failed", "message": "unavailable" },
        } });
        assert_eq!(stored(two), " (local 2.00 KiB, offsite failed)");
        let repair = serde_json::json!({ "copy": 2, "copies": 3, "stored_bytes": 5, "total_bytes": 10 });
        assert_eq!(stored(repair), " (copy 2 of 3)");
    }
}
