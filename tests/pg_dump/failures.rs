//! The failures of a real `pg_dump` and of a real server.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    time::Duration,
};

use holdfast::{
    manifest::DumpScope,
    postgres::{
        connect::ConnectInfo,
        tools::{ClientTool, Tool},
    },
    source::{
        Source,
        pg_dump::{PgDump, PgDumpOptions},
    },
};

use super::database::{Database, LARGE, dump, installed, read_all, schema_with};

/// Starts a dump of `s` and reads until its rows come.
async fn start_to_the_middle(source: &mut PgDump) -> BufReader<Box<dyn Read + Send>> {
    let mut reader = BufReader::new(source.start().await.unwrap());
    tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while !line.starts_with("COPY") {
            line.clear();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the dump has rows");
        }
        reader
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_dump_that_is_killed_half_way_has_failed() {
    let mut database = Database::new().await;
    database.run(LARGE).await;
    let tool = pg_dump_of_ones_own().await;
    let options = PgDumpOptions { tool: Some(tool.1.clone()), ..database.options("s") };
    let mut source = Box::new(PgDump::new(installed().await, options));
    let reader = start_to_the_middle(&mut source).await;
    let status = std::process::Command::new("kill").arg("-9").arg(pid_of(&tool.1.path).to_string()).status().unwrap();
    assert!(status.success());
    assert!(read_all(Box::new(reader)).await.len() < 30_000_000);
    let error = source.finish().await.unwrap_err();
    assert_eq!((error.message.as_str(), error.may_pass), ("pg_dump was killed by signal 9", true));
    database.end().await;
}

/// `pg_dump` under a path of its own, so that its process can be told from those of other tests.
async fn pg_dump_of_ones_own() -> (tempfile::TempDir, Tool) {
    let real = installed().await.client(ClientTool::PgDump, 140_000).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pg_dump");
    std::os::unix::fs::symlink(&real.path, &path).unwrap();
    (directory, Tool { path, ..real })
}

/// The process that was started by this path.
fn pid_of(program: &Path) -> u32 {
    let mut first = program.as_os_str().as_encoded_bytes().to_vec();
    first.push(0);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(&first)))
        .expect("it runs")
}

#[tokio::test]
async fn a_dump_whose_session_is_terminated_has_failed_and_may_be_tried_again() {
    let mut database = Database::new().await;
    database.run(LARGE).await;
    let mut source = Box::new(PgDump::new(installed().await, database.options("s")));
    let reader = start_to_the_middle(&mut source).await;
    database.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%'").await;
    read_all(Box::new(reader)).await;
    let error = source.finish().await.unwrap_err();
    assert!(error.may_pass && error.message.contains("exit status 1"), "{error}");
    // Which of the two pg_dump gets to see depends on how much was still in the socket.
    let words = ["terminating connection due to administrator command", "server closed the connection unexpectedly"];
    assert!(words.iter().any(|words| error.message.contains(words)), "{error}");
    database.end().await;
}

#[tokio::test]
async fn an_aborted_dump_ends_its_reader_its_process_and_its_sessions() {
    let mut database = Database::new().await;
    database.run(LARGE).await;
    let tool = pg_dump_of_ones_own().await;
    let options = PgDumpOptions { tool: Some(tool.1.clone()), ..database.options("s") };
    let mut source = Box::new(PgDump::new(installed().await, options));
    let reader = start_to_the_middle(&mut source).await;
    let pid = pid_of(&tool.1.path);
    source.abort().await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(read_all(Box::new(reader)).await.len() < 30_000_000);
    // The sessions end when the server sees that their clients are gone: an exclusive lock is had then.
    database.run("SET lock_timeout = '30s'; BEGIN; LOCK TABLE s.large; COMMIT").await;
    database.end().await;
}

#[tokio::test]
async fn a_schema_that_is_replaced_during_the_dump_is_noticed() {
    let mut database = Database::new().await;
    database.run(LARGE).await;
    let mut source = Box::new(PgDump::new(installed().await, database.options("s")));
    let reader = start_to_the_middle(&mut source).await;
    database.run("ALTER SCHEMA s RENAME TO hf_before_x; CREATE SCHEMA s").await;
    read_all(Box::new(reader)).await;
    let error = source.finish().await.unwrap_err();
    // Our count misses the table, or our last look finds another schema: whichever comes first.
    assert!(matches!(error.code, "source.changed" | "source.interrupted") && error.may_pass, "{error}");
    database.end().await;
}

#[tokio::test]
async fn a_locked_table_fails_the_dump_after_the_wait_and_may_be_tried_again() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "x")).await;
    database.run("BEGIN; LOCK TABLE s.t IN ACCESS EXCLUSIVE MODE").await;
    let options = PgDumpOptions { lock_wait: Duration::from_millis(50), ..database.options("s") };
    let error = dump(options).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.locked", true), "{error}");
    assert!(error.message.contains("canceling statement due to lock timeout"), "{error}");
    database.run("ROLLBACK").await;
    database.end().await;
}

