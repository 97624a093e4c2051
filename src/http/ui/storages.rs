//! Storages, for operators: what there is, adding one, testing, removing.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Map, Value};

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::Asked,
    projects::again,
    show::{self, Html},
    things::{Act, Seen, Thing, Things},
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    catalog::Settings,
    http::{Api, error::Problem, named::Named},
    manage::{
        Mode, require_operator,
        storages::{self, Origin, ShownStorage},
    },
    tenant::Permission,
};

fn thing(storage: ShownStorage, visitor: &Visitor) -> Thing {
    let path = format!("/storages/{}", show::in_path(&storage.name));
    let mut facts = Vec::new();
    facts.extend(storage.place.as_deref().map(show::name));
    if storage.fed_while_dumping == Some(false) {
        facts.push(Html::ours("its copies are made afterwards, from a good one".to_owned()));
    }
    let is_own = storage.origin == Origin::Database;
    let mut badges = vec![show::badge(&storage.r#type)];
    if !is_own {
        badges.push(show::badge("of the configuration"));
    }
    let mut acts = Vec::new();
    if visitor.may_write() {
        acts.push(Act::new(format!("{path}/test"), "Test"));
        if is_own {
            acts.push(
                Act::new(format!("{path}/remove"), "Remove").asking("Remove this storage? What is stored there stays."),
            );
        }
    }
    Thing { name: storage.name, badges, facts, problem: storage.problem, links: Vec::new(), acts }
}

async fn list_page(api: &Api, visitor: &Visitor, seen: Option<Seen>, asked: &Asked) -> Result<Response, Problem> {
    let found = storages::list(&api.app, visitor.caller()).await?;
    page(&Things {
        frame: visitor.frame(Place::Storages, "Storages"),
        intro: "Where backups are kept. Those of the configuration are changed in its file alone.",
        adds: match visitor.may_write() {
            true => vec![
                ("/storages/new/s3", "Add a bucket"),
                ("/storages/new/local", "Add a directory"),
                ("/storages/new/telegram", "Add a Telegram channel"),
            ],
            false => Vec::new(),
        },
        seen,
        things: found.into_iter().map(|storage| thing(storage, visitor)).collect(),
        empty: "There is none yet.",
        pages: asked.pages(None),
    })
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Read)?;
    list_page(&api, &visitor, None, &asked).await
}

fn form(kind: &str) -> Result<Form, Problem> {
    let name = Field::text("name", "Name").hint("Letters, digits, '-' and '_'.").required();
    let rest = match kind {
        "local" => vec![
            Field::text("root", "Directory")
                .hint("On the server, or mounted there. It is made when missing.")
                .required(),
        ],
        "s3" => vec![
            Field::text("bucket", "Bucket").required(),
            Field::text("region", "Region"),
            Field::text("endpoint", "Endpoint")
                .hint("Of another service than Amazon's, such as https://s3.example.com."),
            Field::text("prefix", "Prefix").hint("What the keys begin with."),
            Field::text("access_key", "Access key").required(),
            Field::new("secret_key", "Secret key", Kind::Secret).required(),
        ],
        "telegram" => vec![
            Field::text("chat_id", "Channel")
                .hint("The id of a private channel of your own, of which the bot is an administrator.")
                .required(),
            Field::new("bot_token", "Bot token", Kind::Secret).required(),
        ],
        _ => return Err(Problem::new(StatusCode::NOT_FOUND, "request.no_route", "there is no such kind of storage")),
    };
    let fields = std::iter::once(name).chain(rest).collect();
    Ok(Form::new(format!("/storages/new/{kind}"), "Add the storage", fields))
}

fn add_page(visitor: &Visitor, kind: &str, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let (title, intro) = match kind {
        "local" => ("Add a directory", "It is opened at once, and used from the next backup on."),
        "s3" => ("Add a bucket", "It is opened at once. Its keys are encrypted in the database and never shown again."),
        _ => (
            "Add a Telegram channel",
            "A second copy, with your own bot and private channel. Telegram's terms name “cloud storage sites” as a misuse of bots: the choice is yours.",
        ),
    };
    let back = ("/storages".to_owned(), "Storages".to_owned());
    let frame = visitor.frame(Place::Storages, title);
    page_as(status, &FormPage { frame, back, intro: intro.to_owned(), form, below: Html::default() })
}

pub async fn ask_add(visitor: Visitor, Path(kind): Path<String>) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    add_page(&visitor, &kind, form(&kind)?, StatusCode::OK)
}

/// What was typed, as the settings of a storage or channel of this kind.
pub fn settings(kind: &str, form: &Form, typed: &Typed, others: &[&str]) -> Result<Settings, Problem> {
    let mut given = Map::from_iter([("type".to_owned(), Value::from(kind))]);
    for field in form.fields.iter().filter(|field| !others.contains(&field.name)) {
        if let Some(value) = typed.given(field.name) {
            given.insert(field.name.to_owned(), Value::from(value));
        }
    }
    serde_json::from_value(Value::Object(given)).map_err(|_| wrong("name", "these settings cannot be used"))
}

pub async fn add(
    State(api): State<Api>,
    visitor: Visitor,
    Path(kind): Path<String>,
    typed: Typed,
) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let form = form(&kind)?;
    let added = async {
        let settings = settings(&kind, &form, &typed, &["name"])?;
        Ok(storages::add(&api.app, visitor.caller(), typed.get("name"), &settings).await?)
    };
    match added.await {
        Ok(storage) => Ok(go("/storages", &format!("The storage {} is added: test it.", storage.name))),
        Err(problem) => again(form, &typed, problem, |form, status| add_page(&visitor, &kind, form, status)),
    }
}

pub async fn test(
    State(api): State<Api>,
    visitor: Visitor,
    Named(name): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let test = storages::test(&api.app, visitor.caller(), &name).await?;
    let mut lines = test.seen;
    lines.extend(test.warnings);
    lines.extend(test.problem);
    lines.extend(test.hint);
    let title = if test.good { format!("{name} works") } else { format!("{name} does not work") };
    let seen = Seen { is_good: test.good, title, lines, secret: None };
    list_page(&api, &visitor, Some(seen), &asked).await
}

pub async fn remove(State(api): State<Api>, visitor: Visitor, Named(name): Named) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    storages::delete(&api.app, visitor.caller(), &name, Mode::Real).await?;
    Ok(go("/storages", "The storage is removed. What is stored there stays."))
}
