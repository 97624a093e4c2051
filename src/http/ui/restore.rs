//! The restore wizard: choose a backup on a timeline, see what it holds and what it replaces, type the project's name. The job's page then
//! shows how it goes, what was proved, and offers to undo it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};

use super::{
    backup::Holds,
    backups::{self, one},
    form::Form,
    frame::{Frame, Place},
    jobs::job_path,
    show::{self, Html},
    target::Offer,
    visit::{Typed, Visitor, go, page, page_as, wrong},
};
use crate::{
    artifact::BackupType,
    history::{self, Backup, BackupFilter, BackupStatus},
    http::{
        Api,
        api::{backup::ask, projects as project_calls},
        error::Problem,
        extract::{Body, Id, IdempotencyKey},
        named::Named,
        redact,
    },
    ids::BackupId,
    manage::standing,
    manifest::Content,
    tenant::Permission,
};

/// Backups on the timeline.
const SHOWN: i64 = 60;

/// Differences that are listed.
const MOST_DIFFERENCES: usize = 200;

#[derive(Template)]
#[template(path = "restore_choose.html")]
struct ChoosePage {
    frame: Frame,
    id: String,
    path: String,
    timeline: Html,
    /// There may be older ones.
    is_cut: bool,
    query: String,
    rows: Vec<backups::Row>,
}

pub async fn choose(State(api): State<Api>, visitor: Visitor, Named(id): Named) -> Result<Response, Problem> {
    let shown = project_calls::show(State(api.clone()), visitor.signed.clone(), Named(id.clone())).await?.data;
    visitor.signed.require(Permission::Write)?;
    let filter = BackupFilter {
        project_id: Some(id),
        status: Some(BackupStatus::Completed),
        limit: SHOWN,
        ..BackupFilter::default()
    };
    let all = history::list(&api.app.pool, &visitor.caller().scope(), &filter).await?;
    let is_cut = all.len() as i64 == SHOWN;
    let usable: Vec<Backup> = all.into_iter().filter(is_restorable).collect();
    page(&ChoosePage {
        frame: visitor.frame(Place::Projects, "Restore"),
        path: format!("/projects/{}", show::in_path(&shown.id)),
        is_cut,
        query: show::in_query(&shown.id),
        timeline: timeline(&usable, visitor.now),
        rows: usable
            .into_iter()
            .map(|backup| backups::Row::of(redact::backup(backup, visitor.caller()), visitor.now))
            .collect(),
        id: shown.id,
    })
}

