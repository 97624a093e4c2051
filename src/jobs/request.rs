//! Asking for work: what the API and the command line call. Each request is checked in full, then written down together with its job
//! and its audit event in one transaction; nothing is done here.

mod delete;
mod destinations;
mod export;
mod import;
mod limits;
mod logs;
mod pin;
mod restore;
mod storage;
mod storage_path;
mod try_import;

use serde::{Deserialize, Serialize};

pub(crate) use self::storage::files_in_the_way;
pub(super) use self::{delete::delete_expired, export::decide, storage::check as check_files};
pub use self::{
    delete::{DELETE_ATTEMPTS, DeletePayload, DeleteRequest, delete, forget},
    destinations::{known_storages, require_storages, storage},
    export::{Asked, Common, Decided, Export, ExportPayload, Origin, export, export_as},
    import::{ImportPayload, ImportRequest, import},
    logs::{DateRange, ExportLogs, InvalidMoment, Moment},
    pin::{Pin, pin},
    restore::{RestorePayload, RestoreRequest, restore},
    storage::{ExportStorage, find_files, put_files, set_files},
    try_import::{TryImportPayload, TryImportRequest, try_import},
};
use super::{
    JobType,
    queue::{self, Enqueued, Job, NewJob, QueueError},
};
use crate::{
    app::App,
    artifact::{BackupType, Encryption},
    catalog::{self, CatalogError},
    db,
    history::{self, Backup, BackupStatus, Event, HistoryError},
    ids::{BackupId, JobId},
    notice::{AboutJob, Notice, NoticeEvent},
    tell::{self, TellError, Told},
    tenant::{Caller, Permission},
};

crate::artifact::words! {
    /// How thoroughly a backup is checked.
    Depth, "depth" {
        /// The stored size, as the storage tells it, and the manifest's seal.
        Head = "head",
        /// Every byte decrypted and decompressed, digests compared.
        Read = "read",
        /// Restored into a scratch database, proof compared.
        Restore = "restore",
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UndoPayload {
    pub request: UndoRequest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UndoRequest {
    /// The job of the restore that is undone.
    pub restore_job_id: JobId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyPayload {
    pub request: VerifyRequest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyRequest {
    pub backup_id: BackupId,
    pub depth: Depth,
}

/// Why a request was refused. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// What was named does not exist, or belongs to another: the two look alike.
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("this needs the scope {}", .0.as_str())]
    Forbidden(Permission),
    /// The request itself is wrong.
    #[error("{message}")]
    Invalid { code: &'static str, message: String, hint: Option<String> },
    /// It is right, but not now or not for this object.
    #[error("{message}")]
    Conflict { code: &'static str, message: String, hint: Option<String> },
    /// It is right, but the project has as many jobs in flight as it may.
    #[error("project {project_id} has {limit} jobs in flight, and no more are allowed")]
    Busy { project_id: String, limit: u32 },
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}

impl RequestError {
    fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { code, message: message.into(), hint: None }
    }

    fn conflict(code: &'static str, message: impl Into<String>, hint: &str) -> Self {
        Self::Conflict { code, message: message.into(), hint: Some(hint.to_owned()) }
    }

    /// A stable word for answers, exit codes and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { what: "project", .. } => "project.not_found",
            Self::NotFound { what: "backup", .. } => "backup.not_found",
            Self::NotFound { what: "schedule", .. } => "schedule.not_found",
            Self::NotFound { what: "organization", .. } => "organization.not_found",
            Self::NotFound { .. } => "job.not_found",
            Self::Forbidden(_) => "auth.forbidden",
            Self::Invalid { code, .. } | Self::Conflict { code, .. } => code,
            Self::Busy { .. } => "limits.jobs",
            Self::Database(_) => "control_plane.unavailable",
        }
    }

    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid { hint, .. } | Self::Conflict { hint, .. } => hint.as_deref(),
            Self::Busy { .. } => {
                Some("Wait until some have ended, or cancel them; `limits.jobs_per_project` holds the limit.")
            }
            Self::NotFound { .. } | Self::Forbidden(_) | Self::Database(_) => None,
        }
    }
}

