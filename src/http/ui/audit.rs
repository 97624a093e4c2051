//! The audit trail, with filters and an export.

use askama::Template;
use axum::{extract::State, response::Response};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use url::form_urlencoded;

use super::{
    frame::{Frame, Place},
    list::{Asked, Choice, Pages, ROWS, choices, plain},
    show::{self, Html},
    visit::{Visitor, page, wrong},
};
use crate::{
    history::AuditEntry,
    http::{Api, api::audit as calls, error::Problem},
};

struct Row {
    at: Html,
    event: String,
    badge: Option<Html>,
    actor: String,
    address: Option<String>,
    project: Option<String>,
    backup: Option<String>,
    detail: String,
}

impl Row {
    fn of(entry: AuditEntry) -> Self {
        Self {
            at: show::at(entry.at),
            event: entry.event.replace('_', " "),
            badge: (entry.outcome != "ok").then(|| show::badge(&entry.outcome)),
            actor: entry.actor,
            address: entry.address,
            project: entry.project_id,
            backup: entry.backup_id.map(|id| format!("/backups/{id}")),
            detail: show::detail(&entry.detail),
        }
    }
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    rows: Vec<Row>,
    pages: Pages,
    action: &'static str,
    searches: Vec<(&'static str, &'static str, String)>,
    selects: Vec<(&'static str, &'static str, Vec<Choice>)>,
    /// The same filters, for the API's own export.
    export: String,
}

fn day(asked: &Asked, name: &'static str) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = asked.given(name) else { return Ok(None) };
    let day = text.parse::<NaiveDate>().map_err(|_| wrong(name, "this is not a date: write 2026-11-21"))?;
    Ok(Some(day.and_time(NaiveTime::MIN).and_utc()))
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    let (since, until) = (day(&asked, "since")?, day(&asked, "until")?);
    let params = calls::ListParams {
        project_id: asked.given("project_id"),
        backup_id: None,
        actor: asked.given("actor"),
        event: asked.given("event").map(|event| event.replace(' ', "_")),
        outcome: asked.given("outcome"),
        since,
        until,
        format: None,
        limit: Some(ROWS),
        cursor: asked.given("cursor"),
    };
    let export = export(&params);
    let found = calls::entries(&api, &visitor.signed, params).await?;
    let outcomes = ["ok", "refused", "failed"].map(plain);
    page(&AuditPage {
        frame: visitor.frame(Place::Audit, "Audit trail"),
        rows: found.data.into_iter().map(Row::of).collect(),
        pages: asked.pages(found.next_cursor),
        action: "/audit",
        searches: vec![
            ("project_id", "Project", asked.get("project_id").to_owned()),
            ("actor", "Who", asked.get("actor").to_owned()),
            ("event", "What", asked.get("event").to_owned()),
            ("since", "From the day", asked.get("since").to_owned()),
            ("until", "Before the day", asked.get("until").to_owned()),
        ],
        selects: vec![("outcome", "Outcome", choices("any", outcomes, asked.get("outcome")))],
        export,
    })
}

/// The same filters for the API's own export.
fn export(params: &calls::ListParams) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let texts = [
        ("project_id", &params.project_id),
        ("actor", &params.actor),
        ("event", &params.event),
        ("outcome", &params.outcome),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            query.append_pair(name, text);
        }
    }
    for (name, at) in [("since", params.since), ("until", params.until)] {
        if let Some(at) = at {
            query.append_pair(name, &at.to_rfc3339());
        }
    }
    query.append_pair("format", "csv").finish()
}