fn is_restorable(backup: &Backup) -> bool {
    let holds = [BackupType::Database, BackupType::Storage];
    holds.iter().any(|t| backup.r#type == t.as_str()) && !backup.is_partial && backup.format.is_some()
}

/// The backups along time, the newest at the right: each a link, larger ones higher.
fn timeline(backups: &[Backup], now: DateTime<Utc>) -> Html {
    let (Some(oldest), Some(largest)) = (backups.last(), backups.iter().map(|backup| backup.size).max()) else {
        return Html::default();
    };
    let span = (now - oldest.created_at).num_seconds().max(1);
    let mut marks = String::new();
    for backup in backups {
        let x = 12 + (backup.created_at - oldest.created_at).num_seconds() * 936 / span;
        let height = 14 + (i128::from(backup.size) * 30 / i128::from(largest.max(1))) as i64;
        let proof = if backup.verified_at.is_some() { "proved" } else { "taken" };
        let at = backup.created_at.format("%Y-%m-%d %H:%M UTC");
        let _ = write!(
            marks,
            "<a href=\"/backups/{}/restore\" aria-label=\"{at}, {proof}\"><title>{at}, {proof}</title><rect x=\"{}\" y=\"{}\" width=\"10\" height=\"{height}\" rx=\"3\" class=\"{proof}\"/></a>",
            backup.id,
            x - 5,
            54 - height,
        );
    }
    Html::ours(format!(
        "<svg class=\"timeline\" viewBox=\"0 0 960 78\" role=\"group\" aria-label=\"Backups along time\"><line x1=\"0\" y1=\"56\" x2=\"960\" y2=\"56\"/>{marks}<text x=\"2\" y=\"74\">{}</text><text x=\"958\" y=\"74\" text-anchor=\"end\">now</text></svg>",
        oldest.created_at.format("%Y-%m-%d"),
    ))
}

/// A table before and after.
struct Change {
    table: String,
    now: String,
    then: String,
    kind: &'static str,
}

/// How what stands now differs from the backup.
struct Replaced {
    is_known: bool,
    tables: usize,
    changes: Vec<Change>,
    more: usize,
}

#[derive(Template)]
#[template(path = "restore.html")]
struct ConfirmPage {
    frame: Frame,
    back: String,
    project: String,
    at: Html,
    badge: Html,
    proof: Option<Html>,
    holds: Option<Holds>,
    replaced: Option<Replaced>,
    is_whole_database: bool,
    is_database: bool,
    can_pick: bool,
    undo_hours: u32,
    form: Form,
}

async fn replaced(api: &Api, visitor: &Visitor, backup: &Backup) -> Result<Option<Replaced>, Problem> {
    let manifest = backup.manifest();
    let Some(Content::Database(content)) = manifest.as_ref().map(|manifest| &manifest.body.holds) else {
        return Ok(None);
    };
    let Some(tables) = standing::tables(&api.app, visitor.caller(), &backup.project_id).await? else {
        return Ok(Some(Replaced { is_known: false, tables: 0, changes: Vec::new(), more: 0 }));
    };
    let count = tables.len();
    let mut both: BTreeMap<String, (Option<Option<i64>>, Option<i64>)> = BTreeMap::new();
    for table in tables {
        both.entry(format!("{}.{}", table.schema, table.table)).or_default().0 = Some(table.rows);
    }
    for table in &content.tables {
        let rows = i64::try_from(table.rows).unwrap_or(i64::MAX);
        both.entry(format!("{}.{}", table.schema, table.table)).or_default().1 = Some(rows);
    }
    let change = |(table, (now, then)): (String, (Option<Option<i64>>, Option<i64>))| {
        let kind = match (now, then) {
            (None, Some(_)) => "comes back",
            (Some(_), None) => "goes",
            (Some(Some(now)), Some(then)) if now == then => "",
            (_, _) => "differs",
        };
        let said =
            |rows: Option<i64>| rows.map_or_else(|| "?".to_owned(), |rows| format!("about {}", show::count(rows)));
        Change {
            table,
            now: now.map_or_else(|| "—".to_owned(), said),
            then: then.map_or_else(|| "—".to_owned(), show::count),
            kind,
        }
    };
    let mut changes: Vec<Change> = both.into_iter().map(change).collect();
    changes.sort_by_key(|change| change.kind.is_empty());
    let more = changes.len().saturating_sub(MOST_DIFFERENCES);
    changes.truncate(MOST_DIFFERENCES);
    Ok(Some(Replaced { is_known: true, tables: count, changes, more }))
}

/// The project's name, and what the backup can be restored into.
async fn offer(api: &Api, visitor: &Visitor, backup: &Backup) -> Result<(String, Offer), Problem> {
    let named = Named(backup.project_id.clone());
    let project = project_calls::show(State(api.clone()), visitor.signed.clone(), named).await?.data;
    let is_whole = project.schema.is_none() && backup.r#type == BackupType::Database.as_str();
    Ok((project.name, Offer::of(api, visitor, backup, is_whole).await?))
}

async fn confirm_page(
    api: &Api,
    visitor: &Visitor,
    backup: Backup,
    offer: &Offer,
    form: Form,
    status: StatusCode,
) -> Result<Response, Problem> {
    let is_whole_database = offer.is_whole_database;
    let manifest = backup.manifest();
    page_as(
        status,
        &ConfirmPage {
            frame: visitor.frame(Place::Backups, "Restore a backup"),
            back: format!("/projects/{}/restore", show::in_path(&backup.project_id)),
            at: show::at(backup.created_at),
            badge: show::badge(&backup.status),
            proof: backup.verified_at.map(|at| show::when(at, visitor.now)),
            holds: manifest.as_ref().map(|manifest| Holds::of(manifest, visitor)),
            replaced: if is_whole_database { None } else { replaced(api, visitor, &backup).await? },
            is_whole_database,
            undo_hours: api.app.config.restore.undo_hours,
            is_database: backup.r#type == BackupType::Database.as_str(),
            can_pick: offer.can_pick(),
            form,
            project: backup.project_id,
        },
    )
}

pub async fn ask(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Response, Problem> {
    let backup = one(&api, &visitor, id?.0).await?.backup;
    visitor.signed.require(Permission::Write)?;
    let (_, offer) = offer(&api, &visitor, &backup).await?;
    let form = offer.form(&backup);
    confirm_page(&api, &visitor, backup, &offer, form, StatusCode::OK).await
}

pub async fn restore(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<BackupId>, Problem>,
    typed: Typed,
) -> Result<Response, Problem> {
    let backup = one(&api, &visitor, id?.0).await?.backup;
    let (name, offer) = offer(&api, &visitor, &backup).await?;
    let asked = async {
        let confirmed = typed.get("confirm");
        let is_meant = confirmed == backup.project_id.trim() || (!confirmed.is_empty() && confirmed == name.trim());
        if visitor.may_write() && !is_meant {
            return Err(wrong("confirm", "this is not the project's name or id"));
        }
        let body = serde_json::json!({
            "backup_id": backup.id, "confirm": true, "target": offer.target(&typed)?,
            "allow_detached_references": typed.is_checked("allow_detached_references"),
        });
        let body: ask::RestoreBody = serde_json::from_value(body).map_err(|_| Problem::internal())?;
        let key = IdempotencyKey::of(None);
        ask::restore(State(api.clone()), visitor.signed.clone(), key, Ok(Body(body))).await
    };
    match asked.await {
        Ok(accepted) => Ok(go(&job_path(&accepted), "")),
        // The page looks into the tenant's database, for those who may restore alone.
        Err(problem) if problem.status.is_server_error() || !visitor.may_write() => Err(problem),
        Err(problem) => {
            let status = problem.status;
            let form = offer.form(&backup).typed(&typed).refused(&problem);
            let mut response = confirm_page(&api, &visitor, backup, &offer, form, status).await?;
            super::problem::carry(&mut response, problem);
            Ok(response)
        }
    }
}
