//! The program itself: the commands, and `serve` under a moved clock through a change of the clocks.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use holdfast::{config::DatabaseConfig, db, demo::sample};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{at, support};

struct Holdfast {
    directory: tempfile::TempDir,
    url: String,
    pool: sqlx::PgPool,
}

impl Holdfast {
    async fn new() -> Self {
        let info = support::fresh_database("time").await;
        let pool = db::connect(&info, &DatabaseConfig::default()).await.unwrap();
        db::migrate(&pool).await.unwrap();
        sample::create_tenant(&mut info.connect().await.unwrap(), "tenant_acme", 1).await.unwrap();
        Self { directory: tempfile::tempdir().unwrap(), url: info.to_url().expose_secret().to_owned(), pool }
    }

    fn settle(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.url)
            .env("HOLDFAST_DATA_DIR", self.directory.path())
            .env("HOLDFAST_LISTEN", "127.0.0.1:0")
            .env("HOLDFAST_SCHEDULES_TICK_SECONDS", "1")
            .env("HOLDFAST_SCHEDULES_JITTER_MINUTES", "0")
            // PostgreSQL's clock is not moved.
            .env("HOLDFAST_SCHEDULES_CHECK_CLOCK", "false")
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.settle(Command::new(env!("CARGO_BIN_EXE_holdfast")), arguments)
    }

    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.run(0, arguments).stdout).unwrap()
    }

    /// The program with its clock set to `start` and running `speed` times as fast. Timers stay as they are, and so does PostgreSQL's clock.
    fn faked(&self, start: &str, speed: u32, arguments: &[&str]) -> Command {
        // In the zone of this machine, which is made to be UTC.
        let mut fake = Command::new("faketime");
        fake.args(["--exclude-monotonic", "-f", &format!("@{start} x{speed}"), env!("CARGO_BIN_EXE_holdfast")]);
        let mut command = self.settle(fake, arguments);
        command.env("TZ", "UTC");
        command
    }
}

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The group: `faketime` runs the program as a child of its own.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_commands_add_show_change_and_remove_schedules() {
    let holdfast = Holdfast::new().await;
    holdfast.run(0, &["project", "add", "acme", "--name", "Acme"]);
    let added = holdfast.json(&[
        "schedule",
        "add",
        "30 2 * * *",
        "--project",
        "acme",
        "--name",
        "nightly",
        "--zone",
        "Europe/Berlin",
        "--days",
        "14",
        "--json",
    ]);
    assert_eq!((&added["cron"], &added["retention"]), (&json!("30 2 * * *"), &json!({ "days": 14 })));
    holdfast.run(0, &["schedule", "add", "0 3 * * *", "--pattern", "*"]);
    let listed = String::from_utf8(holdfast.run(0, &["schedule", "list"]).stdout).unwrap();
    assert!(
        listed.contains("nightly") && listed.contains("projects *") && listed.contains("Europe/Berlin"),
        "{listed}"
    );
    assert_eq!(holdfast.json(&["schedule", "list", "--project", "acme", "--json"]).as_array().unwrap().len(), 1);
    let shown = holdfast.json(&["schedule", "show", "nightly", "--json"]);
    assert_eq!(shown["next_runs"].as_array().unwrap().len(), 5);
    let id = added["id"].as_str().unwrap();
    let changed = holdfast.json(&["schedule", "change", id, "--cron", "0 5 * * *", "--disable", "--json"]);
    assert_eq!(
        (&changed["cron"], &changed["enabled"], &changed["zone"]),
        (&json!("0 5 * * *"), &json!(false), &json!("Europe/Berlin"))
    );
    let next = holdfast.json(&["schedule", "next", "0 0 29 2 *", "--count", "2", "--json"]);
    assert_eq!((next["next_runs"].as_array().unwrap().len(), &next["zone"]), (2, &json!("UTC")));
    holdfast.run(0, &["schedule", "remove", "nightly"]);
    for (code, arguments, expected) in [
        (3, &["schedule", "show", "nightly"][..], "there is no schedule \"nightly\""),
        (2, &["schedule", "add", "0 2 30 2 *", "--project", "acme"], "cron: cron expression \"0 2 30 2 *\" never runs"),
        (
            2,
            &["schedule", "add", "0 2 * * *", "--project", "acme", "--zone", "Mars/Olympus"],
            "zone: there is no time zone",
        ),
        (2, &["schedule", "add", "0 2 * * *", "--project", "acme", "--days", "99999"], "retention.days is 99999"),
        (2, &["schedule", "add", "0 2 * * *"], "required"),
        (3, &["schedule", "add", "0 2 * * *", "--project", "nobody"], "there is no project"),
        (2, &["retention", "apply"], "nothing was done: 0 backups would be deleted"),
        (2, &["retention", "apply", "--confirm", "--plan", "0123"], "the plan has changed"),
        (3, &["retention", "plan", "--project", "nobody"], "there is no project"),
    ] {
        let said = String::from_utf8(holdfast.run(code, arguments).stderr).unwrap();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_plan_is_shown_applied_and_refused_when_it_has_changed() {
    let holdfast = Holdfast::new().await;
    holdfast.run(0, &["project", "add", "acme", "--name", "Acme"]);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let backup = holdfast.json(&["backup", "acme", "--wait", "--json"]);
        taken.push(backup["id"].as_str().unwrap_or_else(|| panic!("{backup}")).to_owned());
    }
    sqlx::query(
        "UPDATE control_plane.backups SET created_at = created_at - interval '40 days' WHERE id::text = ANY($1)",
    )
    .bind(&taken[..2])
    .execute(&holdfast.pool)
    .await
    .unwrap();
    let plan = holdfast.json(&["retention", "apply", "--dry-run", "--json"]);
    assert_eq!((&plan["deletes"], plan["backups"].as_array().unwrap().len()), (&json!(2), 3));
    let text = String::from_utf8(holdfast.run(0, &["retention", "plan", "--project", "acme"]).stdout).unwrap();
    assert!(text.contains("older than 30 days") && text.contains("1 kept, 2 deleted; plan "), "{text}");
    let digest = plan["digest"].as_str().unwrap();
    sqlx::query("UPDATE control_plane.backups SET pinned = true WHERE id::text = $1")
        .bind(&taken[0])
        .execute(&holdfast.pool)
        .await
        .unwrap();
    holdfast.run(2, &["retention", "apply", "--plan", digest, "--confirm"]);
    let now = holdfast.json(&["retention", "plan", "--json"]);
    let applied =
        holdfast.json(&["retention", "apply", "--plan", now["digest"].as_str().unwrap(), "--confirm", "--json"]);
    assert_eq!((&applied["deleting"][0]["backup_id"], &applied["skipped"]), (&json!(taken[1]), &json!([])));
}

/// Polls until a query's answer is as wanted.
async fn wait_until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Serves from `start` until the last of the expected slots has ended, at an hour a second, in two processes.
async fn serve_through(start: &str, expected: [&str; 2]) {
    let holdfast = Holdfast::new().await;
    for arguments in [
        &["project", "add", "acme", "--name", "Acme"][..],
        &["schedule", "add", "30 2 * * *", "--project", "acme", "--zone", "Europe/Berlin"],
    ] {
        let output =
            holdfast.faked(start, 1, arguments).output().expect("faketime is installed: scripts/setup does so");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut running = ["serve", "worker"].map(|what| {
        let mut command = holdfast.faked(start, 3_600, &[what]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Running(command.spawn().unwrap())
    });
    let last = at(expected[1]);
    wait_until("the last slot", async || {
        for child in &mut running {
            assert_eq!(child.0.try_wait().unwrap(), None, "it goes on running");
        }
        let (is_over, left): (bool, i64) = sqlx::query_as(
            "SELECT (SELECT next_slot > $1 FROM control_plane.schedules WHERE project_id = 'acme'),
                    (SELECT count(*) FROM control_plane.schedule_runs r LEFT JOIN control_plane.jobs j ON j.id = r.job_id
                     WHERE r.slot <= $1 AND (r.status = 'waiting' OR j.status IN ('pending', 'in_progress')))",
        )
        .bind(last)
        .fetch_one(&holdfast.pool)
        .await
        .unwrap();
        (is_over && left == 0).then_some(())
    })
    .await;
    drop(running);
    let backups: Vec<(DateTime<Utc>, String, String, String)> = sqlx::query_as(
        "SELECT r.slot, r.status, b.status, b.backup_type FROM control_plane.schedule_runs r
         LEFT JOIN control_plane.backups b ON b.job_id = r.job_id WHERE r.slot <= $1 AND r.project_id = 'acme' ORDER BY r.slot",
    )
    .bind(last)
    .fetch_all(&holdfast.pool)
    .await
    .unwrap();
    let wanted = expected.map(|slot| (at(slot), "enqueued".to_owned(), "completed".to_owned(), "scheduled".to_owned()));
    assert_eq!(backups, wanted);
    let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.jobs j JOIN control_plane.schedule_runs r ON r.job_id = j.id WHERE r.slot <= $1 AND r.project_id = 'acme'")
        .bind(last)
        .fetch_one(&holdfast.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 2);
}

#[tokio::test]
async fn served_through_both_changes_of_the_clocks_every_day_has_one_backup() {
    tokio::join!(
        // In Berlin 02:00 to 03:00 does not come on 2026-03-29: it runs at 03:00.
        serve_through("2026-03-28 23:00:00", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        // It comes twice on 2026-10-25: it runs the first time.
        serve_through("2026-10-24 22:00:00", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
    );
}
