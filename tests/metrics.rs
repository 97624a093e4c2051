//! The numbers for Prometheus: who may read them, what they say after real work, and that they say no more than is declared.

use crate::{api, support};

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use api::{Answer, TestApi, request};
use axum::http::{Method, header};
use bytes::Bytes;
use holdfast::{
    auth::jwt::{Claims, Verifier},
    config::{self, LocalStorageConfig, Secret, StorageConfig},
    http,
    metrics::{self, Kind, Origin},
    tenant::{Permission, Role},
};
use secrecy::ExposeSecret;
use support::app::{TestApp, export};
use tokio::net::TcpListener;
use tower::ServiceExt;

const TOKEN: &str = "a token for prometheus alone";

/// A page as Prometheus reads it: samples by name and labels.
struct Parsed(BTreeMap<String, f64>);

impl Parsed {
    /// Reads the text format, and holds it against what is declared.
    #[track_caller]
    fn of(page: &str) -> Self {
        let mut samples = BTreeMap::new();
        let mut family = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let declared =
                    metrics::ALL.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{line}"));
                let expected = match declared.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram(_) => "histogram",
                };
                assert_eq!(kind, expected, "{line}");
                family = declared.name;
                continue;
            }
            if line.starts_with('#') {
                assert!(line.starts_with("# HELP "), "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (series, ""),
            };
            assert!(
                name.strip_prefix(family).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest)),
                "{line}"
            );
            let names: BTreeSet<&str> = labels
                .split("\",")
                .filter_map(|pair| Some(pair.split_once("=\"")?.0))
                .filter(|name| *name != "le")
                .collect();
            let declared = metrics::ALL.iter().find(|metric| metric.name == family).unwrap();
            assert_eq!(names, declared.labels.iter().copied().collect(), "{line}");
            let earlier = samples.insert(series.to_owned(), value.parse().unwrap());
            assert!(earlier.is_none(), "{series} is there twice");
        }
        Self(samples)
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} among {:#?}", self.0))
    }
}

fn operator(api: &TestApi) -> String {
    caller(api, Role::Operator, None, Permission::ALL)
}

