//! Projects without a good backup within their allowed age. A row of `stale_projects` is one episode: it is written once, however many
//! processes look, and goes when there is a good backup again.

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use super::HistoryError;
use crate::tenant::Scope;

/// A project and its newest good backup.
#[derive(Clone, Debug)]
pub struct ProtectedProject {
    pub id: String,
    pub settings: serde_json::Value,
    pub created_at: DateTime<Utc>,
    /// When its newest good `database` backup was taken. A file that another program handed over counts only where Holdfast has taken none.
    pub last_good_at: Option<DateTime<Utc>>,
    /// An episode is open.
    pub is_stale: bool,
    pub is_active: bool,
}

/// Every ACTIVE project, and those with an open episode. Nobody lacks fewer copies than none: `< 1` and not `= 0`, which the planner takes for so
/// rare that it sorts all backups of a project instead of looking at the newest.
pub async fn protected_projects(pool: &PgPool) -> Result<Vec<ProtectedProject>, HistoryError> {
    Ok(sqlx::query_as!(
        ProtectedProject,
        r#"SELECT p.id AS "id!", p.settings AS "settings!", p.created_at AS "created_at!", s.project_id IS NOT NULL AS "is_stale!", p.status = 'ACTIVE' AS "is_active!",
                  (SELECT b.created_at FROM control_plane.backups b
                   WHERE b.project_id = p.id AND b.type = 'database' AND b.status = 'completed' AND NOT b.is_partial
                     AND control_plane.holdfast_copies_missing(b.id, b.status, b.required_copies) < 1
                     AND (b.manifest IS NOT NULL AND b.format IS NOT NULL
                          OR NOT EXISTS (SELECT 1 FROM control_plane.backups own
                                         WHERE own.project_id = p.id AND own.type = 'database' AND own.manifest IS NOT NULL
                                           AND own.format IS NOT NULL))
                   ORDER BY b.created_at DESC, b.id DESC LIMIT 1) AS last_good_at
           FROM control_plane.projects p LEFT JOIN control_plane.stale_projects s ON s.project_id = p.id
           WHERE p.status = 'ACTIVE' OR s.project_id IS NOT NULL"#
    )
    .fetch_all(pool)
    .await?)
}

/// Opens an episode. `false`: it is open already.
pub async fn raise_stale(
    executor: impl PgExecutor<'_>,
    project: &str,
    now: DateTime<Utc>,
    last_good_at: Option<DateTime<Utc>>,
    allowed: Duration,
) -> Result<bool, HistoryError> {
    let written = sqlx::query!(
        "INSERT INTO control_plane.stale_projects (project_id, raised_at, last_good_at, allowed_seconds) VALUES ($1, $2, $3, $4)
         ON CONFLICT (project_id) DO NOTHING",
        project,
        now,
        last_good_at,
        allowed.num_seconds(),
    )
    .execute(executor)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Ends an episode. `None`: there was none.
pub async fn end_stale(executor: impl PgExecutor<'_>, project: &str) -> Result<Option<DateTime<Utc>>, HistoryError> {
    Ok(sqlx::query_scalar!(
        "DELETE FROM control_plane.stale_projects WHERE project_id = $1 RETURNING raised_at",
        project
    )
    .fetch_optional(executor)
    .await?)
}

/// The address that the newest request for a backup of a project named, if it did.
pub async fn newest_notify_email(executor: impl PgExecutor<'_>, project: &str) -> Result<Option<String>, HistoryError> {
    Ok(sqlx::query_scalar!(
        "SELECT payload #>> '{request,notify_email}' FROM control_plane.jobs
         WHERE project_id = $1 AND type = 'export_backup' ORDER BY created_at DESC, id DESC LIMIT 1",
        project,
    )
    .fetch_optional(executor)
    .await?
    .flatten())
}

/// A project that has been called stale.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct StaleProject {
    pub project_id: String,
    pub raised_at: DateTime<Utc>,
    /// When its newest good backup was taken; `null`: it has none.
    pub last_good_at: Option<DateTime<Utc>>,
    /// The age that was allowed, in seconds.
    pub allowed_seconds: i64,
}

/// How many projects are stale now.
pub async fn stale_count(executor: impl PgExecutor<'_>) -> Result<i64, HistoryError> {
    Ok(sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM control_plane.stale_projects"#)
        .fetch_one(executor)
        .await?)
}

/// The projects within reach that are stale now, the longest first.
pub async fn stale_projects(pool: &PgPool, scope: &Scope) -> Result<Vec<StaleProject>, HistoryError> {
    Ok(sqlx::query_as!(
        StaleProject,
        "SELECT project_id, raised_at, last_good_at, allowed_seconds FROM control_plane.stale_projects s
         WHERE ($1::text[] IS NULL OR project_id = ANY($1))
           AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = s.project_id AND p.organization_id = $2))
         ORDER BY raised_at, project_id",
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_all(pool)
    .await?)
}
