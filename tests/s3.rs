//! S3: what only a bucket can get wrong, against a server that we did not write. The rest of the contract is in `storage_contract.rs`.

use crate::support::s3_server;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    config::{LocalStorageConfig, S3Checksum, S3StorageConfig, Secret, StorageConfig},
    ids::LeaseToken,
    storage::{
        self, ByteRange, Deletion, Error, ErrorKind, Ledger, Locator, NewObject, ProbeDepth, Storage, Upload,
        fingerprint, get_whole, ledger::InMemoryLedger, put_whole, s3::S3Storage,
    },
};

use s3_server::{
    ACCESS_KEY, BUCKET, Mishap, OTHER_ACCESS_KEY, OTHER_SECRET_KEY, S3Server, SECRET_KEY, config_at, other_endpoint,
};

const MIB: usize = 1 << 20;
const PART: usize = 5 * MIB;

/// A storage with a ledger of its own, as if no other process shared its control plane.
fn open(config: &S3StorageConfig) -> (S3Storage, Arc<InMemoryLedger>) {
    let ledger = Arc::new(InMemoryLedger::default());
    let shared: Arc<dyn Ledger> = Arc::clone(&ledger) as _;
    (S3Storage::open("bucket", config, shared).unwrap(), ledger)
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

fn new(name: &ArtifactName) -> NewObject<'_> {
    NewObject::new(name, LeaseToken::generate())
}

/// Bytes of which no two pieces are alike.
fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at / PART) as u8).collect::<Vec<_>>().into()
}

async fn begin(storage: &dyn Storage, key: &str) -> Box<dyn Upload> {
    storage.create(new(&name(key))).await.unwrap()
}

async fn write(upload: &mut dyn Upload, content: &Bytes) -> Result<(), Error> {
    // Neither the part's size nor a divisor of it.
    for at in (0..content.len()).step_by(3 * MIB) {
        upload.put(content.slice(at..content.len().min(at + 3 * MIB))).await?;
    }
    Ok(())
}

async fn store(storage: &dyn Storage, key: &str, content: &Bytes) -> Result<Locator, Error> {
    let mut upload = storage.create(new(&name(key))).await?;
    write(&mut *upload, content).await?;
    upload.commit().await
}

async fn uploads_remembered(ledger: &InMemoryLedger) -> usize {
    ledger.list("bucket", "upload/").await.unwrap().len()
}

/// Looks again until it is so; a failure after ten seconds.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn says_nothing_secret(text: &str) {
    for secret in [SECRET_KEY, ACCESS_KEY, OTHER_ACCESS_KEY, OTHER_SECRET_KEY, "canary", "Signature=", "uploadId"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// An error of this kind, whose text and hint hold these words and no secret.
#[track_caller]
fn is(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = format!("{error:#}");
    assert_eq!(error.kind, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    says_nothing_secret(&text);
    says_nothing_secret(&format!("{error:?}"));
}

#[tokio::test]
async fn a_large_object_goes_in_parts_and_comes_back() {
    let server = S3Server::start().await;
    for checksum in [S3Checksum::Sha256, S3Checksum::None] {
        let (storage, ledger) = open(&S3StorageConfig { checksum, ..server.config() });
        let key = format!("backups/acme/large-{checksum}");
        let content = content(2 * PART + 12_345);
        let before = server.control.count("UploadPart");
        let at = store(&storage, &key, &content).await.unwrap();
        assert_eq!(server.control.count("UploadPart") - before, 3);
        assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
        let (start, length) = (PART as u64 - 7, 14);
        let range: Vec<Bytes> =
            storage.open(&at, Some(ByteRange { start, length })).await.unwrap().try_collect().await.unwrap();
        assert!(range.concat() == content[PART - 7..PART + 7]);
        assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (0, 0));
        assert_eq!(std::fs::read(server.root.path().join(BUCKET).join(&key)).unwrap().len(), content.len());
    }
    assert_eq!(server.control.count("PutObject"), 0);
}

#[tokio::test]
async fn what_fits_into_one_part_is_one_request() {
    let server = S3Server::start().await;
    let (storage, _ledger) = open(&server.config());
    for (number, bytes) in [0, 1, PART - 1, PART].into_iter().enumerate() {
        let content = content(bytes);
        let at = store(&storage, &format!("o{number}"), &content).await.unwrap();
        assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
        assert_eq!(server.control.count("PutObject"), number + 1);
    }
    assert_eq!(server.control.count("CreateMultipartUpload"), 0);
    // One byte more, and a full second part.
    for (key, bytes) in [("m1", PART + 1), ("m2", 2 * PART)] {
        let content = content(bytes);
        let at = store(&storage, key, &content).await.unwrap();
        assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
    }
    assert_eq!((server.control.count("CreateMultipartUpload"), server.control.count("UploadPart")), (2, 4));
}

#[tokio::test]
async fn no_more_parts_are_in_memory_than_may_be_under_way() {
    let server = S3Server::start().await;
    let (storage, _ledger) = open(&S3StorageConfig { parts_in_flight: 2, ..server.config() });
    assert_eq!((storage.limits().parts_in_flight, storage.limits().part), (2, ByteSize::mib(5)));
    server.control.hold_parts();
    let content = content(6 * PART);
    let mut upload = begin(&storage, "large").await;
    let piece = |number: usize| content.slice(number * PART..(number + 1) * PART);
    // Two are under way, and the third has to wait.
    for number in 0..2 {
        upload.put(piece(number)).await.unwrap();
    }
    until("two parts are under way", || server.control.parts_now() == 2).await;
    let mut waiting = Box::pin(async {
        upload.put(piece(2)).await.unwrap();
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "it was taken at once");
    server.control.let_parts_pass();
    waiting.await;
    for number in 3..6 {
        upload.put(piece(number)).await.unwrap();
    }
    let at = upload.commit().await.unwrap();
    assert_eq!(server.control.parts_peak(), 2);
    assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
}

#[tokio::test]
async fn an_uploads_id_is_written_down_before_its_first_part_and_aborted_when_left_over() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&server.config());
    server.control.hold_parts();
    let mut upload = begin(&storage, "backups/acme/left").await;
    write(&mut *upload, &content(PART + 2 * MIB)).await.unwrap();
    until("a part is under way", || server.control.parts_now() == 1).await;
    let facts = ledger.list("bucket", "upload/").await.unwrap();
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0].value["object"], "backups/acme/left");
    // The worker dies.
    drop(upload);
    until("the part is no longer sent", || server.control.parts_now() == 0).await;
    assert_eq!((server.objects().len(), server.uploads()), (0, 1));
    // Not yet: its attempt may still be alive.
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(storage.sweep_temporary(hour_ago).await.unwrap(), 0);
    assert_eq!(server.uploads(), 1);
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 1);
    assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (0, 0));
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 0);
}