fn caller(api: &TestApi, role: Role, organization: Option<&str>, permissions: &[Permission]) -> String {
    api.token(&Claims {
        subject: "someone".to_owned(),
        permissions: permissions.to_vec(),
        project_ids: vec!["acme".parse().unwrap()],
        organization_id: organization.map(str::to_owned),
        role,
    })
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Looks at the control plane for each page, and knows Prometheus' token.
async fn fresh() -> TestApi {
    TestApi::with(|config| {
        config.metrics.max_age_seconds = 0;
        config.metrics.token = Some(Secret::new(TOKEN));
    })
    .await
}

#[tokio::test]
async fn the_page_is_for_operators_and_for_the_token_and_the_token_for_nothing_else() {
    let api = fresh().await;
    api.send(request(Method::GET, "/metrics", None, None)).await.problem(401);
    for token in ["x", "a token for prometheus alon", "a token for prometheus alone."] {
        assert_eq!(api.get(token, "/metrics").await.problem(401), "auth.token_invalid", "{token}");
    }
    for (role, organization) in [(Role::Member, None), (Role::OrgAdmin, Some("o-acme"))] {
        let token = caller(&api, role, organization, Permission::ALL);
        assert_eq!(api.get(&token, "/metrics").await.problem(403), "auth.role");
    }
    let cannot_read = caller(&api, Role::Operator, None, &[Permission::Write]);
    assert_eq!(api.get(&cannot_read, "/metrics").await.problem(403), "auth.forbidden");
    text(&api.get(&operator(&api), "/metrics").await);
    text(&api.get(TOKEN, "/metrics").await);
    for path in ["/api/backup", "/api/jobs", "/auth/me"] {
        api.get(TOKEN, path).await.problem(401);
    }
    // Without a configured token nothing but an operator's opens it.
    let closed = TestApi::new().await;
    closed.get("", "/metrics").await.problem(401);
}

#[tokio::test]
async fn a_real_backup_and_a_storage_that_fails_are_on_the_page() {
    let app = TestApp::with(|config| {
        config.metrics.max_age_seconds = 0;
        let root = config.data_dir.join("broken");
        config.storages.insert("broken".to_owned(), StorageConfig::Local(LocalStorageConfig::new(root)));
        config.backup.storages = vec!["local".to_owned(), "broken".to_owned()];
    })
    .await;
    let mut tenants = app.tenants().await;
    sqlx::raw_sql("CREATE SCHEMA tenant_m; CREATE TABLE tenant_m.t AS SELECT n FROM generate_series(1, 1000) n")
        .execute(&mut tenants)
        .await
        .unwrap();
    app.add_schema_project("measured", "tenant_m").await;
    app.add_schema_project("never", "tenant_never").await;
    // What lies where the storage's directory was is none.
    let root = app.directory.path().join("broken");
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::write(&root, "no directory").unwrap();
    let before = app.app.clock.now().timestamp() as f64;
    let backup = app.backup(export("measured")).await;
    app.back_up(export("never")).await;

    let claims = Claims {
        subject: "someone".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    };
    let ttl = Duration::from_secs(60);
    let (config, now) = (&app.app.config.auth, app.app.clock.now());
    let token = holdfast::auth::jwt::issue(&app.app.keys.jwt_secret, config, &claims, now, ttl).unwrap();
    let pages = async || {
        let asked = request(Method::GET, "/metrics", Some(&token), None);
        let answer = http::router(app.app.clone(), verifier_of(&app)).oneshot(asked).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let page = pages().await;
    let seen = Parsed::of(&page);
    assert_eq!(seen.get("holdfast_control_plane_up"), 1.0);
    assert!(seen.get(&format!("holdfast_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))) == 1.0);
    assert!((before - 3600.0..before + 3600.0).contains(&seen.get("process_start_time_seconds")));
    let of_type = |name: &str| seen.get(&format!("{name}{{type=\"database\"}}"));
    assert!(of_type("holdfast_backup_seconds_count") >= 1.0);
    assert!(of_type("holdfast_backup_stored_bytes_sum") >= backup.size as f64);
    assert!(of_type("holdfast_backup_content_bytes_sum") >= backup.content_size.unwrap() as f64);
    let attempts =
        |outcome| seen.get(&format!("holdfast_job_attempts_total{{type=\"export_backup\",outcome=\"{outcome}\"}}"));
    assert!(attempts("completed") >= 1.0 && attempts("failed") >= 1.0);
    assert!(seen.get("holdfast_job_attempt_seconds_count{type=\"export_backup\"}") >= 2.0);
    assert!(seen.get("holdfast_storage_uploads_total{storage=\"local\",outcome=\"committed\"}") >= 2.0);
    assert!(seen.get("holdfast_storage_written_bytes_total{storage=\"local\"}") >= backup.size as f64);
    // The first backup to a storage is read back.
    assert!(seen.get("holdfast_storage_read_bytes_total{storage=\"local\"}") >= backup.size as f64);
    let errors =
        seen.0.iter().filter(|(series, _)| series.starts_with("holdfast_storage_errors_total{storage=\"broken\""));
    assert!(errors.map(|(_, count)| count).sum::<f64>() >= 1.0, "{page}");

    assert_eq!(seen.get("holdfast_projects_active"), 2.0);
    let success = |project| {
        seen.get(&format!("holdfast_project_last_success_timestamp_seconds{{project=\"{project}\",type=\"database\"}}"))
    };
    assert!((before - 5.0..before + 120.0).contains(&success("measured")), "{page}");
    assert_eq!(success("never"), 0.0);
    assert_eq!(seen.get("holdfast_oldest_success_timestamp_seconds"), 0.0);
    assert_eq!(seen.get("holdfast_backup_copies_missing"), 1.0);
    let ended = |state| seen.get(&format!("holdfast_jobs_ended_last_day{{type=\"export_backup\",state=\"{state}\"}}"));
    assert_eq!((ended("completed"), ended("failed")), (1.0, 1.0));

    // Another process says the same of what stands in the control plane.
    let known = |page: &str| -> BTreeMap<String, f64> {
        let names: Vec<&str> =
            metrics::ALL.iter().filter(|m| m.origin == Origin::ControlPlane).map(|metric| metric.name).collect();
        let is_known = |series: &str| names.contains(&series.split('{').next().unwrap());
        // Time goes on between the two.
        Parsed::of(page).0.into_iter().filter(|(s, _)| is_known(s) && !s.starts_with("holdfast_queue_oldest")).collect()
    };
    let other = pages().await;
    assert!(known(&page).len() > 20);
    assert_eq!(known(&page), known(&other));
}

fn verifier_of(app: &TestApp) -> Verifier {
    Verifier::new(&app.app.keys.jwt_secret, &app.app.config.auth, app.app.clock.clone()).unwrap()
}

#[tokio::test]
async fn what_waits_is_lost_or_needs_attention_is_counted_and_a_platforms_own_jobs_are_not() {
    let api = fresh().await;
    for sql in [
        "INSERT INTO control_plane.jobs (type, run_at) VALUES ('export_backup', now() - interval '10 minutes'),
            ('export_backup', now() + interval '1 hour'), ('verify_backup', now()), ('send_newsletter', now() - interval '1 day')",
        "INSERT INTO control_plane.jobs (type, status, lease_expires_at) VALUES ('restore_backup', 'in_progress', now() + interval '1 hour'),
            ('delete_backup', 'in_progress', now() - interval '1 hour'), ('send_newsletter', 'in_progress', NULL)",
        "INSERT INTO control_plane.jobs (type, status, created_at) VALUES ('export_logs', 'failed', now() - interval '23 hours'),
            ('export_logs', 'failed', now() - interval '25 hours'), ('send_newsletter', 'failed', now())",
        "INSERT INTO control_plane.workers (name, version, seen_at) VALUES ('a', '1', now()), ('b', '1', now() - interval '2 minutes')",
        "INSERT INTO control_plane.projects (id, status) VALUES ('left', 'SUSPENDED')",
        "INSERT INTO control_plane.stale_projects (project_id, raised_at, allowed_seconds) VALUES ('acme', now(), 93600)",
        "INSERT INTO control_plane.notices (event, channel, recipient, status, created_at)
            VALUES ('stale', 'email', 'a@b.example', 'pending', '2026-11-21T11:00:00Z'),
            ('stale', 'email', 'b@b.example', 'failed', '2026-11-20T11:00:00Z'), ('stale', 'email', 'c@b.example', 'sent', now())",
    ] {
        sqlx::query(sql).execute(api.pool()).await.unwrap();
    }
    let bytes = Bytes::from_static(b"x");
    let (good, damaged, deleted, pinned) = (
        api.stored_backup("acme", &bytes, &["first"]).await,
        api.stored_backup("acme", &bytes, &["first"]).await,
        api.stored_backup("acme", &bytes, &["first"]).await,
        api.stored_backup("globex", &bytes, &["first"]).await,
    );
    for (sql, id) in [
        (
            "UPDATE control_plane.backups SET required_copies = 2, created_at = '2026-11-20T00:00:00Z' WHERE id = $1",
            good,
        ),
        ("INSERT INTO control_plane.backup_copies (backup_id, storage, status) VALUES ($1, 'second', 'failed')", good),
        ("UPDATE control_plane.backups SET status = 'damaged' WHERE id = $1", damaged),
        ("UPDATE control_plane.backup_copies SET status = 'damaged' WHERE backup_id = $1", damaged),
        ("UPDATE control_plane.backups SET status = 'deleted' WHERE id = $1", deleted),
        ("UPDATE control_plane.backups SET pinned = true, is_partial = true WHERE id = $1", pinned),
    ] {
        sqlx::query(sql).bind(id.0).execute(api.pool()).await.unwrap();
    }
    let page = text(&api.get(TOKEN, "/metrics").await);
    let seen = Parsed::of(&page);
    let jobs = |job_type, state| seen.get(&format!("holdfast_jobs{{type=\"{job_type}\",state=\"{state}\"}}"));
    assert_eq!((jobs("export_backup", "pending"), jobs("verify_backup", "pending")), (2.0, 1.0));
    assert_eq!((jobs("restore_backup", "in_progress"), jobs("repair_copies", "pending")), (1.0, 0.0));
    assert_eq!(seen.get("holdfast_queue_depth{type=\"export_backup\"}"), 1.0);
    assert!((600.0..700.0).contains(&seen.get("holdfast_queue_oldest_seconds{type=\"export_backup\"}")), "{page}");
    assert_eq!(seen.get("holdfast_queue_oldest_seconds{type=\"undo_restore\"}"), 0.0);
    assert_eq!(seen.get("holdfast_jobs_ended_last_day{type=\"export_logs\",state=\"failed\"}"), 1.0);
    assert_eq!((seen.get("holdfast_jobs_lapsed"), seen.get("holdfast_workers_alive")), (1.0, 1.0));
    assert_eq!((seen.get("holdfast_backups_damaged"), seen.get("holdfast_backup_copies_missing")), (1.0, 1.0));
    assert_eq!((seen.get("holdfast_backups_expiring"), seen.get("holdfast_deletions_waiting")), (1.0, 1.0));
    assert_eq!((seen.get("holdfast_projects_active"), seen.get("holdfast_projects_stale")), (2.0, 1.0));
    let notices = |state| seen.get(&format!("holdfast_notices{{state=\"{state}\"}}"));
    assert_eq!((notices("pending"), notices("failed")), (1.0, 1.0));
    assert_eq!(seen.get("holdfast_notices_oldest_seconds"), 3_600.0);
    let success = |project| {
        seen.get(&format!("holdfast_project_last_success_timestamp_seconds{{project=\"{project}\",type=\"database\"}}"))
    };
    assert_eq!(success("acme"), 1_763_596_800.0 + 365.0 * 86_400.0);
    // A partial backup brings no tenant back.
    assert_eq!((success("globex"), seen.get("holdfast_oldest_success_timestamp_seconds")), (0.0, 0.0));
    assert!(!page.contains("newsletter") && !page.contains("project=\"left\""), "{page}");
}

#[tokio::test]
async fn nothing_that_a_caller_sends_becomes_a_label() {
    let api = fresh().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    api.get(&api.acme(), &format!("/api/backup/{id}?project_id=canary")).await;
    for path in ["/canary", "/api/backup/canary", "/docs/canary.js", "/api/jobs/canary/logs"] {
        api.get("canary", path).await;
    }
    api.send(request("CANARY".parse().unwrap(), "/canary", None, None)).await;
    let page = text(&api.get(TOKEN, "/metrics").await);
    let seen = Parsed::of(&page);
    assert!(
        !page.to_lowercase().contains("canary") && !page.contains(&id.to_string()) && !page.contains(TOKEN),
        "{page}"
    );
    let requests = |method, route, status| {
        seen.get(&format!("holdfast_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"))
    };
    assert!(requests("GET", "/api/backup/{id}", 200) >= 1.0);
    assert!(requests("GET", "none", 404) >= 1.0 && requests("other", "none", 404) >= 1.0);
    assert!(seen.get("holdfast_http_request_seconds_count{method=\"GET\",route=\"/api/backup/{id}\"}") >= 1.0);
    // A project's name is its platform's choice.
    let hostile = "p\"} 1\nholdfast_canary 1 \\";
    sqlx::query("INSERT INTO control_plane.projects (id) VALUES ($1)").bind(hostile).execute(api.pool()).await.unwrap();
    let page = text(&api.get(TOKEN, "/metrics").await);
    assert!(page.contains("project=\"p\\\"} 1\\nholdfast_canary 1 \\\\\""), "{page}");
    assert!(!page.lines().any(|line| line.starts_with("holdfast_canary")), "{page}");
}

#[tokio::test]
async fn projects_have_series_of_their_own_unless_switched_off_and_a_page_is_kept_for_a_while() {
    let api = TestApi::with(|config| {
        config.metrics.per_project = false;
        config.metrics.max_age_seconds = 3_600;
    })
    .await;
    let token = operator(&api);
    let page = text(&api.get(&token, "/metrics").await);
    assert!(!page.contains("project=\""), "{page}");
    assert_eq!(Parsed::of(&page).get("holdfast_oldest_success_timestamp_seconds"), 0.0);
    api.job("acme", "verify_backup", "pending").await;
    let kept = Parsed::of(&text(&api.get(&token, "/metrics").await));
    assert_eq!(kept.get("holdfast_queue_depth{type=\"verify_backup\"}"), 0.0);
}

#[tokio::test]
async fn without_the_control_plane_the_page_says_so_and_has_what_the_process_knows() {
    let api = fresh().await;
    api.pool().close().await;
    let page = text(&api.get(TOKEN, "/metrics").await);
    assert_eq!(Parsed::of(&page).get("holdfast_control_plane_up"), 0.0);
    assert!(!page.contains("holdfast_workers_alive"), "{page}");
}

#[tokio::test]
async fn an_address_of_its_own_serves_the_page_and_health_and_asks_for_the_token_where_there_is_one() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for (token, expected) in [(None, 200), (Some(Secret::new(TOKEN)), 401)] {
        let api = TestApi::with(|config| config.metrics.token = token).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(http::serve_metrics(api.app.clone(), listener, async {
            let _ = stopped.await;
        }));
        let client = reqwest::Client::new();
        let status = async |path: &str| client.get(format!("{at}{path}")).send().await.unwrap().status().as_u16();
        assert_eq!(status("/metrics").await, expected);
        assert_eq!((status("/healthz").await, status("/readyz").await), (200, 200));
        for path in ["/", "/api/backup", "/openapi.json", "/docs/"] {
            assert_eq!(status(path).await, 404, "{path}");
        }
        let page = client.get(format!("{at}/metrics")).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
        assert_eq!(Parsed::of(&page).get("holdfast_control_plane_up"), 1.0);
        sqlx::query("DELETE FROM control_plane.holdfast_migrations").execute(api.pool()).await.unwrap();
        assert_eq!(status("/readyz").await, 503);
        stop.send(()).unwrap();
        server.await.unwrap();
    }
}

/// A process that is ended whatever becomes of the test.
struct Service(std::process::Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_worker_without_an_api_serves_its_numbers_too() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = support::reachable_directory();
    let database = support::fresh_database("worker").await.to_url().expose_secret().to_owned();
    let command = |argument: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .arg(argument)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOLDFAST_DATA_DIR", dir.path().join("data"))
            .env("DATABASE_URL", &database)
            .env("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    assert!(command("migrate").status().unwrap().success());
    let mut worker = Service(command("worker").spawn().unwrap());
    let (mut at, mut is_ready) = (None, false);
    for line in BufReader::new(worker.0.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        at = at.or(line.split_once("Metrics: at ").map(|(_, at)| at.to_owned()));
        is_ready |= line.contains("Worker: ready");
        if at.is_some() && is_ready {
            break;
        }
    }
    let at = at.unwrap();
    let page = reqwest::get(&at).await.unwrap().text().await.unwrap();
    assert_eq!(Parsed::of(&page).get("holdfast_workers_alive"), 1.0);
    let pid = rustix::process::Pid::from_child(&worker.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(worker.0.wait().unwrap().success());
    assert!(reqwest::get(&at).await.is_err(), "nobody listens any more");
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let load = |text: &str| {
        let file = directory.path().join("holdfast.toml");
        std::fs::write(&file, text).unwrap();
        config::load(Some(&file), &BTreeMap::new()).map_err(|error| error.to_string())
    };
    assert!(load("metrics.listen = '127.0.0.1:9464'").is_ok());
    let error = load("metrics.listen = '0.0.0.0:9464'").unwrap_err();
    assert!(error.contains("metrics.listen is 0.0.0.0:9464") && error.contains("metrics.token_file"), "{error}");
    let error = load("metrics.token = 'short canary'").unwrap_err();
    assert!(error.contains("metrics.token has 12 bytes") && !error.contains("canary"), "{error}");
    let secret = directory.path().join("token");
    std::fs::write(&secret, format!("{TOKEN}\n")).unwrap();
    let config = load(&format!("[metrics]\nlisten = '[::]:9464'\ntoken_file = '{}'", secret.display())).unwrap();
    assert_eq!(config.metrics.token.unwrap().expose(), TOKEN);
}

#[test]
fn the_table_in_the_documents_is_the_codes() {
    let page = std::fs::read_to_string(support::checkout().join("docs/operations.md")).unwrap();
    assert!(page.contains(&metrics::markdown()), "put this into docs/operations.md:\n{}", metrics::markdown());
}
