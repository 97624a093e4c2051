//! The database's half: what is recorded, once, and what is refused.

use futures::future::join_all;
use holdfast::{
    artifact::{BackupType, Sha256Digest},
    clock::Timestamp,
    history,
    ids::JobId,
    integration::{BackupIntegration, BackupOptions, BackupResult, ForeignMetadata, RecordMetadata},
    tenant::Caller,
};
use serde_json::json;

use super::{
    scene::{STORAGE, Scene, bytes, code, file},
    support::app::everything,
};

fn foreign(external_id: &str, file_id: &str) -> ForeignMetadata {
    ForeignMetadata::new(external_id, "acme", BackupType::Database, file_id)
}

fn in_days(scene: &Scene, days: i64) -> Timestamp {
    scene.clock.now() + chrono::Duration::days(days)
}

#[tokio::test]
async fn a_sent_file_is_a_completed_backup_with_its_copy_and_its_event() {
    let scene = Scene::new().await;
    let options = BackupOptions { caption: Some("nightly".to_owned()), ..file(bytes(250_000)) };
    let result = scene.integration().send_and_record(options).await;
    assert!(result.success && result.details.telegram_success && result.details.database_success, "{result:?}");
    let (metadata, record) = (result.telegram_metadata.unwrap(), result.database_record.unwrap());

    let backup = history::get(&scene.pool, &everything(), metadata.backup_id).await.unwrap();
    assert_eq!(
        (backup.project_id.as_str(), backup.r#type.as_str(), backup.status.as_str()),
        ("acme", "database", "completed")
    );
    assert_eq!(backup.file_id.as_deref(), Some("backups/acme/acme.sql.age"));
    assert_eq!((backup.file_name.as_deref(), backup.storage.as_deref()), (Some("acme.sql.age"), Some(STORAGE)));
    assert_eq!(
        (backup.format.as_deref(), backup.compression.as_deref(), backup.encryption.as_deref()),
        (None, Some("none"), Some("age"))
    );
    assert_eq!((backup.size as u64, backup.sha256.as_deref()), (metadata.size, Some(&*metadata.sha256.to_string())));
    assert_eq!(
        (backup.content_size, backup.content_sha256.clone()),
        (Some(250_000), Some(Sha256Digest::of(&bytes(250_000)).to_string()))
    );
    assert_eq!((backup.created_by.as_deref(), backup.verified_at), (Some("platform"), None));
    assert_eq!((backup.created_at, backup.expires_at), (scene.clock.now(), Some(in_days(&scene, 30))));
    assert_eq!(backup.manifest().as_ref(), Some(&metadata.record.manifest));
    assert_eq!((record.id, record.number, record.size as u64), (metadata.backup_id, backup.number, metadata.size));

    let copies = history::copies(&scene.pool, &[backup.id]).await.unwrap();
    assert_eq!(copies.len(), 1);
    assert!(copies[0].is_good() && copies[0].storage == STORAGE);
    assert_eq!(copies[0].locator().as_ref(), Some(&metadata.record.locator));
    let events = history::events(&scene.pool, &everything(), metadata.backup_id).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].event.as_str(), events[0].actor.as_str(), events[0].outcome.as_str()),
        ("completed", "platform", "ok")
    );
    assert_eq!(scene.count("project_logs WHERE project_id = 'acme'").await, 1);
    assert!(scene.outbox_files().is_empty());
}

#[tokio::test]
async fn results_keep_their_names_in_json() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let good = integration.send_and_record(file(bytes(150_000))).await;
    let value = serde_json::to_value(&good).unwrap();
    assert_eq!(serde_json::from_value::<BackupResult>(value.clone()).unwrap(), good);
    assert_eq!(value["success"], true);
    assert_eq!(
        value["details"],
        json!({ "telegram_success": true, "database_success": true, "telegram_error": null, "database_error": null, "kept_in_outbox": false })
    );
    let names = |value: &serde_json::Value| {
        let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(names(&value), "database_record details error success telegram_metadata");
    assert_eq!(
        names(&value["telegram_metadata"]),
        "backup_id chat_id content_sha256 content_size created_at encryption expires_at file_id file_unique_id filename message_ids name \
         parts project_id record sha256 size type"
    );
    assert_eq!(names(&value["telegram_metadata"]["parts"][1]), "file_id file_unique_id message_id sha256 size");
    assert_eq!(
        names(&value["database_record"]),
        "created_at created_by expires_at external_id file_id file_name id message number project_id sha256 size status storage type verified_at"
    );
    let bad = serde_json::to_value(integration.send_and_record(file(Vec::new())).await).unwrap();
    assert_eq!(bad["error"], json!({ "code": "file.empty", "message": "the file is empty", "may_pass": false }));

    let options: BackupOptions = serde_json::from_value(
        json!({ "project_id": "acme", "type": "logs", "file": { "path": "/var/log/acme.txt" }, "caption": "since Monday" }),
    )
    .unwrap();
    assert_eq!((options.backup_type, options.caption.as_deref()), (BackupType::Logs, Some("since Monday")));
    let metadata =
        json!({ "kind": "foreign", "external_id": "7", "project_id": "acme", "type": "database", "file_id": "BQAC" });
    assert_eq!(
        serde_json::from_value::<RecordMetadata>(metadata).unwrap(),
        RecordMetadata::Foreign(foreign("7", "BQAC"))
    );
}

