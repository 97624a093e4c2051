//! Trial restores: a scratch database, a verdict with names, a measured time, and nothing left behind, whatever is killed.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use holdfast::{
    clock::Clock,
    demo::sample,
    history::{self, Backup},
    ids::{JobId, LeaseToken},
    jobs::{
        queue::Job,
        request::{self, Depth, Export, VerifyRequest},
    },
    manifest::Manifest,
    pipeline,
    proof_record::ProofLevel,
    schedule,
};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::app::{TestApp, caller, everything, export};

async fn scene(tenants: &[&str]) -> TestApp {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    for tenant in tenants {
        sample::create_tenant(&mut connection, &format!("tenant_{tenant}"), 3).await.unwrap();
        test.add_schema_project(tenant, &format!("tenant_{tenant}")).await;
    }
    test
}

async fn asked(test: &TestApp, backup: &Backup) -> JobId {
    let request = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
    request::verify(&test.app, &caller(), &request, None).await.unwrap().job_id()
}

async fn tried(test: &TestApp, backup: &Backup) -> (Job, Backup) {
    let job = test.run(asked(test, backup).await).await;
    (job, again(test, backup).await)
}

async fn again(test: &TestApp, backup: &Backup) -> Backup {
    history::get(&test.app.pool, &everything(), backup.backup_id()).await.unwrap()
}

/// Scratch databases and roles on the server that this control plane's trials made.
async fn left_behind(test: &TestApp) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT name FROM (SELECT datname::text AS name FROM pg_database UNION ALL SELECT rolname::text FROM pg_roles) AS names \
         JOIN control_plane.restores r ON name IN (r.plan ->> 'role', r.plan -> 'target' ->> 'database')",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap()
}

/// Changes what a backup's manifest in the history says.
pub async fn rewrite(test: &TestApp, backup: &Backup, change: impl FnOnce(&mut serde_json::Value)) {
    let mut manifest = backup.manifest.clone().unwrap();
    change(&mut manifest["body"]["database"]);
    sqlx::query("UPDATE control_plane.backups SET manifest = $2 WHERE id = $1")
        .bind(backup.id)
        .bind(&manifest)
        .execute(&test.app.pool)
        .await
        .unwrap();
    // Record and sealed manifest say the same: as if it had been stored like this.
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    let storage = test.app.storages.get("local").unwrap();
    let at = storage.find(&manifest.head.key.manifest()).await.unwrap().unwrap();
    storage.delete(&at).await.unwrap();
    let keys = &test.app.keys;
    let attempt = LeaseToken::generate();
    pipeline::publish_manifest(storage.as_ref(), &manifest, &keys.recipients, keys.seals.key(), attempt).await.unwrap();
}

