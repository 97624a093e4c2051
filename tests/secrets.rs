//! Canaries: every secret that one installation has, searched for in everything that a backup and a restore leave or show.

use crate::support;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast::{
    auth::jwt::{self, Claims},
    clock::Clock,
    config::{AuthConfig, Secret},
    demo::sample,
    jobs::{
        queue,
        request::{self, RestoreRequest},
    },
    postgres::quote,
    tenant::{Permission, Role},
};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Executor};
use support::app::{TestApp, caller, everything, export};

const PASSWORD: &str = "canary-password-5b1d";
const JWT: &str = "canary-jwt-secret-that-is-long-enough-77aa";
const METRICS: &str = "canary-metrics-token-c0de";

/// The arguments of every process on this machine while `stop` is not set, as anyone logged in could read them.
fn watch_arguments(stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(String, usize)> {
    std::thread::spawn(move || {
        let (mut seen, mut tools) = (String::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                if line.contains("pg_dump") || line.contains("psql") {
                    tools += 1;
                }
                if line.contains("canary") {
                    seen.push_str(&line);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (seen, tools)
    })
}

/// What the API answers to an operator, who is told the most.
async fn answers(url: &str, paths: &[String]) -> String {
    let claims = Claims {
        subject: "a curious operator".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    };
    let hour = Duration::from_secs(3600);
    let token = jwt::issue(&Secret::new(JWT), &AuthConfig::default(), &claims, Clock::System.now(), hour).unwrap();
    let client = reqwest::Client::new();
    let mut text = String::new();
    for path in paths {
        let answer = client.get(format!("{url}{path}")).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        text += &format!("{:?}", answer.headers());
        text += &answer.text().await.unwrap();
    }
    text
}

#[tokio::test]
async fn no_secret_shows_in_arguments_logs_answers_tables_or_stored_bytes() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    let role = format!("canary_{}", uuid::Uuid::now_v7().simple());
    let make = format!("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}", quote::ident(&role), quote::literal(PASSWORD));
    connection.execute(AssertSqlSafe(make)).await.unwrap();
    let info = test.app.control.with_user(&role, PASSWORD.to_owned().into());

    let environment = |command: &mut Command| {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", info.to_url().expose_secret())
            .env("HOLDFAST_JWT_SECRET", JWT)
            .env("HOLDFAST_METRICS_TOKEN", METRICS)
            .env("HOLDFAST_DATA_DIR", test.directory.path())
            .env("HOLDFAST_LISTEN", "127.0.0.1:0")
            .env("HOLDFAST_LOG_LEVEL", "trace")
            .stdin(Stdio::null());
    };
    // A project whose own database URL carries the password, as a file gives it.
    let url_file = test.directory.path().join("url");
    std::fs::write(&url_file, info.to_url().expose_secret()).unwrap();
    let mut add = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    environment(&mut add);
    let url_file = url_file.to_str().unwrap();
    add.args(["project", "add", "acme", "--name", "Acme", "--schema", "tenant_acme", "--database-url-file", url_file]);
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch_arguments(Arc::clone(&stop));
    let mut serve = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    environment(&mut serve);
    let mut serve = serve.arg("serve").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(serve.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let mut stderr = serve.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let until_final = async |id| loop {
        let job = queue::get(&test.app.pool, &everything(), id).await.unwrap();
        if job.is_final() {
            assert_eq!(job.status, "completed", "{:?}", job.error_message);
            return job;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let job = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    let job = until_final(job.job_id()).await;
    let backup_id = serde_json::from_value(job.result.unwrap()["backup_id"].clone()).unwrap();
    let restore = RestoreRequest::in_place(backup_id);
    let job = request::restore(&test.app, &caller(), &restore, None).await.unwrap();
    let job = until_final(job.job_id()).await;
    let paths = [
        "/api/backup".to_owned(),
        "/api/backup/stats".to_owned(),
        format!("/api/backup/{backup_id}"),
        format!("/api/backup/{backup_id}/history"),
        "/api/jobs".to_owned(),
        format!("/api/jobs/{}", job.id),
        format!("/api/jobs/{}/logs", job.id),
        format!("/api/jobs/{}/events", job.id),
        "/readyz".to_owned(),
        "/metrics".to_owned(),
    ];
    let mut answers = answers(&url, &paths).await;
    // As Prometheus asks.
    let page = reqwest::Client::new().get(format!("{url}/metrics")).bearer_auth(METRICS).send().await.unwrap();
    assert_eq!(page.status().as_u16(), 200);
    answers += &page.text().await.unwrap();
    assert!(answers.contains(&job.id.to_string()), "the job was shown: {answers}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(serve.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert!(serve.wait().unwrap().success());
    stop.store(true, Ordering::Relaxed);
    let (arguments, tools) = watching.join().unwrap();
    assert!(tools > 0, "the tools were seen at work");

    let age = std::fs::read_to_string(test.directory.path().join("age.key")).unwrap();
    let age = age.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let restore_roles: Vec<String> = sqlx::query_scalar("SELECT plan ->> 'role' FROM control_plane.restores")
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
    assert!(!restore_roles.is_empty());
    let tables = support::schema_dump(&test.app.control, "control_plane").await;
    let mut rows = String::new();
    for table in [
        "backups",
        "backup_copies",
        "backup_history",
        "databases",
        "jobs",
        "project_logs",
        "projects",
        "restores",
        "workers",
    ] {
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM control_plane.{table} t");
        rows += &sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_one(&test.app.pool).await.unwrap();
    }
    let log = log.join().unwrap();
    assert!(log.contains("export_backup") || log.contains("ExportBackup"), "the log was kept: {log}");
    let everything_shown = [
        ("arguments", arguments),
        ("answers", answers),
        ("log", log),
        ("standard output", said),
        ("answer to project add", String::from_utf8([added.stdout, added.stderr].concat()).unwrap()),
        ("tables", tables),
        ("rows", rows),
    ];
    for (place, text) in &everything_shown {
        for secret in [PASSWORD, JWT, METRICS, age] {
            assert!(!text.contains(secret), "a secret in: {place}");
        }
    }
    for path in test.stored_files() {
        let bytes = std::fs::read(&path).unwrap();
        for secret in [PASSWORD, JWT, METRICS, age] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
        }
    }
}
