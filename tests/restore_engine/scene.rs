//! What the tests of the restore engine share: a database with an awkward tenant, content good and bad, and a look at all that is there.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, atomic::AtomicU64, mpsc},
    time::Duration,
};

use holdfast::{
    artifact::Format,
    ids::RestoreId,
    manifest::{DatabaseContent, DumpScope},
    postgres::{connect::ConnectInfo, inspect, tools::ClientTool},
    restore::{Engine, Load, OpenContent, Plan, RestoreError, Session},
    source::{
        Source as _,
        pg_dump::{PgDump, PgDumpOptions},
    },
};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio_util::sync::CancellationToken;

pub const HOUR: u64 = 3600;
pub const SCHEMA: &str = "My \"Ten'ant";
pub const NONE: Vec<String> = Vec::new();

/// What the scene consists of, each from a version of the server on.
const AWKWARD: [(u32, &str); 4] = [
    (140_000, include_str!("awkward.sql")),
    (150_000, include_str!("awkward_15.sql")),
    (170_000, include_str!("awkward_17.sql")),
    (180_000, include_str!("awkward_18.sql")),
];

/// A superuser's way to a server on which tests may make databases and roles.
pub async fn test_server() -> ConnectInfo {
    crate::support::server().await
}

/// A fresh database with the awkward schema, its neighbour, and roles of its own.
pub struct Scene {
    pub admin: ConnectInfo,
    pub engine: Engine,
    /// The database's name and the prefix of the roles'.
    pub name: String,
}

impl Scene {
    pub async fn new() -> Self {
        let name = format!("t{}", RestoreId::generate().short());
        let mut c = test_server().await.connect().await.unwrap();
        run(&mut c, &format!("CREATE DATABASE {name}")).await;
        for role in ["owner", "app", "reader", "other"] {
            run(&mut c, &format!("CREATE ROLE {name}_{role}")).await;
        }
        let admin = test_server().await.with_database(&name);
        let mut c = admin.connect().await.unwrap();
        let version = inspect::server_version(&mut c).await.unwrap();
        for (since, sql) in AWKWARD {
            if version >= since {
                run(&mut c, &sql.replace("ROLE_", &format!("{name}_"))).await;
            }
        }
        Self::over(admin, name).await
    }

    pub async fn over(admin: ConnectInfo, name: String) -> Self {
        let tools = Arc::new(crate::support::tools().await);
        let allow_vulnerable_clients = crate::support::allows_vulnerable_clients();
        let engine = Engine {
            tools,
            admin: admin.clone(),
            allow_vulnerable_clients,
            allow_detached_references: false,
            one_transaction: true,
            keep_free: 0,
        };
        Self { engine, admin, name }
    }

