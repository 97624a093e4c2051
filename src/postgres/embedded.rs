//! A private PostgreSQL cluster below the data directory, for a Holdfast that was given no database: made with the `initdb` found
//! on the machine, started when it is down, stopped by the last process that uses it.
//!
//! Always true: it listens on a Unix socket and the loopback address only; nobody connects without the password in
//! `postgres.password`, which only we can read; when we are root its processes are another user's (PostgreSQL refuses root). What
//! that user owns may have been replaced by a link at any moment: nothing below it is opened, written or given away through one.
//!
//! Two locks decide who starts and stops it. `postgres.lock` is held shared by every process that uses the cluster.
//! `postgres.gate` is held for the short time in which one of them looks whether it is up, starts it or stops it.
//! The kernel drops both when a process dies.

mod owner;
mod server;

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::process::{Signal, geteuid, kill_process};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use self::{
    owner::{check_traversable, read_unlinked, unprivileged_user},
    server::{Place, process},
};
use super::{
    connect::ConnectInfo,
    quote,
    tools::{ServerTools, ToolError, Tools},
};

/// How long a start or a stop may take, in seconds: a start may have a crash to recover from.
const PATIENCE_SECONDS: u32 = 300;

/// Why the embedded PostgreSQL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the user {user:?}, who runs the embedded PostgreSQL because root must not, cannot enter the directory {}: \
         allow it with `chmod o+x`, or choose another data directory with HOLDFAST_DATA_DIR", directory.display()
    )]
    NotTraversable { user: String, directory: PathBuf },
    #[error("root must not run PostgreSQL and there is neither a user \"postgres\" nor a user \"nobody\" to run it")]
    NoUnprivilegedUser,
    #[error(
        "the cluster in {} was made by PostgreSQL {version}, whose server programs are not installed: install the package \
         postgresql-{version}, or choose another data directory with HOLDFAST_DATA_DIR", directory.display()
    )]
    OtherVersion { directory: PathBuf, version: String },
    #[error("{} is not what initdb made: somebody replaced it", .0.display())]
    Replaced(PathBuf),
    #[error("the cluster in {} is there, but its password file {} is not: put it back", cluster.display(), file.display())]
    PasswordLost { cluster: PathBuf, file: PathBuf },
    #[error("{program} failed: {message}")]
    Program { program: &'static str, message: String },
    #[error(
        "processes of a server that was killed still run in {} (process {process}): end them before it starts again",
        directory.display()
    )]
    Orphans { directory: PathBuf, process: u32 },
    #[error("the embedded PostgreSQL does not answer: {0}")]
    Connect(#[from] sqlx::Error),
}

/// Names the file an error is about.
fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    move |source| EmbeddedError::File { action, path: path.to_owned(), source }
}

/// The running cluster, kept running while this lives. End with [`close`](Self::close).
#[derive(Debug)]
pub struct EmbeddedCluster {
    place: Place,
    info: ConnectInfo,
    /// Held shared.
    users: Option<File>,
}

