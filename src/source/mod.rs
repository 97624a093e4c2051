//! Where a backup's bytes come from. A [`Source`] starts a stream and, when it has ended, says whether it ended *well*: the end
//! of a stream alone is not success.

mod dump_reader;
mod failure;
pub mod files;
pub mod pg_dump;
pub mod pipe;
pub mod project_logs;

use std::io::Read;

use async_trait::async_trait;

use crate::manifest::Content;

/// Why a source failed, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    pub message: String,
    /// Whether trying again can help (server down, lock timeout) or not (no such schema, wrong password).
    pub may_pass: bool,
    /// A stable word, such as `source.unreachable`.
    pub code: &'static str,
}

/// What was found out about the content while it was read.
#[derive(Clone, Debug)]
pub struct SourceReport {
    pub holds: Content,
}

/// How many of a database's tables have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    pub done: u64,
    pub all: u64,
}

/// One run of a source: `start`, read to the end, then `finish`; or `abort` at any point.
#[async_trait]
pub trait Source: Send {
    /// Starts the run. The reader blocks, is read on a thread of its own, and reaches its end when the source ends or is aborted.
    async fn start(&mut self) -> Result<Box<dyn Read + Send>, SourceError>;

    /// How many tables have passed through the reader, where the bytes tell.
    fn tables(&self) -> Option<Tables> {
        None
    }

    /// Waits for the source's own verdict: exit status, the schema still the same one. Only `Ok` means that all bytes came.
    async fn finish(self: Box<Self>) -> Result<SourceReport, SourceError>;

    /// Ends the run at once and frees everything; the reader then ends.
    async fn abort(self: Box<Self>);
}
