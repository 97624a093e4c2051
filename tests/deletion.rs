//! Deleting backups: every copy, confirmed, whatever the storages say to it.

mod stubborn;

use crate::support;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast::{
    app::App,
    config::{LocalStorageConfig, StorageConfig},
    demo::sample,
    history::{self, Backup, BackupFilter, BackupStatus},
    ids::JobId,
    jobs::{
        JobType, delete_backup,
        queue::{self, Job},
        request::{self, DeleteRequest, Depth, RestoreRequest, VerifyRequest},
        worker,
    },
    storage::ErrorKind,
    tenant::{Caller, Role},
};
use serde_json::json;
use stubborn::{Answer, Gate, Stubborn};
use support::app::{TestApp, caller, everything, export};
use tokio_util::sync::CancellationToken;

/// A tenant and three storages, of which the last is not written to.
async fn scene() -> TestApp {
    let test = TestApp::with(|config| {
        let root = config.data_dir.join("storage");
        config.storages.clear();
        for name in ["first", "second", "third"] {
            let local = LocalStorageConfig::new(root.join(name));
            config.storages.insert(name.to_owned(), StorageConfig::Local(local));
        }
        config.backup.storages = vec!["first".to_owned(), "second".to_owned()];
        config.worker.lease_seconds = 2;
    })
    .await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    test
}

/// Makes deletions from a storage go as told.
fn answer(test: &mut TestApp, storage: &str, answers: impl IntoIterator<Item = Answer>) -> Arc<Stubborn> {
    let root = test.directory.path().join("storage").join(storage);
    assert!(root.is_dir(), "{}", root.display());
    let stubborn = Stubborn::new(test.app.storages.get(storage).unwrap(), answers);
    test.app.storages.insert(storage.to_owned(), stubborn.clone());
    stubborn
}

async fn ask(test: &TestApp, backup: &Backup) -> Job {
    let request = DeleteRequest { backup_id: backup.backup_id() };
    request::delete(&test.app, &caller(), &request, None).await.unwrap()
}

async fn refusal(test: &TestApp, caller: &Caller, backup: &Backup) -> &'static str {
    let request = DeleteRequest { backup_id: backup.backup_id() };
    request::delete(&test.app, caller, &request, None).await.unwrap_err().code()
}

async fn again(test: &TestApp, backup: &Backup) -> Backup {
    history::get(&test.app.pool, &everything(), backup.backup_id()).await.unwrap()
}

async fn is_gone(test: &TestApp, backup: &Backup) -> bool {
    history::get(&test.app.pool, &everything(), backup.backup_id()).await.is_err()
}

