//! Projects: how each stands, one with its days, backups and jobs, and what admins do with them.

use std::collections::BTreeSet;

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::{
    backups,
    days::{self, Days},
    form::{Field, Form, FormPage, Kind},
    frame::{Frame, Place},
    jobs::{self, job_path},
    list::{Asked, Choice, Pages, ROWS, choices},
    show::{self, Html},
    standing::{self, Row},
    visit::{Typed, Visitor, go, is_partial, page, page_as},
};
use crate::{
    catalog::{Project, ProjectChanges},
    history::{self, BackupFilter, StandingFilter},
    http::{
        Api,
        api::{backup::ask, jobs as job_calls, projects as calls, schedules as schedule_calls},
        error::Problem,
        extract::{Body, IdempotencyKey, Params},
        named::{self, Named},
    },
    jobs::request,
    manage::{
        projects::{self as manage, AddProject, Home, What},
        require_admin, require_operator, storages,
    },
    tenant::Permission,
};

#[derive(Template)]
#[template(path = "projects.html")]
struct ProjectsPage {
    frame: Frame,
    rows: Vec<Row>,
    pages: Pages,
    action: &'static str,
    searches: Vec<(&'static str, &'static str, String)>,
    selects: Vec<(&'static str, &'static str, Vec<Choice>)>,
    may_add: bool,
    may_discover: bool,
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Read)?;
    let limit = ROWS as usize;
    let filter = StandingFilter {
        search: asked.given("q"),
        status: asked.given("status"),
        after: named::after(asked.given("cursor").as_deref())?,
        limit: i64::from(ROWS) + 1,
        ..StandingFilter::default()
    };
    let found = history::standing_projects(&api.app.pool, &visitor.caller().scope(), &filter).await?;
    let found = named::page(found, limit, |project| &project.id);
    let states = ["ACTIVE", "INACTIVE", "PENDING"].map(|word| (word, word.to_lowercase()));
    page(&ProjectsPage {
        frame: visitor.frame(Place::Projects, "Projects"),
        rows: standing::rows(&api, &visitor, found.data).await?,
        pages: asked.pages(found.next_cursor),
        action: "/projects",
        searches: vec![("q", "Name or id", asked.get("q").to_owned())],
        selects: vec![("status", "Status", choices("any", states, asked.get("status")))],
        may_add: visitor.is_admin() && visitor.may_write(),
        may_discover: visitor.is_operator() && visitor.may_write(),
    })
}

/// A schedule in a few words.
struct ScheduleRow {
    path: String,
    name: String,
    cron: String,
    zone: String,
    next: Html,
}

