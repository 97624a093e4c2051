//! One backup: whether it was proved and how, its copies, what it holds and needs, its history.

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    backups::{one, seconds, what},
    frame::{Frame, Place},
    jobs::HX_REFRESH,
    list::Asked,
    show::{self, Html},
    visit::{Visitor, is_partial, page},
};
use crate::{
    artifact::BackupType,
    history::{Backup, BackupStatus, PastEvent},
    http::{Api, api::backup as calls, error::Problem, extract::Id},
    ids::BackupId,
    manifest::{Content, Manifest},
    proof_record::{ProofLevel, is_not_compared},
};

/// Tables of a backup that are listed.
pub const MOST_TABLES: usize = 200;

/// Events of a backup that are listed: the last ones. Each download by ranges may write many.
const MOST_EVENTS: usize = 200;

/// Longest manifest that is shown as it is, in bytes.
const MAX_MANIFEST: usize = 128 << 10;

/// One copy.
struct CopyRow {
    storage: String,
    /// Where these very bytes are downloaded.
    download: Option<String>,
    badge: Html,
    checked: Html,
    message: Option<String>,
    locator: Option<String>,
}

/// One event.
struct EventRow {
    at: Html,
    event: String,
    badge: Option<Html>,
    actor: String,
    address: Option<String>,
    detail: String,
}

impl EventRow {
    fn of(event: PastEvent, now: DateTime<Utc>) -> Self {
        Self {
            at: show::when(event.at, now),
            event: event.event.replace('_', " "),
            badge: (event.outcome != "ok").then(|| show::badge(&event.outcome)),
            actor: event.actor,
            address: event.address,
            detail: show::detail(&event.detail),
        }
    }
}

/// A table and its rows.
pub struct Table {
    pub name: String,
    pub rows: String,
}

/// What a backup holds, in words and tables.
pub struct Holds {
    pub summary: String,
    pub tables: Vec<Table>,
    pub more_tables: usize,
    /// What it needs from outside.
    pub needs: Vec<String>,
}

impl Holds {
    pub fn of(manifest: &Manifest, visitor: &Visitor) -> Self {
        match &manifest.body.holds {
            Content::Database(content) => {
                let counted = |n: u64, one, many| show::counted(i64::try_from(n).unwrap_or(i64::MAX), one, many);
                let tables = content.tables.iter().take(MOST_TABLES).map(|table| Table {
                    name: format!("{}.{}", table.schema, table.table),
                    rows: show::count(i64::try_from(table.rows).unwrap_or(i64::MAX)),
                });
                let requirements = &content.requirements;
                let mut needs: Vec<String> =
                    requirements.extensions.iter().map(|e| format!("extension {} {}", e.name, e.version)).collect();
                if visitor.is_operator() {
                    needs.extend(requirements.roles.iter().map(|role| format!("role {role}")));
                }
                let objects = requirements.objects.iter();
                needs.extend(objects.map(|object| format!("{} {}", object.kind, object.identity)));
                needs.extend(requirements.not_restorable.iter().map(|what| format!("not restored: {what}")));
                Self {
                    summary: format!(
                        "{} with {} and {}, of PostgreSQL {}",
                        counted(content.table_count, "table", "tables"),
                        content
                            .counted_rows()
                            .map_or("rows that were not counted".to_owned(), |n| counted(n, "row", "rows")),
                        counted(content.sequences.len() as u64, "sequence", "sequences"),
                        content.server_version / 10_000,
                    ),
                    tables: tables.collect(),
                    more_tables: content.tables.len().saturating_sub(MOST_TABLES),
                    needs,
                }
            }
            Content::Logs(content) => Self::only(show::counted(
                i64::try_from(content.row_count).unwrap_or(i64::MAX),
                "line of the project's log",
                "lines of the project's log",
            )),
            Content::File(content) => Self::only(format!("the file {}, handed over as it is", content.file_name)),
            Content::Files(content) => {
                let files = i64::try_from(content.file_count).unwrap_or(i64::MAX);
                Self::only(show::counted(files, "file", "files"))
            }
        }
    }

    const fn only(summary: String) -> Self {
        Self { summary, tables: Vec::new(), more_tables: 0, needs: Vec::new() }
    }
}

/// What is known of whether it can be restored.
struct Proof {
    /// The class of the card.
    tone: &'static str,
    title: &'static str,
    words: Vec<Html>,
    differences: Vec<String>,
}

