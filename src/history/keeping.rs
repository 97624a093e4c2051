//! What retention reads and writes: the backups with what keeps them, `expires_at`, and what must hold
//! when one is let go.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::HistoryError;
use crate::{ids::BackupId, tenant::Scope};

/// A backup with all that its retention depends on.
#[derive(Clone, Debug)]
pub struct KeptBackup {
    pub id: Uuid,
    pub project_id: String,
    pub r#type: String,
    pub status: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub size: i64,
    pub pinned: bool,
    pub is_partial: bool,
    pub copies_missing: i32,
    pub has_manifest: bool,
    /// `None`: a file of another program.
    pub format: Option<String>,
    /// When its row was last written again from its manifest, if it was.
    pub adopted_at: Option<DateTime<Utc>>,
    /// Whether the job that took it is known, so that `asked_until` is what its request said.
    pub has_job: bool,
    pub asked_until: Option<String>,
    /// A job that reads it.
    pub read_by: Option<Uuid>,
    pub schedule_id: Option<Uuid>,
    pub schedule_retention: Option<serde_json::Value>,
    pub schedule_zone: Option<String>,
}

/// The ids of projects within reach that have backups, in order, after a given one.
pub async fn projects_with_backups(
    pool: &PgPool,
    scope: &Scope,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<String>, HistoryError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT b.project_id AS "project_id!" FROM control_plane.backups b
           WHERE ($1::text[] IS NULL OR b.project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = b.project_id AND p.organization_id = $2))
             AND ($3::text IS NULL OR b.project_id = $3) AND ($4::text IS NULL OR b.project_id > $4)
           GROUP BY b.project_id ORDER BY b.project_id LIMIT $5"#,
        scope.project_ids(),
        scope.organization_id(),
        only,
        after,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Every backup of these projects that is not being deleted, by project and type, newest first. The caller has found the projects through
/// its scope.
pub async fn kept_backups(pool: &PgPool, projects: &[String]) -> Result<Vec<KeptBackup>, HistoryError> {
    Ok(sqlx::query_as!(
        KeptBackup,
        r#"SELECT b.id, b.project_id, b.type AS "type", b.status, b.created_at, b.expires_at, b.size, b.pinned, b.is_partial,
                  control_plane.holdfast_copies_missing(b.id, b.status, b.required_copies) AS "copies_missing!",
                  b.manifest IS NOT NULL AS "has_manifest!", b.format,
                  (SELECT max(h.at) FROM control_plane.backup_history h
                   WHERE h.backup_id = b.id AND h.event IN ('adopted', 'imported') AND h.outcome = 'ok') AS adopted_at,
                  j.id IS NOT NULL AS "has_job!",
                  j.payload #>> '{request,expires_at}' AS asked_until,
                  (SELECT q.id FROM control_plane.jobs q
                   WHERE q.type IN ('restore_backup', 'verify_backup', 'repair_copies') AND q.status IN ('pending', 'in_progress')
                     AND q.payload -> 'request' ->> 'backup_id' = b.id::text LIMIT 1) AS read_by,
                  s.id AS "schedule_id?", s.retention AS schedule_retention, s.zone AS "schedule_zone?"
           FROM control_plane.backups b
           -- Looked up for each: joined, every job there is would be read. `OFFSET 0` keeps it so.
           LEFT JOIN LATERAL (
               SELECT j.id, j.payload FROM control_plane.jobs j
               WHERE j.id = b.job_id AND j.type IN ('export_backup', 'export_logs', 'export_storage') OFFSET 0) j ON true
           LEFT JOIN control_plane.schedules s ON s.id = b.schedule_id
           WHERE b.project_id = ANY($1) AND b.status <> 'deleted'
           ORDER BY b.project_id, b.type, b.created_at DESC, b.id DESC"#,
        projects,
    )
    .fetch_all(pool)
    .await?)
}

/// The `settings` of projects, by id.
pub async fn project_settings(
    pool: &PgPool,
    projects: &[String],
) -> Result<Vec<(String, serde_json::Value)>, HistoryError> {
    let rows = sqlx::query!("SELECT id, settings FROM control_plane.projects WHERE id = ANY($1)", projects)
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.settings)).collect())
}

/// Writes until when a completed backup is kept; `None`: without a date. `false` when that is written already.
pub async fn set_expiry(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    expires_at: Option<DateTime<Utc>>,
) -> Result<bool, HistoryError> {
    let changed = sqlx::query!(
        "UPDATE control_plane.backups SET expires_at = $2 WHERE id = $1 AND status = 'completed' AND expires_at IS DISTINCT FROM $2",
        id.0,
        expires_at,
    )
    .execute(executor)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// How many of these backups are good now, up to `enough` of them, the newest first. Those that were counted stay as they are until the
/// transaction ends.
pub async fn hold_good(connection: &mut PgConnection, ids: &[Uuid], enough: usize) -> Result<usize, HistoryError> {
    let held = sqlx::query_scalar!(
        "SELECT b.id FROM control_plane.backups b
         WHERE b.id = ANY($1) AND b.status = 'completed' AND NOT b.is_partial
           AND control_plane.holdfast_copies_missing(b.id, b.status, b.required_copies) = 0
         ORDER BY b.created_at DESC, b.id DESC LIMIT $2 FOR SHARE OF b",
        ids,
        enough as i64,
    )
    .fetch_all(connection)
    .await?;
    Ok(held.len())
}

/// Whether a job reads a backup or waits to. Asked of a row that is [held](super::hold): who wants to read it holds it first.
pub async fn is_read(executor: impl PgExecutor<'_>, id: BackupId) -> Result<bool, HistoryError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT 1 FROM control_plane.jobs q
               WHERE q.type IN ('restore_backup', 'verify_backup', 'repair_copies') AND q.status IN ('pending', 'in_progress')
                 AND q.payload -> 'request' ->> 'backup_id' = $1) AS "is_read!""#,
        id.0.to_string(),
    )
    .fetch_one(executor)
    .await?)
}

/// A backup that will soon expire.
#[derive(Clone, Debug)]
pub struct Expiring {
    pub id: Uuid,
    pub project_id: String,
    pub r#type: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub job_id: Option<Uuid>,
    /// The address that the request for it named.
    pub notify_email: Option<String>,
}

/// Takes up to 200 backups that expire before `until` and have not been announced, marks them and gives them: to one caller, however many
/// ask. One whose whole life is shorter than the warning is not announced. For the transaction that writes the notices.
pub async fn announce_expiring(
    executor: impl PgExecutor<'_>,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<Expiring>, HistoryError> {
    Ok(sqlx::query_as!(
        Expiring,
        r#"WITH due AS (
               SELECT id FROM control_plane.backups
               WHERE status = 'completed' AND expiry_warned_at IS NULL AND NOT pinned AND expires_at > $1 AND expires_at <= $2
                 AND expires_at - created_at > $2::timestamptz - $1::timestamptz
               ORDER BY expires_at LIMIT 200 FOR UPDATE SKIP LOCKED)
           UPDATE control_plane.backups b SET expiry_warned_at = $1 FROM due WHERE b.id = due.id
           RETURNING b.id, b.project_id, b.type AS "type", b.created_at, b.expires_at AS "expires_at!", b.job_id,
                     (SELECT j.payload #>> '{request,notify_email}' FROM control_plane.jobs j WHERE j.id = b.job_id) AS notify_email"#,
        now,
        until,
    )
    .fetch_all(executor)
    .await?)
}
