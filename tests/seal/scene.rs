//! Two backups of one project and one of another, in a directory that a test may write into; with a look at whether any of PostgreSQL's programs
//! was started.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use holdfast::{
    demo::sample,
    history::Backup,
    postgres::tools::{ClientTool, Tools},
};
use sqlx::Executor;

use crate::support::{
    self,
    app::{TestApp, export},
};

pub fn key(backup: &Backup) -> String {
    backup.file_id.clone().unwrap()
}

pub fn manifest_key(backup: &Backup) -> String {
    format!("{}.manifest.json", key(backup))
}

pub struct Scene {
    pub test: TestApp,
    pub older: Backup,
    pub newer: Backup,
    pub other: Backup,
    started: PathBuf,
    stored: BTreeMap<PathBuf, Vec<u8>>,
}

/// What a restore could have touched.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub tools_started: usize,
    rows: Vec<BTreeMap<String, (i64, String)>>,
    schemas: Vec<String>,
    roles: Vec<String>,
    restores: i64,
}

impl Scene {
    pub async fn new() -> Self {
        let mut test = TestApp::new().await;
        let started = test.directory.path().join("started");
        test.app.tools = Arc::new(watched(&test.directory.path().join("tools"), &started).await);
        let mut tenants = test.tenants().await;
        for (project, schema) in [("acme", "tenant_acme"), ("other", "tenant_other")] {
            sample::create_tenant(&mut tenants, schema, 1).await.unwrap();
            test.add_schema_project(project, schema).await;
        }
        let older = test.backup(export("acme")).await;
        tenants.execute("CREATE TABLE tenant_acme.later AS SELECT 1 AS one").await.unwrap();
        let newer = test.backup(export("acme")).await;
        let other = test.backup(export("other")).await;
        for sql in [
            "CREATE TABLE public.saved_backups AS TABLE control_plane.backups",
            "CREATE TABLE public.saved_copies AS TABLE control_plane.backup_copies",
        ] {
            test.app.pool.execute(sql).await.unwrap();
        }
        let stored = test.stored_files().into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        Self { test, older, newer, other, started, stored }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.test.directory.path().join("storage").join(name)
    }

    /// What was stored at the beginning.
    pub fn stored(&self, name: &str) -> Vec<u8> {
        self.stored[&self.path(name)].clone()
    }

    pub fn put(&self, name: &str, bytes: Option<&[u8]>) {
        replace(&self.path(name), bytes);
    }

    /// Storage and control plane as they were at the beginning, but for events.
    pub async fn put_back(&self) {
        for (path, bytes) in &self.stored {
            replace(path, Some(bytes));
        }
        for sql in [
            "UPDATE control_plane.backups b SET project_id = s.project_id, status = s.status, message = s.message, manifest = s.manifest,
                 size = s.size, sha256 = s.sha256, content_sha256 = s.content_sha256, created_at = s.created_at, compression = s.compression
             FROM public.saved_backups s WHERE s.id = b.id",
            "UPDATE control_plane.backup_copies c SET status = s.status, message = s.message, locator = s.locator,
                 manifest_locator = s.manifest_locator
             FROM public.saved_copies s WHERE s.backup_id = c.backup_id AND s.storage = c.storage",
        ] {
            self.test.app.pool.execute(sql).await.unwrap();
        }
    }

    /// How often one of PostgreSQL's programs was started, but to ask for its version.
    pub fn tools_started(&self) -> usize {
        std::fs::read_to_string(&self.started).map_or(0, |log| log.lines().count())
    }

    pub async fn seen(&self) -> Seen {
        let mut tenants = self.test.tenants().await;
        let mut rows = Vec::new();
        for schema in ["tenant_acme", "tenant_other"] {
            rows.push(support::row_digests(&mut tenants, schema).await);
        }
        let list = async |sql| sqlx::query_scalar::<_, String>(sql).fetch_all(&self.test.app.pool).await.unwrap();
        Seen {
            tools_started: self.tools_started(),
            rows,
            schemas: list("SELECT nspname::text || ' ' || oid FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1").await,
            // Other tests use the same server: theirs are not ours.
            roles: list(
                "SELECT DISTINCT r.rolname::text FROM pg_roles r JOIN pg_shdepend d ON d.refobjid = r.oid
                 WHERE r.rolname ~ '^hf_' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1",
            )
            .await,
            restores: sqlx::query_scalar("SELECT count(*) FROM control_plane.restores").fetch_one(&self.test.app.pool).await.unwrap(),
        }
    }
}

fn replace(path: &Path, bytes: Option<&[u8]>) {
    // Stored without a right to write.
    let _ = std::fs::remove_file(path);
    if let Some(bytes) = bytes {
        std::fs::write(path, bytes).unwrap();
    }
}

/// PostgreSQL's programs behind others that write down each start.
async fn watched(directory: &Path, log: &Path) -> Tools {
    std::fs::create_dir(directory).unwrap();
    let tools = support::tools().await;
    let newest = |tool| tools.client(tool, 140_000).unwrap().path;
    for (name, tool) in
        [("pg_dump", ClientTool::PgDump), ("pg_restore", ClientTool::PgRestore), ("psql", ClientTool::Psql)]
    {
        let (path, real) = (directory.join(name), newest(tool));
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] || echo {name} >> '{}'\nexec '{}' \"$@\"\n",
            log.display(),
            real.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    Tools::among(vec![directory.to_path_buf()]).await
}
