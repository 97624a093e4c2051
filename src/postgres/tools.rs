//! PostgreSQL's own programs: where they are, which version each is, and which one fits a server.
//!
//! A client must not be older than the server (`pg_dump` refuses to read a newer server), and for a restore it must be one that
//! runs no code from a crafted archive.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use secrecy::ExposeSecret;

use super::connect::{ConnectInfo, SslMode};
use crate::{
    child::{Command, inherited_path},
    config::ToolsConfig,
};

/// Where distributions put them: Debian's packages, one directory a major version.
const VERSIONED: &str = "/usr/lib/postgresql";

/// Searched last.
const COMMON: &[&str] = &["/usr/bin", "/usr/local/bin"];

/// Longest time that a program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificates that the system trusts, for servers whose URL names none. libpq itself would look only into the home
/// directory. Path of Debian and its relatives.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The first release of each major version whose clients do not run code from a crafted archive (CVE-2026-116314). A major
/// version that is newer than all of these has the fix; one that is older and not listed (14 and before) never got it.
const FIXED: &[u32] = &[150_020, 160_016, 170_012, 180_007];

/// A client program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientTool {
    PgDump,
    PgRestore,
    Psql,
}

impl ClientTool {
    const ALL: [Self; 3] = [Self::PgDump, Self::PgRestore, Self::Psql];

    pub const fn file_name(self) -> &'static str {
        match self {
            Self::PgDump => "pg_dump",
            Self::PgRestore => "pg_restore",
            Self::Psql => "psql",
        }
    }
}

impl fmt::Display for ClientTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_name())
    }
}

/// One program that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tool {
    pub path: PathBuf,
    /// As `server_version_num` counts: 15.20 is 150020.
    pub version: u32,
}

/// A directory with what makes and runs a server: `initdb`, `pg_ctl` and `postgres`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerTools {
    pub directory: PathBuf,
    pub version: u32,
}

/// Why there is no program to use. Each message names the package to install.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ToolError {
    #[error("{tool} is not installed: install the package postgresql-client-{major}")]
    Missing { tool: ClientTool, major: u32 },
    #[error(
        "{tool} {} is older than the server, which is version {major}: install the package postgresql-client-{major}",
        display_version(*.newest)
    )]
    TooOld { tool: ClientTool, newest: u32, major: u32 },
    #[error(
        "{tool} {} can be made to run code from a crafted archive (CVE-2026-116314): {}",
        display_version(*.found),
        remedy(*.found)
    )]
    Vulnerable { tool: ClientTool, found: u32 },
    #[error("no directory has initdb, pg_ctl and postgres: install the package postgresql")]
    NoServer,
    #[error("no directory has initdb, pg_ctl and postgres of version {major}: install the package postgresql-{major}")]
    NoServerOf { major: u32 },
}

fn remedy(found: u32) -> String {
    match FIXED.iter().find(|fixed| major(**fixed) == major(found)) {
        Some(fixed) => format!("install postgresql-client-{} {} or later", major(found), display_version(*fixed)),
        None => {
            format!("install the package postgresql-client-{} or a newer one", FIXED.last().map_or(18, |v| major(*v)))
        }
    }
}

/// The major version: 15 of 150020.
pub const fn major(version: u32) -> u32 {
    version / 10_000
}

/// A version for people: `15.20` for 150020.
pub fn display_version(version: u32) -> String {
    format!("{}.{}", major(version), version % 10_000)
}

/// Whether a client of this version runs no code from a crafted archive.
pub fn is_fixed(version: u32) -> bool {
    match FIXED.iter().find(|fixed| major(**fixed) == major(version)) {
        Some(fixed) => version >= *fixed,
        None => FIXED.last().is_some_and(|newest| major(version) > major(*newest)),
    }
}

/// The programs of this machine, in the order of search, looked for once.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    clients: Vec<(ClientTool, Tool)>,
    servers: Vec<ServerTools>,
}

