//! Tenants that nobody has enrolled yet.

use serde::Serialize;

use super::{
    projects::{AddProject, Home, NOT_AN_ID, What, add},
    require_operator,
};
use crate::{
    app::App,
    catalog::{self, ManageError, Project, ProjectScope},
    ids::ProjectId,
    postgres::inspect,
    tenant::{Caller, Permission, Scope},
};

/// A schema that looks like a tenant's and belongs to no project.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Found {
    pub schema: String,
    /// The id of the project that it becomes.
    pub project_id: Option<String>,
    /// It was added now.
    pub added: bool,
    /// Why it becomes none.
    pub problem: Option<String>,
}

/// Schemas named `tenant_…` in the control plane's own database that belong to no project yet; enrols them if asked to.
pub async fn discover(app: &App, caller: &Caller, is_adding: bool) -> Result<Vec<Found>, ManageError> {
    require_operator(caller, Permission::Write)?;
    let mut found = look(app).await?;
    for found in found.iter_mut().filter(|_| is_adding) {
        let Some(Ok(id)) = found.project_id.as_deref().map(str::parse::<ProjectId>) else { continue };
        let new = AddProject {
            name: id.to_string(),
            slug: Some(id.to_string()),
            id,
            organization_id: None,
            home: Home::Control,
            what: What::Schema(found.schema.clone()),
            storages: Vec::new(),
            retention_days: None,
            files: None,
        };
        match add(app, caller, new).await {
            Ok(_) => found.added = true,
            // Somebody else was quicker, or its name cannot be had: the others are added all the same.
            Err(error @ (ManageError::Exists { .. } | ManageError::Taken { .. } | ManageError::Invalid { .. })) => {
                found.problem = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn look(app: &App) -> Result<Vec<Found>, ManageError> {
    let projects =
        catalog::projects(&app.pool, &Scope::everything("a schema belongs to one project, whoever asks")).await?;
    let mut connection = app.control.connect().await?;
    let schemas = inspect::schemas_like_tenant(&mut connection).await?;
    // One that waits has only been asked for: whose the schema is, an operator still has to see.
    let settled = || projects.iter().filter(|project| project.status != Project::PENDING);
    let is_enrolled = |schema: &str| {
        let scope = ProjectScope::Schema(schema.to_owned());
        settled().any(|project| project.database_name.is_none() && project.scope() == scope)
    };
    let plan = |schema: String| {
        let id = schema.strip_prefix("tenant_").unwrap_or(&schema);
        let project = match id.parse::<ProjectId>() {
            _ if catalog::schema_name_fault(&schema).is_some() => Err("its name cannot be enrolled".to_owned()),
            Err(_) => Err("its name makes no project id: add it with an id of your choice and its schema".to_owned()),
            Ok(id) if id.as_str() == NOT_AN_ID || projects.iter().any(|project| project.id == id.as_str()) => {
                Err(format!("there is another project {id:?}: add it with another id and its schema"))
            }
            Ok(id) => Ok(id.to_string()),
        };
        Found { schema, problem: project.as_ref().err().cloned(), project_id: project.ok(), added: false }
    };
    Ok(schemas.into_iter().filter(|schema| !is_enrolled(schema)).map(plan).collect())
}
