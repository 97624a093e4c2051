//! The rows of `schedules` and `schedule_runs`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::DEFAULT_ID;
use crate::{ids::JobId, jobs::request::RequestError, tenant::Scope};

/// One row of `control_plane.schedules`.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Schedule {
    pub id: Uuid,
    /// What it is for.
    pub name: String,
    /// The one project that it covers; or
    pub project_id: Option<String>,
    /// every project of this organisation; or
    pub organization_id: Option<String>,
    /// every project whose name or id matches this pattern of `*` and `?`. With an organisation, both must hold. A project that is added
    /// later is covered as well.
    pub name_pattern: Option<String>,
    /// `database`, `logs` or `storage`.
    pub r#type: String,
    /// Minute, hour, day of month, month, day of week.
    #[schema(example = "0 2 * * *")]
    pub cron: String,
    #[schema(example = "Europe/Berlin")]
    pub zone: String,
    pub format: Option<String>,
    pub compression: Option<String>,
    /// Empty: those of the configuration.
    pub storages: Vec<String>,
    /// `null`: the project's, else the configuration's.
    #[schema(value_type = Option<crate::retention::Rules>)]
    pub retention: Option<serde_json::Value>,
    /// Over how many minutes its projects are spread. `null`: the configuration's.
    pub jitter_minutes: Option<i32>,
    pub enabled: bool,
    /// The first time that has not come yet. Each project begins at its own place in the window from there on.
    pub next_slot: Option<DateTime<Utc>>,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// Where a list of schedules goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulePage {
    pub before: Option<(DateTime<Utc>, Uuid)>,
    pub limit: i64,
}

/// The schedules within reach, newest first; of one project when named, which are those for it alone.
pub(super) async fn list(
    pool: &PgPool,
    scope: &Scope,
    project: Option<&str>,
    page: SchedulePage,
) -> Result<Vec<Schedule>, RequestError> {
    let (before_at, before_id) = page.before.unzip();
    Ok(sqlx::query_as!(
        Schedule,
        r#"SELECT id, name, project_id, organization_id, name_pattern, type AS "type", cron AS "cron!", zone, format, compression, storages,
                  retention, jitter_minutes, enabled, next_slot, created_by, created_at
           FROM control_plane.schedules s
           WHERE removed_at IS NULL AND holdfast AND ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR organization_id = $2
                  OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = s.project_id AND p.organization_id = $2))
             AND ($3::text IS NULL OR project_id = $3)
             AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
           ORDER BY created_at DESC, id DESC LIMIT $6"#,
        scope.project_ids(),
        scope.organization_id(),
        project,
        before_at,
        before_id,
        page.limit,
    )
    .fetch_all(pool)
    .await?)
}

/// One schedule within reach.
pub(super) async fn get(executor: impl PgExecutor<'_>, scope: &Scope, id: Uuid) -> Result<Schedule, RequestError> {
    sqlx::query_as!(
        Schedule,
        r#"SELECT id, name, project_id, organization_id, name_pattern, type AS "type", cron AS "cron!", zone, format, compression, storages,
                  retention, jitter_minutes, enabled, next_slot, created_by, created_at
           FROM control_plane.schedules s
           WHERE id = $3 AND removed_at IS NULL AND holdfast AND ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR organization_id = $2
                  OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = s.project_id AND p.organization_id = $2))"#,
        scope.project_ids(),
        scope.organization_id(),
        id,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| RequestError::NotFound { what: "schedule", id: id.to_string() })
}

/// Writes a schedule, new or changed.
pub(super) async fn put(connection: &mut PgConnection, row: &Schedule, now: DateTime<Utc>) -> Result<(), RequestError> {
    sqlx::query!(
        "INSERT INTO control_plane.schedules (id, name, project_id, organization_id, name_pattern, type, cron, zone, format, compression,
             storages, retention, jitter_minutes, enabled, next_slot, created_by, created_at, updated_at, holdfast)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, true)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, cron = excluded.cron, zone = excluded.zone, format = excluded.format,
             compression = excluded.compression, storages = excluded.storages, retention = excluded.retention,
             jitter_minutes = excluded.jitter_minutes, enabled = excluded.enabled, next_slot = excluded.next_slot,
             updated_at = excluded.updated_at
             WHERE schedules.holdfast",
        row.id,
        row.name,
        row.project_id,
        row.organization_id,
        row.name_pattern,
        row.r#type,
        row.cron,
        row.zone,
        row.format,
        row.compression,
        &row.storages,
        row.retention,
        row.jitter_minutes,
        row.enabled,
        row.next_slot,
        row.created_by,
        row.created_at,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a schedule out of use. Its row stays for the retention of what it has taken.
