//! The metrics, for operators and for Prometheus.

use axum::{
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
    response::Response,
};

use crate::{
    http::{Api, error::Problem, extract::Signed},
    tenant::{Permission, Role},
};

/// Somebody who may read numbers about all tenants.
#[derive(Clone, Copy, Debug)]
pub struct MayScrape;

impl FromRequestParts<Api> for MayScrape {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        if api.scrape.is_opened_by(&parts.headers) {
            return Ok(Self);
        }
        let caller = Signed::from_request_parts(parts, api).await?;
        caller.require(Permission::Read)?;
        match caller.0.role {
            Role::Operator => Ok(Self),
            Role::OrgAdmin | Role::Member => {
                Err(Problem::new(StatusCode::FORBIDDEN, "auth.role", "this needs the role operator"))
            }
        }
    }
}

/// Numbers for Prometheus
///
/// Text format 0.0.4. For operators, and for whoever has the token of the setting `metrics.token_file`; the setting `metrics.listen` serves
/// the same page on an address of its own.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "health",
    responses((status = 200, description = "The page.", body = String, content_type = "text/plain",
        example = "# HELP holdfast_workers_alive Workers that gave a sign of life within worker.lease_seconds.\n# TYPE holdfast_workers_alive gauge\nholdfast_workers_alive 2\n")),
    security(("bearer" = ["backup:read"])),
)]
pub async fn metrics(State(api): State<Api>, _: MayScrape) -> Response {
    api.scrape.page().await
}