async fn statuses(test: &TestApp, backup: &Backup) -> Vec<(String, String)> {
    let copies = history::copies(&test.app.pool, &[backup.id]).await.unwrap();
    copies.into_iter().map(|copy| (copy.storage, copy.status)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn stored_in(test: &TestApp, storage: &str) -> Vec<PathBuf> {
    let below = test.directory.path().join("storage").join(storage);
    test.stored_files().into_iter().filter(|path| path.starts_with(&below)).collect()
}

/// Every event of a backup with its detail.
async fn events(test: &TestApp, backup: &Backup) -> Vec<(String, serde_json::Value)> {
    let events = history::events(&test.app.pool, &everything(), backup.backup_id()).await.unwrap();
    events.into_iter().map(|event| (event.event, event.detail)).collect()
}

#[tokio::test]
async fn every_copy_goes_the_manifest_first_and_the_row_moves_into_the_history() {
    let mut test = scene().await;
    let (kept, backup) = (test.backup(export("acme")).await, test.backup(export("acme")).await);
    let second = answer(&mut test, "second", []);
    let job = ask(&test, &backup).await;
    assert_eq!((job.r#type.as_str(), job.status.as_str()), ("delete_backup", "pending"));

    // From now on it cannot be used, and is listed only by its status.
    assert_eq!(again(&test, &backup).await.status, "deleted");
    let listed = async |status| {
        let filter = BackupFilter { status, limit: 10, ..BackupFilter::default() };
        let rows = history::list(&test.app.pool, &everything(), &filter).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None).await, [kept.id]);
    assert_eq!(listed(Some(BackupStatus::Deleted)).await, [backup.id]);
    let restore = RestoreRequest::in_place(backup.backup_id());
    let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Head };
    for refused in [
        request::restore(&test.app, &caller(), &restore, None).await.unwrap_err(),
        request::verify(&test.app, &caller(), &verify, None).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), "backup.not_completed");
    }

    let job = test.run(job.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{:?}", job.error_message);
    assert_eq!(job.result.unwrap(), json!({ "backup_id": backup.id, "deleted": ["first", "second"], "remains": [] }));
    let key = backup.file_id.clone().unwrap();
    assert_eq!(second.asked(), [format!("{key}.manifest.json"), key.clone()]);
    assert!(is_gone(&test, &backup).await);
    assert_eq!(again(&test, &kept).await.status, "completed");
    let left = test.stored_files();
    assert!(left.len() == 4 && left.iter().all(|path| !path.to_string_lossy().contains(&key)), "{left:#?}");

    let events = events(&test, &backup).await;
    let names: Vec<&str> = events.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(names, ["requested", "completed", "delete_requested", "deleted"]);
    let tombstone = &events[3].1;
    assert_eq!(tombstone["backup"]["sha256"], json!(backup.sha256));
    assert_eq!(tombstone["backup"]["manifest"], json!(null), "a list of events is no place for it");
    assert_eq!(tombstone["copies"].as_array().unwrap().len(), 2);
    assert_eq!(tombstone["copies"][0]["locator"]["key"], json!(key));
    let (whole, told): (bool, bool) = sqlx::query_as(
        "SELECT (SELECT detail -> 'backup' -> 'manifest' -> 'head' ->> 'backup_id' = backup_id::text
                 FROM control_plane.backup_history WHERE event = 'deleted'),
                (SELECT bool_and(NOT metadata::text LIKE '%locator%') FROM control_plane.project_logs WHERE message = 'backup deleted')",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert!(whole && told, "the whole row is kept, and the project's log does not say where things were");
}

#[tokio::test]
async fn asked_twice_there_is_one_job_and_afterwards_nothing_to_delete() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    let request = DeleteRequest { backup_id: backup.backup_id() };
    let caller = caller();
    let (one, two) = tokio::join!(
        request::delete(&test.app, &caller, &request, None),
        request::delete(&test.app, &caller, &request, None)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.id, two.id);
    let asked = events(&test, &backup).await.iter().filter(|(event, _)| event == "delete_requested").count();
    assert_eq!(asked, 1);
    assert_eq!(test.run(one.job_id()).await.status, "completed");
    assert_eq!(refusal(&test, &caller, &backup).await, "backup.not_found");
}

#[tokio::test]
async fn a_repeated_key_gives_the_same_job_even_after_the_backup_is_gone() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    let request = DeleteRequest { backup_id: backup.backup_id() };
    let job = request::delete(&test.app, &caller(), &request, Some("k")).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.status, "completed");
    let repeated = request::delete(&test.app, &caller(), &request, Some("k")).await.unwrap();
    assert_eq!((repeated.id, repeated.status.as_str()), (job.id, "completed"));
}

#[tokio::test]
async fn pinned_unfinished_and_other_tenants_backups_are_refused() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    let mut stranger = Caller { role: Role::Member, project_ids: vec!["globex".parse().unwrap()], ..caller() };
    assert_eq!(refusal(&test, &stranger, &backup).await, "backup.not_found");
    stranger.permissions.clear();
    assert_eq!(refusal(&test, &stranger, &backup).await, "auth.forbidden");
    sqlx::query("UPDATE control_plane.backups SET pinned = true").execute(&test.app.pool).await.unwrap();
    assert_eq!(refusal(&test, &caller(), &backup).await, "backup.pinned");
    sqlx::query("UPDATE control_plane.backups SET pinned = false, status = 'in_progress'")
        .execute(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(refusal(&test, &caller(), &backup).await, "backup.unfinished");
    assert_eq!(test.stored_files().len(), 4);
    assert_eq!(events(&test, &backup).await.len(), 2, "a refusal marks nothing");
}

