//! Dumps of anybody's, each in a database of its own: what a trial tells, what it touches, and what it leaves.

use std::{fs, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};
use holdfast::{
    child::Command,
    ids::JobId,
    jobs::{
        import_files,
        queue::{self, Job},
        request::{self, RequestError, TryImportRequest},
    },
    postgres::tools::{ChildEnvironment, ClientTool},
    tenant::{Caller, Role},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{count, original, replace};
use crate::support::{
    self,
    app::{TestApp, caller, everything},
};

/// Two tables, one of them outside of `public`, and a function that would run with its owner's rights.
const DUMP: &str = "--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA legacy;
CREATE TABLE legacy.orders (id integer PRIMARY KEY, note text);
CREATE TABLE public.people (id integer);
COPY legacy.orders (id, note) FROM stdin;
1\tone
2\ttwo
\\.
COPY public.people (id) FROM stdin;
7
\\.
CREATE FUNCTION public.who() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text';
";

/// A name that no other test uses.
fn name() -> String {
    format!("hf_test_trial_{}", JobId::generate().short())
}

fn of(key: &str, database: &str) -> TryImportRequest {
    TryImportRequest {
        storage: "first".to_owned(),
        key: key.parse().unwrap(),
        database: database.to_owned(),
        server: None,
        is_passing: false,
    }
}

async fn ask(test: &TestApp, request: &TryImportRequest) -> Result<Job, RequestError> {
    request::try_import(&test.app, &caller(), request, None).await
}

async fn attempt(test: &TestApp, request: &TryImportRequest) -> Job {
    let job = ask(test, request).await.unwrap();
    test.run(job.job_id()).await
}

async fn exists(test: &TestApp, catalog: &str, name: &str) -> bool {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.{catalog} WHERE {} = $1)",
        match catalog {
            "pg_roles" => "rolname",
            _ => "datname",
        }
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(name).fetch_one(&mut test.tenants().await).await.unwrap()
}

async fn inside(test: &TestApp, database: &str) -> PgConnection {
    test.app.control.with_database(database).connect().await.unwrap()
}

/// Runs the statements that a result names, as whoever is done with the trial would.
async fn drop_by(test: &TestApp, result: &Value) {
    for statement in result["drop"].as_array().unwrap() {
        let statement = statement.as_str().unwrap().to_owned();
        test.tenants().await.execute(AssertSqlSafe(statement)).await.unwrap();
    }
}

/// `pg_dump` as anybody would run it.
async fn dump(test: &TestApp, database: &str, options: &[&str], file: &Path) {
    let tool = support::tools().await.client(ClientTool::PgDump, 140_000).unwrap();
    let info = test.app.control.with_database(database);
    let environment = ChildEnvironment::new(&info, &[]).unwrap();
    let command = Command::new(tool.path).args(options).arg(format!("--file={}", file.display()));
    let exit = environment.apply(command).spawn().await.unwrap().wait().await.unwrap();
    assert!(exit.status.success(), "{}", exit.stderr);
}

/// Trials are refused with clients that a crafted archive could deceive, which `scripts/test-versions` has.
fn is_refused_here() -> bool {
    support::allows_vulnerable_clients()
}

