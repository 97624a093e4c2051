//! Exactly what was named is dumped.

use holdfast::{manifest::DumpScope, postgres::quote::ident, source::pg_dump::PgDumpOptions};
use sqlx::AssertSqlSafe;

use super::database::{Database, dump, dump_text, rows, schema_with, test_server};

#[tokio::test]
async fn exactly_the_named_schema_is_dumped_whatever_its_name() {
    let mut database = Database::new().await;
    let long = "x".repeat(63);
    let long_umlauts = format!("a{}", "ü".repeat(31)); // 63 bytes
    let names = [
        "MySchema",
        "tenant*",
        "tenant?",
        "a.b",
        "q\"q",
        "-x",
        "--file=/x",
        "a|b",
        "a$b",
        "new\nline",
        "tab\tand space ",
        "back\\slash",
        "it's",
        "(a)[b]{1}+^",
        "%s%n",
        "用户_é",
        &long,
        &long_umlauts,
        "select",
        "\"quoted\"",
        "!",
        "*",
        "@",
    ];
    // What a name would also match if it were taken for a pattern, folded or cut.
    let neighbours = [
        "myschema",
        "MYSCHEMA",
        "tenant_1",
        "tenant",
        "a",
        "b",
        "a1b",
        "qq",
        "q",
        "x",
        "ab",
        "new",
        "newline",
        "backslash",
        "its",
        "quoted",
        "用户",
        &long[..62],
        "public_too",
        "a$c",
        "A$B",
    ];
    for name in names {
        database.run(schema_with(name, "MINE")).await;
    }
    for name in neighbours {
        database.run(schema_with(name, "NEIGHBOUR")).await;
    }
    for name in names {
        let (text, report) = dump_text(database.options(name)).await;
        assert_eq!(text.matches("CREATE TABLE").count(), 1, "{name:?}: {text}");
        assert!(text.contains("MINE") && !text.contains("NEIGHBOUR"), "{name:?}: {text}");
        assert!(text.contains(&format!("CREATE TABLE {}", unquoted_if_plain(name))), "{name:?}: {text}");
        assert_eq!(report.database.tables, [rows(name, "t", 1)], "{name:?}");
    }
    for missing in ["mySchema", "tenant%", "", "a.c", &"x".repeat(64), "te*", "\"MySchema\"", "MySchema\0"] {
        let error = dump(database.options(missing)).await.unwrap_err();
        assert!(!error.may_pass, "{missing:?}: {error}");
        if !missing.contains('\0') {
            assert_eq!(error.code, "source.no_schema", "{missing:?}: {error}");
            assert!(error.message.contains("does not exist"), "{error}");
        }
    }
    database.end().await;
}

/// As `pg_dump` writes a name.
fn unquoted_if_plain(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase()) && name != "select";
    if plain { name.to_owned() } else { ident(name) }
}

#[tokio::test]
async fn a_database_whose_name_is_a_connection_string_is_dumped_and_nothing_else() {
    let name = format!("host=127.0.0.9 port=1 {}", uuid::Uuid::now_v7().simple());
    let mut database = Database::named(&name).await;
    database.run(schema_with("s", "MINE")).await;
    let scope = DumpScope::Database { database: name.clone() };
    // The URL names another database of the server: the scope decides.
    let connect = database.info.with_database("postgres");
    let (text, report) = dump_text(PgDumpOptions { scope, connect, ..database.options("") }).await;
    assert!(text.contains("MINE"));
    assert_eq!(report.database.tables, [rows("s", "t", 1)]);
    database.end().await;
}

#[tokio::test]
async fn a_name_outside_ascii_is_found_in_a_database_of_another_encoding() {
    let server = test_server().await;
    let name = format!("test_{}", uuid::Uuid::now_v7().simple());
    let sql = format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut server.connect().await.unwrap()).await.unwrap();
    let info = server.with_database(&name);
    let mut database = Database { connection: info.connect().await.unwrap(), info };
    database.run(format!("{}{}", schema_with("é", "MINE"), schema_with("è", "NEIGHBOUR"))).await;
    let (text, _) = dump_text(database.options("é")).await;
    assert!(text.contains("MINE") && !text.contains("NEIGHBOUR"));
    database.end().await;
}
