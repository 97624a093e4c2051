//! Jobs: what was asked for, how far it has come, cancel and undo.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    page_size,
    refusal::{self, About},
};
use crate::{
    history::{self, LogLine},
    http::{
        Api,
        answer::{Accepted, Cursor, Data, Page, accepted},
        error::Problem,
        extract::{Id, IdempotencyKey, Params, Signed},
        redact,
    },
    ids::JobId,
    jobs::{
        JobType,
        queue::{self, Job, JobFilter, JobStatus},
        request::{self, RequestError},
    },
    tenant::{Caller, Permission},
};

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    pub project_id: Option<String>,
    #[param(example = "export_backup")]
    pub r#type: Option<String>,
    #[param(inline)]
    pub status: Option<JobStatus>,
    /// Rows on a page. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A job as it may be shown to this caller. A platform's own jobs share the table: what they carry is not ours to tell.
pub(super) fn shown(mut job: Job, caller: &Caller) -> Job {
    if !is_ours(&job) {
        job.payload = serde_json::json!({});
        (job.result, job.progress, job.error_message) = (None, None, None);
    }
    redact::job(job, caller)
}

fn is_ours(job: &Job) -> bool {
    job.r#type.parse::<JobType>().is_ok()
}

/// List jobs
///
/// Newest first, page by page; those of projects within the caller's reach. Jobs of the platform's own are shown without what they
/// carry.
#[utoipa::path(
    get, path = "/api/jobs", operation_id = "list_jobs", tag = "jobs",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<Job>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<Job>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    let before = Cursor::read(params.cursor.as_deref())?;
    let filter = JobFilter {
        project_id: params.project_id,
        job_type: params.r#type,
        status: params.status,
        before,
        limit: limit as i64 + 1,
    };
    let rows = queue::list(&api.app.pool, &caller.0.scope(), &filter).await?;
    let rows = rows.into_iter().map(|job| shown(job, &caller.0)).collect();
    Ok(Page::of(rows, limit, |job| Cursor { at: job.created_at, id: job.id }))
}

/// Look at a job
///
/// Its status, progress and result.
#[utoipa::path(
    get, path = "/api/jobs/{id}", operation_id = "show_job", tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id.")),
    responses((status = 200, description = "The job.", body = Data<Job>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<JobId>, Problem>,
) -> Result<Data<Job>, Problem> {
    caller.require(Permission::Read)?;
    Ok(Data { data: shown(queue::get(&api.app.pool, &caller.0.scope(), id?.0).await?, &caller.0) })
}

/// Which lines of a log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Lines on a page of a log, as many as the history gives at once.
const LOG_PAGE: usize = 10_000;

/// A job's log
///
/// Its lines, oldest first, 10,000 on a page.
#[utoipa::path(
    get, path = "/api/jobs/{id}/logs", operation_id = "job_logs", tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id."), LogParams),
    responses((status = 200, description = "One page.", body = Page<LogLine>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn logs(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<JobId>, Problem>,
    params: Result<Params<LogParams>, Problem>,
) -> Result<Page<LogLine>, Problem> {
    caller.require(Permission::Read)?;
    let (Id(id), Params(params)) = (id?, params?);
    let after = match params.cursor {
        None => 0,
        Some(cursor) => {
            cursor.parse().map_err(|_| Problem::invalid("request.cursor", "the cursor is not one of ours"))?
        }
    };
    let job = queue::get(&api.app.pool, &caller.0.scope(), id).await?;
    let data: Vec<LogLine> = history::job_log_lines(&api.app.pool, job.job_id(), after).await?;
    let next_cursor = data.get(LOG_PAGE - 1).map(|line| line.id.to_string());
    let data = data.into_iter().map(|line| redact::line(line, &caller.0)).collect();
    Ok(Page { data, next_cursor })
}

/// Cancel a job
///
/// A waiting job ends at once, a running one as soon as its worker hears of it: look at the job for the outcome. With an
/// `Idempotency-Key`, a job that was cancelled before is answered again instead of refused.
#[utoipa::path(
    post, path = "/api/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id.")),
    responses((status = 202, description = "The job is cancelled, or will be.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn cancel(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<JobId>, Problem>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    refuse_without_write(&api, &caller, &id, "cancel_requested").await?;
    let Id(id) = id?;
    let job = queue::get(&api.app.pool, &caller.0.scope(), id).await?;
    if !is_ours(&job) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "job.foreign",
            format!("job {id} is a {:?} of the platform's own", job.r#type),
        )
        .hint("Cancel it where it comes from."));
    }
    match request::cancel(&api.app, &caller.0, id).await {
        Ok(job) => Ok(accepted(job)),
        Err(error @ RequestError::Conflict { code: "job.ended", .. }) if key.as_deref().is_some() => {
            let job = queue::get(&api.app.pool, &caller.0.scope(), id).await?;
            if job.status() == Some(JobStatus::Cancelled) { Ok(accepted(job)) } else { Err(error.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Undo a restore
///
/// Writes down a job that puts back what a restore replaced, within its undo window. Name the job of the restore.
#[utoipa::path(
    post, path = "/api/jobs/{id}/undo", operation_id = "undo_restore", tag = "jobs",
    params(("id" = Uuid, Path, description = "The id of the restore's job.")),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn undo(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<JobId>, Problem>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    refuse_without_write(&api, &caller, &id, "undo_requested").await?;
    Ok(accepted(request::undo(&api.app, &caller.0, id?.0, key.as_deref()).await?))
}

async fn refuse_without_write(
    api: &Api,
    caller: &Signed,
    id: &Result<Id<JobId>, Problem>,
    event: &str,
) -> Result<(), Problem> {
    let about = id.as_ref().ok().map(|Id(id)| About::Job(*id));
    refusal::require(api, caller, Permission::Write, event, about).await
}
