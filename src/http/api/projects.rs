//! Projects: which tenants there are, what is backed up of them, and how.

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::page_size;
use crate::{
    byte_size::ByteSize,
    catalog::{FileSource, Project, ProjectChanges, ProjectFilter, ProjectScope},
    http::{
        Api,
        answer::{Data, Page, created},
        error::Problem,
        extract::{Body, Params, Signed},
        named::{self, Named, given},
    },
    ids::ProjectId,
    manage::{
        discover::{Found, discover as find},
        projects::{self, AddProject, Home, What},
        require_admin, require_operator,
    },
    proof_record::ProofLevel,
    tenant::{Caller, Permission, Role},
};

/// A project as it is shown.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ShownProject {
    #[schema(example = "acme")]
    pub id: String,
    pub name: String,
    pub slug: Option<String>,
    pub organization_id: Option<String>,
    /// Only `ACTIVE` ones are backed up.
    #[schema(example = "ACTIVE")]
    pub status: String,
    /// `schema` or `database`: what is backed up.
    pub backup_scope: String,
    /// The schema that is backed up.
    pub schema: Option<String>,
    /// The database it lives in; `null` is the control plane's own. Told to operators only.
    pub database: Option<String>,
    /// Where its files are, which backups of type `storage` hold; `null`: it has none. Told to operators only.
    #[schema(value_type = Option<FileSource>)]
    pub files: Option<serde_json::Value>,
    /// The storages that take its backups. Empty: those of the configuration's choice.
    pub storages: Vec<String>,
    /// How many days its backups are kept. `null`: as configured.
    pub retention_days: Option<u32>,
    /// How much is proved when its database is dumped. `null`: as configured.
    #[schema(inline)]
    pub proof: Option<ProofLevel>,
    /// Largest rate of all uploads of its backups together, a second. `null`: as fast as the storages take them.
    #[schema(example = "20 MiB")]
    pub max_rate: Option<String>,
    pub created_at: DateTime<Utc>,
    /// What is odd about it, when it was added: told to operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl ShownProject {
    fn of(project: Project, caller: &Caller) -> Self {
        let own = project.own_settings();
        let schema = match project.scope() {
            ProjectScope::Schema(schema) => Some(schema),
            ProjectScope::WholeDatabase => None,
        };
        Self {
            id: project.id,
            name: project.name,
            slug: project.slug,
            organization_id: project.organization_id,
            status: project.status,
            backup_scope: project.backup_scope,
            schema,
            // Its name may be its address.
            database: project.database_name.filter(|_| caller.role == Role::Operator),
            files: project.files.filter(|_| caller.role == Role::Operator),
            storages: own.storages,
            retention_days: own.retention_days,
            proof: own.proof,
            max_rate: own.max_rate.map(ByteSize::exact),
            created_at: project.created_at,
            warning: None,
        }
    }
}

/// Which projects.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Those of this status, such as `ACTIVE`.
    pub status: Option<String>,
    /// Those of this organisation.
    pub organization_id: Option<String>,
    /// Those in this database. For operators.
    pub database: Option<String>,
    /// Rows on a page. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// List projects
///
/// Those within reach, by id.
#[utoipa::path(
    get, path = "/api/projects", operation_id = "list_projects", tag = "projects",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<ShownProject>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<ShownProject>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    if params.database.is_some() {
        require_operator(&caller.0, Permission::Read)?;
    }
    let filter = ProjectFilter {
        status: params.status,
        organization_id: params.organization_id,
        database_name: params.database,
        after: named::after(params.cursor.as_deref())?,
    };
    let rows = projects::list(&api.app, &caller.0, &filter, limit + 1).await?;
    let rows = rows.into_iter().map(|project| ShownProject::of(project, &caller.0)).collect();
    Ok(named::page(rows, limit, |project: &ShownProject| &project.id))
}

