//! The lease: how a worker takes a job, keeps it, writes under it and ends it.

use std::{pin::pin, time::Duration};

use sqlx::{PgExecutor, PgPool, postgres::types::PgInterval};
use tokio::time::{sleep, timeout};

use super::{Job, JobStatus, QueueError};
use crate::{
    db,
    ids::{JobId, LeaseToken},
    job_type::KNOWN_TYPES,
};

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

pub(super) fn interval(duration: Duration) -> PgInterval {
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
