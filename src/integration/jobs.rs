//! Queueing jobs for the workers.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{BackupIntegration, Failure, no_database};
use crate::{
    db,
    history::{self, RecordError},
    ids::JobId,
    jobs::{
        JobType,
        queue::{self, Enqueued, Job, NewJob},
        request::{
            self, Asked, ImportRequest, RequestError, RestoreRequest, TryImportRequest, UndoRequest, VerifyRequest,
        },
    },
    tenant::Caller,
};

/// Attempts at a job, as the table's own default has it.
const MAX_ATTEMPTS: i32 = 3;

impl BackupIntegration {
    /// Queues a job, like a row that the platform inserts into `control_plane.jobs` itself, but checked: a payload that no worker could read and
    /// an unknown project are refused. The payload of `export_backup` has a `project_id` and whatever else `POST /api/backup/export` takes; the
    /// others (a `backup_id` to restore or verify, a `restore_job_id` to undo) need an integration that was made from an [`App`](crate::app::App).
    ///
    /// # Errors
    /// See above; or the database is not reached. Then nothing is queued.
    pub async fn enqueue(&self, job_type: JobType, payload: Value) -> Result<Job, Failure> {
        let app = || {
            self.app.as_ref().ok_or_else(|| {
                Failure::new("job.type", format!("{job_type} is queued by an integration that was made from an App"))
            })
        };
        let caller = self.caller();
        match job_type {
            JobType::ExportBackup | JobType::ExportLogs | JobType::ExportStorage => {
                self.enqueue_export(job_type, payload).await
            }
            JobType::RestoreBackup => {
                let request: RestoreRequest = parse(payload)?;
                Ok(request::restore(app()?, &caller, &request, None).await?)
            }
            JobType::VerifyBackup => {
                let request: VerifyRequest = parse(payload)?;
                Ok(request::verify(app()?, &caller, &request, None).await?)
            }
            JobType::UndoRestore => {
                let request: UndoRequest = parse(payload)?;
                Ok(request::undo(app()?, &caller, request.restore_job_id, None).await?)
            }
            JobType::ImportBackup => {
                let request: ImportRequest = parse(payload)?;
                Ok(request::import(app()?, &caller, &request, None).await?)
            }
            JobType::TryImport => {
                let request: TryImportRequest = parse(payload)?;
                Ok(request::try_import(app()?, &caller, &request, None).await?)
            }
            JobType::DropReplaced | JobType::RepairCopies | JobType::DeleteBackup => {
                Err(Failure::new("job.type", format!("{job_type} is queued by Holdfast itself")))
            }
        }
    }

    /// The payload goes into the row as it came: the worker completes it.
    async fn enqueue_export(&self, job_type: JobType, payload: Value) -> Result<Job, Failure> {
        let pool = self.pool.as_ref().ok_or_else(no_database)?;
        let request = Asked::read(job_type, &payload).map_err(unreadable)?;
        let mut transaction = db::begin(pool).await.map_err(RecordError::Unreachable)?;
        history::require_project(&mut transaction, request.common().project_id).await?;
        let new = NewJob {
            id: JobId::generate(),
            job_type,
            project_id: Some(request.common().project_id.to_owned()),
            payload,
            max_attempts: self.app.as_ref().map_or(MAX_ATTEMPTS, |app| app.config.worker.max_attempts),
            priority: 0,
            created_by: self.created_by.clone(),
            idempotency_key: None,
        };
        let (Enqueued::Now(job) | Enqueued::Before(job)) =
            queue::enqueue(&mut transaction, &new).await.map_err(RequestError::from)?;
        transaction.commit().await.map_err(RecordError::from)?;
        Ok(job)
    }

    fn caller(&self) -> Caller {
        Caller { subject: self.created_by.clone(), ..Caller::system("integration") }
    }
}

fn parse<T: DeserializeOwned>(payload: Value) -> Result<T, Failure> {
    serde_json::from_value(payload).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure::new("job.payload", format!("the job's payload cannot be read: {error}"))
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let may_pass = matches!(error, RequestError::Database(_));
        Self { code: error.code().to_owned(), message: error.to_string(), may_pass }
    }
}
