//! Jobs as they are looked at, each within its reader's reach.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{Job, JobStatus, QueueError};
use crate::{
    ids::{BackupId, JobId},
    jobs::JobType,
    tenant::Scope,
};

/// One job within reach; [`QueueError::NoSuchJob`] also for another's. Jobs without a project are the operators'.
pub async fn get(executor: impl PgExecutor<'_>, scope: &Scope, id: JobId) -> Result<Job, QueueError> {
    sqlx::query_as!(
        Job,
        r#"SELECT id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                  cancel_requested, error_message, created_by, created_at, started_at, finished_at
           FROM control_plane.jobs j
           WHERE id = $1 AND ($2::text[] IS NULL OR project_id = ANY($2))
             AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = j.project_id AND p.organization_id = $3))"#,
        id.0,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| QueueError::NoSuchJob(id.to_string()))
}

/// The newest job of a type about one backup, which the caller has reached through its scope already.
pub async fn newest_about(
    executor: impl PgExecutor<'_>,
    job_type: JobType,
    project_id: &str,
    backup: BackupId,
) -> Result<Option<Job>, QueueError> {
    Ok(sqlx::query_as!(
        Job,
        r#"SELECT id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                  cancel_requested, error_message, created_by, created_at, started_at, finished_at
           FROM control_plane.jobs
           WHERE type = $1 AND project_id = $2 AND payload -> 'request' ->> 'backup_id' = $3
           ORDER BY created_at DESC, id DESC LIMIT 1"#,
        job_type.as_str(),
        project_id,
        backup.to_string(),
    )
    .fetch_optional(executor)
    .await?)
}

/// The jobs of a type about one backup that have not ended.
pub async fn open_about(
    executor: impl PgExecutor<'_>,
    job_type: JobType,
    project_id: &str,
    backup: BackupId,
) -> Result<Vec<Job>, QueueError> {
    Ok(sqlx::query_as!(
        Job,
        r#"SELECT id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                  cancel_requested, error_message, created_by, created_at, started_at, finished_at
           FROM control_plane.jobs
           WHERE type = $1 AND project_id = $2 AND payload -> 'request' ->> 'backup_id' = $3 AND status IN ('pending', 'in_progress')
           ORDER BY created_at, id"#,
        job_type.as_str(),
        project_id,
        backup.to_string(),
    )
    .fetch_all(executor)
    .await?)
}

/// Which jobs to list. Newest first; `before` is the last row of the page before.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub project_id: Option<String>,
    pub job_type: Option<String>,
    pub status: Option<JobStatus>,
    pub before: Option<(DateTime<Utc>, Uuid)>,
    pub limit: i64,
}

/// One page of jobs within reach.
pub async fn list(pool: &PgPool, scope: &Scope, filter: &JobFilter) -> Result<Vec<Job>, QueueError> {
    let (before_at, before_id) = filter.before.unzip();
    Ok(sqlx::query_as!(
        Job,
        r#"SELECT id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                  cancel_requested, error_message, created_by, created_at, started_at, finished_at
           FROM control_plane.jobs j
           WHERE ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = j.project_id AND p.organization_id = $2))
             AND ($3::text IS NULL OR project_id = $3)
             AND ($4::text IS NULL OR type = $4)
             AND ($5::text IS NULL OR status = $5)
             AND ($6::timestamptz IS NULL OR (created_at, id) < ($6, $7))
           ORDER BY created_at DESC, id DESC LIMIT $8"#,
        scope.project_ids(),
        scope.organization_id(),
        filter.project_id,
        filter.job_type,
        filter.status.map(JobStatus::as_str),
        before_at,
        before_id,
        filter.limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Up to two ids of jobs within reach and between two ids, both included: enough to see whether a prefix names one.
pub async fn ids_between(pool: &PgPool, scope: &Scope, low: Uuid, high: Uuid) -> Result<Vec<Uuid>, QueueError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM control_plane.jobs j
           WHERE id BETWEEN $3 AND $4 AND ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = j.project_id AND p.organization_id = $2))
           ORDER BY id LIMIT 2"#,
        scope.project_ids(),
        scope.organization_id(),
        low,
        high,
    )
    .fetch_all(pool)
    .await?)
}
