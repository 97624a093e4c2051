//! Pins, moves and rights: what others do in the chat, and what the bot may do there.

use super::*;

#[tokio::test]
async fn a_foreign_pin_does_not_make_the_index_forgotten() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let one = put(&storage, "one", b"1").await.unwrap();
    let foreign = scene.control().post_foreign(scene.chat(), "Welcome!");
    scene.control().pin(scene.chat(), foreign);
    // Who knows nothing else refuses to begin anew.
    let error = put(&scene.stranger(), "two", b"2").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.hint().unwrap().contains("pin the newest holdfast-index.json.gz again"), "{error:#}");
    assert_eq!(read(&scene.stranger(), &one).await.unwrap(), b"1");
    // Who remembers goes on, and pins above it.
    let other_process = scene.storage();
    put(&other_process, "two", b"2").await.unwrap();
    assert_eq!(scene.stranger().find(&name("one")).await.unwrap(), Some(one.clone()));

    // Someone takes the pin away.
    scene.control().unpin(scene.chat(), foreign);
    scene.control().unpin(scene.chat(), scene.index().id);
    put(&scene.storage(), "three", b"3").await.unwrap();
    let manifest = scene.stranger();
    for key in ["one", "two", "three"] {
        assert!(manifest.find(&name(key)).await.unwrap().is_some(), "{key}");
    }
}

#[tokio::test]
async fn an_index_that_is_gone_is_not_replaced_by_an_empty_one() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let at = put(&storage, "one", b"1").await.unwrap();
    let index = scene.index();
    scene.control().forget_file(&index.document().unwrap().file_unique_id);
    scene.control().remove_message(scene.chat(), index.id);
    let fresh = scene.storage();
    let error = put(&fresh, "two", b"2").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.hint().unwrap().contains("docs/telegram.md"), "{error:#}");
    // What the history knows is read all the same, even by a bot that was thrown out of the chat.
    assert_eq!(read(&fresh, &at).await.unwrap(), b"1");
    scene.control().set_membership(scene.chat(), &scene.bot_api.token(), Membership::Kicked);
    assert_eq!(read(&fresh, &at).await.unwrap(), b"1");
}

#[tokio::test]
async fn a_group_that_becomes_a_supergroup_is_followed() {
    let scene = Scene::new().await;
    let group = scene.control().add_chat(ChatKind::Group);
    let config = TelegramStorageConfig { chat_id: ChatId::Number(group), ..scene.config() };
    let storage = scene.storage_with(&config);
    let one = put(&storage, "one", &content(PART * 2)).await.unwrap();
    let to = scene.control().migrate(group);
    let two = put(&storage, "two", b"2").await.unwrap();
    assert!(matches!(two, Locator::Telegram { chat_id, .. } if chat_id == to));
    assert!(read(&storage, &one).await.unwrap() == content(PART * 2));
    // The next process knows by the ledger, and a stranger with the new number by the chat.
    let stranger = TelegramStorageConfig { chat_id: ChatId::Number(to), ..scene.config() };
    for storage in [scene.storage_with(&config), open(&stranger, &InMemoryLedger::default())] {
        assert_eq!(storage.find(&name("one")).await.unwrap(), Some(one.clone()));
        assert_eq!(storage.find(&name("two")).await.unwrap(), Some(two.clone()));
        assert!(read(&storage, &one).await.unwrap() == content(PART * 2));
    }
    // Nothing of the new chat was deleted under a number of the old one.
    assert_eq!(read(&storage, &two).await.unwrap(), b"2");
    assert!(matches!(storage.delete(&two).await.unwrap(), Deletion::Gone));
}

#[tokio::test]
async fn another_chat_is_written_to_and_read_though_the_named_one_cannot_be_had() {
    let scene = Scene::new().await;
    let config = TelegramStorageConfig { chat_id: ChatId::Name("@nobody_has_it".to_owned()), ..scene.config() };
    let storage = scene.storage_with(&config);
    assert_eq!(kind(put(&storage, "one", b"1").await), ErrorKind::Denied);
    let other = storage.in_chat(scene.chat()).await.unwrap().expect("another chat");
    let at = put_whole(&*other, &name("one"), LeaseToken::generate(), Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(read(&storage, &at).await.unwrap(), b"1");
    assert!(matches!(storage.delete(&at).await.unwrap(), Deletion::Gone));
    assert_eq!(scene.objects(), Vec::<String>::new());
}

#[tokio::test]
async fn a_chat_that_deletes_by_itself_is_refused() {
    let scene = Scene::new().await;
    scene.control().set_auto_delete(scene.chat(), Some(chrono::Duration::days(1)));
    let storage = scene.storage();
    for error in [put(&storage, "x", b"x").await.unwrap_err(), storage.probe(ProbeDepth::Quick).await.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(error.hint().unwrap().contains("auto-delete timer"), "{error:#}");
    }
}

#[tokio::test]
async fn a_probe_tells_what_it_saw_and_leaves_nothing() {
    let scene = Scene::new().await;
    let storage = scene.storage_with(&TelegramStorageConfig { part_size: None, ..scene.config() });
    for is_first in [true, false] {
        let before = scene.control().documents(scene.chat()).len();
        let quick = storage.probe(ProbeDepth::Quick).await.unwrap();
        let thorough = storage.probe(ProbeDepth::Thorough).await.unwrap();
        assert!(quick.warnings.is_empty() && thorough.warnings.is_empty(), "{quick:?} {thorough:?}");
        assert!(quick.seen.len() >= 5 && thorough.seen.len() > quick.seen.len(), "{thorough:?}");
        let seen = thorough.seen.join("\n");
        for expected in
            ["19 MiB was sent and read back", "a fresh file_id and the same file_unique_id", "found again by getChat"]
        {
            assert!(seen.contains(expected), "{expected}: {seen}");
        }
        assert_eq!(scene.control().documents(scene.chat()).len(), before);
        assert_eq!(scene.control().pinned(scene.chat()).len(), before.min(1));
        if is_first {
            assert!(scene.ledger.list("telegram", "").await.unwrap().is_empty());
            put(&storage, "one", b"1").await.unwrap();
        } else {
            let at = storage.find(&name("one")).await.unwrap().unwrap();
            assert_eq!(read(&scene.stranger(), &at).await.unwrap(), b"1");
        }
    }
}

#[tokio::test]
async fn a_probe_names_the_rights_that_are_missing() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let set = |rights| {
        scene.control().set_membership(scene.chat(), &scene.bot_api.token(), Membership::Administrator(rights))
    };
    set(Rights { post: false, edit: false, ..Rights::ALL });
    let error = storage.probe(ProbeDepth::Quick).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.to_string().contains("can_post_messages, can_edit_messages"), "{error}");
    set(Rights { delete: false, ..Rights::ALL });
    let probe = storage.probe(ProbeDepth::Quick).await.unwrap();
    assert_eq!(probe.warnings.len(), 1);
    assert!(probe.warnings[0].contains("can_delete_messages"));
}
