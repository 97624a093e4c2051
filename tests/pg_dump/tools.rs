//! The wrong tools: missing, too old, and a script of the name `pg_dump` for what a real one cannot be made to do.

use std::{sync::Arc, time::Duration};

use holdfast::{
    artifact::Format,
    postgres::{
        inspect,
        tools::{ClientTool, Tool, Tools, display_version, major},
    },
    source::{
        Source,
        pg_dump::{PgDump, PgDumpOptions},
    },
};

use super::database::{Database, installed, read_all, schema_with};

/// Tools whose `pg_dump` is this script; it claims to be newer than any real one of its major version.
async fn scripted(script: &str) -> (tempfile::TempDir, Arc<Tools>) {
    claiming("18.99", script).await
}

async fn claiming(version: &str, script: &str) -> (tempfile::TempDir, Arc<Tools>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pg_dump");
    let version = &format!("[ \"$1\" = --version ] && {{ echo 'pg_dump (PostgreSQL) {version}'; exit; }}");
    // Written by another process: a descriptor of ours that is open for writing could be inherited for a moment by the child
    // of another test, and the script could not be run meanwhile ("text file busy").
    let write = "printf '#!/bin/sh\\n%s\\n%s\\n' \"$1\" \"$2\" > \"$0\"; chmod 755 \"$0\"";
    let mut writer = std::process::Command::new("/bin/sh");
    let status = writer.args(["-c", write]).arg(&path).args([version, script]).status().unwrap();
    assert!(status.success());
    let tools = Arc::new(Tools::among(vec![directory.path().into()]).await);
    (directory, tools)
}

#[tokio::test]
async fn what_a_broken_pg_dump_leaves_is_never_called_good() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "x")).await;
    for (script, bytes, code, may_pass, words) in [
        (
            "echo half; echo 'pg_dump: error: it broke' >&2; exit 1",
            5,
            "source.failed",
            false,
            "exit status 1: pg_dump: error: it broke",
        ),
        ("exit 0", 0, "source.empty", false, "wrote nothing"),
        ("echo half; exit 0", 5, "source.incomplete", false, "cut short"),
        ("echo half; kill -SEGV $$", 5, "source.killed", true, "signal 11"),
        (
            "echo half; echo 'pg_dump: error: connection to server was lost' >&2; exit 1",
            5,
            "source.unreachable",
            true,
            "was lost",
        ),
    ] {
        let (_directory, tools) = scripted(script).await;
        let mut source = Box::new(PgDump::new(tools, database.options("s")));
        let read = read_all(source.start().await.unwrap()).await;
        assert_eq!(read.len(), bytes, "{script}");
        let error = source.finish().await.unwrap_err();
        assert_eq!((error.code, error.may_pass), (code, may_pass), "{script}: {error}");
        assert!(error.message.contains(words), "{error}");
    }
    // Of the archives, one that begins like none, and one that has no end.
    for (format, script) in [
        (Format::Custom, "printf 'PGDMB and more'"),
        (Format::Custom, "printf PGDM"),
        (Format::Tar, "printf half; head -c 1023 /dev/zero"),
        (Format::Tar, "head -c 2048 /dev/zero; printf x"),
        (Format::Tar, "head -c 1000 /dev/zero"),
    ] {
        let (_directory, tools) = scripted(script).await;
        let mut source = Box::new(PgDump::new(tools, PgDumpOptions { format, ..database.options("s") }));
        read_all(source.start().await.unwrap()).await;
        let error = source.finish().await.unwrap_err();
        assert_eq!((error.code, error.may_pass), ("source.incomplete", false), "{script}: {error}");
    }
    database.end().await;
}

#[tokio::test]
async fn a_pg_dump_that_hangs_is_ended_by_abort_and_by_drop() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "x")).await;
    for abort in [true, false] {
        let (_directory, tools) = scripted("echo half; sleep 1000 & sleep 1000").await;
        let mut source = Box::new(PgDump::new(tools, database.options("s")));
        let mut reader = source.start().await.unwrap();
        let mut first = [0; 5];
        reader.read_exact(&mut first).unwrap();
        if abort {
            source.abort().await;
        } else {
            let finish = tokio::time::timeout(Duration::from_millis(20), source.finish()).await;
            assert!(finish.is_err(), "finish waits for the exit status");
        }
        assert!(read_all(reader).await.is_empty());
    }
    database.end().await;
}

#[tokio::test]
async fn arguments_hold_neither_the_password_nor_the_place() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "x")).await;
    let (_directory, tools) = scripted("printf '%s\\n' \"$@\"; echo '-- PostgreSQL database dump complete'").await;
    let mut source = Box::new(PgDump::new(tools, database.options("s")));
    let text = String::from_utf8(read_all(source.start().await.unwrap()).await).unwrap();
    source.finish().await.unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        names,
        [
            "--format",
            "--no-owner",
            "--no-acl",
            "--no-password",
            "--strict-names",
            "--lock-wait-timeout",
            "--snapshot",
            "--schema",
            "-- PostgreSQL database dump complete"
        ]
    );
    assert!(text.contains("--schema=\"s\"\n") && !text.contains(&database.info.database));
    database.end().await;
}

#[tokio::test]
async fn a_missing_tool_is_refused_with_the_package_to_install() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "x")).await;
    let major = inspect::server_version(&mut database.connection).await.unwrap() / 10_000;
    let mut source = PgDump::new(Arc::default(), database.options("s"));
    let error = source.start().await.err().unwrap();
    assert_eq!((error.code, error.may_pass), ("source.tool", false));
    assert_eq!(error.message, format!("pg_dump is not installed: install the package postgresql-client-{major}"));

    let options =
        PgDumpOptions { tool: Some(Tool { path: "/nonexistent".into(), version: 1 }), ..database.options("s") };
    let error = PgDump::new(Arc::default(), options).start().await.err().unwrap();
    assert_eq!((error.code, error.may_pass), ("source.tool", false), "{error}");
    database.end().await;
}

/// With the real programs where `scripts/test-versions` gives older ones, else with a script that says it is one.
#[tokio::test]
async fn a_tool_that_is_older_than_the_server_is_refused_with_the_package_to_install() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "x")).await;
    let server = inspect::server_version(&mut database.connection).await.unwrap();
    let major = major(server);
    let real = installed().await;
    let newest = real.clients().filter(|(name, _)| *name == ClientTool::PgDump).map(|(_, tool)| tool.version).max();
    let (_directory, tools, version) = match newest {
        Some(version) if version / 10_000 < major => (None, real, display_version(version)),
        _ => {
            let version = format!("{}.9", major - 1);
            let (directory, tools) = claiming(&version, "exit 1").await;
            (Some(directory), tools, version)
        }
    };
    let error = PgDump::new(tools, database.options("s")).start().await.err().unwrap();
    assert_eq!((error.code, error.may_pass), ("source.tool", false));
    assert_eq!(
        error.message,
        format!(
            "pg_dump {version} is older than the server, which is version {major}: install the package postgresql-client-{major}"
        )
    );
    database.end().await;
}
