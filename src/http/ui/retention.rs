//! Retention as a preview: every backup with keep or delete, and the reason. Nothing is done by looking.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    frame::{Frame, Place},
    list::{Asked, Choice, Pages, choices},
    show::{self, Html},
    visit::{Visitor, page, wrong},
};
use crate::{
    http::{Api, error::Problem},
    jobs::apply_retention::{self, Decision},
    retention::Action,
    tenant::Permission,
};

/// Projects on a page.
const PROJECTS: i64 = 5;

/// Backups that are listed on a page of one project, and of each of several.
const MOST_ROWS: usize = 100;
const FEW_ROWS: usize = 15;

struct Row {
    path: String,
    at: Html,
    what: String,
    badge: Html,
    size: Html,
    goes: bool,
    because: String,
    until: Html,
}

/// Which backups are listed.
struct Part {
    /// Those with which this is done alone.
    action: Option<Action>,
    /// Of one project, from this place on; `None`: the first few of each of several, and of them those that go.
    from: Option<usize>,
}

/// One project's backups.
struct Group {
    project: String,
    path: String,
    rows: Vec<Row>,
    /// How many more of several projects' there are, and where.
    more: Option<(usize, String)>,
    /// Where one project's go on.
    until: Option<usize>,
    /// All of its backups, and those that go, with what they take in the storages.
    count: String,
    goes: usize,
    frees: Html,
}

impl Group {
    fn of(project: &str, backups: &[Decision], part: &Part) -> Self {
        let going = || backups.iter().filter(|decision| decision.action == Action::Delete);
        let bytes = going().map(|decision| decision.size).fold(0, i64::saturating_add);
        let mut listed: Vec<&Decision> =
            backups.iter().filter(|decision| part.action.is_none_or(|action| action == decision.action)).collect();
        let most = if part.from.is_some() { MOST_ROWS } else { FEW_ROWS };
        if part.from.is_none() {
            listed.sort_by_key(|decision| decision.action != Action::Delete);
        }
        let from = part.from.unwrap_or_default();
        let until = from.saturating_add(most);
        let more = listed.len().saturating_sub(until);
        let plan =
            part.action.map_or("", |action| if action == Action::Delete { "&plan=delete" } else { "&plan=keep" });
        let rest = || format!("/retention?project_id={}{plan}", show::in_query(project));
        Self {
            project: project.to_owned(),
            path: format!("/projects/{}", show::in_path(project)),
            rows: listed.into_iter().skip(from).take(most).map(row).collect(),
            more: (more > 0 && part.from.is_none()).then(|| (more, rest())),
            until: part.from.filter(|_| more > 0).map(|_| until),
            count: show::counted(i64::try_from(backups.len()).unwrap_or(i64::MAX), "backup", "backups"),
            goes: going().count(),
            frees: show::size(bytes),
        }
    }
}

#[derive(Template)]
#[template(path = "retention.html")]
struct RetentionPage {
    frame: Frame,
    groups: Vec<Group>,
    deletes: usize,
    pages: Pages,
    action: &'static str,
    searches: Vec<(&'static str, &'static str, String)>,
    selects: Vec<(&'static str, &'static str, Vec<Choice>)>,
}

pub async fn show(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Read)?;
    let only = asked.given("project_id");
    let action = match asked.get("plan") {
        "" => None,
        "delete" => Some(Action::Delete),
        "keep" => Some(Action::Keep),
        _ => return Err(wrong("plan", "this is neither keep nor delete")),
    };
    // Of one project a page goes on at a backup, of several at a project.
    let from = match (&only, asked.given("cursor")) {
        (None, _) => None,
        (Some(_), None) => Some(0),
        (Some(_), Some(place)) => Some(place.parse().map_err(|_| wrong("cursor", "this is no place in the list"))?),
    };
    let after = asked.given("cursor").filter(|_| only.is_none());
    let part = Part { action, from };
    let scope = visitor.caller().scope();
    let mut plan = apply_retention::plan(&api.app, &scope, only.as_deref(), after.as_deref(), PROJECTS).await?;
    let mut next = plan.next_after.take();
    let groups = plan.backups.chunk_by(|a, b| a.project_id == b.project_id);
    let groups: Vec<Group> = groups.map(|backups| Group::of(&backups[0].project_id, backups, &part)).collect();
    next = next.or_else(|| groups.iter().find_map(|group| group.until.map(|until| until.to_string())));
    page(&RetentionPage {
        frame: visitor.frame(Place::Retention, "Retention"),
        deletes: plan.deletes,
        groups,
        pages: asked.pages(next),
        action: "/retention",
        searches: vec![("project_id", "Project", asked.get("project_id").to_owned())],
        selects: vec![(
            "plan",
            "Plan",
            choices(
                "everything",
                [("delete", "would be deleted".to_owned()), ("keep", "is kept".to_owned())],
                asked.get("plan"),
            ),
        )],
    })
}

fn row(decision: &Decision) -> Row {
    let goes = decision.action == Action::Delete;
    Row {
        path: format!("/backups/{}", decision.backup_id),
        at: show::at(decision.created_at),
        what: decision.r#type.clone(),
        badge: show::badge(&decision.status),
        size: show::size(decision.size),
        goes,
        because: decision.because.join("; "),
        until: decision.expires_at.map_or_else(show::nothing, show::at),
    }
}
