//! What only a directory can get wrong; the rest is in `tests/storage_contract.rs`.

use std::os::unix::fs::{PermissionsExt, symlink};

use futures::TryStreamExt;

use super::*;

async fn storage() -> (tempfile::TempDir, LocalStorage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(&directory.path().join("root")).await.unwrap();
    (directory, storage)
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

fn files(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(self::files(&entry.path()));
        } else {
            files.push(entry.file_name().into_string().unwrap());
        }
    }
    files.retain(|name| name != MARKER);
    files
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_temporary_file_is_gone() {
    let (_directory, storage) = storage().await;
    let mut upload = storage.begin(&name("backups/acme/a.sql"), LeaseToken::generate()).await.unwrap();
    assert_eq!(files(&storage.root).len(), 1);
    // The kernel's own full device: the same write, the same ENOSPC, for every user on every machine.
    upload.file = Arc::new(DirectFile::new(File::options().write(true).open("/dev/full").unwrap()));
    let error = upload.put(Bytes::from_static(b"data")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    assert!(error.to_string().contains("no space"), "{error}");
    assert_eq!(files(&storage.root), Vec::<String>::new());
    assert!(upload.put(Bytes::from_static(b"more")).await.is_err());
    assert!(Box::new(upload).commit().await.is_err());
    assert_eq!(files(&storage.root), Vec::<String>::new());
}

#[tokio::test]
async fn symbolic_links_are_never_followed() {
    let (directory, storage) = storage().await;
    let outside = directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret.manifest.json"), "secret").unwrap();
    symlink(&outside, storage.root.join("link")).unwrap();
    symlink(outside.join("secret.manifest.json"), storage.root.join("file.manifest.json")).unwrap();
    for key in ["link/secret.manifest.json", "file.manifest.json"] {
        let at = Locator::Local { key: name(key) };
        assert_eq!(storage.open(&at, None).await.err().unwrap().kind, ErrorKind::Invalid, "{key}");
        assert_eq!(storage.stat(&at).await.unwrap_err().kind, ErrorKind::Invalid, "{key}");
        assert_eq!(storage.delete(&at).await.unwrap_err().kind, ErrorKind::Invalid, "{key}");
        assert!(storage.create(NewObject::new(&name(key), LeaseToken::generate())).await.is_err(), "{key}");
    }
    let new = storage.create(NewObject::new(&name("link/new.sql"), LeaseToken::generate())).await.err().unwrap();
    assert_eq!(new.kind, ErrorKind::Invalid);
    assert!(storage.manifests().try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert_eq!(files(&outside), ["secret.manifest.json"]);
}

#[tokio::test]
async fn files_are_readable_to_their_owner_alone() {
    let (_directory, storage) = storage().await;
    put_whole(&storage, &name("a/b/c.sql"), LeaseToken::generate(), Bytes::from_static(b"x")).await.unwrap();
    let mode = |path: &str| std::fs::metadata(storage.root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("a"), mode("a/b"), mode("a/b/c.sql")), (0o700, 0o700, 0o700, 0o600));
}

#[tokio::test]
async fn the_temporary_name_carries_the_attempt_and_is_gone_when_dropped() {
    let (_directory, storage) = storage().await;
    let attempt = LeaseToken::generate();
    let long = "ü".repeat(127);
    for file in ["a.sql", &long] {
        let upload = storage.create(NewObject::new(&name(&format!("x/{file}")), attempt)).await.unwrap();
        let found = files(&storage.root);
        assert!(found.len() == 1 && found[0].contains(&attempt.to_string()) && found[0].len() <= 255, "{found:?}");
        drop(upload);
        assert!(files(&storage.root).is_empty());
    }
}

#[tokio::test]
async fn the_sweep_takes_old_temporary_files_and_nothing_else() {
    let (_directory, storage) = storage().await;
    put_whole(&storage, &name("a/kept.sql"), LeaseToken::generate(), Bytes::from_static(b"x")).await.unwrap();
    let dead = storage.root.join("a").join(temporary_name("dead.sql", LeaseToken::generate()));
    std::fs::write(&dead, "half").unwrap();
    let written = std::fs::metadata(&dead).unwrap().modified().unwrap();
    let before = written - std::time::Duration::from_secs(60);
    assert_eq!(storage.sweep_temporary(before).await.unwrap(), 0);
    let after = written + std::time::Duration::from_secs(60);
    assert_eq!(storage.sweep_temporary(after).await.unwrap(), 1);
    assert_eq!(files(&storage.root), ["kept.sql"]);
}

#[tokio::test]
async fn names_of_temporary_files_are_refused() {
    let (_directory, storage) = storage().await;
    let refused = storage.create(NewObject::new(&name("a/.x.part"), LeaseToken::generate())).await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_large_upload_reads_back_whole() {
    use sha2::Digest;
    let (_directory, storage) = storage().await;
    let mut upload = storage.create(NewObject::new(&name("large"), LeaseToken::generate())).await.unwrap();
    let (mut hasher, parts) = (sha2::Sha256::new(), 9u64);
    for part in 0..parts {
        let part = Bytes::from(vec![part as u8; PART.0 as usize]);
        hasher.update(&part);
        upload.put(part).await.unwrap();
    }
    let at = upload.commit().await.unwrap();
    let found = fingerprint(&storage, &at).await.unwrap();
    assert_eq!(found.bytes, parts * PART.0);
    assert_eq!(found.sha256.0, <[u8; 32]>::from(hasher.finalize()));
}

#[tokio::test]
async fn on_a_disk_that_is_gone_nothing_is_known_to_be_missing() {
    let (directory, storage) = storage().await;
    let at = put_whole(&storage, &name("a/b.sql"), LeaseToken::generate(), Bytes::from_static(b"x")).await.unwrap();
    let disk = directory.path().join("disk");
    std::fs::rename(&storage.root, &disk).unwrap();
    // No mount point, and then an empty one.
    for is_left in [false, true] {
        if is_left {
            std::fs::create_dir(&storage.root).unwrap();
        }
        let created = storage.create(NewObject::new(&name("a/new.sql"), LeaseToken::generate())).await;
        let listed = storage.manifests().try_collect::<Vec<_>>().await;
        for error in [
            storage.open(&at, None).await.err().unwrap(),
            storage.stat(&at).await.unwrap_err(),
            storage.find(at.key()).await.unwrap_err(),
            storage.delete(&at).await.unwrap_err(),
            storage.sweep_temporary(SystemTime::now()).await.unwrap_err(),
            created.err().unwrap(),
            listed.unwrap_err(),
        ] {
            assert_eq!((error.kind, error.hint()), (ErrorKind::Unavailable, Some("Is the disk mounted?")), "{error}");
        }
    }
    std::fs::remove_dir(&storage.root).unwrap();
    std::fs::rename(&disk, &storage.root).unwrap();
    assert_eq!(storage.stat(&at).await.unwrap(), Stat { bytes: 1 });
    assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
    assert_eq!(storage.find(at.key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_directory_of_an_earlier_version_is_marked_and_the_marker_is_no_artifact() {
    let (directory, storage) = storage().await;
    std::fs::remove_file(storage.root.join(MARKER)).unwrap();
    let reopened = LocalStorage::open(&directory.path().join("root")).await.unwrap();
    assert!(reopened.is_marked && storage.root.join(MARKER).exists());
    let at = Locator::Local { key: name(MARKER) };
    assert_eq!(reopened.delete(&at).await.unwrap_err().kind, ErrorKind::Invalid);
    let new = reopened.create(NewObject::new(&name(MARKER), LeaseToken::generate())).await;
    assert_eq!(new.err().unwrap().kind, ErrorKind::Invalid);
}
