//! Asking for work: what the API and the command line call. Each request is checked in full, then written down together with its job
//! and its audit event in one transaction; nothing is done here.

mod delete;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::delete::{DELETE_ATTEMPTS, DeletePayload, DeleteRequest, delete};
use super::{
    JobType,
    queue::{self, Enqueued, Job, NewJob, QueueError},
};
use crate::{
    app::App,
    artifact::{ArtifactName, BackupType, Compression, Encoding, Encryption, Format},
    catalog::{self, CatalogError, ProjectScope},
    db,
    history::{self, Backup, BackupStatus, Event, HistoryError, NewBackup},
    ids::{BackupId, JobId, ProjectId},
    storage::Storage,
    tenant::{Caller, Permission},
};

/// A backup of a project's database, as it is asked for. What is left out comes from the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Export {
    #[serde(default)]
    pub project_id: String,
    pub format: Option<Format>,
    pub compression: Option<Compression>,
    /// The older way to say it: `true` is gzip, `false` none. Not together with `compression`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
    /// Names of storages; empty is every storage of the configuration's choice.
    #[serde(default)]
    pub storages: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub notify_email: Option<String>,
    pub caption: Option<String>,
}

crate::artifact::words! {
    /// How thoroughly a backup is checked.
    Depth, "depth" {
        /// The stored size, as the storage tells it.
        Head = "head",
        /// Every byte decrypted and decompressed, digests compared.
        Read = "read",
        /// Restored into a scratch database, counts compared.
        Restore = "restore",
    }
}

/// What a job carries: the request as it came (compared when an idempotency key is used again) and what was decided when it was
/// written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportPayload {
    pub request: Export,
    pub backup_id: BackupId,
    pub key: ArtifactName,
    pub encoding: Encoding,
    pub storages: Vec<String>,
}

/// What a restore, an undo or a verification carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestorePayload {
    pub request: RestoreRequest,
    pub backup_id: BackupId,
}

/// A restore as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreRequest {
    pub backup_id: BackupId,
    /// For a whole-database project: the name of the new database. Left out, a name is made.
    pub target_database: Option<String>,
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
            Self::NotFound { .. } => "job.not_found",
            Self::Forbidden(_) => "auth.forbidden",
            Self::Invalid { code, .. } | Self::Conflict { code, .. } => code,
            Self::Database(_) => "control_plane.unavailable",
        }
    }

    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid { hint, .. } | Self::Conflict { hint, .. } => hint.as_deref(),
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
            CatalogError::Database(error) => Self::Database(error),
            CatalogError::ProjectExists(_) | CatalogError::NoSuchDatabase(_) | CatalogError::Sealed(_) => {
                Self::conflict(
                    "project.database",
                    error.to_string(),
                    "Check the project's database with `holdfast doctor`.",
                )
            }
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

/// Asks for a backup of a project's database.
pub async fn export(
    app: &App,
    caller: &Caller,
    request: &Export,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::ExportBackup, request).await? {
        return Ok(job);
    }
    let project = catalog::project(&app.pool, &caller.scope(), &request.project_id).await?;
    project.require_active()?;
    let encoding = encoding(app, request)?;
    let storages = storages(app, &request.storages)?;
    let now = app.clock.now();
    let expires_at = expiry(app, request, now)?;
    if let Some(address) = &request.notify_email {
        check_email(address)?;
    }
    let project_id: ProjectId = project.id.parse().map_err(|error: crate::ids::InvalidProjectId| {
        RequestError::conflict("project.id", error.to_string(), "Give the project an id that is safe in a storage key.")
    })?;
    let (job_id, backup_id) = (JobId::generate(), BackupId::generate());
    let key = ArtifactName::of_backup(&project_id, backup_id, now, &encoding);
    let payload = ExportPayload { request: request.clone(), backup_id, key: key.clone(), encoding, storages };
    let new_job = NewJob {
        id: job_id,
        job_type: JobType::ExportBackup,
        project_id: Some(project.id.clone()),
        payload: to_json(&payload)?,
        max_attempts: app.config.worker.max_attempts,
        priority: 0,
        created_by: caller.subject.clone(),
        idempotency_key: idempotency_key.map(str::to_owned),
    };
    let mut transaction = db::begin(&app.pool).await?;
    let job = match queue::enqueue(&mut transaction, &new_job).await? {
        Enqueued::Before(job) => return Ok(job),
        Enqueued::Now(job) => job,
    };
    let new_backup = NewBackup {
        id: backup_id,
        project_id: project.id.clone(),
        backup_type: BackupType::Database,
        key,
        encoding,
        is_scheduled: false,
        is_partial: false,
        job_id,
        created_by: caller.subject.clone(),
        created_at: now,
        expires_at,
    };
    history::create(&mut *transaction, &new_backup).await?;
    let detail =
        serde_json::json!({ "job_id": job_id, "format": encoding.format, "compression": encoding.compression });
    record(&mut transaction, caller, Some(backup_id), &project.id, "requested", detail).await?;
    transaction.commit().await?;
    Ok(job)
}