#[tokio::test]
async fn a_functions_body_that_the_server_writes_anew_is_no_other_code_also_where_an_older_record_has_it_as_it_was() {
    let test = scene(&["acme"]).await;
    let mut connection = test.tenants().await;
    // After a restore the elements are cast one by one.
    sqlx::raw_sql(
        "CREATE TABLE tenant_acme.states (state varchar); \
         CREATE FUNCTION tenant_acme.some_states() RETURNS bigint LANGUAGE sql \
         BEGIN ATOMIC SELECT count(*) FROM tenant_acme.states WHERE state IN ('a', 'b'); END",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let backup = test.backup(export("acme")).await;
    for (older, is_defined) in [(false, true), (false, false), (true, true)] {
        rewrite(&test, &backup, |content| as_recorded(content, older, is_defined)).await;
        let (job, _) = tried(&test, &backup).await;
        for job in [job, test.restore(&backup).await] {
            assert_eq!(job.status, "completed", "{older} {is_defined}: {:?}", job.error_message);
            let result = job.result.unwrap();
            assert_eq!(result["outcome"], "verified", "{older} {is_defined}: {result:#}");
        }
    }
    // Where nothing tells what the body was like.
    rewrite(&test, &backup, |content| as_recorded(content, true, false)).await;
    let (job, _) = tried(&test, &backup).await;
    let message = job.error_message.unwrap_or_default();
    assert!(message.contains("function tenant_acme.some_states()"), "{message}");
}

/// The record of the function's body as older versions made it, or without definitions.
fn as_recorded(content: &mut serde_json::Value, older: bool, is_defined: bool) {
    if older {
        let objects = content["ownership"].as_array_mut().unwrap();
        let function = objects.iter_mut().find(|o| o["identity"] == "tenant_acme.some_states()").unwrap();
        // One digest of everything, of the body as it read before.
        function["code"] = json!("0".repeat(32));
    }
    if !is_defined {
        let proof = content["proof"].as_object_mut().unwrap();
        for fact in ["definition", "definition_sha256"] {
            proof.remove(fact);
        }
    }
}

#[tokio::test]
async fn a_trial_ends_as_verified_with_named_differences_or_as_failed_and_the_backup_tells() {
    let test = scene(&["acme"]).await;
    let backup = test.backup(export("acme")).await;
    assert_eq!((backup.proved_at, backup.recovery_seconds, &backup.differences), (None, None, &None));

    let (job, proved) = tried(&test, &backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let result = job.result.unwrap();
    assert_eq!((&result["outcome"], &result["differences"]), (&json!("verified"), &json!([])), "{result:#}");
    assert!(proved.proved_at.is_some() && proved.recovery_seconds.is_some_and(|seconds| seconds > 0.0));
    assert_eq!((proved.differences, proved.verified_depth.as_deref()), (Some(json!([])), Some("restore")));
    assert_eq!(left_behind(&test).await, Vec::<String>::new());

    // What keeps a trial from its beginning says nothing about the backup.
    let lost = "UPDATE control_plane.backup_copies SET storage = $2 WHERE backup_id = $1";
    sqlx::query(lost).bind(backup.id).bind("gone").execute(&test.app.pool).await.unwrap();
    let (job, still) = tried(&test, &backup).await;
    assert_eq!(job.status, "failed", "{:?}", job.result);
    assert_eq!((still.proved_at, still.differences), (proved.proved_at, Some(json!([]))));
    sqlx::query(lost).bind(backup.id).bind("local").execute(&test.app.pool).await.unwrap();

    // Another row, another definition, another grant than was recorded.
    rewrite(&test, &backup, |content| {
        let digest = &mut content["proof"]["rows"][0]["sha256_sum"];
        *digest = json!(digest.as_str().unwrap().chars().rev().collect::<String>());
        content["tables"][1]["rows"] = json!(7_777);
        let of_table = content["ownership"].as_array_mut().unwrap().iter_mut().find(|o| o["kind"] == "table").unwrap();
        of_table["owner"] = json!("nobody of this name");
    })
    .await;
    let (job, differing) = tried(&test, &backup).await;
    let result = job.result.unwrap();
    assert_eq!((job.status.as_str(), &result["outcome"]), ("completed", &json!("differences")), "{result:#}");
    let told: Vec<String> = serde_json::from_value(result["differences"].clone()).unwrap();
    for part in [" has other rows: digest ", " rows instead of 7777", "nobody of this name"] {
        assert!(told.iter().any(|line| line.contains(part)), "{part}: {told:#?}");
    }
    assert_eq!((told.len(), differing.proved_at), (3, None), "{told:#?}");
    assert_eq!(differing.differences, Some(json!(told)));
    let events = history::events(&test.app.pool, &everything(), backup.backup_id()).await.unwrap();
    let last = events.iter().rfind(|event| event.event == "verified").unwrap();
    assert_eq!((last.outcome.as_str(), &last.detail["differences"]), ("failed", &json!(told)));

    // No room for it, and a schema that cannot stand alone: refused before anything is made.
    for (change, code) in [
        (json!({ "proof": { "disk_bytes": 1u64 << 60 } }), "restore.no_space"),
        (
            json!({ "requirements": { "objects": [{ "kind": "table", "identity": "x.y", "schema": "x", "name": "y" }] } }),
            "verify.needs_outside",
        ),
    ] {
        rewrite(&test, &backup, |content| {
            for (room, fields) in change.as_object().unwrap() {
                content[room].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            }
        })
        .await;
        let (job, failed) = tried(&test, &backup).await;
        assert_eq!(job.status, "failed");
        let told = failed.differences.unwrap().to_string();
        assert!(told.contains(code) && failed.proved_at.is_none(), "{told}");
    }
    assert_eq!(left_behind(&test).await, Vec::<String>::new());
}

struct Worker(Child);

impl Worker {
    fn start(test: &TestApp) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .arg("worker")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", test.app.control.to_url().expose_secret())
            .env("HOLDFAST_DATA_DIR", test.directory.path())
            .env("HOLDFAST_WORKER_LEASE_SECONDS", "2")
            .env("HOLDFAST_WORKER_POLL_SECONDS", "1")
            .env("HOLDFAST_WORKER_BACKOFF_SECONDS", "1")
            .envs(crate::support::matrix_clients().map(|directory| ("HOLDFAST_TOOLS_DIRECTORIES", directory)))
            .env("HOLDFAST_RESTORE_ALLOW_VULNERABLE_CLIENTS", crate::support::allows_vulnerable_clients().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Worker {
    /// SIGKILL: no chance to tidy up.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_scratch_database_does_not_outlive_its_job_whoever_is_killed() {
    let test = scene(&["acme"]).await;
    let backup = test.backup(export("acme")).await;
    let job = asked(&test, &backup).await;
    let first = Worker::start(&test);
    until("a scratch database", async || {
        left_behind(&test).await.iter().any(|name| name.starts_with("hf_trial_")).then_some(())
    })
    .await;
    drop(first);
    assert!(!left_behind(&test).await.is_empty(), "it was killed too late");
    // The next attempt of the same job drops it, and makes its own.
    let ended = test.run(job).await;
    assert_eq!(ended.status, "completed", "{:?}", ended.error_message);
    assert_eq!(ended.result.unwrap()["outcome"], "verified");
    assert_eq!(left_behind(&test).await, Vec::<String>::new());

    // A job that nobody takes up again: whoever keeps house does it.
    let job = asked(&test, &backup).await;
    let second = Worker::start(&test);
    until("a second scratch database", async || (!left_behind(&test).await.is_empty()).then_some(())).await;
    drop(second);
    sqlx::query(
        "UPDATE control_plane.jobs SET status = 'failed', lease_token = NULL, finished_at = now() WHERE id = $1",
    )
    .bind(job.0)
    .execute(&test.app.pool)
    .await
    .unwrap();
    let _third = Worker::start(&test);
    until("the scratch database to go", async || left_behind(&test).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn trials_by_the_clock_take_each_projects_oldest_in_turn_one_at_a_time_within_the_budget() {
    let mut test = scene(&["acme", "beta"]).await;
    let clock = Clock::fixed("2026-11-21T01:00:00Z".parse().unwrap());
    test.app.clock = clock.clone();
    let mut backups = Vec::new();
    for project in ["acme", "acme", "beta"] {
        clock.advance(chrono::Duration::minutes(1));
        backups.push(test.backup(export(project)).await);
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        clock.advance(chrono::Duration::minutes(10));
        assert!(schedule::try_next(&test.app).await.unwrap());
        // One at a time.
        assert!(!schedule::try_next(&test.app).await.unwrap());
        let (id, backup): (uuid::Uuid, String) = sqlx::query_as(
            "SELECT id, payload -> 'request' ->> 'backup_id' FROM control_plane.jobs WHERE type = 'verify_backup' AND status = 'pending'",
        )
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
        let job = test.run(JobId(id)).await;
        assert_eq!(job.result.as_ref().map(|r| &r["outcome"]), Some(&json!("verified")), "{:?}", job.error_message);
        order.push(backups.iter().position(|b| b.id.to_string() == backup).unwrap());
    }
    assert_eq!(order, [0, 2, 1]);
    // All are proved.
    clock.advance(chrono::Duration::minutes(10));
    assert!(!schedule::try_next(&test.app).await.unwrap());

    // A day's budget, used up by one that took long and failed; the next day there is one again.
    test.backup(export("beta")).await;
    sqlx::query(
        "UPDATE control_plane.jobs SET status = 'failed', started_at = $1, finished_at = $1::timestamptz + interval '1 hour' \
         WHERE id = (SELECT id FROM control_plane.jobs WHERE created_by = 'system:trials' LIMIT 1)",
    )
    .bind(clock.now())
    .execute(&test.app.pool)
    .await
    .unwrap();
    assert!(!schedule::try_next(&test.app).await.unwrap());
    clock.advance(chrono::Duration::hours(25));
    assert!(schedule::try_next(&test.app).await.unwrap());

    // What no attempt could reach is asked for again, not at once but the next day, by a new job.
    sqlx::query("UPDATE control_plane.jobs SET status = 'failed', finished_at = now() WHERE status = 'pending'")
        .execute(&test.app.pool)
        .await
        .unwrap();
    assert!(!schedule::try_next(&test.app).await.unwrap());
    clock.advance(chrono::Duration::hours(25));
    assert!(schedule::try_next(&test.app).await.unwrap());
    let asked: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.jobs WHERE created_by = 'system:trials'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(asked, 5, "three that were proved, and two for the last");

    // With what has no proof nothing can be compared.
    sqlx::query("UPDATE control_plane.jobs SET status = 'failed', finished_at = now() WHERE status = 'pending'")
        .execute(&test.app.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE control_plane.backups SET differences = '[\"lost\"]' WHERE proved_at IS NULL")
        .execute(&test.app.pool)
        .await
        .unwrap();
    let unproved = test.backup(Export { proof: Some(ProofLevel::Off), ..export("acme") }).await;
    assert!(!schedule::try_next(&test.app).await.unwrap());
    let (job, tried) = tried(&test, &unproved).await;
    let only = json!(["no rows were counted to compare with (proof: off)"]);
    let result = job.result.unwrap();
    assert_eq!((&result["outcome"], &result["differences"]), (&json!("differences"), &only), "{result:#}");
    assert_eq!((tried.proved_at, tried.differences), (None, Some(only.clone())));
    // Nothing is known to differ, and every byte was read.
    assert_eq!((tried.verified_at.is_some(), tried.verified_depth.as_deref()), (true, Some("read")));
    let events = history::events(&test.app.pool, &everything(), unproved.backup_id()).await.unwrap();
    assert_eq!(events.iter().rfind(|event| event.event == "verified").unwrap().outcome, "ok");
    let restored = test.restore(&unproved).await.result.unwrap();
    assert_eq!((&restored["outcome"], &restored["differences"]), (&json!("differences"), &only), "{restored:#}");
}

#[tokio::test]
async fn what_a_schema_needs_is_warned_of_when_it_is_dumped_and_an_extension_is_there_before_a_trial_begins() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    sqlx::raw_sql(
        "CREATE EXTENSION citext SCHEMA public;
         CREATE SCHEMA tenant_alone; CREATE TABLE tenant_alone.names (name public.citext PRIMARY KEY); INSERT INTO tenant_alone.names VALUES ('Ada');
         CREATE SCHEMA platform; CREATE TABLE platform.plans (id int PRIMARY KEY); INSERT INTO platform.plans VALUES (1);
         CREATE SCHEMA tenant_bound; CREATE TABLE tenant_bound.uses (plan int REFERENCES platform.plans); INSERT INTO tenant_bound.uses VALUES (1)",
    )
    .execute(&mut c)
    .await
    .unwrap();
    for project in ["alone", "bound"] {
        test.add_schema_project(project, &format!("tenant_{project}")).await;
    }
    let taken = test.back_up(export("alone")).await;
    assert_eq!(taken.result.unwrap()["warnings"], json!([]), "an extension is made before");
    let backup = test.backup(export("alone")).await;
    let (job, _) = tried(&test, &backup).await;
    assert_eq!(job.result.as_ref().map(|r| &r["outcome"]), Some(&json!("verified")), "{:?}", job.error_message);

    let taken = test.back_up(export("bound")).await;
    let warnings = taken.result.as_ref().unwrap()["warnings"].to_string();
    assert!(warnings.contains("cannot be restored alone") && warnings.contains("platform.plans"), "{warnings}");
    let backup = test.backup(export("bound")).await;
    let (job, backup) = tried(&test, &backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    assert!(backup.differences.as_ref().unwrap().to_string().contains("verify.needs_outside"));
    // By the clock nothing is begun that could only fail: its turn comes, and why it is passed over is written down.
    let passed = test.backup(export("bound")).await;
    sqlx::query("UPDATE control_plane.backups SET tried_at = now() WHERE id <> $1")
        .bind(passed.id)
        .execute(&test.app.pool)
        .await
        .unwrap();
    assert!(!schedule::try_next(&test.app).await.unwrap());
    let passed = again(&test, &passed).await;
    let told = passed.differences.unwrap().to_string();
    assert!(
        told.contains("verify.needs_outside") && told.contains("platform.plans") && told.contains("target.schema"),
        "{told}"
    );
    let jobs: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.jobs WHERE type = 'verify_backup' AND created_by = 'system:trials'",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert_eq!((jobs, passed.proved_at), (0, None));
    // Where what it needs is, it comes back.
    let job = test.restore(&backup).await;
    assert_eq!(job.result.as_ref().map(|r| &r["outcome"]), Some(&json!("verified")), "{:?}", job.error_message);
}
