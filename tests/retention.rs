//! Retention: the plan's properties over random histories, and what carrying it out leaves behind.

use crate::support;

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use holdfast::{
    catalog::{self, ProjectChanges},
    clock::Clock,
    config::Config,
    cron::Zone,
    history,
    ids::{BackupId, JobId},
    jobs::{
        apply_retention::{self, Applied, Plan},
        request::{self, Depth, Export, Pin, VerifyRequest},
    },
    retention::{Action, Candidate, Floor, Policy, Rules, State, Verdict, digest, plan},
};
use proptest::prelude::*;
use serde_json::json;
use support::app::{TestApp, caller, everything, export, wait_for_lock};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn now() -> DateTime<Utc> {
    at("2026-11-21T12:00:00Z")
}

fn good(days_ago: i64) -> Candidate {
    Candidate {
        id: BackupId::generate(),
        taken_at: now() - Duration::days(days_ago),
        state: State::Good,
        is_ours: true,
        pinned: false,
        asked_until: None,
        is_foreign_without_date: false,
        adopted_at: None,
        read_by: None,
        policy: 0,
    }
}

fn policy(rules: Rules) -> Vec<Policy> {
    vec![Policy { rules: Some(rules), zone: Zone::UTC }]
}

const FLOOR: Floor = Floor { minimum_good: 1, otherwise_days: 30 };

fn kept(verdicts: &[Verdict]) -> Vec<bool> {
    verdicts.iter().map(|verdict| verdict.action == Action::Keep).collect()
}

