//! The dump's bytes into the server: one `psql` as the restricted role, in one transaction that *we* begin and that we commit only
//! after the last byte was fed and the content's reader has ended well; where the server's lock table has no room for that, statement by
//! statement under a name that nobody may use. Success is a marker read back from the catalog.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, PgConnection};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    RestoreError, Session, Target, Way, archive,
    in_place::schema,
    new_database,
    role::random_word,
    script::{LeaveOut, ScriptReader},
    stage::{self, Stage},
    steps,
};
use crate::{
    artifact::Format,
    child::{Child, Command, Exit},
    postgres::{
        quote::{ident, literal},
        tools::{ChildEnvironment, ClientTool, Tool, ToolError},
    },
};

/// Opens the content from its beginning. The reader blocks, and must end with an error unless size and digest of all that it gave
/// out are the recorded ones. Archives are opened twice.
pub type OpenContent = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Settings of psql's session: no limit of the role or database ends a long load.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("client_min_messages", "warning"),
    ("default_transaction_read_only", "off"),
];

/// One load.
pub struct Load {
    pub format: Format,
    pub content: OpenContent,
    /// Counts the content's bytes as they are fed, for progress.
    pub loaded_bytes: Arc<AtomicU64>,
    pub cancel: CancellationToken,
}

impl Session {
    /// Feeds the content to the server as the restricted role and commits. Then the [`plan`](Self::plan) tells what was made. On any error, and when cancelled, nothing was committed
    /// or the caller's [`roll_back`](Self::roll_back) takes it away: call it then.
    ///
    /// # Errors
    /// `restore.load_failed` with the server's words, `restore.content` when the reader failed, `restore.cancelled`, `restore.tool`.
    pub async fn load(&mut self, load: &Load) -> Result<(), RestoreError> {
        let psql = self.tools.restore_client(ClientTool::Psql, self.server_version, self.allow_vulnerable_clients)?;
        let Some(password) = self.password.clone() else {
            return Err(RestoreError::new("restore.not_prepared", "the restore was not prepared in this session"));
        };
        let list = match load.format {
            Format::Sql => None,
            Format::Json | Format::Text => {
                let message = format!("a backup in the format {} is no dump of a database", load.format);
                return Err(RestoreError::new("restore.format", message));
            }
            Format::Tar | Format::Custom => {
                let tool = self.pg_restore()?;
                let list = archive::edited_list(&tool, load, &self.leave_out).await?;
                Some((tool, list))
            }
        };

        let info = self.target_connect().with_user(&self.plan.role, password);
        let mut settings = SETTINGS.to_vec();
        if self.server_version >= 170_000 {
            settings.push(("transaction_timeout", "0"));
        }
        settings.push(("idle_session_timeout", "0"));
        let environment = ChildEnvironment::new(&info, &settings).map_err(|e| {
            RestoreError::passing("restore.tool", format!("cannot write the password file for psql: {e}"))
        })?;
        let command = Command::new(&psql.path)
            .args(["-X", "-q", "--set=ON_ERROR_STOP=1", "--no-password", "--file=-"])
            .stdin_pipe();
        let mut psql_child = environment.apply(command).spawn().await.map_err(|e| cannot_start("psql", &e))?;
        self.loader_pid = Some(psql_child.id());
        let mut archive_child = match &list {
            Some((tool, list)) => Some(archive::start(tool, load.format, list).await?),
            None => None,
        };

        let words = Words::new(self, restricts(psql.version));
        let fed = tokio::select! {
            fed = feed(load, &words, &self.leave_out, &mut psql_child, archive_child.as_mut()) => fed,
            () = load.cancel.cancelled() => Err(Failure::Cancelled),
            error = lost(&mut self.c) => Err(Failure::Lost(error)),
        };
        // Whatever happens to psql's standard input now, COMMIT was written to it only if `fed` is Ok.
        let ended = match &fed {
            Ok(()) => tokio::select! {
                exit = psql_child.wait() => exit,
                () = load.cancel.cancelled() => { psql_child.kill(); psql_child.wait().await }
            },
            // Its input broke, so psql has ended or is about to: let it say why.
            Err(Failure::Psql) => psql_child.wait().await,
            Err(_) => {
                psql_child.kill();
                psql_child.wait().await
            }
        };
        drop(archive_child);
        let exit = ended.map_err(|e| RestoreError::passing("restore.tool", format!("cannot wait for psql: {e}")))?;
        match fed {
            Ok(()) if exit.status.success() => {
                stage::reached(Stage::Loaded).await;
                self.read_marker(&words.marker).await?;
                self.plan.made = self.filled().await?;
                Ok(())
            }
            Ok(()) if load.cancel.is_cancelled() => Err(RestoreError::cancelled()),
            Ok(()) | Err(Failure::Psql) => Err(psql_failed(&exit)),
            Err(Failure::Cancelled) => Err(RestoreError::cancelled()),
            Err(Failure::Content(error)) => {
                Err(RestoreError::new("restore.content", format!("the backup's content cannot be read: {error}")))
            }
            Err(Failure::Archive(message)) => {
                Err(RestoreError::new("restore.load_failed", format!("pg_restore failed: {message}")))
            }
            Err(Failure::Lost(error)) => Err(error.into()),
            Err(Failure::Ours(message)) => Err(RestoreError::passing("restore.tool", message)),
        }
    }

