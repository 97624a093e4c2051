//! A storage in memory: for tests, and the plainest reading of the contract.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::stream;

use super::*;
use crate::artifact::MANIFEST_SUFFIX;

/// Keeps objects until it is dropped. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: usize,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    pub fn new() -> Self {
        Self {
            limits: Limits { part: ByteSize::mib(1), parts_in_flight: 1, artifact: None, pace: Pace::Streamed },
            state: Arc::default(),
        }
    }

    /// An empty storage with limits of its own.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Uploads that were neither committed, aborted nor dropped.
    pub fn uploads_open(&self) -> usize {
        self.state().uploads
    }

    /// An object's bytes, past every check.
    pub fn peek(&self, name: &ArtifactName) -> Option<Bytes> {
        self.state().objects.get(name.as_str()).cloned()
    }

    /// Replaces an object's bytes, as a failing disk or an attacker would.
    pub fn tamper(&self, name: &ArtifactName, bytes: Bytes) {
        self.state().objects.insert(name.as_str().to_owned(), bytes);
    }

    fn get(&self, at: &Locator) -> Result<Bytes, Error> {
        let key = key_of(at)?;
        self.peek(key).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("cannot read {key}")))
    }
}

fn key_of(at: &Locator) -> Result<&ArtifactName, Error> {
    match at {
        Locator::Memory { key } => Ok(key),
        Locator::Local { .. } | Locator::S3 { .. } | Locator::Telegram { .. } => {
            Err(Error::new(ErrorKind::Invalid, "the locator belongs to a storage of another kind"))
        }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn limits(&self) -> Limits {
        self.limits
    }

    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        let name = new.name;
        let mut state = self.state();
        if state.objects.contains_key(name.as_str()) {
            return Err(Error::new(ErrorKind::Exists, format!("cannot begin {name}")));
        }
        state.uploads += 1;
        Ok(Box::new(MemoryUpload { storage: self.clone(), name: name.clone(), bytes: Vec::new() }))
    }

    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        let mut bytes = self.get(at)?;
        if let Some(range) = range {
            let (start, end) = range.within(bytes.len() as u64)?;
            bytes = bytes.slice(start as usize..end as usize);
        }
        let chunks =
            (0..bytes.len()).step_by(64 << 10).map(move |at| Ok(bytes.slice(at..bytes.len().min(at + (64 << 10)))));
        Ok(Box::pin(stream::iter(chunks.collect::<Vec<_>>())))
    }

    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        Ok(Stat { bytes: self.get(at)?.len() as u64 })
    }

    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        Ok(self.peek(name).map(|_| Locator::Memory { key: name.clone() }))
    }

    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        let key = key_of(at)?;
        self.state().objects.remove(key.as_str());
        Ok(Deletion::Gone)
    }

    async fn probe(&self, _depth: ProbeDepth) -> Result<Probe, Error> {
        Ok(Probe::default())
    }

    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        let found = self.keys().into_iter().filter(|key| key.ends_with(MANIFEST_SUFFIX)).map(|key| {
            key.parse()
                .map(|key| Locator::Memory { key })
                .map_err(|e| Error::new(ErrorKind::Invalid, "cannot list a manifest").with_source(e))
        });
        Box::pin(stream::iter(found.collect::<Vec<_>>()))
    }
}

struct MemoryUpload {
    storage: MemoryStorage,
    name: ArtifactName,
    bytes: Vec<u8>,
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        self.storage.state().uploads -= 1;
    }
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        let limits = self.storage.limits;
        let total = (self.bytes.len() + part.len()) as u64;
        if part.len() as u64 > limits.part.0 || limits.artifact.is_some_and(|most| total > most.0) {
            return Err(Error::new(ErrorKind::TooLarge, format!("cannot write {}", self.name)));
        }
        self.bytes.extend_from_slice(&part);
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Locator, Error> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let mut state = self.storage.state();
        if state.objects.contains_key(self.name.as_str()) {
            return Err(Error::new(ErrorKind::Exists, format!("cannot publish {}", self.name)));
        }
        state.objects.insert(self.name.as_str().to_owned(), bytes);
        Ok(Locator::Memory { key: self.name.clone() })
    }

    async fn abort(self: Box<Self>) {}
}
