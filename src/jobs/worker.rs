//! The worker: claims jobs, keeps their leases alive, and ends them. Any number of workers may share one control plane.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rand::RngExt as _;
use sqlx::postgres::PgListener;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, field::Empty};

use super::{
    JobType, audit_chain,
    context::{JobContext, JobError, Stop, StopReason, component},
    delete_backup, drop_replaced, ending, export_backup, import_backup,
    queue::{self, Claimed, QueueError, Renewal},
    repair_copies, restore_backup, try_import, undo_restore, verify_backup,
};
use crate::{
    app::App,
    config::Config,
    history::Outbox,
    ids::{JobId, LeaseToken},
    metrics::{self, Outcome},
};

/// Works until `stop`, then gives running jobs `worker.shutdown_seconds` to finish and hands the others back.
pub async fn run(app: App, stop: CancellationToken) -> anyhow::Result<()> {
    let worker = Worker::new(app);
    queue::heartbeat(&worker.app.pool, &worker.name).await.context("cannot announce the worker")?;
    tracing::info!(worker = %worker.name, "Worker: ready");
    let background = stop.child_token();
    let _guard = background.clone().drop_guard();
    tokio::spawn(worker.clone().listen(background.clone()));
    tokio::spawn(worker.clone().give_signs_of_life(background.clone()));
    tokio::spawn(worker.clone().keep_house(background.clone()));
    tokio::spawn(worker.clone().sweep(background.clone()));
    let linking = tokio::spawn(audit_chain::keep_linked(worker.app.clone(), background.clone()));
    worker.work(&stop).await;
    if let Err(error) = queue::goodbye(&worker.app.pool, &worker.name).await {
        tracing::warn!("Worker: cannot say goodbye: {error}");
    }
    // What this worker wrote last is linked too.
    background.cancel();
    let _ = timeout(Duration::from_secs(5), linking).await;
    Ok(())
}

/// Works until one job has ended, for a command that waits when no worker runs. Other jobs of the same project may have to go
/// first, so everything that is waiting is worked on meanwhile.
pub async fn run_until_final(app: &App, job: JobId, stop: CancellationToken) -> anyhow::Result<()> {
    let done = stop.child_token();
    let worker = tokio::spawn(run(app.clone(), done.clone()));
    let scope = crate::tenant::Scope::everything("the caller's right to this job was checked when it asked for it");
    loop {
        let row = queue::get(&app.pool, &scope, job).await?;
        if row.is_final() || stop.is_cancelled() || worker.is_finished() {
            break;
        }
        tokio::select! {
            () = sleep(Duration::from_millis(100)) => {}
            () = stop.cancelled() => {}
        }
    }
    done.cancel();
    worker.await.context("the worker ended badly")?
}

#[derive(Clone)]
struct Worker {
    app: App,
    /// Unique among all workers of all time.
    name: Arc<str>,
    /// Something may be waiting.
    wake: Arc<Notify>,
    /// How to stop each running job.
    running: Arc<Mutex<HashMap<LeaseToken, (JobId, Stop)>>>,
}

