//! Jobs that a program queues, or a platform puts into the table itself; and what jobs make of files that were sent.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use holdfast::{
    config::{S3StorageConfig, StorageConfig},
    history::PgLedger,
    ids::JobId,
    integration::{BackupIntegration, BackupResult},
    jobs::{
        JobType,
        queue::Job,
        request::{self, DeleteRequest, RestoreRequest},
    },
    storage::s3::S3Storage,
};
use serde_json::json;
use sqlx::Executor;

use super::{
    scene::{Scene, bytes, deleted, file, verified},
    support::{
        app::{TestApp, caller},
        s3_server::{BUCKET, S3Server},
    },
};

async fn with_a_tenant() -> TestApp {
    let test = TestApp::new().await;
    test.add_schema_project("acme", "tenant_acme").await;
    let mut tenants = test.tenants().await;
    tenants.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t AS SELECT 42 AS n;").await.unwrap();
    test
}

#[tokio::test]
async fn a_queued_job_and_a_row_of_the_platforms_own_are_both_run() {
    let test = with_a_tenant().await;
    let integration = BackupIntegration::new(&test.app, "local").await.unwrap();
    let payload = json!({ "project_id": "acme", "format": "sql", "compression": "zstd" });
    let queued = integration.enqueue(JobType::ExportBackup, payload.clone()).await.unwrap();
    assert_eq!((queued.status.as_str(), &queued.payload), ("pending", &payload));
    let inserted: uuid::Uuid =
        sqlx::query_scalar("INSERT INTO control_plane.jobs (type, payload) VALUES ('export_backup', $1) RETURNING id")
            .bind(&payload)
            .fetch_one(&test.app.pool)
            .await
            .unwrap();
    let mut backups = Vec::new();
    for job in [queued.job_id(), JobId(inserted)] {
        let job = test.run(job).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        backups.push(job.result.unwrap()["backup_id"].clone());
    }
    let completed: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.backups WHERE project_id = 'acme' AND status = 'completed'",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(completed, 2);

    // The other kinds, of one of those backups.
    let verify = json!({ "backup_id": backups[0], "depth": "read" });
    let verify = integration.enqueue(JobType::VerifyBackup, verify).await.unwrap();
    assert_eq!(test.run(verify.job_id()).await.status, "completed");
    let restore = integration.enqueue(JobType::RestoreBackup, json!({ "backup_id": backups[1] })).await.unwrap();
    assert_eq!(test.run(restore.job_id()).await.status, "completed");
    let undo = json!({ "restore_job_id": restore.id });
    let undo = integration.enqueue(JobType::UndoRestore, undo).await.unwrap();
    assert_eq!(test.run(undo.job_id()).await.status, "completed");
}

#[tokio::test]
async fn a_job_that_could_not_be_run_is_not_queued() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    for (job_type, payload, expected) in [
        (JobType::ExportBackup, json!({ "project_id": "nobody" }), "project.not_found"),
        (JobType::ExportBackup, json!({}), "project.not_found"),
        (JobType::ExportBackup, json!({ "project_id": "acme", "format": "zip" }), "job.payload"),
        (JobType::ExportBackup, json!([]), "job.payload"),
        (JobType::RestoreBackup, json!({ "backup_id": JobId::generate() }), "job.type"),
        (JobType::DropReplaced, json!({}), "job.type"),
    ] {
        let refused = integration.enqueue(job_type, payload).await.unwrap_err();
        assert_eq!(refused.code, expected, "{refused:?}");
    }
    assert_eq!(scene.count("jobs").await, 0);
}

#[tokio::test]
async fn with_the_database_down_a_job_is_not_queued_and_that_may_pass() {
    let scene = Scene::new().await;
    let integration = scene.integration();
    scene.database_goes_down().await;
    let refused = integration.enqueue(JobType::ExportBackup, json!({ "project_id": "acme" })).await.unwrap_err();
    scene.database_comes_back().await;
    assert_eq!((refused.code.as_str(), refused.may_pass), ("control_plane.unavailable", true));
}

#[tokio::test]
async fn a_sent_file_is_verified_like_any_backup_and_not_restored() {
    let test = with_a_tenant().await;
    let integration = BackupIntegration::new(&test.app, "local").await.unwrap();
    let result = integration.send_and_record(file(bytes(3_000_000))).await;
    assert!(result.success, "{result:?}");
    let id = result.database_record.unwrap().id;
    for depth in ["head", "read"] {
        let job = integration.enqueue(JobType::VerifyBackup, json!({ "backup_id": id, "depth": depth })).await.unwrap();
        let job = test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified");
    }
    let verified: Option<String> =
        sqlx::query_scalar("SELECT verified_depth FROM control_plane.backups").fetch_one(&test.app.pool).await.unwrap();
    assert_eq!(verified.as_deref(), Some("read"));
    let refused = request::restore(&test.app, &caller(), &RestoreRequest::in_place(id), None).await;
    assert_eq!(refused.unwrap_err().code(), "backup.not_restorable");
    // Nor is it tried in a scratch database.
    let job = integration.enqueue(JobType::VerifyBackup, json!({ "backup_id": id, "depth": "restore" })).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.status, "failed");
}

