//! S3 against a second, independent server, which `scripts/s3-gateway` installs and starts: what the first one may be too kind about. The
//! contract runs against it as well, in `storage_contract.rs`.

use crate::support::s3_server;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    config::{S3Checksum, S3StorageConfig, Secret},
    ids::LeaseToken,
    storage::{
        ByteRange, Deletion, ErrorKind, Ledger, NewObject, ProbeDepth, Storage, fingerprint, get_whole,
        ledger::InMemoryLedger, put_whole, s3::S3Storage,
    },
};

const PART: usize = 5 << 20;

fn config() -> S3StorageConfig {
    let endpoint = std::env::var("HOLDFAST_TEST_S3_ENDPOINT").expect("run by scripts/test-slow");
    S3StorageConfig { prefix: LeaseToken::generate().to_string(), ..s3_server::config_at(&endpoint) }
}

fn open(config: &S3StorageConfig) -> (S3Storage, Arc<InMemoryLedger>) {
    let ledger = Arc::new(InMemoryLedger::default());
    let shared: Arc<dyn Ledger> = Arc::clone(&ledger) as _;
    (S3Storage::open("bucket", config, shared).unwrap(), ledger)
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at / PART) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn objects_in_parts_come_back_whole_and_in_ranges() {
    for checksum in [S3Checksum::Sha256, S3Checksum::None] {
        let (storage, ledger) = open(&S3StorageConfig { checksum, ..config() });
        let content = content(3 * PART + 12_345);
        let at =
            put_whole(&storage, &name("backups/a b/ü.sql"), LeaseToken::generate(), content.clone()).await.unwrap();
        assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
        let range = ByteRange { start: PART as u64 - 7, length: 14 };
        let read: Vec<Bytes> = storage.open(&at, Some(range)).await.unwrap().try_collect().await.unwrap();
        assert!(read.concat() == content[PART - 7..PART + 7]);
        assert!(ledger.list("bucket", "").await.unwrap().is_empty());
        assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
        assert_eq!(storage.find(at.key()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn everything_that_a_probe_tries_works() {
    let (storage, ledger) = open(&config());
    let probe = storage.probe(ProbeDepth::Thorough).await.unwrap();
    println!("{probe:#?}");
    assert!(probe.seen.len() >= 5, "{probe:?}");
    assert!(ledger.list("bucket", "").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_that_was_left_is_aborted_by_its_id_and_only_once() {
    let (storage, ledger) = open(&config());
    let key = name("backups/left.sql");
    let mut upload = storage.create(NewObject::new(&key, LeaseToken::generate())).await.unwrap();
    for _ in 0..2 {
        upload.put(content(PART)).await.unwrap();
    }
    drop(upload);
    let fact = ledger.list("bucket", "upload/").await.unwrap().remove(0);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    assert_eq!(storage.sweep_temporary(later).await.unwrap(), 1);
    // A sweep that died before it could forget: the service says that there is no such upload, and that is as good.
    ledger.put("bucket", &fact.key, fact.value).await.unwrap();
    assert_eq!(storage.sweep_temporary(later).await.unwrap(), 1);
    assert!(ledger.list("bucket", "").await.unwrap().is_empty());
    assert_eq!(storage.find(&key).await.unwrap(), None);
}

#[tokio::test]
async fn wrong_keys_and_a_missing_bucket_are_named() {
    let at = |storage: &S3Storage| {
        let storage = storage.clone();
        async move { storage.find(&name("a")).await.unwrap_err() }
    };
    let (wrong, _) = open(&S3StorageConfig { secret_key: Some(Secret::new("canary-wrong")), ..config() });
    let error = at(&wrong).await;
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("SignatureDoesNotMatch") && !error.to_string().contains("canary"), "{error}");
    let (unknown, _) = open(&S3StorageConfig { access_key: Some(Secret::new("AKIAUNKNOWN")), ..config() });
    let error = at(&unknown).await;
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("InvalidAccessKeyId") && !error.to_string().contains("AKIA"), "{error}");
    let (missing, _) = open(&S3StorageConfig { bucket: "nowhere".into(), ..config() });
    let error = at(&missing).await;
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
}

#[tokio::test]
async fn a_small_object_is_not_overwritten_either() {
    let config = config();
    // Two installations without a common lock.
    let ((one, _), (two, _)) = (open(&config), open(&config));
    let key = name("backups/raced.sql");
    let mut late = two.create(NewObject::new(&key, LeaseToken::generate())).await.unwrap();
    late.put(Bytes::from_static(b"late")).await.unwrap();
    let at = put_whole(&one, &key, LeaseToken::generate(), Bytes::from_static(b"early")).await.unwrap();
    assert_eq!(late.commit().await.unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(get_whole(&one, &at, ByteSize::kib(1)).await.unwrap(), b"early");
}
