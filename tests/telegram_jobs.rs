//! Backups that go to a Telegram chat, with the control plane that remembers what the storage must.

use crate::support::{self, telegram_stand_in};

use std::sync::Arc;

use bytes::Bytes;
use holdfast::{
    byte_size::ByteSize,
    config::{ChatId, Config, Secret, StorageConfig, TelegramStorageConfig},
    history::{self, Backup, PgLedger},
    ids::LeaseToken,
    jobs::{
        queue::Job,
        request::{self, DeleteRequest, Depth, VerifyRequest},
    },
    storage::{ErrorKind, Storage, get_whole, put_whole, telegram::TelegramStorage},
};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use support::app::{TestApp, caller, control_plane, export};
use telegram_stand_in::{Calls, Canned, ChatKind, Fault, SeenMessage, StandIn};

/// A chat of the stand-in's, with parts so small that a backup has several, and no pauses.
pub fn channel(bot_api: &StandIn) -> TelegramStorageConfig {
    bot_api.control().set_pacing(false);
    TelegramStorageConfig {
        base_url: bot_api.base_url().to_string(),
        part_size: Some(ByteSize::kib(64)),
        messages_per_minute: 0,
        ..TelegramStorageConfig::new(Secret::new(bot_api.token()), ChatId::Number(bot_api.chat_id()))
    }
}

fn only(storage: TelegramStorageConfig) -> impl FnOnce(&mut Config) {
    |config| config.storages = [("channel".to_owned(), StorageConfig::Telegram(Box::new(storage)))].into()
}

/// Every row of the control plane, as text.
async fn everything_written(pool: &PgPool) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
         WHERE table_schema = 'control_plane' AND table_type = 'BASE TABLE'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(tables.len() > 5);
    let mut text = String::new();
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("SELECT to_jsonb(t)::text FROM {table} t")))
            .fetch_all(pool)
            .await
            .unwrap();
        text.push_str(&rows.join("\n"));
    }
    text
}

#[tokio::test]
async fn a_backup_in_a_channel_comes_back_though_answers_are_lost_on_the_way() {
    let bot_api = StandIn::start().await;
    let mut test = TestApp::with(only(channel(&bot_api))).await;
    let mut tenants = test.tenants().await;
    tenants
        .execute(
            "CREATE SCHEMA tenant_acme;
             CREATE TABLE tenant_acme.notes AS
             SELECT id, (SELECT string_agg(encode(sha256((id || '/' || n)::bytea), 'hex'), '') FROM generate_series(1, 20) AS n) AS text
             FROM generate_series(1, 400) AS id",
        )
        .await
        .unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let before = support::row_digests(&mut tenants, "tenant_acme").await;
    let control = bot_api.control();
    control.inject(Fault::AnswerAfterEffect(Canned::bad_gateway()), Calls::next("sendDocument").after(1));
    control.inject(Fault::DropAnswer, Calls::next("pinChatMessage"));
    let backup = test.backup(export("acme")).await;
    assert_eq!(control.faults_left(), 0);
    assert!(control.documents(bot_api.chat_id()).len() > 4, "more than one part");

    tenants.execute("DELETE FROM tenant_acme.notes WHERE id > 10").await.unwrap();
    let unavailable = Canned::error(400, "Bad Request: wrong file_id or the file is temporarily unavailable");
    control.inject(Fault::Answer(unavailable), Calls::next("getFile").after(1));
    control.inject(Fault::ResetAnswerAt(100), Calls::next(telegram_stand_in::DOWNLOAD).after(1));
    let job = test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(support::row_digests(&mut tenants, "tenant_acme").await, before);

    // Someone deletes the index: what the control plane knows is read all the same, and by a process that never saw it.
    let is_index = |message: &SeenMessage| message.document().unwrap().file_name == "holdfast-index.json.gz";
    for index in control.documents(bot_api.chat_id()).into_iter().filter(is_index) {
        control.forget_file(&index.document().unwrap().file_unique_id);
        control.remove_message(bot_api.chat_id(), index.id);
    }
    let storage = opened(&test, &channel(&bot_api));
    test.app.storages.insert("channel".to_owned(), storage);
    for depth in [Depth::Head, Depth::Read] {
        let job = verify(&test, &backup, depth).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified");
    }
    // Without that knowledge nobody can tell: no verdict.
    let sql = "UPDATE control_plane.backup_copies SET manifest_locator = NULL";
    sqlx::query(sql).execute(&test.app.pool).await.unwrap();
    Arc::make_mut(&mut test.app.config).worker.max_attempts = 1;
    let job = verify(&test, &backup, Depth::Read).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.as_deref().unwrap().contains("When the index is lost"), "{:?}", job.error_message);
    let copies = history::copies(&test.app.pool, &[backup.id]).await.unwrap();
    assert_eq!((copies.len(), copies[0].status.as_str()), (1, "good"));

    // A channel that is lost ends the next one, and nobody is told the token.
    control.delete_chat(bot_api.chat_id());
    let job = test.back_up(export("acme")).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.as_deref().unwrap().contains("chat not found"), "{:?}", job.error_message);
    let token = bot_api.token();
    let secret = token.split(':').nth(1).unwrap();
    let written = everything_written(&test.app.pool).await;
    assert!(written.contains("chat not found") && !written.contains(secret));
}

