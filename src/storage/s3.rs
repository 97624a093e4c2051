//! A storage in a bucket of an S3-compatible service.
//!
//! A small object is one PUT. A larger one is a multipart upload, whose id is written to the ledger before its first part, so that
//! [`Storage::sweep_temporary`] can abort by id what a dead process left: the library cannot list uploads. Publishing never overwrites:
//! under the ledger's lock on the key, after a look whether the name is free, and with `If-None-Match: *`, which the services that know it
//! hold even against writers that are not Holdfast.
//!
//! A key that may not do everything is told apart by [`ErrorKind::Denied`]. Without the right to read, an upload works and looks are denied;
//! without the right to delete, what should have gone is kept in the ledger and tried again by the sweep. That goes for what this adapter
//! alone owns, uploads and probes: an object under a final name is the business of the job that holds the lease.

mod http;
mod objects;
mod probe;
mod trouble;
mod upload;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut},
    list::{PaginatedListOptions, PaginatedListStore},
    multipart::MultipartStore,
    path::Path,
};

pub use self::objects::{Listed, Objects};
use self::{http::Transport, trouble::Trouble};
use super::*;
use crate::{
    artifact::MANIFEST_SUFFIX,
    config::{S3Checksum, S3StorageConfig, Secret},
};

/// What the pipeline cuts. Several make a part of an upload, without being copied.
const PIECE: ByteSize = ByteSize::mib(8);
/// Source: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html.
const MOST_PARTS: u64 = 10_000;
const LARGEST_OBJECT: ByteSize = ByteSize::gib(5 * 1024);
/// How long one request may be sent again, from its first attempt. Signatures hold for 15 minutes.
const RESEND_FOR: Duration = Duration::from_secs(5 * 60);
/// The longest read that is taken up again where it broke.
const READ_FOR: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_RESENDS: usize = 6;
/// The age at which what is written down of a living upload is written anew, well within what the sweep is patient for.
const REWRITE_AFTER: Duration = Duration::from_secs(60 * 60);
/// Keys of the ledger's facts.
const UPLOADS: &str = "upload/";
const PROBES: &str = "probe/";

/// What is made of the answer that an object is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Look,
    /// A backup counts as deleted.
    Verdict,
}

/// A bucket, or what is below a prefix in it.
#[derive(Clone)]
pub struct S3Storage {
    bucket: Arc<Bucket>,
}

struct Bucket {
    /// What the configuration calls the storage.
    storage_name: String,
    name: String,
    region: String,
    /// Begins every key; empty, or with a slash at its end.
    prefix: String,
    /// The bucket's URL.
    url: String,
    part_size: usize,
    parts_in_flight: usize,
    timeout: Duration,
    rewrite_after: Duration,
    ledger: Arc<dyn Ledger>,
    /// Looks, lists, deletes, begins: requests without a body, sent again for as long as the timeout allows.
    quick: AmazonS3,
    /// Parts.
    parts: AmazonS3,
    /// Reads.
    reads: AmazonS3,
    /// Parts of objects that may be overwritten, and what completes those.
    overwriting: AmazonS3,
    /// What gives an object its name: never sent again by the library, because a lost answer must be known.
    publishing: AmazonS3,
    /// Whether the service knows `If-None-Match`.
    conditional: Arc<AtomicBool>,
    /// Whether anything was ever seen of the bucket. Until then "not found" may mean the bucket.
    was_seen: AtomicBool,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Storage")
            .field("name", &self.bucket.storage_name)
            .field("url", &self.bucket.url)
            .finish_non_exhaustive()
    }
}

