//! Asking for a backup: what may be backed up, one variant of [`Asked`] for each type, and how such a request becomes a job.

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};

use super::{
    DateRange, ExportLogs, ExportStorage, RequestError, asked_before,
    destinations::{require_storages, storages},
    limits, record, require,
    storage::require_files,
    storage_path, to_json,
};
use crate::{
    app::App,
    artifact::{ArtifactName, BackupType, Compression, Encoding, Encryption, Format},
    catalog::{self, CatalogError, Project},
    db,
    history::{self, NewBackup},
    ids::{BackupId, CONTROL_PLANE_PROJECT, JobId, ProjectId},
    jobs::{
        JobType, names,
        queue::{self, Enqueued, Job, NewJob},
    },
    proof_record::ProofLevel,
    tenant::{Caller, Permission, Role},
};

/// A backup of a project's database, as it is asked for. What is left out comes from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// A template of the key below the storage's prefix: see `storage_path.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_path: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_tables: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_table_data: Vec<String>,
    /// How much is proved. `None`: as the project says, else the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofLevel>,
}

impl Export {
    /// Whether something of the project is left out.
    pub const fn is_partial(&self) -> bool {
        !(self.tables.is_empty() && self.exclude_tables.is_empty() && self.exclude_table_data.is_empty())
    }

    fn check_tables(&self) -> Result<(), RequestError> {
        let lists = [
            ("tables", &self.tables),
            ("exclude_tables", &self.exclude_tables),
            ("exclude_table_data", &self.exclude_table_data),
        ];
        for (list, names) in lists {
            let refuse = |what: String| Err(RequestError::invalid("request.tables", format!("{list} {what}")));
            if names.len() > MAX_TABLES {
                return refuse(format!("names more than {MAX_TABLES} tables"));
            }
            if let Some(name) = names.iter().find(|name| name.is_empty() || name.len() > 127 || name.contains('\0')) {
                let shown: String = name.chars().take(60).collect();
                return refuse(format!("has {shown:?}: a name has 1 to 127 bytes, and no zero byte"));
            }
        }
        Ok(())
    }
}

/// Most names in one list of tables: each becomes an argument of `pg_dump`.
const MAX_TABLES: usize = 1000;

/// Longest caption, in characters: as long as Telegram shows one. Source: core.telegram.org/bots/api#senddocument.
const MAX_CAPTION: usize = 1024;

/// What is to be backed up. Its JSON is the request alone: the job's type tells which one it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Asked {
    Database(Export),
    Logs(ExportLogs),
    Storage(ExportStorage),
}

impl Asked {
    /// Reads the request of a job of this type.
    ///
    /// # Errors
    /// The type is none that takes a backup, or the request is not one of it.
    pub fn read(job_type: JobType, request: &serde_json::Value) -> Result<Self, serde_json::Error> {
        match job_type {
            JobType::ExportBackup => Export::deserialize(request).map(Self::Database),
            JobType::ExportLogs => ExportLogs::deserialize(request).map(Self::Logs),
            JobType::ExportStorage => ExportStorage::deserialize(request).map(Self::Storage),
            other => Err(serde::de::Error::custom(format!("a job of type {other} takes no backup"))),
        }
    }

    pub const fn job_type(&self) -> JobType {
        match self {
            Self::Database(_) => JobType::ExportBackup,
            Self::Logs(_) => JobType::ExportLogs,
            Self::Storage(_) => JobType::ExportStorage,
        }
    }

    pub const fn backup_type(&self) -> BackupType {
        match self {
            Self::Database(_) => BackupType::Database,
            Self::Logs(_) => BackupType::Logs,
            Self::Storage(_) => BackupType::Storage,
        }
    }

    /// The request of a `database` backup.
    pub const fn database(&self) -> Option<&Export> {
        match self {
            Self::Database(r) => Some(r),
            Self::Logs(_) | Self::Storage(_) => None,
        }
    }

    /// Whether something of what such a backup holds is left out: it is no good backup of the whole.
    pub fn is_partial(&self) -> bool {
        match self {
            Self::Database(r) => r.is_partial(),
            Self::Logs(r) => r.date_range.is_some_and(|range| range != DateRange::default()),
            Self::Storage(_) => false,
        }
    }

    /// What all requests have.
    pub fn common(&self) -> Common<'_> {
        match self {
            Self::Database(r) => Common {
                project_id: &r.project_id,
                storages: &r.storages,
                expires_at: r.expires_at,
                notify_email: r.notify_email.as_deref(),
                caption: r.caption.as_deref(),
            },
            Self::Logs(r) => r.common(),
            Self::Storage(r) => r.common(),
        }
    }

    /// The project that the request names; a row that a platform put into the queue itself may leave it to the row.
    pub const fn project_id_mut(&mut self) -> &mut String {
        match self {
            Self::Database(r) => &mut r.project_id,
            Self::Logs(r) => &mut r.project_id,
            Self::Storage(r) => &mut r.project_id,
        }
    }

    /// Format, compression and encryption after the defaults, or what is wrong with them.
    fn encoding(&self, app: &App) -> Result<Encoding, RequestError> {
        match self {
            Self::Database(r) => database_encoding(app, r),
            Self::Logs(r) => r.encoding(app),
            Self::Storage(r) => r.encoding(app),
        }
    }
}

