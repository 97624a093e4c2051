//! Records that could not be written because the control plane was away: a directory with one JSON file each, written down as soon as it is
//! back. It lies beside the database and not in it, so that a backup that was stored is never forgotten.
//!
//! What always holds: a file appears whole or not at all, and goes only after its record is committed. Recording twice is harmless, so any
//! number of processes may empty one outbox.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::spawn_blocking;

use super::{DatabaseRecord, ForeignFile, RecordError, StoredFile, record_foreign, record_stored};
use crate::{artifact::Sha256Digest, db};

/// The version of the files that this code writes.
const VERSION: u32 = 1;
/// The largest file that is read: as large as the largest manifest, and room for its locators.
const MAX_BYTES: u64 = 80 << 20;

/// A record that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OutboxEntry {
    Stored(Box<StoredFile>),
    Foreign(ForeignFile),
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(flatten)]
    entry: OutboxEntry,
}

impl OutboxEntry {
    /// Writes the record, in a transaction of its own. Safe to repeat.
    ///
    /// # Errors
    /// See [`RecordError`]; then nothing was written.
    pub async fn record(&self, pool: &PgPool) -> Result<DatabaseRecord, RecordError> {
        let mut transaction = db::begin(pool).await.map_err(RecordError::Unreachable)?;
        let written = match self {
            Self::Stored(file) => record_stored(&mut transaction, file).await?,
            Self::Foreign(file) => record_foreign(&mut transaction, file).await?,
        };
        transaction.commit().await?;
        Ok(written)
    }

    /// One name for one record, however often it is kept. Names of stored files sort by their time.
    fn file_name(&self) -> String {
        match self {
            Self::Stored(file) => format!("{}.json", file.manifest.head.backup_id),
            Self::Foreign(file) => {
                let names = format!("{}\0{}", file.project_id, file.external_id);
                format!("external-{}.json", Sha256Digest::of(names.as_bytes()))
            }
        }
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Outbox {
    directory: PathBuf,
}

/// What emptying the outbox came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flushed {
    /// Records that are written now.
    pub recorded: usize,
    /// What stays, and why. It is tried again the next time.
    pub waiting: Vec<Waiting>,
}

/// A file that stays in the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    pub file: PathBuf,
    pub code: String,
    pub message: String,
}

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("cannot use the outbox {} ({source})", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Whoever may write there may put backups into the history.
    #[error("the outbox {} is not used, because others than its owner may write to it", path.display())]
    Untrusted { path: PathBuf },
    #[error("cannot write the record down ({0})")]
    Json(#[from] serde_json::Error),
    /// The control plane is still away; everything stays.
    #[error("{0}")]
    Away(RecordError),
}

impl OutboxError {
    /// A stable word for logs and results.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::Json(_) => "outbox.failed",
            Self::Untrusted { .. } => "outbox.untrusted",
            Self::Away(error) => error.code(),
        }
    }
}

impl Outbox {
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The outbox of everything that shares a data directory.
    pub fn below(data_dir: &Path) -> Self {
        Self::at(data_dir.join("outbox"))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps a record on disk: when this returns, it survives a power cut.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or others may write to it.
    pub async fn keep(&self, entry: OutboxEntry) -> Result<PathBuf, OutboxError> {
        let directory = self.directory.clone();
        blocking(&self.directory, move || keep(&directory, entry)).await
    }

    /// Writes down what waits, oldest first. A record that is refused (its project is gone, its file cannot be read) stays and is told; the
    /// others follow all the same.
    ///
    /// # Errors
    /// The directory cannot be read, or the control plane is away.
    pub async fn flush(&self, pool: &PgPool) -> Result<Flushed, OutboxError> {
        let mut flushed = Flushed::default();
        let directory = self.directory.clone();
        for path in blocking(&self.directory, move || files(&directory)).await? {
            let file = path.clone();
            let mut stays = |code: &str, message: String| {
                flushed.waiting.push(Waiting { file: path.clone(), code: code.to_owned(), message });
            };
            match blocking(&path, move || read(&file)).await {
                // Another process was quicker.
                Ok(None) => {}
                Err(error) => stays(error.code(), error.to_string()),
                Ok(Some(entry)) => match entry.record(pool).await {
                    // Recorded before and deleted since is settled as well.
                    Ok(_) | Err(RecordError::Deleted(_)) => {
                        let file = path.clone();
                        blocking(&path, move || remove(&file)).await?;
                        flushed.recorded += 1;
                    }
                    Err(error) if error.may_pass() => return Err(OutboxError::Away(error)),
                    Err(error) => stays(error.code(), error.to_string()),
                },
            }
        }
        Ok(flushed)
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, OutboxError> + Send + 'static,
) -> Result<T, OutboxError> {
    let stopped = |error| OutboxError::Io { path: path.to_owned(), source: io::Error::other(error) };
    spawn_blocking(work).await.map_err(stopped)?
}

fn failed(path: &Path) -> impl Fn(io::Error) -> OutboxError {
    move |source| OutboxError::Io { path: path.to_owned(), source }
}

fn keep(directory: &Path, entry: OutboxEntry) -> Result<PathBuf, OutboxError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
    is_ours_alone(directory)?;
    let path = directory.join(entry.file_name());
    let text = serde_json::to_vec_pretty(&Kept { version: VERSION, entry })?;
    // Mode 0600 and a name that `files` passes over.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(failed(directory))?;
    file.write_all(&text).map_err(failed(&path))?;
    file.as_file().sync_all().map_err(failed(&path))?;
    file.persist(&path).map_err(|error| failed(&path)(error.error))?;
    sync(directory)?;
    Ok(path)
}

/// The waiting files by name; none where there is no directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>, OutboxError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(directory)(error)),
    };
    is_ours_alone(directory)?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".json") && !name.starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One waiting record; `None` when it is gone.
fn read(path: &Path) -> Result<Option<OutboxEntry>, OutboxError> {
    let opened = File::options().read(true).custom_flags(NO_FOLLOW).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed(path))?;
    let kept: Kept = serde_json::from_slice(&text)
        .map_err(|error| failed(path)(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    if kept.version > VERSION {
        let newer = format!("it has version {}, and this program knows versions up to {VERSION}", kept.version);
        return Err(failed(path)(io::Error::new(io::ErrorKind::InvalidData, newer)));
    }
    Ok(Some(kept.entry))
}

/// Neither a link is followed nor a pipe waited for.
const NO_FOLLOW: i32 = (rustix::fs::OFlags::NOFOLLOW.bits() | rustix::fs::OFlags::NONBLOCK.bits()) as i32;

fn remove(path: &Path) -> Result<(), OutboxError> {
    match fs::remove_file(path) {
        Ok(()) => sync(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path)(error)),
    }
}

fn sync(directory: &Path) -> Result<(), OutboxError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed(directory))
}

fn is_ours_alone(directory: &Path) -> Result<(), OutboxError> {
    let mode = fs::metadata(directory).map_err(failed(directory))?.mode();
    if mode & 0o022 == 0 { Ok(()) } else { Err(OutboxError::Untrusted { path: directory.to_owned() }) }
}
