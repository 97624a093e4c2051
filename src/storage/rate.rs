//! A storage that is written to no faster than it is told: `max_rate`. Reading is never slowed: it is what a restore waits for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::*;

/// Any storage, with all of its uploads together kept to one rate.
#[derive(Debug)]
pub struct RateLimited {
    inner: Arc<dyn Storage>,
    pacer: Arc<Pacer>,
}

impl RateLimited {
    /// Wraps `inner` when there is a rate (bytes per second) to keep to; else gives it back as it is.
    pub fn wrap(inner: Arc<dyn Storage>, bytes_per_second: Option<ByteSize>) -> Arc<dyn Storage> {
        match bytes_per_second {
            None => inner,
            Some(rate) => Arc::new(Self { inner, pacer: Arc::new(Pacer::new(rate)) }),
        }
    }
}

/// The rates of those whose uploads go to several storages, such as projects: all uploads of one of them in this process share its rate,
/// whatever each storage is kept to itself. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pacers(Arc<Mutex<BTreeMap<String, Weak<Pacer>>>>);

impl Pacers {
    /// Wraps `inner` for uploads of `whose` when there is a rate (bytes per second) to keep to; else gives it back as it is.
    pub fn wrap(&self, whose: &str, inner: Arc<dyn Storage>, bytes_per_second: Option<ByteSize>) -> Arc<dyn Storage> {
        match bytes_per_second {
            None => inner,
            Some(rate) => Arc::new(RateLimited { inner, pacer: self.pacer(whose, rate) }),
        }
    }

    /// The one that is in use. After the rate was changed there is another: what is under way keeps its own to its end.
    fn pacer(&self, whose: &str, rate: ByteSize) -> Arc<Pacer> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, pacer| pacer.strong_count() > 0);
        let in_use = all.get(whose).and_then(Weak::upgrade).filter(|pacer| pacer.bytes_per_second == rate.0);
        in_use.unwrap_or_else(|| {
            let pacer = Arc::new(Pacer::new(rate));
            all.insert(whose.to_owned(), Arc::downgrade(&pacer));
            pacer
        })
    }
}

/// Hands out time: each byte takes its share of a second, and the shares do not overlap.
#[derive(Debug)]
struct Pacer {
    bytes_per_second: u64,
    /// Until when all bytes let through so far take.
    busy_until: Mutex<Option<Instant>>,
}

impl Pacer {
    fn new(rate: ByteSize) -> Self {
        Self { bytes_per_second: rate.0.max(1), busy_until: Mutex::new(None) }
    }

    /// The moment at which `bytes` more may go, so that the average since the beginning is never above the rate.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let until = busy_until.map_or(now, |until| until.max(now)) + takes;
        *busy_until = Some(until);
        until
    }

    async fn pass(&self, bytes: usize) {
        tokio::time::sleep_until(self.reserve(bytes as u64, Instant::now())).await;
    }
}

#[async_trait]
impl Storage for RateLimited {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        let upload = self.inner.create(new).await?;
        Ok(Box::new(RateLimitedUpload { upload, pacer: Arc::clone(&self.pacer) }))
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
        self.inner.delete(at).await
    }

    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        self.inner.probe(depth).await
    }

    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        self.inner.sweep_temporary(modified_before).await
    }

    fn objects(&self) -> Option<Objects> {
        self.inner.objects()
    }

    fn s3_address(&self, at: &Locator) -> Option<S3Address> {
        self.inner.s3_address(at)
    }

    async fn in_chat(&self, chat_id: i64) -> Result<Option<Arc<dyn Storage>>, Error> {
        self.inner.in_chat(chat_id).await
    }

    fn gathers_parts(&self) -> bool {
        self.inner.gathers_parts()
    }

    fn takes_plaintext(&self) -> bool {
        self.inner.takes_plaintext()
    }

    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        self.inner.manifests()
    }
}

struct RateLimitedUpload {
    upload: Box<dyn Upload>,
    pacer: Arc<Pacer>,
}

#[async_trait]
impl Upload for RateLimitedUpload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        self.pacer.pass(part.len()).await;
        self.upload.put(part).await
    }

    async fn commit(self: Box<Self>) -> Result<Locator, Error> {
        self.upload.commit().await
    }

    async fn abort(self: Box<Self>) {
        self.upload.abort().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_through_never_exceeds_the_rate() {
        let (pacer, start) = (Pacer::new(ByteSize(1000)), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pacer.reserve(2000, start), after(2));
        // A second upload shares the rate of the first.
        assert_eq!(pacer.reserve(1000, start), after(3));
        // What was not used is not saved up.
        assert_eq!(pacer.reserve(1000, after(10)), after(11));
    }

    #[test]
    fn all_uploads_of_one_project_share_its_rate_and_no_other_projects() {
        let (pacers, start) = (Pacers::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let (backup, repair) = (pacers.pacer("acme", ByteSize(1000)), pacers.clone().pacer("acme", ByteSize(1000)));
        let (globex, faster) = (pacers.pacer("globex", ByteSize(1000)), pacers.pacer("acme", ByteSize(2000)));
        assert_eq!(backup.reserve(1000, start), after(1));
        assert_eq!(repair.reserve(1000, start), after(2));
        assert_eq!(globex.reserve(1000, start), after(1));
        // The rate was changed meanwhile: it holds from the next upload on.
        assert_eq!(faster.reserve(2000, start), after(1));
        drop((backup, repair, globex, faster));
        assert_eq!(pacers.pacer("acme", ByteSize(1000)).reserve(1000, start), after(1));
        assert_eq!(pacers.0.lock().unwrap().len(), 1, "who uploads nothing is forgotten");
    }

    #[tokio::test]
    async fn an_upload_waits_for_its_share_and_a_read_does_not() {
        let inner = Arc::new(memory::MemoryStorage::new());
        let storage = RateLimited::wrap(inner, Some(ByteSize(1_000_000)));
        let name: ArtifactName = "a".parse().unwrap();
        let begun = Instant::now();
        let at = put_whole(&*storage, &name, LeaseToken::generate(), vec![1; 100_000].into()).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(get_whole(&*storage, &at, ByteSize::mib(1)).await.unwrap(), vec![1; 100_000]);
    }
}