impl Proof {
    fn of(backup: &Backup, level: Option<ProofLevel>, visitor: &Visitor) -> Self {
        let now = visitor.now;
        let found = backup.differences.as_ref().and_then(Value::as_array);
        let found = found.into_iter().flatten().filter_map(Value::as_str);
        let differences: Vec<String> = found.map(|line| visitor.told(line)).collect();
        let (tone, title) = match (backup.proved_at, differences.is_empty()) {
            (None, false) if is_not_compared(&differences) => {
                ("", "Brought back by a trial restore, without rows counted to compare with")
            }
            (_, false) => ("warn", "The last trial restore found differences"),
            (Some(_), true) => ("good", "Proved by a trial restore"),
            (None, true) => ("", "Not proved by a restore yet"),
        };
        let mut words = Vec::new();
        if let Some(at) = backup.proved_at.filter(|_| differences.is_empty()) {
            let at = show::when(at, now);
            words.push(Html::ours(format!("A trial restore {at} brought everything back as it was recorded.")));
        }
        if let Some(seconds) = backup.recovery_seconds {
            words.push(Html::ours(format!(
                "A recovery takes <strong>{}</strong>, as measured then.",
                show::took(seconds)
            )));
        }
        if let (Some(at), Some(depth)) = (backup.verified_at, backup.verified_depth.as_deref()) {
            let looked = match depth {
                "head" => Some("Sizes were last compared"),
                "read" => Some("Every byte was last read and compared"),
                // What the trial came to is said above.
                _ if backup.proved_at.is_some() || !differences.is_empty() => None,
                _ => Some("It was last verified by a restore"),
            };
            words.extend(looked.map(|looked| Html::ours(format!("{looked} {}.", show::when(at, now)))));
        }
        let recorded = level.map(|level| match level {
            ProofLevel::Full => "A digest of every table's rows was recorded with it, to compare with after a restore.",
            ProofLevel::Counts => {
                "Rows were counted and definitions recorded with it, to compare with after a restore."
            }
            ProofLevel::Off => "Its rows were not counted, so that a restore could not be compared with them.",
        });
        words.extend(recorded.map(|text| Html::ours(text.to_owned())));
        Self { tone, title, words, differences }
    }
}

#[derive(Template)]
#[template(path = "backup.html")]
struct BackupPage {
    frame: Frame,
    id: String,
    project: String,
    project_path: String,
    badge: Html,
    status: String,
    title: String,
    message: Option<String>,
    proof: Proof,
    facts: Vec<(&'static str, Html)>,
    /// How to open it without Holdfast.
    by_hand: Option<String>,
    copies: Vec<CopyRow>,
    holds: Option<Holds>,
    manifest: Option<String>,
    events: Vec<EventRow>,
    /// There are earlier ones, which are not listed.
    has_more_events: bool,
    is_pinned: bool,
    may_write: bool,
    can_restore: bool,
    can_verify: bool,
    can_try: bool,
    can_download: bool,
    /// What it holds is given out as well.
    can_decrypt: bool,
    can_delete: bool,
}

pub async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    asked: Asked,
    headers: HeaderMap,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    let calls::BackupWithCopies { backup, copies, proof, .. } = one(&api, &visitor, id).await?;
    let mut events = calls::last_events(&api, &visitor.signed, id, MOST_EVENTS + 1).await?;
    let has_more_events = events.len() > MOST_EVENTS;
    events.truncate(MOST_EVENTS);
    let now = visitor.now;
    let manifest = backup.manifest();
    let whole = backup.manifest.as_ref().filter(|_| visitor.is_operator());
    let whole = whole.and_then(|manifest| serde_json::to_string_pretty(&shortened(manifest)).ok());
    let is = |status| backup.is(status);
    let is_database = backup.r#type == BackupType::Database.as_str();
    let is_files = backup.r#type == BackupType::Storage.as_str();
    let is_good = is(BackupStatus::Completed);
    let may_write = visitor.may_write();
    let has_copy = copies.iter().any(crate::history::Copy::is_good);
    let has_changed = is_partial(&headers) && asked.given("state").is_some_and(|state| state != backup.status);
    let can_download = has_copy && (is_good || is(BackupStatus::Damaged) || is(BackupStatus::Expired));
    let download = |copy: &crate::history::Copy| {
        let is_there = can_download && copy.is_good();
        is_there.then(|| format!("/backups/{}/download?from={}", backup.id, show::in_query(&copy.storage)))
    };
    let mut response = page(&BackupPage {
        frame: visitor.frame(Place::Backups, "Backup"),
        id: backup.id.to_string(),
        status: backup.status.clone(),
        proof: Proof::of(&backup, proof, &visitor),
        by_hand: by_hand(&backup).filter(|_| can_download),
        project_path: format!("/projects/{}", show::in_path(&backup.project_id)),
        badge: show::badge(&backup.status),
        title: format!("{} of {}", what(&backup), backup.created_at.format("%Y-%m-%d %H:%M")),
        message: backup.message.clone(),
        facts: facts(&backup, now),
        copies: copies
            .into_iter()
            .map(|copy| CopyRow {
                download: download(&copy),
                badge: show::badge(&copy.status),
                checked: show::when_or_nothing(copy.checked_at, now),
                message: copy.message.filter(|_| copy.status != "good"),
                locator: copy.locator.as_ref().map(show::detail),
                storage: copy.storage,
            })
            .collect(),
        holds: manifest.as_ref().map(|manifest| Holds::of(manifest, &visitor)),
        manifest: whole.map(|text| text.chars().take(MAX_MANIFEST).collect()),
        events: events.into_iter().map(|event| EventRow::of(event, now)).collect(),
        has_more_events,
        is_pinned: backup.pinned,
        may_write,
        can_restore: may_write && is_good && (is_database || is_files) && !backup.is_partial && backup.format.is_some(),
        can_verify: may_write && (is_good || is(BackupStatus::Damaged)),
        can_try: (is_database || is_files) && !backup.is_partial,
        can_download,
        can_decrypt: can_download && api.app.config.encryption.decrypted_downloads && backup.format.is_some(),
        can_delete: may_write && !backup.pinned && !is(BackupStatus::Deleted) && !is(BackupStatus::InProgress),
        project: backup.project_id.clone(),
    })?;
    // It has begun or ended since the page was made: all of it is another.
    if has_changed {
        response.headers_mut().insert(HX_REFRESH, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// JSON for people: long lists and texts are cut, and say how long they are.
fn shortened(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > 2_000 => {
            let begin: String = text.chars().take(60).collect();
            Value::from(format!("{begin}… ({} bytes)", text.len()))
        }
        Value::Array(items) => {
            let mut shown: Vec<Value> = items.iter().take(MOST_TABLES).map(shortened).collect();
            if items.len() > MOST_TABLES {
                shown.push(Value::from(format!("… and {} more", items.len() - MOST_TABLES)));
            }
            Value::from(shown)
        }
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shortened(value))).collect(),
        other => other.clone(),
    }
}

