//! A schema or a whole database, by `pg_dump`, in one snapshot with its proof.
//!
//! Our own connection locks the tables, opens the snapshot, exports the snapshot to `pg_dump`, and counts in it while
//! `pg_dump` writes. Only when `pg_dump` has ended well, the counts are there and those of the dump's own lines, and the schema's
//! name still means the same schema, is the dump good.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::process::ExitStatusExt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::types::Oid};
use tokio::task::JoinHandle;

use super::{
    Source, SourceError, SourceReport, Tables,
    dump_reader::{DumpReader, Seen},
    failure::{classify_words, from_sql, last_words},
};
pub use crate::postgres::chosen::TableChoice;
use crate::{
    artifact::Format,
    child::{Child, Command},
    manifest::{Content, DatabaseContent, DumpScope, ObjectOwnership, Partial, TableName, TableRows},
    postgres::{
        chosen::{self, ChoiceError, Chosen},
        connect::ConnectInfo,
        inspect::{self, Locks, SIDE_SCHEMAS, Selection},
        ownership,
        quote::{dump_pattern, qualified},
        tools::{ChildEnvironment, ClientTool, Tool, Tools, display_version},
    },
    proof::{self, DumpedRows, NotWhole},
    proof_record::{Proof, ProofLevel},
};

/// Longest time to reach the server and be let in. A server that does not answer at all would hold a worker for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Snapshots that are taken until the tables stay as they are. The first one tells which to lock; where nobody makes or drops any, the second is it.
const MOST_SNAPSHOTS: u32 = 20;

/// The oldest server that is supported: from version 14 there is `pg_read_all_data`, which the dump role needs.
const OLDEST_SERVER: u32 = 140_000;

/// Whether a name leads nowhere, or to what is no table any more: `undefined_table`, `invalid_schema_name`, `wrong_object_type`.
fn is_about_what_is_gone(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(&*code, "42P01" | "3F000" | "42809"))
}

/// What every complete plain dump ends with. Source: `RestoreArchive` in PostgreSQL's `pg_backup_archiver.c`.
const LAST_LINE: &[u8] = b"-- PostgreSQL database dump complete";

/// Bytes in which it is: after it come only `\unrestrict` with its key and line ends.
const LAST_LINES: usize = 512;

/// What every custom archive begins with. Source: `WriteHead` in the same file.
const FIRST_WORD: &[u8] = b"PGDMP";

/// Bytes of nothing that every tar archive ends with, two blocks. Source: `_CloseArchive` in pg_backup_tar.c.
const EMPTY_BLOCKS: usize = 1024;

/// What to dump and how.
#[derive(Clone, Debug)]
pub struct PgDumpOptions {
    pub connect: ConnectInfo,
    pub scope: DumpScope,
    pub format: Format,
    /// Level of `pg_dump`'s own compression of the custom format; `None` is its default. The other formats are compressed by
    /// us, so it does not apply to them.
    pub compress_level: Option<u32>,
    /// Longest wait for a table that someone has locked.
    pub lock_wait: Duration,
    /// The `pg_dump` to use; `None` finds the best one for the server.
    pub tool: Option<Tool>,
    /// Schemas to leave out of a whole database.
    pub exclude_schemas: Vec<String>,
}

/// One run of `pg_dump`. Dropping it ends the run.
pub struct PgDump {
    tools: Arc<Tools>,
    options: PgDumpOptions,
    choice: TableChoice,
    /// Schema and table.
    without_rows: Vec<(String, String)>,
    proof: ProofLevel,
    run: Option<Run>,
}

/// What is there between start and end.
struct Run {
    child: Child,
    inspection: Inspection,
    seen: Arc<Seen>,
    tool: Tool,
    server_version: u32,
    /// The schema as it was when the snapshot was taken; `None` for a whole database.
    schema: Option<u32>,
    chosen: Option<Arc<Chosen>>,
    /// How many tables' rows are looked for while they pass, if any are.
    tables: Option<u64>,
    /// Holds the password file.
    _environment: ChildEnvironment,
}

/// Counting, on a task; dropping it stops it and closes its connection.
#[derive(Debug)]
struct Inspection(JoinHandle<(PgConnection, Result<Found, SourceError>)>);

impl Drop for Inspection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was found in the snapshot.
#[derive(Debug)]
struct Found {
    table_count: u64,
    tables: Vec<TableRows>,
    proof: Proof,
    sequences: Vec<crate::manifest::SequenceValue>,
    ownership: Vec<ObjectOwnership>,
    requirements: crate::manifest::Requirements,
}