impl EmbeddedCluster {
    /// Makes the cluster below `data_dir` if there is none, starts it if it is down, and keeps it up while the value lives.
    /// Any number of processes may do so at once.
    ///
    /// # Errors
    /// No server programs, or of another major version than the cluster; the unprivileged user cannot reach the directory;
    /// the disk or PostgreSQL itself refuses.
    pub async fn open(data_dir: &Path, tools: &Tools) -> Result<Self, EmbeddedError> {
        make_data_dir(data_dir).map_err(file("make the directory", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(file("find", data_dir))?;
        let user = if geteuid().is_root() { Some(unprivileged_user()?) } else { None };
        if let Some(user) = &user {
            check_traversable(&data_dir, user)?;
        }
        let _gate = lock(&data_dir, "postgres.gate", File::lock).await?;
        // Known only now: another process may have made it while we waited.
        let version = cluster_version(&data_dir)?;
        let place = Place { tools: server_tools(&data_dir, version.as_deref(), tools)?, data_dir, user };
        if version.is_none() {
            place.initialise().await?;
        }
        let password = place.password()?;
        if place.postmaster().is_none() {
            place.start().await?;
        }
        let info = place.wait_until_ready(&password).await?;
        let users = lock(&place.data_dir, "postgres.lock", File::lock_shared).await?;
        Ok(Self { place, info, users: Some(users) })
    }

    /// How the superuser reaches a database of the cluster: through the socket when there is one, because nobody else can sit
    /// behind it.
    pub fn connect_info(&self, database: &str) -> ConnectInfo {
        self.info.with_database(database)
    }

    /// The loopback port that the server listens on.
    pub fn port(&self) -> u16 {
        self.info.port
    }

    /// Makes a database unless it is there. Safe to call from several processes at once.
    ///
    /// # Errors
    /// The server refuses the name or cannot be reached.
    pub async fn create_database_if_missing(&self, name: &str) -> Result<(), EmbeddedError> {
        let mut connection = PgConnection::connect_with(&self.info.options()).await?;
        let known = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
        if !sqlx::query_scalar::<_, bool>(known).bind(name).fetch_one(&mut connection).await? {
            let made = connection.execute(AssertSqlSafe(format!("CREATE DATABASE {}", quote::ident(name)))).await;
            if let Err(error) = made {
                // Another process may have been quicker; how the server says so depends on how close the race was.
                if !sqlx::query_scalar::<_, bool>(known).bind(name).fetch_one(&mut connection).await? {
                    return Err(error.into());
                }
            }
        }
        connection.close().await?;
        Ok(())
    }

    /// Lets go of the cluster; the last one out stops it and waits until it is down.
    ///
    /// # Errors
    /// The server does not stop.
    pub async fn close(mut self) -> Result<(), EmbeddedError> {
        let _gate = lock(&self.place.data_dir, "postgres.gate", File::lock).await?;
        if self.leave()? && self.place.postmaster().is_some() {
            self.place.pg_ctl(&["-m", "fast", "-w", "-t", &PATIENCE_SECONDS.to_string(), "stop"]).await?;
        }
        Ok(())
    }

    /// Gives our share of the lock back. Whether nobody else has one.
    fn leave(&mut self) -> Result<bool, EmbeddedError> {
        self.users = None;
        Ok(open_lock(&self.place.data_dir, "postgres.lock")?.try_lock().is_ok())
    }
}

impl Drop for EmbeddedCluster {
    fn drop(&mut self) {
        if self.users.is_none() {
            return;
        }
        // Best effort, and nothing is waited for: whoever opens it meanwhile waits for the end of the shutdown.
        let Ok(gate) = open_lock(&self.place.data_dir, "postgres.gate") else { return };
        if gate.try_lock().is_ok()
            && self.leave().unwrap_or(false)
            && let Some(pid) = self.place.postmaster().and_then(|server| process(server.pid))
        {
            // The fast shutdown. Source: PostgreSQL documentation, "Shutting Down the Server".
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

fn cluster(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// Whether there is a cluster below this data directory.
pub fn is_made(data_dir: &Path) -> bool {
    cluster(data_dir).join("PG_VERSION").exists()
}

/// The major version of the cluster, as `initdb` wrote it; `None` when there is no cluster yet.
fn cluster_version(data_dir: &Path) -> Result<Option<String>, EmbeddedError> {
    let path = cluster(data_dir).join("PG_VERSION");
    match read_unlinked(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("read", &path)(error)),
    }
}

/// The programs for a cluster: of the version that made it, else the newest.
fn server_tools(data_dir: &Path, version: Option<&str>, tools: &Tools) -> Result<ServerTools, EmbeddedError> {
    let Some(version) = version else { return Ok(tools.server()?) };
    let found = version.parse().ok().and_then(|major| tools.server_of(major).ok());
    found.ok_or_else(|| EmbeddedError::OtherVersion {
        directory: cluster(data_dir),
        version: version.chars().take(20).collect(),
    })
}

fn open_lock(data_dir: &Path, name: &str) -> Result<File, EmbeddedError> {
    let path = data_dir.join(name);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    opened.map_err(file("open the lock file", &path))
}

/// Waits for a lock, off the runtime's threads.
async fn lock(data_dir: &Path, name: &'static str, how: fn(&File) -> io::Result<()>) -> Result<File, EmbeddedError> {
    let lock = open_lock(data_dir, name)?;
    let locked = tokio::task::spawn_blocking(move || how(&lock).map(|()| lock)).await;
    locked.map_err(io::Error::other).flatten().map_err(file("lock", &data_dir.join(name)))
}

/// Makes the data directory and what is missing above it, whatever the umask. When we are root, others can pass through, because
/// the server runs as another user below it; its files have modes of their own.
///
/// # Errors
/// It cannot be made.
pub fn make_data_dir(path: &Path) -> io::Result<()> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    let missing: Vec<&Path> =
        path.ancestors().take_while(|directory| !directory.as_os_str().is_empty() && !directory.exists()).collect();
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(directory) {
            Ok(()) => std::fs::set_permissions(directory, PermissionsExt::from_mode(mode))?,
            // Another process was quicker.
            Err(_) if directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    if path.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_gets_the_programs_of_its_own_version_and_a_new_one_the_newest() {
        let of = |version: u32| ServerTools { directory: format!("/pg/{version}").into(), version };
        let tools = Tools::with_servers(vec![of(150_020), of(160_015), of(160_016)]);
        let chosen = |version| server_tools(Path::new("/d"), version, &tools).map(|found| found.version);
        assert_eq!(chosen(None).unwrap(), 160_016);
        assert_eq!(chosen(Some("15")).unwrap(), 150_020);
        assert_eq!(chosen(Some("16")).unwrap(), 160_016);
        for version in ["14", "17", "no number"] {
            let error = chosen(Some(version)).unwrap_err().to_string();
            assert!(error.contains(&format!("install the package postgresql-{version}")), "{error}");
        }
    }

    #[test]
    fn the_data_directory_has_its_mode_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let script = "umask 077 && exec \"$0\" --exact postgres::embedded::tests::a_data_directory_is_made --nocapture";
        let mut shell = std::process::Command::new("/bin/sh");
        shell
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .env("HOLDFAST_TEST_MAKE", directory.path().join("a/b"));
        assert!(shell.stdout(std::process::Stdio::null()).status().unwrap().success());
        let expected = if geteuid().is_root() { 0o711 } else { 0o700 };
        for made in ["a", "a/b"] {
            assert_eq!(
                directory.path().join(made).metadata().unwrap().permissions().mode() & 0o777,
                expected,
                "{made}"
            );
        }
    }

    /// Also run by the test above, under another umask.
    #[test]
    fn a_data_directory_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = std::env::var_os("HOLDFAST_TEST_MAKE").map_or_else(|| directory.path().join("x/y"), PathBuf::from);
        make_data_dir(&path).unwrap();
        make_data_dir(&path).unwrap();
        assert!(path.is_dir());
    }
}
