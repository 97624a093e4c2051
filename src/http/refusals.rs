//! Refusals in the audit trail. Someone who is known gets an entry for each, up to a number a minute; what comes beyond, and the calls of
//! nobody, are counted and written once a minute, so that nobody can fill the table.
//!
//! What always holds: an entry names a project or a backup only where its caller reaches it. Else it belongs to the caller's own
//! organisation and repeats what was asked for, the same whether that exists or not: strangers cannot write into a tenant's log, nor learn
//! or tell what a tenant has.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use axum::http::StatusCode;
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use super::{
    Api,
    buckets::Buckets,
    client,
    limits::identity,
    witness::{Known, Refused},
};
use crate::{
    catalog,
    config::LimitsConfig,
    db,
    history::{self, Event, HistoryError, PeopleEvent},
    ids::{BackupId, JobId},
    jobs::queue,
    tenant::{Caller, Role},
};

/// How long refusals are counted together.
const WINDOW: Duration = Duration::seconds(60);

/// Addresses of nobody's calls that are told apart in one window. The others are counted as one.
const MAX_APART: usize = 32;

/// Callers that are told apart in one window, and then as many organisations, in which the others are counted together. Nobody's calls take
/// none of these places.
const MAX_CALLERS_APART: usize = 256;

/// Entries of all callers together, as a multiple of one caller's.
const ALL_TOGETHER: u32 = 10;

/// Who is not told apart, as the history names it.
const OTHERS: &str = "others";

/// Longest text of a request that an entry repeats, in characters.
const MAX_ECHO: usize = 200;

/// What a refused call was about.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    Project(&'a str),
    Backup(BackupId),
    Job(JobId),
}

/// How many refusals there were lately.
#[derive(Debug)]
pub struct Refusals {
    each: Buckets,
    all: Buckets,
    counted: Mutex<Counted>,
}

/// Refusals that were counted and not written yet.
#[derive(Debug, Default)]
struct Counted {
    since: Option<DateTime<Utc>>,
    nobodys: Counts,
    callers: Counts,
    /// Callers beyond those, by organisation.
    organizations: Counts,
}

type Counts = HashMap<Who, BTreeMap<&'static str, u64>>;

impl Counted {
    fn add(&mut self, who: Who, code: &'static str) {
        let has_room = |counts: &Counts, who: &Who, most| counts.len() < most || counts.contains_key(who);
        let is_known = who.is_known;
        let others = |organization_id| Who { actor: OTHERS.to_owned(), address: None, organization_id, is_known };
        let (counts, who) = if !who.is_known {
            let is_apart = has_room(&self.nobodys, &who, MAX_APART);
            (&mut self.nobodys, if is_apart { who } else { others(None) })
        } else if has_room(&self.callers, &who, MAX_CALLERS_APART) {
            (&mut self.callers, who)
        } else {
            let together = others(who.organization_id.clone());
            let is_apart = has_room(&self.organizations, &together, MAX_CALLERS_APART);
            (&mut self.organizations, if is_apart { together } else { others(None) })
        };
        *counts.entry(who).or_default().entry(code).or_default() += 1;
    }

