//! Storages: `[storages.NAME]` with a `type`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{S3StorageConfig, TelegramStorageConfig};
use crate::byte_size::ByteSize;

/// Lowest `max_rate`, in bytes a second: below it nothing would come to its end.
pub const LEAST_RATE: ByteSize = ByteSize::kib(1);

/// One configured storage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StorageConfig {
    Local(LocalStorageConfig),
    S3(Box<S3StorageConfig>),
    Telegram(Box<TelegramStorageConfig>),
}

/// Whether a name can be a storage's: 1 to 63 letters, digits, '-' or '_', and no option of a command.
pub fn is_storage_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl StorageConfig {
    /// The word that the configuration has for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::S3(_) => "s3",
            Self::Telegram(_) => "telegram",
        }
    }

    /// Where the copies are, for people; without secrets.
    pub fn place(&self) -> String {
        match self {
            Self::Local(local) => local.root.display().to_string(),
            Self::S3(s3) => {
                let url = s3.bucket_url().map_or_else(|_| s3.bucket.clone(), |(url, _)| url);
                if s3.prefix.is_empty() { url } else { format!("{url}, below {}/", s3.prefix) }
            }
            Self::Telegram(telegram) => telegram.chat_id.to_string(),
        }
    }
}

/// A directory on this machine, or one that is mounted here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalStorageConfig {
    /// The directory below which artifacts are kept. Made when missing.
    pub root: PathBuf,
    /// Largest rate of all uploads together, in bytes a second. Restores are never slowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<ByteSize>,
}

impl LocalStorageConfig {
    /// A directory that is written to as fast as it takes it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), max_rate: None }
    }

    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        check_rate(self.max_rate)
    }
}

/// What is wrong with a `max_rate`, if anything.
pub(super) fn check_rate(rate: Option<ByteSize>) -> Result<(), String> {
    match rate {
        Some(rate) if rate < LEAST_RATE => Err(format!("max_rate is below {LEAST_RATE} per second")),
        Some(_) | None => Ok(()),
    }
}
