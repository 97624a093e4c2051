//! Retention: what would be kept and deleted now, and why.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::page_size;
use crate::{
    http::{
        Api,
        error::Problem,
        extract::{Params, Signed},
    },
    ids::ProjectId,
    jobs::apply_retention::{self, Plan},
    tenant::Permission,
};

/// Whose plan.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlanParams {
    /// Only this project.
    #[param(value_type = Option<String>)]
    pub project_id: Option<ProjectId>,
    /// Projects on a page: 50 unless asked otherwise.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    pub cursor: Option<ProjectId>,
}

/// The plan for the projects of one page.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PlanPage {
    pub data: Plan,
    /// Send it back as `cursor` for the projects that come next. `null` on the last page.
    pub next_cursor: Option<String>,
}

/// Show the retention plan
///
/// Every backup within reach with keep or delete, and the reason. Nothing is done by this: the daily run does it, or
/// `holdfast retention apply`.
#[utoipa::path(
    get, path = "/api/retention/plan", operation_id = "retention_plan", tag = "retention",
    params(PlanParams),
    responses((status = 200, description = "The plan as of now.", body = PlanPage)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn plan(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<PlanParams>, Problem>,
) -> Result<Response, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    let (only, after) =
        (params.project_id.as_ref().map(ProjectId::as_str), params.cursor.as_ref().map(ProjectId::as_str));
    let mut data = apply_retention::plan(&api.app, &caller.0.scope(), only, after, limit as i64).await?;
    let next_cursor = data.next_after.take();
    Ok(Json(PlanPage { data, next_cursor }).into_response())
}
