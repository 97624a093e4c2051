//! One project's rows of `control_plane.project_logs`, by `COPY … TO STDOUT`, in one snapshot with its proof.
//!
//! The rows are counted in the snapshot before they are copied, and every row is one line, so that lines which did not come are noticed.
//! Nothing is gathered: the server sends a row at a time, and waits when nobody reads.

use std::io::Read;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;

use super::{
    Source, SourceError, SourceReport,
    failure::from_sql,
    pipe::{PipeWriter, pipe},
};
use crate::{
    clock::Timestamp,
    manifest::{Content, LogsContent},
    postgres::{connect::ConnectInfo, inspect, quote::literal},
};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line: `id`, `created_at`, `level`, `message`, `metadata`.
    Json,
    /// Time, level, message and metadata, separated by tabs. Line breaks, tabs and backslashes in them are written `\n`, `\t` and `\\`, as
    /// PostgreSQL's text form of COPY does, so that a row is a line in any case.
    Text,
}

/// Which rows, and how.
#[derive(Clone, Debug)]
pub struct ProjectLogsOptions {
    /// The control plane.
    pub connect: ConnectInfo,
    pub project_id: String,
    pub format: LogFormat,
    /// Rows of this instant and later.
    pub from: Option<Timestamp>,
    /// Rows before this instant.
    pub until: Option<Timestamp>,
}

/// One run. Dropping it ends the run.
#[derive(Debug)]
pub struct ProjectLogs {
    options: ProjectLogsOptions,
    run: Option<Run>,
}

/// What is there between start and end.
#[derive(Debug)]
struct Run {
    copying: Copying,
    server_version: u32,
    expected: Counted,
}

