//! Backups and restores that must fail: with the tool's own words, nothing under a final name, nothing touched.

use crate::support;

use holdfast::{
    catalog::{self, CatalogError},
    demo::{compare, sample},
    history,
    ids::BackupId,
    jobs::{
        queue::Job,
        request::{self, Export, RequestError, RestoreRequest},
    },
    postgres::connect::ConnectInfo,
};
use sqlx::Executor;
use support::app::{TestApp, caller, everything, export};

async fn with_acme(test: &TestApp) -> sqlx::PgConnection {
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    connection
}

async fn backup_of(test: &TestApp, job: &Job) -> history::Backup {
    let id: BackupId = serde_json::from_value(job.payload["backup_id"].clone()).unwrap();
    history::get(&test.app.pool, &everything(), id).await.unwrap()
}

#[tokio::test]
async fn an_unknown_or_inactive_project_is_refused_before_anything_is_written() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let unknown = request::export(&test.app, &caller(), &export("nobody"), None).await.unwrap_err();
    assert_eq!(unknown.code(), "project.not_found");
    test.app.pool.execute("UPDATE control_plane.projects SET status = 'SUSPENDED'").await.unwrap();
    let inactive = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap_err();
    assert_eq!(inactive.code(), "project.not_active");
    assert!(inactive.to_string().contains("SUSPENDED"), "{inactive}");
    let rows: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM control_plane.jobs) + (SELECT count(*) FROM control_plane.backups)",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_project_that_leaves_active_while_its_job_waits_is_not_backed_up() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let job = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    test.app.pool.execute("UPDATE control_plane.projects SET status = 'DELETED'").await.unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    assert!(matches!(
        catalog::project(&test.app.pool, &everything(), "acme").await.unwrap().require_active(),
        Err(CatalogError::NotActive { .. })
    ));
    assert_eq!(test.stored_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_schema_that_is_not_there_fails_at_once_and_names_it() {
    let test = TestApp::new().await;
    test.add_schema_project("ghost", "tenant_ghost").await;
    let job = test.back_up(export("ghost")).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "no attempt can help");
    let backup = backup_of(&test, &job).await;
    assert_eq!(backup.status, "failed");
    assert!(backup.message.unwrap().contains("tenant_ghost"));
    assert_eq!(test.stored_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_three_times_and_then_named() {
    let test = TestApp::new().await;
    let info: ConnectInfo = "postgres://u@127.0.0.1:1/app".parse().unwrap();
    let sealed = test.app.keys.seal_database("down", &info).unwrap();
    catalog::add_database(&test.app.pool, "down", &sealed, &info.to_string()).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    test.app.pool.execute("UPDATE control_plane.projects SET database_name = 'down'").await.unwrap();
    let job = test.back_up(export("acme")).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 3));
    let message = job.error_message.unwrap();
    assert!(message.contains("after 3 attempts") && message.contains("127.0.0.1"), "{message}");
}