#[tokio::test]
async fn a_storage_that_denies_ends_it_with_the_reason_and_the_next_job_goes_on_there() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    let first = answer(&mut test, "first", []);
    answer(&mut test, "second", [Answer::Good, Answer::Fail(ErrorKind::Denied)]);
    let job = test.run(ask(&test, &backup).await.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "no attempt can help");
    let said = job.error_message.unwrap();
    assert!(said.contains("storage second: cannot delete") && said.contains("access denied"), "{said}");
    assert_eq!(statuses(&test, &backup).await, pairs(&[("first", "deleted"), ("second", "good")]));
    let marked = again(&test, &backup).await;
    assert_eq!(marked.status, "deleted");
    assert!(marked.message.unwrap().contains("access denied"));
    assert_eq!((stored_in(&test, "first").len(), stored_in(&test, "second").len()), (0, 1));
    let last = events(&test, &backup).await.pop().unwrap();
    assert_eq!(last.0, "delete_backup_failed");

    let asked_before = first.asked().len();
    let next = ask(&test, &backup).await;
    assert_ne!(next.id, job.id);
    let next = test.run(next.job_id()).await;
    assert_eq!(next.status, "completed", "{:?}", next.error_message);
    assert_eq!(first.asked().len(), asked_before, "what was done is not done again");
    assert!(is_gone(&test, &backup).await && test.stored_files().is_empty());
}

#[tokio::test]
async fn a_storage_that_is_away_for_a_while_is_tried_again() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    answer(&mut test, "first", [Answer::Fail(ErrorKind::Unavailable)]);
    let second = answer(&mut test, "second", []);
    let job = test.run(ask(&test, &backup).await.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    assert_eq!(second.asked().len(), 2, "the others do not wait for it");
    assert!(is_gone(&test, &backup).await && test.stored_files().is_empty());
}

#[tokio::test]
async fn a_storage_that_says_gone_and_keeps_it_is_not_believed() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    let second = answer(&mut test, "second", [Answer::Good, Answer::Pretend]);
    let job = ask(&test, &backup).await.job_id();
    let job = test.run(job).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    let key = backup.file_id.unwrap();
    let artifact = second.asked().iter().filter(|name| **name == key).count();
    assert_eq!(artifact, 2, "it was asked again");
    assert!(test.stored_files().is_empty());
}

#[tokio::test]
async fn bytes_that_cannot_be_deleted_are_said_and_do_not_hold_the_row() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    answer(&mut test, "second", [Answer::Good, Answer::Remain]);
    let job = test.run(ask(&test, &backup).await.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let result = job.result.unwrap();
    assert_eq!(result["deleted"], json!(["first"]));
    assert_eq!(result["remains"][0]["storage"], "second");
    assert!(result["remains"][0]["what"].as_str().is_some_and(|what| !what.is_empty()), "{result}");
    assert!(is_gone(&test, &backup).await);
    let (event, detail) = events(&test, &backup).await.pop().unwrap();
    assert_eq!((event.as_str(), &detail["remains"]), ("deleted", &result["remains"]), "the history says it for good");
}

