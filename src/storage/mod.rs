//! Where artifacts are kept. A [`Storage`] takes a stream of parts, publishes it under a final name in one step, and gives
//! it back by [`Locator`]. Every adapter passes `tests/storage_contract.rs`.
//!
//! What always holds: nothing is visible under a final name before [`Upload::commit`]; a commit never overwrites; an
//! abort leaves nothing.

mod error;
pub mod ledger;
pub mod local;
mod measured;
pub mod memory;
mod rate;
pub mod s3;
pub mod telegram;

use std::{fmt::Debug, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use self::{
    error::{Error, ErrorKind},
    ledger::Ledger,
    measured::Measured,
    rate::{Pacers, RateLimited},
    s3::{Listed, Objects},
};
use crate::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    config::StorageConfig,
    ids::LeaseToken,
};

/// What a storage can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest part that can be written *and read back*.
    pub part: ByteSize,
    /// How many parts may be under way at once.
    pub parts_in_flight: usize,
    /// Largest artifact, where there is a limit.
    pub artifact: Option<ByteSize>,
    /// Whether it keeps up with a dump.
    pub pace: Pace,
}

/// Whether a storage is fed while the dump runs, or from a finished copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Fed together with the others from the one stream of the dump.
    Streamed,
    /// So slow that it would hold the dump's snapshot open: its copy is made afterwards from a good one, unless it is the only storage.
    Afterwards,
}

/// What an upload needs to know at its beginning.
#[derive(Clone, Copy, Debug)]
pub struct NewObject<'a> {
    /// The final name, which appears at [`Upload::commit`] alone.
    pub name: &'a ArtifactName,
    /// Goes into temporary names, so that two workers never write to one.
    pub attempt: LeaseToken,
    /// A line for people, where the storage shows one.
    pub caption: Option<&'a str>,
}

impl<'a> NewObject<'a> {
    /// An object without a caption.
    pub fn new(name: &'a ArtifactName, attempt: LeaseToken) -> Self {
        Self { name, attempt, caption: None }
    }
}

/// Where the bytes of one stored object are: what a storage returned, enough to get them back. Kept in the history and
/// in manifests, so a variant's fields are never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Locator {
    /// A file below a local storage's root.
    Local { key: ArtifactName },
    /// An object in a [`memory`] storage.
    Memory { key: ArtifactName },
    /// An object in a bucket.
    S3 {
        /// The artifact's name; the storage's own prefix is not in it.
        key: ArtifactName,
        bucket: String,
        /// The whole key in the bucket.
        object: String,
    },
    /// Documents in a chat, in order; their concatenation is the object.
    Telegram { key: ArtifactName, chat_id: i64, messages: Vec<TelegramPart> },
}

impl Locator {
    /// The name under which the object was published.
    pub fn key(&self) -> &ArtifactName {
        match self {
            Self::Local { key } | Self::Memory { key } | Self::S3 { key, .. } | Self::Telegram { key, .. } => key,
        }
    }

    /// Whether it says no more than a name, under which another object may lie by now.
    pub fn is_a_name(&self) -> bool {
        match self {
            Self::Local { .. } | Self::Memory { .. } | Self::S3 { .. } => true,
            Self::Telegram { .. } => false,
        }
    }
}

/// One document in a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelegramPart {
    pub message_id: i64,
    /// Belongs to the bot that sent it.
    pub file_id: String,
    /// The same for every bot; nothing can be downloaded by it.
    pub file_unique_id: String,
    #[serde(flatten)]
    pub fingerprint: Fingerprint,
}

/// Where an object in a bucket is, for people and for the history's `s3_url`, `s3_region` and `s3_bucket`. Holds no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Address {
    /// The object's plain URL, without a signature.
    pub url: String,
    pub region: String,
    pub bucket: String,
}

/// A run of bytes inside an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub start: u64,
    pub length: u64,
}

impl ByteRange {
    /// First byte and end of the range in an object of `size` bytes; [`ErrorKind::Invalid`] when it reaches beyond.
    pub fn within(self, size: u64) -> Result<(u64, u64), Error> {
        match self.start.checked_add(self.length) {
            Some(end) if end <= size => Ok((self.start, end)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("cannot read {} bytes from byte {} of an object of {size} bytes", self.length, self.start),
            )),
        }
    }
}

/// The bytes of an object, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes, Error>>;

/// What a deletion achieved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deletion {
    /// The bytes are gone, or were gone before.
    Gone,
    /// The storage no longer lists the object, but its bytes may remain readable to someone.
    BytesMayRemain {
        /// What remains and where, for people and for whoever removes it by hand: `messages 12–15 of chat -1001234567890`.
        what: String,
    },
}

/// What a storage tells of an object without handing it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub bytes: u64,
}

/// How much [`Storage::probe`] tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeDepth {
    /// A small object, and what the storage says of itself.
    Quick,
    /// Also a part of the largest size and everything else that the adapter takes for granted.
    Thorough,
}

/// What [`Storage::probe`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Free space, where the storage can tell.
    pub free: Option<ByteSize>,
    /// What was tried and found good, a line each, for people.
    pub seen: Vec<String>,
    /// What works, but should be otherwise: a right that is missing or too wide, with its remedy.
    pub warnings: Vec<String>,
}

