//! What lies in the chat, and what comes back.

use super::*;

#[tokio::test]
async fn an_object_is_a_row_of_documents_and_visible_once_the_pinned_index_names_it() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let key = name("backups/acme/backup-2026-11-21-020000-0123456789ab.sql.gz.age");
    let bytes = content(PART * 3 + 5);
    let new = NewObject { name: &key, attempt: LeaseToken::generate(), caption: Some("acme, nightly") };
    let mut upload = storage.create(new).await.unwrap();
    // Smaller than a part: they are gathered.
    for piece in bytes.chunks(10_000) {
        upload.put(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(storage.find(&key).await.unwrap(), None);
    assert_eq!(scene.control().pinned(scene.chat()), [] as [i64; 0]);
    let at = upload.commit().await.unwrap();

    let stem = "backup-2026-11-21-020000-0123456789ab.sql.gz.age";
    let expected: Vec<String> = (1..=4).map(|n| format!("{stem}.part00{n}")).chain([format!("{stem}.parts")]).collect();
    assert_eq!(scene.objects(), expected);
    let documents = scene.control().documents(scene.chat());
    assert!(
        documents[0].caption().starts_with("acme, nightly\nbackups/acme/backup-2026"),
        "{}",
        documents[0].caption()
    );
    assert!(!documents[1].caption().contains("nightly"));
    let index = scene.index();
    assert_eq!(scene.control().pinned(scene.chat()), [index.id]);
    assert_eq!(
        parts(&at).iter().map(|part| part.message_id).collect::<Vec<_>>(),
        documents[..4].iter().map(|m| m.id).collect::<Vec<_>>()
    );

    assert_eq!(storage.find(&key).await.unwrap(), Some(at.clone()));
    assert_eq!(storage.stat(&at).await.unwrap().bytes, bytes.len() as u64);
    assert!(read(&storage, &at).await.unwrap() == bytes);
    let range = ByteRange { start: PART as u64 - 3, length: PART as u64 + 6 };
    let chunks: Vec<Bytes> = storage.open(&at, Some(range)).await.unwrap().try_collect().await.unwrap();
    assert!(chunks.concat() == bytes[PART - 3..PART * 2 + 3]);
    assert!(scene.ledger.list("telegram", "upload/").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_part_of_the_clouds_largest_size_reads_back() {
    let scene = Scene::new().await;
    let storage = scene.storage_with(&TelegramStorageConfig { part_size: None, ..scene.config() });
    assert_eq!(storage.limits().part.0, 19_922_944);
    let bytes = content(19_922_944 + 1);
    let at = put(&storage, "large", &bytes).await.unwrap();
    assert_eq!(parts(&at).len(), 2);
    assert_eq!(fingerprint(&storage, &at).await.unwrap(), Fingerprint::of(&bytes));
}

#[tokio::test]
async fn token_and_chat_alone_find_everything() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let artifact = content(PART * 2);
    let at = put(&storage, "a/b.sql.age", &artifact).await.unwrap();
    let manifest = put(&storage, "a/b.sql.age.manifest.json", b"{}").await.unwrap();
    put(&storage, "empty", b"").await.unwrap();

    let stranger = scene.stranger();
    let manifests: Vec<Locator> = stranger.manifests().try_collect().await.unwrap();
    assert_eq!(manifests, std::slice::from_ref(&manifest));
    assert_eq!(read(&stranger, &manifest).await.unwrap(), b"{}");
    assert_eq!(stranger.find(&name("a/b.sql.age")).await.unwrap(), Some(at.clone()));
    assert!(read(&stranger, &at).await.unwrap() == artifact);
    let empty = stranger.find(&name("empty")).await.unwrap().unwrap();
    assert!(parts(&empty).is_empty() && read(&stranger, &empty).await.unwrap().is_empty());
}

#[tokio::test]
async fn another_bot_of_the_chat_reads_by_forwarding_and_leaves_no_copies() {
    let scene = Scene::new().await;
    let bytes = content(PART * 2 + 1);
    let at = put(&scene.storage(), "a/b", &bytes).await.unwrap();
    let before = scene.control().documents(scene.chat());
    let config = TelegramStorageConfig { bot_token: Some(Secret::new(scene.bot_api.second_token())), ..scene.config() };
    let other = open(&config, &InMemoryLedger::default());
    assert_eq!(other.find(&name("a/b")).await.unwrap(), Some(at.clone()));
    assert!(read(&other, &at).await.unwrap() == bytes);
    assert_eq!(other.stat(&at).await.unwrap().bytes, bytes.len() as u64);
    assert!(scene.control().calls("forwardMessage") > 0);
    assert_eq!(scene.control().documents(scene.chat()), before);
    // And goes on writing.
    let second = put(&other, "a/c", b"more").await.unwrap();
    assert_eq!(read(&other, &second).await.unwrap(), b"more");
    assert!(read(&scene.storage(), &at).await.unwrap() == bytes);
}

#[tokio::test]
async fn an_abort_deletes_what_was_sent() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let mut upload = begin(&storage, "a").await;
    upload.put(content(PART).into()).await.unwrap();
    upload.put(content(PART).into()).await.unwrap();
    assert_eq!(scene.objects().len(), 2);
    upload.abort().await;
    assert_eq!(scene.objects().len(), 0);
    assert!(scene.ledger.list("telegram", "").await.unwrap().is_empty());
}

#[tokio::test]
async fn messages_older_than_48_hours_stay_and_are_named() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let young = put(&storage, "young", &content(PART * 2)).await.unwrap();
    assert_eq!(storage.delete(&young).await.unwrap(), Deletion::Gone);
    assert_eq!(scene.objects().len(), 0);

    let mut upload = begin(&storage, "half").await;
    for _ in 0..3 {
        upload.put(content(PART).into()).await.unwrap();
    }
    scene.control().advance(chrono::Duration::hours(47));
    upload.put(content(PART).into()).await.unwrap();
    let at = upload.commit().await.unwrap();
    scene.control().advance(chrono::Duration::hours(2));
    let (first, last) = (parts(&at)[0].message_id, parts(&at)[2].message_id);
    let what = format!("messages {first}–{last} of chat {}", scene.chat());
    for _ in 0..2 {
        assert_eq!(storage.delete(&at).await.unwrap(), Deletion::BytesMayRemain { what: what.clone() });
    }
    assert_eq!(scene.objects(), ["half.part001", "half.part002", "half.part003"]);
    assert_eq!(storage.find(&name("half")).await.unwrap(), None);
    // The chat's owner deletes them.
    for part in &parts(&at)[..3] {
        scene.control().remove_message(scene.chat(), part.message_id);
    }
    assert_eq!(storage.delete(&at).await.unwrap(), Deletion::Gone);
    assert_eq!(kind(storage.open(&at, None).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_index_too_old_to_be_deleted_is_unpinned() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    put(&storage, "one", b"1").await.unwrap();
    scene.control().advance(chrono::Duration::hours(49));
    put(&storage, "two", b"2").await.unwrap();
    let pinned = scene.control().pinned(scene.chat());
    assert_eq!(pinned.len(), 1);
    let indexes = scene.control().documents(scene.chat()).into_iter().filter(|m| file_name(m) == INDEX).count();
    assert_eq!(indexes, 2);
    let manifest = scene.stranger();
    for (key, bytes) in [("one", b"1"), ("two", b"2")] {
        let at = manifest.find(&name(key)).await.unwrap().unwrap();
        assert_eq!(read(&manifest, &at).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn plaintext_is_refused_unless_the_configuration_takes_it() {
    let scene = Scene::new().await;
    let storage = scene.storage_with(&TelegramStorageConfig { allow_plaintext: false, ..scene.config() });
    assert!(!storage.takes_plaintext() && scene.storage().takes_plaintext());
    let error = put(&storage, "a.sql", b"CREATE TABLE").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.to_string().contains("not encrypted"), "{error}");
    assert_eq!(scene.control().documents(scene.chat()).len(), 0);
    put(&storage, "a.sql.age", b"age-encryption.org/v1\n-> X25519 ...").await.unwrap();
    put(&storage, "a.sql.age.manifest.json", b"{}").await.unwrap();
}

#[tokio::test]
async fn an_artifact_beyond_the_limit_is_refused_as_soon_as_it_is() {
    let scene = Scene::new().await;
    let limit = ByteSize(PART as u64 + 10);
    let storage = scene.storage_with(&TelegramStorageConfig { max_artifact: Some(limit), ..scene.config() });
    assert_eq!(storage.limits().artifact, Some(limit));
    let mut upload = begin(&storage, "a").await;
    upload.put(content(PART).into()).await.unwrap();
    assert_eq!(kind(upload.put(content(11).into()).await), ErrorKind::TooLarge);
    upload.abort().await;
    assert_eq!(scene.control().documents(scene.chat()).len(), 0);
}

#[tokio::test]
async fn an_index_larger_than_a_part_is_cut_and_found_again() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let mut keys = Vec::new();
    for number in 0..100 {
        let mut noise = vec![0u8; 1000];
        rand::fill(&mut noise[..]);
        // As many different letters as a key may have, so that they hardly compress.
        let letters: Vec<u8> = noise
            .iter()
            .map(|byte| b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_-abcdefghijklmnopqrstuvwxyz"[*byte as usize % 64])
            .collect();
        let words: Vec<&str> = letters.chunks(200).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
        keys.push(format!("{number}/{}", words.join("/")));
        put(&storage, keys.last().unwrap(), b"").await.unwrap();
    }
    let documents = scene.control().documents(scene.chat());
    assert!(
        documents.iter().any(|m| file_name(m).starts_with(INDEX) && file_name(m).ends_with(".part001")),
        "{documents:?}"
    );
    let stranger = scene.stranger();
    for key in &keys {
        assert!(stranger.find(&name(key)).await.unwrap().is_some());
    }
    // Its parts go when it is replaced.
    let pinned = scene.control().pinned(scene.chat());
    assert_eq!(pinned.len(), 1);
    let index_parts = |scene: &Scene| scene.objects().iter().filter(|name| name.starts_with(INDEX)).count();
    let before = index_parts(&scene);
    put(&storage, "last", b"").await.unwrap();
    assert_eq!(index_parts(&scene), before);
}

#[tokio::test]
async fn of_two_processes_that_publish_at_once_neither_loses_the_others_objects() {
    let scene = Scene::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for process in 0..2 {
        let storage = scene.storage();
        for number in 0..6 {
            let storage = storage.clone();
            tasks.spawn(async move {
                let key = format!("{process}/{number}");
                put(&storage, &key, key.as_bytes()).await.unwrap();
                key
            });
        }
    }
    let keys = tasks.join_all().await;
    let stranger = scene.stranger();
    for key in keys {
        let at = stranger.find(&name(&key)).await.unwrap().unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(read(&stranger, &at).await.unwrap(), key.as_bytes());
    }
    scene.index();
}
