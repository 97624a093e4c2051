//! Schedules: the list, and one with its next times and newest runs. The editor is in `schedule_edit.rs`.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    frame::{Frame, Place},
    list::{Asked, Choice, Pages, ROWS},
    show::{self, Html},
    visit::{Typed, Visitor, go, page},
};
use crate::{
    http::{
        Api,
        api::schedules::{self as calls, ScheduleId},
        error::Problem,
        extract::{Body, Id, Params},
    },
    schedule::{DEFAULT_ID, Schedule},
};

struct Row {
    path: String,
    name: String,
    whom: String,
    what: String,
    cron: String,
    zone: String,
    words: String,
    next: Html,
    badge: Html,
}

fn whom(schedule: &Schedule) -> String {
    let pattern = schedule.name_pattern.as_deref().map(|pattern| format!("projects named {pattern}"));
    match (&schedule.project_id, &schedule.organization_id, pattern) {
        (Some(project), _, _) => format!("project {project}"),
        (None, Some(organization), None) => format!("projects of organisation {organization}"),
        (None, Some(organization), Some(pattern)) => format!("{pattern} of organisation {organization}"),
        (None, None, Some(pattern)) => pattern,
        (None, None, None) if schedule.id == DEFAULT_ID => "every project without a schedule of its own".to_owned(),
        (None, None, None) => "nothing".to_owned(),
    }
}

fn words(cron: &str) -> String {
    cron.parse::<crate::cron::Cron>().map_or_else(|error| error.to_string(), |cron| cron.describe())
}

pub fn name(schedule: &Schedule) -> String {
    match schedule.name.is_empty() {
        true => whom(schedule),
        false => schedule.name.clone(),
    }
}

#[derive(Template)]
#[template(path = "schedules.html")]
struct SchedulesPage {
    frame: Frame,
    rows: Vec<Row>,
    pages: Pages,
    action: &'static str,
    searches: Vec<(&'static str, &'static str, String)>,
    selects: Vec<(&'static str, &'static str, Vec<Choice>)>,
    may_add: bool,
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    let params =
        calls::ListParams { project_id: asked.given("project_id"), limit: Some(ROWS), cursor: asked.given("cursor") };
    let found = calls::list(State(api), visitor.signed.clone(), Ok(Params(params))).await?;
    let row = |schedule: Schedule| Row {
        path: format!("/schedules/{}", schedule.id),
        name: name(&schedule),
        // Where the name says it, it is said once.
        whom: Some(whom(&schedule)).filter(|whom| *whom != name(&schedule)).unwrap_or_default(),
        words: words(&schedule.cron),
        next: show::when_or_nothing(schedule.next_slot.filter(|_| schedule.enabled), visitor.now),
        badge: show::badge(if schedule.enabled { "enabled" } else { "off" }),
        what: schedule.r#type,
        cron: schedule.cron,
        zone: schedule.zone,
    };
    page(&SchedulesPage {
        frame: visitor.frame(Place::Schedules, "Schedules"),
        rows: found.data.into_iter().map(row).collect(),
        pages: asked.pages(found.next_cursor),
        action: "/schedules",
        searches: vec![("project_id", "Of the project", asked.get("project_id").to_owned())],
        selects: Vec::new(),
        may_add: visitor.may_write(),
    })
}

/// A run that was, or is to come.
struct RunRow {
    project: String,
    slot: Html,
    badge: Html,
    message: Option<String>,
    job: Option<String>,
}

#[derive(Template)]
#[template(path = "schedule.html")]
struct SchedulePage {
    frame: Frame,
    path: String,
    name: String,
    badge: Html,
    words: String,
    cron: String,
    zone: String,
    next: Vec<String>,
    facts: Vec<(&'static str, Html)>,
    runs: Vec<RunRow>,
    may_change: bool,
    is_enabled: bool,
}

pub async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<ScheduleId>, Problem>,
) -> Result<Response, Problem> {
    let found = calls::show(State(api), visitor.signed.clone(), id).await?.data;
    let schedule = found.schedule;
    let plain = show::name;
    let mut facts = vec![("For", show::name(&whom(&schedule))), ("Takes", plain(&schedule.r#type))];
    facts.extend(schedule.format.as_deref().map(|format| ("Format", plain(format))));
    facts.extend(schedule.compression.as_deref().map(|word| ("Compression", plain(word))));
    let storages = if schedule.storages.is_empty() { "as configured".to_owned() } else { schedule.storages.join(", ") };
    facts.push(("Storages", plain(&storages)));
    let rules = schedule.retention.as_ref().map_or_else(|| "as configured".to_owned(), show::detail);
    facts.push(("Kept", plain(&rules)));
    let window = schedule.jitter_minutes.map_or_else(|| "as configured".to_owned(), |m| format!("{m} minutes"));
    facts.push(("Spread over", plain(&window)));
    facts.extend(schedule.created_by.as_deref().map(|by| ("By", show::name(by))));
    let run = |run: crate::schedule::ScheduledRun| RunRow {
        slot: show::at(run.slot),
        badge: show::badge(&run.status),
        message: run.message,
        job: run.job_id.map(|id| format!("/jobs/{id}")),
        project: run.project_id,
    };
    page(&SchedulePage {
        frame: visitor.frame(Place::Schedules, "Schedule"),
        path: format!("/schedules/{}", schedule.id),
        badge: show::badge(if schedule.enabled { "enabled" } else { "off" }),
        words: found.description,
        next: found.next_runs.into_iter().map(|next| next.local).collect(),
        facts,
        runs: found.runs.into_iter().map(run).collect(),
        may_change: visitor.may_write() && schedule.id != DEFAULT_ID,
        is_enabled: schedule.enabled,
        name: name(&schedule),
        cron: schedule.cron,
        zone: schedule.zone,
    })
}

/// Switches it on or off.
pub async fn switch(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<ScheduleId>, Problem>,
    typed: Typed,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    let enabled = typed.is_checked("enabled");
    let body: calls::ChangeScheduleBody =
        serde_json::from_value(serde_json::json!({ "enabled": enabled })).map_err(|_| Problem::internal())?;
    let schedule = calls::change(State(api), visitor.signed, Ok(Id(id)), Ok(Body(body))).await?.data;
    let told = if enabled { "The schedule is on." } else { "The schedule is off." };
    Ok(go(&format!("/schedules/{}", schedule.id), told))
}

pub async fn remove(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<ScheduleId>, Problem>,
) -> Result<Response, Problem> {
    calls::remove(State(api), visitor.signed, id).await?;
    Ok(go("/schedules", "The schedule is removed. What it has taken stays as long as its retention says."))
}
