//! The first page: am I safe?

use std::collections::BTreeMap;

use askama::Template;
use axum::{extract::State, http::HeaderMap, response::Response};
use chrono::{DateTime, Duration, Utc};

use super::{
    days::{self, Days},
    frame::{Frame, Place},
    jobs,
    show::{self, Html},
    standing::{self, Row, Standing},
    visit::{Visitor, is_partial, page},
};
use crate::{
    history::{self, Kept, SoonGone, StandingFilter},
    http::{Api, api::jobs as job_calls, error::Problem, extract::Params},
    ids::CONTROL_PLANE_PROJECT,
    jobs::queue::JobStatus,
    tenant::Permission,
};

/// Most projects that are looked at for the overview. With more, those by name that come first.
const MOST_PROJECTS: i64 = 5_000;

/// Rows of its lists.
const SHOWN_PROJECTS: usize = 25;
const SHOWN: u32 = 6;

/// One number at the top.
struct Tile {
    number: usize,
    text: &'static str,
    tone: &'static str,
}

/// One step of the guide for a fresh installation.
struct Step {
    is_done: bool,
    text: &'static str,
    hint: &'static str,
    path: &'static str,
    act: &'static str,
}

struct Soon {
    path: String,
    project: String,
    what: Html,
    at: Html,
    size: Html,
}

/// What one storage holds.
struct Storage {
    name: String,
    parts: Vec<(String, Html, String)>,
    total: Html,
    /// Of the fullest one.
    share: i64,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    /// The class of the verdict.
    tone: &'static str,
    verdict: String,
    tiles: Vec<Tile>,
    steps: Vec<Step>,
    rows: Vec<Row>,
    more: usize,
    failed: Vec<jobs::Row>,
    soon: Vec<Soon>,
    /// The part alone that changes is asked for.
    is_part: bool,
    storages: Vec<Storage>,
    days: Days,
}

pub async fn show(State(api): State<Api>, visitor: Visitor, headers: HeaderMap) -> Result<Response, Problem> {
    visitor.signed.require(Permission::Read)?;
    let (pool, scope, now) = (&api.app.pool, visitor.caller().scope(), visitor.now);
    let filter = StandingFilter { limit: MOST_PROJECTS + 1, ..StandingFilter::default() };
    let failed = job_calls::ListParams {
        project_id: None,
        r#type: None,
        status: Some(JobStatus::Failed),
        limit: Some(SHOWN),
        cursor: None,
    };
    let since = days::since(now);
    let is_part = is_partial(&headers);
    let (mut projects, failed, soon, days, kept) = tokio::try_join!(
        async { Ok::<_, Problem>(history::standing_projects(pool, &scope, &filter).await?) },
        job_calls::list(State(api.clone()), visitor.signed.clone(), Ok(Params(failed))),
        async { Ok(history::soon_gone(pool, &scope, now, now + Duration::days(7), i64::from(SHOWN)).await?) },
        async { Ok(if is_part { Vec::new() } else { history::days(pool, &scope, None, since).await? }) },
        async { Ok(if is_part { Vec::new() } else { history::kept_by_storage(pool, &scope).await? }) },
    )?;
    let is_cut = projects.len() > MOST_PROJECTS as usize;
    projects.truncate(MOST_PROJECTS as usize);
    let has_proof = projects.iter().any(|project| project.proved_at.is_some());
    let mut rows = standing::rows(&api, &visitor, projects).await?;
    let count = |standing| rows.iter().filter(|row| row.standing == standing).count();
    let (late, never, failing) = (count(Standing::Late), count(Standing::Never), count(Standing::Failing));
    let active = rows.len() - count(Standing::Off);
    let untried =
        rows.iter().filter(|row| row.good_path.is_some() && !row.is_tried && row.standing != Standing::Off).count();
    let tenants = rows.iter().filter(|row| row.id != CONTROL_PLANE_PROJECT).count();
    let has_backup = rows.iter().any(|row| row.good_path.is_some() && row.id != CONTROL_PLANE_PROJECT);
    let tiles = vec![
        Tile { number: count(Standing::Safe), text: "safe", tone: "good" },
        Tile { number: late + never, text: "without a good backup in time", tone: "bad" },
        Tile { number: failing, text: "whose last attempt failed", tone: "warn" },
        Tile { number: count(Standing::New), text: "that wait for the first backup", tone: "live" },
        Tile { number: untried, text: "never restored for a trial", tone: "dull" },
        Tile { number: count(Standing::Off), text: "not backed up", tone: "dull" },
    ];
    let tone = match (active, late + never) {
        // There is nothing yet, or nobody has looked at the others.
        (0, 0) => "",
        (1.., 0) if is_cut => "",
        (1.., 0) => "good",
        (_, _) => "bad",
    };
    let steps = guide(&api, &visitor, tenants, has_backup, has_proof);
    Row::sort(&mut rows);
    let more = rows.len().saturating_sub(SHOWN_PROJECTS);
    rows.truncate(SHOWN_PROJECTS);
    let week_ago = now - Duration::days(7);
    let recent = failed.data.into_iter().filter(|job| job.finished_at.unwrap_or(job.created_at) >= week_ago);
    page(&Overview {
        frame: visitor.frame(Place::Overview, "Overview"),
        tone,
        verdict: verdict(active, late + never, failing, is_cut),
        tiles: tiles.into_iter().filter(|tile| tile.number > 0).collect(),
        steps,
        rows,
        more,
        failed: recent.map(|job| jobs::Row::of(job, now)).collect(),
        soon: soon.into_iter().map(|backup| soon_row(backup, now)).collect(),
        is_part,
        storages: storages(kept),
        days: Days::of(&days, now),
    })
}

