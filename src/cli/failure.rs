//! How a command ends when it does not succeed: an exit code, a stable word, a message and a hint. Here alone errors become exit
//! codes.

use std::fmt;

use crate::{
    app::OpenError,
    artifact::UnknownWord,
    auth::password::PasswordError,
    catalog::{CatalogError, ManageError},
    config::ConfigError,
    db::MigrateError,
    history::HistoryError,
    jobs::{queue::QueueError, request::RequestError},
    people::PeopleError,
    postgres::tools::ToolError,
    report::StdoutClosed,
    storage,
};

/// The exit codes, as `holdfast --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Unexpected,
    /// The arguments or the configuration are wrong, or the request was refused.
    Refused,
    NotFound,
    /// The backup, restore, verification or deletion was tried and failed.
    JobFailed,
    /// The control plane is not reached or not migrated.
    ControlPlane,
    /// A verification or a look at a storage found damage, or a restore ended with differences.
    Damage,
    /// Ctrl-C while waiting.
    Interrupted,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Refused => 2,
            Self::NotFound => 3,
            Self::JobFailed => 4,
            Self::ControlPlane => 5,
            Self::Damage => 6,
            Self::Interrupted => 130,
        }
    }
}

/// What a person, and with `--json` a program, is told.
#[derive(Clone, Debug)]
pub struct Failure {
    pub exit: Exit,
    /// A stable word such as `backup.not_found`.
    pub code: String,
    /// Lower case, one line where it can be.
    pub message: String,
    /// A sentence that names the remedy.
    pub hint: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with its causes, each said once: many of ours end with their cause's own words.
pub(super) fn text_of(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let said = cause.to_string();
        if !text.contains(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        text
    })
}

impl Failure {
    pub fn new(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { exit, code: code.into(), message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The request is wrong, or refused.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, message)
    }

    /// Makes one of any error: the first known kind along its chain decides.
    pub fn of(error: &anyhow::Error) -> Self {
        let message = text_of(error);
        error.chain().find_map(|cause| Self::known(cause, &message)).unwrap_or_else(|| Self {
            exit: Exit::Unexpected,
            code: "unexpected".to_owned(),
            message,
            hint: None,
        })
    }

