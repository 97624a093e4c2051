//! The history in numbers, for the metrics: who is protected up to when, and what needs attention.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::HistoryError;

/// When a project's newest good backup of a type began.
#[derive(Clone, Debug)]
pub struct LastSuccess {
    pub project_id: String,
    pub backup_type: String,
    /// `None`: none of the project's newest 100 backups is a good one of this type. Only `database` has such an entry.
    pub at: Option<DateTime<Utc>>,
}

/// What needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Troubles {
    /// Good copies that backups lack of those that are required.
    pub copies_missing: i64,
    /// Backups without a good copy.
    pub damaged: i64,
    /// Completed backups that expire within 7 days and are not pinned.
    pub expiring: i64,
    /// Backups whose deletion is not confirmed everywhere.
    pub deletions: i64,
}

/// The newest good backups of up to 10,000 active projects, by type: what a project's newest 100 backups tell. A partial backup is none, as it
/// cannot bring the tenant back.
pub async fn last_successes(connection: &mut PgConnection) -> Result<Vec<LastSuccess>, HistoryError> {
    Ok(sqlx::query_as!(
        LastSuccess,
        r#"SELECT p.id AS "project_id!", coalesce(found.type, 'database') AS "backup_type!", found.at AS "at?"
           FROM (SELECT id FROM control_plane.projects WHERE status = 'ACTIVE' ORDER BY id LIMIT 10000) p
           LEFT JOIN LATERAL (
               SELECT kinds.type, max(coalesce(newest.started_at, newest.created_at)) AS at
               FROM (
                   SELECT b.type, b.status, b.is_partial, b.started_at, b.created_at FROM control_plane.backups b
                   WHERE b.project_id = p.id ORDER BY b.created_at DESC, b.id DESC LIMIT 100) newest
               RIGHT JOIN (VALUES ('database'), ('storage'), ('logs')) kinds (type)
                   ON newest.type = kinds.type AND newest.status = 'completed' AND NOT newest.is_partial
               GROUP BY kinds.type
               HAVING kinds.type = 'database' OR count(newest.type) > 0) found ON true"#
    )
    .fetch_all(connection)
    .await?)
}

/// Counts what needs attention, each by an index.
pub async fn troubles(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<Troubles, HistoryError> {
    Ok(sqlx::query_as!(
        Troubles,
        r#"SELECT ailing.missing AS "copies_missing!", ailing.damaged AS "damaged!",
                  (SELECT count(*) FROM control_plane.backups
                   WHERE expires_at >= $1 AND expires_at < $1 + interval '7 days' AND status = 'completed' AND NOT pinned) AS "expiring!",
                  (SELECT count(*) FROM control_plane.backups WHERE status = 'deleted') AS "deletions!"
           FROM (
               SELECT coalesce(sum(control_plane.holdfast_copies_missing(b.id, b.status, b.required_copies))
                               FILTER (WHERE b.status = 'completed'), 0)::bigint AS missing,
                      count(*) FILTER (WHERE b.status = 'damaged') AS damaged
               FROM control_plane.backups b
               WHERE b.id IN (SELECT backup_id FROM control_plane.backup_copies WHERE status <> 'good')) ailing"#,
        now,
    )
    .fetch_one(connection)
    .await?)
}
