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

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    process::{Pid, Signal, geteuid, kill_process},
};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{
    connect::{ConnectInfo, SslMode},
    quote,
    tools::{ServerTools, ToolError, Tools},
};
use crate::child::Command;

/// The cluster's superuser.
const SUPERUSER: &str = "holdfast";

/// Longest directory for the socket, in bytes. The socket's whole path has at most 107 (`sun_path`, unix(7)), and
/// `/.s.PGSQL.65535` comes after it.
const LONGEST_SOCKET_DIRECTORY: usize = 90;

/// How often another port is tried when somebody takes the chosen one before the server does.
const PORT_ATTEMPTS: usize = 5;

/// How long a start or a stop may take, in seconds: a start may have a crash to recover from.
const PATIENCE_SECONDS: u32 = 300;

/// How long processes of a killed server may take to notice that it is gone.
const ORPHANS_LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// A log that is longer than this when the server starts is begun anew, in bytes.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;

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

/// Where everything is, and who runs it.
#[derive(Clone, Debug)]
struct Place {
    data_dir: PathBuf,
    tools: ServerTools,
    /// Given when we are root.
    user: Option<User>,
}

#[derive(Clone, Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// What `postmaster.pid` says. Source: `src/include/utils/pidfile.h`.
struct PidFile {
    pid: u32,
    port: u16,
    socket_directory: Option<String>,
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

impl Place {
    fn cluster(&self) -> PathBuf {
        cluster(&self.data_dir)
    }

    /// As [`write_private`], for a file that whoever runs the server must be able to read.
    fn write_for_server(&self, path: &Path, text: &str) -> Result<(), EmbeddedError> {
        write_owned(path, text, self.user.as_ref())
    }

    fn command(&self, program: &str, directory: &Path) -> Command {
        let command = Command::new(self.tools.directory.join(program)).current_dir(directory);
        match &self.user {
            Some(user) => command.run_as(user.uid, user.gid),
            None => command,
        }
    }

    async fn run(program: &'static str, command: Command) -> Result<(), EmbeddedError> {
        let failed = |message: String| EmbeddedError::Program { program, message };
        let mut child = command.spawn().await.map_err(|error| failed(error.to_string()))?;
        let exit = child.wait().await.map_err(|error| failed(error.to_string()))?;
        if exit.status.success() { Ok(()) } else { Err(failed(format!("{} ({})", exit.stderr.trim(), exit.status))) }
    }

    /// `pg_ctl` hands names on to a shell: it runs inside the cluster directory, so that there are none to hand on.
    async fn pg_ctl(&self, arguments: &[&str]) -> Result<(), EmbeddedError> {
        let command = self.command("pg_ctl", &self.cluster()).args(["-D", ".", "-s"]).args(arguments.iter().copied());
        Self::run("pg_ctl", command).await
    }

    /// Makes the cluster beside its final place and renames it there: an interrupted `initdb` leaves nothing that looks whole.
    async fn initialise(&self) -> Result<(), EmbeddedError> {
        let (cluster, new) = (self.cluster(), self.data_dir.join("postgres.new"));
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(file("remove", &new))?;
        }
        DirBuilder::new().mode(0o700).create(&new).map_err(file("make the directory", &new))?;
        // The password is on disk before the cluster that needs it.
        let password_file = self.data_dir.join("postgres.password");
        let password = match std::fs::read_to_string(&password_file) {
            Ok(known) if !known.trim().is_empty() => known,
            _ => {
                let password = rand::random::<[u8; 24]>().map(|byte| format!("{byte:02x}")).concat();
                write_private(&password_file, &password)?;
                password
            }
        };
        let for_initdb = new.join("password");
        self.write_for_server(&for_initdb, &password)?;
        // Last: from here on that user may put a link in the place of anything in it.
        if let Some(user) = &self.user {
            chown(&new, Some(user.uid), Some(user.gid)).map_err(file("give away", &new))?;
        }
        let arguments = [
            "--pgdata=cluster",
            "--pwfile=password",
            "--username=holdfast",
            "--auth-local=scram-sha-256",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ];
        Self::run("initdb", self.command("initdb", &new).args(arguments)).await?;
        // And taken back, so that what is looked at is what is renamed.
        if self.user.is_some() {
            chown(&new, Some(geteuid().as_raw()), None).map_err(file("take back", &new))?;
        }
        let made = new.join("cluster");
        self.append_include(&made)?;
        std::fs::rename(&made, &cluster).map_err(file("rename", &made))?;
        std::fs::remove_dir_all(&new).map_err(file("remove", &new))?;
        File::open(&self.data_dir).and_then(|d| d.sync_all()).map_err(file("write to disk", &self.data_dir))
    }

