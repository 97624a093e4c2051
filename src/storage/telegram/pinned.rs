//! The index at its place: pinned in the chat, so that bot token and chat id find it. It is published anew with every change, by one
//! writer of all processes at a time: send, read back, pin, remember, and only then let go of the one before.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{
    chat::Chat,
    client::Outgoing,
    documents::{MOST_READS, Spot, blocking},
    fault::{CallError, Reason},
    index::{Decoded, Index, LARGEST},
    memory::IndexAt,
    names,
    shapes::ChatInfo,
};
use crate::{
    byte_size::ByteSize,
    ids::LeaseToken,
    storage::{Error, ErrorKind, TelegramPart, ledger::Held},
};

/// How often an index is looked for that is replaced while it is read, or published in a chat that moves.
const MOST_TRIES: u32 = 3;

#[derive(Debug)]
pub(super) struct Pinned {
    chat: Arc<Chat>,
    part: ByteSize,
    /// The index that was read last: it never changes under its message.
    cache: Mutex<Option<(IndexAt, Arc<Index>)>>,
}

/// The index in force; `at` is `None` in a chat that never had one.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub index: Arc<Index>,
    pub at: Option<IndexAt>,
}

/// What a change comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Made,
    /// There was nothing to do.
    None,
}

impl Pinned {
    pub fn new(chat: Arc<Chat>, part: ByteSize) -> Self {
        Self { chat, part, cache: Mutex::default() }
    }

