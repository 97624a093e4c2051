//! A restore in place is one swap: whoever reads sees the old state, then the new one, and never an error; and so is its undo. Restores to
//! other places replace nothing.

mod aside;
mod later;
mod locks;
mod parts;
mod places;
mod refusals;
mod strangers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast::{
    demo::{compare, sample},
    jobs::request::{self, RestoreRequest},
    postgres::connect::ConnectInfo,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{
    self,
    app::{TestApp, caller, export},
};

async fn run(c: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(c).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
}

/// A tenant whose rows all tell which state they are of.
const TENANT: &str = "
    CREATE SCHEMA tenant_acme;
    CREATE TABLE tenant_acme.states (id int PRIMARY KEY, state int NOT NULL);
    INSERT INTO tenant_acme.states SELECT i, 1 FROM generate_series(1, 1000) i;
    CREATE TABLE tenant_acme.more (id int PRIMARY KEY REFERENCES tenant_acme.states, state int NOT NULL, filler text);
    INSERT INTO tenant_acme.more SELECT i, 1, repeat('x', 200) FROM generate_series(1, 1000) i;
    CREATE VIEW tenant_acme.both AS SELECT s.state AS a, m.state AS b FROM tenant_acme.states s JOIN tenant_acme.more m USING (id);
    CREATE FUNCTION tenant_acme.now_at() RETURNS int LANGUAGE sql AS 'SELECT max(state) FROM tenant_acme.states';";

/// How one of the readers reads; each says the smallest and the largest state that it saw at once.
const READS: [&str; 4] = [
    "SELECT min(state), max(state) FROM tenant_acme.states",
    "SELECT min(a), max(b) FROM tenant_acme.both WHERE a = b",
    // By search_path.
    "SELECT min(state), max(state) FROM more",
    // A function that finds its tables when it runs, called once.
    "SELECT s, s FROM (SELECT now_at() AS s OFFSET 0) AS once",
];

/// Reads until it is told to stop, and counts its rounds. Returns the states in the order in which they were seen; an error is a panic.
async fn reader(
    info: ConnectInfo,
    role: String,
    read: &'static str,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
) -> Vec<i32> {
    let mut c = support::connect(&info).await;
    run(&mut c, &format!("SET SESSION AUTHORIZATION {role}; SET search_path = tenant_acme, pg_catalog")).await;
    run(&mut c, &format!("PREPARE of_the_session AS {read}")).await;
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.load(Ordering::Relaxed);
        let (least, most): (Option<i32>, Option<i32>) = match round % 3 {
            // A statement that the driver prepared once and keeps.
            0 => sqlx::query_as(read).fetch_one(&mut c).await,
            1 => sqlx::query_as("EXECUTE of_the_session").persistent(false).fetch_one(&mut c).await,
            _ => {
                let mut tx = c.begin().await.unwrap();
                let fresh = AssertSqlSafe(format!("{read} -- {round}"));
                let row = sqlx::query_as(fresh).persistent(false).fetch_one(&mut *tx).await;
                tx.commit().await.unwrap();
                row
            }
        }
        .unwrap_or_else(|error| panic!("{read}, round {round}, after {seen:?}: {error}"));
        assert_eq!(least, most, "{read}: rows of two states at once, after {seen:?}");
        let state = most.unwrap_or_else(|| panic!("{read}: no rows, after {seen:?}"));
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

/// Until each of them has read in every one of its ways since now.
async fn all_have_read(rounds: &[Arc<AtomicUsize>]) {
    let before: Vec<usize> = rounds.iter().map(|round| round.load(Ordering::Relaxed)).collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while rounds.iter().zip(&before).any(|(round, before)| round.load(Ordering::Relaxed) < before + 4) {
        assert!(tokio::time::Instant::now() < deadline, "a reader stands still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn forty_readers_see_the_old_rows_then_the_new_ones_and_the_old_ones_again_after_an_undo() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    let role = format!("app_{}", uuid::Uuid::now_v7().simple());
    run(&mut c, TENANT).await;
    run(
        &mut c,
        &format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA tenant_acme TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA tenant_acme TO {role}; \
             REVOKE EXECUTE ON FUNCTION tenant_acme.now_at() FROM PUBLIC; GRANT EXECUTE ON FUNCTION tenant_acme.now_at() TO {role}"
        ),
    )
    .await;
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    run(&mut c, "UPDATE tenant_acme.states SET state = 2; UPDATE tenant_acme.more SET state = 2").await;

    let stop = Arc::new(AtomicBool::new(false));
    let (mut readers, mut rounds) = (Vec::new(), Vec::new());
    for i in 0..40 {
        let (info, read, round) = (test.app.control.clone(), READS[i % READS.len()], Arc::new(AtomicUsize::new(0)));
        readers.push(tokio::spawn(reader(info, role.clone(), read, Arc::clone(&stop), Arc::clone(&round))));
        rounds.push(round);
    }
    all_have_read(&rounds).await;
    let job = test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let result = job.result.clone().unwrap();
    assert_eq!((&result["outcome"], &result["way"]), (&"verified".into(), &"one transaction".into()), "{result}");
    all_have_read(&rounds).await;
    let undo = request::undo(&test.app, &caller(), job.job_id(), None).await.unwrap();
    let undone = test.run(undo.job_id()).await;
    assert_eq!(undone.status, "completed", "{:?}", undone.error_message);
    all_have_read(&rounds).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), [2, 1, 2], "old, new, and old again, each once");
    }
    run(&mut c, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn without_room_in_the_lock_table_the_schema_is_moved_aside_and_everything_is_done_in_parts() {
    let test = TestApp::with(|config| config.restore.one_transaction = false).await;
    let mut c = test.tenants().await;
    sample::create_tenant(&mut c, "tenant_acme", 1).await.unwrap();
    run(
        &mut c,
        "DO $$ BEGIN FOR i IN 1..520 LOOP EXECUTE format('CREATE TABLE tenant_acme.many_%s AS SELECT %s AS n', i, i); END LOOP; END $$;
         GRANT SELECT ON ALL TABLES IN SCHEMA tenant_acme TO hf_demo_readonly",
    )
    .await;
    test.add_schema_project("acme", "tenant_acme").await;
    let good = compare::snapshot(&mut c, "tenant_acme").await.unwrap();
    let backup = test.backup(export("acme")).await;
    sample::ruin(&mut c, "tenant_acme").await.unwrap();
    let ruined = compare::snapshot(&mut c, "tenant_acme").await.unwrap();
    let same = |a: &compare::Picture, b: &compare::Picture| assert_eq!(compare::diff(a, b), Vec::<String>::new());

    let job = test.restore(&backup).await;
    let result = job.result.clone().unwrap_or_default();
    assert_eq!(
        (job.status.as_str(), &result["way"]),
        ("completed", &"renamed aside".into()),
        "{:?}",
        job.error_message
    );
    assert_eq!(result["way_because"], "restore.one_transaction is off");
    assert_eq!(result["outcome"], "verified", "{result}");
    same(&good, &compare::snapshot(&mut c, "tenant_acme").await.unwrap());
    let undo = request::undo(&test.app, &caller(), job.job_id(), None).await.unwrap();
    assert_eq!(test.run(undo.job_id()).await.status, "completed");
    same(&ruined, &compare::snapshot(&mut c, "tenant_acme").await.unwrap());
    // What the undo took out of use is dropped when its time is over: more tables than one transaction drops.
    let kept: String =
        sqlx::query_scalar("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'hf\\_undone\\_%'")
            .fetch_one(&mut c)
            .await
            .unwrap();
    run(&mut c, "UPDATE control_plane.restores SET undo_until = now() - interval '1 second'").await;
    holdfast::jobs::drop_replaced::enqueue_due(&test.app).await.unwrap();
    let tidy: uuid::Uuid = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE type = 'drop_replaced'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    let tidied = test.run(tidy.into()).await;
    assert_eq!(tidied.status, "completed", "{:?}", tidied.error_message);
    assert_eq!(tidied.result.unwrap()["dropped"], kept.as_str());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'hf\\_%'")
        .fetch_one(&mut c)
        .await
        .unwrap();
    assert_eq!(left, 0);

    // One that is refused after its load, which was committed statement by statement: it is taken away in parts.
    run(
        &mut c,
        "CREATE FUNCTION tenant_acme.price() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION tenant_acme.late() RETURNS boolean LANGUAGE plpgsql AS $f$
         BEGIN
             IF current_user LIKE 'hf\\_restore\\_%' THEN
                 EXECUTE 'CREATE OR REPLACE FUNCTION tenant_acme.price() RETURNS int LANGUAGE sql AS ''SELECT 2''';
             END IF;
             RETURN true;
         END $f$;
         CREATE TABLE tenant_acme.trap (n int CHECK (tenant_acme.late())); INSERT INTO tenant_acme.trap VALUES (1)",
    )
    .await;
    let trap = test.backup(export("acme")).await;
    let before = compare::snapshot(&mut c, "tenant_acme").await.unwrap();
    let job = test.restore(&trap).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{:?}", job.result);
    assert!(job.error_message.unwrap().contains("price"));
    same(&before, &compare::snapshot(&mut c, "tenant_acme").await.unwrap());
    assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());
}

/// A server's lock table is made full by a session that holds advisory locks, which are in it too.
#[tokio::test]
async fn a_restore_counts_before_it_chooses_and_says_why_it_does_not_fit() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    sample::create_tenant(&mut c, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    // Many definitions, as the manifest tells them: more than any lock table holds by two thirds.
    let manifest = backup.manifest().unwrap();
    let mut content = manifest.body.database().unwrap().clone();
    content.table_count = 1_000_000;
    let engine = holdfast::restore::Engine {
        tools: Arc::clone(&test.app.tools),
        admin: test.app.control.clone(),
        allow_vulnerable_clients: support::allows_vulnerable_clients(),
        allow_detached_references: false,
        one_transaction: true,
        keep_free: 0,
    };
    let plan = engine.plan_schema(holdfast::ids::RestoreId::generate(), "tenant_acme").await.unwrap();
    let mut session = engine.open(&plan).await.unwrap();
    session.prepare(&content, 60).await.unwrap();
    let because = session.way().because().unwrap().to_owned();
    assert!(because.contains("locks") && because.contains("max_locks_per_transaction"), "{because}");
    session.roll_back().await.unwrap();
    session.close().await;
}

#[tokio::test]
async fn references_from_outside_refuse_a_restore_before_anything_is_touched() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    run(&mut c, TENANT).await;
    run(
        &mut c,
        "CREATE SCHEMA platform;
         CREATE TABLE platform.flags (id int REFERENCES tenant_acme.states, on_at timestamptz);
         CREATE VIEW platform.looks AS SELECT * FROM tenant_acme.more;
         CREATE FUNCTION platform.of(tenant_acme.states) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE PUBLICATION out_there FOR TABLE tenant_acme.more",
    )
    .await;
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    run(&mut c, "UPDATE tenant_acme.more SET state = 2").await;
    let oid = "SELECT oid::int8 FROM pg_namespace WHERE nspname = 'tenant_acme'";
    let before: i64 = sqlx::query_scalar(oid).fetch_one(&mut c).await.unwrap();
    let job = test.restore(&backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    let message = job.error_message.unwrap();
    for named in ["platform.flags", "platform.looks", "platform.of", "out_there", "allow_detached_references"] {
        assert!(message.contains(named), "{named}: {message}");
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(oid).fetch_one(&mut c).await.unwrap(), before);
    assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());

