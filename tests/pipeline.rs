//! The pipeline between synthetic sources and storages that fail where they are told to: what is left behind, and what is said.

use crate::support::faulty_storage;

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use faulty_storage::{Fault, Faulty};
use holdfast::{
    artifact::{ArtifactName, BackupType, Compression, Encoding, Encryption, Fingerprint, Format},
    byte_size::ByteSize,
    ids::{BackupId, LeaseToken},
    manifest::{Body, Content, DatabaseContent, DumpScope, Head, Manifest, Requirements, VERSION},
    pipeline::{
        BackupRun, CopyProgress, CopyState, FetchError, PipelineError, Progress, Stage, Stored, back_up, check,
        check_seal, content, publish_manifest, read_manifest, read_manifest_file, spool,
    },
    source::{Source, SourceError, SourceReport},
    storage::{ErrorKind, Limits, Locator, Pace, Storage, local::LocalStorage, memory::MemoryStorage, put_whole},
    transform::{EncodeOptions, Identities},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

// ---- a scene ----

/// A source that plays a script.
struct Script {
    reader: Option<Box<dyn Read + Send>>,
    start: Option<SourceError>,
    finish: Result<(), SourceError>,
    /// Runs when the pipeline asks for the verdict.
    at_finish: Box<dyn FnOnce() + Send>,
    aborted: Arc<AtomicBool>,
    /// Dropped at the end, which lets a waiting reader end.
    _hold: Option<mpsc::Sender<()>>,
}

impl Script {
    fn new(reader: impl Read + Send + 'static) -> Self {
        Self {
            reader: Some(Box::new(reader)),
            start: None,
            finish: Ok(()),
            at_finish: Box::new(|| {}),
            aborted: Arc::default(),
            _hold: None,
        }
    }

    /// Gives some bytes and then waits until the source is ended.
    fn that_hangs() -> Self {
        struct Waits(mpsc::Receiver<()>);
        impl Read for Waits {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(0)
            }
        }
        let (hold, wait) = mpsc::channel();
        let mut script = Self::new(io::Cursor::new(dump()).chain(Waits(wait)));
        script._hold = Some(hold);
        script
    }
}

fn source_error(message: &str) -> SourceError {
    SourceError { message: message.into(), may_pass: false, code: "source.failed" }
}

#[async_trait]
impl Source for Script {
    async fn start(&mut self) -> Result<Box<dyn Read + Send>, SourceError> {
        match self.start.take() {
            Some(error) => Err(error),
            None => Ok(self.reader.take().expect("started once")),
        }
    }
    async fn finish(self: Box<Self>) -> Result<SourceReport, SourceError> {
        (self.at_finish)();
        self.finish.map(|()| SourceReport { holds: Content::Database(database()) })
    }
    async fn abort(self: Box<Self>) {
        self.aborted.store(true, Ordering::SeqCst);
    }
}

fn database() -> DatabaseContent {
    DatabaseContent {
        scope: DumpScope::Schema { schema: "tenant_canary".into() },
        partial: None,
        server_version: 150020,
        tool_version: 150020,
        table_count: 0,
        row_count: 0,
        tables: Vec::new(),
        sequences: Vec::new(),
        ownership: Vec::new(),
        requirements: Requirements::default(),
        proof: None,
    }
}

/// Several parts' worth of text that compresses little.
fn dump() -> Vec<u8> {
    let mut text = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    while text.len() < 3_000_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend_from_slice(format!("INSERT INTO t VALUES ({state}, '{:x}');\n", state.rotate_left(17)).as_bytes());
    }
    text
}

fn identity() -> age::x25519::Identity {
    static IDENTITY: std::sync::OnceLock<age::x25519::Identity> = std::sync::OnceLock::new();
    IDENTITY.get_or_init(age::x25519::Identity::generate).clone()
}

fn encoding(compression: Compression, encryption: Encryption) -> Encoding {
    Encoding { format: Some(Format::Sql), compression, encryption }
}

const ENCODING: Encoding =
    Encoding { format: Some(Format::Sql), compression: Compression::Zstd, encryption: Encryption::Age };

fn memory() -> MemoryStorage {
    MemoryStorage::with_limits(Limits {
        part: ByteSize::kib(100),
        parts_in_flight: 1,
        artifact: None,
        pace: Pace::Streamed,
    })
}