#[tokio::test]
async fn an_abort_ends_the_parts_and_the_upload() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&server.config());
    server.control.hold_parts();
    let mut upload = begin(&storage, "large").await;
    write(&mut *upload, &content(2 * PART + 2 * MIB)).await.unwrap();
    until("two parts are under way", || server.control.parts_now() == 2).await;
    upload.abort().await;
    assert_eq!((server.uploads(), server.objects().len(), uploads_remembered(&ledger).await), (0, 0, 0));
    until("no part is sent any more", || server.control.parts_now() == 0).await;
}

#[tokio::test]
async fn a_cancelled_put_does_not_lose_the_uploads_id() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&server.config());
    let mut upload = begin(&storage, "large").await;
    upload.put(content(PART)).await.unwrap();
    // Cancelled at its first wait, which is for the upload's id.
    assert!(futures::poll!(Box::pin(upload.put(content(1)))).is_pending());
    upload.abort().await;
    assert_eq!((server.control.count("CreateMultipartUpload"), server.uploads()), (1, 0));
    assert_eq!(uploads_remembered(&ledger).await, 0);
}

#[tokio::test]
async fn a_part_that_is_refused_ends_the_upload_with_its_reason() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&server.config());
    server.control.deny(ACCESS_KEY, "UploadPart");
    let mut upload = begin(&storage, "large").await;
    let error = match write(&mut *upload, &content(3 * PART)).await {
        Err(error) => {
            upload.abort().await;
            error
        }
        // All parts were on their way before the first answer.
        Ok(()) => upload.commit().await.unwrap_err(),
    };
    is(&error, ErrorKind::Denied, &["cannot write part", "AccessDenied", "docs/s3.md"]);
    assert_eq!((server.uploads(), server.objects().len(), uploads_remembered(&ledger).await), (0, 0, 0));
}

