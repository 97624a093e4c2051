//! The program itself: tests, lists, retries, `doctor`, and a worker that sends.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use holdfast::{config::DatabaseConfig, db};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    receiver::{Receiver, Reply},
    smtp::{Certificates, PASSWORD, SmtpServer, USER, Wanted, header},
};
use crate::support;

struct Holdfast {
    directory: tempfile::TempDir,
    environment: BTreeMap<&'static str, String>,
    pool: PgPool,
}

impl Holdfast {
    async fn new() -> Self {
        let info = support::fresh_database("notify").await;
        let pool = db::connect(&info, &DatabaseConfig::default()).await.unwrap();
        db::migrate(&pool).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let environment = BTreeMap::from([
            ("DATABASE_URL", info.to_url().expose_secret().to_owned()),
            ("HOLDFAST_DATA_DIR", directory.path().join("data").display().to_string()),
            ("HOLDFAST_NOTIFY_POLL_SECONDS", "1".to_owned()),
            ("HOLDFAST_NOTIFY_TIMEOUT_SECONDS", "5".to_owned()),
        ]);
        Self { directory, environment, pool }
    }

    fn with_mail(mut self, certificates: &Certificates, port: u16) -> Self {
        let password = self.directory.path().join("smtp.password");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        for (name, value) in [
            ("HOLDFAST_SMTP_HOST", "127.0.0.1".to_owned()),
            ("HOLDFAST_SMTP_PORT", port.to_string()),
            ("HOLDFAST_SMTP_FROM", "backups@example.com".to_owned()),
            ("HOLDFAST_SMTP_USERNAME", USER.to_owned()),
            ("HOLDFAST_SMTP_PASSWORD_FILE", password.display().to_string()),
            ("HOLDFAST_SMTP_CA_FILE", certificates.path("ca.pem").display().to_string()),
        ] {
            self.environment.insert(name, value);
        }
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.environment)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        let all = format!("{said}{}", String::from_utf8_lossy(&output.stdout));
        assert!(!all.contains("canary"), "{arguments:?}: {all}");
        output
    }

    #[track_caller]
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.run(code, arguments).stdout).unwrap()
    }

    fn add_hook(&self, name: &str, url: &str) {
        let file = self.directory.path().join("channel.json");
        let settings = json!({ "type": "webhook", "url": url, "secret": "canary-of-a-webhook" });
        std::fs::write(&file, settings.to_string()).unwrap();
        self.run(0, &["channel", "add", name, "--settings", file.to_str().unwrap()]);
    }
}

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

// The program is waited for, and its receivers run here.
#[tokio::test(flavor = "multi_thread")]
async fn tests_tell_who_can_be_reached_and_doctor_looks_at_the_mail_server() {
    let certificates = Certificates::new();
    let mut server = SmtpServer::start(&certificates, Wanted::default()).await;
    let receiver = Receiver::start([Reply::Status(200), Reply::Status(404)]).await;
    let mut holdfast = Holdfast::new().await.with_mail(&certificates, server.port);
    let said = String::from_utf8(holdfast.run(2, &["notify", "test"]).stderr).unwrap();
    assert!(said.contains("nobody hears"), "{said}");
    holdfast.environment.insert("HOLDFAST_NOTIFY_OPERATORS", "ops@example.com, nobody@example.com".to_owned());
    holdfast.add_hook("on-call", &receiver.url());

    let trials = holdfast.json(1, &["notify", "test", "--json"]);
    let good: Vec<(&str, bool)> = trials
        .as_array()
        .unwrap()
        .iter()
        .map(|trial| (trial["recipient"].as_str().unwrap(), trial["good"].as_bool().unwrap()))
        .collect();
    assert_eq!(good, [("ops@example.com", true), ("nobody@example.com", false), ("on-call", true)]);
    assert!(trials[1]["problem"].as_str().unwrap().contains("there is no such person"), "{trials}");
    let message = server.message().await;
    assert_eq!(
        (header(&message, "subject"), header(&message, "holdfast-event")),
        ("Test: notices from Holdfast reach you", "test")
    );
    let table = String::from_utf8(holdfast.run(1, &["notify", "test", "--channel", "on-call"]).stdout).unwrap();
    assert!(table.contains("the receiver answered 404"), "{table}");
    assert_eq!(holdfast.json(0, &["notify", "test", "--email", "ops@example.com", "--json"])[0]["good"], true);
    holdfast.run(3, &["notify", "test", "--channel", "nothing"]);
    holdfast.run(2, &["notify", "test", "--email", "a@b.example\nBcc: x@y.example"]);
    holdfast.add_hook("on-call", &receiver.url());
    let said = String::from_utf8(holdfast.run(2, &["notify", "test", "--channel", "on-call"]).stderr).unwrap();
    assert!(said.contains("several channels"), "{said}");

    let mail = |output: Output| -> Value {
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        findings.as_array().unwrap().iter().find(|finding| finding["check"] == "mail").unwrap().clone()
    };
    let seen = mail(holdfast.command(&["doctor", "--json"]).output().unwrap());
    assert_eq!(seen["status"], "ok", "{seen}");
    assert!(seen["message"].as_str().unwrap().ends_with("answers, encrypted, logged in"), "{seen}");
    drop(server);
    let seen = mail(holdfast.command(&["doctor", "--json"]).output().unwrap());
    assert_eq!(seen["status"], "fail", "{seen}");
    assert!(seen["remedy"].as_str().unwrap().contains("smtp.host"), "{seen}");
}

// The program is waited for, and its receivers run here.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_sends_what_waits_and_what_was_given_up_is_listed_and_sent_again() {
    let receiver = Receiver::start([Reply::Status(404)]).await;
    let holdfast = Holdfast::new().await;
    holdfast.run(0, &["project", "add", "acme", "--name", "Acme"]);
    holdfast.add_hook("on-call", &receiver.url());
    // It has no schema.
    holdfast.run(4, &["backup", "acme", "--wait"]);
    let listed = holdfast.json(0, &["notify", "list", "--json"]);
    let events: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["failed", "started"]);
    let mut worker = holdfast.command(&["worker"]);
    let _running = Running(worker.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let until = async |sql: &'static str| {
        let begun = Instant::now();
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&holdfast.pool).await.unwrap() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{sql}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until("SELECT count(*) FILTER (WHERE status = 'failed') = 1 AND count(*) FILTER (WHERE status = 'sent') = 1 FROM control_plane.notices").await;
    let failed = holdfast.json(0, &["notify", "list", "--failed", "--json"]);
    assert_eq!(failed.as_array().unwrap().len(), 1);
    assert_eq!(failed[0]["last_error"], "the receiver answered 404");
    let table = String::from_utf8(holdfast.run(0, &["notify", "list"]).stdout).unwrap();
    assert!(table.contains("on-call") && table.contains("the receiver answered 404"), "{table}");
    holdfast.run(0, &["notify", "retry", &failed[0]["id"].to_string()]);
    until("SELECT count(*) = 2 FROM control_plane.notices WHERE status = 'sent'").await;
    holdfast.run(3, &["notify", "retry", &failed[0]["id"].to_string()]);
    holdfast.run(3, &["notify", "retry", "4711"]);
    assert_eq!(receiver.seen().len(), 3);
}
