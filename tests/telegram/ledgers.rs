//! What is remembered wrongly, not at all, or by someone else.

use std::sync::atomic::{AtomicU32, Ordering};

use holdfast::storage::ledger::{Entry, Held, HeldGuard};
use serde_json::{Value, json};

use super::*;

/// A ledger that does not forget what it should, once, and during whose lock another control plane's storage publishes, once.
#[derive(Clone, Debug, Default)]
struct Unruly {
    inner: InMemoryLedger,
    /// Keys that begin so are not forgotten, once.
    keeps: Arc<Mutex<Option<&'static str>>>,
    intruder: Arc<Mutex<Option<TelegramStorage>>>,
    /// Checks of a lock until the intruder comes; or, when it is not by a check, 0.
    checks: Arc<AtomicU32>,
}

impl Unruly {
    async fn intrude(&self) {
        let intruder = self.intruder.lock().unwrap().take();
        if let Some(intruder) = intruder {
            put(&intruder, "theirs", b"theirs").await.unwrap();
        }
    }
}

struct Guard {
    ledger: Unruly,
    _held: Held,
}

#[async_trait::async_trait]
impl HeldGuard for Guard {
    async fn check(&mut self) -> Result<(), Error> {
        let before = self.ledger.checks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before == Ok(1) {
            self.ledger.intrude().await;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Ledger for Unruly {
    async fn hold(&self, name: &str) -> Result<Held, Error> {
        Ok(Held::new(Guard { ledger: self.clone(), _held: self.inner.hold(name).await? }))
    }

    async fn put(&self, storage: &str, key: &str, value: Value) -> Result<(), Error> {
        if key.starts_with("index/") && self.checks.load(Ordering::SeqCst) == 0 {
            self.intrude().await;
        }
        self.inner.put(storage, key, value).await
    }

    async fn remove(&self, storage: &str, key: &str) -> Result<(), Error> {
        let taken = self.keeps.lock().unwrap().take_if(|prefix| key.starts_with(*prefix));
        match taken {
            Some(_) => Err(Error::new(ErrorKind::Unavailable, "the control plane is away")),
            None => self.inner.remove(storage, key).await,
        }
    }

    async fn list(&self, storage: &str, prefix: &str) -> Result<Vec<Entry>, Error> {
        self.inner.list(storage, prefix).await
    }
}

impl Scene {
    fn unruly(&self, ledger: &Unruly) -> TelegramStorage {
        TelegramStorage::new("telegram", &self.config(), Arc::new(ledger.clone())).unwrap()
    }
}

#[tokio::test]
async fn a_lost_answer_that_cannot_be_settled_fails_the_upload_and_the_sweep_takes_nothing_live() {
    for sends_before in [0, 1] {
        let scene = Scene::new().await;
        let ledger = Unruly::default();
        *ledger.keeps.lock().unwrap() = Some("unclear/");
        let storage = scene.unruly(&ledger);
        // The part's answer is lost, or that of the index.
        scene.control().inject(Fault::DropAnswer, Calls::next("sendDocument").after(sends_before));
        assert_eq!(kind(put(&storage, "a", b"a").await), ErrorKind::Unavailable);
        let at = put(&storage, "b", b"b").await.unwrap();
        storage.sweep_temporary(later()).await.unwrap();
        assert_eq!(read(&scene.stranger(), &at).await.unwrap(), b"b");
        assert_eq!(scene.stranger().find(&name("b")).await.unwrap(), Some(at));
        assert_eq!(scene.objects(), ["b.part001"], "{sends_before}");
        scene.index();
    }
}

#[tokio::test]
async fn a_sweep_keeps_every_live_message_whatever_is_written_down_of_it() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let at = put(&storage, "a", &content(PART * 3)).await.unwrap();
    let documents = scene.control().documents(scene.chat());
    assert_eq!(documents.len(), 5, "three parts, their list and the index");
    for document in &documents {
        let twin = json!({ "document": {
            "mark": document.caption().lines().last().unwrap(),
            "file_name": file_name(document),
            "bytes": document.document().unwrap().bytes,
        }});
        let fact = json!({ "chat_id": scene.chat(), "after": document.id - 1, "before": null, "twin": twin });
        let key = format!("unclear/{}/{}-", scene.chat(), document.id - 1);
        scene.ledger.put("telegram", &key, fact).await.unwrap();
        let fact = json!({ "chat_id": scene.chat(), "messages": [document.id] });
        let key = format!("litter/{}/{}", scene.chat(), document.id);
        scene.ledger.put("telegram", &key, fact).await.unwrap();
    }
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 0);
    assert_eq!(scene.control().documents(scene.chat()), documents);
    assert!(read(&scene.stranger(), &at).await.unwrap() == content(PART * 3));
    // One that is not ours to delete holds up no other.
    let foreign = scene.storage();
    let mut upload = begin(&foreign, "dead").await;
    upload.put(content(PART).into()).await.unwrap();
    drop(upload);
    scene.ledger.put("telegram", "litter/-7/1", json!({ "chat_id": -7, "messages": [1] })).await.unwrap();
    assert_eq!(storage.sweep_temporary(later()).await.unwrap(), 1);
    assert_eq!(scene.control().documents(scene.chat()), documents);
}

#[tokio::test]
async fn what_is_written_down_of_a_chat_that_was_configured_before_is_swept_by_that_chats_own_index() {
    for is_pinned in [true, false] {
        let scene = Scene::new().await;
        let before = scene.storage();
        let at = put(&before, "a", &content(PART * 3)).await.unwrap();
        let ids: Vec<i64> = scene.control().documents(scene.chat()).iter().map(|message| message.id).collect();
        assert_eq!(ids.len(), 5, "three parts, their list and the index");
        // The note of its upload was kept, because an answer was lost; and one of the index, of which nobody knew whether it is in force.
        let note = json!({
            "upload": LeaseToken::generate(), "attempt": LeaseToken::generate(), "key": "a", "chat_id": scene.chat(), "after": 0,
            "messages": &ids[..4],
        });
        scene.ledger.put("telegram", "upload/kept", note).await.unwrap();
        let litter = json!({ "chat_id": scene.chat(), "messages": &ids });
        scene.ledger.put("telegram", &format!("litter/{}/{}", scene.chat(), ids[0]), litter).await.unwrap();
        let mut dead = begin(&before, "dead").await;
        dead.put(content(PART).into()).await.unwrap();
        drop(dead);
        assert_eq!(scene.control().documents(scene.chat()).len(), 6);
        if !is_pinned {
            scene.control().unpin(scene.chat(), scene.index().id);
        }

        let chat = scene.control().add_chat(ChatKind::Channel);
        let now = scene.storage_with(&TelegramStorageConfig { chat_id: ChatId::Number(chat), ..scene.config() });
        let other = put(&now, "b", b"b").await.unwrap();
        assert_eq!(now.sweep_temporary(later()).await.unwrap(), 1, "{is_pinned}");
        let left: Vec<i64> = scene.control().documents(scene.chat()).iter().map(|message| message.id).collect();
        assert_eq!(left, ids, "{is_pinned}");
        assert!(read(&now, &at).await.unwrap() == content(PART * 3));
        assert_eq!(read(&now, &other).await.unwrap(), b"b");
        for prefix in ["upload/", "litter/"] {
            assert!(scene.ledger.list("telegram", prefix).await.unwrap().is_empty(), "{prefix}");
        }
    }
}

#[tokio::test]
async fn an_upload_whose_parts_a_sweep_took_does_not_become_visible() {
    let scene = Scene::new().await;
    let storage = scene.storage();
    let mut upload = begin(&storage, "slow").await;
    upload.put(content(PART).into()).await.unwrap();
    let mut other = begin(&storage, "slower").await;
    other.put(content(PART).into()).await.unwrap();
    assert_eq!(scene.storage().sweep_temporary(later()).await.unwrap(), 2);
    // Nor does it write itself down anew.
    assert_eq!(kind(other.put(content(PART).into()).await), ErrorKind::NotFound);
    other.abort().await;
    assert!(scene.ledger.list("telegram", "upload/").await.unwrap().is_empty());
    let error = upload.commit().await.unwrap_err();
    assert!(error.to_string().contains("a sweep has taken its parts"), "{error}");
    assert_eq!(scene.storage().find(&name("slow")).await.unwrap(), None);
}

#[tokio::test]
async fn what_another_control_plane_publishes_meanwhile_is_not_lost() {
    // While the part is sent, before the index is sent, before it is pinned, and after.
    for checks in [1, 2, 3, 0] {
        let scene = Scene::new().await;
        put(&scene.stranger(), "first", b"first").await.unwrap();
        let ledger = Unruly::default();
        *ledger.intruder.lock().unwrap() = Some(scene.stranger());
        ledger.checks.store(checks, Ordering::SeqCst);
        let ours = put(&scene.unruly(&ledger), "ours", b"ours").await.unwrap();
        assert!(ledger.intruder.lock().unwrap().is_none(), "{checks}");
        assert_eq!(read(&scene.stranger(), &ours).await.unwrap(), b"ours");
        for key in ["first", "ours", "theirs"] {
            assert!(scene.stranger().find(&name(key)).await.unwrap().is_some(), "{key} is lost ({checks})");
        }
        scene.unruly(&ledger).sweep_temporary(later()).await.unwrap();
        scene.index();
    }
}

#[tokio::test]
async fn an_index_of_another_chat_is_refused() {
    let scene = Scene::new().await;
    let forged = br#"{"holdfast_index":1,"chat_id":-7,"predecessor":null,"objects":[]}"#;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, forged).unwrap();
    let forged = scene.control().post_foreign_document(scene.chat(), INDEX, &encoder.finish().unwrap());
    scene.control().pin(scene.chat(), forged);
    let error = put(&scene.storage(), "ours", b"x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.to_string().contains("is that of chat -7"), "{error}");
}

#[tokio::test]
async fn a_429_that_asks_for_a_day_ends_this_send_and_the_next_at_once() {
    for seconds in [86_400, u64::MAX] {
        let scene = Scene::new().await;
        let storage = scene.storage();
        scene.control().inject(Fault::Answer(Canned::too_many_requests(seconds)), Calls::next("sendDocument"));
        let begun = std::time::Instant::now();
        for _ in 0..2 {
            let kind = kind(put(&storage, "a", b"a").await);
            let ErrorKind::Throttled { retry_after: Some(wait) } = kind else { panic!("{kind:?}") };
            assert!(wait > Duration::from_secs(86_000) && wait <= Duration::from_secs(86_400), "{wait:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(scene.control().calls("sendDocument"), 1);
    }
}