#[tokio::test]
async fn several_files_give_one_result_each_in_order() {
    let scene = Scene::new().await;
    let results = scene
        .integration()
        .send_and_record_multiple([
            BackupOptions::new("acme", BackupType::Database, b"first".to_vec()),
            BackupOptions::new("acme", BackupType::Database, "/no/such/file"),
            BackupOptions::new("stranger", BackupType::Database, b"third".to_vec()),
            BackupOptions::new("acme", BackupType::Storage, b"fourth".to_vec()),
        ])
        .await;
    let codes: Vec<_> = results.iter().map(|result| result.error.as_ref().map(|error| error.code.as_str())).collect();
    assert_eq!(codes, [None, Some("file.not_found"), Some("project.not_found"), None]);
    let last = results[3].telegram_metadata.as_ref().unwrap();
    assert_eq!(scene.fetch(&scene.memory, last).await, b"fourth");
    assert_eq!(last.name, "backups/acme/storage.age");
}

#[tokio::test]
async fn a_file_that_was_only_sent_can_be_recorded_later_and_once() {
    let scene = Scene::new().await;
    // Without a database, as a program that has none.
    let alone = BackupIntegration::builder(STORAGE, std::sync::Arc::new(scene.memory.clone()))
        .recipients(vec![scene.identity.to_public()])
        .clock(scene.clock.clone())
        .build();
    let sent = alone.send_to_telegram_only(file(bytes(9_000))).await;
    assert!(sent.success && sent.details.telegram_success && !sent.details.database_success, "{sent:?}");
    assert_eq!((sent.details.database_error.as_ref(), scene.count("backups").await), (None, 0));

    // The metadata may have been kept anywhere meanwhile.
    let kept = serde_json::to_string(&sent.telegram_metadata.unwrap()).unwrap();
    let metadata: holdfast::integration::TelegramMetadata = serde_json::from_str(&kept).unwrap();
    let later = in_days(&scene, 3);
    for _ in 0..2 {
        let result = scene.integration().record_in_database_only(metadata.clone(), Some(later)).await;
        assert!(result.success && !result.details.telegram_success, "{result:?}");
        let record = result.database_record.unwrap();
        assert_eq!(
            (record.id, record.status.as_str(), record.expires_at),
            (metadata.backup_id, "completed", Some(later))
        );
    }
    for (what, expected) in [("backups", 1), ("backup_copies", 1), ("backup_history", 1)] {
        assert_eq!(scene.count(what).await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_foreign_file_is_recorded_as_not_checked() {
    let scene = Scene::new().await;
    let metadata = ForeignMetadata {
        size: Some(12),
        filename: Some("old.sql".to_owned()),
        ..foreign("backup-4711", "BQACAgIAAx")
    };
    let result = scene.integration().record_in_database_only(metadata, None).await;
    assert!(result.success && result.telegram_metadata.is_none(), "{result:?}");
    let record = result.database_record.unwrap();
    assert_eq!((record.status.as_str(), record.message.as_deref()), ("completed", Some("recorded, not checked")));
    assert_eq!((record.external_id.as_deref(), record.file_id.as_deref()), (Some("backup-4711"), Some("BQACAgIAAx")));
    assert_eq!((record.verified_at, record.size, record.file_name.as_deref()), (None, 12, Some("old.sql")));
    assert_eq!(record.expires_at, Some(in_days(&scene, 30)));
    assert_eq!((scene.count("backup_copies").await, scene.count("backup_history").await), (0, 1));
}

#[tokio::test]
async fn one_external_id_is_one_record() {
    let scene = Scene::new().await;
    scene.add_project("beta").await;
    let integration = scene.integration();
    let results = join_all((0..8).map(|_| integration.record_in_database_only(foreign("1", "BQAC"), None))).await;
    let first = results[0].database_record.as_ref().unwrap().id;
    assert!(results.iter().all(|result| result.database_record.as_ref().is_some_and(|record| record.id == first)));
    assert_eq!((scene.count("backups").await, scene.count("backup_history").await), (1, 1));

    let other = integration.record_in_database_only(foreign("1", "another file"), None).await;
    assert_eq!(code(&other), "backup.external_id_taken");
    // Another project has ids of its own.
    let beta = ForeignMetadata { project_id: "beta".to_owned(), ..foreign("1", "another file") };
    assert!(integration.record_in_database_only(beta, None).await.success);
    assert_eq!(scene.count("backups").await, 2);
}

#[tokio::test]
async fn a_foreign_record_whose_backup_was_deleted_does_not_come_back() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let first = integration.record_in_database_only(foreign("1", "BQAC"), None).await.database_record.unwrap();
    let mut connection = scene.pool.acquire().await.unwrap();
    history::bury(&mut connection, first.id, &Caller::system("test"), Some(JobId::generate()), &json!({}))
        .await
        .unwrap();
    let again = integration.record_in_database_only(foreign("1", "BQAC"), None).await;
    assert_eq!((code(&again), scene.count("backups").await), ("backup.deleted", 0));
    // Another file is not the deleted one.
    assert!(integration.record_in_database_only(foreign("1", "another file"), None).await.success);
}

#[tokio::test]
async fn an_unknown_project_is_refused_and_nothing_is_sent_or_written() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let unknown = ForeignMetadata { project_id: "nobody's".to_owned(), ..foreign("1", "BQAC") };
    let options = BackupOptions::new("nobody", BackupType::Database, b"x".to_vec());
    for result in [integration.record_in_database_only(unknown, None).await, integration.send_and_record(options).await]
    {
        assert_eq!(code(&result), "project.not_found");
        assert_eq!(result.details.database_error.as_ref().unwrap().code, "project.not_found");
        assert_eq!((result.details.telegram_error, result.details.kept_in_outbox), (None, false));
    }
    assert!(scene.memory.keys().is_empty() && scene.outbox_files().is_empty());
    for what in ["backups", "backup_copies", "backup_history", "project_logs"] {
        assert_eq!(scene.count(what).await, 0, "{what}");
    }
}

#[tokio::test]
async fn hostile_metadata_is_refused_or_kept_as_text() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    for bad in ["", "a\0b", "a\nb", &"x".repeat(513)] {
        assert_eq!(code(&integration.record_in_database_only(foreign(bad, "BQAC"), None).await), "metadata.invalid");
        assert_eq!(code(&integration.record_in_database_only(foreign("1", bad), None).await), "metadata.invalid");
    }
    let huge = ForeignMetadata { size: Some(u64::MAX), ..foreign("1", "BQAC") };
    assert_eq!(code(&integration.record_in_database_only(huge, None).await), "metadata.invalid");
    let past = integration.record_in_database_only(foreign("1", "BQAC"), Some(scene.clock.now())).await;
    assert_eq!(code(&past), "options.expires_at");
    let text = "'; DROP TABLE control_plane.backups; --";
    assert!(integration.record_in_database_only(foreign(text, text), None).await.success);
    assert_eq!(scene.column("external_id").await.as_deref(), Some(text));
}

#[tokio::test]
async fn a_failure_is_written_down_and_seen() {
    let scene = Scene::new().await;
    let options = BackupOptions { filename: Some("a\0b\nc.sql".to_owned()), ..file("/no/such/file") };
    let result = scene.integration().send_and_record(options).await;
    let record = result.database_record.unwrap();
    assert_eq!((record.status.as_str(), record.file_name.as_deref()), ("failed", Some("a_b_c.sql")));
    assert_eq!(record.message.as_deref(), Some("there is no file /no/such/file"));
    let events = history::events(&scene.pool, &everything(), record.id).await.unwrap();
    assert_eq!((events[0].event.as_str(), events[0].outcome.as_str()), ("failed", "failed"));
    assert_eq!(scene.count("backup_copies").await, 0);
}
