//! Getting a backup back: the stored bytes go to a private file and are all compared before anyone reads one; then they are read as
//! content, which is compared again at its end.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::TryStreamExt;
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{
    artifact::{Compression, Encoding, Fingerprint},
    byte_size::ByteSize,
    storage::{self, Locator, Storage},
    transform::{CheckedReader, DecodeError, Fingerprinter, Identities, decode},
};

/// Why stored bytes could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:#}")]
    Storage(#[from] storage::Error),
    #[error("no space in {}: {needed} are needed", directory.display())]
    NoSpace { directory: PathBuf, needed: ByteSize },
    #[error("cannot write to {} ({source})", directory.display())]
    Io { directory: PathBuf, source: io::Error },
    /// What came is not what was recorded.
    #[error("the stored artifact is damaged: {0}")]
    Damaged(String),
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    /// A stable word for logs, answers and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Storage(error) => error.kind.code(),
            Self::NoSpace { .. } => "spool.full",
            Self::Io { .. } => "spool.failed",
            Self::Damaged(_) => "artifact.damaged",
            Self::Cancelled => "job.cancelled",
        }
    }

    /// Whether the same attempt may succeed later without anyone's help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Storage(error) => error.kind.may_pass(),
            Self::NoSpace { .. } | Self::Io { .. } | Self::Damaged(_) | Self::Cancelled => false,
        }
    }
}

/// Stored bytes in a private file without a name: it is gone with the last one who holds it, however that one ends.
#[derive(Clone, Debug)]
pub struct Spooled {
    file: Arc<File>,
    stored: Fingerprint,
}

impl Spooled {
    /// What was fetched and compared.
    pub fn stored(&self) -> Fingerprint {
        self.stored
    }

    /// Reads the stored bytes from the beginning. Readers do not disturb each other.
    pub fn reader(&self) -> impl Read + Send + 'static {
        SpoolReader { file: Arc::clone(&self.file), at: 0 }
    }
}

struct SpoolReader {
    file: Arc<File>,
    at: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Fetches an object into a private file below `directory` (made with mode 0700 when missing) and compares length and SHA-256 of all
/// its bytes with `expected`. `progress` hears the bytes fetched so far.
pub async fn spool(
    storage: &dyn Storage,
    at: &Locator,
    expected: Fingerprint,
    directory: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
    cancel: &CancellationToken,
) -> Result<Spooled, FetchError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(FetchError::Cancelled),
        result = fetch(storage, at, expected, directory, progress) => result,
    }
}

async fn fetch(
    storage: &dyn Storage,
    at: &Locator,
    expected: Fingerprint,
    directory: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Spooled, FetchError> {
    let place = directory.to_owned();
    let file = spawn_blocking(move || private_file(&place, ByteSize(expected.bytes)))
        .await
        .map_err(|e| FetchError::Io { directory: directory.to_owned(), source: io::Error::other(e) })??;
    let mut chunks = storage.open(at, None).await?;
    // One thread writes and digests while the next chunk is fetched.
    let (to_writer, from_here) = mpsc::channel::<bytes::Bytes>(4);
    let place = directory.to_owned();
    let writer = spawn_blocking(move || write(file, from_here, &place, ByteSize(expected.bytes)));
    let mut fetched = 0;
    let mut closed = false;
    while !closed && let Some(chunk) = chunks.try_next().await? {
        fetched += chunk.len() as u64;
        if fetched > expected.bytes {
            let limit = expected.bytes;
            return Err(FetchError::Damaged(format!("it goes on after the {limit} bytes that were recorded")));
        }
        // Closed early: the writer failed and says why.
        closed = to_writer.send(chunk).await.is_err();
        progress(fetched);
    }
    drop(to_writer);
    let (file, found) =
        writer.await.map_err(|e| FetchError::Io { directory: directory.to_owned(), source: io::Error::other(e) })??;
    if found.bytes != expected.bytes {
        return Err(FetchError::Damaged(format!("it has {} of {} bytes", found.bytes, expected.bytes)));
    }
    if found.sha256 != expected.sha256 {
        return Err(FetchError::Damaged(format!("its SHA-256 is {} and not {}", found.sha256, expected.sha256)));
    }
    Ok(Spooled { file: Arc::new(file), stored: found })
}

/// A file without a name and mode 0600, where there is room for it.
fn private_file(directory: &Path, needed: ByteSize) -> Result<File, FetchError> {
    let failed = |source| FetchError::Io { directory: directory.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let stat = rustix::fs::statvfs(directory).map_err(|e| failed(e.into()))?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < needed.0 {
        return Err(FetchError::NoSpace { directory: directory.to_owned(), needed });
    }
    tempfile::tempfile_in(directory).map_err(failed)
}

fn write(
    mut file: File,
    mut chunks: mpsc::Receiver<bytes::Bytes>,
    directory: &Path,
    needed: ByteSize,
) -> Result<(File, Fingerprint), FetchError> {
    let mut seen = Fingerprinter::default();
    while let Some(chunk) = chunks.blocking_recv() {
        file.write_all(&chunk).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                FetchError::NoSpace { directory: directory.to_owned(), needed }
            }
            _ => FetchError::Io { directory: directory.to_owned(), source },
        })?;
        seen.update(&chunk);
    }
    Ok((file, seen.finish()))
}

/// Reads a spooled artifact as content. The reader blocks, and fails at its end unless size and digest of the content are as expected.
pub fn content(
    spooled: &Spooled,
    encoding: &Encoding,
    identities: &Identities,
    expected: Fingerprint,
) -> Result<Box<dyn Read + Send>, DecodeError> {
    let reader = decode(encoding, identities, Box::new(spooled.reader()))?;
    Ok(Box::new(CheckedReader::new(reader, expected)))
}

/// Reads the content once to its end and throws it away: every byte decrypted, decompressed and compared. Blocks.
pub fn check(
    spooled: &Spooled,
    encoding: &Encoding,
    identities: &Identities,
    expected: Fingerprint,
) -> Result<(), DecodeError> {
    drain(content(spooled, encoding, identities, expected)?)
}

/// Checks the encryption's authentication of all bytes, without decompressing. Nothing to check where the artifact is not encrypted. Blocks.
pub fn check_seal(spooled: &Spooled, encoding: &Encoding, identities: &Identities) -> Result<(), DecodeError> {
    let sealed = Encoding { compression: Compression::None, ..*encoding };
    drain(decode(&sealed, identities, Box::new(spooled.reader()))?)
}

fn drain(mut reader: Box<dyn Read + Send>) -> Result<(), DecodeError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