    fn known(cause: &(dyn std::error::Error + 'static), message: &str) -> Option<Self> {
        let new = |exit, code: &str| Self::new(exit, code, message);
        if let Some(failure) = cause.downcast_ref::<Self>() {
            return Some(failure.clone());
        }
        if let Some(error) = cause.downcast_ref::<RequestError>() {
            let exit = match error {
                RequestError::NotFound { .. } => Exit::NotFound,
                RequestError::Forbidden(_)
                | RequestError::Invalid { .. }
                | RequestError::Conflict { .. }
                | RequestError::Busy { .. } => Exit::Refused,
                RequestError::Database(_) => Exit::ControlPlane,
            };
            let hint = error.hint().map(str::to_owned).or_else(|| not_found_hint(error.code()));
            return Some(Self { hint, ..new(exit, error.code()) });
        }
        if let Some(error) = cause.downcast_ref::<CatalogError>() {
            return Some(match error {
                CatalogError::NoSuchProject(_) => {
                    Self { hint: not_found_hint("project.not_found"), ..new(Exit::NotFound, "project.not_found") }
                }
                CatalogError::NoSuchDatabase(_) => new(Exit::NotFound, "database.not_found"),
                CatalogError::NotActive { .. } => new(Exit::Refused, "project.not_active"),
                CatalogError::NotWhole(_) => new(Exit::Refused, "project.not_whole"),
                CatalogError::ProjectExists(_) => new(Exit::Refused, "project.exists")
                    .hint("Choose another id, or look at it with `holdfast project list`."),
                CatalogError::Sealed(_) => new(Exit::Refused, "database.sealed")
                    .hint("Every process on one control plane needs the same secrets key: see [secrets] key_file."),
                CatalogError::NamedAsOurs(_) => new(Exit::Refused, "database.name_reserved"),
                CatalogError::Database(_) => new(Exit::ControlPlane, "control_plane.unavailable"),
            });
        }
        if let Some(error) = cause.downcast_ref::<ManageError>() {
            let exit = match error {
                ManageError::NotFound { .. } => Exit::NotFound,
                ManageError::Database(_) => Exit::ControlPlane,
                ManageError::Key(_) => Exit::Unexpected,
                _ => Exit::Refused,
            };
            let hint = error.hint().map(str::to_owned).or_else(|| not_found_hint(error.code()));
            return Some(Self { hint, ..new(exit, error.code()) });
        }
        if let Some(error) = cause.downcast_ref::<HistoryError>() {
            return Some(match error {
                HistoryError::NoSuchBackup(_) => {
                    Self { hint: not_found_hint("backup.not_found"), ..new(Exit::NotFound, "backup.not_found") }
                }
                HistoryError::Database(_) => new(Exit::ControlPlane, "control_plane.unavailable"),
            });
        }
        if let Some(error) = cause.downcast_ref::<QueueError>() {
            return Some(match error {
                QueueError::NoSuchJob(_) => {
                    Self { hint: not_found_hint("job.not_found"), ..new(Exit::NotFound, "job.not_found") }
                }
                QueueError::KeyReused => new(Exit::Refused, "idempotency.reused"),
                QueueError::AlreadyEnded { .. } => new(Exit::Refused, "job.ended"),
                QueueError::LeaseLost(_) | QueueError::TooSlow(_) => new(Exit::Unexpected, "job.lease_lost"),
                QueueError::Database(_) => new(Exit::ControlPlane, "control_plane.unavailable"),
            });
        }
        if let Some(error) = cause.downcast_ref::<PeopleError>() {
            return Some(match error {
                PeopleError::NotFound { .. } => {
                    new(Exit::NotFound, error.code()).hint("`holdfast user list` shows them.")
                }
                PeopleError::NameTaken(_)
                | PeopleError::Invalid(_)
                | PeopleError::LastOperator
                | PeopleError::TooManyKeys(_) => new(Exit::Refused, error.code()),
                PeopleError::Database(_) => new(Exit::ControlPlane, error.code()),
            });
        }
        if let Some(error) = cause.downcast_ref::<PasswordError>() {
            return Some(match error {
                PasswordError::Short | PasswordError::Long => new(Exit::Refused, "user.password"),
                PasswordError::Failed(_) => new(Exit::Unexpected, "unexpected"),
            });
        }
        if let Some(error) = cause.downcast_ref::<OpenError>() {
            return Some(match error {
                OpenError::ControlPlane { .. } => new(Exit::ControlPlane, "control_plane.unavailable"),
                OpenError::Storage { source, .. } => Self::of_storage(source, message),
                #[allow(unreachable_patterns, reason = "further kinds of error are unexpected here")]
                _ => new(Exit::Unexpected, "unexpected"),
            });
        }
        if let Some(error) = cause.downcast_ref::<MigrateError>() {
            return Some(match error {
                MigrateError::DoesNotFit(_) => new(Exit::ControlPlane, "control_plane.does_not_fit"),
                MigrateError::Migration(_) | MigrateError::Database(_) => {
                    new(Exit::ControlPlane, "control_plane.unavailable")
                }
            });
        }
        if cause.is::<ConfigError>() {
            return Some(
                new(Exit::Refused, "config.invalid")
                    .hint("docs/config.md lists every setting; `holdfast config docs` prints it."),
            );
        }
        if cause.is::<UnknownWord>() {
            return Some(new(Exit::Refused, "usage"));
        }
        if cause.is::<ToolError>() {
            return Some(
                new(Exit::Unexpected, "tool.missing").hint("`holdfast doctor` shows which programs were found."),
            );
        }
        if let Some(error) = cause.downcast_ref::<storage::Error>() {
            return Some(Self::of_storage(error, message));
        }
        None
    }

    fn of_storage(error: &storage::Error, message: &str) -> Self {
        let exit = match error.kind {
            storage::ErrorKind::NotFound => Exit::NotFound,
            storage::ErrorKind::Corrupt => Exit::Damage,
            _ => Exit::Unexpected,
        };
        Self { hint: error.hint().map(str::to_owned), ..Self::new(exit, error.kind.code(), message) }
    }

    /// The lines of standard error.
    pub fn render(&self, as_json: bool) -> String {
        if as_json {
            let error = serde_json::json!({ "code": self.code, "message": self.message, "hint": self.hint });
            return format!("{}\n", serde_json::json!({ "error": error }));
        }
        match &self.hint {
            Some(hint) => format!("error: {}\nhint: {hint}\n", self.message),
            None => format!("error: {}\n", self.message),
        }
    }
}

/// Where to look for what is not there.
fn not_found_hint(code: &str) -> Option<String> {
    let command = match code {
        "project.not_found" => "holdfast project list",
        "backup.not_found" => "holdfast list",
        "job.not_found" => "holdfast job list",
        "storage.unknown" => "holdfast storage list",
        "database.not_found" => "holdfast database list",
        "channel.not_found" => "holdfast channel list",
        _ => return None,
    };
    Some(format!("`{command}` shows what there is."))
}

/// Whether the command ended because nobody reads its output any more.
pub fn is_stdout_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<StdoutClosed>())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let source = std::io::Error::other("disk full");
        let error = anyhow::Error::from(ConfigError::File { path: "/a".into(), source }).context("cannot start");
        assert_eq!(text_of(&error), "cannot start: cannot read /a: disk full");
    }

    #[test]
    fn the_first_known_cause_decides_the_exit_code() {
        for (error, exit, code) in [
            (anyhow::Error::from(CatalogError::NoSuchProject("x".into())), 3, "project.not_found"),
            (HistoryError::Database(sqlx::Error::PoolTimedOut).into(), 5, "control_plane.unavailable"),
            (QueueError::KeyReused.into(), 2, "idempotency.reused"),
            (ConfigError::Invalid("x".into()).into(), 2, "config.invalid"),
            (storage::Error::new(storage::ErrorKind::Corrupt, "x").into(), 6, "storage.corrupt"),
            (Failure::new(Exit::JobFailed, "job.failed", "x").into(), 4, "job.failed"),
            (anyhow::anyhow!("x"), 1, "unexpected"),
        ] {
            let failure = Failure::of(&Err::<(), _>(error).context("while trying").unwrap_err());
            assert_eq!((failure.exit.code(), failure.code.as_str()), (exit, code));
        }
    }

    #[test]
    fn failures_are_written_for_people_and_for_programs() {
        let failure = Failure::refused("a.b", "no").hint("Try again.");
        assert_eq!(failure.render(false), "error: no\nhint: Try again.\n");
        let line = failure.render(true);
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(said, serde_json::json!({ "error": { "code": "a.b", "message": "no", "hint": "Try again." } }));
    }
}