    /// Takes the database and the roles away again.
    pub async fn clean(self) {
        let mut c = test_server().await.connect().await.unwrap();
        run(&mut c, &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
        for role in ["owner", "app", "reader", "other"] {
            run(&mut c, &format!("DROP ROLE {}_{role}", self.name)).await;
        }
    }

    pub async fn sql(&self, sql: &str) {
        run(&mut self.admin.connect().await.unwrap(), sql).await;
    }

    pub async fn dump(&self, format: Format) -> (Vec<u8>, DatabaseContent) {
        self.dump_scope(DumpScope::Schema { schema: SCHEMA.to_owned() }, format).await
    }

    pub async fn dump_scope(&self, scope: DumpScope, format: Format) -> (Vec<u8>, DatabaseContent) {
        let options = PgDumpOptions {
            connect: self.admin.clone(),
            scope,
            format,
            compress_level: None,
            lock_wait: Duration::from_secs(30),
            tool: None,
            exclude_schemas: Vec::new(),
        };
        let mut source = Box::new(PgDump::new(self.engine.tools.clone(), options));
        let mut reader = source.start().await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = read.await.unwrap().unwrap();
        let holdfast::manifest::Content::Database(database) = source.finish().await.unwrap().holds else {
            panic!("pg_dump dumps databases")
        };
        (bytes, database)
    }

    pub async fn plan(&self) -> Plan {
        self.engine.plan_schema(RestoreId::generate(), SCHEMA).await.unwrap()
    }

    /// All that is there, in the words of `pg_dump`: of the whole database, or of one schema; data, owners, grants and default
    /// privileges.
    pub async fn text(&self, only: Option<&str>) -> String {
        let program = self.engine.tools.client(ClientTool::PgDump, 140_000).unwrap().path;
        let mut command = tokio::process::Command::new(program);
        command.arg("--restrict-key=fixed").env("PGDATABASE", &self.admin.database);
        command
            .env("PGHOST", &self.admin.host)
            .env("PGPORT", self.admin.port.to_string())
            .env("PGUSER", &self.admin.user);
        if let Some(schema) = only {
            command.arg(format!("--schema=\"{}\"", schema.replace('"', "\"\"")));
        }
        if let Some(password) = &self.admin.password {
            command.env("PGPASSWORD", password.expose_secret());
        }
        let out = command.output().await.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// A session that is prepared, and the result of its load.
    pub async fn load(
        &self,
        plan: &Plan,
        proof: &DatabaseContent,
        format: Format,
        content: OpenContent,
    ) -> (Session, Result<(), RestoreError>) {
        let mut session = self.engine.open(plan).await.unwrap();
        session.prepare(proof, HOUR).await.unwrap();
        let loaded = session.load(&load(format, content)).await;
        (session, loaded)
    }

    /// Nothing of the restore is left, and everything is as it was.
    pub async fn assert_untouched(&self, plan: &Plan, before: &str, what: &str) {
        assert!(self.text(None).await == before, "something changed: {what}");
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_roles WHERE rolname = $1")
            .bind(&plan.role)
            .fetch_one(&mut self.admin.connect().await.unwrap())
            .await
            .unwrap();
        assert_eq!(left, 0, "the role is left: {what}");
    }
}

pub async fn run(c: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(c).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
}

pub fn load(format: Format, content: OpenContent) -> Load {
    Load { format, content, loaded_bytes: Arc::new(AtomicU64::new(0)), cancel: CancellationToken::new() }
}

pub fn good(bytes: &[u8]) -> OpenContent {
    let bytes: Arc<[u8]> = bytes.into();
    Arc::new(move || Ok(Box::new(io::Cursor::new(bytes.clone()))))
}

/// Gives out `bytes`, then the error of a reader whose digest differs.
pub fn bad(bytes: &[u8]) -> OpenContent {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the digest differs"))
        }
    }
    let bytes: Arc<[u8]> = bytes.into();
    Arc::new(move || Ok(Box::new(io::Cursor::new(bytes.clone()).chain(Fails))))
}

/// Content that stops at `at` until it is told to go on (or the sender is dropped): then psql is in the middle of its transaction.
pub fn stopped(bytes: &[u8], at: usize) -> (OpenContent, mpsc::Sender<()>, tokio::sync::mpsc::UnboundedReceiver<()>) {
    struct Stops(mpsc::Receiver<()>, tokio::sync::mpsc::UnboundedSender<()>);
    impl Read for Stops {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            _ = self.1.send(());
            _ = self.0.recv();
            Ok(0)
        }
    }
    let (go, wait) = mpsc::channel();
    let (say, here) = tokio::sync::mpsc::unbounded_channel();
    let stop = Mutex::new(Some(Stops(wait, say)));
    let (first, rest): (Arc<[u8]>, Arc<[u8]>) = (bytes[..at].into(), bytes[at..].into());
    let open: OpenContent = Arc::new(move || {
        let stop = stop.lock().unwrap().take().unwrap();
        Ok(Box::new(io::Cursor::new(first.clone()).chain(stop).chain(io::Cursor::new(rest.clone()))))
    });
    (open, go, here)
}

/// Equal, or the first lines that differ.
pub fn pretty(now: &str, expected: &str) {
    if now != expected {
        let differing: Vec<String> = now
            .lines()
            .map(|l| (l, '+', expected))
            .chain(expected.lines().map(|l| (l, '-', now)))
            .filter(|(line, _, other)| !other.lines().any(|l| l == *line))
            .map(|(line, sign, _)| format!("{sign}{line}"))
            .take(30)
            .collect();
        panic!("it is not as expected (+ is there, - was expected):\n{}", differing.join("\n"));
    }
}
