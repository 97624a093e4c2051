//! The plan for the backups of one project and type.

use std::collections::{BTreeSet, HashMap};

use chrono::Duration;
use sha2::{Digest, Sha256};

use super::{Reason, Rules};
use crate::{
    clock::Timestamp,
    cron::Zone,
    ids::{BackupId, JobId},
};

/// What a backup is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Waiting, or being made.
    Unfinished,
    /// Completed, whole, with every copy that is required.
    Good,
    /// Stored, but not as safe as was asked for: a copy is missing or damaged, or it holds some tables only.
    Poor,
    Failed,
    Cancelled,
    /// No longer usable; its deletion has not begun or was stopped.
    Expired,
    /// A status of a platform's own.
    Unknown(String),
}

/// A backup as its retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    pub taken_at: Timestamp,
    pub state: State,
    /// Taken by Holdfast, with a manifest. One that another program recorded is good only where there is none of these.
    pub is_ours: bool,
    pub pinned: bool,
    /// What the request for it said: it takes the place of the rules.
    pub asked_until: Option<Timestamp>,
    /// Another program's, which has given it no date.
    pub is_foreign_without_date: bool,
    /// When its row was written again from its manifest. Pins and requests are lost then, so it gets a whole term for somebody to pin it.
    pub adopted_at: Option<Timestamp>,
    /// The job that reads it now or will.
    pub read_by: Option<JobId>,
    /// The place of its rules among the policies.
    pub policy: usize,
}

/// The rules for some of the backups. Counts go over the backups of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `None`: what was set cannot be read, and what it is about stays.
    pub rules: Option<Rules>,
    /// Where days, weeks, months and years begin and end.
    pub zone: Zone,
}

/// What holds whatever the rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Good backups that always stay; never less than 1.
    pub minimum_good: u32,
    /// How long what no count keeps (failed attempts, poor backups) stays where no rule names days.
    pub otherwise_days: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Keep,
    Delete,
}

/// What becomes of `expires_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    AsItIs,
    At(Timestamp),
    /// A count keeps it, which has no date.
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub id: BackupId,
    pub action: Action,
    /// Never empty.
    pub because: Vec<Reason>,
    pub expiry: Expiry,
}

/// Decides about the backups of one project and type. Pure: same backups, policies, floor and `now`, same plan, in the order of the backups.
/// When what it lets go is gone, the next plan lets nothing more go.
pub fn plan(backups: &[Candidate], policies: &[Policy], floor: Floor, now: Timestamp) -> Vec<Verdict> {
    let good = good_ones(backups);
    let counted = counts(backups, &good, policies);
    let mut verdicts: Vec<Verdict> =
        backups.iter().map(|backup| by_rules(backup, &counted, policies, floor, now)).collect();
    if let Some(reason) = nothing_goes(backups, &good) {
        verdicts.iter_mut().for_each(|verdict| spare(verdict, reason.clone()));
        return verdicts;
    }
    let place: HashMap<BackupId, usize> = backups.iter().enumerate().map(|(at, backup)| (backup.id, at)).collect();
    let good: Vec<usize> = good.iter().filter_map(|id| place.get(id).copied()).collect();
    if let Some(newest) = good.first().and_then(|at| verdicts.get_mut(*at)) {
        spare(newest, Reason::NewestGood);
    }
    let minimum = floor.minimum_good.max(1);
    let (kept, going): (Vec<usize>, Vec<usize>) =
        good.into_iter().partition(|at| verdicts.get(*at).is_some_and(|verdict| verdict.action == Action::Keep));
    for at in going.into_iter().take((minimum as usize).saturating_sub(kept.len())) {
        if let Some(verdict) = verdicts.get_mut(at) {
            spare(verdict, Reason::MinimumGood(minimum));
        }
    }
    verdicts
}

/// Turns a deletion round. What stays anyway keeps its own reason.
fn spare(verdict: &mut Verdict, reason: Reason) {
    if verdict.action == Action::Delete {
        *verdict = Verdict { id: verdict.id, action: Action::Keep, because: vec![reason], expiry: Expiry::AsItIs };
    }
}

/// The good backups, newest first.
pub fn good_ones(backups: &[Candidate]) -> Vec<BackupId> {
    let all: Vec<&Candidate> = backups.iter().filter(|backup| backup.state == State::Good).collect();
    let has_ours = all.iter().any(|backup| backup.is_ours);
    let mut good: Vec<&Candidate> = all.into_iter().filter(|backup| backup.is_ours || !has_ours).collect();
    good.sort_by_key(|backup| std::cmp::Reverse((backup.taken_at, backup.id)));
    good.into_iter().map(|backup| backup.id).collect()
}

/// Why nothing may go at all: there is no good backup, or something has failed since the newest one.
fn nothing_goes(backups: &[Candidate], good: &[BackupId]) -> Option<Reason> {
    let newest_good = good.first().and_then(|id| backups.iter().find(|backup| backup.id == *id));
    let Some(newest_good) = newest_good else { return Some(Reason::NoneGood) };
    let since = (newest_good.taken_at, newest_good.id);
    let has_failed = |backup: &Candidate| backup.state == State::Failed && (backup.taken_at, backup.id) > since;
    backups.iter().any(has_failed).then_some(Reason::LastFailed)
}