#[tokio::test]
async fn an_artifact_that_grows_beyond_its_limit_fails_and_leaves_nothing() {
    let test = TestApp::with(|config| config.backup.max_size = holdfast::byte_size::ByteSize::kib(4)).await;
    with_acme(&test).await;
    let job = test.back_up(export("acme")).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    assert!(job.error_message.unwrap().contains("4 KiB"));
    assert_eq!(test.stored_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_dump_that_takes_too_long_fails_and_leaves_nothing() {
    let test = TestApp::with(|config| config.backup.timeout_seconds = 1).await;
    with_acme(&test).await;
    let mut locker = test.tenants().await;
    let table: String =
        sqlx::query_scalar("SELECT min(quote_ident(tablename)) FROM pg_tables WHERE schemaname = 'tenant_acme'")
            .fetch_one(&mut locker)
            .await
            .unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; LOCK TABLE tenant_acme.{table}")))
        .execute(&mut locker)
        .await
        .unwrap();
    let job = test.back_up(export("acme")).await;
    assert_eq!(job.status, "failed");
    let message = job.error_message.unwrap();
    assert!(message.contains("1 s") || message.contains("1 second"), "{message}");
    assert_eq!(test.stored_files(), Vec::<std::path::PathBuf>::new());
}

/// Every artifact of one stored backup.
fn artifact(test: &TestApp) -> std::path::PathBuf {
    test.stored_files().into_iter().find(|path| !path.to_string_lossy().ends_with(".manifest.json")).unwrap()
}

#[tokio::test]
async fn a_cut_or_altered_artifact_is_refused_before_the_target_is_touched() {
    for encrypted in [true, false] {
        let test = TestApp::with(|config| config.encryption.enabled = encrypted).await;
        let mut connection = with_acme(&test).await;
        let backup = test.backup(export("acme")).await;
        let path = artifact(&test);
        let good = std::fs::read(&path).unwrap();
        let before = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
        let oid = "SELECT oid::int8 FROM pg_namespace WHERE nspname = 'tenant_acme'";
        let oid_before: i64 = sqlx::query_scalar(oid).fetch_one(&mut connection).await.unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        let mut longer = good.clone();
        longer.extend_from_slice(b"\n-- more");
        for (what, bytes) in [
            ("cut", &good[..good.len() - 1]),
            ("empty", &good[..0]),
            ("flipped", &flipped[..]),
            ("longer", &longer[..]),
        ] {
            std::fs::write(&path, bytes).unwrap();
            for sql in [
                "UPDATE control_plane.backup_copies SET status = 'good'",
                "UPDATE control_plane.backups SET status = 'completed', message = NULL",
            ] {
                test.app.pool.execute(sql).await.unwrap();
            }
            let job = test.restore(&backup).await;
            assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{what}: {:?}", job.error_message);
            assert!(job.error_message.unwrap().contains("damaged"), "{what}");
            let copies = history::copies(&test.app.pool, &[backup.id]).await.unwrap();
            assert_eq!(copies[0].status, "damaged", "{what}");
            let now = history::get(&test.app.pool, &everything(), backup.backup_id()).await.unwrap();
            assert_eq!(now.status, "damaged", "{what}: no copy is good any more");
            let oid_now: i64 = sqlx::query_scalar(oid).fetch_one(&mut connection).await.unwrap();
            assert_eq!(oid_now, oid_before, "{what}: the schema was never moved");
        }
        let restores: i64 =
            sqlx::query_scalar("SELECT count(*) FROM control_plane.restores").fetch_one(&test.app.pool).await.unwrap();
        assert_eq!(restores, 0, "nothing was begun");
        let now = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
        assert_eq!(compare::diff(&before, &now), Vec::<String>::new());
    }
}

#[tokio::test]
async fn without_the_identity_a_restore_says_so_and_touches_nothing() {
    let mut test = TestApp::new().await;
    with_acme(&test).await;
    let backup = test.backup(export("acme")).await;
    let mut keys = (*test.app.keys).clone();
    keys.identities = holdfast::transform::Identities::none();
    test.app.keys = std::sync::Arc::new(keys);
    let job = test.restore(&backup).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("identity"));
    let again = test.back_up(export("acme")).await;
    assert_eq!(again.status, "completed", "taking a backup needs the public key only: {:?}", again.error_message);
}

#[tokio::test]
async fn requests_that_cannot_be_meant_are_refused_with_the_field() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let custom = Export {
        format: Some(holdfast::artifact::Format::Custom),
        compression: Some(holdfast::artifact::Compression::Gzip),
        ..export("acme")
    };
    let past = Export { expires_at: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..export("acme") };
    let storage = Export { storages: vec!["nowhere".to_owned()], ..export("acme") };
    let mail = Export { notify_email: Some("a@b.example\r\nBcc: x@y.example".to_owned()), ..export("acme") };
    for (request, code) in [
        (custom, "request.compression"),
        (past, "request.expires_at"),
        (storage, "request.storage"),
        (mail, "request.notify_email"),
    ] {
        let error = request::export(&test.app, &caller(), &request, None).await.unwrap_err();
        assert!(matches!(error, RequestError::Invalid { .. }) && error.code() == code, "{error:?}");
    }
    let missing = RestoreRequest::in_place(BackupId::generate());
    assert_eq!(request::restore(&test.app, &caller(), &missing, None).await.unwrap_err().code(), "backup.not_found");
}

#[tokio::test]
async fn a_notice_is_queued_for_the_address_that_the_request_named() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    test.backup(Export { notify_email: Some("ops@example.com".to_owned()), ..export("acme") }).await;
    let notices: Vec<(String, String, String)> =
        sqlx::query_as("SELECT event, channel, recipient FROM control_plane.notices")
            .fetch_all(&test.app.pool)
            .await
            .unwrap();
    assert_eq!(notices, [("completed".to_owned(), "email".to_owned(), "ops@example.com".to_owned())]);
}

