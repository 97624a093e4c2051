//! An upload: parts go out as documents as soon as one is full, the object becomes visible with the index that names it.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{
    TelegramStorage,
    client::Outgoing,
    documents::{Spot, blocking},
    index::{Entry, PartList, Place},
    memory::UploadNote,
    names,
    pinned::Change,
};
use crate::{
    artifact::{ArtifactName, MANIFEST_SUFFIX},
    ids::LeaseToken,
    storage::{Error, ErrorKind, Locator, NewObject, TelegramPart, Upload},
};

/// How an encrypted artifact begins: github.com/C2SP/C2SP, age.md.
const AGE: &[u8] = b"age-encryption.org/v1\n";

pub(super) struct TelegramUpload {
    storage: TelegramStorage,
    key: ArtifactName,
    words: Option<String>,
    id: LeaseToken,
    attempt: LeaseToken,
    /// What waits to fill a part.
    buffer: BytesMut,
    parts: Vec<TelegramPart>,
    note: Option<UploadNote>,
    bytes: u64,
}

impl TelegramUpload {
    pub fn new(storage: TelegramStorage, new: NewObject<'_>) -> Self {
        Self {
            storage,
            key: new.name.clone(),
            words: new.caption.map(str::to_owned),
            id: LeaseToken::generate(),
            attempt: new.attempt,
            buffer: BytesMut::new(),
            parts: Vec::new(),
            note: None,
            bytes: 0,
        }
    }

    fn part_bytes(&self) -> usize {
        usize::try_from(self.storage.part.0).unwrap_or(usize::MAX)
    }

    /// Refuses what is not encrypted, unless the configuration takes it. Manifests have a head for everyone; their bodies are encrypted
    /// when their artifacts are.
    fn require_ciphertext(&self, first: &[u8]) -> Result<(), Error> {
        if self.storage.allow_plaintext || self.key.as_str().ends_with(MANIFEST_SUFFIX) || first.starts_with(AGE) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, format!("cannot store {}: it is not encrypted", self.key))
            .with_hint("Whoever reads the chat would read it, and Telegram too: encrypt, or set allow_plaintext."))
    }

    /// Sends one full part, or the last one.
    async fn send_part(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.parts.is_empty() {
            self.require_ciphertext(&bytes)?;
        }
        let number = self.parts.len() + 1;
        let words = self.words.clone().filter(|_| number == 1);
        let file_name = names::part(&names::stem(&self.key), number);
        let part = self.send(file_name, words.as_deref(), &number.to_string(), bytes).await?;
        self.parts.push(part);
        Ok(())
    }

    /// Sends a document of this upload; the ledger knows of it before and after.
    async fn send(
        &mut self,
        file_name: String,
        words: Option<&str>,
        what: &str,
        bytes: Bytes,
    ) -> Result<TelegramPart, Error> {
        let chat = &self.storage.chat;
        let chat_id = chat.id().await?;
        let note = self.note.get_or_insert_with(|| UploadNote {
            upload: self.id,
            attempt: self.attempt,
            key: self.key.clone(),
            chat_id,
            after: chat.newest(),
            messages: Vec::new(),
        });
        if note.messages.is_empty() {
            chat.memory.put(&note.ledger_key(), &*note).await?;
        }
        let mark = names::mark(self.id, what);
        let document = Outgoing { file_name, caption: names::caption(words, self.key.as_str(), &mark), bytes };
        let (arrived_in, part) = {
            let mut held = chat.memory.hold(chat_id).await?;
            chat.memory.require_upload(&note.ledger_key()).await?;
            let (arrived_in, part) = chat.put(&mut held, &document, &mark).await?;
            drop(document);
            if note.messages.is_empty() {
                note.chat_id = arrived_in;
            } else if arrived_in != note.chat_id {
                chat.discard(arrived_in, &[part.message_id]).await;
                let context =
                    format!("cannot store {}: Telegram chat {} has become {arrived_in}", self.key, note.chat_id);
                return Err(Error::new(ErrorKind::Unavailable, context));
            }
            note.messages.push(part.message_id);
            chat.memory.put(&note.ledger_key(), &*note).await?;
            (arrived_in, part)
        };
        // Whether what this bot sends can be read back at all is known after its first document.
        if !self.storage.proven.load(Ordering::Relaxed) {
            chat.fetch(Spot::of_part(arrived_in, &part)).await?;
            self.storage.proven.store(true, Ordering::Relaxed);
        }
        Ok(part)
    }

    async fn finish(&mut self) -> Result<Locator, Error> {
        if !self.buffer.is_empty() {
            let last = std::mem::take(&mut self.buffer).freeze();
            self.send_part(last).await?;
        }
        let chat_id = match &self.note {
            Some(note) => note.chat_id,
            None => self.storage.chat.id().await?,
        };
        let place = match self.parts.as_slice() {
            [] | [_] => Place::Parts(self.parts.clone()),
            [first, ..] => {
                let first_message_id = first.message_id;
                let list = PartList { key: self.key.clone(), parts: self.parts.clone() };
                let bytes = blocking(move || list.encode()).await?;
                if bytes.len() as u64 > self.storage.part.0 {
                    let context = format!("cannot store {}: it has {} parts", self.key, self.parts.len());
                    return Err(Error::new(ErrorKind::TooLarge, context));
                }
                let name = names::list(&names::stem(&self.key));
                let document = self.send(name, Some("Lists the parts above."), "list", bytes).await?;
                Place::List { first_message_id, document }
            }
        };
        let entry = Entry::new(self.key.clone(), self.bytes, chat_id, place);
        let note = self.note.as_ref().map(UploadNote::ledger_key);
        self.storage
            .pinned
            .publish(note.as_deref(), |index| match index.get(&entry.key) {
                // Of an earlier try, which another index has taken over.
                Some(known) if *known == entry && entry.first_message().is_some() => Ok(Change::None),
                Some(_) => Err(Error::new(ErrorKind::Exists, format!("cannot publish {}", entry.key))),
                None => {
                    index.insert(entry.clone());
                    Ok(Change::Made)
                }
            })
            .await?;
        Ok(entry.locator(Some(self.parts.clone())))
    }

    /// Deletes what was sent. What cannot be deleted now stays written down for the sweep.
    async fn clear_away(&mut self) {
        let Some(note) = &self.note else { return };
        let chat = &self.storage.chat;
        let outcome = async {
            let left = chat.delete(note.chat_id, &note.messages).await?;
            if left.is_empty() { chat.memory.remove(&note.ledger_key()).await } else { Ok(()) }
        };
        if let Err(error) = outcome.await {
            tracing::warn!(key = %self.key, %error, "an upload is not cleared away; the sweep will do it");
        }
    }
}

