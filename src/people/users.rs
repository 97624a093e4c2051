//! Local users. Every query looks at enrolled rows alone; those that serve a caller take its scope.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::PeopleError;
use crate::{
    ids::ProjectId,
    tenant::{Caller, Permission, Role, Scope},
};

/// Longest name, in characters.
const MAX_NAME_CHARS: usize = 200;

/// A local user, without its password's hash.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct User {
    pub id: Uuid,
    /// What is typed to log in.
    #[schema(example = "alice@example.com")]
    pub name: String,
    /// `member`, `org_admin` or `operator`.
    pub role: String,
    /// `backup:read`, `backup:write`.
    pub permissions: Vec<String>,
    /// For members: the projects that are reached. An organisation's admin is told those of the organisation.
    pub project_ids: Vec<String>,
    /// How many other projects are reached, which the caller is not told.
    pub projects_elsewhere: i64,
    pub organization_id: Option<String>,
    /// May not log in, and is logged out.
    pub disabled: bool,
    pub created_at: DateTime<Utc>,
    pub last_login_at: Option<DateTime<Utc>>,
}

impl User {
    /// What this user may do now, without an address. `None` for a disabled one, and for words that are not ours.
    pub fn caller(&self) -> Option<Caller> {
        if self.disabled {
            return None;
        }
        Some(Caller {
            subject: format!("user:{}", self.name),
            role: self.role.parse().ok()?,
            permissions: self.permissions.iter().filter_map(|word| word.parse().ok()).collect(),
            project_ids: self.project_ids.iter().filter_map(|id| id.parse().ok()).collect(),
            organization_id: self.organization_id.clone(),
            address: None,
        })
    }
}

/// A user as it is added.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub name: String,
    pub password_hash: String,
    pub role: Role,
    pub permissions: Vec<Permission>,
    pub project_ids: Vec<ProjectId>,
    pub organization_id: Option<String>,
}

/// What is to be different. `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub password_hash: Option<String>,
    pub role: Option<Role>,
    pub permissions: Option<Vec<Permission>>,
    pub project_ids: Option<Vec<ProjectId>>,
    pub organization_id: Option<String>,
    pub disabled: Option<bool>,
}

fn words(permissions: &[Permission]) -> Vec<String> {
    permissions.iter().map(|permission| permission.as_str().to_owned()).collect()
}

/// A name that can be typed, logged and shown.
fn check_name(name: &str) -> Result<(), PeopleError> {
    let wrong = |what: &str| Err(PeopleError::Invalid(format!("the user's name {what}")));
    if name.is_empty() || name.trim() != name {
        wrong("is empty, or begins or ends with a space")
    } else if name.chars().count() > MAX_NAME_CHARS {
        wrong("is longer than 200 characters")
    } else if name.chars().any(char::is_control) {
        wrong("has control characters")
    } else {
        Ok(())
    }
}

