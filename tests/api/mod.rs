//! The API over a fresh control plane, without a network: requests go straight to the router.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use bytes::Bytes;
use futures::stream::BoxStream;
use holdfast::{
    app::{App, Storages},
    artifact::{ArtifactName, Sha256Digest},
    auth::{
        jwt::{self, Claims, Verifier},
        password::Passwords,
    },
    byte_size::ByteSize,
    clock::{Clock, Timestamp},
    config::{Config, Secret},
    db, http,
    ids::{BackupId, JobId},
    keyring::Keyring,
    people::NewUser,
    storage::{
        ByteRange, ByteStream, Deletion, Error, ErrorKind, Limits, Locator, NewObject, Pace, Probe, ProbeDepth, Stat,
        Storage, Upload,
    },
    tenant::{Permission, Role},
};
use serde_json::Value;
use sqlx::PgPool;
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::seal;

/// A storage in memory whose copies can be made unreadable.
#[derive(Debug, Default)]
pub struct Shelf {
    objects: Mutex<BTreeMap<String, Bytes>>,
    pub is_away: AtomicBool,
}

impl Shelf {
    pub fn put(&self, key: &ArtifactName, bytes: Bytes) -> Locator {
        self.objects.lock().unwrap().insert(key.as_str().to_owned(), bytes);
        Locator::Memory { key: key.clone() }
    }

    fn get(&self, at: &Locator) -> Result<Bytes, Error> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "cannot open /srv/canary"));
        }
        let Locator::Memory { key } = at else { return Err(Error::new(ErrorKind::Invalid, "not ours")) };
        let found = self.objects.lock().unwrap().get(key.as_str()).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "cannot open /srv/canary"))
    }
}

#[async_trait]
impl Storage for Shelf {
    fn limits(&self) -> Limits {
        Limits { part: ByteSize::mib(8), parts_in_flight: 1, artifact: None, pace: Pace::Streamed }
    }
    async fn create(&self, _: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        Err(Error::new(ErrorKind::Denied, "for reading only"))
    }
    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        let mut bytes = self.get(at)?;
        if let Some(ByteRange { start, length }) = range {
            bytes = bytes.slice(start as usize..(start + length) as usize);
        }
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(Box::pin(futures::stream::iter(chunks)))
    }
    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        Ok(Stat { bytes: self.get(at)?.len() as u64 })
    }
    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        let is_there = self.objects.lock().unwrap().contains_key(name.as_str());
        Ok(is_there.then(|| Locator::Memory { key: name.clone() }))
    }
    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        self.objects.lock().unwrap().remove(at.key().as_str());
        Ok(Deletion::Gone)
    }
    async fn probe(&self, _: ProbeDepth) -> Result<Probe, Error> {
        Ok(Probe::default())
    }
    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        Box::pin(futures::stream::empty())
    }
}

/// Signs the tokens.
pub const JWT_SECRET: &str = "an HS256 secret that is long enough";

/// Of every user that [`TestApi::user`] makes.
pub const PASSWORD: &str = "canary correct horse battery";

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The answer's `data`, after a look at the status.
    #[track_caller]
    pub fn data(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()["data"].clone()
    }

    /// The answer's `code`, after a look at all that a problem must have.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let body = self.json();
        let code = body["code"].as_str().unwrap().to_owned();
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], format!("urn:holdfast:problem:{code}"));
        assert!(body["title"].is_string() && body["detail"].is_string() && body["instance"].is_string(), "{body}");
        assert_eq!(body["request_id"].as_str().unwrap(), self.headers["x-request-id"].to_str().unwrap());
        code
    }
}

/// The API and what is behind it: projects `acme` and `globex` of the organisations `o-acme` and `o-globex`, storages `first` and
/// `second`.
pub struct TestApi {
    pub router: Router,
    pub app: App,
    pub first: Arc<Shelf>,
    pub second: Arc<Shelf>,
    secret: Secret,
    pub clock: Clock,
    _directory: tempfile::TempDir,
}

