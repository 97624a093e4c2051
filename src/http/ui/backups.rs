//! Backups: the list, and one with its copies, what it holds, its history, and what can be done with it.

use askama::Template;
use axum::{
    extract::State,
    http::{StatusCode, request::Parts},
    response::Response,
};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use super::{
    form::{Field, Form, FormPage},
    frame::{Frame, Place},
    jobs::job_path,
    list::{Asked, Choice, Pages, ROWS, choices, plain},
    show::{self, Html},
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    artifact::BackupType,
    history::{Backup, BackupStatus, PastEvent},
    http::{
        Api,
        api::backup as calls,
        error::Problem,
        extract::{Body, Id, IdempotencyKey, Params},
    },
    ids::BackupId,
    jobs::request::Depth,
    manifest::{Content, Manifest},
    tenant::Permission,
};

/// Tables of a backup that are listed.
const MOST_TABLES: usize = 200;

/// Longest manifest that is shown as it is, in bytes.
const MAX_MANIFEST: usize = 128 << 10;

/// A backup in a list.
#[derive(Clone, Debug)]
pub struct Row {
    pub path: String,
    pub project: String,
    pub what: String,
    pub badge: Html,
    pub at: Html,
    pub size: Html,
    pub took: String,
    pub expires: Html,
    pub proof: Html,
    pub why: Option<String>,
}

fn seconds(backup: &Backup) -> Option<f64> {
    Some((backup.finished_at? - backup.started_at?).num_milliseconds() as f64 / 1000.0)
}

impl Row {
    pub fn of(backup: Backup, now: DateTime<Utc>) -> Self {
        Self {
            path: format!("/backups/{}", backup.id),
            badge: show::badge(&backup.status),
            at: show::when(backup.created_at, now),
            size: if backup.size > 0 { show::size(backup.size) } else { show::nothing() },
            took: seconds(&backup).map_or_else(String::new, show::lasted),
            expires: match backup.pinned {
                true => Html::ours("<span class=\"badge dull\">pinned</span>".to_owned()),
                false => show::when_or_nothing(backup.expires_at, now),
            },
            proof: show::when_or_nothing(backup.verified_at, now),
            why: backup.message.clone().filter(|_| !backup.is_complete()),
            what: what(&backup),
            project: backup.project_id,
        }
    }
}

