//! API keys: one's own, and all for operators.

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::{Asked, ROWS},
    people::{granted, permissions, projects},
    projects::again,
    show::{self, Html},
    things::{Act, Seen, Thing, Things},
    visit::{Typed, Visitor, go, page, page_as},
};
use crate::{
    http::{
        Api,
        api::{
            keys::{self as calls, KeyId},
            users::ListParams,
        },
        error::Problem,
        extract::{Id, Params},
        idempotency::HoldsSecret,
    },
    people::ApiKey,
    tenant::{Permission, Role},
};

fn thing(key: ApiKey, visitor: &Visitor) -> Thing {
    let is_over = key.expires_at <= visitor.now;
    let mut badges = vec![show::badge(&key.role)];
    if key.revoked_at.is_some() {
        badges.push(show::badge("revoked"));
    } else if is_over {
        badges.push(show::badge("expired"));
    }
    let reach = match (&key.organization_id, key.project_ids.is_empty()) {
        (Some(organization), true) => format!("organisation {organization}"),
        (_, false) => key.project_ids.join(", "),
        (None, true) => "every project".to_owned(),
    };
    let facts = vec![
        Html::ours(format!(
            "{}: {}",
            show::name(&reach),
            show::escape(&key.permissions.join(" and ").replace("backup:", ""))
        )),
        Html::ours(format!(
            "by {}, expires {}, last used {}",
            show::name(&key.created_by),
            show::when(key.expires_at, visitor.now),
            show::when_or_nothing(key.last_used_at, visitor.now)
        )),
    ];
    let mut acts = Vec::new();
    if visitor.may_write() && key.revoked_at.is_none() && !is_over {
        acts.push(
            Act::new(format!("/keys/{}/revoke", key.id), "Revoke")
                .asking("Revoke this key? It is refused from now on."),
        );
    }
    Thing { name: key.name, badges, facts, acts, ..Thing::default() }
}

async fn list_page(api: &Api, visitor: &Visitor, seen: Option<Seen>, asked: &Asked) -> Result<Response, Problem> {
    let params = ListParams { limit: Some(ROWS), cursor: asked.given("cursor") };
    let found = calls::list(State(api.clone()), visitor.signed.clone(), Ok(Params(params))).await?;
    page(&Things {
        frame: visitor.frame(Place::Keys, "API keys"),
        intro: "What programs use in the place of a login. A key can do no more than whoever made it.",
        adds: if visitor.may_write() { vec![("/keys/new", "Make a key")] } else { Vec::new() },
        seen,
        things: found.data.into_iter().map(|key| thing(key, visitor)).collect(),
        empty: "There is none.",
        pages: asked.pages(found.next_cursor),
    })
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    list_page(&api, &visitor, None, &asked).await
}

fn form(visitor: &Visitor) -> Form {
    let mut fields = vec![
        Field::text("name", "Name").hint("What it is for.").required(),
        Field::new("permissions", "May", Kind::Many(permissions())).values(&[Permission::Read.to_string()]),
        Field::text("project_ids", "Projects").hint("Ids with commas between them."),
    ];
    if visitor.is_operator() {
        let roles = [(Role::Member, "the projects named above"), (Role::Operator, "every project")];
        let roles = roles.map(|(role, text)| (role.to_string(), text.to_owned())).to_vec();
        fields.push(Field::new("role", "Reaches", Kind::Choice(roles)));
    }
    fields.push(Field::new("expires_in_days", "Good for days", Kind::Number).hint("1 to 366.").value("90"));
    Form::new("/keys/new", "Make the key", fields)
}

fn make_page(visitor: &Visitor, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let back = ("/keys".to_owned(), "API keys".to_owned());
    let frame = visitor.frame(Place::Keys, "Make an API key");
    let intro = "It is shown once, on the next page.".to_owned();
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

pub async fn ask_make(visitor: Visitor) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Write)?;
    make_page(&visitor, form(&visitor), StatusCode::OK)
}

pub async fn make(State(api): State<Api>, visitor: Visitor, typed: Typed) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Write)?;
    let made = async {
        let role = typed.given("role").map(|word| word.parse());
        let body = calls::Make {
            name: typed.get("name").to_owned(),
            permissions: granted(&typed)?,
            role: role.transpose().map_err(|_| super::visit::wrong("role", "there is no such role"))?,
            project_ids: projects(&typed)?,
            organization_id: None,
            expires_in_days: typed.number("expires_in_days")?,
        };
        calls::make_key(&api, &visitor.signed, body).await
    };
    match made.await {
        Ok(made) => {
            let seen = Seen {
                is_good: true,
                title: format!("The key {}", typed.get("name")),
                lines: vec!["It is not shown again: copy it now.".to_owned()],
                secret: Some(made.key),
            };
            let mut response = list_page(&api, &visitor, Some(seen), &Asked::default()).await?;
            response.extensions_mut().insert(HoldsSecret);
            Ok(response)
        }
        Err(problem) => again(form(&visitor), &typed, problem, |form, status| make_page(&visitor, form, status)),
    }
}

pub async fn revoke(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<KeyId>, Problem>,
) -> Result<Response, Problem> {
    calls::revoke(State(api), visitor.signed, id).await?;
    Ok(go("/keys", "The key is refused from now on."))
}
