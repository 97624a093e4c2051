//! `holdfast delete`: deletes a backup, every copy of it.

use std::io::{IsTerminal, stderr, stdin};

use serde_json::{Value, json};

use super::{Context, Failure, backup::queued, open, resolve, restore::of_result, wait};
use crate::{
    app::App,
    byte_size::ByteSize,
    history::{self, Backup, Copy},
    jobs::{
        queue::Job,
        request::{self, DeleteRequest},
    },
    report::{self, Table, fields, instant_and_age, note},
};

/// Delete a backup: every copy in every storage, confirmed.
///
/// Without --confirm it asks; where nobody can answer, nothing is done and the exit code is 2. The backup can no longer be used from then
/// on. The deletion is a job that is tried until every storage has confirmed it; --wait shows what was deleted and what remains. Exit code 4
/// when some storage has not let go of its copy: run it again when that is put right.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast delete 0199ab12 --dry-run                says what would be deleted
  holdfast delete 0199ab12 --confirm --wait
  holdfast delete 0199ab12 --confirm --wait --json")]
pub struct Args {
    /// An id, its unique beginning, or latest:PROJECT.
    backup: String,
    /// Really do it, without asking.
    #[arg(long)]
    confirm: bool,
    /// Only say what would be deleted.
    #[arg(long, conflicts_with_all = ["confirm", "wait"])]
    dry_run: bool,
    /// Wait until it has ended.
    #[arg(long)]
    wait: bool,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let backup = resolve::backup(app, context, &args.backup).await?;
        if args.dry_run {
            return show_plan(app, context, &backup).await;
        }
        if !args.confirm && !is_confirmed(app, context, &backup).await? {
            return Err(Failure::refused("delete.not_confirmed", "nothing was done: a deletion cannot be undone")
                .hint("Give --confirm to delete.")
                .into());
        }
        let request = DeleteRequest { backup_id: backup.backup_id() };
        let job = request::delete(app, &context.caller, &request, args.idempotency_key.as_deref()).await?;
        if !args.wait {
            return queued(app, context, &job).await;
        }
        let job = wait::until_final(app, context, job.job_id()).await?;
        outcome(app, context, &backup, &job).await
    })
    .await
}

/// Says what would be deleted.
async fn show_plan(app: &App, context: &Context, backup: &Backup) -> anyhow::Result<()> {
    let copies = history::copies(&app.pool, &[backup.id]).await?;
    if context.is_json() {
        return report::print_json(&json!({
            "dry_run": true,
            "backup_id": backup.id,
            "project_id": backup.project_id,
            "status": backup.status,
            "pinned": backup.pinned,
            "created_at": backup.created_at,
            "size": backup.size,
            "copies": copies,
        }));
    }
    report::print(&describe(app, backup, &copies))
}

fn describe(app: &App, backup: &Backup, copies: &[Copy]) -> String {
    let mut text = fields(&[
        ("backup", Some(backup.id.to_string())),
        ("project", Some(backup.project_id.clone())),
        ("status", Some(backup.status.clone())),
        ("pinned", backup.pinned.then(|| "yes: it is not deleted".to_owned())),
        ("taken", Some(instant_and_age(backup.created_at, app.clock.now()))),
        ("size", (backup.size > 0).then(|| ByteSize(backup.size.unsigned_abs()).to_string())),
    ]);
    text.push('\n');
    text.push_str(&table_of(copies));
    text
}

fn table_of(copies: &[Copy]) -> String {
    if copies.is_empty() {
        return "no copies are on record\n".to_owned();
    }
    let mut table = Table::new(&["COPY", "STATUS", "MESSAGE"]);
    for copy in copies {
        table.row(vec![copy.storage.clone(), copy.status.clone(), copy.message.clone().unwrap_or_default()]);
    }
    table.render()
}

/// Asks, on a terminal.
async fn is_confirmed(app: &App, context: &Context, backup: &Backup) -> anyhow::Result<bool> {
    if context.is_json() || !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(false);
    }
    let copies = history::copies(&app.pool, &[backup.id]).await?;
    note(&describe(app, backup, &copies));
    note("Delete it for good? Type yes:");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        stdin().read_line(&mut line).map(|_| line)
    });
    Ok(answer.await??.trim() == "yes")
}

/// Shows what was deleted and what remains, and fails when the job did not complete.
async fn outcome(app: &App, context: &Context, backup: &Backup, job: &Job) -> anyhow::Result<()> {
    let list = |name: &str| of_result(job, name).and_then(Value::as_array).cloned().unwrap_or_default();
    let (deleted, remains) = (list("deleted"), list("remains"));
    // Of a deletion that is not done the copies are still on record.
    let copies = history::copies(&app.pool, &[backup.id]).await?;
    if context.is_json() {
        report::print_json(&json!({
            "job_id": job.id,
            "status": job.status,
            "backup_id": backup.id,
            "project_id": backup.project_id,
            "deleted": deleted,
            "remains": remains,
            "copies": copies,
            "error_message": job.error_message,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
        }))?;
    } else {
        let names: Vec<&str> = deleted.iter().filter_map(Value::as_str).collect();
        let nothing = || "nowhere: no copies were on record".to_owned();
        let done = job.result.is_some();
        let gone = done.then(|| if names.is_empty() && remains.is_empty() { nothing() } else { names.join(", ") });
        report::print(&fields(&[
            ("backup", Some(backup.id.to_string())),
            ("status", Some(if done { "deleted".to_owned() } else { format!("not deleted, {}", job.status) })),
            ("deleted from", gone.filter(|text| !text.is_empty())),
        ]))?;
        for remaining in &remains {
            let word = |name: &str| remaining.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            report::print(&fields(&[("remains in", Some(format!("{}: {}", word("storage"), word("what"))))]))?;
        }
        if !copies.is_empty() {
            report::print(&format!("\n{}", table_of(&copies)))?;
        }
    }
    wait::failure(job).map_or(Ok(()), |failure| Err(failure.into()))
}
