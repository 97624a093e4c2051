//! Answers that are lost, wrong, late or final.

use super::*;

#[tokio::test]
async fn what_was_sent_twice_because_an_answer_was_lost_is_swept() {
    for fault in [Fault::DropAnswer, Fault::AnswerAfterEffect(Canned::bad_gateway()), Fault::ResetAnswerAt(20)] {
        let scene = Scene::new().await;
        let storage = scene.storage();
        put(&storage, "before", b"x").await.unwrap();
        let foreign = scene.control().post_foreign_document(scene.chat(), "x.part001", b"not ours");
        scene.control().inject(fault.clone(), Calls::next("sendDocument").after(1));
        let bytes = content(PART * 2 + 1);
        let at = put(&storage, "a/b", &bytes).await.unwrap();
        assert_eq!(scene.control().faults_left(), 0);
        let twins = scene.objects().iter().filter(|name| *name == "b.part002").count();
        assert_eq!(twins, 2, "{fault:?}");
        assert_eq!(scene.ledger.list("telegram", "unclear/").await.unwrap().len(), 1);

        assert_eq!(storage.sweep_temporary(SystemTime::UNIX_EPOCH).await.unwrap(), 0);
        assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 1, "{fault:?}");
        assert_eq!(scene.objects().iter().filter(|name| *name == "b.part002").count(), 1);
        assert!(scene.control().messages(scene.chat()).iter().any(|message| message.id == foreign));
        assert!(scene.ledger.list("telegram", "").await.unwrap().iter().all(|fact| fact.key.starts_with("index/")));
        assert!(read(&storage, &at).await.unwrap() == bytes);
    }
}

#[tokio::test]
async fn a_forwarded_copy_that_nobody_learnt_of_is_swept() {
    let scene = Scene::new().await;
    let at = put(&scene.storage(), "a", b"x").await.unwrap();
    put(&scene.storage(), "b", b"x").await.unwrap();
    let before = scene.control().documents(scene.chat());
    let config = TelegramStorageConfig { bot_token: Some(Secret::new(scene.bot_api.second_token())), ..scene.config() };
    let other = scene.storage_with(&config);
    scene.control().inject(Fault::DropAnswer, Calls::next("forwardMessage").times(2));
    assert_eq!(read(&other, &at).await.unwrap(), b"x");
    assert_eq!(scene.control().documents(scene.chat()).len(), before.len() + 2);
    assert_eq!(other.sweep_temporary(later()).await.unwrap(), 2);
    assert_eq!(scene.control().documents(scene.chat()), before);
}

#[tokio::test]
async fn a_lost_answer_to_a_pin_is_looked_up() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    // Asked again once, and until patience ends.
    for (fault, times) in [(Fault::AnswerAfterEffect(Canned::empty(500)), 1), (Fault::DropAnswer, 5)] {
        scene.control().inject(fault, Calls::next("pinChatMessage").times(times));
        let key = format!("a/{}", scene.control().calls("pinChatMessage"));
        let at = put(&storage, &key, b"x").await.unwrap();
        assert_eq!(read(&scene.stranger(), &at).await.unwrap(), b"x");
    }
    scene.index();
}

#[tokio::test]
async fn an_upload_that_died_is_swept_and_a_good_one_is_not() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let good = put(&storage, "good", &content(PART + 1)).await.unwrap();
    let mut upload = begin(&storage, "dead").await;
    upload.put(content(PART).into()).await.unwrap();
    // The second part arrives three times, and nobody learns of it.
    scene.control().inject(Fault::DropAnswer, Calls::next("sendDocument").times(3));
    assert_eq!(kind(upload.put(content(PART).into()).await), ErrorKind::Unavailable);
    drop(upload);
    let dead = |scene: &Scene| scene.objects().iter().filter(|name| name.starts_with("dead")).count();
    assert_eq!(dead(&scene), 4);
    assert_eq!(scene.storage().sweep_temporary(later()).await.unwrap(), 4);
    assert_eq!(dead(&scene), 0);
    assert!(read(&storage, &good).await.unwrap() == content(PART + 1));
    assert_eq!(scene.storage().sweep_temporary(later()).await.unwrap(), 0);
}

#[tokio::test]
async fn passing_faults_are_waited_out() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let bytes = content(PART + 1);
    let faults = [
        ("getChat", Fault::Answer(Canned::bad_gateway())),
        ("getChat", Fault::Answer(Canned::empty(200))),
        ("sendDocument", Fault::Answer(Canned::too_many_requests(1))),
        ("sendDocument", Fault::ResetRequestAt(1000)),
        ("pinChatMessage", Fault::Answer(Canned::too_many_requests(1))),
        (
            "getFile",
            Fault::Answer(Canned::error(400, "Bad Request: wrong file_id or the file is temporarily unavailable")),
        ),
        ("getFile", Fault::Answer(Canned::error(500, "Internal Server Error"))),
        (DOWNLOAD, Fault::ResetAnswerAt(10)),
        (DOWNLOAD, Fault::Answer(Canned::bad_gateway())),
    ];
    for (number, (method, fault)) in faults.into_iter().enumerate() {
        let control = scene.control();
        control.inject(fault.clone(), Calls::next(method));
        let at = put(&storage, &format!("a/{number}"), &bytes).await;
        let at = at.unwrap_or_else(|error| panic!("{method} {fault:?}: {error}"));
        let back = read(&scene.stranger(), &at).await;
        assert!(back.unwrap_or_else(|error| panic!("{method} {fault:?}: {error}")) == bytes);
        assert_eq!(control.faults_left(), 0, "{method} {fault:?}");
    }
}