fn reasons(verdict: &Verdict) -> String {
    verdict.because.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn days_keep_until_they_are_over() {
    let backups = [good(0), good(13), good(14), good(15)];
    let verdicts = plan(&backups, &policy(Rules { days: Some(14), ..Rules::default() }), FLOOR, now());
    assert_eq!(kept(&verdicts), [true, true, false, false]);
    assert!(reasons(&verdicts[1]).contains("kept for 14 days, until 2026-11-22"), "{}", reasons(&verdicts[1]));
    assert!(reasons(&verdicts[3]).contains("older than 14 days since 2026-11-20"), "{}", reasons(&verdicts[3]));
}

#[test]
fn counts_keep_the_newest_of_each_period_in_the_schedules_zone() {
    // 2026-11-01 is a Sunday; 23:30 UTC is the next day in Berlin.
    let taken: Vec<Candidate> = [
        "2026-11-20T23:30:00Z",
        "2026-11-20T01:00:00Z",
        "2026-11-19T23:30:00Z",
        "2026-11-19T01:00:00Z",
        "2026-10-31T23:30:00Z",
        "2026-10-31T01:00:00Z",
        "2025-12-31T23:30:00Z",
        "2025-12-31T01:00:00Z",
    ]
    .iter()
    .map(|text| Candidate { taken_at: at(text), ..good(0) })
    .collect();
    for (rules, zone, expected) in [
        (Rules { keep_last: Some(2), ..Rules::default() }, "UTC", vec![0, 1]),
        (Rules { keep_daily: Some(2), ..Rules::default() }, "UTC", vec![0, 2]),
        (Rules { keep_daily: Some(2), ..Rules::default() }, "Europe/Berlin", vec![0, 1]),
        (Rules { keep_weekly: Some(2), ..Rules::default() }, "UTC", vec![0, 4]),
        (Rules { keep_monthly: Some(2), ..Rules::default() }, "UTC", vec![0, 4]),
        // In Berlin it was the first of November by then.
        (Rules { keep_monthly: Some(2), ..Rules::default() }, "Europe/Berlin", vec![0, 5]),
        (Rules { keep_yearly: Some(2), ..Rules::default() }, "UTC", vec![0, 6]),
        (Rules { keep_yearly: Some(2), ..Rules::default() }, "Europe/Berlin", vec![0, 7]),
        (Rules { keep_last: Some(1), keep_monthly: Some(3), ..Rules::default() }, "UTC", vec![0, 4, 6]),
    ] {
        let policies = [Policy { rules: Some(rules.clone()), zone: zone.parse().unwrap() }];
        let verdicts = plan(&taken, &policies, FLOOR, now());
        let kept: Vec<usize> = (0..taken.len()).filter(|place| verdicts[*place].action == Action::Keep).collect();
        assert_eq!(kept, expected, "{rules:?} in {zone}");
    }
}

#[test]
fn what_must_stay_stays_whatever_the_rules_say() {
    let day = policy(Rules { days: Some(1), ..Rules::default() });
    // The newest good one, however old.
    assert_eq!(kept(&plan(&[good(400), good(500)], &day, FLOOR, now())), [true, false]);
    let three = Floor { minimum_good: 3, ..FLOOR };
    let backups = [good(400), good(410), good(420), good(430)];
    assert_eq!(kept(&plan(&backups, &day, three, now())), [true, true, true, false]);
    // Pinned, read, unfinished, and what is not ours.
    let special = [
        good(0),
        Candidate { pinned: true, ..good(400) },
        Candidate { read_by: Some(JobId::generate()), ..good(400) },
        Candidate { state: State::Unfinished, ..good(400) },
        Candidate { state: State::Unknown("ARCHIVED".to_owned()), ..good(400) },
        good(400),
    ];
    assert_eq!(kept(&plan(&special, &day, FLOOR, now())), [true, true, true, true, true, false]);
    // One that lacks a copy is not good, and does not take the place of one that is.
    let poor = [Candidate { state: State::Poor, ..good(100) }, good(200), good(300)];
    assert_eq!(kept(&plan(&poor, &day, FLOOR, now())), [false, true, false]);
    // What another program recorded is good only where there is nothing of ours.
    let foreign = [Candidate { is_ours: false, ..good(100) }, good(200)];
    assert_eq!(kept(&plan(&foreign, &day, FLOOR, now())), [false, true]);
    assert_eq!(kept(&plan(&foreign[..1], &day, FLOOR, now())), [true]);
    // Rules that cannot be read decide nothing.
    let unreadable = [Policy { rules: None, zone: Zone::UTC }];
    assert_eq!(kept(&plan(&[good(0), good(4_000)], &unreadable, FLOOR, now())), [true, true]);
}

#[test]
fn nothing_goes_after_a_failure_until_one_is_good_again() {
    let rules = policy(Rules { days: Some(7), ..Rules::default() });
    let failed = |days| Candidate { state: State::Failed, ..good(days) };
    let stuck = [failed(0), failed(1), good(8), good(20), failed(60)];
    let verdicts = plan(&stuck, &rules, FLOOR, now());
    assert!(verdicts.iter().all(|verdict| verdict.action == Action::Keep), "{verdicts:?}");
    assert!(reasons(&verdicts[3]).contains("the last backups failed"));
    let mut well = vec![good(0)];
    well.extend(
        stuck.iter().map(|backup| Candidate { taken_at: backup.taken_at - Duration::hours(1), ..backup.clone() }),
    );
    assert_eq!(kept(&plan(&well, &rules, FLOOR, now())), [true, true, true, false, false, false]);
    // None was ever good.
    assert_eq!(kept(&plan(&[failed(90), failed(91)], &rules, FLOOR, now())), [true, true]);
}

#[test]
fn what_a_request_asked_for_takes_the_place_of_the_rules() {
    let rules = policy(Rules { days: Some(7), keep_last: Some(10), ..Rules::default() });
    let long = Candidate { asked_until: Some(now() + Duration::days(1)), ..good(300) };
    let short = Candidate { asked_until: Some(now() - Duration::days(1)), ..good(2) };
    assert_eq!(kept(&plan(&[good(0), short, long], &rules, FLOOR, now())), [true, false, true]);
}

#[test]
fn what_was_found_again_gets_a_term_in_which_to_pin_it() {
    let rules = policy(Rules { days: Some(7), ..Rules::default() });
    let found = |days_ago| Candidate { adopted_at: Some(now() - Duration::days(days_ago)), ..good(100) };
    let verdicts = plan(&[good(0), found(6), found(7)], &rules, FLOOR, now());
    assert_eq!(kept(&verdicts), [true, true, false]);
    assert!(reasons(&verdicts[1]).contains("found again"), "{}", reasons(&verdicts[1]));
    let foreign = Candidate { is_foreign_without_date: true, is_ours: false, ..good(4_000) };
    let verdicts = plan(&[good(0), foreign], &rules, FLOOR, now());
    assert_eq!(
        (kept(&verdicts)[1], reasons(&verdicts[1]).as_str()),
        (true, "recorded by another program, without a date")
    );
}

#[test]
fn a_plans_name_depends_on_what_it_deletes_alone() {
    let (a, b) = (BackupId::generate(), BackupId::generate());
    assert_eq!(digest([a, b]), digest([b, a]));
    assert_ne!(digest([a]), digest([a, b]));
    assert_eq!(digest([]).len(), 32);
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let count = || proptest::option::weighted(0.3, 1u32..6);
    (proptest::option::weighted(0.6, 1u32..40), count(), count(), count(), count(), count()).prop_map(
        |(days, keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly)| Rules {
            days,
            keep_last,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
        },
    )
}

fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]);
    let policy = (proptest::option::weighted(0.95, any_rules()), zone)
        .prop_map(|(rules, zone)| Policy { rules, zone: zone.parse().unwrap() });
    prop::collection::vec(policy, 1..3)
}

