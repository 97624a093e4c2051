//! `holdfast project`: which tenants there are.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{
    Context, Failure,
    open::{self, Opened},
    project_discover,
};
use crate::{
    app::App,
    catalog::{self, CatalogError, NewProject, Project, ProjectScope},
    db,
    history::{self, Event},
    ids::ProjectId,
    postgres::{connect::ConnectInfo, inspect},
    report::{self, Table},
};

/// Add, list and discover projects: the tenants that are backed up.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Enrol a tenant.
    ///
    /// It lives in the control plane's own database unless a URL is given. Such a URL is stored encrypted. One that holds a password
    /// is read from a file: arguments can be seen by every user of the machine.
    #[command(after_help = "Examples:
  holdfast project add acme --name 'Acme Ltd'                     schema tenant_acme
  holdfast project add beta --name Beta --schema \"Beta's data\"
  holdfast project add warehouse --name Warehouse --whole-database --database-url-file /run/secrets/warehouse-url")]
    Add(Add),
    /// List projects.
    #[command(after_help = "Example:\n  holdfast project list --json")]
    List,
    /// Find schemas named tenant_… that belong to no project yet. Enrols them with --add.
    #[command(after_help = "Examples:
  holdfast project discover             says what it would enrol
  holdfast project discover --add")]
    Discover {
        /// Enrol them.
        #[arg(long)]
        add: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Its id: letters, digits, '.', '_' and '-'.
    id: ProjectId,
    /// Its name, for people.
    #[arg(long)]
    name: String,
    /// The schema that is backed up [default: tenant_SLUG].
    #[arg(long, conflicts_with = "whole_database")]
    schema: Option<String>,
    /// Back up the whole database rather than one schema.
    #[arg(long)]
    whole_database: bool,
    /// The database it lives in, as postgres://USER@HOST:PORT/DATABASE without a password.
    #[arg(long, value_name = "URL", conflicts_with = "database_url_file")]
    database_url: Option<String>,
    /// A file with the URL of the database it lives in, with a password where one is needed.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// Its short name, which is part of the default schema's name [default: the id].
    #[arg(long)]
    slug: Option<String>,
    /// The organisation that it belongs to.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Add(args) => add(context, args).await,
        What::List => list(context).await,
        What::Discover { add } => project_discover::run(context, add).await,
    }
}

async fn add(context: &Context, args: Add) -> anyhow::Result<()> {
    // Everything that is wrong with the request itself is said before anything is opened.
    let database = database(&args)?;
    let schema = match &args.schema {
        Some(schema) => schema.clone(),
        None => format!("tenant_{}", args.slug.as_deref().unwrap_or(args.id.as_str())),
    };
    if !args.whole_database {
        check_schema_name(&schema)?;
    }
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        refuse_existing(&opened.app, context, &args.id).await?;
        let scope = if args.whole_database { ProjectScope::WholeDatabase } else { ProjectScope::Schema(schema) };
        let (info, database_name) = match database {
            // The control plane's own database by another way in is still that one.
            Some(info) if !is_same_database(&info, &opened.app.control) => {
                let name = database_name(&info);
                (info, Some(name))
            }
            Some(_) | None => (opened.app.control.clone(), None),
        };
        if let ProjectScope::Schema(schema) = &scope {
            refuse_taken(&opened.app, database_name.as_deref(), schema).await?;
            if let Some(remark) = missing(&info, schema).await {
                context.warn(&remark);
            }
        }
        let new = NewProject {
            id: args.id,
            name: args.name,
            slug: args.slug,
            organization_id: args.organization,
            scope,
            database_name,
        };
        let project = write(opened, context, &new, &info).await?;
        if context.is_json() {
            return report::print_json(&shown(&project)?);
        }
        report::print(&format!("added project {}: {}\n", project.id, what(&project)))
    })
    .await
}

/// The database named by the arguments.
fn database(args: &Add) -> Result<Option<ConnectInfo>, Failure> {
    let wrong = |error: crate::postgres::connect::InvalidUrl| Failure::refused("database.url", error.to_string());
    if let Some(url) = &args.database_url {
        let info: ConnectInfo = url.parse().map_err(wrong)?;
        if info.has_password() {
            return Err(Failure::refused(
                "database.url_with_password",
                "a database URL with a password is not taken as an argument: every user of this machine can read arguments",
            )
            .hint("Put the URL into a file with mode 0600 and give --database-url-file FILE. Change a password that others may have seen."));
        }
        return Ok(Some(info));
    }
    let Some(path) = &args.database_url_file else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::refused("database.url_file", format!("cannot read {}: {error}", path.display())))?;
    text.parse().map(Some).map_err(wrong)
}