fn name() -> ArtifactName {
    "backups/acme/backup-2026-11-21-020000-0123456789ab.sql.zst.age".parse().unwrap()
}

fn run(source: Script, storages: Vec<Arc<dyn Storage>>) -> BackupRun {
    BackupRun {
        source: Box::new(source),
        encode: EncodeOptions {
            encoding: ENCODING,
            zstd_level: 1,
            gzip_level: 6,
            threads: 2,
            recipients: vec![identity().to_public()],
        },
        storages: storages.into_iter().enumerate().map(|(i, storage)| (format!("storage-{i}"), storage)).collect(),
        name: name(),
        attempt: LeaseToken::generate(),
        caption: None,
        max_size: ByteSize::gib(10),
        timeout: Duration::from_secs(600),
        verify_read_back: false,
        progress: watch::channel(Progress::default()).0,
        cancel: CancellationToken::new(),
    }
}

fn arc(storage: &MemoryStorage) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

fn faulty(storage: &MemoryStorage, fault: Fault) -> Arc<dyn Storage> {
    Arc::new(Faulty::new(arc(storage), fault))
}

fn assert_nothing_is_left(storage: &MemoryStorage) {
    assert_eq!(storage.keys(), Vec::<String>::new());
    assert_eq!(storage.uploads_open(), 0);
}

/// Runs a script into one storage, expects an error, and that neither bytes nor a running source are left.
async fn fails(script: Script, change: impl FnOnce(&mut BackupRun)) -> PipelineError {
    let storage = memory();
    let aborted = Arc::clone(&script.aborted);
    let finished_itself = script.finish.is_err();
    let mut run = run(script, vec![arc(&storage)]);
    change(&mut run);
    let error = back_up(run).await.unwrap_err();
    assert_nothing_is_left(&storage);
    assert!(finished_itself || aborted.load(Ordering::SeqCst), "the source still runs");
    error
}

async fn read_copy(storage: &dyn Storage, at: &Locator, stored: &Stored, encoding: Encoding) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let spooled =
        spool(storage, at, stored.stored, directory.path(), &|_| {}, &CancellationToken::new()).await.unwrap();
    let expected = stored.content;
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        check(&spooled, &encoding, &identity().into(), expected).unwrap();
        check_seal(&spooled, &encoding, &identity().into()).unwrap();
        content(&spooled, &encoding, &identity().into(), expected).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    })
    .await
    .unwrap()
}

// ---- taking ----

#[tokio::test]
async fn every_encoding_reaches_every_storage_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    for compression in Compression::ALL {
        for encryption in Encryption::ALL {
            let (one, encoding) = (memory(), encoding(*compression, *encryption));
            let local: Arc<dyn Storage> =
                Arc::new(LocalStorage::open(&directory.path().join(encoding.extension())).await.unwrap());
            let mut run = run(Script::new(io::Cursor::new(dump())), vec![arc(&one), Arc::clone(&local)]);
            run.encode.encoding = encoding;
            run.verify_read_back = true;
            let progress = run.progress.subscribe();
            let stored = back_up(run).await.unwrap();
            assert_eq!(stored.content, Fingerprint::of(&dump()));
            let bytes = one.peek(&name()).unwrap();
            assert_eq!(stored.stored, Fingerprint::of(&bytes));
            let mut rest = &bytes[..];
            for part in &stored.parts {
                let (this, after) = rest.split_at(part.fingerprint.bytes as usize);
                assert_eq!(part.fingerprint, Fingerprint::of(this));
                rest = after;
            }
            assert!(rest.is_empty() && stored.parts.len() > 1);
            assert!(stored.failed_copies.is_empty());
            let names: Vec<&str> = stored.copies.iter().map(|copy| copy.storage.as_str()).collect();
            assert_eq!(names, ["storage-0", "storage-1"]);
            for (copy, storage) in stored.copies.iter().zip([arc(&one), local]) {
                assert!(read_copy(&*storage, &copy.locator, &stored, encoding).await == dump());
            }
            assert_eq!(one.uploads_open(), 0);
            let last = progress.borrow().clone();
            assert_eq!(last.stage, Stage::ReadingBack);
            let done = CopyProgress { stored_bytes: stored.stored.bytes, state: CopyState::Done, message: None };
            let each = ["storage-0", "storage-1"].map(|name| (name.to_owned(), done.clone()));
            assert_eq!(last.storages, each.into());
            assert_eq!((last.content_bytes, last.stored_bytes), (stored.content.bytes, stored.stored.bytes));
        }
    }
}

