//! The queue in numbers, for the metrics: what waits, what runs, what ended lately, and who works.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, postgres::types::PgInterval};

use super::{KNOWN_TYPES, queue::QueueError};

/// The jobs of one type that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    pub pending: i64,
    pub in_progress: i64,
    /// Pending ones whose time has come.
    pub due: i64,
    /// How long the oldest of them has waited.
    pub oldest_due_seconds: f64,
}

/// The whole queue at one moment, by the database's clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// By type. Every type that workers know is there.
    pub waiting: BTreeMap<&'static str, Waiting>,
    /// Jobs of the last 24 hours that have ended, by type and status.
    pub ended: BTreeMap<(&'static str, String), i64>,
    /// Running jobs whose lease has lapsed.
    pub lapsed: i64,
    pub workers_alive: i64,
}

/// A type that workers know; a platform's own jobs are none of ours, and its words none for a label.
fn known(job_type: &str) -> Option<&'static str> {
    KNOWN_TYPES.iter().find(|known| **known == job_type).copied()
}

/// Takes the census. Reads jobs that have not ended, and those asked for within a day: it does not slow as ended jobs pile up. A worker
/// counts as alive that gave a sign of life within `fresh`.
pub async fn census(connection: &mut PgConnection, fresh: Duration) -> Result<Census, QueueError> {
    let mut census = Census::default();
    for job_type in KNOWN_TYPES {
        census.waiting.insert(job_type, Waiting::default());
    }
    // Two halves, because each has an index of its own.
    let rows = sqlx::query!(
        r#"SELECT type AS "type!", count(*) AS "pending!", 0::bigint AS "in_progress!", count(*) FILTER (WHERE run_at <= now()) AS "due!",
                  coalesce(extract(epoch FROM now() - min(run_at) FILTER (WHERE run_at <= now())), 0)::float8 AS "oldest!", 0::bigint AS "lapsed!"
           FROM control_plane.jobs WHERE status = 'pending' GROUP BY type
           UNION ALL
           SELECT type, 0, count(*), 0, 0, count(*) FILTER (WHERE lease_expires_at < now() OR lease_expires_at IS NULL)
           FROM control_plane.jobs WHERE status = 'in_progress' GROUP BY type"#
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let Some(job_type) = known(&row.r#type) else { continue };
        let waiting = census.waiting.entry(job_type).or_default();
        waiting.pending += row.pending;
        waiting.in_progress += row.in_progress;
        waiting.due += row.due;
        waiting.oldest_due_seconds = waiting.oldest_due_seconds.max(row.oldest);
        census.lapsed += row.lapsed;
    }
    let rows = sqlx::query!(
        r#"SELECT type AS "type!", status AS "status!", count(*) AS "count!" FROM control_plane.jobs
           WHERE created_at > now() - interval '24 hours' AND status IN ('completed', 'failed', 'cancelled') GROUP BY type, status"#
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        if let Some(job_type) = known(&row.r#type) {
            *census.ended.entry((job_type, row.status)).or_default() += row.count;
        }
    }
    let fresh = PgInterval { months: 0, days: 0, microseconds: i64::try_from(fresh.as_micros()).unwrap_or(i64::MAX) };
    census.workers_alive = sqlx::query_scalar!(
        r#"SELECT count(*) AS "alive!" FROM control_plane.workers WHERE seen_at > now() - $1::interval"#,
        fresh
    )
    .fetch_one(connection)
    .await?;
    Ok(census)
}
