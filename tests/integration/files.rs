//! The file's half: what goes into the storage, and what is refused.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::future::join_all;
use holdfast::{
    artifact::{BackupType, Encryption, Fingerprint, Sha256Digest},
    byte_size::ByteSize,
    integration::{BackupOptions, FileInput},
    manifest::Content,
    pipeline,
    storage::{ErrorKind, Limits, Pace, get_whole, memory::MemoryStorage},
    transform::Identities,
};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::{
    faulty_storage::{Fault, Faulty},
    scene::{Scene, Split, bytes, code, file},
};

/// A stream that gives some bytes and then ends as it is told.
struct Stream {
    bytes: Bytes,
    end: fn() -> io::Result<()>,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Poll::Ready((self.end)());
        }
        // A few bytes at a time, as from a socket.
        let length = self.bytes.len().min(buffer.remaining()).min(1_000);
        buffer.put_slice(&self.bytes.split_to(length));
        Poll::Ready(Ok(()))
    }
}

fn stream(bytes: &[u8]) -> FileInput {
    FileInput::reader(Stream { bytes: Bytes::copy_from_slice(bytes), end: || Ok(()) })
}

/// Nothing of the file is left in the storage, and no upload is open.
fn nothing_is_left(memory: &MemoryStorage) {
    assert_eq!(memory.keys(), Vec::<String>::new());
    assert_eq!(memory.uploads_open(), 0);
}

#[tokio::test]
async fn a_path_bytes_and_a_stream_come_back_as_they_were() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let content = bytes(1_000_000);
    let path = scene.write("acme.sql", &content);
    for (input, name) in [
        (FileInput::from(path), "backups/acme/acme.sql.age"),
        (FileInput::from(content.clone()), "backups/acme/acme-{id}.sql.age"),
        (stream(&content), "backups/acme/acme-{id}.sql.age"),
    ] {
        let result = integration.send_and_record(file(input)).await;
        assert!(result.success, "{result:?}");
        let metadata = result.telegram_metadata.unwrap();
        assert_eq!(metadata.name, name.replace("{id}", &metadata.backup_id.short()));
        assert_eq!(scene.fetch(&scene.memory, &metadata).await, content);
        assert_eq!((metadata.content_size, metadata.content_sha256), (1_000_000, Sha256Digest::of(&content)));
        // 100 KiB a part, and what encryption adds.
        assert_eq!(metadata.parts.len(), 10);
        assert_eq!(metadata.parts.iter().map(|part| part.size).sum::<u64>(), metadata.size);
        let stored = get_whole(&scene.memory, &metadata.record.locator, ByteSize::mib(2)).await.unwrap();
        assert_eq!(Fingerprint::of(&stored), Fingerprint { bytes: metadata.size, sha256: metadata.sha256 });
        for (part, stored) in metadata.parts.iter().zip(stored.chunks(100 << 10)) {
            assert_eq!((part.size, part.sha256), (stored.len() as u64, Sha256Digest::of(stored)));
        }
    }
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 3);
}

#[tokio::test]
async fn the_manifest_beside_a_file_is_enough_to_record_it() {
    let scene = Scene::new().await;
    let options = BackupOptions { filename: Some("Straße & Co.tar".to_owned()), ..file(bytes(5_000)) };
    let metadata = scene.integration().send_to_telegram_only(options).await.telegram_metadata.unwrap();
    let identities = Identities::parse(scene.identity.to_string().expose_secret()).unwrap();
    let manifest =
        pipeline::read_manifest(&scene.memory, &metadata.record.manifest_locator, &identities).await.unwrap();
    assert_eq!(manifest, metadata.record.manifest);
    assert_eq!(manifest.head.project_id.as_str(), "acme");
    assert_eq!(manifest.head.encoding.format, None);
    assert!(matches!(&manifest.body.holds, Content::File(file) if file.file_name == "Straße & Co.tar"));
    // What the file is called is nobody's business who cannot open it.
    let seen = scene.memory.peek(metadata.record.manifest_locator.key()).unwrap();
    assert!(!String::from_utf8_lossy(&seen).contains("& Co"));
}

