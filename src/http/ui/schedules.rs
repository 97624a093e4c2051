//! Schedules: the list, one with its next times and newest runs, and the editor, which says an expression in words while it is typed.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::Value;

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::{Frame, Place},
    list::{Asked, Pages, ROWS},
    projects::{other_storages, storage_choices},
    show::{self, Html},
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    artifact::BackupType,
    http::{
        Api,
        api::schedules::{self as calls, ScheduleId},
        error::Problem,
        extract::{Body, Id, Params},
    },
    retention::Rules,
    schedule::{DEFAULT_ID, Schedule},
    tenant::Permission,
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

fn name(schedule: &Schedule) -> String {
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
    may_add: bool,
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    let params =
        calls::ListParams { project_id: asked.given("project_id"), limit: Some(ROWS), cursor: asked.given("cursor") };
    let found = calls::list(State(api), visitor.signed.clone(), Ok(Params(params))).await?;
    let row = |schedule: Schedule| Row {
        path: format!("/schedules/{}", schedule.id),
        name: name(&schedule),
        whom: whom(&schedule),
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
    let plain = |text: &str| Html::ours(show::escape(text));
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

#[derive(Template)]
#[template(path = "schedule_preview.html")]
struct PreviewPart {
    words: String,
    zone: String,
    next: Vec<String>,
    problem: Option<String>,
}

async fn preview_of(api: &Api, visitor: &Visitor, cron: &str, zone: Option<String>) -> Result<PreviewPart, Problem> {
    let params = calls::PreviewParams { cron: cron.to_owned(), zone };
    match calls::preview(State(api.clone()), visitor.signed.clone(), Ok(Params(params))).await {
        Ok(found) => Ok(PreviewPart {
            words: found.data.description,
            zone: found.data.zone,
            next: found.data.next_runs.into_iter().map(|next| next.local).collect(),
            problem: None,
        }),
        Err(problem) if problem.status == StatusCode::UNPROCESSABLE_ENTITY => Ok(PreviewPart {
            words: String::new(),
            zone: String::new(),
            next: Vec::new(),
            problem: Some(problem.detail),
        }),
        Err(problem) => Err(problem),
    }
}

/// The expression in words, for the editor.
pub async fn preview(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    page(&preview_of(&api, &visitor, asked.get("cron"), asked.given("zone")).await?)
}

/// The rules' names in the form, and in what is kept.
const RULES: [(&str, &str); 6] = [
    ("days", "Days"),
    ("keep_last", "The last"),
    ("keep_daily", "Days with one each"),
    ("keep_weekly", "Weeks with one each"),
    ("keep_monthly", "Months with one each"),
    ("keep_yearly", "Years with one each"),
];

async fn form(api: &Api, visitor: &Visitor, of: Option<&Schedule>, project: Option<String>) -> Result<Form, Problem> {
    let value = |text: Option<&String>| text.cloned().unwrap_or_default();
    let mut fields = vec![Field::text("name", "Name").value(of.map_or_else(String::new, |s| s.name.clone()))];
    if of.is_none() {
        fields.push(
            Field::text("project_id", "Project")
                .hint("Its id; or leave it empty and choose many below.")
                .value(value(project.as_ref())),
        );
        if visitor.is_admin() {
            fields.push(Field::text("organization_id", "Every project of the organisation"));
            fields.push(
                Field::text("name_pattern", "Every project whose name or id is like")
                    .hint("With * and ?, such as shop-*."),
            );
        }
        let types = BackupType::ALL.iter().map(|word| (word.as_str().to_owned(), word.as_str().to_owned()));
        fields.push(Field::new("type", "Takes", Kind::Choice(types.collect())));
    }
    let cron = of.map_or_else(|| "30 3 * * *".to_owned(), |schedule| schedule.cron.clone());
    let zone = of.map_or_else(|| api.app.config.schedules.zone.clone(), |schedule| schedule.zone.clone());
    fields.push(
        Field::text("cron", "When").hint("Minute, hour, day of month, month, day of week.").value(cron).required(),
    );
    fields.push(Field::text("zone", "Time zone").hint("Such as Europe/Berlin.").value(zone).required());
    let storages = of.map_or_else(Vec::new, |schedule| schedule.storages.clone());
    fields.push(
        Field::new("storages", "Storages", Kind::Many(storage_choices(api, visitor, &storages).await?))
            .hint("None: as configured.")
            .values(&storages),
    );
    for (name, label) in RULES {
        let kept = of.and_then(|schedule| schedule.retention.as_ref()?.get(name)?.as_u64());
        let field =
            Field::new(name, label, Kind::Number).value(kept.map_or_else(String::new, |number| number.to_string()));
        fields.push(if name == "days" {
            field.hint("What is kept, by any of these rules. All empty: as configured.")
        } else {
            field
        });
    }
    let action =
        of.map_or_else(|| "/schedules/new".to_owned(), |schedule| format!("/schedules/{}/change", schedule.id));
    Ok(Form::new(action, "Save", fields))
}

async fn edit_page(
    api: &Api,
    visitor: &Visitor,
    back: (String, String),
    title: &str,
    form: Form,
    status: StatusCode,
) -> Result<Response, Problem> {
    let typed = |name: &str| {
        let field = form.fields.iter().find(|field| field.name == name);
        field.and_then(|field| field.values.first().cloned()).unwrap_or_default()
    };
    let preview = preview_of(api, visitor, &typed("cron"), Some(typed("zone")).filter(|zone| !zone.is_empty())).await?;
    let preview = preview.render().map_err(|error| {
        tracing::error!(%error, "a page could not be made");
        Problem::internal()
    })?;
    let below = Html::ours(format!(
        "<div class=\"preview\" hx-get=\"/schedules/preview\" hx-include=\"#f-cron, #f-zone\" hx-trigger=\"input from:#f-cron delay:250ms, input from:#f-zone delay:250ms\" aria-live=\"polite\">{preview}</div>"
    ));
    let frame = visitor.frame(Place::Schedules, title);
    page_as(status, &FormPage { frame, back, intro: String::new(), form, below })
}

fn to_list() -> (String, String) {
    ("/schedules".to_owned(), "Schedules".to_owned())
}

pub async fn ask_add(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Write)?;
    let form = form(&api, &visitor, None, asked.given("project_id")).await?;
    edit_page(&api, &visitor, to_list(), "Add a schedule", form, StatusCode::OK).await
}

/// What is kept, as JSON of [`Rules`]; `null` without any rule.
fn rules(typed: &Typed) -> Result<Option<Rules>, Problem> {
    let mut given = serde_json::Map::new();
    for (name, _) in RULES {
        if let Some(number) = typed.number(name)? {
            given.insert(name.to_owned(), Value::from(number));
        }
    }
    if given.is_empty() {
        return Ok(None);
    }
    serde_json::from_value(Value::Object(given)).map(Some).map_err(|error| wrong("days", &error.to_string()))
}

pub async fn add(State(api): State<Api>, visitor: Visitor, typed: Typed) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Write)?;
    let added = async {
        let body = calls::AddScheduleBody {
            name: typed.get("name").to_owned(),
            project_id: typed.given("project_id"),
            organization_id: typed.given("organization_id"),
            name_pattern: typed.given("name_pattern"),
            r#type: typed
                .given("type")
                .map(|word| word.parse())
                .transpose()
                .map_err(|_| wrong("type", "no such type"))?,
            cron: typed.get("cron").to_owned(),
            zone: typed.given("zone"),
            format: None,
            compression: None,
            storages: typed.all("storages"),
            retention: rules(&typed)?,
            jitter_minutes: None,
            enabled: None,
        };
        calls::add(State(api.clone()), visitor.signed.clone(), Ok(Body(body))).await
    };
    match added.await {
        Ok(_) => Ok(go("/schedules", "The schedule is added.")),
        Err(problem) => {
            let form = form(&api, &visitor, None, None).await?;
            refused(&api, &visitor, to_list(), "Add a schedule", form, &typed, problem).await
        }
    }
}

