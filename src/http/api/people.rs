//! What calls about people have in common: who may manage whom, and which rights can be given.

use axum::http::StatusCode;
use sqlx::PgPool;

use crate::{
    catalog,
    http::{
        error::Problem,
        extract::{Signed, Via},
    },
    ids::ProjectId,
    people::User,
    tenant::{Caller, Permission, Role},
};

/// Most projects that a user or a key can be given by name: each is looked up.
const MAX_PROJECTS: usize = 200;

/// 403 unless the caller manages users. A key does not: it would outlive its own revocation.
pub fn require_admin(caller: &Signed) -> Result<(), Problem> {
    refuse_keys(caller)?;
    match caller.0.role {
        Role::Operator => Ok(()),
        Role::OrgAdmin if caller.0.organization_id.is_some() => Ok(()),
        Role::OrgAdmin | Role::Member => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "auth.role",
            "this needs the role operator, or org_admin for one's own organisation",
        )),
    }
}

/// 403 for API keys.
pub fn refuse_keys(caller: &Signed) -> Result<(), Problem> {
    match caller.1 {
        Via::Key => Err(Problem::new(StatusCode::FORBIDDEN, "auth.by_key", "an API key cannot manage people or keys")
            .hint("Use a token, or log in.")),
        Via::Token | Via::Session { .. } => Ok(()),
    }
}

fn more(what: &str) -> Problem {
    let detail = format!("this would give {what} that the caller does not have");
    Problem::new(StatusCode::FORBIDDEN, "auth.grant", detail)
}

/// Refuses to give what the caller does not have itself.
pub async fn require_grantable(
    pool: &PgPool,
    caller: &Caller,
    role: Role,
    permissions: &[Permission],
    organization_id: Option<&str>,
    project_ids: &[ProjectId],
) -> Result<(), Problem> {
    let has_role = match (caller.role, role) {
        (Role::Operator, _) | (_, Role::Member) | (Role::OrgAdmin, Role::OrgAdmin) => true,
        (Role::OrgAdmin | Role::Member, Role::Operator) | (Role::Member, Role::OrgAdmin) => false,
    };
    if !has_role {
        return Err(more("a role"));
    }
    if let Some(permission) = permissions.iter().find(|permission| !caller.may(**permission)) {
        return Err(more(&format!("the scope {permission}")));
    }
    if caller.role != Role::Operator
        && organization_id.is_some()
        && organization_id != caller.organization_id.as_deref()
    {
        return Err(more("an organisation"));
    }
    if project_ids.len() > MAX_PROJECTS {
        return Err(Problem::invalid(
            "request.project_ids",
            format!("project_ids may name {MAX_PROJECTS} projects at most"),
        )
        .hint("The role org_admin reaches every project of an organisation."));
    }
    for id in project_ids {
        catalog::project(pool, &caller.scope(), id.as_str()).await?;
    }
    Ok(())
}

/// Refuses to let someone in who reaches what the caller does not: who sets a password can log in with it. The user was read with the caller's
/// scope.
pub fn require_all_in_reach(user: &User) -> Result<(), Problem> {
    if user.projects_elsewhere == 0 {
        return Ok(());
    }
    Err(more("a project").hint("Take away what is beyond your reach first, with project_ids."))
}