#[tokio::test]
async fn a_file_without_encryption_is_stored_as_it_is() {
    let scene = Scene::new().await;
    let options = BackupOptions { encryption: Encryption::None, ..file(b"-- plain".to_vec()) };
    let metadata = scene.integration().send_and_record(options).await.telegram_metadata.unwrap();
    assert_eq!(metadata.name, "backups/acme/acme.sql");
    assert_eq!(&scene.memory.peek(metadata.record.locator.key()).unwrap()[..], b"-- plain");
}

#[tokio::test]
async fn without_a_recipient_nothing_is_sent_in_the_clear() {
    let scene = Scene::new().await;
    let integration = scene.around(Arc::new(scene.memory.clone())).recipients(Vec::new()).build();
    assert_eq!(code(&integration.send_and_record(file(b"x".to_vec())).await), "key.unavailable");
    nothing_is_left(&scene.memory);
}

#[tokio::test]
async fn an_empty_file_is_refused_and_leaves_nothing() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let path = scene.write("empty", b"");
    for input in [FileInput::from(path), FileInput::from(Vec::new()), stream(b"")] {
        let result = integration.send_and_record(file(input)).await;
        assert_eq!(code(&result), "file.empty");
        assert_eq!(result.telegram_metadata, None);
        let record = result.database_record.unwrap();
        assert_eq!((record.status.as_str(), record.message.as_deref()), ("failed", Some("the file is empty")));
        nothing_is_left(&scene.memory);
    }
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_before_a_byte_is_sent_where_its_size_is_known() {
    let scene = Scene::new().await;
    // Whoever begins an upload here fails otherwise.
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::Create(ErrorKind::Denied)));
    let integration = scene.around(storage).max_size(ByteSize(999)).build();
    let path = scene.write("large", &bytes(1_000));
    for input in [FileInput::from(path), FileInput::from(bytes(1_000))] {
        assert_eq!(code(&integration.send_and_record(file(input)).await), "file.too_large");
    }
    nothing_is_left(&scene.memory);
}

