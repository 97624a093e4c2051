//! `holdfast show`: one backup with its copies and events.

use serde_json::{Value, json};

use super::{Context, open, resolve};
use crate::{
    app::App,
    artifact::BackupType,
    byte_size::ByteSize,
    clock::Timestamp,
    history::{self, Backup, Copy, PastEvent},
    ids::BackupId,
    proof_record::{Proof, ProofLevel},
    report::{self, Table, fields, instant, instant_and_age},
};

/// Show one backup: what it holds, where its copies are, what happened to it. A deleted one is shown by its whole id.
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
        let backup = match resolve::backup(app, context, &args.backup).await {
            Ok(backup) => backup,
            Err(error) => return deleted(app, context, &args.backup, error).await,
        };
        let events = history::events(&app.pool, &context.caller.scope(), backup.backup_id()).await?;
        if context.is_json() {
            let mut object = backup_json(&backup, &copies(app, &backup).await?)?;
            object["events"] = json!(events);
            return report::print_json(&object);
        }
        print_backup(app, context, &backup).await?;
        report::print(&format!("\n{}", table_of(events)))
    })
    .await
}

fn table_of(events: Vec<PastEvent>) -> String {
    let mut table = Table::new(&["WHEN", "EVENT", "OUTCOME", "WHO"]);
    for event in events {
        table.row(vec![instant(event.at), event.event, event.outcome, event.actor]);
    }
    table.render()
}

/// What is left of a backup that was deleted, named by its whole id: its events, and what a storage could not delete. `not_found` for any
/// other.
async fn deleted(app: &App, context: &Context, text: &str, not_found: anyhow::Error) -> anyhow::Result<()> {
    let Ok(id) = text.parse::<BackupId>() else { return Err(not_found) };
    let events = history::events(&app.pool, &context.caller.scope(), id).await?;
    let Some(tombstone) = events.iter().rfind(|event| event.event == "deleted") else { return Err(not_found) };
    let row = &tombstone.detail["backup"];
    if context.is_json() {
        return report::print_json(&json!({
            "id": id,
            "status": "deleted",
            "project_id": row["project_id"],
            "deleted": tombstone.detail["deleted"],
            "remains": tombstone.detail["remains"],
            "events": events,
        }));
    }
    let word = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut text = fields(&[
        ("backup", Some(id.to_string())),
        ("project", Some(word(row, "project_id"))),
        ("status", Some(format!("deleted {}", instant_and_age(tombstone.at, app.clock.now())))),
    ]);
    for remaining in tombstone.detail["remains"].as_array().into_iter().flatten() {
        let what = format!("{}: {}", word(remaining, "storage"), word(remaining, "what"));
        text.push_str(&fields(&[("remains in", Some(what))]));
    }
    report::print(&format!("{text}\n{}", table_of(events)))
}

async fn copies(app: &App, backup: &Backup) -> anyhow::Result<Vec<Copy>> {
    Ok(history::copies(&app.pool, &[backup.id]).await?)
}

