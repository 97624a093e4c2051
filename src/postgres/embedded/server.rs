//! The cluster's files and its server: made, started, asked and stopped. Whoever calls holds `postgres.gate`.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, chown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    process::{Pid, geteuid},
};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use super::{
    EmbeddedError, PATIENCE_SECONDS, cluster, file,
    owner::{User, read_unlinked, write_owned, write_private},
};
use crate::{
    child::Command,
    postgres::{
        connect::{ConnectInfo, SslMode},
        tools::ServerTools,
    },
};

/// The cluster's superuser.
const SUPERUSER: &str = "holdfast";

/// Longest directory for the socket, in bytes. The socket's whole path has at most 107 (`sun_path`, unix(7)), and
/// `/.s.PGSQL.65535` comes after it.
const LONGEST_SOCKET_DIRECTORY: usize = 90;

/// How often another port is tried when somebody takes the chosen one before the server does.
const PORT_ATTEMPTS: usize = 5;

/// How long processes of a killed server may take to notice that it is gone.
const ORPHANS_LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// A log that is longer than this when the server starts is begun anew, in bytes.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;

/// Where everything is, and who runs it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) data_dir: PathBuf,
    pub(super) tools: ServerTools,
    /// Given when we are root.
    pub(super) user: Option<User>,
}

/// What `postmaster.pid` says. Source: `src/include/utils/pidfile.h`.
pub(super) struct PidFile {
    pub(super) pid: u32,
    port: u16,
    socket_directory: Option<String>,
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
    pub(super) async fn pg_ctl(&self, arguments: &[&str]) -> Result<(), EmbeddedError> {
        let command = self.command("pg_ctl", &self.cluster()).args(["-D", ".", "-s"]).args(arguments.iter().copied());
        Self::run("pg_ctl", command).await
    }

    /// Makes the cluster beside its final place and renames it there: an interrupted `initdb` leaves nothing that looks whole.
    pub(super) async fn initialise(&self) -> Result<(), EmbeddedError> {
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

    pub(super) fn password(&self) -> Result<SecretString, EmbeddedError> {
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
    pub(super) fn postmaster(&self) -> Option<PidFile> {
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
    pub(super) async fn start(&self) -> Result<(), EmbeddedError> {
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
    pub(super) async fn wait_until_ready(&self, password: &SecretString) -> Result<ConnectInfo, EmbeddedError> {
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

pub(super) fn process(pid: u32) -> Option<Pid> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_taken_port_is_replaced() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port(Some(port)).unwrap(), port);
        drop(taken);
        assert_eq!(free_port(Some(port)).unwrap(), port);
    }
}