#[tokio::test]
async fn a_stream_over_the_limit_is_refused_as_soon_as_it_is_known() {
    let scene = Scene::new().await;
    let limits = |artifact| Limits { part: ByteSize::kib(100), parts_in_flight: 1, artifact, pace: Pace::Streamed };
    for (most_of_all, most_here) in [(ByteSize::kib(150), None), (ByteSize::gib(1), Some(ByteSize::kib(150)))] {
        let memory = MemoryStorage::with_limits(limits(most_here));
        let integration = scene.around(Arc::new(memory.clone())).max_size(most_of_all).build();
        // It never ends by itself.
        let endless = FileInput::reader(tokio::io::repeat(7));
        assert_eq!(code(&integration.send_and_record(file(endless)).await), "file.too_large");
        assert_eq!(code(&integration.send_and_record(file(bytes(150 << 10))).await), "file.too_large");
        nothing_is_left(&memory);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_no_backup() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let breaks =
        || FileInput::reader(Stream { bytes: bytes(300_000).into(), end: || Err(io::Error::other("reset by peer")) });
    let result = integration.send_and_record(file(breaks())).await;
    assert_eq!(code(&result), "file.unreadable");
    assert!(result.error.unwrap().message.contains("reset by peer"));
    let panics = FileInput::reader(Stream { bytes: bytes(300_000).into(), end: || panic!("a reader's own bug") });
    assert_eq!(code(&integration.send_and_record(file(panics)).await), "file.unreadable");
    nothing_is_left(&scene.memory);
}

#[tokio::test]
async fn a_stream_that_hangs_is_given_up_in_time() {
    let scene = Scene::new().await;
    let integration = scene.around(Arc::new(scene.memory.clone())).timeout(Duration::from_millis(200)).build();
    let (ours, _kept) = tokio::io::duplex(64);
    assert_eq!(code(&integration.send_and_record(file(FileInput::reader(ours))).await), "file.timed_out");
    nothing_is_left(&scene.memory);
}

#[tokio::test]
async fn what_is_no_file_is_named() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let pipe = scene.directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    for (path, expected) in [
        (scene.directory.path().join("missing"), "file.not_found"),
        (scene.directory.path().to_owned(), "file.not_a_file"),
        (pipe, "file.not_a_file"),
        ("/dev/zero".into(), "file.not_a_file"),
    ] {
        let result = integration.send_and_record(file(path.clone())).await;
        assert_eq!(code(&result), expected);
        assert!(result.error.unwrap().message.contains(path.to_str().unwrap()));
    }
    nothing_is_left(&scene.memory);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_no_backup() {
    let scene = Scene::new().await;
    let content = bytes(500_000);
    type Change = fn(&std::fs::File);
    let grow: Change = |file| file.set_len(500_001).unwrap();
    let shrink: Change = |file| file.set_len(499_999).unwrap();
    let vanish: Change = |file| file.set_len(0).unwrap();
    let touch: Change = |file| file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    for change in [grow, shrink, vanish, touch] {
        let path = scene.write("moving.sql", &content);
        let handle = std::fs::File::options().write(true).open(&path).unwrap();
        // The upload begins when the file was looked at and nothing of it is read.
        let storage = Split {
            artifacts: Arc::new(scene.memory.clone()),
            manifests: Arc::new(scene.memory.clone()),
            at_create: Box::new(move |_| change(&handle)),
        };
        let result = scene.around(Arc::new(storage)).build().send_and_record(file(path)).await;
        assert_eq!(code(&result), "file.changed");
        nothing_is_left(&scene.memory);
    }
}

#[tokio::test]
async fn files_of_one_name_stand_beside_each_other() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let path = scene.write("same.sql", b"by path");
    let all = (0..8).map(|n| match n % 2 {
        0 => BackupOptions::new("acme", BackupType::Logs, &*path),
        _ => BackupOptions { filename: Some("same.sql".to_owned()), ..file(format!("by bytes {n}").into_bytes()) },
    });
    let results = join_all(all.map(|options| integration.send_and_record(options))).await;
    let mut names = BTreeSet::new();
    for (n, result) in results.into_iter().enumerate() {
        assert!(result.success, "{result:?}");
        let metadata = result.telegram_metadata.unwrap();
        let expected = if n % 2 == 0 { "by path".to_owned() } else { format!("by bytes {n}") };
        assert_eq!(scene.fetch(&scene.memory, &metadata).await, expected.as_bytes());
        names.insert(metadata.name);
    }
    assert_eq!(names.len(), 8);
    assert!(names.contains("backups/acme/same.sql.age"));
}

#[tokio::test]
async fn a_name_that_is_taken_at_the_last_moment_is_not_overwritten() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::LoseCommitToAnother));
    let result = scene.around(storage).build().send_and_record(file(b"ours".to_vec())).await;
    assert!(!result.success);
    let name = "backups/acme/acme.sql.age".parse().unwrap();
    assert_eq!(&scene.memory.peek(&name).unwrap()[..], b"another's");
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 0);
}

