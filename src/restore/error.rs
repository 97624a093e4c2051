//! Why a restore failed.

use crate::postgres::tools::ToolError;

/// Why a step of a restore failed, in words for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RestoreError {
    pub message: String,
    /// A stable word, such as `restore.load_failed`.
    pub code: &'static str,
    /// Whether trying again can help (server down) or not (a statement of the dump fails).
    pub may_pass: bool,
}

impl RestoreError {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), code, may_pass: false }
    }

    pub(super) fn passing(code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), code, may_pass: true }
    }

    pub(super) fn cancelled() -> Self {
        Self::new("restore.cancelled", "the restore was cancelled")
    }
}

impl From<sqlx::Error> for RestoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(refusal) => {
                // Class 53: no resources; 57: shut down or terminated; 40: serialization; 55: busy.
                // Source: postgresql.org/docs/current/errcodes-appendix.html.
                let state = refusal.code().unwrap_or_default();
                let may_pass = ["53", "57", "40", "55"].iter().any(|class| state.starts_with(class));
                Self {
                    message: format!("the database refused: {}", refusal.message()),
                    code: "restore.refused",
                    may_pass,
                }
            }
            other => Self::passing("restore.unreachable", format!("the database cannot be reached: {other}")),
        }
    }
}

impl From<ToolError> for RestoreError {
    fn from(error: ToolError) -> Self {
        Self::new("restore.tool", error.to_string())
    }
}