/// The copying task, which gives the number of lines; dropping it stops it and closes its connection.
#[derive(Debug)]
struct Copying(JoinHandle<Result<u64, SourceError>>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the snapshot has.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Counted {
    rows: i64,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
}

impl ProjectLogs {
    pub fn new(options: ProjectLogsOptions) -> Self {
        Self { options, run: None }
    }

    /// The rows' condition. Nothing from outside is in it but a quoted literal and two instants that are written here: COPY takes no
    /// parameters.
    fn condition(&self) -> String {
        let ProjectLogsOptions { project_id, from, until, .. } = &self.options;
        let mut condition = format!("project_id = {}", literal(project_id));
        for (operator, at) in [(">=", from), ("<", until)] {
            if let Some(at) = at {
                condition.push_str(&format!(" AND created_at {operator} '{}'::timestamptz", instant(*at)));
            }
        }
        condition
    }

    /// In the order of the index on project and time; rows of one instant in the order of their ids.
    fn copy_statement(&self) -> String {
        let rows = format!("FROM control_plane.project_logs WHERE {} ORDER BY created_at, id", self.condition());
        match self.options.format {
            // JSON escapes all control characters, so quote and delimiter never occur: each value is written as it is. (The text form would
            // double the backslashes.)
            LogFormat::Json => format!(
                "COPY (SELECT pg_catalog.row_to_json(line) FROM (SELECT id, created_at, level, message, metadata {rows}) AS line) \
                 TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
            ),
            LogFormat::Text => format!(
                "COPY (SELECT pg_catalog.to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), level, message, \
                 metadata {rows}) TO STDOUT"
            ),
        }
    }

    async fn begin(&self) -> Result<(PgConnection, u32, Counted), SourceError> {
        let info = &self.options.connect;
        let sql = |error: sqlx::Error| from_sql(info, error);
        let mut connection = info.connect().await.map_err(sql)?;
        let server_version = inspect::server_version(&mut connection).await.map_err(sql)?;
        // Times are written in the session's zone.
        sqlx::raw_sql("SET TIME ZONE 'UTC'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut connection)
            .await
            .map_err(sql)?;
        let count = format!(
            "SELECT count(*) AS rows, min(created_at) AS oldest, max(created_at) AS newest FROM control_plane.project_logs WHERE {}",
            self.condition()
        );
        let expected = sqlx::query_as(AssertSqlSafe(count)).fetch_one(&mut connection).await.map_err(sql)?;
        Ok((connection, server_version, expected))
    }
}

/// An instant as PostgreSQL reads it whatever its settings; to the microsecond, which is what it keeps.
fn instant(at: Timestamp) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Copies into the pipe and gives the number of lines.
async fn copy(
    mut connection: PgConnection,
    statement: String,
    info: ConnectInfo,
    mut writer: PipeWriter,
) -> Result<u64, SourceError> {
    let sql = |error: sqlx::Error| from_sql(&info, error);
    let given_up = |_| SourceError {
        message: "the log lines were no longer wanted".to_owned(),
        may_pass: true,
        code: "source.interrupted",
    };
    let mut lines = 0;
    {
        let mut rows = connection.copy_out_raw(&statement).await.map_err(sql)?;
        while let Some(row) = rows.try_next().await.map_err(sql)? {
            lines += row.iter().filter(|byte| **byte == b'\n').count() as u64;
            writer.write(&row).await.map_err(given_up)?;
        }
    }
    writer.finish().await.map_err(given_up)?;
    // All came: a server that goes now changes nothing.
    drop(connection.close().await);
    Ok(lines)
}

#[async_trait]
impl Source for ProjectLogs {
    async fn start(&mut self) -> Result<Box<dyn Read + Send>, SourceError> {
        let (connection, server_version, expected) = self.begin().await?;
        let (writer, reader) = pipe();
        let task = copy(connection, self.copy_statement(), self.options.connect.clone(), writer);
        self.run = Some(Run { copying: Copying(tokio::spawn(task)), server_version, expected });
        Ok(Box::new(reader))
    }

    async fn finish(mut self: Box<Self>) -> Result<SourceReport, SourceError> {
        let internal = |message: String| SourceError { message, may_pass: false, code: "source.internal" };
        let mut run = self.run.take().ok_or_else(|| internal("the copy was never started".to_owned()))?;
        let copied = (&mut run.copying.0).await.map_err(|error| internal(format!("copying failed: {error}")))?;
        let row_count = copied?;
        let Counted { rows, oldest, newest } = run.expected;
        if row_count != rows.unsigned_abs() {
            return Err(SourceError {
                message: format!("{row_count} log lines came, the snapshot has {rows}"),
                may_pass: true,
                code: "source.incomplete",
            });
        }
        let ProjectLogsOptions { from, until, .. } = self.options;
        let server_version = run.server_version;
        Ok(SourceReport {
            holds: Content::Logs(LogsContent { row_count, from, until, oldest, newest, server_version }),
        })
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(mut run) = self.run.take() {
            run.copying.0.abort();
            // Gone, with its connection, when this returns.
            drop((&mut run.copying.0).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(project_id: &str, format: LogFormat, from: Option<Timestamp>) -> ProjectLogs {
        let connect = "postgres://u@h/d".parse().unwrap();
        ProjectLogs::new(ProjectLogsOptions { connect, project_id: project_id.to_owned(), format, from, until: None })
    }

    #[test]
    fn a_project_id_stays_a_text() {
        let statement = logs("x' OR true) TO PROGRAM 'rm' --\\", LogFormat::Json, None).copy_statement();
        assert!(statement.contains(r"project_id =  E'x'' OR true) TO PROGRAM ''rm'' --\\' ORDER BY"), "{statement}");
    }

    #[test]
    fn instants_are_written_to_the_microsecond() {
        let at = "2026-11-21T12:00:00.123456789+01:00".parse::<Timestamp>().unwrap();
        let statement = logs("acme", LogFormat::Text, Some(at)).copy_statement();
        assert!(statement.contains("created_at >= '2026-11-21T11:00:00.123456Z'::timestamptz"), "{statement}");
    }
}
