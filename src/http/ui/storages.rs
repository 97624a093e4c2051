//! Storages, for operators: what there is and how much it keeps, adding one, changing, testing, removing.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde_json::Value;

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::Asked,
    projects::again,
    settings::{changes, filled, settings},
    show::{self, Html},
    things::{Act, Seen, Thing, Things},
    visit::{Typed, Visitor, go, page, page_as},
};
use crate::{
    byte_size::ByteSize,
    catalog::ManageError,
    history,
    http::{Api, error::Problem, named::Named},
    manage::{
        Mode, require_operator,
        storages::{self, Origin, ShownStorage},
    },
    tenant::Permission,
};

fn thing(kept: Option<(i64, i64)>, storage: ShownStorage, visitor: &Visitor) -> Thing {
    let path = format!("/storages/{}", show::in_path(&storage.name));
    let mut facts = Vec::new();
    facts.extend(storage.place.as_deref().map(show::name));
    if let Some((copies, bytes)) = kept {
        let copies = show::counted(copies, "copy", "copies");
        facts.push(Html::ours(format!("keeps {} in {copies}", show::size(bytes))));
    }
    if storage.fed_while_dumping == Some(false) {
        facts.push(Html::ours("its copies are made afterwards, from a good one".to_owned()));
    }
    let is_own = storage.origin == Origin::Database;
    let mut badges = vec![show::badge(&storage.r#type)];
    if !is_own {
        badges.push(show::badge("of the configuration"));
    }
    let (mut links, mut acts) = (Vec::new(), Vec::new());
    if visitor.may_write() {
        acts.push(Act::new(format!("{path}/test"), "Test"));
        if is_own {
            links.push((format!("{path}/change"), "Change"));
            acts.push(
                Act::new(format!("{path}/remove"), "Remove").asking("Remove this storage? What is stored there stays."),
            );
        }
    }
    Thing { name: storage.name, badges, facts, problem: storage.problem, links, acts }
}

async fn list_page(api: &Api, visitor: &Visitor, seen: Option<Seen>, asked: &Asked) -> Result<Response, Problem> {
    let found = storages::list(&api.app, visitor.caller()).await?;
    let mut kept: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for part in history::kept_by_storage(&api.app.pool, &visitor.caller().scope()).await? {
        let (copies, bytes) = kept.entry(part.storage).or_default();
        *copies = copies.saturating_add(part.copies);
        *bytes = bytes.saturating_add(part.bytes);
    }
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
        things: found.into_iter().map(|storage| thing(kept.get(&storage.name).copied(), storage, visitor)).collect(),
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
    let rate = Field::text("max_rate", "Largest rate of uploads").hint("A second, such as 20 MiB. Empty: any.");
    let rest = match kind {
        "local" => vec![
            Field::text("root", "Directory")
                .hint("On the server, or mounted there. It is made when missing.")
                .required(),
            rate,
        ],
        "s3" => vec![
            Field::text("bucket", "Bucket").required(),
            Field::text("region", "Region"),
            Field::text("endpoint", "Endpoint")
                .hint("Of another service than Amazon's, such as https://s3.example.com."),
            Field::text("prefix", "Prefix").hint("What the keys begin with."),
            Field::text("access_key", "Access key").required(),
            Field::new("secret_key", "Secret key", Kind::Secret).required(),
            rate,
        ],
        "telegram" => vec![
            Field::text("chat_id", "Channel")
                .hint("The id of a private channel of your own, of which the bot is an administrator.")
                .required(),
            Field::new("bot_token", "Bot token", Kind::Secret).required(),
            Field::text("base_url", "Bot API").hint("Of a server of your own. Empty: Telegram's."),
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

pub async fn add(
    State(api): State<Api>,
    visitor: Visitor,
    Path(kind): Path<String>,
    typed: Typed,
) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let form = form(&kind)?;
    let added = async {
        typed.require_whole()?;
        let settings = settings(&kind, &form, &typed, &["name"])?;
        Ok(storages::add(&api.app, visitor.caller(), typed.get("name"), &settings).await?)
    };
    match added.await {
        Ok(storage) => Ok(go("/storages", &format!("The storage {} is added: test it.", storage.name))),
        Err(problem) => again(form, &typed, problem, |form, status| add_page(&visitor, &kind, form, status)),
    }
}

/// The form to change a storage, and its settings of now.
async fn change_form(api: &Api, visitor: &Visitor, name: &str) -> Result<(Form, Value), Problem> {
    let shown = storages::show(&api.app, visitor.caller(), name).await?;
    if shown.origin != Origin::Database {
        return Err(ManageError::ReadOnly(name.to_owned()).into());
    }
    let mut form = form(&shown.r#type)?;
    form.fields.retain(|field| field.name != "name");
    form.action = format!("/storages/{}/change", show::in_path(name));
    form.submit = "Save";
    filled(&mut form, &shown.settings);
    Ok((form, shown.settings))
}

fn change_page(visitor: &Visitor, name: &str, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let intro =
        "It is opened at once, and used as it then is from the next job on. What is stored stays where it is: if \
        you name another place, move it there beforehand."
            .to_owned();
    let back = ("/storages".to_owned(), "Storages".to_owned());
    let frame = visitor.frame(Place::Storages, format!("Change the storage {name}"));
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

pub async fn ask_change(State(api): State<Api>, visitor: Visitor, Named(name): Named) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let (form, _) = change_form(&api, &visitor, &name).await?;
    change_page(&visitor, &name, form, StatusCode::OK)
}

pub async fn change(
    State(api): State<Api>,
    visitor: Visitor,
    Named(name): Named,
    typed: Typed,
) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let (form, before) = change_form(&api, &visitor, &name).await?;
    let changed = async {
        typed.require_whole()?;
        let changes = changes(&form, &before, &typed, &[])?;
        Ok(storages::change(&api.app, visitor.caller(), &name, &changes).await?)
    };
    match changed.await {
        Ok(_) => Ok(go("/storages", &format!("The storage {name} is changed: test it."))),
        Err(problem) => again(form, &typed, problem, |form, status| change_page(&visitor, &name, form, status)),
    }
}

pub async fn test(
    State(api): State<Api>,
    visitor: Visitor,
    Named(name): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    let test = storages::test(&api.app, visitor.caller(), &name).await?;
    let mut lines = test.seen;
    lines.extend(test.free_bytes.map(|free| format!("{} are free", ByteSize(free))));
    lines.extend(test.warnings);
    lines.extend(test.problem);
    lines.extend(test.hint);
    let title = if test.good { format!("{name} works") } else { format!("{name} does not work") };
    let seen = Seen { is_good: test.good, title, lines, secret: None };
    list_page(&api, &visitor, Some(seen), &asked).await
}

pub async fn remove(State(api): State<Api>, visitor: Visitor, Named(name): Named) -> Result<Response, Problem> {
    storages::delete(&api.app, visitor.caller(), &name, Mode::Real).await?;
    Ok(go("/storages", "The storage is removed. What is stored there stays."))
}
