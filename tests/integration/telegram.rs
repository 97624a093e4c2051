//! The whole way: the Telegram storage, a Bot API that keeps what it is sent, PostgreSQL, and the examples as programs.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use futures::TryStreamExt;
use holdfast::{
    artifact::Encryption,
    byte_size::ByteSize,
    config::{ChatId, Secret, StorageConfig, TelegramStorageConfig},
    history,
    integration::{BackupIntegration, BackupOptions, BackupResult},
    postgres::connect::ConnectInfo,
    storage::{Ledger, Locator, ledger::InMemoryLedger},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    scene::{Scene, bytes, code, comes_back, deleted, file, goes_down, verified},
    support::app::{TestApp, everything},
    telegram_stand_in::{Calls, Canned, ChatKind, Fault, StandIn},
};

const PART: usize = 64 << 10;

struct Chat {
    bot_api: StandIn,
}

impl Chat {
    async fn new() -> Self {
        let bot_api = StandIn::start().await;
        bot_api.control().set_pacing(false);
        Self { bot_api }
    }

    fn config(&self) -> TelegramStorageConfig {
        TelegramStorageConfig {
            base_url: self.bot_api.base_url().to_string(),
            part_size: Some(ByteSize(PART as u64)),
            messages_per_minute: 0,
            timeout_seconds: 5,
            ..TelegramStorageConfig::new(Secret::new(self.bot_api.token()), ChatId::Number(self.bot_api.chat_id()))
        }
    }

    /// A whole Holdfast with this chat as its storage `telegram`, and the project `acme`.
    async fn app(&self) -> TestApp {
        let storage = StorageConfig::Telegram(Box::new(self.config()));
        let test = TestApp::with(|config| drop(config.storages.insert("telegram".to_owned(), storage))).await;
        test.add_schema_project("acme", "tenant_acme").await;
        test
    }

    /// What a program has that knows the configuration alone.
    async fn integration(&self, test: &TestApp) -> BackupIntegration {
        let mut config = (*test.app.config).clone();
        config.database.url = Some(Secret::new(test.app.control.to_url().expose_secret()));
        BackupIntegration::open(&config, "telegram").await.unwrap()
    }

    /// The keys of all manifests, as somebody finds them who has token and chat alone.
    async fn manifests(&self) -> Vec<String> {
        let ledger: Arc<dyn Ledger> = Arc::new(InMemoryLedger::default());
        let config = StorageConfig::Telegram(Box::new(self.config()));
        let storage = holdfast::storage::open("stranger", &config, &ledger).await.unwrap();
        let found: Vec<Locator> = storage.manifests().try_collect().await.unwrap();
        found.iter().map(|at| at.key().to_string()).collect()
    }
}

#[tokio::test]
async fn a_file_goes_to_the_chat_in_parts_and_its_record_names_the_first() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let integration = BackupIntegration::new(&test.app, "telegram").await.unwrap();
    let options = BackupOptions { caption: Some("nightly".to_owned()), ..file(bytes(150_000)) };
    let result = integration.send_and_record(options).await;
    assert!(result.success, "{result:?}");
    let metadata = result.telegram_metadata.as_ref().unwrap();
    assert_eq!(metadata.chat_id, Some(chat.bot_api.chat_id()));
    assert_eq!((metadata.parts.len(), metadata.message_ids.len()), (3, 3));
    let documents = chat.bot_api.control().documents(chat.bot_api.chat_id());
    for (part, message) in metadata.parts.iter().zip(&documents) {
        let document = message.document().unwrap();
        assert_eq!(
            (part.message_id, part.file_unique_id.as_deref()),
            (Some(message.id), Some(&*document.file_unique_id))
        );
        assert_eq!(chat.bot_api.control().content(&document.file_unique_id).len() as u64, part.size);
    }
    assert!(documents[0].caption().contains("nightly"));
    let record = result.database_record.as_ref().unwrap();
    assert_eq!(record.file_id.as_deref(), metadata.parts[0].file_id.as_deref());
    assert_eq!(record.file_id.as_deref(), Some(&*metadata.file_id));
    assert_eq!(chat.manifests().await, [format!("{}.manifest.json", metadata.name)]);
    verified(&test, &integration, &result).await;
    assert!(!serde_json::to_string(&result).unwrap().contains(&chat.bot_api.token()));
}

