//! The clockwork against PostgreSQL: whom a schedule covers, what is opened and started, and that it happens once.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use holdfast::{
    app::App,
    artifact::BackupType,
    catalog::{self, NewProject, ProjectScope},
    clock::Clock,
    cron::{Cron, Zone},
    demo::sample,
    history,
    ids::JobId,
    schedule::{self, DEFAULT_ID, NewSchedule, Schedule, Target},
};
use rand::RngExt as _;
use uuid::Uuid;

use super::{
    at,
    support::app::{TestApp, caller, everything},
};

/// A Holdfast whose clock stands at 2026-11-21 01:00 UTC, and whose projects begin at once.
pub(super) async fn scene() -> (TestApp, Clock) {
    scene_with(|_| {}).await
}

pub(super) async fn scene_with(change: impl FnOnce(&mut holdfast::config::Config)) -> (TestApp, Clock) {
    let mut test = TestApp::with(|config| {
        config.schedules.jitter_minutes = 0;
        change(config);
    })
    .await;
    let clock = Clock::fixed(at("2026-11-21T01:00:00Z"));
    test.app.clock = clock.clone();
    (test, clock)
}

pub(super) async fn project(app: &App, id: &str, organization: Option<&str>) {
    let new = NewProject {
        id: id.parse().unwrap(),
        name: format!("{id} Ltd"),
        slug: None,
        organization_id: organization.map(str::to_owned),
        scope: ProjectScope::Schema(format!("tenant_{id}")),
        database_name: None,
    };
    catalog::add_project(&app.pool, &new).await.unwrap();
}

pub(super) fn new(cron: &str, target: Target) -> NewSchedule {
    NewSchedule {
        name: String::new(),
        target,
        backup_type: BackupType::Database,
        cron: cron.to_owned(),
        zone: None,
        format: None,
        compression: None,
        storages: Vec::new(),
        retention: None,
        jitter_minutes: None,
        enabled: true,
    }
}

pub(super) fn of_project(id: &str) -> Target {
    Target { project_id: Some(id.to_owned()), ..Target::default() }
}

pub(super) async fn add(app: &App, new: NewSchedule) -> Schedule {
    schedule::add(app, &caller(), new).await.unwrap()
}

pub(super) async fn tick(app: &App) {
    schedule::open_due(app).await.unwrap();
    schedule::start_due(app, 10_000).await.unwrap();
}

/// Project, slot and status of every run, by schedule.
async fn runs(app: &App) -> Vec<(Uuid, String, DateTime<Utc>, String)> {
    sqlx::query_as("SELECT schedule_id, project_id, slot, status FROM control_plane.schedule_runs ORDER BY slot, project_id, schedule_id")
        .fetch_all(&app.pool)
        .await
        .unwrap()
}

