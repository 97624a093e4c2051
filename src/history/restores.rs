//! Restores: each is written down before its target is touched, so that whoever comes next can put things right.

use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::HistoryError;
use crate::{
    clock::Timestamp,
    ids::{BackupId, JobId, RestoreId},
};

crate::artifact::words! {
    /// How far a restore has come.
    RestoreState, "restore state" {
        /// The target may have been touched. Only the holder of the job's lease may go on, or put things right.
        Running = "running",
        Done = "done",
        /// Everything is as it was before.
        RolledBack = "rolled_back",
        Undone = "undone",
    }
}

/// One row of `control_plane.restores`.
#[derive(Clone, Debug)]
pub struct RestoreRow {
    pub id: Uuid,
    pub job_id: Uuid,
    pub backup_id: Uuid,
    pub project_id: String,
    pub state: String,
    /// What was decided before anything was touched.
    pub plan: serde_json::Value,
    pub outcome: Option<String>,
    pub differences: serde_json::Value,
    pub kept_schema: Option<String>,
    pub kept_oid: Option<i64>,
    /// The restored schema's oid: an undo refuses when another one is live by then.
    pub restored_oid: Option<i64>,
    pub undo_until: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// Writes a restore down, before the target is touched.
pub async fn insert_restore(
    executor: impl PgExecutor<'_>,
    id: RestoreId,
    job: JobId,
    backup: BackupId,
    project_id: &str,
    plan: &serde_json::Value,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.restores (id, job_id, backup_id, project_id, state, plan) VALUES ($1, $2, $3, $4, 'running', $5)",
        id.0,
        job.0,
        backup.0,
        project_id,
        plan,
    )
    .execute(executor)
    .await?;
    Ok(())
}

pub async fn set_restore_state(
    executor: impl PgExecutor<'_>,
    id: RestoreId,
    state: RestoreState,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.restores SET state = $2, updated_at = now() WHERE id = $1",
        id.0,
        state.as_str()
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What is known of a restore under way by now.
pub async fn set_restore_plan(
    executor: impl PgExecutor<'_>,
    id: RestoreId,
    plan: &serde_json::Value,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.restores SET plan = $2, updated_at = now() WHERE id = $1 AND state = 'running'",
        id.0,
        plan
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Everything is as it was before. A restore that stands is never changed by this.
pub async fn rolled_back(executor: impl PgExecutor<'_>, id: RestoreId) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.restores SET state = 'rolled_back', updated_at = now() WHERE id = $1 AND state = 'running'",
        id.0
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The restore stands. From here on a recovery leaves it alone.
pub async fn finish_restore(
    executor: impl PgExecutor<'_>,
    id: RestoreId,
    outcome: &str,
    differences: &[String],
    kept: Option<(&str, i64)>,
    restored_oid: Option<i64>,
    undo_until: Option<Timestamp>,
) -> Result<(), HistoryError> {
    let (schema, oid) = kept.unzip();
    sqlx::query!(
        "UPDATE control_plane.restores SET state = 'done', outcome = $2, differences = $3, kept_schema = $4, kept_oid = $5,
             undo_until = $6, restored_oid = $7, updated_at = now()
         WHERE id = $1 AND state = 'running'",
        id.0,
        outcome,
        serde_json::json!(differences),
        schema,
        oid,
        undo_until,
        restored_oid,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What is kept for an undo has changed: another schema, for a window of its own, after an undo; nothing after it was dropped.
pub async fn set_kept(
    executor: impl PgExecutor<'_>,
    id: RestoreId,
    kept: Option<(&str, i64)>,
    undo_until: Option<Timestamp>,
) -> Result<(), HistoryError> {
    let (schema, oid) = kept.unzip();
    sqlx::query!(
        "UPDATE control_plane.restores
         SET kept_schema = $2, kept_oid = $3, undo_until = coalesce($4, undo_until), updated_at = now() WHERE id = $1",
        id.0,
        schema,
        oid,
        undo_until
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The newest restore that a job made.
pub async fn restore_of_job(executor: impl PgExecutor<'_>, job: JobId) -> Result<Option<RestoreRow>, HistoryError> {
    Ok(sqlx::query_as!(
        RestoreRow,
        "SELECT id, job_id, backup_id, project_id, state, plan, outcome, differences, kept_schema, kept_oid, restored_oid, undo_until, created_at
         FROM control_plane.restores WHERE job_id = $1 ORDER BY created_at DESC LIMIT 1",
        job.0
    )
    .fetch_optional(executor)
    .await?)
}

/// Restores of a project that may have touched its target and have not ended.
pub async fn running_restores(
    executor: impl PgExecutor<'_>,
    project_id: &str,
) -> Result<Vec<RestoreRow>, HistoryError> {
    Ok(sqlx::query_as!(
        RestoreRow,
        "SELECT id, job_id, backup_id, project_id, state, plan, outcome, differences, kept_schema, kept_oid, restored_oid, undo_until, created_at
         FROM control_plane.restores WHERE project_id = $1 AND state = 'running' ORDER BY created_at",
        project_id
    )
    .fetch_all(executor)
    .await?)
}

/// Restores that someone has to tidy up after: the window has passed and the replaced schema is still kept, or the job ended and could
/// not even put things back.
pub async fn untidy_restores(pool: &PgPool) -> Result<Vec<RestoreRow>, HistoryError> {
    Ok(sqlx::query_as!(
        RestoreRow,
        "SELECT id, job_id, backup_id, project_id, state, plan, outcome, differences, kept_schema, kept_oid, restored_oid, undo_until, created_at
         FROM control_plane.restores r
         WHERE (kept_schema IS NOT NULL AND undo_until < now())
            OR (state = 'running' AND NOT EXISTS (
                   SELECT 1 FROM control_plane.jobs j WHERE j.id = r.job_id AND j.status IN ('pending', 'in_progress')))
         ORDER BY state = 'running' DESC, undo_until LIMIT 1000"
    )
    .fetch_all(pool)
    .await?)
}
