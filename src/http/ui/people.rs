//! Local users, for operators and organisation admins.

use std::collections::BTreeSet;

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::Place,
    list::{Asked, ROWS},
    projects::again,
    show::{self, Html},
    things::{Act, Thing, Things},
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    config::Secret,
    http::{
        Api,
        api::users::{self as calls, UserId},
        error::Problem,
        extract::{Body, Id, Params},
    },
    ids::ProjectId,
    manage::require_admin,
    people::User,
    tenant::{Permission, Role},
};

fn thing(user: User, visitor: &Visitor) -> Thing {
    let path = format!("/people/{}", user.id);
    let mut badges = vec![show::badge(&user.role)];
    if user.disabled {
        badges.push(show::badge("disabled"));
    }
    let reach = match (&user.organization_id, user.project_ids.is_empty()) {
        (Some(organization), true) => format!("organisation {organization}"),
        (_, false) => user.project_ids.join(", "),
        (None, true) if user.role == Role::Operator.as_str() => "every project".to_owned(),
        (None, true) => "no project".to_owned(),
    };
    let reach = match user.projects_elsewhere {
        0 => reach,
        others => format!("{reach}, and {}", show::counted(others, "project elsewhere", "projects elsewhere")),
    };
    let login = show::when_or_nothing(user.last_login_at, visitor.now);
    let facts = vec![
        Html::ours(format!(
            "{}, may {}",
            show::name(&reach),
            show::escape(&user.permissions.join(" and ").replace("backup:", ""))
        )),
        Html::ours(format!("last login: {login}")),
    ];
    let (mut links, mut acts) = (Vec::new(), Vec::new());
    if visitor.may_write() {
        links.push((format!("{path}/change"), "Change"));
        acts.push(
            Act::new(format!("{path}/remove"), "Delete")
                .asking("Delete this user? Its sessions end, and its API keys work no more."),
        );
    }
    Thing { name: user.name, badges, facts, problem: None, links, acts }
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    let params = calls::ListParams { limit: Some(ROWS), cursor: asked.given("cursor") };
    let found = calls::list(State(api), visitor.signed.clone(), Ok(Params(params))).await?;
    page(&Things {
        frame: visitor.frame(Place::People, "People"),
        intro: "Who logs in here. A platform's own users come with its tokens, and are not in this list.",
        adds: if visitor.may_write() { vec![("/people/new", "Add somebody")] } else { Vec::new() },
        seen: None,
        things: found.data.into_iter().map(|user| thing(user, &visitor)).collect(),
        empty: "There is nobody.",
        pages: asked.pages(found.next_cursor),
    })
}

fn roles(visitor: &Visitor) -> Vec<(String, String)> {
    let may_give = |role: Role| visitor.is_operator() || role != Role::Operator;
    Role::ALL
        .iter()
        .filter(|role| may_give(**role))
        .map(|role| (role.to_string(), role.as_str().replace('_', " ")))
        .collect()
}

pub fn permissions() -> Vec<(String, String)> {
    Permission::ALL
        .iter()
        .map(|word| (word.to_string(), if *word == Permission::Read { "read" } else { "write" }.to_owned()))
        .collect()
}

fn form(visitor: &Visitor, of: Option<&User>) -> Form {
    let mut fields = Vec::new();
    if of.is_none() {
        fields
            .push(Field::text("name", "Name").hint("An e-mail address, for instance. They log in with it.").required());
    }
    let password = Field::new("password", "Password", Kind::Password("new-password"));
    fields.push(match of {
        None => password.hint("12 characters or more.").required(),
        Some(_) => password.hint("Empty: it stays. A new one ends every session."),
    });
    let role = of.map_or_else(|| Role::Member.to_string(), |user| user.role.clone());
    fields.push(Field::new("role", "Role", Kind::Choice(roles(visitor))).value(role));
    let granted =
        of.map_or_else(|| Permission::ALL.iter().map(ToString::to_string).collect(), |user| user.permissions.clone());
    fields.push(Field::new("permissions", "May", Kind::Many(permissions())).values(&granted));
    let projects = of.map_or_else(String::new, |user| user.project_ids.join(", "));
    let hint = match of {
        Some(user) if user.projects_elsewhere > 0 => {
            "For members: ids with commas between them. Another list takes projects elsewhere away as well."
        }
        Some(_) | None => "For members: ids with commas between them.",
    };
    fields.push(Field::text("project_ids", "Projects").hint(hint).value(projects));
    if visitor.is_operator() {
        let organization = of.and_then(|user| user.organization_id.clone()).unwrap_or_default();
        fields.push(Field::text("organization_id", "Organisation").value(organization));
    }
    if let Some(user) = of {
        fields.push(Field::new("disabled", "Cannot log in", Kind::Check).value(if user.disabled { "1" } else { "" }));
    }
    let action = of.map_or_else(|| "/people/new".to_owned(), |user| format!("/people/{}/change", user.id));
    Form::new(action, "Save", fields)
}

