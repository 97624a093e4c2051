//! Storages, for operators: those of the configuration to look at and test, others to add, change and remove.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{page_size, users::ListParams};
use crate::{
    catalog::Settings,
    http::{
        Api,
        answer::{Data, Page, created},
        error::Problem,
        extract::{Body, Params, Signed},
        named::{self, Named},
    },
    manage::{
        Mode, require_operator,
        storages::{self, ShownStorage, StorageTest},
    },
    tenant::Permission,
};

/// List storages
///
/// By name. Those with `origin` `configuration` are changed in the TOML file alone. Secrets are never told: `{"set": true}` stands in their
/// place.
#[utoipa::path(
    get, path = "/api/storages", operation_id = "list_storages", tag = "storages",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<ShownStorage>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<ShownStorage>, Problem> {
    require_operator(&caller.0, Permission::Read)?;
    let Params(params) = params?;
    let (limit, after) = (page_size(params.limit)?, named::after(params.cursor.as_deref())?);
    let all = storages::list(&api.app, &caller.0).await?.into_iter();
    let rows = all.filter(|storage| after.as_ref().is_none_or(|after| storage.name > *after)).take(limit + 1).collect();
    Ok(named::page(rows, limit, |storage| &storage.name))
}

/// Look at a storage
///
/// One storage, without its secrets.
#[utoipa::path(
    get, path = "/api/storages/{name}", operation_id = "show_storage", tag = "storages",
    params(("name" = String, Path, description = "The storage's name.")),
    responses((status = 200, description = "The storage.", body = Data<ShownStorage>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(State(api): State<Api>, caller: Signed, Named(name): Named) -> Result<Data<ShownStorage>, Problem> {
    Ok(Data { data: storages::show(&api.app, &caller.0, &name).await? })
}

/// A new storage.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddStorageBody {
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9_-]+$")]
    pub name: String,
    /// What `[storages.NAME]` of the TOML file has, with a `type`; files that hold secrets cannot be named.
    pub settings: Settings,
}

/// Add a storage
///
/// It is opened once, and used by every process from its next job on, without a restart. Settings and secrets are encrypted in the
/// database.
#[utoipa::path(
    post, path = "/api/storages", operation_id = "add_storage", tag = "storages",
    request_body(content = AddStorageBody, example = json!({ "name": "offsite", "settings": {
        "type": "s3", "bucket": "backups", "region": "eu-central-1", "access_key": "AKIAEXAMPLE", "secret_key": "example-secret-key" } })),
    responses((status = 201, description = "The storage.", body = Data<ShownStorage>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddStorageBody>, Problem>,
) -> Result<Response, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(add) = body?;
    let data = storages::add(&api.app, &caller.0, &add.name, &add.settings).await?;
    Ok(created(data))
}

/// What is to be different.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeStorageBody {
    /// What is left out stays, secrets too; `null` brings a default back. The `type` stays.
    pub settings: Settings,
}

/// Change a storage
///
/// Every process uses the new settings from its next job on. What is stored stays where it is: whoever names another place moves it there
/// beforehand.
#[utoipa::path(
    patch, path = "/api/storages/{name}", operation_id = "change_storage", tag = "storages",
    params(("name" = String, Path, description = "The storage's name.")),
    request_body(content = ChangeStorageBody, example = json!({ "settings": { "max_rate": "20 MiB" } })),
    responses((status = 200, description = "The storage as it is now.", body = Data<ShownStorage>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    Named(name): Named,
    body: Result<Body<ChangeStorageBody>, Problem>,
) -> Result<Data<ShownStorage>, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(change) = body?;
    Ok(Data { data: storages::change(&api.app, &caller.0, &name, &change.settings).await? })
}

/// Remove a storage
///
/// Refused while copies, projects or jobs need it. What is stored there stays.
#[utoipa::path(
    delete, path = "/api/storages/{name}", operation_id = "delete_storage", tag = "storages",
    params(("name" = String, Path, description = "The storage's name.")),
    responses((status = 204, description = "The storage is gone.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(State(api): State<Api>, caller: Signed, Named(name): Named) -> Result<StatusCode, Problem> {
    storages::delete(&api.app, &caller.0, &name, Mode::Real).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Test a storage
///
/// Writes a probe, reads it back and deletes it, within 20 seconds. That it failed is an answer too: `good` is `false`, with `problem`.
#[utoipa::path(
    post, path = "/api/storages/{name}/test", operation_id = "test_storage", tag = "storages",
    params(("name" = String, Path, description = "The storage's name.")),
    responses((status = 200, description = "What was seen.", body = Data<StorageTest>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn test(State(api): State<Api>, caller: Signed, Named(name): Named) -> Result<Data<StorageTest>, Problem> {
    Ok(Data { data: storages::test(&api.app, &caller.0, &name).await? })
}
