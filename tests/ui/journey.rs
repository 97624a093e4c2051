//! One browser, one server with a worker, one tenant: enrolled, backed up, cancelled, scheduled, kept, downloaded, restored, undone; and another
//! tenant's member, who sees none of it. Every page on the way is looked at by an accessibility checker.

use std::{path::PathBuf, time::Duration};

use holdfast::{
    auth::{jwt::Verifier, password::Passwords},
    config::Secret,
    http, jobs, people,
    people::NewUser,
    tenant::{Permission, Role},
};
use sqlx::{Connection, Executor};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::browser::Browser;
use crate::support::app::{self, TestApp};

pub const PASSWORD: &str = "correct horse battery";

/// The real server over a fresh control plane, and a worker beside it.
pub struct Served {
    pub app: TestApp,
    pub base: String,
    stop: CancellationToken,
    /// Ends the server alone.
    serving: CancellationToken,
    server: Option<tokio::task::JoinHandle<()>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Served {
    pub async fn start() -> Self {
        let app = TestApp::with(|config| config.restore.undo_hours = 24).await;
        holdfast::catalog::ensure_control_plane(&app.app.pool).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        let mut served = Self { app, base, serving: stop.child_token(), stop, server: None, tasks };
        served.serve(listener);
        served
    }

    fn serve(&mut self, listener: TcpListener) {
        self.serving = self.stop.child_token();
        let (app, stopped) = (self.app.app.clone(), self.serving.clone());
        let verifier = Verifier::new(&app.keys.jwt_secret, &app.config.auth, app.clock.clone()).unwrap();
        self.server = Some(tokio::spawn(async move {
            http::serve(app, verifier, listener, stopped.cancelled_owned()).await.unwrap();
        }));
    }

    /// Nobody answers any more.
    pub async fn gone(&mut self) {
        self.serving.cancel();
        if let Some(server) = self.server.take() {
            server.await.unwrap();
        }
    }

    /// At the same address as before.
    pub async fn back(&mut self) {
        let listener = TcpListener::bind(self.base.trim_start_matches("http://")).await.unwrap();
        self.serve(listener);
    }

    /// From now on jobs are worked on.
    pub fn work(&mut self) -> CancellationToken {
        let (app, stop) = (self.app.app.clone(), self.stop.child_token());
        let stopped = stop.clone();
        self.tasks.spawn(async move { jobs::worker::run(app, stopped).await.unwrap() });
        stop
    }

    pub async fn user(&self, name: &str, role: Role, projects: &[&str]) {
        let new = NewUser {
            name: name.to_owned(),
            password_hash: Passwords::default().hash(Secret::new(PASSWORD)).await.unwrap(),
            role,
            permissions: Permission::ALL.to_vec(),
            project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
            organization_id: None,
        };
        let mut connection = self.app.app.pool.acquire().await.unwrap();
        people::insert_user(&mut connection, &new).await.unwrap();
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        self.gone().await;
        while self.tasks.join_next().await.is_some() {}
    }

    async fn set_up_token(&self) -> String {
        let token = people::put_setup_token(&self.app.app.pool, self.app.app.clock.now()).await.unwrap();
        token.expose().to_owned()
    }
}

/// A tenant with something in it.
pub async fn tenant(served: &Served, schema: &str) {
    let mut connection = served.app.tenants().await;
    let sql = format!(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (id int PRIMARY KEY, what text);
         INSERT INTO {schema}.orders SELECT n, 'order ' || n FROM generate_series(1, 2000) AS n;
         CREATE TABLE {schema}.notes (id int PRIMARY KEY); INSERT INTO {schema}.notes VALUES (1), (2); ANALYZE {schema}.orders"
    );
    connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

/// The accessibility checker: see the README beside it.
const AXE: &str = include_str!("axe-core/axe-4.14.1.min.js");

async fn orders(served: &Served) -> i64 {
    let mut connection = served.app.tenants().await;
    let count = sqlx::query_scalar("SELECT count(*) FROM tenant_acme.orders").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_a_tenant_through_its_whole_life_in_a_browser() {
    let mut served = Served::start().await;
    tenant(&served, "tenant_acme").await;
    let browser = Browser::start(&served.base).await;

    // The link that the program printed makes the first operator; the first page is a guide.
    browser.go(&format!("/setup#{}", served.set_up_token().await)).await;
    browser.is_accessible(AXE).await;
    browser.types("name", "olga@example.com").await;
    browser.types("password", PASSWORD).await;
    browser.clicks("Make the first operator").await;
    browser.sees("First steps").await;
    browser.is_accessible(AXE).await;
    browser.clicks("Find projects").await;
    browser.sees("tenant_acme").await;
    browser.is_accessible(AXE).await;
    browser.clicks("Add them all").await;
    browser.sees("added").await;

    // A backup that waits is cancelled.
    browser.go("/projects/acme").await;
    browser.clicks("Back up now").await;
    browser.arrives("/jobs/").await;
    browser.sees("waits for a worker").await;
    browser.clicks("Cancel").await;
    browser.sees("cancelled").await;

    // One that is worked on shows how it goes, and its end without a reload by hand.
    let working = served.work();
    browser.go("/projects/acme").await;
    browser.is_accessible(AXE).await;
    browser.clicks("Back up now").await;
    browser.arrives("/jobs/").await;
    browser.sees("completed").await;
    browser.sees("publishing").await;
    browser.is_accessible(AXE).await;
    browser.clicks("The backup").await;
    browser.sees("2 tables with 2,002 rows").await;
    browser.is_accessible(AXE).await;
    let backup = browser.at().await.trim_start_matches("/backups/").to_owned();

    // What is downloaded is what is stored.
    let tools = serde_json::json!({ "behavior": "allow", "downloadPath": browser.downloads.path() });
    browser.command("Page.setDownloadBehavior", tools).await;
    browser.clicks("Download").await;
    let downloaded = downloaded(&browser).await;
    let id: holdfast::ids::BackupId = backup.parse().unwrap();
    let row = holdfast::history::get(&served.app.app.pool, &app::everything(), id).await.unwrap();
    let digest = holdfast::artifact::Sha256Digest::of(&downloaded).to_string();
    assert_eq!((Some(digest), downloaded.len() as i64), (row.sha256, row.size));

    browser.clicks("Verify").await;
    browser.arrives("/jobs/").await;
    browser.sees("completed").await;

    // A schedule: what it means is said while it is typed.
    browser.go("/schedules/new?project_id=acme").await;
    browser.types("name", "nightly").await;
    browser.types("cron", "15 4 * * 1").await;
    browser.types("zone", "Europe/Berlin").await;
    browser.sees("At 04:15").await;
    browser.types("keep_last", "5").await;
    browser.is_accessible(AXE).await;
    browser.clicks("Save").await;
    browser.sees("The schedule is added.").await;
    browser.is_accessible(AXE).await;
    browser.clicks("nightly").await;
    browser.sees("Next times").await;
    browser.is_accessible(AXE).await;

    browser.go("/retention?project_id=acme").await;
    browser.sees("kept for 30 days").await;
    browser.is_accessible(AXE).await;

    // A restore, watched to its end, and undone.
    let mut connection = served.app.tenants().await;
    connection.execute("DELETE FROM tenant_acme.orders WHERE id > 10; ANALYZE tenant_acme.orders").await.unwrap();
    connection.close().await.unwrap();
    browser.go("/projects/acme/restore").await;
    browser.is_accessible(AXE).await;
    browser.clicks("Choose").await;
    browser.sees("about 10").await;
    browser.is_accessible(AXE).await;
    browser.types("confirm", "globex").await;
    browser.clicks("Restore it").await;
    browser.sees("this is not the project's name or id").await;
    browser.types("confirm", "acme").await;
    browser.clicks("Restore it").await;
    browser.arrives("/jobs/").await;
    browser.sees("Restored, and proved").await;
    assert_eq!(orders(&served).await, 2000);
    browser.is_accessible(AXE).await;
    browser.clicks("Undo the restore").await;
    // The page before says that something is completed, too.
    browser.sees("Undo a restore").await;
    browser.sees("completed").await;
    assert_eq!(orders(&served).await, 10);

    // The pages of operators.
    for path in [
        "/",
        "/projects",
        "/backups",
        "/jobs",
        "/schedules",
        "/storages",
        "/storages/new/s3",
        "/databases",
        "/databases/new",
        "/channels",
        "/channels/new/webhook",
        "/people",
        "/people/new",
        "/keys/new",
        "/audit",
        "/account",
        "/nowhere",
    ] {
        browser.go(path).await;
        browser.is_accessible(AXE).await;
    }
    browser.go("/storages").await;
    browser.clicks("Test").await;
    browser.sees("works").await;
    browser.go("/keys/new").await;
    browser.types("name", "reader").await;
    browser.types("project_ids", "acme").await;
    browser.clicks("Make the key").await;
    browser.sees("It is not shown again").await;
    assert!(browser.text().await.contains("hfk_"), "{}", browser.text().await);

    // Another tenant's member sees none of it.
    browser.go("/people/new").await;
    browser.types("name", "gina").await;
    browser.types("password", PASSWORD).await;
    browser.clicks("Save").await;
    browser.sees("They can log in now.").await;
    browser.driver.delete_all_cookies().await.unwrap();
    browser.go(&format!("/backups/{backup}")).await;
    browser.arrives("/login?next=").await;
    browser.logs_in("gina", PASSWORD).await;
    browser.arrives(&format!("/backups/{backup}")).await;
    browser.sees("There is nothing here").await;
    for path in ["/", "/projects", "/backups", "/jobs", "/schedules"] {
        browser.go(path).await;
        assert!(!browser.text().await.contains("acme"), "{path}: {}", browser.text().await);
    }

    browser.go("/jobs").await;
    working.cancel();
    browser.end().await;
    served.end().await;
}

/// The one file that the browser has downloaded, when it is whole.
async fn downloaded(browser: &Browser) -> Vec<u8> {
    let started = std::time::Instant::now();
    loop {
        let files: Vec<PathBuf> =
            std::fs::read_dir(browser.downloads.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        if let [file] = files.as_slice()
            && file.extension().is_none_or(|extension| extension != "crdownload")
        {
            return std::fs::read(file).unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(20), "nothing was downloaded: {files:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