#[tokio::test]
async fn a_storage_that_is_no_longer_configured_holds_the_row_until_it_is_back() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    let away = test.app.storages.remove("second").unwrap();
    let job = test.run(ask(&test, &backup).await.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    assert!(job.error_message.as_ref().unwrap().contains("storage second: it is no longer configured"), "{job:?}");
    assert_eq!(statuses(&test, &backup).await, pairs(&[("first", "deleted"), ("second", "good")]));

    // The worker's housekeeping takes it up again, one job a day whoever looks.
    test.app.storages.insert("second".to_owned(), away);
    // The worker above may have looked after the failure already, without that storage.
    let sql = "DELETE FROM control_plane.jobs WHERE type = 'delete_backup' AND created_by = 'system:worker'";
    sqlx::query(sql).execute(&test.app.pool).await.unwrap();
    delete_backup::enqueue_due(&test.app).await.unwrap();
    delete_backup::enqueue_due(&test.app).await.unwrap();
    let jobs: Vec<uuid::Uuid> = sqlx::query_scalar(
        "SELECT id FROM control_plane.jobs WHERE type = 'delete_backup' AND status = 'pending' AND created_by = 'system:worker'",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(jobs.len(), 1);
    let job = test.run(JobId(jobs[0])).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert!(is_gone(&test, &backup).await && test.stored_files().is_empty());
}

#[tokio::test]
async fn what_a_platform_marks_deleted_itself_is_not_touched() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    sqlx::query("UPDATE control_plane.backups SET status = 'deleted'").execute(&test.app.pool).await.unwrap();
    delete_backup::enqueue_due(&test.app).await.unwrap();
    let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.jobs WHERE type = 'delete_backup'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    assert_eq!((jobs, test.stored_files().len()), (0, 4));
    assert!(!is_gone(&test, &backup).await);
}

#[tokio::test]
async fn a_worker_that_is_lost_between_two_copies_is_followed_by_one_that_goes_on() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    let gate = Gate::new();
    let job = ask(&test, &backup).await;

    // A worker in a runtime of its own: all that it is vanishes with that runtime, as with a killed process.
    let lost = tokio::runtime::Runtime::new().unwrap();
    let parts = (test.app.config.clone(), test.app.control.clone(), test.app.tools.clone(), test.app.keys.clone());
    let waiting = Arc::clone(&gate);
    lost.spawn(async move {
        let (config, control, tools, keys) = parts;
        let mut app = App::open((*config).clone(), control, tools, (*keys).clone()).await.unwrap();
        let second = Stubborn::new(app.storages.get("second").unwrap(), [Answer::Good, Answer::Wait(waiting)]);
        app.storages.insert("second".to_owned(), second);
        worker::run(app, CancellationToken::new()).await.unwrap();
    });
    gate.reached.acquire().await.unwrap().forget();
    assert_eq!(statuses(&test, &backup).await, pairs(&[("first", "deleted"), ("second", "good")]));
    lost.shutdown_background();

    let first = answer(&mut test, "first", []);
    let job = test.run(job.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    assert_eq!(first.asked(), Vec::<String>::new(), "the first copy was confirmed before");
    assert!(is_gone(&test, &backup).await && test.stored_files().is_empty());
    let ends = events(&test, &backup).await.iter().filter(|(event, _)| event == "deleted").count();
    assert_eq!(ends, 1);
}

#[tokio::test]
async fn a_copy_that_appears_while_the_others_go_is_deleted_too() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    let gate = Gate::new();
    answer(&mut test, "second", [Answer::Wait(Arc::clone(&gate))]);
    // Another worker is making a third copy meanwhile: what it leaves under the final name is as good as this file.
    let key = backup.file_id.clone().unwrap();
    let third = test.directory.path().join("storage/third").join(&key);
    std::fs::create_dir_all(third.parent().unwrap()).unwrap();
    std::fs::write(&third, b"a third copy").unwrap();
    let job = ask(&test, &backup).await;
    let deletion = test.run(job.job_id());
    let making = async {
        gate.reached.acquire().await.unwrap().forget();
        sqlx::query(
            "INSERT INTO control_plane.backup_copies (backup_id, storage, status) VALUES ($1, 'third', 'failed')",
        )
        .bind(backup.id)
        .execute(&test.app.pool)
        .await
        .unwrap();
        gate.open.add_permits(1);
    };
    let (job, ()) = tokio::join!(deletion, making);
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["deleted"], json!(["first", "second", "third"]));
    assert!(test.stored_files().is_empty(), "{:#?}", test.stored_files());
}

