//! One upload: the first part-sized piece is held back, so that a small object is a single PUT; from then on parts go out several at a
//! time. With as many under way as may be, nothing more is taken: memory is the parts in flight and one piece of the pipeline's.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{
    ObjectStore, PutMode, PutOptions, PutPayload,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use serde_json::Value;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Bucket, LARGEST_OBJECT, MOST_PARTS, PIECE, UPLOADS, trouble::Trouble};
use crate::{
    artifact::ArtifactName,
    ids::LeaseToken,
    storage::{Error, ErrorKind, Locator, Upload},
};

/// Times that a request which publishes is sent.
const PUBLISH_ATTEMPTS: u32 = 4;
/// The slowest line on which an object in one piece may be sent, in bytes per second.
const SLOWEST_LINE: u64 = 64 << 10;
/// The slowest service that puts an object together from its parts, in bytes per second: some copy them.
const SLOWEST_ASSEMBLY: u64 = 100_000_000;

pub(super) struct S3Upload {
    bucket: Arc<Bucket>,
    name: ArtifactName,
    object: Path,
    attempt: LeaseToken,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    total: u64,
    multipart: Option<Multipart>,
    /// Something went wrong, or it is over: nothing more is taken.
    ended: bool,
}

/// An upload in parts.
struct Multipart {
    id: UploadId,
    begun: usize,
    /// Dropped with the upload: then no part goes out any more.
    sending: JoinSet<(usize, Result<PartId, Error>)>,
    sent: BTreeMap<usize, PartId>,
}

/// An upload's id, or the task that gets it. A task of its own: whoever waits may be cancelled, and the id must not be lost with him.
enum UploadId {
    Asked(JoinHandle<Result<Begun, Error>>),
    Known(Begun),
    Failed,
}

/// An upload that is written down.
pub(super) struct Begun {
    pub id: String,
    fact: Value,
    /// When it was last written down: the sweep takes one that was long ago for dead.
    written: Instant,
}

impl Begun {
    /// Writes the upload down anew where that was long ago: it is alive, however slow. That it cannot be written ends no upload.
    pub async fn keep(&mut self, bucket: &Bucket) {
        if self.written.elapsed() < bucket.rewrite_after {
            return;
        }
        match bucket.ledger.put(&bucket.storage_name, &format!("{UPLOADS}{}", self.id), self.fact.clone()).await {
            Ok(()) => self.written = Instant::now(),
            Err(error) => {
                tracing::warn!(storage = bucket.storage_name, %error, "an upload under way is not written down anew");
            }
        }
    }
}

impl S3Upload {
    pub(super) fn new(bucket: Arc<Bucket>, name: ArtifactName, object: Path, attempt: LeaseToken) -> Self {
        let (gathered, multipart) = (Vec::new(), None);
        Self { bucket, name, object, attempt, gathered, gathered_bytes: 0, total: 0, multipart, ended: false }
    }

    /// Takes `bytes` off the front of what was gathered, without copying.
    fn take(&mut self, bytes: usize) -> PutPayload {
        let (mut missing, mut taken) = (bytes, Vec::new());
        while missing > 0 && !self.gathered.is_empty() {
            if self.gathered[0].len() <= missing {
                let whole = self.gathered.remove(0);
                missing -= whole.len();
                taken.push(whole);
            } else {
                taken.push(self.gathered[0].split_to(missing));
                missing = 0;
            }
        }
        self.gathered_bytes -= bytes - missing;
        taken.into_iter().collect()
    }

    /// Sends one part, once fewer than the allowed number are under way.
    async fn send(&mut self, bytes: usize) -> Result<(), Error> {
        let (bucket, object) = (Arc::clone(&self.bucket), self.object.clone());
        if self.multipart.is_none() {
            let asked = tokio::spawn(begin(Arc::clone(&bucket), object.clone(), self.attempt));
            let sending = JoinSet::new();
            self.multipart = Some(Multipart { id: UploadId::Asked(asked), begun: 0, sending, sent: BTreeMap::new() });
        }
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        let id = multipart.id.get().await?;
        multipart.make_room(bucket.parts_in_flight).await?;
        let (index, context) = (multipart.begun, format!("cannot write part {} of {}", multipart.begun + 1, self.name));
        let payload = self.take(bytes);
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        multipart.begun += 1;
        multipart.sending.spawn(async move {
            let sent = bucket.parts.put_part(&object, &id, index, payload).await;
            (index, sent.map_err(|error| Trouble::of(error).told(context)))
        });
        Ok(())
    }

