//! Backups that another program had stored: written down complete, each of them once. What is written here comes from the integration
//! library, at once or later out of its [`Outbox`](super::Outbox): from programs that have the control plane's own rights.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{Event, HistoryError, put_copy, record};
use crate::{
    artifact::{BackupType, Sha256Digest},
    clock::Timestamp,
    ids::BackupId,
    manifest::Manifest,
    storage::Locator,
    tenant::Caller,
};

/// What is said of a backup of which nobody has seen a byte.
pub const NOT_CHECKED: &str = "recorded, not checked";

/// A file that lies in a storage with its manifest beside it: everything that its record needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredFile {
    pub manifest: Manifest,
    /// The storage's name in the configuration.
    pub storage: String,
    pub locator: Locator,
    pub manifest_locator: Locator,
    /// `None`: kept until deleted.
    pub expires_at: Option<Timestamp>,
    pub created_by: String,
}

impl StoredFile {
    /// What `backups.file_id` says: the first part's Telegram id, else the storage key.
    pub fn file_id(&self) -> &str {
        match &self.locator {
            Locator::Telegram { messages, .. } if !messages.is_empty() => &messages[0].file_id,
            other => other.key().as_str(),
        }
    }
}

/// A file that another program has sent to Telegram by itself, known by no more than what that program says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForeignFile {
    /// What the other program calls it: one record per project and id.
    pub external_id: String,
    pub project_id: String,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// As Telegram gave it to the bot that sent the file.
    pub file_id: String,
    pub file_name: Option<String>,
    /// Bytes, where they are known.
    pub size: Option<u64>,
    pub sha256: Option<Sha256Digest>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub created_by: String,
}

/// A file that could not be stored.
#[derive(Clone, Debug)]
pub struct FailedFile<'a> {
    pub id: BackupId,
    pub project_id: &'a str,
    pub backup_type: BackupType,
    pub file_name: &'a str,
    /// Why.
    pub message: &'a str,
    pub created_at: Timestamp,
    pub created_by: &'a str,
}

/// A backup's row, as it is told to the program that had it written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseRecord {
    pub id: BackupId,
    pub number: i32,
    pub project_id: String,
    #[serde(rename = "type")]
    pub backup_type: String,
    pub status: String,
    pub message: Option<String>,
    pub file_name: Option<String>,
    /// The first part's Telegram id, else the storage key.
    pub file_id: Option<String>,
    pub external_id: Option<String>,
    pub storage: Option<String>,
    /// Bytes as stored.
    pub size: i64,
    pub sha256: Option<String>,
    pub created_by: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
}

/// Why a backup was not written down.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("there is no project {0:?}")]
    NoSuchProject(String),
    #[error("project {project_id:?} has recorded another file under the external id {external_id:?}")]
    ExternalIdTaken { project_id: String, external_id: String },
    /// It was written down before, and deleted since.
    #[error("backup {0} was recorded before and is deleted")]
    Deleted(BackupId),
    /// No connection to the control plane: nothing is known of the record itself.
    #[error("cannot reach the control plane: {0}")]
    Unreachable(sqlx::Error),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}

impl RecordError {
    /// A stable word for logs and results.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchProject(_) => "project.not_found",
            Self::ExternalIdTaken { .. } => "backup.external_id_taken",
            Self::Deleted(_) => "backup.deleted",
            Self::Unreachable(_) => "control_plane.unavailable",
            Self::Database(error) if is_away(error) => "control_plane.unavailable",
            Self::Database(_) => "control_plane.refused",
        }
    }

    /// Whether the same record may be written later without anyone's help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Database(error) => is_away(error),
            Self::NoSuchProject(_) | Self::ExternalIdTaken { .. } | Self::Deleted(_) => false,
        }
    }
}

/// Whether the database was not reached, or cannot work just now; else it has answered, and will answer the same again. The classes are those
/// of PostgreSQL's appendix A: connection exception, insufficient resources, operator intervention, system error; a serialization failure or
/// deadlock passes too.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "53", "57", "58", "40"].iter().any(|class| code.starts_with(class)))
        }
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