fn what(backup: &Backup) -> String {
    let partial = if backup.is_partial { ", partial" } else { "" };
    match backup.format.as_deref() {
        Some(format) => format!("{}, {format}{partial}", backup.r#type),
        None => format!("{}{partial}", backup.r#type),
    }
}

#[derive(Template)]
#[template(path = "backups.html")]
struct BackupsPage {
    frame: Frame,
    rows: Vec<Row>,
    pages: Pages,
    action: &'static str,
    searches: Vec<(&'static str, &'static str, String)>,
    selects: Vec<(&'static str, &'static str, Vec<Choice>)>,
}

/// The beginning of a day, in UTC.
fn day(asked: &Asked, name: &'static str) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = asked.given(name) else { return Ok(None) };
    let day = text.parse::<NaiveDate>().map_err(|_| wrong(name, "this is not a date: write 2026-11-21"))?;
    Ok(Some(day.and_time(NaiveTime::MIN).and_utc()))
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    let params = calls::ListParams {
        project_id: asked.given("project_id"),
        r#type: asked.word("type")?,
        status: asked.word("status")?,
        created_after: day(&asked, "from")?,
        created_before: day(&asked, "until")?,
        expiring_within: None,
        limit: Some(ROWS),
        cursor: asked.given("cursor"),
    };
    let backups = calls::list(State(api), visitor.signed.clone(), Ok(Params(params))).await?;
    let types = BackupType::ALL.iter().map(|word| plain(word.as_str()));
    let states = BackupStatus::ALL.iter().map(|word| plain(word.as_str()));
    page(&BackupsPage {
        frame: visitor.frame(Place::Backups, "Backups"),
        rows: backups.data.into_iter().map(|backup| Row::of(backup, visitor.now)).collect(),
        pages: asked.pages(backups.next_cursor),
        action: "/backups",
        searches: vec![
            ("project_id", "Project", asked.get("project_id").to_owned()),
            ("from", "From the day", asked.get("from").to_owned()),
            ("until", "Before the day", asked.get("until").to_owned()),
        ],
        selects: vec![
            ("type", "Holds", choices("everything", types, asked.get("type"))),
            ("status", "State", choices("any", states, asked.get("status"))),
        ],
    })
}

/// One copy.
struct CopyRow {
    storage: String,
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
                needs.extend(requirements.not_restorable.iter().map(|what| format!("not restored: {what}")));
                Self {
                    summary: format!(
                        "{} with {} and {}, of PostgreSQL {}",
                        counted(content.table_count, "table", "tables"),
                        counted(content.row_count, "row", "rows"),
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

#[derive(Template)]
#[template(path = "backup.html")]
struct BackupPage {
    frame: Frame,
    id: String,
    project: String,
    project_path: String,
    badge: Html,
    title: String,
    message: Option<String>,
    facts: Vec<(&'static str, Html)>,
    copies: Vec<CopyRow>,
    holds: Option<Holds>,
    manifest: Option<String>,
    events: Vec<EventRow>,
    is_pinned: bool,
    may_write: bool,
    can_restore: bool,
    can_verify: bool,
    can_try: bool,
    can_download: bool,
    can_delete: bool,
}

pub async fn one(api: &Api, visitor: &Visitor, id: BackupId) -> Result<calls::BackupWithCopies, Problem> {
    Ok(calls::show(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data)
}

pub async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    let calls::BackupWithCopies { backup, copies, .. } = one(&api, &visitor, id).await?;
    let events = calls::history(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data;
    let now = visitor.now;
    let manifest = backup.manifest();
    let whole = backup.manifest.as_ref().filter(|_| visitor.is_operator());
    let whole = whole.and_then(|manifest| serde_json::to_string_pretty(manifest).ok());
    let is = |status| backup.is(status);
    let is_database = backup.r#type == BackupType::Database.as_str();
    let is_files = backup.r#type == BackupType::Storage.as_str();
    let is_good = is(BackupStatus::Completed);
    let may_write = visitor.may_write();
    let has_copy = copies.iter().any(crate::history::Copy::is_good);
    page(&BackupPage {
        frame: visitor.frame(Place::Backups, "Backup"),
        id: backup.id.to_string(),
        project_path: format!("/projects/{}", show::in_path(&backup.project_id)),
        badge: show::badge(&backup.status),
        title: format!("{} of {}", what(&backup), backup.created_at.format("%Y-%m-%d %H:%M")),
        message: backup.message.clone(),
        facts: facts(&backup, now),
        copies: copies
            .into_iter()
            .map(|copy| CopyRow {
                badge: show::badge(&copy.status),
                checked: show::when_or_nothing(copy.checked_at, now),
                message: copy.message.filter(|_| copy.status != "good"),
                locator: copy.locator.as_ref().map(show::detail),
                storage: copy.storage,
            })
            .collect(),
        holds: manifest.as_ref().map(|manifest| Holds::of(manifest, &visitor)),
        manifest: whole.filter(|text| text.len() <= MAX_MANIFEST),
        events: events.into_iter().rev().map(|event| EventRow::of(event, now)).collect(),
        is_pinned: backup.pinned,
        may_write,
        can_restore: may_write && is_good && (is_database || is_files) && !backup.is_partial && backup.format.is_some(),
        can_verify: may_write && (is_good || is(BackupStatus::Damaged)),
        can_try: (is_database || is_files) && !backup.is_partial,
        can_download: has_copy && (is_good || is(BackupStatus::Damaged) || is(BackupStatus::Expired)),
        can_delete: may_write && !backup.pinned && !is(BackupStatus::Deleted) && !is(BackupStatus::InProgress),
        project: backup.project_id,
    })
}

fn facts(backup: &Backup, now: DateTime<Utc>) -> Vec<(&'static str, Html)> {
    let plain = |text: &str| Html::ours(show::escape(text));
    let code = |text: &str| Html::ours(format!("<code class=\"wrap\">{}</code>", show::escape(text)));
    let mut facts = vec![("Made", show::at(backup.created_at))];
    facts.extend(backup.created_by.as_deref().map(|by| ("By", show::name(by))));
    facts.push(("Origin", plain(&backup.backup_type)));
    if backup.size > 0 {
        facts.push(("Stored", show::size(backup.size)));
    }
    facts.extend(backup.content_size.map(|size| ("Dump", show::size(size))));
    facts.extend(seconds(backup).map(|taken| ("Took", Html::ours(show::lasted(taken)))));
    let encoding = [&backup.compression, &backup.encryption].into_iter().flatten();
    let encoding = encoding.map(String::as_str).filter(|word| *word != "none").collect::<Vec<_>>().join(", ");
    if !encoding.is_empty() {
        facts.push(("Encoded", plain(&encoding)));
    }
    let expires = if backup.pinned { plain("pinned: never") } else { show::when_or_nothing(backup.expires_at, now) };
    facts.push(("Expires", expires));
    facts.push((
        "Proved",
        match (backup.verified_at, backup.verified_depth.as_deref()) {
            (Some(at), Some(depth)) => Html::ours(format!("{} by depth {}", show::when(at, now), show::escape(depth))),
            (Some(at), None) => show::when(at, now),
            (None, _) => plain("not yet"),
        },
    ));
    facts.extend(backup.pg_version.as_deref().map(|version| ("PostgreSQL", plain(version))));
    facts.extend(backup.file_name.as_deref().map(|name| ("File", code(name))));
    facts.extend(backup.sha256.as_deref().map(|digest| ("SHA-256", code(digest))));
    facts.push(("Id", code(&backup.id.to_string())));
    facts
}

pub async fn verify(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
    key: IdempotencyKey,
    typed: Typed,
) -> Result<Response, Problem> {
    let depth = typed.get("depth").parse::<Depth>().map_err(|error| wrong("depth", &error.to_string()))?;
    let body = calls::VerifyBody { depth: Some(depth) };
    let accepted = calls::verify(State(api), visitor.signed, Ok(Id(id?.0)), key, Ok(Body(body))).await?;
    Ok(go(&job_path(&accepted), ""))
}

pub async fn pin(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    calls::pin::pin(State(api), visitor.signed, Ok(Id(id))).await?;
    Ok(go(&format!("/backups/{id}"), "The backup is pinned: it is kept whatever happens."))
}

pub async fn unpin(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    calls::pin::unpin(State(api), visitor.signed, Ok(Id(id))).await?;
    Ok(go(&format!("/backups/{id}"), "The backup is no longer pinned."))
}

fn delete_page(visitor: &Visitor, backup: &Backup, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let intro = format!(
        "Every copy of this backup ({}, {}) is deleted from every storage. This cannot be undone. Its history stays.",
        what(backup),
        backup.created_at.format("%Y-%m-%d %H:%M UTC"),
    );
    let mut form = form;
    form.is_grave = true;
    let back = (format!("/backups/{}", backup.id), "The backup".to_owned());
    let frame = visitor.frame(Place::Backups, "Delete a backup");
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

fn delete_form(backup: &Backup) -> Form {
    let field = Field::text("confirm", "Type the project's id").hint("So that it is this one.").required();
    Form::new(format!("/backups/{}/delete", backup.id), "Delete it", vec![field])
}

pub async fn ask_delete(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Response, Problem> {
    let backup = one(&api, &visitor, id?.0).await?.backup;
    visitor.signed.require(Permission::Write)?;
    delete_page(&visitor, &backup, delete_form(&backup), StatusCode::OK)
}

pub async fn delete(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
    key: IdempotencyKey,
    typed: Typed,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    let backup = one(&api, &visitor, id).await?.backup;
    if visitor.may_write() && typed.get("confirm") != backup.project_id.trim() {
        let problem = wrong("confirm", "this is not the project's id");
        let form = delete_form(&backup).typed(&typed).refused(&problem);
        return delete_page(&visitor, &backup, form, problem.status);
    }
    let accepted = calls::delete(State(api), visitor.signed, Ok(Id(id)), key).await?;
    Ok(go(&job_path(&accepted), ""))
}

/// The backup's bytes, as the API sends them: a cookie is enough to read.
pub async fn download(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
    parts: Parts,
) -> Result<Response, Problem> {
    let params = Params(crate::http::api::download::DownloadParams { from: None });
    let (method, headers) = (parts.method, parts.headers);
    crate::http::api::download::download(State(api), visitor.signed, id, Ok(params), method, headers).await
}