impl From<CatalogError> for RequestError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NoSuchProject(id) => Self::NotFound { what: "project", id },
            CatalogError::NotActive { .. } => Self::conflict(
                "project.not_active",
                error.to_string(),
                "Only projects whose status is ACTIVE are backed up.",
            ),
            CatalogError::NotWhole(_) => Self::conflict(
                "project.not_whole",
                error.to_string(),
                "Name another project in the setting backup.default_project.",
            ),
            CatalogError::Database(error) => Self::Database(error),
            CatalogError::ProjectExists(_)
            | CatalogError::NoSuchDatabase(_)
            | CatalogError::Sealed(_)
            | CatalogError::NamedAsOurs(_) => Self::conflict(
                "project.database",
                error.to_string(),
                "Check the project's database with `holdfast doctor`.",
            ),
        }
    }
}

impl From<HistoryError> for RequestError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::NoSuchBackup(id) => Self::NotFound { what: "backup", id },
            HistoryError::Database(error) => Self::Database(error),
        }
    }
}

impl From<TellError> for RequestError {
    fn from(error: TellError) -> Self {
        match error {
            TellError::Database(error) => Self::Database(error),
            other @ TellError::Json(_) => Self::Database(sqlx::Error::Encode(other.into())),
        }
    }
}

impl From<QueueError> for RequestError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::NoSuchJob(id) => Self::NotFound { what: "job", id },
            QueueError::KeyReused => Self::conflict(
                "idempotency.reused",
                error.to_string(),
                "Use a fresh Idempotency-Key for a different request.",
            ),
            QueueError::AlreadyEnded { .. } => {
                Self::conflict("job.ended", error.to_string(), "A job can be cancelled until it ends.")
            }
            QueueError::LeaseLost(_) | QueueError::TooSlow(_) => {
                Self::conflict("job.lease_lost", error.to_string(), "Look at the job again.")
            }
            QueueError::Database(error) => Self::Database(error),
        }
    }
}

fn require(caller: &Caller, permission: Permission) -> Result<(), RequestError> {
    if caller.may(permission) { Ok(()) } else { Err(RequestError::Forbidden(permission)) }
}

/// The job that the same request made before, under the same key. Looked for first: what has changed since then (the project, the undo
/// window, the time) must not turn a repeated request into an error.
async fn asked_before(
    app: &App,
    caller: &Caller,
    idempotency_key: Option<&str>,
    job_type: JobType,
    request: &impl Serialize,
) -> Result<Option<Job>, RequestError> {
    let Some(key) = idempotency_key else { return Ok(None) };
    let Some(id) = queue::find_by_key(&app.pool, &caller.subject, key).await? else { return Ok(None) };
    // Another tenant's job under the same subject and key is told by nothing but the refusal.
    let job = queue::get(&app.pool, &caller.scope(), id).await.map_err(|error| match error {
        QueueError::NoSuchJob(_) => QueueError::KeyReused,
        other => other,
    })?;
    if job.r#type == job_type.as_str() && job.payload.get("request") == Some(&to_json(request)?) {
        Ok(Some(job))
    } else {
        Err(QueueError::KeyReused.into())
    }
}

/// A row that was written again from a manifest's head alone has not the rest, which a restore needs.
fn require_manifest(backup: &Backup) -> Result<(), RequestError> {
    if backup.manifest.is_none() && backup.encryption.as_deref() == Some(Encryption::Age.as_str()) {
        return Err(RequestError::conflict(
            "key.unavailable",
            format!("the manifest of backup {} has not been read: the key was not at hand", backup.id),
            "Put the key where encryption.identity_file says, and run `holdfast catalog rebuild` again.",
        ));
    }
    Ok(())
}