fn any_backup() -> impl Strategy<Value = Candidate> {
    let state = prop_oneof![
        10 => Just(State::Good),
        1 => Just(State::Poor),
        1 => Just(State::Failed),
        1 => Just(State::Cancelled),
        1 => Just(State::Expired),
        1 => Just(State::Unfinished),
        1 => Just(State::Unknown("ARCHIVED".to_owned())),
    ];
    let asked = proptest::option::weighted(0.1, -50i64..50);
    (
        any::<u128>(),
        0i64..800 * 24,
        state,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.05),
        asked,
        prop::bool::weighted(0.05),
        0usize..3,
    )
        .prop_map(|(id, hours_ago, state, is_ours, pinned, asked, is_read, policy)| Candidate {
            id: BackupId(uuid::Uuid::from_u128(id)),
            taken_at: now() - Duration::hours(hours_ago),
            state,
            is_ours,
            pinned,
            asked_until: asked.map(|days| now() + Duration::days(days)),
            is_foreign_without_date: id % 23 == 0,
            adopted_at: (id % 19 == 0).then(|| now() - Duration::hours(hours_ago / 2)),
            read_by: is_read.then(|| JobId(uuid::Uuid::from_u128(id))),
            policy,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_floor_holds_and_what_must_stay_stays(
        backups in prop::collection::vec(any_backup(), 0..60), policies in any_policies(), minimum_good in 1u32..5,
    ) {
        let floor = Floor { minimum_good, otherwise_days: 30 };
        let verdicts = plan(&backups, &policies, floor, now());
        prop_assert_eq!(verdicts.len(), backups.len());
        let deleted: BTreeSet<BackupId> = verdicts.iter().filter(|v| v.action == Action::Delete).map(|v| v.id).collect();
        for (backup, verdict) in backups.iter().zip(&verdicts) {
            prop_assert_eq!(backup.id, verdict.id);
            prop_assert!(!verdict.because.is_empty());
            let is_without_date = backup.is_foreign_without_date && backup.asked_until.is_none() && backup.state != State::Expired;
            let must_stay = backup.pinned || backup.read_by.is_some() || is_without_date
                || matches!(backup.state, State::Unfinished | State::Unknown(_));
            prop_assert!(!must_stay || verdict.action == Action::Keep, "{:?}", backup);
        }
        let has_ours = backups.iter().any(|b| b.state == State::Good && b.is_ours);
        let mut good: Vec<&Candidate> = backups.iter().filter(|b| b.state == State::Good && (b.is_ours || !has_ours)).collect();
        good.sort_by_key(|b| std::cmp::Reverse((b.taken_at, b.id)));
        if let Some(newest) = good.first() {
            prop_assert!(!deleted.contains(&newest.id), "the newest good one stays");
            let newer_failure = backups.iter().any(|b| b.state == State::Failed && (b.taken_at, b.id) > (newest.taken_at, newest.id));
            prop_assert!(!newer_failure || deleted.is_empty(), "nothing goes after a failure");
        } else {
            prop_assert!(deleted.is_empty(), "nothing goes where nothing is good");
        }
        let left = good.iter().filter(|b| !deleted.contains(&b.id)).count();
        prop_assert!(left >= good.len().min(minimum_good as usize), "{left} of {} good ones are left", good.len());
    }

    #[test]
    fn a_plan_is_a_function_of_its_inputs_and_applying_it_twice_changes_nothing(
        backups in prop::collection::vec(any_backup(), 0..60), policies in any_policies(), minimum_good in 1u32..5,
    ) {
        let floor = Floor { minimum_good, otherwise_days: 30 };
        let verdicts = plan(&backups, &policies, floor, now());
        prop_assert_eq!(&verdicts, &plan(&backups, &policies, floor, now()));
        // The order in which they are given does not matter.
        let mut turned: Vec<Candidate> = backups.clone();
        turned.reverse();
        let mut from_turned = plan(&turned, &policies, floor, now());
        from_turned.reverse();
        prop_assert_eq!(&verdicts, &from_turned);
        let left: Vec<Candidate> = backups.iter().zip(&verdicts).filter(|(_, v)| v.action == Action::Keep).map(|(b, _)| b.clone()).collect();
        let again = plan(&left, &policies, floor, now());
        prop_assert!(again.iter().all(|v| v.action == Action::Keep), "{:?}", again);
    }
}

// Against PostgreSQL ---------------------------------------------------------------------------------------------------------

/// A tenant whose clock stands still, and backups of different ages.
struct Scene {
    test: TestApp,
    clock: Clock,
}

impl Scene {
    async fn new() -> Self {
        let mut test = TestApp::new().await;
        let clock = Clock::fixed(now() - Duration::days(60));
        test.app.clock = clock.clone();
        holdfast::demo::sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
        test.add_schema_project("acme", "tenant_acme").await;
        Self { test, clock }
    }

    async fn backup(&self, export: Export) -> history::Backup {
        let backup = self.test.backup(export).await;
        self.clock.advance(Duration::days(1));
        backup
    }

    async fn status(&self, backup: &history::Backup) -> Option<String> {
        history::get(&self.test.app.pool, &everything(), backup.backup_id()).await.ok().map(|backup| backup.status)
    }

    async fn apply(&self) -> Applied {
        let plan = apply_retention::whole_plan(&self.test.app, &everything(), None).await.unwrap();
        apply_retention::apply(&self.test.app, &caller(), &plan).await.unwrap()
    }

    async fn plan(&self) -> Plan {
        apply_retention::whole_plan(&self.test.app, &everything(), None).await.unwrap()
    }

    /// What the plan says of a backup.
    async fn said(&self, backup: &history::Backup) -> (Action, String) {
        let plan = self.plan().await;
        let decision = plan.backups.iter().find(|decision| decision.backup_id == backup.id).unwrap();
        (decision.action, decision.because.join("; "))
    }

    async fn run(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.test.app.pool).await.unwrap();
    }

    async fn set(&self, sql: &'static str, backup: &history::Backup) {
        sqlx::query(sql).bind(backup.id).execute(&self.test.app.pool).await.unwrap();
    }
}

