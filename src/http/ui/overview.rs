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
    standing::{self, Row, Standing, Stood},
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
    // All are judged, and few are shown: those alone are made into rows.
    let mut all: Vec<Stood> =
        projects.into_iter().map(|project| Stood::of(project, &api.app.config, visitor.now)).collect();
    let count = |standing| all.iter().filter(|stood| stood.standing == standing).count();
    let (late, never, failing) = (count(Standing::Late), count(Standing::Never), count(Standing::Failing));
    let active = all.len() - count(Standing::Off);
    let is_untried = |stood: &&Stood| {
        stood.project.good_id.is_some() && stood.project.recovery_seconds.is_none() && stood.standing != Standing::Off
    };
    let untried = all.iter().filter(is_untried).count();
    let tenants = || all.iter().filter(|stood| stood.project.id != CONTROL_PLANE_PROJECT);
    let has_backup = tenants().any(|stood| stood.project.good_id.is_some());
    let steps = guide(&api, &visitor, tenants().count(), has_backup, has_proof);
    let tiles = vec![
        Tile { number: count(Standing::Safe), text: "safe", tone: "good" },
        Tile { number: late + never, text: "without a good backup in time", tone: "bad" },
        Tile { number: failing, text: "whose last attempt failed", tone: "warn" },
        Tile { number: count(Standing::New), text: "that wait for the first backup", tone: "live" },
        Tile { number: untried, text: "never restored for a trial", tone: "dull" },
        Tile { number: count(Standing::Off), text: "not backed up", tone: "dull" },
    ];
    let has_none = |stood: &&Stood| stood.project.good_id.is_none();
    let waiting =
        all.iter().filter(|stood| matches!(stood.standing, Standing::New | Standing::Failing)).filter(has_none);
    let waiting = waiting.count();
    let verdict = Verdict { active, unsafe_ones: late + never, failing, waiting, is_cut };
    Stood::sort(&mut all);
    let more = all.len().saturating_sub(SHOWN_PROJECTS);
    all.truncate(SHOWN_PROJECTS);
    let rows = standing::rows_of(&api, &visitor, all).await?;
    let week_ago = now - Duration::days(7);
    let recent = failed.data.into_iter().filter(|job| job.finished_at.unwrap_or(job.created_at) >= week_ago);
    page(&Overview {
        // The tab tells it too.
        frame: visitor.frame(Place::Overview, verdict.words()),
        tone: verdict.tone(),
        verdict: verdict.words(),
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

/// Whether one is safe, in numbers of projects.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    /// Those that are backed up at all.
    active: usize,
    /// Without a good backup that is young enough.
    unsafe_ones: usize,
    /// Those that are not late, whose newest attempt has failed.
    failing: usize,
    /// Those whose first good backup is still to come: they are neither safe nor late.
    waiting: usize,
    /// There are projects beyond those that were looked at.
    is_cut: bool,
}

impl Verdict {
    const fn tone(self) -> &'static str {
        match (self.active - self.waiting, self.unsafe_ones, self.failing) {
            (_, 1.., _) => "bad",
            (_, 0, 1..) => "warn",
            // There is nothing yet, or nobody has looked at the others.
            (0, 0, 0) => "",
            (_, 0, 0) if self.is_cut => "",
            (_, 0, 0) => "good",
        }
    }

    fn words(self) -> String {
        let Self { active, unsafe_ones, failing, waiting, is_cut } = self;
        let are = |number: usize| if number == 1 { "is" } else { "are" };
        match (active - waiting, unsafe_ones, failing) {
            (all, 0, _) if all > 0 && is_cut => {
                format!("{all} projects have a good backup; there are more than are looked at here")
            }
            (_, few @ 1.., _) if is_cut => format!("{few} of the first {active} projects {} not safe", are(few)),
            (_, few @ 1.., _) => format!("{few} of {active} projects {} not safe", are(few)),
            (0, 0, 0) => "Nothing is backed up yet".to_owned(),
            (0, 0, _) => "Nothing is backed up yet, and something failed".to_owned(),
            (all, 0, _) if waiting > 0 => {
                let projects = if all == 1 { "project has" } else { "projects have" };
                let failed = if failing > 0 { "; something failed lately" } else { "" };
                format!("{all} {projects} a good backup, {waiting} {} still without a first one{failed}", are(waiting))
            }
            (1, 0, 0) => "Your project is safe".to_owned(),
            (all, 0, 0) => format!("All {all} projects are safe"),
            (1, 0, _) => "Your project has a good backup, though something failed lately".to_owned(),
            (all, 0, _) => format!("All {all} projects have a good backup, though something failed lately"),
        }
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
    fn the_verdict_says_how_many_are_not_safe_and_calls_nobody_safe_who_has_no_backup() {
        let verdict = |active, unsafe_ones, failing, waiting| {
            let verdict = Verdict { active, unsafe_ones, failing, waiting, is_cut: false };
            (verdict.words(), verdict.tone())
        };
        for (numbers, said, tone) in [
            ((0, 0, 0, 0), "Nothing is backed up yet", ""),
            ((1, 0, 0, 1), "Nothing is backed up yet", ""),
            ((3, 0, 0, 3), "Nothing is backed up yet", ""),
            ((1, 0, 1, 1), "Nothing is backed up yet, and something failed", "warn"),
            (
                (3, 0, 1, 1),
                "2 projects have a good backup, 1 is still without a first one; something failed lately",
                "warn",
            ),
            ((3, 0, 0, 1), "2 projects have a good backup, 1 is still without a first one", "good"),
            ((3, 1, 0, 1), "1 of 3 projects is not safe", "bad"),
            ((1, 0, 0, 0), "Your project is safe", "good"),
            ((1, 0, 1, 0), "Your project has a good backup, though something failed lately", "warn"),
            ((12, 0, 0, 0), "All 12 projects are safe", "good"),
            ((12, 0, 2, 0), "All 12 projects have a good backup, though something failed lately", "warn"),
            ((12, 1, 3, 0), "1 of 12 projects is not safe", "bad"),
            ((12, 2, 0, 0), "2 of 12 projects are not safe", "bad"),
        ] {
            assert_eq!(verdict(numbers.0, numbers.1, numbers.2, numbers.3), (said.to_owned(), tone));
        }
        let cut = |unsafe_ones| Verdict { active: 5_000, unsafe_ones, failing: 0, waiting: 0, is_cut: true };
        assert!(!cut(0).words().contains("All") && cut(0).tone().is_empty());
        assert_eq!(cut(2).words(), "2 of the first 5000 projects are not safe");
    }
}
