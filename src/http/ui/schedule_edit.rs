//! The editor of schedules: it says an expression in words, with its next times in the chosen zone, while it is typed; without scripts at a
//! button.

use std::str::FromStr;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::Value;

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::Asked,
    projects::{other_storages, storage_choices},
    schedules::name,
    show::Html,
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    artifact::{BackupType, Compression, Format},
    cron::Zone,
    http::{
        Api,
        api::schedules::{self as calls, ScheduleId},
        error::Problem,
        extract::{Body, Id, Params},
    },
    retention::Rules,
    schedule::Schedule,
    tenant::Permission,
};

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
    ("days", "Keep each for days"),
    ("keep_last", "Keep the newest"),
    ("keep_daily", "Keep one a day, for days"),
    ("keep_weekly", "Keep one a week, for weeks"),
    ("keep_monthly", "Keep one a month, for months"),
    ("keep_yearly", "Keep one a year, for years"),
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
    fields.push(
        Field::text("zone", "Time zone")
            .hint("Such as Europe/Berlin.")
            .suggesting(Zone::names())
            .value(zone)
            .required(),
    );
    let storages = of.map_or_else(Vec::new, |schedule| schedule.storages.clone());
    fields.push(
        Field::new("storages", "Storages", Kind::Many(storage_choices(api, visitor, &storages).await?))
            .hint("None: as configured.")
            .values(&storages),
    );
    let words = |any: &str, words: &[&'static str]| {
        let any = (String::new(), any.to_owned());
        Kind::Choice(std::iter::once(any).chain(words.iter().map(|w| ((*w).to_owned(), (*w).to_owned()))).collect())
    };
    let formats: Vec<&'static str> = Format::DUMPS.iter().map(|word| word.as_str()).collect();
    let compressions: Vec<&'static str> = Compression::ALL.iter().map(|word| word.as_str()).collect();
    let is_database = of.is_none_or(|schedule| schedule.r#type == BackupType::Database.as_str());
    if is_database {
        fields.push(
            Field::new("format", "Format", words("as configured", &formats))
                .hint("Of a database. Single tables can be picked out of custom and tar.")
                .value(of.and_then(|schedule| schedule.format.clone()).unwrap_or_default()),
        );
    }
    fields.push(
        Field::new("compression", "Compression", words("as configured", &compressions))
            .value(of.and_then(|schedule| schedule.compression.clone()).unwrap_or_default()),
    );
    let minutes = of.and_then(|schedule| schedule.jitter_minutes);
    fields.push(
        Field::new("jitter_minutes", "Spread over minutes", Kind::Number)
            .hint("Each project begins at its own place in this window. Empty: as configured.")
            .value(minutes.map_or_else(String::new, |minutes| minutes.to_string())),
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
    // Without scripts the times come with a look that saves nothing.
    let look = "<noscript><p><button name=\"look\" value=\"1\">Show the times</button></p></noscript>";
    let below = Html::ours(format!(
        "{look}<div class=\"preview\" hx-get=\"/schedules/preview\" hx-include=\"#f-cron, #f-zone\" hx-trigger=\"input from:#f-cron delay:250ms, input from:#f-zone delay:250ms\" aria-live=\"polite\">{preview}</div>"
    ));
    let frame = visitor.frame(Place::Schedules, title);
    page_as(status, &FormPage { frame, back, intro: String::new(), form, below })
}

const ADD: &str = "Add a schedule";
const CHANGE: &str = "Change a schedule";

fn to_list() -> (String, String) {
    ("/schedules".to_owned(), "Schedules".to_owned())
}

pub async fn ask_add(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Write)?;
    let form = form(&api, &visitor, None, asked.given("project_id")).await?;
    edit_page(&api, &visitor, to_list(), ADD, form, StatusCode::OK).await
}

/// One of a set of words, where one was chosen.
fn word<T: FromStr>(typed: &Typed, name: &str) -> Result<Option<T>, Problem> {
    typed.given(name).map(|word| word.parse().map_err(|_| wrong(name, "there is no such choice"))).transpose()
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
    if typed.is_checked("look") {
        let form = form(&api, &visitor, None, None).await?.typed(&typed);
        return edit_page(&api, &visitor, to_list(), ADD, form, StatusCode::OK).await;
    }
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
            format: word(&typed, "format")?,
            compression: word(&typed, "compression")?,
            storages: typed.all("storages"),
            retention: rules(&typed)?,
            jitter_minutes: typed.number("jitter_minutes")?,
            enabled: None,
        };
        calls::add(State(api.clone()), visitor.signed.clone(), Ok(Body(body))).await
    };
    match added.await {
        Ok(_) => Ok(go("/schedules", "The schedule is added.")),
        Err(problem) => {
            let form = form(&api, &visitor, None, None).await?;
            refused(&api, &visitor, to_list(), ADD, form, &typed, problem).await
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
    let mut form = form.typed(typed).refused(&problem);
    // It lists every storage there is.
    if problem.code == "request.storage" && !visitor.is_operator() {
        form.hint = None;
    }
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
    edit_page(&api, &visitor, back, CHANGE, form, StatusCode::OK).await
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
    if typed.is_checked("look") {
        visitor.signed.require(Permission::Write)?;
        let form = form(&api, &visitor, Some(&schedule), None).await?.typed(&typed);
        return edit_page(&api, &visitor, (path, name(&schedule)), CHANGE, form, StatusCode::OK).await;
    }
    let changed = async {
        let body = calls::ChangeScheduleBody {
            name: Some(typed.get("name").to_owned()),
            cron: typed.given("cron"),
            zone: typed.given("zone"),
            format: Some(word(&typed, "format")?),
            compression: Some(word(&typed, "compression")?),
            storages: other_storages(&typed, &schedule.storages),
            retention: Some(rules(&typed)?),
            jitter_minutes: Some(typed.number("jitter_minutes")?),
            enabled: None,
        };
        calls::change(State(api.clone()), visitor.signed.clone(), Ok(Id(id)), Ok(Body(body))).await
    };
    match changed.await {
        Ok(_) => Ok(go(&path, "The schedule is changed.")),
        Err(problem) => {
            let back = (path, name(&schedule));
            let form = form(&api, &visitor, Some(&schedule), None).await?;
            refused(&api, &visitor, back, CHANGE, form, &typed, problem).await
        }
    }
}
