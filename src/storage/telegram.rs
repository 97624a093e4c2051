//! A storage in a Telegram chat, through the Bot API: an object is a row of documents, and visible once the chat's pinned index names it.
//!
//! What always holds: bot token and chat id find every object (`getChat` → pinned index → documents); one process at a time publishes an
//! index; no byte is given out before its part's SHA-256 agrees; the token is in no error and no log line. What Telegram promises, and
//! what not, is in `docs/telegram.md`.

mod chat;
mod client;
mod documents;
mod fault;
mod index;
mod memory;
mod names;
mod pacing;
mod pinned;
mod probe;
mod shapes;
mod sweep;
mod upload;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};

use self::{
    chat::{Chat, describe},
    client::BotApi,
    documents::{Spot, blocking},
    index::{Entry, Index, PartList, Place},
    memory::{IndexAt, Leftover, Memory, OtherChat},
    pacing::Pacer,
    pinned::{Change, Loaded, Pinned},
    upload::TelegramUpload,
};
use super::*;
use crate::{
    artifact::MANIFEST_SUFFIX,
    config::{ChatId, TelegramStorageConfig},
};

/// Questions under way at once where many documents are only asked about.
const ASKED_AT_ONCE: usize = 4;

/// A chat that keeps artifacts. Clones share it.
#[derive(Clone, Debug)]
pub struct TelegramStorage {
    chat: Arc<Chat>,
    pinned: Arc<Pinned>,
    part: ByteSize,
    max_artifact: Option<ByteSize>,
    allow_plaintext: bool,
    /// Whether a document of this bot was read back in this process.
    proven: Arc<AtomicBool>,
    others: Arc<Others>,
}

/// The bot's other chats, to which single files were sent. Each has an index, and what is remembered of it, of its own.
#[derive(Debug)]
struct Others {
    /// The configured chat's.
    name: String,
    config: TelegramStorageConfig,
    ledger: Arc<dyn Ledger>,
    open: Mutex<BTreeMap<i64, TelegramStorage>>,
}

impl TelegramStorage {
    /// Prepares a storage that remembers under `name`; asks nothing of Telegram yet.
    pub fn new(name: &str, config: &TelegramStorageConfig, ledger: Arc<dyn Ledger>) -> Result<Self, Error> {
        let invalid = |problem: String| Error::new(ErrorKind::Invalid, format!("cannot use storage {name}: {problem}"));
        config.check().map_err(invalid)?;
        let token = config.bot_token.clone().ok_or_else(|| invalid("bot_token is not set".to_owned()))?;
        let timeout = Duration::from_secs(config.timeout_seconds);
        let api = BotApi::new(config.url().map_err(invalid)?, token, config.profile, timeout)?;
        let pacer = Pacer::new(config.messages_per_minute);
        let memory = Memory::new(Arc::clone(&ledger), name);
        let chat = Arc::new(Chat::new(api, pacer, memory, config.chat_id.clone()));
        Ok(Self {
            pinned: Arc::new(Pinned::new(Arc::clone(&chat), config.part())),
            chat,
            part: config.part(),
            max_artifact: config.max_artifact,
            allow_plaintext: config.allow_plaintext,
            proven: Arc::default(),
            others: Arc::new(Others { name: name.to_owned(), config: config.clone(), ledger, open: Mutex::default() }),
        })
    }

