//! One remote storage behind the faulty proxy: what goes through, what is said, and what is left at the server.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast::{
    artifact::ArtifactName,
    byte_size::ByteSize,
    config::{ChatId, S3StorageConfig, Secret, TelegramStorageConfig},
    ids::LeaseToken,
    storage::{
        Error, Locator, NewObject, Storage, get_whole, ledger::InMemoryLedger, put_whole, s3::S3Storage,
        telegram::TelegramStorage,
    },
};

use super::{
    faulty_proxy::{Fault, FaultyProxy, RequestHead},
    s3_server::{ACCESS_KEY, S3Server, SECRET_KEY, config_at},
    telegram_stand_in::StandIn,
};

/// What both adapters are given as `timeout_seconds`.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// Of a Telegram document.
pub const TELEGRAM_PART: usize = 64 << 10;
/// Of an S3 upload.
pub const S3_PART: usize = 5 << 20;
/// The file name of Telegram's index.
const INDEX: &str = "holdfast-index.json.gz";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    S3,
    Telegram,
}

enum Server {
    S3(S3Server),
    Telegram(StandIn),
}

/// A server, the proxy before it, and what the control plane remembers.
pub struct Scene {
    server: Server,
    pub proxy: FaultyProxy,
    ledger: InMemoryLedger,
    requests: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Scene {
    pub async fn new(kind: Kind) -> Self {
        let (server, address) = match kind {
            Kind::S3 => {
                let server = S3Server::start().await;
                let address = server.endpoint().trim_start_matches("http://").parse().unwrap();
                (Server::S3(server), address)
            }
            Kind::Telegram => {
                let server = StandIn::start().await;
                server.control().set_pacing(false);
                let address = server.address();
                (Server::Telegram(server), address)
            }
        };
        let proxy = FaultyProxy::start(address).await;
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&requests);
        // Matches nothing: it only sees every request before the faults do.
        let note = move |head: &RequestHead| {
            seen.lock().unwrap().push((operation(head), Instant::now()));
            false
        };
        proxy.inject(Fault::Hang, note, 1);
        Self { server, proxy, ledger: InMemoryLedger::default(), requests }
    }

    /// The storage as a process sees it that has just begun.
    pub fn storage(&self) -> Arc<dyn Storage> {
        self.open(TIMEOUT.as_secs())
    }

    /// The same where nothing goes wrong, and time is no matter.
    pub fn patient(&self) -> Arc<dyn Storage> {
        self.open(60)
    }

    fn open(&self, timeout_seconds: u64) -> Arc<dyn Storage> {
        let ledger = Arc::new(self.ledger.clone());
        match &self.server {
            Server::S3(_) => {
                let url = self.proxy.url();
                let config = S3StorageConfig { timeout_seconds, ..config_at(url.as_str().trim_end_matches('/')) };
                Arc::new(S3Storage::open("remote", &config, ledger).unwrap())
            }
            Server::Telegram(bot_api) => {
                let config = TelegramStorageConfig {
                    base_url: self.proxy.url().to_string(),
                    part_size: Some(ByteSize(TELEGRAM_PART as u64)),
                    messages_per_minute: 0,
                    timeout_seconds,
                    allow_plaintext: true,
                    ..TelegramStorageConfig::new(Secret::new(bot_api.token()), ChatId::Number(bot_api.chat_id()))
                };
                Arc::new(TelegramStorage::new("remote", &config, ledger).unwrap())
            }
        }
    }

    /// Lets requests of an operation go wrong, after `skip` of them went well.
    pub fn inject(&self, fault: Fault, of: &'static str, skip: usize, times: usize) {
        let mut seen = 0;
        let matching = move |head: &RequestHead| {
            if of != "any" && operation(head) != of {
                return false;
            }
            seen += 1;
            seen > skip
        };
        let matching = Mutex::new(matching);
        self.proxy.inject(fault, move |head| matching.lock().unwrap()(head), times);
    }

    /// Lets requests of an operation go wrong once another one was seen from now on.
    pub fn inject_after(&self, fault: Fault, of: &'static str, after: &'static str, times: usize) {
        let (seen, before) = (Arc::clone(&self.requests), self.times_of(after).len());
        let matching = move |head: &RequestHead| {
            operation(head) == of && seen.lock().unwrap().iter().filter(|(name, _)| name == after).count() > before
        };
        self.proxy.inject(fault, matching, times);
    }

    /// Injected faults that were not met.
    pub fn faults_left(&self) -> usize {
        // The one that only looks is never met.
        self.proxy.faults_left() - 1
    }

    /// When requests of an operation came.
    pub fn times_of(&self, of: &str) -> Vec<Instant> {
        self.requests.lock().unwrap().iter().filter(|(name, _)| name == of).map(|(_, at)| *at).collect()
    }

