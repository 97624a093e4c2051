//! `holdfast audit`: the trail of what was done and refused, and whether it is whole.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{Context, Exit, Failure, open};
use crate::{
    app::App,
    db,
    history::{self, AuditFilter, ChainError, PeopleEvent, Verified},
    jobs::audit_chain,
    report::{self, Table, fields, instant},
};

/// Look at the audit trail, and check that it is whole.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List entries, newest first.
    #[command(after_help = "Examples:
  holdfast audit list --outcome refused --limit 20
  holdfast audit list acme --event downloaded --since 2026-11-01T00:00:00Z --json")]
    List(List),
    /// Check that no entry was altered, removed, put in or moved.
    ///
    /// Every entry is compared with its digest, and the end of the chain with what this machine remembers (audit.head in the data
    /// directory) and with a head that was kept elsewhere. Ends with exit code 1 and names the first entry when something is wrong.
    #[command(after_help = "Examples:
  holdfast audit verify
  holdfast audit verify --expect 1204:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --json")]
    Verify(Verify),
    /// Begin the chain anew over the entries that are there.
    ///
    /// For an installation whose secrets key was replaced, or whose control plane was put back from a backup. What the old chain could
    /// still show is lost; that it was given up, and where it ended, becomes an entry. Nothing is done without --confirm.
    #[command(after_help = "Examples:
  holdfast audit restart
  holdfast audit restart --confirm")]
    Restart(Restart),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only this project's.
    project: Option<String>,
    /// Only this actor's, such as user:alice or cli:root.
    #[arg(long)]
    actor: Option<String>,
    /// Only this event, such as downloaded, restore_requested or refused.
    #[arg(long)]
    event: Option<String>,
    /// Only this outcome: ok, refused or failed.
    #[arg(long)]
    outcome: Option<String>,
    /// Only this backup's.
    #[arg(long, value_name = "ID")]
    backup: Option<Uuid>,
    /// At this time or later, such as 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// Where the chain ended another time, as this command printed it: it must have gone on from there.
    #[arg(long, value_name = "SEQUENCE:DIGEST")]
    expect: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Restart {
    /// Do it.
    #[arg(long)]
    confirm: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| match args.what {
        What::List(args) => list(context, &opened.app, args).await,
        What::Verify(args) => verify(context, &opened.app, args).await,
        What::Restart(args) => restart(context, &opened.app, args).await,
    })
    .await
}

async fn list(context: &Context, app: &App, args: List) -> anyhow::Result<()> {
    let filter = AuditFilter {
        project_id: args.project,
        backup_id: args.backup,
        actor: args.actor,
        event: args.event,
        outcome: args.outcome,
        since: args.since,
        until: args.until,
        before: None,
        limit: args.limit,
    };
    let entries = history::audit_entries(&app.pool, &context.caller.scope(), &filter).await?;
    if context.is_json() {
        return report::print_json(&entries);
    }
    let mut table = Table::new(&["ENTRY", "AT", "EVENT", "OUTCOME", "ACTOR", "ADDRESS", "PROJECT", "BACKUP"]);
    for entry in entries {
        table.row(vec![
            entry.id.to_string(),
            instant(entry.at),
            entry.event,
            entry.outcome,
            entry.actor,
            entry.address.unwrap_or_default(),
            entry.project_id.unwrap_or_default(),
            entry.backup_id.map(|id| id.to_string()).unwrap_or_default(),
        ]);
    }
    report::print(&table.render())
}

fn failed(error: ChainError) -> anyhow::Error {
    let message = error.to_string();
    match error {
        ChainError::OtherKey { .. } => Failure::new(Exit::Refused, "audit.other_key", message)
            .hint("Put the secrets key back that linked it; if it is lost, begin anew with `holdfast audit restart`.")
            .into(),
        ChainError::NoHead | ChainError::Disturbed(_) => Failure::new(Exit::Unexpected, "audit.broken", message).into(),
        ChainError::Database(error) => anyhow::Error::new(history::HistoryError::Database(error)),
    }
}