pub(super) async fn retire(connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<(), RequestError> {
    sqlx::query!("UPDATE control_plane.schedules SET removed_at = $2, enabled = false WHERE id = $1", id, now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Holds up to `limit` schedules whose next slot has come, or was never reckoned, that no other process holds.
pub(super) async fn hold_due(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Schedule>, RequestError> {
    Ok(sqlx::query_as!(
        Schedule,
        r#"SELECT id, name, project_id, organization_id, name_pattern, type AS "type", cron AS "cron!", zone, format, compression, storages,
                  retention, jitter_minutes, enabled, next_slot, created_by, created_at
           FROM control_plane.schedules
           WHERE enabled AND removed_at IS NULL AND holdfast AND (next_slot <= $1 OR next_slot IS NULL)
           ORDER BY next_slot, id LIMIT $2 FOR UPDATE SKIP LOCKED"#,
        now,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// The ACTIVE projects that each of these schedules covers. The configuration's own covers those that have no schedule for their database
/// and have not been left out.
pub(super) async fn covered(
    connection: &mut PgConnection,
    schedules: &[Uuid],
) -> Result<Vec<(Uuid, String)>, RequestError> {
    let rows = sqlx::query!(
        r#"SELECT s.id AS "schedule_id!", p.id AS "project_id!" FROM control_plane.schedules s
           JOIN control_plane.projects p ON p.id = s.project_id
           WHERE s.id = ANY($1) AND p.status = 'ACTIVE'
           UNION ALL
           SELECT s.id, p.id FROM control_plane.schedules s
           JOIN control_plane.projects p ON control_plane.holdfast_covers(s.organization_id, s.name_pattern, p.id, p.name, p.organization_id)
           WHERE s.id = ANY($1) AND s.project_id IS NULL AND p.status = 'ACTIVE'
           UNION ALL
           SELECT $2, p.id FROM control_plane.projects p
           WHERE $2 = ANY($1) AND p.status = 'ACTIVE' AND p.settings ->> 'schedule_default' IS DISTINCT FROM 'off'
             AND NOT EXISTS (SELECT 1 FROM control_plane.schedules o
                             WHERE o.project_id = p.id AND o.type = 'database' AND o.removed_at IS NULL AND o.holdfast)
             AND NOT EXISTS (SELECT 1 FROM control_plane.schedules o
                             WHERE o.project_id IS NULL AND o.type = 'database' AND o.removed_at IS NULL AND o.holdfast
                               AND control_plane.holdfast_covers(o.organization_id, o.name_pattern, p.id, p.name, p.organization_id))"#,
        schedules,
        DEFAULT_ID,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.schedule_id, row.project_id)).collect())
}

/// Runs to be written, column by column.
#[derive(Clone, Debug, Default)]
pub(super) struct NewRuns {
    pub schedules: Vec<Uuid>,
    pub projects: Vec<String>,
    pub slots: Vec<DateTime<Utc>>,
    pub due: Vec<DateTime<Utc>>,
}

/// Opens runs. Those that are there stay as they are.
pub(super) async fn open_runs(connection: &mut PgConnection, new: &NewRuns) -> Result<u64, RequestError> {
    let written = sqlx::query!(
        "INSERT INTO control_plane.schedule_runs (schedule_id, project_id, slot, due_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[]) ON CONFLICT DO NOTHING",
        &new.schedules,
        &new.projects,
        &new.slots,
        &new.due,
    )
    .execute(connection)
    .await?;
    Ok(written.rows_affected())
}

pub(super) async fn set_next_slots(
    connection: &mut PgConnection,
    schedules: &[Uuid],
    slots: &[DateTime<Utc>],
) -> Result<(), RequestError> {
    sqlx::query!(
        "UPDATE control_plane.schedules s SET next_slot = n.slot FROM unnest($1::uuid[], $2::timestamptz[]) AS n (id, slot) WHERE s.id = n.id",
        schedules,
        slots,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A run that is due, with what decides whether it still starts.
#[derive(Clone, Debug)]
pub(super) struct DueRun {
    pub schedule_id: Uuid,
    pub project_id: String,
    pub slot: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    /// The schedule is there and enabled.
    pub is_wanted: bool,
    pub project_status: Option<String>,
    /// A newer slot of the same schedule and project has come and been opened.
    pub is_overtaken: bool,
    /// The job of the slot before has not ended.
    pub is_behind: bool,
    pub r#type: Option<String>,
    pub format: Option<String>,
    pub compression: Option<String>,
    pub storages: Option<Vec<String>>,
    /// Why it could not be started before, and is tried again.
    pub message: Option<String>,
}

/// Holds up to `limit` runs that are due and that no other process holds: each project's first before any project's second, so that many
/// schedules of one do not keep the others waiting.
pub(super) async fn hold_runs(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<DueRun>, RequestError> {
    Ok(sqlx::query_as!(
        DueRun,
        r#"SELECT r.schedule_id, r.project_id, r.slot, r.due_at, coalesce(s.enabled AND s.removed_at IS NULL, false) AS "is_wanted!",
                  p.status AS "project_status?",
                  EXISTS (SELECT 1 FROM control_plane.schedule_runs n WHERE n.schedule_id = r.schedule_id AND n.project_id = r.project_id
                          AND n.slot > r.slot AND n.slot <= $1) AS "is_overtaken!",
                  coalesce((SELECT j.status IN ('pending', 'in_progress') FROM control_plane.schedule_runs o
                            JOIN control_plane.jobs j ON j.id = o.job_id
                            WHERE o.schedule_id = r.schedule_id AND o.project_id = r.project_id AND o.slot < r.slot AND o.status = 'enqueued'
                            ORDER BY o.slot DESC LIMIT 1), false) AS "is_behind!",
                  s.type AS "type?", s.format, s.compression, s.storages AS "storages?", r.message
           FROM (SELECT schedule_id, project_id, slot,
                        row_number() OVER (PARTITION BY project_id ORDER BY due_at, schedule_id, slot) AS turn
                 FROM control_plane.schedule_runs
                 WHERE status = 'waiting' AND due_at <= $1 AND (retry_at IS NULL OR retry_at <= $1)) q
           JOIN control_plane.schedule_runs r ON r.schedule_id = q.schedule_id AND r.project_id = q.project_id AND r.slot = q.slot
           LEFT JOIN control_plane.schedules s ON s.id = r.schedule_id AND s.holdfast
           LEFT JOIN control_plane.projects p ON p.id = r.project_id
           WHERE r.status = 'waiting' AND r.due_at <= $1 AND (r.retry_at IS NULL OR r.retry_at <= $1)
           ORDER BY q.turn, r.due_at, r.project_id LIMIT $2 FOR UPDATE OF r SKIP LOCKED"#,
        now,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// A run is over: it has its job, or it was left out, and why.
pub(super) async fn end_run(
    connection: &mut PgConnection,
    run: &DueRun,
    status: &str,
    message: Option<&str>,
    job: Option<JobId>,
) -> Result<(), RequestError> {
    sqlx::query!(
        "UPDATE control_plane.schedule_runs SET status = $4, message = $5, job_id = $6, retry_at = NULL
         WHERE schedule_id = $1 AND project_id = $2 AND slot = $3",
        run.schedule_id,
        run.project_id,
        run.slot,
        status,
        message,
        job.map(|id| id.0),
    )
    .execute(&mut *connection)
    .await?;
    if let Some(job) = job {
        sqlx::query!("UPDATE control_plane.backups SET schedule_id = $2 WHERE job_id = $1", job.0, run.schedule_id)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// A run that cannot start now waits on, and is looked at again from `retry_at` on.
pub(super) async fn put_off(
    connection: &mut PgConnection,
    run: &DueRun,
    message: &str,
    retry_at: DateTime<Utc>,
) -> Result<(), RequestError> {
    sqlx::query!(
        "UPDATE control_plane.schedule_runs SET message = $4, retry_at = $5
         WHERE schedule_id = $1 AND project_id = $2 AND slot = $3",
        run.schedule_id,
        run.project_id,
        run.slot,
        message,
        retry_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many schedules a project or an organisation has. Until the transaction ends, nobody else is told of the same.
pub(super) async fn count_of(connection: &mut PgConnection, row: &Schedule) -> Result<i64, RequestError> {
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('holdfast schedules of ' || $1::text, 0))::text AS locked",
        row.project_id.as_ref().or(row.organization_id.as_ref()),
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM control_plane.schedules
           WHERE removed_at IS NULL AND holdfast AND (project_id = $1 OR ($1::text IS NULL AND organization_id = $2))"#,
        row.project_id,
        row.organization_id,
    )
    .fetch_one(connection)
    .await?)
}

/// A past or waiting run of a schedule.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ScheduledRun {
    pub project_id: String,
    pub slot: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    /// `waiting`, `enqueued`, `skipped` or `refused`.
    pub status: String,
    /// Why it was left out, or, while it waits, why it could not start yet.
    pub message: Option<String>,
    pub job_id: Option<Uuid>,
}

/// The newest runs of a schedule that the caller has reached through its scope.
pub async fn runs_of(pool: &PgPool, schedule: Uuid, limit: i64) -> Result<Vec<ScheduledRun>, RequestError> {
    Ok(sqlx::query_as!(
        ScheduledRun,
        "SELECT project_id, slot, due_at, status, message, job_id FROM control_plane.schedule_runs
         WHERE schedule_id = $1 ORDER BY slot DESC, project_id LIMIT $2",
        schedule,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Forgets runs of long ago. They keep a slot from being opened again only as long as it could be caught up.
pub(super) async fn forget_runs(pool: &PgPool, before: DateTime<Utc>) -> Result<(), RequestError> {
    sqlx::query!("DELETE FROM control_plane.schedule_runs WHERE slot < $1 AND status <> 'waiting'", before)
        .execute(pool)
        .await?;
    Ok(())
}