    /// Makes the new cluster read the settings that are written at each start.
    fn append_include(&self, made: &Path) -> Result<(), EmbeddedError> {
        let include = "\n# Holdfast writes this file at each start.\ninclude_if_exists = 'holdfast.conf'\n";
        let no_link = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = || -> io::Result<File> {
            let directory: OwnedFd = openat(rustix::fs::CWD, made, OFlags::DIRECTORY | no_link, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::APPEND | no_link;
            Ok(openat(&directory, "postgresql.conf", flags, Mode::empty())?.into())
        };
        let path = made.join("postgresql.conf");
        let mut conf = opened().map_err(file("open", &path))?;
        let data = conf.metadata().map_err(file("look at", &path))?;
        let owner = self.user.as_ref().map_or(geteuid().as_raw(), |user| user.uid);
        // A hard link to a file of somebody else would be another way out of the directory.
        if !data.is_file() || data.uid() != owner {
            return Err(EmbeddedError::Replaced(path));
        }
        conf.write_all(include.as_bytes()).map_err(file("write", &path))
    }

    fn password(&self) -> Result<SecretString, EmbeddedError> {
        let path = self.data_dir.join("postgres.password");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(SecretString::from(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(EmbeddedError::PasswordLost { cluster: self.cluster(), file: path })
            }
            Err(error) => Err(file("read", &path)(error)),
        }
    }

    /// What the pid file says, whether or not that process still runs.
    fn pid_file(&self) -> Option<PidFile> {
        let text = read_unlinked(&self.cluster().join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        Some(PidFile {
            pid: lines.first()?.trim().parse().ok()?,
            port: lines.get(3).and_then(|line| line.trim().parse().ok()).unwrap_or(0),
            socket_directory: lines.get(4).map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()),
        })
    }

    /// The server, if it runs. The number in the pid file alone does not tell: after `kill -9` it may be a stranger's.
    fn postmaster(&self) -> Option<PidFile> {
        let file = self.pid_file()?;
        self.runs_here(file.pid).then_some(file)
    }

    /// Whether a process works inside the cluster directory, as all of a server's do.
    fn runs_here(&self, pid: u32) -> bool {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory == self.cluster())
    }

