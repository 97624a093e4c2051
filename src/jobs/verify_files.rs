//! What a backup of files is worth: read to its end, extracted for a trial, and compared with what its manifest says.

use std::{
    ffi::OsStr,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;
use tokio::task::spawn_blocking;

use super::{
    context::{JobContext, JobError},
    copies::{self, CopyFault},
    restore_files::{blocking, extract},
    trial_restore::Trial,
};
use crate::{
    artifact::Encoding,
    history::Backup,
    ids::RestoreId,
    manifest::{Content, FilesContent, FilesKind, Manifest},
    pipeline::{self, Spooled},
    restore::files::FilesPlan,
    source::{
        Source as _,
        files::{
            Files, Origin,
            beneath::{self, Place},
            read, stamps,
            tar::ArchiveError,
        },
    },
};

/// Reads what was restored as for a backup, and compares it with the manifest.
pub(super) async fn compare(context: &JobContext, content: &FilesContent, origin: Origin) -> Result<(), JobError> {
    let mut source = Box::new(Files::new(origin, context.app.config.data_dir.join("spool")));
    let mut reader = source.start().await?;
    let read = spawn_blocking(move || {
        let mut buffer = vec![0; 256 << 10];
        while reader.read(&mut buffer)? > 0 {}
        Ok::<_, std::io::Error>(())
    });
    let read = tokio::select! {
        read = read => read.map_err(|error| JobError::retry("worker.panic", error))?,
        // The thread that writes ends by this, and then the one that reads.
        () = context.stop.token.cancelled() => {
            source.abort().await;
            return Err(JobError::Stopped);
        }
    };
    read.map_err(|error| JobError::retry("restore.failed", error))?;
    let Content::Files(found) = source.finish().await?.holds else {
        return Err(JobError::fail("restore.failed", "what was restored is no directory of files"));
    };
    if found.tree_sha256 == content.tree_sha256 {
        return Ok(());
    }
    let told =
        |c: &FilesContent| format!("{} files and {} links of {} bytes", c.file_count, c.link_count, c.total_bytes);
    let message =
        format!("what was restored does not read back as it was stored: {}, not {}", told(&found), told(content));
    Err(JobError::fail("restore.differs", message))
}

/// Reads a spooled archive to its end: digest of the content, every member, the tree's digest.
pub(super) async fn read_through(
    context: &JobContext,
    spooled: Spooled,
    manifest: &Manifest,
    content: &FilesContent,
) -> Result<(), CopyFault> {
    let keys = Arc::clone(&context.app.keys);
    let (encoding, expected, content): (Encoding, _, _) =
        (manifest.head.encoding, manifest.body.content, content.clone());
    let stop = context.stop.token.clone();
    let checked = spawn_blocking(move || {
        let damaged = |error: ArchiveError| match stop.is_cancelled() {
            true => CopyFault::Other(JobError::Stopped),
            false => CopyFault::Damaged(error.to_string()),
        };
        let input = pipeline::content(&spooled, &encoding, &keys.identities, expected).map_err(copies::of_decoding)?;
        let found = read::check(input, stamps(content.kind), content.total_bytes, || stop.is_cancelled());
        let found = found.map_err(damaged)?;
        if found.tree != content.tree_sha256 {
            return Err(CopyFault::Damaged("the archive does not hold what its manifest says".to_owned()));
        }
        Ok(())
    });
    checked.await.map_err(|error| CopyFault::Other(JobError::retry("worker.panic", error)))?
}

/// Extracts into a scratch directory, compares, and removes it again.
pub(super) async fn trial(
    context: &JobContext,
    backup: &Backup,
    manifest: &Manifest,
    content: &FilesContent,
) -> Result<Result<Trial, JobError>, JobError> {
    if content.kind == FilesKind::Prefix {
        let message = "a backup of a bucket's objects is not restored for a trial: verify it with depth read";
        return Ok(Err(JobError::fail("verify.bucket", message)));
    }
    let begun = Instant::now();
    let spooled = copies::fetch(context, backup, manifest).await?;
    let below = context.app.config.data_dir.join("spool");
    let scratch = spawn_blocking(move || {
        sweep(&below);
        Scratch::make(&below)
    });
    let scratch = scratch.await.map_err(|error| JobError::retry("worker.panic", error))?;
    let scratch = scratch.map_err(|error| JobError::fail("spool.failed", error))?;
    // The live directory of this plan is the scratch one, which nobody swaps.
    let live = scratch.path.join("files");
    std::fs::create_dir(&live).map_err(|error| JobError::fail("spool.failed", error))?;
    let id = RestoreId::generate();
    let here = live.clone();
    let plan = blocking(move || FilesPlan::directory(id, &Place::find(&here, &[])?)).await?;
    let limit = Duration::from_secs(context.app.config.restore.timeout_seconds);
    context.stage("extracting").await;
    if let Err(error) = extract(context, &plan, &live, &[], manifest, content, spooled, limit).await {
        return Ok(Err(error));
    }
    context.stage("comparing").await;
    let staged = live.with_file_name(plan.staged());
    let compared = compare(context, content, Origin::Directory { directory: staged, roots: Vec::new() }).await;
    let differences = match compared {
        Ok(()) => Vec::new(),
        Err(JobError::Fail { code: "restore.differs", message }) => vec![message],
        Err(error) => return Ok(Err(error)),
    };
    _ = spawn_blocking(move || drop(scratch)).await; // a tree takes a while to remove
    Ok(Ok(Trial { differences, seconds: begun.elapsed().as_secs_f64() }))
}

/// How the directories of trials are called.
const SCRATCH: &str = "hf-trial-";

/// A directory for one trial, removed with it. Its lock says that the trial goes on.
struct Scratch {
    path: PathBuf,
    locked: OwnedFd,
}

impl Scratch {
    fn make(below: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(below)?;
        let path = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(below)?.keep();
        let locked = OwnedFd::from(std::fs::File::open(&path)?);
        rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, locked })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = Place::find(&self.path, &[])
            .map_err(|error| error.to_string())
            .and_then(|place| beneath::remove_tree(&place.parent, &place.name).map_err(beneath::cause));
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), error, "cannot remove what a trial left");
        }
        _ = rustix::fs::flock(&self.locked, FlockOperation::Unlock);
    }
}

/// Removes what trials left whose process was killed: their locks went with it.
fn sweep(below: &Path) {
    let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| is_scratch(path)) {
        let Ok(opened) = std::fs::File::open(&path).map(OwnedFd::from) else { continue };
        // One that is being made is not locked yet, and is empty.
        let is_in_use = rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive).is_err()
            || beneath::names(&opened).is_ok_and(|names| names.is_empty());
        if !is_in_use {
            drop(Scratch { path, locked: opened });
        }
    }
}

fn is_scratch(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(SCRATCH))
}