#[tokio::test]
async fn what_expires_is_deleted_everywhere_and_the_rest_is_dated() {
    let scene = Scene::new().await;
    let (old, pinned) = (scene.backup(export("acme")).await, scene.backup(export("acme")).await);
    scene.set("UPDATE control_plane.backups SET pinned = true WHERE id = $1", &pinned).await;
    scene.clock.advance(Duration::days(40));
    let asked = Export { expires_at: Some(scene.clock.now() + Duration::days(5)), ..export("acme") };
    let (asked, newest) = (scene.backup(asked).await, scene.backup(export("acme")).await);
    // Its own rules, later.
    sqlx::query("UPDATE control_plane.projects SET settings = '{\"retention\": {\"days\": 10}}'")
        .execute(&scene.test.app.pool)
        .await
        .unwrap();

    let plan = apply_retention::whole_plan(&scene.test.app, &everything(), Some("acme")).await.unwrap();
    let told: Vec<(uuid::Uuid, bool, String)> =
        plan.backups.iter().map(|b| (b.backup_id, b.action == Action::Keep, b.because.join("; "))).collect();
    assert_eq!(
        told.iter().map(|(id, kept, _)| (*id, *kept)).collect::<Vec<_>>(),
        [(newest.id, true), (asked.id, true), (pinned.id, true), (old.id, false),]
    );
    assert!(told[2].2 == "pinned" && told[1].2.starts_with("asked for until"), "{told:?}");
    let other = apply_retention::whole_plan(&scene.test.app, &everything(), Some("globex")).await.unwrap();
    assert!(other.backups.is_empty());

    let applied = apply_retention::apply(&scene.test.app, &caller(), &plan).await.unwrap();
    assert_eq!((applied.deleting.len(), applied.skipped.len(), applied.redated), (1, 0, 1));
    assert_eq!(scene.status(&old).await.as_deref(), Some("deleted"));
    scene.test.run(JobId(applied.deleting[0].job_id)).await;
    assert_eq!(scene.status(&old).await, None);
    let key = old.file_id.clone().unwrap();
    assert!(scene.test.stored_files().iter().all(|path| !path.to_string_lossy().contains(&key)));
    let again = history::get(&scene.test.app.pool, &everything(), newest.backup_id()).await.unwrap();
    assert_eq!(again.expires_at, Some(newest.created_at + Duration::days(10)));
    let again = history::get(&scene.test.app.pool, &everything(), asked.backup_id()).await.unwrap();
    assert_eq!(again.expires_at, asked.expires_at, "what a request asked for is not rewritten");
    // Applying it twice changes nothing.
    let second = scene.apply().await;
    assert_eq!((second.deleting.len(), second.skipped.len(), second.redated), (0, 0, 0));
}

