//! `holdfast project discover`: tenants that nobody has enrolled yet.

use serde_json::json;

use super::{
    Context,
    open::{self, Opened},
    project::{check_schema_name, write},
};
use crate::{
    catalog::{self, NewProject, ProjectScope},
    ids::ProjectId,
    postgres::inspect,
    report::{self, Table},
    tenant::Scope,
};

/// What is done with one schema.
#[derive(Debug)]
struct Found {
    schema: String,
    /// The id of the project it becomes, or why it becomes none.
    project: Result<ProjectId, String>,
}

pub async fn run(context: &Context, add: bool) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let found = discover(opened).await?;
        if add {
            for Found { schema, project } in &found {
                let Ok(id) = project else { continue };
                let new = NewProject {
                    id: id.clone(),
                    name: id.to_string(),
                    slug: Some(id.to_string()),
                    organization_id: None,
                    scope: ProjectScope::Schema(schema.clone()),
                    database_name: None,
                };
                write(opened, context, &new, &opened.app.control).await?;
            }
        }
        tell(context, &found, add)
    })
    .await
}

async fn discover(opened: &Opened) -> anyhow::Result<Vec<Found>> {
    let app = &opened.app;
    let projects =
        catalog::projects(&app.pool, &Scope::everything("a schema belongs to one project, whoever asks")).await?;
    let mut connection = app.control.connect().await?;
    let schemas = inspect::schemas_like_tenant(&mut connection).await?;
    let is_enrolled = |schema: &str| {
        let scope = ProjectScope::Schema(schema.to_owned());
        projects.iter().any(|project| project.database_name.is_none() && project.scope() == scope)
    };
    let plan = |schema: String| {
        let id = schema.strip_prefix("tenant_").unwrap_or(&schema);
        let project = match id.parse::<ProjectId>() {
            _ if check_schema_name(&schema).is_err() => Err("its name cannot be enrolled".to_owned()),
            Err(_) => Err("its name makes no project id: add it with an id of your choice and --schema".to_owned()),
            Ok(id) if projects.iter().any(|project| project.id == id.as_str()) => {
                Err(format!("there is another project {id:?}: add it with another id and --schema"))
            }
            Ok(id) => Ok(id),
        };
        Found { schema, project }
    };
    Ok(schemas.into_iter().filter(|schema| !is_enrolled(schema)).map(plan).collect())
}

fn tell(context: &Context, found: &[Found], added: bool) -> anyhow::Result<()> {
    if context.is_json() {
        let object = |found: &Found| {
            json!({
                "schema": found.schema,
                "project_id": found.project.as_ref().ok(),
                "added": added && found.project.is_ok(),
                "problem": found.project.as_ref().err(),
            })
        };
        return report::print_json(&found.iter().map(object).collect::<Vec<_>>());
    }
    if found.is_empty() {
        return report::print("every schema named tenant_… belongs to a project\n");
    }
    let mut table = Table::new(&["SCHEMA", "PROJECT", ""]);
    for Found { schema, project } in found {
        let (id, remark) = match project {
            Ok(id) if added => (id.to_string(), "added".to_owned()),
            Ok(id) => (id.to_string(), "would be added".to_owned()),
            Err(problem) => (String::new(), problem.clone()),
        };
        table.row(vec![schema.clone(), id, remark]);
    }
    report::print(&table.render())?;
    if !added {
        context.remark("nothing was changed: give --add to enrol them");
    }
    Ok(())
}