impl Tools {
    /// Looks into the configured directories, `PATH`, `/usr/lib/postgresql/*/bin`, `/usr/bin` and `/usr/local/bin`, and asks
    /// every program found for its version. What is missing, cannot be run or tells no version is left out.
    pub async fn discover(config: &ToolsConfig) -> Self {
        let directories = directories(config, std::env::var_os("PATH"), Path::new(VERSIONED));
        Self::among(directories).await
    }

    /// Looks into these directories only, in this order.
    pub async fn among(directories: Vec<PathBuf>) -> Self {
        let mut tools = Self::default();
        let found = futures::future::join_all(directories.into_iter().map(|directory| async move {
            let mut clients = Vec::new();
            for tool in ClientTool::ALL {
                let path = directory.join(tool.file_name());
                if let Some(version) = version_of(&path).await {
                    clients.push((tool, Tool { path, version }));
                }
            }
            let has_server = ["initdb", "pg_ctl"].iter().all(|name| is_program(&directory.join(name)));
            let server = if has_server { version_of(&directory.join("postgres")).await } else { None };
            (clients, server.map(|version| ServerTools { directory, version }))
        }))
        .await;
        for (clients, server) in found {
            tools.clients.extend(clients);
            tools.servers.extend(server);
        }
        tools
    }

    /// The best client of this name for a server: of the server's major version the newest release, else of the nearest newer
    /// major version. Of two equal ones, the first in the order of search.
    ///
    /// # Errors
    /// There is none, or only older ones.
    pub fn client(&self, tool: ClientTool, server_version: u32) -> Result<Tool, ToolError> {
        self.best(tool, server_version, |_| true).ok_or_else(|| self.why_not(tool, server_version))
    }

    /// As [`client`](Self::client), but refuses clients that can be made to run code from a crafted archive, unless
    /// `allow_vulnerable`. To read an archive, give the newer of the server's version and that of the `pg_dump` that wrote it.
    ///
    /// # Errors
    /// There is none, or only older or vulnerable ones.
    pub fn restore_client(
        &self,
        tool: ClientTool,
        server_version: u32,
        allow_vulnerable: bool,
    ) -> Result<Tool, ToolError> {
        let unsafe_one = match self.best(tool, server_version, is_fixed) {
            Some(safe) => return Ok(safe),
            None => self.client(tool, server_version)?,
        };
        if allow_vulnerable { Ok(unsafe_one) } else { Err(ToolError::Vulnerable { tool, found: unsafe_one.version }) }
    }

    /// The newest directory that has `initdb`, `pg_ctl` and `postgres`.
    ///
    /// # Errors
    /// There is none.
    pub fn server(&self) -> Result<ServerTools, ToolError> {
        // The last of equal ones wins in `max_by_key`; the first in the order of search is wanted.
        self.servers.iter().rev().max_by_key(|server| server.version).cloned().ok_or(ToolError::NoServer)
    }

    /// As [`server`](Self::server), of this major version: a cluster is run by the version that made it.
    ///
    /// # Errors
    /// There is none of it.
    pub fn server_of(&self, wanted: u32) -> Result<ServerTools, ToolError> {
        let fits = self.servers.iter().rev().filter(|server| major(server.version) == wanted);
        fits.max_by_key(|server| server.version).cloned().ok_or(ToolError::NoServerOf { major: wanted })
    }

    /// These server programs and no others, for tests of what chooses among them.
    #[cfg(test)]
    pub(super) fn with_servers(servers: Vec<ServerTools>) -> Self {
        Self { clients: Vec::new(), servers }
    }

    /// Every client found, for `doctor`.
    pub fn clients(&self) -> impl Iterator<Item = (ClientTool, &Tool)> {
        self.clients.iter().map(|(name, tool)| (*name, tool))
    }

    fn best(&self, tool: ClientTool, server_version: u32, accept: impl Fn(u32) -> bool) -> Option<Tool> {
        let fits = |found: &&Tool| major(found.version) >= major(server_version) && accept(found.version);
        let candidates = self.clients.iter().filter(|(name, _)| *name == tool).map(|(_, found)| found).filter(fits);
        // The nearest major version, then the newest release; `min_by_key` takes the first of equal ones.
        candidates.min_by_key(|found| (major(found.version), std::cmp::Reverse(found.version))).cloned()
    }

