//! The chain: made by many at once, and whatever is done to the table by hand is named.

use std::process::Command;

use holdfast::{
    db,
    history::{self, ChainKey, Head, PeopleEvent, Verified, Wrong},
    tenant::Caller,
};
use secrecy::ExposeSecret;
use sqlx::PgPool;

use super::support::{self, app::control_plane};

fn key() -> ChainKey {
    ChainKey::new([7; 32])
}

/// Writes one entry, as handlers do.
async fn write(pool: &PgPool, actor: &str, number: usize) {
    let caller = Caller::system(actor);
    let detail = serde_json::json!({ "number": number, "text": "ü \" \\ 1.50" });
    let event = PeopleEvent { event: "tested", caller: &caller, organization_id: None, outcome: "ok", detail };
    let mut transaction = db::begin(pool).await.unwrap();
    history::record_people(&mut transaction, &event).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn link_all(pool: &PgPool) {
    while history::link(pool, &key(), 7).await.unwrap() > 0 {}
}

async fn look(pool: &PgPool) -> Verified {
    history::verify_chain(pool, &key(), &[]).await.unwrap()
}

/// Ten linked entries.
async fn ten() -> PgPool {
    let pool = control_plane().await;
    for number in 0..10 {
        write(&pool, "writer", number).await;
    }
    link_all(&pool).await;
    assert!(look(&pool).await.is_whole);
    pool
}

async fn run(pool: &PgPool, sql: &'static str) {
    assert!(sqlx::raw_sql(sql).execute(pool).await.unwrap().rows_affected() > 0, "{sql}");
}

async fn entry_at(pool: &PgPool, sequence: i64) -> i64 {
    sqlx::query_scalar("SELECT id FROM control_plane.backup_history WHERE sequence = $1")
        .bind(sequence)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn eight_writers_and_two_who_link_make_one_whole_chain() {
    let pool = control_plane().await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for number in 0..40 {
                    write(&pool, &format!("writer {writer}"), number).await;
                }
            })
        })
        .collect();
    let linkers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                while look(&pool).await.entries < 320 {
                    link_all(&pool).await;
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(linkers) {
        task.await.unwrap();
    }
    let seen = look(&pool).await;
    assert!(seen.is_whole, "{seen:?}");
    assert_eq!((seen.entries, seen.unlinked, seen.late), (320, 0, 0));
    assert!(seen.head.unwrap().starts_with("320:"));
}

#[tokio::test]
async fn what_is_committed_late_is_linked_late_and_nothing_is_passed_over() {
    let pool = control_plane().await;
    let caller = Caller::system("slow");
    let detail = serde_json::json!({});
    let event = PeopleEvent { event: "tested", caller: &caller, organization_id: None, outcome: "ok", detail };
    let mut slow = db::begin(&pool).await.unwrap();
    history::record_people(&mut slow, &event).await.unwrap();
    write(&pool, "quick", 1).await;
    link_all(&pool).await;
    assert_eq!(look(&pool).await.entries, 1);
    slow.commit().await.unwrap();
    assert_eq!(look(&pool).await.unlinked, 1);
    link_all(&pool).await;
    let seen = look(&pool).await;
    assert!(seen.is_whole && seen.entries == 2, "{seen:?}");
    // In the order in which they were found, not in that of their ids.
    assert!(entry_at(&pool, 2).await < entry_at(&pool, 1).await);
}

#[tokio::test]
async fn entries_of_older_versions_and_of_platforms_are_linked_as_they_are_found_and_late_ones_are_counted() {
    let pool = control_plane().await;
    run(
        &pool,
        "INSERT INTO control_plane.backup_history (project_id, event, actor, outcome, at)
         VALUES ('acme', 'completed', 'an older version', 'ok', now() - interval '3 days')",
    )
    .await;
    link_all(&pool).await;
    let seen = look(&pool).await;
    assert!(seen.is_whole, "{seen:?}");
    assert_eq!((seen.entries, seen.late), (1, 1));
}