    async fn add(&mut self, part: Bytes) -> Result<(), Error> {
        let context = || format!("cannot write {}", self.name);
        if self.ended {
            return Err(Error::new(ErrorKind::Invalid, format!("{} after an error", context())));
        }
        let part_size = self.bucket.part_size;
        self.total += part.len() as u64;
        let most = (part_size as u64).saturating_mul(MOST_PARTS).min(LARGEST_OBJECT.0);
        if part.len() as u64 > PIECE.0.min(part_size as u64) || self.total > most {
            return Err(Error::new(ErrorKind::TooLarge, context()));
        }
        if let Some(multipart) = &mut self.multipart {
            multipart.make_room(self.bucket.parts_in_flight).await?;
            // With each piece: a large part may take its time to be gathered.
            multipart.id.keep(&self.bucket).await;
        }
        self.gathered_bytes += part.len();
        self.gathered.push(part);
        // What fits into one part is one PUT, so the first is sent only when more has come.
        while self.gathered_bytes > part_size || (self.multipart.is_some() && self.gathered_bytes == part_size) {
            self.send(part_size).await?;
        }
        if let Some(multipart) = &mut self.multipart {
            multipart.already_sent()?;
        }
        Ok(())
    }

    /// All parts are with the service; gives what completes them.
    async fn finish_parts(&mut self) -> Result<Option<(String, Vec<PartId>)>, Error> {
        if self.multipart.is_some() && self.gathered_bytes > 0 {
            self.send(self.gathered_bytes).await?;
        }
        let Some(multipart) = &mut self.multipart else { return Ok(None) };
        while !multipart.sending.is_empty() {
            multipart.next_sent().await?;
        }
        let parts = std::mem::take(&mut multipart.sent).into_values().collect();
        Ok(Some((multipart.id.get().await?, parts)))
    }

    /// Gives the object its name. Nobody else, in any process, does so meanwhile.
    async fn publish(&mut self) -> Result<(), Unpublished> {
        let naming = match self.finish_parts().await? {
            Some((id, parts)) => Naming::Complete { id, parts },
            None => Naming::Put(self.take(self.gathered_bytes)),
        };
        let (bucket, context) = (Arc::clone(&self.bucket), format!("cannot publish {}", self.name));
        let mut lock = bucket.ledger.hold(&bucket.lock_of(&self.object)).await?;
        if !bucket.is_free(&self.object, &context).await? {
            return Err(Error::new(ErrorKind::Exists, context).into());
        }
        lock.check().await?;
        let given = naming.give(&bucket, &self.object, self.total, &context).await;
        if let (Err(Unpublished { in_doubt: true, .. }), Naming::Complete { id, .. }) = (&given, &naming) {
            // Under the lock: a request that is still on its way would else overwrite what another writes here later. What was completed
            // before stays.
            match bucket.abort(&self.object, id).await {
                Ok(()) => bucket.forget(&self.object, id).await,
                Err(trouble) => {
                    tracing::warn!(storage = bucket.storage_name, artifact = %self.name, %trouble, "an upload in doubt is left to the sweep");
                }
            }
        }
        given
    }

    /// Ends the upload by its id. What cannot be ended stays in the ledger.
    async fn clear(&mut self) {
        self.ended = true;
        self.gathered.clear();
        let Some(mut multipart) = self.multipart.take() else { return };
        multipart.sending.shutdown().await;
        let Ok(id) = multipart.id.get().await else { return };
        match self.bucket.abort(&self.object, &id).await {
            Ok(()) => self.bucket.forget(&self.object, &id).await,
            Err(trouble) => {
                tracing::warn!(storage = self.bucket.storage_name, artifact = %self.name, %trouble, "an upload is left to the sweep");
            }
        }
    }
}

/// Begins an upload and writes its id down, before anybody can send a part.
pub(super) async fn begin(bucket: Arc<Bucket>, object: Path, attempt: LeaseToken) -> Result<Begun, Error> {
    let context = format!("cannot begin an upload of {object} in bucket {}", bucket.name);
    let id = bucket.within(&context, bucket.quick.create_multipart(&object)).await?;
    let mut fact = bucket.remembered(&object);
    fact.insert("id".to_owned(), id.clone().into());
    fact.insert("attempt".to_owned(), attempt.to_string().into());
    let fact = Value::from(fact);
    if let Err(error) = bucket.ledger.put(&bucket.storage_name, &format!("{UPLOADS}{id}"), fact.clone()).await {
        let _ = bucket.abort(&object, &id).await; // it has no part, and the reason matters more
        return Err(error);
    }
    Ok(Begun { id, fact, written: Instant::now() })
}

/// Why an object did not get its name.
struct Unpublished {
    error: Error,
    /// It may have got it all the same, or may get it yet.
    in_doubt: bool,
}

impl From<Error> for Unpublished {
    fn from(error: Error) -> Self {
        Self { error, in_doubt: false }
    }
}

/// The request that gives an object its name.
enum Naming {
    Put(PutPayload),
    Complete { id: String, parts: Vec<PartId> },
}

impl Naming {
    async fn send(&self, bucket: &Bucket, object: &Path) -> object_store::Result<()> {
        let publishing = &bucket.publishing;
        match self {
            Self::Put(payload) => {
                let is_conditional = bucket.conditional.load(Ordering::Relaxed);
                let mode = if is_conditional { PutMode::Create } else { PutMode::Overwrite };
                let options = PutOptions { mode, ..PutOptions::default() };
                publishing.put_opts(object, payload.clone(), options).await.map(drop)
            }
            Self::Complete { id, parts } => publishing.complete_multipart(object, id, parts.clone()).await.map(drop),
        }
    }