/// `is_cut`: there are projects beyond those that were looked at.
fn verdict(active: usize, unsafe_ones: usize, failing: usize, is_cut: bool) -> String {
    match (active, unsafe_ones, failing) {
        (0, _, _) => "Nothing is backed up yet".to_owned(),
        (all, 0, _) if is_cut => format!("{all} projects have a good backup; there are more than are looked at here"),
        (all, few, _) if is_cut => {
            format!("{few} of the first {all} projects {} not safe", if few == 1 { "is" } else { "are" })
        }
        (1, 0, 0) => "Your project is safe".to_owned(),
        (all, 0, 0) => format!("All {all} projects are safe"),
        (all, 0, _) => format!("All {all} projects have a good backup, though something failed lately"),
        (all, few, _) => format!("{few} of {all} projects {} not safe", if few == 1 { "is" } else { "are" }),
    }
}

/// What is still to be done in a fresh installation; empty when all is.
fn guide(api: &Api, visitor: &Visitor, projects: usize, has_backup: bool, has_proof: bool) -> Vec<Step> {
    if !visitor.is_operator() {
        return Vec::new();
    }
    let has_storage = !api.app.storages.keys().is_empty();
    let steps = vec![
        Step {
            is_done: true,
            text: "Connect a database",
            hint: "The control plane's own is connected. Add others that your tenants live in.",
            path: "/databases",
            act: "Databases",
        },
        Step {
            is_done: projects > 0,
            text: "Find your tenants",
            hint: "Schemas named tenant_… are found by themselves; others are added by name.",
            path: "/projects/discover",
            act: "Find projects",
        },
        Step {
            is_done: has_storage,
            text: "Choose a storage",
            hint: "A directory, an S3 bucket, or a Telegram channel; two of them are better than one.",
            path: "/storages",
            act: "Storages",
        },
        Step {
            is_done: has_backup,
            text: "Take the first backup",
            hint: "On a project's page. From then on schedules do it.",
            path: "/projects",
            act: "Projects",
        },
        Step {
            is_done: has_proof,
            text: "Prove it",
            hint: "Verify a backup by restoring it into a scratch database: then you know that it works.",
            path: "/backups?status=completed",
            act: "Backups",
        },
    ];
    if steps.iter().all(|step| step.is_done) { Vec::new() } else { steps }
}

fn soon_row(backup: SoonGone, now: DateTime<Utc>) -> Soon {
    Soon {
        path: format!("/backups/{}", backup.id),
        project: backup.project_id,
        what: Html::ours(format!("{} of {}", show::name(&backup.r#type), show::at(backup.created_at))),
        at: show::when(backup.expires_at, now),
        size: show::size(backup.size),
    }
}

fn storages(kept: Vec<Kept>) -> Vec<Storage> {
    let mut by_name: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    for part in kept {
        by_name.entry(part.storage.clone()).or_default().push(part);
    }
    let total = |parts: &[Kept]| parts.iter().map(|part| part.bytes).fold(0i64, i64::saturating_add);
    let most = by_name.values().map(|parts| total(parts)).max().unwrap_or(0).max(1);
    let storage = |(name, parts): (String, Vec<Kept>)| {
        let bytes = total(&parts);
        let part = |part: Kept| (part.r#type, show::size(part.bytes), show::counted(part.copies, "copy", "copies"));
        Storage {
            name,
            total: show::size(bytes),
            share: (i128::from(bytes) * 100 / i128::from(most)) as i64,
            parts: parts.into_iter().map(part).collect(),
        }
    };
    by_name.into_iter().map(storage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_says_how_many_are_not_safe() {
        for (numbers, said) in [
            ((0, 0, 0), "Nothing is backed up yet"),
            ((1, 0, 0), "Your project is safe"),
            ((12, 0, 0), "All 12 projects are safe"),
            ((12, 1, 3), "1 of 12 projects is not safe"),
            ((12, 2, 0), "2 of 12 projects are not safe"),
        ] {
            assert_eq!(verdict(numbers.0, numbers.1, numbers.2, false), said);
        }
        assert!(!verdict(5_000, 0, 0, true).contains("All"));
        assert_eq!(verdict(5_000, 2, 0, true), "2 of the first 5000 projects are not safe");
    }
}
