//! S3 with a control plane: a whole backup there and back, and what several processes share through it.

use crate::support::{self, s3_server};

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use holdfast::{
    config::{S3StorageConfig, StorageConfig},
    demo::sample,
    history::{self, PgLedger},
    ids::LeaseToken,
    jobs::request::{self, Depth, VerifyRequest},
    storage::{ErrorKind, Ledger, Locator, NewObject, Storage, put_whole, s3::S3Storage},
};
use s3_server::{BUCKET, Mishap, S3Server};
use support::app::{TestApp, caller, everything, export};

/// Keeps backups in this server's bucket and nowhere else.
async fn app_with(server: &S3Server) -> TestApp {
    let config = server.config();
    TestApp::with(|c| {
        c.storages.clear();
        c.storages.insert("bucket".to_owned(), StorageConfig::S3(Box::new(config)));
    })
    .await
}

#[tokio::test]
async fn a_backup_goes_to_a_bucket_and_is_restored_from_it() {
    let server = S3Server::start().await;
    let mut test = app_with(&server).await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let before = support::row_digests(&mut connection, "tenant_acme").await;

    let backup = test.backup(export("acme")).await;
    let key = backup.file_id.clone().unwrap();
    assert_eq!(server.objects(), [key.clone(), format!("{key}.manifest.json")]);

    // And when the storage is below another prefix since: the manifest lies where its row says.
    for prefix in ["", "since"] {
        let config = S3StorageConfig { prefix: prefix.into(), ..server.config() };
        let storage = S3Storage::open("bucket", &config, Arc::new(PgLedger::new(test.app.pool.clone()))).unwrap();
        test.app.storages.insert("bucket".to_owned(), Arc::new(storage));
        for depth in [Depth::Head, Depth::Read] {
            let verify = VerifyRequest { backup_id: backup.backup_id(), depth };
            let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
            let job = test.run(job.job_id()).await;
            assert_eq!(job.status, "completed", "{prefix:?}: {:?}", job.error_message);
            assert_eq!(job.result.unwrap()["outcome"], "verified", "{prefix:?}");
        }
        sample::ruin(&mut connection, "tenant_acme").await.unwrap();
        let job = test.restore(&backup).await;
        assert_eq!(job.status, "completed", "{prefix:?}: {:?}", job.error_message);
        assert_eq!(support::row_digests(&mut connection, "tenant_acme").await, before);
    }
}

#[tokio::test]
async fn where_a_copy_is_can_be_written_into_the_history() {
    let server = S3Server::start().await;
    let test = app_with(&server).await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    let at: Locator =
        history::copies(&test.app.pool, &[backup.id]).await.unwrap().remove(0).locator().expect("a stored copy");
    let address = test.app.storages.get("bucket").unwrap().s3_address(&at).unwrap();
    history::set_s3_address(&test.app.pool, backup.backup_id(), &address).await.unwrap();
    let backup = history::get(&test.app.pool, &everything(), backup.backup_id()).await.unwrap();
    let url = format!("{}/{BUCKET}/{}", server.endpoint(), backup.file_id.unwrap());
    assert_eq!(backup.s3_url, Some(url));
    assert_eq!((backup.s3_region.as_deref(), backup.s3_bucket.as_deref()), (Some("eu-central-1"), Some(BUCKET)));
}

#[tokio::test]
async fn what_one_process_left_another_one_sweeps() {
    let server = S3Server::start().await;
    let pool = support::app::control_plane().await;
    let open = || S3Storage::open("bucket", &server.config(), Arc::new(PgLedger::new(pool.clone()))).unwrap();
    let dying = open();
    let name = "backups/acme/left.sql".parse().unwrap();
    let mut upload = dying.create(NewObject::new(&name, LeaseToken::generate())).await.unwrap();
    for _ in 0..2 {
        upload.put(vec![7; 5 << 20].into()).await.unwrap();
    }
    drop((upload, dying));
    assert_eq!(server.uploads(), 1);
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(open().sweep_temporary(later).await.unwrap(), 1);
    assert_eq!(server.uploads(), 0);
    let facts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.storage_ledger").fetch_one(&pool).await.unwrap();
    assert_eq!(facts, 0);
}

#[tokio::test]
async fn without_the_services_help_the_control_planes_lock_keeps_names_from_being_overwritten() {
    let server = S3Server::start().await;
    let pool = support::app::control_plane().await;
    let open = || S3Storage::open("bucket", &server.config(), Arc::new(PgLedger::new(pool.clone()))).unwrap();
    let processes = [open(), open()];
    for process in &processes {
        // From now on it asks without a condition.
        let unknown = Mishap::Answer(501, &[], "<Error><Code>NotImplemented</Code><Message>A header</Message></Error>");
        server.control.befall("PutObject", unknown);
        put_whole(process, &LeaseToken::generate().to_string().parse().unwrap(), LeaseToken::generate(), Bytes::new())
            .await
            .unwrap();
    }
    let name = "backups/acme/raced.sql".parse().unwrap();
    let mut uploads = Vec::new();
    for number in 0..8u8 {
        let process = &processes[usize::from(number) % 2];
        let mut upload = process.create(NewObject::new(&name, LeaseToken::generate())).await.unwrap();
        upload.put(vec![number; 1000].into()).await.unwrap();
        uploads.push(upload);
    }
    let commits = uploads.into_iter().map(|upload| tokio::spawn(upload.commit()));
    let results = futures::future::join_all(commits).await;
    let winners: Vec<usize> = (0..8).filter(|at| results[*at].as_ref().unwrap().is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    for result in &results {
        if let Err(error) = result.as_ref().unwrap() {
            assert_eq!(error.kind, ErrorKind::Exists, "{error}");
        }
    }
    let stored = std::fs::read(server.root.path().join(BUCKET).join("backups/acme/raced.sql")).unwrap();
    assert_eq!(stored, vec![winners[0] as u8; 1000]);
}

#[tokio::test]
async fn a_lock_that_another_process_keeps_is_given_up_in_time() {
    let pool = support::app::control_plane().await;
    let ledger = PgLedger::new(pool).with_lock_timeout(Duration::from_millis(200));
    let theirs = ledger.hold("bucket").await.unwrap();
    let error = ledger.hold("bucket").await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("another process writes to this storage"), "{error}");
    drop(ledger.hold("another bucket").await.unwrap());
    drop(theirs);
    // The server takes a moment to notice that the session is over: no longer than the lock is waited for.
    drop(ledger.with_lock_timeout(Duration::from_secs(30)).hold("bucket").await.unwrap());
}