/// The commands that restore a download by standard tools, as docs/recovery.md has them.
fn by_hand(backup: &Backup) -> Option<String> {
    let dump = match backup.format.as_deref()? {
        "sql" => "dump.sql",
        "tar" => "dump.tar",
        "custom" => "dump.dump",
        _ => return None,
    };
    let (extension, unpack) = match backup.compression.as_deref() {
        Some("gzip") => (".gz", "gunzip"),
        Some("zstd") => (".zst", "zstd -d"),
        _ => ("", ""),
    };
    let mut lines = Vec::new();
    if backup.encryption.as_deref() == Some("age") {
        lines.push(format!("age -d -i age.key -o {dump}{extension} FILE"));
    } else {
        lines.push(format!("mv FILE {dump}{extension}"));
    }
    if !unpack.is_empty() {
        lines.push(format!("{unpack} {dump}{extension}"));
    }
    lines.push(match dump {
        "dump.sql" => "psql -v ON_ERROR_STOP=1 -1 -d DATABASE -f dump.sql".to_owned(),
        other => format!("pg_restore --exit-on-error -1 --no-owner -d DATABASE {other}"),
    });
    Some(lines.join("\n"))
}

fn facts(backup: &Backup, now: DateTime<Utc>) -> Vec<(&'static str, Html)> {
    let plain = show::name;
    let code = |text: &str| Html::ours(format!("<code class=\"wrap\">{}</code>", show::escape(text)));
    let mut facts = vec![("Made", show::at(backup.created_at))];
    facts.extend(backup.created_by.as_deref().map(|by| ("By", show::name(by))));
    facts.push(("Origin", plain(&backup.backup_type)));
    if backup.size > 0 {
        facts.push(("Stored", show::size(backup.size)));
    }
    facts.extend(backup.content_size.map(|size| ("Dump", show::size(size))));
    facts.extend(seconds(backup).map(|taken| ("Took", show::took(taken))));
    let encoding = [&backup.compression, &backup.encryption].into_iter().flatten();
    let encoding = encoding.map(String::as_str).filter(|word| *word != "none").collect::<Vec<_>>().join(", ");
    if !encoding.is_empty() {
        facts.push(("Encoded", plain(&encoding)));
    }
    facts.extend(backup.job_id.map(|id| ("Job", Html::ours(format!("<a href=\"/jobs/{id}\">its job</a>")))));
    let expires = if backup.pinned { plain("pinned: never") } else { show::when_or_nothing(backup.expires_at, now) };
    facts.push(("Expires", expires));
    facts.extend(backup.pg_version.as_deref().map(|version| ("PostgreSQL", plain(version))));
    facts.extend(backup.file_name.as_deref().map(|name| ("File", code(name))));
    facts.extend(backup.sha256.as_deref().map(|digest| ("SHA-256", code(digest))));
    facts.push(("Id", code(&backup.id.to_string())));
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_long_manifest_is_cut_and_says_so() {
        let rows: Vec<usize> = (0..MOST_TABLES + 3).collect();
        let long = json!({ "definition": "x".repeat(5_000), "tables": rows, "short": "as it is" });
        let shown = shortened(&long);
        assert_eq!(shown["definition"], format!("{}… (5000 bytes)", "x".repeat(60)));
        assert_eq!(shown["tables"].as_array().map(Vec::len), Some(MOST_TABLES + 1));
        assert_eq!((&shown["tables"][MOST_TABLES], &shown["short"]), (&json!("… and 3 more"), &json!("as it is")));
    }
}