#[tokio::test]
async fn what_can_pass_is_tried_again() {
    let server = S3Server::start().await;
    let (storage, _ledger) = open(&server.config());
    let slow_down =
        Mishap::Answer(503, &[("retry-after", "1")], "<Error><Code>SlowDown</Code><Message>m</Message></Error>");
    for operation in ["HeadObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"] {
        server.control.befall(operation, slow_down.clone());
        server.control.befall(operation, Mishap::Answer(500, &[], ""));
    }
    // An error inside a success, and an HTML page about a balancer's own trouble.
    let inside = "<?xml version=\"1.0\"?>\n  <Error><Code>InternalError</Code><Message>m</Message></Error>";
    server.control.befall("CompleteMultipartUpload", Mishap::Answer(200, &[], inside));
    server.control.befall("UploadPart", Mishap::Answer(502, &[("content-type", "text/html")], "<html>"));
    let large = content(2 * PART);
    let at = store(&storage, "large", &large).await.unwrap();
    assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&large));
    // Without an end to it the storage's own words come back.
    for _ in 0..10 {
        server.control.befall("PutObject", slow_down.clone());
    }
    let error = store(&storage, "small", &content(1)).await.unwrap_err();
    is(&error, ErrorKind::Throttled { retry_after: Some(Duration::from_secs(1)) }, &["HTTP 503 SlowDown"]);
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_leaves_the_question_to_whoever_asks_what_is_there() {
    let server = S3Server::start().await;
    for (operation, bytes) in [("CompleteMultipartUpload", 2 * PART), ("PutObject", 1000)] {
        let (storage, ledger) = open(&server.config());
        server.control.befall(operation, Mishap::LoseAnswer);
        let content = content(bytes);
        let key = format!("a/{operation}");
        let error = store(&storage, &key, &content).await.unwrap_err();
        is(&error, ErrorKind::Unavailable, &["cannot publish", "an answer was lost"]);
        let at = storage.find(&name(&key)).await.unwrap().unwrap();
        assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
        // The upload is over; that it is still written down does the object no harm.
        let _ = storage.sweep_temporary(later()).await;
        assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
        drop(ledger);
    }
}

#[tokio::test]
async fn an_object_that_may_be_overwritten_is_there_although_the_answer_was_lost() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&server.config());
    let objects = storage.objects().unwrap();
    let write = async |content: &Bytes| {
        let pieces = futures::stream::iter([Ok(content.clone())]).boxed();
        objects.write("files/large", content.len() as u64, pieces).await
    };
    let there = || std::fs::read(server.root.path().join(BUCKET).join("files/large")).unwrap();
    let (first, second) = (content(17 * MIB), content(18 * MIB));
    write(&first).await.unwrap();
    server.control.befall("CompleteMultipartUpload", Mishap::LoseAnswer);
    write(&second).await.unwrap();
    assert!(there() == second);
    assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (0, 0));
    // What was refused leaves nothing but what was there before.
    server
        .control
        .befall("CompleteMultipartUpload", Mishap::Answer(403, &[], "<Error><Code>AccessDenied</Code></Error>"));
    is(&write(&first).await.unwrap_err(), ErrorKind::Denied, &["files/large"]);
    assert!(there() == second);
    assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (0, 0));
}

#[tokio::test]
async fn a_completion_that_comes_late_finds_its_upload_ended() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&server.config());
    server.control.befall("CompleteMultipartUpload", Mishap::ComeLate);
    for _ in 0..3 {
        server
            .control
            .befall("CompleteMultipartUpload", Mishap::Answer(500, &[], "<Error><Code>InternalError</Code></Error>"));
    }
    let error = store(&storage, "a/late", &content(2 * PART)).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, &["cannot publish a/late"]);
    assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (0, 0));
    assert_eq!(storage.find(&name("a/late")).await.unwrap(), None);
    // Another attempt takes the name meanwhile.
    let other = content(10);
    let at = store(&storage, "a/late", &other).await.unwrap();
    server.late_requests_arrive().await;
    assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&other));
}

#[tokio::test]
async fn a_key_that_may_list_below_a_prefix_alone_sees_that_an_object_is_gone() {
    const DENIED: Mishap = Mishap::Answer(403, &[], "");
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    let at = store(&storage, "backups/a.sql", &content(10)).await.unwrap();
    // An object that is there and may not be looked at is not taken to be missing.
    server.control.befall("HeadObject", DENIED);
    assert_eq!(storage.find(at.key()).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
    // What Amazon says of what is missing.
    server.control.befall("HeadObject", DENIED);
    assert_eq!(storage.find(at.key()).await.unwrap(), None);
    // Without any right to list, nobody knows.
    server.control.befall("HeadObject", DENIED);
    server.control.befall("ListObjectsV2", Mishap::Answer(403, &[], "<Error><Code>AccessDenied</Code></Error>"));
    assert_eq!(storage.find(at.key()).await.unwrap_err().kind, ErrorKind::Denied);
}

#[tokio::test]
async fn a_bucket_that_has_gone_confirms_no_deletion() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    let at = store(&storage, "backups/a.sql", &content(10)).await.unwrap();
    assert_eq!(storage.stat(&at).await.unwrap().bytes, 10);
    const GONE: Mishap = Mishap::Answer(404, &[], "<Error><Code>NoSuchBucket</Code></Error>");
    for _ in 0..2 {
        server.control.befall("HeadObject", Mishap::Answer(404, &[], ""));
        server.control.befall("ListObjectsV2", GONE);
    }
    is(&storage.delete(&at).await.unwrap_err(), ErrorKind::Invalid, &["NoSuchBucket"]);
    is(&storage.find(at.key()).await.unwrap_err(), ErrorKind::Invalid, &["NoSuchBucket"]);
    assert_eq!(storage.stat(&at).await.unwrap().bytes, 10);
}