#[tokio::test]
async fn what_has_changed_since_the_plan_is_left_alone_and_named() {
    let scene = Scene::new().await;
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(scene.backup(export("acme")).await);
    }
    scene.clock.advance(Duration::days(40));
    scene.backup(export("acme")).await;
    let plan = apply_retention::whole_plan(&scene.test.app, &everything(), None).await.unwrap();
    assert_eq!(plan.deletes, 3);

    scene.set("UPDATE control_plane.backups SET pinned = true WHERE id = $1", &old[0]).await;
    let verify = VerifyRequest { backup_id: old[1].backup_id(), depth: Depth::Read };
    let reading = request::verify(&scene.test.app, &caller(), &verify, None).await.unwrap();
    let changed = apply_retention::whole_plan(&scene.test.app, &everything(), None).await.unwrap();
    assert_ne!(changed.digest, plan.digest);
    let read = changed.backups.iter().find(|b| b.backup_id == old[1].id).unwrap();
    assert!(read.because[0].contains(&reading.id.to_string()), "{:?}", read.because);

    // The older plan does no harm.
    let applied = apply_retention::apply(&scene.test.app, &caller(), &plan).await.unwrap();
    assert_eq!(applied.deleting.iter().map(|d| d.backup_id).collect::<Vec<_>>(), [old[2].id]);
    let skipped: BTreeSet<uuid::Uuid> = applied.skipped.iter().map(|s| s.backup_id).collect();
    assert_eq!(skipped, BTreeSet::from([old[0].id, old[1].id]));
    assert_eq!(scene.status(&old[1]).await.as_deref(), Some("completed"));
    scene.test.run(reading.job_id()).await;
    assert_eq!(scene.apply().await.deleting.iter().map(|d| d.backup_id).collect::<Vec<_>>(), [old[1].id]);
}

#[tokio::test]
async fn a_stopped_deletion_is_taken_up_again_and_a_lost_one_too() {
    let scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    scene.clock.advance(Duration::days(40));
    scene.backup(export("acme")).await;
    let applied = scene.apply().await;
    request::cancel(&scene.test.app, &caller(), JobId(applied.deleting[0].job_id)).await.unwrap();
    assert_eq!(scene.status(&old).await.as_deref(), Some("completed"), "it can be pinned and restored again");
    request::pin(&scene.test.app, &caller(), old.backup_id(), Pin::Set).await.unwrap();
    assert!(scene.apply().await.deleting.is_empty());
    request::pin(&scene.test.app, &caller(), old.backup_id(), Pin::TakeOut).await.unwrap();
    let again = scene.apply().await;
    assert_eq!(again.deleting.len(), 1);
    scene.test.run(JobId(again.deleting[0].job_id)).await;
    assert_eq!(scene.status(&old).await, None);
}

