//! A platform with tenants on a database of its own, and the real `holdfast serve` over it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use holdfast::{config::DatabaseConfig, db, postgres::connect::ConnectInfo};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};

use super::support;

pub struct Platform {
    directory: tempfile::TempDir,
    pub info: ConnectInfo,
}

impl Platform {
    /// Each tenant has 500 notes in its schema.
    pub async fn new(tenants: &[&str]) -> Self {
        let info = support::fresh_database("conform").await;
        let pool = db::connect(&info, &DatabaseConfig::default()).await.unwrap();
        db::migrate(&pool).await.unwrap();
        for tenant in tenants {
            let schema = format!("tenant_{}", tenant.replace('-', "_"));
            sqlx::query("INSERT INTO control_plane.projects (id, name, slug, schema_name) VALUES ($1, $1, $1, $2)")
                .bind(tenant)
                .bind(&schema)
                .execute(&pool)
                .await
                .unwrap();
            let sql = format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.empty ();
                 CREATE TABLE {schema}.notes (id integer PRIMARY KEY, text text NOT NULL);
                 INSERT INTO {schema}.notes SELECT n, 'note ' || n || E'\\n\\t\\\\' FROM generate_series(1, 500) AS n"
            );
            pool.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        pool.close().await;
        let platform = Self { directory: support::reachable_directory(), info };
        platform.configure("");
        platform
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", self.info.to_url().expose_secret())
            .env("HOLDFAST_DATA_DIR", self.directory.path().join("data"))
            .env("HOLDFAST_CONFIG", self.directory.path().join("holdfast.toml"))
            .env("HOLDFAST_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn configure(&self, settings: &str) {
        let allow = support::allows_vulnerable_clients();
        let limits = "[limits]\nrequests_per_minute = 0\nanonymous_requests_per_minute = 0\nrefusals_per_minute = 0\njobs_per_project = 0\n";
        let text = format!("[restore]\nallow_vulnerable_clients = {allow}\n\n{limits}\n{settings}");
        std::fs::write(self.directory.path().join("holdfast.toml"), text).unwrap();
    }

    /// A token of a member of one project, as the command line issues it.
    pub fn token(&self, project: &str) -> String {
        self.issue(&["--subject", project, "--project", project])
    }

    pub fn operator(&self) -> String {
        self.issue(&["--subject", "operator", "--role", "operator"])
    }

    fn issue(&self, whose: &[&str]) -> String {
        let arguments = ["token", "issue", "--scope", "backup:read backup:write"];
        let output = self.command().args(arguments).args(whose).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts the server with these settings and waits until it listens.
    pub async fn serve(&self, settings: &str) -> Serving<'_> {
        self.configure(settings);
        let mut child = self.command().args(["serve", "--json"]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text).unwrap()
        });
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let url = said["listening"].as_str().unwrap().to_owned();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Serving { child: Some(child), url, log: Some(log), http, _platform: self }
    }
}

/// A running server. It is stopped with its value.
pub struct Serving<'a> {
    child: Option<Child>,
    pub url: String,
    log: Option<std::thread::JoinHandle<String>>,
    http: reqwest::Client,
    _platform: &'a Platform,
}

impl Serving<'_> {
    /// The `data` of an answer that is a success.
    pub async fn post(&self, token: &str, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(token).json(&body);
        Self::data(request.send().await.unwrap()).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Value {
        Self::data(self.http.get(format!("{}{path}", self.url)).bearer_auth(token).send().await.unwrap()).await
    }

    async fn data(answer: reqwest::Response) -> Value {
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()["data"].clone()
    }

    /// Waits for a job to end well.
    pub async fn ended(&self, token: &str, job: &Value) {
        let path = format!("/api/jobs/{}", job.as_str().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let job = self.get(token, &path).await;
            match job["status"].as_str().unwrap() {
                "completed" => return,
                "failed" | "cancelled" => panic!("{job}"),
                _ => assert!(Instant::now() < until, "{job}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops it as a supervisor does, and returns its log.
    pub fn stop(mut self) -> String {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