impl S3Storage {
    /// Prepares everything; the service is not asked.
    pub fn open(name: &str, config: &S3StorageConfig, ledger: Arc<dyn Ledger>) -> Result<Self, Error> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, "the settings of the bucket").with_source(why);
        config.check().map_err(invalid)?;
        let (url, in_host) = config.bucket_url().map_err(invalid)?;
        let (Some(access_key), Some(secret_key)) = (&config.access_key, &config.secret_key) else {
            return Err(invalid("the keys are missing".to_owned()));
        };
        let secrets: Arc<[Secret]> = [Some(access_key), Some(secret_key), config.session_token.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let conditional = Arc::new(AtomicBool::new(true));
        let timeout = Duration::from_secs(config.timeout_seconds);
        let transport = Transport::new(timeout / 2, Arc::clone(&conditional), secrets)
            .map_err(|error| invalid(format!("cannot prepare HTTP: {error}")))?;
        // The library takes the endpoint of a bucket in the host with the bucket, and puts it into the path itself.
        let endpoint = if in_host { url.clone() } else { url[..url.len() - config.bucket.len() - 1].to_owned() };
        let client = |transport: Transport, max_retries, retry_timeout| {
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(&config.bucket)
                .with_region(config.signing_region())
                .with_endpoint(&endpoint)
                .with_virtual_hosted_style_request(in_host)
                .with_access_key_id(access_key.expose()) // to sign requests
                .with_secret_access_key(secret_key.expose()) // to sign requests
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                // Not every service has the bulk request, and its failures hide in a success.
                .with_disable_bulk_delete(true)
                .with_retry(RetryConfig {
                    backoff: BackoffConfig {
                        init_backoff: Duration::from_millis(100),
                        max_backoff: Duration::from_secs(5),
                        base: 2.0,
                    },
                    max_retries,
                    retry_timeout,
                })
                .with_http_connector(transport);
            if let Some(token) = &config.session_token {
                builder = builder.with_token(token.expose()); // sent with every request
            }
            match config.checksum {
                S3Checksum::Sha256 => builder = builder.with_checksum_algorithm(Checksum::SHA256),
                S3Checksum::None => {}
            }
            builder.build().map_err(|_| invalid("the S3 library refuses them".to_owned()))
        };
        let bucket = Bucket {
            storage_name: name.to_owned(),
            name: config.bucket.clone(),
            region: config.signing_region().to_owned(),
            prefix: if config.prefix.is_empty() { String::new() } else { format!("{}/", config.prefix) },
            part_size: usize::try_from(config.part_size.0).unwrap_or(usize::MAX),
            parts_in_flight: config.parts_in_flight,
            timeout,
            rewrite_after: REWRITE_AFTER,
            ledger,
            quick: client(transport.with_stall(timeout / 2), MOST_RESENDS, timeout / 2)?,
            parts: client(transport.with_stall(timeout / 2), MOST_RESENDS, RESEND_FOR)?,
            overwriting: client(transport.overwriting().with_stall(timeout / 2), MOST_RESENDS, RESEND_FOR)?,
            reads: client(transport.with_stall(timeout / 2), MOST_RESENDS, READ_FOR)?,
            publishing: client(transport, 0, Duration::ZERO)?,
            url,
            conditional,
            was_seen: AtomicBool::new(false),
        };
        Ok(Self { bucket: Arc::new(bucket) })
    }

    /// The same, but what is written down of a living upload is written anew at this age, not once an hour. Only before it is shared: one that is
    /// stays as it was.
    #[must_use]
    pub fn with_rewrite_after(mut self, age: Duration) -> Self {
        if let Some(bucket) = Arc::get_mut(&mut self.bucket) {
            bucket.rewrite_after = age;
        }
        self
    }
}

impl Bucket {
    /// The whole key of an artifact.
    fn object(&self, name: &ArtifactName) -> Result<Path, Error> {
        let key = format!("{}{name}", self.prefix);
        // 1,024 bytes in UTF-8. Source: docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html.
        let path = Path::parse(&key).ok().filter(|path| path.as_ref() == key && key.len() <= 1024);
        path.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{name} cannot be a key in a bucket")))
    }