/// Look at a project
///
/// One project within reach.
#[utoipa::path(
    get, path = "/api/projects/{id}", operation_id = "show_project", tag = "projects",
    params(("id" = String, Path, description = "The project's id.")),
    responses((status = 200, description = "The project.", body = Data<ShownProject>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(State(api): State<Api>, caller: Signed, Named(id): Named) -> Result<Data<ShownProject>, Problem> {
    caller.require(Permission::Read)?;
    Ok(Data { data: ShownProject::of(projects::show(&api.app, &caller.0, &id).await?, &caller.0) })
}

/// A new project.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddProjectBody {
    pub id: ProjectId,
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Its short name, part of the default schema's name. Default: the id.
    #[schema(min_length = 1, max_length = 63)]
    pub slug: Option<String>,
    /// An organisation admin's own unless given.
    pub organization_id: Option<String>,
    /// The schema that is backed up. Default: `tenant_{slug}`. For operators.
    #[schema(min_length = 1, max_length = 63)]
    pub schema: Option<String>,
    /// Backs up the whole database rather than one schema. For operators.
    #[serde(default)]
    pub whole_database: bool,
    /// The name of the database it lives in. Default: the control plane's own. For operators.
    pub database: Option<String>,
    /// Where its files are, beside the database. Default: it has none. For operators.
    pub files: Option<FileSource>,
    /// The storages that take its backups. Default: those of the configuration's choice.
    #[serde(default)]
    pub storages: Vec<String>,
    /// How many days its backups are kept. Default: as configured.
    #[schema(minimum = 1, maximum = 36500)]
    pub retention_days: Option<u32>,
}

/// Add a project
///
/// One that an organisation's admin adds waits, with status `PENDING`, until an operator makes it `ACTIVE`: a schema's name alone does not say
/// whose it is.
#[utoipa::path(
    post, path = "/api/projects", operation_id = "add_project", tag = "projects",
    request_body(content = AddProjectBody, example = json!({ "id": "acme", "name": "Acme Ltd", "organization_id": "o-acme" })),
    responses((status = 201, description = "The project.", body = Data<ShownProject>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddProjectBody>, Problem>,
) -> Result<Response, Problem> {
    require_admin(&caller.0, Permission::Write)?;
    let Body(add) = body?;
    let new = AddProject {
        id: add.id,
        name: add.name,
        slug: add.slug,
        organization_id: add.organization_id,
        home: add.database.map_or(Home::Control, Home::Database),
        what: match (add.schema, add.whole_database) {
            (Some(_), true) => return Err(both()),
            (Some(schema), false) => What::Schema(schema),
            (None, true) => What::WholeDatabase,
            (None, false) => What::OwnSchema,
        },
        storages: add.storages,
        retention_days: add.retention_days,
        files: add.files,
    };
    let added = projects::add(&api.app, &caller.0, new).await?;
    let data = ShownProject { warning: added.warning, ..ShownProject::of(added.project, &caller.0) };
    Ok(created(data))
}

fn both() -> Problem {
    Problem::invalid("request.whole_database", "give schema or whole_database, not both")
}

/// What is to be different. What is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeProjectBody {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Only `ACTIVE` projects are backed up; the backups of others stay until they expire. Organisation admins may switch between `ACTIVE` and
    /// `INACTIVE`.
    #[schema(min_length = 1, max_length = 32)]
    pub status: Option<String>,
    /// `null`: none. For operators.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub organization_id: Option<Option<String>>,
    /// The schema that is backed up. For operators.
    #[schema(min_length = 1, max_length = 63)]
    pub schema: Option<String>,
    /// `true`: backs up the whole database. For operators.
    pub whole_database: Option<bool>,
    /// The name of the database it lives in; `null`: the control plane's own. For operators.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub database: Option<Option<String>>,
    /// Where its files are, which must be there: a directory that every worker sees, or a prefix in the bucket of a storage of type `s3`. `null`:
    /// it has none. For operators.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<FileSource>)]
    pub files: Option<Option<FileSource>>,
    /// `null` or empty: those of the configuration's choice.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    pub storages: Option<Option<Vec<String>>>,
    /// `null`: as configured.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 36500)]
    pub retention_days: Option<Option<u32>>,
    /// `full`, `counts` or `off`; `null`: as configured.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub proof: Option<Option<ProofLevel>>,
    /// Largest rate of all uploads of its backups together, a second: `1 KiB` or more. Restores are never slowed. A worker keeps to it for
    /// itself, and to the rate of each storage as well. `null`: as fast as the storages take them. For operators.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "20 MiB")]
    pub max_rate: Option<Option<ByteSize>>,
}

/// Change a project
///
/// It holds from the next backup on. What is backed up, its files too, cannot change while jobs have the project in hand, or a restore can still be
/// undone.
#[utoipa::path(
    patch, path = "/api/projects/{id}", operation_id = "change_project", tag = "projects",
    params(("id" = String, Path, description = "The project's id.")),
    request_body(content = ChangeProjectBody, example = json!({ "status": "INACTIVE" })),
    responses((status = 200, description = "The project as it is now.", body = Data<ShownProject>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    Named(id): Named,
    body: Result<Body<ChangeProjectBody>, Problem>,
) -> Result<Data<ShownProject>, Problem> {
    require_admin(&caller.0, Permission::Write)?;
    let Body(change) = body?;
    let changes = ProjectChanges {
        name: change.name,
        status: change.status,
        organization_id: change.organization_id,
        scope: match (change.schema, change.whole_database) {
            (Some(_), Some(true)) => return Err(both()),
            (Some(schema), Some(false) | None) => Some(ProjectScope::Schema(schema)),
            (None, Some(true)) => Some(ProjectScope::WholeDatabase),
            (None, Some(false)) => {
                let message = "whole_database: name the schema that is backed up instead";
                return Err(Problem::invalid("request.schema", message));
            }
            (None, None) => None,
        },
        database_name: change.database,
        storages: change.storages.map(Option::unwrap_or_default),
        retention_days: change.retention_days,
        files: change.files,
        proof: change.proof,
        max_rate: change.max_rate,
    };
    let project = projects::change(&api.app, &caller.0, &id, changes).await?;
    Ok(Data { data: ShownProject::of(project, &caller.0) })
}

/// Whether to enrol what is found.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// Default: `false`, which changes nothing.
    #[serde(default)]
    pub add: bool,
}

/// Discover projects
///
/// Schemas named `tenant_…` in the control plane's own database that belong to no project yet.
#[utoipa::path(
    post, path = "/api/projects/discover", operation_id = "discover_projects", tag = "projects",
    request_body(content = Discover, example = json!({ "add": false })),
    responses((status = 200, description = "What was found.", body = Data<Vec<Found>>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn discover(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<Discover>, Problem>,
) -> Result<Data<Vec<Found>>, Problem> {
    require_operator(&caller.0, Permission::Write)?;
    let Body(discover) = body?;
    Ok(Data { data: find(&api.app, &caller.0, discover.add).await? })
}