/// What a schema may not be called.
pub(super) fn check_schema_name(schema: &str) -> Result<(), Failure> {
    let Some(why) = catalog::schema_name_fault(schema) else { return Ok(()) };
    let shown: String = schema.chars().take(80).collect();
    Err(Failure::refused("project.schema", format!("schema {shown:?} cannot be enrolled: {why}"))
        .hint("Name the tenant's schema with --schema."))
}

/// Said before the schema is found taken by this very project. The row itself is what decides when two add it at once.
async fn refuse_existing(app: &App, context: &Context, id: &ProjectId) -> Result<(), CatalogError> {
    match catalog::project(&app.pool, &context.caller.scope(), id.as_str()).await {
        Ok(project) => Err(CatalogError::ProjectExists(project.id)),
        Err(CatalogError::NoSuchProject(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn refuse_taken(app: &App, database_name: Option<&str>, schema: &str) -> anyhow::Result<()> {
    match catalog::schema_is_taken(&app.pool, database_name, schema).await? {
        None => Ok(()),
        Some(other) => Err(Failure::refused(
            "project.schema_taken",
            format!("schema {schema:?} is backed up by project {other:?} already"),
        )
        .hint("A schema belongs to one project: a restore of one would replace the other's data.")
        .into()),
    }
}

/// What is odd about a schema that cannot be seen.
async fn missing(info: &ConnectInfo, schema: &str) -> Option<String> {
    let looked = async {
        let mut connection = info.connect().await?;
        inspect::schema_oid(&mut connection, schema).await
    };
    match looked.await {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("schema {schema:?} does not exist in {info} yet: backups fail until it does")),
        Err(error) => Some(format!("cannot look for schema {schema:?} in {info}: {error}")),
    }
}

/// The name under which a database's URL is kept.
fn database_name(info: &ConnectInfo) -> String {
    format!("{}:{}/{}", info.host, info.port, info.database)
}

fn is_same_database(one: &ConnectInfo, other: &ConnectInfo) -> bool {
    database_name(one) == database_name(other)
}

/// Writes the project, its database's sealed URL and the audit event in one transaction.
pub(super) async fn write(
    opened: &Opened,
    context: &Context,
    new: &NewProject,
    info: &ConnectInfo,
) -> anyhow::Result<Project> {
    let mut transaction = db::begin(&opened.app.pool).await?;
    if let Some(name) = &new.database_name {
        let sealed = opened.app.keys.seal_database(name, info)?;
        catalog::add_database(&mut *transaction, name, &sealed, &info.to_string()).await?;
    }
    let project = catalog::add_project(&mut *transaction, new).await?;
    let event = Event {
        backup_id: None,
        project_id: &project.id,
        event: "project_added",
        caller: &context.caller,
        outcome: "ok",
        detail: json!({ "scope": project.backup_scope, "schema": project.schema_name, "database": project.database_name }),
    };
    history::record(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(project)
}

/// A project with the schema that is meant.
fn shown(project: &Project) -> anyhow::Result<serde_json::Value> {
    let mut object = serde_json::to_value(project)?;
    object["schema"] = match project.scope() {
        ProjectScope::Schema(schema) => json!(schema),
        ProjectScope::WholeDatabase => json!(null),
    };
    Ok(object)
}

fn what(project: &Project) -> String {
    match project.scope() {
        ProjectScope::Schema(schema) => format!("schema {schema}"),
        ProjectScope::WholeDatabase => "whole database".to_owned(),
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let projects = catalog::projects(&opened.app.pool, &context.caller.scope()).await?;
        if context.is_json() {
            let all = projects.iter().map(shown).collect::<anyhow::Result<Vec<_>>>()?;
            return report::print_json(&all);
        }
        let mut table = Table::new(&["PROJECT", "NAME", "STATUS", "WHAT", "DATABASE", "ORGANISATION"]);
        for project in projects {
            let what = what(&project);
            let database = project.database_name.unwrap_or_else(|| "(control plane's)".to_owned());
            let organization = project.organization_id.unwrap_or_default();
            table.row(vec![project.id, project.name, project.status, what, database, organization]);
        }
        report::print(&table.render())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awkward_schema_names_are_taken_and_reserved_ones_refused() {
        for good in ["MySchema", "tenant*", "a.b", "q\"q", "-x", "--file=/x", "a|b", "ünïcode", &"x".repeat(63)] {
            assert!(check_schema_name(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "hf_before_0123",
            "hf_undone_x",
            "hf_restore_x",
            "pg_temp",
            "information_schema",
            "control_plane",
            "a{id}",
            &"x".repeat(64),
        ] {
            assert!(check_schema_name(bad).is_err(), "{bad:?}");
        }
    }
}