#[tokio::test]
async fn a_lost_destination_is_denied_with_a_hint_and_without_the_token() {
    async fn fails(scene: &Scene, config: &TelegramStorageConfig) -> String {
        let storage = scene.storage_with(config);
        let error = put(&storage, "x", b"x").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        let token = config.bot_token.as_ref().unwrap().expose();
        let secret = token.split(':').nth(1).unwrap();
        for text in [format!("{error:#}"), format!("{error:?}"), format!("{storage:?}")] {
            assert!(!text.contains(secret) && text.lines().count() == 1, "{text}");
        }
        error.hint().unwrap_or_default().to_owned()
    }
    let scene = Scene::new().await;
    let wrong =
        TelegramStorageConfig { bot_token: Some(Secret::new(format!("7:{}", "A".repeat(35)))), ..scene.config() };
    assert!(fails(&scene, &wrong).await.contains("Check bot_token"));
    let missing = TelegramStorageConfig { chat_id: ChatId::Number(-1_000_000_000_001), ..scene.config() };
    assert!(fails(&scene, &missing).await.contains("Check chat_id"));
    let set = |membership| scene.control().set_membership(scene.chat(), &scene.bot_api.token(), membership);
    set(Membership::Administrator(Rights { post: false, ..Rights::ALL }));
    assert!(fails(&scene, &scene.config()).await.contains("Make the bot an administrator"));
    set(Membership::Administrator(Rights { edit: false, ..Rights::ALL }));
    assert!(fails(&scene, &scene.config()).await.contains("Make the bot an administrator"));
    // What could not be pinned was taken away again.
    assert_eq!(scene.control().documents(scene.chat()).len(), 0);
    set(Membership::Kicked);
    assert!(fails(&scene, &scene.config()).await.contains("Add the bot to the chat again"));
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_named_within_the_configured_time() {
    let scene = Scene::new().await;
    let storage = scene.storage_with(&TelegramStorageConfig { timeout_seconds: 1, ..scene.config() });
    scene.control().inject(Fault::Hang, Calls::any().times(100));
    let begun = std::time::Instant::now();
    let error = put(&storage, "x", b"x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("no answer in time"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn bytes_that_changed_are_corrupt_and_none_of_them_is_given_out() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let bytes = content(PART * 2);
    let at = put(&storage, "a", &bytes).await.unwrap();
    scene.control().corrupt_file(&parts(&at)[1].file_unique_id, 5);
    let mut stream = storage.open(&at, None).await.unwrap();
    assert!(stream.try_next().await.unwrap().unwrap() == bytes[..PART]);
    let error = stream.try_next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    // The first part is asked for before the stream begins.
    scene.control().corrupt_file(&parts(&at)[0].file_unique_id, 0);
    assert_eq!(kind(storage.open(&at, None).await), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_part_that_is_gone_is_not_found_and_one_that_is_only_not_there_now_may_come_back() {
    let scene = Scene::new().await;
    let storage = scene.storage_with(&TelegramStorageConfig { timeout_seconds: 2, ..scene.config() });
    let at = put(&storage, "a", &content(PART * 2)).await.unwrap();
    scene.control().forget_file(&parts(&at)[0].file_unique_id);
    assert_eq!(kind(storage.open(&at, None).await), ErrorKind::Unavailable);
    assert_eq!(kind(storage.stat(&at).await), ErrorKind::Unavailable);
    scene.control().remove_message(scene.chat(), parts(&at)[0].message_id);
    assert_eq!(kind(storage.open(&at, None).await), ErrorKind::NotFound);
    assert_eq!(kind(storage.stat(&at).await), ErrorKind::NotFound);
}

/// Everything that is logged, by whichever crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_token_is_in_no_log_line_of_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let scene = Scene::new().await;
    // Its own clients log too.
    log.0.lock().unwrap().clear();
    let storage = scene.storage();
    let at = put(&storage, "a", &content(PART + 1)).await.unwrap();
    scene.control().inject(Fault::DropAnswer, Calls::next("sendDocument"));
    scene.control().inject(Fault::ResetAnswerAt(5), Calls::next(DOWNLOAD));
    put(&storage, "b", b"b").await.unwrap();
    read(&storage, &at).await.unwrap();
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("the fate of a document is unclear"), "the log was written");
    let token = scene.bot_api.token();
    let secret = token.split(':').nth(1).unwrap();
    let line = text.lines().find(|line| line.contains(secret));
    assert!(line.is_none(), "{line:?}");
}
