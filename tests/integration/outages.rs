//! One half fails: what the other has done is told, kept, and made whole once.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast::{
    artifact::BackupType,
    history::{PgLedger, SpareLedger},
    integration::{BackupResult, ForeignMetadata},
    jobs::worker,
    storage::{ErrorKind, Ledger},
};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;

use super::{
    faulty_storage::{Fault, Faulty},
    scene::{STORAGE, Scene, bytes, code, file},
    support::app::TestApp,
};

/// Sends a file while the database is down.
async fn sent_in_an_outage(scene: &Scene) -> BackupResult {
    scene.database_goes_down().await;
    let result = scene.integration().send_and_record(file(bytes(250_000))).await;
    scene.database_comes_back().await;
    result
}

/// Every row that one recorded file makes, and no more.
async fn is_recorded_once(scene: &Scene) {
    for what in ["backups WHERE status = 'completed'", "backup_copies", "backup_history", "project_logs"] {
        assert_eq!(scene.count(what).await, 1, "{what}");
    }
}

#[tokio::test]
async fn with_the_database_down_the_file_is_sent_and_its_record_waits() {
    let scene = Scene::new().await;
    let result = sent_in_an_outage(&scene).await;
    assert_eq!(code(&result), "control_plane.unavailable");
    let details = &result.details;
    assert!(details.telegram_success && !details.database_success && details.kept_in_outbox, "{result:?}");
    assert!(details.telegram_error.is_none() && details.database_error.as_ref().unwrap().may_pass);
    let metadata = result.telegram_metadata.unwrap();
    assert_eq!(scene.fetch(&scene.memory, &metadata).await, bytes(250_000));

    let files = scene.outbox_files();
    assert_eq!(files.len(), 1);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&scene.outbox()), mode(&files[0])), (0o700, 0o600));

    let flushed = scene.integration().flush_outbox().await.unwrap();
    assert_eq!((flushed.recorded, flushed.waiting), (1, vec![]));
    is_recorded_once(&scene).await;
    assert_eq!(scene.column("id").await, Some(metadata.backup_id.to_string()));
    assert_eq!(scene.column("created_by").await.as_deref(), Some("platform"));
    assert!(scene.outbox_files().is_empty());
}

#[tokio::test]
async fn the_next_call_that_succeeds_empties_the_outbox() {
    let scene = Scene::new().await;
    let waiting = sent_in_an_outage(&scene).await.telegram_metadata.unwrap();
    let next = scene.integration().send_and_record(file(b"the next".to_vec())).await;
    assert!(next.success && scene.outbox_files().is_empty(), "{next:?}");
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 2);
    assert_eq!(scene.count(&format!("backups WHERE id = '{}'", waiting.backup_id)).await, 1);
}

#[tokio::test]
async fn one_integration_lives_through_an_outage() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    assert!(integration.send_and_record(file(b"before".to_vec())).await.success);
    scene.database_goes_down().await;
    assert!(integration.send_and_record(file(b"during".to_vec())).await.details.kept_in_outbox);
    assert_eq!(integration.flush_outbox().await.unwrap_err().code, "control_plane.unavailable");
    assert_eq!(scene.outbox_files().len(), 1);
    scene.database_comes_back().await;
    assert!(integration.send_and_record(file(b"after".to_vec())).await.success);
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 3);
    assert!(scene.outbox_files().is_empty());
}

#[tokio::test]
async fn a_record_that_is_written_twice_appears_once() {
    let scene = Scene::new().await;
    let metadata = sent_in_an_outage(&scene).await.telegram_metadata.unwrap();
    let file = scene.outbox_files().remove(0);
    let kept = std::fs::read(&file).unwrap();
    // The program that sent it, its worker and its other processes, all at once; one of them was killed before it had cleared up.
    let integrations: Vec<_> = (0..6).map(|_| scene.integration()).collect();
    let flushes = integrations.iter().map(|integration| integration.flush_outbox());
    for flushed in futures::future::join_all(flushes).await {
        assert!(flushed.unwrap().waiting.is_empty());
    }
    assert!(integrations[0].record_in_database_only(metadata, None).await.success);
    std::fs::write(&file, &kept).unwrap();
    assert_eq!(integrations[0].flush_outbox().await.unwrap().recorded, 1);
    is_recorded_once(&scene).await;

    // What was deleted meanwhile stays deleted: its history tells that it was there.
    sqlx::query("DELETE FROM control_plane.backups").execute(&scene.pool).await.unwrap();
    std::fs::write(&file, &kept).unwrap();
    assert!(integrations[0].flush_outbox().await.unwrap().waiting.is_empty());
    assert_eq!(scene.count("backups").await, 0);
    assert!(scene.outbox_files().is_empty());
}