/// Asks for a finished restore to be undone, within its window.
pub async fn undo(
    app: &App,
    caller: &Caller,
    restore_job: JobId,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) =
        asked_before(app, caller, idempotency_key, JobType::UndoRestore, &UndoRequest { restore_job_id: restore_job })
            .await?
    {
        return Ok(job);
    }
    let job = queue::get(&app.pool, &caller.scope(), restore_job).await?;
    let restore = history::restore_of_job(&app.pool, restore_job).await?;
    let Some(restore) = restore.filter(|_| job.r#type == JobType::RestoreBackup.as_str()) else {
        return Err(RequestError::conflict(
            "restore.none",
            format!("job {restore_job} restored nothing"),
            "Name the job of a restore.",
        ));
    };
    let in_window = restore.undo_until.is_some_and(|until| until > app.clock.now());
    if restore.state != "done" || restore.kept_schema.is_none() || !in_window {
        return Err(RequestError::conflict(
            "restore.not_undoable",
            format!("the restore of job {restore_job} can no longer be undone"),
            "A restore can be undone once, while the schema that it replaced is kept.",
        ));
    }
    catalog::project(&app.pool, &caller.scope(), &restore.project_id).await?.require_settled()?;
    let payload = UndoPayload { request: UndoRequest { restore_job_id: restore_job } };
    let new = new_job(app, caller, JobType::UndoRestore, &restore.project_id, to_json(&payload)?, idempotency_key);
    enqueue_for(app, caller, new, Some(BackupId(restore.backup_id)), &restore.project_id, "undo_requested").await
}