    /// The index in force. Fails when the chat has one that cannot be found: an empty one in its place would forget every backup.
    pub async fn load(&self) -> Result<Loaded, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let info = self.chat.info().await?;
            let Some(at) = self.in_force(&info).await? else {
                return Ok(Loaded { index: Arc::default(), at: None });
            };
            let place = format!("message {} of Telegram chat {}", at.message_id, at.chat_id);
            match self.read(at).await {
                // Another process may have replaced it meanwhile.
                Err(error)
                    if tries < MOST_TRIES && matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unavailable) =>
                {
                    tracing::debug!(%error, "the index is looked for again");
                }
                // Not as one would say it of an object: nothing is known of any.
                Err(error) if error.kind == ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::Corrupt, format!("the index in {place} is gone"))
                        .with_hint("Section \"When the index is lost\" of docs/telegram.md tells what to do."));
                }
                outcome => return outcome,
            }
        }
    }

    /// The pinned index, or the newest that is remembered when someone else has pinned something or taken the pin away.
    async fn in_force(&self, info: &ChatInfo) -> Result<Option<IndexAt>, Error> {
        let pinned = info.pinned_message.as_ref().and_then(|message| {
            let document = message.document.as_ref()?;
            let bytes = document.file_size?;
            (document.file_name.as_deref() == Some(names::INDEX)).then(|| IndexAt {
                chat_id: info.id,
                message_id: message.message_id,
                file_id: document.file_id.clone(),
                file_unique_id: document.file_unique_id.clone(),
                bytes,
                parts: Vec::new(),
            })
        });
        let remembered: Result<Option<IndexAt>, Error> = self.chat.memory.get(&ledger_key(info.id)).await;
        let remembered = match (remembered, &pinned) {
            (Ok(remembered), _) => remembered,
            // Reading goes on without the control plane.
            (Err(error), Some(_)) => {
                tracing::warn!(%error, "the pinned index is not compared with what is remembered");
                None
            }
            (Err(error), None) => return Err(error),
        };
        match (pinned, remembered) {
            (Some(pinned), Some(known)) if known.chat_id == pinned.chat_id && known.message_id > pinned.message_id => {
                Ok(Some(known))
            }
            (Some(pinned), _) => Ok(Some(pinned)),
            (None, Some(known)) => Ok(Some(known)),
            (None, None) => match &info.pinned_message {
                None => Ok(None),
                Some(message) => {
                    let context = format!(
                        "the pinned message {} of Telegram chat {} is not an index of Holdfast",
                        message.message_id, info.id
                    );
                    Err(Error::new(ErrorKind::Invalid, context).with_hint(format!(
                        "Unpin it if Holdfast never used this chat; else pin the newest {} again.",
                        names::INDEX
                    )))
                }
            },
        }
    }

    async fn read(&self, mut at: IndexAt) -> Result<Loaded, Error> {
        if let Some((cached, index)) = &*self.cache.lock().unwrap_or_else(PoisonError::into_inner)
            && (cached.chat_id, cached.message_id) == (at.chat_id, at.message_id)
        {
            return Ok(Loaded { index: Arc::clone(index), at: Some(cached.clone()) });
        }
        let (of, decoded) = self.fetch_decoded(&at).await?;
        self.require_own(of, &at).await?;
        let index = match decoded {
            Decoded::Whole(index) => index,
            Decoded::Cut(parts) => {
                let bytes = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.fingerprint.bytes));
                if bytes > LARGEST.0 {
                    return Err(Error::new(ErrorKind::TooLarge, format!("an index of more than {LARGEST}")));
                }
                at.parts = parts.iter().map(|part| part.message_id).collect();
                let mut whole = Vec::new();
                for part in &parts {
                    whole.extend_from_slice(&self.chat.fetch(Spot::of_part(at.chat_id, part)).await?);
                }
                match decode(whole.into()).await?.1 {
                    Decoded::Whole(index) => index,
                    Decoded::Cut(_) => return Err(Error::new(ErrorKind::Corrupt, "an index that was cut twice")),
                }
            }
        };
        let index = Arc::new(index);
        self.keep(&at, &index);
        Ok(Loaded { index, at: Some(at) })
    }

    /// Refuses an index that was made for another chat: someone has forwarded it here. One of a group that became this chat is its own.
    async fn require_own(&self, of: i64, at: &IndexAt) -> Result<(), Error> {
        if of == at.chat_id || self.chat.has_moved(of, at.chat_id).await? {
            return Ok(());
        }
        let context =
            format!("the index in message {} of Telegram chat {} is that of chat {of}", at.message_id, at.chat_id);
        let hint =
            format!("Unpin it; if Holdfast has used this chat, pin the newest {} of its own again.", names::INDEX);
        Err(Error::new(ErrorKind::Invalid, context).with_hint(hint))
    }

    /// The pinned document. Its checksum is inside, so that bytes which were altered on the way are seen here, and asked for again.
    async fn fetch_decoded(&self, at: &IndexAt) -> Result<(i64, Decoded), Error> {
        let mut reads = 1;
        loop {
            match decode(self.chat.fetch(Spot::of_index(at)).await?).await {
                Err(error) if error.kind == ErrorKind::Corrupt && reads < MOST_READS => {
                    tracing::debug!(%error, "the index is read again");
                    reads += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn keep(&self, at: &IndexAt, index: &Arc<Index>) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = Some((at.clone(), Arc::clone(index)));
    }

    /// Changes the index, as the only one who does; with a `note` only while that is still written down. When this fails with an error that
    /// may pass, the change may have been made. `change` may be asked again, also about an index that has it already.
    ///
    /// The lock alone does not keep others out: it may be lost with its session, or another control plane may use the same chat. So the index
    /// that is changed must still be the one in force just before the new one is pinned, and the new one must be in force afterwards.
    pub async fn publish(
        &self,
        note: Option<&str>,
        change: impl Fn(&mut Index) -> Result<Change, Error>,
    ) -> Result<(), Error> {
        let mut was_pinned = false;
        for _ in 0..MOST_TRIES {
            match self.publish_once(note, &change, &mut was_pinned).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // What an index named that was pinned may still be live: nobody may take it for refused.
                Err(error) if was_pinned && !error.kind.may_pass() => {
                    let context = "whether an index that was pinned is in force is not known";
                    return Err(Error::new(ErrorKind::Unavailable, context).with_source(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the Telegram chat or its index changed while an index was written"))
    }

    /// One try; `false`: the chat moved, or someone else published. Notes whether an index with the change was pinned.
    async fn publish_once(
        &self,
        note: Option<&str>,
        change: &impl Fn(&mut Index) -> Result<Change, Error>,
        was_pinned: &mut bool,
    ) -> Result<bool, Error> {
        let chat_id = self.chat.id().await?;
        let mut held = self.chat.memory.hold(chat_id).await?;
        let loaded = self.load().await?;
        let mut index = (*loaded.index).clone();
        if change(&mut index)? == Change::None {
            return Ok(true);
        }
        if let Some(note) = note {
            self.chat.memory.require_upload(note).await?;
        }
        let index = Arc::new(index);
        let before = loaded.at.as_ref();
        let Some(at) = self.send(&mut held, chat_id, &index, before).await? else { return Ok(false) };
        let unchanged = async {
            held.check().await?;
            self.is_in_force(before).await
        };
        let unchanged = unchanged.await;
        if !matches!(unchanged, Ok(true)) {
            self.chat.discard(at.chat_id, &at.messages()).await;
            unchanged?;
            tracing::warn!(chat_id, "someone else has published an index; the change is made again");
            return Ok(false);
        }
        self.pin(&at, before).await?;
        *was_pinned = true;
        self.keep(&at, &index);
        // What is pinned counts; what is remembered is for the day when someone takes the pin away.
        let remembered = self.chat.memory.put(&ledger_key(chat_id), &at).await;
        let in_force = self.is_in_force(Some(&at)).await;
        if !matches!(in_force, Ok(true)) {
            for index in [Some(&at), before].into_iter().flatten() {
                self.chat.leave_to_sweep(index.chat_id, &index.messages()).await;
            }
            in_force?;
            tracing::warn!(chat_id, "someone else has pinned another index; the change is made again");
            return Ok(false);
        }
        match remembered {
            Ok(()) => self.retire(before).await,
            Err(error) => tracing::warn!(%error, "the new index is not remembered; the one before it stays"),
        }
        Ok(true)
    }

    /// Whether the index in force is this one.
    async fn is_in_force(&self, index: Option<&IndexAt>) -> Result<bool, Error> {
        let now = self.in_force(&self.chat.info().await?).await?;
        let place = |at: &IndexAt| (at.chat_id, at.message_id);
        Ok(now.as_ref().map(place) == index.map(place))
    }

    /// Sends the index and reads it back. `None`: the chat moved, and what was sent is discarded.
    async fn send(
        &self,
        held: &mut Held,
        chat_id: i64,
        index: &Arc<Index>,
        before: Option<&IndexAt>,
    ) -> Result<Option<IndexAt>, Error> {
        let (predecessor, publication) = (before.map(|at| at.message_id), LeaseToken::generate());
        let encoded = {
            let index = Arc::clone(index);
            blocking(move || index.encode(chat_id, predecessor)).await?
        };
        let mut sent: Vec<(i64, TelegramPart)> = Vec::new();
        let outcome = async {
            let mut document = encoded;
            let part = usize::try_from(self.part.0).unwrap_or(usize::MAX);
            if document.len() > part {
                while !document.is_empty() {
                    let piece = document.split_to(document.len().min(part));
                    let number = sent.len() + 1;
                    let name = names::part(names::INDEX, number);
                    let mark = names::mark(publication, &number.to_string());
                    sent.push(self.send_one(held, name, piece, &mark, index).await?);
                }
                let parts = sent.iter().map(|(_, part)| part.clone()).collect();
                document = Index::encode_cut(chat_id, predecessor, parts)?;
            }
            let mark = names::mark(publication, "index");
            sent.push(self.send_one(held, names::INDEX.to_owned(), document, &mark, index).await?);
            Ok::<(), Error>(())
        }
        .await;
        if outcome.is_err() || sent.iter().any(|(arrived_in, _)| *arrived_in != chat_id) {
            for (arrived_in, part) in &sent {
                self.chat.discard(*arrived_in, &[part.message_id]).await;
            }
            return outcome.map(|()| None);
        }
        let Some((_, head)) = sent.pop() else { return Ok(None) };
        Ok(Some(IndexAt {
            chat_id,
            message_id: head.message_id,
            file_id: head.file_id,
            file_unique_id: head.file_unique_id,
            bytes: head.fingerprint.bytes,
            parts: sent.iter().map(|(_, part)| part.message_id).collect(),
        }))
    }

    async fn send_one(
        &self,
        held: &mut Held,
        file_name: String,
        bytes: Bytes,
        mark: &str,
        index: &Index,
    ) -> Result<(i64, TelegramPart), Error> {
        let words = format!("What Holdfast keeps in this chat, number of objects: {}. Leave it pinned.", index.len());
        let document = Outgoing { caption: names::caption(Some(&words), &file_name, mark), file_name, bytes };
        let (chat_id, part) = self.chat.put(held, &document, mark).await?;
        if let Err(error) = self.chat.fetch(Spot::of_part(chat_id, &part)).await {
            self.chat.discard(chat_id, &[part.message_id]).await;
            return Err(error);
        }
        Ok((chat_id, part))
    }

    /// Pins an index, or discards it when it surely was not pinned.
    async fn pin(&self, at: &IndexAt, before: Option<&IndexAt>) -> Result<(), Error> {
        let Err(error) = self.chat.pin(at.chat_id, at.message_id).await else { return Ok(()) };
        if is_unclear(&error) {
            match self.chat.is_pinned(at.message_id).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Nobody can say: it stays, and is the index if it was pinned. The sweep deletes the one that is not in force.
                Err(_) => {
                    for index in [Some(at), before].into_iter().flatten() {
                        self.chat.leave_to_sweep(index.chat_id, &index.messages()).await;
                    }
                    return Err(error.explain("cannot pin the index"));
                }
            }
        }
        self.chat.discard(at.chat_id, &at.messages()).await;
        Err(error.explain(format_args!("cannot pin the index in Telegram chat {}", at.chat_id)))
    }

    /// Lets go of an index that was replaced: deleted, or at least no longer pinned when it is too old to be deleted.
    async fn retire(&self, before: Option<&IndexAt>) {
        let Some(before) = before else { return };
        let left = match self.chat.delete(before.chat_id, &before.messages()).await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, "the index before is left to the sweep");
                self.chat.leave_to_sweep(before.chat_id, &before.messages()).await;
                before.messages()
            }
        };
        if left.contains(&before.message_id)
            && let Err(error) = self.chat.unpin(before.chat_id, before.message_id).await
            && !error.is_message_gone()
        {
            let error = error.explain("cannot unpin the index before");
            tracing::warn!(%error, "the index before stays pinned below the new one");
        }
    }

    /// Takes an empty index away again, so that a chat is as it was before it was probed.
    pub async fn withdraw(&self) -> Result<(), Error> {
        let chat_id = self.chat.id().await?;
        let mut held = self.chat.memory.hold(chat_id).await?;
        let loaded = self.load().await?;
        held.check().await?;
        let Some(at) = loaded.at.filter(|_| loaded.index.len() == 0) else { return Ok(()) };
        self.chat.memory.remove(&ledger_key(chat_id)).await?;
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.retire(Some(&at)).await;
        Ok(())
    }
}

pub(super) fn ledger_key(chat_id: i64) -> String {
    format!("index/{chat_id}")
}

fn is_unclear(error: &CallError) -> bool {
    matches!(error.reason, Reason::Unclear(_) | Reason::Unreached(_) | Reason::SlowDown(_))
}

async fn decode(document: Bytes) -> Result<(i64, Decoded), Error> {
    blocking(move || Index::decode(&document)).await
}