    fn why_not(&self, tool: ClientTool, server_version: u32) -> ToolError {
        let major = major(server_version);
        match self.clients.iter().filter(|(name, _)| *name == tool).map(|(_, found)| found.version).max() {
            Some(newest) => ToolError::TooOld { tool, newest, major },
            None => ToolError::Missing { tool, major },
        }
    }
}

/// The directories to search, each once (by what it really is), in order.
fn directories(config: &ToolsConfig, path: Option<OsString>, versioned: &Path) -> Vec<PathBuf> {
    let mut of_packages: Vec<PathBuf> =
        std::fs::read_dir(versioned).into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    of_packages.sort();
    let of_path: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).filter(|p| p.is_absolute()).collect();
    let all =
        config.directories.iter().cloned().chain(of_path).chain(of_packages).chain(COMMON.iter().map(PathBuf::from));
    let mut seen = BTreeSet::new();
    all.filter(|directory| directory.canonicalize().is_ok_and(|real| seen.insert(real))).collect()
}

/// Whether this is a program of PostgreSQL itself. Debian's `/usr/bin/psql` is a script that chooses a version by the clusters
/// configured on the machine (`pg_wrapper`): not what is wanted here, and it needs the environment that children do not get.
fn is_program(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    real.file_name().is_none_or(|name| name != "pg_wrapper")
        && real.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

async fn version_of(path: &Path) -> Option<u32> {
    if !is_program(path) {
        return None;
    }
    let told = async {
        let mut child = Command::new(path).arg("--version").stdout_pipe().spawn().await.ok()?;
        let stdout = child.stdout.take()?;
        // One line is short enough for the pipe: the program ends before anyone reads. Nothing is read from one that hangs.
        let exit = child.wait().await.ok()?;
        let mut line = String::new();
        exit.status.success().then_some(())?;
        stdout.take(4096).read_to_string(&mut line).ok()?;
        parse_version(&line)
    };
    tokio::time::timeout(VERSION_TIMEOUT, told).await.ok().flatten()
}

/// Reads `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`; `17beta2` and `18devel` count as the .0 of their version.
fn parse_version(line: &str) -> Option<u32> {
    let word = line.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let numbers: Vec<u32> = word[..end].split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [major @ 10..=999] => Some(major * 10_000),
        [major @ 10..=999, minor @ 0..=9_999] => Some(major * 10_000 + minor),
        // Before version 10 the first two numbers were the major version.
        [major @ 0..=9, minor @ 0..=99, patch @ 0..=99] => Some(major * 10_000 + minor * 100 + patch),
        _ => None,
    }
}

/// What a client program needs to reach a database, as environment variables and a password file without a name, which the child
/// inherits: however we end, nothing of it is left. Nothing of it appears among the arguments, which every user of the machine can see.
#[derive(Debug)]
pub struct ChildEnvironment {
    variables: Vec<(&'static str, OsString)>,
    password_file: Arc<File>,
}

/// A home without certificates and start-up files; Debian's word for one that is not there.
const NO_HOME: &str = "/nonexistent";

impl ChildEnvironment {
    /// `settings` are server settings for the program's session, given through `PGOPTIONS`.
    ///
    /// # Errors
    /// The password file cannot be written.
    pub fn new(info: &ConnectInfo, settings: &[(&str, &str)]) -> io::Result<Self> {
        // Mode 0600, as libpq wants it: it looks at what is behind the path.
        let mut file = tempfile::tempfile()?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        if let Some(password) = &info.password {
            writeln!(file, "*:*:*:*:{}", escape_password(password.expose_secret()))?;
        }
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("PGHOST", info.host.clone().into()),
            ("PGPORT", info.port.to_string().into()),
            ("PGUSER", info.user.clone().into()),
            // Never as an argument: there a name such as `host=elsewhere` is read as a connection string.
            ("PGDATABASE", info.database.clone().into()),
            ("PGPASSFILE", inherited_path(&file).into()),
            ("PGSSLMODE", info.ssl_mode.as_str().into()),
            ("PGGSSENCMODE", "disable".into()),
            ("PGAPPNAME", "holdfast".into()),
            ("PGCONNECT_TIMEOUT", "30".into()),
            // Else libpq and psql look for certificates and start-up files in the home directory of whoever runs us.
            ("HOME", NO_HOME.into()),
        ];
        let certificates = info.ssl_root_cert.clone().or_else(|| match info.ssl_mode {
            SslMode::VerifyCa | SslMode::VerifyFull => {
                Some(PathBuf::from(SYSTEM_CERTIFICATES)).filter(|file| file.exists())
            }
            SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => None,
        });
        if let Some(certificates) = certificates {
            variables.push(("PGSSLROOTCERT", certificates.into()));
        }
        if !settings.is_empty() {
            variables.push(("PGOPTIONS", options(settings).into()));
        }
        Ok(Self { variables, password_file: Arc::new(file) })
    }

