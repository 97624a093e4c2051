//! What a copy holds, for whoever may have it: its stored bytes, decrypted and decompressed as they come.

use std::io::{self, Read};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{
    app::App,
    artifact::Fingerprint,
    history::Backup,
    storage::ByteStream,
    transform::{CheckedReader, DecodeError, decode},
};

/// Bytes that are decoded at once.
const PIECE: usize = 256 << 10;

/// Pieces that wait for their reader.
const PIECES: usize = 4;

/// How many are decoded at once in this process: each holds a thread for as long as its reader takes.
static ROOM: Semaphore = Semaphore::const_new(32);

/// Why a content is not given out.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("as many backups as may be are being decrypted by this process")]
    Busy,
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Turns the stored bytes of a copy into its content. Encrypted bytes are authenticated before one of them is given out. The stream fails at
/// its end unless size and digest of the content are those on record, so whoever passes it on must not call it whole before.
///
/// # Errors
/// No key here opens it, its beginning cannot be read, or too many are read already.
pub async fn decoded(
    app: &App,
    backup: &Backup,
    stored: ByteStream,
) -> Result<BoxStream<'static, io::Result<Bytes>>, ContentError> {
    let encoding = backup.encoding().map_err(|error| DecodeError::Header(error.to_string()))?;
    let expected = expected(backup);
    let identities = app.keys.identities.clone();
    let stored = SyncIoBridge::new(StreamReader::new(stored.map_err(io::Error::other)));
    let (pieces, mut come) = mpsc::channel(PIECES);
    let (opened, is_open) = oneshot::channel();
    let Ok(place) = ROOM.try_acquire() else { return Err(ContentError::Busy) };
    let work = tokio::task::spawn_blocking(move || {
        let _place = place;
        let content = match decode(&encoding, &identities, Box::new(stored)) {
            Ok(content) => content,
            Err(error) => return drop(opened.send(Err(error))),
        };
        let _ = opened.send(Ok(()));
        match expected {
            Some(expected) => pass_on(CheckedReader::new(content, expected), &pieces),
            None => pass_on(content, &pieces),
        }
    });
    is_open.await.map_err(|_| DecodeError::Io(io::Error::other("the decoder broke off")))??;
    let pieces = stream::poll_fn(move |context| come.poll_recv(context));
    // One that broke off has not looked at the end.
    let broke_off = stream::once(work).filter_map(|ended| async move { ended.err().map(|e| Err(io::Error::other(e))) });
    Ok(pieces.chain(broke_off).boxed())
}

/// What the record says of the content. `None`: nothing, as of a file that another program has handed over.
fn expected(backup: &Backup) -> Option<Fingerprint> {
    let bytes = u64::try_from(backup.content_size?).ok()?;
    Some(Fingerprint { bytes, sha256: backup.content_sha256.as_deref()?.parse().ok()? })
}

/// Until the end, an error, or nobody listens any more.
fn pass_on(mut content: impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match content.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => Ok(Bytes::copy_from_slice(&buffer[..read])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_over = piece.is_err();
        if pieces.blocking_send(piece).is_err() || is_over {
            return;
        }
    }
}