#[tokio::test]
async fn the_service_itself_refuses_to_overwrite_where_no_lock_is_shared() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    // A second installation on the same bucket, whose key may not even look.
    for operation in ["HeadObject", "GetObject", "ListObjectsV2"] {
        server.control.deny(OTHER_ACCESS_KEY, operation);
    }
    let (other, ledger) = open(&server.other_config());
    for (key, bytes) in [("small", 10), ("large", PART + 10)] {
        let mut late = begin(&other, key).await;
        write(&mut *late, &content(bytes)).await.unwrap();
        let at = store(&storage, key, &Bytes::from_static(b"first")).await.unwrap();
        let error = late.commit().await.unwrap_err();
        is(&error, ErrorKind::Exists, &["PreconditionFailed"]);
        assert_eq!(get_whole(&storage, &at, ByteSize::kib(1)).await.unwrap(), b"first");
    }
    assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (0, 0));
}

#[tokio::test]
async fn a_service_that_does_not_know_conditions_is_written_to_without_them() {
    let server = S3Server::start().await;
    let (storage, _ledger) = open(&server.config());
    let unknown = Mishap::Answer(501, &[], "<Error><Code>NotImplemented</Code><Message>A header</Message></Error>");
    server.control.befall("CompleteMultipartUpload", unknown);
    let content = content(PART + 10);
    let at = store(&storage, "large", &content).await.unwrap();
    assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
    let at = put_whole(&storage, &name("small"), LeaseToken::generate(), Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(storage.stat(&at).await.unwrap().bytes, 1);
    // The lock and the look before remain.
    assert_eq!(storage.create(new(&name("small"))).await.err().unwrap().kind, ErrorKind::Exists);
    let probe = storage.probe(ProbeDepth::Thorough).await.unwrap();
    assert!(probe.warnings.iter().any(|line| line.contains("If-None-Match")), "{probe:?}");
}

#[tokio::test]
async fn a_key_that_may_not_delete_still_backs_up_and_what_is_left_is_remembered() {
    let server = S3Server::start().await;
    for operation in ["DeleteObject", "AbortMultipartUpload"] {
        server.control.deny(OTHER_ACCESS_KEY, operation);
    }
    let (storage, ledger) = open(&server.other_config());
    let content = content(2 * PART + 1);
    let at = store(&storage, "backups/a.sql", &content).await.unwrap();
    assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&content));
    is(&storage.delete(&at).await.unwrap_err(), ErrorKind::Denied, &["cannot delete backups/a.sql", "docs/s3.md"]);
    let mut failed = begin(&storage, "backups/failed.sql").await;
    write(&mut *failed, &content).await.unwrap();
    failed.abort().await;
    assert_eq!((server.uploads(), uploads_remembered(&ledger).await), (1, 1));
    let probe = storage.probe(ProbeDepth::Thorough).await.unwrap();
    for word in ["s3:DeleteObject", "s3:AbortMultipartUpload"] {
        assert_eq!(probe.warnings.iter().filter(|line| line.contains(word)).count(), 1, "{probe:?}");
    }
    assert_eq!((server.uploads(), server.objects().len()), (2, 3));
    // As long as the right is missing nothing changes; when it is given the sweep makes up for it.
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 0);
    server.control.allow_everything();
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 4);
    assert_eq!((server.uploads(), server.objects()), (0, vec!["backups/a.sql".to_owned()]));
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_key_that_may_not_read_still_backs_up_and_every_look_is_denied() {
    let server = S3Server::start().await;
    for operation in ["HeadObject", "GetObject", "ListObjectsV2"] {
        server.control.deny(OTHER_ACCESS_KEY, operation);
    }
    let (storage, _) = open(&server.other_config());
    let (whole, _) = open(&server.config());
    for (key, content) in [("backups/a.sql", content(10)), ("backups/b.sql", content(2 * PART + 1))] {
        let at = store(&storage, key, &content).await.unwrap();
        is(&storage.stat(&at).await.unwrap_err(), ErrorKind::Denied, &["docs/s3.md"]);
        is(&storage.open(&at, None).await.err().unwrap(), ErrorKind::Denied, &["AccessDenied", "docs/s3.md"]);
        is(&storage.find(at.key()).await.unwrap_err(), ErrorKind::Denied, &["docs/s3.md"]);
        assert_eq!(fingerprint(&whole, &at).await.unwrap(), Fingerprint::of(&content));
    }
    is(&storage.manifests().next().await.unwrap().unwrap_err(), ErrorKind::Denied, &["cannot list"]);
    let probe = storage.probe(ProbeDepth::Thorough).await.unwrap();
    for word in ["s3:GetObject", "s3:ListBucket"] {
        assert_eq!(probe.warnings.iter().filter(|line| line.contains(word)).count(), 1, "{probe:?}");
    }
    assert_eq!(server.objects(), ["backups/a.sql", "backups/b.sql"]);
}

