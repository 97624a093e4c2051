//! A whole Holdfast in one line: a fresh database with the control plane and room for tenants, a local storage, keys of its own.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use holdfast::{
    app::App,
    catalog::{self, NewProject, Project, ProjectScope},
    child::Command,
    clock::Clock,
    config::{self, Config},
    db,
    ids::JobId,
    jobs::{
        queue::{self, Job},
        request::{self, Export, RestoreRequest},
        worker,
    },
    keyring::Keyring,
    postgres::{
        connect::ConnectInfo,
        tools::{ChildEnvironment, ClientTool},
    },
    tenant::{Caller, Scope},
};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A migrated control plane of its own.
pub async fn control_plane() -> PgPool {
    let info = super::fresh_database("control").await;
    let pool = db::connect(&info, &config::DatabaseConfig::default()).await.unwrap();
    db::migrate(&pool).await.unwrap();
    pool
}

pub struct TestApp {
    pub app: App,
    pub directory: TempDir,
}

pub fn everything() -> Scope {
    Scope::everything("a test looks at all")
}

impl TestApp {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration that differs from the defaults.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(super::fresh_database("app").await, change).await
    }

    /// In an empty database, on any server.
    pub async fn over(info: ConnectInfo, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let environment = BTreeMap::from([("HOLDFAST_DATA_DIR".to_owned(), directory.path().display().to_string())]);
        let empty = directory.path().join("empty.toml");
        std::fs::write(&empty, "").unwrap();
        let mut config = config::load(Some(&empty), &environment).unwrap();
        config.worker.poll_seconds = 1;
        config.worker.backoff_seconds = 1;
        config.worker.shutdown_seconds = 5;
        config.restore.allow_vulnerable_clients = super::allows_vulnerable_clients();
        change(&mut config);
        let tools = Arc::new(super::tools().await);
        let keys = Keyring::open(&config, &Clock::System).unwrap();
        let app = App::open(config, info, tools, keys).await.unwrap();
        db::migrate(&app.pool).await.unwrap();
        Self { app, directory }
    }

    /// A connection to the database in which the tenants live, as its superuser.
    pub async fn tenants(&self) -> sqlx::PgConnection {
        self.app.control.connect().await.unwrap()
    }

    pub async fn add_project(&self, id: &str, scope: ProjectScope) -> Project {
        let new = NewProject {
            id: id.parse().unwrap(),
            name: id.to_owned(),
            slug: None,
            organization_id: None,
            scope,
            database_name: None,
        };
        catalog::add_project(&self.app.pool, &new).await.unwrap()
    }

    pub async fn add_schema_project(&self, id: &str, schema: &str) -> Project {
        self.add_project(id, ProjectScope::Schema(schema.to_owned())).await
    }

    /// Works on a job to its end.
    pub async fn run(&self, job: JobId) -> Job {
        worker::run_until_final(&self.app, job, CancellationToken::new()).await.unwrap();
        queue::get(&self.app.pool, &everything(), job).await.unwrap()
    }

    /// Asks for a backup and works on it to its end.
    pub async fn back_up(&self, export: Export) -> Job {
        let job = request::export(&self.app, &caller(), &export, None).await.unwrap();
        self.run(job.job_id()).await
    }

    /// The same, for a backup that must succeed.
    pub async fn backup(&self, export: Export) -> holdfast::history::Backup {
        let job = self.back_up(export).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        let id = serde_json::from_value(job.result.unwrap()["backup_id"].clone()).unwrap();
        holdfast::history::get(&self.app.pool, &everything(), id).await.unwrap()
    }

    /// Restores a backup and works on it to its end.
    pub async fn restore(&self, backup: &holdfast::history::Backup) -> Job {
        let request = RestoreRequest::in_place(backup.backup_id());
        let job = request::restore(&self.app, &caller(), &request, None).await.unwrap();
        self.run(job.job_id()).await
    }

    /// Every file below the storage's root.
    pub fn stored_files(&self) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![self.directory.path().join("storage")];
        while let Some(directory) = waiting.pop() {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                if path.is_dir() { waiting.push(path) } else { found.push(path) }
            }
        }
        // What marks the directory is no stored file.
        found.retain(|path| !path.ends_with(".holdfast-storage"));
        found.sort();
        found
    }
}

pub fn caller() -> Caller {
    Caller::system("test")
}

/// A backup of this project with everything else left to the configuration.
pub fn export(project: &str) -> Export {
    Export { project_id: project.to_owned(), ..Export::default() }
}

/// Loads a custom-format dump, as a platform's administrator would.
pub async fn load_custom_dump(info: &ConnectInfo, dump: &Path) {
    let tools = super::tools().await;
    let tool = tools.restore_client(ClientTool::PgRestore, 140_000, true).unwrap();
    let environment = ChildEnvironment::new(info, &[]).unwrap();
    let command = Command::new(tool.path)
        .args(["--no-owner", "--no-acl", "--exit-on-error"])
        .arg(format!("--dbname={}", info.database))
        .arg(dump);
    let exit = environment.apply(command).spawn().await.unwrap().wait().await.unwrap();
    assert!(exit.status.success(), "{}: {}", dump.display(), exit.stderr);
}

/// Until some session waits for a lock in this database.
pub async fn wait_for_lock(pool: &PgPool) {
    let started = std::time::Instant::now();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        if waiting > 0 {
            return;
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "nobody waits for a lock");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