#[tokio::test]
async fn a_storage_that_fails_leaves_no_backup() {
    for (fault, expected) in [
        (Fault::Create(ErrorKind::Unavailable), "storage.unavailable"),
        (Fault::Create(ErrorKind::Denied), "storage.denied"),
        (Fault::Put(1, ErrorKind::Throttled { retry_after: None }), "storage.throttled"),
        (Fault::Put(0, ErrorKind::TooLarge), "file.too_large"),
        (Fault::Commit(ErrorKind::Full), "storage.full"),
    ] {
        let scene = Scene::new().await;
        let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), fault));
        let result = scene.around(storage).build().send_and_record(file(bytes(300_000))).await;
        assert_eq!(code(&result), expected);
        assert!(!result.details.telegram_success && result.details.database_success, "{fault:?}");
        assert_eq!(result.database_record.unwrap().status, "failed");
        nothing_is_left(&scene.memory);
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_again() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::LoseCommitAnswer));
    // Of the artifact and of its manifest.
    let result = scene.around(storage).build().send_and_record(file(bytes(300_000))).await;
    assert!(result.success, "{result:?}");
    assert_eq!(scene.fetch(&scene.memory, &result.telegram_metadata.unwrap()).await, bytes(300_000));
}

#[tokio::test]
async fn a_file_that_reads_back_otherwise_is_no_backup() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::Alter));
    assert_eq!(code(&scene.around(storage).build().send_and_record(file(bytes(3_000))).await), "storage.corrupt");
    let storage = Arc::new(Faulty::new(Arc::new(MemoryStorage::new()), Fault::WrongStat));
    assert_eq!(code(&scene.around(storage).build().send_and_record(file(bytes(3_000))).await), "storage.corrupt");
}

#[tokio::test]
async fn a_file_whose_manifest_cannot_be_published_is_cleared_away() {
    for fault in [Fault::Create(ErrorKind::Unavailable), Fault::Commit(ErrorKind::Denied), Fault::Alter] {
        let scene = Scene::new().await;
        let storage = Split {
            artifacts: Arc::new(scene.memory.clone()),
            manifests: Arc::new(Faulty::new(Arc::new(scene.memory.clone()), fault)),
            at_create: Box::new(|_| {}),
        };
        let result = scene.around(Arc::new(storage)).build().send_and_record(file(bytes(3_000))).await;
        assert!(!result.success && result.telegram_metadata.is_none(), "{fault:?}: {result:?}");
        nothing_is_left(&scene.memory);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_backup() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::HangPut(1)));
    let integration = scene.around(storage).build();
    let call = integration.send_and_record(file(bytes(500_000)));
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    nothing_is_left(&scene.memory);
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_before_anything_happens() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let now = scene.clock.now();
    for (options, expected) in [
        (BackupOptions { expires_at: Some(now), ..file(b"x".to_vec()) }, "options.expires_at"),
        (BackupOptions { caption: Some("x".repeat(1025)), ..file(b"x".to_vec()) }, "options.caption"),
        (BackupOptions { chat_id: Some(-5), ..file(b"x".to_vec()) }, "options.chat_id"),
        (BackupOptions { project_id: "../acme".to_owned(), ..file(b"x".to_vec()) }, "project.id"),
        (BackupOptions { project_id: "a\0".to_owned(), ..file(b"x".to_vec()) }, "project.id"),
        (file("/no\0such\nfile"), "file.unreadable"),
    ] {
        assert_eq!(code(&integration.send_and_record(options).await), expected);
    }
    nothing_is_left(&scene.memory);
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 0);
}

#[tokio::test]
async fn a_stream_is_read_no_faster_than_it_is_stored() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::HangPut(0)));
    let integration = scene.around(storage).timeout(Duration::from_secs(2)).build();
    let (mut theirs, ours) = tokio::io::duplex(64 << 10);
    let feeder = tokio::spawn(async move {
        let mut given = 0u64;
        while theirs.write_all(&[7; 64 << 10]).await.is_ok() {
            given += 64 << 10;
        }
        given
    });
    assert_eq!(code(&integration.send_and_record(file(FileInput::reader(ours))).await), "file.timed_out");
    // What the pipeline reads ahead, and three parts, of a stream that goes on for ever.
    let given = feeder.await.unwrap();
    assert!(given < 80 << 20, "{given} bytes were taken");
}