impl Worker {
    fn new(app: App) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let chance: u32 = rand::rng().random();
        let name = format!("{host}:{}:{chance:08x}", std::process::id()).into();
        Self { app, name, wake: Arc::default(), running: Arc::default() }
    }

    fn lease_for(&self) -> Duration {
        Duration::from_secs(self.app.config.worker.lease_seconds)
    }

    /// Wakes on new jobs and passes on cancellations. Polling stands behind it, so a lost connection only makes it slower.
    async fn listen(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let listening = async {
                let mut listener = PgListener::connect_with(&self.app.pool).await?;
                listener.listen_all(["holdfast_jobs", "holdfast_cancel"]).await?;
                loop {
                    let notification = listener.recv().await?;
                    if notification.channel() == "holdfast_cancel" {
                        // Whoever may connect may notify: the row decides.
                        if let Ok(id) = notification.payload().parse::<JobId>()
                            && self.runs(id)
                            && queue::is_cancel_requested(&self.app.pool, id).await?
                        {
                            self.stop_job(id, StopReason::Cancelled);
                        }
                    } else {
                        self.wake.notify_one();
                    }
                }
            };
            let ended: Result<(), sqlx::Error> = tokio::select! {
                ended = listening => ended,
                () = stop.cancelled() => return,
            };
            if let Err(error) = ended {
                tracing::warn!("Worker: not listening for notifications: {error}");
            }
            tokio::select! {
                () = sleep(Duration::from_secs(2)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn runs(&self, id: JobId) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).values().any(|(job, _)| *job == id)
    }

    fn stop_job(&self, id: JobId, reason: StopReason) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().filter(|(job, _)| *job == id).for_each(|(_, stop)| stop.now(reason));
    }

    fn stop_all(&self, reason: StopReason) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|(_, stop)| stop.now(reason));
    }

    async fn give_signs_of_life(self, stop: CancellationToken) {
        let mut ticks = interval(self.lease_for() / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = queue::heartbeat(&self.app.pool, &self.name).await {
                tracing::warn!("Worker: no sign of life given: {error}");
            }
        }
    }

    /// What must be done though nobody asks: restores are tidied up after, failed deletions taken up again, and missing copies made.
    async fn keep_house(self, stop: CancellationToken) {
        let mut ticks = interval(Duration::from_secs(60));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.app.storages.refresh().await {
                tracing::warn!("Worker: cannot look for new storages: {error}");
            }
            if let Err(error) = drop_replaced::enqueue_due(&self.app).await {
                tracing::warn!("Worker: cannot look for restores to tidy up after: {error}");
            }
            if let Err(error) = delete_backup::enqueue_due(&self.app).await {
                tracing::warn!("Worker: cannot look for deletions to take up again: {error}");
            }
            if let Err(error) = repair_copies::enqueue_due(&self.app).await {
                tracing::warn!("Worker: cannot look for copies to make: {error}");
            }
            self.empty_outbox().await;
        }
    }

    /// Removes temporary files of dead attempts. A storage may need long to tell what it has: nothing waits for it.
    async fn sweep(self, stop: CancellationToken) {
        let mut ticks = interval(Duration::from_secs(3_600));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let before = SystemTime::from(self.app.clock.now()) - patience(&self.app.config);
            for (name, storage) in &self.app.storages {
                let swept = tokio::select! {
                    swept = storage.sweep_temporary(before) => swept,
                    () = stop.cancelled() => return,
                };
                match swept {
                    Ok(0) => {}
                    Ok(removed) => tracing::info!("Worker: removed {removed} temporary files from storage {name}"),
                    Err(error) => tracing::warn!("Worker: cannot sweep storage {name}: {error}"),
                }
            }
        }
    }

    /// Writes down what programs on this machine could not record when the control plane was away.
    async fn empty_outbox(&self) {
        match Outbox::below(&self.app.config.data_dir).flush(&self.app.pool).await {
            Ok(flushed) => {
                if flushed.recorded > 0 {
                    tracing::info!("Worker: wrote down {} backups from the outbox", flushed.recorded);
                }
                for waiting in flushed.waiting {
                    tracing::warn!(file = %waiting.file.display(), "Worker: a record stays in the outbox: {}", waiting.message);
                }
            }
            Err(error) => tracing::warn!("Worker: cannot empty the outbox: {error}"),
        }
    }

    async fn work(&self, stop: &CancellationToken) {
        let poll = Duration::from_secs(self.app.config.worker.poll_seconds);
        let free = Arc::new(Semaphore::new(self.app.config.worker.concurrency));
        let mut jobs = JoinSet::new();
        while !stop.is_cancelled() {
            let permit = tokio::select! {
                permit = free.clone().acquire_owned() => permit,
                () = stop.cancelled() => break,
            };
            let Ok(permit) = permit else { break };
            match queue::claim(&self.app.pool, &self.name, self.lease_for()).await {
                Ok(Some(claimed)) => {
                    let worker = self.clone();
                    let span = span_of(&claimed);
                    let work = async move {
                        worker.work_on(claimed).await;
                        drop(permit);
                        // Another job of the same project may have waited for this one.
                        worker.wake.notify_one();
                    };
                    jobs.spawn(work.instrument(span));
                }
                Ok(None) => {
                    drop(permit);
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = sleep(poll) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!("Worker: cannot claim a job: {error}");
                    drop(permit);
                    tokio::select! {
                        () = sleep(poll) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
            while jobs.try_join_next().is_some() {}
        }
        let grace = Duration::from_secs(self.app.config.worker.shutdown_seconds);
        let finish = async { while jobs.join_next().await.is_some() {} };
        if timeout(grace, finish).await.is_err() {
            tracing::info!("Worker: handing back what is not finished");
            self.stop_all(StopReason::Shutdown);
            while jobs.join_next().await.is_some() {}
        }
    }

    /// One attempt at one job, from its claim to the end of its lease.
    async fn work_on(&self, claimed: Claimed) {
        let stop = Stop::default();
        let (progress, seen) = watch::channel(serde_json::Value::Null);
        let context = JobContext::new(self.app.clone(), claimed.job, claimed.lease, stop.clone(), progress);
        if context.job.cancel_requested {
            stop.now(StopReason::Cancelled);
        }
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(context.lease.token, (context.lease.job, stop.clone()));
        let renewal = tokio::spawn(keep_lease(context.clone(), seen, self.lease_for()).in_current_span());
        tell_of_beginning(&context).await;
        let result = attempt(&context).await;
        match result {
            Ok(()) => {
                tell_of_verification(&context).await;
                metrics::job_attempt(&context.job.r#type, Outcome::Completed, context.began.elapsed());
                tracing::info!(job = %context.lease.job, "{}: done", context.component());
            }
            // Clearing away may take longer than the lease.
            Err(error) => ending::settle(&context, error).await,
        }
        renewal.abort();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&context.lease.token);
    }
}

/// How long what nobody writes to any more is left alone: a living attempt, of a backup or of a restore into a bucket, has written within its own
/// time limit; a day more is patience.
fn patience(config: &Config) -> Duration {
    Duration::from_secs(config.backup.timeout_seconds.max(config.restore.timeout_seconds) + 86_400)
}

/// Tells that a backup or a restore begins. That it cannot be told keeps nothing from beginning.
async fn tell_of_beginning(context: &JobContext) {
    let is_told = context.job.takes_backup() || context.job.r#type == JobType::RestoreBackup.as_str();
    let begins = context.stop.reason().is_none() && context.job.attempts <= context.job.max_attempts;
    if is_told
        && begins
        && let Err(error) = ending::started(context).await
    {
        tracing::warn!(job = %context.lease.job, "{}: cannot tell that it began: {error}", context.component());
    }
}

/// Tells what a verification came to, should its end not have told it: what was told is not told again.
async fn tell_of_verification(context: &JobContext) {
    if context.job.r#type == JobType::VerifyBackup.as_str()
        && let Err(error) = ending::verified(context).await
    {
        tracing::warn!(job = %context.lease.job, "{}: cannot tell what was found: {error}", context.component());
    }
}

/// The span of an attempt, which all its log lines are in. Traces call it by its component; log lines say that already.
fn span_of(claimed: &Claimed) -> tracing::Span {
    let project = claimed.job.project_id.as_deref().unwrap_or_default();
    let span = tracing::info_span!(parent: None, "job", otel.name = Empty, id = %claimed.lease.job, project);
    if cfg!(feature = "otel") {
        span.record("otel.name", component(&claimed.job.r#type));
    }
    span
}

/// Runs the handler, on a task of its own so that a panic ends the attempt and not the worker.
async fn attempt(context: &JobContext) -> Result<(), JobError> {
    let Ok(job_type) = context.job.r#type.parse::<JobType>() else {
        return Err(JobError::fail("job.type", format!("unknown job type {:?}", context.job.r#type)));
    };
    let gave_up = context.job.attempts > context.job.max_attempts;
    let handler = context.clone();
    let work = async move {
        // One that was added a moment ago may be what this job is about.
        handler.app.storages.refresh().await?;
        match job_type {
            JobType::RestoreBackup if gave_up => restore_backup::clean_up(&handler).await,
            JobType::RepairCopies if gave_up => repair_copies::clean_up(&handler).await,
            JobType::TryImport if gave_up => try_import::clean_up(&handler).await,
            // What an export has left is looked after when its end is written.
            _ if gave_up => Ok(()),
            JobType::ExportBackup | JobType::ExportLogs | JobType::ExportStorage => {
                return export_backup::run(&handler).await;
            }
            JobType::RestoreBackup => return restore_backup::run(&handler).await,
            JobType::UndoRestore => return undo_restore::run(&handler).await,
            JobType::VerifyBackup => return verify_backup::run(&handler).await,
            JobType::DropReplaced => return drop_replaced::run(&handler).await,
            JobType::RepairCopies => return repair_copies::run(&handler).await,
            JobType::DeleteBackup => return delete_backup::run(&handler).await,
            JobType::ImportBackup => return import_backup::run(&handler).await,
            JobType::TryImport => return try_import::run(&handler).await,
        }?;
        Err(JobError::fail(
            "worker.lost",
            format!("gave up after {} attempts: the worker was lost each time", handler.job.max_attempts),
        ))
    };
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(panic) => Err(JobError::retry("worker.panic", format!("the attempt ended unexpectedly: {panic}"))),
    }
}

/// Renews the lease until the job ends, and stops the job when that fails for as long as the lease lives.
async fn keep_lease(context: JobContext, mut progress: watch::Receiver<serde_json::Value>, lease_for: Duration) {
    let mut last_success = Instant::now();
    loop {
        // New progress is written soon, but not more than three times a second; without any, the lease is renewed in time.
        tokio::select! {
            changed = progress.changed() => {
                if changed.is_err() { return }
                sleep(Duration::from_millis(300)).await;
            }
            () = sleep(lease_for / 4) => {}
        }
        let value = progress.borrow_and_update().clone();
        let value = (!value.is_null()).then_some(value);
        // A connection that is half dead must not keep the job going past its lease.
        let renewal = queue::renew(&context.app.pool, context.lease, lease_for, value.as_ref());
        let renewal = timeout(lease_for / 4, renewal)
            .await
            .unwrap_or_else(|_| Err(QueueError::Database(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))));
        match renewal {
            Ok(Renewal::Kept) => last_success = Instant::now(),
            Ok(Renewal::CancelRequested) => {
                last_success = Instant::now();
                context.stop.now(StopReason::Cancelled);
            }
            Ok(Renewal::Lost) => {
                context.stop.now(StopReason::LeaseLost);
                return;
            }
            Err(error) => {
                tracing::warn!(job = %context.lease.job, "Worker: cannot renew the lease: {error}");
                if last_success.elapsed() >= lease_for * 3 / 4 {
                    context.stop.now(StopReason::LeaseLost);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_is_patient_with_the_longest_of_all_attempts() {
        let mut config = Config::default();
        (config.backup.timeout_seconds, config.restore.timeout_seconds) = (60, 7 * 86_400);
        assert_eq!(patience(&config), Duration::from_secs(8 * 86_400));
        (config.backup.timeout_seconds, config.restore.timeout_seconds) = (2 * 86_400, 60);
        assert_eq!(patience(&config), Duration::from_secs(3 * 86_400));
    }
}
