//! Workers that are killed with SIGKILL at any moment, as real processes: another takes the job after the lease; there are never two
//! successes, never a success without a good artifact, and never half a tenant.

use crate::support;

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use holdfast::{
    demo::{compare, sample},
    history::{self, BackupFilter},
    ids::JobId,
    jobs::{
        queue::{self, Job},
        request::{self, RestoreRequest},
    },
    storage,
};
use secrecy::ExposeSecret;
use support::app::{TestApp, caller, everything, export};

/// The seed of a tenant that is large enough for the earlier kills to come while it is read or written.
const LARGE: u32 = 40;

/// `holdfast worker` with nothing in its environment but what it needs.
fn command(test: &TestApp) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .arg("worker")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", test.app.control.to_url().expose_secret())
        .env("HOLDFAST_DATA_DIR", test.directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A worker as a process of its own, on the same control plane and data directory.
struct Worker(Child);

impl Worker {
    fn start(test: &TestApp) -> Self {
        let mut command = command(test);
        command
            .env("HOLDFAST_WORKER_LEASE_SECONDS", "2")
            .env("HOLDFAST_WORKER_POLL_SECONDS", "1")
            .env("HOLDFAST_WORKER_BACKOFF_SECONDS", "1");
        Self(command.spawn().unwrap())
    }

    /// SIGKILL: no chance to tidy up.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn job(test: &TestApp, id: JobId) -> Job {
    queue::get(&test.app.pool, &everything(), id).await.unwrap()
}

async fn wait_until(test: &TestApp, id: JobId, reached: impl Fn(&Job) -> bool) -> Job {
    let begun = Instant::now();
    loop {
        let row = job(test, id).await;
        if reached(&row) {
            return row;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "the job stands still: {row:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts a worker, kills it some time after it took the job, and lets another finish.
async fn kill_one_then_finish(test: &TestApp, id: JobId, after: Duration) -> Job {
    let first = Worker::start(test);
    wait_until(test, id, |job| job.lease_owner.is_some() || job.is_final()).await;
    tokio::time::sleep(after).await; // the moment of the fault, not an order of events
    first.kill();
    let _second = Worker::start(test);
    wait_until(test, id, Job::is_final).await
}

#[tokio::test]
async fn a_backup_whose_worker_is_killed_at_any_moment_is_taken_once_by_another() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", LARGE).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let mut interrupted = 0;
    for (round, after) in [0, 40, 90, 160, 250, 400].into_iter().enumerate() {
        let asked = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
        let ended = kill_one_then_finish(&test, asked.job_id(), Duration::from_millis(after)).await;
        assert_eq!(ended.status, "completed", "round {round}: {:?}", ended.error_message);
        interrupted += usize::from(ended.attempts > 1);
    }
    assert!(interrupted >= 2, "only {interrupted} kills hit a worker at work");
    let filter = BackupFilter { limit: 100, ..BackupFilter::default() };
    let backups = history::list(&test.app.pool, &everything(), &filter).await.unwrap();
    assert_eq!(backups.len(), 6);
    for backup in &backups {
        assert_eq!(backup.status, "completed");
        let copies = history::copies(&test.app.pool, &[backup.id]).await.unwrap();
        assert_eq!(copies.len(), 1);
        let stored =
            storage::fingerprint(test.app.storages.get("local").unwrap().as_ref(), &copies[0].locator().unwrap())
                .await
                .unwrap();
        assert_eq!((stored.bytes as i64, Some(stored.sha256.to_string())), (backup.size, backup.sha256.clone()));
    }
    let visible: Vec<_> = test
        .stored_files()
        .into_iter()
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect();
    assert_eq!(visible.len(), 12, "an artifact and a manifest each, and nothing else under a final name: {visible:#?}");
    let completed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.backup_history WHERE event = 'completed'")
            .fetch_one(&test.app.pool)
            .await
            .unwrap();
    assert_eq!(completed, 6, "one success each");
}

#[tokio::test]
async fn a_restore_whose_worker_is_killed_at_any_moment_ends_whole() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    for (schema, seed) in [("tenant_acme", LARGE), ("tenant_globex", 2)] {
        sample::create_tenant(&mut connection, schema, seed).await.unwrap();
    }
    test.add_schema_project("acme", "tenant_acme").await;
    let good = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
    let neighbour = compare::snapshot(&mut connection, "tenant_globex").await.unwrap();
    let backup = test.backup(export("acme")).await;
    let mut interrupted = 0;
    for (round, after) in [0, 30, 80, 150, 250, 400, 600].into_iter().enumerate() {
        sample::ruin(&mut connection, "tenant_acme").await.unwrap();
        let request = RestoreRequest::in_place(backup.backup_id());
        let asked = request::restore(&test.app, &caller(), &request, None).await.unwrap();
        let ended = kill_one_then_finish(&test, asked.job_id(), Duration::from_millis(after)).await;
        assert_eq!(ended.status, "completed", "round {round}: {:?}", ended.error_message);
        interrupted += usize::from(ended.attempts > 1);
        let now = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
        assert_eq!(compare::diff(&good, &now), Vec::<String>::new(), "round {round}");
    }
    assert!(interrupted >= 2, "only {interrupted} kills hit a worker at work");
    let now = compare::snapshot(&mut connection, "tenant_globex").await.unwrap();
    assert_eq!(compare::diff(&neighbour, &now), Vec::<String>::new(), "the neighbour");
    let kept: Vec<String> = sqlx::query_scalar("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'hf\\_%'")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(
        kept.len(),
        7,
        "one replaced schema for each restore that stands, none of an attempt that was rolled back: {kept:?}"
    );
    let roles: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles r WHERE rolname IN (SELECT plan ->> 'role' FROM control_plane.restores)",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(roles, Vec::<String>::new(), "no restore role outlives its restore");
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_hands_its_job_back() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    // A lock on a table makes pg_dump wait, so that the job is surely running when the worker is told to stop.
    let mut locker = test.tenants().await;
    let table: String =
        sqlx::query_scalar("SELECT min(quote_ident(tablename)) FROM pg_tables WHERE schemaname = 'tenant_acme'")
            .fetch_one(&mut locker)
            .await
            .unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; LOCK TABLE tenant_acme.{table} IN ACCESS EXCLUSIVE MODE")))
        .execute(&mut locker)
        .await
        .unwrap();
    let asked = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    let mut first = command(&test).env("HOLDFAST_WORKER_SHUTDOWN_SECONDS", "1").spawn().unwrap();
    wait_until(&test, asked.job_id(), |job| job.lease_owner.is_some()).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(first.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(first.wait().unwrap().success(), "a stop that was asked for is no failure");
    let row = job(&test, asked.job_id()).await;
    assert_eq!((row.status.as_str(), row.attempts, row.lease_owner), ("pending", 0, None));
    sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.unwrap();
    let _second = Worker::start(&test);
    assert_eq!(wait_until(&test, asked.job_id(), Job::is_final).await.status, "completed");
}