impl From<HistoryError> for RecordError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Database(error) => Self::Database(error),
            HistoryError::NoSuchBackup(id) => {
                Self::Database(sqlx::Error::Protocol(format!("backup {id} has vanished")))
            }
        }
    }
}

/// Fails unless there is such a project.
///
/// # Errors
/// [`RecordError::NoSuchProject`], or the database's.
pub async fn require_project(connection: &mut PgConnection, id: &str) -> Result<(), RecordError> {
    let exists =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM control_plane.projects WHERE id = $1) AS "exists!""#, id)
            .fetch_one(connection)
            .await?;
    if exists { Ok(()) } else { Err(RecordError::NoSuchProject(id.to_owned())) }
}

/// Writes a stored file down as a completed backup: its row, its copy and its event. Safe to repeat: the second time nothing is written. What
/// was written down and deleted since is not brought back, because its events outlive it.
///
/// # Errors
/// See [`RecordError`]. Nothing is written then, once the caller rolls back.
pub async fn record_stored(connection: &mut PgConnection, file: &StoredFile) -> Result<DatabaseRecord, RecordError> {
    let Manifest { head, body } = &file.manifest;
    let project_id = head.project_id.as_str();
    require_project(connection, project_id).await?;
    let manifest = serde_json::to_value(&file.manifest).map_err(|e| sqlx::Error::Encode(e.into()))?;
    let inserted = sqlx::query!(
        "INSERT INTO control_plane.backups (id, project_id, type, status, file_id, file_name, format, compression, encryption, storage,
             size, sha256, content_size, content_sha256, created_by, created_at, started_at, finished_at, expires_at, manifest)
         SELECT $1, $2, $3, 'completed', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, now(), $16, $17
         WHERE NOT EXISTS (SELECT FROM control_plane.backup_history WHERE backup_id = $1)
         ON CONFLICT (id) DO NOTHING",
        head.backup_id.0,
        project_id,
        head.backup_type.as_str(),
        file.file_id(),
        head.key.file_name(),
        head.encoding.format.map(crate::artifact::Format::as_str),
        head.encoding.compression.as_str(),
        head.encoding.encryption.as_str(),
        file.storage,
        head.stored.bytes as i64,
        head.stored.sha256.to_string(),
        body.content.bytes as i64,
        body.content.sha256.to_string(),
        file.created_by,
        head.created_at,
        file.expires_at,
        manifest,
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 1 {
        put_copy(&mut *connection, head.backup_id, &file.storage, Ok((&file.locator, &file.manifest_locator))).await?;
        let detail = json!({ "size": head.stored.bytes, "storages": [file.storage] });
        tell(connection, head.backup_id, project_id, "completed", "ok", &file.created_by, detail).await?;
    }
    row(connection, head.backup_id).await?.ok_or(RecordError::Deleted(head.backup_id))
}

/// Writes down what another program says it has sent: completed and never verified. One record per project and external id, however often
/// it is said; about another file it is refused, and so is one whose backup was deleted since.
///
/// # Errors
/// See [`RecordError`].
pub async fn record_foreign(connection: &mut PgConnection, file: &ForeignFile) -> Result<DatabaseRecord, RecordError> {
    require_project(connection, &file.project_id).await?;
    // Held until the transaction ends. A unique index could not be made where a platform's own rows repeat an id.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('holdfast external ' || $1 || ' ' || $2, 0))",
        file.project_id,
        file.external_id,
    )
    .execute(&mut *connection)
    .await?;
    let known = sqlx::query!(
        "SELECT id, file_id FROM control_plane.backups WHERE external_id = $2 AND project_id = $1 ORDER BY created_at, id LIMIT 1",
        file.project_id,
        file.external_id,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let id = match known {
        Some(known) if known.file_id.as_deref() == Some(file.file_id.as_str()) => BackupId(known.id),
        Some(_) => {
            return Err(RecordError::ExternalIdTaken {
                project_id: file.project_id.clone(),
                external_id: file.external_id.clone(),
            });
        }
        None => match buried_foreign(connection, file).await? {
            Some(id) => return Err(RecordError::Deleted(id)),
            None => add_foreign(connection, file).await?,
        },
    };
    row(connection, id).await?.ok_or(RecordError::Deleted(id))
}

