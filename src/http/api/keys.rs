//! API keys: each caller's own, and all for operators.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Duration, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{
    page_size,
    people::{refuse_keys, require_grantable},
    users::ListParams,
};
use crate::{
    db,
    history::{self, PeopleEvent},
    http::{
        Api,
        answer::{Cursor, Data, Page},
        error::Problem,
        extract::{Body, Id, Names, Params, Signed},
        idempotency::HoldsSecret,
    },
    ids::ProjectId,
    people::{self, ApiKey, KeyRights, NewKey},
    tenant::{Permission, Role},
};

/// A key's id in a path.
#[derive(Clone, Copy, Debug)]
pub struct KeyId(Uuid);

impl std::str::FromStr for KeyId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

impl Names for KeyId {
    const WHAT: &'static str = "key";
}

/// List API keys
///
/// Newest first: the caller's own, or all for an operator. Never their secrets. One that reaches more than the caller does by now is there as
/// well, with the projects within reach.
#[utoipa::path(
    get, path = "/api/keys", operation_id = "list_keys", tag = "keys",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<ApiKey>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<ApiKey>, Problem> {
    caller.require(Permission::Read)?;
    refuse_keys(&caller)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    let before = Cursor::read(params.cursor.as_deref())?;
    let rows = people::keys(&api.app.pool, &caller.0, caller.user_id(), before, limit as i64 + 1).await?;
    Ok(Page::of(rows, limit, |key| Cursor { at: key.created_at, id: key.id }))
}

/// A new key.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Make {
    /// What it is for.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    #[schema(inline)]
    pub permissions: Vec<Permission>,
    /// Default: `member`, which reaches the projects named here.
    #[schema(inline)]
    pub role: Option<Role>,
    #[serde(default)]
    pub project_ids: Vec<ProjectId>,
    /// For role `org_admin`; the caller's own unless given.
    pub organization_id: Option<String>,
    /// Default: 90.
    #[schema(minimum = 1, maximum = 366)]
    pub expires_in_days: Option<u32>,
}

/// A key that was made.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Made {
    pub id: Uuid,
    /// The key itself, for `Authorization: Bearer`. It is not shown again.
    pub key: String,
    pub expires_at: DateTime<Utc>,
}

/// Make an API key
///
/// It can do no more than the caller, and when a local user made it, no more than that user still may. The key is shown this once. One
/// maker has at most 100 keys that are neither revoked nor expired.
#[utoipa::path(
    post, path = "/api/keys", operation_id = "make_key", tag = "keys",
    request_body(content = Make, example = json!({ "name": "nightly", "permissions": ["backup:read"], "project_ids": ["acme"], "expires_in_days": 90 })),
    responses((status = 201, description = "The key.", body = Data<Made>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn make(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<Make>, Problem>,
) -> Result<Response, Problem> {
    caller.require(Permission::Write)?;
    refuse_keys(&caller)?;
    let Body(make) = body?;
    let data = make_key(&api, &caller, make).await?;
    Ok((StatusCode::CREATED, Extension(HoldsSecret), Json(Data { data })).into_response())
}

/// Makes the key, for whoever may.
pub async fn make_key(api: &Api, caller: &Signed, make: Make) -> Result<Made, Problem> {
    caller.require(Permission::Write)?;
    refuse_keys(caller)?;
    let invalid = |detail: &str| Err(Problem::invalid("key.invalid", detail));
    if make.name.is_empty() || make.name.chars().count() > 100 || make.name.chars().any(char::is_control) {
        return invalid("the key's name must have 1 to 100 characters, and no control characters");
    }
    if make.permissions.is_empty() {
        return invalid("the key has no permissions: it would be good for nothing");
    }
    let days = make.expires_in_days.unwrap_or(90);
    if !(1..=366).contains(&days) {
        return invalid("expires_in_days must be 1 to 366");
    }
    let role = make.role.unwrap_or(Role::Member);
    let organization_id = match role {
        Role::OrgAdmin => make.organization_id.or_else(|| caller.0.organization_id.clone()),
        Role::Member | Role::Operator => make.organization_id,
    };
    match role {
        Role::Member if make.project_ids.is_empty() => {
            return invalid("the key reaches no project: name some in project_ids");
        }
        Role::OrgAdmin if organization_id.is_none() => return invalid("role org_admin needs organization_id"),
        Role::Member | Role::OrgAdmin | Role::Operator => {}
    }
    let rights = KeyRights { role, permissions: make.permissions, project_ids: make.project_ids, organization_id };
    let pool = &api.app.pool;
    let organization = rights.organization_id.as_deref();
    require_grantable(pool, &caller.0, role, &rights.permissions, organization, &rights.project_ids).await?;
    let now = api.app.clock.now();
    let new = NewKey {
        name: &make.name,
        rights: &rights,
        created_by: &caller.0.subject,
        user_id: caller.user_id(),
        now,
        expires_at: now + Duration::days(i64::from(days)),
    };
    let mut transaction = db::begin(pool).await?;
    people::refuse_too_many_keys(&mut transaction, &caller.0, caller.user_id(), now).await?;
    let (id, key) = people::insert_key(&mut transaction, &new).await?;
    let event = PeopleEvent {
        event: "key_made",
        caller: &caller.0,
        organization_id: organization,
        outcome: "ok",
        detail: json!({
            "key_id": id, "name": make.name, "role": role, "permissions": rights.permissions,
            "project_ids": rights.project_ids, "expires_at": new.expires_at,
        }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    // To its owner, this once.
    Ok(Made { id, key: key.expose_secret().to_owned(), expires_at: new.expires_at })
}

/// Revoke an API key
///
/// It is refused from now on. One that was revoked before is as good.
#[utoipa::path(
    delete, path = "/api/keys/{id}", operation_id = "revoke_key", tag = "keys",
    params(("id" = Uuid, Path, description = "The key's id.")),
    responses((status = 204, description = "The key is refused from now on.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn revoke(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<KeyId>, Problem>,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::Write)?;
    refuse_keys(&caller)?;
    let Id(KeyId(id)) = id?;
    let mut transaction = db::begin(&api.app.pool).await?;
    people::revoke_key(&mut transaction, &caller.0, caller.user_id(), id, api.app.clock.now()).await?;
    let event = PeopleEvent {
        event: "key_revoked",
        caller: &caller.0,
        organization_id: caller.0.organization_id.as_deref(),
        outcome: "ok",
        detail: json!({ "key_id": id }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
