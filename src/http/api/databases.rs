//! Databases beside the control plane's own, for operators.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{page_size, users::ListParams};
use crate::{
    config::Secret,
    http::{
        Api,
        answer::{Data, Page, created},
        error::Problem,
        extract::{Body, Params, Signed},
        named::{self, Named},
    },
    manage::{
        Mode,
        databases::{self, DatabaseTest, ShownDatabase},
        require_operator,
    },
    tenant::Permission,
};

/// List databases
///
/// By name, without their URLs. The control plane's own database is not among them.
#[utoipa::path(
    get, path = "/api/databases", operation_id = "list_databases", tag = "databases",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<ShownDatabase>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<ShownDatabase>, Problem> {
    require_operator(&caller.0, Permission::Read)?;
    let Params(params) = params?;
    let (limit, after) = (page_size(params.limit)?, named::after(params.cursor.as_deref())?);
    let rows = databases::list(&api.app, &caller.0, after.as_deref(), limit + 1).await?;
    Ok(named::page(rows, limit, |database| &database.name))
}

/// Look at a database
///
/// Where it is and who connects, without the password.
#[utoipa::path(
    get, path = "/api/databases/{name}", operation_id = "show_database", tag = "databases",
    params(("name" = String, Path, description = "The database's name.")),
    responses((status = 200, description = "The database.", body = Data<ShownDatabase>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(State(api): State<Api>, caller: Signed, Named(name): Named) -> Result<Data<ShownDatabase>, Problem> {
    Ok(Data { data: databases::show(&api.app, &caller.0, &name).await? })
}

/// A new database.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDatabaseBody {
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub name: String,
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. Written only.
    #[schema(value_type = String, format = Password)]
    pub url: Secret,
}

/// Add a database
///
/// Its URL is encrypted in the database. Nothing is connected to yet: see the test.
#[utoipa::path(
    post, path = "/api/databases", operation_id = "add_database", tag = "databases",
    request_body(content = AddDatabaseBody, example = json!({ "name": "warehouse", "url": "postgres://backup:…@db2.internal:5432/warehouse" })),
    responses((status = 201, description = "The database.", body = Data<ShownDatabase>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddDatabaseBody>, Problem>,
) -> Result<Response, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(add) = body?;
    // Parsed here; its errors never repeat it.
    let info = databases::parse_url(add.url.expose())?;
    let data = databases::add(&api.app, &caller.0, &add.name, &info).await?;
    Ok(created(data))
}

/// What is to be different.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDatabaseBody {
    /// The whole URL. Written only.
    #[schema(value_type = String, format = Password)]
    pub url: Secret,
}

/// Change a database
///
/// Another password, or another address of the same database. It holds from the next connection on.
#[utoipa::path(
    patch, path = "/api/databases/{name}", operation_id = "change_database", tag = "databases",
    params(("name" = String, Path, description = "The database's name.")),
    request_body(content = ChangeDatabaseBody, example = json!({ "url": "postgres://backup:…@db3.internal:5432/warehouse" })),
    responses((status = 200, description = "The database as it is now.", body = Data<ShownDatabase>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    Named(name): Named,
    body: Result<Body<ChangeDatabaseBody>, Problem>,
) -> Result<Data<ShownDatabase>, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(change) = body?;
    // Parsed here; its errors never repeat it.
    let info = databases::parse_url(change.url.expose())?;
    Ok(Data { data: databases::change(&api.app, &caller.0, &name, &info).await? })
}

/// Remove a database
///
/// Refused while projects live in it. The database itself stays as it is.
#[utoipa::path(
    delete, path = "/api/databases/{name}", operation_id = "delete_database", tag = "databases",
    params(("name" = String, Path, description = "The database's name.")),
    responses((status = 204, description = "The database is gone from the list.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(State(api): State<Api>, caller: Signed, Named(name): Named) -> Result<StatusCode, Problem> {
    databases::delete(&api.app, &caller.0, &name, Mode::Real).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Test a database
///
/// Connects, and looks at the server's version, the client programs for it and the role's rights, within 15 seconds. That something is
/// missing is an answer too: `good` is `false`, with `problems`.
#[utoipa::path(
    post, path = "/api/databases/{name}/test", operation_id = "test_database", tag = "databases",
    params(("name" = String, Path, description = "The database's name.")),
    responses((status = 200, description = "What was seen.", body = Data<DatabaseTest>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn test(State(api): State<Api>, caller: Signed, Named(name): Named) -> Result<Data<DatabaseTest>, Problem> {
    Ok(Data { data: databases::test(&api.app, &caller.0, &name).await? })
}
