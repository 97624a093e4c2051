//! A storage in a directory: each artifact is a file below the root, mode 0600, in directories of mode 0700.
//!
//! An upload writes `.{file}.{attempt}.part` beside the final name, then: fsync, rename that does not overwrite, fsync of the
//! directory. Files are read and written on threads that may block.
//!
//! While a program runs, a disk that is unmounted under it makes everything [`ErrorKind::Unavailable`]: what is missing then is not gone.

mod beneath;
mod direct;
mod marker;

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use futures::{StreamExt, stream};
use rustix::io::Errno;
use tokio::task::{JoinHandle, spawn_blocking};

use self::{
    beneath::{Entry, OnMissing},
    direct::DirectFile,
    marker::MARKER,
};
use super::*;
use crate::artifact::MANIFEST_SUFFIX;

/// What is written at once. Small enough that several are cheap to hold, large enough that a thread switch for each is nothing.
const PART: ByteSize = ByteSize::mib(8);
/// What is read at once.
const READ: usize = 512 << 10;
/// Written bytes after which the disk is told to begin, so that the fsync at the end is short.
const FLUSH_EVERY: u64 = 32 << 20;
const TEMPORARY_SUFFIX: &str = ".part";
const PROBE_PREFIX: &str = ".holdfast-probe-";
const LONGEST_NAME: usize = 255;

/// A directory that keeps artifacts.
#[derive(Clone, Debug)]
pub struct LocalStorage {
    root: PathBuf,
    /// Whether the root has its [marker](marker), so that it is known again.
    is_marked: bool,
}

impl LocalStorage {
    /// Opens the directory, and makes it when it is missing. From then on it is known by its marker, which is made too: also in a
    /// directory of an earlier version, and in an empty one. A disk that is not mounted at this moment is not noticed.
    pub async fn open(root: &Path) -> Result<Self, Error> {
        let root = root.to_owned();
        blocking(move || {
            let context = || format!("cannot open the storage directory {}", root.display());
            let root = std::path::absolute(&root).map_err(|e| Error::from_io(context(), e))?;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&root)
                .map_err(|e| Error::from_io(context(), e))?;
            let is_marked = marker::make(&root);
            Ok(Self { root, is_marked })
        })
        .await
    }

    /// Fails when this is not the directory any more that was opened.
    fn check(&self) -> Result<(), Error> {
        marker::check(&self.root, self.is_marked)
    }

    /// The error of something below the root, where "missing" is said only while the root is the one that was opened.
    fn fault(&self, context: impl Into<String>, errno: Errno) -> Error {
        match (errno, self.check()) {
            (Errno::NOENT, Err(gone)) => gone,
            _ => fault(context, errno),
        }
    }

    /// What is in one directory; nothing where it has gone meanwhile.
    fn list(&self, path: &[String]) -> Result<(OwnedFd, Vec<Entry>), Error> {
        let directory = beneath::directory(&self.root, path.iter().map(String::as_str), OnMissing::Fail);
        let context = || format!("cannot list {}", self.root.join(path.join("/")).display());
        let directory = directory.map_err(|e| self.fault(context(), e))?;
        let mut entries = beneath::list(&directory).map_err(|e| self.fault(context(), e))?;
        if path.is_empty() {
            self.check()?;
            // Belongs to the file system and to root alone.
            entries.retain(|entry| !matches!(entry, Entry::Directory(name) if name == "lost+found"));
        }
        Ok((directory, entries))
    }
}

/// Runs work that may block beside the reactor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::new(ErrorKind::Unavailable, "file work stopped unexpectedly").with_source(e)))
}

fn fault(context: impl Into<String>, errno: Errno) -> Error {
    match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR => Error::new(ErrorKind::Invalid, context)
            .with_source("a component is a symbolic link or not of the expected kind"),
        Errno::NAMETOOLONG => Error::new(ErrorKind::Invalid, context).with_source(std::io::Error::from(errno)),
        _ => Error::from_io(context, errno.into()),
    }
}

