//! Databases beside the control plane's own, for operators.

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::{Asked, ROWS},
    projects::again,
    show::{self, Html},
    things::{Act, Seen, Thing, Things},
    visit::{Typed, Visitor, go, page, page_as},
};
use crate::{
    http::{
        Api,
        error::Problem,
        named::{self, Named},
    },
    manage::{
        Mode,
        databases::{self, ShownDatabase},
        require_operator,
    },
    tenant::Permission,
};

fn thing(database: ShownDatabase, visitor: &Visitor) -> Thing {
    let path = format!("/databases/{}", show::in_path(&database.name));
    let mut at = database.host.unwrap_or_default();
    if let Some(port) = database.port {
        at = format!("{at}:{port}");
    }
    if let Some(name) = database.database {
        at = format!("{at}/{name}");
    }
    let (mut links, mut acts) = (Vec::new(), Vec::new());
    if visitor.may_write() {
        links.push((format!("{path}/change"), "Change"));
        acts.push(Act::new(format!("{path}/test"), "Test"));
        acts.push(
            Act::new(format!("{path}/remove"), "Remove")
                .asking("Remove this database from the list? It stays as it is."),
        );
    }
    let mut facts = vec![show::name(&at)];
    facts.extend(database.user.map(|user| Html::ours(format!("as {}", show::name(&user)))));
    facts.push(Html::ours(show::counted(database.projects, "project", "projects")));
    Thing { name: database.name, facts, links, acts, ..Thing::default() }
}

async fn list_page(api: &Api, visitor: &Visitor, seen: Option<Seen>, asked: &Asked) -> Result<Response, Problem> {
    let limit = ROWS as usize;
    let after = named::after(asked.given("cursor").as_deref())?;
    let found = databases::list(&api.app, visitor.caller(), after.as_deref(), limit + 1).await?;
    let found = named::page(found, limit, |database| &database.name);
    page(&Things {
        frame: visitor.frame(Place::Databases, "Databases"),
        intro: "Where tenants live, beside the control plane's own database, which needs no entry.",
        adds: if visitor.may_write() { vec![("/databases/new", "Add a database")] } else { Vec::new() },
        seen,
        things: found.data.into_iter().map(|database| thing(database, visitor)).collect(),
        empty: "There is no other database.",
        pages: asked.pages(found.next_cursor),
    })
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Read)?;
    list_page(&api, &visitor, None, &asked).await
}

fn url() -> Field {
    Field::new("url", "URL", Kind::Secret)
        .hint("postgres://USER:PASSWORD@HOST:PORT/DATABASE. It is encrypted, and never shown again.")
        .required()
}

fn form() -> Form {
    Form::new("/databases/new", "Add the database", vec![Field::text("name", "Name").required(), url()])
}

fn add_page(visitor: &Visitor, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let intro =
        "Nothing is connected to yet: test it afterwards. `holdfast grants` prints the SQL for the role.".to_owned();
    let back = ("/databases".to_owned(), "Databases".to_owned());
    let frame = visitor.frame(Place::Databases, "Add a database");
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

pub async fn ask_add(visitor: Visitor) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    add_page(&visitor, form(), StatusCode::OK)
}

pub async fn add(State(api): State<Api>, visitor: Visitor, typed: Typed) -> Result<Response, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    let added = async {
        typed.require_whole()?;
        let info = databases::parse_url(typed.get("url"))?;
        Ok(databases::add(&api.app, visitor.caller(), typed.get("name"), &info).await?)
    };
    match added.await {
        Ok(database) => Ok(go("/databases", &format!("The database {} is added: test it.", database.name))),
        Err(problem) => again(form(), &typed, problem, |form, status| add_page(&visitor, form, status)),
    }
}

/// The form to change a database, which is there.
async fn change_form(api: &Api, visitor: &Visitor, name: &str) -> Result<Form, Problem> {
    require_operator(visitor.caller(), Permission::Write)?;
    databases::show(&api.app, visitor.caller(), name).await?;
    Ok(Form::new(format!("/databases/{}/change", show::in_path(name)), "Save", vec![url()]))
}

fn change_page(visitor: &Visitor, name: &str, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let intro = "Another password, or another address of the same database. It holds from the next connection on.";
    let back = ("/databases".to_owned(), "Databases".to_owned());
    let frame = visitor.frame(Place::Databases, format!("Change the database {name}"));
    page_as(status, &FormPage { frame, back, intro: intro.to_owned(), form, below: Html::default() })
}

pub async fn ask_change(State(api): State<Api>, visitor: Visitor, Named(name): Named) -> Result<Response, Problem> {
    let form = change_form(&api, &visitor, &name).await?;
    change_page(&visitor, &name, form, StatusCode::OK)
}

pub async fn change(
    State(api): State<Api>,
    visitor: Visitor,
    Named(name): Named,
    typed: Typed,
) -> Result<Response, Problem> {
    let form = change_form(&api, &visitor, &name).await?;
    let changed = async {
        typed.require_whole()?;
        let info = databases::parse_url(typed.get("url"))?;
        Ok(databases::change(&api.app, visitor.caller(), &name, &info).await?)
    };
    match changed.await {
        Ok(_) => Ok(go("/databases", &format!("The database {name} is changed: test it."))),
        Err(problem) => again(form, &typed, problem, |form, status| change_page(&visitor, &name, form, status)),
    }
}

pub async fn test(
    State(api): State<Api>,
    visitor: Visitor,
    Named(name): Named,
    asked: Asked,
) -> Result<Response, Problem> {
    let test = databases::test(&api.app, visitor.caller(), &name).await?;
    let mut lines: Vec<String> = test.version.map(|version| format!("PostgreSQL {version}")).into_iter().collect();
    lines.extend(test.role.map(|role| format!("connected as {role}")));
    lines.extend(test.problems);
    lines.extend(test.missing_for_restores.into_iter().map(|right| format!("for restores it lacks: {right}")));
    let title = if test.good { format!("{name} works") } else { format!("{name} does not work") };
    let seen = Seen { is_good: test.good, title, lines, secret: None };
    list_page(&api, &visitor, Some(seen), &asked).await
}

pub async fn remove(State(api): State<Api>, visitor: Visitor, Named(name): Named) -> Result<Response, Problem> {
    databases::delete(&api.app, visitor.caller(), &name, Mode::Real).await?;
    Ok(go("/databases", "The database is gone from the list."))
}
