//! Whether the service runs, and whether it can work.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::{
    app::App,
    db,
    http::{Api, answer::Data, error::Problem},
};

/// How long the control plane may take to answer before it counts as away.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer of `/readyz` is kept: whoever asks, the control plane is asked once in this time.
const READY_KEPT_FOR: Duration = Duration::from_secs(1);

/// Whether the service could work when it was looked at last, and what was wrong.
#[derive(Debug, Default)]
pub struct LastLook(Mutex<Option<(DateTime<Utc>, Option<Problem>)>>);

impl LastLook {
    /// As it is now, or was a moment ago. One looks at a time, the others wait for its answer.
    async fn ready(&self, app: &App) -> Result<Data<Health>, Problem> {
        let mut kept = self.0.lock().await;
        let now = app.clock.now();
        let is_fresh = |at: DateTime<Utc>| (now - at).to_std().is_ok_and(|age| age < READY_KEPT_FOR);
        let trouble = match kept.take() {
            Some((at, trouble)) if is_fresh(at) => {
                *kept = Some((at, trouble.clone()));
                trouble
            }
            _ => {
                let trouble = readiness(app).await.err();
                *kept = Some((now, trouble.clone()));
                trouble
            }
        };
        trouble.map_or(Ok(READY), Err)
    }
}

/// A sign of life.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`, or `ready`.
    #[schema(value_type = String, example = "ok")]
    pub status: &'static str,
}

/// What a service answers that can work.
const READY: Data<Health> = Data { data: Health { status: "ready" } };

/// Whether the process answers
///
/// Says nothing about the database: a supervisor should not restart the service because of that.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "health",
    responses((status = 200, description = "The process answers.", body = Data<Health>)),
)]
pub async fn healthz() -> Data<Health> {
    Data { data: Health { status: "ok" } }
}

/// Whether the service can take requests
///
/// The control plane answers within two seconds (else 503 with the code `control_plane.unavailable`), and every migration that this
/// program knows has been applied (else 503 with `control_plane.not_migrated`). An answer is good for a second.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health",
    responses((status = 200, description = "The service can take requests.", body = Data<Health>)),
)]
pub async fn readyz(State(api): State<Api>) -> Result<Data<Health>, Problem> {
    api.readiness.ready(&api.app).await
}

/// The checks behind `/readyz`. The first that fails is named by the problem's code.
pub async fn readiness(app: &App) -> Result<Data<Health>, Problem> {
    match tokio::time::timeout(READY_WITHIN, db::pending(&app.pool)).await {
        Ok(Ok(0)) => Ok(READY),
        Ok(Ok(pending)) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "control_plane.not_migrated",
            format!("{pending} migrations of the control plane have not been applied"),
        )
        .hint("Run `holdfast migrate`.")),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            let detail =
                format!("the control plane's database did not answer within {} seconds", READY_WITHIN.as_secs());
            Err(Problem { detail, ..Problem::unavailable() })
        }
    }
}
