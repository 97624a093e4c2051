//! A Holdfast with its API, real storage and a clock that stands still.

use std::{path::PathBuf, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request},
};
use holdfast::{
    artifact::Compression,
    auth::jwt::{self, Claims, Verifier},
    clock::Clock,
    config::Config,
    http,
    ids::JobId,
    tenant::{Permission, Role},
};
use serde_json::Value;
use tower::ServiceExt;

use super::{
    api::{self, Answer},
    support::app::TestApp,
};

pub struct Scene {
    pub test: TestApp,
    router: Router,
    /// A token of `ada`, who is one.
    pub operator: String,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Nothing is encrypted or compressed, so that files can be read as they are.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut test = TestApp::with(|config| {
            config.encryption.enabled = false;
            config.backup.compression = Compression::None;
            change(config);
        })
        .await;
        test.app.clock = Clock::fixed("2026-11-21T12:00:00Z".parse().unwrap());
        let app = &test.app;
        let verifier = Verifier::new(&app.keys.jwt_secret, &app.config.auth, app.clock.clone()).unwrap();
        let router = http::router(app.clone(), verifier);
        let mut scene = Self { test, router, operator: String::new() };
        scene.operator = scene.token("ada", Permission::ALL, &[], Role::Operator);
        scene
    }

    pub fn token(&self, subject: &str, permissions: &[Permission], projects: &[&str], role: Role) -> String {
        let claims = Claims {
            subject: subject.to_owned(),
            permissions: permissions.to_vec(),
            project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
            organization_id: None,
            role,
        };
        let app = &self.test.app;
        jwt::issue(&app.keys.jwt_secret, &app.config.auth, &claims, app.clock.now(), Duration::from_secs(36_000))
            .unwrap()
    }

    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub async fn send_as(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.answer(api::request(method, path, Some(token), body)).await
    }

    /// By the operator.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send_as(&self.operator, method, path, body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.send(Method::GET, path, None).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Works on every job that waits.
    pub async fn work(&self) {
        let waiting: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE status = 'pending'")
            .fetch_all(&self.test.app.pool)
            .await
            .unwrap();
        for id in waiting {
            self.test.run(JobId(id)).await;
        }
    }

    /// Takes a backup of the database that succeeds.
    pub async fn take(&self, body: Value) -> Value {
        let answer = self.send(Method::POST, "/backup", Some(body)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        self.work().await;
        let done = self.get(&format!("/backup/{}", answer.json()["id"])).await;
        assert_eq!(done["status"], "completed", "{done}");
        done
    }

    pub fn later(&self) {
        self.test.app.clock.advance(chrono::Duration::seconds(1));
    }

    /// Where the local storage has this.
    pub fn stored(&self, key: &str) -> PathBuf {
        self.test.directory.path().join("storage").join(key)
    }
}
