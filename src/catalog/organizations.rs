//! Organisations: what groups projects and users. A platform may name some that have no row here.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use super::{ManageError, Managed};
use crate::tenant::Scope;

/// An organisation, and how much belongs to it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Organization {
    #[schema(example = "o-acme")]
    pub id: String,
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub projects: i64,
    /// Local users.
    pub users: i64,
}

/// One organisation within reach: an operator's are all, an organisation admin's its own.
pub async fn organization(executor: impl PgExecutor<'_>, scope: &Scope, id: &str) -> Result<Organization, ManageError> {
    sqlx::query_as!(
        Organization,
        r#"SELECT id, name, created_at,
                (SELECT count(*) FROM control_plane.projects p WHERE p.organization_id = o.id) AS "projects!",
                (SELECT count(*) FROM control_plane.users u WHERE u.organization_id = o.id AND u.enrolled_at IS NOT NULL) AS "users!"
         FROM control_plane.organizations o
         WHERE id = $1 AND $2::text[] IS NULL AND ($3::text IS NULL OR id = $3)"#,
        id,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Organization, id))
}

/// Organisations within reach after this id, by id.
pub async fn organizations(
    pool: &PgPool,
    scope: &Scope,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Organization>, ManageError> {
    Ok(sqlx::query_as!(
        Organization,
        r#"SELECT id, name, created_at,
                (SELECT count(*) FROM control_plane.projects p WHERE p.organization_id = o.id) AS "projects!",
                (SELECT count(*) FROM control_plane.users u WHERE u.organization_id = o.id AND u.enrolled_at IS NOT NULL) AS "users!"
         FROM control_plane.organizations o
         WHERE $1::text[] IS NULL AND ($2::text IS NULL OR id = $2) AND ($3::text IS NULL OR id > $3)
         ORDER BY id LIMIT $4"#,
        scope.project_ids(),
        scope.organization_id(),
        after,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Holds an organisation's row until the transaction ends, so that it does not go while something is put into it. `false`: there is none.
pub async fn hold_organization(executor: impl PgExecutor<'_>, id: &str) -> Result<bool, ManageError> {
    let held = sqlx::query_scalar!("SELECT id FROM control_plane.organizations WHERE id = $1 FOR SHARE", id);
    Ok(held.fetch_optional(executor).await?.is_some())
}

/// Adds an organisation; [`ManageError::Exists`] when its id is taken.
pub async fn insert_organization(executor: impl PgExecutor<'_>, id: &str, name: &str) -> Result<(), ManageError> {
    let added = sqlx::query!(
        "INSERT INTO control_plane.organizations (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
        id,
        name,
    )
    .execute(executor)
    .await?;
    match added.rows_affected() {
        0 => Err(ManageError::Exists { what: Managed::Organization, name: id.to_owned() }),
        _ => Ok(()),
    }
}

/// Gives an organisation another name.
pub async fn rename_organization(executor: impl PgExecutor<'_>, id: &str, name: &str) -> Result<(), ManageError> {
    sqlx::query!("UPDATE control_plane.organizations SET name = $2 WHERE id = $1", id, name).execute(executor).await?;
    Ok(())
}

/// Waits for those who put something into it, and keeps others from doing so until the transaction ends.
pub async fn lock_organization(executor: impl PgExecutor<'_>, id: &str) -> Result<(), ManageError> {
    sqlx::query!("SELECT id FROM control_plane.organizations WHERE id = $1 FOR UPDATE", id)
        .fetch_optional(executor)
        .await?;
    Ok(())
}

/// Removes an organisation, which must be empty, with its channels.
pub async fn delete_organization(connection: &mut sqlx::PgConnection, id: &str) -> Result<(), ManageError> {
    sqlx::query!("DELETE FROM control_plane.channels WHERE organization_id = $1", id).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM control_plane.organizations WHERE id = $1", id).execute(connection).await?;
    Ok(())
}
