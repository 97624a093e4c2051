//! Bytes from a source to storages, and back: [`back_up`] takes, [`transfer`] makes one more copy, [`spool`] and [`content`] give back.
//!
//! What always holds: nothing appears under a final name before the source itself said that all bytes came; after any failure
//! nothing unfinished is left; nobody reads a fetched byte before all of them were compared with what was recorded.

mod backup;
mod fetch;
mod manifest_file;
mod publish;
mod stream;
mod transfer;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::{
    backup::back_up,
    fetch::{FetchError, Spooled, check, check_seal, content, spool},
    manifest_file::{
        MAX_MANIFEST, ManifestError, ManifestFile, SEAL_BYTES, publish_again, publish_manifest, read_manifest,
        read_manifest_file,
    },
    publish::{Check, ReadBack},
    transfer::{TransferError, transfer},
};
use crate::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    ids::LeaseToken,
    manifest::Part,
    source::{Source, SourceError, SourceReport, Tables},
    storage::{self, Locator, Storage},
    transform::EncodeOptions,
};

/// The most that is handed to an upload at once. A storage whose parts are larger gathers them: so the pieces that wait between two steps
/// take no more memory for it.
const PIECE: ByteSize = ByteSize::mib(4);

/// One attempt to take one backup.
pub struct BackupRun {
    pub source: Box<dyn Source>,
    pub encode: EncodeOptions,
    /// Where copies go, each with the name it has in the configuration.
    pub storages: Vec<(String, Arc<dyn Storage>)>,
    pub name: ArtifactName,
    pub attempt: LeaseToken,
    /// A line for people, where a storage shows one.
    pub caption: Option<String>,
    /// Largest stored artifact.
    pub max_size: ByteSize,
    /// Longest time until the source has ended well.
    pub timeout: Duration,
    /// Reads every copy back in full after the commit, not only its size.
    pub verify_read_back: bool,
    pub progress: tokio::sync::watch::Sender<Progress>,
    /// Ends the attempt, until publishing begins.
    pub cancel: CancellationToken,
}

crate::artifact::words! {
    /// What an attempt is doing.
    Stage, "stage" {
        /// Bytes move.
        Dumping = "dumping",
        /// All bytes came; the source is asked whether it ended well.
        Finishing = "finishing",
        /// The copies get their final name.
        Publishing = "publishing",
        /// The storages are asked what they have.
        ReadingBack = "reading_back",
    }
}

crate::artifact::words! {
    /// How far one storage's copy is.
    CopyState, "copy state" {
        Uploading = "uploading",
        /// Given up; the others go on.
        Failed = "failed",
        /// Published and read back.
        Done = "done",
    }
}

/// How far one storage's copy is, and why it goes no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyProgress {
    pub stored_bytes: u64,
    pub state: CopyState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Default for CopyProgress {
    fn default() -> Self {
        Self { stored_bytes: 0, state: CopyState::Uploading, message: None }
    }
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: Stage,
    /// Bytes read from the source.
    pub content_bytes: u64,
    /// Bytes written to every storage that is still in.
    pub stored_bytes: u64,
    /// How many tables have passed, where the source tells.
    pub tables: Option<Tables>,
    /// Every storage that is fed, by name.
    pub storages: BTreeMap<String, CopyProgress>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { stage: Stage::Dumping, content_bytes: 0, stored_bytes: 0, tables: None, storages: BTreeMap::new() }
    }
}

/// A backup that is stored, in one copy at least.
#[derive(Debug)]
pub struct Stored {
    pub content: Fingerprint,
    pub stored: Fingerprint,
    pub parts: Vec<Part>,
    pub report: SourceReport,
    pub copies: Vec<StoredCopy>,
    /// Storages that have no copy, and why.
    pub failed_copies: Vec<(String, storage::Error)>,
}

/// One copy, published and, where the storage's key may read, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCopy {
    pub storage: String,
    pub locator: Locator,
    pub read_back: ReadBack,
}

/// Why there is no backup. Nothing of the attempt is left, but a copy that was published and did not read back: what lies under a final
/// name is deleted by the holder of the job's lease alone.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("{0}")]
    Source(SourceError),
    /// No storage took the artifact; this is what one of them said.
    #[error("storage {name:?}: {error:#}")]
    Storage { name: String, error: storage::Error },
    #[error("the backup grows beyond the limit of {limit} stored bytes")]
    TooLarge { limit: ByteSize },
    #[error("the dump did not end within {} seconds", limit.as_secs())]
    TimedOut { limit: Duration },
    #[error("cancelled")]
    Cancelled,
    #[error("cannot compress or encrypt the dump ({0})")]
    Encode(io::Error),
}

impl PipelineError {
    /// Whether the same attempt may succeed later without anyone's help. A dump that was too slow once is not repeated at once: it would load
    /// the database as long again.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Source(error) => error.may_pass,
            Self::Storage { error, .. } => error.kind.may_pass(),
            Self::TooLarge { .. } | Self::TimedOut { .. } | Self::Cancelled | Self::Encode(_) => false,
        }
    }

    /// A stable word for logs, answers and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Source(error) => error.code,
            Self::Storage { error, .. } => error.kind.code(),
            Self::TooLarge { .. } => "backup.too_large",
            Self::TimedOut { .. } => "backup.timed_out",
            Self::Cancelled => "backup.cancelled",
            Self::Encode(_) => "backup.encode",
        }
    }
}
