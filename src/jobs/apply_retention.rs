//! Retention at work: loads what a plan needs, and carries plans out. What goes is deleted like anything that somebody deletes: a job for each backup, storage first, confirmed, tried again until it is done.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::request::{self, RequestError};
use crate::{
    app::App,
    artifact::BackupType,
    catalog::ProjectSettings,
    cron::Zone,
    db,
    history::{self, BackupStatus, KeptBackup},
    ids::{BackupId, JobId},
    retention::{self, Action, Candidate, Expiry, Floor, Policy, Rules, State, Verdict},
    tenant::{Caller, Scope},
};

/// Projects planned for at once.
const PROJECTS_AT_ONCE: i64 = 50;

/// What becomes of one backup, and why.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Decision {
    pub backup_id: Uuid,
    pub project_id: String,
    /// `database`, `storage` or `logs`.
    pub r#type: String,
    pub status: String,
    pub created_at: DateTime<Utc>,
    /// Bytes as stored.
    pub size: i64,
    #[schema(inline)]
    pub action: Action,
    /// Every rule that keeps it, or why it goes.
    pub because: Vec<String>,
    /// Until when it is kept, as the plan would write it. `null`: no rule says.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether that differs from what is written now.
    #[serde(skip)]
    pub is_redated: bool,
    /// One of those on which a project falls back.
    #[serde(skip)]
    pub is_good: bool,
}

/// A plan for some projects.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Plan {
    pub made_at: DateTime<Utc>,
    /// Names what it deletes: two plans with the same digest delete the same backups.
    pub digest: String,
    /// How many backups it deletes.
    pub deletes: usize,
    /// By project and type, newest first.
    pub backups: Vec<Decision>,
    /// The last project of this part, when there are more.
    #[serde(skip)]
    pub next_after: Option<String>,
}

/// What carrying out a plan has come to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Applied {
    pub digest: String,
    pub deleting: Vec<Deleting>,
    pub skipped: Vec<Skipped>,
    /// Backups that are kept, with another date than before.
    pub redated: usize,
}

/// A backup that is being deleted.
#[derive(Clone, Debug, Serialize)]
pub struct Deleting {
    pub backup_id: Uuid,
    pub project_id: String,
    pub job_id: Uuid,
}

/// A backup that the plan deletes and that was left alone.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    pub backup_id: Uuid,
    pub project_id: String,
    pub because: String,
}

/// The plan for the projects within reach, as of now: for one, or for up to `limit` that come after a given one.
pub async fn plan(
    app: &App,
    scope: &Scope,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Plan, RequestError> {
    let now = app.clock.now();
    let mut projects = history::projects_with_backups(&app.pool, scope, only, after, limit + 1).await?;
    let has_more = projects.len() as i64 > limit;
    projects.truncate(usize::try_from(limit).unwrap_or(0));
    let backups = decide(app, &projects, now).await?;
    let next_after = if has_more { projects.pop() } else { None };
    Ok(finish(now, backups, next_after))
}

/// The plan for everything within reach, or for one project.
pub async fn whole_plan(app: &App, scope: &Scope, only: Option<&str>) -> Result<Plan, RequestError> {
    let now = app.clock.now();
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let part = plan(app, scope, only, after.as_deref(), PROJECTS_AT_ONCE).await?;
        all.extend(part.backups);
        after = part.next_after;
        if after.is_none() {
            return Ok(finish(now, all, None));
        }
    }
}

fn finish(made_at: DateTime<Utc>, backups: Vec<Decision>, next_after: Option<String>) -> Plan {
    let going: Vec<BackupId> =
        backups.iter().filter(|b| b.action == Action::Delete).map(|b| BackupId(b.backup_id)).collect();
    Plan { made_at, deletes: going.len(), digest: retention::digest(going), backups, next_after }
}

/// Plans and carries out, project by project. For the daily run.
pub async fn run(app: &App, caller: &Caller) -> Result<Applied, RequestError> {
    let (mut total, mut after) = (Applied::default(), None::<String>);
    loop {
        let part = plan(app, &caller.scope(), None, after.as_deref(), PROJECTS_AT_ONCE).await?;
        let applied = apply(app, caller, &part).await?;
        total.deleting.extend(applied.deleting);
        total.skipped.extend(applied.skipped);
        total.redated += applied.redated;
        after = part.next_after;
        if after.is_none() {
            break;
        }
    }
    if !total.deleting.is_empty() || !total.skipped.is_empty() {
        tracing::info!(
            "Retention: {} backups have expired and are being deleted, {} were left alone",
            total.deleting.len(),
            total.skipped.len()
        );
    }
    Ok(total)
}

