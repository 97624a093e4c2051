//! `holdfast project`: which tenants there are.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{
    Context, Failure,
    database::without_password,
    open::{self, Opened},
    project_files, project_set,
};
use crate::{
    catalog::{self, Project, ProjectScope},
    ids::ProjectId,
    manage::{
        discover::{self as discovery, Found},
        projects::{self as manage, AddProject, Home},
    },
    postgres::connect::ConnectInfo,
    report::{self, Table},
};

/// Add, change, list and discover projects: the tenants that are backed up.
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
    /// Change a project's settings: its name and status, how much of its backups is proved, where and how long they are kept, how fast they
    /// are uploaded; without options, show them.
    #[command(after_help = "Examples:
  holdfast project set acme --proof counts
  holdfast project set acme --retention-days 90 --storage local --storage offsite
  holdfast project set acme --proof default --storage default
  holdfast project set acme --max-rate '20 MiB'
  holdfast project set acme --json                                says what is set")]
    Set(project_set::Args),
    /// Say where a project's files are, for backups of type storage; without options, show it.
    ///
    /// A directory must lie below one of files.roots where that is set. Files in a bucket are named by a storage of type s3, whose keys
    /// are used, and a prefix that holds none of its backups.
    #[command(after_help = "Examples:
  holdfast project files acme --directory /srv/acme
  holdfast project files acme --s3 s3-main --prefix uploads/acme
  holdfast project files acme --none
  holdfast project files acme --json                              says where they are")]
    Files(project_files::Args),
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
        What::Set(args) => project_set::run(context, args).await,
        What::Files(args) => project_files::run(context, args).await,
        What::Discover { add } => discover(context, add).await,
    }
}

async fn add(context: &Context, args: Add) -> anyhow::Result<()> {
    // Everything that is wrong with the request itself is said before anything is opened.
    let home = database(&args)?.map_or(Home::Control, Home::At);
    let schema = match &args.schema {
        Some(schema) => schema.clone(),
        None => format!("tenant_{}", args.slug.as_deref().unwrap_or(args.id.as_str())),
    };
    if !args.whole_database {
        check_schema_name(&schema)?;
    }
    let what = if args.whole_database { manage::What::WholeDatabase } else { manage::What::Schema(schema) };
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let new = AddProject {
            id: args.id,
            name: args.name,
            slug: args.slug,
            organization_id: args.organization,
            home,
            what,
            storages: Vec::new(),
            retention_days: None,
            files: None,
        };
        let added = manage::add(&opened.app, &context.caller, new).await?;
        if let Some(warning) = &added.warning {
            context.warn(warning);
        }
        if context.is_json() {
            return report::print_json(&shown(&added.project)?);
        }
        report::print(&format!("added project {}: {}\n", added.project.id, what_of(&added.project)))
    })
    .await
}

/// The database named by the arguments.
fn database(args: &Add) -> Result<Option<ConnectInfo>, Failure> {
    if let Some(url) = &args.database_url {
        return without_password(url, "--database-url-file").map(Some);
    }
    let Some(path) = &args.database_url_file else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::refused("database.url_file", format!("cannot read {}: {error}", path.display())))?;
    let wrong = |error: crate::postgres::connect::InvalidUrl| Failure::refused("database.url", error.to_string());
    text.parse().map(Some).map_err(wrong)
}

/// What a schema may not be called.
fn check_schema_name(schema: &str) -> Result<(), Failure> {
    let Some(why) = catalog::schema_name_fault(schema) else { return Ok(()) };
    let shown: String = schema.chars().take(80).collect();
    Err(Failure::refused("project.schema", format!("schema {shown:?} cannot be enrolled: {why}"))
        .hint("Name the tenant's schema with --schema."))
}

async fn discover(context: &Context, is_adding: bool) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    let look = async |opened: &Opened| Ok(discovery::discover(&opened.app, &context.caller, is_adding).await?);
    let found = open::with(&config, look).await?;
    if context.is_json() {
        return report::print_json(&found);
    }
    if found.is_empty() {
        return report::print("every schema named tenant_… belongs to a project\n");
    }
    let mut table = Table::new(&["SCHEMA", "PROJECT", ""]);
    for Found { schema, project_id, added, problem } in found {
        let remark = problem.unwrap_or_else(|| if added { "added" } else { "would be added" }.to_owned());
        table.row(vec![schema, project_id.unwrap_or_default(), remark]);
    }
    report::print(&table.render())?;
    if !is_adding {
        context.remark("nothing was changed: give --add to enrol them");
    }
    Ok(())
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

fn what_of(project: &Project) -> String {
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
            let what = what_of(&project);
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