impl PgDump {
    pub fn new(tools: Arc<Tools>, options: PgDumpOptions) -> Self {
        let (choice, without_rows, proof) = (TableChoice::default(), Vec::new(), ProofLevel::Full);
        Self { tools, options, choice, without_rows, proof, run: None }
    }

    /// How much is proved in the dump's snapshot; [`ProofLevel::Full`] unless said.
    #[must_use]
    pub fn proving(mut self, level: ProofLevel) -> Self {
        self.proof = level;
        self
    }

    /// Leaves out the rows of these tables, each a schema and a name. They count as empty, as they are after a restore.
    #[must_use]
    pub fn without_rows_of(mut self, tables: Vec<(String, String)>) -> Self {
        self.without_rows = tables;
        self
    }

    /// Takes only a part of the scope.
    #[must_use]
    pub fn choosing(mut self, choice: TableChoice) -> Self {
        self.choice = choice;
        self
    }

    fn selection<'a>(options: &'a PgDumpOptions, only: Option<&'a [Oid]>) -> Selection<'a> {
        Selection { scope: &options.scope, exclude: &options.exclude_schemas, locks: Locks::GivenBack, only }
    }

    /// The tables whose rows are dumped.
    fn filled<'a>(options: &'a PgDumpOptions, chosen: Option<&'a Chosen>) -> Selection<'a> {
        Self::selection(options, chosen.map(|chosen| chosen.filled.as_slice()))
    }

    /// What was asked for, as the catalog has it in this snapshot. `None`: everything.
    async fn choose(
        &self,
        connection: &mut PgConnection,
        info: &ConnectInfo,
    ) -> Result<Option<Arc<Chosen>>, SourceError> {
        if self.choice.is_everything() {
            return Ok(None);
        }
        let selection = Self::selection(&self.options, None);
        chosen::choose(connection, selection, &self.choice).await.map(|chosen| Some(Arc::new(chosen))).map_err(
            |error| match error {
                ChoiceError::Database(error) => from_sql(info, error),
                ChoiceError::Unknown { .. } | ChoiceError::Ambiguous { .. } | ChoiceError::Nothing => {
                    SourceError { message: error.to_string(), may_pass: false, code: "source.no_table" }
                }
            },
        )
    }

    /// The sequences that are in the dump.
    fn sequences_of<'a>(&'a self, run: &'a Run) -> Selection<'a> {
        Self::selection(&self.options, run.chosen.as_deref().map(|chosen| chosen.sequences.as_slice()))
    }

    /// Begins the transaction that everything is read in. Every table that its snapshot shows was locked before the snapshot was taken: what a
    /// migration did while we waited is wholly in it, or has not begun. In an older snapshot a table that was rewritten since is empty (PostgreSQL
    /// manual, 13.6, Caveats), and `COPY` looks for today's columns in the rows of then. Gives the schema and what was chosen.
    async fn look(
        &self,
        connection: &mut PgConnection,
        info: &ConnectInfo,
    ) -> Result<(Option<u32>, Option<Arc<Chosen>>), SourceError> {
        let sql = |error: sqlx::Error| from_sql(info, error);
        let mut locked = Vec::new();
        for _ in 0..MOST_SNAPSHOTS {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            sqlx::raw_sql(begin).execute(&mut *connection).await.map_err(sql)?;
            match inspect::lock(connection, &locked).await {
                Ok(()) => {
                    let schema = match &self.options.scope {
                        DumpScope::Database { .. } => None,
                        DumpScope::Schema { schema } => {
                            let found = inspect::schema_oid(connection, schema).await.map_err(sql)?;
                            Some(found.ok_or_else(|| no_schema(schema, info))?)
                        }
                    };
                    let chosen = self.choose(connection, info).await?;
                    let defined = chosen.as_ref().map(|chosen| chosen.defined.as_slice());
                    let shown = inspect::tables(connection, Self::selection(&self.options, defined)).await;
                    let shown = shown.map_err(sql)?;
                    if shown == locked {
                        return Ok((schema, chosen));
                    }
                    locked = shown;
                }
                Err(error) if is_about_what_is_gone(&error) => locked.clear(),
                Err(error) => return Err(sql(error)),
            }
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.map_err(sql)?;
        }
        Err(SourceError {
            message: format!("tables of {info} were made, replaced or dropped whenever the dump took its snapshot"),
            may_pass: true,
            code: "source.changed",
        })
    }

