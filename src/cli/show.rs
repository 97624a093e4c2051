//! `holdfast show`: one backup with its copies and events.

use serde_json::{Value, json};

use super::{Context, open, resolve};
use crate::{
    app::App,
    byte_size::ByteSize,
    clock::Timestamp,
    history::{self, Backup, Copy},
    report::{self, Table, fields, instant, instant_and_age},
};

/// Show one backup: what it holds, where its copies are, what happened to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast show latest:acme
  holdfast show 0199ab12 --json")]
pub struct Args {
    /// An id, its unique beginning, or latest:PROJECT.
    backup: String,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let backup = resolve::backup(app, context, &args.backup).await?;
        let events = history::events(&app.pool, &context.caller.scope(), backup.backup_id()).await?;
        if context.is_json() {
            let mut object = backup_json(&backup, &copies(app, &backup).await?)?;
            object["events"] = json!(events);
            return report::print_json(&object);
        }
        print_backup(app, context, &backup).await?;
        let mut table = Table::new(&["WHEN", "EVENT", "OUTCOME", "WHO"]);
        for event in events {
            table.row(vec![instant(event.at), event.event, event.outcome, event.actor]);
        }
        report::print(&format!("\n{}", table.render()))
    })
    .await
}

async fn copies(app: &App, backup: &Backup) -> anyhow::Result<Vec<Copy>> {
    Ok(history::copies(&app.pool, &[backup.id]).await?)
}

/// A backup with its copies as one object.
fn backup_json(backup: &Backup, copies: &[Copy]) -> anyhow::Result<Value> {
    let mut object = serde_json::to_value(backup)?;
    object["copies"] = serde_json::to_value(copies)?;
    Ok(object)
}

/// Prints a backup with its copies: one object with `--json`.
pub(super) async fn print_backup(app: &App, context: &Context, backup: &Backup) -> anyhow::Result<()> {
    let copies = copies(app, backup).await?;
    if context.is_json() {
        return report::print_json(&backup_json(backup, &copies)?);
    }
    report::print(&describe(backup, &copies, app.clock.now()))
}

fn describe(backup: &Backup, copies: &[Copy], now: Timestamp) -> String {
    let size = |bytes: i64| ByteSize(bytes.unsigned_abs()).to_string();
    let at = |time: Option<Timestamp>| time.map(|time| instant_and_age(time, now));
    let made_of = [&backup.format, &backup.compression, &backup.encryption];
    let made_of: Vec<&str> = made_of.iter().filter_map(|word| word.as_deref()).filter(|word| *word != "none").collect();
    let checked = backup.verified_at.map(|time| {
        format!("{} ({})", instant_and_age(time, now), backup.verified_depth.as_deref().unwrap_or("unknown depth"))
    });
    let mut text = fields(&[
        ("backup", Some(backup.id.to_string())),
        ("project", Some(backup.project_id.clone())),
        ("status", Some(backup.status.clone())),
        ("message", backup.message.clone()),
        ("type", Some(format!("{}, {}", backup.r#type, backup.backup_type))),
        ("file", backup.file_name.clone()),
        ("made of", Some(made_of.join(", "))),
        ("size", (backup.size > 0).then(|| size(backup.size))),
        ("sha256", backup.sha256.clone()),
        ("dump", backup.content_size.map(size)),
        ("tables", backup.table_count.map(|n| n.to_string())),
        ("rows", backup.row_count.map(|n| n.to_string())),
        ("server", backup.pg_version.as_ref().map(|version| format!("PostgreSQL {version}"))),
        ("created", Some(instant_and_age(backup.created_at, now))),
        ("expires", at(backup.expires_at)),
        ("verified", checked),
        ("job", backup.job_id.map(|id| id.to_string())),
    ]);
    if !copies.is_empty() {
        let mut table = Table::new(&["COPY", "STATUS", "CHECKED", "MESSAGE"]);
        for copy in copies {
            let checked = copy.checked_at.map(instant).unwrap_or_default();
            table.row(vec![
                copy.storage.clone(),
                copy.status.clone(),
                checked,
                copy.message.clone().unwrap_or_default(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}