#[tokio::test]
async fn one_who_dies_while_linking_leaves_the_chain_as_it_was() {
    let pool = ten().await;
    for number in 0..5 {
        write(&pool, "writer", number).await;
    }
    // Entries are written and nothing is committed: the head's row is what another waits for.
    let mut other = db::begin(&pool).await.unwrap();
    sqlx::query("SELECT 1 FROM control_plane.audit_head FOR UPDATE").execute(&mut *other).await.unwrap();
    let linker = tokio::spawn({
        let pool = pool.clone();
        async move { history::link(&pool, &key(), 100).await }
    });
    support::app::wait_for_lock(&pool).await;
    linker.abort();
    assert!(linker.await.unwrap_err().is_cancelled());
    other.rollback().await.unwrap();
    assert_eq!((look(&pool).await.entries, look(&pool).await.unlinked), (10, 5));
    link_all(&pool).await;
    let seen = look(&pool).await;
    assert!(seen.is_whole && seen.entries == 15, "{seen:?}");
}

#[tokio::test]
async fn whatever_is_done_to_an_entry_by_hand_is_named() {
    for (sql, wrong, sequence, has_entry) in [
        ("UPDATE control_plane.backup_history SET actor = 'nobody' WHERE sequence = 4", Wrong::Altered, 4, true),
        ("UPDATE control_plane.backup_history SET outcome = 'failed' WHERE sequence = 1", Wrong::Altered, 1, true),
        ("UPDATE control_plane.backup_history SET at = at - interval '1 us' WHERE sequence = 10", Wrong::Altered, 10, true),
        ("UPDATE control_plane.backup_history SET address = '' WHERE sequence = 5", Wrong::Altered, 5, true),
        ("UPDATE control_plane.backup_history SET detail = detail || '{\"text\": \"ü \\\" \\\\ 1.5\"}' WHERE sequence = 6", Wrong::Altered, 6, true),
        ("UPDATE control_plane.backup_history SET digest = sha256('x') WHERE sequence = 3", Wrong::Altered, 3, true),
        ("UPDATE control_plane.backup_history SET linked_at = now() + interval '1 s' WHERE sequence = 3", Wrong::Altered, 3, true),
        ("DELETE FROM control_plane.backup_history WHERE sequence = 1", Wrong::Removed, 1, false),
        ("DELETE FROM control_plane.backup_history WHERE sequence IN (4, 5)", Wrong::Removed, 4, false),
        ("UPDATE control_plane.backup_history SET sequence = NULL WHERE sequence = 7", Wrong::Removed, 7, false),
        ("DELETE FROM control_plane.backup_history WHERE sequence > 8", Wrong::Truncated, 9, false),
        ("DELETE FROM control_plane.backup_history", Wrong::Truncated, 1, false),
        ("UPDATE control_plane.audit_head SET digest = sha256('x')", Wrong::Rewritten, 10, false),
        ("UPDATE control_plane.audit_head SET sequence = 8", Wrong::Rewritten, 9, false),
        (
            "INSERT INTO control_plane.backup_history (event, actor, outcome, sequence, previous_digest, digest, linked_at)
             SELECT 'x', 'x', 'ok', 11, digest, sha256('x'), now() FROM control_plane.backup_history WHERE sequence = 10",
            Wrong::Inserted,
            11,
            true,
        ),
        (
            "INSERT INTO control_plane.backup_history (event, actor, outcome, sequence) VALUES ('x', 'x', 'ok', -1)",
            Wrong::Inserted,
            -1,
            true,
        ),
        // Two entries change places.
        (
            "WITH taken AS (SELECT * FROM control_plane.backup_history WHERE sequence IN (3, 6)),
                  given AS (SELECT a.id, b.sequence, b.previous_digest, b.digest, b.linked_at FROM taken a JOIN taken b ON a.id <> b.id)
             UPDATE control_plane.backup_history h SET sequence = -g.sequence, previous_digest = g.previous_digest, digest = g.digest,
                 linked_at = g.linked_at FROM given g WHERE g.id = h.id;
             UPDATE control_plane.backup_history SET sequence = -sequence WHERE sequence < 0",
            Wrong::Reordered,
            3,
            true,
        ),
        // The whole place of an entry is given to another, which is then missing in its own.
        (
            "DELETE FROM control_plane.backup_history WHERE sequence = 2;
             UPDATE control_plane.backup_history SET sequence = 2 WHERE sequence = 3",
            Wrong::Altered,
            2,
            true,
        ),
    ] {
        let pool = ten().await;
        run(&pool, sql).await;
        let seen = look(&pool).await;
        let first = seen.first.unwrap_or_else(|| panic!("not noticed: {sql}"));
        assert!(!seen.is_whole && seen.wrong_places > 0);
        assert_eq!((first.wrong, first.sequence), (wrong, sequence), "{sql}: {first:?}");
        assert_eq!(first.entry_id.is_some(), has_entry, "{sql}: {first:?}");
        if has_entry && sequence > 0 {
            assert_eq!(first.entry_id, Some(entry_at(&pool, sequence).await), "{sql}");
        }
    }
}

