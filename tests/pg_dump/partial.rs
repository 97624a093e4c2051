//! Partial dumps: what was named and nothing else, and a proof of exactly what is in the dump.

use std::collections::BTreeSet;

use holdfast::{
    artifact::Format,
    manifest::{DatabaseContent, DumpScope},
    postgres::{quote::ident, tools::ClientTool},
    source::{
        Source, SourceError,
        pg_dump::{PgDump, PgDumpOptions, TableChoice},
    },
};

use super::{
    content::restored_text,
    database::{Database, Report, installed, read_all},
};

const WEIRD: &str = "we\"ird.na*me ü";

/// Two tenants with tables of the same names, and tables that a pattern would match too.
fn tenants() -> String {
    let weird = ident(WEIRD);
    ["tenant_a", "tenant_b"]
        .map(|schema| {
            format!(
                "CREATE SCHEMA {schema};
                 CREATE TYPE {schema}.kind AS ENUM ('x', 'y');
                 CREATE FUNCTION {schema}.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
                 CREATE TABLE {schema}.accounts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
                 INSERT INTO {schema}.accounts (name) SELECT 'account ' || n FROM generate_series(1, 30) n;
                 CREATE TABLE {schema}.orders (id serial PRIMARY KEY, account int REFERENCES {schema}.accounts, kind {schema}.kind);
                 INSERT INTO {schema}.orders (account, kind) SELECT n, 'x' FROM generate_series(1, 20) n;
                 CREATE TABLE {schema}.orders_old AS SELECT * FROM {schema}.orders;
                 CREATE TABLE {schema}.\"Orders\" (x int);
                 CREATE TABLE {schema}.\"ord*\" (x int);
                 CREATE TABLE {schema}.{weird} AS SELECT 1 AS x;
                 CREATE TABLE {schema}.log (at date, x int) PARTITION BY RANGE (at);
                 CREATE TABLE {schema}.log_2025 PARTITION OF {schema}.log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
                 CREATE TABLE {schema}.log_2026 PARTITION OF {schema}.log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
                     PARTITION BY RANGE (at);
                 CREATE TABLE {schema}.log_2026_h1 PARTITION OF {schema}.log_2026 FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
                 INSERT INTO {schema}.log VALUES ('2025-05-05', 1), ('2026-02-02', 2), ('2026-03-03', 3);
                 CREATE VIEW {schema}.names AS SELECT name FROM {schema}.accounts;
                 CREATE SEQUENCE {schema}.lonely;"
            )
        })
        .join("\n")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn choice(tables: &[&str], exclude_tables: &[&str], exclude_table_data: &[&str]) -> TableChoice {
    TableChoice {
        tables: names(tables),
        exclude_tables: names(exclude_tables),
        exclude_table_data: names(exclude_table_data),
    }
}

async fn dump(options: PgDumpOptions, choice: TableChoice) -> Result<(Vec<u8>, DatabaseContent), SourceError> {
    let mut source = Box::new(PgDump::new(installed().await, options).choosing(choice));
    let bytes = read_all(source.start().await?).await;
    Ok((bytes, Report::from(source.finish().await?).database))
}

/// The dump as text, and what it holds.
async fn text(options: PgDumpOptions, choice: TableChoice) -> (String, DatabaseContent) {
    let format = options.format;
    let (bytes, content) = dump(options, choice).await.unwrap();
    let restore = installed().await.client(ClientTool::PgRestore, 140_000).unwrap();
    let bytes = if format == Format::Sql { bytes } else { restored_text(&restore.path, &bytes) };
    (String::from_utf8(bytes).unwrap(), content)
}

/// What comes between two texts on lines of the dump.
fn between(text: &str, before: &str, after: &str) -> BTreeSet<String> {
    let found = text.lines().filter_map(|line| line.strip_prefix(before)?.split_once(after));
    found.map(|(name, _)| name.to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("tenant_a.{name}")).collect()
}

/// Compares the dump with its proof, and both with what is expected: tables defined, tables with rows, sequences.
fn assert_holds(text: &str, content: &DatabaseContent, defined: &[&str], filled: &[&str], sequences: &[&str]) {
    assert_eq!(between(text, "CREATE TABLE ", " ("), set(defined));
    assert_eq!(content.table_count, defined.len() as u64);
    assert_eq!(between(text, "COPY ", " ("), set(filled));
    let proved = content.tables.iter().map(|t| match t.table.as_str() {
        plain if plain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') => {
            format!("{}.{plain}", t.schema)
        }
        quoted => format!("{}.{}", t.schema, ident(quoted)),
    });
    assert_eq!(proved.collect::<BTreeSet<_>>(), set(filled));
    assert_eq!(content.row_count, content.tables.iter().map(|table| table.rows).sum::<u64>());
    assert_eq!(between(text, "SELECT pg_catalog.setval('", "'"), set(sequences));
    let proved: BTreeSet<String> = content.sequences.iter().map(|s| format!("{}.{}", s.schema, s.sequence)).collect();
    assert_eq!(proved, set(sequences));
    assert!(!text.contains("tenant_b"), "{text}");
    assert!(content.ownership.is_empty() && content.partial.is_some());
}