async fn verify(context: &Context, app: &App, args: Verify) -> anyhow::Result<()> {
    let mut remembered = Vec::new();
    if let Some(head) = history::remembered_head(&app.config.data_dir)? {
        remembered.push(head);
    }
    let chain = history::chain_head(&app.pool).await.map_err(failed)?;
    for text in &args.expect {
        let chain_id = chain.as_ref().map(|head| head.chain_id).unwrap_or_default();
        let head = history::parse_head(chain_id, text).ok_or_else(|| {
            Failure::refused("usage", "--expect is not SEQUENCE:DIGEST, as `holdfast audit verify` prints it")
        })?;
        remembered.push(head);
    }
    let verified = history::verify_chain(&app.pool, &audit_chain::key(app), &remembered).await.map_err(failed)?;
    if context.is_json() {
        report::print_json(&verified)?;
    } else {
        print(&verified)?;
    }
    let Some(first) = verified.first else { return Ok(()) };
    let entry = first.entry_id.map(|id| format!(" (entry {id})")).unwrap_or_default();
    let message = format!(
        "the audit trail is not whole: {} at place {}{entry}: {}",
        first.wrong.as_str(),
        first.sequence,
        first.message
    );
    Err(Failure::new(Exit::Unexpected, "audit.broken", message)
        .hint("Compare with a backup of the control plane; docs/audit.md tells what each finding means.")
        .into())
}

fn print(verified: &Verified) -> anyhow::Result<()> {
    let unlinked = match verified.oldest_unlinked {
        Some(oldest) => format!("{}, the oldest of {}", verified.unlinked, instant(oldest)),
        None => "0".to_owned(),
    };
    report::print(&fields(&[
        ("audit trail", Some(if verified.is_whole { "whole" } else { "NOT WHOLE" }.to_owned())),
        ("entries", Some(verified.entries.to_string())),
        ("wrong places", (verified.wrong_places > 0).then(|| verified.wrong_places.to_string())),
        ("not linked yet", Some(unlinked)),
        ("linked late", (verified.late > 0).then(|| verified.late.to_string())),
        ("chain", Some(verified.chain_id.to_string())),
        ("key", Some(verified.key_id.clone())),
        ("compared with", Some(format!("{} remembered heads", verified.remembered))),
        ("head", verified.head.clone()),
    ]))
}

async fn restart(context: &Context, app: &App, args: Restart) -> anyhow::Result<()> {
    let before = history::chain_head(&app.pool).await.or_else(|error| match error {
        // What is given up may be in any state.
        ChainError::NoHead | ChainError::Disturbed(_) | ChainError::OtherKey { .. } => Ok(None),
        ChainError::Database(_) => Err(failed(error)),
    })?;
    let before = before.map(|head| head.to_string());
    if !args.confirm {
        context.remark("nothing was done: with --confirm the links of all entries are forgotten and made anew");
        return match context.is_json() {
            true => report::print_json(&json!({ "restarted": false, "before": before })),
            false => Ok(()),
        };
    }
    let mut transaction = db::begin(&app.pool).await?;
    let forgotten = history::forget_links(&mut transaction).await.map_err(failed)?;
    let event = PeopleEvent {
        event: "audit_restarted",
        caller: &context.caller,
        organization_id: None,
        outcome: "ok",
        detail: json!({ "entries": forgotten, "before": before }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    history::forget_head(&app.config.data_dir)?;
    while history::link(&app.pool, &audit_chain::key(app), 1_000).await.map_err(failed)? > 0 {}
    if let Some(head) = history::chain_head(&app.pool).await.map_err(failed)? {
        history::remember_head(&app.config.data_dir, &head)?;
    }
    if context.is_json() {
        return report::print_json(&json!({ "restarted": true, "before": before, "entries": forgotten }));
    }
    report::print(&format!("the chain begins anew over {forgotten} entries and the one that says so\n"))
}