#[tokio::test]
async fn nothing_is_published_before_the_source_said_that_all_is_well() {
    let storage = memory();
    let (seen, asked) = (storage.clone(), Arc::new(AtomicBool::new(false)));
    let mut script = Script::new(io::Cursor::new(dump()));
    let was_asked = Arc::clone(&asked);
    script.at_finish = Box::new(move || {
        was_asked.store(seen.keys().is_empty(), Ordering::SeqCst);
    });
    back_up(run(script, vec![arc(&storage)])).await.unwrap();
    assert!(asked.load(Ordering::SeqCst));
    assert_eq!(storage.keys(), [name().as_str()]);
}

#[tokio::test]
async fn a_storage_that_fails_is_left_out_and_the_others_go_on() {
    for fault in [
        Fault::Create(ErrorKind::Denied),
        Fault::Put(0, ErrorKind::Full),
        Fault::Put(3, ErrorKind::Unavailable),
        Fault::Commit(ErrorKind::Denied),
        Fault::Commit(ErrorKind::Unavailable),
        Fault::WrongStat,
        Fault::Alter,
    ] {
        let (bad, good) = (memory(), memory());
        let mut run = run(Script::new(io::Cursor::new(dump())), vec![faulty(&bad, fault), arc(&good)]);
        run.verify_read_back = true;
        let progress = run.progress.subscribe();
        let stored = back_up(run).await.unwrap();
        assert_eq!(stored.copies.len(), 1, "{fault:?}");
        let told = progress.borrow().storages.clone();
        assert_eq!(
            (told["storage-0"].state, told["storage-1"].state),
            (CopyState::Failed, CopyState::Done),
            "{fault:?}"
        );
        assert!(told["storage-0"].message.is_some(), "{fault:?}");
        assert_eq!(stored.copies[0].storage, "storage-1");
        assert_eq!(stored.failed_copies.len(), 1);
        assert_eq!(stored.failed_copies[0].0, "storage-0");
        if matches!(fault, Fault::WrongStat | Fault::Alter) {
            assert_eq!(bad.keys().len(), 1, "what has its final name is deleted by the lease's holder alone");
        } else {
            assert_nothing_is_left(&bad);
        }
        assert!(read_copy(&good, &stored.copies[0].locator, &stored, ENCODING).await == dump());
    }
}

#[tokio::test]
async fn with_no_storage_left_the_attempt_fails_and_leaves_nothing_unfinished() {
    for (fault, kind) in [
        (Fault::Create(ErrorKind::Denied), ErrorKind::Denied),
        (Fault::Put(2, ErrorKind::Full), ErrorKind::Full),
        (Fault::Commit(ErrorKind::Denied), ErrorKind::Denied),
        (Fault::WrongStat, ErrorKind::Corrupt),
    ] {
        let storage = memory();
        let error =
            back_up(run(Script::new(io::Cursor::new(dump())), vec![faulty(&storage, fault)])).await.unwrap_err();
        assert!(
            matches!(&error, PipelineError::Storage { name, error } if name == "storage-0" && error.kind == kind),
            "{error}"
        );
        assert_eq!(error.code(), kind.code());
        if !matches!(fault, Fault::WrongStat) {
            assert_nothing_is_left(&storage);
        }
    }
}