#[tokio::test]
async fn a_tail_that_is_cut_off_with_the_head_is_noticed_by_what_was_remembered_elsewhere() {
    let pool = ten().await;
    let remembered = history::chain_head(&pool).await.unwrap().unwrap();
    run(
        &pool,
        "DELETE FROM control_plane.backup_history WHERE sequence > 8;
         UPDATE control_plane.audit_head SET sequence = 8,
             digest = (SELECT digest FROM control_plane.backup_history WHERE sequence = 8)",
    )
    .await;
    // By itself it is a chain of eight.
    assert!(look(&pool).await.is_whole);
    let with = async |heads: &[Head]| history::verify_chain(&pool, &key(), heads).await.unwrap().first;
    let first = with(std::slice::from_ref(&remembered)).await.unwrap();
    assert_eq!((first.wrong, first.sequence), (Wrong::Truncated, 9));
    // Other entries in the place of those that were cut off.
    for number in 0..2 {
        write(&pool, "forger", number).await;
    }
    link_all(&pool).await;
    assert!(look(&pool).await.is_whole);
    let first = with(&[remembered]).await.unwrap();
    assert_eq!((first.wrong, first.sequence), (Wrong::Rewritten, 10));
}

#[tokio::test]
async fn a_chain_that_was_begun_anew_is_another_than_the_remembered_one() {
    let pool = ten().await;
    let remembered = history::chain_head(&pool).await.unwrap().unwrap();
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(history::forget_links(&mut connection).await.unwrap(), 10);
    drop(connection);
    link_all(&pool).await;
    assert!(look(&pool).await.is_whole);
    let first = history::verify_chain(&pool, &key(), &[remembered]).await.unwrap().first.unwrap();
    assert_eq!(first.wrong, Wrong::Rewritten);
    assert!(first.message.contains("another chain"), "{}", first.message);
}

#[tokio::test]
async fn another_key_neither_links_nor_verifies_and_nothing_goes_on_behind_a_disturbed_head() {
    let pool = ten().await;
    write(&pool, "writer", 1).await;
    let other = ChainKey::new([8; 32]);
    assert!(history::link(&pool, &other, 10).await.unwrap_err().to_string().contains(&other.id()));
    assert!(history::verify_chain(&pool, &other, &[]).await.is_err());
    run(&pool, "UPDATE control_plane.audit_head SET sequence = 5").await;
    assert!(history::link(&pool, &key(), 10).await.unwrap_err().to_string().contains("beyond the head"));
    run(&pool, "DELETE FROM control_plane.audit_head").await;
    for error in [history::link(&pool, &key(), 10).await.err(), history::verify_chain(&pool, &key(), &[]).await.err()] {
        assert!(error.unwrap().to_string().contains("audit_head"));
    }
}

/// The program on a database of its own.
struct Holdfast {
    dir: tempfile::TempDir,
    url: String,
}

