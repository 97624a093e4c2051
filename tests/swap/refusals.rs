//! Restores that are refused: with a code and what to do, and nothing is touched.

use holdfast::{
    byte_size::ByteSize,
    history::Backup,
    jobs::request::{self, RestoreRequest},
    tenant::{Caller, Role},
};
use sqlx::Executor;

use super::{TENANT, leftovers, run};
use crate::support::{
    self,
    app::{TestApp, caller, export},
};

/// A tenant, its backup, and a look at all that must stay as it is.
struct Scene {
    test: TestApp,
    c: sqlx::PgConnection,
    backup: Backup,
    before: (i64, String),
}

impl Scene {
    async fn new(keep_free: ByteSize) -> Self {
        let test = TestApp::with(|config| config.restore.keep_free = keep_free).await;
        let mut c = test.tenants().await;
        run(&mut c, TENANT).await;
        test.add_schema_project("acme", "tenant_acme").await;
        let backup = test.backup(export("acme")).await;
        run(&mut c, "UPDATE tenant_acme.more SET state = 2").await;
        let mut scene = Self { test, c, backup, before: Default::default() };
        scene.before = scene.look().await;
        scene
    }

    async fn look(&mut self) -> (i64, String) {
        let oid = sqlx::query_scalar("SELECT oid::int8 FROM pg_namespace WHERE nspname = 'tenant_acme'");
        (oid.fetch_one(&mut self.c).await.unwrap(), support::schema_dump(&self.test.app.control, "tenant_acme").await)
    }

    async fn assert_untouched(&mut self, what: &str) {
        assert!(self.look().await == self.before, "{what}: the tenant is as it was");
        assert_eq!(leftovers(&mut self.c, &self.test).await, Vec::<String>::new(), "{what}");
    }

    async fn set(&self, sql: &str) {
        self.test.app.pool.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    fn request(&self) -> RestoreRequest {
        RestoreRequest::in_place(self.backup.backup_id())
    }
}

#[tokio::test]
async fn what_cannot_be_restored_is_refused_with_a_code_and_a_hint_and_nothing_is_written() {
    let mut scene = Scene::new(ByteSize(0)).await;
    let stranger = Caller { role: Role::Member, project_ids: vec!["globex".parse().unwrap()], ..caller() };
    let job = |r#type: &str, status: &str| {
        format!(
            "INSERT INTO control_plane.jobs (type, project_id, payload, status, lease_owner, lease_token, lease_expires_at) \
             VALUES ('{type}', 'acme', '{{}}', '{status}', 'another', gen_random_uuid(), now() + interval '1 hour')"
        )
    };
    let status = |word: &str| format!("UPDATE control_plane.backups SET status = '{word}'");
    let not_completed = "backup.not_completed";
    // What is so meanwhile, who asks, and the code.
    let cases: [(String, &Caller, &str); 14] = [
        (status("pending"), &caller(), not_completed),
        (status("in_progress"), &caller(), not_completed),
        (status("failed"), &caller(), not_completed),
        (status("cancelled"), &caller(), not_completed),
        (status("expired"), &caller(), not_completed),
        (status("deleted"), &caller(), not_completed),
        (status("damaged"), &caller(), not_completed),
        (status("completed"), &stranger, "backup.not_found"),
        ("UPDATE control_plane.backups SET is_partial = true".to_owned(), &caller(), "backup.partial"),
        ("UPDATE control_plane.backups SET type = 'logs'".to_owned(), &caller(), "backup.not_restorable"),
        (job("restore_backup", "pending"), &caller(), "restore.in_progress"),
        (job("restore_backup", "in_progress"), &caller(), "restore.in_progress"),
        (job("undo_restore", "pending"), &caller(), "restore.in_progress"),
        (job("export_backup", "in_progress"), &caller(), "restore.during_backup"),
    ];
    for (now, who, code) in &cases {
        scene.set(now).await;
        let refused = request::restore(&scene.test.app, who, &scene.request(), None).await.unwrap_err();
        assert_eq!(refused.code(), *code, "{now}: {refused}");
        assert!(refused.hint().is_some() || *code == "backup.not_found", "{now}: {refused}");
        scene.set("UPDATE control_plane.backups SET status = 'completed', is_partial = false, type = 'database'").await;
        scene.set("DELETE FROM control_plane.jobs WHERE lease_owner = 'another'").await;
    }
    let restores: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM control_plane.jobs WHERE type = 'restore_backup') + (SELECT count(*) FROM control_plane.restores)",
    )
    .fetch_one(&scene.test.app.pool)
    .await
    .unwrap();
    assert_eq!(restores, 0);
    scene.assert_untouched("refused").await;

    // Of two that come together one is taken; a backup that waits comes after it.
    request::export(&scene.test.app, &caller(), &export("acme"), None).await.unwrap();
    let (by, request) = (caller(), scene.request());
    let ask = || request::restore(&scene.test.app, &by, &request, None);
    let (first, second) = tokio::join!(ask(), ask());
    let (taken, refused) = if first.is_ok() { (first, second) } else { (second, first) };
    assert_eq!(refused.unwrap_err().code(), "restore.in_progress");
    let job = scene.test.run(taken.unwrap().job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
}

#[tokio::test]
async fn what_only_the_worker_sees_ends_the_job_and_nothing_is_touched() {
    let mut scene = Scene::new(ByteSize(u64::MAX / 2)).await;
    let database = format!("taken_{}", uuid::Uuid::now_v7().simple());
    run(&mut scene.c, &format!("CREATE DATABASE {database} TEMPLATE template0")).await;
    let mut there = support::connect(&scene.test.app.control.with_database(&database)).await;
    run(&mut there, TENANT).await;
    let into = |create_database| RestoreRequest {
        target_database: Some(database.clone()),
        create_database,
        ..scene.request()
    };
    // The disk is too small: never mind which, a huge part of it is to stay free.
    for (request, code, says) in [
        (scene.request(), "restore.no_space", "restore.keep_free"),
        (into(true), "restore.name_taken", "already is a database"),
        (into(false), "restore.name_taken", "already is a schema"),
    ] {
        let job = request::restore(&scene.test.app, &caller(), &request, None).await.unwrap();
        let job = scene.test.run(job.job_id()).await;
        assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{code}: {:?}", job.error_message);
        let message = job.error_message.unwrap();
        assert!(message.contains(says), "{code}: {message}");
        scene.assert_untouched(code).await;
        let rows: i64 =
            sqlx::query_scalar("SELECT count(*) FROM tenant_acme.both").fetch_one(&mut there).await.unwrap();
        assert_eq!(rows, 1000, "{code}");
        let told: String = sqlx::query_scalar(
            "SELECT detail ->> 'message' FROM control_plane.backup_history WHERE event = 'restore_backup_failed' ORDER BY at DESC LIMIT 1",
        )
        .fetch_one(&scene.test.app.pool)
        .await
        .unwrap();
        assert_eq!(told, message, "the audit says it too");
    }
}
