//! Notice channels, for operators and organisation admins.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::{Asked, ROWS},
    projects::again,
    settings::{changes, filled, settings},
    show::{self, Html},
    things::{Act, Seen, Thing, Things},
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    catalog::{NoticeEvent, Settings},
    http::{
        Api,
        answer::{Cursor, Page},
        error::Problem,
        named::Named,
    },
    manage::{
        Mode,
        channels::{self, ChannelChanges, NewChannel, ShownChannel},
        require_admin,
    },
    tenant::Permission,
};

const ADD: &str = "Add a channel";
const CHANGE: &str = "Change a channel";

fn thing(channel: ShownChannel, visitor: &Visitor) -> Thing {
    let path = format!("/channels/{}", channel.id);
    let whom = match (&channel.project_id, &channel.organization_id) {
        (Some(project), _) => format!("hears of project {project}"),
        (None, Some(organization)) => format!("hears of organisation {organization}"),
        (None, None) => "hears of every project".to_owned(),
    };
    let events = if channel.events.is_empty() { "everything".to_owned() } else { channel.events.join(", ") };
    let mut facts = vec![Html::ours(format!("{}: {}", show::name(&whom), show::name(&events)))];
    let place = ["to", "url", "chat_id"].iter().find_map(|name| channel.settings.get(name));
    facts.extend(
        place
            .map(|place| match place {
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .map(|place| show::name(&place)),
    );
    let (mut links, mut acts) = (Vec::new(), Vec::new());
    if visitor.may_write() {
        links.push((format!("{path}/change"), "Change"));
        acts.push(Act::new(format!("{path}/test"), "Test"));
        let switch = Act::new(format!("{path}/switch"), if channel.enabled { "Switch off" } else { "Switch on" });
        acts.push(if channel.enabled { switch } else { switch.with("enabled", "1") });
        acts.push(
            Act::new(format!("{path}/remove"), "Remove").asking("Remove this channel? Nothing is sent there any more."),
        );
    }
    let badges = vec![show::badge(&channel.r#type), show::badge(if channel.enabled { "enabled" } else { "off" })];
    Thing { name: channel.name, badges, facts, links, acts, ..Thing::default() }
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Read)?;
    list_page(&api, &visitor, None, &asked).await
}

async fn list_page(api: &Api, visitor: &Visitor, seen: Option<Seen>, asked: &Asked) -> Result<Response, Problem> {
    let limit = ROWS as usize;
    let after = asked.given("cursor").map(|cursor| cursor.parse::<Cursor>()).transpose()?;
    let after = after.map(|cursor| (cursor.at, cursor.id));
    let project = asked.given("project_id");
    let found = channels::list(&api.app, visitor.caller(), project.as_deref(), after, limit + 1).await?;
    let found = Page::of(found, limit, |channel| Cursor { at: channel.created_at, id: channel.id });
    page(&Things {
        frame: visitor.frame(Place::Channels, "Notices"),
        intro: "Where news of backups goes: what began, ended, failed, expires soon or is too old.",
        adds: match visitor.may_write() {
            true => vec![
                ("/channels/new/email", "Add e-mail"),
                ("/channels/new/webhook", "Add a webhook"),
                ("/channels/new/telegram", "Add a Telegram chat"),
            ],
            false => Vec::new(),
        },
        seen,
        things: found.data.into_iter().map(|channel| thing(channel, visitor)).collect(),
        empty: "Nobody is told yet.",
        pages: asked.pages(found.next_cursor),
    })
}

fn form(kind: &str, visitor: &Visitor) -> Result<Form, Problem> {
    let mut fields = vec![Field::text("name", "Name").required()];
    fields.extend(match kind {
        "email" => vec![Field::text("to", "Addresses").hint("With commas between them.").required()],
        "webhook" => vec![
            Field::text("url", "URL").required(),
            Field::new("secret", "Secret", Kind::Secret)
                .hint("16 to 256 characters. It signs each request.")
                .required(),
        ],
        "telegram" => vec![
            Field::text("chat_id", "Chat").required(),
            Field::new("bot_token", "Bot token", Kind::Secret).required(),
            Field::text("base_url", "Bot API").hint("Of a server of your own. Empty: Telegram's."),
        ],
        _ => return Err(Problem::new(StatusCode::NOT_FOUND, "request.no_route", "there is no such kind of channel")),
    });
    fields.push(Field::text("project_id", "Only this project"));
    if visitor.is_operator() {
        fields.push(Field::text("organization_id", "Only this organisation's projects"));
    }
    let events = NoticeEvent::ALL.iter().map(|event| (event.as_str().to_owned(), event.as_str().to_owned()));
    fields.push(Field::new("events", "It hears of", Kind::Many(events.collect())).hint("None: everything."));
    Ok(Form::new(format!("/channels/new/{kind}"), "Add the channel", fields))
}

fn form_page(visitor: &Visitor, title: &str, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let back = ("/channels".to_owned(), "Notices".to_owned());
    let frame = visitor.frame(Place::Channels, title);
    let intro = "Secrets are encrypted in the database, and never shown again.".to_owned();
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

pub async fn ask_add(visitor: Visitor, Path(kind): Path<String>) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    form_page(&visitor, ADD, form(&kind, &visitor)?, StatusCode::OK)
}

/// Fields that are no settings.
const OTHERS: [&str; 4] = ["name", "project_id", "organization_id", "events"];

fn addresses(typed: &Typed) -> Result<Settings, Problem> {
    let to: Vec<&str> = typed.get("to").split(',').map(str::trim).filter(|to| !to.is_empty()).collect();
    serde_json::from_value(json!({ "type": "email", "to": to })).map_err(|_| wrong("to", "these are no addresses"))
}

fn events(typed: &Typed) -> Result<Vec<NoticeEvent>, Problem> {
    let events: Result<Vec<NoticeEvent>, _> = typed.all("events").iter().map(|word| word.parse()).collect();
    events.map_err(|_| wrong("events", "there is no such event"))
}

fn new_channel(kind: &str, form: &Form, typed: &Typed) -> Result<NewChannel, Problem> {
    typed.require_whole()?;
    let settings = if kind == "email" { addresses(typed)? } else { settings(kind, form, typed, &OTHERS)? };
    Ok(NewChannel {
        name: typed.get("name").to_owned(),
        project_id: typed.given("project_id"),
        organization_id: typed.given("organization_id"),
        events: events(typed)?,
        enabled: true,
        settings,
    })
}

pub async fn add(
    State(api): State<Api>,
    visitor: Visitor,
    Path(kind): Path<String>,
    typed: Typed,
) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let form = form(&kind, &visitor)?;
    let added = async {
        let new = new_channel(&kind, &form, &typed)?;
        Ok(channels::add(&api.app, visitor.caller(), new).await?)
    };
    match added.await {
        Ok(_) => Ok(go("/channels", "The channel is added.")),
        Err(problem) => again(form, &typed, problem, |form, status| form_page(&visitor, ADD, form, status)),
    }
}

/// The form to change a channel, and its settings of now. What it is of stays, and where an operator has chosen where it leads, so does that
/// for everyone else.
async fn change_form(api: &Api, visitor: &Visitor, id: Uuid) -> Result<(Form, ShownChannel), Problem> {
    let shown = channels::show(&api.app, visitor.caller(), id).await?;
    let mut form = form(&shown.r#type, visitor)?;
    let is_hidden = shown.settings.is_null();
    form.fields.retain(|field| match field.name {
        "project_id" | "organization_id" => false,
        name => !is_hidden || OTHERS.contains(&name),
    });
    filled(&mut form, &shown.settings);
    for field in &mut form.fields {
        match field.name {
            "name" => field.values = vec![shown.name.clone()],
            "events" => field.values.clone_from(&shown.events),
            _ => {}
        }
    }
    form.action = format!("/channels/{id}/change");
    form.submit = "Save";
    Ok((form, shown))
}

pub async fn ask_change(State(api): State<Api>, visitor: Visitor, Named(id): Named) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let (form, _) = change_form(&api, &visitor, channels::id_of(&id)?).await?;
    form_page(&visitor, CHANGE, form, StatusCode::OK)
}

pub async fn change(
    State(api): State<Api>,
    visitor: Visitor,
    Named(id): Named,
    typed: Typed,
) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let id = channels::id_of(&id)?;
    let (form, before) = change_form(&api, &visitor, id).await?;
    let changed = async {
        typed.require_whole()?;
        let settings = match before.r#type.as_str() {
            "email" if !before.settings.is_null() => addresses(&typed)?,
            _ => changes(&form, &before.settings, &typed, &OTHERS)?,
        };
        let changes = ChannelChanges {
            name: Some(typed.get("name").to_owned()),
            events: Some(events(&typed)?),
            enabled: None,
            settings: Some(settings).filter(|settings| !settings.field_names().is_empty()),
        };
        Ok(channels::change(&api.app, visitor.caller(), id, changes).await?)
    };
    match changed.await {
        Ok(_) => Ok(go("/channels", "The channel is changed: test it.")),
        Err(problem) => again(form, &typed, problem, |form, status| form_page(&visitor, CHANGE, form, status)),
    }
}

