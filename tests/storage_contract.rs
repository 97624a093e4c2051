//! What every storage promises. A new adapter is one line: `contract!(name, factory)`.

use crate::support::{faulty_storage, s3_server, telegram_stand_in};

use std::{any::Any, future::Future, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    config::{ChatId, Secret, TelegramStorageConfig},
    ids::LeaseToken,
    storage::{
        ByteRange, Deletion, Error, ErrorKind, Locator, NewObject, ProbeDepth, Storage, fingerprint, get_whole,
        ledger::InMemoryLedger, local::LocalStorage, memory::MemoryStorage, put_whole, s3::S3Storage,
        telegram::TelegramStorage,
    },
};

use faulty_storage::{Fault, Faulty};

/// An empty storage, and what must live as long as it.
type Made = (Arc<dyn Storage>, Box<dyn Any>);

async fn memory() -> Made {
    (Arc::new(MemoryStorage::new()), Box::new(()))
}

async fn local() -> Made {
    let directory = tempfile::tempdir().unwrap();
    (Arc::new(LocalStorage::open(&directory.path().join("root")).await.unwrap()), Box::new(directory))
}

async fn s3() -> Made {
    let server = s3_server::S3Server::start().await;
    let storage = S3Storage::open("bucket", &server.config(), Arc::new(InMemoryLedger::default())).unwrap();
    (Arc::new(storage), Box::new(server))
}

/// The bucket of `scripts/s3-gateway`, below a prefix that nobody else has.
#[cfg(feature = "slow-tests")]
async fn gateway() -> Made {
    let endpoint = std::env::var("HOLDFAST_TEST_S3_ENDPOINT").expect("run by scripts/test-slow");
    let prefix = LeaseToken::generate().to_string();
    let config = holdfast::config::S3StorageConfig { prefix, ..s3_server::config_at(&endpoint) };
    (Arc::new(S3Storage::open("bucket", &config, Arc::new(InMemoryLedger::default())).unwrap()), Box::new(()))
}

async fn telegram() -> Made {
    let bot_api = telegram_stand_in::StandIn::start().await;
    bot_api.control().set_pacing(false);
    let config = TelegramStorageConfig {
        base_url: bot_api.base_url().to_string(),
        messages_per_minute: 0,
        // The contract's objects are not encrypted.
        allow_plaintext: true,
        ..TelegramStorageConfig::new(Secret::new(bot_api.token()), ChatId::Number(bot_api.chat_id()))
    };
    let storage = TelegramStorage::new("channel", &config, Arc::new(InMemoryLedger::default())).unwrap();
    (Arc::new(storage), Box::new(bot_api))
}

async fn wrapped() -> Made {
    let (inner, kept) = memory().await;
    (Arc::new(Faulty::new(inner, Fault::None)), kept)
}

macro_rules! contract {
    ($storage:ident, $factory:expr) => {
        contract!($storage, $factory,
            what_is_written_in_parts_reads_back_as_one,
            an_empty_object_is_an_object,
            nothing_is_visible_before_the_commit,
            an_abort_leaves_nothing,
            a_dropped_upload_publishes_nothing,
            a_taken_name_is_refused_at_the_beginning,
            a_commit_never_overwrites,
            of_many_commits_to_one_name_exactly_one_wins,
            deleting_what_is_gone_is_success,
            what_is_missing_is_not_found,
            a_range_gives_exactly_its_bytes,
            a_range_beyond_the_end_is_refused,
            a_part_of_the_largest_size_can_be_read_back,
            a_part_beyond_the_largest_size_is_refused,
            find_gives_the_locator_of_what_was_published,
            every_manifest_is_listed_and_nothing_else,
            a_probe_leaves_nothing,
            a_locator_round_trips_through_json,
            reading_whole_has_a_limit,
            a_deleted_name_can_be_taken_again,
        );
    };
    ($storage:ident, $factory:expr, $($test:ident),+ $(,)?) => {
        mod $storage {
            $(
                #[tokio::test]
                async fn $test() {
                    super::with(($factory)().await, super::$test).await;
                }
            )+
        }
    };
}

contract!(in_memory, super::memory);
contract!(in_a_directory, super::local);
contract!(in_s3, super::s3);
contract!(in_telegram, super::telegram);
#[cfg(feature = "slow-tests")]
contract!(in_a_second_s3, super::gateway);
contract!(in_a_wrapper_without_a_fault, super::wrapped);