    /// Whether objects in that chat are in this one's index: it is this one, or a group that has become it.
    async fn is_about(&self, chat_id: i64) -> Result<bool, Error> {
        if self.others.config.chat_id == ChatId::Number(chat_id) {
            return Ok(true);
        }
        match self.chat.id().await {
            Ok(id) if id == chat_id => return Ok(true),
            // It may be this one.
            Err(error) if error.kind.may_pass() => return Err(error),
            // That the configured chat cannot be had is told by whoever asks for it, and says nothing of another.
            Ok(_) | Err(_) => {}
        }
        let is_known = self.others.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&chat_id);
        if is_known {
            return Ok(false);
        }
        match self.pinned.load().await {
            Ok(loaded) => Ok(loaded.index.entries().any(|entry| entry.chat_id == chat_id)),
            // Whoever asks for a group that has become this one is led here all the same, by the Bot API.
            Err(error) => {
                tracing::warn!(chat_id, %error, "whether a chat has become the configured one is not known");
                Ok(false)
            }
        }
    }

    /// The same bot's storage in another chat. That there is one is remembered, so that it is swept.
    async fn other(&self, chat_id: i64) -> Result<Self, Error> {
        let Others { name, config, ledger, open } = &*self.others;
        if let Some(known) = open.lock().unwrap_or_else(PoisonError::into_inner).get(&chat_id) {
            return Ok(known.clone());
        }
        let config = TelegramStorageConfig { chat_id: ChatId::Number(chat_id), ..config.clone() };
        let opened = Self::new(&format!("{name}/{chat_id}"), &config, Arc::clone(ledger))?;
        if let Err(error) = self.chat.memory.put(&OtherChat::ledger_key(chat_id), &OtherChat { chat_id }).await {
            tracing::warn!(chat_id, %error, "that files go to another chat is not remembered; they are read and deleted all the same");
        }
        // Of two that open one at the same moment, both use the first.
        Ok(open.lock().unwrap_or_else(PoisonError::into_inner).entry(chat_id).or_insert(opened).clone())
    }

    /// The storage whose index lists what is live in that chat: this one, or another chat's, such as the one that was configured before.
    async fn of_chat(&self, chat_id: i64) -> Result<Self, Error> {
        if self.is_about(chat_id).await? {
            return Ok(self.clone());
        }
        let other = self.other(chat_id).await?;
        // While it was the configured one, its newest index was remembered here. Without that, a chat whose pin was taken away looks empty.
        let (key, there) = (pinned::ledger_key(chat_id), &other.chat.memory);
        if there.get::<IndexAt>(&key).await?.is_none()
            && let Some(index) = self.chat.memory.get::<IndexAt>(&key).await?
        {
            there.put(&key, &index).await?;
        }
        Ok(other)
    }

    /// The locator of an indexed object; where its parts are listed in a document, that is read.
    async fn locator(&self, entry: &Entry) -> Result<Locator, Error> {
        let Place::List { document, .. } = &entry.place else { return Ok(entry.locator(None)) };
        let list = self.chat.fetch(Spot::of_part(entry.chat_id, document)).await?;
        let list = blocking(move || PartList::decode(&list)).await?;
        if list.key != entry.key {
            let context = format!("the list of the parts of {} is that of {}", entry.key, list.key);
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        Ok(entry.locator(Some(list.parts)))
    }

    /// Fails with [`ErrorKind::NotFound`] when the object is neither in the index nor in the chat. An index that cannot be had, or that has
    /// lost an object whose messages are still there, keeps nobody from reading a backup.
    async fn require_present(&self, at: &At<'_>) -> Result<(), Error> {
        let listed = match self.pinned.load().await {
            Ok(Loaded { at: None, .. }) => return Ok(()),
            Ok(Loaded { index, .. }) => index.get(at.key).is_some_and(|entry| entry.is_at(at.chat_id, at.messages)),
            Err(error) => {
                tracing::warn!(key = %at.key, %error, "the index cannot be read; the locator is used as it is");
                return Ok(());
            }
        };
        if listed {
            return Ok(());
        }
        let gone = || Error::new(ErrorKind::NotFound, format!("cannot read {}", at.key));
        let first = at.messages.first().ok_or_else(gone)?;
        match self.chat.look_at(at.chat_id, first.message_id).await {
            Ok(Some(message))
                if message.document.as_ref().is_some_and(|d| d.file_unique_id == first.file_unique_id) =>
            {
                Ok(())
            }
            Ok(_) => Err(gone()),
            Err(error) => Err(error.explain(format_args!("cannot look for {}", at.key))),
        }
    }
}

/// A locator of this kind of storage, taken apart.
struct At<'a> {
    key: &'a ArtifactName,
    chat_id: i64,
    messages: &'a [TelegramPart],
}