    async fn begin(&mut self) -> Result<(Run, File), SourceError> {
        let options = &self.options;
        let mut info = options.connect.clone();
        if let DumpScope::Database { database } = &options.scope {
            info.database.clone_from(database);
        }
        let sql = |error: sqlx::Error| from_sql(&info, error);
        let mut connection = connect(&info).await?;
        let server_version = inspect::server_version(&mut connection).await.map_err(sql)?;
        let tool = self.tool_for(server_version)?;
        // Known by what it holds, whatever names lead here: no project's backup has other tenants' rows, or sealed secrets.
        if matches!(options.scope, DumpScope::Database { .. }) {
            let holds_control_plane: bool =
                sqlx::query_scalar("SELECT pg_catalog.to_regclass('control_plane.backup_copies') IS NOT NULL")
                    .fetch_one(&mut connection)
                    .await
                    .map_err(sql)?;
            if holds_control_plane {
                self.options.exclude_schemas.push("control_plane".to_owned());
            }
        }
        let options = &self.options;

        let lock_wait = options.lock_wait.as_millis().clamp(1, i32::MAX as u128);
        // With it the server notices that we are gone even while it counts. Refused by servers on some systems; not needed.
        drop(sqlx::raw_sql("SET client_connection_check_interval = '5s'").execute(&mut connection).await);
        // Without help from parallel workers counting still ends before the dump, and the tenants keep their processors.
        let settings =
            format!("{}; SET lock_timeout = {lock_wait}; SET max_parallel_workers_per_gather = 0", proof::SETTINGS);
        sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut connection).await.map_err(sql)?;
        let (schema, chosen) = self.look(&mut connection, &info).await?;
        let (snapshot, encoding): (String, String) =
            sqlx::query_as("SELECT pg_catalog.pg_export_snapshot(), pg_catalog.current_setting('server_encoding')")
                .fetch_one(&mut connection)
                .await
                .map_err(sql)?;

        let dumped = if options.format == Format::Sql {
            let filled = Self::filled(options, chosen.as_deref());
            proof::dumped_rows(&mut connection, filled, &encoding, self.proof).await.map_err(sql)?
        } else {
            None
        };
        let rows_are_dumped = dumped.is_some();
        let tables = dumped.as_ref().map(DumpedRows::wanted);

        // An error of ours ends only what is after this: the snapshot stays for `pg_dump`, whose words tell people more.
        sqlx::raw_sql("SAVEPOINT counting").execute(&mut connection).await.map_err(sql)?;