/// Does what the plan says and nothing else, the oldest first. A backup that has changed since (pinned, read by a job, deleted by somebody) is
/// left alone and named; so is every one of a project and type whose good backups have become too few meanwhile.
pub async fn apply(app: &App, caller: &Caller, plan: &Plan) -> Result<Applied, RequestError> {
    let mut applied = Applied { digest: plan.digest.clone(), ..Applied::default() };
    let mut kept_good: HashMap<(&str, &str), Vec<Uuid>> = HashMap::new();
    for decision in plan.backups.iter().filter(|decision| decision.is_good && decision.action == Action::Keep) {
        kept_good.entry((&decision.project_id, &decision.r#type)).or_default().push(decision.backup_id);
    }
    for decision in plan.backups.iter().rev() {
        let id = BackupId(decision.backup_id);
        match decision.action {
            Action::Keep if decision.is_redated => {
                if history::set_expiry(&app.pool, id, decision.expires_at).await? {
                    applied.redated += 1;
                }
            }
            Action::Keep => {}
            Action::Delete => {
                let good = kept_good.get(&(decision.project_id.as_str(), decision.r#type.as_str()));
                match delete(app, caller, decision, good.map_or(&[], Vec::as_slice)).await? {
                    Ok(job) => applied.deleting.push(Deleting {
                        backup_id: id.0,
                        project_id: decision.project_id.clone(),
                        job_id: job.0,
                    }),
                    Err(because) => applied.skipped.push(Skipped {
                        backup_id: id.0,
                        project_id: decision.project_id.clone(),
                        because,
                    }),
                }
            }
        }
    }
    Ok(applied)
}

/// The job of the deletion, or why there is none. What the plan was made of is looked at again in the transaction that writes the job, with the
/// rows held.
async fn delete(
    app: &App,
    caller: &Caller,
    decision: &Decision,
    kept_good: &[Uuid],
) -> Result<Result<JobId, String>, RequestError> {
    let id = BackupId(decision.backup_id);
    let mut transaction = db::begin(&app.pool).await?;
    // A plan that lets something go keeps at least one.
    let enough = kept_good.len().clamp(1, app.config.retention.minimum_good.max(1) as usize);
    let good = history::hold_good(&mut transaction, kept_good, enough).await?;
    if good < enough {
        return Ok(Err(format!(
            "{good} of the {enough} good backups that the plan counts on are left: some have changed since it was made"
        )));
    }
    let held = history::hold(&mut transaction, id).await?;
    let Some(held) = held.filter(|held| held.status == decision.status && !held.pinned) else {
        return Ok(Err("it has changed since the plan was made: it was pinned, or is gone".to_owned()));
    };
    // In a statement of its own: it sees what was written before the row was ours.
    if history::is_read(&mut *transaction, id).await? {
        return Ok(Err("a job reads it since the plan was made".to_owned()));
    }
    let expired =
        request::delete_expired(&mut transaction, app, caller, &decision.project_id, id, held, &decision.because).await;
    match expired {
        Ok(job) => {
            transaction.commit().await?;
            Ok(Ok(job.job_id()))
        }
        Err(error @ RequestError::Database(_)) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// The decisions about every backup of these projects.
async fn decide(app: &App, projects: &[String], now: DateTime<Utc>) -> Result<Vec<Decision>, RequestError> {
    let settings: HashMap<String, serde_json::Value> =
        history::project_settings(&app.pool, projects).await?.into_iter().collect();
    let mut groups: BTreeMap<(String, String), Vec<KeptBackup>> = BTreeMap::new();
    for backup in history::kept_backups(&app.pool, projects).await? {
        groups.entry((backup.project_id.clone(), backup.r#type.clone())).or_default().push(backup);
    }
    let minimum_good = app.config.retention.minimum_good;
    let mut decisions = Vec::new();
    for ((project, _), backups) in groups {
        let mut policies = Policies::new(app, settings.get(&project));
        let candidates: Vec<Candidate> = backups.iter().map(|backup| candidate(backup, &mut policies, now)).collect();
        let floor = Floor { minimum_good, otherwise_days: policies.otherwise_days };
        let verdicts = retention::plan(&candidates, &policies.all, floor, now);
        let good: HashSet<BackupId> = retention::good_ones(&candidates).into_iter().collect();
        let decided = backups.into_iter().zip(&verdicts);
        decisions.extend(decided.map(|(backup, verdict)| decision(backup, verdict, good.contains(&verdict.id))));
    }
    Ok(decisions)
}

fn decision(backup: KeptBackup, verdict: &Verdict, is_good: bool) -> Decision {
    let expires_at = match verdict.expiry {
        Expiry::AsItIs => backup.expires_at,
        // To the microsecond, which is what is kept.
        Expiry::At(at) => Some(at),
        Expiry::Open => None,
    };
    // The date of another program's file is that program's.
    let is_redated =
        expires_at != backup.expires_at && backup.status == BackupStatus::Completed.as_str() && !is_foreign(&backup);
    Decision {
        backup_id: backup.id,
        project_id: backup.project_id,
        r#type: backup.r#type,
        status: backup.status,
        created_at: backup.created_at,
        size: backup.size,
        action: verdict.action,
        because: verdict.because.iter().map(ToString::to_string).collect(),
        expires_at,
        is_redated,
        is_good,
    }
}

/// Known by its row alone, as another program has written it.
fn is_foreign(backup: &KeptBackup) -> bool {
    !backup.has_job && !backup.has_manifest && backup.adopted_at.is_none()
}

fn candidate(backup: &KeptBackup, policies: &mut Policies, now: DateTime<Utc>) -> Candidate {
    let state = match backup.status.parse::<BackupStatus>() {
        Ok(BackupStatus::Pending | BackupStatus::InProgress) => State::Unfinished,
        Ok(BackupStatus::Completed) if backup.copies_missing == 0 && !backup.is_partial => State::Good,
        Ok(BackupStatus::Completed | BackupStatus::Damaged) => State::Poor,
        Ok(BackupStatus::Failed) => State::Failed,
        Ok(BackupStatus::Cancelled) => State::Cancelled,
        Ok(BackupStatus::Expired) => State::Expired,
        Ok(BackupStatus::Deleted) | Err(_) => State::Unknown(backup.status.clone()),
    };
    let asked_until = if backup.has_job {
        backup.asked_until.as_deref().and_then(|text| text.parse().ok())
    } else {
        // Recorded by another program, or found again: its row tells a date, and not whether a count or a pin was to keep it beyond.
        backup.expires_at.filter(|at| *at > now)
    };
    Candidate {
        id: BackupId(backup.id),
        taken_at: backup.created_at,
        state,
        // A database's backup that no restore can read is a file that another program has handed over.
        is_ours: backup.has_manifest && (backup.format.is_some() || backup.r#type != BackupType::Database.as_str()),
        pinned: backup.pinned,
        asked_until,
        is_foreign_without_date: is_foreign(backup) && backup.expires_at.is_none(),
        adopted_at: backup.adopted_at.filter(|_| !backup.has_job),
        read_by: backup.read_by.map(JobId),
        policy: policies.of(backup),
    }
}

/// The policies of one project: its own or the configuration's first, then those of schedules.
struct Policies {
    all: Vec<Policy>,
    of_schedules: HashMap<Uuid, usize>,
    zone: Zone,
    /// How long what no count keeps stays where no rule names days.
    otherwise_days: u32,
}

impl Policies {
    fn new(app: &App, settings: Option<&serde_json::Value>) -> Self {
        let zone = app.config.schedules.zone().unwrap_or(Zone::UTC);
        let set = |name: &str| settings.and_then(|settings| settings.get(name)).filter(|value| !value.is_null());
        let own_days = settings.and_then(|settings| ProjectSettings::of(settings).retention_days);
        let rules = match (set("retention"), set("retention_days")) {
            (Some(own), _) => readable(own),
            (None, Some(_)) => own_days.map(|days| Rules { days: Some(days), ..configured(app) }),
            (None, None) => Some(configured(app)),
        };
        let otherwise_days = own_days.unwrap_or(app.config.backup.retention_days);
        let all = vec![Policy { rules, zone: zone.clone() }];
        Self { all, of_schedules: HashMap::new(), zone, otherwise_days }
    }

    fn of(&mut self, backup: &KeptBackup) -> usize {
        let (Some(schedule), Some(own)) =
            (backup.schedule_id, backup.schedule_retention.as_ref().filter(|value| !value.is_null()))
        else {
            return 0;
        };
        *self.of_schedules.entry(schedule).or_insert_with(|| {
            let zone = backup.schedule_zone.as_deref().and_then(|name| name.parse().ok());
            self.all.push(Policy { rules: readable(own), zone: zone.unwrap_or_else(|| self.zone.clone()) });
            self.all.len() - 1
        })
    }
}

fn readable(value: &serde_json::Value) -> Option<Rules> {
    serde_json::from_value::<Rules>(value.clone()).ok().filter(|rules| rules.check().is_ok())
}

fn configured(app: &App) -> Rules {
    let config = &app.config.retention;
    Rules {
        days: Some(app.config.backup.retention_days),
        keep_last: config.keep_last,
        keep_daily: config.keep_daily,
        keep_weekly: config.keep_weekly,
        keep_monthly: config.keep_monthly,
        keep_yearly: config.keep_yearly,
    }
}