    /// What lies at the server and belongs to no object of `live`.
    pub fn litter(&self, live: &[Locator]) -> Vec<String> {
        match &self.server {
            Server::S3(server) => {
                let mut litter = server.objects();
                litter.retain(|key| !live.iter().any(|at| at.key().as_str() == key));
                litter.extend((0..server.uploads()).map(|_| "an upload".to_owned()));
                let begun = std::fs::read_dir(server.root.path()).unwrap();
                let names = begun.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                litter.extend(names.filter(|name| name.contains(".part-")).map(|_| "a part".to_owned()));
                litter
            }
            Server::Telegram(bot_api) => {
                let (control, chat) = (bot_api.control(), bot_api.chat_id());
                let parts = |at: &Locator| match at {
                    Locator::Telegram { messages, .. } => messages.clone(),
                    other => panic!("{other:?}"),
                };
                let known: Vec<i64> = live.iter().flat_map(parts).map(|part| part.message_id).collect();
                // One list for each object of several parts, and one index.
                let mut lists = live.iter().filter(|at| parts(at).len() > 1).count();
                let mut indexes = usize::from(control.pinned(chat).last().is_some());
                let mut litter = Vec::new();
                for message in control.documents(chat).into_iter().rev() {
                    let name = message.document().unwrap().file_name.clone();
                    let room = match name.as_str() {
                        _ if known.contains(&message.id) => continue,
                        INDEX if message.is_pinned => &mut indexes,
                        name if name.ends_with(".parts") => &mut lists,
                        _ => &mut 0,
                    };
                    match room.checked_sub(1) {
                        Some(less) => *room = less,
                        None => litter.push(format!("message {} {name}", message.id)),
                    }
                }
                litter
            }
        }
    }

    /// What must never be printed.
    pub fn secrets(&self) -> Vec<String> {
        match &self.server {
            Server::S3(_) => [ACCESS_KEY, SECRET_KEY, "Signature=", "AWS4-HMAC", "uploadId"].map(str::to_owned).into(),
            Server::Telegram(bot_api) => vec![bot_api.token().split(':').nth(1).unwrap().to_owned()],
        }
    }
}

/// What a request asks for: S3's operation, or the Bot API's method in lower case; `file` is a download from it.
pub fn operation(head: &RequestHead) -> String {
    let path = head.uri.path();
    if path.starts_with("/file/bot") {
        return "file".to_owned();
    }
    if path.starts_with("/bot") {
        return path.rsplit('/').next().unwrap().to_lowercase();
    }
    let query = head.uri.query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match head.method.as_str() {
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" => "PutObject",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" => "CompleteMultipartUpload",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        "HEAD" => "HeadObject",
        _ if has("list-type") => "ListObjectsV2",
        _ => "GetObject",
    }
    .to_owned()
}

/// What a storage is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    /// An object in one piece, whole.
    Put,
    /// An object in two parts, whole.
    PutLarge,
    Abort,
    Open,
    OpenRange,
    Stat,
    Find,
    Delete,
    Manifests,
    Sweep,
}

/// What it came to.
#[derive(Debug)]
pub enum Done {
    /// What it should come to.
    Right,
    /// As many bytes as it should be, and others.
    Altered,
    /// Something else.
    Wrong,
    Published(Locator),
}

pub const SMALL: &str = "backups/acme/small.sql";
pub const LARGE: &str = "backups/acme/large.sql";
const THERE: &str = "backups/acme/there.sql";
const MANIFEST: &str = "backups/acme/there.manifest.json";

pub fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

/// Bytes of which no two pieces are alike.
fn content(bytes: usize) -> Bytes {
    static CONTENT: LazyLock<Bytes> = LazyLock::new(|| {
        let pieces = (0..(S3_PART + 64 * 1024) / 4).map(|at| (at as u32).wrapping_mul(0x9E37_79B1).to_le_bytes());
        pieces.flatten().collect::<Vec<u8>>().into()
    });
    CONTENT.slice(..bytes)
}

pub fn small() -> Bytes {
    content(4_000)
}

pub fn large(kind: Kind) -> Bytes {
    content(3_000 + if kind == Kind::S3 { S3_PART } else { TELEGRAM_PART })
}

/// Later than everything that was written down.
pub fn later() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 36)
}

pub async fn put(storage: &dyn Storage, key: &str, bytes: Bytes) -> Result<Locator, Error> {
    put_whole(storage, &name(key), LeaseToken::generate(), bytes).await
}

pub async fn read(storage: &dyn Storage, at: &Locator) -> Result<Vec<u8>, Error> {
    get_whole(storage, at, ByteSize::mib(64)).await
}