async fn with<F: Future<Output = ()>>((storage, _kept): Made, test: impl FnOnce(Arc<dyn Storage>) -> F) {
    test(storage).await;
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

fn attempt() -> LeaseToken {
    LeaseToken::generate()
}

async fn put(storage: &dyn Storage, key: &str, bytes: &'static [u8]) -> Result<Locator, Error> {
    put_whole(storage, &name(key), attempt(), Bytes::from_static(bytes)).await
}

async fn read(storage: &dyn Storage, at: &Locator) -> Vec<u8> {
    get_whole(storage, at, ByteSize::mib(64)).await.unwrap()
}

async fn what_is_written_in_parts_reads_back_as_one(storage: Arc<dyn Storage>) {
    let mut upload = storage.create(NewObject::new(&name("backups/acme/a.sql"), attempt())).await.unwrap();
    let mut expected = Vec::new();
    for part in 0..5u8 {
        let bytes = vec![part; 100_000 + usize::from(part)];
        expected.extend_from_slice(&bytes);
        upload.put(bytes.into()).await.unwrap();
    }
    let at = upload.commit().await.unwrap();
    assert!(read(&*storage, &at).await == expected);
    assert_eq!(storage.stat(&at).await.unwrap().bytes, expected.len() as u64);
    assert_eq!(fingerprint(&*storage, &at).await.unwrap(), Fingerprint::of(&expected));
}

async fn an_empty_object_is_an_object(storage: Arc<dyn Storage>) {
    let at = storage.create(NewObject::new(&name("empty"), attempt())).await.unwrap().commit().await.unwrap();
    assert_eq!(storage.stat(&at).await.unwrap().bytes, 0);
    assert!(read(&*storage, &at).await.is_empty());
}

async fn nothing_is_visible_before_the_commit(storage: Arc<dyn Storage>) {
    let key = name("a/b.manifest.json");
    let mut upload = storage.create(NewObject::new(&key, attempt())).await.unwrap();
    upload.put(Bytes::from_static(b"half")).await.unwrap();
    assert_eq!(storage.find(&key).await.unwrap(), None);
    assert!(storage.manifests().try_collect::<Vec<_>>().await.unwrap().is_empty());
    upload.commit().await.unwrap();
    assert!(storage.find(&key).await.unwrap().is_some());
}

async fn an_abort_leaves_nothing(storage: Arc<dyn Storage>) {
    let key = name("a/b.sql");
    let mut upload = storage.create(NewObject::new(&key, attempt())).await.unwrap();
    upload.put(Bytes::from_static(b"half")).await.unwrap();
    upload.abort().await;
    assert_eq!(storage.find(&key).await.unwrap(), None);
    put(&*storage, "a/b.sql", b"whole").await.unwrap();
}

async fn a_dropped_upload_publishes_nothing(storage: Arc<dyn Storage>) {
    let key = name("a/b.sql");
    let mut upload = storage.create(NewObject::new(&key, attempt())).await.unwrap();
    upload.put(Bytes::from_static(b"half")).await.unwrap();
    drop(upload);
    assert_eq!(storage.find(&key).await.unwrap(), None);
}

async fn a_taken_name_is_refused_at_the_beginning(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "taken", b"first").await.unwrap();
    let error = storage.create(NewObject::new(&name("taken"), attempt())).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Exists);
    assert_eq!(read(&*storage, &at).await, b"first");
}

