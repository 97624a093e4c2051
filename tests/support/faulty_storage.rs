//! A storage that fails where it is told to, around one that works. What it does wrong can be changed while it is used.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use holdfast::{
    artifact::ArtifactName,
    ids::LeaseToken,
    storage::{
        ByteRange, ByteStream, Deletion, Error, ErrorKind, Limits, Locator, NewObject, Probe, ProbeDepth, Stat,
        Storage, Upload,
    },
};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each test file uses its own share")]
pub enum Fault {
    None,
    Create(ErrorKind),
    /// The put of this part, counted from 0.
    Put(usize, ErrorKind),
    /// The put of this part never returns.
    HangPut(usize),
    Commit(ErrorKind),
    /// The commit takes effect and its answer is lost.
    LoseCommitAnswer,
    /// The commit is lost and another's object lies there under the name.
    LoseCommitToAnother,
    /// What is committed has its first byte altered.
    Alter,
    /// The storage says that the object is one byte longer.
    WrongStat,
    /// Nothing answers.
    Down,
    /// Puts wait until the fault is another one.
    HoldPuts,
    /// The key may only write.
    NoRead,
    /// What is committed has its first byte altered, and the key may not delete it.
    AlterAndKeep,
    /// Reading ends with this error after so many chunks.
    BreakRead(usize, ErrorKind),
}

/// Clones share the fault and the counters.
#[derive(Clone, Debug)]
pub struct Faulty {
    pub inner: Arc<dyn Storage>,
    fault: Arc<watch::Sender<Fault>>,
    pub aborted: Arc<AtomicUsize>,
    /// Uploads that were begun.
    pub created: Arc<AtomicUsize>,
    /// Puts that wait because of [`Fault::HoldPuts`], or have waited.
    pub held: Arc<AtomicUsize>,
}

#[allow(dead_code, reason = "each test file uses its own share")]
impl Faulty {
    pub fn new(inner: Arc<dyn Storage>, fault: Fault) -> Self {
        Self {
            inner,
            fault: Arc::new(watch::Sender::new(fault)),
            aborted: Arc::default(),
            created: Arc::default(),
            held: Arc::default(),
        }
    }

    /// From now on this fault.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    fn up(&self) -> Result<(), Error> {
        if self.fault() == Fault::Down { Err(injected(ErrorKind::Unavailable)) } else { Ok(()) }
    }

    fn readable(&self) -> Result<(), Error> {
        self.up()?;
        if self.fault() == Fault::NoRead { Err(injected(ErrorKind::Denied)) } else { Ok(()) }
    }
}

fn injected(kind: ErrorKind) -> Error {
    Error::new(kind, "injected fault")
}

#[async_trait]
impl Storage for Faulty {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        self.up()?;
        if let Fault::Create(kind) = self.fault() {
            return Err(injected(kind));
        }
        let upload = self.inner.create(new).await?;
        self.created.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FaultyUpload { upload, storage: self.clone(), parts: 0, name: new.name.clone() }))
    }
    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        self.readable()?;
        let stream = self.inner.open(at, range).await?;
        Ok(match self.fault() {
            Fault::BreakRead(chunks, kind) => {
                Box::pin(stream.take(chunks).chain(futures::stream::iter([Err(injected(kind))])))
            }
            _ => stream,
        })
    }
    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        self.readable()?;
        let stat = self.inner.stat(at).await?;
        Ok(if self.fault() == Fault::WrongStat { Stat { bytes: stat.bytes + 1 } } else { stat })
    }
    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        self.readable()?;
        self.inner.find(name).await
    }
    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        self.up()?;
        if self.fault() == Fault::AlterAndKeep {
            return Err(injected(ErrorKind::Denied));
        }
        self.inner.delete(at).await
    }
    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        self.up()?;
        self.inner.probe(depth).await
    }
    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        self.inner.manifests()
    }
}

struct FaultyUpload {
    upload: Box<dyn Upload>,
    storage: Faulty,
    parts: usize,
    name: ArtifactName,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        let number = self.parts;
        self.parts += 1;
        self.storage.up()?;
        if self.storage.fault() == Fault::HoldPuts {
            let mut seen = self.storage.fault.subscribe();
            self.storage.held.fetch_add(1, Ordering::SeqCst);
            // The sender lives as long as this storage.
            let _ = seen.wait_for(|fault| *fault != Fault::HoldPuts).await;
        }
        match self.storage.fault() {
            Fault::Put(at, kind) if at == number => Err(injected(kind)),
            Fault::HangPut(at) if at == number => std::future::pending().await,
            Fault::Alter | Fault::AlterAndKeep if number == 0 => {
                let mut altered = part.to_vec();
                altered[0] ^= 1;
                self.upload.put(altered.into()).await
            }
            _ => self.upload.put(part).await,
        }
    }

    async fn commit(self: Box<Self>) -> Result<Locator, Error> {
        self.storage.up()?;
        match self.storage.fault() {
            Fault::Commit(kind) => {
                self.upload.abort().await;
                Err(injected(kind))
            }
            Fault::LoseCommitAnswer => {
                self.upload.commit().await?;
                Err(injected(ErrorKind::Unavailable))
            }
            Fault::LoseCommitToAnother => {
                self.upload.abort().await;
                let mut other = self.storage.inner.create(NewObject::new(&self.name, LeaseToken::generate())).await?;
                other.put(Bytes::from_static(b"another's")).await?;
                other.commit().await?;
                Err(injected(ErrorKind::Unavailable))
            }
            _ => self.upload.commit().await,
        }
    }

    async fn abort(self: Box<Self>) {
        self.storage.aborted.fetch_add(1, Ordering::SeqCst);
        self.upload.abort().await;
    }
}