fn key_of(at: &Locator) -> Result<ArtifactName, Error> {
    match at {
        Locator::Local { key } if key.as_str() == MARKER => {
            Err(Error::new(ErrorKind::Invalid, "the locator names what marks the storage's directory"))
        }
        Locator::Local { key } => Ok(key.clone()),
        Locator::Memory { .. } | Locator::S3 { .. } | Locator::Telegram { .. } => {
            Err(Error::new(ErrorKind::Invalid, "the locator belongs to a storage of another kind"))
        }
    }
}

/// The directory of a key.
fn parent(root: &Path, key: &ArtifactName, on_missing: OnMissing) -> Result<OwnedFd, Errno> {
    let directories = key.as_str().rsplit_once('/').map_or("", |(directories, _)| directories);
    beneath::directory(root, directories.split('/').filter(|c| !c.is_empty()), on_missing)
}

fn child(path: &[String], name: String) -> Vec<String> {
    path.iter().cloned().chain([name]).collect()
}

/// The name a file has until it is published. Long names are cut: what makes it unique is the attempt.
fn temporary_name(file: &str, attempt: LeaseToken) -> String {
    let tail = format!(".{attempt}{TEMPORARY_SUFFIX}");
    let mut end = file.len().min(LONGEST_NAME - 1 - tail.len());
    while !file.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}{tail}", &file[..end])
}

fn is_temporary(name: &str) -> bool {
    (name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX)) || name.starts_with(PROBE_PREFIX)
}

#[async_trait]
impl Storage for LocalStorage {
    fn limits(&self) -> Limits {
        Limits { part: PART, parts_in_flight: 1, artifact: None, pace: Pace::Streamed }
    }

    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        let NewObject { name, attempt, .. } = new;
        if is_temporary(name.file_name()) || name.as_str() == MARKER {
            let context = format!("cannot begin {name}: the name is reserved");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        self.begin(name, attempt).await.map(|upload| Box::new(upload) as Box<dyn Upload>)
    }

    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        let (key, storage) = (key_of(at)?, self.clone());
        let name = key.clone();
        let (file, size) = blocking(move || {
            parent(&storage.root, &key, OnMissing::Fail)
                .and_then(|directory| beneath::open(&directory, key.file_name()))
                .map_err(|errno| storage.fault(format!("cannot read {key}"), errno))
        })
        .await?;
        let (start, end) = match range {
            Some(range) => range.within(size)?,
            None => (0, size),
        };
        let file = Arc::new(file);
        Ok(Box::pin(stream::try_unfold(start, move |at| {
            let (file, name) = (Arc::clone(&file), name.clone());
            async move {
                if at >= end {
                    return Ok(None);
                }
                let bytes = blocking(move || read_chunk(&file, at, end, &name)).await?;
                let next = at + bytes.len() as u64;
                Ok(Some((bytes, next)))
            }
        })))
    }

    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        let (key, storage) = (key_of(at)?, self.clone());
        blocking(move || {
            parent(&storage.root, &key, OnMissing::Fail)
                .and_then(|directory| beneath::size(&directory, key.file_name()))
                .map(|bytes| Stat { bytes })
                .map_err(|errno| storage.fault(format!("cannot look at {key}"), errno))
        })
        .await
    }

    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        let at = Locator::Local { key: name.clone() };
        match self.stat(&at).await {
            Ok(_) => Ok(Some(at)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        let (key, storage) = (key_of(at)?, self.clone());
        blocking(move || {
            let outcome = parent(&storage.root, &key, OnMissing::Fail).and_then(|directory| {
                beneath::size(&directory, key.file_name())?;
                beneath::remove(&directory, key.file_name())?;
                rustix::fs::fsync(&directory)
            });
            match outcome {
                Ok(()) => Ok(Deletion::Gone),
                Err(Errno::NOENT) => storage.check().map(|()| Deletion::Gone),
                Err(errno) => Err(fault(format!("cannot delete {key}"), errno)),
            }
        })
        .await
    }

    async fn probe(&self, _depth: ProbeDepth) -> Result<Probe, Error> {
        let attempt = LeaseToken::generate();
        let name: ArtifactName = format!("{PROBE_PREFIX}{attempt}")
            .parse()
            .map_err(|e| Error::new(ErrorKind::Invalid, "cannot name the probe").with_source(e))?;
        let written = Bytes::from(attempt.to_string());
        let mut upload = self.begin(&name, attempt).await?;
        upload.put(written.clone()).await?;
        let at = Box::new(upload).commit().await?;
        let read = get_whole(self, &at, ByteSize::kib(1)).await;
        self.delete(&at).await?;
        if read? != written {
            let context = format!("what was written to {} reads back differently", self.root.display());
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let root = self.root.clone();
        blocking(move || {
            let stat = rustix::fs::statvfs(&root)
                .map_err(|e| fault(format!("cannot tell the free space of {}", root.display()), e))?;
            Ok(Probe {
                free: Some(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize))),
                seen: vec!["a probe was written, read back and deleted".to_owned()],
                warnings: Vec::new(),
            })
        })
        .await
    }

    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        let storage = self.clone();
        blocking(move || {
            let mut removed = 0;
            let mut pending = vec![Vec::new()];
            while let Some(path) = pending.pop() {
                let (directory, entries) = storage.list(&path)?;
                for entry in entries {
                    match entry {
                        Entry::Directory(name) => pending.push(child(&path, name)),
                        Entry::File(name) if is_temporary(&name) => {
                            let outcome = beneath::modified(&directory, &name).and_then(|modified| {
                                if modified < modified_before {
                                    beneath::remove(&directory, &name)?;
                                    removed += 1;
                                }
                                Ok(())
                            });
                            match outcome {
                                // Its own attempt was quicker.
                                Ok(()) | Err(Errno::NOENT) => {}
                                Err(errno) => return Err(fault(format!("cannot remove temporary file {name}"), errno)),
                            }
                        }
                        Entry::File(_) => {}
                    }
                }
            }
            Ok(removed)
        })
        .await
    }

    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        // One directory at a time, and only when asked for more.
        let walk = stream::unfold(vec![Vec::new()], move |mut pending| async move {
            let path: Vec<String> = pending.pop()?;
            let storage = self.clone();
            let listed = blocking(move || {
                let (_, entries) = storage.list(&path)?;
                Ok((path, entries))
            })
            .await;
            let mut found = Vec::new();
            match listed {
                Ok((path, entries)) => {
                    for entry in entries {
                        match entry {
                            Entry::Directory(name) => pending.push(child(&path, name)),
                            Entry::File(name) if name.ends_with(MANIFEST_SUFFIX) => {
                                // A name that is no key is none of ours.
                                if let Ok(key) = child(&path, name).join("/").parse() {
                                    found.push(Ok(Locator::Local { key }));
                                }
                            }
                            Entry::File(_) => {}
                        }
                    }
                }
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => found.push(Err(error)),
            }
            Some((stream::iter(found), pending))
        });
        Box::pin(walk.flatten())
    }
}

