//! What one process does for all, now and then: the row of `upkeep` says when it was done last, and whoever moves it on does it.

use chrono::Duration;
use sqlx::PgPool;

use super::{expiring, rows, skew, stale, trials};
use crate::{
    app::App,
    clock::Timestamp,
    history,
    jobs::{apply_retention, request::RequestError},
    tenant::Caller,
};

/// Days for which past runs are shown. Longer than any grace period.
const RUNS_KEPT_DAYS: i64 = 90;

/// Everything that is due. One that fails does not keep the others from being done.
pub(super) async fn all(app: &App) -> Result<(), RequestError> {
    let (pool, now) = (&app.pool, app.clock.now());
    let mut outcome = Ok(());
    if claim(pool, "stale", now, Duration::minutes(1), First::Now).await? {
        outcome = outcome.and(stale::look(app).await);
    }
    if claim(pool, "expiring", now, Duration::hours(1), First::Now).await? {
        outcome = outcome.and(expiring::announce(app).await.map(|_| ()));
    }
    // A fresh installation has a day to look at the plan.
    if claim(pool, "retention", now, Duration::days(1), First::Later).await? {
        outcome = outcome.and(apply_retention::run(app, &Caller::system("retention")).await.map(|_| ()));
    }
    if claim(pool, "trials", now, Duration::minutes(10), First::Later).await? {
        outcome = outcome.and(trials::try_next(app).await.map(|_| ()));
    }
    if claim(pool, "schedule_runs", now, Duration::days(1), First::Later).await? {
        outcome = outcome.and(rows::forget_runs(pool, now - Duration::days(RUNS_KEPT_DAYS)).await);
    }
    if claim(pool, "notices", now, Duration::days(1), First::Later).await? {
        outcome = outcome.and(forget_notices(app, now).await);
    }
    if claim(pool, "day_totals", now, Duration::minutes(10), First::Now).await? {
        outcome = outcome.and(history::merge_day_totals(pool).await.map_err(RequestError::from));
    }
    outcome
}

/// Removes notices that nobody wants to look at any more.
async fn forget_notices(app: &App, now: Timestamp) -> Result<(), RequestError> {
    let before = now - Duration::days(i64::from(app.config.notify.keep_days));
    while history::forget_notices(&app.pool, before).await? > 0 {}
    Ok(())
}

/// When a task is done that was never done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Now,
    /// After the first stretch of time.
    Later,
}

/// Whether it falls to this process to do a task that is done once in `every`. A time in the future was written by a clock that was wrong, and
/// keeps nobody from it; one within what clocks may differ is another process's.
async fn claim(pool: &PgPool, task: &str, now: Timestamp, every: Duration, first: First) -> Result<bool, RequestError> {
    let is_new = sqlx::query_scalar!(
        r#"INSERT INTO control_plane.upkeep AS u (task, done_at) VALUES ($1, $2)
           ON CONFLICT (task) DO UPDATE SET done_at = excluded.done_at
               WHERE u.done_at <= $3 OR u.done_at > $4
           RETURNING (xmax = 0) AS "is_new!""#,
        task,
        now,
        now - every,
        now + skew::TOLERATED,
    )
    .fetch_optional(pool)
    .await?;
    Ok(match is_new {
        Some(true) => first == First::Now,
        Some(false) => true,
        None => false,
    })
}