/// The id of an organisation that someone belongs to or reaches.
pub(super) fn check_organization(id: Option<&str>) -> Result<(), PeopleError> {
    match id {
        Some(id) if id.is_empty() || id.len() > 255 || id.chars().any(char::is_control) => Err(PeopleError::Invalid(
            "organization_id is empty, longer than 255 bytes or has control characters".to_owned(),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Adds a user. [`PeopleError::NameTaken`] when there is one of this name, in whatever case.
pub async fn insert_user(connection: &mut PgConnection, new: &NewUser) -> Result<User, PeopleError> {
    check_name(&new.name)?;
    check_organization(new.organization_id.as_deref())?;
    if new.role == Role::OrgAdmin && new.organization_id.is_none() {
        return Err(PeopleError::Invalid("role org_admin needs an organisation".to_owned()));
    }
    let id = Uuid::now_v7();
    let added = sqlx::query!(
        "INSERT INTO control_plane.users (id, name, password_hash, role, permissions, organization_id, enrolled_at)
         VALUES ($1, $2, $3, $4, $5, $6, now())
         ON CONFLICT (lower(name)) WHERE enrolled_at IS NOT NULL DO NOTHING",
        id,
        new.name,
        new.password_hash,
        new.role.as_str(),
        &words(&new.permissions),
        new.organization_id,
    )
    .execute(&mut *connection)
    .await?;
    if added.rows_affected() == 0 {
        return Err(PeopleError::NameTaken(new.name.clone()));
    }
    set_projects(connection, id, &new.project_ids).await?;
    by_id(connection, id).await
}

/// Changes a user that the caller reached through [`user`] in this transaction. What would let nobody in is refused.
pub async fn change_user(connection: &mut PgConnection, id: Uuid, changes: &Changes) -> Result<User, PeopleError> {
    check_organization(changes.organization_id.as_deref())?;
    one_at_a_time(connection).await?;
    let had_operator = has_operator(&mut *connection).await?;
    let permissions = changes.permissions.as_deref().map(words);
    sqlx::query!(
        "UPDATE control_plane.users SET password_hash = coalesce($2, password_hash), role = coalesce($3, role),
             permissions = coalesce($4, permissions), organization_id = coalesce($5, organization_id), disabled = coalesce($6, disabled)
         WHERE id = $1 AND enrolled_at IS NOT NULL",
        id,
        changes.password_hash,
        changes.role.map(Role::as_str),
        permissions.as_deref(),
        changes.organization_id,
        changes.disabled,
    )
    .execute(&mut *connection)
    .await?;
    if let Some(projects) = &changes.project_ids {
        set_projects(connection, id, projects).await?;
    }
    if changes.disabled == Some(true) || changes.password_hash.is_some() {
        super::delete_sessions_of(&mut *connection, id).await?;
    }
    let changed = by_id(connection, id).await?;
    if changed.role == Role::OrgAdmin.as_str() && changed.organization_id.is_none() {
        return Err(PeopleError::Invalid("role org_admin needs an organisation".to_owned()));
    }
    refuse_without_operator(connection, had_operator).await?;
    Ok(changed)
}

/// Removes a user that the caller reached, with its sessions. Its API keys work no more.
pub async fn delete_user(connection: &mut PgConnection, id: Uuid) -> Result<(), PeopleError> {
    one_at_a_time(connection).await?;
    let had_operator = has_operator(&mut *connection).await?;
    super::delete_sessions_of(&mut *connection, id).await?;
    set_projects(connection, id, &[]).await?;
    sqlx::query!("DELETE FROM control_plane.users WHERE id = $1 AND enrolled_at IS NOT NULL", id)
        .execute(&mut *connection)
        .await?;
    refuse_without_operator(connection, had_operator).await
}

/// Two operators who remove each other must not both succeed.
async fn one_at_a_time(connection: &mut PgConnection) -> Result<(), PeopleError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('holdfast people', 0))::text AS locked")
        .fetch_one(connection)
        .await?;
    Ok(())
}

async fn refuse_without_operator(connection: &mut PgConnection, had_operator: bool) -> Result<(), PeopleError> {
    if had_operator && !has_operator(connection).await? { Err(PeopleError::LastOperator) } else { Ok(()) }
}

/// Whether an operator can log in.
pub async fn has_operator(executor: impl PgExecutor<'_>) -> Result<bool, PeopleError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM control_plane.users WHERE enrolled_at IS NOT NULL AND role = 'operator' AND NOT disabled) AS "is!""#
    )
    .fetch_one(executor)
    .await?)
}