fn opened(test: &TestApp, config: &TelegramStorageConfig) -> Arc<dyn Storage> {
    Arc::new(TelegramStorage::new("channel", config, Arc::new(PgLedger::new(test.app.pool.clone()))).unwrap())
}

async fn verify(test: &TestApp, backup: &Backup, depth: Depth) -> Job {
    let asked = VerifyRequest { backup_id: backup.backup_id(), depth };
    let job = request::verify(&test.app, &caller(), &asked, None).await.unwrap();
    test.run(job.job_id()).await
}

#[tokio::test]
async fn a_group_that_has_become_a_configured_supergroup_is_read_also_after_a_deletion() {
    let bot_api = StandIn::start().await;
    let group = bot_api.control().add_chat(ChatKind::Group);
    let in_group = TelegramStorageConfig { chat_id: ChatId::Number(group), ..channel(&bot_api) };
    let mut test = TestApp::with(only(in_group.clone())).await;
    test.tenants().await.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t ()").await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let (deleted, kept) = (test.backup(export("acme")).await, test.backup(export("acme")).await);
    // The new number is configured before anything was sent to the old one: the supergroup's index knows nothing of the group's.
    let supergroup = bot_api.control().migrate(group);
    let storage = opened(&test, &TelegramStorageConfig { chat_id: ChatId::Number(supergroup), ..in_group });
    test.app.storages.insert("channel".to_owned(), storage);
    let newer = test.backup(export("acme")).await;
    // Its publication follows the group, and remembers where to.
    let asked = DeleteRequest { backup_id: deleted.backup_id() };
    let job = request::delete(&test.app, &caller(), &asked, None).await.unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    for backup in [&kept, &newer] {
        let job = verify(&test, backup, Depth::Read).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified");
    }
}

#[tokio::test]
async fn a_backup_that_would_not_be_encrypted_is_refused_before_its_dump() {
    let bot_api = StandIn::start().await;
    let storage = channel(&bot_api);
    for (allow_plaintext, refused) in [(false, true), (true, false)] {
        let storage = TelegramStorageConfig { allow_plaintext, ..storage.clone() };
        let test = TestApp::with(|config| {
            only(storage)(config);
            config.encryption.enabled = false;
        })
        .await;
        test.tenants().await.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t ()").await.unwrap();
        test.add_schema_project("acme", "tenant_acme").await;
        let asked = request::export(&test.app, &caller(), &export("acme"), None).await;
        match asked {
            Err(error) => assert!(refused && error.code() == "request.plaintext", "{error}"),
            Ok(_) => assert!(!refused),
        }
    }
    assert_eq!(bot_api.control().log().len(), 0, "nothing was sent");
}