/// Format and compression after the defaults, or what is wrong with them.
pub(super) fn encoding(app: &App, request: &Export) -> Result<Encoding, RequestError> {
    let format = request.format.unwrap_or(app.config.backup.format);
    let asked = match (request.compress, request.compression) {
        (Some(_), Some(_)) => {
            return Err(RequestError::Invalid {
                code: "request.compression",
                message: "both compress and compression are given".to_owned(),
                hint: Some("Keep compression alone.".to_owned()),
            });
        }
        (Some(false), None) => Some(Compression::None),
        // A custom dump is compressed anyway.
        (Some(true), None) if format == Format::Custom => None,
        (Some(true), None) => Some(Compression::Gzip),
        (None, given) => given,
    };
    let compression = match (format, asked) {
        (Format::Custom, None | Some(Compression::None)) => Compression::None,
        (Format::Custom, Some(other)) => {
            return Err(RequestError::Invalid {
                code: "request.compression",
                message: format!("a custom-format dump is compressed by pg_dump itself and not again by {other}"),
                hint: Some("Leave the compression out, or use format sql or tar.".to_owned()),
            });
        }
        (Format::Sql | Format::Tar, given) => given.unwrap_or(app.config.backup.compression),
    };
    let encryption = if app.config.encryption.enabled { Encryption::Age } else { Encryption::None };
    Ok(Encoding { format: Some(format), compression, encryption })
}

/// The storage of this name.
///
/// # Errors
/// There is none.
pub fn storage<'a>(app: &'a App, name: &str) -> Result<&'a dyn Storage, RequestError> {
    app.storages.get(name).map(AsRef::as_ref).ok_or_else(|| {
        let known = app.storages.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        RequestError::Invalid {
            code: "request.storage",
            message: format!("there is no storage {:?}", name.chars().take(60).collect::<String>()),
            hint: Some(format!("Configured storages: {known}.")),
        }
    })
}

/// The storages by name, each one known and named once.
pub(super) fn storages(app: &App, asked: &[String]) -> Result<Vec<String>, RequestError> {
    let configured = || {
        if app.config.backup.storages.is_empty() {
            app.storages.keys().cloned().collect()
        } else {
            app.config.backup.storages.clone()
        }
    };
    let mut names: Vec<String> = Vec::new();
    for name in if asked.is_empty() { configured() } else { asked.to_vec() } {
        if !storage(app, &name)?.takes_plaintext() && !app.config.encryption.enabled {
            return Err(RequestError::Invalid {
                code: "request.plaintext",
                message: format!("storage {name:?} takes encrypted backups only, and encryption is off"),
                hint: Some(format!("Set encryption.enabled, or storages.{name}.allow_plaintext.")),
            });
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

pub(super) fn expiry(app: &App, request: &Export, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, RequestError> {
    match request.expires_at {
        Some(at) if at <= now => {
            Err(RequestError::invalid("request.expires_at", format!("expires_at is {at}, which is not in the future")))
        }
        Some(at) => Ok(Some(at)),
        None => Ok(Some(now + chrono::Duration::days(i64::from(app.config.backup.retention_days)))),
    }
}

/// Enough to keep line breaks and lists of recipients out; whether mail arrives only sending tells.
fn check_email(address: &str) -> Result<(), RequestError> {
    let well_formed = address.len() <= 254
        && address.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && domain.contains('.')
                && !domain.starts_with('.')
                && !domain.ends_with('.')
                && !domain.contains('@')
        })
        && !address.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, ',' | ';' | '<' | '>' | '"'));
    if well_formed {
        Ok(())
    } else {
        Err(RequestError::invalid("request.notify_email", "notify_email is not an e-mail address"))
    }
}

/// Asks for a restore of a good backup.
pub async fn restore(
    app: &App,
    caller: &Caller,
    request: &RestoreRequest,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::RestoreBackup, request).await? {
        return Ok(job);
    }
    let backup = restorable(app, caller, request.backup_id).await?;
    let project = catalog::project(&app.pool, &caller.scope(), &backup.project_id).await?;
    if request.target_database.is_some() && project.scope() != ProjectScope::WholeDatabase {
        return Err(RequestError::invalid(
            "request.target",
            "only a whole-database project is restored into a database of its own",
        ));
    }
    let payload = RestorePayload { request: request.clone(), backup_id: request.backup_id };
    let new = new_job(app, caller, JobType::RestoreBackup, &backup.project_id, to_json(&payload)?, idempotency_key);
    enqueue_for(app, caller, new, Some(request.backup_id), &backup.project_id, "restore_requested").await
}

/// A completed `database` backup within reach.
async fn restorable(app: &App, caller: &Caller, id: BackupId) -> Result<Backup, RequestError> {
    let backup = history::get(&app.pool, &caller.scope(), id).await?;
    if backup.r#type != BackupType::Database.as_str() {
        return Err(RequestError::conflict(
            "backup.not_restorable",
            format!("backup {id} holds {}, which is for download", backup.r#type),
            "Download it instead.",
        ));
    }
    if !backup.is(BackupStatus::Completed) {
        return Err(RequestError::conflict(
            "backup.not_completed",
            format!("backup {id} is {}, not completed", backup.status),
            "Choose a backup that is completed.",
        ));
    }
    if backup.is_partial {
        return Err(RequestError::conflict(
            "backup.partial",
            format!("backup {id} holds only some of the project's tables"),
            "A partial backup is never restored in place: download it.",
        ));
    }
    if backup.format.is_none() {
        return Err(RequestError::conflict(
            "backup.not_restorable",
            format!("backup {id} is a file of another program, and not a dump that Holdfast has taken"),
            "Download it instead.",
        ));
    }
    require_manifest(&backup)?;
    Ok(backup)
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
    require_manifest(&backup)?;
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
        && job.r#type == JobType::ExportBackup.as_str()
        && let Some(backup) = backup
    {
        history::close(&mut *transaction, backup, BackupStatus::Cancelled, "cancelled before it began").await?;
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
    match queue::enqueue(&mut transaction, &new).await? {
        Enqueued::Before(job) => Ok(job),
        Enqueued::Now(job) => {
            record(&mut transaction, caller, backup, project_id, event, serde_json::json!({ "job_id": job.id }))
                .await?;
            transaction.commit().await?;
            Ok(job)
        }
    }
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