    let request = RestoreRequest { allow_detached_references: true, ..RestoreRequest::in_place(backup.backup_id()) };
    let job = request::restore(&test.app, &caller(), &request, None).await.unwrap();
    let job = test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let warnings = job.result.unwrap()["warnings"].to_string();
    assert!(warnings.contains("platform.looks") && warnings.contains("out_there"), "{warnings}");
    let states: (i32, i32) =
        sqlx::query_as("SELECT (SELECT max(state) FROM tenant_acme.more), (SELECT max(state) FROM platform.looks)")
            .fetch_one(&mut c)
            .await
            .unwrap();
    assert_eq!(states, (1, 2), "the view goes on using what was replaced");
}

/// Roles and schemas of restores that are there, but for those that wait for an undo.
pub async fn leftovers(c: &mut PgConnection, test: &TestApp) -> Vec<String> {
    let roles: Vec<String> =
        sqlx::query_scalar("SELECT plan ->> 'role' FROM control_plane.restores WHERE plan ->> 'role' IS NOT NULL")
            .fetch_all(&test.app.pool)
            .await
            .unwrap();
    sqlx::query_scalar(
        "SELECT 'role ' || rolname FROM pg_roles WHERE rolname = ANY ($1) \
         UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^hf_(new|restore)_' \
         UNION ALL SELECT 'schema ' || nspname FROM pg_namespace n WHERE nspname ~ '^hf_(before|undone)_' \
             AND NOT EXISTS (SELECT FROM control_plane.restores r WHERE r.kept_schema = n.nspname) \
         UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname ~ '^hf_(trial|restored)_' \
             AND substr(datname, length(datname) - 11) IN (SELECT substr(r, length(r) - 11) FROM unnest($1) r)",
    )
    .bind(&roles)
    .fetch_all(c)
    .await
    .unwrap()
}