#[tokio::test]
async fn of_several_failures_one_that_may_pass_is_told() {
    let storages = vec![
        faulty(&memory(), Fault::Put(0, ErrorKind::Denied)),
        faulty(&memory(), Fault::Put(1, ErrorKind::Unavailable)),
    ];
    let error = back_up(run(Script::new(io::Cursor::new(dump())), storages)).await.unwrap_err();
    assert!(error.may_pass(), "{error}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_when_the_object_is_ours() {
    let storage = memory();
    let stored = back_up(run(Script::new(io::Cursor::new(dump())), vec![faulty(&storage, Fault::LoseCommitAnswer)]))
        .await
        .unwrap();
    assert!(stored.failed_copies.is_empty());
    assert!(read_copy(&storage, &stored.copies[0].locator, &stored, ENCODING).await == dump());
}

#[tokio::test]
async fn anothers_object_is_neither_counted_nor_deleted() {
    let storage = memory();
    let script = Script::new(io::Cursor::new(dump()));
    let error = back_up(run(script, vec![faulty(&storage, Fault::LoseCommitToAnother)])).await.unwrap_err();
    assert_eq!(error.code(), "storage.unavailable");
    assert_eq!(storage.peek(&name()).unwrap(), "another's");
    let taken = fails_with_taken_name(&storage).await;
    assert_eq!(taken.code(), "storage.exists");
    assert_eq!(storage.peek(&name()).unwrap(), "another's");
}

async fn fails_with_taken_name(storage: &MemoryStorage) -> PipelineError {
    back_up(run(Script::new(io::Cursor::new(dump())), vec![arc(storage)])).await.unwrap_err()
}

// ---- sources that fail ----

#[tokio::test]
async fn a_source_that_does_not_start_is_told_in_its_own_words() {
    let mut script = Script::new(io::empty());
    script.start = Some(source_error("password authentication failed"));
    let error = fails(script, |_| {}).await;
    assert_eq!((error.to_string().as_str(), error.code()), ("password authentication failed", "source.failed"));
}

#[tokio::test]
async fn a_reader_that_fails_half_way_stores_nothing() {
    struct Breaks;
    impl Read for Breaks {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the pipe broke"))
        }
    }
    let error = fails(Script::new(io::Cursor::new(dump()).chain(Breaks)), |_| {}).await;
    assert!(matches!(&error, PipelineError::Source(e) if e.message.contains("the pipe broke")), "{error}");
}

#[tokio::test]
async fn a_source_that_ends_badly_stores_nothing() {
    let mut script = Script::new(io::Cursor::new(dump()));
    script.finish = Err(source_error("pg_dump: error: connection to server was lost"));
    let error = fails(script, |_| {}).await;
    assert!(error.to_string().contains("connection to server was lost"));
}

#[tokio::test]
async fn a_source_that_prints_nothing_stores_nothing() {
    let storage = memory();
    let error = back_up(run(Script::new(io::empty()), vec![arc(&storage)])).await.unwrap_err();
    assert_eq!(error.code(), "source.empty");
    assert_nothing_is_left(&storage);
}

#[tokio::test]
async fn a_source_that_hangs_can_be_cancelled() {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let error = fails(Script::that_hangs(), move |run| {
        run.cancel = token;
        // Cancelled once bytes have moved.
        let mut progress = run.progress.subscribe();
        tokio::spawn(async move {
            progress.wait_for(|p| p.content_bytes > 1_000_000).await.unwrap();
            cancel.cancel();
        });
    })
    .await;
    assert!(matches!(error, PipelineError::Cancelled), "{error}");
}

#[tokio::test]
async fn a_source_that_hangs_is_ended_by_the_time_limit() {
    let error = fails(Script::that_hangs(), |run| run.timeout = Duration::from_millis(50)).await;
    assert!(matches!(error, PipelineError::TimedOut { .. }), "{error}");
    assert!(!error.may_pass());
}

#[tokio::test]
async fn a_storage_that_hangs_is_ended_by_a_cancel() {
    let (storage, cancel) = (memory(), CancellationToken::new());
    let mut run = run(Script::new(io::Cursor::new(dump())), vec![faulty(&storage, Fault::HangPut(2))]);
    run.cancel = cancel.clone();
    let mut progress = run.progress.subscribe();
    tokio::spawn(async move {
        progress.wait_for(|p| p.stored_bytes >= 200 << 10).await.unwrap();
        cancel.cancel();
    });
    assert!(matches!(back_up(run).await.unwrap_err(), PipelineError::Cancelled));
    assert_nothing_is_left(&storage);
}

#[tokio::test]
async fn a_backup_beyond_the_limit_is_refused_without_reading_to_its_end() {
    struct Noise(u64);
    impl Read for Noise {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in buffer.iter_mut() {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (self.0 >> 33) as u8;
            }
            Ok(buffer.len())
        }
    }
    let error = fails(Script::new(Noise(1)), |run| run.max_size = ByteSize::mib(3)).await;
    assert_eq!(error.to_string(), "the backup grows beyond the limit of 3 MiB stored bytes");
    assert_eq!(error.code(), "backup.too_large");
}

