//! A project's files: a directory, or what lies below a prefix in a bucket, as one tar archive. A thread walks and writes; the pipeline
//! reads at its own pace.

pub mod beneath;
mod bucket;
mod local;
pub mod member;
pub mod read;
pub mod tar;
pub mod walk;
pub mod write;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{Source, SourceError, SourceReport};
use crate::{
    manifest::{Content, FilesContent, FilesKind, NamedFiles},
    storage::Objects,
};

use self::{
    member::{Stamps, shown},
    walk::LeftOut,
    write::{BUFFER, Written},
};

/// Runs of bytes that wait for the pipeline.
const WAITING: usize = 4;

/// Where the files are.
#[derive(Clone, Debug)]
pub enum Origin {
    /// `roots` is as in [`beneath::Place::find`].
    Directory {
        directory: PathBuf,
        roots: Vec<PathBuf>,
    },
    Prefix {
        objects: Objects,
        prefix: String,
    },
}

/// One run over a project's files.
#[derive(Debug)]
pub struct Files {
    origin: Origin,
    scratch: PathBuf,
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<FilesContent, SourceError>>,
}

impl Files {
    /// A run that keeps what grows with the number of files below `scratch`, which is made when missing.
    pub fn new(origin: Origin, scratch: PathBuf) -> Self {
        Self { origin, scratch, run: None }
    }

    /// A private file without a name: it is gone with the run.
    fn list(&self) -> io::Result<File> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.scratch)?;
        tempfile::tempfile_in(&self.scratch)
    }
}

#[async_trait]
impl Source for Files {
    async fn start(&mut self) -> Result<Box<dyn Read + Send>, SourceError> {
        let list = self.list().map_err(|error| SourceError {
            message: format!("cannot make a temporary file in {} ({error})", self.scratch.display()),
            may_pass: false,
            code: "spool.failed",
        })?;
        let (sender, receiver) = sync_channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let pipe = PipeWriter { sender, gathered: Vec::with_capacity(BUFFER), stop: Arc::clone(&stop) };
        let origin = self.origin.clone();
        let runtime = tokio::runtime::Handle::current();
        let thread = tokio::task::spawn_blocking(move || match origin {
            Origin::Directory { directory, roots } => local::archive(&directory, &roots, list, pipe),
            Origin::Prefix { objects, prefix } => bucket::archive(&objects, &prefix, list, pipe, &runtime),
        });
        self.run = Some(Run { stop, thread });
        Ok(Box::new(PipeReader { receiver, chunk: Vec::new(), at: 0 }))
    }

    async fn finish(mut self: Box<Self>) -> Result<SourceReport, SourceError> {
        let failed = |message: String| SourceError { message, may_pass: true, code: "source.failed" };
        let run = self.run.take().ok_or_else(|| failed("the files were never read".to_owned()))?;
        let content = run
            .thread
            .await
            .map_err(|_| failed("the thread that reads the files stopped unexpectedly".to_owned()))??;
        Ok(SourceReport { holds: Content::Files(content) })
    }

    async fn abort(self: Box<Self>) {
        drop(self);
    }
}

/// The thread ends at its next write.
impl Drop for Files {
    fn drop(&mut self) {
        if let Some(run) = &self.run {
            run.stop.store(true, Ordering::Release);
        }
    }
}

/// What is told beside the archive.
#[derive(Default)]
struct Remarks {
    changed: NamedFiles,
    vanished: NamedFiles,
    left_out: NamedFiles,
    hard_linked: NamedFiles,
}

impl Remarks {
    fn add(&mut self, path: &[u8], why: LeftOut) {
        let named = match why {
            LeftOut::NoFile => &mut self.left_out,
            LeftOut::Vanished => &mut self.vanished,
            LeftOut::Changed => &mut self.changed,
            LeftOut::HardLinked => &mut self.hard_linked,
        };
        named.add(shown(path));
    }

    fn content(self, kind: FilesKind, written: &Written) -> FilesContent {
        let totals = written.totals;
        FilesContent {
            kind,
            directories: totals.directories,
            file_count: totals.files,
            link_count: totals.links,
            total_bytes: totals.bytes,
            data_bytes: totals.data_bytes,
            tree_sha256: written.tree,
            changed_while_read: self.changed,
            vanished: self.vanished,
            left_out: self.left_out,
            hard_linked: self.hard_linked,
        }
    }
}

/// Whether a restore of such files brings their times and permissions back.
pub const fn stamps(kind: FilesKind) -> Stamps {
    match kind {
        FilesKind::Directory => Stamps::Kept,
        FilesKind::Prefix => Stamps::Left,
    }
}

/// The archive's way out. Fails when nobody reads any more.
struct PipeWriter {
    sender: SyncSender<Vec<u8>>,
    gathered: Vec<u8>,
    stop: Arc<AtomicBool>,
}

impl PipeWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.stop.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.gathered.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.gathered, Vec::with_capacity(BUFFER));
        self.sender.send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BUFFER - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..taken]);
        if self.gathered.len() == BUFFER {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// The other end. It ends when the writer is gone, whether or not the archive was whole: `finish` tells.
struct PipeReader {
    receiver: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            let Ok(chunk) = self.receiver.recv() else { return Ok(0) };
            (self.chunk, self.at) = (chunk, 0);
        }
        let taken = buffer.len().min(self.chunk.len() - self.at);
        buffer[..taken].copy_from_slice(&self.chunk[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}