#[derive(Template)]
#[template(path = "project.html")]
struct ProjectPage {
    frame: Frame,
    path: String,
    name: String,
    row: Option<Row>,
    facts: Vec<(&'static str, Html)>,
    rows: Vec<backups::Row>,
    jobs: Vec<jobs::Row>,
    schedules: Vec<ScheduleRow>,
    days: Days,
    may_back_up: bool,
    may_change: bool,
    may_write: bool,
    query: String,
}

pub async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    headers: HeaderMap,
    Named(id): Named,
) -> Result<Response, Problem> {
    let shown = calls::show(State(api.clone()), visitor.signed.clone(), Named(id.clone())).await?.data;
    let (pool, scope, now) = (&api.app.pool, visitor.caller().scope(), visitor.now);
    let since = days::since(now);
    let is_part = is_partial(&headers);
    let filter = BackupFilter { project_id: Some(id.clone()), limit: 10, ..BackupFilter::default() };
    let list = job_calls::ListParams {
        project_id: Some(id.clone()),
        r#type: None,
        status: None,
        limit: Some(8),
        cursor: None,
    };
    let schedules = schedule_calls::ListParams { project_id: Some(id.clone()), limit: Some(20), cursor: None };
    let only = StandingFilter { id: Some(id.clone()), limit: 1, ..StandingFilter::default() };
    let (standing, days, backups, jobs, schedules) = tokio::try_join!(
        async { Ok::<_, Problem>(history::standing_projects(pool, &scope, &only).await?) },
        async { Ok(if is_part { Vec::new() } else { history::days(pool, &scope, Some(&id), since).await? }) },
        async { Ok(history::list(pool, &scope, &filter).await?) },
        job_calls::list(State(api.clone()), visitor.signed.clone(), Ok(Params(list))),
        schedule_calls::list(State(api.clone()), visitor.signed.clone(), Ok(Params(schedules))),
    )?;
    let rows = standing::rows(&api, &visitor, standing).await?;
    let plain = show::name;
    let mut facts = vec![
        ("Id", Html::ours(format!("<code class=\"wrap\">{}</code>", show::escape(&shown.id)))),
        ("Status", show::badge(&shown.status)),
        (
            "Backed up",
            match &shown.schema {
                Some(schema) => Html::ours(format!("schema <code class=\"wrap\">{}</code>", show::escape(schema))),
                None => plain("the whole database"),
            },
        ),
    ];
    facts.extend(shown.database.as_deref().map(|name| ("Database", show::name(name))));
    facts.extend(shown.organization_id.as_deref().map(|name| ("Organisation", show::name(name))));
    let storages = if shown.storages.is_empty() { "as configured".to_owned() } else { shown.storages.join(", ") };
    facts.push(("Storages", plain(&storages)));
    let kept = shown.retention_days.map_or_else(|| "as configured".to_owned(), |days| format!("{days} days"));
    facts.push(("Kept for", plain(&kept)));
    facts.extend(shown.max_rate.as_deref().map(|rate| ("Largest rate of uploads", plain(&format!("{rate} a second")))));
    facts.push(("Added", show::when(shown.created_at, now)));
    let redacted = |backup| crate::http::redact::backup(backup, visitor.caller());
    let is_active = shown.status == Project::ACTIVE;
    page(&ProjectPage {
        frame: visitor.frame(Place::Projects, if shown.name.is_empty() { &shown.id } else { &shown.name }.clone()),
        path: format!("/projects/{}", show::in_path(&shown.id)),
        query: show::in_query(&shown.id),
        name: if shown.name.is_empty() { shown.id.clone() } else { shown.name },
        row: rows.into_iter().next(),
        facts,
        rows: backups.into_iter().map(|backup| backups::Row::of(redacted(backup), now)).collect(),
        jobs: jobs.data.into_iter().map(|job| jobs::Row::of(job, now)).collect(),
        schedules: schedules
            .data
            .into_iter()
            .map(|schedule| ScheduleRow {
                path: format!("/schedules/{}", schedule.id),
                name: schedule.name,
                cron: schedule.cron,
                zone: schedule.zone,
                next: show::when_or_nothing(schedule.next_slot.filter(|_| schedule.enabled), now),
            })
            .collect(),
        days: Days::of(&days, now),
        may_back_up: visitor.may_write() && is_active,
        may_change: visitor.is_admin() && visitor.may_write(),
        may_write: visitor.may_write(),
    })
}

/// Takes a backup of the database now, as configured.
pub async fn back_up(
    State(api): State<Api>,
    visitor: Visitor,
    Named(id): Named,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let body: ask::ExportBody = serde_json::from_value(serde_json::json!({ "project_id": id })).map_err(|error| {
        tracing::error!(%error, "a request for a backup could not be made");
        Problem::internal()
    })?;
    let accepted = ask::export(State(api), visitor.signed, key, Ok(Body(body))).await?;
    Ok(go(&job_path(&accepted), ""))
}