#[tokio::test]
async fn with_the_database_down_the_file_goes_to_the_chat_all_the_same() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let integration = chat.integration(&test).await;
    assert!(integration.send_and_record(file(b"before".to_vec())).await.success);
    goes_down(&test.app.control).await;
    let result = integration.send_and_record(file(bytes(150_000))).await;
    assert_eq!(code(&result), "control_plane.unavailable");
    assert!(result.details.telegram_success && result.details.kept_in_outbox, "{result:?}");
    // The manifest is the record until then.
    let metadata = result.telegram_metadata.unwrap();
    assert!(chat.manifests().await.contains(&format!("{}.manifest.json", metadata.name)));
    comes_back(&test.app.control).await;
    assert_eq!(integration.flush_outbox().await.unwrap().recorded, 1);
    let backup = history::get(&test.app.pool, &everything(), metadata.backup_id).await.unwrap();
    assert_eq!((backup.status.as_str(), backup.file_id), ("completed", Some(metadata.file_id)));
    let after = integration.send_and_record(file(b"after".to_vec())).await;
    assert!(after.success, "{after:?}");
    assert_eq!(chat.manifests().await.len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_keeps_no_file_from_the_chat() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let mut config = (*test.app.config).clone();
    config.database.url = Some(Secret::new("postgres://holdfast:canary@127.0.0.1:1/nowhere"));
    let integration = BackupIntegration::open(&config, "telegram").await.unwrap();
    // A chat without an index may be one whose index was unpinned, which only the control plane can tell.
    let refused = integration.send_to_telegram_only(file(b"x".to_vec())).await;
    assert_eq!(refused.details.telegram_error.as_ref().unwrap().code, "storage.unavailable");
    assert!(chat.integration(&test).await.send_and_record(file(b"first".to_vec())).await.success);
    // Of two dozen parts, each of which is remembered: asked every time, the server would be waited for a hundred times.
    let sending = integration.send_and_record(file(bytes(1_500_000)));
    let result = tokio::time::timeout(Duration::from_secs(60), sending).await.expect("no waiting for each part");
    assert!(result.details.telegram_success && result.details.kept_in_outbox, "{result:?}");
    assert_eq!(result.details.database_error.as_ref().unwrap().code, "control_plane.unavailable");
    assert!(!serde_json::to_string(&result).unwrap().contains("canary"));
    assert_eq!(chat.integration(&test).await.flush_outbox().await.unwrap().recorded, 1);
    let id = result.telegram_metadata.unwrap().backup_id;
    assert_eq!(history::get(&test.app.pool, &everything(), id).await.unwrap().status, "completed");
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_told_and_appears_nowhere() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let integration = chat.integration(&test).await;
    let token = chat.bot_api.token();
    chat.bot_api.control().revoke(&token);
    let refused = integration.send_and_record(file(b"x".to_vec())).await;
    assert_eq!(code(&refused), "storage.denied");
    assert!(!refused.details.telegram_success && refused.details.database_success);
    goes_down(&test.app.control).await;
    let both = integration.send_and_record(file(b"x".to_vec())).await;
    comes_back(&test.app.control).await;
    assert_eq!(both.details.telegram_error.as_ref().unwrap().code, "storage.denied");
    assert_eq!(both.details.database_error.as_ref().unwrap().code, "control_plane.unavailable");
    let said = format!("{} {integration:?} {refused:?}", serde_json::to_string(&(&refused, &both)).unwrap());
    assert!(!said.contains(&token) && !said.contains(token.split_once(':').unwrap().1), "{said}");
    let logged: Vec<String> = sqlx::query_scalar("SELECT message || metadata::text FROM control_plane.project_logs")
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
    assert!(!logged.is_empty() && logged.iter().all(|line| !line.contains(&token)));
}

