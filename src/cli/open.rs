//! Opens the control plane the way every command needs it: tools, the database (configured or embedded), its migrations, keys,
//! storages. The one place that builds an [`App`] for the program.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection};

use super::{Exit, Failure};
use crate::{
    app::App,
    clock::Clock,
    config::Config,
    db,
    keyring::{KeyFiles, Keyring},
    postgres::{
        connect::ConnectInfo,
        embedded::{EmbeddedCluster, EmbeddedError},
        tools::Tools,
    },
};

/// The control plane's database in the embedded PostgreSQL.
pub const EMBEDDED_DATABASE: &str = "holdfast";

/// Longest wait for the control plane's first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An open control plane. [`close`](Self::close) it at the end.
pub struct Opened {
    pub app: App,
    /// The embedded PostgreSQL, where no database is configured.
    cluster: Option<EmbeddedCluster>,
}

/// Whether the control plane must have this version's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrations {
    /// The embedded one is migrated on the way; a configured one must have been, by `holdfast migrate`.
    Required,
    /// Left as they are.
    Ignored,
}

/// Opens everything that `config` names, with the control plane migrated.
///
/// # Errors
/// The control plane is not reached or not migrated ([`Exit::ControlPlane`]), or a key or storage cannot be used.
pub async fn open(config: &Config) -> anyhow::Result<Opened> {
    open_with(config, Migrations::Required).await
}

/// The same, with a choice about migrations.
///
/// # Errors
/// As [`open`].
pub async fn open_with(config: &Config, migrations: Migrations) -> anyhow::Result<Opened> {
    let tools = Arc::new(Tools::discover(&config.tools).await);
    let (cluster, control) = match configured(config)? {
        Some(control) => (None, control),
        None => {
            let cluster = start_embedded(config, &tools).await?;
            let control = cluster.connect_info(EMBEDDED_DATABASE);
            (Some(cluster), control)
        }
    };
    match build(config, control, tools, cluster.is_some(), migrations).await {
        Ok(app) => Ok(Opened { app, cluster }),
        Err(error) => {
            close_cluster(cluster).await;
            Err(error)
        }
    }
}

async fn build(
    config: &Config,
    control: ConnectInfo,
    tools: Arc<Tools>,
    is_embedded: bool,
    migrations: Migrations,
) -> anyhow::Result<App> {
    // Before the pool, which answers a refused connection with "timed out" after trying for long.
    server_version(&control).await?;
    if !is_embedded {
        refuse_a_second_key(config, &control).await?;
    }
    let keys = Keyring::open(config, &Clock::System)?;
    let app = App::open(config.clone(), control, tools, keys).await?;
    if migrations == Migrations::Required {
        let pending = db::pending(&app.pool).await.map_err(|error| unreachable_plane(&app.control, &error))?;
        match (pending, is_embedded) {
            (0, _) => {}
            (_, true) => db::migrate(&app.pool).await?,
            (pending, false) => return Err(not_migrated(&app.control, pending).into()),
        }
        app.storages.refresh().await?;
    }
    Ok(app)
}

/// Opening makes the keys that are missing. On a second machine of one control plane that would be another key than the backups so
/// far are encrypted to: some would open here and some there, and the new key would be in nobody's safe.
///
/// # Errors
/// The key of this machine would be made, and there are encrypted backups already.
async fn refuse_a_second_key(config: &Config, control: &ConnectInfo) -> anyhow::Result<()> {
    let encryption = &config.encryption;
    let identity = KeyFiles::of(config).identity;
    let is_made_here = encryption.enabled && encryption.recipients.is_empty() && encryption.identity_file.is_none();
    if !is_made_here || identity.exists() {
        return Ok(());
    }
    let has_encrypted = match has_encrypted_backups(control).await {
        Ok(has_encrypted) => has_encrypted,
        // Not migrated: no schema, table or column yet (SQLSTATE 3F000, 42P01, 42703), and so no backup of ours.
        Err(sqlx::Error::Database(error))
            if error.code().is_some_and(|code| ["3F000", "42P01", "42703"].contains(&code.as_ref())) =>
        {
            false
        }
        Err(error) => return Err(unreachable_plane(control, &error).into()),
    };
    if !has_encrypted {
        return Ok(());
    }
    let message = format!(
        "the control plane at {control} has encrypted backups, but {} is missing: a new key would not open them",
        identity.display()
    );
    Err(Failure::refused("keys.elsewhere", message)
        .hint(
            "Copy age.key, secrets.key and jwt.secret from the first machine's data directory into this one's, or set \
             encryption.recipients or encryption.identity_file.",
        )
        .into())
}

