//! Documents of a chat as objects are made of them: sent with their digest, found again by whichever bot asks, and given out only when
//! their SHA-256 agrees.

use std::{fmt, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{
    chat::{Chat, require_document},
    client::Outgoing,
    memory::IndexAt,
    shapes::RemoteFile,
};
use crate::{
    artifact::{Fingerprint, Sha256Digest},
    storage::{Error, ErrorKind, TelegramPart, ledger::Held},
};

pub(super) const MOST_READS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Where one document is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    pub chat_id: i64,
    pub message_id: i64,
    pub file_id: &'a str,
    pub file_unique_id: &'a str,
    pub bytes: u64,
    /// Known of everything but a pinned index, which carries a checksum itself.
    pub sha256: Option<Sha256Digest>,
}

impl<'a> Spot<'a> {
    pub fn of_part(chat_id: i64, part: &'a TelegramPart) -> Self {
        Self {
            chat_id,
            message_id: part.message_id,
            file_id: &part.file_id,
            file_unique_id: &part.file_unique_id,
            bytes: part.fingerprint.bytes,
            sha256: Some(part.fingerprint.sha256),
        }
    }

    pub fn of_index(at: &'a IndexAt) -> Self {
        Self {
            chat_id: at.chat_id,
            message_id: at.message_id,
            file_id: &at.file_id,
            file_unique_id: &at.file_unique_id,
            bytes: at.bytes,
            sha256: None,
        }
    }
}

impl fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of Telegram chat {}", self.message_id, self.chat_id)
    }
}

impl Chat {
    /// Sends a document and gives what finds it again, and the chat in which it is.
    pub async fn put(&self, held: &mut Held, document: &Outgoing, mark: &str) -> Result<(i64, TelegramPart), Error> {
        let bytes = document.bytes.clone();
        let fingerprint = blocking(move || Ok(Fingerprint::of(&bytes))).await?;
        let (chat_id, message) = self.send(held, document, mark).await?;
        let sent = match require_document(&message, fingerprint.bytes) {
            Ok(sent) => sent,
            Err(error) => {
                self.discard(chat_id, &[message.message_id]).await;
                return Err(error);
            }
        };
        let part = TelegramPart {
            message_id: message.message_id,
            file_id: sent.file_id,
            file_unique_id: sent.file_unique_id,
            fingerprint,
        };
        Ok((chat_id, part))
    }

    /// A document's bytes, which are what was sent. [`ErrorKind::NotFound`] when its message is gone, [`ErrorKind::Corrupt`] when they differ
    /// however often they are asked for.
    pub async fn fetch(&self, spot: Spot<'_>) -> Result<Bytes, Error> {
        let (begun, mut tries, mut pause) = (Instant::now(), 0, FIRST_PAUSE);
        loop {
            tries += 1;
            match self.fetch_once(spot).await {
                Err(error)
                    if tries < MOST_READS
                        && (error.kind == ErrorKind::Unavailable || error.kind == ErrorKind::Corrupt)
                        && begun.elapsed() + pause < self.time_for(spot.bytes) =>
                {
                    tracing::debug!(%error, "a document is read again");
                    sleep(pause).await;
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
    }

    async fn fetch_once(&self, spot: Spot<'_>) -> Result<Bytes, Error> {
        let file = self.locate(spot).await?;
        let bytes = self
            .download(&file, spot.bytes)
            .await
            .map_err(|error| error.explain(format_args!("cannot read {spot}")))?;
        if bytes.len() as u64 != spot.bytes {
            let context = format!("{spot} came as {} bytes of {}", bytes.len(), spot.bytes);
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let Some(expected) = spot.sha256 else { return Ok(bytes) };
        let (bytes, sha256) = blocking(move || Ok((bytes.clone(), Sha256Digest::of(&bytes)))).await?;
        if sha256 != expected {
            return Err(Error::new(ErrorKind::Corrupt, format!("{spot} has another SHA-256 than when it was sent")));
        }
        Ok(bytes)
    }

    /// Looks whether a document can be had and has its size, without downloading it.
    pub async fn check(&self, spot: Spot<'_>) -> Result<(), Error> {
        self.locate(spot).await.map(drop)
    }

    /// Asks where a document can be downloaded. A `file_id` belongs to one bot: for another, a copy of the message has a fresh one.
    async fn locate(&self, spot: Spot<'_>) -> Result<RemoteFile, Error> {
        let file = match self.file(spot.file_id).await {
            Ok(file) => file,
            Err(error) if error.is_file_unavailable() => self.locate_by_copy(spot).await?,
            Err(error) => return Err(error.explain(format_args!("cannot read {spot}"))),
        };
        match file.file_size {
            Some(size) if size != spot.bytes => {
                Err(Error::new(ErrorKind::Corrupt, format!("{spot} has {size} bytes where {} were sent", spot.bytes)))
            }
            _ => Ok(file),
        }
    }

    async fn locate_by_copy(&self, spot: Spot<'_>) -> Result<RemoteFile, Error> {
        let context = format!("cannot read {spot}");
        let copy = self.forward(spot.chat_id, spot.message_id).await.map_err(|error| error.explain(&context))?;
        let file = match &copy.document {
            Some(document) if document.file_unique_id == spot.file_unique_id => {
                self.file(&document.file_id).await.map_err(|error| error.explain(&context))
            }
            _ => Err(Error::new(ErrorKind::Corrupt, format!("{spot} no longer holds the document that was sent"))),
        };
        self.drop_copy(&copy).await;
        file
    }
}

/// Work on many bytes, beside the reactor.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable, "work stopped unexpectedly").with_source(error)))
}