/// Which backups the counts keep, and why.
fn counts(backups: &[Candidate], good: &[BackupId], policies: &[Policy]) -> HashMap<BackupId, Vec<Reason>> {
    let by_id: HashMap<BackupId, &Candidate> = backups.iter().map(|backup| (backup.id, backup)).collect();
    let mut kept: HashMap<BackupId, Vec<Reason>> = HashMap::new();
    for (place, policy) in policies.iter().enumerate() {
        let Some(rules) = &policy.rules else { continue };
        let mine: Vec<&Candidate> = good
            .iter()
            .filter_map(|id| by_id.get(id).copied())
            .filter(|backup| backup.policy == place && backup.asked_until.is_none())
            .collect();
        if let Some(count) = rules.keep_last {
            for backup in mine.iter().take(count as usize) {
                kept.entry(backup.id).or_default().push(Reason::Last(count));
            }
        }
        type Period = fn(jiff::civil::Date) -> (i16, i8, i8);
        type Rule = (Option<u32>, Period, fn(u32) -> Reason);
        let periods: [Rule; 4] = [
            (rules.keep_daily, |date| (date.year(), date.month(), date.day()), Reason::Daily),
            (rules.keep_weekly, |date| (date.iso_week_date().year(), date.iso_week_date().week(), 0), Reason::Weekly),
            (rules.keep_monthly, |date| (date.year(), date.month(), 0), Reason::Monthly),
            (rules.keep_yearly, |date| (date.year(), 0, 0), Reason::Yearly),
        ];
        for (count, period, reason) in periods {
            let Some(count) = count else { continue };
            let mut seen = BTreeSet::new();
            for backup in &mine {
                if seen.len() == count as usize {
                    break;
                }
                if seen.insert(period(policy.zone.date(backup.taken_at))) {
                    kept.entry(backup.id).or_default().push(reason(count));
                }
            }
        }
    }
    kept
}

/// What pins, readers and rules say of one backup, before the floor.
fn by_rules(
    backup: &Candidate,
    counted: &HashMap<BackupId, Vec<Reason>>,
    policies: &[Policy],
    floor: Floor,
    now: Timestamp,
) -> Verdict {
    let keep = |reason, expiry| Verdict { id: backup.id, action: Action::Keep, because: vec![reason], expiry };
    let delete =
        |reason| Verdict { id: backup.id, action: Action::Delete, because: vec![reason], expiry: Expiry::AsItIs };
    let as_it_is = Expiry::AsItIs;
    if backup.pinned {
        return keep(Reason::Pinned, as_it_is);
    }
    if let Some(job) = backup.read_by {
        return keep(Reason::ReadBy(job), as_it_is);
    }
    match &backup.state {
        State::Unfinished => return keep(Reason::Unfinished, as_it_is),
        State::Unknown(status) => return keep(Reason::NotOurs(status.clone()), as_it_is),
        State::Expired => return delete(Reason::ExpiredBefore),
        State::Good | State::Poor | State::Failed | State::Cancelled => {}
    }
    if let Some(until) = backup.asked_until {
        return if now < until { keep(Reason::Asked(until), as_it_is) } else { delete(Reason::AskedIsOver(until)) };
    }
    if backup.is_foreign_without_date {
        return keep(Reason::ForeignWithoutDate, as_it_is);
    }
    let Some(rules) = policies.get(backup.policy).and_then(|policy| policy.rules.as_ref()) else {
        return keep(Reason::UnreadableRules, as_it_is);
    };
    if let Some(adopted_at) = backup.adopted_at {
        let term = Duration::days(i64::from(rules.days.unwrap_or(floor.otherwise_days)));
        let until = adopted_at.checked_add_signed(term).unwrap_or(Timestamp::MAX_UTC);
        if now < until {
            return keep(Reason::Adopted(until), as_it_is);
        }
    }
    if rules.is_empty() {
        return keep(Reason::NoRules, Expiry::Open);
    }
    if let Some(reasons) = counted.get(&backup.id) {
        let mut because = reasons.clone();
        because.extend(
            rules
                .days
                .and_then(|days| Some((days, end_of(backup, days)?)))
                .filter(|(_, until)| now < *until)
                .map(|(days, until)| Reason::Days { days, until }),
        );
        return Verdict { id: backup.id, action: Action::Keep, because, expiry: Expiry::Open };
    }
    // Nothing counts a backup that is not good.
    let days = if backup.state == State::Good { rules.days } else { rules.days.or(Some(floor.otherwise_days)) };
    match days.map(|days| (days, end_of(backup, days))) {
        None => delete(Reason::NoRuleKeeps),
        // Beyond the calendar.
        Some((days, None)) => keep(Reason::Days { days, until: Timestamp::MAX_UTC }, Expiry::Open),
        Some((days, Some(until))) if now < until => keep(Reason::Days { days, until }, Expiry::At(until)),
        Some((days, Some(since))) => delete(Reason::DaysAreOver { days, since }),
    }
}

fn end_of(backup: &Candidate, days: u32) -> Option<Timestamp> {
    backup.taken_at.checked_add_signed(Duration::days(i64::from(days)))
}

/// Names what a plan deletes, in 32 hexadecimal digits: the same for the same deletions, whatever their order.
pub fn digest(deleted: impl IntoIterator<Item = BackupId>) -> String {
    let sorted: BTreeSet<BackupId> = deleted.into_iter().collect();
    let mut hash = Sha256::new();
    for id in sorted {
        hash.update(id.0.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
