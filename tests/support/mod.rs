//! What the integration tests share: one scratch server for all of them, a fresh database for each, and ways to look at a schema
//! that do not go through the code under test. Nothing is mocked.

pub mod app;
pub mod connection;
pub mod document;
pub mod faulty_proxy;
pub mod faulty_storage;
pub mod heard;
pub mod s3_server;
pub mod seal;
pub mod telegram_stand_in;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use holdfast::postgres::{
    connect::ConnectInfo,
    quote,
    tools::{ChildEnvironment, ClientTool, Tools},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tokio::sync::OnceCell;

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The scratch server's superuser, on the database `postgres`: the server that `HOLDFAST_TEST_DATABASE_URL` names, else the one
/// of `scripts/test-server`, which is started when it is down and left running for the next test process.
pub async fn server() -> ConnectInfo {
    static SERVER: OnceCell<ConnectInfo> = OnceCell::const_new();
    SERVER.get_or_init(find_server).await.clone()
}

async fn find_server() -> ConnectInfo {
    if let Ok(url) = std::env::var("HOLDFAST_TEST_DATABASE_URL") {
        return url.parse().expect("HOLDFAST_TEST_DATABASE_URL is a database URL");
    }
    tokio::task::spawn_blocking(|| {
        let mut command = Command::new("bash");
        command.arg(checkout().join("scripts/test-server")).arg("url").stdin(Stdio::null());
        let output = command.output().expect("bash runs");
        assert!(output.status.success(), "the test server: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a URL").parse().expect("a database URL")
    })
    .await
    .expect("the server is found")
}

/// An empty database of a name that nobody else has, on the scratch server, as its superuser. It goes with the server.
pub async fn fresh_database(prefix: &str) -> ConnectInfo {
    let server = server().await;
    let name = format!("{prefix}_{}", uuid::Uuid::now_v7().simple());
    assert!(name.len() <= 63, "{name} is longer than a database's name may be");
    let mut connection = PgConnection::connect_with(&server.options()).await.expect("the test server answers");
    // Without a connection to it, as always with template0; a busy template1 would be refused.
    let sql = format!("CREATE DATABASE {} TEMPLATE template0", quote::ident(&name));
    connection.execute(AssertSqlSafe(sql)).await.expect("a fresh database");
    connection.close().await.expect("closed");
    server.with_database(name)
}

/// A plain connection, with none of the settings that the code under test makes.
pub async fn connect(info: &ConnectInfo) -> PgConnection {
    PgConnection::connect_with(&info.options()).await.expect("the database answers")
}

/// PostgreSQL's programs: those in the directory that `HOLDFAST_TEST_CLIENTS` names and no others, else what is found on this machine.
pub async fn tools() -> Tools {
    match matrix_clients() {
        Some(directory) => Tools::among(vec![directory]).await,
        None => Tools::discover(&holdfast::config::ToolsConfig::default()).await,
    }
}

/// Whether restores may use clients that can be made to run code from a crafted archive: only those of `scripts/test-versions`, which
/// are not the newest of their major versions. Everybody else's must be fixed ones.
pub fn allows_vulnerable_clients() -> bool {
    matrix_clients().is_some()
}

/// The clients of `scripts/test-versions`.
pub fn matrix_clients() -> Option<PathBuf> {
    std::env::var_os("HOLDFAST_TEST_CLIENTS").map(PathBuf::from)
}

/// Per table (leaf partitions and plain tables) of a schema: how many rows, and a digest that does not depend on their order. The
/// sum of the 128-bit hashes rather than their XOR: two equal rows must not cancel out.
pub async fn row_digests(connection: &mut PgConnection, schema: &str) -> BTreeMap<String, (i64, String)> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_catalog.pg_class \
         WHERE relkind IN ('r', 'm') AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)",
    )
    .bind(schema)
    .fetch_all(&mut *connection)
    .await
    .expect("the tables");
    let mut digests = BTreeMap::new();
    for table in tables {
        let sql = format!(
            "SELECT count(*), COALESCE(sum(('x' || substr(h, 1, 15))::bit(60)::bigint::numeric), 0)::text || '/' || \
             COALESCE(sum(('x' || substr(h, 16, 15))::bit(60)::bigint::numeric), 0)::text \
             FROM (SELECT md5(ROW(t.*)::text) AS h FROM ONLY {} AS t) AS hashes",
            quote::qualified(schema, &table)
        );
        // A materialised view that was never filled cannot be read.
        match sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *connection).await {
            Ok(row) => drop(digests.insert(table, (row.get(0), row.get(1)))),
            Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("55000") => {
                digests.insert(table, (-1, "not populated".to_owned()));
            }
            Err(error) => panic!("{table}: {error}"),
        }
    }
    digests
}

/// What `pg_dump` prints for a schema, with owners and grants; two calls for the same content give the same text.
pub async fn schema_dump(info: &ConnectInfo, schema: &str) -> String {
    let mut connection = connect(info).await;
    let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(&mut connection).await.expect("it");
    let tool = tools().await.client(ClientTool::PgDump, version.parse().expect("a number")).expect("pg_dump");
    let environment = ChildEnvironment::new(info, &[]).expect("a password file");
    let arguments = ["--restrict-key=holdfast", "--strict-names"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("--schema={}", quote::dump_pattern(schema))]);
    let mut child = environment
        .apply(holdfast::child::Command::new(tool.path))
        .args(arguments)
        .stdout_pipe()
        .spawn()
        .await
        .expect("pg_dump starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let reader = tokio::task::spawn_blocking(move || std::io::read_to_string(&mut stdout));
    let text = reader.await.expect("read").expect("UTF-8");
    let exit = child.wait().await.expect("an end");
    assert!(exit.status.success(), "pg_dump: {}", exit.stderr);
    text
}

/// Owners and grants of a schema and everything in it, one line each, sorted, straight from the catalogs.
pub async fn owners_and_grants(connection: &mut PgConnection, schema: &str) -> Vec<String> {
    sqlx::query_scalar(OWNERS_AND_GRANTS).bind(schema).fetch_all(connection).await.expect("owners and grants")
}

const OWNERS_AND_GRANTS: &str = include_str!("owners_and_grants.sql");

/// A directory for one test that an unprivileged user can reach, as the embedded cluster needs when root runs the tests.
pub fn reachable_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    builder.prefix("holdfast-").permissions(std::fs::Permissions::from_mode(0o711));
    builder.tempdir().expect("a temporary directory")
}

/// The folder of custom-format dumps that `HOLDFAST_TEST_CORPORA` names, if any.
pub fn corpora() -> Vec<PathBuf> {
    let Ok(folder) = std::env::var("HOLDFAST_TEST_CORPORA") else { return Vec::new() };
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("HOLDFAST_TEST_CORPORA, {folder}: {error}"));
    let mut dumps: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dump"))
        .collect();
    dumps.sort();
    dumps
}
