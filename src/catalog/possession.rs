//! Whose a project's past is: ids that have one are not given away, and what another organisation held of a project ends when it leaves it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use super::{ManageError, Project};

/// Whether there are rows of a project of this id, which may be gone itself: backups, jobs, a history, or who reaches it. Whoever had the
/// id anew would have them.
pub async fn id_has_a_past(executor: impl PgExecutor<'_>, id: &str) -> Result<bool, ManageError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM control_plane.backups WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.backup_history WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.jobs WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.project_logs WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.restores WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.schedules WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.channels WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.memberships WHERE project_id = $1)
               OR EXISTS (SELECT FROM control_plane.api_keys WHERE $1 = ANY (project_ids) AND revoked_at IS NULL) AS "has!""#,
        id,
    )
    .fetch_one(executor)
    .await?)
}

/// How many projects of an organisation wait for an operator.
pub async fn pending_projects(executor: impl PgExecutor<'_>, organization_id: &str) -> Result<i64, ManageError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM control_plane.projects WHERE organization_id = $1 AND status = $2"#,
        organization_id,
        Project::PENDING,
    )
    .fetch_one(executor)
    .await?)
}

/// Ends what people of other organisations hold of a project that has come to this one: their channels, their memberships, the keys that
/// name it, and the addresses that their requests named, which would hear of its backups for as long as those last. Operators' own stay.
pub async fn end_others_hold(
    connection: &mut PgConnection,
    project_id: &str,
    organization_id: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), ManageError> {
    sqlx::query!("DELETE FROM control_plane.channels WHERE project_id = $1 AND is_tenants_own", project_id)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "DELETE FROM control_plane.memberships m USING control_plane.users u
         WHERE m.project_id = $1 AND u.id = m.user_id AND u.organization_id IS NOT NULL
           AND u.organization_id IS DISTINCT FROM $2",
        project_id,
        organization_id,
    )
    .execute(&mut *connection)
    .await?;
    // Of a key that was made with a token nobody knows any more what its maker was: it ends too.
    sqlx::query!(
        "UPDATE control_plane.api_keys k SET revoked_at = $2
         WHERE $1 = ANY (project_ids) AND secret_sha256 IS NOT NULL AND revoked_at IS NULL AND role <> 'operator'
           AND NOT EXISTS (SELECT FROM control_plane.users u
               WHERE u.id = k.user_id AND u.role = 'operator' AND u.enrolled_at IS NOT NULL)",
        project_id,
        now,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE control_plane.jobs SET payload = jsonb_set(payload, '{request,notify_email}', 'null')
         WHERE project_id = $1 AND payload #>> '{request,notify_email}' IS NOT NULL",
        project_id,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends what would come back to life with another organisation of this id: its keys and its schedules.
pub async fn end_organizations_hold(
    connection: &mut PgConnection,
    organization_id: &str,
    now: DateTime<Utc>,
) -> Result<(), ManageError> {
    sqlx::query!(
        "UPDATE control_plane.api_keys SET revoked_at = $2
         WHERE organization_id = $1 AND secret_sha256 IS NOT NULL AND revoked_at IS NULL",
        organization_id,
        now,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE control_plane.schedules SET enabled = false, updated_at = now()
         WHERE organization_id = $1 AND cron IS NOT NULL AND enabled",
        organization_id,
    )
    .execute(connection)
    .await?;
    Ok(())
}