        let cannot = |error: io::Error| SourceError {
            message: format!("cannot run {}: {error}", tool.path.display()),
            may_pass: false,
            code: "source.tool",
        };
        let environment = ChildEnvironment::new(&info, &[]).map_err(cannot)?;
        let arguments = self.arguments(&snapshot, lock_wait, &encoding, chosen.as_deref())?;
        // In the time zone of the proof. A variable of libpq's own, which connection poolers let pass, unlike `PGOPTIONS`.
        let command = Command::new(&tool.path).args(arguments).env("PGTZ", "UTC").stdout_pipe();
        let mut child = environment.apply(command).spawn().await.map_err(cannot)?;
        let stdout = child.stdout.take().ok_or_else(|| cannot(io::Error::other("it has no standard output")))?;
        let level = (self.proof, rows_are_dumped);
        let inspection =
            Inspection(tokio::spawn(find(connection, options.clone(), level, chosen.clone(), info.clone())));
        let seen = Arc::new(Seen { rows: Mutex::new(dumped), ..Seen::default() });
        let _environment = environment;
        let run = Run { child, inspection, seen, tool, server_version, schema, chosen, tables, _environment };
        Ok((run, stdout))
    }

    fn tool_for(&self, server_version: u32) -> Result<Tool, SourceError> {
        let refuse = |message: String| SourceError { message, may_pass: false, code: "source.tool" };
        if server_version < OLDEST_SERVER {
            let version = display_version(server_version);
            return Err(refuse(format!("the server is version {version}: version 14 or newer is needed")));
        }
        match &self.options.tool {
            Some(tool) => Ok(tool.clone()),
            None => self.tools.client(ClientTool::PgDump, server_version).map_err(|error| refuse(error.to_string())),
        }
    }

    /// Everything but how to reach the server, which is in the environment. Each as `--option=value`, so that no value can be
    /// taken for an option.
    fn arguments(
        &self,
        snapshot: &str,
        lock_wait_millis: u128,
        server_encoding: &str,
        chosen: Option<&Chosen>,
    ) -> Result<Vec<String>, SourceError> {
        let options = &self.options;
        let format = match options.format {
            Format::Sql => "p",
            Format::Tar => "t",
            Format::Custom => "c",
            Format::Json | Format::Text => {
                let message = format!("pg_dump does not write the format {}", options.format);
                return Err(SourceError { message, may_pass: false, code: "source.internal" });
            }
        };
        let mut arguments = vec![
            format!("--format={format}"),
            "--no-owner".to_owned(),
            "--no-acl".to_owned(),
            "--no-password".to_owned(),
            "--strict-names".to_owned(),
            format!("--lock-wait-timeout={lock_wait_millis}"),
            format!("--snapshot={snapshot}"),
        ];
        if let (Format::Custom, Some(level)) = (options.format, options.compress_level) {
            arguments.push(format!("--compress={level}"));
        }
        let named = chosen.map_or_else(Vec::new, |chosen| by_table(&chosen.partial));
        let has_tables = chosen.is_some_and(|chosen| chosen.partial.tables.is_some());
        match &options.scope {
            // Tables that are named come from their schemas: those named beside them would be ignored.
            _ if has_tables => {}
            DumpScope::Schema { schema } => arguments.push(format!("--schema={}", dump_pattern(schema))),
            DumpScope::Database { .. } => {
                let named = options.exclude_schemas.iter().map(|schema| dump_pattern(schema));
                let sides = SIDE_SCHEMAS.iter().map(|prefix| format!("{}*", dump_pattern(prefix)));
                arguments.extend(named.chain(sides).map(|pattern| format!("--exclude-schema={pattern}")));
            }
        }
        arguments.extend(named);
        let without_rows = self.without_rows.iter().map(|(schema, table)| qualified(schema, table));
        arguments.extend(without_rows.map(|table| format!("--exclude-table-data={table}")));
        // `pg_dump` reads names in the database's encoding unless told otherwise; we have them in UTF-8. Those of a whole database's schemas
        // are our own.
        if !arguments.iter().all(|argument| argument.is_ascii()) && !matches!(server_encoding, "UTF8" | "SQL_ASCII") {
            arguments.push("--encoding=UTF8".to_owned());
        }
        Ok(arguments)
    }

    /// What is wrong with the bytes of a `pg_dump` that claims success.
    fn incomplete(&self, seen: &Seen) -> Option<SourceError> {
        let failed = |message: &str, code| Some(SourceError { message: message.to_owned(), may_pass: false, code });
        if seen.bytes.load(Ordering::Acquire) == 0 {
            return failed("pg_dump ended with success but wrote nothing", "source.empty");
        }
        let tail = seen.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let is_complete = match self.options.format {
            Format::Sql => {
                let end = &tail[tail.len().saturating_sub(LAST_LINES)..];
                end.windows(LAST_LINE.len()).any(|window| window == LAST_LINE)
            }
            // Its end is checked by `pg_restore`, which needs it whole.
            Format::Custom => *seen.head.lock().unwrap_or_else(PoisonError::into_inner) == FIRST_WORD,
            Format::Tar => tail.len() == EMPTY_BLOCKS && tail.iter().all(|byte| *byte == 0),
            Format::Json | Format::Text => false,
        };
        if is_complete {
            None
        } else {
            failed("pg_dump ended with success but its output is cut short", "source.incomplete")
        }
    }

    /// Proves the rows that are in the dump: those of tables that are left out count as none.
    async fn prove_rows(
        &self,
        connection: &mut PgConnection,
        run: &Run,
        found: &mut Found,
    ) -> Result<Result<(), NotWhole>, SourceError> {
        let is_left_out = |schema: &str, table: &str| {
            self.without_rows.iter().any(|(of_schema, name)| (of_schema.as_str(), name.as_str()) == (schema, table))
        };
        let dumped = run.seen.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut proved = Ok(());
        if let Some(dumped) = dumped {
            proved = proof::complete(connection, dumped, is_left_out, &mut found.tables, &mut found.proof)
                .await
                .map_err(|error| from_sql(&self.options.connect, error))?;
        }
        found.tables.iter_mut().filter(|t| is_left_out(&t.schema, &t.table)).for_each(|table| table.rows = 0);
        found.proof.rows.retain(|t| !is_left_out(&t.schema, &t.table));
        Ok(proved)
    }

    /// A fresh look, after the snapshot: is the schema of this name still the one that was dumped?
    async fn is_still_the_same(&self, mut connection: PgConnection, run: &Run) -> Result<(), SourceError> {
        let DumpScope::Schema { schema } = &self.options.scope else { return Ok(()) };
        let info = &self.options.connect;
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.map_err(|error| from_sql(info, error))?;
        let now = inspect::schema_oid(&mut connection, schema).await.map_err(|error| from_sql(info, error))?;
        drop(connection.close().await);
        if now == run.schema {
            return Ok(());
        }
        Err(SourceError {
            message: format!("schema {schema:?} was replaced or renamed while it was being dumped"),
            may_pass: true,
            code: "source.changed",
        })
    }
}

