//! What belongs to no one operation: routes, headers, health, the document, the log, the server.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::{HeaderValue, Method, header};
use holdfast::http::serve;
use serde_json::{Value, json};

use super::{
    EXPORT,
    api::{TestApi, request},
    some_bytes, with_key,
};

#[tokio::test]
async fn routes_and_methods_that_are_none_are_problems() {
    let api = TestApi::new().await;
    for path in ["/api", "/api/backups", "/api/backup/", "/metrics/", "/../etc/passwd", "/.env"] {
        assert_eq!(api.get("x", path).await.problem(404), "request.no_route", "{path}");
    }
    for (method, path) in [("DELETE", "/api/backup"), ("POST", "/healthz"), ("PUT", "/api/jobs"), ("GET", EXPORT)] {
        let answer = api.send(request(method.parse().unwrap(), path, Some(&api.acme()), None)).await;
        assert_eq!(answer.problem(405), "request.method", "{method} {path}");
        assert!(answer.headers.contains_key(header::ALLOW), "{method} {path}");
    }
}

#[tokio::test]
async fn every_answer_is_hardened_and_carries_an_id() {
    let api = TestApi::new().await;
    for path in ["/healthz", "/api/backup", "/nowhere", "/openapi.json", "/docs/"] {
        let answer = api.get(&api.acme(), path).await;
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
        assert!(answer.headers.contains_key("x-request-id"), "{path}");
    }
    let mut request = request(Method::GET, "/healthz", None, None);
    request.headers_mut().insert("x-request-id", HeaderValue::from_static("mine.1"));
    assert_eq!(api.send(request).await.headers["x-request-id"], "mine.1");
}

#[tokio::test]
async fn health_and_readiness_are_told_apart() {
    let api = TestApi::new().await;
    assert_eq!(api.get("x", "/healthz").await.data(200), json!({ "status": "ok" }));
    assert_eq!(api.get("x", "/readyz").await.data(200), json!({ "status": "ready" }));
    sqlx::query("DELETE FROM control_plane.holdfast_migrations").execute(api.pool()).await.unwrap();
    // An answer is good for a second.
    assert_eq!(api.get("x", "/readyz").await.data(200), json!({ "status": "ready" }));
    api.clock.advance(chrono::Duration::seconds(1));
    for _ in 0..2 {
        assert_eq!(api.get("x", "/readyz").await.problem(503), "control_plane.not_migrated");
    }
    api.pool().close().await;
    api.clock.advance(chrono::Duration::seconds(1));
    assert_eq!(api.get("x", "/readyz").await.problem(503), "control_plane.unavailable");
    let answer = api.get(&api.acme(), "/api/backup").await;
    assert_eq!(answer.problem(503), "control_plane.unavailable");
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(api.get("x", "/healthz").await.status, 200);
}

#[tokio::test]
async fn the_document_is_whole_and_the_ui_works_from_our_own_files() {
    let api = TestApi::new().await;
    let document = api.get("", "/openapi.json").await.json();
    assert_eq!(document, serde_json::to_value(holdfast::http::openapi()).unwrap());
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}");
            assert!(operation["summary"].is_string() && operation["description"].is_string(), "{at}");
            for status in ["500", "503"] {
                let content = &operation["responses"][status]["content"]["application/problem+json"];
                assert_eq!(content["schema"]["$ref"], "#/components/schemas/ProblemDocument", "{at}");
            }
            if !operation["security"].is_null() {
                assert!(operation["responses"]["401"].is_object() && operation["responses"]["403"].is_object(), "{at}");
            }
            if let Some(body) = operation.get("requestBody") {
                assert!(body["content"]["application/json"]["example"].is_object(), "{at}");
            }
        }
    }
    assert_references_resolve(&document, &document);
    let formats = &document["components"]["schemas"]["ExportBody"]["properties"]["format"];
    assert!(formats.to_string().contains(r#"["sql","tar","custom"]"#), "words as they are sent: {formats}");

    let page = api.get("", "/docs/").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(page.contains("swagger-ui"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
    assert!(!page.contains("<script>"), "the policy allows no inline script: {page}");
    for file in ["swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js"] {
        assert_eq!(api.get("", &format!("/docs/{file}")).await.status, 200, "{file}");
    }
    assert_eq!(api.get("", "/docs").await.headers[header::LOCATION], "/docs/");
}

fn assert_references_resolve(document: &Value, at: &Value) {
    match at {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
            members.values().for_each(|value| assert_references_resolve(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| assert_references_resolve(document, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_the_path_and_status_but_no_query_header_or_body() {
    let api = TestApi::new().await;
    let (token, log) = (api.acme(), Log::default());
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    api.get(&token, "/api/backup?project_id=canary-in-query").await.data(200);
    api.get("canary.in.token", "/api/backup").await.problem(401);
    api.post(&token, EXPORT, json!({ "project_id": "acme", "caption": "canary in body" })).await.data(202);
    api.send(with_key(EXPORT, &token, "canary-in-key", json!({ "project_id": "acme", "format": "canary" })))
        .await
        .problem(422);
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let answered = |path: &str, status: &str| {
        text.lines().any(|l| l.contains("answered") && l.contains(path) && l.contains(&format!("status={status}")))
    };
    assert!(answered("/api/backup", "200") && answered("/api/backup", "401") && answered(EXPORT, "202"), "{text}");
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("holdfast")).collect();
    assert!(ours.iter().all(|line| !line.contains("canary")), "{text}");
    assert!(!text.contains(&token), "{text}");
}

#[tokio::test]
async fn a_served_api_knows_where_calls_come_from_and_stops_with_its_streams() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api = TestApi::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(api.app.clone(), api.verifier(), listener, async {
        let _ = stopped.await;
    }));
    let client = reqwest::Client::new();
    let bytes = some_bytes(3_000_000);
    let id = api.stored_backup("acme", &bytes, &["first"]).await;
    let download = client.get(format!("{at}/api/backup/{id}/download")).bearer_auth(api.acme()).send().await.unwrap();
    assert_eq!(download.bytes().await.unwrap(), bytes);
    let address: String =
        sqlx::query_scalar("SELECT address FROM control_plane.backup_history").fetch_one(api.pool()).await.unwrap();
    assert_eq!(address, "127.0.0.1");

    let job = api.job("acme", "export_backup", "in_progress").await;
    let mut stream = client.get(format!("{at}/api/jobs/{job}/events")).bearer_auth(api.acme()).send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    stop.send(()).unwrap();
    while stream.chunk().await.unwrap().is_some() {}
    tokio::time::timeout(Duration::from_secs(4), server).await.unwrap().unwrap().unwrap();
    assert!(client.get(format!("{at}/healthz")).send().await.is_err(), "nobody listens any more");
}