/// A backup with its copies as one object, with the names of the API.
fn backup_json(backup: &Backup, copies: &[Copy]) -> anyhow::Result<Value> {
    let mut object = serde_json::to_value(backup)?;
    object["copies"] = serde_json::to_value(copies)?;
    let manifest = backup.manifest();
    let content = manifest.as_ref().and_then(|manifest| manifest.body.database());
    let proof = content.and_then(|content| content.proof.as_ref());
    object["proof"] = json!(proof.map(|proof| proof.level));
    object["definition_sha256"] = json!(proof.and_then(|proof| proof.definition_sha256));
    object["requirements"] = json!(content.map(|content| &content.requirements));
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
    let manifest = backup.manifest();
    let content = manifest.as_ref().and_then(|manifest| manifest.body.database());
    let needs = content.map(|content| &content.requirements);
    let mut text = fields(&[
        ("backup", Some(backup.id.to_string())),
        ("project", Some(backup.project_id.clone())),
        ("status", Some(backup.status.clone())),
        ("pinned", backup.pinned.then(|| "yes: it is kept whatever happens".to_owned())),
        ("partial", backup.is_partial.then(|| format!("yes: it holds {}, for download", part_of(backup)))),
        ("message", backup.message.clone()),
        ("copies missing", copies_missing(backup)),
        ("type", Some(format!("{}, {}", backup.r#type, backup.backup_type))),
        ("file", backup.file_name.clone()),
        ("made of", Some(made_of.join(", "))),
        ("size", (backup.size > 0).then(|| size(backup.size))),
        ("sha256", backup.sha256.clone()),
        ("dump", backup.content_size.map(size)),
        ("tables", backup.table_count.map(|n| n.to_string())),
        ("files", backup.manifest().and_then(|manifest| Some(manifest.body.files()?.file_count.to_string()))),
        ("rows", backup.row_count.map(|n| n.to_string())),
        ("server", backup.pg_version.as_ref().map(|version| format!("PostgreSQL {version}"))),
        ("created", Some(instant_and_age(backup.created_at, now))),
        ("expires", at(backup.expires_at)),
        ("verified", checked),
        ("proof", content.and_then(|content| content.proof.as_ref()).map(proof)),
        ("trial", trial(backup, now)),
        ("differs in", backup.differences.as_ref().and_then(differences)),
        (
            "extensions",
            needs.and_then(|needs| some(needs.extensions.iter().map(|e| format!("{} {}", e.name, e.version)))),
        ),
        ("roles", needs.and_then(|needs| some(needs.roles.iter().cloned()))),
        ("refers to", needs.and_then(|needs| some(needs.objects.iter().map(|o| format!("{} {}", o.kind, o.identity))))),
        ("not restored", needs.and_then(|needs| some(needs.not_restorable.iter().cloned()))),
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

/// What a restore will be compared with.
fn proof(proof: &Proof) -> String {
    let (rows, definitions) = match proof.level {
        ProofLevel::Off => ("rows not counted", proof.definition_sha256),
        ProofLevel::Counts => ("rows counted", proof.definition_sha256),
        ProofLevel::Full => ("digests of all rows", proof.definition_sha256),
    };
    let definitions = definitions.map_or("definitions not recorded", |_| "definitions recorded");
    format!("{}: {rows}, {definitions}", proof.level)
}

/// What the last trial restore has shown, and how long a recovery takes.
fn trial(backup: &Backup, now: Timestamp) -> Option<String> {
    let took = backup.recovery_seconds.map(|seconds| format!("restored in {seconds:.1} seconds"));
    let proved = backup.proved_at.map(|at| format!("as proved, {}", instant_and_age(at, now)));
    let told: Vec<String> = [took, proved].into_iter().flatten().collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// The first of the lines that a trial has found to differ.
fn differences(lines: &Value) -> Option<String> {
    some(lines.as_array()?.iter().filter_map(|line| Some(line.as_str()?.to_owned())))
}

/// The first few of many, and how many more there are; `None` of nothing.
fn some(names: impl Iterator<Item = String>) -> Option<String> {
    const MOST: usize = 10;
    let names: Vec<String> = names.collect();
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    (!names.is_empty()).then(|| format!("{}{more}", names[..names.len().min(MOST)].join("; ")))
}

/// What a partial backup holds.
fn part_of(backup: &Backup) -> &'static str {
    match backup.r#type.parse() {
        Ok(BackupType::Logs) => "the log lines of a range of time",
        Ok(BackupType::Storage) => "some of the files",
        Ok(BackupType::Database) | Err(_) => "some of the tables",
    }
}

/// How many of the copies that were asked for are not good.
fn copies_missing(backup: &Backup) -> Option<String> {
    let required = backup.required_copies.filter(|_| backup.copies_missing > 0)?;
    Some(format!("{} of {required}", backup.copies_missing))
}