#[async_trait]
impl Upload for TelegramUpload {
    async fn put(&mut self, mut part: Bytes) -> Result<(), Error> {
        let total = self.bytes + part.len() as u64;
        if part.len() > self.part_bytes() || self.storage.max_artifact.is_some_and(|most| total > most.0) {
            let most = self.storage.max_artifact.filter(|most| total > most.0).unwrap_or(self.storage.part);
            return Err(Error::new(ErrorKind::TooLarge, format!("cannot store {} in pieces beyond {most}", self.key)));
        }
        self.bytes = total;
        while !part.is_empty() {
            if self.buffer.is_empty() {
                // Whole at once, so that it never moves; of what is not written to, no memory is taken.
                self.buffer.reserve(self.part_bytes());
            }
            let room = self.part_bytes() - self.buffer.len();
            self.buffer.extend_from_slice(&part.split_to(room.min(part.len())));
            if self.buffer.len() == self.part_bytes() {
                // Taken, not split off: what is left of a split buffer would hold the memory of a part that is long sent.
                let full = std::mem::take(&mut self.buffer).freeze();
                self.send_part(full).await?;
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Locator, Error> {
        match self.finish().await {
            Ok(at) => {
                if let Some(note) = &self.note
                    && let Err(error) = self.storage.chat.memory.remove(&note.ledger_key()).await
                {
                    tracing::warn!(key = %self.key, %error, "a finished upload stays written down until the sweep sees it");
                }
                Ok(at)
            }
            // It may have become visible all the same: only the sweep, which asks the index, may delete.
            Err(error) if error.kind.may_pass() => Err(error),
            Err(error) => {
                self.clear_away().await;
                Err(error)
            }
        }
    }

    async fn abort(mut self: Box<Self>) {
        self.clear_away().await;
    }
}
