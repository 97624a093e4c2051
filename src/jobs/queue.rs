//! The queue. A worker holds a job by a *lease* that it renews; a lapsed lease makes the job free again, and the lease's token
//! refuses everything that a worker writes too late (fencing). All times are the database's clock.
//!
//! What always holds: no job is given to two workers while its lease lives; of two workers that believe to hold a job only the
//! one with the newest token can end it; at most one job of ours runs per project, and one `repair_copies` beside it.

use std::{pin::pin, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool, postgres::types::PgInterval};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{KNOWN_TYPES, context::component};
use crate::{
    db,
    ids::{BackupId, JobId, LeaseToken},
    jobs::JobType,
    tenant::Scope,
};

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

/// The right to work on a job. Everything a worker writes about the job goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub job: JobId,
    pub token: LeaseToken,
}

/// A job that this worker now holds. `attempts` counts this one.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub job: Job,
    pub lease: Lease,
    /// The job was taken from a worker whose lease had lapsed.
    pub was_lapsed: bool,
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// Takes the next job: first one whose worker has gone, then the most urgent waiting one of a project that has nothing running.
/// `None` when there is nothing to do now.
pub async fn claim(pool: &PgPool, worker: &str, lease_for: Duration) -> Result<Option<Claimed>, QueueError> {
    let types: Vec<String> = KNOWN_TYPES.iter().map(|t| (*t).to_owned()).collect();
    let token = LeaseToken::generate();
    let lapsed = sqlx::query_as!(
        Job,
        r#"WITH next AS (
               SELECT id FROM control_plane.jobs
               WHERE status = 'in_progress' AND (lease_expires_at < now() OR lease_expires_at IS NULL) AND type = ANY($1)
               ORDER BY lease_expires_at NULLS FIRST LIMIT 1 FOR UPDATE SKIP LOCKED)
           UPDATE control_plane.jobs j
           SET attempts = attempts + 1, lease_owner = $2, lease_token = $3, lease_expires_at = now() + $4,
               started_at = coalesce(started_at, now()), updated_at = now()
           FROM next WHERE j.id = next.id
           RETURNING j.id, j.type AS "type", j.status, j.project_id, j.payload, j.result, j.progress, j.attempts, j.max_attempts, j.run_at,
                     j.lease_owner, j.cancel_requested, j.error_message, j.created_by, j.created_at, j.started_at, j.finished_at"#,
        &types,
        worker,
        token.0,
        interval(lease_for),
    )
    .fetch_optional(pool)
    .await?;
    if let Some(job) = lapsed {
        let lease = Lease { job: job.job_id(), token };
        return Ok(Some(Claimed { job, lease, was_lapsed: true }));
    }
    // Two workers may choose jobs of one project at the same instant: the unique index lets one of them have it, the other
    // looks again.
    for _ in 0..10 {
        let mut transaction = db::begin(pool).await?;
        // The index gives the jobs in their order. Without fresh statistics (ten thousand jobs that have just been put in) the
        // planner would rather fetch and sort all that wait: 45 ms a claim instead of 0.05 ms.
        sqlx::raw_sql("SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off")
            .execute(&mut *transaction)
            .await?;
        let waiting = sqlx::query_as!(
            Job,
            r#"WITH next AS (
                   SELECT id FROM control_plane.jobs waiting
                   WHERE status = 'pending' AND run_at <= now() AND type = ANY($1)
                     AND NOT EXISTS (
                         SELECT 1 FROM control_plane.jobs running
                         WHERE running.status = 'in_progress' AND running.project_id = waiting.project_id AND running.type = ANY($1)
                           AND (running.type = 'repair_copies') = (waiting.type = 'repair_copies'))
                   ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
               UPDATE control_plane.jobs j
               SET status = 'in_progress', attempts = attempts + 1, lease_owner = $2, lease_token = $3, lease_expires_at = now() + $4,
                   started_at = coalesce(started_at, now()), updated_at = now()
               FROM next WHERE j.id = next.id
               RETURNING j.id, j.type AS "type", j.status, j.project_id, j.payload, j.result, j.progress, j.attempts, j.max_attempts, j.run_at,
                         j.lease_owner, j.cancel_requested, j.error_message, j.created_by, j.created_at, j.started_at, j.finished_at"#,
            &types,
            worker,
            token.0,
            interval(lease_for),
        )
        .fetch_optional(&mut *transaction)
        .await;
        match waiting {
            Ok(Some(job)) => {
                transaction.commit().await?;
                let lease = Lease { job: job.job_id(), token };
                return Ok(Some(Claimed { job, lease, was_lapsed: false }));
            }
            Ok(None) => {
                transaction.rollback().await?;
                return Ok(None);
            }
            // Ended here and not by a drop, which would keep the row locked, and skipped by others, until the connection is back.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => transaction.rollback().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Kept,
    /// Still held, but someone asked for the job to be cancelled.
    CancelRequested,
    /// Another worker has the job, or it was ended. Stop at once.
    Lost,
}

/// Gives a sign of life, with the newest progress.
pub async fn renew(
    pool: &PgPool,
    lease: Lease,
    lease_for: Duration,
    progress: Option<&serde_json::Value>,
) -> Result<Renewal, QueueError> {
    let cancel = sqlx::query_scalar!(
        "UPDATE control_plane.jobs SET lease_expires_at = now() + $3, progress = coalesce($4, progress), updated_at = now()
         WHERE id = $1 AND lease_token = $2 AND status = 'in_progress' RETURNING cancel_requested",
        lease.job.0,
        lease.token.0,
        interval(lease_for),
        progress,
    )
    .fetch_optional(pool)
    .await?;
    Ok(match cancel {
        Some(false) => Renewal::Kept,
        Some(true) => Renewal::CancelRequested,
        None => Renewal::Lost,
    })
}

/// Fails unless the lease is still held, and holds the job's row until the transaction ends: what is written in the same
/// transaction cannot come too late.
pub async fn fence(connection: &mut sqlx::PgConnection, lease: Lease) -> Result<(), QueueError> {
    sqlx::query_scalar!(
        "SELECT id FROM control_plane.jobs WHERE id = $1 AND lease_token = $2 AND status = 'in_progress' FOR UPDATE",
        lease.job.0,
        lease.token.0,
    )
    .fetch_optional(connection)
    .await?
    .map(|_| ())
    .ok_or(QueueError::LeaseLost(lease.job))
}

/// Does something outside the database that only the holder of the lease may do, such as deleting under a final name. Nobody else can take
/// the job meanwhile: a claim skips the row, which a transaction locks. The transaction is touched while the work takes its time, so that
/// the server does not end it as idle, and at the end it renews the lease, which nobody else could.
///
/// # Errors
/// What the work says; [`QueueError::LeaseLost`] when the lease or the transaction is lost, and [`QueueError::TooSlow`] after two thirds of
/// `lease_for`: then the work was dropped where it stood.
pub async fn while_held<T, E>(
    pool: &PgPool,
    lease: Lease,
    lease_for: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E>
where
    E: From<QueueError>,
{
    let mut transaction = db::begin(pool).await.map_err(QueueError::from)?;
    fence(&mut transaction, lease).await?;
    let mut work = pin!(work);
    // Renewals wait for the row, and are given up after three quarters of the lease.
    let mut limit = pin!(sleep(lease_for * 2 / 3));
    let tick = (lease_for / 4).min(LONGEST_IDLE);
    let done = loop {
        let touched = tokio::select! {
            biased;
            done = &mut work => break done,
            () = &mut limit => {
                // Not left to a drop, which would keep the row locked until the connection is back.
                transaction.rollback().await.map_err(QueueError::from)?;
                return Err(QueueError::TooSlow(lease.job).into());
            }
            () = sleep(tick) => timeout(tick, extend(&mut transaction, lease, lease_for)).await,
        };
        if !matches!(touched, Ok(Ok(()))) {
            return Err(QueueError::LeaseLost(lease.job).into());
        }
    };
    // What was done is done, whatever becomes of the transaction now.
    let released = async {
        extend(&mut transaction, lease, lease_for).await?;
        Ok::<_, QueueError>(transaction.commit().await?)
    };
    if let Err(error) = released.await {
        tracing::warn!(job = %lease.job, "cannot renew the lease after work under it: {error}");
    }
    done
}

/// How long a transaction that locks a job's row is left alone: well below `idle_in_transaction_session_timeout`.
const LONGEST_IDLE: Duration = Duration::from_secs(10);

/// Renews the lease within the transaction that [locks](fence) its row.
async fn extend(connection: &mut sqlx::PgConnection, lease: Lease, lease_for: Duration) -> Result<(), QueueError> {
    let changed = sqlx::query!(
        "UPDATE control_plane.jobs SET lease_expires_at = clock_timestamp() + $3::interval
         WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'",
        lease.job.0,
        lease.token.0,
        interval(lease_for),
    )
    .execute(connection)
    .await?;
    held(changed.rows_affected(), lease)
}

/// What the job carries now: an attempt may have added to it since the claim.
pub async fn payload(executor: impl PgExecutor<'_>, lease: Lease) -> Result<serde_json::Value, QueueError> {
    sqlx::query_scalar!(
        "SELECT payload FROM control_plane.jobs WHERE id = $1 AND lease_token = $2",
        lease.job.0,
        lease.token.0
    )
    .fetch_optional(executor)
    .await?
    .ok_or(QueueError::LeaseLost(lease.job))
}

/// Changes what the job carries, such as the id of the backup that its first attempt wrote down.
pub async fn set_payload(
    executor: impl PgExecutor<'_>,
    lease: Lease,
    payload: &serde_json::Value,
) -> Result<(), QueueError> {
    let changed = sqlx::query!(
        "UPDATE control_plane.jobs SET payload = $3, updated_at = now() WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'",
        lease.job.0,
        lease.token.0,
        payload,
    )
    .execute(executor)
    .await?;
    held(changed.rows_affected(), lease)
}

/// How a job ends, or goes on.
#[derive(Clone, Debug)]
pub enum Ending<'a> {
    Completed(&'a serde_json::Value),
    Failed(&'a str),
    Cancelled(&'a str),
    /// Another attempt later.
    Retry {
        message: &'a str,
        after: Duration,
    },
    /// The worker stops: the attempt does not count, and the job is free at once.
    HandedBack,
}

/// Ends the lease. [`QueueError::LeaseLost`] when it was lost before: then nothing is written.
pub async fn end(executor: impl PgExecutor<'_>, lease: Lease, ending: &Ending<'_>) -> Result<(), QueueError> {
    let (status, result, message, after, attempts_back) = match ending {
        Ending::Completed(result) => (JobStatus::Completed, Some(*result), None, Duration::ZERO, 0),
        Ending::Failed(message) => (JobStatus::Failed, None, Some(*message), Duration::ZERO, 0),
        Ending::Cancelled(message) => (JobStatus::Cancelled, None, Some(*message), Duration::ZERO, 0),
        Ending::Retry { message, after } => (JobStatus::Pending, None, Some(*message), *after, 0),
        Ending::HandedBack => (JobStatus::Pending, None, None, Duration::ZERO, 1),
    };
    let changed = sqlx::query!(
        "UPDATE control_plane.jobs
         SET status = $3, result = coalesce($4, result), error_message = $5, run_at = CASE WHEN $6 THEN run_at ELSE now() + $7 END,
             attempts = attempts - $8, lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL, updated_at = now(),
             finished_at = CASE WHEN $6 THEN now() END,
             progress = CASE WHEN $3 = 'completed' THEN progress || jsonb_build_object('stage', 'completed') ELSE progress END
         WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'",
        lease.job.0,
        lease.token.0,
        status.as_str(),
        result,
        message,
        status.is_final(),
        interval(after),
        attempts_back,
    )
    .execute(executor)
    .await?;
    held(changed.rows_affected(), lease)
}

fn held(rows: u64, lease: Lease) -> Result<(), QueueError> {
    if rows == 1 { Ok(()) } else { Err(QueueError::LeaseLost(lease.job)) }
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

/// A worker's sign of life.
pub async fn heartbeat(pool: &PgPool, worker: &str) -> Result<(), QueueError> {
    sqlx::query!(
        "INSERT INTO control_plane.workers (name, version) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, seen_at = now()",
        worker,
        env!("CARGO_PKG_VERSION"),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A worker ends: it is no longer counted on. Workers that vanished a day ago are forgotten on the way.
pub async fn goodbye(pool: &PgPool, worker: &str) -> Result<(), QueueError> {
    sqlx::query!("DELETE FROM control_plane.workers WHERE name = $1 OR seen_at < now() - interval '1 day'", worker)
        .execute(pool)
        .await?;
    Ok(())
}

/// Whether some worker gave a sign of life within `age`.
pub async fn has_live_worker(pool: &PgPool, age: Duration) -> Result<bool, QueueError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM control_plane.workers WHERE seen_at > now() - $1::interval) AS "live!""#,
        interval(age)
    )
    .fetch_one(pool)
    .await?)
}
