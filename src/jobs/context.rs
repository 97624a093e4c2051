//! What a job's handler works with: the job, its lease, a way to report progress, and the reason to stop.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::queue::{Job, Lease, QueueError};
use crate::{
    app::App, catalog::CatalogError, history::HistoryError, restore::RestoreError, source::SourceError, storage,
};

/// Why a running job must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Someone asked for it.
    Cancelled,
    /// Another worker has the job: nothing may be written any more.
    LeaseLost,
    /// This worker ends: the job goes back into the queue.
    Shutdown,
}

/// Tells a job to stop, once, with the first reason given.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    pub fn now(&self, reason: StopReason) {
        let _ = self.reason.set(reason); // the first reason stands
        self.token.cancel();
    }

    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }
}

/// One attempt at a job.
#[derive(Clone, Debug)]
pub struct JobContext {
    pub app: App,
    pub job: Job,
    pub lease: Lease,
    pub stop: Stop,
    pub progress: watch::Sender<serde_json::Value>,
    /// When this attempt began.
    pub began: Instant,
    /// The stage that the attempt is in, for traces: its end is when the next one begins.
    stage: Arc<Mutex<Span>>,
}

/// How an attempt ended when it did not succeed. Whoever understands an error decides.
#[derive(Debug)]
pub enum JobError {
    /// Another attempt may help, but not before the time that a storage asked for.
    Retry { code: &'static str, message: String, wait: Option<Duration> },
    /// No attempt will help.
    Fail { code: &'static str, message: String },
    /// The job was told to stop.
    Stopped,
}

impl std::fmt::Display for JobError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Retry { message, .. } | Self::Fail { message, .. } => message,
            Self::Stopped => "the job was stopped",
        })
    }
}

impl JobError {
    pub fn fail(code: &'static str, message: impl ToString) -> Self {
        Self::Fail { code, message: message.to_string() }
    }

    pub fn retry(code: &'static str, message: impl ToString) -> Self {
        Self::Retry { code, message: message.to_string(), wait: None }
    }

    /// The same error; another attempt is made after this time at the earliest.
    pub fn not_before(self, asked: Option<Duration>) -> Self {
        match self {
            Self::Retry { code, message, wait } => Self::Retry { code, message, wait: wait.max(asked) },
            other => other,
        }
    }

    fn by(may_pass: bool, code: &'static str, message: impl ToString) -> Self {
        if may_pass { Self::retry(code, message) } else { Self::fail(code, message) }
    }
}

impl From<CatalogError> for JobError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Database(error) => Self::retry("control_plane.unavailable", error),
            error @ CatalogError::NamedAsOurs(_) => Self::fail("database.name_reserved", error),
            other => Self::fail("project.unusable", other),
        }
    }
}

impl From<HistoryError> for JobError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Database(error) => Self::retry("control_plane.unavailable", error),
            other @ HistoryError::NoSuchBackup(_) => Self::fail("backup.not_found", other),
        }
    }
}

impl From<QueueError> for JobError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::LeaseLost(_) => Self::Stopped,
            slow @ QueueError::TooSlow(_) => Self::retry("storage.unavailable", slow),
            other => Self::retry("control_plane.unavailable", other),
        }
    }
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        Self::retry("control_plane.unavailable", error)
    }
}

impl From<SourceError> for JobError {
    fn from(error: SourceError) -> Self {
        Self::by(error.may_pass, error.code, error.message)
    }
}

impl From<RestoreError> for JobError {
    fn from(error: RestoreError) -> Self {
        if error.code == "restore.cancelled" {
            Self::Stopped
        } else {
            Self::by(error.may_pass, error.code, error.message)
        }
    }
}

impl From<storage::Error> for JobError {
    fn from(error: storage::Error) -> Self {
        Self::by(error.kind.may_pass(), error.kind.code(), format!("{error:#}")).not_before(error.kind.retry_after())
    }
}

impl JobContext {
    pub fn new(app: App, job: Job, lease: Lease, stop: Stop, progress: watch::Sender<serde_json::Value>) -> Self {
        Self { app, job, lease, stop, progress, began: Instant::now(), stage: Arc::new(Mutex::new(Span::none())) }
    }

    /// What log lines call the job: `ExportBackup`.
    pub fn component(&self) -> String {
        component(&self.job.r#type)
    }

    /// The payload as this version writes it.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, JobError> {
        serde_json::from_value(self.job.payload.clone())
            .map_err(|error| JobError::fail("job.payload", format!("the job's payload cannot be read: {error}")))
    }

    /// Tells how far the job is. Written with the next sign of life.
    pub fn report(&self, progress: serde_json::Value) {
        self.progress.send_replace(progress);
    }

    /// A new stage begins: in the progress, in the job's log, and in ours.
    pub async fn stage(&self, stage: &str) {
        let span = tracing::info_span!("stage", otel.name = stage);
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = span;
        tracing::info!(job = %self.lease.job, "{}: {stage}", self.component());
        self.report(serde_json::json!({ "stage": stage }));
        self.log("info", stage).await;
    }

    /// Adds a line to the job's log; a log that cannot be written stops nothing.
    pub async fn log(&self, level: &str, message: &str) {
        let written =
            crate::history::job_log(&self.app.pool, self.job.project_id.as_deref(), self.lease.job, level, message)
                .await;
        if let Err(error) = written {
            tracing::warn!(job = %self.lease.job, "cannot write the job's log: {error}");
        }
    }

    /// Fails when the job was told to stop.
    pub fn check_stop(&self) -> Result<(), JobError> {
        if self.stop.token.is_cancelled() { Err(JobError::Stopped) } else { Ok(()) }
    }
}

/// A job type as the name of a component: `export_backup` is `ExportBackup`.
pub fn component(job_type: &str) -> String {
    let mut starts_word = true;
    let mut name = String::with_capacity(job_type.len());
    for c in job_type.chars() {
        match (c, starts_word) {
            ('_', _) => starts_word = true,
            (c, true) => {
                name.extend(c.to_uppercase());
                starts_word = false;
            }
            (c, false) => name.push(c),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_name_the_component() {
        assert_eq!(component("export_backup"), "ExportBackup");
        assert_eq!(component(""), "");
    }
}