    /// The whole key that a locator names, when it is one of this bucket and belongs to the artifact it says.
    fn located(&self, at: &Locator) -> Result<Path, Error> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, format!("the locator {why}")));
        match at {
            Locator::S3 { key, bucket, object } => {
                if *bucket != self.name {
                    return invalid("belongs to another bucket");
                }
                let belongs =
                    object.strip_suffix(key.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('/'));
                match Path::parse(object) {
                    Ok(path) if belongs && path.as_ref() == object => Ok(path),
                    _ => invalid("names an object that is not its artifact's"),
                }
            }
            Locator::Local { .. } | Locator::Memory { .. } | Locator::Telegram { .. } => {
                invalid("belongs to a storage of another kind")
            }
        }
    }

    fn locator(&self, key: ArtifactName, object: &Path) -> Locator {
        Locator::S3 { key, bucket: self.name.clone(), object: object.to_string() }
    }

    /// Waits for one answer, no longer than the timeout.
    async fn within<T>(
        &self,
        context: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        self.ask(request).await.map_err(|trouble| trouble.told(context))
    }

    async fn ask<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> Result<T, Trouble> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(answer) => {
                let answer = answer.map_err(Trouble::of)?;
                self.was_seen.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Err(_) => Err(Trouble::Stalled),
        }
    }

    /// What the service says of an object. Success without a word of the object is none: S3 always tells when it was written.
    async fn head(&self, object: &Path) -> Result<ObjectMeta, Trouble> {
        let meta = self.ask(self.quick.head(object)).await?;
        if meta.e_tag.is_none() && meta.last_modified.timestamp() == 0 {
            return Err(Trouble::broken("the answer to HEAD tells nothing of an object"));
        }
        Ok(meta)
    }

    /// The same; `None` when it is not there. To a key that may not list the whole bucket, Amazon denies what is missing: HEAD carries no
    /// prefix, so a right to list with a condition on it does not count there. Then a list of this one name is asked.
    /// Source: docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html.
    async fn look(&self, object: &Path, weight: Weight) -> Result<Option<ObjectMeta>, Trouble> {
        let trouble = match self.head(object).await {
            Ok(meta) => return Ok(Some(meta)),
            Err(trouble) => self.explained(trouble, weight).await,
        };
        match trouble.kind() {
            ErrorKind::NotFound => Ok(None),
            ErrorKind::Denied if !trouble.is_about_the_keys() && self.is_absent(object).await => Ok(None),
            _ => Err(trouble),
        }
    }

    /// Whether a list says that there is no such object. A key that may not list cannot say so.
    async fn is_absent(&self, object: &Path) -> bool {
        let listed = self.ask(self.quick.list_paginated(Some(object.as_ref()), PaginatedListOptions::default())).await;
        listed.is_ok_and(|page| page.page_token.is_none() && page.result.objects.iter().all(|o| o.location != *object))
    }

    /// What is behind a refusal of a look, whose answer has no body: a missing bucket is no missing object, and a wrong key is no missing
    /// right. Asked until the bucket was seen once, and whenever a deletion depends on it.
    async fn explained(&self, trouble: Trouble, weight: Weight) -> Trouble {
        let is_bare = matches!(trouble.kind(), ErrorKind::NotFound | ErrorKind::Denied) && trouble.code().is_empty();
        let is_settled = match weight {
            Weight::Look => self.was_seen.load(Ordering::Relaxed),
            Weight::Verdict => trouble.kind() == ErrorKind::Denied && self.was_seen.load(Ordering::Relaxed),
        };
        if !is_bare || is_settled {
            return trouble;
        }
        let one = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let prefix = (!self.prefix.is_empty()).then_some(self.prefix.as_str());
        match self.ask(self.quick.list_paginated(prefix, one)).await {
            Err(other) if other.kind() == ErrorKind::Invalid || other.is_about_the_keys() => other,
            Err(other) if weight == Weight::Verdict && other.kind().may_pass() => other,
            Ok(_) | Err(_) => trouble,
        }
    }

    /// Whether nothing has this name yet. Where the key may not look it is taken to be free: the service's own condition decides then.
    async fn is_free(&self, object: &Path, context: &str) -> Result<bool, Error> {
        match self.look(object, Weight::Look).await {
            Ok(found) => Ok(found.is_none()),
            Err(trouble) if trouble.kind() == ErrorKind::Denied && !trouble.is_about_the_keys() => Ok(true),
            Err(trouble) => Err(trouble.told(context)),
        }
    }

    /// Deletes an object; success when it is gone.
    async fn remove(&self, object: &Path) -> Result<(), Trouble> {
        match self.ask(ObjectStoreExt::delete(&self.quick, object)).await {
            Err(trouble) if trouble.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Ends an upload by its id; success when the service does not know it any more.
    async fn abort(&self, object: &Path, id: &str) -> Result<(), Trouble> {
        match self.ask(self.quick.abort_multipart(object, &id.to_owned())).await {
            Err(trouble) if trouble.code() == "NoSuchUpload" => Ok(()),
            other => other,
        }
    }

    /// An upload is over: nothing of it is left to be swept.
    async fn forget(&self, object: &Path, id: &str) {
        if let Err(error) = self.ledger.remove(&self.storage_name, &format!("{UPLOADS}{id}")).await {
            // The sweep will abort it once more and be told that it is gone.
            tracing::warn!(storage = self.storage_name, %object, %error, "an ended upload is still written down");
        }
    }

    /// The name of the lock on one object, the same for every process and for every name under which the bucket is configured.
    fn lock_of(&self, object: &Path) -> String {
        format!("s3 {}/{object}", self.url)
    }

    fn remembered(&self, object: &Path) -> serde_json::Map<String, serde_json::Value> {
        let text = |text: &str| serde_json::Value::String(text.to_owned());
        [("bucket".to_owned(), text(&self.url)), ("object".to_owned(), text(object.as_ref()))].into_iter().collect()
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn limits(&self) -> Limits {
        let part_size = self.bucket.part_size as u64;
        Limits {
            part: PIECE.min(ByteSize(part_size)),
            parts_in_flight: self.bucket.parts_in_flight,
            artifact: Some(ByteSize(part_size.saturating_mul(MOST_PARTS)).min(LARGEST_OBJECT)),
            pace: Pace::Streamed,
        }
    }

    fn gathers_parts(&self) -> bool {
        true
    }

    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        let NewObject { name, attempt, .. } = new;
        let object = self.bucket.object(name)?;
        let context = format!("cannot begin {name}");
        if !self.bucket.is_free(&object, &context).await? {
            return Err(Error::new(ErrorKind::Exists, context));
        }
        Ok(Box::new(upload::S3Upload::new(Arc::clone(&self.bucket), name.clone(), object, attempt)))
    }

    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        let (object, context) = (self.bucket.located(at)?, format!("cannot read {}", at.key()));
        let wanted = match range {
            // A range too: an answer that was cut short on the way, its length corrected, then contradicts itself.
            None => GetRange::Offset(0),
            Some(range) => {
                let (start, end) = range.within(self.stat(at).await?.bytes)?;
                if start == end {
                    return Ok(Box::pin(stream::empty()));
                }
                GetRange::Bounded(start..end)
            }
        };
        let options = GetOptions { range: Some(wanted), ..GetOptions::default() };
        let answer = match self.bucket.ask(self.bucket.reads.get_opts(&object, options)).await {
            Ok(answer) => answer,
            // An empty object has no range, which services tell in different ways.
            Err(trouble) if range.is_none() && trouble.may_be_about_the_range() => {
                return match self.bucket.look(&object, Weight::Look).await {
                    Ok(Some(meta)) if meta.size == 0 => Ok(Box::pin(stream::empty())),
                    _ => Err(trouble.told(context)),
                };
            }
            Err(trouble) => return Err(trouble.told(context)),
        };
        let (expected, timeout) = (answer.range.end - answer.range.start, self.bucket.timeout);
        let start = (answer.into_stream(), 0u64, context);
        Ok(Box::pin(stream::try_unfold(start, move |(mut chunks, had, context)| async move {
            let chunk = match tokio::time::timeout(timeout, chunks.next()).await {
                Err(_) => return Err(Trouble::Stalled.told(context)),
                Ok(Some(Err(error))) => return Err(Trouble::of(error).told(context)),
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) if had == expected => return Ok(None),
                Ok(None) => {
                    let context = format!("{context}: it ends after {had} of {expected} bytes");
                    return Err(Error::new(ErrorKind::Unavailable, context));
                }
            };
            let had = had + chunk.len() as u64;
            Ok(Some((chunk, (chunks, had, context))))
        })))
    }

    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        let (object, context) = (self.bucket.located(at)?, format!("cannot look at {}", at.key()));
        match self.bucket.look(&object, Weight::Look).await {
            Ok(Some(meta)) => Ok(Stat { bytes: meta.size }),
            Ok(None) => Err(Error::new(ErrorKind::NotFound, context)),
            Err(trouble) => Err(trouble.told(context)),
        }
    }

    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        let object = self.bucket.object(name)?;
        // Also asked to confirm a deletion.
        let found = self.bucket.look(&object, Weight::Verdict).await;
        let found = found.map_err(|trouble| trouble.told(format!("cannot look for {name}")))?;
        Ok(found.map(|_| self.bucket.locator(name.clone(), &object)))
    }

    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        let (object, context) = (self.bucket.located(at)?, format!("cannot delete {}", at.key()));
        // In a bucket that keeps versions a deletion only adds a marker. Who may not look cannot know.
        let keeps_versions = match self.bucket.head(&object).await {
            Ok(meta) => is_versioned(&meta),
            Err(trouble) => match self.bucket.explained(trouble, Weight::Verdict).await {
                trouble if trouble.kind() == ErrorKind::NotFound => {
                    return Ok(if trouble.is_delete_marker() { versions_of(&object) } else { Deletion::Gone });
                }
                trouble if trouble.kind() == ErrorKind::Denied => false,
                trouble => return Err(trouble.told(context)),
            },
        };
        self.bucket.remove(&object).await.map_err(|trouble| trouble.told(context))?;
        Ok(if keeps_versions { versions_of(&object) } else { Deletion::Gone })
    }

    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        probe::probe(self, depth).await
    }

    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        let (bucket, mut removed) = (&self.bucket, 0);
        for prefix in [UPLOADS, PROBES] {
            for fact in bucket.ledger.list(&bucket.storage_name, prefix).await? {
                let field = |name: &str| fact.value.get(name).and_then(|value| value.as_str()).unwrap_or_default();
                // What was left in a bucket that this storage no longer is about stays written down.
                let (Ok(object), true) = (Path::parse(field("object")), field("bucket") == bucket.url) else {
                    continue;
                };
                if fact.written_at >= modified_before {
                    continue;
                }
                let outcome = match prefix {
                    UPLOADS => bucket.abort(&object, field("id")).await,
                    _ => bucket.remove(&object).await,
                };
                match outcome {
                    Ok(()) => {
                        bucket.ledger.remove(&bucket.storage_name, &fact.key).await?;
                        removed += 1;
                    }
                    // The right may be given later; what else is left is no less in the way.
                    Err(trouble) if trouble.kind() == ErrorKind::Denied => {
                        tracing::warn!(storage = bucket.storage_name, %object, %trouble, "cannot remove what an attempt left");
                    }
                    Err(trouble) => return Err(trouble.told(format!("cannot remove what an attempt left of {object}"))),
                }
            }
        }
        Ok(removed)
    }

    fn objects(&self) -> Option<Objects> {
        Some(Objects::new(Arc::clone(&self.bucket)))
    }

    fn s3_address(&self, at: &Locator) -> Option<S3Address> {
        let object = self.bucket.located(at).ok()?;
        let mut url: url::Url = self.bucket.url.parse().ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().extend(object.as_ref().split('/'));
        Some(S3Address { url: url.into(), region: self.bucket.region.clone(), bucket: self.bucket.name.clone() })
    }

    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        let bucket = &*self.bucket;
        let prefix = Path::parse(&bucket.prefix).ok().filter(|prefix| !prefix.as_ref().is_empty());
        let listed = bucket.quick.list(prefix.as_ref());
        let answers = stream::unfold(Some(listed), move |listed| async move {
            let mut listed = listed?;
            let next = match tokio::time::timeout(bucket.timeout, listed.next()).await {
                Ok(next) => next?.map_err(Trouble::of),
                Err(_) => Err(Trouble::Stalled),
            };
            match next {
                Ok(meta) => Some((Ok(meta.location), Some(listed))),
                Err(trouble) => Some((Err(trouble.told("cannot list the bucket")), None)),
            }
        });
        Box::pin(answers.try_filter_map(move |object| async move {
            // A name that is no key is none of ours.
            let key = object.as_ref().strip_prefix(&bucket.prefix).filter(|key| key.ends_with(MANIFEST_SUFFIX));
            Ok(key.and_then(|key| key.parse().ok()).map(|key| bucket.locator(key, &object)))
        }))
    }
}

/// What a deletion leaves in a bucket that keeps versions.
fn versions_of(object: &Path) -> Deletion {
    Deletion::BytesMayRemain { what: format!("older versions of {object}") }
}

/// Whether the bucket keeps what is deleted. `null` is the version of an object from before that was switched on or after it was off.
/// Source: docs.aws.amazon.com/AmazonS3/latest/userguide/versioning-workflows.html.
fn is_versioned(meta: &ObjectMeta) -> bool {
    meta.version.as_ref().is_some_and(|version| version != "null")
}