#[tokio::test]
async fn a_table_that_changes_while_the_dump_waits_for_its_lock_is_dumped_as_it_is_then() {
    const OTHERS: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut database = Database::new().await;
    database
        .run(
            "CREATE SCHEMA s; CREATE TABLE s.t AS SELECT generate_series(1, 5) AS n; CREATE TABLE s.u (n int); \
             CREATE SCHEMA gone; CREATE TABLE gone.t (n int)",
        )
        .await;
    let mut watch = database.info.connect().await.unwrap();
    let whole = DumpScope::Database { database: database.info.database.clone() };
    for (change, scope) in [
        // Written anew: its old rows are gone for older snapshots, its new ones not there yet.
        ("ALTER TABLE s.t ALTER n TYPE bigint", None),
        ("ALTER TABLE s.t ALTER n TYPE int", Some(whole.clone())),
        ("CREATE TEMP TABLE kept AS TABLE s.t; TRUNCATE s.t; INSERT INTO s.t TABLE kept; DROP TABLE kept", None),
        // Another under its name, made before or after the look.
        ("ALTER TABLE s.t RENAME TO old; CREATE TABLE s.t AS TABLE s.old; DROP TABLE s.old", None),
        (
            "ALTER TABLE s.t RENAME TO old; ALTER TABLE s.u RENAME TO t; INSERT INTO s.t SELECT n FROM s.old; TRUNCATE s.old; \
          ALTER TABLE s.old RENAME TO u",
            None,
        ),
        // A column under another's name: the rows of before have nothing in it.
        (
            "ALTER TABLE s.t ADD m bigint; UPDATE s.t SET m = n; ALTER TABLE s.t DROP n; ALTER TABLE s.t RENAME m TO n",
            None,
        ),
        // One tenant of many goes.
        ("DROP SCHEMA gone CASCADE", Some(whole)),
        ("ALTER TABLE s.t RENAME n TO other", None),
    ] {
        let mut options = database.options("s");
        if let Some(scope) = scope {
            options.scope = scope;
        }
        database.run(format!("BEGIN; {change}")).await;
        let dumping = tokio::spawn(dump(options));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let waiting: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut watch).await.unwrap();
            if waiting > 0 {
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline && !dumping.is_finished(),
                "{change}: nobody waits for the lock"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        database.run("COMMIT").await;
        let (bytes, report) = dumping.await.unwrap().unwrap();
        assert_eq!(report.database.row_count, 5, "{change}");
        let text = String::from_utf8_lossy(&bytes);
        let rows = text.split_once("COPY s.t (").and_then(|(_, rest)| rest.split_once(" FROM stdin;\n"));
        let (columns, rows) = rows.unwrap_or_else(|| panic!("{change}: {text}"));
        let renamed = change.ends_with("TO other");
        assert_eq!(columns, if renamed { "other)" } else { "n)" }, "{change}");
        assert!(rows.starts_with("1\n2\n3\n4\n5\n\\.\n"), "{change}: {text}");
    }
    database.end().await;
}

#[tokio::test]
async fn a_wrong_password_a_missing_database_and_a_server_that_is_down_are_told_apart() {
    let mut database = Database::new().await;
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    database.run(format!("CREATE ROLE {role} LOGIN PASSWORD 'right'")).await;
    let with = |connect: ConnectInfo| PgDumpOptions { connect, ..database.options("s") };

    let error = dump(with(database.info.with_user(&role, "wrong-canary".to_owned().into()))).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.denied", false), "{error}");
    assert!(error.message.contains("password authentication failed") && !format!("{error:?}").contains("canary"));

    let error = dump(with(database.info.with_database("not there"))).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.no_database", false), "{error}");

    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let down = ConnectInfo { host: "127.0.0.1".into(), port, ..database.info.clone() };
    let error = dump(with(down)).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.unreachable", true), "{error}");

    let down = ConnectInfo { host: "/nonexistent".into(), ..database.info.clone() };
    let error = dump(with(down)).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.unreachable", true), "{error}");
    database.run(format!("DROP ROLE {role}")).await;
    database.end().await;
}

#[tokio::test]
async fn a_role_that_may_not_see_everything_cannot_make_a_backup() {
    let mut database = Database::new().await;
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    database.run(format!("CREATE ROLE {role} LOGIN PASSWORD 'p'")).await;
    database.run(schema_with("s", "x")).await;
    let connect = database.info.with_user(&role, "p".to_owned().into());
    let options = PgDumpOptions { connect, ..database.options("s") };

    let error = dump(options.clone()).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.denied", false), "{error}");
    assert!(error.message.contains("permission denied for schema s"), "{error}");

    database.run(format!("GRANT pg_read_all_data TO {role}")).await;
    dump(options.clone()).await.unwrap();

    database.run("ALTER TABLE s.t ENABLE ROW LEVEL SECURITY").await;
    let error = dump(options.clone()).await.unwrap_err();
    assert_eq!((error.code, error.may_pass), ("source.denied", false), "{error}");
    assert!(error.message.contains("would be affected by row-level security policy for table \"t\""), "{error}");

    database.run(format!("ALTER ROLE {role} BYPASSRLS")).await;
    let (_, report) = dump(options.clone()).await.unwrap();
    assert_eq!(report.database.row_count, 1);
    let whole = DumpScope::Database { database: database.info.database.clone() };
    let (_, report) = dump(PgDumpOptions { scope: whole, ..options }).await.unwrap();
    assert_eq!(report.database.row_count, 1);
    database.run(format!("DROP ROLE {role}")).await;
    database.end().await;
}
