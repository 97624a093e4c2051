//! Databases of a test server, and dumps of them.

use std::{io::Read, sync::Arc, time::Duration};

use holdfast::{
    artifact::Format,
    manifest::{Content, DatabaseContent, DumpScope, TableRows},
    postgres::{
        connect::ConnectInfo,
        quote::{ident, literal},
        tools::Tools,
    },
    source::{
        Source, SourceError, SourceReport,
        pg_dump::{PgDump, PgDumpOptions},
    },
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The server that the tests use, as a superuser.
pub async fn test_server() -> ConnectInfo {
    super::support::server().await
}

/// A database of this test's own.
pub struct Database {
    pub info: ConnectInfo,
    pub connection: PgConnection,
}

impl Database {
    pub async fn new() -> Self {
        Self::named(&format!("test_{}", uuid::Uuid::now_v7().simple())).await
    }

    pub async fn named(name: &str) -> Self {
        let server = test_server().await;
        let mut connection = server.connect().await.unwrap();
        let sql = format!("DROP DATABASE IF EXISTS {0} WITH (FORCE); CREATE DATABASE {0}", ident(name));
        for statement in sql.split("; ") {
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
        }
        let info = server.with_database(name);
        let connection = info.connect().await.unwrap();
        Self { info, connection }
    }

    pub async fn run(&mut self, sql: impl Into<String>) {
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut self.connection).await.unwrap();
    }

    pub fn options(&self, schema: &str) -> PgDumpOptions {
        PgDumpOptions {
            connect: self.info.clone(),
            scope: DumpScope::Schema { schema: schema.to_owned() },
            format: Format::Sql,
            compress_level: None,
            lock_wait: Duration::from_secs(30),
            tool: None,
            exclude_schemas: Vec::new(),
        }
    }

    pub async fn end(self) {
        self.connection.close().await.unwrap();
        let mut connection = test_server().await.connect().await.unwrap();
        let sql = format!("DROP DATABASE {} WITH (FORCE)", ident(&self.info.database));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
}

pub async fn installed() -> Arc<Tools> {
    Arc::new(super::support::tools().await)
}

/// Reads to the end on a thread of its own, as the pipeline does.
pub async fn read_all(mut reader: Box<dyn Read + Send>) -> Vec<u8> {
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    })
    .await
    .unwrap()
    .unwrap()
}

/// What `pg_dump` as a source says of a dump.
#[derive(Debug)]
pub struct Report {
    pub database: DatabaseContent,
}

impl From<SourceReport> for Report {
    fn from(report: SourceReport) -> Self {
        let Content::Database(database) = report.holds else { panic!("pg_dump dumps databases") };
        Self { database }
    }
}

pub async fn dump(options: PgDumpOptions) -> Result<(Vec<u8>, Report), SourceError> {
    let mut source = Box::new(PgDump::new(installed().await, options));
    let bytes = read_all(source.start().await?).await;
    Ok((bytes, source.finish().await?.into()))
}

pub async fn dump_text(options: PgDumpOptions) -> (String, Report) {
    let (bytes, report) = dump(options).await.unwrap();
    (String::from_utf8(bytes).unwrap(), report)
}

pub fn rows(schema: &str, table: &str, rows: u64) -> TableRows {
    TableRows { schema: schema.into(), table: table.into(), rows }
}

/// A schema whose one table holds `words`.
pub fn schema_with(schema: &str, words: &str) -> String {
    format!("CREATE SCHEMA {0}; CREATE TABLE {0}.t AS SELECT {1}::text AS words;", ident(schema), literal(words))
}

/// A table larger than what fits between `pg_dump` and a reader that does not read.
pub const LARGE: &str =
    "CREATE SCHEMA s; CREATE TABLE s.large AS SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 30000) n;";