async fn has_encrypted_backups(control: &ConnectInfo) -> Result<bool, sqlx::Error> {
    let mut connection = PgConnection::connect_with(&control.options()).await?;
    let sql = "SELECT EXISTS (SELECT FROM control_plane.backups WHERE encryption = 'age' AND status = 'completed')";
    let has_encrypted = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(has_encrypted)
}

/// The configured control plane; `None` for the embedded one.
///
/// # Errors
/// The URL cannot be read.
pub fn configured(config: &Config) -> anyhow::Result<Option<ConnectInfo>> {
    let url = config.database.url.as_ref();
    // Parsed here; its errors never repeat it.
    let parsed = url.map(|url| url.expose().parse::<ConnectInfo>()).transpose();
    parsed.map_err(|error| Failure::refused("config.invalid", format!("database.url: {error}")).into())
}

/// The embedded PostgreSQL, up, with its control-plane database.
///
/// # Errors
/// It is not installed or does not start.
pub async fn start_embedded(config: &Config, tools: &Tools) -> anyhow::Result<EmbeddedCluster> {
    let cluster = EmbeddedCluster::open(&config.data_dir, tools).await.map_err(embedded_failure)?;
    if let Err(error) = cluster.create_database_if_missing(EMBEDDED_DATABASE).await {
        close_cluster(Some(cluster)).await;
        return Err(embedded_failure(error).into());
    }
    Ok(cluster)
}

fn embedded_failure(error: EmbeddedError) -> Failure {
    let hint = match &error {
        EmbeddedError::Tool(_) => {
            "Install PostgreSQL's server package, or set DATABASE_URL to use a server that is there."
        }
        _ => "To use a server that is there instead, set DATABASE_URL.",
    };
    let message = format!("cannot start the embedded PostgreSQL: {error}");
    Failure::new(Exit::ControlPlane, "embedded.unavailable", message).hint(hint)
}

/// Connects once, and says in one line why that is not possible.
///
/// # Errors
/// The server is down, refuses us, or does not answer.
pub async fn server_version(control: &ConnectInfo) -> Result<u32, Failure> {
    let options = control.options();
    let asked = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let version = crate::postgres::inspect::server_version(&mut connection).await?;
        connection.close().await?;
        Ok::<u32, sqlx::Error>(version)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, asked).await {
        Ok(Ok(version)) => Ok(version),
        Ok(Err(error)) => Err(unreachable_plane(control, &error)),
        Err(_) => Err(Failure::new(
            Exit::ControlPlane,
            "control_plane.unavailable",
            format!(
                "cannot reach the control plane at {control}: no answer within {} seconds",
                CONNECT_TIMEOUT.as_secs()
            ),
        )),
    }
}

fn unreachable_plane(control: &ConnectInfo, error: &sqlx::Error) -> Failure {
    // What the server itself says, without our library's own preface.
    let why = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    };
    Failure::new(
        Exit::ControlPlane,
        "control_plane.unavailable",
        format!("cannot reach the control plane at {control}: {why}"),
    )
    .hint("Check DATABASE_URL and that the server accepts connections; `holdfast doctor` looks at everything.")
}

fn not_migrated(control: &ConnectInfo, pending: usize) -> Failure {
    let plural = if pending == 1 { "migration is" } else { "migrations are" };
    Failure::new(
        Exit::ControlPlane,
        "control_plane.not_migrated",
        format!("the control plane at {control} is not migrated: {pending} {plural} missing"),
    )
    .hint("Run `holdfast migrate`. A configured database is never changed on the way.")
}

impl Opened {
    /// Whether the control plane is the embedded PostgreSQL.
    pub fn is_embedded(&self) -> bool {
        self.cluster.is_some()
    }

    /// Closes the connections and lets go of the embedded PostgreSQL, which stops when nobody else uses it.
    pub async fn close(self) {
        self.app.pool.close().await;
        close_cluster(self.cluster).await;
    }
}

async fn close_cluster(cluster: Option<EmbeddedCluster>) {
    if let Some(cluster) = cluster
        && let Err(error) = cluster.close().await
    {
        tracing::warn!(%error, "the embedded PostgreSQL did not stop");
    }
}

/// Opens the control plane, does some work with it, and closes it whatever came of the work.
///
/// # Errors
/// As [`open`], and those of the work.
pub async fn with<T>(config: &Config, work: impl AsyncFnOnce(&Opened) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let opened = open(config).await?;
    let outcome = work(&opened).await;
    opened.close().await;
    outcome
}
