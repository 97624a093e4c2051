//! What a dump holds, and the proof that comes with it.

use std::{io, path::Path};

use holdfast::{
    artifact::Format,
    manifest::DumpScope,
    postgres::{inspect, tools::ClientTool},
    source::{
        Source, Tables,
        pg_dump::{PgDump, PgDumpOptions},
    },
};
use sqlx::Connection;

use super::database::{Database, Report, dump, dump_text, installed, read_all, rows, schema_with};

const AWKWARD: &str = "
    CREATE SCHEMA tenant_a;
    CREATE TABLE tenant_a.accounts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
    INSERT INTO tenant_a.accounts (name) SELECT 'account ' || n FROM generate_series(1, 100) n;
    CREATE TABLE tenant_a.log (at date NOT NULL, line text) PARTITION BY RANGE (at);
    CREATE TABLE tenant_a.log_2025 PARTITION OF tenant_a.log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE tenant_a.log_2026 PARTITION OF tenant_a.log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO tenant_a.log SELECT date '2025-12-30' + n, 'x' FROM generate_series(0, 6) n;
    CREATE TABLE tenant_a.\"Odd \"\" Name\" (x int);
    CREATE TABLE tenant_a.parent (x int);
    CREATE TABLE tenant_a.child () INHERITS (tenant_a.parent);
    INSERT INTO tenant_a.child VALUES (1), (2);
    CREATE VIEW tenant_a.names AS SELECT name FROM tenant_a.accounts;
    CREATE MATERIALIZED VIEW tenant_a.totals AS SELECT count(*) FROM tenant_a.accounts;
    CREATE SEQUENCE tenant_a.unused;
    CREATE FUNCTION tenant_a.boom() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'tenant code ran'; END $$;
    CREATE VIEW tenant_a.bomb AS SELECT tenant_a.boom();
";

#[tokio::test]
async fn every_format_is_complete_and_comes_with_its_proof() {
    let mut database = Database::new().await;
    database.run(AWKWARD).await;
    let restore = installed().await.client(ClientTool::PgRestore, 140_000).unwrap();
    for format in [Format::Sql, Format::Tar, Format::Custom] {
        let options = PgDumpOptions { format, ..database.options("tenant_a") };
        let (bytes, report) = dump(options).await.unwrap();
        let content = report.database;
        assert_eq!(content.table_count, 7, "{format}");
        assert_eq!(content.row_count, 109);
        assert_eq!(
            content.tables,
            [
                rows("tenant_a", "Odd \" Name", 0),
                rows("tenant_a", "accounts", 100),
                rows("tenant_a", "child", 2),
                rows("tenant_a", "log_2025", 2),
                rows("tenant_a", "log_2026", 5),
                rows("tenant_a", "parent", 0),
            ]
        );
        let sequences: Vec<_> =
            content.sequences.iter().map(|s| (s.sequence.as_str(), s.last_value, s.is_called)).collect();
        assert_eq!(sequences, [("accounts_id_seq", 100, true), ("unused", 1, false)]);
        assert!(content.server_version >= 140_000 && content.tool_version >= content.server_version / 10_000 * 10_000);
        assert!(content.requirements.not_restorable.is_empty(), "{:?}", content.requirements);
        assert!(content.requirements.objects.is_empty(), "{:?}", content.requirements);
        // An archive names the owners all the same: leaving them out is up to `pg_restore`.
        let text = if format == Format::Sql { bytes } else { restored_text(&restore.path, &bytes) };
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("account 100") && text.contains("PostgreSQL database dump complete"));
        assert!(!text.contains("OWNER TO") && !text.contains("GRANT "));
    }
    database.end().await;
}

pub fn restored_text(pg_restore: &Path, archive: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let output =
        std::process::Command::new(pg_restore).args(["--no-owner", "-f", "-"]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn the_dump_of_a_schema_restores_by_standard_tools() -> io::Result<()> {
    let mut database = Database::new().await;
    database.run(AWKWARD).await;
    database.run("CREATE PUBLICATION p FOR TABLE tenant_a.accounts").await;
    let (bytes, report) = dump(database.options("tenant_a")).await.unwrap();
    let target = Database::new().await;
    let psql = installed().await.client(ClientTool::Psql, 140_000).unwrap();
    let environment = holdfast::postgres::tools::ChildEnvironment::new(&target.info, &[])?;
    let command =
        holdfast::child::Command::new(psql.path).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]).stdin_pipe();
    let mut child = environment.apply(command).spawn().await?;
    let mut stdin = child.stdin.take().unwrap();
    let mut bytes = bytes;
    if report.database.server_version < 170_000 && report.database.tool_version >= 170_000 {
        // What docs/recovery.md says of a pg_dump that is newer than the server.
        let line = b"\nSET transaction_timeout = 0;";
        let at = bytes.windows(line.len()).position(|window| window == line).expect("the line of pg_dump 17");
        bytes.drain(at..at + line.len());
    }
    std::io::Write::write_all(&mut stdin, &bytes)?;
    drop(stdin);
    let exit = child.wait().await?;
    assert!(exit.status.success(), "{}", exit.stderr);
    let mut connection = target.info.connect().await.unwrap();
    let scope = report.database.scope.clone();
    assert_eq!(inspect::table_rows(&mut connection, &scope).await.unwrap(), report.database.tables);
    assert_eq!(inspect::sequences(&mut connection, &scope).await.unwrap(), report.database.sequences);
    connection.close().await.unwrap();
    database.end().await;
    target.end().await;
    Ok(())
}