#[tokio::test]
async fn a_dump_of_any_form_is_tried_in_a_database_of_its_own_and_told_of() {
    if is_refused_here() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(DUMP.as_bytes()).unwrap();
    replace(&root.path().join("first/plain.sql"), DUMP.as_bytes());
    replace(&root.path().join("first/handover.gz"), &gzip.finish().unwrap());
    let name = name();

    let job = attempt(&test, &of("plain.sql", &name)).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.project_id.as_deref(), Some("holdfast-control-plane"));
    let result = job.result.unwrap();
    assert_eq!((&result["database"], &result["format"]), (&json!(name), &json!("sql")));
    assert_eq!((&result["table_count"], &result["row_count"]), (&json!(2), &json!(3)));
    let tables = json!([
        { "schema": "legacy", "table": "orders", "rows": 2 }, { "schema": "public", "table": "people", "rows": 1 },
    ]);
    assert_eq!(result["tables"], tables);
    // Its owner may not log in, and nobody but administrators may come in: what the dump brought runs with no rights but its own.
    let owner = result["owner"].as_str().unwrap();
    let (may_log_in, is_super, anyone): (bool, bool, bool) = sqlx::query_as(
        "SELECT r.rolcanlogin, r.rolsuper, has_database_privilege('public', d.oid, 'CONNECT')
         FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = $1 AND r.rolname = $2",
    )
    .bind(&name)
    .bind(owner)
    .fetch_one(&mut test.tenants().await)
    .await
    .unwrap();
    assert!(!may_log_in && !is_super && !anyone);
    let mut there = inside(&test, &name).await;
    let who: String = sqlx::query_scalar("SELECT public.who()").fetch_one(&mut there).await.unwrap();
    assert_eq!(who, owner);
    there.close().await.unwrap();

    // The archives of it, and both behind gzip; the name is free again once the trial was dropped.
    let made = root.path().join("first");
    for (format, key) in [("c", "archive.dump"), ("t", "archive.tar")] {
        dump(&test, &name, &[&format!("--format={format}")], &made.join(key)).await;
    }
    let taken = attempt(&test, &of("handover.gz", &name)).await;
    assert_eq!(taken.status, "failed");
    assert!(taken.error_message.unwrap().contains("there already is a database"));
    assert!(exists(&test, "pg_database", &name).await);
    drop_by(&test, &result).await;
    for (key, format, compression) in
        [("handover.gz", "sql", "gzip"), ("archive.dump", "custom", "none"), ("archive.tar", "tar", "none")]
    {
        let job = attempt(&test, &of(key, &name)).await;
        assert_eq!(job.status, "completed", "{key}: {:?}", job.error_message);
        let result = job.result.unwrap();
        assert_eq!((&result["format"], &result["compression"]), (&json!(format), &json!(compression)), "{key}");
        assert_eq!(result["tables"], tables, "{key}");
        drop_by(&test, &result).await;
    }
    // Nothing of all that is a backup, and every trial is in the trail.
    assert_eq!(count(&test, "backups").await, 0);
    let events: Vec<String> =
        sqlx::query_scalar("SELECT event FROM control_plane.backup_history WHERE event LIKE 'trial%' ORDER BY id")
            .fetch_all(&test.app.pool)
            .await
            .unwrap();
    assert_eq!(events.iter().filter(|event| *event == "trial_import_requested").count(), 5);
    assert_eq!(events.iter().filter(|event| *event == "trial_imported").count(), 4);
}

