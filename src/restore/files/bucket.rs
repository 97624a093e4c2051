//! An archive into objects below a prefix of their own.

use std::io::{self, Read};

use bytes::Bytes;
use futures::stream;
use tokio::{runtime::Handle, sync::mpsc};

use super::{super::RestoreError, Extraction};
use crate::{
    source::files::{
        member::{Kind, Stamps, shown},
        read::ArchiveReader,
        tar::refused,
    },
    storage::{self, ErrorKind, Objects},
};

/// Pieces of one object that wait to be sent.
const WAITING: usize = 4;

/// What goes to the task that writes one object: without an end it is no object.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Writes the archive's files below `prefix`. Blocks, and waits for the bucket on `runtime`.
///
/// # Errors
/// `restore.archive_refused` for an archive that Holdfast would not have written; whatever the bucket says.
pub fn extract_to_prefix(
    objects: &Objects,
    prefix: &str,
    input: impl Read,
    how: &Extraction<'_>,
    runtime: &Handle,
) -> Result<(), RestoreError> {
    let mut archive = ArchiveReader::new(input, Stamps::Left, how.content.total_bytes);
    let mut written = 0;
    while let Some(member) = archive.next_member()? {
        if how.cancel.is_cancelled() {
            return Err(RestoreError::cancelled());
        }
        let Kind::File { size, pieces } = &member.kind else {
            return Ok(refused(format!("{} is no file", shown(&member.path)))?);
        };
        let is_whole = pieces.iter().map(|piece| piece.bytes).sum::<u64>() == *size;
        let (Ok(path), true) = (std::str::from_utf8(&member.path), is_whole) else {
            return Ok(refused(format!("{} cannot be an object", shown(&member.path)))?);
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        let (to, key, size) = (objects.clone(), format!("{prefix}/{path}"), *size);
        let broken = || storage::Error::new(ErrorKind::Invalid, "the archive broke off");
        let pieces = Box::pin(stream::try_unfold(receiver, move |mut receiver| async move {
            match receiver.recv().await {
                Some(Piece::Bytes(bytes)) => Ok(Some((bytes, receiver))),
                Some(Piece::End) => Ok(None),
                None => Err(broken()),
            }
        }));
        let sending = runtime.spawn(async move { to.write(&key, size, pieces).await });
        let fed = archive.content(|_, bytes| {
            if how.cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            written += bytes.len() as u64;
            (how.progress)(written);
            // Closed early: the task failed, and says why.
            let sent = sender.blocking_send(Piece::Bytes(Bytes::copy_from_slice(bytes)));
            sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
        });
        if fed.is_ok() {
            _ = sender.blocking_send(Piece::End); // a task that failed says why
        }
        drop(sender);
        let sent = runtime.block_on(sending);
        let broke_off = matches!(&fed, Err(crate::source::files::tar::ArchiveError::Read(e)) if e.kind() == io::ErrorKind::BrokenPipe);
        if !broke_off {
            fed?;
        }
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(of_storage(&error)),
            Err(_) => {
                return Err(RestoreError::passing("restore.failed", "writing to the bucket stopped unexpectedly"));
            }
        }
    }
    if archive.tree() != how.content.tree_sha256 {
        let message = "the archive does not hold what its manifest says";
        return Err(RestoreError::new("restore.archive_refused", message));
    }
    Ok(())
}

/// Removes every object below a prefix.
pub async fn remove_prefix(objects: &Objects, prefix: &str) -> Result<(), RestoreError> {
    let mut pending = vec![format!("{prefix}/")];
    while let Some(prefix) = pending.pop() {
        let (found, below) = objects.list(&prefix).await.map_err(|error| of_storage(&error))?;
        pending.extend(below);
        for listed in found {
            objects.remove(&listed.key).await.map_err(|error| of_storage(&error))?;
        }
    }
    Ok(())
}

fn of_storage(error: &storage::Error) -> RestoreError {
    let make = if error.kind.may_pass() { RestoreError::passing } else { RestoreError::new };
    make("restore.bucket", format!("{error:#}"))
}