    fn all(&self) -> impl Iterator<Item = (&Who, &BTreeMap<&'static str, u64>)> {
        self.nobodys.iter().chain(&self.callers).chain(&self.organizations)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Who {
    actor: String,
    address: Option<IpAddr>,
    organization_id: Option<String>,
    is_known: bool,
}

impl Refusals {
    pub fn new(config: &LimitsConfig) -> Self {
        let each = config.refusals_per_minute;
        Self {
            each: Buckets::new(each),
            all: Buckets::new(each.saturating_mul(ALL_TOGETHER)),
            counted: Mutex::default(),
        }
    }

    /// Whether another entry may be written for this caller.
    pub fn admit(&self, caller: &Caller, now: DateTime<Utc>) -> bool {
        self.each.take(&identity(caller), now).is_ok() && self.all.take(&"all", now).is_ok()
    }

    /// The same for a login that failed: by address, since anybody can say any name.
    pub fn admit_login(&self, address: Option<IpAddr>, now: DateTime<Utc>) -> bool {
        self.each.take(&("login", address.map(client::block)), now).is_ok() && self.all.take(&"logins", now).is_ok()
    }

    /// Counts a refusal. Returns what was counted before, when that is to be written now, and whether a window begins with this one.
    fn count(&self, who: Who, code: &'static str, now: DateTime<Utc>) -> (Option<Counted>, bool) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = counted.since.is_some_and(|since| now - since >= WINDOW);
        let before = is_over.then(|| std::mem::take(&mut *counted));
        let begins = counted.since.is_none();
        counted.since.get_or_insert(now);
        counted.add(who, code);
        (before, begins)
    }

    fn take(&self) -> Counted {
        std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes down, or counts, a refusal that no handler has told.
pub async fn note(api: &Api, known: &Known, refused: &Refused) {
    match known.caller.get() {
        Some(caller) if is_audited(refused) => {
            if !api.refusals.admit(caller, api.app.clock.now()) {
                return count(api, Some(caller), refused.address.0, refused.code);
            }
            if let Err(error) = write(api, caller, known, refused).await {
                tracing::error!(%error, "a refusal could not be written into the history");
            }
        }
        Some(_) => {}
        None => {
            let statuses = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
            if statuses.contains(&refused.status) {
                count(api, None, refused.address.0, refused.code);
            }
        }
    }
}

/// Whatever was to change something, and what was looked for without the right to it or could not be had (a download).
fn is_audited(refused: &Refused) -> bool {
    let is_withheld = matches!(refused.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::CONFLICT);
    !refused.method.is_safe() || is_withheld
}

async fn write(api: &Api, caller: &Caller, known: &Known, refused: &Refused) -> Result<(), HistoryError> {
    let body = known.body.get().and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let named = |name: &str| Some(body.as_ref()?.get(name)?.as_str()?.chars().take(MAX_ECHO).collect::<String>());
    let (project_id, backup_id) = (named("project_id"), named("backup_id"));
    let path: String = refused.path.chars().take(MAX_ECHO).collect();
    let mut detail = json!({
        "call": format!("{} {}", refused.method, refused.route.as_deref().unwrap_or(&path)),
        "path": path, "status": refused.status.as_u16(), "code": refused.code,
    });
    for (name, value) in [("project_id", &project_id), ("backup_id", &backup_id)] {
        if let Some(value) = value {
            detail[name] = json!(value);
        }
    }
    let about = about(&refused.path)
        .or_else(|| Some(About::Backup(backup_id.as_deref()?.parse().ok()?)))
        .or_else(|| project_id.as_deref().map(About::Project));
    let reached = match about {
        Some(about) => within_reach(api, caller, about).await,
        None => None,
    };
    let mut transaction = db::begin(&api.app.pool).await?;
    match &reached {
        Some((project_id, backup_id)) => {
            let event =
                Event { backup_id: *backup_id, project_id, event: "refused", caller, outcome: "refused", detail };
            history::record(&mut transaction, &event).await?;
        }
        None => {
            let organization_id = caller.organization_id.as_deref();
            let event = PeopleEvent { event: "refused", caller, organization_id, outcome: "refused", detail };
            history::record_people(&mut transaction, &event).await?;
        }
    }
    Ok(transaction.commit().await?)
}

/// What a path of the API or of a page names.
fn about(path: &str) -> Option<About<'_>> {
    let (is_page, path) = match path.strip_prefix("/api/") {
        Some(path) => (false, path),
        None => (true, path.strip_prefix('/')?),
    };
    let mut parts = path.split('/');
    match (parts.next()?, parts.next()?) {
        ("backup", id) if !is_page => id.parse().ok().map(About::Backup),
        ("backups", id) if is_page => id.parse().ok().map(About::Backup),
        ("jobs", id) => id.parse().ok().map(About::Job),
        // Pages of no project.
        ("projects", "new" | "discover") if is_page => None,
        ("projects", id) => Some(About::Project(id)),
        _ => None,
    }
}

/// The project, and the backup where one is named, if this caller reaches them.
pub async fn within_reach(api: &Api, caller: &Caller, about: About<'_>) -> Option<(String, Option<BackupId>)> {
    let (pool, scope) = (&api.app.pool, caller.scope());
    match about {
        About::Project(id) => Some((catalog::project(pool, &scope, id).await.ok()?.id, None)),
        About::Backup(id) => Some((history::get(pool, &scope, id).await.ok()?.project_id, Some(id))),
        About::Job(id) => Some((queue::get(pool, &scope, id).await.ok()?.project_id?, None)),
    }
}

/// Counts a refusal that gets no entry of its own, and sees to it that the counts are written.
pub fn count(api: &Api, caller: Option<&Caller>, address: Option<IpAddr>, code: &'static str) {
    let who = Who {
        actor: caller.map_or_else(|| "nobody".to_owned(), |caller| caller.subject.clone()),
        address: address.map(client::block),
        organization_id: caller.and_then(|caller| caller.organization_id.clone()),
        is_known: caller.is_some(),
    };
    let (before, begins) = api.refusals.count(who, code, api.app.clock.now());
    if let Some(before) = before {
        let api = api.clone();
        tokio::spawn(async move { write_counts(&api, before).await });
    }
    if begins {
        let api = api.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(WINDOW.to_std().unwrap_or_default()) => {}
                () = api.stopping.cancelled() => {}
            }
            let counted = api.refusals.take();
            write_counts(&api, counted).await;
        });
    }
}