fn form_page(visitor: &Visitor, title: &str, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let back = ("/people".to_owned(), "People".to_owned());
    let frame = visitor.frame(Place::People, title);
    page_as(status, &FormPage { frame, back, intro: String::new(), form, below: Html::default() })
}

pub async fn ask_add(visitor: Visitor) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    form_page(&visitor, "Add somebody", form(&visitor, None), StatusCode::OK)
}

/// Projects by their ids with commas between them.
pub fn projects(typed: &Typed) -> Result<Vec<ProjectId>, Problem> {
    let ids = typed.get("project_ids").split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| id.parse().map_err(|_| wrong("project_ids", "one of these is no project's id"))).collect()
}

/// Whether these are the same projects, in whatever order.
fn are_those(ids: &[ProjectId], before: &[String]) -> bool {
    let ids: BTreeSet<&str> = ids.iter().map(ProjectId::as_str).collect();
    let before: BTreeSet<&str> = before.iter().map(String::as_str).collect();
    ids == before
}

pub fn granted(typed: &Typed) -> Result<Vec<Permission>, Problem> {
    let words = typed.all("permissions");
    words.iter().map(|word| word.parse().map_err(|_| wrong("permissions", "there is no such right"))).collect()
}

fn role(typed: &Typed) -> Result<Option<Role>, Problem> {
    typed.given("role").map(|word| word.parse().map_err(|_| wrong("role", "there is no such role"))).transpose()
}

pub async fn add(State(api): State<Api>, visitor: Visitor, typed: Typed) -> Result<Response, Problem> {
    require_admin(visitor.caller(), Permission::Write)?;
    let added = async {
        typed.require_whole()?;
        let body = calls::AddUserBody {
            name: typed.get("name").to_owned(),
            password: Secret::new(typed.exact("password")),
            role: role(&typed)?,
            permissions: Some(granted(&typed)?),
            project_ids: projects(&typed)?,
            organization_id: typed.given("organization_id"),
        };
        calls::add(State(api.clone()), visitor.signed.clone(), Ok(Body(body))).await
    };
    match added.await {
        Ok(_) => Ok(go("/people", "They can log in now.")),
        Err(problem) => again(form(&visitor, None), &typed, problem, |form, status| {
            form_page(&visitor, "Add somebody", form, status)
        }),
    }
}

async fn one(api: &Api, visitor: &Visitor, id: UserId) -> Result<User, Problem> {
    Ok(calls::show(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data)
}

pub async fn ask_change(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<UserId>, Problem>,
) -> Result<Response, Problem> {
    let user = one(&api, &visitor, id?.0).await?;
    require_admin(visitor.caller(), Permission::Write)?;
    form_page(&visitor, &user.name, form(&visitor, Some(&user)), StatusCode::OK)
}

pub async fn change(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<UserId>, Problem>,
    typed: Typed,
) -> Result<Response, Problem> {
    let Id(id) = id?;
    let user = one(&api, &visitor, id).await?;
    let changed = async {
        typed.require_whole()?;
        let body = calls::ChangeUserBody {
            password: Some(typed.exact("password")).filter(|text| !text.is_empty()).map(Secret::new),
            role: role(&typed)?.filter(|role| role.as_str() != user.role),
            permissions: Some(granted(&typed)?),
            // Sent only when it is another: it would take away projects that are not told here.
            project_ids: Some(projects(&typed)?).filter(|ids| !are_those(ids, &user.project_ids)),
            organization_id: typed.given("organization_id"),
            disabled: Some(typed.is_checked("disabled")),
        };
        calls::change(State(api.clone()), visitor.signed.clone(), Ok(Id(id)), Ok(Body(body))).await
    };
    match changed.await {
        Ok(_) => Ok(go("/people", "It holds at once.")),
        Err(problem) => {
            let form = form(&visitor, Some(&user));
            again(form, &typed, problem, |form, status| form_page(&visitor, &user.name, form, status))
        }
    }
}

pub async fn remove(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<UserId>, Problem>,
) -> Result<Response, Problem> {
    calls::delete(State(api), visitor.signed, id).await?;
    Ok(go("/people", "The user is deleted."))
}