pub(super) async fn count(app: &App, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

async fn message_of(app: &App, project: &str) -> String {
    sqlx::query_scalar(
        "SELECT message FROM control_plane.schedule_runs WHERE project_id = $1 ORDER BY slot DESC LIMIT 1",
    )
    .bind(project)
    .fetch_one(&app.pool)
    .await
    .unwrap()
}

async fn end_jobs(app: &App) {
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed' WHERE status = 'pending'")
        .execute(&app.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_project_without_a_schedule_is_backed_up_at_two_by_a_job_that_says_so() {
    let (test, clock) = scene().await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    tick(&test.app).await;
    assert!(runs(&test.app).await.is_empty(), "it is one o'clock");
    clock.advance(Duration::hours(1));
    tick(&test.app).await;
    tick(&test.app).await;
    assert_eq!(
        runs(&test.app).await,
        [(DEFAULT_ID, "acme".to_owned(), at("2026-11-21T02:00:00Z"), "enqueued".to_owned())]
    );
    let job: Uuid =
        sqlx::query_scalar("SELECT job_id FROM control_plane.schedule_runs").fetch_one(&test.app.pool).await.unwrap();
    let job = test.run(JobId(job)).await;
    assert_eq!((job.status.as_str(), job.created_by.as_deref()), ("completed", Some("system:scheduler")));
    let id = serde_json::from_value(job.result.unwrap()["backup_id"].clone()).unwrap();
    let backup = history::get(&test.app.pool, &everything(), id).await.unwrap();
    assert_eq!((backup.backup_type.as_str(), backup.status.as_str()), ("scheduled", "completed"));
    assert_eq!(backup.expires_at, Some(backup.created_at + Duration::days(30)));
    let by: Uuid =
        sqlx::query_scalar("SELECT schedule_id FROM control_plane.backups").fetch_one(&test.app.pool).await.unwrap();
    assert_eq!(by, DEFAULT_ID);
}

#[tokio::test]
async fn schedules_cover_organisations_and_patterns_with_tenants_that_come_later() {
    let (test, clock) = scene().await;
    let app = &test.app;
    for (id, organization) in [
        ("plain", None),
        ("own", None),
        ("gold-1", Some("o1")),
        ("silver", Some("o1")),
        ("left-out", None),
        ("paused", None),
    ] {
        project(app, id, organization).await;
    }
    sqlx::query("UPDATE control_plane.projects SET settings = '{\"schedule_default\": \"off\"}' WHERE id = 'left-out'")
        .execute(&app.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE control_plane.projects SET status = 'SUSPENDED' WHERE id = 'paused'")
        .execute(&app.pool)
        .await
        .unwrap();
    let own = add(app, new("30 2 * * *", of_project("own"))).await.id;
    let organization =
        add(app, new("0 3 * * *", Target { organization_id: Some("o1".to_owned()), ..Target::default() })).await.id;
    let gold =
        add(app, new("0 4 * * *", Target { name_pattern: Some("GOLD-*".to_owned()), ..Target::default() })).await.id;
    let both = Target {
        organization_id: Some("o1".to_owned()),
        name_pattern: Some("s?lver ltd".to_owned()),
        ..Target::default()
    };
    let both = add(app, new("0 5 * * *", both)).await.id;
    // An underscore is no wildcard.
    add(app, new("0 5 * * *", Target { name_pattern: Some("new_*".to_owned()), ..Target::default() })).await;
    // Nobody does anything for these.
    project(app, "new", None).await;
    project(app, "gold-2", None).await;
    project(app, "gold_x", None).await;
    project(app, "newer", None).await;
    tick(app).await;
    clock.advance(Duration::hours(5));
    tick(app).await;
    let mut covered: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
    for (schedule, project, ..) in runs(app).await {
        covered.entry(schedule).or_default().push(project);
    }
    let expected = [
        (DEFAULT_ID, vec!["gold_x", "new", "newer", "plain"]),
        (own, vec!["own"]),
        (organization, vec!["gold-1", "silver"]),
        (gold, vec!["gold-1", "gold-2"]),
        (both, vec!["silver"]),
    ];
    let expected: BTreeMap<Uuid, Vec<String>> =
        expected.into_iter().map(|(id, names)| (id, names.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(covered, expected);
}

#[tokio::test]
async fn the_default_follows_the_configuration_and_can_be_off() {
    let (mut test, clock) = scene_with(|config| config.schedules.schedule_default = "off".to_owned()).await;
    project(&test.app, "acme", None).await;
    tick(&test.app).await;
    clock.advance(Duration::days(2));
    tick(&test.app).await;
    assert!(runs(&test.app).await.is_empty());
    let mut config = (*test.app.config).clone();
    config.schedules.schedule_default = "15 4 * * *".to_owned();
    config.schedules.zone = "Europe/Berlin".to_owned();
    test.app.config = config.into();
    tick(&test.app).await;
    clock.advance(Duration::hours(3));
    tick(&test.app).await;
    assert_eq!(runs(&test.app).await[0].2, at("2026-11-23T03:15:00Z"));
    // People cannot change it.
    let error = schedule::remove(&test.app, &caller(), DEFAULT_ID).await.unwrap_err();
    assert_eq!(error.code(), "schedule.of_config");
}

#[tokio::test]
async fn of_missed_slots_only_the_newest_is_caught_up_once_and_within_the_grace_period() {
    let (test, clock) = scene().await;
    for id in ["six-hourly", "daily"] {
        project(&test.app, id, None).await;
    }
    add(&test.app, new("0 */6 * * *", of_project("six-hourly"))).await;
    add(&test.app, new("0 2 * * *", of_project("daily"))).await;
    tick(&test.app).await;
    // Nothing ran for three days and a half. Twelve hours and a minute after the daily slot it is too late.
    clock.advance(at("2026-11-24T14:01:00Z") - clock.now());
    for _ in 0..2 {
        // Also another process, with nothing in memory.
        tick(&test.app).await;
        tick(&test.app.clone()).await;
    }
    let caught: Vec<(String, DateTime<Utc>)> =
        runs(&test.app).await.into_iter().map(|(_, project, slot, _)| (project, slot)).collect();
    assert_eq!(caught, [("six-hourly".to_owned(), at("2026-11-24T12:00:00Z"))]);
    assert_eq!(count(&test.app, "SELECT count(*) FROM control_plane.jobs").await, 1);
    // On time again.
    end_jobs(&test.app).await;
    clock.advance(at("2026-11-25T02:00:30Z") - clock.now());
    tick(&test.app).await;
    let latest: Vec<(String, DateTime<Utc>)> =
        runs(&test.app).await.into_iter().skip(1).map(|(_, project, slot, _)| (project, slot)).collect();
    assert_eq!(
        latest,
        [("six-hourly".to_owned(), at("2026-11-25T00:00:00Z")), ("daily".to_owned(), at("2026-11-25T02:00:00Z"))]
    );
}

#[tokio::test]
async fn a_run_that_waits_in_its_window_is_left_out_when_its_reason_has_gone() {
    let (test, clock) = scene_with(|config| config.schedules.jitter_minutes = 60).await;
    let app = &test.app;
    let mut schedules = BTreeMap::new();
    for id in ["disabled", "removed", "suspended", "late", "behind", "fine"] {
        project(app, id, None).await;
        schedules.insert(id, add(app, new("0 2 * * *", of_project(id))).await.id);
    }
    tick(app).await;
    clock.advance(Duration::hours(1));
    schedule::open_due(app).await.unwrap();
    let off = schedule::Changes { enabled: Some(false), ..schedule::Changes::default() };
    schedule::change(app, &caller(), schedules["disabled"], off).await.unwrap();
    schedule::remove(app, &caller(), schedules["removed"]).await.unwrap();
    sqlx::query("UPDATE control_plane.projects SET status = 'SUSPENDED' WHERE id = 'suspended'")
        .execute(&app.pool)
        .await
        .unwrap();
    sqlx::query(
        "UPDATE control_plane.schedule_runs SET due_at = due_at - interval '13 hours' WHERE project_id = 'late'",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    clock.advance(Duration::hours(1));
    schedule::start_due(app, 100).await.unwrap();
    for (project, expected) in [
        ("disabled", "disabled or removed"),
        ("removed", "disabled or removed"),
        ("suspended", "not ACTIVE"),
        ("late", "too late"),
    ] {
        assert!(message_of(app, project).await.contains(expected), "{project}");
    }
    assert_eq!(count(app, "SELECT count(*) FROM control_plane.jobs").await, 2);
    // The next day one has not ended yet.
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed' WHERE project_id = 'fine'")
        .execute(&app.pool)
        .await
        .unwrap();
    clock.advance(Duration::days(1));
    tick(app).await;
    assert!(message_of(app, "behind").await.contains("has not ended"));
    assert_eq!(count(app, "SELECT count(*) FROM control_plane.jobs WHERE project_id = 'fine'").await, 2);
}

#[tokio::test]
async fn a_backup_that_is_refused_is_told_in_the_history() {
    let (test, clock) = scene().await;
    project(&test.app, "acme", None).await;
    add(&test.app, NewSchedule { storages: vec!["local".to_owned()], ..new("0 2 * * *", of_project("acme")) }).await;
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    let mut later = test.app.clone();
    later.storages.clear();
    tick(&later).await;
    assert!(message_of(&test.app, "acme").await.contains("there is no storage \"local\""));
    let events = "SELECT count(*) FROM control_plane.backup_history WHERE event = 'schedule_refused' AND outcome = 'failed' AND project_id = 'acme'";
    assert_eq!(count(&test.app, events).await, 1);
}

#[tokio::test]
async fn a_process_that_dies_between_the_job_and_its_note_leaves_one_job() {
    let (test, clock) = scene().await;
    project(&test.app, "acme", None).await;
    let row = add(&test.app, new("0 2 * * *", of_project("acme"))).await;
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    tick(&test.app).await;
    // As it was before the note; once with the schedule as it was, and once with a changed one.
    for format in [None, Some(Some(holdfast::artifact::Format::Custom))] {
        sqlx::query("UPDATE control_plane.schedule_runs SET status = 'waiting', job_id = NULL")
            .execute(&test.app.pool)
            .await
            .unwrap();
        let changes = schedule::Changes { format, ..schedule::Changes::default() };
        schedule::change(&test.app, &caller(), row.id, changes).await.unwrap();
        tick(&test.app).await;
        assert_eq!(runs(&test.app).await[0].3, "enqueued");
    }
    assert_eq!(count(&test.app, "SELECT count(*) FROM control_plane.jobs").await, 1);
    assert_eq!(count(&test.app, "SELECT count(*) FROM control_plane.backups").await, 1);
}

#[tokio::test]
async fn every_slot_runs_exactly_once_whatever_the_schedulers_timing() {
    let (test, _) = scene_with(|config| config.schedules.schedule_default = "off".to_owned()).await;
    let crons =
        ["0 * * * *", "*/30 * * * *", "30 2 * * *", "40 1,2,3 * * *", "0 0 L * *", "45 1 29 2 *", "*/30 2 * * SUN"];
    // Each before a change of the clocks, and the last before a leap day.
    let starts = [
        ("2026-03-28T22:00:00Z", "Europe/Berlin"),
        ("2026-11-01T00:00:00Z", "America/New_York"),
        ("2026-10-03T12:00:00Z", "Australia/Lord_Howe"),
        ("2028-02-28T22:00:00Z", "UTC"),
    ];
    let mut chance = rand::rng();
    for (round, (start, zone)) in starts.into_iter().enumerate() {
        let clock = Clock::fixed(at(start));
        let schedulers: Vec<App> = (0..3).map(|_| App { clock: clock.clone(), ..test.app.clone() }).collect();
        let mut expected: BTreeMap<(Uuid, String), Vec<DateTime<Utc>>> = BTreeMap::new();
        let mut schedules = Vec::new();
        for (place, cron) in crons.iter().enumerate() {
            let id = format!("p{round}-{place}");
            project(&test.app, &id, None).await;
            let row =
                add(&schedulers[0], NewSchedule { zone: Some(zone.to_owned()), ..new(cron, of_project(&id)) }).await;
            expected.insert((row.id, id), Vec::new());
            schedules.push(row);
        }
        let end = at(start) + Duration::hours(27);
        while clock.now() < end {
            // Less than any two slots are apart: 2:40 of a day that has none runs at 3:00, 20 minutes after 1:40.
            clock.advance(Duration::seconds(chance.random_range(1..1_190)));
            let turns = schedulers.iter().map(|app| {
                let wait = chance.random_range(0..3);
                async move {
                    for _ in 0..wait {
                        tokio::task::yield_now().await;
                    }
                    tick(app).await;
                }
            });
            futures::future::join_all(turns).await;
            end_jobs(&test.app).await;
        }
        for row in &schedules {
            let (cron, zone): (Cron, Zone) = (row.cron.parse().unwrap(), row.zone.parse().unwrap());
            let slots = std::iter::successors(cron.next(&zone, at(start)), |last| cron.next(&zone, *last));
            let slots = slots.take_while(|slot| *slot <= clock.now()).collect();
            expected.insert((row.id, row.project_id.clone().unwrap()), slots);
            schedule::remove(&test.app, &caller(), row.id).await.unwrap();
        }
        for ((schedule, project), slots) in expected {
            let made: Vec<(DateTime<Utc>, String)> =
                sqlx::query_as("SELECT slot, status FROM control_plane.schedule_runs WHERE schedule_id = $1 AND project_id = $2 ORDER BY slot")
                    .bind(schedule)
                    .bind(&project)
                    .fetch_all(&test.app.pool)
                    .await
                    .unwrap();
            assert!(made.iter().all(|(_, status)| status == "enqueued"), "{made:?}");
            assert_eq!(made.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), slots, "{project}");
            let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.jobs WHERE project_id = $1")
                .bind(&project)
                .fetch_one(&test.app.pool)
                .await
                .unwrap();
            assert_eq!(jobs as usize, slots.len(), "{project}: one job for each slot");
        }
    }
}

pub(super) async fn execute(app: &App, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&app.pool).await.unwrap();
}

/// The statuses of all runs.
async fn statuses(app: &App) -> Vec<(String, String)> {
    runs(app).await.into_iter().map(|(_, project, _, status)| (project, status)).collect()
}

fn run_of(project: &str, status: &str) -> (String, String) {
    (project.to_owned(), status.to_owned())
}

const REFUSALS: &str = "SELECT count(*) FROM control_plane.backup_history WHERE event = 'schedule_refused'";

/// A project that has as many jobs in flight as it may, at two o'clock.
async fn busy() -> (TestApp, Clock) {
    let (test, clock) = scene_with(|config| config.limits.jobs_per_project = 1).await;
    project(&test.app, "acme", None).await;
    add(&test.app, new("0 2 * * *", of_project("acme"))).await;
    execute(&test.app, "INSERT INTO control_plane.jobs (id, type, status, project_id) VALUES (gen_random_uuid(), 'verify_backup', 'pending', 'acme')").await;
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    (test, clock)
}

#[tokio::test]
async fn a_project_with_too_many_jobs_is_backed_up_when_they_have_ended() {
    let (test, clock) = busy().await;
    for _ in 0..3 {
        tick(&test.app).await;
        assert_eq!(statuses(&test.app).await, [run_of("acme", "waiting")]);
        clock.advance(Duration::minutes(5));
    }
    assert!(message_of(&test.app, "acme").await.contains("jobs in flight"));
    assert_eq!(count(&test.app, REFUSALS).await, 0);
    end_jobs(&test.app).await;
    tick(&test.app).await;
    assert_eq!(statuses(&test.app).await, [run_of("acme", "enqueued")]);
}

#[tokio::test]
async fn a_project_that_stays_too_busy_is_told_of_once_when_it_is_too_late() {
    let (test, clock) = busy().await;
    for _ in 0..3 {
        tick(&test.app).await;
        clock.advance(Duration::hours(6));
    }
    tick(&test.app).await;
    assert_eq!(statuses(&test.app).await, [run_of("acme", "refused")]);
    assert!(message_of(&test.app, "acme").await.contains("until it was too late: project acme has 1 jobs"));
    assert_eq!(count(&test.app, REFUSALS).await, 1);
}

#[tokio::test]
async fn one_project_whose_request_fails_keeps_no_other_from_its_backup() {
    let (test, clock) = scene().await;
    for id in ["a-broken", "fine"] {
        project(&test.app, id, None).await;
    }
    execute(
        &test.app,
        "CREATE FUNCTION control_plane.break_it() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF new.project_id = 'a-broken' THEN RAISE 'out of luck'; END IF; RETURN new; END $$;
         CREATE TRIGGER break_it BEFORE INSERT ON control_plane.jobs FOR EACH ROW EXECUTE FUNCTION control_plane.break_it();",
    )
    .await;
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    tick(&test.app).await;
    assert_eq!(statuses(&test.app).await, [run_of("a-broken", "waiting"), run_of("fine", "enqueued")]);
    assert!(message_of(&test.app, "a-broken").await.contains("out of luck"));
    execute(&test.app, "DROP TRIGGER break_it ON control_plane.jobs").await;
    clock.advance(Duration::minutes(5));
    tick(&test.app).await;
    assert_eq!(statuses(&test.app).await, [run_of("a-broken", "enqueued"), run_of("fine", "enqueued")]);
}

#[tokio::test]
async fn a_project_with_many_schedules_lets_the_others_in_between() {
    let (test, clock) = scene().await;
    for id in ["many", "one"] {
        project(&test.app, id, None).await;
    }
    for (minute, id) in ["many", "many", "many", "one"].into_iter().enumerate() {
        add(&test.app, new(&format!("{minute} 2 * * *"), of_project(id))).await;
    }
    tick(&test.app).await;
    clock.advance(Duration::hours(2));
    tick(&test.app).await;
    let started: Vec<String> = sqlx::query_scalar("SELECT project_id FROM control_plane.jobs ORDER BY id")
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(started, ["many", "one", "many", "many"]);
}

#[tokio::test]
async fn a_platforms_own_row_neither_runs_nor_keeps_ours_from_running() {
    let (test, clock) = scene().await;
    project(&test.app, "acme", None).await;
    execute(
        &test.app,
        "ALTER TABLE control_plane.schedules ALTER COLUMN name DROP NOT NULL, ALTER COLUMN zone DROP NOT NULL;
         INSERT INTO control_plane.schedules (id, name, zone, project_id, cron, type) VALUES (gen_random_uuid(), NULL, NULL, 'acme', '0 2 * * *', 'database')",
    )
    .await;
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    tick(&test.app).await;
    let ran: Vec<Uuid> = runs(&test.app).await.into_iter().map(|(schedule, ..)| schedule).collect();
    assert_eq!(ran, [DEFAULT_ID]);
}

#[tokio::test]
async fn a_key_that_names_another_projects_job_is_not_taken_for_this_run() {
    let (test, clock) = scene().await;
    for id in ["acme", "globex"] {
        project(&test.app, id, None).await;
    }
    let row = add(&test.app, new("0 2 * * *", of_project("acme"))).await;
    sqlx::query("INSERT INTO control_plane.jobs (id, type, status, project_id, created_by, idempotency_key) VALUES ($1, 'export_backup', 'completed', 'globex', 'system:scheduler', $2)")
        .bind(Uuid::now_v7())
        .bind(format!("schedule:{}:acme:{}", row.id, at("2026-11-21T02:00:00Z").timestamp()))
        .execute(&test.app.pool)
        .await
        .unwrap();
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    tick(&test.app).await;
    let of: Vec<String> = sqlx::query_scalar("SELECT j.project_id FROM control_plane.schedule_runs r JOIN control_plane.jobs j ON j.id = r.job_id WHERE r.schedule_id = $1")
        .bind(row.id)
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(of, ["acme"]);
}

#[tokio::test]
async fn what_a_wrong_clock_has_written_does_not_stop_the_others() {
    let (test, clock) = scene_with(|config| config.schedules.tick_seconds = 1).await;
    project(&test.app, "acme", None).await;
    execute(&test.app, "UPDATE control_plane.projects SET created_at = '2026-11-01T00:00:00Z'").await;
    tick(&test.app).await;
    clock.advance(Duration::hours(1));
    // Of a process that lived in another year.
    execute(
        &test.app,
        "INSERT INTO control_plane.upkeep (task, done_at) VALUES ('stale', '2031-01-01T00:00:00Z');
         INSERT INTO control_plane.schedule_runs (schedule_id, project_id, slot, due_at, status)
             VALUES ('00000000-0000-0000-0000-000000000000', 'acme', '2031-01-01T02:00:00Z', '2031-01-01T02:00:00Z', 'waiting')",
    )
    .await;
    let stop = tokio_util::sync::CancellationToken::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let look = async {
        loop {
            let stale = count(&test.app, "SELECT count(*) FROM control_plane.stale_projects").await;
            let started =
                count(&test.app, "SELECT count(*) FROM control_plane.schedule_runs WHERE status = 'enqueued'").await;
            if (stale, started) == (1, 1) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{stale} stale, {started} started");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        stop.cancel();
    };
    tokio::join!(schedule::run(test.app.clone(), stop.clone()), look);
    assert_eq!(statuses(&test.app).await, [run_of("acme", "enqueued"), run_of("acme", "waiting")]);
}

#[tokio::test]
async fn a_machine_whose_clock_is_far_from_the_databases_is_told_by_how_much() {
    let (test, _) = scene().await;
    let now = Clock::System.now();
    assert_eq!(schedule::off_by(&test.app.pool, now).await.unwrap(), None);
    let ahead = schedule::off_by(&test.app.pool, now + Duration::days(400)).await.unwrap().unwrap();
    assert_eq!(ahead.num_days().max(399), 399);
    assert!(schedule::off_by(&test.app.pool, now - Duration::minutes(6)).await.unwrap().unwrap() < Duration::zero());
}
