//! `holdfast database`: databases beside the control plane's own.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{Context, Exit, Failure, open, typed_secret};
use crate::{
    app::App,
    manage::{
        Mode,
        databases::{self, DatabaseTest, ShownDatabase},
    },
    postgres::connect::ConnectInfo,
    report::{self, Table},
};

/// Add, list, test and remove databases that tenants live in, beside the control plane's own.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add a database. Its URL is stored encrypted.
    ///
    /// A URL that holds a password is read from a file or standard input: arguments can be seen by every user of the machine.
    #[command(after_help = "Examples:
  holdfast database add warehouse --url-file /run/secrets/warehouse-url
  holdfast database add replica --url postgres://backup@db2:5432/app")]
    Add(Address),
    /// Give a database another URL: another password, or another address of the same database.
    #[command(after_help = "Example:\n  holdfast database change warehouse --url-file /run/secrets/warehouse-url")]
    Change(Address),
    /// List databases: where they are, who connects, and how many projects live in them.
    #[command(after_help = "Example:\n  holdfast database list --json")]
    List,
    /// Test a database: connect, and look at version, client programs and the role's rights.
    ///
    /// Exit code 1 when something is missing.
    #[command(after_help = "Example:\n  holdfast database test warehouse")]
    Test { name: String },
    /// Take a database off the list. Refused while projects live in it; the database itself stays as it is.
    #[command(after_help = "Examples:
  holdfast database remove warehouse --dry-run
  holdfast database remove warehouse")]
    Remove {
        name: String,
        /// Check everything, write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Address {
    /// Its name: letters, digits, '.', '_' and '-'.
    name: String,
    /// Where it is, as postgres://USER@HOST:PORT/DATABASE without a password.
    #[arg(long, value_name = "URL", required_unless_present = "url_file", conflicts_with = "url_file")]
    url: Option<String>,
    /// A file with the URL, with a password where one is needed; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
}

impl Address {
    fn read(&self) -> anyhow::Result<ConnectInfo> {
        match (&self.url, &self.url_file) {
            (Some(url), _) => Ok(without_password(url, "--url-file")?),
            // Parsed here; its errors never repeat it.
            (None, Some(path)) => Ok(databases::parse_url(typed_secret::from_file(path)?.expose())?),
            (None, None) => Err(Failure::refused("database.url", "give --url or --url-file").into()),
        }
    }
}

/// A URL as an argument, where everybody can see it; `instead` is the option that names a file.
pub(super) fn without_password(url: &str, instead: &str) -> Result<ConnectInfo, Failure> {
    let info: ConnectInfo = url
        .parse()
        .map_err(|error: crate::postgres::connect::InvalidUrl| Failure::refused("database.url", error.to_string()))?;
    if info.has_password() {
        return Err(Failure::refused(
            "database.url_with_password",
            "a database URL with a password is not taken as an argument: every user of this machine can read arguments",
        )
        .hint(format!(
            "Put the URL into a file with mode 0600 and give {instead} FILE. Change a password that others may have seen."
        )));
    }
    Ok(info)
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    // What is wrong with the request itself is said before anything is opened.
    let info = match &args.what {
        What::Add(address) | What::Change(address) => Some(address.read()?),
        What::List | What::Test { .. } | What::Remove { .. } => None,
    };
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let (app, caller) = (&opened.app, &context.caller);
        match (&args.what, &info) {
            (What::Add(address), Some(info)) => {
                tell(context, "added", databases::add(app, caller, &address.name, info).await?)
            }
            (What::Change(address), Some(info)) => {
                tell(context, "changed", databases::change(app, caller, &address.name, info).await?)
            }
            (What::Test { name }, _) => test(context, databases::test(app, caller, name).await?),
            (What::Remove { name, dry_run }, _) => remove(context, app, name, *dry_run).await,
            (What::List | What::Add(_) | What::Change(_), _) => list(context, app).await,
        }
    })
    .await
}

fn tell(context: &Context, done: &str, database: ShownDatabase) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(&database);
    }
    report::print(&format!("{done} database {}\n", database.name))
}

async fn list(context: &Context, app: &App) -> anyhow::Result<()> {
    const PAGE: usize = 500;
    let mut all: Vec<ShownDatabase> = Vec::new();
    loop {
        let after = all.last().map(|database| database.name.clone());
        let page = databases::list(app, &context.caller, after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            break;
        }
    }
    if context.is_json() {
        return report::print_json(&all);
    }
    let mut table = Table::new(&["DATABASE", "HOST", "PORT", "NAME THERE", "USER", "PROJECTS"]);
    for database in all {
        table.row(vec![
            database.name,
            database.host.unwrap_or_default(),
            database.port.map(|port| port.to_string()).unwrap_or_default(),
            database.database.unwrap_or_default(),
            database.user.unwrap_or_default(),
            database.projects.to_string(),
        ]);
    }
    report::print(&table.render())
}

fn test(context: &Context, test: DatabaseTest) -> anyhow::Result<()> {
    if context.is_json() {
        report::print_json(&test)?;
    } else if test.good {
        let version = test.version.as_deref().unwrap_or_default();
        let role = test.role.as_deref().unwrap_or_default();
        report::print(&format!("database {} is good\n  PostgreSQL {version}\n  role {role}\n", test.database))?;
    }
    if test.good {
        return Ok(());
    }
    let problems: Vec<String> = test.problems.iter().map(|problem| report::one_line(problem)).collect();
    let message = format!("database {} is not usable: {}", test.database, problems.join("; "));
    Err(Failure::new(Exit::Unexpected, "database.unusable", message)
        .hint("`holdfast grants` prints the SQL for the roles.")
        .into())
}

async fn remove(context: &Context, app: &App, name: &str, dry_run: bool) -> anyhow::Result<()> {
    databases::delete(app, &context.caller, name, if dry_run { Mode::DryRun } else { Mode::Real }).await?;
    if context.is_json() {
        return report::print_json(&json!({ "database": name, "removed": !dry_run, "dry_run": dry_run }));
    }
    let done = if dry_run { "would remove" } else { "removed" };
    report::print(&format!("{done} database {}\n", report::one_line(name)))
}