#[tokio::test]
async fn only_the_named_tables_are_dumped_and_proved_in_every_format() {
    let mut database = Database::new().await;
    database.run(tenants()).await;
    let weird = ident(WEIRD);
    for format in [Format::Sql, Format::Tar, Format::Custom] {
        let options = PgDumpOptions { format, ..database.options("tenant_a") };
        let (text, content) = text(options, choice(&["orders", WEIRD, "log"], &[], &[])).await;
        assert_holds(
            &text,
            &content,
            &["orders", &weird, "log", "log_2025", "log_2026", "log_2026_h1"],
            &["orders", &weird, "log_2025", "log_2026_h1"],
            &["orders_id_seq"],
        );
        assert_eq!(content.row_count, 20 + 1 + 3);
        assert!(!text.contains("CREATE SCHEMA") && !text.contains("FUNCTION") && !text.contains("CREATE TYPE"));
        let partial = content.partial.unwrap();
        let named: Vec<&str> = partial.tables.as_ref().unwrap().iter().map(|t| t.table.as_str()).collect();
        assert_eq!(named.len(), 6, "the partitions are named too: {named:?}");
        assert!(partial.exclude_tables.is_empty() && partial.exclude_table_data.is_empty());
    }
    database.end().await;
}

#[tokio::test]
async fn what_is_excluded_is_left_out_with_its_partitions_and_its_identity() {
    let mut database = Database::new().await;
    database.run(tenants()).await;
    let weird = ident(WEIRD);
    let (text, content) =
        text(database.options("tenant_a"), choice(&[], &["accounts", "log", "orders_old"], &[])).await;
    let rest = ["orders", "\"Orders\"", "\"ord*\"", &weird];
    assert_holds(&text, &content, &rest, &rest, &["lonely", "orders_id_seq"]);
    assert!(text.contains("CREATE SCHEMA tenant_a") && text.contains("CREATE FUNCTION tenant_a.one"));
    database.end().await;
}

#[tokio::test]
async fn without_their_rows_tables_are_defined_and_not_counted() {
    let mut database = Database::new().await;
    database.run(tenants()).await;
    let chosen = choice(&["orders", "log", "accounts"], &["log_2025"], &["log", "accounts"]);
    let (text, content) = text(database.options("tenant_a"), chosen).await;
    assert_holds(
        &text,
        &content,
        &["accounts", "orders", "log", "log_2026", "log_2026_h1"],
        &["orders"],
        &["accounts_id_seq", "orders_id_seq"],
    );
    database.end().await;
}

#[tokio::test]
async fn a_name_that_is_none_or_a_pattern_is_refused_with_its_list() {
    let mut database = Database::new().await;
    database.run(tenants()).await;
    let nothing = choice(&["orders"], &["orders"], &[]);
    for (choice, list) in [
        (choice(&["order*"], &[], &[]), "tables"),
        (choice(&["ORDERS"], &[], &[]), "tables"),
        (choice(&["orders", "nothing"], &[], &[]), "tables"),
        (choice(&["tenant_b.orders"], &[], &[]), "tables"),
        (choice(&["\"orders\""], &[], &[]), "tables"),
        (choice(&["--file=/x"], &[], &[]), "tables"),
        (choice(&["pg_class"], &[], &[]), "tables"),
        (choice(&["lonely"], &[], &[]), "tables"),
        (choice(&[], &["orders|accounts"], &[]), "exclude_tables"),
        (choice(&[], &[], &["*"]), "exclude_table_data"),
    ] {
        let error = dump(database.options("tenant_a"), choice.clone()).await.unwrap_err();
        assert_eq!((error.code, error.may_pass), ("source.no_table", false), "{choice:?}");
        assert!(error.message.starts_with(&format!("{list} names ")), "{}", error.message);
        assert!(error.message.contains("schema \"tenant_a\""), "{}", error.message);
    }
    let error = dump(database.options("tenant_a"), nothing).await.unwrap_err();
    assert!(error.message.contains("nothing is left"), "{}", error.message);
    database.end().await;
}

#[tokio::test]
async fn in_a_whole_database_tables_are_named_with_their_schema() {
    let mut database = Database::new().await;
    database.run(tenants()).await;
    database
        .run("CREATE SCHEMA \"a.b\"; CREATE TABLE \"a.b\".c (x int); CREATE SCHEMA a; CREATE TABLE a.\"b.c\" (x int)")
        .await;
    let whole = || PgDumpOptions {
        scope: DumpScope::Database { database: database.info.database.clone() },
        ..database.options("")
    };
    let (text, content) = text(whole(), choice(&["tenant_a.orders"], &[], &[])).await;
    assert_holds(&text, &content, &["orders"], &["orders"], &["orders_id_seq"]);
    for wrong in ["orders", "tenant_a.nothing", "pg_catalog.pg_class", "a.b.c"] {
        let error = dump(whole(), choice(&[wrong], &[], &[])).await.unwrap_err();
        assert_eq!(error.code, "source.no_table", "{wrong}: {}", error.message);
    }
    let (text, content) = self::text(whole(), choice(&[], &["tenant_b.accounts", "tenant_b.names"], &[])).await;
    assert!(!text.contains("CREATE TABLE tenant_b.accounts") && text.contains("CREATE TABLE tenant_b.orders ("));
    assert!(content.tables.iter().all(|t| (t.schema.as_str(), t.table.as_str()) != ("tenant_b", "accounts")));
    database.end().await;
}
