//! The queue. A worker holds a job by a *lease* that it renews; a lapsed lease makes the job free again, and the lease's token
//! refuses everything that a worker writes too late (fencing). All times are the database's clock.
//!
//! What always holds: no job is given to two workers while its lease lives; of two workers that believe to hold a job only the
//! one with the newest token can end it; at most one job of ours runs per project, and one `repair_copies` beside it.

mod lease;
mod reading;
mod workers;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;
use uuid::Uuid;

pub use self::{
    lease::{Claimed, Ending, Lease, Renewal, claim, end, fence, payload, renew, set_payload, while_held},
    reading::{JobFilter, get, ids_between, list, newest_about, open_about},
    workers::{goodbye, has_live_worker, heartbeat},
};
use super::context::component;
use crate::{ids::JobId, jobs::JobType, tenant::Scope};

crate::artifact::words! {
    /// How far a job has come.
    JobStatus, "job status" {
        Pending = "pending",
        InProgress = "in_progress",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Whether nothing will change any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// One row of `control_plane.jobs`.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Job {
    #[schema(value_type = Uuid)]
    pub id: Uuid,
    #[schema(example = "export_backup")]
    pub r#type: String,
    pub status: String,
    pub project_id: Option<String>,
    #[schema(value_type = Object)]
    pub payload: serde_json::Value,
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    #[schema(value_type = Option<Object>)]
    pub progress: Option<serde_json::Value>,
    pub attempts: i32,
    pub max_attempts: i32,
    pub run_at: DateTime<Utc>,
    pub lease_owner: Option<String>,
    pub cancel_requested: bool,
    pub error_message: Option<String>,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Job {
    pub fn job_id(&self) -> JobId {
        JobId(self.id)
    }

    /// `None` for a word of a platform's own.
    pub fn status(&self) -> Option<JobStatus> {
        self.status.parse().ok()
    }

    /// Whether it takes a backup, of whatever type.
    pub fn takes_backup(&self) -> bool {
        self.r#type.parse().is_ok_and(JobType::takes_backup)
    }

    pub fn is_final(&self) -> bool {
        self.status().is_some_and(JobStatus::is_final)
    }
}

/// Why the queue could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("there is no job {0}")]
    NoSuchJob(String),
    #[error("the lease on job {0} was lost to another worker")]
    LeaseLost(JobId),
    #[error("what only the holder of job {0} may do took too long and was given up")]
    TooSlow(JobId),
    #[error("the idempotency key was used before for another request")]
    KeyReused,
    #[error("job {id} is {status} and can no longer be cancelled")]
    AlreadyEnded { id: JobId, status: String },
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}

/// A job as it is asked for.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: JobId,
    pub job_type: JobType,
    pub project_id: Option<String>,
    pub payload: serde_json::Value,
    pub max_attempts: i32,
    pub priority: i32,
    pub created_by: String,
    pub idempotency_key: Option<String>,
}

/// Puts a job into the queue; waiting workers are told when the transaction commits. With an idempotency key that the same caller
/// has used for the same request, the job of then is returned and nothing is added ([`Enqueued::Before`]).
pub async fn enqueue(connection: &mut sqlx::PgConnection, new: &NewJob) -> Result<Enqueued, QueueError> {
    let inserted = sqlx::query_as!(
        Job,
        r#"INSERT INTO control_plane.jobs (id, type, project_id, payload, max_attempts, priority, created_by, idempotency_key)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
           ON CONFLICT (created_by, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
           RETURNING id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                     cancel_requested, error_message, created_by, created_at, started_at, finished_at"#,
        new.id.0,
        new.job_type.as_str(),
        new.project_id,
        new.payload,
        new.max_attempts,
        new.priority,
        new.created_by,
        new.idempotency_key,
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(job) = inserted {
        // Within a request, this is the line that has both ids.
        tracing::info!(job = %new.id, "{}: enqueued", component(new.job_type.as_str()));
        return Ok(Enqueued::Now(job));
    }
    let earlier = sqlx::query_as!(
        Job,
        r#"SELECT id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                  cancel_requested, error_message, created_by, created_at, started_at, finished_at
           FROM control_plane.jobs WHERE created_by = $1 AND idempotency_key = $2"#,
        new.created_by,
        new.idempotency_key,
    )
    .fetch_one(connection)
    .await?;
    let same = earlier.r#type == new.job_type.as_str()
        && earlier.project_id == new.project_id
        && earlier.payload.get("request") == new.payload.get("request");
    if same { Ok(Enqueued::Before(earlier)) } else { Err(QueueError::KeyReused) }
}

/// The job that a caller asked for under this key before, if any.
pub async fn find_by_key(
    executor: impl PgExecutor<'_>,
    created_by: &str,
    key: &str,
) -> Result<Option<JobId>, QueueError> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM control_plane.jobs WHERE created_by = $1 AND idempotency_key = $2",
        created_by,
        key
    )
    .fetch_optional(executor)
    .await?;
    Ok(id.map(JobId))
}

/// What [`enqueue`] did.
#[derive(Clone, Debug)]
pub enum Enqueued {
    Now(Job),
    /// The same request was made before, under the same idempotency key.
    Before(Job),
}

/// Asks for a job to be cancelled: one that never began ends at once, a running one is told at its next renewal (and by notification), and
/// one that waits for another attempt, or was handed back, is ended by a worker, which clears away what it has left. The returned job shows
/// which.
pub async fn request_cancel(connection: &mut sqlx::PgConnection, scope: &Scope, id: JobId) -> Result<Job, QueueError> {
    let job = get(&mut *connection, scope, id).await?;
    if job.is_final() {
        return Err(QueueError::AlreadyEnded { id, status: job.status });
    }
    let changed = sqlx::query_as!(
        Job,
        r#"UPDATE control_plane.jobs
           SET cancel_requested = true, updated_at = now(),
               status = CASE WHEN status = 'pending' AND started_at IS NULL THEN 'cancelled' ELSE status END,
               error_message = CASE WHEN status = 'pending' AND started_at IS NULL THEN 'cancelled before it began' ELSE error_message END,
               finished_at = CASE WHEN status = 'pending' AND started_at IS NULL THEN now() END,
               -- What an earlier attempt has left is cleared away by a worker, now.
               run_at = CASE WHEN status = 'pending' THEN now() ELSE run_at END
           WHERE id = $1 AND status IN ('pending', 'in_progress')
           RETURNING id, type AS "type", status, project_id, payload, result, progress, attempts, max_attempts, run_at, lease_owner,
                     cancel_requested, error_message, created_by, created_at, started_at, finished_at"#,
        id.0,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(job) = changed else {
        let job = get(&mut *connection, scope, id).await?;
        return Err(QueueError::AlreadyEnded { id, status: job.status });
    };
    sqlx::query!("SELECT pg_notify('holdfast_cancel', $1)", id.to_string()).fetch_one(connection).await?;
    Ok(job)
}

/// Whether a job is to be cancelled, as its row says.
pub async fn is_cancel_requested(executor: impl PgExecutor<'_>, id: JobId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM control_plane.jobs WHERE id = $1 AND cancel_requested) AS "asked!""#,
        id.0
    )
    .fetch_one(executor)
    .await
}
