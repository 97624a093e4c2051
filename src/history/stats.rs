//! Sums over the history within reach.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use super::HistoryError;
use crate::tenant::Scope;

/// Totals over the good backups, and what needs attention.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Completed backups.
    pub total_backups: i64,
    /// Their stored bytes.
    pub total_size: i64,
    /// Completed backups by type.
    pub by_type: BTreeMap<String, i64>,
    /// All backups by status.
    pub by_status: BTreeMap<String, i64>,
    pub oldest: Option<DateTime<Utc>>,
    pub newest: Option<DateTime<Utc>>,
    /// Completed backups that expire within 7 days.
    pub expiring_soon: i64,
    /// Backups completed within 7 and 30 days.
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
        r#"SELECT type AS "type", status, count(*) AS "count!", coalesce(sum(size), 0)::bigint AS "size!", min(created_at) AS oldest,
                  max(created_at) AS newest,
                  count(*) FILTER (WHERE expires_at >= $4 AND expires_at < $4 + interval '7 days') AS "expiring!",
                  count(*) FILTER (WHERE created_at >= $4 - interval '7 days') AS "week!",
                  count(*) FILTER (WHERE created_at >= $4 - interval '30 days') AS "month!"
           FROM control_plane.backups b
           WHERE ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = b.project_id AND p.organization_id = $2))
             AND ($3::text IS NULL OR project_id = $3)
           GROUP BY type, status"#,
        scope.project_ids(),
        scope.organization_id(),
        project_id,
        now,
    )
    .fetch_all(pool)
    .await?;
    let mut stats = Stats {
        total_backups: 0,
        total_size: 0,
        by_type: BTreeMap::new(),
        by_status: BTreeMap::new(),
        oldest: None,
        newest: None,
        expiring_soon: 0,
        last_7_days: 0,
        last_30_days: 0,
    };
    for row in rows {
        *stats.by_status.entry(row.status.clone()).or_default() += row.count;
        if row.status != "completed" {
            continue;
        }
        stats.total_backups += row.count;
        stats.total_size += row.size;
        *stats.by_type.entry(row.r#type).or_default() += row.count;
        stats.oldest = [stats.oldest, row.oldest].into_iter().flatten().min();
        stats.newest = stats.newest.max(row.newest);
        stats.expiring_soon += row.expiring;
        stats.last_7_days += row.week;
        stats.last_30_days += row.month;
    }
    Ok(stats)
}