/// Storages that a project or schedule may name, and those that it names already (`own`). Operators know them all; whoever else is told of
/// those alone that keep something of what they reach, as a backup's copies tell them too.
pub async fn storage_choices(api: &Api, visitor: &Visitor, own: &[String]) -> Result<Vec<(String, String)>, Problem> {
    let mut choices: Vec<(String, String)> = if visitor.is_operator() {
        let all = storages::list(&api.app, visitor.caller()).await?;
        all.into_iter()
            .map(|storage| (storage.name.clone(), format!("{} ({})", storage.name, storage.r#type)))
            .collect()
    } else {
        let names = request::known_storages(&api.app, visitor.caller()).await?;
        names.into_iter().map(|name| (name.clone(), name)).collect()
    };
    for name in own {
        if !choices.iter().any(|(choice, _)| choice == name) {
            let text = if visitor.is_operator() { format!("{name} (not available)") } else { name.clone() };
            choices.push((name.clone(), text));
        }
    }
    Ok(choices)
}

/// The storages that were chosen, if they are others than before.
pub fn other_storages(typed: &Typed, before: &[String]) -> Option<Vec<String>> {
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let chosen = typed.all("storages");
    (set(&chosen) != set(before)).then_some(chosen)
}

async fn add_form(api: &Api, visitor: &Visitor) -> Result<Form, Problem> {
    let mut fields = vec![
        Field::text("id", "Id")
            .hint("Letters, digits, '-' and '_'. It is part of addresses and file names, and stays.")
            .required(),
        Field::text("name", "Name").required(),
    ];
    if visitor.is_operator() {
        let kinds =
            [("", "the schema tenant_{id}"), ("schema", "the schema named below"), ("database", "the whole database")];
        let kinds = kinds.map(|(value, text)| (value.to_owned(), text.to_owned())).to_vec();
        fields.push(Field::new("what", "What is backed up", Kind::Choice(kinds)));
        fields.push(Field::text("schema", "Schema"));
        let databases = crate::manage::databases::list(&api.app, visitor.caller(), None, 200).await?;
        let own = (String::new(), "the control plane's own".to_owned());
        let others = databases.into_iter().map(|database| (database.name.clone(), database.name));
        fields.push(Field::new("database", "Database", Kind::Choice(std::iter::once(own).chain(others).collect())));
        fields.push(Field::text("organization_id", "Organisation"));
    }
    fields.push(
        Field::new("storages", "Storages", Kind::Many(storage_choices(api, visitor, &[]).await?))
            .hint("None: as configured."),
    );
    fields.push(Field::new("retention_days", "Days that backups are kept", Kind::Number).hint("Empty: as configured."));
    Ok(Form::new("/projects/new", "Add the project", fields))
}

fn add_page(visitor: &Visitor, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let back = ("/projects".to_owned(), "Projects".to_owned());
    let intro = match visitor.is_operator() {
        true => String::new(),
        false => {
            "It waits until an operator makes it active: a schema's name alone does not say whose it is.".to_owned()
        }
    };
    let frame = visitor.frame(Place::Projects, "Add a project");
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

pub async fn ask_add(State(api): State<Api>, visitor: Visitor) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    add_page(&visitor, add_form(&api, &visitor).await?, StatusCode::OK)
}

fn new_project(typed: &Typed) -> Result<AddProject, Problem> {
    Ok(AddProject {
        id: typed.get("id").parse().map_err(|error| super::visit::wrong("id", &format!("{error}")))?,
        name: typed.get("name").to_owned(),
        slug: None,
        organization_id: typed.given("organization_id"),
        home: typed.given("database").map_or(Home::Control, Home::Database),
        what: match typed.get("what") {
            "schema" => What::Schema(typed.get("schema").to_owned()),
            "database" => What::WholeDatabase,
            _ => What::OwnSchema,
        },
        storages: typed.all("storages"),
        retention_days: typed.number("retention_days")?,
        files: None,
    })
}

pub async fn add(State(api): State<Api>, visitor: Visitor, typed: Typed) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let added = async { Ok(manage::add(&api.app, visitor.caller(), new_project(&typed)?).await?) };
    match added.await {
        Ok(added) => {
            let told =
                added.warning.filter(|_| visitor.is_operator()).unwrap_or_else(|| "The project is added.".to_owned());
            Ok(go(&format!("/projects/{}", show::in_path(&added.project.id)), &told))
        }
        Err(problem) => {
            again(add_form(&api, &visitor).await?, &typed, problem, |form, status| add_page(&visitor, form, status))
        }
    }
}

/// The form again, with what was typed and what is wrong with it. The problem goes along for the audit trail.
pub fn again(
    form: Form,
    typed: &Typed,
    problem: Problem,
    page: impl FnOnce(Form, StatusCode) -> Result<Response, Problem>,
) -> Result<Response, Problem> {
    if problem.status.is_server_error() || problem.status == StatusCode::UNAUTHORIZED {
        return Err(problem);
    }
    let mut response = page(form.typed(typed).refused(&problem), problem.status)?;
    super::problem::carry(&mut response, problem);
    Ok(response)
}

async fn change_form(api: &Api, visitor: &Visitor, id: &str) -> Result<Form, Problem> {
    let shown = calls::show(State(api.clone()), visitor.signed.clone(), Named(id.to_owned())).await?.data;
    let mut states =
        vec![("ACTIVE".to_owned(), "active".to_owned()), ("INACTIVE".to_owned(), "not backed up".to_owned())];
    if !states.iter().any(|(status, _)| *status == shown.status) {
        states.push((shown.status.clone(), shown.status.to_lowercase()));
    }
    let days = shown.retention_days.map_or_else(String::new, |days| days.to_string());
    let mut fields = vec![
        Field::text("name", "Name").value(shown.name).required(),
        Field::new("status", "Status", Kind::Choice(states)).value(shown.status),
        Field::new("storages", "Storages", Kind::Many(storage_choices(api, visitor, &shown.storages).await?))
            .hint("None: as configured.")
            .values(&shown.storages),
        Field::new("retention_days", "Days that backups are kept", Kind::Number)
            .hint("Empty: as configured.")
            .value(days),
    ];
    if visitor.is_operator() {
        let rate = Field::text("max_rate", "Largest rate of uploads")
            .hint("A second, such as 20 MiB, for all its backups together. Empty: any.");
        fields.push(rate.value(shown.max_rate.unwrap_or_default()));
    }
    Ok(Form::new(format!("/projects/{}/change", show::in_path(id)), "Save", fields))
}

fn change_page(visitor: &Visitor, id: &str, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let back = (format!("/projects/{}", show::in_path(id)), id.to_owned());
    let intro = "It holds from the next backup on.".to_owned();
    page_as(
        status,
        &FormPage {
            frame: visitor.frame(Place::Projects, "Change a project"),
            back,
            intro,
            form,
            below: Html::default(),
        },
    )
}

pub async fn ask_change(State(api): State<Api>, visitor: Visitor, Named(id): Named) -> Result<Response, Problem> {
    let form = change_form(&api, &visitor, &id).await?;
    require_admin(visitor.caller(), Permission::Write)?;
    change_page(&visitor, &id, form, StatusCode::OK)
}

pub async fn change(
    State(api): State<Api>,
    visitor: Visitor,
    Named(id): Named,
    typed: Typed,
) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let before = manage::show(&api.app, visitor.caller(), &id).await?;
    let changed = async {
        let changes = ProjectChanges {
            name: typed.given("name").filter(|name| *name != before.name),
            status: typed.given("status").filter(|status| *status != before.status),
            storages: other_storages(&typed, &before.own_settings().storages),
            retention_days: Some(typed.number("retention_days")?),
            organization_id: None,
            scope: None,
            database_name: None,
            files: None,
            proof: None,
            max_rate: if typed.has("max_rate") { Some(typed.size("max_rate")?) } else { None },
        };
        Ok(manage::change(&api.app, visitor.caller(), &id, changes).await?)
    };
    match changed.await {
        Ok(_) => Ok(go(&format!("/projects/{}", show::in_path(&id)), "The project is changed.")),
        Err(problem) => {
            let form = change_form(&api, &visitor, &id).await?;
            again(form, &typed, problem, |form, status| change_page(&visitor, &id, form, status))
        }
    }
}

/// A schema that could be a project's.
struct FoundRow {
    schema: String,
    project: Option<String>,
    problem: Option<String>,
    is_added: bool,
}

#[derive(Template)]
#[template(path = "discover.html")]
struct DiscoverPage {
    frame: Frame,
    rows: Vec<FoundRow>,
    can_add: bool,
}

async fn look(api: Api, visitor: Visitor, is_adding: bool) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let body = calls::Discover { add: is_adding };
    let found = calls::discover(State(api), visitor.signed.clone(), Ok(Body(body))).await?.data;
    let rows: Vec<FoundRow> = found
        .into_iter()
        .map(|found| FoundRow {
            schema: found.schema,
            project: found.project_id,
            problem: found.problem,
            is_added: found.added,
        })
        .collect();
    let can_add = rows.iter().any(|row| row.project.is_some() && !row.is_added && row.problem.is_none());
    page(&DiscoverPage { frame: visitor.frame(Place::Projects, "Find projects"), rows, can_add })
}

pub async fn discover(State(api): State<Api>, visitor: Visitor) -> Result<Response, Problem> {
    look(api, visitor, false).await
}

pub async fn enrol(State(api): State<Api>, visitor: Visitor) -> Result<Response, Problem> {
    look(api, visitor, true).await
}