#[tokio::test]
async fn a_storages_own_limit_leaves_that_storage_out() {
    let small = MemoryStorage::with_limits(Limits {
        part: ByteSize::kib(100),
        parts_in_flight: 1,
        artifact: Some(ByteSize::kib(250)),
        pace: Pace::Streamed,
    });
    let large = memory();
    let stored = back_up(run(Script::new(io::Cursor::new(dump())), vec![arc(&small), arc(&large)])).await.unwrap();
    assert_eq!(stored.failed_copies[0].1.kind, ErrorKind::TooLarge);
    assert_nothing_is_left(&small);
    assert_eq!(large.keys().len(), 1);
}

#[tokio::test]
async fn an_attempt_that_is_dropped_leaves_nothing() {
    let storage = memory();
    let run = run(Script::that_hangs(), vec![arc(&storage)]);
    let mut progress = run.progress.subscribe();
    tokio::select! {
        _ = back_up(run) => panic!("it hangs"),
        moved = progress.wait_for(|p| p.content_bytes > 1_000_000) => drop(moved.unwrap()),
    }
    assert_nothing_is_left(&storage);
}

#[tokio::test]
async fn a_directory_holds_no_file_after_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(directory.path()).await.unwrap());
    let mut script = Script::new(io::Cursor::new(dump()));
    script.finish = Err(source_error("killed"));
    back_up(run(script, vec![Arc::clone(&storage)])).await.unwrap_err();
    let mut cancelled = run(Script::that_hangs(), vec![storage]);
    cancelled.timeout = Duration::from_millis(50);
    back_up(cancelled).await.unwrap_err();
    fn files(path: &Path) -> usize {
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with(".holdfast-storage"))
            .map(|path| if path.is_dir() { files(&path) } else { 1 })
            .sum()
    }
    assert_eq!(files(directory.path()), 0);
}

// ---- giving back ----

async fn stored_in(storage: &MemoryStorage) -> Stored {
    back_up(run(Script::new(io::Cursor::new(dump())), vec![arc(storage)])).await.unwrap()
}

#[tokio::test]
async fn a_damaged_artifact_is_refused_before_anyone_reads_it() {
    let storage = memory();
    let stored = stored_in(&storage).await;
    let good = storage.peek(&name()).unwrap();
    let mut damaged = Vec::new();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1;
        damaged.push(flipped);
        damaged.push(good[..at].to_vec());
    }
    let mut longer = good.to_vec();
    longer.push(0);
    damaged.push(longer);
    let mut swapped = good.to_vec();
    swapped.rotate_left(100 << 10);
    damaged.push(swapped);
    let directory = tempfile::tempdir().unwrap();
    for bytes in damaged {
        storage.tamper(&name(), bytes.into());
        let error = spool(
            &storage,
            &stored.copies[0].locator,
            stored.stored,
            directory.path(),
            &|_| {},
            &CancellationToken::new(),
        )
        .await
        .unwrap_err();
        assert_eq!(error.code(), "artifact.damaged", "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_reader_fails_at_its_end_when_the_content_is_not_what_was_recorded() {
    let storage = memory();
    let stored = stored_in(&storage).await;
    let directory = tempfile::tempdir().unwrap();
    let spooled =
        spool(&storage, &stored.copies[0].locator, stored.stored, directory.path(), &|_| {}, &CancellationToken::new())
            .await
            .unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the spool has no name");
    let mut other = dump();
    other[0] ^= 1;
    for expected in [Fingerprint::of(&other), Fingerprint::of(b""), Fingerprint::of(&[dump(), b"x".to_vec()].concat())]
    {
        let error = check(&spooled, &ENCODING, &identity().into(), expected).unwrap_err();
        assert_eq!(error.code(), "artifact.damaged", "{error}");
    }
    let without_key = content(&spooled, &ENCODING, &Identities::none(), stored.content).err().unwrap();
    assert_eq!(without_key.code(), "key.unavailable");
}

#[tokio::test]
async fn too_little_space_is_told_before_anything_is_fetched() {
    let storage = memory();
    let stored = stored_in(&storage).await;
    let directory = tempfile::tempdir().unwrap();
    let huge = Fingerprint { bytes: 1 << 60, ..stored.stored };
    let at = &stored.copies[0].locator;
    let error = spool(&storage, at, huge, directory.path(), &|_| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, FetchError::NoSpace { .. }), "{error}");
    assert!(error.to_string().starts_with("no space in "), "{error}");
}