#[async_trait]
impl Source for PgDump {
    async fn start(&mut self) -> Result<Box<dyn Read + Send>, SourceError> {
        let (run, stdout) = self.begin().await?;
        let reader = DumpReader::new(stdout, Arc::clone(&run.seen));
        self.run = Some(run);
        Ok(Box::new(reader))
    }

    fn tables(&self) -> Option<Tables> {
        let run = self.run.as_ref()?;
        let all = run.tables?;
        Some(Tables { done: run.seen.tables.load(Ordering::Acquire).min(all), all })
    }

    async fn finish(mut self: Box<Self>) -> Result<SourceReport, SourceError> {
        let not_started = || SourceError {
            message: "the dump was never started".to_owned(),
            may_pass: false,
            code: "source.internal",
        };
        let mut run = self.run.take().ok_or_else(not_started)?;
        let exit = run.child.wait().await.map_err(|error| SourceError {
            message: format!("cannot wait for pg_dump: {error}"),
            may_pass: true,
            code: "source.failed",
        })?;
        let words = last_words(&exit.stderr);
        if !exit.status.success() {
            let how = match (exit.status.code(), exit.status.signal()) {
                (Some(code), _) => format!("pg_dump failed with exit status {code}"),
                (None, signal) => format!("pg_dump was killed by signal {}", signal.unwrap_or_default()),
            };
            let message = if words.is_empty() { how } else { format!("{how}: {words}") };
            let (may_pass, code) = match (classify_words(&exit.stderr), exit.status.signal()) {
                (Some(known), _) => known,
                // By the kernel for want of memory, or by an operator.
                (None, Some(_)) => (true, "source.killed"),
                // Words in another language: our own connection may have met the same trouble, with an error code.
                (None, None) => run.trouble().await.unwrap_or((false, "source.failed")),
            };
            return Err(SourceError { message, may_pass, code });
        }
        if let Some(error) = self.incomplete(&run.seen) {
            return Err(error);
        }
        if !words.is_empty() {
            tracing::warn!(%words, "pg_dump succeeded with warnings");
        }
        let (mut connection, mut found) = run.found().await?;
        let proved = self.prove_rows(&mut connection, &run, &mut found).await?;
        let sequences = inspect::sequences(&mut connection, self.sequences_of(&run)).await;
        let sequences = sequences.map_err(|error| from_sql(&self.options.connect, error))?;
        found.proof.moved_sequences = proof::moved(&found.sequences, sequences);
        self.is_still_the_same(connection, &run).await?;
        proved.map_err(|NotWhole { schema, table, dumped, rows }| {
            let table = qualified(&schema, &table);
            let message = format!("pg_dump ended with success but wrote {dumped} of {rows} rows of table {table}");
            SourceError { message, may_pass: true, code: "source.incomplete" }
        })?;
        Ok(SourceReport {
            holds: Content::Database(DatabaseContent {
                scope: self.options.scope.clone(),
                partial: run.chosen.as_ref().map(|chosen| chosen.partial.clone()),
                server_version: run.server_version,
                tool_version: run.tool.version,
                table_count: found.table_count,
                row_count: found.tables.iter().map(|table| table.rows).sum(),
                tables: found.tables,
                sequences: found.sequences,
                ownership: found.ownership,
                requirements: found.requirements,
                proof: Some(found.proof),
            }),
        })
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(mut run) = self.run.take() {
            run.child.kill();
            // Reaped, so that nothing of it is left when this returns.
            drop(run.child.wait().await);
        }
    }
}

impl Run {
    /// Waits for the counts.
    async fn found(&mut self) -> Result<(PgConnection, Found), SourceError> {
        let internal = |error| SourceError {
            message: format!("counting failed: {error}"),
            may_pass: false,
            code: "source.internal",
        };
        let (connection, found) = (&mut self.inspection.0).await.map_err(internal)?;
        Ok((connection, found?))
    }