#[tokio::test]
async fn a_job_that_the_platform_itself_inserts_is_run_as_well() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let id: uuid::Uuid = sqlx::query_scalar(
        "INSERT INTO control_plane.jobs (type, project_id, payload) VALUES ('export_backup', 'acme', '{\"project_id\": \"acme\", \"format\": \"tar\"}') RETURNING id",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    let job = test.run(id.into()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let backup = backup_of(&test, &job).await;
    assert_eq!((backup.status.as_str(), backup.format.as_deref()), ("completed", Some("tar")));
}

#[tokio::test]
async fn a_running_backup_is_cancelled_and_leaves_nothing() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let mut locker = test.tenants().await;
    let table: String =
        sqlx::query_scalar("SELECT min(quote_ident(tablename)) FROM pg_tables WHERE schemaname = 'tenant_acme'")
            .fetch_one(&mut locker)
            .await
            .unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; LOCK TABLE tenant_acme.{table}")))
        .execute(&mut locker)
        .await
        .unwrap();
    let job = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    let cancel = async {
        loop {
            let row = holdfast::jobs::queue::get(&test.app.pool, &everything(), job.job_id()).await.unwrap();
            if row.lease_owner.is_some() {
                return request::cancel(&test.app, &caller(), job.job_id()).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let (job, _) = tokio::join!(test.run(job.job_id()), cancel);
    assert_eq!((job.status.as_str(), job.attempts), ("cancelled", 1));
    assert_eq!(backup_of(&test, &job).await.status, "cancelled");
    assert_eq!(test.stored_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_notification_that_nobody_asked_for_cancels_nothing() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let mut locker = test.tenants().await;
    let table: String =
        sqlx::query_scalar("SELECT min(quote_ident(tablename)) FROM pg_tables WHERE schemaname = 'tenant_acme'")
            .fetch_one(&mut locker)
            .await
            .unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; LOCK TABLE tenant_acme.{table}")))
        .execute(&mut locker)
        .await
        .unwrap();
    let job = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    let notify = async {
        loop {
            let row = holdfast::jobs::queue::get(&test.app.pool, &everything(), job.job_id()).await.unwrap();
            if row.lease_owner.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Whoever may connect to the database of the control plane can do this.
        for _ in 0..10 {
            sqlx::query("SELECT pg_notify('holdfast_cancel', $1)")
                .bind(job.id.to_string())
                .execute(&test.app.pool)
                .await
                .unwrap();
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.unwrap();
    };
    let (job, ()) = tokio::join!(test.run(job.job_id()), notify);
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{:?}", job.error_message);
}

#[tokio::test]
async fn a_request_repeated_under_its_key_gives_the_same_job_whatever_has_changed_since() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    let first = request::export(&test.app, &caller(), &export("acme"), Some("k")).await.unwrap();
    test.app.pool.execute("UPDATE control_plane.projects SET status = 'DELETED'").await.unwrap();
    let again = request::export(&test.app, &caller(), &export("acme"), Some("k")).await.unwrap();
    assert_eq!(again.id, first.id);
    let other = Export { format: Some(holdfast::artifact::Format::Tar), ..export("acme") };
    let reused = request::export(&test.app, &caller(), &other, Some("k")).await.unwrap_err();
    assert_eq!(reused.code(), "idempotency.reused");
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.backups").fetch_one(&test.app.pool).await.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_platforms_job_that_fails_closes_its_backup_and_needs_its_project_in_the_payload_only() {
    let test = TestApp::new().await;
    test.add_schema_project("ghost", "tenant_ghost").await;
    let insert = "INSERT INTO control_plane.jobs (type, payload) VALUES ('export_backup', $1) RETURNING id";
    let payload = serde_json::json!({ "project_id": "ghost", "notify_email": "ops@example.com" });
    let id: uuid::Uuid = sqlx::query_scalar(insert).bind(payload).fetch_one(&test.app.pool).await.unwrap();
    let job = test.run(id.into()).await;
    assert_eq!((job.status.as_str(), job.project_id.as_deref()), ("failed", Some("ghost")));
    let backup = backup_of(&test, &job).await;
    assert_eq!(backup.status, "failed");
    assert!(backup.message.unwrap().contains("tenant_ghost"));
    let notices: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.notices WHERE event = 'failed'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(notices, 1);

    let without: uuid::Uuid =
        sqlx::query_scalar(insert).bind(serde_json::json!({})).fetch_one(&test.app.pool).await.unwrap();
    let job = test.run(without.into()).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("names no project"));
}

/// Puts an ended job back to the moment in which its worker was lost: the lease has lapsed, nothing is written down.
async fn lose_the_end_of(test: &TestApp, job: &Job) {
    let id: BackupId = serde_json::from_value(job.payload["backup_id"].clone()).unwrap();
    for sql in [
        "UPDATE control_plane.jobs SET status = 'in_progress', attempts = 1, finished_at = NULL, result = NULL, \
         lease_token = gen_random_uuid(), lease_expires_at = now() - interval '1 second' WHERE payload ->> 'backup_id' = $1::text",
        "UPDATE control_plane.backups SET status = 'in_progress', manifest = NULL WHERE id::text = $1::text",
        "DELETE FROM control_plane.backup_copies WHERE backup_id::text = $1::text",
    ] {
        sqlx::query(sql).bind(id.to_string()).execute(&test.app.pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_that_a_lost_worker_had_stored_is_taken_over_and_a_copy_that_is_missing_is_named_and_made_again() {
    let test = TestApp::with(|config| {
        let root = config.data_dir.join("storage");
        for name in ["first", "second"] {
            let local = holdfast::config::LocalStorageConfig::new(root.join(name));
            config.storages.insert(name.to_owned(), holdfast::config::StorageConfig::Local(local));
        }
        config.storages.remove("local");
    })
    .await;
    with_acme(&test).await;
    let job = test.back_up(export("acme")).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let before = backup_of(&test, &job).await;
    let files = test.stored_files();
    assert_eq!(files.len(), 4, "{files:#?}");

    lose_the_end_of(&test, &job).await;
    let job = test.run(job.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    let after = backup_of(&test, &job).await;
    assert_eq!((after.status.as_str(), &after.sha256), ("completed", &before.sha256), "taken over, not dumped again");

    lose_the_end_of(&test, &job).await;
    let manifest = files
        .iter()
        .find(|path| path.to_string_lossy().contains("/second/") && path.to_string_lossy().ends_with(".json"))
        .unwrap();
    std::fs::remove_file(manifest).unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let after = backup_of(&test, &job).await;
    let events = history::events(&test.app.pool, &everything(), after.backup_id()).await.unwrap();
    let completed = events.iter().rfind(|event| event.event == "completed").unwrap();
    assert_eq!(
        completed.detail["storages_missing"],
        serde_json::json!(["second"]),
        "the copy that is missing is named"
    );
    assert_eq!(completed.detail["copies_missing"], 1);

    let repair: uuid::Uuid = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE type = 'repair_copies'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    let job = test.run(repair.into()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let copies: Vec<(String, String)> = history::copies(&test.app.pool, &[after.id])
        .await
        .unwrap()
        .into_iter()
        .map(|copy| (copy.storage, copy.status))
        .collect();
    assert_eq!(copies, [("first".to_owned(), "good".to_owned()), ("second".to_owned(), "good".to_owned())]);
    assert_eq!(test.stored_files(), files, "made from the other copy");
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_deletes_nothing() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    let lease_for = std::time::Duration::from_secs(60);
    let first = holdfast::jobs::queue::claim(&test.app.pool, "first", lease_for).await.unwrap().unwrap();
    test.app
        .pool
        .execute("UPDATE control_plane.jobs SET lease_expires_at = now() - interval '1 second'")
        .await
        .unwrap();
    let second = holdfast::jobs::queue::claim(&test.app.pool, "second", lease_for).await.unwrap().unwrap();
    let mut deleted = Vec::new();
    for (name, lease) in [("first", first.lease), ("second", second.lease)] {
        let work = async {
            deleted.push(name);
            Ok::<_, holdfast::jobs::queue::QueueError>(())
        };
        let outcome = holdfast::jobs::queue::while_held(&test.app.pool, lease, lease_for, work).await;
        assert_eq!(outcome.is_ok(), name == "second", "{name}");
    }
    assert_eq!(deleted, ["second"]);
}

#[tokio::test]
async fn a_dump_that_replaces_the_platforms_function_while_it_is_loaded_is_refused() {
    let test = TestApp::new().await;
    let mut connection = with_acme(&test).await;
    // The tenant's own check constraint runs when its rows are copied in; the platform's function is not its to change.
    connection
        .execute(
            "CREATE FUNCTION tenant_acme.platform_price(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
             CREATE FUNCTION tenant_acme.looks_harmless(n int) RETURNS boolean LANGUAGE plpgsql AS $f$
             BEGIN
                 IF current_user LIKE 'hf\\_restore\\_%' THEN
                     EXECUTE 'CREATE OR REPLACE FUNCTION tenant_acme.platform_price(n int) RETURNS int
                              LANGUAGE sql SECURITY DEFINER AS ''SELECT n * 1000''';
                 END IF;
                 RETURN true;
             END $f$;
             CREATE TABLE tenant_acme.trap (n int CHECK (tenant_acme.looks_harmless(n)));
             INSERT INTO tenant_acme.trap VALUES (1);",
        )
        .await
        .unwrap();
    let before = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
    let backup = test.backup(export("acme")).await;
    let job = test.restore(&backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{:?}", job.result);
    assert!(job.error_message.unwrap().contains("platform_price"), "the function is named");
    let now = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
    assert_eq!(compare::diff(&before, &now), Vec::<String>::new(), "everything is as it was");
}