impl<'a> At<'a> {
    fn of(at: &'a Locator) -> Result<Self, Error> {
        match at {
            Locator::Telegram { key, chat_id, messages } => Ok(Self { key, chat_id: *chat_id, messages }),
            Locator::Local { .. } | Locator::Memory { .. } | Locator::S3 { .. } => {
                Err(Error::new(ErrorKind::Invalid, "the locator belongs to a storage of another kind"))
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.messages.iter().fold(0, |sum, part| sum.saturating_add(part.fingerprint.bytes))
    }
}

/// What of a part is wanted.
#[derive(Clone, Debug)]
struct Slice {
    part: TelegramPart,
    from: u64,
    to: u64,
}

/// The parts that hold the bytes from `start` to `end`, and what of each.
fn slices(messages: &[TelegramPart], start: u64, end: u64) -> Vec<Slice> {
    let mut begins = 0u64;
    let mut found = Vec::new();
    for part in messages {
        let ends = begins.saturating_add(part.fingerprint.bytes);
        let (from, to) = (start.max(begins), end.min(ends));
        if from < to {
            found.push(Slice { part: part.clone(), from: from - begins, to: to - begins });
        }
        begins = ends;
    }
    found
}

async fn fetch_slice(chat: &Chat, chat_id: i64, slice: &Slice) -> Result<Bytes, Error> {
    let bytes = chat.fetch(Spot::of_part(chat_id, &slice.part)).await?;
    // No larger than the part that was just fetched.
    Ok(bytes.slice(slice.from as usize..slice.to as usize))
}

#[async_trait]
impl Storage for TelegramStorage {
    fn limits(&self) -> Limits {
        Limits { part: self.part, parts_in_flight: 1, artifact: self.max_artifact, pace: Pace::Afterwards }
    }

    fn gathers_parts(&self) -> bool {
        true
    }

    fn takes_plaintext(&self) -> bool {
        self.allow_plaintext
    }

    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        probe::refuse_auto_delete(&self.chat.info().await?)?;
        if self.pinned.load().await?.index.get(new.name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("cannot begin {}", new.name)));
        }
        Ok(Box::new(TelegramUpload::new(self.clone(), new)))
    }

    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        let at = At::of(at)?;
        let (start, end) = match range {
            Some(range) => range.within(at.bytes())?,
            None => (0, at.bytes()),
        };
        self.require_present(&at).await?;
        let (chat, chat_id) = (Arc::clone(&self.chat), at.chat_id);
        let mut wanted = slices(at.messages, start, end).into_iter();
        // Read before the stream begins, so that what is gone is told at once.
        let first = match wanted.next() {
            Some(slice) => Some(Ok(fetch_slice(&chat, chat_id, &slice).await?)),
            None => None,
        };
        let rest = stream::iter(wanted).then(move |slice| {
            let chat = Arc::clone(&chat);
            async move { fetch_slice(&chat, chat_id, &slice).await }
        });
        Ok(Box::pin(stream::iter(first).chain(rest)))
    }

    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        let at = At::of(at)?;
        self.require_present(&at).await?;
        let (chat, chat_id) = (Arc::clone(&self.chat), at.chat_id);
        stream::iter(at.messages.to_vec())
            .map(move |part| {
                let chat = Arc::clone(&chat);
                async move { chat.check(Spot::of_part(chat_id, &part)).await }
            })
            .buffer_unordered(ASKED_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(Stat { bytes: at.bytes() })
    }

    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        match self.pinned.load().await?.index.get(name) {
            Some(entry) => self.locator(entry).await.map(Some),
            None => Ok(None),
        }
    }

    async fn in_chat(&self, chat_id: i64) -> Result<Option<Arc<dyn Storage>>, Error> {
        if self.is_about(chat_id).await? {
            return Ok(None);
        }
        Ok(Some(Arc::new(self.other(chat_id).await?)))
    }

    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        let At { key, chat_id, messages } = At::of(at)?;
        if let Some(there) = self.in_chat(chat_id).await? {
            return there.delete(at).await;
        }
        let mut ids: Vec<i64> = messages.iter().map(|part| part.message_id).collect();
        let listed = |index: &Index| index.get(key).filter(|entry| entry.is_at(chat_id, messages)).cloned();
        if let Some(entry) = listed(&self.pinned.load().await?.index)
            && let Place::List { document, .. } = &entry.place
        {
            ids.push(document.message_id);
        }
        // Once the index no longer names them, only this knows all of its messages.
        let note = ids.first().map(|first| format!("delete/{chat_id}/{first}"));
        if let Some(note) = &note {
            self.chat.memory.put(note, &Leftover { key: key.clone(), chat_id, messages: ids.clone() }).await?;
        }
        self.pinned
            .publish(None, |index| {
                if listed(index).is_none() {
                    return Ok(Change::None);
                }
                index.remove(key);
                Ok(Change::Made)
            })
            .await?;
        let left = self.chat.delete(chat_id, &ids).await?;
        if let Some(note) = &note {
            self.chat.memory.remove(note).await?;
        }
        Ok(if left.is_empty() { Deletion::Gone } else { Deletion::BytesMayRemain { what: describe(chat_id, &left) } })
    }

    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        self.try_out(depth).await
    }

    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        let mut removed = self.sweep(modified_before).await;
        for other in self.chat.memory.list::<OtherChat>("other/").await? {
            // What is wrong with one chat is no reason to leave the others.
            let swept = self.other(other.value.chat_id).await?.sweep(modified_before).await;
            removed = removed.and_then(|removed| Ok(removed + swept?));
        }
        removed
    }

    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        let listed = async move {
            let index = self.pinned.load().await?.index;
            let entries: Vec<Entry> =
                index.entries().filter(|entry| entry.key.as_str().ends_with(MANIFEST_SUFFIX)).cloned().collect();
            Ok::<_, Error>(stream::iter(entries).then(move |entry| async move { self.locator(&entry).await }))
        };
        Box::pin(stream::once(listed).try_flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Fingerprint;

    #[test]
    fn a_range_is_cut_from_the_parts_that_hold_it() {
        let part = |message_id, bytes: &[u8]| TelegramPart {
            message_id,
            file_id: String::new(),
            file_unique_id: String::new(),
            fingerprint: Fingerprint::of(bytes),
        };
        let parts = [part(1, b"0123"), part(2, b"4567"), part(3, b"89")];
        let wanted = |start, end| {
            slices(&parts, start, end).iter().map(|s| (s.part.message_id, s.from, s.to)).collect::<Vec<_>>()
        };
        assert_eq!(wanted(0, 10), [(1, 0, 4), (2, 0, 4), (3, 0, 2)]);
        assert_eq!(wanted(3, 5), [(1, 3, 4), (2, 0, 1)]);
        assert_eq!(wanted(4, 8), [(2, 0, 4)]);
        assert_eq!(wanted(9, 10), [(3, 1, 2)]);
        assert_eq!(wanted(5, 5), []);
    }
}