async fn a_commit_never_overwrites(storage: Arc<dyn Storage>) {
    let mut late = storage.create(NewObject::new(&name("raced"), attempt())).await.unwrap();
    late.put(Bytes::from_static(b"late")).await.unwrap();
    let at = put(&*storage, "raced", b"early").await.unwrap();
    assert_eq!(late.commit().await.unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(read(&*storage, &at).await, b"early");
}

async fn of_many_commits_to_one_name_exactly_one_wins(storage: Arc<dyn Storage>) {
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8u8 {
        let (storage, barrier) = (Arc::clone(&storage), Arc::clone(&barrier));
        tasks.spawn(async move {
            let mut upload = storage.create(NewObject::new(&name("dir/raced"), attempt())).await.unwrap();
            upload.put(vec![number; 1000].into()).await.unwrap();
            barrier.wait().await;
            (number, upload.commit().await)
        });
    }
    let mut winners = Vec::new();
    while let Some(result) = tasks.join_next().await {
        match result.unwrap() {
            (number, Ok(at)) => winners.push((number, at)),
            (_, Err(error)) => assert_eq!(error.kind, ErrorKind::Exists),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(read(&*storage, &winners[0].1).await, vec![winners[0].0; 1000]);
}

async fn deleting_what_is_gone_is_success(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "a/b/gone", b"x").await.unwrap();
    for _ in 0..2 {
        assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
    }
    assert_eq!(storage.find(&name("a/b/gone")).await.unwrap(), None);
}

async fn what_is_missing_is_not_found(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "a/b", b"x").await.unwrap();
    storage.delete(&at).await.unwrap();
    assert_eq!(storage.open(&at, None).await.err().unwrap().kind, ErrorKind::NotFound);
    assert_eq!(storage.stat(&at).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(storage.find(&name("never/was")).await.unwrap(), None);
}

async fn a_range_gives_exactly_its_bytes(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "r", b"0123456789").await.unwrap();
    for (start, length) in [(0, 10), (3, 4), (9, 1), (10, 0), (0, 0)] {
        let chunks: Vec<Bytes> =
            storage.open(&at, Some(ByteRange { start, length })).await.unwrap().try_collect().await.unwrap();
        assert_eq!(chunks.concat(), &b"0123456789"[start as usize..(start + length) as usize]);
    }
}

async fn a_range_beyond_the_end_is_refused(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "r", b"0123456789").await.unwrap();
    for (start, length) in [(0, 11), (11, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let error = storage.open(&at, Some(ByteRange { start, length })).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid, "{start} {length}");
    }
}

async fn a_part_of_the_largest_size_can_be_read_back(storage: Arc<dyn Storage>) {
    let part = vec![7u8; storage.limits().part.0 as usize];
    let mut upload = storage.create(NewObject::new(&name("large"), attempt())).await.unwrap();
    upload.put(part.clone().into()).await.unwrap();
    let at = upload.commit().await.unwrap();
    assert_eq!(fingerprint(&*storage, &at).await.unwrap(), Fingerprint::of(&part));
}

async fn a_part_beyond_the_largest_size_is_refused(storage: Arc<dyn Storage>) {
    let part = vec![7u8; storage.limits().part.0 as usize + 1];
    let mut upload = storage.create(NewObject::new(&name("too-large"), attempt())).await.unwrap();
    assert_eq!(upload.put(part.into()).await.unwrap_err().kind, ErrorKind::TooLarge);
    upload.abort().await;
    assert_eq!(storage.find(&name("too-large")).await.unwrap(), None);
}

async fn find_gives_the_locator_of_what_was_published(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "a/b/c", b"x").await.unwrap();
    assert_eq!(storage.find(&name("a/b/c")).await.unwrap(), Some(at));
}

async fn every_manifest_is_listed_and_nothing_else(storage: Arc<dyn Storage>) {
    let mut expected = Vec::new();
    for key in ["top.manifest.json", "a/one.manifest.json", "a/b/c/two.manifest.json"] {
        expected.push(put(&*storage, key, b"{}").await.unwrap());
        put(&*storage, &key.replace(".manifest.json", ".sql"), b"x").await.unwrap();
    }
    let found: Vec<Locator> = storage.manifests().try_collect().await.unwrap();
    assert_eq!(found.len(), expected.len());
    assert!(expected.iter().all(|at| found.contains(at)));
}

async fn a_probe_leaves_nothing(storage: Arc<dyn Storage>) {
    for _ in 0..2 {
        storage.probe(ProbeDepth::Quick).await.unwrap();
    }
    assert!(storage.manifests().try_collect::<Vec<_>>().await.unwrap().is_empty());
}

async fn a_locator_round_trips_through_json(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "a/b", b"x").await.unwrap();
    let text = serde_json::to_string(&at).unwrap();
    let again: Locator = serde_json::from_str(&text).unwrap();
    assert_eq!(again, at);
    assert_eq!(read(&*storage, &again).await, b"x");
    // A key that leaves its directory is refused before any storage sees it.
    assert!(serde_json::from_str::<Locator>(&text.replace("a/b", "../b")).is_err());
}

async fn reading_whole_has_a_limit(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "ten", b"0123456789").await.unwrap();
    assert_eq!(get_whole(&*storage, &at, ByteSize(9)).await.unwrap_err().kind, ErrorKind::TooLarge);
    assert_eq!(get_whole(&*storage, &at, ByteSize(10)).await.unwrap(), b"0123456789");
}

async fn a_deleted_name_can_be_taken_again(storage: Arc<dyn Storage>) {
    let at = put(&*storage, "again", b"one").await.unwrap();
    storage.delete(&at).await.unwrap();
    let at = put(&*storage, "again", b"two").await.unwrap();
    assert_eq!(read(&*storage, &at).await, b"two");
}