fn read_chunk(file: &File, at: u64, end: u64, name: &ArtifactName) -> Result<Bytes, Error> {
    let mut bytes = vec![0; usize::try_from(end - at).unwrap_or(READ).min(READ)];
    let read = loop {
        match file.read_at(&mut bytes, at) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other.map_err(|e| Error::from_io(format!("cannot read {name} at byte {at}"), e))?,
        }
    };
    if read == 0 {
        return Err(Error::new(ErrorKind::Corrupt, format!("{name} was cut to {at} bytes while it was read")));
    }
    bytes.truncate(read);
    Ok(bytes.into())
}

impl LocalStorage {
    async fn begin(&self, name: &ArtifactName, attempt: LeaseToken) -> Result<LocalUpload, Error> {
        let (name, storage) = (name.clone(), self.clone());
        blocking(move || {
            let context = || format!("cannot begin {name}");
            storage.check()?;
            let directory = parent(&storage.root, &name, OnMissing::Make).map_err(|e| fault(context(), e))?;
            match rustix::fs::statat(&directory, name.file_name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                Ok(_) => return Err(Error::new(ErrorKind::Exists, context())),
                Err(errno) => return Err(fault(context(), errno)),
            }
            let temporary = temporary_name(name.file_name(), attempt);
            let file = beneath::create(&directory, &temporary).map_err(|errno| match errno {
                // Not the final name: `Exists` would say that.
                Errno::EXIST => Error::new(ErrorKind::Invalid, context())
                    .with_source("this attempt is writing to that name already"),
                other => fault(context(), other),
            })?;
            let temporary = Temporary { directory, temporary, name, left: AtomicBool::new(false) };
            let file = Arc::new(DirectFile::new(file));
            Ok(LocalUpload { file, temporary: Arc::new(temporary), flushing: None, unflushed: 0 })
        })
        .await
    }
}

