//! `holdfast storage`: the places that keep copies.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::{Context, Exit, Failure, catalog::tell_problems, open, settings_file::SettingsFile, token::parse_duration};
use crate::{
    app::App,
    byte_size::ByteSize,
    history::{self, Holding},
    jobs::{catalog, request},
    manage::{
        Mode,
        storages::{self, Origin, ShownStorage},
    },
    report::{self, Table},
    storage::{self, Limits, Pace, Probe, ProbeDepth},
};

/// Add, list, test, sweep and remove storages.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List storages: what they are, where, their limits, and what they hold.
    #[command(after_help = "Examples:
  holdfast storage list
  holdfast storage list --json")]
    List,
    /// Add a storage to the control plane. Its settings are stored encrypted, and every process uses it from its next job on.
    ///
    /// Settings come from a file or standard input, as TOML or JSON: what [storages.NAME] of the configuration has, with its type.
    #[command(after_help = "Examples:
  holdfast storage add offsite --settings /run/secrets/offsite.toml
  echo '{\"type\": \"local\", \"root\": \"/srv/backups\"}' | holdfast storage add disk --settings -")]
    Add {
        /// Its name: letters, digits, '-' and '_'.
        name: String,
        #[command(flatten)]
        settings: SettingsFile,
    },
    /// Change settings of a storage that the control plane holds. What is left out stays.
    #[command(after_help = "Example:\n  echo 'max_rate = \"20 MiB\"' | holdfast storage change offsite --settings -")]
    Change {
        name: String,
        #[command(flatten)]
        settings: SettingsFile,
    },
    /// Remove a storage from the control plane. Refused while copies, projects or jobs need it; what is stored there stays.
    #[command(after_help = "Examples:
  holdfast storage remove offsite --dry-run
  holdfast storage remove offsite")]
    Remove {
        name: String,
        /// Check everything, write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Test a storage: write a probe, read it back, delete it, and tell what was seen.
    ///
    /// Exit code 1 when it failed (3 when its place is not there).
    #[command(after_help = "Examples:
  holdfast storage test local
  holdfast storage test offsite --thorough --json")]
    Test {
        /// Its name in the configuration.
        name: String,
        /// Also a part of the largest size, and everything else that is taken for granted. May take minutes.
        #[arg(long)]
        thorough: bool,
    },
    /// Put a storage in order: remove what attempts that died have left, and take up backups whose record is missing.
    ///
    /// Takes up backups of known projects alone, and none that was deleted: `holdfast catalog rebuild` makes projects too. Exit code 6 when a
    /// manifest does not fit.
    #[command(after_help = "Examples:
  holdfast storage sweep local --dry-run
  holdfast storage sweep offsite --older-than 48h")]
    Sweep {
        /// Its name in the configuration.
        name: String,
        /// Leave what was written to more recently: a number with s, m, h or d.
        #[arg(long, value_name = "AGE", default_value = "24h", value_parser = parse_duration)]
        older_than: Duration,
        /// Write and remove nothing. What would be removed is not known then: storages do not list their leftovers.
        #[arg(long)]
        dry_run: bool,
    },
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let settings = match &args.what {
        What::Add { settings, .. } | What::Change { settings, .. } => Some(settings.read()?),
        What::List | What::Remove { .. } | What::Test { .. } | What::Sweep { .. } => None,
    };
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let (app, caller) = (&opened.app, &context.caller);
        match (args.what, &settings) {
            (What::Add { name, .. }, Some(settings)) => {
                tell(context, "added", &storages::add(app, caller, &name, settings).await?)
            }
            (What::Change { name, .. }, Some(settings)) => {
                tell(context, "changed", &storages::change(app, caller, &name, settings).await?)
            }
            (What::Remove { name, dry_run }, _) => remove(app, context, &name, dry_run).await,
            (What::Test { name, thorough }, _) => test(app, context, &name, thorough).await,
            (What::Sweep { name, older_than, dry_run }, _) => sweep(app, context, &name, older_than, dry_run).await,
            (What::List | What::Add { .. } | What::Change { .. }, _) => list(app, context).await,
        }
    })
    .await
}

fn tell(context: &Context, done: &str, storage: &ShownStorage) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(storage);
    }
    report::print(&format!("{done} storage {}: test it with `holdfast storage test {}`\n", storage.name, storage.name))
}

async fn remove(app: &App, context: &Context, name: &str, dry_run: bool) -> anyhow::Result<()> {
    storages::delete(app, &context.caller, name, if dry_run { Mode::DryRun } else { Mode::Real }).await?;
    if context.is_json() {
        return report::print_json(&json!({ "storage": name, "removed": !dry_run, "dry_run": dry_run }));
    }
    let done = if dry_run { "would remove" } else { "removed" };
    report::print(&format!("{done} storage {}\n", report::one_line(name)))
}

/// One storage as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// `None`: some copy names it, and it is not configured here.
    r#type: Option<String>,
    /// Where it is, without secrets.
    place: Option<String>,
    origin: Option<Origin>,
    part_bytes: Option<u64>,
    parts_in_flight: Option<usize>,
    max_artifact_bytes: Option<u64>,
    /// `false`: its copies are made afterwards, from a good one.
    fed_while_dumping: Option<bool>,
    good_copies: i64,
    good_bytes: i64,
    other_copies: i64,
}

