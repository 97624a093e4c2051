//! Traces, sent to a collector of the test's own, over HTTP. Needs `--features otel`.

use crate::support;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, header},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use holdfast::{
    auth::jwt::{self, Claims, Verifier},
    config::{LogConfig, Secret, TelemetryConfig},
    http,
    logging::{self, Verbosity},
    telemetry,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use support::app::TestApp;
use tokio::net::TcpListener;
use tower::ServiceExt;

/// What a collector was sent.
type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn collector() -> (String, Received) {
    let received = Received::default();
    let shelf = Arc::clone(&received);
    let take = async move |headers: HeaderMap, body: Bytes| shelf.lock().unwrap().push((headers, body));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (at, received)
}

fn has(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The spans among what was sent, read by OpenTelemetry's own definition.
fn spans(sent: &[(HeaderMap, Bytes)]) -> Vec<Value> {
    let requirements = support::checkout().join("scripts/opentelemetry-requirements.txt");
    let made = Command::new(support::checkout().join("scripts/python-venv")).arg(requirements).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let python = Path::new(String::from_utf8(made.stdout).unwrap().trim()).join("bin/python");
    let mut reader = Command::new(python)
        .arg(support::checkout().join("tests/telemetry/spans.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = sent.iter().map(|(_, body)| BASE64_STANDARD.encode(body) + "\n").collect();
    reader.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

// The exporter works on a thread of its own, while this one waits for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_sends_spans_of_the_request_the_job_and_its_stages() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (at, received) = collector().await;
    let config = TelemetryConfig {
        otlp_endpoint: Some(at.parse().unwrap()),
        otlp_headers: Some(Secret::new("authorization=Bearer%20canary+1, x-tenant=t")),
        service_name: "holdfast under test".to_owned(),
    };
    let traces = telemetry::layer(&config).unwrap();
    logging::start(&LogConfig::default(), Verbosity::Quiet, traces).unwrap();

    let app = TestApp::new().await;
    let mut tenants = app.tenants().await;
    sqlx::raw_sql("CREATE SCHEMA tenant_t; CREATE TABLE tenant_t.t (n int)").execute(&mut tenants).await.unwrap();
    app.add_schema_project("traced", "tenant_t").await;
    let (secret, auth, now) = (&app.app.keys.jwt_secret, &app.app.config.auth, app.app.clock.now());
    let claims = Claims {
        subject: "someone".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: vec!["traced".parse().unwrap()],
        organization_id: None,
        role: Role::Member,
    };
    let token = jwt::issue(secret, auth, &claims, now, Duration::from_secs(60)).unwrap();
    let router = http::router(app.app.clone(), Verifier::new(secret, auth, app.app.clock.clone()).unwrap());
    let asked = Request::post("/api/backup/export")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-request-id", "asked-by-the-test")
        .body(Body::from(json!({ "project_id": "traced" }).to_string()))
        .unwrap();
    let answer = router.oneshot(asked).await.unwrap();
    assert_eq!(answer.status(), 202);
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let job: holdfast::ids::JobId = body["data"]["job_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(app.run(job).await.status, "completed");
    telemetry::finish().await;

    let received = received.lock().unwrap();
    assert!(!received.is_empty(), "nothing was sent");
    for (headers, _) in received.iter() {
        assert_eq!(headers["authorization"], "Bearer canary+1");
        assert_eq!(
            (&headers["x-tenant"], &headers["content-type"]),
            (&"t".parse().unwrap(), &"application/x-protobuf".parse().unwrap())
        );
    }
    let sent: Vec<u8> = received.iter().flat_map(|(_, body)| body.to_vec()).collect();
    let spans = spans(&received);
    let one = |name: &str| {
        let found: Vec<&Value> = spans.iter().filter(|span| span["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}: {spans:?}");
        found[0]
    };
    assert!(spans.iter().all(|span| span["service"] == "holdfast under test"), "{spans:?}");
    assert!(spans.iter().all(|span| span["seconds"].as_f64().unwrap() >= 0.0), "{spans:?}");
    assert!(one("request")["attributes"].to_string().contains("asked-by-the-test"), "{spans:?}");
    let whole = one("ExportBackup");
    assert!(whole["attributes"].to_string().contains(&job.to_string()), "{spans:?}");
    for stage in ["dumping", "publishing"] {
        let stage = one(stage);
        assert_eq!((&stage["trace"], &stage["parent"]), (&whole["trace"], &whole["id"]), "{spans:?}");
        assert!(stage["seconds"].as_f64() <= whole["seconds"].as_f64(), "{spans:?}");
    }
    for hidden in [token.as_str(), "canary", app.app.keys.jwt_secret.expose()] {
        assert!(!has(&sent, hidden), "a secret is among the spans");
    }
}

#[test]
fn headers_that_are_no_list_are_refused_without_being_repeated() {
    let config = TelemetryConfig {
        otlp_endpoint: Some("http://127.0.0.1:1".parse().unwrap()),
        otlp_headers: Some(Secret::new("canary")),
        ..TelemetryConfig::default()
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Err(error) = telemetry::layer(&config) else { panic!("it was taken") };
    assert!(error.to_string().contains("telemetry.otlp_headers") && !error.to_string().contains("canary"), "{error}");
}
