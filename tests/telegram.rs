//! The Telegram storage against the stand-in of the Bot API: what lies in the chat, what comes back, and what happens when things go wrong.

mod chat;
mod faults;
mod ledgers;
mod storing;

use crate::support::telegram_stand_in;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    config::{ChatId, Secret, TelegramStorageConfig},
    ids::LeaseToken,
    storage::{
        ByteRange, Deletion, Error, ErrorKind, Locator, NewObject, ProbeDepth, Storage, TelegramPart, Upload,
        fingerprint, get_whole,
        ledger::{InMemoryLedger, Ledger},
        put_whole,
        telegram::TelegramStorage,
    },
};
use telegram_stand_in::{Calls, Canned, ChatKind, Control, DOWNLOAD, Fault, Membership, Rights, SeenMessage, StandIn};

const INDEX: &str = "holdfast-index.json.gz";
const PART: usize = 64 << 10;

/// A channel, a bot, and what the control plane remembers of them.
struct Scene {
    bot_api: StandIn,
    ledger: InMemoryLedger,
}

impl Scene {
    async fn new() -> Self {
        let bot_api = StandIn::start().await;
        bot_api.control().set_pacing(false);
        Self { bot_api, ledger: InMemoryLedger::default() }
    }

    fn control(&self) -> Control {
        self.bot_api.control()
    }

    fn chat(&self) -> i64 {
        self.bot_api.chat_id()
    }

    fn config(&self) -> TelegramStorageConfig {
        TelegramStorageConfig {
            base_url: self.bot_api.base_url().to_string(),
            part_size: Some(ByteSize(PART as u64)),
            messages_per_minute: 0,
            timeout_seconds: 20,
            allow_plaintext: true,
            ..TelegramStorageConfig::new(Secret::new(self.bot_api.token()), ChatId::Number(self.chat()))
        }
    }

    fn storage(&self) -> TelegramStorage {
        self.storage_with(&self.config())
    }

    fn storage_with(&self, config: &TelegramStorageConfig) -> TelegramStorage {
        open(config, &self.ledger)
    }

    /// What somebody has who knows token and chat alone.
    fn stranger(&self) -> TelegramStorage {
        open(&self.config(), &InMemoryLedger::default())
    }

    /// File names of the documents in the channel, oldest first, without the index.
    fn objects(&self) -> Vec<String> {
        let documents = self.control().documents(self.chat());
        documents.iter().map(file_name).filter(|name| name != INDEX).collect()
    }

    fn index(&self) -> SeenMessage {
        let mut indexes: Vec<SeenMessage> =
            self.control().documents(self.chat()).into_iter().filter(|m| file_name(m) == INDEX).collect();
        assert_eq!(indexes.len(), 1, "one index is left");
        indexes.remove(0)
    }
}

fn open(config: &TelegramStorageConfig, ledger: &InMemoryLedger) -> TelegramStorage {
    let ledger: Arc<dyn Ledger> = Arc::new(ledger.clone());
    TelegramStorage::new("telegram", config, ledger).unwrap()
}

fn file_name(message: &SeenMessage) -> String {
    message.document().map(|document| document.file_name.clone()).unwrap_or_default()
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

/// Bytes that no part shares with another.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / PART * 31) as u8).collect()
}

async fn put(storage: &TelegramStorage, key: &str, bytes: &[u8]) -> Result<Locator, Error> {
    put_whole(storage, &name(key), LeaseToken::generate(), Bytes::copy_from_slice(bytes)).await
}

async fn read(storage: &TelegramStorage, at: &Locator) -> Result<Vec<u8>, Error> {
    get_whole(storage, at, ByteSize::mib(64)).await
}

async fn begin(storage: &TelegramStorage, key: &str) -> Box<dyn Upload> {
    storage.create(NewObject::new(&name(key), LeaseToken::generate())).await.unwrap()
}

fn parts(at: &Locator) -> &[TelegramPart] {
    match at {
        Locator::Telegram { messages, .. } => messages,
        other => panic!("{other:?}"),
    }
}

/// Later than everything that was written down.
fn later() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 36)
}

fn kind<T>(outcome: Result<T, Error>) -> ErrorKind {
    outcome.err().expect("a failure").kind
}