#[tokio::test]
async fn workers_on_two_machines_publish_to_one_chat_in_turn() {
    let bot_api = StandIn::start().await;
    let pool = control_plane().await;
    let config = TelegramStorageConfig { allow_plaintext: true, ..channel(&bot_api) };
    let open = || TelegramStorage::new("channel", &config, Arc::new(PgLedger::new(pool.clone()))).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for storage in [open(), open(), open()] {
        for _ in 0..3 {
            let storage = storage.clone();
            tasks.spawn(async move {
                let key = format!("a/{}", LeaseToken::generate());
                let name = key.parse().unwrap();
                put_whole(&storage, &name, LeaseToken::generate(), Bytes::from(key)).await.unwrap();
                name
            });
        }
    }
    let names = tasks.join_all().await;
    let stranger = open();
    for name in &names {
        let at = stranger.find(name).await.unwrap().unwrap_or_else(|| panic!("{name} is lost"));
        assert_eq!(get_whole(&stranger, &at, ByteSize::kib(1)).await.unwrap(), name.as_str().as_bytes());
    }
    // Of one name there is one winner.
    let again = put_whole(&stranger, &names[0], LeaseToken::generate(), Bytes::from_static(b"other")).await;
    assert_eq!(again.unwrap_err().kind, ErrorKind::Exists);
    let left: Vec<String> =
        sqlx::query_scalar("SELECT key FROM control_plane.storage_ledger").fetch_all(&pool).await.unwrap();
    assert_eq!(left, [format!("index/{}", bot_api.chat_id())]);
}

/// The commands of a section of `docs/telegram.md`.
fn documented_commands(section: &str) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telegram.md")).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).expect("the section");
    let section = rest.split("\n## ").next().unwrap();
    let blocks: Vec<&str> =
        section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).take(2).collect();
    blocks.concat()
}

#[tokio::test]
async fn the_documented_recovery_by_hand_brings_back_the_rows() {
    let bot_api = StandIn::start().await;
    let test = TestApp::with(only(channel(&bot_api))).await;
    let mut tenants = test.tenants().await;
    tenants
        .execute(
            "CREATE SCHEMA tenant_acme;
             CREATE TABLE tenant_acme.notes AS SELECT id, gen_random_uuid() AS text FROM generate_series(1, 5000) AS id",
        )
        .await
        .unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    assert!(backup.size > 64 << 10, "more than one part");

    let target = support::fresh_database("by_hand").await;
    let object = format!("backups/acme/{}", backup.file_name.as_ref().unwrap());
    let key = format!("KEY={object}\n");
    let mut commands = documented_commands("Recovery by hand")
        .replace("https://api.telegram.org", bot_api.base_url().as_str().trim_end_matches('/'))
        .replace("-1001234567890", &bot_api.chat_id().to_string())
        .replace("NEWDB", &target.database);
    let line = commands.lines().find(|line| line.starts_with("KEY=")).expect("the example's key").to_owned();
    commands = commands.replace(&format!("{line}\n"), &key);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bot.token"), bot_api.token()).unwrap();
    std::fs::copy(test.directory.path().join("age.key"), directory.path().join("key.txt")).unwrap();
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &commands]).current_dir(directory.path());
    bash.env("PGHOST", &target.host).env("PGPORT", target.port.to_string()).env("PGUSER", &target.user);
    if let Some(password) = &target.password {
        bash.env("PGPASSWORD", password.expose_secret());
    }
    let output = bash.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&object) && said.contains("part: OK"), "{said}");
    let mut recovered = support::connect(&target).await;
    assert_eq!(
        support::row_digests(&mut recovered, "tenant_acme").await,
        support::row_digests(&mut tenants, "tenant_acme").await
    );
}
