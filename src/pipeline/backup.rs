//! Taking a backup: one dump, one stream, every storage fed from it, published in two phases.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    BackupRun, PipelineError, Progress, Stage, Stored, StoredCopy,
    stream::{self, Outcome, StreamError},
};
use crate::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    source::{Source, SourceError},
    storage::{Error, ErrorKind, Locator, Storage, Upload, fingerprint},
    transform::EncodeOptions,
};

/// How long clearing away may take after everything else went wrong; beyond it the sweep does it.
const ABORT_DEADLINE: Duration = Duration::from_secs(30);

/// Takes one backup: parts to every storage, the source's own verdict, commit, read back.
///
/// A storage that fails is left out and named in [`Stored::failed_copies`]; when none is left, or on any other error, the source is ended and
/// every upload aborted before this returns. Dropping the future ends the threads and the source too.
pub async fn back_up(run: BackupRun) -> Result<Stored, PipelineError> {
    let BackupRun { mut source, encode, storages, name, attempt, max_size, timeout, .. } = run;
    let limits = Bounds { cancel: run.cancel, deadline: Instant::now() + timeout, timeout };
    let progress = run.progress;
    progress.send_modify(|p| *p = Progress::default());
    let mut copies = Copies { name, live: Vec::new(), failed: Vec::new(), aborts: JoinSet::new() };

    let begun = limits
        .hold(async {
            for (storage_name, storage) in storages {
                match storage.create(&copies.name, attempt).await {
                    Ok(upload) => copies.live.push(Copy { storage_name, storage, upload, stored_bytes: 0 }),
                    Err(error) => copies.failed.push((storage_name, error)),
                }
            }
            copies.some_left()
        })
        .await;
    if let Err(error) = begun {
        end(source).await;
        copies.abort_all().await;
        return Err(error);
    }

    let streamed = limits.hold(stream_to(&mut *source, encode, &mut copies, max_size, &progress)).await;
    let outcome = match streamed {
        Ok(outcome) => outcome,
        Err(error) => {
            end(source).await;
            copies.abort_all().await;
            return Err(error);
        }
    };

    progress.send_modify(|p| p.stage = Stage::Finishing);
    let finished = limits.hold(async { source.finish().await.map_err(PipelineError::Source) }).await;
    let report = match finished.and_then(|report| not_empty(&outcome).map(|()| report)) {
        Ok(report) => report,
        Err(error) => {
            copies.abort_all().await;
            return Err(error);
        }
    };

    progress.send_modify(|p| p.stage = Stage::Publishing);
    let published = copies.commit(outcome.stored).await;
    progress.send_modify(|p| p.stage = Stage::ReadingBack);
    let stored_copies = copies.read_back(published, outcome.stored, run.verify_read_back).await;
    copies.finish_aborts().await;
    if stored_copies.is_empty() {
        return Err(copies.worst());
    }
    let Outcome { content, stored, parts } = outcome;
    Ok(Stored { content, stored, parts, report, copies: stored_copies, failed_copies: copies.failed })
}

/// What ends an attempt from outside.
struct Bounds {
    cancel: CancellationToken,
    deadline: Instant,
    timeout: Duration,
}

impl Bounds {
    async fn hold<T>(&self, work: impl Future<Output = Result<T, PipelineError>>) -> Result<T, PipelineError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(PipelineError::Cancelled),
            () = tokio::time::sleep_until(self.deadline) => Err(PipelineError::TimedOut { limit: self.timeout }),
            result = work => result,
        }
    }
}

/// Ends the source, for as long as clearing away may take.
async fn end(source: Box<dyn Source>) {
    if timeout(ABORT_DEADLINE, source.abort()).await.is_err() {
        tracing::warn!("the source did not end in time");
    }
}

/// A dump is never empty: a program that says nothing and exits well did not do its work.
fn not_empty(outcome: &Outcome) -> Result<(), PipelineError> {
    if outcome.content.bytes > 0 {
        return Ok(());
    }
    Err(PipelineError::Source(SourceError {
        message: "the source ended without an error and without a single byte".into(),
        may_pass: false,
        code: "source.empty",
    }))
}

/// Moves every byte from the source to the copies; returns when the stream ended, which is not yet success.
async fn stream_to(
    source: &mut dyn Source,
    encode: EncodeOptions,
    copies: &mut Copies,
    max_size: ByteSize,
    progress: &watch::Sender<Progress>,
) -> Result<Outcome, PipelineError> {
    let reader = source.start().await.map_err(PipelineError::Source)?;
    let mut stream = stream::start(reader, encode, copies.part(), progress.clone()).map_err(PipelineError::Encode)?;
    let mut stored_bytes = 0;
    while let Some(part) = stream.parts.recv().await {
        stored_bytes += part.len() as u64;
        if stored_bytes > max_size.0 {
            return Err(PipelineError::TooLarge { limit: max_size });
        }
        copies.put(part).await?;
        progress.send_modify(|p| p.stored_bytes = stored_bytes);
    }
    match stream.outcome.await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(StreamError::Encode(error))) => Err(PipelineError::Encode(error)),
        Ok(Err(StreamError::Read(error))) => Err(PipelineError::Source(SourceError {
            message: format!("cannot read the dump ({error})"),
            may_pass: true,
            code: "source.read",
        })),
        Err(_) => Err(PipelineError::Encode(std::io::Error::other("the encoding thread stopped unexpectedly"))),
    }
}

/// One storage's share of the stream.
struct Copy {
    storage_name: String,
    storage: Arc<dyn Storage>,
    upload: Box<dyn Upload>,
    stored_bytes: u64,
}

