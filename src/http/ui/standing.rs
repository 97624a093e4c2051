//! Whether a project is safe, in a word and in a row of a table.

use chrono::{DateTime, Duration, Utc};

use super::{
    show::{self, Html},
    visit::Visitor,
};
use crate::{
    config::Config,
    history::StandingProject,
    http::{Api, error::Problem},
    schedule,
};

/// How a project stands, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It has no good backup, and should have one by now.
    Never,
    /// Its newest good backup is older than is allowed.
    Late,
    /// The newest attempt failed; the good backup before it is young enough.
    Failing,
    /// It is new, and its first backup is still to come.
    New,
    Safe,
    /// It is not ACTIVE, so nothing is backed up.
    Off,
}

impl Standing {
    /// Pure: the same project, time and limit, the same word.
    pub fn of(project: &StandingProject, allowed: Option<Duration>, now: DateTime<Utc>) -> Self {
        if project.status != "ACTIVE" {
            return Self::Off;
        }
        if schedule::is_stale(project.good_at, project.created_at, allowed, now) {
            return if project.good_at.is_some() { Self::Late } else { Self::Never };
        }
        let has_failed = matches!(project.newest_status.as_deref(), Some("failed" | "damaged"));
        match project.good_at {
            _ if has_failed && project.newest_at > project.good_at => Self::Failing,
            None => Self::New,
            Some(_) => Self::Safe,
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Never => "no backup",
            Self::Late => "too old",
            Self::Failing => "last one failed",
            Self::New => "first one to come",
            Self::Safe => "safe",
            Self::Off => "off",
        }
    }

    const fn tone(self) -> &'static str {
        match self {
            Self::Never | Self::Late => "bad",
            Self::Failing => "warn",
            Self::New => "live",
            Self::Safe => "good",
            Self::Off => "dull",
        }
    }

    pub fn badge(self) -> Html {
        Html::ours(format!("<span class=\"badge {}\">{}</span>", self.tone(), self.word()))
    }
}

/// A project, and how it stands.
#[derive(Clone, Debug)]
pub struct Stood {
    pub standing: Standing,
    pub project: StandingProject,
    /// The age that is allowed for its newest good backup. `None`: any.
    allowed: Option<Duration>,
}

impl Stood {
    pub fn of(project: StandingProject, config: &Config, now: DateTime<Utc>) -> Self {
        let allowed = schedule::allowed_age(&project.settings, config.schedules.allowed_age());
        Self { standing: Standing::of(&project, allowed, now), project, allowed }
    }

    /// The worst first, then the oldest.
    pub fn sort(all: &mut [Self]) {
        all.sort_by(|a, b| {
            (a.standing, a.project.good_at, &a.project.id).cmp(&(b.standing, b.project.good_at, &b.project.id))
        });
    }
}

/// A row of a list of projects.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub path: String,
    pub name: String,
    pub badge: Html,
    pub good: Html,
    /// The last good backup's page.
    pub good_path: Option<String>,
    pub allowed: String,
    pub proof: Html,
    /// How long the last trial restore took.
    pub recovery: Html,
    pub next: Html,
    pub size: Html,
    pub took: Html,
    /// Why the newest attempt failed.
    pub why: Option<String>,
}

/// Projects as rows, with their next starts.
pub async fn rows(
    api: &Api,
    visitor: &Visitor,
    projects: impl IntoIterator<Item = StandingProject>,
) -> Result<Vec<Row>, Problem> {
    let stood = projects.into_iter().map(|project| Stood::of(project, &api.app.config, visitor.now));
    rows_of(api, visitor, stood.collect()).await
}

/// The same, of those whose standing is known.
pub async fn rows_of(api: &Api, visitor: &Visitor, stood: Vec<Stood>) -> Result<Vec<Row>, Problem> {
    let ids: Vec<String> = stood.iter().map(|stood| stood.project.id.clone()).collect();
    let next = schedule::next_starts(&api.app, &visitor.caller().scope(), &ids).await?;
    let now = visitor.now;
    let row = |Stood { standing, project, allowed }: Stood| {
        let proof = match (project.proved_at, project.proof_depth.as_deref()) {
            (Some(at), depth) => {
                let depth = show::escape(depth.unwrap_or("read"));
                Html::ours(format!("{} <span class=\"faint\">{depth}</span>", show::when(at, now)))
            }
            (None, _) => show::nothing(),
        };
        let message = project.newest_message.map(|text| visitor.told(&text));
        Row {
            path: format!("/projects/{}", show::in_path(&project.id)),
            name: if project.name.is_empty() { project.id.clone() } else { project.name },
            badge: standing.badge(),
            good: show::when_or_nothing(project.good_at, now),
            good_path: project.good_id.map(|id| format!("/backups/{id}")),
            allowed: allowed.map_or_else(|| "any".to_owned(), show::rough),
            proof,
            recovery: match project.recovery_seconds {
                Some(seconds) => show::measured(seconds, project.recovery_at, now),
                None => show::nothing(),
            },
            next: show::when_or_nothing(next.get(&project.id).copied(), now),
            size: project.good_size.map_or_else(show::nothing, show::size),
            took: project.good_seconds.map_or_else(Html::default, show::took),
            why: match project.newest_status.as_deref() {
                Some("failed" | "damaged") => message,
                _ => None,
            },
            id: project.id,
        }
    };
    Ok(stood.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_safe_while_its_newest_good_backup_is_young_enough() {
        let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
        let ago = |hours| Some(now - Duration::hours(hours));
        let project = |status: &str, age, good, newest: Option<(&str, i64)>| StandingProject {
            id: "p".to_owned(),
            name: String::new(),
            status: status.to_owned(),
            settings: serde_json::json!({}),
            created_at: now - Duration::hours(age),
            good_id: None,
            good_at: good,
            good_size: None,
            good_seconds: None,
            proved_at: None,
            proof_depth: None,
            recovery_seconds: None,
            recovery_at: None,
            newest_id: None,
            newest_status: newest.map(|(status, _)| status.to_owned()),
            newest_at: newest.and_then(|(_, hours)| ago(hours)),
            newest_message: None,
        };
        for (project, expected) in [
            (project("ACTIVE", 900, ago(3), Some(("completed", 3))), Standing::Safe),
            (project("ACTIVE", 900, ago(3), Some(("failed", 1))), Standing::Failing),
            (project("ACTIVE", 900, ago(3), Some(("failed", 30))), Standing::Safe),
            (project("ACTIVE", 900, ago(30), Some(("completed", 30))), Standing::Late),
            (project("ACTIVE", 900, None, None), Standing::Never),
            (project("ACTIVE", 1, None, None), Standing::New),
            (project("ACTIVE", 1, None, Some(("failed", 1))), Standing::Failing),
            (project("INACTIVE", 900, None, None), Standing::Off),
        ] {
            assert_eq!(Standing::of(&project, Some(Duration::hours(26)), now), expected, "{project:?}");
        }
    }
}