/// Sends a test message, and tells what became of it.
pub async fn test(
    State(api): State<Api>,
    visitor: Visitor,
    Named(id): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let test = channels::test(&api.app, visitor.caller(), channels::id_of(&id)?).await?;
    let mut lines = Vec::new();
    for trial in test.trials {
        lines.push(match trial.problem {
            None => format!("{} has taken it", trial.recipient),
            Some(problem) => format!("{}: {problem}", trial.recipient),
        });
        lines.extend(trial.hint);
    }
    let title = if test.good { "The test message was taken" } else { "The test message was not taken" };
    let seen = Seen { is_good: test.good, title: title.to_owned(), lines, secret: None };
    list_page(&api, &visitor, Some(seen), &asked).await
}

pub async fn switch(
    State(api): State<Api>,
    visitor: Visitor,
    Named(id): Named,
    typed: Typed,
) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let changes = ChannelChanges { enabled: Some(typed.is_checked("enabled")), ..ChannelChanges::default() };
    channels::change(&api.app, visitor.caller(), channels::id_of(&id)?, changes).await?;
    Ok(go("/channels", "The channel is changed."))
}

pub async fn remove(State(api): State<Api>, visitor: Visitor, Named(id): Named) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    channels::delete(&api.app, visitor.caller(), channels::id_of(&id)?, Mode::Real).await?;
    Ok(go("/channels", "The channel is removed."))
}
