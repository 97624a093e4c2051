//! A control plane with one project, a storage in memory, and a key: what most tests here begin with.

use std::{
    io::Read,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use holdfast::{
    artifact::{ArtifactName, BackupType},
    byte_size::ByteSize,
    catalog::{self, NewProject, ProjectScope},
    clock::Clock,
    config::DatabaseConfig,
    db,
    integration::{BackupIntegration, BackupOptions, BackupResult, Builder, FileInput, TelegramMetadata},
    jobs::{
        JobType,
        request::{self, DeleteRequest},
    },
    postgres::{connect::ConnectInfo, quote},
    storage::{
        ByteRange, ByteStream, Deletion, Error, Limits, Locator, NewObject, Pace, Probe, ProbeDepth, Stat, Storage,
        Upload, get_whole, memory::MemoryStorage,
    },
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tempfile::TempDir;

use super::support::{
    self,
    app::{TestApp, caller},
};

/// What the tests call the storage.
pub const STORAGE: &str = "chat";

pub struct Scene {
    pub info: ConnectInfo,
    pub pool: PgPool,
    pub memory: MemoryStorage,
    pub clock: Clock,
    pub directory: TempDir,
    pub identity: age::x25519::Identity,
}

impl Scene {
    pub async fn new() -> Self {
        let info = support::fresh_database("integration").await;
        let pool = db::connect(&info, &DatabaseConfig::default()).await.unwrap();
        db::migrate(&pool).await.unwrap();
        let limits = Limits { part: ByteSize::kib(100), parts_in_flight: 1, artifact: None, pace: Pace::Streamed };
        let scene = Self {
            info,
            pool,
            memory: MemoryStorage::with_limits(limits),
            clock: Clock::fixed("2026-11-21T02:00:00Z".parse().unwrap()),
            directory: tempfile::tempdir().unwrap(),
            identity: age::x25519::Identity::generate(),
        };
        scene.add_project("acme").await;
        scene
    }

    pub async fn add_project(&self, id: &str) {
        let new = NewProject {
            id: id.parse().unwrap(),
            name: id.to_owned(),
            slug: None,
            organization_id: None,
            scope: ProjectScope::Schema(format!("tenant_{id}")),
            database_name: None,
        };
        catalog::add_project(&self.pool, &new).await.unwrap();
    }

    /// Around any storage, with everything else of this scene.
    pub fn around(&self, storage: Arc<dyn Storage>) -> Builder {
        BackupIntegration::builder(STORAGE, storage)
            .recipients(vec![self.identity.to_public()])
            .database(self.pool.clone())
            .outbox(self.outbox())
            .clock(self.clock.clone())
            .created_by("platform")
    }

    pub fn integration(&self) -> BackupIntegration {
        self.around(Arc::new(self.memory.clone())).build()
    }

    pub fn outbox(&self) -> PathBuf {
        self.directory.path().join("outbox")
    }

    pub fn outbox_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.outbox()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// A file of the test's own.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub async fn count(&self, what: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM control_plane.{what}")))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// One value of the only backup's row, as text.
    pub async fn column(&self, column: &str) -> Option<String> {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT {column}::text FROM control_plane.backups")))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub async fn database_goes_down(&self) {
        goes_down(&self.info).await;
    }

    pub async fn database_comes_back(&self) {
        comes_back(&self.info).await;
    }

    /// What the storage gives back for a file that was sent, decrypted.
    pub async fn fetch(&self, storage: &dyn Storage, metadata: &TelegramMetadata) -> Vec<u8> {
        let stored = get_whole(storage, &metadata.record.locator, ByteSize::gib(1)).await.unwrap();
        let decryptor = age::Decryptor::new(&stored[..]).unwrap();
        let mut content = Vec::new();
        let identity: &dyn age::Identity = &self.identity;
        decryptor.decrypt(std::iter::once(identity)).unwrap().read_to_end(&mut content).unwrap();
        content
    }
}

/// The database takes no connection any more, and all that were open are gone.
pub async fn goes_down(info: &ConnectInfo) {
    allow_connections(info, false).await;
    let mut admin = support::connect(&support::server().await).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1) AS ended",
        )
        .bind(&info.database)
        .fetch_one(&mut admin)
        .await
        .unwrap();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "connections stay");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn comes_back(info: &ConnectInfo) {
    allow_connections(info, true).await;
}

async fn allow_connections(info: &ConnectInfo, allowed: bool) {
    let mut admin = support::connect(&support::server().await).await;
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allowed}", quote::ident(&info.database));
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// A file of the project `acme`.
pub fn file(input: impl Into<FileInput>) -> BackupOptions {
    BackupOptions { filename: Some("acme.sql".to_owned()), ..BackupOptions::new("acme", BackupType::Database, input) }
}

/// Bytes that compress badly and differ everywhere.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The code of why a call failed.
pub fn code(result: &BackupResult) -> &str {
    assert!(!result.success);
    &result.error.as_ref().expect("an error").code
}

/// A storage that has one storage for artifacts and another for manifests, and does something whenever an upload begins.
pub struct Split {
    pub artifacts: Arc<dyn Storage>,
    pub manifests: Arc<dyn Storage>,
    pub at_create: Box<dyn Fn(&ArtifactName) + Send + Sync>,
}

impl Split {
    fn of(&self, name: &ArtifactName) -> &dyn Storage {
        if name.as_str().ends_with(".manifest.json") { &*self.manifests } else { &*self.artifacts }
    }
}

impl std::fmt::Debug for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Split")
    }
}

#[async_trait]
impl Storage for Split {
    fn limits(&self) -> Limits {
        self.artifacts.limits()
    }
    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        (self.at_create)(new.name);
        self.of(new.name).create(new).await
    }
    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        self.of(at.key()).open(at, range).await
    }
    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        self.of(at.key()).stat(at).await
    }
    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        self.of(name).find(name).await
    }
    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        self.of(at.key()).delete(at).await
    }
    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        self.artifacts.probe(depth).await
    }
    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        self.manifests.manifests()
    }
}

/// Verifies a sent file by reading all of it.
pub async fn verified(test: &TestApp, integration: &BackupIntegration, result: &BackupResult) {
    let id = result.database_record.as_ref().unwrap().id;
    let job = integration.enqueue(JobType::VerifyBackup, json!({ "backup_id": id, "depth": "read" })).await.unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["outcome"], "verified");
}

/// Deletes a sent file; nothing of it is left.
pub async fn deleted(test: &TestApp, result: &BackupResult) {
    let request = DeleteRequest { backup_id: result.database_record.as_ref().unwrap().id };
    let job = request::delete(&test.app, &caller(), &request, None).await.unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["remains"], json!([]));
}