impl Copy {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        self.stored_bytes += part.len() as u64;
        if let Some(most) = self.storage.limits().artifact
            && self.stored_bytes > most.0
        {
            return Err(Error::new(ErrorKind::TooLarge, format!("cannot store more than {most} in one artifact")));
        }
        self.upload.put(part).await
    }
}

/// A copy under its final name.
struct Published {
    storage_name: String,
    storage: Arc<dyn Storage>,
    locator: Locator,
}

/// All copies of one attempt.
struct Copies {
    name: ArtifactName,
    live: Vec<Copy>,
    failed: Vec<(String, Error)>,
    /// Uploads being cleared away while the others go on.
    aborts: JoinSet<()>,
}

impl Copies {
    /// The largest part that every storage takes.
    fn part(&self) -> ByteSize {
        self.live.iter().map(|copy| copy.storage.limits().part).min().unwrap_or(ByteSize::mib(8))
    }

    fn some_left(&mut self) -> Result<(), PipelineError> {
        if self.live.is_empty() { Err(self.worst()) } else { Ok(()) }
    }

    /// The failure to tell when no copy is left: one that may pass, where there is one, so that a retry is made.
    fn worst(&mut self) -> PipelineError {
        let at = self.failed.iter().position(|(_, error)| error.kind.may_pass()).unwrap_or(0);
        if self.failed.is_empty() {
            let error = Error::new(ErrorKind::Invalid, "no storage is configured for this backup");
            return PipelineError::Storage { name: String::new(), error };
        }
        let (name, error) = self.failed.swap_remove(at);
        PipelineError::Storage { name, error }
    }

    async fn put(&mut self, part: Bytes) -> Result<(), PipelineError> {
        let results = join_all(self.live.iter_mut().map(|copy| copy.put(part.clone()))).await;
        let mut kept = Vec::with_capacity(self.live.len());
        for (copy, result) in self.live.drain(..).zip(results) {
            match result {
                Ok(()) => kept.push(copy),
                Err(error) => {
                    tracing::warn!(storage = copy.storage_name, %error, "a copy is given up");
                    self.aborts.spawn(abort(copy.upload));
                    self.failed.push((copy.storage_name, error));
                }
            }
        }
        self.live = kept;
        self.some_left()
    }

    /// Publishes every copy; from here on the attempt is not cancelled any more.
    async fn commit(&mut self, stored: Fingerprint) -> Vec<Published> {
        let name = &self.name;
        let results = join_all(self.live.drain(..).map(|copy| async move {
            let Copy { storage_name, storage, upload, .. } = copy;
            let result = match upload.commit().await {
                Err(error) if error.kind.may_pass() => match published_anyway(&*storage, name, stored).await {
                    Some(locator) => Ok(locator),
                    None => Err(error),
                },
                other => other,
            };
            (storage_name, storage, result)
        }))
        .await;
        let mut published = Vec::with_capacity(results.len());
        for (storage_name, storage, result) in results {
            match result {
                Ok(locator) => published.push(Published { storage_name, storage, locator }),
                Err(error) => self.failed.push((storage_name, error)),
            }
        }
        published
    }

    /// Asks each storage what it has; a copy that is not what was sent counts as failed. It is left where it is: under a final name only
    /// the holder of the job's lease may delete.
    async fn read_back(&mut self, published: Vec<Published>, stored: Fingerprint, full: bool) -> Vec<StoredCopy> {
        let results = join_all(published.into_iter().map(|copy| async move {
            let result = compare(&*copy.storage, &copy.locator, stored, full).await;
            if let Err(error) = &result {
                tracing::warn!(storage = copy.storage_name, %error, "a copy does not read back");
            }
            (copy, result)
        }))
        .await;
        let mut good = Vec::with_capacity(results.len());
        for (copy, result) in results {
            match result {
                Ok(()) => good.push(StoredCopy { storage: copy.storage_name, locator: copy.locator }),
                Err(error) => self.failed.push((copy.storage_name, error)),
            }
        }
        good
    }

    async fn abort_all(&mut self) {
        for copy in self.live.drain(..) {
            self.aborts.spawn(abort(copy.upload));
        }
        self.finish_aborts().await;
    }

    async fn finish_aborts(&mut self) {
        while self.aborts.join_next().await.is_some() {}
    }
}

/// Clears one upload away, with a deadline of its own.
async fn abort(upload: Box<dyn Upload>) {
    if timeout(ABORT_DEADLINE, upload.abort()).await.is_err() {
        tracing::warn!("an upload was not cleared away in time; the sweep will do it");
    }
}

/// Whether a commit whose answer was lost took effect all the same: the object has its final name and is, byte for byte, ours.
async fn published_anyway(storage: &dyn Storage, name: &ArtifactName, stored: Fingerprint) -> Option<Locator> {
    let locator = storage.find(name).await.ok()??;
    compare(storage, &locator, stored, true).await.ok()?;
    Some(locator)
}

async fn compare(storage: &dyn Storage, at: &Locator, stored: Fingerprint, full: bool) -> Result<(), Error> {
    let bytes = storage.stat(at).await?.bytes;
    if bytes != stored.bytes {
        let context = format!("the copy has {bytes} bytes where {} were sent", stored.bytes);
        return Err(Error::new(ErrorKind::Corrupt, context));
    }
    if full && fingerprint(storage, at).await? != stored {
        return Err(Error::new(ErrorKind::Corrupt, "the copy reads back with another SHA-256"));
    }
    Ok(())
}