#[tokio::test]
async fn a_lost_answer_makes_one_backup() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let integration = chat.integration(&test).await;
    let control = chat.bot_api.control();
    control.inject(Fault::DropAnswer, Calls::next("sendDocument").after(1));
    control.inject(Fault::Answer(Canned::too_many_requests(1)), Calls::next("sendDocument"));
    let result = integration.send_and_record(file(bytes(150_000))).await;
    assert!(result.success, "{result:?}");
    assert_eq!(control.faults_left(), 0);
    assert_eq!(chat.manifests().await.len(), 1);
    let integration = BackupIntegration::new(&test.app, "telegram").await.unwrap();
    verified(&test, &integration, &result).await;
}

#[tokio::test]
async fn a_file_can_go_to_another_chat_of_the_same_bot() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let control = chat.bot_api.control();
    let other = control.add_chat(ChatKind::Channel);
    let integration = BackupIntegration::new(&test.app, "telegram").await.unwrap();
    let there = || BackupOptions { chat_id: Some(other), ..file(bytes(100_000)) };
    let results = integration.send_and_record_multiple([there(), there(), file(b"here".to_vec())]).await;
    for result in &results {
        assert!(result.success, "{result:?}");
        verified(&test, &integration, result).await;
    }
    let chat_of = |result: &BackupResult| result.telegram_metadata.as_ref().unwrap().chat_id.unwrap();
    assert_eq!(results.iter().map(chat_of).collect::<Vec<_>>(), [other, other, chat.bot_api.chat_id()]);
    let usual = BackupOptions { chat_id: Some(chat.bot_api.chat_id()), ..file(b"named".to_vec()) };
    assert!(integration.send_and_record(usual).await.success);
    // A chat in which the bot is not.
    let stranger = BackupOptions { chat_id: Some(-1_009_999_999_999), ..file(b"x".to_vec()) };
    assert!(!integration.send_and_record(stranger).await.details.telegram_success);
    // What a worker tidies up in the configured chat knows nothing of the other chat's files: else a note of an upload there, which an outage
    // has left behind, would look like one that died.
    let about_other: Vec<(String, bool)> = sqlx::query_as(
        "SELECT DISTINCT storage, key = $2 FROM control_plane.storage_ledger WHERE key || value::text LIKE $1 ORDER BY storage",
    )
    .bind(format!("%{other}%"))
    .bind(format!("other/{other}"))
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    // But that there is one.
    assert_eq!(about_other, [("telegram".to_owned(), true), (format!("telegram/{other}"), false)]);
    // One name in two chats is two files.
    let [first, second, here] = &results[..] else { panic!("{results:?}") };
    let name = |result: &BackupResult| result.telegram_metadata.as_ref().unwrap().name.clone();
    assert_eq!(name(first), name(here));
    let in_other = || control.documents(other).iter().map(|message| message.id).collect::<Vec<_>>();
    let of = |result: &BackupResult| result.telegram_metadata.as_ref().unwrap().message_ids.clone();
    deleted(&test, first).await;
    assert!(of(first).iter().all(|id| !in_other().contains(id)) && of(second).iter().all(|id| in_other().contains(id)));
    verified(&test, &integration, here).await;
    verified(&test, &integration, second).await;
    deleted(&test, second).await;
    assert_eq!(in_other().len(), 1, "the index alone is left");
}

#[tokio::test]
async fn what_an_upload_left_in_another_chat_is_swept_with_the_configured_one() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let control = chat.bot_api.control();
    let other = control.add_chat(ChatKind::Channel);
    let integration = BackupIntegration::new(&test.app, "telegram").await.unwrap();
    let there = BackupOptions { chat_id: Some(other), ..file(bytes(100_000)) };
    let sent = integration.send_and_record(there).await;
    // As a process leaves it that dies after its first part: the note of an upload, and a message that no index names.
    deleted(&test, &sent).await;
    let litter = control.post_foreign_document(other, "part.bin", b"nobody's");
    let note = json!({ "chat_id": other, "messages": [litter] });
    sqlx::query("INSERT INTO control_plane.storage_ledger (storage, key, value) VALUES ($1, $2, $3)")
        .bind(format!("telegram/{other}"))
        .bind(format!("litter/{other}/{litter}"))
        .bind(note)
        .execute(&test.app.pool)
        .await
        .unwrap();
    let before = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    assert_eq!(test.app.storages.get("telegram").unwrap().sweep_temporary(before).await.unwrap(), 1);
    assert!(control.documents(other).iter().all(|message| message.id != litter));
}

