//! Whether the service runs, and whether it can work.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::Serialize;

use crate::{
    db,
    http::{Api, answer::Data, error::Problem},
};

/// How long the control plane may take to answer before it counts as away.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// A sign of life.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`, or `ready`.
    #[schema(value_type = String, example = "ok")]
    pub status: &'static str,
}

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
/// The control plane answers within two seconds, and has this version's tables.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health",
    responses((status = 200, description = "The service can take requests.", body = Data<Health>)),
)]
pub async fn readyz(State(api): State<Api>) -> Result<Data<Health>, Problem> {
    match tokio::time::timeout(READY_WITHIN, db::pending(&api.app.pool)).await {
        Ok(Ok(0)) => Ok(Data { data: Health { status: "ready" } }),
        Ok(Ok(pending)) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "control_plane.not_migrated",
            format!("{pending} migrations of the control plane have not been applied"),
        )
        .hint("Run `holdfast migrate`.")),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Problem::unavailable()),
    }
}