#[tokio::test]
async fn a_fetch_can_be_cancelled_and_a_missing_artifact_is_not_found() {
    let storage = memory();
    let stored = stored_in(&storage).await;
    let directory = tempfile::tempdir().unwrap();
    let at = &stored.copies[0].locator;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let error = spool(&storage, at, stored.stored, directory.path(), &|_| {}, &cancelled).await.unwrap_err();
    assert!(matches!(error, FetchError::Cancelled));
    storage.delete(at).await.unwrap();
    let error =
        spool(&storage, at, stored.stored, directory.path(), &|_| {}, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.code(), "storage.not_found");
}

// ---- manifests ----

fn manifest(encryption: Encryption) -> Manifest {
    Manifest {
        head: Head {
            manifest_version: VERSION,
            written_by: "holdfast test".into(),
            backup_id: BackupId::generate(),
            project_id: "acme".parse().unwrap(),
            backup_type: BackupType::Database,
            key: name(),
            encoding: encoding(Compression::Zstd, encryption),
            stored: Fingerprint::of(b"stored"),
            parts: Vec::new(),
            created_at: chrono::DateTime::UNIX_EPOCH,
            expires_at: None,
            is_partial: false,
        },
        body: Body { content: Fingerprint::of(b"content"), holds: Content::Database(database()) },
    }
}

#[tokio::test]
async fn a_manifest_comes_back_and_an_encrypted_one_tells_nothing_of_its_body() {
    for encryption in Encryption::ALL {
        let (storage, manifest) = (memory(), manifest(*encryption));
        let at = publish_manifest(&storage, &manifest, &[identity().to_public()], None, LeaseToken::generate())
            .await
            .unwrap();
        assert_eq!(storage.keys(), [name().manifest().as_str()]);
        assert_eq!(read_manifest(&storage, &at, &identity().into()).await.unwrap(), manifest);
        assert_eq!(read_manifest_file(&storage, &at).await.unwrap().head, manifest.head);
        let text = String::from_utf8(storage.peek(&name().manifest()).unwrap().to_vec()).unwrap();
        assert_eq!(text.contains("canary"), *encryption == Encryption::None);
        let without_key = read_manifest(&storage, &at, &Identities::none()).await;
        match encryption {
            Encryption::None => assert_eq!(without_key.unwrap(), manifest),
            Encryption::Age => assert_eq!(without_key.unwrap_err().code(), "key.unavailable"),
        }
    }
    let nobody = publish_manifest(&memory(), &manifest(Encryption::Age), &[], None, LeaseToken::generate()).await;
    assert_eq!(nobody.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_manifest_of_a_newer_version_or_a_broken_one_is_named() {
    let storage = memory();
    let at = publish_manifest(&storage, &manifest(Encryption::None), &[], None, LeaseToken::generate()).await.unwrap();
    let text = String::from_utf8(storage.peek(&name().manifest()).unwrap().to_vec()).unwrap();
    for (bytes, code) in [
        (text.replace("\"manifest_version\": 1", "\"manifest_version\": 2"), "manifest.newer"),
        (r#"{"head": {"manifest_version": 9, "all": "different"}}"#.to_owned(), "manifest.newer"),
        (text[..text.len() / 2].to_owned(), "manifest.damaged"),
        ("[]".to_owned(), "manifest.damaged"),
        (String::new(), "manifest.damaged"),
        (text.replace("backups/acme", "../acme"), "manifest.damaged"),
    ] {
        storage.tamper(&name().manifest(), bytes.into());
        assert_eq!(read_manifest(&storage, &at, &Identities::none()).await.unwrap_err().code(), code);
    }
    storage.tamper(&name().manifest(), Bytes::from(vec![b' '; (64 << 20) + 1]));
    assert_eq!(read_manifest(&storage, &at, &Identities::none()).await.unwrap_err().code(), "storage.too_large");
}

#[tokio::test]
async fn a_manifest_larger_than_a_part_is_written_in_parts() {
    let storage = memory();
    let large = Bytes::from(vec![b'x'; 350 << 10]);
    put_whole(&storage, &name(), LeaseToken::generate(), large.clone()).await.unwrap();
    assert_eq!(storage.peek(&name()).unwrap(), large);
}