#[tokio::test]
async fn a_probe_says_what_it_tried_and_leaves_nothing() {
    let server = S3Server::start().await;
    let (storage, ledger) = open(&S3StorageConfig { prefix: "team/x".into(), ..server.config() });
    let quick = storage.probe(ProbeDepth::Quick).await.unwrap();
    assert_eq!((quick.seen.len(), quick.warnings.len()), (3, 0), "{quick:?}");
    let thorough = storage.probe(ProbeDepth::Thorough).await.unwrap();
    assert_eq!((thorough.seen.len(), thorough.warnings.len()), (6, 0), "{thorough:?}");
    assert!(server.objects().is_empty() && server.uploads() == 0);
    assert!(ledger.list("bucket", "").await.unwrap().is_empty());
}

/// Every first contact with a storage.
async fn first_contacts(config: &S3StorageConfig) -> Vec<Error> {
    let at = Locator::S3 { key: name("a"), bucket: config.bucket.clone(), object: "a".to_owned() };
    vec![
        store(&open(config).0, "a", &content(1)).await.unwrap_err(),
        store(&open(config).0, "a", &content(PART + 1)).await.unwrap_err(),
        open(config).0.stat(&at).await.unwrap_err(),
        open(config).0.find(&name("a")).await.unwrap_err(),
        open(config).0.open(&at, None).await.err().unwrap(),
        open(config).0.delete(&at).await.unwrap_err(),
        open(config).0.manifests().next().await.unwrap().unwrap_err(),
        open(config).0.probe(ProbeDepth::Quick).await.unwrap_err(),
        open(config).0.probe(ProbeDepth::Thorough).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn wrong_credentials_are_named_at_the_first_contact() {
    let server = S3Server::start().await;
    let wrong_secret = S3StorageConfig { secret_key: Some(Secret::new("canary-wrong")), ..server.config() };
    for error in first_contacts(&wrong_secret).await {
        is(&error, ErrorKind::Denied, &["SignatureDoesNotMatch", "`secret_key`"]);
    }
    let unknown = S3StorageConfig { access_key: Some(Secret::new("AKIA-canary")), ..server.config() };
    for error in first_contacts(&unknown).await {
        is(&error, ErrorKind::Denied, &["NotSignedUp", "`access_key`"]);
    }
    assert!(server.objects().is_empty() && server.uploads() == 0);
}

#[tokio::test]
async fn a_missing_bucket_is_a_wrong_setting_and_no_missing_backup() {
    let server = S3Server::start().await;
    let missing = S3StorageConfig { bucket: "nowhere".into(), ..server.config() };
    for error in first_contacts(&missing).await {
        // The server's own answer to a read names the object.
        if error.kind != ErrorKind::NotFound || !error.to_string().contains("NoSuchKey") {
            is(&error, ErrorKind::Invalid, &["NoSuchBucket", "Create the bucket"]);
        }
    }
    let (storage, _) = open(&server.config());
    assert_eq!(storage.find(&name("never")).await.unwrap(), None);
}

#[tokio::test]
async fn an_endpoint_that_answers_html_is_named() {
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\netag: \"x\"\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
    let (endpoint, _tasks) = other_endpoint(Some(page)).await;
    for error in first_contacts(&config_at(&endpoint)).await {
        is(&error, ErrorKind::Invalid, &["an HTML page", "Check `endpoint`"]);
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_nonsense_is_named() {
    for nonsense in [
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let (endpoint, _tasks) = other_endpoint(Some(nonsense)).await;
        let config = S3StorageConfig { timeout_seconds: 2, ..config_at(&endpoint) };
        let (storage, _) = open(&config);
        let error = store(&storage, "a", &content(1)).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exists), "{error}");
        let error = storage.manifests().next().await.unwrap().unwrap_err();
        is(&error, ErrorKind::Unavailable, &["cannot list the bucket"]);
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_named_within_the_timeout() {
    let (endpoint, _tasks) = other_endpoint(None).await;
    let config = S3StorageConfig { timeout_seconds: 1, ..config_at(&endpoint) };
    let at = Locator::S3 { key: name("a"), bucket: BUCKET.to_owned(), object: "a".to_owned() };
    let (storage, _) = open(&config);
    let begun = Instant::now();
    let answers = futures::join!(
        async { storage.create(new(&name("a"))).await.err().unwrap() },
        async { storage.stat(&at).await.unwrap_err() },
        async { storage.open(&at, None).await.err().unwrap() },
        async { storage.delete(&at).await.unwrap_err() },
        async { storage.manifests().next().await.unwrap().unwrap_err() },
        async { storage.probe(ProbeDepth::Quick).await.unwrap_err() },
    );
    // Far below what a retry of the whole or a default of a library would take, and room for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let (a, b, c, d, e, f) = answers;
    for error in [a, b, c, d, e, f] {
        is(&error, ErrorKind::Unavailable, &["does not answer", "`endpoint`"]);
    }
}

#[tokio::test]
async fn parts_that_hang_are_named_within_the_timeout() {
    let server = S3Server::start().await;
    let (storage, _) = open(&S3StorageConfig { timeout_seconds: 1, ..server.config() });
    server.control.hold_parts();
    let mut upload = begin(&storage, "large").await;
    write(&mut *upload, &content(PART + MIB)).await.unwrap();
    let begun = Instant::now();
    let error = upload.commit().await.unwrap_err();
    is(&error, ErrorKind::Unavailable, &["cannot write part", "does not answer"]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_service_that_is_down_is_unavailable_and_used_again_when_it_is_up() {
    let mut server = S3Server::start().await;
    let mut second = S3Server::start().await;
    let (storage, _) = open(&S3StorageConfig { timeout_seconds: 2, ..server.config() });
    let (other, _) = open(&second.config());
    let mut begun = begin(&storage, "begun").await;
    server.down().await;
    is(&storage.create(new(&name("a"))).await.err().unwrap(), ErrorKind::Unavailable, &["cannot connect"]);
    begun.put(content(10)).await.unwrap();
    is(&begun.commit().await.unwrap_err(), ErrorKind::Unavailable, &["cannot connect"]);
    // The other region is none the worse.
    store(&other, "a", &content(10)).await.unwrap();
    server.up().await;
    store(&storage, "a", &content(10)).await.unwrap();
    second.down().await;
    assert_eq!((server.objects(), second.objects()), (vec!["a".to_owned()], vec!["a".to_owned()]));
}

#[tokio::test]
async fn what_is_deleted_from_a_bucket_that_keeps_versions_may_remain() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    let at = store(&storage, "a", &content(1)).await.unwrap();
    let versioned = |version| Mishap::Answer(200, version, "");
    server
        .control
        .befall("HeadObject", versioned(&[("etag", "\"e\""), ("x-amz-version-id", "3sL4"), ("content-length", "1")]));
    assert!(
        matches!(storage.delete(&at).await.unwrap(), Deletion::BytesMayRemain { what } if what.contains("versions"))
    );
    assert!(server.objects().is_empty());
    // A repeated job is told the same.
    server.control.befall("HeadObject", Mishap::Answer(404, &[("x-amz-delete-marker", "true")], ""));
    assert!(
        matches!(storage.delete(&at).await.unwrap(), Deletion::BytesMayRemain { what } if what.contains("versions"))
    );
    let at = store(&storage, "b", &content(1)).await.unwrap();
    // From before the bucket kept versions.
    server
        .control
        .befall("HeadObject", versioned(&[("etag", "\"e\""), ("x-amz-version-id", "null"), ("content-length", "1")]));
    assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
}

#[tokio::test]
async fn a_bucket_in_another_region_is_named_with_its_region() {
    let server = S3Server::start().await;
    for (status, body) in [
        (301, ""),
        (
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu-north-1</Region></Error>",
        ),
    ] {
        let (storage, _) = open(&server.config());
        let elsewhere = Mishap::Answer(status, &[("x-amz-bucket-region", "eu-north-1")], body);
        for operation in ["HeadObject", "ListObjectsV2"] {
            server.control.befall(operation, elsewhere.clone());
        }
        let hint = "The bucket is in region eu-north-1: set `region` to it.";
        is(&storage.find(&name("a")).await.unwrap_err(), ErrorKind::Invalid, &[hint]);
        is(&storage.manifests().next().await.unwrap().unwrap_err(), ErrorKind::Invalid, &[hint]);
    }
}

#[tokio::test]
async fn a_read_that_breaks_is_taken_up_where_it_broke() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    let content = content(2 * PART);
    let at = store(&storage, "large", &content).await.unwrap();
    let proxy = CuttingProxy::start(server.endpoint(), 3 * MIB).await;
    let (cut, _) = open(&config_at(&proxy.endpoint));
    assert_eq!(fingerprint(&cut, &at).await.unwrap(), Fingerprint::of(&content));
    assert!(proxy.cuts.load(std::sync::atomic::Ordering::SeqCst) > 0);
}

/// Passes bytes on and ends each of its first two connections after so many bytes of answers.
struct CuttingProxy {
    endpoint: String,
    cuts: Arc<std::sync::atomic::AtomicUsize>,
    _tasks: tokio::task::JoinSet<()>,
}

impl CuttingProxy {
    async fn start(upstream: String, after: usize) -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let cuts = Arc::new(AtomicUsize::new(0));
        let (counted, mut tasks) = (Arc::clone(&cuts), tokio::task::JoinSet::new());
        tasks.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, counted) = (upstream.clone(), Arc::clone(&counted));
                connections.spawn(async move {
                    let server = tokio::net::TcpStream::connect(upstream).await.unwrap();
                    let (mut client_read, mut client_write) = client.into_split();
                    let (mut server_read, mut server_write) = server.into_split();
                    let up = async {
                        let _ = tokio::io::copy(&mut client_read, &mut server_write).await;
                    };
                    let down = async {
                        let (mut passed, mut buffer) = (0, vec![0; 64 << 10]);
                        while let Ok(bytes) = server_read.read(&mut buffer).await {
                            passed += bytes;
                            if bytes == 0 || client_write.write_all(&buffer[..bytes]).await.is_err() {
                                return;
                            }
                            if passed > after && counted.load(Ordering::SeqCst) < 2 {
                                counted.fetch_add(1, Ordering::SeqCst);
                                return;
                            }
                        }
                    };
                    tokio::select! { () = up => {}, () = down => {} }
                });
            }
        });
        // The signature covers the host: it must be the one that the client asked for.
        Self { endpoint, cuts, _tasks: tasks }
    }
}

