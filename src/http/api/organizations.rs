//! Organisations: operators manage them, an organisation's admin sees its own.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{page_size, users::ListParams};
use crate::{
    catalog::Organization,
    http::{
        Api,
        answer::{Data, Page, created},
        error::Problem,
        extract::{Body, Params, Signed},
        named::{self, Named},
    },
    manage::{organizations, require_admin, require_operator},
    tenant::Permission,
};

/// List organisations
///
/// By id: all for an operator, its own for an organisation admin.
#[utoipa::path(
    get, path = "/api/organizations", operation_id = "list_organizations", tag = "organizations",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<Organization>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<Organization>, Problem> {
    require_admin(&caller.0, Permission::Read)?;
    let Params(params) = params?;
    let (limit, after) = (page_size(params.limit)?, named::after(params.cursor.as_deref())?);
    let rows = organizations::list(&api.app, &caller.0, after.as_deref(), limit + 1).await?;
    Ok(named::page(rows, limit, |organization| &organization.id))
}

/// Look at an organisation
///
/// One organisation within reach.
#[utoipa::path(
    get, path = "/api/organizations/{id}", operation_id = "show_organization", tag = "organizations",
    params(("id" = String, Path, description = "The organisation's id.")),
    responses((status = 200, description = "The organisation.", body = Data<Organization>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(State(api): State<Api>, caller: Signed, Named(id): Named) -> Result<Data<Organization>, Problem> {
    Ok(Data { data: organizations::show(&api.app, &caller.0, &id).await? })
}

/// A new organisation.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddOrganizationBody {
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub id: String,
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
}

/// Add an organisation
///
/// Projects and users are put into it by their own calls.
#[utoipa::path(
    post, path = "/api/organizations", operation_id = "add_organization", tag = "organizations",
    request_body(content = AddOrganizationBody, example = json!({ "id": "o-acme", "name": "Acme Ltd" })),
    responses((status = 201, description = "The organisation.", body = Data<Organization>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddOrganizationBody>, Problem>,
) -> Result<Response, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(add) = body?;
    let data = organizations::add(&api.app, &caller.0, &add.id, &add.name).await?;
    Ok(created(data))
}

/// What is to be different.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeOrganizationBody {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
}

/// Rename an organisation
///
/// Its id stays.
#[utoipa::path(
    patch, path = "/api/organizations/{id}", operation_id = "change_organization", tag = "organizations",
    params(("id" = String, Path, description = "The organisation's id.")),
    request_body(content = ChangeOrganizationBody, example = json!({ "name": "Acme Limited" })),
    responses((status = 200, description = "The organisation as it is now.", body = Data<Organization>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    Named(id): Named,
    body: Result<Body<ChangeOrganizationBody>, Problem>,
) -> Result<Data<Organization>, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(change) = body?;
    Ok(Data { data: organizations::rename(&api.app, &caller.0, &id, &change.name).await? })
}

/// Remove an organisation
///
/// Refused while projects or users belong to it. Its notice channels go with it.
#[utoipa::path(
    delete, path = "/api/organizations/{id}", operation_id = "delete_organization", tag = "organizations",
    params(("id" = String, Path, description = "The organisation's id.")),
    responses((status = 204, description = "The organisation is gone.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(State(api): State<Api>, caller: Signed, Named(id): Named) -> Result<StatusCode, Problem> {
    organizations::delete(&api.app, &caller.0, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
