//! What came of a call, both halves apart: what Telegram has, and what the database says.

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{BackupType, Encryption, Sha256Digest},
    clock::Timestamp,
    history::{DatabaseRecord, OutboxError, RecordError, StoredFile},
    ids::BackupId,
    pipeline::PipelineError,
    storage::{self, ErrorKind, Locator},
};

/// What one call came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupResult {
    /// Whether all that was asked for was done.
    pub success: bool,
    /// What was sent. Present whenever the file is stored, whatever happened to the record.
    pub telegram_metadata: Option<TelegramMetadata>,
    /// The backup's row. Of a file that could not be sent it has the status `failed`.
    pub database_record: Option<DatabaseRecord>,
    /// Why it was not done: Telegram's half where both failed.
    pub error: Option<Failure>,
    pub details: Details,
}

/// Both halves of a call. A half that is neither a success nor has an error was not tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// The file and its manifest are stored and were read back.
    pub telegram_success: bool,
    /// The row is written: of the backup, or of its failure.
    pub database_success: bool,
    pub telegram_error: Option<Failure>,
    pub database_error: Option<Failure>,
    /// The record waits in the outbox and is written as soon as the database takes it.
    pub kept_in_outbox: bool,
}

impl BackupResult {
    pub(super) fn of(halves: Details) -> Self {
        let error = halves.telegram_error.clone().or_else(|| halves.database_error.clone());
        Self { success: error.is_none(), error, details: halves, ..Self::default() }
    }

    /// Nothing was tried, because the call itself is wrong.
    pub(super) fn refused(failure: Failure) -> Self {
        Self { error: Some(failure), ..Self::default() }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// A stable word, such as `file.empty`.
    pub code: String,
    /// One line for people.
    pub message: String,
    /// Whether the same call may succeed later without anyone's help.
    pub may_pass: bool,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        // A name from outside may be part of it.
        Self { code: code.to_owned(), message: message.into().replace(char::is_control, "\u{fffd}"), may_pass: false }
    }

    pub(super) fn of_storage(name: &str, error: &storage::Error) -> Self {
        let code = if error.kind == ErrorKind::TooLarge { "file.too_large" } else { error.kind.code() };
        Self { code: code.to_owned(), message: format!("storage {name:?}: {error}"), may_pass: error.kind.may_pass() }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        let may_pass = error.may_pass();
        let (code, message) = match error {
            PipelineError::Source(error) => (error.code, error.message),
            PipelineError::Storage { name, error } => return Self::of_storage(&name, &error),
            PipelineError::TooLarge { limit } => {
                ("file.too_large", format!("the file needs more than the {limit} that may be stored"))
            }
            PipelineError::TimedOut { limit } => {
                ("file.timed_out", format!("the file was not sent within {} seconds", limit.as_secs()))
            }
            PipelineError::Cancelled => ("file.cancelled", "cancelled".to_owned()),
            PipelineError::Encode(error) => ("file.encode", format!("cannot encrypt the file ({error})")),
        };
        Self { code: code.to_owned(), message, may_pass }
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self { code: error.code().to_owned(), message: error.to_string(), may_pass: error.may_pass() }
    }
}

impl From<OutboxError> for Failure {
    fn from(error: OutboxError) -> Self {
        let may_pass = matches!(error, OutboxError::Away(_));
        Self { code: error.code().to_owned(), message: error.to_string(), may_pass }
    }
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelegramMetadata {
    pub backup_id: BackupId,
    pub project_id: String,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// What people call the file.
    pub filename: String,
    /// Its name in the storage.
    pub name: String,
    /// `None` in a storage that is not Telegram.
    pub chat_id: Option<i64>,
    /// Of the parts, in order.
    pub message_ids: Vec<i64>,
    /// The first part's, else the name in the storage.
    pub file_id: String,
    /// The first part's.
    pub file_unique_id: Option<String>,
    /// In order; their concatenation is the stored file.
    pub parts: Vec<SentPart>,
    /// Bytes as stored, which for an encrypted file is a little more than its own.
    pub size: u64,
    /// Of the bytes as stored.
    pub sha256: Sha256Digest,
    /// Bytes of the file as it was handed over.
    pub content_size: u64,
    pub content_sha256: Sha256Digest,
    pub encryption: Encryption,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// What the record is made of: hand it to `record_in_database_only` to record the file later.
    pub record: StoredFile,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentPart {
    pub message_id: Option<i64>,
    pub file_id: Option<String>,
    pub file_unique_id: Option<String>,
    pub size: u64,
    pub sha256: Sha256Digest,
}

impl TelegramMetadata {
    pub(super) fn new(filename: String, record: StoredFile) -> Self {
        let head = &record.manifest.head;
        let content = record.manifest.body.content;
        let (chat_id, parts) = match &record.locator {
            Locator::Telegram { chat_id, messages, .. } => {
                let part = |part: &storage::TelegramPart| SentPart {
                    message_id: Some(part.message_id),
                    file_id: Some(part.file_id.clone()),
                    file_unique_id: Some(part.file_unique_id.clone()),
                    size: part.fingerprint.bytes,
                    sha256: part.fingerprint.sha256,
                };
                (Some(*chat_id), messages.iter().map(part).collect::<Vec<_>>())
            }
            Locator::Local { .. } | Locator::Memory { .. } | Locator::S3 { .. } => {
                let part = |part: &crate::manifest::Part| SentPart {
                    message_id: None,
                    file_id: None,
                    file_unique_id: None,
                    size: part.fingerprint.bytes,
                    sha256: part.fingerprint.sha256,
                };
                (None, head.parts.iter().map(part).collect())
            }
        };
        Self {
            backup_id: head.backup_id,
            project_id: head.project_id.to_string(),
            backup_type: head.backup_type,
            filename,
            name: head.key.to_string(),
            chat_id,
            message_ids: parts.iter().filter_map(|part| part.message_id).collect(),
            file_id: record.file_id().to_owned(),
            file_unique_id: parts.first().and_then(|part| part.file_unique_id.clone()),
            parts,
            size: head.stored.bytes,
            sha256: head.stored.sha256,
            content_size: content.bytes,
            content_sha256: content.sha256,
            encryption: head.encoding.encryption,
            created_at: head.created_at,
            expires_at: record.expires_at,
            record,
        }
    }
}