#[tokio::test]
async fn a_whole_database_leaves_out_the_control_plane_and_what_restores_moved_away() {
    let mut database = Database::new().await;
    for schema in ["control_plane", "hf_before_0192", "hf_undone_0192", "Control_plane"] {
        database.run(schema_with(schema, "NEIGHBOUR")).await;
    }
    for schema in ["public2", "hfXbefore_x", "control_plane2"] {
        database.run(schema_with(schema, "MINE")).await;
    }
    database.run("CREATE PUBLICATION p; CREATE EXTENSION hstore SCHEMA public; SELECT lo_create(0)").await;
    let options = PgDumpOptions {
        scope: DumpScope::Database { database: database.info.database.clone() },
        exclude_schemas: vec!["control_plane".to_owned(), "Control_plane".to_owned(), "not there".to_owned()],
        ..database.options("")
    };
    let (text, report) = dump_text(options).await;
    assert!(!text.contains("NEIGHBOUR"), "{text}");
    assert_eq!(text.matches("MINE").count(), 3);
    let content = report.database;
    assert_eq!((content.table_count, content.row_count), (3, 3));
    let schemas: Vec<_> = content.tables.iter().map(|t| t.schema.as_str()).collect();
    assert_eq!(schemas, ["control_plane2", "hfXbefore_x", "public2"]);
    assert_eq!(
        content.requirements.not_restorable,
        ["large objects (1, without their owners and grants)", "publication p"]
    );
    assert!(content.requirements.extensions.iter().any(|e| e.name == "hstore"));
    let leaked = content.ownership.iter().find(|object| {
        ["control_plane.", "hf_before", "hf_undone", "\"Control_plane\""].iter().any(|s| object.identity.starts_with(s))
            || object.identity == "control_plane"
    });
    assert!(leaked.is_none(), "{leaked:?}");
    database.end().await;
}

#[tokio::test]
async fn the_proof_is_of_the_dumps_own_moment() {
    let mut database = Database::new().await;
    database.run(schema_with("s", "BEFORE")).await;
    database.run("CREATE TABLE s.filler AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 20000)").await;
    let mut source = Box::new(PgDump::new(installed().await, database.options("s")));
    assert_eq!(source.tables(), None);
    let reader = source.start().await.unwrap();
    assert_eq!(source.tables().map(|tables| tables.all), Some(2));
    database.run("INSERT INTO s.t SELECT 'AFTER' FROM generate_series(1, 10); CREATE TABLE s.later (x int)").await;
    let text = String::from_utf8(read_all(reader).await).unwrap();
    assert_eq!(source.tables(), Some(Tables { done: 2, all: 2 }));
    let report = Report::from(source.finish().await.unwrap());
    assert!(text.contains("BEFORE") && !text.contains("AFTER"));
    assert_eq!(report.database.tables, [rows("s", "filler", 20_000), rows("s", "t", 1)]);
    database.end().await;
}

#[tokio::test]
async fn hundreds_of_tables_are_counted() {
    let mut database = Database::new().await;
    database
        .run(
            "CREATE SCHEMA s; DO $$ BEGIN FOR n IN 1..230 LOOP EXECUTE format('CREATE TABLE s.t%s AS SELECT x FROM \
             generate_series(1, %s) x; CREATE SEQUENCE s.q%s START %s', to_char(n, 'FM000'), n, to_char(n, 'FM000'), n); \
             END LOOP; END $$",
        )
        .await;
    let (_, report) = dump(database.options("s")).await.unwrap();
    assert_eq!(report.database.table_count, 230);
    for (table, expected) in report.database.tables.iter().zip(1..) {
        assert_eq!(*table, rows("s", &format!("t{expected:03}"), expected));
    }
    assert!(report.database.sequences.iter().zip(1..).all(|(sequence, expected)| sequence.last_value == expected));
    database.end().await;
}