#[tokio::test]
async fn a_copy_that_is_being_made_is_told_to_stop_and_waited_for() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    // The job that makes it, held by another worker.
    let repair = JobId::generate();
    sqlx::query(
        "INSERT INTO control_plane.jobs (id, type, status, project_id, payload, attempts, lease_token, lease_expires_at)
         VALUES ($1, 'repair_copies', 'in_progress', 'acme', jsonb_build_object('request', jsonb_build_object('backup_id', $2)), 1, $1,
                 now() + interval '1 hour')",
    )
    .bind(repair.0)
    .bind(backup.id)
    .execute(&test.app.pool)
    .await
    .unwrap();
    let job = ask(&test, &backup).await.job_id();
    let row = async |id| queue::get(&test.app.pool, &everything(), id).await.unwrap();
    assert!(row(repair).await.cancel_requested);
    let stopping = async {
        let begun = Instant::now();
        while !row(job).await.error_message.is_some_and(|said| said.contains("still being made")) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the deletion does not wait: {:?}", row(job).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(test.stored_files().len(), 4, "nothing was touched");
        sqlx::query("UPDATE control_plane.jobs SET status = 'cancelled' WHERE id = $1")
            .bind(repair.0)
            .execute(&test.app.pool)
            .await
            .unwrap();
    };
    let (ended, ()) = tokio::join!(test.run(job), stopping);
    assert_eq!(ended.status, "completed", "{:?}", ended.error_message);
    assert!(ended.attempts >= 2 && test.stored_files().is_empty());
}

#[tokio::test]
async fn what_a_failed_backup_has_left_under_its_name_is_deleted_with_it() {
    let test = scene().await;
    test.add_schema_project("ghost", "tenant_ghost").await;
    let failed = test.back_up(export("ghost")).await;
    assert_eq!(failed.status, "failed");
    let id = serde_json::from_value(failed.payload["backup_id"].clone()).unwrap();
    let backup = history::get(&test.app.pool, &everything(), id).await.unwrap();
    // As if the storage had been away when the attempts' leftovers were cleared.
    let left = test.directory.path().join("storage/second").join(failed.payload["key"].as_str().unwrap());
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, b"half a dump").unwrap();
    let job = test.run(ask(&test, &backup).await.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert!(is_gone(&test, &backup).await && !left.exists());
}

#[tokio::test]
async fn a_deletion_that_is_cancelled_before_it_began_leaves_the_backup_as_it_was() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    let job = ask(&test, &backup).await;
    let cancelled = request::cancel(&test.app, &caller(), job.job_id()).await.unwrap();
    assert_eq!(cancelled.status, "cancelled");
    assert_eq!(again(&test, &backup).await.status, "completed");
    let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Read };
    let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.result.unwrap()["outcome"], "verified");
}

#[tokio::test]
async fn a_deletion_that_was_handed_back_and_is_cancelled_does_not_bring_the_backup_back() {
    let mut test = scene().await;
    Arc::make_mut(&mut test.app.config).worker.shutdown_seconds = 0;
    let backup = test.backup(export("acme")).await;
    let gate = Gate::new();
    answer(&mut test, "second", [Answer::Wait(Arc::clone(&gate))]);
    let job = ask(&test, &backup).await.job_id();
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker::run(test.app.clone(), stop.clone()));
    gate.reached.acquire().await.unwrap().forget();
    stop.cancel();
    working.await.unwrap().unwrap();
    let waiting = queue::get(&test.app.pool, &everything(), job).await.unwrap();
    assert_eq!((waiting.status.as_str(), waiting.attempts), ("pending", 0), "handed back");
    let asked = request::cancel(&test.app, &caller(), job).await.unwrap();
    assert_eq!((asked.status.as_str(), asked.cancel_requested), ("pending", true), "a copy is gone: a worker ends it");
    assert_eq!(test.run(job).await.status, "cancelled");
    assert_eq!(again(&test, &backup).await.status, "deleted");
    assert_eq!(statuses(&test, &backup).await, pairs(&[("first", "deleted"), ("second", "good")]));
}

