//! The file as a [`Source`]: a path, bytes or a stream, read once and watched while it is read. Its verdict comes at the end: an empty file,
//! one that changed, and one that could not be read to its end are no backup.

use std::{
    fs::{File, Metadata},
    io::{self, Cursor, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
    task::spawn_blocking,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Failure, FileInput};
use crate::{
    byte_size::ByteSize,
    manifest::{Content, FileContent},
    source::{Source, SourceError, SourceReport},
};

/// What is read from a stream at a time.
const CHUNK: usize = 64 << 10;
/// Chunks of a stream on their way.
const CHUNKS: usize = 4;

/// A file that was looked at and is ready to be read.
pub(super) enum OpenFile {
    Path { path: PathBuf, file: File, seen: Metadata },
    Bytes(Bytes),
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl OpenFile {
    /// Opens the file and refuses at once what can be seen to be no good.
    pub(super) async fn open(input: FileInput, largest: ByteSize) -> Result<Self, Failure> {
        let open = match input {
            FileInput::Path(path) => {
                let stopped = |error| Failure::new("file.unreadable", format!("cannot open the file ({error})"));
                spawn_blocking(move || open_path(path)).await.map_err(stopped)??
            }
            FileInput::Bytes(bytes) => Self::Bytes(bytes),
            FileInput::Reader(reader) => Self::Reader(reader),
        };
        match open.size() {
            Some(0) => Err(empty()),
            Some(size) if size > largest.0 => {
                let message = format!("the file has {}, more than the {largest} that may be stored", ByteSize(size));
                Err(Failure::new("file.too_large", message))
            }
            _ => Ok(open),
        }
    }

    /// Bytes, where they are known beforehand.
    fn size(&self) -> Option<u64> {
        match self {
            Self::Path { seen, .. } => Some(seen.len()),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Reader(_) => None,
        }
    }

    /// The same file once more, from its beginning; `None` where it can be read but once.
    pub(super) fn again(&self) -> Option<FileInput> {
        match self {
            Self::Path { path, .. } => Some(FileInput::Path(path.clone())),
            Self::Bytes(bytes) => Some(FileInput::Bytes(bytes.clone())),
            Self::Reader(_) => None,
        }
    }
}

fn open_path(path: PathBuf) -> Result<OpenFile, Failure> {
    let shown = path.display();
    // A pipe without a writer would be waited for.
    let opened = File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(&path);
    let (file, seen) = match opened.and_then(|file| file.metadata().map(|seen| (file, seen))) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new("file.not_found", format!("there is no file {shown}")));
        }
        Err(error) => return Err(Failure::new("file.unreadable", format!("cannot open {shown} ({error})"))),
    };
    if !seen.is_file() {
        let what = if seen.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Failure::new("file.not_a_file", format!("{shown} is {what}")));
    }
    Ok(OpenFile::Path { path, file, seen })
}

fn empty() -> Failure {
    Failure::new("file.empty", "the file is empty")
}

/// The file while it is read.
pub(super) struct FileSource {
    /// Taken when the reading begins.
    file: Option<OpenFile>,
    /// A path's file once more, to look at it again at the end.
    watched: Option<(PathBuf, File, Metadata)>,
    /// Feeds a stream's bytes to the reading thread; ends with this source.
    pump: Option<AbortOnDropHandle<()>>,
    file_name: String,
    seen: Arc<Seen>,
}

/// What happened while it was read.
#[derive(Default)]
struct Seen {
    bytes: AtomicU64,
    error: Mutex<Option<io::Error>>,
}

impl Seen {
    fn failed(&self, error: io::Error) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl FileSource {
    /// `file_name` is what people call the file.
    pub(super) fn new(file: OpenFile, file_name: String) -> Self {
        Self { file: Some(file), watched: None, pump: None, file_name, seen: Arc::default() }
    }

    fn has_changed(&self) -> Option<String> {
        let (path, file, before) = self.watched.as_ref()?;
        let path = path.display();
        let now = match file.metadata() {
            Ok(now) => now,
            Err(error) => return Some(format!("cannot look at {path} again ({error})")),
        };
        let read = self.seen.bytes.load(Ordering::Acquire);
        if now.len() != before.len() || read != before.len() {
            let (before, now) = (before.len(), now.len().max(read));
            return Some(format!("{path} had {before} bytes when it was opened, and {now} when it was read"));
        }
        let is_touched = (now.mtime(), now.mtime_nsec()) != (before.mtime(), before.mtime_nsec());
        is_touched.then(|| format!("{path} was written to while it was read"))
    }
}

fn source_error(code: &'static str, message: String) -> SourceError {
    SourceError { message, may_pass: false, code }
}

#[async_trait]
impl Source for FileSource {
    async fn start(&mut self) -> Result<Box<dyn Read + Send>, SourceError> {
        let unreadable = |error: io::Error| source_error("file.unreadable", format!("cannot read the file ({error})"));
        let inner: Box<dyn Read + Send> = match self.file.take() {
            None => return Err(unreadable(io::Error::other("it was read before"))),
            Some(OpenFile::Path { path, file, seen }) => {
                self.watched = Some((path, file.try_clone().map_err(unreadable)?, seen));
                Box::new(file)
            }
            Some(OpenFile::Bytes(bytes)) => Box::new(Cursor::new(bytes)),
            Some(OpenFile::Reader(reader)) => {
                let (chunks, chunks_in) = mpsc::channel(CHUNKS);
                self.pump = Some(AbortOnDropHandle::new(tokio::spawn(pump(reader, chunks, Arc::clone(&self.seen)))));
                Box::new(Chunks { chunks: chunks_in, chunk: Bytes::new() })
            }
        };
        Ok(Box::new(Watched { inner, seen: Arc::clone(&self.seen) }))
    }

    async fn finish(mut self: Box<Self>) -> Result<SourceReport, SourceError> {
        let unreadable = |why: String| Err(source_error("file.unreadable", format!("cannot read the file ({why})")));
        if let Some(pump) = self.pump.take()
            && pump.await.is_err()
        {
            return unreadable("its reader panicked".to_owned());
        }
        if let Some(error) = self.seen.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return unreadable(error.to_string());
        }
        if let Some(message) = self.has_changed() {
            return Err(source_error("file.changed", message));
        }
        if self.seen.bytes.load(Ordering::Acquire) == 0 {
            return Err(source_error("file.empty", empty().message));
        }
        Ok(SourceReport { holds: Content::File(FileContent { file_name: self.file_name }) })
    }

    /// A stream that gives nothing lets the reading thread go when its pump is dropped.
    async fn abort(self: Box<Self>) {}
}

/// Counts what passes. An error becomes the end of the stream, which alone says nothing: it is told by [`FileSource::finish`].
struct Watched {
    inner: Box<dyn Read + Send>,
    seen: Arc<Seen>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.seen.bytes.fetch_add(read as u64, Ordering::Release);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.seen.failed(error);
                Ok(0)
            }
        }
    }
}

/// Reads a stream to its end, an error of it, or until nobody listens.
async fn pump(mut reader: Box<dyn AsyncRead + Send + Unpin>, chunks: mpsc::Sender<Bytes>, seen: Arc<Seen>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) if chunks.send(buffer.split().freeze()).await.is_err() => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return seen.failed(error),
        }
    }
}

/// What was pumped, for the reading thread.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let read = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
