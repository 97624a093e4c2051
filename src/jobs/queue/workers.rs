//! Which workers are alive.

use std::time::Duration;

use sqlx::PgPool;

use super::{QueueError, lease::interval};

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
