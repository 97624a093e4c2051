//! What a program says about the file that it sends.

use std::{fmt, path::PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use super::Failure;
use crate::{
    artifact::{BackupType, Encryption, Sha256Digest},
    clock::Timestamp,
    history::StoredFile,
    ids::{InvalidProjectId, ProjectId},
};

/// The longest caption that Telegram takes, in characters. Source: core.telegram.org/bots/api#senddocument.
const MAX_CAPTION: usize = 1024;

/// A file to be sent. Only the first three matter; the others have defaults:
///
/// ```
/// use holdfast::{artifact::BackupType, integration::BackupOptions};
///
/// let options = BackupOptions {
///     caption: Some("nightly".to_owned()),
///     ..BackupOptions::new("acme", BackupType::Database, "/var/dumps/acme.sql.gz")
/// };
/// # drop(options);
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct BackupOptions {
    pub project_id: String,
    /// What the file holds.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    pub file: FileInput,
    /// What the file is called, for people and in its name in the storage. Default: the path's last component, else the type.
    #[serde(default)]
    pub filename: Option<String>,
    /// A line of at most 1024 characters that the chat shows. It is not encrypted.
    #[serde(default)]
    pub caption: Option<String>,
    /// Another chat than the configured one. The same bot must be able to write there.
    #[serde(default)]
    pub chat_id: Option<i64>,
    /// When it may be deleted. Default: 30 days from now.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// Default: encrypted to the configured recipients.
    #[serde(default = "encrypted")]
    pub encryption: Encryption,
}

fn encrypted() -> Encryption {
    Encryption::Age
}

impl BackupOptions {
    /// With everything else at its default.
    pub fn new(project_id: impl Into<String>, backup_type: BackupType, file: impl Into<FileInput>) -> Self {
        Self {
            project_id: project_id.into(),
            backup_type,
            file: file.into(),
            filename: None,
            caption: None,
            chat_id: None,
            expires_at: None,
            encryption: Encryption::Age,
        }
    }

    pub(super) fn check(&self, now: Timestamp) -> Result<(), Failure> {
        check_expiry(self.expires_at, now)?;
        self.project_id()?;
        let caption = self.caption.as_deref().unwrap_or_default();
        if caption.chars().count() > MAX_CAPTION || caption.contains('\0') {
            let message = format!("the caption is longer than {MAX_CAPTION} characters or has a zero byte");
            return Err(Failure::new("options.caption", message));
        }
        Ok(())
    }

    /// An id that is safe in a name.
    pub(super) fn project_id(&self) -> Result<ProjectId, Failure> {
        self.project_id.parse().map_err(|error: InvalidProjectId| Failure::new("project.id", error.to_string()))
    }

    /// What people call the file.
    pub(super) fn file_name(&self) -> String {
        let of_path = match &self.file {
            FileInput::Path(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            FileInput::Bytes(_) | FileInput::Reader(_) => None,
        };
        self.filename.clone().or(of_path).unwrap_or_else(|| self.backup_type.to_string())
    }
}

pub(super) fn check_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), Failure> {
    match expires_at {
        Some(at) if at <= now => {
            Err(Failure::new("options.expires_at", format!("expires_at is {at}, which is not in the future")))
        }
        _ => Ok(()),
    }
}

/// Where the bytes are.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileInput {
    /// A regular file. It must not change while it is read.
    Path(PathBuf),
    /// Bytes in memory; not written into JSON.
    #[serde(skip)]
    Bytes(Bytes),
    /// A stream that is read once, to its end; not written into JSON.
    #[serde(skip)]
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl FileInput {
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::Reader(Box::new(reader))
    }
}

impl fmt::Debug for FileInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

impl From<PathBuf> for FileInput {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&std::path::Path> for FileInput {
    fn from(path: &std::path::Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&str> for FileInput {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<Vec<u8>> for FileInput {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Bytes> for FileInput {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// What is to be recorded without being sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RecordMetadata {
    /// A file that was sent through this library: the `record` of its [`TelegramMetadata`](super::TelegramMetadata).
    Sent(Box<StoredFile>),
    /// A file that another program has sent by itself.
    Foreign(ForeignMetadata),
}

impl From<super::TelegramMetadata> for RecordMetadata {
    fn from(metadata: super::TelegramMetadata) -> Self {
        Self::Sent(Box::new(metadata.record))
    }
}

impl From<ForeignMetadata> for RecordMetadata {
    fn from(metadata: ForeignMetadata) -> Self {
        Self::Foreign(metadata)
    }
}

/// What another program says of a file that it has sent to Telegram by itself. Nothing of it is checked: the backup is `completed`, has never
/// been verified, and says `recorded, not checked`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForeignMetadata {
    /// What the other program calls it: one record per project and id.
    pub external_id: String,
    pub project_id: String,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// As Telegram gave it to the bot that sent the file.
    pub file_id: String,
    #[serde(default)]
    pub filename: Option<String>,
    /// Bytes, where they are known.
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub sha256: Option<Sha256Digest>,
    /// When it was sent. Default: now.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
}

impl ForeignMetadata {
    /// With everything else unknown.
    pub fn new(
        external_id: impl Into<String>,
        project_id: impl Into<String>,
        backup_type: BackupType,
        file_id: impl Into<String>,
    ) -> Self {
        Self {
            external_id: external_id.into(),
            project_id: project_id.into(),
            backup_type,
            file_id: file_id.into(),
            filename: None,
            size: None,
            sha256: None,
            created_at: None,
        }
    }

    /// Refuses what no such file has: an id that is empty or very long, a character that is none, a size beyond all storages.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let needed = [("external_id", &self.external_id), ("file_id", &self.file_id), ("project_id", &self.project_id)];
        for (what, text) in needed {
            let is_sane = !text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control);
            if !is_sane {
                let message = format!("{what} is empty, longer than 512 bytes or has a control character");
                return Err(Failure::new("metadata.invalid", message));
            }
        }
        let name = self.filename.as_deref().unwrap_or_default();
        if name.len() > 1024 || name.chars().any(char::is_control) {
            let message = "filename is longer than 1024 bytes or has a control character";
            return Err(Failure::new("metadata.invalid", message));
        }
        if self.size.is_some_and(|size| i64::try_from(size).is_err()) {
            return Err(Failure::new("metadata.invalid", "size is beyond what can be recorded"));
        }
        Ok(())
    }
}