impl Holdfast {
    fn run(&self, arguments: &[&str]) -> (Option<i32>, serde_json::Value, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(arguments)
            .arg("--json")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("USER", "tester")
            .env("DATABASE_URL", &self.url)
            .env("HOLDFAST_DATA_DIR", self.dir.path().join("data"))
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let said = serde_json::from_str(&stdout).unwrap_or_default();
        (output.status.code(), said, String::from_utf8(output.stderr).unwrap())
    }
}

#[tokio::test]
async fn a_worker_links_and_remembers_and_the_command_line_tells_what_was_done_to_the_table() {
    let test = support::app::TestApp::new().await;
    let url = test.app.control.to_url().expose_secret().to_owned();
    let holdfast = Holdfast { dir: support::reachable_directory(), url };
    assert_eq!(holdfast.run(&["project", "add", "acme", "--name", "Acme", "--schema", "public"]).0, Some(0));
    // Works in-process, and links what it has written before it ends. That the backup itself succeeds is no matter here.
    let (_, _, stderr) = holdfast.run(&["backup", "acme", "--wait"]);
    let (code, seen, _) = holdfast.run(&["audit", "verify"]);
    assert_eq!((code, &seen["is_whole"], &seen["remembered"]), (Some(0), &true.into(), &1.into()), "{seen} {stderr}");
    assert!(seen["entries"].as_i64().unwrap() >= 2 && seen["unlinked"] == 0, "{seen}");
    let head = seen["head"].as_str().unwrap().to_owned();
    assert_eq!(holdfast.run(&["audit", "verify", "--expect", &head]).0, Some(0));
    assert_eq!(holdfast.run(&["audit", "verify", "--expect", "nonsense"]).0, Some(2));
    let (code, entries, _) = holdfast.run(&["audit", "list", "acme", "--event", "requested"]);
    assert_eq!((code, entries.as_array().unwrap().len()), (Some(0), 1));
    assert_eq!((&entries[0]["actor"], &entries[0]["outcome"]), (&"cli:tester".into(), &"ok".into()));

    let pool = &test.app.pool;
    sqlx::query("UPDATE control_plane.backup_history SET actor = 'mallory' WHERE event = 'requested'")
        .execute(pool)
        .await
        .unwrap();
    let (code, seen, stderr) = holdfast.run(&["audit", "verify"]);
    assert_eq!((code, &seen["first"]["wrong"]), (Some(1), &"altered".into()), "{seen}");
    assert_eq!(seen["first"]["entry_id"], entries[0]["id"]);
    assert!(stderr.contains("audit.broken"), "{stderr}");

    let (code, said, _) = holdfast.run(&["audit", "restart"]);
    assert_eq!((code, &said["restarted"]), (Some(0), &false.into()));
    assert_eq!(holdfast.run(&["audit", "verify"]).0, Some(1), "nothing was done");
    assert_eq!(holdfast.run(&["audit", "restart", "--confirm"]).0, Some(0));
    let (code, seen, _) = holdfast.run(&["audit", "verify"]);
    assert_eq!((code, &seen["is_whole"]), (Some(0), &true.into()), "{seen}");
    let restarted = holdfast.run(&["audit", "list", "--event", "audit_restarted"]).1;
    assert!(
        restarted[0]["detail"]["before"].as_str().unwrap().contains(head.split_once(':').unwrap().1),
        "{restarted}"
    );

    // Cut off together with the head: this machine remembers.
    sqlx::raw_sql(
        "DELETE FROM control_plane.backup_history WHERE sequence = (SELECT sequence FROM control_plane.audit_head);
         UPDATE control_plane.audit_head SET sequence = sequence - 1,
             digest = (SELECT digest FROM control_plane.backup_history ORDER BY sequence DESC LIMIT 1)",
    )
    .execute(pool)
    .await
    .unwrap();
    let (code, seen, _) = holdfast.run(&["audit", "verify"]);
    assert_eq!((code, &seen["first"]["wrong"]), (Some(1), &"truncated".into()), "{seen}");
}