#[tokio::test]
async fn a_dump_that_fails_or_reaches_out_leaves_nothing_and_touches_nobody() {
    if is_refused_here() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'tenant_acme'::regnamespace";
    let before: i64 = sqlx::query_scalar(tables).fetch_one(&mut test.tenants().await).await.unwrap();
    let ran = root.path().join("ran");
    for (content, words) in [
        ("CREATE TABLE public.a (id integer);\nSELECT 1/0;\n".to_owned(), "division by zero"),
        ("CREATE TABLE public.a (id integer);\nCREATE ROLE hf_test_stranger;\n".to_owned(), "permission denied"),
        (format!("\\! touch {}\nCREATE TABLE public.a (id integer);\n", ran.display()), "restricted"),
        ("\\connect postgres\nDROP SCHEMA tenant_acme CASCADE;\n".to_owned(), "restricted"),
        ("\u{7f}ELF\0\0".to_owned(), "it is no dump"),
        (String::new(), "it is no dump"),
    ] {
        replace(&root.path().join("first/foreign"), content.as_bytes());
        let name = name();
        let job = attempt(&test, &of("foreign", &name)).await;
        assert_eq!(job.status, "failed", "{content}");
        let message = job.error_message.clone().unwrap();
        assert!(message.contains(words), "{content}: {message}");
        assert!(!exists(&test, "pg_database", &name).await, "{content}");
        let role = format!("hf_restore_{}", job.job_id().short());
        assert!(!exists(&test, "pg_roles", &role).await, "{content}");
    }
    assert!(!ran.exists());
    let after: i64 = sqlx::query_scalar(tables).fetch_one(&mut test.tenants().await).await.unwrap();
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_dump_that_keeps_a_way_in_has_none_when_its_trial_is_done() {
    if is_refused_here() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let name = name();
    let hostile = format!(
        "{DUMP}
         ALTER ROLE CURRENT_USER PASSWORD 'known'; ALTER ROLE CURRENT_USER SET work_mem = '1MB';
         ALTER ROLE CURRENT_USER IN DATABASE {name} SET search_path = legacy;
         GRANT ALL ON DATABASE {name} TO PUBLIC; GRANT ALL ON DATABASE {name} TO pg_monitor;
         ALTER DATABASE {name} SET search_path = legacy; ALTER DATABASE {name} SET statement_timeout = 1;
         ALTER DATABASE {name} CONNECTION LIMIT 1;
"
    );
    replace(&root.path().join("first/hostile.sql"), hostile.as_bytes());
    let job = attempt(&test, &of("hostile.sql", &name)).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let result = job.result.unwrap();
    assert_eq!((&result["table_count"], &result["row_count"]), (&json!(2), &json!(3)));
    let (is_shut_out, settings, rights, limit): (bool, i64, i64, i32) = sqlx::query_as(
        "SELECT NOT r.rolcanlogin AND r.rolpassword IS NULL,
                (SELECT count(*) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid OR s.setrole = r.oid),
                (SELECT count(*) FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee <> d.datdba),
                d.datconnlimit
         FROM pg_database d JOIN pg_authid r ON r.oid = d.datdba WHERE d.datname = $1",
    )
    .bind(&name)
    .fetch_one(&mut test.tenants().await)
    .await
    .unwrap();
    assert_eq!((is_shut_out, settings, rights, limit), (true, 0, 0, -1));
    drop_by(&test, &result).await;
}

#[tokio::test]
async fn an_attempt_that_was_lost_half_way_is_cleared_away_by_the_next() {
    if is_refused_here() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    replace(&root.path().join("first/plain.sql"), DUMP.as_bytes());
    let name = name();
    let job = ask(&test, &of("plain.sql", &name)).await.unwrap();
    // What a worker has made when it dies in the middle of the load.
    let role = format!("hf_restore_{}", job.job_id().short());
    for statement in
        [format!("CREATE ROLE {role} LOGIN"), format!("CREATE DATABASE {name} TEMPLATE template0 OWNER {role}")]
    {
        test.tenants().await.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    inside(&test, &name).await.execute("CREATE TABLE public.half ()").await.unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let result = job.result.unwrap();
    assert_eq!(result["table_count"], 2);
    drop_by(&test, &result).await;

    // And when no further attempt is made, nothing stays either.
    let job = ask(&test, &of("plain.sql", &name)).await.unwrap();
    let role = format!("hf_restore_{}", job.job_id().short());
    for statement in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("CREATE DATABASE {name} TEMPLATE template0 OWNER {role}"),
        format!("UPDATE control_plane.jobs SET attempts = max_attempts WHERE id = '{}'", job.id),
    ] {
        test.tenants().await.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "failed");
    assert!(!exists(&test, "pg_database", &name).await && !exists(&test, "pg_roles", &role).await);
}

#[tokio::test]
async fn a_dump_from_a_file_is_in_the_storage_as_long_as_its_trial_lasts() {
    if is_refused_here() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let file = root.path().join("from old system (1).sql");
    fs::write(&file, DUMP).unwrap();
    let key = import_files::place_trial(&test.app, &file, "first").await.unwrap();
    assert!(key.as_str().starts_with("trials/") && key.as_str().ends_with("/from_old_system__1_.sql"), "{key}");
    let placed = root.path().join("first").join(key.as_str());
    assert_eq!(fs::read(&placed).unwrap(), DUMP.as_bytes());
    let name = name();
    let request = TryImportRequest { is_passing: true, ..of(key.as_str(), &name) };
    let job = attempt(&test, &request).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert!(!placed.exists());
    drop_by(&test, &job.result.unwrap()).await;
    // What was there before is nobody's to remove, whatever a request says.
    replace(&root.path().join("first/plain.sql"), DUMP.as_bytes());
    let job = attempt(&test, &TryImportRequest { is_passing: true, ..of("plain.sql", &name) }).await;
    assert!(root.path().join("first/plain.sql").exists());
    drop_by(&test, &job.result.unwrap()).await;
}

#[tokio::test]
async fn what_cannot_be_tried_is_told_at_once_and_makes_no_job() {
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    replace(&root.path().join("first/plain.sql"), DUMP.as_bytes());
    for (request, code) in [
        (of("missing.sql", "x"), "import.missing"),
        (of("plain.sql", ""), "request.database"),
        (of("plain.sql", &"x".repeat(64)), "request.database"),
        (of("plain.sql", "a\nb"), "request.database"),
        (TryImportRequest { server: Some("nowhere".to_owned()), ..of("plain.sql", "x") }, "request.server"),
        (TryImportRequest { storage: "nowhere".to_owned(), ..of("plain.sql", "x") }, "request.storage"),
    ] {
        assert_eq!(ask(&test, &request).await.unwrap_err().code(), code, "{request:?}");
    }
    assert_eq!(count(&test, "jobs").await, 0);
    // The same key is the same trial; and nobody but operators sees it.
    let request = of("plain.sql", "x");
    let first = request::try_import(&test.app, &caller(), &request, Some("once")).await.unwrap();
    let again = request::try_import(&test.app, &caller(), &request, Some("once")).await.unwrap();
    assert_eq!(first.id, again.id);
    let member = Caller { role: Role::Member, project_ids: vec!["acme".parse().unwrap()], ..caller() };
    assert!(queue::get(&test.app.pool, &member.scope(), first.job_id()).await.is_err());
    assert!(queue::get(&test.app.pool, &everything(), first.job_id()).await.is_ok());
}