/// The temporary file's name, removed when the last one who works on it lets go, unless it was published.
struct Temporary {
    directory: OwnedFd,
    temporary: String,
    name: ArtifactName,
    /// Published or removed: the name is no longer ours to remove.
    left: AtomicBool,
}

impl Temporary {
    fn remove(&self) {
        if !self.left.swap(true, Ordering::SeqCst)
            && let Err(errno) = beneath::remove(&self.directory, &self.temporary)
        {
            tracing::warn!(artifact = %self.name, %errno, "cannot remove a temporary file");
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.remove();
    }
}

struct LocalUpload {
    file: Arc<DirectFile>,
    temporary: Arc<Temporary>,
    /// The disk at work on what was written; its error is told once, so it is asked.
    flushing: Option<JoinHandle<Result<(), Error>>>,
    unflushed: u64,
}

impl LocalUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), Error> {
        let (file, temporary) = (Arc::clone(&self.file), Arc::clone(&self.temporary));
        let cached = blocking(move || {
            file.append(&part).map_err(|e| Error::from_io(format!("cannot write to {}", temporary.name), e))
        })
        .await?;
        self.unflushed += cached;
        if self.unflushed >= FLUSH_EVERY {
            self.flushed().await?;
            self.unflushed = 0;
            let (file, temporary) = (Arc::clone(&self.file), Arc::clone(&self.temporary));
            self.flushing = Some(spawn_blocking(move || sync(&file, &temporary.name)));
        }
        Ok(())
    }

    /// Waits for the flush under way, if there is one.
    async fn flushed(&mut self) -> Result<(), Error> {
        match self.flushing.take() {
            None => Ok(()),
            Some(flushing) => flushing.await.unwrap_or_else(|e| {
                Err(Error::new(ErrorKind::Unavailable, "file work stopped unexpectedly").with_source(e))
            }),
        }
    }
}

fn sync(file: &DirectFile, name: &ArtifactName) -> Result<(), Error> {
    file.sync_data().map_err(|e| Error::from_io(format!("cannot make {name} durable"), e))
}

#[async_trait]
impl Upload for LocalUpload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        if part.len() as u64 > PART.0 {
            let context = format!("cannot write a part of {} bytes to {}", part.len(), self.temporary.name);
            return Err(Error::new(ErrorKind::TooLarge, context));
        }
        if self.temporary.left.load(Ordering::SeqCst) {
            let context = format!("cannot write to {} after an error", self.temporary.name);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let outcome = self.write(part).await;
        if outcome.is_err() {
            // At once: on a full disk others wait for the space.
            self.temporary.remove();
        }
        outcome
    }

    async fn commit(mut self: Box<Self>) -> Result<Locator, Error> {
        if self.temporary.left.load(Ordering::SeqCst) {
            let context = format!("cannot publish {} after an error", self.temporary.name);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        self.flushed().await?;
        let (file, temporary) = (Arc::clone(&self.file), Arc::clone(&self.temporary));
        blocking(move || {
            file.sync_all().map_err(|e| Error::from_io(format!("cannot make {} durable", temporary.name), e))?;
            beneath::publish(&temporary.directory, &temporary.temporary, temporary.name.file_name())
                .map_err(|errno| fault(format!("cannot publish {}", temporary.name), errno))?;
            temporary.left.store(true, Ordering::SeqCst);
            Ok(Locator::Local { key: temporary.name.clone() })
        })
        .await
    }

    async fn abort(mut self: Box<Self>) {
        let _ = self.flushed().await;
        let temporary = Arc::clone(&self.temporary);
        let _ = spawn_blocking(move || temporary.remove()).await;
    }
}

#[cfg(test)]
mod tests;