async fn refused(
    api: &Api,
    visitor: &Visitor,
    back: (String, String),
    title: &str,
    form: Form,
    typed: &Typed,
    problem: Problem,
) -> Result<Response, Problem> {
    if problem.status.is_server_error() {
        return Err(problem);
    }
    let form = form.typed(typed).refused(&problem);
    let mut response = edit_page(api, visitor, back, title, form, problem.status).await?;
    super::problem::carry(&mut response, problem);
    Ok(response)
}

pub async fn ask_change(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<ScheduleId>, Problem>,
) -> Result<Response, Problem> {
    let schedule = calls::show(State(api.clone()), visitor.signed.clone(), id).await?.data.schedule;
    visitor.signed.require(Permission::Write)?;
    let back = (format!("/schedules/{}", schedule.id), name(&schedule));
    let form = form(&api, &visitor, Some(&schedule), None).await?;
    edit_page(&api, &visitor, back, "Change a schedule", form, StatusCode::OK).await
}

pub async fn change(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<ScheduleId>, Problem>,
    typed: Typed,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    let schedule = calls::show(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data.schedule;
    let path = format!("/schedules/{}", schedule.id);
    let changed = async {
        let body = calls::ChangeScheduleBody {
            name: Some(typed.get("name").to_owned()),
            cron: typed.given("cron"),
            zone: typed.given("zone"),
            format: None,
            compression: None,
            storages: other_storages(&typed, &schedule.storages),
            retention: Some(rules(&typed)?),
            jitter_minutes: None,
            enabled: None,
        };
        calls::change(State(api.clone()), visitor.signed.clone(), Ok(Id(id)), Ok(Body(body))).await
    };
    match changed.await {
        Ok(_) => Ok(go(&path, "The schedule is changed.")),
        Err(problem) => {
            let back = (path, name(&schedule));
            let form = form(&api, &visitor, Some(&schedule), None).await?;
            refused(&api, &visitor, back, "Change a schedule", form, &typed, problem).await
        }
    }
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