#[tokio::test]
async fn a_slow_upload_that_lives_is_written_down_anew_and_not_swept() {
    let server = S3Server::start().await;
    for (age, is_swept) in [(Duration::ZERO, false), (Duration::from_secs(3600), true)] {
        let (storage, ledger) = open(&server.config());
        let storage = storage.with_rewrite_after(age);
        let mut upload = begin(&storage, &format!("slow-{is_swept}")).await;
        write(&mut *upload, &content(2 * PART)).await.unwrap();
        let written = async || ledger.list("bucket", "upload/").await.unwrap()[0].written_at;
        let (first, long_after) = (written().await, SystemTime::now());
        write(&mut *upload, &content(PART)).await.unwrap();
        assert_eq!(written().await > first, !is_swept);
        assert_eq!(storage.sweep_temporary(long_after).await.unwrap(), u64::from(is_swept));
        assert_eq!(upload.commit().await.is_err(), is_swept);
    }
}

#[tokio::test]
async fn storages_below_different_prefixes_do_not_see_each_other() {
    let server = S3Server::start().await;
    let below = |prefix: &str| open(&S3StorageConfig { prefix: prefix.into(), ..server.config() }).0;
    let (one, two, all) = (below("one"), below("one-more"), below(""));
    let at = store(&one, "backups/a.manifest.json", &content(1)).await.unwrap();
    store(&two, "backups/a.manifest.json", &content(2)).await.unwrap();
    assert_eq!(server.objects(), ["one-more/backups/a.manifest.json", "one/backups/a.manifest.json"]);
    assert_eq!(one.manifests().try_collect::<Vec<_>>().await.unwrap(), std::slice::from_ref(&at));
    assert_eq!(all.manifests().try_collect::<Vec<_>>().await.unwrap().len(), 2);
    assert_eq!(one.stat(&at).await.unwrap().bytes, 1);
    // After the prefix was changed, what was stored before is still found by its locator.
    assert_eq!(two.stat(&at).await.unwrap().bytes, 1);
    let address = one.s3_address(&at).unwrap();
    let url = format!("{}/{BUCKET}/one/backups/a.manifest.json", server.endpoint());
    assert_eq!((address.url, address.region.as_str(), address.bucket.as_str()), (url, "eu-central-1", BUCKET));
}