async fn set_projects(connection: &mut PgConnection, id: Uuid, projects: &[ProjectId]) -> Result<(), PeopleError> {
    let projects: Vec<String> = projects.iter().map(ToString::to_string).collect();
    sqlx::query!("DELETE FROM control_plane.memberships WHERE user_id = $1", id).execute(&mut *connection).await?;
    sqlx::query!(
        "INSERT INTO control_plane.memberships (user_id, project_id) SELECT DISTINCT $1::uuid, unnest($2::text[])",
        id,
        &projects,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<User, PeopleError> {
    user(connection, &Scope::everything("it was reached or made in this transaction"), id).await
}

/// One user within reach: an operator's are all, an organisation admin's those of its organisation but for operators. Of the user's projects
/// those within reach are named, and the others counted.
pub async fn user(executor: impl PgExecutor<'_>, scope: &Scope, id: Uuid) -> Result<User, PeopleError> {
    sqlx::query_as!(
        User,
        r#"SELECT id, name AS "name!", role, permissions, organization_id, disabled, created_at, last_login_at,
                ARRAY(SELECT project_id FROM control_plane.memberships m WHERE m.user_id = u.id AND ($3::text IS NULL OR EXISTS (
                    SELECT FROM control_plane.projects p WHERE p.id = m.project_id AND p.organization_id = $3)) ORDER BY 1) AS "project_ids!",
                (SELECT count(*) FROM control_plane.memberships m WHERE m.user_id = u.id AND $3::text IS NOT NULL AND NOT EXISTS (
                    SELECT FROM control_plane.projects p WHERE p.id = m.project_id AND p.organization_id = $3)) AS "projects_elsewhere!"
         FROM control_plane.users u
         WHERE id = $1 AND enrolled_at IS NOT NULL AND $2::text[] IS NULL
           AND ($3::text IS NULL OR (organization_id = $3 AND role <> 'operator'))"#,
        id,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| PeopleError::NotFound { what: "user", id: id.to_string() })
}

/// Users within reach, newest first; else as [`user`].
pub async fn users(
    pool: &PgPool,
    scope: &Scope,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<User>, PeopleError> {
    Ok(sqlx::query_as!(
        User,
        r#"SELECT id, name AS "name!", role, permissions, organization_id, disabled, created_at, last_login_at,
                ARRAY(SELECT project_id FROM control_plane.memberships m WHERE m.user_id = u.id AND ($2::text IS NULL OR EXISTS (
                    SELECT FROM control_plane.projects p WHERE p.id = m.project_id AND p.organization_id = $2)) ORDER BY 1) AS "project_ids!",
                (SELECT count(*) FROM control_plane.memberships m WHERE m.user_id = u.id AND $2::text IS NOT NULL AND NOT EXISTS (
                    SELECT FROM control_plane.projects p WHERE p.id = m.project_id AND p.organization_id = $2)) AS "projects_elsewhere!"
         FROM control_plane.users u
         WHERE enrolled_at IS NOT NULL AND $1::text[] IS NULL
           AND ($2::text IS NULL OR (organization_id = $2 AND role <> 'operator'))
           AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
         ORDER BY created_at DESC, id DESC LIMIT $5"#,
        scope.project_ids(),
        scope.organization_id(),
        after.map(|(at, _)| at),
        after.map(|(_, id)| id),
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// One user by name, for the command line.
pub async fn user_by_name(connection: &mut PgConnection, scope: &Scope, name: &str) -> Result<User, PeopleError> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM control_plane.users WHERE lower(name) = lower($1) AND enrolled_at IS NOT NULL",
        name,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or_else(|| PeopleError::NotFound { what: "user", id: format!("{name:?}") })?;
    user(connection, scope, id).await
}

/// The user who logs in with this name, and the password's hash. One query, so that an unknown name takes as long as a known one.
pub async fn login_user(pool: &PgPool, name: &str) -> Result<Option<(User, Option<String>)>, PeopleError> {
    let row = sqlx::query!(
        r#"SELECT id, name AS "name!", role, permissions, organization_id, disabled, created_at, last_login_at, password_hash,
                ARRAY(SELECT project_id FROM control_plane.memberships m WHERE m.user_id = u.id ORDER BY 1) AS "project_ids!"
         FROM control_plane.users u WHERE lower(name) = lower($1) AND enrolled_at IS NOT NULL"#,
        name,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| {
        let user = User {
            id: row.id,
            name: row.name,
            role: row.role,
            permissions: row.permissions,
            project_ids: row.project_ids,
            projects_elsewhere: 0,
            organization_id: row.organization_id,
            disabled: row.disabled,
            created_at: row.created_at,
            last_login_at: row.last_login_at,
        };
        (user, row.password_hash)
    }))
}