    /// The trouble that our own connection has met, if it has any.
    async fn trouble(&mut self) -> Option<(bool, &'static str)> {
        if !self.inspection.0.is_finished() {
            return None;
        }
        match self.found().await {
            Err(error) => Some((error.may_pass, error.code)),
            Ok((mut connection, _)) => match connection.ping().await {
                Ok(()) => None,
                Err(_) => Some((true, "source.unreachable")),
            },
        }
    }
}

/// A partial dump's tables as `pg_dump`'s options. Each name is quoted, so that it is no pattern.
fn by_table(partial: &Partial) -> Vec<String> {
    let lists = [
        ("table", partial.tables.as_deref().unwrap_or_default()),
        ("exclude-table", &partial.exclude_tables),
        ("exclude-table-data", &partial.exclude_table_data),
    ];
    let option = |option, name: &TableName| format!("--{option}={}", qualified(&name.schema, &name.table));
    lists.into_iter().flat_map(|(name, tables)| tables.iter().map(move |table| option(name, table))).collect()
}

async fn connect(info: &ConnectInfo) -> Result<PgConnection, SourceError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, info.connect()).await {
        Ok(connected) => connected.map_err(|error| from_sql(info, error)),
        Err(_) => Err(SourceError {
            message: format!("cannot reach {info}: no answer within {} seconds", CONNECT_TIMEOUT.as_secs()),
            may_pass: true,
            code: "source.unreachable",
        }),
    }
}

fn no_schema(schema: &str, info: &ConnectInfo) -> SourceError {
    SourceError {
        message: format!("schema {schema:?} does not exist in {info}"),
        may_pass: false,
        code: "source.no_schema",
    }
}

/// Counts and collects, in the snapshot, on the connection that holds it. The connection comes back in any case: without it
/// `pg_dump`, which may not have taken the snapshot over yet, would fail for a reason that is not its own.
async fn find(
    mut connection: PgConnection,
    options: PgDumpOptions,
    (level, rows_are_dumped): (ProofLevel, bool),
    chosen: Option<Arc<Chosen>>,
    info: ConnectInfo,
) -> (PgConnection, Result<Found, SourceError>) {
    let of = |which: fn(&Chosen) -> &Vec<Oid>| {
        PgDump::selection(&options, chosen.as_deref().map(|chosen| which(chosen).as_slice()))
    };
    let found = async {
        let whole = PgDump::selection(&options, None);
        let table_count = inspect::table_count(&mut connection, of(|chosen| &chosen.defined)).await?;
        let sequences = inspect::sequences(&mut connection, of(|chosen| &chosen.sequences)).await?;
        let requirements = inspect::requirements(&mut connection, whole).await?;
        let ownership = match &chosen {
            None => owners(&mut connection, &options).await?,
            // It is restored by nobody who could give them back.
            Some(_) => Vec::new(),
        };
        let request = proof::Request {
            level,
            rows_are_dumped,
            whole,
            filled: PgDump::filled(&options, chosen.as_deref()),
            is_partial: chosen.is_some(),
            requirements: &requirements,
        };
        let proof::Taken { tables, proof } = proof::take(&mut connection, request).await?;
        Ok::<_, sqlx::Error>(Found { table_count, tables, proof, sequences, ownership, requirements })
    };
    let found = found.await.map_err(|error| from_sql(&info, error));
    (connection, found)
}

/// Owners and grants of what is dumped: of a whole database, without those of the schemas that are left out.
async fn owners(connection: &mut PgConnection, options: &PgDumpOptions) -> Result<Vec<ObjectOwnership>, sqlx::Error> {
    let mut ownership = ownership::collect(connection, &options.scope).await?;
    if matches!(options.scope, DumpScope::Schema { .. }) {
        return Ok(ownership);
    }
    let left_out: Vec<String> = sqlx::query_scalar(
        "SELECT pg_catalog.quote_ident(nspname) FROM pg_catalog.pg_namespace WHERE nspname::text = ANY ($1) \
         OR EXISTS (SELECT FROM pg_catalog.unnest($2) AS side WHERE pg_catalog.starts_with(nspname::text, side))",
    )
    .bind(&options.exclude_schemas)
    .bind(&SIDE_SCHEMAS[..])
    .fetch_all(connection)
    .await?;
    ownership.retain(|object| {
        !left_out.iter().any(|schema| match object.identity.strip_prefix(schema.as_str()) {
            Some(rest) => rest.starts_with('.') || (rest.is_empty() && object.kind == "schema"),
            None => false,
        })
    });
    Ok(ownership)
}
