//! Local users: operators manage all, organisation admins those of their organisation.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    page_size,
    people::{require_admin, require_all_in_reach, require_grantable},
};
use crate::{
    config::Secret,
    db,
    history::{self, PeopleEvent},
    http::{
        Api,
        answer::{Cursor, Data, Page, created},
        error::Problem,
        extract::{Body, Id, Names, Params, Signed},
    },
    ids::ProjectId,
    people::{self, Changes, NewUser, User},
    tenant::{Permission, Role},
};

/// A user's id in a path.
#[derive(Clone, Copy, Debug)]
pub struct UserId(Uuid);

impl std::str::FromStr for UserId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

impl Names for UserId {
    const WHAT: &'static str = "user";
}

/// Which page.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Rows on a page. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// List users
///
/// Newest first: all for an operator, those of its organisation for an organisation admin.
#[utoipa::path(
    get, path = "/api/users", operation_id = "list_users", tag = "users",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<User>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<User>, Problem> {
    caller.require(Permission::Read)?;
    require_admin(&caller)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    let before = Cursor::read(params.cursor.as_deref())?;
    let rows = people::users(&api.app.pool, &caller.0.scope(), before, limit as i64 + 1).await?;
    Ok(Page::of(rows, limit, |user| Cursor { at: user.created_at, id: user.id }))
}

/// Look at a user
///
/// One user within reach.
#[utoipa::path(
    get, path = "/api/users/{id}", operation_id = "show_user", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = Data<User>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<UserId>, Problem>,
) -> Result<Data<User>, Problem> {
    caller.require(Permission::Read)?;
    require_admin(&caller)?;
    Ok(Data { data: people::user(&api.app.pool, &caller.0.scope(), id?.0.0).await? })
}

/// A new user.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddUserBody {
    #[schema(max_length = 200)]
    pub name: String,
    #[schema(value_type = String, format = Password, min_length = 12)]
    pub password: Secret,
    /// Default: `member`.
    #[schema(inline)]
    pub role: Option<Role>,
    /// Default: both.
    #[schema(inline)]
    pub permissions: Option<Vec<Permission>>,
    /// For members.
    #[serde(default)]
    pub project_ids: Vec<ProjectId>,
    /// An organisation admin's own unless given.
    pub organization_id: Option<String>,
}

/// Add a user
///
/// It can be given no more than the caller has.
#[utoipa::path(
    post, path = "/api/users", operation_id = "add_user", tag = "users",
    request_body(content = AddUserBody, example = json!({ "name": "bob@example.com", "password": "correct horse battery", "project_ids": ["acme"] })),
    responses((status = 201, description = "The user.", body = Data<User>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddUserBody>, Problem>,
) -> Result<Response, Problem> {
    caller.require(Permission::Write)?;
    require_admin(&caller)?;
    let Body(add) = body?;
    let role = add.role.unwrap_or(Role::Member);
    let permissions = add.permissions.unwrap_or_else(|| caller.0.permissions.clone());
    let organization_id = match caller.0.role {
        Role::Operator => add.organization_id,
        Role::OrgAdmin | Role::Member => add.organization_id.or_else(|| caller.0.organization_id.clone()),
    };
    let pool = &api.app.pool;
    require_grantable(pool, &caller.0, role, &permissions, organization_id.as_deref(), &add.project_ids).await?;
    let password_hash = api.passwords.hash(add.password).await?;
    let new =
        NewUser { name: add.name, password_hash, role, permissions, project_ids: add.project_ids, organization_id };
    let mut transaction = db::begin(pool).await?;
    let user = people::insert_user(&mut transaction, &new).await?;
    let detail = json!({ "name": user.name, "role": user.role });
    record(&mut transaction, &caller, "user_added", &user, detail).await?;
    transaction.commit().await?;
    Ok(created(user))
}

/// What is to be different. What is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeUserBody {
    /// Ends every session of the user.
    #[schema(value_type = Option<String>, format = Password, min_length = 12)]
    pub password: Option<Secret>,
    #[schema(inline)]
    pub role: Option<Role>,
    #[schema(inline)]
    pub permissions: Option<Vec<Permission>>,
    /// All of them: others are taken away, those that the caller is not told (`projects_elsewhere`) as well.
    pub project_ids: Option<Vec<ProjectId>>,
    pub organization_id: Option<String>,
    /// Ends every session of the user, and its API keys do not work meanwhile.
    pub disabled: Option<bool>,
}

