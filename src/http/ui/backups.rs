//! Backups: the list, and what can be done with one. Its page is in `backup.rs`.

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
    history::{Backup, BackupStatus},
    http::{
        Api,
        api::{
            backup as calls,
            download::{DownloadQuery, download_backup},
        },
        error::Problem,
        extract::{Body, Id, IdempotencyKey, Params},
    },
    ids::BackupId,
    jobs::request::Depth,
    tenant::Permission,
};

/// A backup in a list.
#[derive(Clone, Debug)]
pub struct Row {
    pub path: String,
    pub project: String,
    pub project_path: String,
    pub what: String,
    pub badge: Html,
    pub at: Html,
    /// The same to the minute: of two of one day it matters which one.
    pub exact: Html,
    pub size: Html,
    pub took: Html,
    pub expires: Html,
    pub proof: Html,
    pub why: Option<String>,
}

pub fn seconds(backup: &Backup) -> Option<f64> {
    Some((backup.finished_at? - backup.started_at?).num_milliseconds() as f64 / 1000.0)
}

impl Row {
    pub fn of(backup: Backup, now: DateTime<Utc>) -> Self {
        Self {
            path: format!("/backups/{}", backup.id),
            badge: show::badge(&backup.status),
            at: show::when(backup.created_at, now),
            exact: show::at(backup.created_at),
            size: if backup.size > 0 { show::size(backup.size) } else { show::nothing() },
            took: seconds(&backup).map_or_else(Html::default, show::took),
            expires: match backup.pinned {
                true => Html::ours("<span class=\"badge dull\">pinned</span>".to_owned()),
                false => show::when_or_nothing(backup.expires_at, now),
            },
            proof: show::when_or_nothing(backup.verified_at, now),
            why: backup.message.clone().filter(|_| !backup.is_complete()),
            what: what(&backup),
            project_path: format!("/projects/{}", show::in_path(&backup.project_id)),
            project: backup.project_id,
        }
    }
}

pub fn what(backup: &Backup) -> String {
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
        expiring_within: asked.given("expires"),
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
            ("expires", "Expires", choices("any time", EXPIRES.map(|(v, t)| (v, t.to_owned())), asked.get("expires"))),
        ],
    })
}

/// Choices of the filter by the time that is left.
const EXPIRES: [(&str, &str); 3] = [("1d", "within a day"), ("7d", "within 7 days"), ("30d", "within 30 days")];

/// One backup within reach.
pub async fn one(api: &Api, visitor: &Visitor, id: BackupId) -> Result<calls::BackupWithCopies, Problem> {
    Ok(calls::show(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data)
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
        "Every copy of this backup of {} ({}, {}) is deleted from every storage. This cannot be undone. Its history stays.",
        show::unturned(&backup.project_id),
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
    let field =
        Field::text("confirm", "Type the project's id").hint("So that no other one is deleted by mistake.").required();
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

/// The backup's bytes, or what they hold, as the API sends them: a cookie is enough to read.
pub async fn download(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
    asked: Asked,
    parts: Parts,
) -> Result<Response, Problem> {
    let params = Params(DownloadQuery {
        from: asked.given("from"),
        decrypt: asked.given("decrypt").map(|given| matches!(given.as_str(), "1" | "true")),
    });
    let (method, headers) = (parts.method, parts.headers);
    download_backup(State(api), visitor.signed, id, Ok(params), method, headers).await
}