    /// An archive that a newer `pg_dump` wrote than the server's is best read by a `pg_restore` as new. Where there is none, the server's
    /// may do: not every major version changed the archive's format, and `pg_restore` says so when it did.
    fn pg_restore(&self) -> Result<Tool, ToolError> {
        let fit_for =
            |version| self.tools.restore_client(ClientTool::PgRestore, version, self.allow_vulnerable_clients);
        fit_for(self.server_version.max(self.dumped_by)).or_else(|_| fit_for(self.server_version))
    }

    /// The oid of what the dump has gone into.
    async fn filled(&mut self) -> Result<Option<u32>, RestoreError> {
        match &self.plan.target {
            Target::Schema { schema: name, .. } => {
                let waiting = self.plan.new_name();
                let loaded_as = if self.way == Way::OneTransaction { &waiting } else { name };
                Ok(schema(&mut self.c, loaded_as).await?.map(|found| found.oid))
            }
            Target::Database { database } => {
                Ok(new_database::find(&mut self.c, database).await?.map(|found| found.oid))
            }
        }
    }

    /// The marker is a setting of the role, written by the load's own transaction: it is there if and only if that was committed.
    async fn read_marker(&mut self, marker: &str) -> Result<(), RestoreError> {
        let found: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
             WHERE r.rolname = $1 AND s.setdatabase = 0 AND $2 = ANY (s.setconfig))",
        )
        .bind(&self.plan.role)
        .bind(format!("application_name={marker}"))
        .fetch_one(&mut self.c)
        .await?;
        if found {
            Ok(())
        } else {
            Err(RestoreError::new(
                "restore.load_failed",
                "psql reported success, but the transaction of the restore was not committed",
            ))
        }
    }
}

/// What we say to psql before and after the dump.
struct Words {
    opening: String,
    closing: String,
    marker: String,
}

impl Words {
    fn new(session: &Session, restricts: bool) -> Self {
        let plan = &session.plan;
        let (marker, key) = (random_word(), random_word());
        let (restrict, unrestrict) = if restricts {
            (format!("\\restrict {key}\n"), format!("\\unrestrict {key}\n"))
        } else {
            Default::default()
        };
        let (before, after) = match (&session.way, &plan.target, &session.word) {
            // The steps see for themselves whether this still is our transaction, and no other can be committed.
            (Way::OneTransaction, Target::Schema { .. }, Some(word)) => {
                let word = word.expose_secret();
                (format!("BEGIN;\n{}", steps::aside(plan, word)), steps::back(plan, word))
            }
            // A whole database's plain dump has transactions of its own around large objects: nobody sees that database before the end.
            (Way::OneTransaction, ..) => ("BEGIN;\n".to_owned(), String::new()),
            (Way::Aside { .. }, ..) => Default::default(),
        };
        let commit = if session.way == Way::OneTransaction { "COMMIT;\n" } else { "" };
        let opening = format!("{before}{restrict}");
        let closing = format!(
            "\n{unrestrict}{after}ALTER ROLE {} SET application_name = {};\n{commit}",
            ident(&plan.role),
            literal(&marker)
        );
        Self { opening, closing, marker }
    }
}