#[tokio::test]
async fn a_deletion_leaves_what_was_given_the_same_name_since() {
    let test = with_a_tenant().await;
    let integration = BackupIntegration::new(&test.app, "local").await.unwrap();
    let first = integration.send_and_record(file(bytes(10_000))).await;
    // Somebody tidies up by hand, and the name is free again.
    test.stored_files().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let second = integration.send_and_record(file(bytes(20_000))).await;
    let name = |result: &BackupResult| result.telegram_metadata.as_ref().unwrap().name.clone();
    assert_eq!(name(&first), name(&second));
    // While a second one is being sent, its manifest is not there yet.
    let (manifest, away) = (manifest_of(&test), test.directory.path().join("manifest"));
    std::fs::rename(&manifest, &away).unwrap();
    let job = delete(&test, &first).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let result = job.result.unwrap();
    assert!(result["remains"][0]["what"].as_str().unwrap().contains("may be another backup's"), "{result}");
    std::fs::rename(&away, &manifest).unwrap();
    verified(&test, &integration, &second).await;

    // Once it is there, it says whose the name is.
    test.stored_files().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let third = integration.send_and_record(file(bytes(30_000))).await;
    assert_eq!(name(&second), name(&third));
    deleted(&test, &second).await;
    verified(&test, &integration, &third).await;
    deleted(&test, &third).await;
    assert!(test.stored_files().is_empty());
}

fn manifest_of(test: &TestApp) -> PathBuf {
    let mut files = test.stored_files().into_iter();
    files.find(|path| path.to_string_lossy().ends_with(".manifest.json")).expect("a manifest")
}

async fn delete(test: &TestApp, result: &BackupResult) -> Job {
    let asked = DeleteRequest { backup_id: result.database_record.as_ref().unwrap().id };
    let job = request::delete(&test.app, &caller(), &asked, None).await.unwrap();
    test.run(job.job_id()).await
}

#[tokio::test]
async fn a_deletion_goes_where_its_row_says_when_the_name_is_anothers_below_a_new_prefix_or_in_a_new_bucket() {
    let server = S3Server::start().await;
    std::fs::create_dir(server.root.path().join("elsewhere")).unwrap();
    let mut test = with_a_tenant().await;
    let mut sent = Vec::new();
    for (bucket, prefix, length) in [(BUCKET, "one", 10_000), (BUCKET, "two", 20_000), ("elsewhere", "", 30_000)] {
        let config = S3StorageConfig { bucket: bucket.into(), prefix: prefix.into(), ..server.config() };
        let storage = S3Storage::open("bucket", &config, Arc::new(PgLedger::new(test.app.pool.clone()))).unwrap();
        test.app.storages.insert("bucket".to_owned(), Arc::new(storage));
        let settings = StorageConfig::S3(Box::new(config));
        Arc::make_mut(&mut test.app.config).storages.insert("bucket".to_owned(), settings);
        let integration = BackupIntegration::new(&test.app, "bucket").await.unwrap();
        if prefix == "two" {
            // Nothing has the name here yet, and what is below the other prefix is still read.
            verified(&test, &integration, &sent[0]).await;
        }
        sent.push(integration.send_and_record(file(bytes(length))).await);
        if prefix == "two" {
            // The name below this prefix is the second one's: the first one is not taken for it.
            verified(&test, &integration, &sent[0]).await;
            deleted(&test, &sent[0]).await;
            let left = server.objects();
            assert!(left.len() == 2 && left.iter().all(|key| key.starts_with("two/")), "{left:?}");
            verified(&test, &integration, &sent[1]).await;
        }
    }
    let names: BTreeSet<_> = sent.iter().map(|result| &result.telegram_metadata.as_ref().unwrap().name).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    // What is in a bucket that the storage no longer has is held, and told.
    let job = delete(&test, &sent[1]).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.as_deref().unwrap().contains("belongs to another bucket"), "{job:?}");
    assert_eq!(server.objects().len(), 2);
    deleted(&test, &sent[2]).await;
}

#[tokio::test]
async fn an_integration_of_a_configuration_makes_no_key_and_reaches_nothing_yet() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("HOLDFAST_DATA_DIR", directory.path().join("data").display().to_string())];
    let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value));
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    // Nothing listens on this port.
    let database = ("DATABASE_URL".to_owned(), "postgres://u:canary@127.0.0.1:1/x".to_owned());
    let config = holdfast::config::load(Some(&empty), &environment.chain([database]).collect()).unwrap();
    let integration = BackupIntegration::open(&config, "local").await.unwrap();
    let result = integration.send_and_record(file(b"x".to_vec())).await;
    assert_eq!(result.error.as_ref().unwrap().code, "key.unavailable");
    assert_eq!(result.details.database_error.as_ref().unwrap().code, "control_plane.unavailable");
    assert!(!serde_json::to_string(&result).unwrap().contains("canary"));
    assert!(!config.data_dir.join("age.key").exists());
    assert!(BackupIntegration::open(&config, "nowhere").await.is_err());
}
