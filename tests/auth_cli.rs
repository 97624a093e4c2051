//! Local users on the command line, the first start, and what of their secrets can be seen. The program itself, on a database of its
//! own.

use crate::support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Output, Stdio},
};

use holdfast::{config::DatabaseConfig, db};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

struct Holdfast {
    directory: tempfile::TempDir,
    url: String,
    pool: sqlx::PgPool,
}

impl Holdfast {
    async fn new() -> Self {
        let info = support::fresh_database("auth").await;
        let pool = db::connect(&info, &DatabaseConfig::default()).await.unwrap();
        db::migrate(&pool).await.unwrap();
        Self { directory: tempfile::tempdir().unwrap(), url: info.to_url().expose_secret().to_owned(), pool }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.url)
            .env("HOLDFAST_DATA_DIR", self.directory.path())
            .env("HOLDFAST_LISTEN", "127.0.0.1:0")
            .env("HOLDFAST_LOG_LEVEL", "trace")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A running `serve`, with what it said first and, at the end, its log.
struct Serving {
    child: Child,
    said: Value,
    log: std::thread::JoinHandle<String>,
}

impl Serving {
    fn start(holdfast: &Holdfast) -> Self {
        let mut child = holdfast.command(&["serve", "--json"]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text).unwrap()
        });
        Self { child, said: serde_json::from_str(&line).unwrap(), log }
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let url = format!("{}{path}", self.said["listening"].as_str().unwrap());
        let answer = reqwest::Client::new().post(url).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.join().unwrap()
    }
}

#[tokio::test]
async fn the_first_start_tells_how_to_make_the_first_operator_and_no_secret_is_logged() {
    let holdfast = Holdfast::new().await;
    let serving = Serving::start(&holdfast);
    let token = serving.said["setup"]["token"].as_str().unwrap().to_owned();
    let password = "canary of the operator";
    let wrong = json!({ "token": "canary of a token", "name": "olga", "password": password });
    assert_eq!(serving.post("/auth/setup", &wrong).await.0, 401);
    let body = json!({ "token": token, "name": "olga", "password": password });
    let (status, text) = serving.post("/auth/setup", &body).await;
    assert_eq!(status, 201, "{text}");
    assert_eq!(serving.post("/auth/setup", &body).await.0, 401, "once");
    let (status, text) = serving.post("/auth/login", &json!({ "name": "olga", "password": password })).await;
    assert_eq!(status, 200, "{text}");
    let session = serde_json::from_str::<Value>(&text).unwrap()["data"]["token"].as_str().unwrap().to_owned();
    assert_eq!(serving.post("/auth/login", &json!({ "name": "olga", "password": "canary typed wrong" })).await.0, 401);
    let keys = format!("{}/api/keys", serving.said["listening"].as_str().unwrap());
    let new = json!({ "name": "ci", "permissions": ["backup:read"], "role": "operator" });
    let made = reqwest::Client::new().post(&keys).bearer_auth(&session).json(&new).send().await.unwrap();
    let key = made.json::<Value>().await.unwrap()["data"]["key"].as_str().unwrap().to_owned();
    let url = keys.replace("/keys", "/backup");
    let used = reqwest::Client::new().get(url).bearer_auth(&key).send().await.unwrap();
    assert_eq!(used.status().as_u16(), 200);
    let log = serving.stop();
    assert!(log.contains("/auth/login"), "the log was kept: {log}");
    let hash: String =
        sqlx::query_scalar("SELECT password_hash FROM control_plane.users").fetch_one(&holdfast.pool).await.unwrap();
    for secret in ["canary", &token, &session, &key, &hash, "argon2id"] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
    // The second start has an operator.
    let serving = Serving::start(&holdfast);
    assert_eq!(serving.said.get("setup"), None);
    serving.stop();
}

#[tokio::test]
async fn users_are_added_listed_disabled_and_given_passwords() {
    let holdfast = Holdfast::new().await;
    sqlx::query("INSERT INTO control_plane.projects (id, name) VALUES ('acme', 'Acme')")
        .execute(&holdfast.pool)
        .await
        .unwrap();
    let password = holdfast.file("password", "a long first password\n");
    let file = ["--password-file", password.as_str()];
    let olga =
        parsed(&holdfast.run(0, &[&["user", "add", "olga", "--role", "operator", "--json"][..], &file].concat()));
    assert_eq!((&olga["name"], &olga["role"]), (&json!("olga"), &json!("operator")));
    holdfast.run(0, &[&["user", "add", "bob", "--project", "acme", "--read-only"][..], &file].concat());
    for (code, arguments) in [
        (2, &["user", "add", "OLGA"][..]),
        (3, &["user", "add", "x", "--project", "nothing"]),
        (2, &["user", "add", "x", "--role", "org_admin"]),
        (2, &["user", "add", " x"]),
        (3, &["user", "password", "nobody"]),
    ] {
        holdfast.run(code, &[arguments, &file].concat());
    }
    let short = holdfast.file("short", "short\n");
    holdfast.run(2, &["user", "add", "x", "--password-file", &short]);
    holdfast.run(2, &["user", "add", "x", "--password-file", "/nowhere"]);
    holdfast.run(2, &["user", "add", "x", "--password", "an argument"]);
    holdfast.run(2, &["user", "disable", "olga"]);
    let list = parsed(&holdfast.run(0, &["user", "list", "--json"]));
    let rows: Vec<(&str, &str, &Value)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|user| (user["name"].as_str().unwrap(), user["role"].as_str().unwrap(), &user["permissions"]))
        .collect();
    let (all, read) = (json!(["backup:read", "backup:write"]), json!(["backup:read"]));
    assert_eq!(rows, [("bob", "member", &read), ("olga", "operator", &all)]);
    let serving = Serving::start(&holdfast);
    let login = async |name: &str, password: &str| {
        serving.post("/auth/login", &json!({ "name": name, "password": password })).await.0
    };
    assert_eq!(login("bob", "a long first password").await, 200);
    holdfast.run(0, &["user", "disable", "bob"]);
    assert_eq!(login("bob", "a long first password").await, 401);
    holdfast.run(0, &["user", "enable", "bob"]);
    let mut from_input = holdfast.command(&["user", "password", "bob", "--password-file", "-"]);
    let mut child = from_input.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a long second password\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!((login("bob", "a long first password").await, login("bob", "a long second password").await), (401, 200));
    serving.stop();
    let sessions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.sessions").fetch_one(&holdfast.pool).await.unwrap();
    assert_eq!(sessions, 1, "the new password ended the session before it");
    let events: Vec<(String, String)> =
        sqlx::query_as("SELECT event, outcome FROM control_plane.backup_history ORDER BY id")
            .fetch_all(&holdfast.pool)
            .await
            .unwrap();
    let changes = events.iter().filter(|(event, outcome)| event == "user_changed" && outcome == "ok").count();
    assert_eq!((events.iter().filter(|(event, _)| event == "user_added").count(), changes), (2, 3));
}