/// Whether this psql knows `\restrict`. Source: release notes of 18, 17.6, 16.10, 15.14, 14.19 (CVE-2025-8714).
fn restricts(version: u32) -> bool {
    match version / 10_000 {
        14 => version >= 140_019,
        15 => version >= 150_014,
        16 => version >= 160_010,
        17 => version >= 170_006,
        major => major >= 18,
    }
}

enum Failure {
    Cancelled,
    /// psql does not read any more.
    Psql,
    Content(io::Error),
    /// pg_restore's own words.
    Archive(String),
    /// The administrator's connection, and the lock with it.
    Lost(sqlx::Error),
    Ours(String),
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::Ours(format!("a thread of the restore ended early: {error}"))
    }
}

/// Writes everything to psql: opening, content, and, only if all of the content came and was good, the closing with its COMMIT.
async fn feed(
    load: &Load,
    words: &Words,
    leave_out: &LeaveOut,
    psql: &mut Child,
    archive: Option<&mut Child>,
) -> Result<(), Failure> {
    let no_pipe = || Failure::Ours("a pipe of the restore is missing".to_owned());
    let mut to_psql = psql.stdin.take().ok_or_else(no_pipe)?;
    let opening = words.opening.clone();
    let leave_out = leave_out.clone();
    let content = Counted { inner: open(load).await?, bytes: load.loaded_bytes.clone(), reads: 0 };

    let mut to_psql = match archive {
        None => {
            tokio::task::spawn_blocking(move || {
                to_psql.write_all(opening.as_bytes()).map_err(|_| Failure::Psql)?;
                match copy(&mut ScriptReader::new(content, leave_out), &mut to_psql) {
                    Ok(()) => Ok(to_psql),
                    Err(CopyError::Read(e)) => Err(Failure::Content(e)),
                    Err(CopyError::Write) => Err(Failure::Psql),
                }
            })
            .await??
        }
        Some(child) => {
            let to_archive = child.stdin.take().ok_or_else(no_pipe)?;
            let from_archive = child.stdout.take().ok_or_else(no_pipe)?;
            let abandoned = Arc::new(AtomicBool::new(false));
            let unread = || Failure::Ours("the content was not read to its end".to_owned());
            let mut feeder = feed_archive(content, to_archive, abandoned.clone());
            let mut forward = tokio::task::spawn_blocking(move || {
                to_psql.write_all(opening.as_bytes()).map_err(|_| Failure::Psql)?;
                match copy(&mut ScriptReader::new(from_archive, leave_out), &mut to_psql) {
                    Ok(()) => Ok(to_psql),
                    Err(CopyError::Read(e)) => Err(Failure::Archive(e.to_string())),
                    Err(CopyError::Write) => Err(Failure::Psql),
                }
            });
            // The reader's verdict on the content counts first: what pg_restore says about a cut archive is only its consequence.
            let result = tokio::select! {
                fed = &mut feeder => match fed {
                    Ok(Ok(Fed::Whole)) => forward.await.map_err(Failure::from).and_then(|done| done),
                    Ok(Ok(Fed::Part)) => Err(unread()),
                    Ok(Err(e)) => Err(Failure::Content(e)),
                    Err(e) => Err(e.into()),
                },
                done = &mut forward => match done {
                    Ok(Ok(pipe)) => match feeder.await {
                        Ok(Ok(Fed::Whole)) => Ok(pipe),
                        Ok(Ok(Fed::Part)) => Err(unread()),
                        Ok(Err(e)) => Err(Failure::Content(e)),
                        Err(e) => Err(e.into()),
                    },
                    Ok(Err(failure)) => Err(failure),
                    Err(e) => Err(e.into()),
                },
            };
            abandoned.store(true, Ordering::Relaxed);
            if result.is_err() {
                child.kill();
            }
            let pipe = result?;
            let exit = child.wait().await.map_err(|e| Failure::Ours(format!("cannot wait for pg_restore: {e}")))?;
            // Nothing in an archive sends this signal: somebody did, or the machine was out of memory.
            if exit.status.signal() == Some(9) {
                return Err(Failure::Ours("pg_restore was killed".to_owned()));
            }
            if !exit.status.success() {
                return Err(Failure::Archive(last_words(&exit)));
            }
            pipe
        }
    };
    stage::reached(Stage::Fed).await;
    let closing = words.closing.clone();
    tokio::task::spawn_blocking(move || to_psql.write_all(closing.as_bytes()).map_err(|_| Failure::Psql)).await?
}

