//! A tenant with one of everything, dumped and proved.

use std::{io::Read as _, sync::Arc, time::Duration};

use holdfast::{
    artifact::Format,
    ids::RestoreId,
    manifest::{Content, DatabaseContent, DumpScope},
    postgres::{connect::ConnectInfo, ownership},
    proof::{self, Surroundings},
    proof_record::ProofLevel,
    source::{
        Source as _, SourceError,
        pg_dump::{PgDump, PgDumpOptions},
    },
};
use sqlx::{AssertSqlSafe, PgConnection};

pub const SCHEMA: &str = "t";

pub struct Scene {
    pub info: ConnectInfo,
    /// The roles' prefix.
    pub prefix: String,
}

impl Scene {
    /// A fresh database with this text in it; `ROLE_` is the prefix of roles that are there.
    pub async fn with(sql: &str) -> Self {
        let info = crate::support::fresh_database("proof").await;
        let prefix = format!("p{}_", RestoreId::generate().short());
        let mut c = info.connect().await.unwrap();
        for role in ["owner", "app", "other"] {
            run(&mut c, &format!("CREATE ROLE {prefix}{role}")).await;
        }
        let scene = Self { info, prefix };
        run(&mut c, &scene.named(sql)).await;
        scene
    }

    pub async fn new() -> Self {
        Self::with(include_str!("tenant.sql")).await
    }

    pub fn named(&self, sql: &str) -> String {
        sql.replace("ROLE_", &self.prefix)
    }

    /// Takes the database and the roles away again.
    pub async fn clean(self) {
        let mut c = crate::support::server().await.connect().await.unwrap();
        run(&mut c, &format!("DROP DATABASE {} WITH (FORCE)", self.info.database)).await;
        for role in ["owner", "app", "other"] {
            run(&mut c, &format!("DROP ROLE {}{role}", self.prefix)).await;
        }
    }

    /// Dumps as this role, and gives what the manifest would say.
    pub async fn prove(&self, connect: &ConnectInfo, level: ProofLevel) -> Result<DatabaseContent, SourceError> {
        let tools = Arc::new(crate::support::tools().await);
        let mut source = Box::new(PgDump::new(tools, options(connect)).proving(level));
        let mut reader = source.start().await?;
        tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        match source.finish().await?.holds {
            Content::Database(content) => Ok(content),
            other => panic!("{other:?}"),
        }
    }

    pub async fn proved(&self) -> DatabaseContent {
        self.prove(&self.info, ProofLevel::Full).await.unwrap()
    }
}

pub fn options(connect: &ConnectInfo) -> PgDumpOptions {
    PgDumpOptions {
        connect: connect.clone(),
        scope: scope(),
        format: Format::Sql,
        compress_level: None,
        lock_wait: Duration::from_secs(30),
        tool: None,
        exclude_schemas: Vec::new(),
    }
}

pub fn scope() -> DumpScope {
    DumpScope::Schema { schema: SCHEMA.to_owned() }
}

pub async fn run(c: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(c).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// What differs, owners and grants too.
pub async fn differences(c: &mut PgConnection, content: &DatabaseContent) -> Vec<String> {
    let found = proof::differences(c, &scope(), content, Surroundings::Compared).await.unwrap();
    let mut told = proof::told(&found);
    told.extend(ownership::differences(c, &scope(), &content.ownership, content.server_version).await.unwrap());
    told
}
