//! What the single-database family needs of the history: backups by their number, plain names, and records that go without their files.

use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::{HistoryError, deletions};
use crate::{
    artifact::ArtifactName,
    ids::BackupId,
    tenant::{Caller, Scope},
};

/// The `database` backup of a project that has this number; `None` also for another's.
pub async fn id_of_number(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    project_id: &str,
    number: i32,
) -> Result<Option<BackupId>, HistoryError> {
    let id: Option<Uuid> = sqlx::query_scalar!(
        "SELECT id FROM control_plane.backups b
         WHERE number = $1 AND project_id = $2 AND type = 'database' AND status <> 'deleted' AND ($3::text[] IS NULL OR project_id = ANY($3))
           AND ($4::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = b.project_id AND p.organization_id = $4))",
        number,
        project_id,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(id.map(BackupId))
}

/// The project's newest `database` backup that can be restored whole; one that lacks copies only where none has them all.
pub async fn id_of_newest_good(
    pool: &PgPool,
    scope: &Scope,
    project_id: &str,
) -> Result<Option<BackupId>, HistoryError> {
    for has_all_copies in [true, false] {
        let id: Option<Uuid> = sqlx::query_scalar!(
            "SELECT id FROM control_plane.backups b
             WHERE project_id = $1 AND type = 'database' AND status = 'completed' AND NOT is_partial AND manifest IS NOT NULL
               AND ($2::text[] IS NULL OR project_id = ANY($2))
               AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = b.project_id AND p.organization_id = $3))
               AND (NOT $4::boolean OR control_plane.holdfast_copies_missing(id, status, required_copies) < 1)
             ORDER BY created_at DESC, id DESC LIMIT 1",
            project_id,
            scope.project_ids(),
            scope.organization_id(),
            has_all_copies,
        )
        .fetch_optional(pool)
        .await?;
        if id.is_some() {
            return Ok(id.map(BackupId));
        }
    }
    Ok(None)
}

/// Whether a backup has this name, or had it when its record was deleted. Until the transaction ends nobody else is told the same of any name.
pub async fn is_name_taken(connection: &mut PgConnection, key: &ArtifactName) -> Result<bool, HistoryError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('holdfast.plain_names'))").execute(&mut *connection).await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM control_plane.backups WHERE file_id = $1)
               OR EXISTS (SELECT 1 FROM control_plane.backup_history WHERE event = 'deleted' AND detail #>> '{backup,file_id}' = $1)
           AS "taken!""#,
        key.as_str(),
    )
    .fetch_one(connection)
    .await?)
}

/// Gives a backup that is not stored yet another name.
pub async fn rename(executor: impl PgExecutor<'_>, id: BackupId, key: &ArtifactName) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups SET file_id = $2, file_name = $3 WHERE id = $1 AND status IN ('pending', 'in_progress')",
        id.0,
        key.as_str(),
        key.file_name(),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Deletes the record of a backup that is [held](super::hold) and leaves its files where they are. The event is the same tombstone as that of a
/// deletion with its files: no sweep and no rebuild takes the backup up again.
pub async fn forget(connection: &mut PgConnection, id: BackupId, caller: &Caller) -> Result<(), HistoryError> {
    let kept: Vec<String> = sqlx::query_scalar!(
        "SELECT storage FROM control_plane.backup_copies WHERE backup_id = $1 ORDER BY storage",
        id.0
    )
    .fetch_all(&mut *connection)
    .await?;
    let outcome = serde_json::json!({ "record_only": true, "files_stay_in": kept });
    deletions::bury(connection, id, caller, None, &outcome).await
}