#[tokio::test]
async fn with_the_storage_down_the_failure_is_recorded() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::Create(ErrorKind::Unavailable)));
    let result = scene.around(storage).build().send_and_record(file(bytes(9_000))).await;
    assert_eq!(code(&result), "storage.unavailable");
    let details = result.details;
    assert!(!details.telegram_success && details.database_success && !details.kept_in_outbox);
    assert!(details.telegram_error.unwrap().may_pass && details.database_error.is_none());
    assert_eq!((result.telegram_metadata, result.database_record.unwrap().status.as_str()), (None, "failed"));
    assert_eq!(scene.count("backups WHERE status = 'completed'").await, 0);
}

#[tokio::test]
async fn with_both_down_both_are_told() {
    let scene = Scene::new().await;
    let storage = Arc::new(Faulty::new(Arc::new(scene.memory.clone()), Fault::Put(0, ErrorKind::Denied)));
    let integration = scene.around(storage).build();
    scene.database_goes_down().await;
    let result = integration.send_and_record(file(bytes(9_000))).await;
    scene.database_comes_back().await;
    assert_eq!(code(&result), "storage.denied");
    let details = result.details;
    assert!(!details.telegram_success && !details.database_success && !details.kept_in_outbox);
    assert_eq!(details.telegram_error.unwrap().code, "storage.denied");
    assert_eq!(details.database_error.unwrap().code, "control_plane.unavailable");
    assert_eq!((result.telegram_metadata, result.database_record), (None, None));
    assert!(scene.outbox_files().is_empty() && scene.memory.keys().is_empty());
    assert_eq!(scene.count("backups").await, 0);
}

#[tokio::test]
async fn a_foreign_record_waits_too_and_is_written_once() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    let metadata = ForeignMetadata::new("4711", "acme", BackupType::Database, "BQAC");
    scene.database_goes_down().await;
    for _ in 0..2 {
        assert!(integration.record_in_database_only(metadata.clone(), None).await.details.kept_in_outbox);
    }
    scene.database_comes_back().await;
    assert_eq!(scene.outbox_files().len(), 1);
    assert!(integration.record_in_database_only(metadata, None).await.success);
    assert!(scene.outbox_files().is_empty());
    assert_eq!(scene.count("backups").await, 1);
}

#[tokio::test]
async fn without_a_database_the_record_waits_for_one() {
    let scene = Scene::new().await;
    let alone = holdfast::integration::BackupIntegration::builder(STORAGE, Arc::new(scene.memory.clone()))
        .recipients(vec![scene.identity.to_public()])
        .outbox(scene.outbox())
        .build();
    let result = alone.send_and_record(file(b"x".to_vec())).await;
    assert_eq!(code(&result), "control_plane.not_configured");
    assert!(result.details.telegram_success && result.details.kept_in_outbox);
    assert_eq!(alone.flush_outbox().await.unwrap_err().code, "control_plane.not_configured");
    assert_eq!(scene.integration().flush_outbox().await.unwrap().recorded, 1);
    is_recorded_once(&scene).await;
}

