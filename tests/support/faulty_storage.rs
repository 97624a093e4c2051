//! A storage that fails where it is told to, around one that works.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use holdfast::{
    artifact::ArtifactName,
    ids::LeaseToken,
    storage::{ByteRange, ByteStream, Deletion, Error, ErrorKind, Limits, Locator, Probe, Stat, Storage, Upload},
};

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
}

#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn Storage>,
    fault: Fault,
    pub aborted: Arc<AtomicUsize>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Storage>, fault: Fault) -> Self {
        Self { inner, fault, aborted: Arc::default() }
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
    async fn create(&self, name: &ArtifactName, attempt: LeaseToken) -> Result<Box<dyn Upload>, Error> {
        if let Fault::Create(kind) = self.fault {
            return Err(injected(kind));
        }
        let upload = self.inner.create(name, attempt).await?;
        Ok(Box::new(FaultyUpload {
            upload,
            fault: self.fault,
            parts: 0,
            aborted: Arc::clone(&self.aborted),
            inner: Arc::clone(&self.inner),
            name: name.clone(),
        }))
    }
    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        self.inner.open(at, range).await
    }
    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        let stat = self.inner.stat(at).await?;
        Ok(if self.fault == Fault::WrongStat { Stat { bytes: stat.bytes + 1 } } else { stat })
    }
    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        self.inner.find(name).await
    }
    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        self.inner.delete(at).await
    }
    async fn probe(&self) -> Result<Probe, Error> {
        self.inner.probe().await
    }
    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        self.inner.manifests()
    }
}

struct FaultyUpload {
    upload: Box<dyn Upload>,
    fault: Fault,
    parts: usize,
    aborted: Arc<AtomicUsize>,
    inner: Arc<dyn Storage>,
    name: ArtifactName,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        let number = self.parts;
        self.parts += 1;
        match self.fault {
            Fault::Put(at, kind) if at == number => Err(injected(kind)),
            Fault::HangPut(at) if at == number => std::future::pending().await,
            Fault::Alter if number == 0 => {
                let mut altered = part.to_vec();
                altered[0] ^= 1;
                self.upload.put(altered.into()).await
            }
            _ => self.upload.put(part).await,
        }
    }

    async fn commit(self: Box<Self>) -> Result<Locator, Error> {
        match self.fault {
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
                let mut other = self.inner.create(&self.name, LeaseToken::generate()).await?;
                other.put(Bytes::from_static(b"another's")).await?;
                other.commit().await?;
                Err(injected(ErrorKind::Unavailable))
            }
            _ => self.upload.commit().await,
        }
    }

    async fn abort(self: Box<Self>) {
        self.aborted.fetch_add(1, Ordering::SeqCst);
        self.upload.abort().await;
    }
}
