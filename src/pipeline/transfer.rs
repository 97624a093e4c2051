//! One more copy from one that is there: storage → storage, without a file between them. Memory is two parts of the target's size.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{
    PIECE,
    publish::{Check, ReadBack, abort, commit, read_back},
};
use crate::{
    artifact::Fingerprint,
    storage::{self, ByteStream, Error, ErrorKind, Locator, NewObject, Storage, Upload},
    transform::Fingerprinter,
};

/// Why there is no new copy. Nothing unfinished is left; what was published and does not read back is left where it is, for the holder of
/// the job's lease to delete.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The source did not give all bytes.
    #[error("{0:#}")]
    Source(Error),
    /// The source gave other bytes than those that were recorded.
    #[error("the stored artifact is damaged: {0}")]
    Damaged(String),
    #[error("{0:#}")]
    Target(Error),
    #[error("cancelled")]
    Cancelled,
}

/// Copies an object, cut into parts as the target likes them. It gets its final name only after the digest of all bytes agreed with
/// `stored`. `progress` hears the bytes written so far.
pub async fn transfer(
    from: (&dyn Storage, &Locator),
    to: &dyn Storage,
    new: NewObject<'_>,
    stored: Fingerprint,
    check: Check,
    progress: &(dyn Fn(u64) + Send + Sync),
    cancel: &CancellationToken,
) -> Result<(Locator, ReadBack), TransferError> {
    let limits = to.limits();
    if let Some(most) = limits.artifact.filter(|most| stored.bytes > most.0) {
        let context = format!("cannot store {} bytes where an artifact may have {most}", stored.bytes);
        return Err(TransferError::Target(Error::new(ErrorKind::TooLarge, context)));
    }
    let begin = async {
        let chunks = from.0.open(from.1, None).await.map_err(at_source)?;
        let upload = to.create(new).await.map_err(TransferError::Target)?;
        Ok((chunks, upload))
    };
    let (mut chunks, mut upload) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(TransferError::Cancelled),
        begun = begin => begun?,
    };
    let part = usize::try_from(limits.part.min(PIECE).0).unwrap_or(usize::MAX).max(1);
    let moved = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(TransferError::Cancelled),
        moved = pass_on(&mut chunks, upload.as_mut(), part, stored, progress) => moved,
    };
    if let Err(error) = moved {
        abort(upload).await;
        return Err(error);
    }
    let at = commit(to, upload, new.name, stored).await.map_err(TransferError::Target)?;
    let read = read_back(to, &at, stored, check).await.map_err(TransferError::Target)?;
    Ok((at, read))
}

/// What went wrong while reading. That something else lies there, or nothing, is damage; everything else says nothing about the bytes.
fn at_source(error: Error) -> TransferError {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::Corrupt => TransferError::Damaged(error.to_string()),
        _ => TransferError::Source(error),
    }
}

/// Moves all bytes, and compares them with what was recorded.
async fn pass_on(
    chunks: &mut ByteStream,
    upload: &mut dyn Upload,
    part: usize,
    stored: Fingerprint,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), TransferError> {
    let mut digest = Fingerprinter::default();
    let mut gathered = BytesMut::new();
    while let Some(mut chunk) = chunks.try_next().await.map_err(at_source)? {
        while !chunk.is_empty() {
            // A large chunk is passed on as it is: a storage may give a whole part of its own at once.
            let next = if gathered.is_empty() && chunk.len() >= part {
                chunk.split_to(part)
            } else {
                if gathered.is_empty() {
                    gathered.reserve(part);
                }
                let missing = part - gathered.len();
                gathered.extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
                if gathered.len() < part {
                    continue;
                }
                std::mem::take(&mut gathered).freeze()
            };
            digest = put_next(upload, digest, next, stored).await?;
            progress(digest.bytes());
        }
    }
    if !gathered.is_empty() {
        digest = put_next(upload, digest, gathered.freeze(), stored).await?;
        progress(digest.bytes());
    }
    let found = digest.finish();
    if found.bytes != stored.bytes {
        return Err(TransferError::Damaged(format!("it has {} of {} bytes", found.bytes, stored.bytes)));
    }
    if found.sha256 != stored.sha256 {
        return Err(TransferError::Damaged(format!("its SHA-256 is {} and not {}", found.sha256, stored.sha256)));
    }
    Ok(())
}

async fn put_next(
    upload: &mut dyn Upload,
    digest: Fingerprinter,
    next: Bytes,
    stored: Fingerprint,
) -> Result<Fingerprinter, TransferError> {
    if digest.bytes() + next.len() as u64 > stored.bytes {
        let limit = stored.bytes;
        return Err(TransferError::Damaged(format!("it goes on after the {limit} bytes that were recorded")));
    }
    put(upload, digest, next).await
}

/// Writes a part while it is digested on another thread.
async fn put(upload: &mut dyn Upload, mut digest: Fingerprinter, part: Bytes) -> Result<Fingerprinter, TransferError> {
    let bytes = part.clone();
    let digested = spawn_blocking(move || {
        digest.update(&bytes);
        digest
    });
    let (written, digested) = tokio::join!(upload.put(part), digested);
    written.map_err(TransferError::Target)?;
    digested.map_err(|e| {
        let error = storage::Error::new(ErrorKind::Unavailable, "cannot digest the bytes").with_source(e);
        TransferError::Source(error)
    })
}