#[tokio::test]
async fn a_setting_that_cannot_be_read_keeps_everything() {
    let scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    scene.clock.advance(Duration::days(400));
    scene.backup(export("acme")).await;
    for settings in [
        json!({ "retention": { "days": -1 } }),
        json!({ "retention": { "dayz": 3 } }),
        json!({ "retention": { "days": 0 } }),
        json!({ "retention": "x" }),
        json!({ "retention_days": -1 }),
        json!({ "retention_days": "90" }),
    ] {
        sqlx::query("UPDATE control_plane.projects SET settings = $1")
            .bind(&settings)
            .execute(&scene.test.app.pool)
            .await
            .unwrap();
        let plan = apply_retention::whole_plan(&scene.test.app, &everything(), None).await.unwrap();
        assert_eq!(plan.deletes, 0, "{settings}");
    }
    sqlx::query("UPDATE control_plane.projects SET settings = '{}'").execute(&scene.test.app.pool).await.unwrap();
    assert_eq!(scene.apply().await.deleting[0].backup_id, old.id);
}

#[tokio::test]
async fn the_days_of_a_project_take_the_place_of_the_configured_ones() {
    let scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    scene.clock.advance(Duration::days(40));
    scene.backup(export("acme")).await;
    assert_eq!(scene.said(&old).await.0, Action::Delete, "after the configured 30 days");
    let changes = ProjectChanges { retention_days: Some(Some(365)), ..ProjectChanges::default() };
    let pool = &scene.test.app.pool;
    let acme = catalog::project(pool, &everything(), "acme").await.unwrap();
    catalog::change_project(pool, &acme, &changes).await.unwrap();
    let (action, because) = scene.said(&old).await;
    assert!(action == Action::Keep && because.contains("kept for 365 days"), "{because}");
    // A failed attempt too, which no count keeps.
    scene.set("UPDATE control_plane.backups SET status = 'failed' WHERE id = $1", &old).await;
    assert_eq!(scene.said(&old).await.0, Action::Keep);
    // Its rules are the whole of them.
    scene.run("UPDATE control_plane.projects SET settings = settings || '{\"retention\": {\"days\": 10}}'").await;
    assert_eq!(scene.said(&old).await.0, Action::Delete);
}

#[tokio::test]
async fn after_a_rebuild_nothing_goes_that_pins_or_counts_had_kept() {
    let mut scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    scene.backup(export("acme")).await;
    scene.clock.advance(Duration::days(40));
    let newest = scene.backup(export("acme")).await;
    // What a rebuild writes: the date of the manifest's head, no job, no pin.
    scene.run("UPDATE control_plane.backups SET job_id = NULL, pinned = false").await;
    scene.run("UPDATE control_plane.backup_history SET at = '2026-11-03T00:00:00Z', event = 'adopted' WHERE event = 'completed'").await;
    assert!(scene.clock.now() < at("2026-11-20T00:00:00Z"));
    let plan = scene.plan().await;
    assert_eq!(plan.deletes, 0, "{:?}", plan.backups);
    assert!(scene.said(&old).await.1.contains("found again"));
    // After a term the rules are asked again, with their counts.
    scene.clock.advance(Duration::days(60));
    scene.test.app.config = Arc::new({
        let mut config = Config::clone(&scene.test.app.config);
        config.retention.keep_last = Some(2);
        config
    });
    assert_eq!((scene.plan().await.deletes, scene.said(&old).await.0), (1, Action::Delete));
    scene.run("UPDATE control_plane.backups SET expires_at = '2199-01-01T00:00:00Z'").await;
    assert_eq!(scene.plan().await.deletes, 0, "the date of its row is still to come");
    assert_eq!(scene.said(&newest).await.0, Action::Keep);
}

