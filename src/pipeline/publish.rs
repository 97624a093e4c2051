//! What every upload ends with: a commit whose answer may be lost, and a look at what the storage has.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    artifact::{ArtifactName, Fingerprint},
    storage::{Error, ErrorKind, Locator, Storage, Upload, fingerprint},
};

/// How long clearing away may take after everything else went wrong; beyond it the sweep does it.
pub(super) const ABORT_DEADLINE: Duration = Duration::from_secs(30);

/// How thoroughly a copy is read back after its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The size, as the storage tells it.
    Size,
    /// Every byte.
    Full,
}

/// Whether a storage showed what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// It has what was sent.
    Agreed,
    /// It confirmed the commit, and our key may not read.
    Denied,
}

/// Clears one upload away, with a deadline of its own.
pub(super) async fn abort(upload: Box<dyn Upload>) {
    if timeout(ABORT_DEADLINE, upload.abort()).await.is_err() {
        tracing::warn!("an upload was not cleared away in time; the sweep will do it");
    }
}

/// Publishes an upload. A commit whose answer was lost counts when the object that has the name is, byte for byte, ours.
pub(super) async fn commit(
    storage: &dyn Storage,
    upload: Box<dyn Upload>,
    name: &ArtifactName,
    stored: Fingerprint,
) -> Result<Locator, Error> {
    match upload.commit().await {
        Err(error) if error.kind.may_pass() => published_anyway(storage, name, stored).await.ok_or(error),
        other => other,
    }
}

async fn published_anyway(storage: &dyn Storage, name: &ArtifactName, stored: Fingerprint) -> Option<Locator> {
    let locator = storage.find(name).await.ok()??;
    compare(storage, &locator, stored, Check::Full).await.ok()?;
    Some(locator)
}

/// Asks a storage what it has under a locator that it just gave. A key that may only write is told so by [`ReadBack::Denied`].
pub(super) async fn read_back(
    storage: &dyn Storage,
    at: &Locator,
    stored: Fingerprint,
    check: Check,
) -> Result<ReadBack, Error> {
    match compare(storage, at, stored, check).await {
        Ok(()) => Ok(ReadBack::Agreed),
        Err(error) if error.kind == ErrorKind::Denied => Ok(ReadBack::Denied),
        Err(error) => Err(error),
    }
}

async fn compare(storage: &dyn Storage, at: &Locator, stored: Fingerprint, check: Check) -> Result<(), Error> {
    let bytes = storage.stat(at).await?.bytes;
    if bytes != stored.bytes {
        let context = format!("the copy has {bytes} bytes where {} were sent", stored.bytes);
        return Err(Error::new(ErrorKind::Corrupt, context));
    }
    if check == Check::Full && fingerprint(storage, at).await? != stored {
        return Err(Error::new(ErrorKind::Corrupt, "the copy reads back with another SHA-256"));
    }
    Ok(())
}
