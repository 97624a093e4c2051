//! The API's shapes, and what it does with requests that are wrong, repeated or hostile.

mod deletion;
mod downloads;
mod events;
mod idempotency;
mod lists;
mod pins;
mod stats;
mod surface;

use crate::{api, support};

use std::{collections::BTreeSet, time::Duration};

use api::{Answer, TestApi, request};
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, header},
};
use bytes::Bytes;
use futures::StreamExt;
use holdfast::{ids::BackupId, tenant::Permission};
use serde_json::{Value, json};

const EXPORT: &str = "/api/backup/export";

const RESTORE: &str = "/api/backup/restore";

fn with_key(path: &str, token: &str, key: &str, body: Value) -> Request<Body> {
    let mut request = request(Method::POST, path, Some(token), Some(body));
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// A request with these bytes as its JSON body.
fn raw(path: &str, token: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = request(Method::POST, path, Some(token), None);
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *request.body_mut() = body.into();
    request
}

fn some_bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn an_export_is_accepted_as_a_pending_job_with_its_backup_and_event() {
    let api = TestApi::new().await;
    let token = api.acme();
    let answer = api.post(&token, EXPORT, json!({ "project_id": "acme" })).await;
    let data = answer.data(202);
    assert_eq!((&data["status"], &data["project_id"]), (&json!("pending"), &json!("acme")));
    assert!(data["created_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok());
    let (job, backup) = (data["job_id"].as_str().unwrap(), data["backup_id"].as_str().unwrap());
    assert_eq!(answer.headers[header::LOCATION], format!("/api/jobs/{job}"));

    let job = api.get(&token, &format!("/api/jobs/{job}")).await.data(200);
    assert_eq!((&job["type"], &job["status"]), (&json!("export_backup"), &json!("pending")));
    let backup = api.get(&token, &format!("/api/backup/{backup}")).await.data(200);
    assert_eq!((&backup["status"], &backup["job_id"]), (&json!("pending"), &data["job_id"]));
    assert_eq!((&backup["format"], &backup["compression"]), (&json!("sql"), &json!("gzip")));
    assert_eq!(backup["copies"], json!([]));
    let id = backup["id"].as_str().unwrap();
    let history = api.get(&token, &format!("/api/backup/{id}/history")).await.data(200);
    assert_eq!((&history[0]["event"], &history[0]["outcome"]), (&json!("requested"), &json!("ok")));
}

#[tokio::test]
async fn compress_and_compression_say_the_same_in_two_ways() {
    let api = TestApi::new().await;
    let token = api.acme();
    for (body, expected) in [
        (json!({}), "gzip"),
        (json!({ "compress": true }), "gzip"),
        (json!({ "compress": false }), "none"),
        (json!({ "compression": "zstd", "format": "tar" }), "zstd"),
        (json!({ "compress": true, "format": "custom" }), "none"),
        (json!({ "compress": false, "format": "custom" }), "none"),
    ] {
        let mut body = body;
        body["project_id"] = json!("acme");
        let data = api.post(&token, EXPORT, body.clone()).await.data(202);
        let path = format!("/api/backup/{}", data["backup_id"].as_str().unwrap());
        assert_eq!(api.get(&token, &path).await.data(200)["compression"], expected, "{body}");
    }
    let both = json!({ "project_id": "acme", "compress": true, "compression": "gzip" });
    assert_eq!(api.post(&token, EXPORT, both).await.problem(422), "request.compression");
    let twice = json!({ "project_id": "acme", "compression": "gzip", "format": "custom" });
    assert_eq!(api.post(&token, EXPORT, twice).await.problem(422), "request.compression");
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_and_nothing_is_written() {
    let api = TestApi::new().await;
    let token = api.acme();
    for (body, status) in [
        (json!({}), 422),
        (json!([]), 422),
        (json!("acme"), 422),
        (json!(null), 422),
        (json!({ "project_id": 7 }), 422),
        (json!({ "project_id": null }), 422),
        (json!({ "project_id": "acme", "tables": "x" }), 422),
        (json!({ "project_id": "acme", "tables": [7] }), 422),
        (json!({ "project_id": "acme", "tables": [""] }), 422),
        (json!({ "project_id": "acme", "exclude_tables": ["a\u{0}b"] }), 422),
        (json!({ "project_id": "acme", "exclude_table_data": ["x".repeat(128)] }), 422),
        (json!({ "project_id": "acme", "tables": vec!["x"; 1001] }), 422),
        (json!({ "project_id": "acme", "storage_path": "" }), 422),
        (json!({ "project_id": "acme", "storage_path": "../x" }), 422),
        (json!({ "project_id": "acme", "storage_path": "/etc/x" }), 422),
        (json!({ "project_id": "acme", "storage_path": "%2e%2e/x" }), 422),
        (json!({ "project_id": "acme", "storage_path": "a\\..\\x" }), 422),
        (json!({ "project_id": "acme", "storage_path": "a\u{0}b" }), 422),
        (json!({ "project_id": "acme", "storage_path": "x".repeat(255) }), 422),
        (json!({ "project_id": "acme", "storage_path": "backups/globex/x" }), 422),
        (json!({ "project_id": "acme", "constructor": {} }), 422),
        (json!({ "project_id": "acme", "format": "zip" }), 422),
        (json!({ "project_id": "acme", "format": "SQL" }), 422),
        (json!({ "project_id": "acme", "compress": "yes" }), 422),
        (json!({ "project_id": "acme", "compression": "xz" }), 422),
        (json!({ "project_id": "acme", "storages": "first" }), 422),
        (json!({ "project_id": "acme", "storages": ["nowhere"] }), 422),
        (json!({ "project_id": "acme", "storages": ["../first"] }), 422),
        (json!({ "project_id": "acme", "expires_at": "tomorrow" }), 422),
        (json!({ "project_id": "acme", "expires_at": "2020-01-01T00:00:00Z" }), 422),
        (json!({ "project_id": "acme", "expires_at": "+262000-01-01T00:00:00Z" }), 422),
        (json!({ "project_id": "acme", "notify_email": "a@b.c\r\nBcc: x@y.z" }), 422),
        (json!({ "project_id": "acme", "notify_email": "nobody" }), 422),
        (json!({ "project_id": "acme", "notify_email": "a\u{0}@b.c" }), 422),
        (json!({ "project_id": "acme", "caption": "x".repeat(1025) }), 422),
        (json!({ "project_id": "acme", "caption": "a\u{0}b" }), 422),
        (json!({ "project_id": "ac\u{0}me" }), 422),
        (json!({ "project_id": "" }), 404),
        (json!({ "project_id": "nobody" }), 404),
        (json!({ "project_id": "acme' OR '1'='1" }), 404),
        (json!({ "project_id": "x".repeat(100_000) }), 404),
    ] {
        api.post(&token, EXPORT, body.clone()).await.problem(status);
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 0);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.backups").await, 0);
    assert_eq!(api.audit().await, []);
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_named() {
    let api = TestApi::new().await;
    let token = api.acme();
    for (member, value, code) in [
        ("storage_path", json!("a/../b"), "request.storage_path"),
        ("tables", json!([""]), "request.tables"),
        ("exclude_tables", json!([""]), "request.tables"),
        ("exclude_table_data", json!(["x".repeat(200)]), "request.tables"),
        ("caption", json!("x".repeat(1025)), "request.caption"),
        ("expires_at", json!("2020-01-01T00:00:00Z"), "request.expires_at"),
        ("expires_at", json!("+010000-01-01T00:00:00Z"), "request.expires_at"),
        ("notify_email", json!("nobody"), "request.notify_email"),
        ("tables", json!("x"), "request.body"),
        ("unheard_of", json!(1), "request.body"),
    ] {
        let mut body = json!({ "project_id": "acme" });
        body[member] = value;
        let answer = api.post(&token, EXPORT, body).await;
        assert_eq!(answer.problem(422), code, "{member}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(member), "{member}: {detail}");
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 0);
}

#[tokio::test]
async fn an_export_takes_its_path_and_its_tables_along() {
    let api = TestApi::new().await;
    let token = api.acme();
    let body = json!({
        "project_id": "acme", "storage_path": "nightly/{project_id}/{timestamp}.{format}", "tables": ["orders"],
        "exclude_table_data": ["log"], "caption": "x".repeat(1024), "notify_email": "ops@example.com",
    });
    let accepted = api.post(&token, EXPORT, body.clone()).await.data(202);
    let other = api.post(&token, EXPORT, body).await.data(202);
    let backup = async |accepted: &Value| {
        let path = format!("/api/backup/{}", accepted["backup_id"].as_str().unwrap());
        api.get(&token, &path).await.data(200)
    };
    let (first, second) = (backup(&accepted).await, backup(&other).await);
    assert_eq!((&first["is_partial"], &first["type"]), (&json!(true), &json!("database")));
    let key = first["file_id"].as_str().unwrap();
    assert!(key.starts_with("nightly/acme/2026-11-21-120000-") && key.ends_with(".sql.gz.age"), "{key}");
    assert_ne!(first["file_id"], second["file_id"], "two of one second have names of their own");
    let job = api.get(&token, &format!("/api/jobs/{}", accepted["job_id"].as_str().unwrap())).await.data(200);
    assert_eq!(job["payload"]["request"]["tables"], json!(["orders"]));
}

#[tokio::test]
async fn bytes_that_are_no_json_are_refused() {
    let api = TestApi::with(|config| config.listen.max_body = holdfast::byte_size::ByteSize::kib(64)).await;
    let token = api.acme();
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"{\"project_id\": \"acme\"",
        b"{\"project_id\": 'acme'}",
        b"{\"project_id\": \"\xff\xfe\"}",
        b"project_id=acme",
        b"\xef\xbb\xbf{\"project_id\":\"acme\"}",
        b"\0\0\0\0",
        b"{\"project_id\":\"acme\"} trailing",
    ];
    for body in bodies {
        let answer = api.send(raw(EXPORT, &token, body.to_vec())).await;
        assert_eq!(answer.problem(400), "request.json", "{}", String::from_utf8_lossy(body));
    }
    let answer = api.send(raw(EXPORT, &token, deep)).await;
    assert!(matches!(answer.status.as_u16(), 400 | 422), "{answer:?}");
    answer.problem(answer.status.as_u16());
    let twice = api.send(raw(EXPORT, &token, r#"{"project_id":"acme","project_id":"globex"}"#)).await;
    assert_eq!(twice.problem(422), "request.body");

    let large = format!(r#"{{"project_id":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(api.send(raw(EXPORT, &token, large.clone())).await.problem(413), "request.too_large");
    let chunks = futures::stream::iter(
        large.into_bytes().chunks(1000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    assert_eq!(api.send(raw(EXPORT, &token, Body::from_stream(chunks))).await.problem(413), "request.too_large");

    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let mut request = raw(EXPORT, &token, r#"{"project_id":"acme"}"#);
        request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        assert_eq!(api.send(request).await.problem(415), "request.content_type", "{content_type}");
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 0);
}

#[tokio::test]
async fn an_inactive_project_is_not_backed_up() {
    let api = TestApi::new().await;
    sqlx::query("UPDATE control_plane.projects SET status = 'SUSPENDED' WHERE id = 'acme'")
        .execute(api.pool())
        .await
        .unwrap();
    let answer = api.post(&api.acme(), EXPORT, json!({ "project_id": "acme" })).await;
    assert_eq!(answer.problem(409), "project.not_active");
    assert!(answer.json()["hint"].is_string());
}

#[tokio::test]
async fn a_restore_wants_to_be_confirmed() {
    let api = TestApi::new().await;
    let token = api.acme();
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    for body in [json!({ "backup_id": id }), json!({ "backup_id": id, "confirm": false })] {
        assert_eq!(api.post(&token, RESTORE, body).await.problem(400), "restore.unconfirmed");
    }
    for body in [
        json!({ "confirm": true }),
        json!({ "backup_id": "x", "confirm": true }),
        json!({ "backup_id": id, "confirm": "true" }),
        json!({ "backup_id": id, "confirm": true, "force": true }),
        json!({ "backup_id": id, "confirm": true, "target": "prod" }),
        json!({ "backup_id": id, "confirm": true, "target": { "database": "" } }),
        json!({ "backup_id": id, "confirm": true, "target": { "database": "x".repeat(64) } }),
        json!({ "backup_id": id, "confirm": true, "target": { "database": "a\u{0}" } }),
        json!({ "backup_id": id, "confirm": true, "target": { "database": "copy" } }),
    ] {
        api.post(&token, RESTORE, body.clone()).await.problem(422);
    }
    let missing = json!({ "backup_id": BackupId::generate(), "confirm": true });
    assert_eq!(api.post(&token, RESTORE, missing).await.problem(404), "backup.not_found");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 0);

    let data = api.post(&token, RESTORE, json!({ "backup_id": id, "confirm": true })).await.data(202);
    assert_eq!((&data["backup_id"], &data["project_id"]), (&json!(id), &json!("acme")));
    assert_eq!(data["status"], "pending");
    assert!(data["job_id"].is_string() && data["created_at"].is_string());
}

#[tokio::test]
async fn a_backup_that_cannot_be_restored_says_why() {
    let api = TestApi::new().await;
    let token = api.acme();
    for (change, code) in [
        ("UPDATE control_plane.backups SET type = 'logs'", "backup.not_restorable"),
        ("UPDATE control_plane.backups SET type = 'database', status = 'failed'", "backup.not_completed"),
        ("UPDATE control_plane.backups SET status = 'completed', is_partial = true", "backup.partial"),
    ] {
        let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
        sqlx::query(change).execute(api.pool()).await.unwrap();
        assert_eq!(api.post(&token, RESTORE, json!({ "backup_id": id, "confirm": true })).await.problem(409), code);
    }
}

#[tokio::test]
async fn a_hundred_equal_submissions_make_one_job() {
    let api = TestApi::new().await;
    let token = api.acme();
    let sends = (0..100).map(|_| api.send(with_key(EXPORT, &token, "same", json!({ "project_id": "acme" }))));
    let answers: Vec<Answer> = futures::stream::iter(sends).buffer_unordered(100).collect().await;
    let jobs: BTreeSet<String> =
        answers.iter().map(|answer| answer.data(202)["job_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(jobs.len(), 1);
    for table in ["SELECT count(*) FROM control_plane.jobs", "SELECT count(*) FROM control_plane.backups"] {
        assert_eq!(api.count(table).await, 1);
    }
    assert_eq!(api.audit().await.len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_request_of_one_caller() {
    let api = TestApi::new().await;
    let token = api.acme();
    let first = api.send(with_key(EXPORT, &token, "k", json!({ "project_id": "acme" }))).await.data(202);
    let other = api.send(with_key(EXPORT, &token, "k", json!({ "project_id": "acme", "format": "tar" }))).await;
    assert_eq!(other.problem(409), "idempotency.reused");
    let stranger = api.member("globex", Permission::ALL);
    let theirs = api.send(with_key(EXPORT, &stranger, "k", json!({ "project_id": "globex" }))).await.data(202);
    assert_ne!(theirs["job_id"], first["job_id"]);

    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let verify = format!("/api/backup/{id}/verify");
    let undo = format!("/api/jobs/{}/undo", api.undoable("acme").await);
    for (path, body) in [
        (RESTORE, json!({ "backup_id": id, "confirm": true })),
        (verify.as_str(), json!({ "depth": "read" })),
        (undo.as_str(), json!({})),
    ] {
        let before = api.audit().await.len();
        let first = api.send(with_key(path, &token, path, body.clone())).await.data(202);
        let second = api.send(with_key(path, &token, path, body)).await.data(202);
        assert_eq!(first, second, "{path}");
        assert_eq!(api.audit().await.len(), before + 1, "{path}");
    }
    let job = api.job("acme", "export_backup", "pending").await;
    let cancel = format!("/api/jobs/{job}/cancel");
    let first = api.send(with_key(&cancel, &token, "c", json!({}))).await.data(202);
    assert_eq!(first["status"], "cancelled");
    assert_eq!(api.send(with_key(&cancel, &token, "c", json!({}))).await.data(202), first);
    assert_eq!(api.post(&token, &cancel, json!({})).await.problem(409), "job.ended");
}

#[tokio::test]
async fn an_idempotency_key_that_is_none_is_refused() {
    let api = TestApi::new().await;
    let token = api.acme();
    let long = "k".repeat(256);
    for bad in [&b""[..], b" ", b"a b", b"k\xc3\xbc", long.as_bytes()] {
        let mut request = request(Method::POST, EXPORT, Some(&token), Some(json!({ "project_id": "acme" })));
        request.headers_mut().insert("idempotency-key", HeaderValue::from_bytes(bad).unwrap());
        assert_eq!(api.send(request).await.problem(400), "request.idempotency_key", "{bad:?}");
    }
    let mut twice = with_key(EXPORT, &token, "a", json!({ "project_id": "acme" }));
    twice.headers_mut().append("idempotency-key", HeaderValue::from_static("b"));
    assert_eq!(api.send(twice).await.problem(400), "request.idempotency_key");
    api.send(with_key(EXPORT, &token, &"k".repeat(255), json!({ "project_id": "acme" }))).await.data(202);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_with_its_backup() {
    let api = TestApi::new().await;
    let token = api.acme();
    let data = api.post(&token, EXPORT, json!({ "project_id": "acme" })).await.data(202);
    let job = data["job_id"].as_str().unwrap();
    let cancelled = api.post(&token, &format!("/api/jobs/{job}/cancel"), json!({})).await.data(202);
    assert_eq!((&cancelled["job_id"], &cancelled["status"]), (&data["job_id"], &json!("cancelled")));
    let backup = api.get(&token, &format!("/api/backup/{}", data["backup_id"].as_str().unwrap())).await.data(200);
    assert_eq!(backup["status"], "cancelled");
}

#[tokio::test]
async fn a_platforms_own_job_is_neither_told_nor_cancelled() {
    let api = TestApi::new().await;
    let token = api.acme();
    let job = api.job("acme", "send_invoice", "pending").await;
    sqlx::query("UPDATE control_plane.jobs SET payload = '{\"key\": \"canary\"}', error_message = 'canary'")
        .execute(api.pool())
        .await
        .unwrap();
    for path in [format!("/api/jobs/{job}"), "/api/jobs".to_owned()] {
        let data = api.get(&token, &path).await.data(200);
        assert!(data.to_string().contains("send_invoice") && !data.to_string().contains("canary"), "{data}");
    }
    assert_eq!(api.post(&token, &format!("/api/jobs/{job}/cancel"), json!({})).await.problem(409), "job.foreign");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs WHERE status = 'pending'").await, 1);
}

#[tokio::test]
async fn what_was_not_restored_cannot_be_undone() {
    let api = TestApi::new().await;
    let token = api.acme();
    let job = api.job("acme", "export_backup", "completed").await;
    assert_eq!(api.post(&token, &format!("/api/jobs/{job}/undo"), json!({})).await.problem(409), "restore.none");
    let job = api.undoable("acme").await;
    api.clock.advance(chrono::Duration::minutes(59));
    let path = format!("/api/jobs/{job}/undo");
    api.clock.advance(chrono::Duration::minutes(2));
    let fresh = api.acme();
    assert_eq!(api.post(&fresh, &path, json!({})).await.problem(409), "restore.not_undoable");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_keep_a_transaction_open() {
    let api = TestApi::new().await;
    let token = api.acme();
    for wait in 0..40u64 {
        let export = api.post(&token, EXPORT, json!({ "project_id": "acme" }));
        let _ = tokio::time::timeout(Duration::from_micros(wait * 250), export).await;
    }
    // All connections of the pool at once: none of them is inside a transaction.
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut connection = api.pool().acquire().await.unwrap();
        let before: String = sqlx::query_scalar("SELECT pg_catalog.txid_current_if_assigned()::text IS NULL || ''")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(before, "true");
        held.push(connection);
    }
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(&mut *held[0])
    .await
    .unwrap();
    assert_eq!(open, 0);
}