/// Change a user
///
/// It holds at once, for sessions that go on as well. The last operator who can log in stays one. A password, more rights, or being enabled
/// again is given to no one who reaches what the caller does not.
#[utoipa::path(
    patch, path = "/api/users/{id}", operation_id = "change_user", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    request_body(content = ChangeUserBody, example = json!({ "disabled": true })),
    responses((status = 200, description = "The user as it is now.", body = Data<User>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<UserId>, Problem>,
    body: Result<Body<ChangeUserBody>, Problem>,
) -> Result<Data<User>, Problem> {
    caller.require(Permission::Write)?;
    require_admin(&caller)?;
    let Id(UserId(id)) = id?;
    let (pool, scope) = (&api.app.pool, caller.0.scope());
    let before = people::user(pool, &scope, id).await?;
    let Body(change) = body?;
    let role = change.role.or_else(|| before.role.parse().ok()).unwrap_or(Role::Member);
    let projects = change.project_ids.as_deref().unwrap_or_default();
    let organization = change.organization_id.as_deref();
    let is_raised = raises(&change, &before);
    let kept: Vec<Permission> =
        before.permissions.iter().filter(|_| is_raised).filter_map(|word| word.parse().ok()).collect();
    let permissions = change.permissions.as_deref().unwrap_or(&kept);
    require_grantable(pool, &caller.0, role, permissions, organization, projects).await?;
    if is_raised {
        require_all_in_reach(&before)?;
    }
    let has_new_password = change.password.is_some();
    let password_hash = match change.password {
        Some(password) => Some(api.passwords.hash(password).await?),
        None => None,
    };
    let changes = Changes {
        password_hash,
        role: change.role,
        permissions: change.permissions,
        project_ids: change.project_ids,
        organization_id: change.organization_id,
        disabled: change.disabled,
    };
    let mut transaction = db::begin(pool).await?;
    // Again: it may have left the caller's reach meanwhile.
    people::user(&mut *transaction, &scope, id).await?;
    let user = people::change_user(&mut transaction, id, &changes).await?;
    let detail = json!({
        "name": user.name, "role": user.role, "permissions": user.permissions, "project_ids": user.project_ids,
        "disabled": user.disabled, "password_changed": has_new_password,
    });
    record(&mut transaction, &caller, "user_changed", &user, detail).await?;
    // As the caller may be told of it.
    let shown = people::user(&mut *transaction, &scope, id).await?;
    transaction.commit().await?;
    Ok(Data { data: shown })
}

/// Whether a change lets someone in as the user, or gives it more. What only takes away is not asked about.
fn raises(change: &ChangeUserBody, before: &User) -> bool {
    change.password.is_some()
        || change.role.is_some_and(|role| role.as_str() != before.role)
        || change.permissions.iter().flatten().any(|word| !before.permissions.iter().any(|had| had == word.as_str()))
        || (change.disabled == Some(false) && before.disabled)
}

/// Delete a user
///
/// Its sessions end, and its API keys work no more.
#[utoipa::path(
    delete, path = "/api/users/{id}", operation_id = "delete_user", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses((status = 204, description = "The user is gone.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<UserId>, Problem>,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::Write)?;
    require_admin(&caller)?;
    let Id(UserId(id)) = id?;
    let mut transaction = db::begin(&api.app.pool).await?;
    let user = people::user(&mut *transaction, &caller.0.scope(), id).await?;
    people::delete_user(&mut transaction, id).await?;
    record(&mut transaction, &caller, "user_deleted", &user, json!({ "name": user.name })).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn record(
    connection: &mut PgConnection,
    caller: &Signed,
    event: &str,
    user: &User,
    mut detail: Value,
) -> Result<(), Problem> {
    detail["user_id"] = json!(user.id);
    let organization_id = user.organization_id.as_deref();
    let event = PeopleEvent { event, caller: &caller.0, organization_id, outcome: "ok", detail };
    Ok(history::record_people(connection, &event).await?)
}