async fn write_counts(api: &Api, counted: Counted) {
    if counted.all().next().is_none() {
        return;
    }
    let written = async {
        let mut transaction = db::begin(&api.app.pool).await?;
        for (who, codes) in counted.all() {
            let caller = Caller {
                subject: who.actor.clone(),
                role: Role::Member,
                permissions: Vec::new(),
                project_ids: Vec::new(),
                organization_id: who.organization_id.clone(),
                address: who.address,
            };
            let detail = json!({
                "count": codes.values().sum::<u64>(), "codes": codes, "since": counted.since, "until": api.app.clock.now(),
            });
            let organization_id = who.organization_id.as_deref();
            let event = PeopleEvent { event: "refusals", caller: &caller, organization_id, outcome: "refused", detail };
            history::record_people(&mut transaction, &event).await?;
        }
        Ok::<_, HistoryError>(transaction.commit().await?)
    };
    if let Err(error) = written.await {
        tracing::error!(%error, "counts of refusals could not be written into the history");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(number: usize) -> Who {
        let address = u32::try_from(number).unwrap();
        Who {
            actor: "nobody".to_owned(),
            address: Some(IpAddr::from(address.to_be_bytes())),
            organization_id: None,
            is_known: false,
        }
    }

    fn caller(organization: usize, number: usize) -> Who {
        let organization_id = Some(format!("o-{organization}"));
        Who { actor: format!("caller {number}"), address: None, organization_id, is_known: true }
    }

    fn total(counted: &Counted) -> u64 {
        counted.all().flat_map(|(_, codes)| codes.values()).sum()
    }

    #[test]
    fn however_many_are_refused_few_rows_come_of_it() {
        let refusals = Refusals::new(&LimitsConfig::default());
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        for number in 0..10_000 {
            let (before, begins) = refusals.count(who(number), "auth.token_invalid", now);
            assert!(before.is_none() && begins == (number == 0));
        }
        let (before, begins) = refusals.count(who(0), "limits.rate", now + WINDOW);
        let before = before.unwrap();
        assert!(begins && before.all().count() == MAX_APART + 1);
        assert_eq!(total(&before), 10_000);
        assert_eq!(refusals.take().nobodys[&who(0)], BTreeMap::from([("limits.rate", 1)]));
    }

    #[test]
    fn nobodys_calls_take_no_callers_place_and_callers_beyond_are_counted_by_organisation() {
        let refusals = Refusals::new(&LimitsConfig::default());
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        for number in 0..10_000 {
            refusals.count(who(number), "auth.token_invalid", now);
        }
        for number in 0..2 * MAX_CALLERS_APART {
            refusals.count(caller(number % 2, number), "auth.forbidden", now);
        }
        for organization in 0..10_000 {
            refusals.count(caller(organization, usize::MAX), "auth.forbidden", now);
        }
        let counted = refusals.take();
        let one = BTreeMap::from([("auth.forbidden", 1)]);
        assert!((0..MAX_CALLERS_APART).all(|number| counted.callers[&caller(number % 2, number)] == one));
        let together = Who { actor: OTHERS.to_owned(), ..caller(1, 0) };
        assert_eq!(counted.organizations[&together]["auth.forbidden"], MAX_CALLERS_APART as u64 / 2 + 1);
        assert_eq!(total(&counted), 20_000 + 2 * MAX_CALLERS_APART as u64);
        assert!(counted.all().count() <= MAX_APART + 1 + 2 * MAX_CALLERS_APART + 1);
    }

    #[test]
    fn paths_name_what_they_are_about() {
        let id = "0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa";
        assert!(matches!(about(&format!("/api/backup/{id}/verify")), Some(About::Backup(_))));
        assert!(matches!(about(&format!("/api/jobs/{id}")), Some(About::Job(_))));
        assert!(matches!(about("/api/projects/acme"), Some(About::Project("acme"))));
        assert!(matches!(about(&format!("/backups/{id}/restore")), Some(About::Backup(_))));
        assert!(matches!(about(&format!("/jobs/{id}/cancel")), Some(About::Job(_))));
        assert!(matches!(about("/projects/acme/change"), Some(About::Project("acme"))));
        for path in
            ["/api/backup/export", "/api/users/x", "/auth/login", "/api/backup", "/projects/new", "/people/new", "/"]
        {
            assert!(about(path).is_none(), "{path}");
        }
    }
}