/// What every request for a backup has, whatever it is of.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    pub project_id: &'a str,
    /// Empty: those of the configuration's choice.
    pub storages: &'a [String],
    pub expires_at: Option<DateTime<Utc>>,
    pub notify_email: Option<&'a str>,
    pub caption: Option<&'a str>,
}

/// What the job of a backup carries: the request as it came (compared when an idempotency key is used again) and what was decided when it
/// was written down.
#[derive(Clone, Debug, Serialize)]
pub struct ExportPayload {
    pub request: Asked,
    #[serde(flatten)]
    pub decided: Decided,
}

/// What was decided about a backup when its job was written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decided {
    pub backup_id: BackupId,
    pub key: ArtifactName,
    pub encoding: Encoding,
    pub storages: Vec<String>,
}

impl ExportPayload {
    /// Reads the payload of a job of this type.
    pub fn read(job_type: JobType, payload: &serde_json::Value) -> Result<Self, serde_json::Error> {
        let request = Asked::read(job_type, payload.get("request").unwrap_or(&serde_json::Value::Null))?;
        Ok(Self { request, decided: Decided::deserialize(payload)? })
    }
}

/// Who wanted a backup: `backups.backup_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody asked for it.
    Manual,
    Scheduled,
}

/// Asks for a backup.
pub async fn export(
    app: &App,
    caller: &Caller,
    request: impl Into<Asked>,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    export_as(app, caller, request.into(), idempotency_key, Origin::Manual).await
}

/// The same, on behalf of a schedule or of somebody.
pub async fn export_as(
    app: &App,
    caller: &Caller,
    request: Asked,
    idempotency_key: Option<&str>,
    origin: Origin,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, request.job_type(), &request).await? {
        return Ok(job);
    }
    let project = project(app, caller, request.common().project_id).await?;
    if let Asked::Storage(_) = &request {
        require_files(app, &project).await?;
    }
    app.storages.refresh().await?;
    let (own, named) = (project.own_settings().storages, request.common().storages);
    require_storages(app, caller, if named.is_empty() { &own } else { named }).await?;
    let job_id = JobId::generate();
    let (mut payload, mut new_backup) = decide(app, &project, request, job_id, &caller.subject, origin)?;
    let mut transaction = db::begin(&app.pool).await?;
    names::choose(&mut transaction, app, &project, &mut payload, &mut new_backup).await?;
    let new_job = NewJob {
        id: job_id,
        job_type: payload.request.job_type(),
        project_id: Some(project.id.clone()),
        payload: to_json(&payload)?,
        max_attempts: app.config.worker.max_attempts,
        priority: 0,
        created_by: caller.subject.clone(),
        idempotency_key: idempotency_key.map(str::to_owned),
    };
    let job = match queue::enqueue(&mut transaction, &new_job).await? {
        Enqueued::Before(job) => return Ok(job),
        Enqueued::Now(job) => job,
    };
    limits::refuse_when_full(&mut transaction, app, &new_job).await?;
    history::create(&mut *transaction, &new_backup).await?;
    let encoding = payload.decided.encoding;
    let detail =
        serde_json::json!({ "job_id": job_id, "format": encoding.format, "compression": encoding.compression });
    record(&mut transaction, caller, Some(new_backup.id), &project.id, "requested", detail).await?;
    transaction.commit().await?;
    Ok(job)
}

/// The project that a backup is asked of. Those that are built in are made for the first operator who asks.
async fn project(app: &App, caller: &Caller, id: &str) -> Result<Project, RequestError> {
    match (caller.role, id) {
        (Role::Operator, CONTROL_PLANE_PROJECT) => Ok(catalog::ensure_control_plane(&app.pool).await?),
        (Role::Operator, id) if id == app.config.backup.default_project => match id.parse() {
            Ok(id) => match catalog::ensure_default(&app.pool, &id).await {
                // Somebody's own project of that name, which is no default: then it is one like any other.
                Err(CatalogError::NotWhole(id)) => Ok(catalog::project(&app.pool, &caller.scope(), &id).await?),
                outcome => Ok(outcome?),
            },
            Err(_) => Err(CatalogError::NoSuchProject(id.to_owned()).into()),
        },
        _ => Ok(catalog::project(&app.pool, &caller.scope(), id).await?),
    }
}

