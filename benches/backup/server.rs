//! The server that the tenant lives on: a cluster of our own, or the one given.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use holdfast::{
    config::ToolsConfig,
    postgres::{
        connect::ConnectInfo,
        embedded::EmbeddedCluster,
        inspect,
        tools::{ClientTool, Tools},
    },
};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const DATABASE: &str = "holdfast_bench";
const RESTORED: &str = "holdfast_bench_restore";

pub struct Server {
    cluster: Option<EmbeddedCluster>,
    maintenance: ConnectInfo,
    pub version: u32,
    pg_dump: std::path::PathBuf,
    psql: std::path::PathBuf,
}

impl Server {
    pub async fn open(directory: &Path) -> Result<Self> {
        let tools = Tools::discover(&ToolsConfig::default()).await;
        let (cluster, maintenance) = match std::env::var("HOLDFAST_BENCH_DATABASE_URL") {
            Ok(url) => (None, url.parse().context("cannot read HOLDFAST_BENCH_DATABASE_URL")?),
            Err(_) => {
                let cluster = EmbeddedCluster::open(&directory.join("server"), &tools).await?;
                let mut info = cluster.connect_info("postgres");
                if !std::env::var("HOLDFAST_BENCH_TRANSPORT").is_ok_and(|transport| transport == "socket") {
                    info.host = "127.0.0.1".to_owned();
                }
                (Some(cluster), info)
            }
        };
        let version = inspect::server_version(&mut maintenance.connect().await?).await?;
        let server = Self {
            cluster,
            maintenance,
            version,
            pg_dump: tools.client(ClientTool::PgDump, version)?.path,
            psql: tools.client(ClientTool::Psql, version)?.path,
        };
        server.fresh_database(DATABASE).await?;
        Ok(server)
    }

    pub async fn close(self) -> Result<()> {
        match self.cluster {
            Some(cluster) => Ok(cluster.close().await?),
            None => self.drop_databases().await,
        }
    }

    async fn drop_databases(&self) -> Result<()> {
        let mut connection = self.maintenance.connect().await?;
        for name in [DATABASE, RESTORED] {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            connection.execute(AssertSqlSafe(drop)).await?;
        }
        Ok(connection.close().await?)
    }

    async fn fresh_database(&self, name: &str) -> Result<()> {
        let mut connection = self.maintenance.connect().await?;
        for statement in [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
            connection.execute(AssertSqlSafe(statement)).await?;
        }
        Ok(connection.close().await?)
    }

    /// The database that is backed up.
    pub fn info(&self) -> ConnectInfo {
        self.maintenance.with_database(DATABASE)
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(self.info().connect().await?)
    }

    /// The database that is restored into.
    pub fn target(&self) -> ConnectInfo {
        self.maintenance.with_database(RESTORED)
    }

    /// Makes [`target`](Self::target) anew.
    pub async fn fresh_target(&self) -> Result<()> {
        self.fresh_database(RESTORED).await?;
        // Else what the run before left to be written falls on the next one.
        self.connect().await?.execute("CHECKPOINT").await?;
        Ok(())
    }

    /// `pg_dump` of one schema as Holdfast calls it, to standard output.
    pub fn pg_dump(&self, schema: &str, format: &str) -> Command {
        let mut command = Command::new(&self.pg_dump);
        command.args(["--no-owner", "--no-acl", "--no-password"]);
        command.arg(format!("--format={format}")).arg(format!("--schema={schema}"));
        self.reach(command, DATABASE)
    }

    /// `psql` that loads standard input into the database to restore into.
    pub fn psql(&self) -> Command {
        let mut command = Command::new(&self.psql);
        command.args(["--no-psqlrc", "--no-password", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]);
        self.reach(command, RESTORED)
    }

    fn reach(&self, mut command: Command, database: &str) -> Command {
        let info = &self.maintenance;
        command.env("PGHOST", &info.host).env("PGPORT", info.port.to_string()).env("PGUSER", &info.user);
        command.env("PGDATABASE", database).env("PGSSLMODE", info.ssl_mode.as_str());
        if let Some(password) = &info.password {
            command.env("PGPASSWORD", password.expose_secret());
        }
        command
    }
}