#[tokio::test]
async fn one_bad_record_in_the_outbox_does_not_hold_up_the_others() {
    let scene = Scene::new().await;
    scene.add_project("gone").await;
    sent_in_an_outage(&scene).await;
    scene.database_goes_down().await;
    let gone = ForeignMetadata::new("1", "gone", BackupType::Database, "BQAC");
    assert!(scene.integration().record_in_database_only(gone, None).await.details.kept_in_outbox);
    scene.database_comes_back().await;
    sqlx::query("DELETE FROM control_plane.projects WHERE id = 'gone'").execute(&scene.pool).await.unwrap();
    let outbox = scene.outbox();
    std::fs::write(outbox.join("00.json"), b"{\"version\": 1, \"kind\": ").unwrap();
    std::fs::write(outbox.join("01.json"), json!({ "version": 9, "kind": "later" }).to_string()).unwrap();
    symlink("/etc/passwd", outbox.join("02.json")).unwrap();
    std::fs::write(outbox.join(".new-half"), b"{").unwrap();
    let flushed = scene.integration().flush_outbox().await.unwrap();
    assert_eq!(flushed.recorded, 1);
    let mut codes: Vec<_> = flushed.waiting.iter().map(|waiting| waiting.code.as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["outbox.failed", "outbox.failed", "outbox.failed", "project.not_found"]);
    assert_eq!(scene.outbox_files().len(), 5);
    is_recorded_once(&scene).await;
}

#[tokio::test]
async fn an_outbox_that_others_may_write_to_is_not_used() {
    let scene = Scene::new().await;
    std::fs::create_dir(scene.outbox()).unwrap();
    std::fs::set_permissions(scene.outbox(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(scene.outbox().join("forged.json"), b"{}").unwrap();
    assert_eq!(scene.integration().flush_outbox().await.unwrap_err().code, "outbox.untrusted");
    let result = sent_in_an_outage(&scene).await;
    assert!(result.details.telegram_success && !result.details.kept_in_outbox);
    // Everything that the record needs is still in the caller's hand.
    assert!(scene.integration().record_in_database_only(result.telegram_metadata.unwrap(), None).await.success);
    is_recorded_once(&scene).await;
}

#[tokio::test]
async fn a_worker_empties_the_outbox_beside_it() {
    let test = TestApp::new().await;
    test.add_schema_project("acme", "tenant_acme").await;
    let integration = holdfast::integration::BackupIntegration::new(&test.app, "local").await.unwrap();
    let sent = integration.send_to_telegram_only(file(b"x".to_vec())).await.telegram_metadata.unwrap();
    let outbox = holdfast::history::Outbox::below(&test.app.config.data_dir);
    outbox.keep(holdfast::history::OutboxEntry::Stored(Box::new(sent.record.clone()))).await.unwrap();
    let stop = CancellationToken::new();
    let worker = tokio::spawn(worker::run(test.app.clone(), stop.clone()));
    let deadline = Instant::now() + Duration::from_secs(20);
    let sql = format!("SELECT count(*) FROM control_plane.backups WHERE id = '{}'", sent.backup_id);
    loop {
        let recorded: i64 = sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(&test.app.pool).await.unwrap();
        let waiting = std::fs::read_dir(outbox.directory()).unwrap().count();
        if (recorded, waiting) == (1, 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{recorded} recorded, {waiting} waiting");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_storage_remembers_in_an_outage_reaches_the_control_plane_later() {
    let scene = Scene::new().await;
    let ledger = SpareLedger::new(scene.pool.clone());
    let control = PgLedger::new(scene.pool.clone());
    ledger.put("chat", "known", json!(1)).await.unwrap();
    scene.database_goes_down().await;
    let held = ledger.hold("chat").await.unwrap();
    ledger.put("chat", "moved", json!(-100)).await.unwrap();
    ledger.put("chat", "passing", json!(0)).await.unwrap();
    ledger.remove("chat", "passing").await.unwrap();
    let keys =
        |entries: Vec<holdfast::storage::ledger::Entry>| entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    ledger.remove("chat", "known").await.unwrap();
    // What is here is not all.
    assert_eq!(ledger.list("chat", "").await.unwrap_err().kind, ErrorKind::Unavailable);
    drop(held);
    scene.database_comes_back().await;
    assert_eq!(keys(control.list("chat", "").await.unwrap()), ["known"]);
    // Another process has the lock now: it is waited for, and not replaced by one of this process.
    let theirs = control.hold("chat").await.unwrap();
    let ours = ledger.hold("chat");
    tokio::pin!(ours);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut ours).await.is_err());
    drop(theirs);
    drop(ours.await.unwrap());
    assert_eq!(keys(control.list("chat", "").await.unwrap()), ["moved"]);
    assert_eq!(keys(ledger.list("chat", "").await.unwrap()), ["moved"]);
}