impl Op {
    /// What is published by it.
    pub fn object(self, kind: Kind) -> Option<(&'static str, Bytes)> {
        match self {
            Self::Put => Some((SMALL, small())),
            Self::PutLarge => Some((LARGE, large(kind))),
            _ => None,
        }
    }

    /// What must be there before; gives all objects.
    pub async fn prepare(self, kind: Kind, storage: &dyn Storage) -> Vec<Locator> {
        let mut there = vec![put(storage, THERE, small()).await.unwrap()];
        match self {
            Self::Manifests => there.push(put(storage, MANIFEST, small()).await.unwrap()),
            // An upload whose process died.
            Self::Sweep => {
                let mut upload = begin(storage, LARGE).await.unwrap();
                fill(&mut *upload, storage, large(kind)).await.unwrap();
            }
            _ => {}
        }
        there
    }

    pub async fn run(self, kind: Kind, storage: &dyn Storage, there: &[Locator]) -> Result<Done, Error> {
        let right = |is_right: bool| Ok(if is_right { Done::Right } else { Done::Wrong });
        let at = &there[0];
        match self {
            Self::Create => begin(storage, SMALL).await.map(|_| Done::Right),
            Self::Put => put(storage, SMALL, small()).await.map(Done::Published),
            Self::PutLarge => put(storage, LARGE, large(kind)).await.map(Done::Published),
            Self::Abort => {
                let mut upload = begin(storage, LARGE).await?;
                fill(&mut *upload, storage, large(kind)).await?;
                upload.abort().await;
                Ok(Done::Right)
            }
            Self::Open => Ok(compare(&read(storage, at).await?, &small())),
            Self::OpenRange => {
                let range = holdfast::storage::ByteRange { start: 1_000, length: 2_000 };
                let bytes: Vec<Bytes> = storage.open(at, Some(range)).await?.try_collect().await?;
                Ok(compare(&bytes.concat(), &small()[1_000..3_000]))
            }
            Self::Stat => right(storage.stat(at).await?.bytes == small().len() as u64),
            Self::Find => {
                let missing = storage.find(&name("backups/acme/missing")).await?;
                right(storage.find(&name(THERE)).await?.as_ref() == Some(at) && missing.is_none())
            }
            Self::Delete => right(storage.delete(at).await? == holdfast::storage::Deletion::Gone),
            Self::Manifests => right(storage.manifests().try_collect::<Vec<_>>().await? == there[1..]),
            // What it left is seen at the server.
            Self::Sweep => storage.sweep_temporary(later()).await.map(|_| Done::Right),
        }
    }
}

fn compare(read: &[u8], expected: &[u8]) -> Done {
    match read {
        read if read == expected => Done::Right,
        read if read.len() == expected.len() => Done::Altered,
        _ => Done::Wrong,
    }
}

async fn begin(storage: &dyn Storage, key: &str) -> Result<Box<dyn holdfast::storage::Upload>, Error> {
    storage.create(NewObject::new(&name(key), LeaseToken::generate())).await
}

async fn fill(
    upload: &mut dyn holdfast::storage::Upload,
    storage: &dyn Storage,
    mut bytes: Bytes,
) -> Result<(), Error> {
    let piece = usize::try_from(storage.limits().part.0).unwrap();
    while !bytes.is_empty() {
        upload.put(bytes.split_to(bytes.len().min(piece))).await?;
    }
    Ok(())
}

/// Everything that was printed.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// From here on also what is logged in this thread by the code under test and the libraries that it talks through; the servers, which
    /// run here too, may log what they like.
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt};
        let writer = self.clone();
        let targets = Targets::new().with_targets(
            ["holdfast", "object_store", "reqwest", "hyper_util"].map(|name| (name, tracing::Level::TRACE)),
        );
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::set_default(tracing_subscriber::registry().with(layer.with_filter(targets)))
    }

    pub fn error(&self, error: &Error) {
        let mut line = format!("{error}\n{error:#}\n{error:?}\n{:?}\n", error.hint());
        let mut source = std::error::Error::source(error);
        while let Some(at) = source {
            line += &format!("{at}\n{at:?}\n");
            source = at.source();
        }
        self.0.lock().unwrap().extend_from_slice(line.as_bytes());
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }

    pub fn holds_none_of(&self, secrets: &[String]) {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        assert!(text.contains("TRACE hyper_util") && text.contains("unavailable"), "logs and errors were collected");
        for secret in secrets {
            let at = text.find(secret.as_str());
            assert_eq!(at.and_then(|at| text.get(at.saturating_sub(200)..at + 100)), None, "a secret was told");
        }
    }
}

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Said")
    }
}
