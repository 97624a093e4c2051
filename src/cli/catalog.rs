//! `holdfast catalog`: the control plane's rows from what the storages hold.

use clap::Subcommand;
use serde_json::json;

use super::{Context, Exit, Failure, open};
use crate::{
    jobs::{
        authentic::TakeUp,
        catalog::{Adopt, Rebuild, Rebuilt},
    },
    report::{self, Table, one_line},
};

/// Write the catalogue from the manifests in the storages.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write down again what the storages hold and the control plane has lost: projects, backups and their copies.
    ///
    /// Reads every manifest. A row that is there is never changed, and a backup that was deleted does not come back; a second run changes
    /// nothing. A project that is not there is made, with the schema that its newest backup was taken of. Have the key in its place before: a
    /// backup whose manifest cannot be decrypted is listed, but not restored, and one that was sealed with a key that is not accepted here
    /// (seal.key, seal.accepted_keys) is left out. Exit code 6 when something was left out or is damaged.
    #[command(after_help = "Examples:
  holdfast catalog rebuild --dry-run                says what would be written
  holdfast catalog rebuild
  holdfast catalog rebuild --storage local --storage offsite --json")]
    Rebuild {
        /// A storage to read; may be repeated [default: every configured one].
        #[arg(long, value_name = "NAME")]
        storage: Vec<String>,
        /// Take manifests without a seal as well: those that were written before there were seals. Nothing proves that the storage tells
        /// the truth.
        #[arg(long)]
        allow_unsealed: bool,
        /// Look at everything, write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let What::Rebuild { storage, allow_unsealed, dry_run } = args.what;
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let names = if storage.is_empty() { app.storages.keys() } else { storage };
        let mut rebuild =
            Rebuild::new(app, &context.caller, Adopt::Everything, dry_run).taking(TakeUp::unsealed_if(allow_unsealed));
        let mut reports = Vec::new();
        for name in &names {
            reports.push(rebuild.storage(name).await?);
        }
        if context.is_json() {
            report::print_json(&json!({ "dry_run": dry_run, "storages": reports }))?;
        } else {
            report::print(&table(&reports, dry_run))?;
        }
        tell_problems(context, &reports)
    })
    .await
}

fn table(reports: &[Rebuilt], dry_run: bool) -> String {
    let mut table =
        Table::new(&["STORAGE", "MANIFESTS", "PROJECTS", "BACKUPS", "COPIES", "KNOWN", "DELETED", "PROBLEMS"]);
    for report in reports {
        table.row(vec![
            report.storage.clone(),
            report.manifests.to_string(),
            report.projects.len().to_string(),
            report.backups.to_string(),
            report.copies.to_string(),
            report.known.to_string(),
            report.deleted.to_string(),
            report.problems.len().to_string(),
        ]);
    }
    let mut text = table.render();
    if dry_run {
        text.push_str("\nnothing was written\n");
    }
    text
}

/// Names what was left out, and fails when there is something.
pub(super) fn tell_problems(context: &Context, reports: &[Rebuilt]) -> anyhow::Result<()> {
    for report in reports {
        if report.without_key > 0 {
            context.warn(&format!(
                "{} backups in storage {} cannot be restored yet: the key to their manifests is not here. Put it in its place and \
                 run this again.",
                report.without_key, report.storage
            ));
        }
        if report.unsealed > 0 {
            context.warn(&format!(
                "{} backups in storage {} were taken up although nothing proves what their manifests say.",
                report.unsealed, report.storage
            ));
        }
        for problem in &report.problems {
            let what = if problem.manifest.is_empty() { "its list" } else { &problem.manifest };
            context.warn(&one_line(&format!("storage {}, {what}: {}", report.storage, problem.message)));
        }
    }
    let problems: usize = reports.iter().map(|report| report.problems.len()).sum();
    if problems == 0 {
        return Ok(());
    }
    let plural = if problems == 1 { "manifest does" } else { "manifests do" };
    let message = format!("{problems} {plural} not fit: see above");
    Err(Failure::new(Exit::Damage, "catalog.problems", message)
        .hint("The others were taken up. `--json` lists every problem with its code.")
        .into())
}