    fn any_process_here(&self) -> Option<u32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| self.runs_here(*pid))
    }

    /// Starts the server, which is down, on the port it had or, when that is taken, on another. The gate is held.
    async fn start(&self) -> Result<(), EmbeddedError> {
        // After `kill -9` of the server its backends end by themselves, and until then a new one refuses to start.
        let deadline = tokio::time::Instant::now() + ORPHANS_LEAVE_WITHIN;
        while let Some(process) = self.any_process_here() {
            if tokio::time::Instant::now() > deadline {
                return Err(EmbeddedError::Orphans { directory: self.cluster(), process });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.remove_stale_locks()?;
        let port_file = self.data_dir.join("postgres.port");
        let mut port = std::fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse().ok());
        let log = self.cluster().join("server.log");
        for attempt in 1.. {
            let chosen = free_port(port.take()).map_err(file("find a free port for", &self.cluster()))?;
            self.write_settings(chosen)?;
            let mut begin = std::fs::symlink_metadata(&log).map_or(0, |data| data.len());
            if begin > LONGEST_LOG && std::fs::remove_file(&log).is_ok() {
                begin = 0;
            }
            let seconds = PATIENCE_SECONDS.to_string();
            match self.pg_ctl(&["-l", "server.log", "-w", "-t", &seconds, "start"]).await {
                Ok(()) => {
                    return write_private(&port_file, &chosen.to_string());
                }
                Err(error) => {
                    let said = read_unlinked(&log).unwrap_or_default();
                    let said = usize::try_from(begin).ok().and_then(|begin| said.get(begin..)).unwrap_or(&said);
                    if attempt < PORT_ATTEMPTS && said.contains("could not create any TCP/IP sockets") {
                        continue;
                    }
                    let EmbeddedError::Program { program, message } = error else { return Err(error) };
                    return Err(EmbeddedError::Program { program, message: format!("{message}: {}", said.trim()) });
                }
            }
        }
        unreachable!("the attempts end with a return")
    }

    /// PostgreSQL removes what a killed server left, unless the number in it is that of a living process: after a restart of the
    /// machine a stranger's, or in a container that of a dead server whom nobody reaps. No process works in the cluster and the
    /// gate is held, so nothing of it is in use.
    fn remove_stale_locks(&self) -> Result<(), EmbeddedError> {
        let cluster = self.cluster();
        for entry in std::fs::read_dir(&cluster).map_err(file("read", &cluster))? {
            let path = entry.map_err(file("read", &cluster))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            if name == "postmaster.pid" || name.starts_with(".s.PGSQL.") {
                std::fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(())
    }

    fn write_settings(&self, port: u16) -> Result<(), EmbeddedError> {
        let cluster = self.cluster();
        // A path that is not UTF-8 or has a comma (the list's separator) in it could not be written there.
        let socket =
            cluster.to_str().filter(|path| path.len() <= LONGEST_SOCKET_DIRECTORY && !path.contains([',', '"', '\n']));
        let socket = socket.unwrap_or_default().replace('\'', "''");
        let text = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{socket}'\n\
             unix_socket_permissions = 0700\npassword_encryption = 'scram-sha-256'\nmax_connections = 100\n\
             timezone = 'UTC'\nlog_timezone = 'UTC'\nlogging_collector = off\n"
        );
        let path = cluster.join("holdfast.conf");
        self.write_for_server(&path, &text)
    }

    /// Connects; while another process starts or stops the server, until that is done.
    async fn wait_until_ready(&self, password: &SecretString) -> Result<ConnectInfo, EmbeddedError> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(PATIENCE_SECONDS.into());
        loop {
            let Some(server) = self.postmaster() else {
                // It was shutting down (see `drop`), and now it is down.
                self.start().await?;
                continue;
            };
            let info = ConnectInfo {
                host: server.socket_directory.unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string()),
                port: server.port,
                user: SUPERUSER.to_owned(),
                password: Some(password.clone()),
                database: "postgres".to_owned(),
                ssl_mode: SslMode::Disable,
                ssl_root_cert: None,
            };
            match PgConnection::connect_with(&info.options()).await {
                Ok(connection) => {
                    connection.close().await?;
                    return Ok(info);
                }
                // A wrong password does not get better.
                Err(error) if is_rejection(&error) || tokio::time::Instant::now() > deadline => {
                    return Err(error.into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Whether the server answered and said no, other than "starting up" or "shutting down" (class 57).
fn is_rejection(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|code| !code.starts_with("57"))
}

fn process(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The wanted port when nobody listens there, else any free one.
fn free_port(wanted: Option<u16>) -> io::Result<u16> {
    let taken = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match wanted.filter(|port| *port != 0).map(taken) {
        Some(Ok(listener)) => Ok(listener.local_addr()?.port()),
        Some(Err(_)) | None => Ok(taken(0)?.local_addr()?.port()),
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

/// Reads a file of the server's as text, unless it is a link. What is not UTF-8 is replaced.
fn read_unlinked(path: &Path) -> io::Result<String> {
    // Nor is a pipe waited for that nobody writes to.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut bytes = Vec::new();
    // The flags are small and positive: the cast only changes the type.
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file that only we can read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    write_owned(path, text, None)
}

/// Writes a file that only its owner can read, whole or not at all. The open file is given away, before it has its name: whoever
/// owns the directory can put another thing under a name, but not into an open file.
fn write_owned(path: &Path, text: &str, owner: Option<&User>) -> Result<(), EmbeddedError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let _ = std::fs::remove_file(&temporary);
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        new.write_all(text.as_bytes())?;
        if let Some(user) = owner {
            fchown(&new, Some(user.uid), Some(user.gid))?;
        }
        new.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(file("write", path))
}

/// The user that runs PostgreSQL when we are root. `/etc/passwd` alone is asked: distributions keep both there.
fn unprivileged_user() -> Result<User, EmbeddedError> {
    let path = Path::new("/etc/passwd");
    let users = std::fs::read_to_string(path).map_err(file("read", path))?;
    let find = |name| find_user(&users, name);
    find("postgres").or_else(|| find("nobody")).ok_or(EmbeddedError::NoUnprivilegedUser)
}

/// `name:password:uid:gid:…`, passwd(5).
fn find_user(users: &str, wanted: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| *name == wanted)?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then_some(User { name, uid, gid })
    })
}

/// The user must be able to pass through every directory above the cluster.
fn check_traversable(data_dir: &Path, user: &User) -> Result<(), EmbeddedError> {
    for directory in data_dir.ancestors() {
        let data = directory.metadata().map_err(file("look at", directory))?;
        let search = match data {
            ref d if d.uid() == user.uid => 0o100,
            ref d if d.gid() == user.gid => 0o010,
            _ => 0o001,
        };
        if data.permissions().mode() & search == 0 {
            return Err(EmbeddedError::NotTraversable { user: user.name.clone(), directory: directory.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_is_never_root() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8:::\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n\
                     broken:x:y\ntoor:x:0:0:::\n";
        let user = find_user(users, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(find_user(users, "toor").is_none());
        assert!(find_user(users, "broken").is_none());
        assert!(find_user(users, "nobody").is_none());
    }

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
    fn a_link_in_the_servers_directory_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (victim, link) = (directory.path().join("victim"), directory.path().join("holdfast.conf"));
        std::fs::write(&victim, "untouched").unwrap();
        for name in ["holdfast.conf", "holdfast.tmp", "postgresql.conf"] {
            std::os::unix::fs::symlink(&victim, directory.path().join(name)).unwrap();
        }
        assert!(read_unlinked(&link).is_err());
        // Given away: what the link leads to keeps its owner, the new file has the other.
        let us = User { name: "us".to_owned(), uid: geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let other = if geteuid().is_root() { User { uid: 65_534, gid: 65_534, ..us.clone() } } else { us.clone() };
        write_owned(&link, "new", Some(&other)).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "new");
        assert_eq!(std::fs::symlink_metadata(&link).unwrap().uid(), other.uid);
        assert_eq!(
            (std::fs::read_to_string(&victim).unwrap().as_str(), victim.metadata().unwrap().uid()),
            ("untouched", us.uid)
        );
        let tools = ServerTools { directory: "/nowhere".into(), version: 150_020 };
        let place = Place { data_dir: directory.path().to_owned(), tools, user: None };
        assert!(place.append_include(directory.path()).is_err());
        let linked = directory.path().join("linked");
        std::os::unix::fs::symlink(directory.path(), &linked).unwrap();
        assert!(place.append_include(&linked).is_err());
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

    #[test]
    fn a_taken_port_is_replaced() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port(Some(port)).unwrap(), port);
        drop(taken);
        assert_eq!(free_port(Some(port)).unwrap(), port);
    }
}