#[tokio::test]
async fn a_file_of_another_program_goes_by_its_own_date_and_never_stands_for_a_backup() {
    let scene = Scene::new().await;
    let (own, file) = (scene.backup(export("acme")).await, scene.backup(export("acme")).await);
    scene.clock.advance(Duration::days(400));
    // As `send_and_record` writes it: a manifest, and nothing that a restore could read.
    scene.set("UPDATE control_plane.backups SET format = NULL, job_id = NULL WHERE id = $1", &file).await;
    assert_eq!(scene.said(&own).await, (Action::Keep, "the newest good backup".to_owned()));
    assert_eq!(scene.said(&file).await.0, Action::Delete);
    let protected = history::protected_projects(&scene.test.app.pool).await.unwrap();
    let acme = protected.iter().find(|project| project.id == "acme").unwrap();
    assert_eq!(acme.last_good_at, Some(own.created_at), "the file is newer, and no backup");
    // A platform's own row.
    scene.set("UPDATE control_plane.backups SET manifest = NULL, expires_at = NULL WHERE id = $1", &file).await;
    assert_eq!(scene.said(&file).await, (Action::Keep, "recorded by another program, without a date".to_owned()));
    assert_eq!(scene.apply().await.redated, 0);
    // Where there is nothing else it stands for one.
    scene.set("DELETE FROM control_plane.backups WHERE id = $1", &own).await;
    let protected = history::protected_projects(&scene.test.app.pool).await.unwrap();
    let acme = protected.iter().find(|project| project.id == "acme").unwrap();
    assert_eq!(acme.last_good_at, Some(file.created_at));
}

#[tokio::test]
async fn nothing_goes_when_the_backup_that_was_to_stay_is_lost_after_the_plan() {
    let scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    scene.clock.advance(Duration::days(40));
    let newest = scene.backup(export("acme")).await;
    for change in [
        "UPDATE control_plane.backups SET status = 'damaged' WHERE id = $1",
        "UPDATE control_plane.backups SET status = 'completed', is_partial = true WHERE id = $1",
        "UPDATE control_plane.backups SET is_partial = false, required_copies = 2 WHERE id = $1",
    ] {
        scene.set("UPDATE control_plane.backups SET status = 'completed' WHERE id = $1", &newest).await;
        let plan = scene.plan().await;
        assert_eq!(plan.deletes, 1);
        scene.set(change, &newest).await;
        let applied = apply_retention::apply(&scene.test.app, &caller(), &plan).await.unwrap();
        assert!(applied.deleting.is_empty(), "{change}");
        assert!(applied.skipped[0].because.contains("0 of the 1 good backups"), "{}", applied.skipped[0].because);
        assert_eq!(scene.status(&old).await.as_deref(), Some("completed"), "{change}");
        scene
            .run("UPDATE control_plane.backups SET status = 'completed', is_partial = false, required_copies = 1")
            .await;
    }
    assert_eq!(scene.apply().await.deleting.len(), 1);
}

#[tokio::test]
async fn all_that_has_expired_goes_however_few_jobs_a_project_may_have() {
    let mut scene = Scene::new().await;
    scene.test.app.config = Arc::new({
        let mut config = Config::clone(&scene.test.app.config);
        config.limits.jobs_per_project = 1;
        config
    });
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(scene.backup(export("acme")).await.id);
    }
    scene.clock.advance(Duration::days(40));
    scene.backup(export("acme")).await;
    let applied = scene.apply().await;
    assert!(applied.skipped.is_empty(), "{:?}", applied.skipped);
    assert_eq!(applied.deleting.iter().map(|deleting| deleting.backup_id).collect::<Vec<_>>(), old, "the oldest first");
}

#[tokio::test]
async fn a_pin_brings_an_expired_backup_back() {
    let scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    scene.backup(export("acme")).await;
    scene.set("UPDATE control_plane.backups SET status = 'expired' WHERE id = $1", &old).await;
    let pinned = request::pin(&scene.test.app, &caller(), old.backup_id(), Pin::Set).await.unwrap();
    assert!(pinned.pinned && pinned.status == "completed", "{}", pinned.status);
}

#[tokio::test]
async fn a_backup_that_is_let_go_at_the_same_moment_is_not_read() {
    let scene = Scene::new().await;
    let old = scene.backup(export("acme")).await;
    let mut transaction = holdfast::db::begin(&scene.test.app.pool).await.unwrap();
    history::hold(&mut transaction, old.backup_id()).await.unwrap();
    history::set_status(&mut *transaction, old.backup_id(), "deleted").await.unwrap();
    let app = scene.test.app.clone();
    let verify = VerifyRequest { backup_id: old.backup_id(), depth: Depth::Read };
    let asked = tokio::spawn(async move { request::verify(&app, &caller(), &verify, None).await });
    wait_for_lock(&scene.test.app.pool).await;
    transaction.commit().await.unwrap();
    let refused = asked.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), "backup.not_completed", "{refused}");
}