    /// Adds the variables to a command. Keep the guard until the child has ended.
    #[must_use]
    pub fn apply(&self, command: Command) -> Command {
        let command = command.inherit(Arc::clone(&self.password_file));
        self.variables.iter().fold(command, |command, (name, value)| command.env(name, value))
    }
}

/// In a password file `:` ends a field and `\` protects (libpq, "The Password File").
fn escape_password(password: &str) -> String {
    password.replace('\\', "\\\\").replace(':', "\\:")
}

/// `-c name=value …`; in `options` white space separates and `\` protects (libpq, "Parameter Key Words").
fn options(settings: &[(&str, &str)]) -> String {
    let protect = |text: &str| {
        text.chars().fold(String::new(), |mut out, c| {
            if c == '\\' || c.is_whitespace() {
                out.push('\\');
            }
            out.push(c);
            out
        })
    };
    let all: Vec<String> =
        settings.iter().map(|(name, value)| format!("-c {}={}", protect(name), protect(value))).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(clients: &[(ClientTool, &str, u32)]) -> Tools {
        let clients = clients
            .iter()
            .map(|(name, path, version)| (*name, Tool { path: path.into(), version: *version }))
            .collect();
        Tools { clients, servers: Vec::new() }
    }

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        for (line, version) in [
            ("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n", Some(150_020)),
            ("psql (PostgreSQL) 18.7\n", Some(180_007)),
            ("postgres (PostgreSQL) 19beta2", Some(190_000)),
            ("pg_restore (PostgreSQL) 9.6.24", Some(90_624)),
            ("pg_dump (EnterpriseDB) 15.2", None),
            ("(PostgreSQL) ", None),
            ("(PostgreSQL) 99999999999999999999.1", None),
            ("(PostgreSQL) .", None),
        ] {
            assert_eq!(parse_version(line), version, "{line}");
        }
    }

    #[test]
    fn the_servers_own_major_version_is_preferred_then_the_nearest_newer_one() {
        use ClientTool::PgDump;
        let tools = tools(&[
            (PgDump, "/a/pg_dump", 140_009),
            (PgDump, "/b/pg_dump", 180_007),
            (PgDump, "/c/pg_dump", 160_001),
            (PgDump, "/d/pg_dump", 160_016),
            (PgDump, "/e/pg_dump", 160_016),
        ]);
        let chosen = |server| tools.client(PgDump, server).map(|tool| tool.path.display().to_string());
        assert_eq!(chosen(160_003).unwrap(), "/d/pg_dump");
        assert_eq!(chosen(150_020).unwrap(), "/d/pg_dump");
        assert_eq!(chosen(170_001).unwrap(), "/b/pg_dump");
        let error = chosen(190_001).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pg_dump 18.7 is older than the server, which is version 19: install the package postgresql-client-19"
        );
        assert_eq!(
            tools.client(ClientTool::Psql, 150_020).unwrap_err().to_string(),
            "psql is not installed: install the package postgresql-client-15"
        );
    }

    #[test]
    fn a_vulnerable_client_restores_only_when_that_is_allowed() {
        use ClientTool::PgRestore;
        for (version, fixed) in [
            (140_023, false),
            (150_019, false),
            (150_020, true),
            (160_015, false),
            (160_016, true),
            (170_011, false),
            (170_012, true),
            (180_006, false),
            (180_007, true),
            (190_000, true),
        ] {
            let found = tools(&[(PgRestore, "/x", version)]);
            assert_eq!(found.restore_client(PgRestore, 140_000, false).is_ok(), fixed, "{version}");
            assert!(found.restore_client(PgRestore, 140_000, true).is_ok());
        }
        let both = tools(&[(PgRestore, "/old", 150_019), (PgRestore, "/new", 160_016)]);
        assert_eq!(both.restore_client(PgRestore, 150_019, false).unwrap().path, Path::new("/new"));
        let error = tools(&[(PgRestore, "/old", 150_019)]).restore_client(PgRestore, 150_019, false).unwrap_err();
        assert!(error.to_string().ends_with("install postgresql-client-15 15.20 or later"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_tell_its_version_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        // By another process: see "text file busy" in execve(2), where a child of another test has our descriptor for a moment.
        let write = |name: &str, text: &str, mode: &str| {
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod \"$2\" \"$0\""]);
            assert!(shell.arg(directory.path().join(name)).args([text, mode]).status().unwrap().success());
        };
        write("pg_dump", "#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.99'\n", "755");
        write("pg_restore", "#!/bin/sh\necho 'pg_restore (PostgreSQL) 15.99'\nexit 1\n", "755");
        write("psql", "#!/bin/sh\necho 'psql (PostgreSQL) 15.99'\n", "644");
        let tools = Tools::among(vec![directory.path().into(), "/nonexistent".into()]).await;
        let found: Vec<_> = tools.clients().map(|(name, tool)| (name, tool.version)).collect();
        assert_eq!(found, [(ClientTool::PgDump, 150_099)]);
        assert_eq!(tools.server(), Err(ToolError::NoServer));
    }

    #[tokio::test]
    async fn the_installed_programs_are_found_and_the_wrapper_is_not() {
        let tools = Tools::discover(&ToolsConfig::default()).await;
        let dump = tools.client(ClientTool::PgDump, 140_000).unwrap();
        assert!(is_program(&dump.path) && dump.version >= 140_000, "{dump:?}");
        let server = tools.server().unwrap();
        assert!(server.directory.join("initdb").exists());
    }

    #[tokio::test]
    async fn a_configured_directory_comes_first_and_each_directory_once() {
        let config = ToolsConfig { directories: vec!["/usr/bin".into(), "/usr/bin/../bin".into()] };
        let found = directories(&config, Some("/usr/local/bin:relative:/usr/bin".into()), Path::new("/nonexistent"));
        assert_eq!(found, [PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")]);
    }

    #[tokio::test]
    async fn the_password_reaches_the_child_through_a_private_file_only() {
        let info: ConnectInfo = "postgres://u:ca%3Anar%5Cy@db.example/app".parse().unwrap();
        let guard = ChildEnvironment::new(&info, &[("lock_timeout", "5s"), ("search_path", "a b\\c")]).unwrap();
        assert!(!format!("{guard:?}").contains("canar"));
        let command =
            guard.apply(Command::new("/bin/sh").args(["-c", "env; cat $PGPASSFILE; stat -L -c '%a %h' $PGPASSFILE"]));
        let mut child = command.stdout_pipe().spawn().await.unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        for line in [
            "PGHOST=db.example",
            "PGPORT=5432",
            "PGUSER=u",
            "PGDATABASE=app",
            "PGSSLMODE=prefer",
            "PGOPTIONS=-c lock_timeout=5s -c search_path=a\\ b\\\\c",
            "*:*:*:*:ca\\:nar\\\\y",
            // Mode, and how many names it has.
            "600 0",
            "HOME=/nonexistent",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("PGPASSWORD"));
    }
}