#[tokio::test]
async fn every_page_of_a_long_list_is_read() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    let directory = server.root.path().join(BUCKET).join("backups");
    std::fs::create_dir(&directory).unwrap();
    for number in 0..1500 {
        std::fs::write(directory.join(format!("{number}.manifest.json")), "{}").unwrap();
    }
    assert_eq!(storage.manifests().try_collect::<Vec<_>>().await.unwrap().len(), 1500);
    assert_eq!(server.control.count("ListObjectsV2"), 2);
}

#[tokio::test]
async fn a_locator_of_something_else_is_refused() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    store(&storage, "other/tenants.sql", &content(1)).await.unwrap();
    let s3 = |key: &str, bucket: &str, object: &str| Locator::S3 {
        key: name(key),
        bucket: bucket.to_owned(),
        object: object.to_owned(),
    };
    for at in [
        s3("a.sql", "another-bucket", "a.sql"),
        s3("a.sql", BUCKET, "other/tenants.sql"),
        s3("tenants.sql", BUCKET, "other/../other/tenants.sql"),
        s3("ants.sql", BUCKET, "other/tenants.sql"),
        s3("a.sql", BUCKET, "/a.sql"),
        Locator::Memory { key: name("other/tenants.sql") },
    ] {
        assert_eq!(storage.open(&at, None).await.err().unwrap().kind, ErrorKind::Invalid, "{at:?}");
        assert_eq!(storage.stat(&at).await.unwrap_err().kind, ErrorKind::Invalid, "{at:?}");
        assert_eq!(storage.delete(&at).await.unwrap_err().kind, ErrorKind::Invalid, "{at:?}");
    }
    assert_eq!(server.objects(), ["other/tenants.sql"]);
}