/// Asks for a backup to be checked.
pub async fn verify(
    app: &App,
    caller: &Caller,
    request: &VerifyRequest,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::VerifyBackup, request).await? {
        return Ok(job);
    }
    let backup = history::get(&app.pool, &caller.scope(), request.backup_id).await?;
    if !backup.is(BackupStatus::Completed) && !backup.is(BackupStatus::Damaged) {
        return Err(RequestError::conflict(
            "backup.not_completed",
            format!("backup {} is {}: there is nothing to verify", request.backup_id, backup.status),
            "Choose a backup that is completed.",
        ));
    }
    if backup.is_partial && request.depth == Depth::Restore {
        return Err(RequestError::conflict(
            "backup.partial",
            format!("backup {} may lack what its tables need, so it is not restored", request.backup_id),
            "Verify it with depth read: every byte is compared.",
        ));
    }
    require_manifest(&backup)?;
    let can_be_tried = [BackupType::Database, BackupType::Storage].iter().any(|t| backup.r#type == t.as_str());
    if request.depth == Depth::Restore && !can_be_tried {
        return Err(RequestError::conflict(
            "backup.not_restorable",
            format!("backup {} holds {}, which nothing is made from", request.backup_id, backup.r#type),
            "Verify it with depth read.",
        ));
    }
    let payload = VerifyPayload { request: request.clone() };
    let new = new_job(app, caller, JobType::VerifyBackup, &backup.project_id, to_json(&payload)?, idempotency_key);
    enqueue_for(app, caller, new, Some(request.backup_id), &backup.project_id, "verify_requested").await
}

/// Asks for a job to be cancelled. A backup that was waiting is cancelled with it; one that was to be deleted is what it was, unless the
/// deletion has begun.
pub async fn cancel(app: &App, caller: &Caller, id: JobId) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    let mut transaction = db::begin(&app.pool).await?;
    let job = queue::request_cancel(&mut transaction, &caller.scope(), id).await?;
    let backup = job.payload.get("backup_id").and_then(|id| serde_json::from_value::<BackupId>(id.clone()).ok());
    if job.is_final()
        && job.takes_backup()
        && let Some(backup) = backup
    {
        history::close(&mut *transaction, backup, BackupStatus::Cancelled, "cancelled before it began").await?;
        let told = Told {
            event: NoticeEvent::Cancelled,
            occurrence: &id.to_string(),
            project_id: job.project_id.as_deref(),
            backup_id: Some(backup),
            job_id: Some(id),
            asked_for: job.payload.pointer("/request/notify_email").and_then(serde_json::Value::as_str),
            notice: Notice {
                job: Some(AboutJob { id: id.0, r#type: job.r#type.clone() }),
                backup: tell::backup(&mut transaction, backup).await?,
                message: Some("cancelled before it began".to_owned()),
                ..Notice::default()
            },
        };
        tell::tell(&mut transaction, app, &told).await?;
    }
    let mut about = backup;
    if job.is_final() && job.r#type == JobType::DeleteBackup.as_str() {
        let DeletePayload { request, was } = serde_json::from_value(job.payload.clone())
            .map_err(|error| RequestError::Database(sqlx::Error::Decode(error.into())))?;
        history::set_status(&mut *transaction, request.backup_id, &was).await?;
        // An earlier deletion may have taken copies.
        history::settle_copies(&mut transaction, request.backup_id).await?;
        about = Some(request.backup_id);
    }
    let detail = serde_json::json!({ "job_id": id });
    record(&mut transaction, caller, about, job.project_id.as_deref().unwrap_or_default(), "cancel_requested", detail)
        .await?;
    transaction.commit().await?;
    Ok(job)
}

fn to_json(payload: &impl Serialize) -> Result<serde_json::Value, RequestError> {
    serde_json::to_value(payload).map_err(|error| RequestError::Database(sqlx::Error::Encode(error.into())))
}

fn new_job(
    app: &App,
    caller: &Caller,
    job_type: JobType,
    project_id: &str,
    payload: serde_json::Value,
    idempotency_key: Option<&str>,
) -> NewJob {
    NewJob {
        id: JobId::generate(),
        job_type,
        project_id: Some(project_id.to_owned()),
        payload,
        max_attempts: app.config.worker.max_attempts,
        // Someone waits for these; a scheduled backup can follow.
        priority: 10,
        created_by: caller.subject.clone(),
        idempotency_key: idempotency_key.map(str::to_owned),
    }
}

async fn enqueue_for(
    app: &App,
    caller: &Caller,
    new: NewJob,
    backup: Option<BackupId>,
    project_id: &str,
    event: &str,
) -> Result<Job, RequestError> {
    let mut transaction = db::begin(&app.pool).await?;
    if let Some(id) = backup {
        require_readable(&mut transaction, new.job_type, id).await?;
    }
    match queue::enqueue(&mut transaction, &new).await? {
        Enqueued::Before(job) => Ok(job),
        Enqueued::Now(job) => {
            limits::refuse_when_full(&mut transaction, app, &new).await?;
            if new.job_type == JobType::RestoreBackup {
                restore::refuse_in_between(&mut transaction, &new, backup).await?;
            }
            record(&mut transaction, caller, backup, project_id, event, serde_json::json!({ "job_id": job.id }))
                .await?;
            transaction.commit().await?;
            Ok(job)
        }
    }
}

/// Holds the row of a backup that is about to be read, and looks at its status again: what deletes it holds the row as well, and either finds
/// this job or is found here.
async fn require_readable(
    transaction: &mut sqlx::PgConnection,
    job_type: JobType,
    id: BackupId,
) -> Result<(), RequestError> {
    let readable: &[BackupStatus] = match job_type {
        JobType::RestoreBackup => &[BackupStatus::Completed],
        JobType::VerifyBackup => &[BackupStatus::Completed, BackupStatus::Damaged],
        _ => return Ok(()),
    };
    let Some(held) = history::hold(transaction, id).await? else {
        return Err(RequestError::NotFound { what: "backup", id: id.to_string() });
    };
    if readable.iter().any(|status| held.status == status.as_str()) {
        return Ok(());
    }
    Err(RequestError::conflict(
        "backup.not_completed",
        format!("backup {id} is {}, not completed", held.status),
        "Choose a backup that is completed.",
    ))
}

async fn record(
    transaction: &mut sqlx::PgConnection,
    caller: &Caller,
    backup_id: Option<BackupId>,
    project_id: &str,
    event: &str,
    detail: serde_json::Value,
) -> Result<(), RequestError> {
    let event = Event { backup_id, project_id, event, caller, outcome: "ok", detail };
    Ok(history::record(transaction, &event).await?)
}