/// A place that keeps artifacts. Every method may be called from any task at any time.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    fn limits(&self) -> Limits;

    /// Begins an upload. Fails with [`ErrorKind::Exists`] when the final name is already taken.
    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error>;

    /// The object's bytes, or one range of them, which must lie within it. [`ErrorKind::NotFound`] when it is gone,
    /// before the stream begins. Never fewer without an error; whether they are the same is for who knows their fingerprint, as not
    /// every service tells it.
    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error>;

    /// What the storage itself says of the object.
    async fn stat(&self, at: &Locator) -> Result<Stat, Error>;

    /// The locator an object of this name has, when it exists. Used to find what an earlier attempt published.
    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error>;

    /// Deletes the object. Safe to repeat: deleting what is gone is success.
    async fn delete(&self, at: &Locator) -> Result<Deletion, Error>;

    /// Writes a small object, reads it back, deletes it. Leaves nothing.
    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error>;

    /// Removes what attempts that died have left under temporary names, last written before `modified_before`. Gives their number;
    /// a storage without temporary names has none.
    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        let _ = modified_before;
        Ok(0)
    }

    /// Where the object is, when it is in a bucket.
    fn s3_address(&self, at: &Locator) -> Option<S3Address> {
        let _ = at;
        None
    }

    /// The other objects of its bucket, when it has one: a project's files may be there.
    fn objects(&self) -> Option<Objects> {
        None
    }

    /// The same in another of its service's chats, which has names and an index of its own. `None`: this is the one, or there are no chats.
    async fn in_chat(&self, chat_id: i64) -> Result<Option<Arc<dyn Storage>>, Error> {
        let _ = chat_id;
        Ok(None)
    }

    /// Whether its uploads gather whole parts in memory before they send them. What reads ahead of them then takes less.
    fn gathers_parts(&self) -> bool {
        false
    }

    /// Whether it may be given an artifact that is not encrypted. A request that would is refused before its dump.
    fn takes_plaintext(&self) -> bool {
        true
    }

    /// Every manifest in the storage, in no promised order: for rebuilding the catalogue and for the sweep.
    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>>;
}

/// An upload under way. Dropping it without [`commit`](Self::commit) or [`abort`](Self::abort) may leave a temporary object, never
/// a final one.
#[async_trait]
pub trait Upload: Send {
    /// Appends a part of at most [`Limits::part`] bytes; an adapter that needs larger ones gathers them.
    async fn put(&mut self, part: Bytes) -> Result<(), Error>;

    /// Makes the object durable and visible under its final name, in one step. [`ErrorKind::Exists`] when another took the name.
    async fn commit(self: Box<Self>) -> Result<Locator, Error>;

    /// Removes every trace. Errors are swallowed after a log line: the reason for the abort matters more.
    async fn abort(self: Box<Self>);
}

/// Builds the adapter that the configuration names: the one place that knows them all. `name` is what the configuration calls it, under
/// which it keeps what it must remember in `ledger`.
pub async fn open(name: &str, config: &StorageConfig, ledger: &Arc<dyn Ledger>) -> Result<Arc<dyn Storage>, Error> {
    let storage: Arc<dyn Storage> = match config {
        StorageConfig::Local(local) => {
            RateLimited::wrap(Arc::new(local::LocalStorage::open(&local.root).await?), local.max_rate)
        }
        StorageConfig::S3(s3) => {
            let storage = Arc::new(s3::S3Storage::open(name, s3, Arc::clone(ledger))?);
            RateLimited::wrap(storage, s3.max_rate)
        }
        StorageConfig::Telegram(telegram) => {
            Arc::new(telegram::TelegramStorage::new(name, telegram, Arc::clone(ledger))?)
        }
    };
    Ok(Measured::wrap(name, storage))
}

/// The storage that knows what a locator names by its name, where that is not `storage` itself: another chat of its bot's.
pub async fn keeper(storage: &dyn Storage, at: &Locator) -> Result<Option<Arc<dyn Storage>>, Error> {
    match at {
        Locator::Telegram { chat_id, .. } => storage.in_chat(*chat_id).await,
        Locator::Local { .. } | Locator::Memory { .. } | Locator::S3 { .. } => Ok(None),
    }
}

/// Writes a small object whole, such as a manifest.
pub async fn put_whole(
    storage: &dyn Storage,
    name: &ArtifactName,
    attempt: LeaseToken,
    bytes: Bytes,
) -> Result<Locator, Error> {
    let part = usize::try_from(storage.limits().part.0).unwrap_or(usize::MAX).max(1);
    let mut upload = storage.create(NewObject::new(name, attempt)).await?;
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Err(error) = upload.put(rest.split_to(rest.len().min(part))).await {
            upload.abort().await;
            return Err(error);
        }
    }
    upload.commit().await
}

/// Reads a small object whole; [`ErrorKind::TooLarge`] beyond `limit`.
pub async fn get_whole(storage: &dyn Storage, at: &Locator, limit: ByteSize) -> Result<Vec<u8>, Error> {
    use futures::TryStreamExt;
    let mut stream = storage.open(at, None).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        if bytes.len() as u64 + chunk.len() as u64 > limit.0 {
            return Err(Error::new(ErrorKind::TooLarge, format!("cannot read an object of more than {limit} whole")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Size and digest of an object as it reads back now.
pub async fn fingerprint(storage: &dyn Storage, at: &Locator) -> Result<Fingerprint, Error> {
    use futures::TryStreamExt;
    use sha2::Digest;
    let mut stream = storage.open(at, None).await?;
    let (mut hasher, mut bytes) = (sha2::Sha256::new(), 0u64);
    while let Some(chunk) = stream.try_next().await? {
        bytes += chunk.len() as u64;
        hasher = tokio::task::spawn_blocking(move || {
            hasher.update(&chunk);
            hasher
        })
        .await
        .map_err(|e| Error::new(ErrorKind::Unavailable, "cannot hash the object").with_source(e))?;
    }
    Ok(Fingerprint { bytes, sha256: crate::artifact::Sha256Digest(hasher.finalize().into()) })
}
