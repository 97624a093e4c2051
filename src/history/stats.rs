//! Sums over the history within reach. What grows with every backup is summed by the triggers on `backups`, in `backup_sums`; what depends on
//! the time of asking is counted in indexes of completed backups, which a week or month of backups fills, and not all of them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use super::HistoryError;
use crate::tenant::Scope;

/// Totals over the good backups, and what needs attention.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Completed backups.
    pub total_backups: i64,
    /// Their stored bytes.
    pub total_size: i64,
    /// Completed backups by type.
    pub by_type: BTreeMap<String, i64>,
    /// Stored bytes of completed backups by type.
    pub size_by_type: BTreeMap<String, i64>,
    /// All backups by status.
    pub by_status: BTreeMap<String, i64>,
    /// When the oldest and the newest completed backup were made.
    pub oldest: Option<DateTime<Utc>>,
    pub newest: Option<DateTime<Utc>>,
    /// Completed backups that expire within 7 days.
    pub expiring_soon: i64,
    /// Completed backups that were made within 7 and 30 days.
    pub last_7_days: i64,
    pub last_30_days: i64,
}

/// The sums, for one project or for everything within reach.
pub async fn stats(
    pool: &PgPool,
    scope: &Scope,
    project_id: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Stats, HistoryError> {
    let rows = sqlx::query!(
        r#"SELECT type AS "type", status, sum(backups)::bigint AS "count!", least(sum(bytes), 9223372036854775807)::bigint AS "size!"
           FROM control_plane.backup_sums s
           WHERE ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = s.project_id AND p.organization_id = $2))
             AND ($3::text IS NULL OR project_id = $3)
           GROUP BY type, status HAVING sum(backups) <> 0"#,
        scope.project_ids(),
        scope.organization_id(),
        project_id,
    )
    .fetch_all(pool)
    .await?;
    let mut stats = Stats::default();
    for row in rows {
        *stats.by_status.entry(row.status.clone()).or_default() += row.count;
        if row.status != "completed" {
            continue;
        }
        stats.total_backups += row.count;
        stats.total_size = stats.total_size.saturating_add(row.size);
        *stats.by_type.entry(row.r#type.clone()).or_default() += row.count;
        *stats.size_by_type.entry(row.r#type).or_default() += row.size;
    }
    let times = match scope.is_everything() && project_id.is_none() {
        true => all_times(pool, now).await?,
        false => times(pool, scope, project_id, now).await?,
    };
    Ok(Stats {
        oldest: times.oldest,
        newest: times.newest,
        expiring_soon: times.expiring,
        last_7_days: times.week,
        last_30_days: times.month,
        ..stats
    })
}

/// What depends on the time of asking.
struct Times {
    oldest: Option<DateTime<Utc>>,
    newest: Option<DateTime<Utc>>,
    expiring: i64,
    week: i64,
    month: i64,
}

async fn all_times(pool: &PgPool, now: DateTime<Utc>) -> Result<Times, HistoryError> {
    Ok(sqlx::query_as!(
        Times,
        r#"SELECT (SELECT min(created_at) FROM control_plane.backups WHERE status = 'completed') AS oldest,
                  (SELECT max(created_at) FROM control_plane.backups WHERE status = 'completed') AS newest,
                  (SELECT count(*) FROM control_plane.backups
                   WHERE status = 'completed' AND expires_at >= $1 AND expires_at < $1 + interval '7 days') AS "expiring!",
                  count(*) FILTER (WHERE created_at >= $1 - interval '7 days') AS "week!", count(*) AS "month!"
           FROM control_plane.backups WHERE status = 'completed' AND created_at >= $1 - interval '30 days'"#,
        now,
    )
    .fetch_one(pool)
    .await?)
}

/// Project by project, so that each is a look into an index.
async fn times(
    pool: &PgPool,
    scope: &Scope,
    project_id: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Times, HistoryError> {
    Ok(sqlx::query_as!(
        Times,
        r#"SELECT min(t.oldest) AS oldest, max(t.newest) AS newest, coalesce(sum(t.expiring), 0)::bigint AS "expiring!",
                  coalesce(sum(t.week), 0)::bigint AS "week!", coalesce(sum(t.month), 0)::bigint AS "month!"
           FROM (SELECT DISTINCT project_id FROM control_plane.backup_sums s
                 WHERE status = 'completed' AND ($1::text[] IS NULL OR project_id = ANY($1))
                   AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = s.project_id AND p.organization_id = $2))
                   AND ($3::text IS NULL OR project_id = $3)) s
           CROSS JOIN LATERAL (
               SELECT (SELECT min(created_at) FROM control_plane.backups b WHERE b.project_id = s.project_id AND b.status = 'completed') AS oldest,
                      (SELECT max(created_at) FROM control_plane.backups b WHERE b.project_id = s.project_id AND b.status = 'completed') AS newest,
                      (SELECT count(*) FROM control_plane.backups b WHERE b.project_id = s.project_id AND b.status = 'completed'
                       AND b.expires_at >= $4 AND b.expires_at < $4 + interval '7 days') AS expiring,
                      (SELECT count(*) FROM control_plane.backups b WHERE b.project_id = s.project_id AND b.status = 'completed'
                       AND b.created_at >= $4 - interval '7 days') AS week,
                      (SELECT count(*) FROM control_plane.backups b WHERE b.project_id = s.project_id AND b.status = 'completed'
                       AND b.created_at >= $4 - interval '30 days') AS month) t"#,
        scope.project_ids(),
        scope.organization_id(),
        project_id,
        now,
    )
    .fetch_one(pool)
    .await?)
}