/// The deleted backup that was this file's record.
async fn buried_foreign(connection: &mut PgConnection, file: &ForeignFile) -> Result<Option<BackupId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT backup_id AS "id!: BackupId" FROM control_plane.backup_history
           WHERE project_id = $1 AND event = 'deleted' AND outcome = 'ok' AND backup_id IS NOT NULL
             AND detail #>> '{backup,external_id}' = $2 AND detail #>> '{backup,file_id}' = $3
           ORDER BY id LIMIT 1"#,
        file.project_id,
        file.external_id,
        file.file_id,
    )
    .fetch_optional(connection)
    .await
}

async fn add_foreign(connection: &mut PgConnection, file: &ForeignFile) -> Result<BackupId, RecordError> {
    let id = BackupId::generate();
    sqlx::query!(
        "INSERT INTO control_plane.backups (id, project_id, type, status, message, external_id, file_id, file_name, size, sha256, created_by,
             created_at, finished_at, expires_at)
         VALUES ($1, $2, $3, 'completed', $4, $5, $6, $7, $8, $9, $10, $11, now(), $12)",
        id.0,
        file.project_id,
        file.backup_type.as_str(),
        NOT_CHECKED,
        file.external_id,
        file.file_id,
        file.file_name,
        file.size.map_or(0, |size| size as i64),
        file.sha256.map(|digest| digest.to_string()),
        file.created_by,
        file.created_at,
        file.expires_at,
    )
    .execute(&mut *connection)
    .await?;
    let detail = json!({ "external_id": file.external_id, "message": NOT_CHECKED });
    tell(connection, id, &file.project_id, "recorded", "ok", &file.created_by, detail).await?;
    Ok(id)
}

/// Writes down that a file could not be stored, so that its absence is seen.
///
/// # Errors
/// See [`RecordError`].
pub async fn record_failed(
    connection: &mut PgConnection,
    file: &FailedFile<'_>,
) -> Result<DatabaseRecord, RecordError> {
    require_project(connection, file.project_id).await?;
    sqlx::query!(
        "INSERT INTO control_plane.backups (id, project_id, type, status, message, file_name, created_by, created_at, finished_at)
         VALUES ($1, $2, $3, 'failed', $4, $5, $6, $7, now())",
        file.id.0,
        file.project_id,
        file.backup_type.as_str(),
        file.message,
        file.file_name,
        file.created_by,
        file.created_at,
    )
    .execute(&mut *connection)
    .await?;
    let detail = json!({ "message": file.message });
    tell(connection, file.id, file.project_id, "failed", "failed", file.created_by, detail).await?;
    row(connection, file.id).await?.ok_or(RecordError::Deleted(file.id))
}

async fn tell(
    connection: &mut PgConnection,
    id: BackupId,
    project_id: &str,
    event: &str,
    outcome: &str,
    created_by: &str,
    detail: serde_json::Value,
) -> Result<(), RecordError> {
    let caller = Caller { subject: created_by.to_owned(), ..Caller::system("integration") };
    Ok(record(connection, &Event { backup_id: Some(id), project_id, event, caller: &caller, outcome, detail }).await?)
}

async fn row(connection: &mut PgConnection, id: BackupId) -> Result<Option<DatabaseRecord>, sqlx::Error> {
    sqlx::query_as!(
        DatabaseRecord,
        r#"SELECT id AS "id: BackupId", number, project_id, type AS backup_type, status, message, file_name, file_id, external_id,
                  storage, size, sha256, created_by, created_at, expires_at, verified_at
           FROM control_plane.backups WHERE id = $1"#,
        id.0
    )
    .fetch_optional(connection)
    .await
}
