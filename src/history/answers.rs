//! Answers that were given under an idempotency key, so that the same call is not made twice. For calls that make no job: a job has a key of its
//! own.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::HistoryError;

/// A call that carries a key. Digests are keyed, so that they tell readers of the database nothing.
#[derive(Clone, Debug)]
pub struct KeyedCall<'a> {
    /// Who, with its rights.
    pub caller: &'a [u8],
    pub key: &'a str,
    /// What.
    pub request: &'a [u8],
    /// One try at answering it.
    pub attempt: Uuid,
}

/// What is known of a call when it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStanding {
    /// Nothing: it is now this attempt's to answer.
    Fresh,
    /// The same call is being answered.
    UnderWay,
    /// The same call was answered.
    Answered(KeptAnswer),
    /// The key was used for another call.
    Another,
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    pub status: u16,
    pub location: Option<String>,
    /// `None`: it is not kept.
    pub body: Option<String>,
}

/// Takes the key for this attempt, unless it is taken. An attempt that began before `lost_before` and has no answer yet was lost with its
/// process, and is made again.
pub async fn begin_answer(
    pool: &PgPool,
    call: &KeyedCall<'_>,
    now: DateTime<Utc>,
    lost_before: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<CallStanding, HistoryError> {
    let taken = sqlx::query_scalar!(
        r#"INSERT INTO control_plane.idempotency_keys AS k (caller, key, request, attempt, started_at, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT (caller, key) DO UPDATE
           SET request = excluded.request, attempt = excluded.attempt, started_at = excluded.started_at,
               expires_at = excluded.expires_at, status = NULL, location = NULL, body = NULL
           WHERE k.expires_at <= $5 OR (k.status IS NULL AND k.started_at < $7 AND k.request = excluded.request)
           RETURNING 1 AS "taken!""#,
        call.caller,
        call.key,
        call.request,
        call.attempt,
        now,
        expires_at,
        lost_before,
    )
    .fetch_optional(pool)
    .await?;
    if taken.is_some() {
        return Ok(CallStanding::Fresh);
    }
    let row = sqlx::query!(
        "SELECT request, status, location, body FROM control_plane.idempotency_keys WHERE caller = $1 AND key = $2",
        call.caller,
        call.key,
    )
    .fetch_optional(pool)
    .await?;
    Ok(match row {
        // Just now: the attempt before came to nothing.
        None => CallStanding::UnderWay,
        Some(row) if row.request != call.request => CallStanding::Another,
        Some(row) => match row.status {
            None => CallStanding::UnderWay,
            Some(status) => CallStanding::Answered(KeptAnswer {
                status: u16::try_from(status).unwrap_or_default(),
                location: row.location,
                body: row.body,
            }),
        },
    })
}

/// Keeps the answer that this attempt has given.
pub async fn keep_answer(pool: &PgPool, call: &KeyedCall<'_>, answer: &KeptAnswer) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.idempotency_keys SET status = $4, location = $5, body = $6 WHERE caller = $1 AND key = $2 AND attempt = $3",
        call.caller,
        call.key,
        call.attempt,
        i32::from(answer.status),
        answer.location,
        answer.body,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Frees the key: the attempt came to nothing, and the call may be made again.
pub async fn forget_call(pool: &PgPool, call: &KeyedCall<'_>) -> Result<(), HistoryError> {
    sqlx::query!(
        "DELETE FROM control_plane.idempotency_keys WHERE caller = $1 AND key = $2 AND attempt = $3",
        call.caller,
        call.key,
        call.attempt,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Frees the key for this call, where it was used for another one that has been answered, or was lost: see [`begin_answer`].
pub async fn forget_other(pool: &PgPool, call: &KeyedCall<'_>, lost_before: DateTime<Utc>) -> Result<(), HistoryError> {
    sqlx::query!(
        "DELETE FROM control_plane.idempotency_keys
         WHERE caller = $1 AND key = $2 AND request <> $3 AND (status IS NOT NULL OR started_at < $4)",
        call.caller,
        call.key,
        call.request,
        lost_before,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Removes some of the answers whose day is over.
pub async fn forget_old_answers(pool: &PgPool, now: DateTime<Utc>) -> Result<(), HistoryError> {
    sqlx::query!(
        "DELETE FROM control_plane.idempotency_keys WHERE (caller, key) IN (
             SELECT caller, key FROM control_plane.idempotency_keys WHERE expires_at <= $1 ORDER BY expires_at LIMIT 100
             FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(pool)
    .await?;
    Ok(())
}