#[tokio::test]
async fn names_with_unusual_characters_are_kept() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    for key in ["a b+c&d=e", "ü/ñ%41", "~$!*'()#?", "…/日本"] {
        let at = store(&storage, key, &Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(get_whole(&storage, &at, ByteSize::kib(1)).await.unwrap(), b"x", "{key}");
        assert!(server.objects().contains(&key.to_owned()), "{key}");
        assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
    }
}

#[tokio::test]
async fn an_artifact_that_needs_too_many_parts_is_too_large() {
    let server = S3Server::start().await;
    let (storage, _) = open(&server.config());
    assert_eq!(storage.limits().artifact, Some(ByteSize(10_000 * PART as u64)));
    let mut upload = begin(&storage, "a").await;
    assert_eq!(upload.put(content(PART + 1)).await.unwrap_err().kind, ErrorKind::TooLarge);
    // What failed once is not published.
    assert_eq!(upload.commit().await.unwrap_err().kind, ErrorKind::Invalid);
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn the_configured_rate_is_kept_to_by_all_uploads_together() {
    let server = S3Server::start().await;
    let root = tempfile::tempdir().unwrap();
    let max_rate = Some(ByteSize::mib(4));
    let bucket = S3StorageConfig { max_rate, ..server.config() };
    let directory = LocalStorageConfig { max_rate, ..LocalStorageConfig::new(root.path()) };
    for config in [StorageConfig::S3(Box::new(bucket)), StorageConfig::Local(directory)] {
        let ledger: Arc<dyn Ledger> = Arc::new(InMemoryLedger::default());
        let storage = storage::open("slow", &config, &ledger).await.unwrap();
        let begun = Instant::now();
        let one_mib = content(MIB);
        let (a, b) = futures::join!(store(&*storage, "a", &one_mib), store(&*storage, "b", &one_mib));
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
        assert_eq!(storage.s3_address(&a.unwrap()).is_some(), matches!(config, StorageConfig::S3(_)));
        b.unwrap();
    }
}

#[tokio::test]
async fn nothing_that_is_printed_holds_a_key() {
    let server = S3Server::start().await;
    let config = S3StorageConfig { session_token: Some(Secret::new("canary-token")), ..server.config() };
    let (storage, _) = open(&config);
    for text in
        [format!("{storage:?}"), format!("{config:?}"), serde_json::to_string(&config).unwrap(), toml_of(&config)]
    {
        for secret in [SECRET_KEY, ACCESS_KEY, "canary"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    store(&storage, "a", &content(1)).await.unwrap();
}

/// Takes log lines.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_line_of_any_level_holds_a_key_or_a_signature() {
    let lines = Lines::default();
    let writer = lines.clone();
    // The server is in this process too, and what it logs is its own business.
    let _logging = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_env_filter("trace,s3s=off,s3s_fs=off")
            .with_writer(move || writer.clone())
            .finish(),
    );
    let server = S3Server::start().await;
    let config = S3StorageConfig { session_token: Some(Secret::new("canary-token")), ..server.config() };
    let (storage, _) = open(&config);
    let at = store(&storage, "a", &content(PART + 1)).await.unwrap();
    fingerprint(&storage, &at).await.unwrap();
    server.control.befall("HeadObject", Mishap::Answer(500, &[], ""));
    storage.stat(&at).await.unwrap();
    let wrong = S3StorageConfig { secret_key: Some(Secret::new("canary-wrong")), ..config };
    assert!(open(&wrong).0.stat(&at).await.is_err());
    server.control.deny(ACCESS_KEY, "AbortMultipartUpload");
    let mut upload = begin(&storage, "b").await;
    write(&mut *upload, &content(PART + 1)).await.unwrap();
    upload.abort().await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("an upload is left to the sweep") && text.contains("TRACE"), "{text}");
    for secret in [SECRET_KEY, ACCESS_KEY, "canary", "Signature="] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

fn toml_of(config: &S3StorageConfig) -> String {
    format!("{:#?}", StorageConfig::S3(Box::new(config.clone())))
}