/// Ends when the administrator's connection does not answer any more: then the lock is gone, and this load with it. The question now
/// and then also keeps a firewall from forgetting the connection during a long load.
async fn lost(c: &mut PgConnection) -> sqlx::Error {
    loop {
        tokio::time::sleep(Duration::from_secs(15)).await;
        if let Err(error) = c.ping().await {
            return error;
        }
    }
}

/// Opens the content on a thread where it may block.
async fn open(load: &Load) -> Result<Box<dyn Read + Send>, Failure> {
    let open = load.content.clone();
    tokio::task::spawn_blocking(move || open()).await?.map_err(Failure::Content)
}

/// How far [`feed_archive`] came.
pub(super) enum Fed {
    /// To the content's good end.
    Whole,
    /// Only as far as pg_restore wanted, because nobody waits for the rest.
    Part,
}

/// Feeds pg_restore. When it stops reading early (an archive's end may be of no interest to it) the content is read on to its
/// end all the same: only there is it known to be good.
pub(super) fn feed_archive(
    mut content: impl Read + Send + 'static,
    mut to_archive: File,
    abandoned: Arc<AtomicBool>,
) -> JoinHandle<io::Result<Fed>> {
    tokio::task::spawn_blocking(move || match copy(&mut content, &mut to_archive) {
        Ok(()) => Ok(Fed::Whole),
        Err(CopyError::Read(e)) => Err(e),
        Err(CopyError::Write) => {
            drop(to_archive);
            let mut buffer = vec![0; 256 * 1024];
            while !abandoned.load(Ordering::Relaxed) {
                match content.read(&mut buffer) {
                    Ok(0) => return Ok(Fed::Whole),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(Fed::Part)
        }
    })
}

enum CopyError {
    Read(io::Error),
    Write,
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<(), CopyError> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n]).map_err(|_| CopyError::Write)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(CopyError::Read(e)),
        }
    }
}

/// Counts the bytes that were read.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
    reads: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // With the second piece asked for, most of the first is on its way to the server.
        if self.reads == 1 {
            stage::reached_here(Stage::Loading);
        }
        self.reads += 1;
        let n = self.inner.read(out)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

pub(super) fn cannot_start(program: &str, error: &io::Error) -> RestoreError {
    RestoreError::passing("restore.tool", format!("cannot start {program}: {error}"))
}

/// The end of a program's standard error, at most about 2000 characters.
pub(super) fn last_words(exit: &Exit) -> String {
    let text = exit.stderr.trim();
    if text.is_empty() {
        return format!("it ended with {} and said nothing", exit.status);
    }
    let skip = text.chars().count().saturating_sub(2000);
    text.chars().skip(skip).collect()
}

fn psql_failed(exit: &Exit) -> RestoreError {
    let message = format!("psql failed: {}", last_words(exit));
    // The words of the server's hint for a full lock table; a dump that says them itself is loaded the other way, and gains nothing.
    if message.contains("max_locks_per_transaction") {
        return RestoreError::new("restore.too_many_locks", message);
    }
    match exit.status.code() {
        // 3: an error in the script. 2: the connection was lost. None: it was killed. Source: psql's manual, "Exit Status".
        Some(2) | None => RestoreError::passing("restore.load_failed", message),
        _ => RestoreError::new("restore.load_failed", message),
    }
}
