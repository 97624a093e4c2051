//! Retention as a preview: every backup with keep or delete, and the reason. Nothing is done by looking.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    frame::{Frame, Place},
    list::{Asked, Choice, Pages},
    show::{self, Html},
    visit::{Visitor, page, wrong},
};
use crate::{
    http::{Api, error::Problem},
    ids::ProjectId,
    jobs::apply_retention::{self, Decision},
    retention::Action,
    tenant::Permission,
};

/// Projects on a page.
const PROJECTS: i64 = 5;

/// Backups of each that are listed: of one project, and of several.
const MOST_ROWS: usize = 200;
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

/// One project's backups.
struct Group {
    project: String,
    path: String,
    /// All of its rows.
    all: String,
    rows: Vec<Row>,
    /// Those beyond the rows too.
    count: usize,
    goes: usize,
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
    let id = |name: &'static str| -> Result<Option<ProjectId>, Problem> {
        asked.given(name).map(|text| text.parse().map_err(|_| wrong(name, "this is no project's id"))).transpose()
    };
    let (only, after) = (id("project_id")?, id("cursor")?);
    let (only, after) = (only.as_ref().map(ProjectId::as_str), after.as_ref().map(ProjectId::as_str));
    let mut plan = apply_retention::plan(&api.app, &visitor.caller().scope(), only, after, PROJECTS).await?;
    let next = plan.next_after.take();
    let most = if only.is_some() { MOST_ROWS } else { FEW_ROWS };
    let mut groups: Vec<Group> = Vec::new();
    for decision in plan.backups {
        let group = match groups.last_mut() {
            Some(group) if group.project == decision.project_id => group,
            _ => {
                groups.push(Group {
                    path: format!("/projects/{}", show::in_path(&decision.project_id)),
                    all: format!("/retention?project_id={}", show::in_query(&decision.project_id)),
                    project: decision.project_id.clone(),
                    rows: Vec::new(),
                    count: 0,
                    goes: 0,
                });
                let Some(group) = groups.last_mut() else { continue };
                group
            }
        };
        group.count += 1;
        group.goes += usize::from(decision.action == Action::Delete);
        if group.rows.len() < most {
            group.rows.push(row(decision));
        }
    }
    page(&RetentionPage {
        frame: visitor.frame(Place::Retention, "Retention"),
        deletes: plan.deletes,
        groups,
        pages: asked.pages(next),
        action: "/retention",
        searches: vec![("project_id", "Project", asked.get("project_id").to_owned())],
        selects: Vec::new(),
    })
}

fn row(decision: Decision) -> Row {
    let goes = decision.action == Action::Delete;
    Row {
        path: format!("/backups/{}", decision.backup_id),
        at: show::at(decision.created_at),
        what: decision.r#type,
        badge: show::badge(&decision.status),
        size: show::size(decision.size),
        goes,
        because: decision.because.join("; "),
        until: decision.expires_at.map_or_else(show::nothing, show::at),
    }
}