    /// Longest time to wait for an object of this size.
    fn limit(&self, bucket: &Bucket, bytes: u64) -> Duration {
        let bytes_per_second = match self {
            Self::Put(_) => SLOWEST_LINE,
            Self::Complete { .. } => SLOWEST_ASSEMBLY,
        };
        bucket.timeout + Duration::from_secs(bytes / bytes_per_second)
    }

    /// Sends the request, again while that can help. After an attempt that may have taken effect, a refusal says nothing of the object any
    /// more: then the error is [`ErrorKind::Unavailable`], and whoever asked looks what is there.
    async fn give(&self, bucket: &Bucket, object: &Path, bytes: u64, context: &str) -> Result<(), Unpublished> {
        let deadline = Instant::now() + self.limit(bucket, bytes);
        let (mut in_doubt, mut attempt, mut pause) = (false, 1, Duration::from_millis(200));
        loop {
            let trouble = match timeout_at(deadline, self.send(bucket, object)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => Trouble::of(error),
                Err(_) => Trouble::Stalled,
            };
            if trouble.code() == "NotImplemented" && bucket.conditional.swap(false, Ordering::Relaxed) {
                tracing::warn!(
                    storage = bucket.storage_name,
                    "the service does not know If-None-Match: Holdfast's own lock alone keeps names from being overwritten"
                );
                continue;
            }
            let was_in_doubt = in_doubt;
            in_doubt |= trouble.may_have_taken_effect();
            if !trouble.kind().may_pass() && was_in_doubt {
                let error = Error::new(ErrorKind::Unavailable, format!("{context}: an answer was lost, and then"));
                return Err(Unpublished { error: error.with_source(trouble), in_doubt });
            }
            let wait = trouble.retry_after().map_or(pause, |asked| asked.max(pause));
            if !trouble.kind().may_pass() || attempt == PUBLISH_ATTEMPTS || Instant::now() + wait >= deadline {
                return Err(Unpublished { error: trouble.told(context), in_doubt });
            }
            sleep(wait).await;
            (attempt, pause) = (attempt + 1, pause * 2);
        }
    }
}

impl UploadId {
    async fn get(&mut self) -> Result<String, Error> {
        if let Self::Asked(task) = self {
            let answer = task.await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Unavailable, "beginning an upload stopped unexpectedly").with_source(error))
            });
            *self = match answer {
                Ok(begun) => Self::Known(begun),
                Err(error) => {
                    *self = Self::Failed;
                    return Err(error);
                }
            };
        }
        match self {
            Self::Known(begun) => Ok(begun.id.clone()),
            Self::Asked(_) | Self::Failed => Err(Error::new(ErrorKind::Unavailable, "the upload was not begun")),
        }
    }

    /// See [`Begun::keep`].
    async fn keep(&mut self, bucket: &Bucket) {
        if let Self::Known(begun) = self {
            begun.keep(bucket).await;
        }
    }
}

impl Multipart {
    /// Waits until fewer parts than this are under way.
    async fn make_room(&mut self, most: usize) -> Result<(), Error> {
        while self.sending.len() >= most {
            self.next_sent().await?;
        }
        Ok(())
    }

    /// Waits for one part.
    async fn next_sent(&mut self) -> Result<(), Error> {
        match self.sending.join_next().await {
            Some(done) => self.note(done),
            None => Ok(()),
        }
    }

    /// Takes note of the parts that are through, so that a failure is not found out only at the end.
    fn already_sent(&mut self) -> Result<(), Error> {
        while let Some(done) = self.sending.try_join_next() {
            self.note(done)?;
        }
        Ok(())
    }

    fn note(&mut self, done: Result<(usize, Result<PartId, Error>), tokio::task::JoinError>) -> Result<(), Error> {
        let (index, sent) = done.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "sending a part stopped unexpectedly").with_source(error)
        })?;
        self.sent.insert(index, sent?);
        Ok(())
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        let outcome = self.add(part).await;
        self.ended |= outcome.is_err();
        outcome
    }

    async fn commit(mut self: Box<Self>) -> Result<Locator, Error> {
        if self.ended {
            return Err(Error::new(ErrorKind::Invalid, format!("cannot publish {} after an error", self.name)));
        }
        match self.publish().await {
            Ok(()) => {
                if let Some(Multipart { id: UploadId::Known(begun), .. }) = &self.multipart {
                    self.bucket.forget(&self.object, &begun.id).await;
                }
                Ok(self.bucket.locator(self.name.clone(), &self.object))
            }
            // The service may be slow, and the name may appear yet: what is left then is the sweep's, when all is over.
            Err(Unpublished { error, in_doubt: true }) => Err(error),
            Err(Unpublished { error, in_doubt: false }) => {
                let _ = timeout(self.bucket.timeout, self.clear()).await; // else the sweep does it
                Err(error)
            }
        }
    }

    async fn abort(mut self: Box<Self>) {
        self.clear().await;
    }
}
