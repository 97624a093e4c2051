//! A storage that answers deletions as it is told to, around one that works.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use holdfast::{
    artifact::ArtifactName,
    storage::{
        ByteRange, ByteStream, Deletion, Error, ErrorKind, Limits, Locator, NewObject, Probe, ProbeDepth, Stat,
        Storage, Upload,
    },
};
use tokio::sync::Semaphore;

/// What comes of a deletion.
#[derive(Clone, Debug)]
pub enum Answer {
    Good,
    Fail(ErrorKind),
    /// Says that it is gone, and does nothing.
    Pretend,
    /// The object is listed no more, and its bytes stay readable.
    Remain,
    /// Says that it has begun, and goes on when it is let.
    Wait(Arc<Gate>),
}

/// Where a deletion waits.
#[derive(Debug)]
pub struct Gate {
    pub reached: Semaphore,
    pub open: Semaphore,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { reached: Semaphore::new(0), open: Semaphore::new(0) })
    }
}

#[derive(Debug)]
pub struct Stubborn {
    inner: Arc<dyn Storage>,
    /// For the deletions to come; after them all are good.
    answers: Mutex<VecDeque<Answer>>,
    /// Names whose deletion was asked for.
    asked: Mutex<Vec<String>>,
}

impl Stubborn {
    pub fn new(inner: Arc<dyn Storage>, answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self { inner, answers: Mutex::new(answers.into_iter().collect()), asked: Mutex::default() })
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Storage for Stubborn {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        self.inner.create(new).await
    }
    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        self.inner.open(at, range).await
    }
    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        self.inner.stat(at).await
    }
    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        self.inner.find(name).await
    }
    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        self.asked.lock().unwrap().push(at.key().to_string());
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Good);
        match answer {
            Answer::Good => {}
            Answer::Fail(kind) => return Err(Error::new(kind, format!("cannot delete {}", at.key()))),
            Answer::Pretend => return Ok(Deletion::Gone),
            Answer::Remain => {
                self.inner.delete(at).await?;
                return Ok(Deletion::BytesMayRemain { what: "its bytes may remain readable to someone".to_owned() });
            }
            Answer::Wait(gate) => {
                gate.reached.add_permits(1);
                gate.open.acquire().await.unwrap().forget();
            }
        }
        self.inner.delete(at).await
    }
    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        self.inner.probe(depth).await
    }
    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        self.inner.sweep_temporary(modified_before).await
    }
    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        self.inner.manifests()
    }
}