#[tokio::test]
async fn a_deletion_that_is_cancelled_on_its_way_stops_and_keeps_what_it_did() {
    let mut test = scene().await;
    let backup = test.backup(export("acme")).await;
    let gate = Gate::new();
    answer(&mut test, "second", [Answer::Wait(Arc::clone(&gate))]);
    let job = ask(&test, &backup).await.job_id();
    let begun = Instant::now();
    let cancelling = async {
        gate.reached.acquire().await.unwrap().forget();
        request::cancel(&test.app, &caller(), job).await.unwrap();
    };
    let (ended, ()) = tokio::join!(test.run(job), cancelling);
    assert_eq!(ended.status, "cancelled");
    assert!(begun.elapsed() < Duration::from_secs(30), "a storage that hangs does not hold it up");
    assert_eq!(again(&test, &backup).await.status, "deleted");
    assert_eq!(statuses(&test, &backup).await, pairs(&[("first", "deleted"), ("second", "good")]));
    // It was not meant so; a day later nobody else looks after what is left.
    delete_backup::enqueue_due(&test.app).await.unwrap();
    let newest = async || {
        let pool = &test.app.pool;
        queue::newest_about(pool, JobType::DeleteBackup, "acme", backup.backup_id()).await.unwrap().unwrap()
    };
    assert_eq!(newest().await.job_id(), job);
    let sql = "UPDATE control_plane.jobs SET finished_at = now() - interval '25 hours' WHERE type = 'delete_backup'";
    sqlx::query(sql).execute(&test.app.pool).await.unwrap();
    delete_backup::enqueue_due(&test.app).await.unwrap();
    assert_eq!(newest().await.status, "pending");
    // Asked for again, it goes on.
    let next = test.run(ask(&test, &backup).await.job_id()).await;
    assert_eq!(next.status, "completed", "{:?}", next.error_message);
    assert!(test.stored_files().is_empty());
}

#[tokio::test]
async fn a_deletion_stops_every_job_that_makes_copies_of_its_backup() {
    let test = scene().await;
    let backup = test.backup(export("acme")).await;
    let sql = "INSERT INTO control_plane.jobs (type, status, project_id, payload, lease_token, lease_expires_at, started_at)
               SELECT 'repair_copies', s, 'acme', jsonb_build_object('request', jsonb_build_object('backup_id', $1::text)), gen_random_uuid(),
                      now() + interval '1 hour', CASE WHEN s = 'in_progress' THEN now() END
               FROM unnest(ARRAY['in_progress', 'pending', 'pending']) s";
    sqlx::query(sql).bind(backup.id.to_string()).execute(&test.app.pool).await.unwrap();
    ask(&test, &backup).await;
    let told: Vec<(String, bool)> = sqlx::query_as(
        "SELECT status, cancel_requested FROM control_plane.jobs WHERE type = 'repair_copies' ORDER BY status",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    let expected = ["cancelled", "cancelled", "in_progress"].map(|status| (status.to_owned(), true));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_row_that_names_no_copy_goes_and_says_what_file_was_not_deleted() {
    let test = scene().await;
    let id = holdfast::ids::BackupId::generate();
    sqlx::query(
        "INSERT INTO control_plane.backups (id, project_id, type, file_id) VALUES ($1, 'acme', 'database', 'BQACAgI')",
    )
    .bind(id.0)
    .execute(&test.app.pool)
    .await
    .unwrap();
    let foreign = history::get(&test.app.pool, &everything(), id).await.unwrap();
    let job = test.run(ask(&test, &foreign).await.job_id()).await;
    let remains = json!([{ "storage": "elsewhere", "what": "the file BQACAgI, recorded but not managed here" }]);
    assert_eq!(job.result.unwrap(), json!({ "backup_id": id, "deleted": [], "remains": remains }));
    assert!(is_gone(&test, &foreign).await);
    assert!(history::is_buried(&test.app.pool, id).await.unwrap());
}
