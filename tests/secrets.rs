//! Canaries: every secret that one installation has, searched for in everything that a backup and a restore leave or show.

use crate::{
    notify::{
        receiver::{Receiver, Reply},
        smtp::{self, Certificates, SmtpServer, Wanted},
    },
    support::{
        self,
        telegram_stand_in::{Calls, Canned, Fault, StandIn},
    },
};

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
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
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use support::app::{TestApp, caller, everything, export};

const PASSWORD: &str = "canary-password-5b1d";
const JWT: &str = "canary-jwt-secret-that-is-long-enough-77aa";
const METRICS: &str = "canary-metrics-token-c0de";
const WEBHOOK: &str = "canary-webhook-secret-9f1c";

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

/// Everything that stands in the control plane.
async fn rows(test: &TestApp) -> String {
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'control_plane'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&test.app.pool).await.unwrap();
    assert!(tables.iter().any(|table| table.ends_with(".notices")), "{tables:?}");
    let mut all = String::new();
    for table in tables {
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t");
        all += &sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_one(&test.app.pool).await.unwrap();
    }
    all
}

// Programs are waited for, and those that take their notices run here.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_in_arguments_logs_answers_tables_or_stored_bytes() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    let role = format!("canary_{}", uuid::Uuid::now_v7().simple());
    let make = format!("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}", quote::ident(&role), quote::literal(PASSWORD));
    connection.execute(AssertSqlSafe(make)).await.unwrap();
    let info = test.app.control.with_user(&role, PASSWORD.to_owned().into());
    let certificates = Certificates::new();
    let mut mail = SmtpServer::start(&certificates, Wanted::default()).await;
    let mail_port = mail.port;
    // What is refused is told with words of the other side, and of ours.
    let receiver = Receiver::start([Reply::Status(404)]).await;
    let bot_api = StandIn::start().await;
    bot_api
        .control()
        .inject(Fault::Answer(Canned::error(403, "Forbidden: bot was kicked")), Calls::next("sendMessage"));
    let bot_token = bot_api.token();

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
            .env("HOLDFAST_SMTP_HOST", "127.0.0.1")
            .env("HOLDFAST_SMTP_PORT", mail_port.to_string())
            .env("HOLDFAST_SMTP_FROM", "backups@example.com")
            .env("HOLDFAST_SMTP_USERNAME", smtp::USER)
            .env("HOLDFAST_SMTP_PASSWORD", smtp::PASSWORD)
            .env("HOLDFAST_SMTP_CA_FILE", certificates.path("ca.pem"))
            .env("HOLDFAST_NOTIFY_OPERATORS", "ops@example.com")
            .env("HOLDFAST_NOTIFY_EVENTS", "completed")
            .env("HOLDFAST_NOTIFY_POLL_SECONDS", "1")
            .stdin(Stdio::null());
    };
    // A project whose own database URL carries the password, as a file gives it.
    let url_file = test.directory.path().join("url");
    std::fs::write(&url_file, info.to_url().expose_secret()).unwrap();
    let url_file = url_file.to_str().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch_arguments(Arc::clone(&stop));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        environment(&mut command);
        let output = command.args(arguments).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    };
    let arguments =
        ["project", "add", "acme", "--name", "Acme", "--schema", "tenant_acme", "--database-url-file", url_file];
    let mut commands = run(&arguments);
    for (name, settings) in [
        ("hook", json!({ "type": "webhook", "url": receiver.url(), "secret": WEBHOOK })),
        (
            "chat",
            json!({ "type": "telegram", "bot_token": bot_token, "chat_id": bot_api.chat_id(), "base_url": bot_api.base_url() }),
        ),
    ] {
        let file = url_file.replace("/url", "/channel.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        commands += &run(&["channel", "add", name, "--settings", &file, "--json"]);
    }

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
    let begun = std::time::Instant::now();
    let waiting = "SELECT count(*) FROM control_plane.notices WHERE status = 'pending'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&test.app.pool).await.unwrap() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the notices are sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(mail.message().await["is_logged_in"], true);
    assert!(receiver.seen().len() > 1, "the secret has signed something");
    assert!(!bot_api.control().messages(bot_api.chat_id()).is_empty());
    for arguments in [["notify", "list", "--json"], ["channel", "list", "--json"], ["notify", "test", "--json"]] {
        commands += &run(&arguments);
    }
    let paths = [
        "/api/channels".to_owned(),
        "/api/audit".to_owned(),
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
    let rows = rows(&test).await;
    let log = log.join().unwrap();
    assert!(log.contains("export_backup") || log.contains("ExportBackup"), "the log was kept: {log}");
    let everything_shown = [
        ("arguments", arguments),
        ("answers", answers),
        ("log", log),
        ("standard output", said),
        ("answers to commands", commands),
        ("tables", tables),
        ("rows", rows),
    ];
    // As it goes to the mail server: RFC 4616 section 2, in base64.
    let login = BASE64_STANDARD.encode(format!("\0{}\0{}", smtp::USER, smtp::PASSWORD));
    let bot_secret = bot_token.split_once(':').unwrap().1;
    let secrets = [PASSWORD, JWT, METRICS, age, smtp::PASSWORD, &login, WEBHOOK, bot_secret];
    for (place, text) in &everything_shown {
        for secret in secrets {
            assert!(!text.contains(secret), "a secret in: {place}");
        }
    }
    for path in test.stored_files() {
        let bytes = std::fs::read(&path).unwrap();
        for secret in secrets {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
        }
    }
}