#[tokio::test]
async fn a_file_that_is_not_encrypted_is_not_sent_where_the_storage_takes_none() {
    let chat = Chat::new().await;
    let test = chat.app().await;
    let integration = chat.integration(&test).await;
    let plain = BackupOptions { encryption: Encryption::None, ..file(b"x".to_vec()) };
    assert_eq!(code(&integration.send_and_record(plain).await), "encryption.required");
    assert!(chat.bot_api.control().documents(chat.bot_api.chat_id()).is_empty());
}

// ---- the examples, as programs ----

struct Program {
    environment: BTreeMap<&'static str, String>,
    directory: tempfile::TempDir,
}

impl Program {
    fn new(chat: &Chat, control_plane: &ConnectInfo, scene: &Scene) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let environment = BTreeMap::from([
            ("TELEGRAM_BOT_TOKEN", chat.bot_api.token()),
            ("TELEGRAM_CHAT_ID", chat.bot_api.chat_id().to_string()),
            ("TELEGRAM_BASE_URL", chat.bot_api.base_url().to_string()),
            ("DATABASE_URL", control_plane.to_url().expose_secret().to_owned()),
            ("HOLDFAST_DATA_DIR", directory.path().join("data").display().to_string()),
            ("HOLDFAST_ENCRYPTION_RECIPIENTS", scene.identity.to_public().to_string()),
        ]);
        Self { environment, directory }
    }

    /// Cargo puts examples beside the directory of the tests.
    async fn run(&self, name: &str, arguments: &[&str], input: &[u8]) -> (bool, String, String) {
        let tests = std::env::current_exe().unwrap();
        let program: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
        assert!(program.exists(), "{} is not built: run `cargo build --examples`", program.display());
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(input).await; // one that reads nothing has closed it
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }
}

#[tokio::test]
async fn every_example_does_what_it_says() {
    let chat = Chat::new().await;
    let scene = Scene::new().await;
    let program = Program::new(&chat, &scene.info, &scene);
    let path = scene.write("acme.sql", b"-- a dump");
    let path = path.to_str().unwrap();

    let (succeeded, out, err) = program.run("integration_send_and_record", &["acme", path], b"").await;
    assert!(succeeded, "{out}{err}");
    let result: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&result["success"], &result["database_record"]["status"]), (&json!(true), &json!("completed")));

    let (succeeded, out, err) = program.run("integration_send_multiple", &["acme", path, "/no/such", path], b"").await;
    assert!(!succeeded && err.contains("1 of 3 files failed"), "{out}{err}");
    assert_eq!(out.lines().filter(|line| line.contains(": backup ")).count(), 2, "{out}");
    assert!(out.contains("/no/such: file.not_found"), "{out}");

    let (succeeded, sent, err) = program.run("integration_telegram_only", &["acme", "piped.sql"], b"-- piped").await;
    assert!(succeeded, "{sent}{err}");
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 3);
    for _ in 0..2 {
        let (succeeded, out, err) = program.run("integration_record_only", &[], sent.as_bytes()).await;
        assert!(succeeded, "{out}{err}");
    }
    let foreign = ["acme", "4711", "BQACAgIAAx"];
    let (succeeded, out, err) = program.run("integration_record_only", &foreign, b"").await;
    assert!(succeeded && out.contains("recorded, not checked"), "{out}{err}");
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 5);
    assert_eq!(chat.manifests().await.len(), 4);

    // The same while the database is down, and when it is back.
    scene.database_goes_down().await;
    let (succeeded, out, err) = program.run("integration_send_and_record", &["acme", path], b"").await;
    assert!(!succeeded && err.contains("its record waits"), "{out}{err}");
    assert!(!out.contains(&chat.bot_api.token()) && !err.contains(&chat.bot_api.token()));
    scene.database_comes_back().await;
    let (succeeded, out, err) = program.run("integration_send_and_record", &["acme", path], b"").await;
    assert!(succeeded, "{out}{err}");
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 7);
}