impl TestApi {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let database = crate::support::fresh_database("http").await;
        let mut config = Config::default();
        config.database.max_connections = 10;
        config.worker.shutdown_seconds = 5;
        config.backup.storages = vec!["first".to_owned()];
        config.backup.default_project = "acme".to_owned();
        // The clock stands still, so nobody would ever get another call: tests/limits.rs has limits.
        config.limits.requests_per_minute = 0;
        config.limits.anonymous_requests_per_minute = 0;
        config.limits.refusals_per_minute = 0;
        config.limits.jobs_per_project = 0;
        configure(&mut config);
        let pool = db::connect(&database, &config.database).await.unwrap();
        db::migrate(&pool).await.unwrap();
        let (first, second) = (Arc::new(Shelf::default()), Arc::new(Shelf::default()));
        let shelves: BTreeMap<String, Arc<dyn Storage>> = BTreeMap::from([
            ("first".to_owned(), first.clone() as Arc<dyn Storage>),
            ("second".to_owned(), second.clone() as Arc<dyn Storage>),
        ]);
        let clock = Clock::fixed("2026-11-21T12:00:00Z".parse().unwrap());
        let secret = Secret::new(JWT_SECRET);
        let control = database.clone();
        let directory = tempfile::tempdir().unwrap();
        config.data_dir = directory.path().to_path_buf();
        config.auth.jwt_secret = Some(secret.clone());
        let keys = Arc::new(Keyring::open(&config, &clock).unwrap());
        let tools = Arc::default();
        let storages = Storages::new(shelves, pool.clone(), Arc::clone(&keys));
        let app = App { config: Arc::new(config), pool, control, storages, tools, keys, clock: clock.clone() };
        for (project, organization) in [("acme", "o-acme"), ("globex", "o-globex")] {
            sqlx::query("INSERT INTO control_plane.organizations (id, name) VALUES ($1, $1)")
                .bind(organization)
                .execute(&app.pool)
                .await
                .unwrap();
            sqlx::query(
                "INSERT INTO control_plane.projects (id, name, slug, organization_id, files)
                 VALUES ($1, $1, $1, $2, jsonb_build_object('directory', '/srv/' || $1))",
            )
            .bind(project)
            .bind(organization)
            .execute(&app.pool)
            .await
            .unwrap();
        }
        let verifier = Verifier::new(&secret, &app.config.auth, clock.clone()).unwrap();
        let router = http::router(app.clone(), verifier);
        Self { router, app, first, second, secret, clock, _directory: directory }
    }

    pub fn pool(&self) -> &PgPool {
        &self.app.pool
    }

    pub fn verifier(&self) -> Verifier {
        Verifier::new(&self.secret, &self.app.config.auth, self.clock.clone()).unwrap()
    }

    pub fn token(&self, claims: &Claims) -> String {
        jwt::issue(&self.secret, &self.app.config.auth, claims, self.clock.now(), Duration::from_secs(3600)).unwrap()
    }

    /// A token of a member of one project.
    pub fn member(&self, project: &str, permissions: &[Permission]) -> String {
        self.token(&Claims {
            subject: format!("member of {project}"),
            permissions: permissions.to_vec(),
            project_ids: vec![project.parse().unwrap()],
            organization_id: None,
            role: Role::Member,
        })
    }

    /// A token that may read and write in `acme`.
    pub fn acme(&self) -> String {
        self.member("acme", Permission::ALL)
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(request(Method::GET, path, Some(token), None)).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(request(Method::POST, path, Some(token), Some(body))).await
    }

    /// A completed backup with its bytes and manifest in the named storages.
    pub async fn stored_backup(&self, project: &str, bytes: &Bytes, storages: &[&str]) -> BackupId {
        let id = BackupId::generate();
        let key: ArtifactName = format!("backups/{project}/backup-{}.sql.gz", id.short()).parse().unwrap();
        let created_at: Timestamp = sqlx::query_scalar(
            "INSERT INTO control_plane.backups (id, project_id, type, format, status, file_name, file_id, size, sha256, expires_at)
             VALUES ($1, $2, 'database', 'sql', 'completed', $3, $4, $5, $6, $7) RETURNING created_at",
        )
        .bind(id.0)
        .bind(project)
        .bind(key.file_name())
        .bind(key.as_str())
        .bind(bytes.len() as i64)
        .bind(Sha256Digest::of(bytes).to_string())
        .bind(self.clock.now() + chrono::Duration::days(3))
        .fetch_one(self.pool())
        .await
        .unwrap();
        let manifest = seal::plain(id, project, key.as_str(), created_at, bytes);
        let manifest = Bytes::from(seal::sealed(manifest, self.app.keys.seals.key().unwrap()));
        for storage in storages {
            let shelf = if *storage == "first" { &self.first } else { &self.second };
            let (artifact, manifest) = (shelf.put(&key, bytes.clone()), shelf.put(&key.manifest(), manifest.clone()));
            holdfast::history::put_copy(self.pool(), id, storage, Ok((&artifact, &manifest))).await.unwrap();
        }
        id
    }

    /// A job's row as a worker would have left it.
    pub async fn job(&self, project: &str, job_type: &str, status: &str) -> JobId {
        let id = JobId::generate();
        sqlx::query(
            "INSERT INTO control_plane.jobs (id, type, status, project_id, created_by) VALUES ($1, $2, $3, $4, 'someone')",
        )
        .bind(id.0)
        .bind(job_type)
        .bind(status)
        .bind(project)
        .execute(self.pool())
        .await
        .unwrap();
        id
    }

    /// The job of a restore that can be undone.
    pub async fn undoable(&self, project: &str) -> JobId {
        let job = self.job(project, "restore_backup", "completed").await;
        let backup = self.stored_backup(project, &Bytes::from_static(b"x"), &["first"]).await;
        sqlx::query(
            "INSERT INTO control_plane.restores (id, job_id, backup_id, project_id, state, plan, kept_schema, kept_oid, undo_until)
             VALUES ($1, $2, $3, $4, 'done', '{}', 'hf_before_x', 1, $5)",
        )
        .bind(Uuid::now_v7())
        .bind(job.0)
        .bind(backup.0)
        .bind(project)
        .bind(self.clock.now() + chrono::Duration::hours(1))
        .execute(self.pool())
        .await
        .unwrap();
        job
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }

    /// A local user with this password, of this role and organisation, who reaches these projects.
    pub async fn user(&self, name: &str, role: Role, organization: Option<&str>, projects: &[&str]) -> Uuid {
        // Hashing is slow on purpose; the tests of logins do it themselves.
        static HASH: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
        let hash = async || Passwords::default().hash(Secret::new(PASSWORD)).await.unwrap();
        let new = NewUser {
            name: name.to_owned(),
            password_hash: HASH.get_or_init(hash).await.clone(),
            role,
            permissions: Permission::ALL.to_vec(),
            project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
            organization_id: organization.map(str::to_owned),
        };
        let mut connection = self.pool().acquire().await.unwrap();
        holdfast::people::insert_user(&mut connection, &new).await.unwrap().id
    }

    /// The token of a fresh session of this user.
    pub async fn log_in(&self, name: &str) -> String {
        let answer = self.post("", "/auth/login", serde_json::json!({ "name": name, "password": PASSWORD })).await;
        answer.data(200)["token"].as_str().unwrap().to_owned()
    }

    /// An API key made with this token.
    pub async fn key(&self, token: &str, body: Value) -> String {
        self.post(token, "/api/keys", body).await.data(201)["key"].as_str().unwrap().to_owned()
    }

    pub async fn patch(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(request(Method::PATCH, path, Some(token), Some(body))).await
    }

    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send(request(Method::DELETE, path, Some(token), None)).await
    }

    /// Event, actor and outcome of everything in the audit trail, but for refusals that have no word of their own: tests/audit.rs.
    pub async fn audit(&self) -> Vec<(String, String, String)> {
        sqlx::query_as("SELECT event, actor, outcome FROM control_plane.backup_history WHERE event NOT IN ('refused', 'refusals') ORDER BY id")
            .fetch_all(self.pool())
            .await
            .unwrap()
    }
}

pub fn request(method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    match body {
        Some(body) => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(&body).unwrap()))
            .unwrap(),
        None => request.body(Body::empty()).unwrap(),
    }
}
