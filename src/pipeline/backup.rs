//! Taking a backup: one dump, one stream, every storage fed from it, published in two phases.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    BackupRun, CopyProgress, CopyState, PIECE, PipelineError, Progress, Stage, Stored, StoredCopy,
    publish::{ABORT_DEADLINE, Check, abort, commit, read_back},
    stream::{self, Outcome, StreamError},
};
use crate::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    manifest::Content,
    source::{Source, SourceError},
    storage::{Error, ErrorKind, Locator, NewObject, Storage, Upload},
    transform::EncodeOptions,
};

/// Takes one backup: parts to every storage, the source's own verdict, commit, read back.
///
/// A storage that fails is left out and named in [`Stored::failed_copies`]; when none is left, or on any other error, the source is ended and
/// every upload aborted before this returns. Dropping the future ends the threads and the source too.
pub async fn back_up(run: BackupRun) -> Result<Stored, PipelineError> {
    let BackupRun { mut source, encode, storages, name, attempt, caption, max_size, timeout, .. } = run;
    let limits = Bounds { cancel: run.cancel, deadline: Instant::now() + timeout, timeout };
    let progress = run.progress;
    let copies_begin = storages.iter().map(|(name, _)| (name.clone(), CopyProgress::default())).collect();
    progress.send_modify(|p| *p = Progress { storages: copies_begin, ..Progress::default() });
    let mut copies =
        Copies { name, live: Vec::new(), failed: Vec::new(), aborts: JoinSet::new(), progress: progress.clone() };

    let begun = limits
        .hold(async {
            let (name, caption) = (copies.name.clone(), caption.as_deref());
            let new = NewObject { name: &name, attempt, caption };
            // Together: one that is down takes its time to say so. Each is kept as soon as it is there, so that it can be aborted.
            let mut creations: FuturesUnordered<_> = storages
                .iter()
                .map(|(storage_name, storage)| async move { (storage_name, storage, storage.create(new).await) })
                .collect();
            while let Some((storage_name, storage, result)) = creations.next().await {
                let (storage_name, storage) = (storage_name.clone(), Arc::clone(storage));
                match result {
                    Ok(upload) => copies.live.push(Copy { storage_name, storage, upload, stored_bytes: 0 }),
                    Err(error) => copies.leave_out(storage_name, error),
                }
            }
            let place = |copy: &Copy| storages.iter().position(|(name, _)| *name == copy.storage_name);
            copies.live.sort_by_key(place);
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
    let report = match finished.and_then(|report| not_empty(&outcome, &report.holds).map(|()| report)) {
        Ok(report) => report,
        Err(error) => {
            copies.abort_all().await;
            return Err(error);
        }
    };

    progress.send_modify(|p| p.stage = Stage::Publishing);
    let published = copies.commit(outcome.stored).await;
    progress.send_modify(|p| p.stage = Stage::ReadingBack);
    let check = if run.verify_read_back { Check::Full } else { Check::Size };
    let stored_copies = copies.read_back(published, outcome.stored, check).await;
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

/// A dump is never empty: a program that says nothing and exits well did not do its work. A log may have no lines in a range.
fn not_empty(outcome: &Outcome, holds: &Content) -> Result<(), PipelineError> {
    if outcome.content.bytes > 0 || matches!(holds, Content::Logs(logs) if logs.row_count == 0) {
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
    let mut stream = stream::start(reader, encode, copies.part(), copies.read_ahead(), progress.clone())
        .map_err(PipelineError::Encode)?;
    let mut stored_bytes = 0;
    while let Some(part) = stream.parts.recv().await {
        stored_bytes += part.len() as u64;
        if stored_bytes > max_size.0 {
            return Err(PipelineError::TooLarge { limit: max_size });
        }
        copies.put(part).await?;
        let tables = source.tables();
        progress.send_modify(|p| (p.stored_bytes, p.tables) = (stored_bytes, tables));
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
    async fn put(&mut self, part: Bytes, progress: &watch::Sender<Progress>) -> Result<(), Error> {
        self.stored_bytes += part.len() as u64;
        if let Some(most) = self.storage.limits().artifact
            && self.stored_bytes > most.0
        {
            return Err(Error::new(ErrorKind::TooLarge, format!("cannot store more than {most} in one artifact")));
        }
        self.upload.put(part).await?;
        progress.send_modify(|p| {
            p.storages.entry(self.storage_name.clone()).or_default().stored_bytes = self.stored_bytes;
        });
        Ok(())
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
    progress: watch::Sender<Progress>,
}

impl Copies {
    /// The largest piece that every storage takes.
    fn part(&self) -> ByteSize {
        self.live.iter().map(|copy| copy.storage.limits().part).fold(PIECE, ByteSize::min)
    }

    fn read_ahead(&self) -> ByteSize {
        match self.live.iter().any(|copy| copy.storage.gathers_parts()) {
            true => stream::READ_AHEAD_OF_GATHERED_PARTS,
            false => stream::READ_AHEAD,
        }
    }

    /// Goes on without this storage.
    fn leave_out(&mut self, storage_name: String, error: Error) {
        self.progress.send_modify(|p| {
            let copy = p.storages.entry(storage_name.clone()).or_default();
            (copy.state, copy.message) = (CopyState::Failed, Some(format!("{error:#}")));
        });
        self.failed.push((storage_name, error));
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
        let progress = &self.progress;
        let results = join_all(self.live.iter_mut().map(|copy| copy.put(part.clone(), progress))).await;
        let mut kept = Vec::with_capacity(self.live.len());
        for (copy, result) in std::mem::take(&mut self.live).into_iter().zip(results) {
            match result {
                Ok(()) => kept.push(copy),
                Err(error) => {
                    tracing::warn!(storage = copy.storage_name, %error, "a copy is given up");
                    self.aborts.spawn(abort(copy.upload));
                    self.leave_out(copy.storage_name, error);
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
            let result = commit(&*storage, upload, name, stored).await;
            (storage_name, storage, result)
        }))
        .await;
        let mut published = Vec::with_capacity(results.len());
        for (storage_name, storage, result) in results {
            match result {
                Ok(locator) => published.push(Published { storage_name, storage, locator }),
                Err(error) => self.leave_out(storage_name, error),
            }
        }
        published
    }

    /// Asks each storage what it has; a copy that is not what was sent counts as failed. It is left where it is: under a final name only
    /// the holder of the job's lease may delete.
    async fn read_back(&mut self, published: Vec<Published>, stored: Fingerprint, check: Check) -> Vec<StoredCopy> {
        let results = join_all(published.into_iter().map(|copy| async move {
            let result = read_back(&*copy.storage, &copy.locator, stored, check).await;
            if let Err(error) = &result {
                tracing::warn!(storage = copy.storage_name, %error, "a copy does not read back");
            }
            (copy, result)
        }))
        .await;
        let mut good = Vec::with_capacity(results.len());
        for (Published { storage_name, locator, .. }, result) in results {
            match result {
                Ok(read_back) => {
                    self.progress.send_modify(|p| {
                        p.storages.entry(storage_name.clone()).or_default().state = CopyState::Done;
                    });
                    good.push(StoredCopy { storage: storage_name, locator, read_back });
                }
                Err(error) => self.leave_out(storage_name, error),
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