async fn list(app: &App, context: &Context) -> anyhow::Result<()> {
    let mut holdings = history::holdings(&app.pool).await?;
    let mut listed = Vec::new();
    for storage in storages::list(app, &context.caller).await? {
        let name = &storage.name;
        if let Some(problem) = &storage.problem {
            context.warn(&report::one_line(&format!("storage {name} cannot be used: {problem}")));
        }
        let at = holdings.iter().position(|holding| holding.storage == *name);
        let holding = at.map(|at| holdings.swap_remove(at));
        let limits = app.storages.get(name).map(|storage| storage.limits());
        listed.push(row(name, Some((storage.r#type, storage.place)), limits, Some(storage.origin), holding));
    }
    holdings.sort_by(|a, b| a.storage.cmp(&b.storage));
    for holding in holdings {
        listed.push(row(&holding.storage.clone(), None, None, None, Some(holding)));
    }
    if context.is_json() {
        return report::print_json(&listed);
    }
    let mut table =
        Table::new(&["STORAGE", "TYPE", "WHERE", "PART", "IN FLIGHT", "LARGEST", "GOOD COPIES", "BYTES", "OTHER"]);
    let size = |bytes: Option<u64>| bytes.map(|bytes| ByteSize(bytes).to_string()).unwrap_or_default();
    for storage in listed {
        table.row(vec![
            storage.name,
            storage.r#type.unwrap_or_else(|| "not configured".to_owned()),
            storage.place.unwrap_or_default(),
            size(storage.part_bytes),
            storage.parts_in_flight.map(|n| n.to_string()).unwrap_or_default(),
            size(storage.max_artifact_bytes),
            storage.good_copies.to_string(),
            ByteSize(storage.good_bytes.unsigned_abs()).to_string(),
            storage.other_copies.to_string(),
        ]);
    }
    report::print(&table.render())
}

fn row(
    name: &str,
    what: Option<(String, Option<String>)>,
    limits: Option<Limits>,
    origin: Option<Origin>,
    holding: Option<Holding>,
) -> Listed {
    let (kind, place) = what.unzip();
    Listed {
        name: name.to_owned(),
        r#type: kind,
        place: place.flatten(),
        origin,
        part_bytes: limits.map(|limits| limits.part.0),
        parts_in_flight: limits.map(|limits| limits.parts_in_flight),
        max_artifact_bytes: limits.and_then(|limits| limits.artifact).map(|size| size.0),
        fed_while_dumping: limits.map(|limits| limits.pace == Pace::Streamed),
        good_copies: holding.as_ref().map_or(0, |holding| holding.good_copies),
        good_bytes: holding.as_ref().map_or(0, |holding| holding.good_bytes),
        other_copies: holding.as_ref().map_or(0, |holding| holding.other_copies),
    }
}

async fn test(app: &App, context: &Context, name: &str, thorough: bool) -> anyhow::Result<()> {
    let storage = request::storage(app, name)?;
    let depth = if thorough { ProbeDepth::Thorough } else { ProbeDepth::Quick };
    let probe = storage.probe(depth).await;
    if context.is_json() {
        let found = probe.as_ref().ok();
        report::print_json(&json!({
            "storage": name,
            "good": probe.is_ok(),
            "free": found.and_then(|probe| probe.free),
            "seen": found.map(|probe| probe.seen.as_slice()).unwrap_or_default(),
            "warnings": found.map(|probe| probe.warnings.as_slice()).unwrap_or_default(),
        }))?;
    }
    let probe = probe.map_err(|error| failed(name, &error))?;
    if !context.is_json() {
        report::print(&seen(name, &probe))?;
    }
    for warning in &probe.warnings {
        context.warn(&report::one_line(warning));
    }
    Ok(())
}

fn seen(name: &str, probe: &Probe) -> String {
    let free = probe.free.map(|free| format!("{free} free"));
    let lines = probe.seen.iter().cloned().chain(free).map(|line| format!("  {}\n", report::one_line(&line)));
    format!("storage {name} is good\n{}", lines.collect::<String>())
}

fn failed(name: &str, error: &storage::Error) -> Failure {
    let exit = match error.kind {
        storage::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Unexpected,
    };
    Failure::new(exit, error.kind.code(), format!("storage {name} is not usable: {error}")).hint(
        error.hint().unwrap_or(
            "Check that it is reached from here, and that the configured key, token or user may write there.",
        ),
    )
}

async fn sweep(app: &App, context: &Context, name: &str, older_than: Duration, dry_run: bool) -> anyhow::Result<()> {
    let swept = catalog::sweep(app, &context.caller, name, older_than, dry_run).await?;
    if context.is_json() {
        report::print_json(&swept)?;
    } else {
        let adopted = &swept.adopted;
        report::print(&report::fields(&[
            ("storage", Some(name.to_owned())),
            ("leftovers", swept.removed.map(|removed| format!("{removed} removed"))),
            ("manifests", Some(adopted.manifests.to_string())),
            ("taken up", Some(format!("{} backups, {} copies", adopted.backups, adopted.copies))),
            ("deleted ones", (adopted.deleted > 0).then(|| format!("{} left alone", adopted.deleted))),
            ("problems", (!adopted.problems.is_empty()).then(|| adopted.problems.len().to_string())),
        ]))?;
        if dry_run {
            report::print("\nnothing was written or removed\n")?;
        }
    }
    tell_problems(context, std::slice::from_ref(&swept.adopted))
}
