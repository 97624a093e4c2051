//! Backups of a project's log lines: what comes back is what was there, and a copy that did not come whole is no backup.

use crate::{api, support};

use std::{
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use api::TestApi;
use chrono::{DateTime, Utc};
use holdfast::{
    artifact::{Compression, Format},
    config::Config,
    history::{self, Backup},
    ids::BackupId,
    jobs::{
        queue::{self, Job},
        request::{self, DateRange, Depth, ExportLogs, RestoreRequest, VerifyRequest},
        worker,
    },
    manifest::Content,
    source::{
        Source, SourceError, SourceReport,
        project_logs::{LogFormat, ProjectLogs, ProjectLogsOptions},
    },
    tenant::Permission,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::Executor;
use support::app::{TestApp, caller, everything};
use tokio_util::sync::CancellationToken;

/// Messages that could be taken for something else on the way.
const AWKWARD: &[&str] = &[
    "",
    "plain",
    "two\nlines\r\nand a third\n",
    "tab\there, backslash \\, \\n and \\.",
    "\\.",
    "\"quotes\" and 'others' and `these`",
    "Grüße, 你好, 🦀, \u{2028}\u{feff}",
    "\u{1}quote\u{2}delimiter\u{1b}[31m\u{7f}",
    "{\"json\": [1, null]}",
    "x'); DROP TABLE control_plane.project_logs; --",
];

/// As stored, so that a file can be read as it is.
fn in_the_clear(config: &mut Config) {
    config.encryption.enabled = false;
    config.backup.compression = Compression::None;
}

async fn scene() -> TestApp {
    let test = TestApp::with(in_the_clear).await;
    test.add_schema_project("acme", "tenant_acme").await;
    test.add_schema_project("globex", "tenant_globex").await;
    test
}

async fn line(test: &TestApp, project: &str, at: &str, message: &str, metadata: Value) {
    sqlx::query("INSERT INTO control_plane.project_logs (project_id, level, message, metadata, created_at) VALUES ($1, 'warn', $2, $3, $4)")
        .bind(project)
        .bind(message)
        .bind(metadata)
        .bind(at.parse::<DateTime<Utc>>().unwrap())
        .execute(&test.app.pool)
        .await
        .unwrap();
}

fn logs(project: &str) -> ExportLogs {
    ExportLogs { project_id: project.to_owned(), ..ExportLogs::default() }
}

fn range(start: Option<&str>, end: Option<&str>) -> Option<DateRange> {
    let moment = |text: &str| text.parse().unwrap();
    Some(DateRange { start: start.map(moment), end: end.map(moment) })
}

async fn ask(test: &TestApp, request: &ExportLogs) -> Job {
    request::export(&test.app, &caller(), request, None).await.unwrap()
}

async fn back_up(test: &TestApp, request: &ExportLogs) -> Backup {
    let job = ask(test, request).await;
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    row(test, &job).await
}

async fn row(test: &TestApp, job: &Job) -> Backup {
    let id: BackupId = serde_json::from_value(job.payload["backup_id"].clone()).unwrap();
    history::get(&test.app.pool, &everything(), id).await.unwrap()
}

fn path(test: &TestApp, backup: &Backup) -> PathBuf {
    test.directory.path().join("storage").join(backup.file_id.as_ref().unwrap())
}

fn text(test: &TestApp, backup: &Backup) -> String {
    std::fs::read_to_string(path(test, backup)).unwrap()
}

fn messages(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn what_jobs_say_of_where_things_are_is_for_operators_and_in_no_backup_of_the_log() {
    let test = scene().await;
    let job = ask(&test, &logs("acme")).await;
    let said = "cannot write /srv/canary/acme.part: connection to server at \"db.canary\" (10.9.8.7), port 5433 failed";
    history::job_log(&test.app.pool, Some("acme"), job.job_id(), "error", said).await.unwrap();
    history::job_log(&test.app.pool, Some("acme"), job.job_id(), "info", "all is plain").await.unwrap();
    let lines = history::job_log_lines(&test.app.pool, job.job_id(), 0).await.unwrap();
    let lines: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(lines, ["backup requested", said, "all is plain"]);
    test.run(job.job_id()).await;
    for format in [Format::Json, Format::Text] {
        let backup = back_up(&test, &ExportLogs { format: Some(format), ..logs("acme") }).await;
        let text = text(&test, &backup);
        for hidden in ["canary", "10.9.8.7", "port 5433"] {
            assert!(!text.contains(hidden), "{format}: {text}");
        }
        assert!(text.contains("cannot write [hidden]: connection to server at") && text.contains("all is plain"));
    }
    // What a platform reads of the table by itself is the same.
    let told: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.project_logs WHERE message LIKE '%canary%'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(told, 0);
}

#[tokio::test]
async fn every_row_comes_back_as_it_was_in_json() {
    let test = scene().await;
    for (second, message) in AWKWARD.iter().enumerate() {
        let at = format!("2026-03-01T00:00:{second:02}.000001Z");
        line(&test, "acme", &at, message, json!({ "text": message, "n": [1.5, null, true] })).await;
    }
    line(&test, "globex", "2026-03-01T00:00:00Z", "canary of another tenant", json!({})).await;
    let request = ExportLogs { date_range: range(Some("2026-03-01"), Some("2026-03-01")), ..logs("acme") };
    let backup = back_up(&test, &request).await;
    assert_eq!((backup.r#type.as_str(), backup.format.as_deref()), ("logs", Some("json")));
    assert_eq!((backup.row_count, backup.table_count), (Some(AWKWARD.len() as i64), None));
    assert!(backup.pg_version.is_some());
    assert!(backup.file_name.as_ref().unwrap().ends_with(".jsonl"), "{:?}", backup.file_name);
    let text = text(&test, &backup);
    assert!(text.ends_with("}\n") && !text.contains("canary"));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<(i64, DateTime<Utc>, String, String, Value)> = sqlx::query_as(
        "SELECT id, created_at, level, message, metadata FROM control_plane.project_logs
         WHERE project_id = 'acme' AND level = 'warn' ORDER BY created_at",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(lines.len(), AWKWARD.len());
    for (line, (id, at, level, message, metadata)) in lines.iter().zip(rows) {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 5, "{keys:?}");
        assert_eq!(line["id"], id);
        assert_eq!(line["created_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), at);
        assert_eq!((&line["level"], &line["message"], &line["metadata"]), (&json!(level), &json!(message), &metadata));
    }
    let Content::Logs(held) = backup.manifest().unwrap().body.holds else { panic!("logs") };
    assert_eq!(held.row_count, AWKWARD.len() as u64);
    assert_eq!(held.until, Some("2026-03-02T00:00:00Z".parse().unwrap()));
    assert_eq!(held.newest, Some(format!("2026-03-01T00:00:{:02}.000001Z", AWKWARD.len() - 1).parse().unwrap()));
}

#[tokio::test]
async fn text_has_a_line_for_a_row_and_can_be_copied_back() {
    let test = scene().await;
    for (second, message) in AWKWARD.iter().enumerate() {
        line(&test, "acme", &format!("2026-03-01T00:00:{second:02}Z"), message, json!({ "text": message })).await;
    }
    let request = ExportLogs {
        format: Some(Format::Text),
        date_range: range(Some("2026-03-01"), Some("2026-03-01")),
        ..logs("acme")
    };
    let backup = back_up(&test, &request).await;
    assert!(backup.file_name.as_ref().unwrap().ends_with(".txt"), "{:?}", backup.file_name);
    let text = text(&test, &backup);
    assert_eq!(text.matches('\n').count(), AWKWARD.len());
    assert!(text.starts_with("2026-03-01T00:00:00.000000Z\twarn\t\t{\"text\": \"\"}\n"), "{text}");
    let mut connection = test.tenants().await;
    connection
        .execute("CREATE TEMPORARY TABLE back (created_at timestamptz, level text, message text, metadata jsonb)")
        .await
        .unwrap();
    let mut copy = connection.copy_in_raw("COPY back FROM STDIN").await.unwrap();
    copy.send(text.as_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), AWKWARD.len() as u64);
    let differing: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM back b LEFT JOIN control_plane.project_logs l
           ON l.created_at = b.created_at AND l.level = b.level AND l.message = b.message AND l.metadata = b.metadata AND l.project_id = 'acme'
         WHERE l.id IS NULL",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(differing, 0);
}

#[tokio::test]
async fn a_range_has_its_first_instant_and_the_whole_of_its_last_day() {
    let test = scene().await;
    for at in [
        "2026-02-28T23:59:59.999999Z",
        "2026-03-01T00:00:00Z",
        "2026-03-02T12:00:00Z",
        "2026-03-02T23:59:59.999999Z",
        "2026-03-03T00:00:00Z",
    ] {
        line(&test, "acme", at, at, json!({})).await;
    }
    let found = async |start, end| {
        let request = ExportLogs { date_range: range(start, end), ..logs("acme") };
        let mut found = messages(&text(&test, &back_up(&test, &request).await));
        // What was logged about these backups themselves.
        found.retain(|message| message.starts_with("2026-0"));
        found
    };
    let days = ["2026-03-01T00:00:00Z", "2026-03-02T12:00:00Z", "2026-03-02T23:59:59.999999Z"];
    assert_eq!(found(Some("2026-03-01"), Some("2026-03-02")).await, days);
    let instants = (Some("2026-03-01T01:00:00+01:00"), Some("2026-03-02T12:00:00Z"));
    assert_eq!(found(instants.0, instants.1).await, days[..1], "an instant as the end is not included");
    assert_eq!(found(Some("2026-03-03"), None).await, ["2026-03-03T00:00:00Z"]);
    assert_eq!(found(None, Some("2026-02-28T23:59:59.999999Z")).await, Vec::<String>::new());
    assert_eq!(found(None, None).await.len(), 5);
}

#[tokio::test]
async fn a_range_without_lines_makes_an_empty_backup_that_says_so() {
    let test = scene().await;
    let request = ExportLogs { date_range: range(None, Some("2001-01-01")), ..logs("acme") };
    let backup = back_up(&test, &request).await;
    assert_eq!((backup.row_count, backup.content_size, backup.size), (Some(0), Some(0), 0));
    assert_eq!(text(&test, &backup), "");
    assert_eq!(verify(&test, &backup, Depth::Read).await.result.unwrap()["outcome"], "verified");
}

async fn verify(test: &TestApp, backup: &Backup, depth: Depth) -> Job {
    let request = VerifyRequest { backup_id: backup.backup_id(), depth };
    let job = request::verify(&test.app, &caller(), &request, None).await.unwrap();
    test.run(job.job_id()).await
}

#[tokio::test]
async fn it_is_compressed_encrypted_and_verified_like_others_and_never_restored() {
    let test = TestApp::new().await;
    test.add_schema_project("acme", "tenant_acme").await;
    line(&test, "acme", "2026-03-01T00:00:00Z", "hello", json!({})).await;
    let request = ExportLogs { compression: Some(Compression::Zstd), ..logs("acme") };
    let backup = back_up(&test, &request).await;
    assert!(backup.file_name.as_ref().unwrap().ends_with(".jsonl.zst.age"), "{:?}", backup.file_name);
    for depth in [Depth::Head, Depth::Read] {
        assert_eq!(verify(&test, &backup, depth).await.result.unwrap()["outcome"], "verified", "{depth}");
    }
    let deep = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
    let refused = request::verify(&test.app, &caller(), &deep, None).await.unwrap_err();
    assert_eq!(refused.code(), "backup.not_restorable");
    let restore = RestoreRequest::in_place(backup.backup_id());
    let refused = request::restore(&test.app, &caller(), &restore, None).await.unwrap_err();
    assert_eq!(refused.code(), "backup.not_restorable");
}

#[tokio::test]
async fn a_row_that_the_platform_puts_into_the_queue_itself_is_run() {
    let test = scene().await;
    line(&test, "acme", "2026-03-01T00:00:00Z", "hello", json!({})).await;
    let id: uuid::Uuid = sqlx::query_scalar(
        "INSERT INTO control_plane.jobs (type, payload) VALUES ('export_logs', $1) RETURNING id",
    )
    .bind(json!({ "project_id": "acme", "format": "text", "compress": true, "date_range": { "end": "2026-03-01" } }))
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    let job = test.run(id.into()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let backup = row(&test, &job).await;
    assert_eq!((backup.row_count, backup.compression.as_deref()), (Some(1), Some("gzip")));
    assert!(backup.file_name.unwrap().ends_with(".txt.gz"));
}

/// A control plane whose log is a view that does something else where the message says so: the server ends the connection, or waits. Said to be
/// STABLE, so that only reading the message does it, and read in the index's order, so that the lines before have been sent.
async fn with_a_log_that_misbehaves(test: &TestApp) {
    let database = &test.app.control.database;
    for setting in ["enable_seqscan", "enable_bitmapscan", "enable_sort"] {
        let statement = format!("ALTER DATABASE \"{database}\" SET {setting} = off");
        test.app.pool.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
    test.tenants()
        .await
        .execute(
            "ALTER TABLE control_plane.project_logs RENAME TO lines;
             CREATE FUNCTION control_plane.misbehave(message text) RETURNS text LANGUAGE plpgsql STABLE AS $$
             BEGIN
                 IF message = 'hang up' THEN PERFORM pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());
                 ELSIF message = 'wait' THEN PERFORM pg_catalog.pg_sleep(600); END IF;
                 RETURN message;
             END $$;
             CREATE VIEW control_plane.project_logs AS
                 SELECT id, project_id, level, control_plane.misbehave(message) AS message, metadata, created_at FROM control_plane.lines;
             CREATE FUNCTION control_plane.add_line() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO control_plane.lines (project_id, level, message, metadata, created_at)
                 VALUES (NEW.project_id, coalesce(NEW.level, 'info'), NEW.message, coalesce(NEW.metadata, '{}'), coalesce(NEW.created_at, now()));
                 RETURN NEW;
             END $$;
             CREATE TRIGGER add_line INSTEAD OF INSERT ON control_plane.project_logs FOR EACH ROW EXECUTE FUNCTION control_plane.add_line()",
        )
        .await
        .unwrap();
}

/// Lines of a kilobyte that do not compress, at successive microseconds; then one with this message.
async fn fill(test: &TestApp, lines: i32, last: &str) {
    sqlx::query(
        "INSERT INTO control_plane.project_logs (project_id, message, created_at)
         SELECT 'acme', (SELECT string_agg(md5((n * 32 + k)::text), '') FROM generate_series(1, 32) AS k),
                '2026-03-01T00:00:00Z'::timestamptz + n * interval '1 microsecond' FROM generate_series(1, $1) AS n
         UNION ALL SELECT 'acme', $2, '2026-03-02T00:00:00Z'",
    )
    .bind(lines)
    .bind(last)
    .execute(&test.app.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_connection_lost_half_way_fails_the_backup_and_nothing_is_stored() {
    let test = scene().await;
    fill(&test, 20_000, "hang up").await;
    with_a_log_that_misbehaves(&test).await;
    let (text, report) = read_all(source(&test, "acme")).await;
    assert!(text.len() > 1 << 20, "only {} bytes came before", text.len());
    let error = report.unwrap_err();
    assert!(error.may_pass && error.code == "source.unreachable", "{error:?}");

    let job = ask(&test, &logs("acme")).await;
    let job = test.run(job.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 3), "a server may come back: {:?}", job.error_message);
    let backup = row(&test, &job).await;
    assert_eq!(backup.status, "failed");
    assert!(backup.message.unwrap().contains("cannot read"), "{:?}", job.error_message);
    assert_eq!(test.stored_files(), Vec::<PathBuf>::new());
}

/// Waits until some connection is copying the log, in this state.
async fn until_copying(test: &TestApp, waits_for: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let is_there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT %project_logs%' AND wait_event = $1
                            AND datname = current_database())",
        )
        .bind(waits_for)
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
        if is_there {
            return;
        }
        assert!(Instant::now() < deadline, "nobody copies and waits for {waits_for}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_nobody_copies(test: &TestApp) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT %project_logs%' AND datname = current_database()",
        )
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "a copy goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_cancelled_backup_ends_at_once_and_leaves_nothing() {
    let test = scene().await;
    fill(&test, 5_000, "wait").await;
    with_a_log_that_misbehaves(&test).await;
    let job = ask(&test, &logs("acme")).await;
    let app = test.app.clone();
    let id = job.job_id();
    let worker = tokio::spawn(async move { worker::run_until_final(&app, id, CancellationToken::new()).await });
    until_copying(&test, "PgSleep").await;
    request::cancel(&test.app, &caller(), id).await.unwrap();
    worker.await.unwrap().unwrap();
    let job = queue::get(&test.app.pool, &everything(), id).await.unwrap();
    assert_eq!(job.status, "cancelled");
    assert_eq!(row(&test, &job).await.status, "cancelled");
    assert_eq!(test.stored_files(), Vec::<PathBuf>::new());
}

fn source(test: &TestApp, project: &str) -> Box<ProjectLogs> {
    Box::new(ProjectLogs::new(ProjectLogsOptions {
        connect: test.app.control.clone(),
        project_id: project.to_owned(),
        format: LogFormat::Json,
        from: None,
        until: None,
    }))
}

async fn read_all(mut source: Box<ProjectLogs>) -> (String, Result<SourceReport, SourceError>) {
    let mut reader = source.start().await.unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    (text.await.unwrap(), source.finish().await)
}

#[tokio::test]
async fn a_project_id_that_looks_like_sql_names_its_own_lines_alone() {
    let test = scene().await;
    let hostile = [
        "' OR true --",
        "x') TO PROGRAM 'id' --",
        "\\'; DROP TABLE control_plane.project_logs; --",
        "$$",
        "a\nb",
        "*",
        "%",
    ];
    line(&test, "acme", "2026-03-01T00:00:00Z", "of acme", json!({})).await;
    for id in hostile {
        line(&test, id, "2026-03-01T00:00:00Z", id, json!({})).await;
    }
    for id in hostile {
        let (text, report) = read_all(source(&test, id)).await;
        assert_eq!(messages(&text), [id]);
        let Content::Logs(logs) = report.unwrap().holds else { panic!("logs") };
        assert_eq!(logs.row_count, 1);
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_server_and_an_abort_ends_it() {
    let test = scene().await;
    // Twenty megabytes: more than the pipe and the sockets hold.
    fill(&test, 20_000, "last").await;
    let mut source = source(&test, "acme");
    let mut reader = source.start().await.unwrap();
    until_copying(&test, "ClientWrite").await;
    source.abort().await;
    let rest = tokio::task::spawn_blocking(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap());
    assert!(rest.await.unwrap() < 4 << 20, "what was on its way is little");
    until_nobody_copies(&test).await;
}

#[tokio::test]
async fn megabytes_come_whole_and_in_order() {
    let test = scene().await;
    fill(&test, 20_000, "last").await;
    let (text, report) = read_all(source(&test, "acme")).await;
    let times: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["created_at"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(times.len(), 20_001);
    assert!(times.is_sorted() && text.len() > 20 << 20);
    let Content::Logs(logs) = report.unwrap().holds else { panic!("logs") };
    assert_eq!(logs.row_count, 20_001);
}

#[tokio::test]
async fn the_api_writes_the_job_down_and_refuses_what_is_wrong() {
    let api = TestApi::new().await;
    let (token, path) = (api.acme(), "/api/backup/export-logs");
    let body = json!({ "project_id": "acme", "format": "text", "date_range": { "start": "2026-11-01", "end": "2026-11-21T12:00:00Z" } });
    let data = api.post(&token, path, body).await.data(202);
    assert_eq!((data["status"].as_str(), data["project_id"].as_str()), (Some("pending"), Some("acme")));
    let job = api.get(&token, &format!("/api/jobs/{}", data["job_id"].as_str().unwrap())).await.data(200);
    assert_eq!(job["type"], "export_logs");
    let backup = api.get(&token, &format!("/api/backup/{}", data["backup_id"].as_str().unwrap())).await.data(200);
    assert_eq!((&backup["type"], &backup["format"]), (&json!("logs"), &json!("text")));

    for (change, code) in [
        (json!({ "date_range": { "start": "2026-11-22", "end": "2026-11-21" } }), "request.date_range"),
        (json!({ "date_range": { "start": "yesterday" } }), "request.date_range"),
        (json!({ "date_range": { "end": "2026-11-21\u{0}" } }), "request.value"),
        (json!({ "date_range": { "from": "2026-11-21" } }), "request.body"),
        (json!({ "format": "sql" }), "request.body"),
        (json!({ "compress": true, "compression": "zstd" }), "request.compression"),
        (json!({ "storages": ["nowhere"] }), "request.storage"),
        (json!({ "notify_email": "nobody" }), "request.notify_email"),
        (json!({ "expires_at": "2001-01-01T00:00:00Z" }), "request.expires_at"),
        (json!({ "unknown": 1 }), "request.body"),
    ] {
        let mut body = json!({ "project_id": "acme" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = api.post(&token, path, body).await;
        assert_eq!(answer.problem(422), code, "{change}");
        if let Some(range) = change["date_range"].as_object() {
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            let field = range.keys().next_back().unwrap();
            assert!(detail.contains(field.as_str()), "{change}: {detail}");
        }
    }
    assert_eq!(api.post(&token, path, json!({ "project_id": "globex" })).await.problem(404), "project.not_found");
    let dump = json!({ "project_id": "acme", "format": "json" });
    assert_eq!(api.post(&token, "/api/backup/export", dump).await.problem(422), "request.format");
    let reader = api.member("acme", &[Permission::Read]);
    assert_eq!(api.post(&reader, path, json!({ "project_id": "acme" })).await.problem(403), "auth.forbidden");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 1);
}

/// The program on this control plane: its exit code and what it printed.
fn holdfast(test: &TestApp, arguments: &[&str]) -> (i32, Value) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", test.app.control.to_url().expose_secret())
        .env("HOLDFAST_DATA_DIR", test.directory.path())
        .env("HOLDFAST_ENCRYPTION_ENABLED", "false")
        .current_dir(test.directory.path())
        .args(arguments)
        .arg("--json")
        .output()
        .unwrap();
    let printed = if output.status.success() { &output.stdout } else { &output.stderr };
    let line = String::from_utf8_lossy(printed);
    let json = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    (output.status.code().unwrap(), json)
}

#[tokio::test]
async fn the_command_line_takes_the_range_and_the_format() {
    let test = scene().await;
    for at in ["2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"] {
        line(&test, "acme", at, at, json!({})).await;
    }
    let asked =
        ["backup", "acme", "--type", "logs", "--since", "2026-03-02", "--until", "2026-03-02", "--format", "text"];
    let (code, shown) = holdfast(&test, &[&asked[..], &["--compression", "none", "--wait"]].concat());
    assert_eq!(code, 0, "{shown}");
    assert_eq!(
        (&shown["type"], &shown["status"], &shown["row_count"]),
        (&json!("logs"), &json!("completed"), &json!(1))
    );
    let stored = test.directory.path().join("storage").join(shown["file_id"].as_str().unwrap());
    assert!(std::fs::read_to_string(stored).unwrap().starts_with("2026-03-02T00:00:00.000000Z\twarn\t"));
    let (code, queued) = holdfast(&test, &["backup", "acme", "--type", "logs"]);
    assert_eq!((code, &queued["type"]), (0, &json!("export_logs")));
    for (wrong, said) in [
        (vec!["backup", "acme", "--since", "2026-03-02"], "--type logs"),
        (vec!["backup", "acme", "--type", "logs", "--since", "2026-03-03", "--until", "2026-03-02"], "date_range.end"),
        (vec!["backup", "acme", "--type", "logs", "--format", "sql"], "format sql"),
        (vec!["backup", "acme", "--format", "json"], "format json"),
        (vec!["backup", "acme", "--type", "logs", "--since", "yesterday"], "--since"),
    ] {
        let (code, error) = holdfast(&test, &wrong);
        assert_eq!(code, 2, "{wrong:?}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(said), "{wrong:?}: {error}");
    }
}