/// Checks a request in full and decides what it leaves open: the job's payload and the backup's row.
pub(in crate::jobs) fn decide(
    app: &App,
    project: &Project,
    request: Asked,
    job_id: JobId,
    created_by: &str,
    origin: Origin,
) -> Result<(ExportPayload, NewBackup), RequestError> {
    project.require_active()?;
    let common = request.common();
    let encoding = request.encoding(app)?;
    let own = project.own_settings();
    let storages = storages(app, if common.storages.is_empty() { &own.storages } else { common.storages })?;
    let created_at = app.clock.now();
    let expires_at =
        expiry(own.retention_days.unwrap_or(app.config.backup.retention_days), common.expires_at, created_at)?;
    if let Some(address) = common.notify_email {
        check_email(address)?;
    }
    if let Some(caption) = common.caption {
        check_caption(caption)?;
    }
    let database = request.database();
    database.map_or(Ok(()), Export::check_tables)?;
    let project_id: ProjectId = project.id.parse().map_err(|error: crate::ids::InvalidProjectId| {
        RequestError::conflict("project.id", error.to_string(), "Give the project an id that is safe in a storage key.")
    })?;
    let id = BackupId::generate();
    let key = match database.and_then(|export| export.storage_path.as_deref()) {
        None => ArtifactName::of_backup(&project_id, id, created_at, &encoding),
        Some(template) => storage_path::name(template, &project_id, id, created_at, &encoding)
            .map_err(|why| RequestError::invalid("request.storage_path", format!("storage_path {why}")))?,
    };
    let new_backup = NewBackup {
        id,
        project_id: project.id.clone(),
        backup_type: request.backup_type(),
        key: key.clone(),
        encoding,
        is_scheduled: origin == Origin::Scheduled,
        is_partial: request.is_partial(),
        job_id,
        created_by: created_by.to_owned(),
        created_at,
        expires_at,
    };
    Ok((ExportPayload { request, decided: Decided { backup_id: id, key, encoding, storages } }, new_backup))
}

impl From<&Export> for Asked {
    fn from(request: &Export) -> Self {
        Self::Database(request.clone())
    }
}

/// Format and compression after the defaults, or what is wrong with them.
fn database_encoding(app: &App, request: &Export) -> Result<Encoding, RequestError> {
    let format = request.format.unwrap_or(app.config.backup.format);
    let asked = match asked_compression(request.compress, request.compression)? {
        // A custom dump is compressed anyway.
        Some(_) if format == Format::Custom && request.compress == Some(true) => None,
        asked => asked,
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
        (Format::Json | Format::Text, _) => {
            return Err(RequestError::Invalid {
                code: "request.format",
                message: format!("format {format} is one of log lines, and not of a database"),
                hint: Some("Use sql, tar or custom.".to_owned()),
            });
        }
    };
    Ok(Encoding { format: Some(format), compression, encryption: encryption(app) })
}

/// The compression that is asked for in one of two ways; `None` leaves it to the configuration.
pub(super) fn asked_compression(
    compress: Option<bool>,
    compression: Option<Compression>,
) -> Result<Option<Compression>, RequestError> {
    match (compress, compression) {
        (Some(_), Some(_)) => Err(RequestError::Invalid {
            code: "request.compression",
            message: "compress and compression exclude each other".to_owned(),
            hint: Some("Send one of them.".to_owned()),
        }),
        (Some(true), None) => Ok(Some(Compression::Gzip)),
        (Some(false), None) => Ok(Some(Compression::None)),
        (None, given) => Ok(given),
    }
}

/// Artifacts of one installation are encrypted or not.
pub(super) fn encryption(app: &App) -> Encryption {
    if app.config.encryption.enabled { Encryption::Age } else { Encryption::None }
}

fn check_caption(caption: &str) -> Result<(), RequestError> {
    let has_controls = caption.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    if caption.chars().count() > MAX_CAPTION || has_controls {
        let message = format!("caption is longer than {MAX_CAPTION} characters or has control characters");
        return Err(RequestError::invalid("request.caption", message));
    }
    Ok(())
}

fn expiry(days: u32, asked: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, RequestError> {
    match asked {
        // Further ones cannot be written as RFC 3339 has it.
        Some(at) if at.year() > 9999 => {
            Err(RequestError::invalid("request.expires_at", "expires_at is after the year 9999"))
        }
        Some(at) if at <= now => {
            Err(RequestError::invalid("request.expires_at", format!("expires_at is {at}, which is not in the future")))
        }
        Some(at) => Ok(Some(at)),
        None => Ok(Some(now + chrono::Duration::days(i64::from(days)))),
    }
}

fn check_email(address: &str) -> Result<(), RequestError> {
    if catalog::is_email_address(address) {
        Ok(())
    } else {
        Err(RequestError::invalid("request.notify_email", "notify_email is not an e-mail address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_a_range_are_no_backup_of_all_logs() {
        let logs = |start: Option<&str>| {
            let range = DateRange { start: start.map(|text| text.parse().unwrap()), end: None };
            Asked::Logs(ExportLogs { date_range: Some(range), ..ExportLogs::default() })
        };
        assert!(logs(Some("2026-11-01")).is_partial());
        assert!(!logs(None).is_partial() && !Asked::Logs(ExportLogs::default()).is_partial());
        let tables = Export { tables: vec!["a".to_owned()], ..Export::default() };
        assert!(Asked::Database(tables).is_partial() && !Asked::Database(Export::default()).is_partial());
    }
}
