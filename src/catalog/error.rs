//! Why something that is managed could not be looked at or changed.

use std::time::Duration;

use super::CatalogError;
use crate::{keys::KeyError, tenant::Permission};

/// Why a change of what is managed was refused. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    #[error("this needs the scope {}", .0.as_str())]
    Forbidden(Permission),
    #[error("this needs the role {0}")]
    Role(&'static str),
    /// The caller would give, or reach, what is another's.
    #[error("{0}")]
    Grant(String),
    /// What was named does not exist, or belongs to another: the two look alike.
    #[error("there is no {} {name:?}", what.as_str())]
    NotFound { what: Managed, name: String },
    #[error("there is a {} {name:?} already", what.as_str())]
    Exists { what: Managed, name: String },
    /// It comes from the configuration's file.
    #[error("storage {0:?} comes from the configuration, which is changed there alone")]
    ReadOnly(String),
    #[error("{} {name:?} is in use: {by}", what.as_str())]
    InUse { what: Managed, name: String, by: String },
    #[error("schema {schema:?} is backed up by project {project:?} already")]
    Taken { schema: String, project: String },
    /// A field is wrong; the code ends with its name.
    #[error("{message}")]
    Invalid { code: &'static str, message: String, hint: Option<&'static str> },
    /// What of a project is backed up cannot be so: as it is said, or (`is_conflict`) as things are now.
    #[error("{message}")]
    Source { code: &'static str, is_conflict: bool, message: String, hint: Option<String> },
    /// It was done a moment ago, and each time is a message to somebody.
    #[error("{} {name:?} was tested less than {} seconds ago", what.as_str(), wait.as_secs())]
    TooSoon { what: Managed, name: String, wait: Duration },
    #[error("what is stored of {} {name:?} does not open with the secrets key in use", what.as_str())]
    Sealed { what: Managed, name: String },
    #[error("cannot seal a secret: {0}")]
    Key(#[from] KeyError),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}

crate::artifact::words! {
    /// What is managed.
    Managed, "managed" {
        Channel = "channel",
        Database = "database",
        Organization = "organisation",
        Project = "project",
        Storage = "storage",
    }
}

impl ManageError {
    /// A field that is wrong; `code` ends with its name.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { code, message: message.into(), hint: None }
    }

    /// What does not exist, with as much of its name as can be repeated.
    pub fn not_found(what: Managed, name: &str) -> Self {
        Self::NotFound { what, name: name.chars().filter(|c| !c.is_control()).take(60).collect() }
    }

    /// A stable word for answers, exit codes and logs.
    pub const fn code(&self) -> &'static str {
        use Managed as M;
        match self {
            Self::Forbidden(_) => "auth.forbidden",
            Self::Role(_) => "auth.role",
            Self::Grant(_) => "auth.grant",
            Self::NotFound { what, .. } => match what {
                M::Channel => "channel.not_found",
                M::Database => "database.not_found",
                M::Organization => "organization.not_found",
                M::Project => "project.not_found",
                M::Storage => "storage.unknown",
            },
            Self::Exists { what, .. } => match what {
                M::Channel => "channel.exists",
                M::Database => "database.exists",
                M::Organization => "organization.exists",
                M::Project => "project.exists",
                M::Storage => "storage.name_taken",
            },
            Self::ReadOnly(_) => "storage.read_only",
            Self::InUse { what, .. } => match what {
                M::Channel => "channel.in_use",
                M::Database => "database.in_use",
                M::Organization => "organization.in_use",
                M::Project => "project.in_use",
                M::Storage => "storage.in_use",
            },
            Self::TooSoon { .. } => "channel.tested_lately",
            Self::Taken { .. } => "project.schema_taken",
            Self::Invalid { code, .. } | Self::Source { code, .. } => code,
            Self::Sealed { .. } => "secrets.sealed",
            Self::Key(_) => "secrets.key",
            Self::Database(_) => "control_plane.unavailable",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Exists { .. } => Some("Choose another name, or change the one that is there."),
            Self::ReadOnly(_) => Some("Change [storages.NAME] in the TOML file, and start again."),
            Self::Sealed { .. } => {
                Some("Every process on one control plane needs the same secrets key: see [secrets] key_file.")
            }
            Self::Taken { .. } => {
                Some("A schema belongs to one project: a restore of one would replace the other's data.")
            }
            Self::TooSoon { .. } => Some("Wait a little."),
            Self::Invalid { hint, .. } => *hint,
            Self::Source { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

impl From<CatalogError> for ManageError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NoSuchProject(id) => Self::not_found(Managed::Project, &id),
            CatalogError::NoSuchDatabase(name) => Self::not_found(Managed::Database, &name),
            CatalogError::ProjectExists(name) => Self::Exists { what: Managed::Project, name },
            CatalogError::Sealed(name) => Self::Sealed { what: Managed::Database, name },
            CatalogError::NotWhole(_) => Self::invalid("project.not_whole", error.to_string()),
            CatalogError::NotActive { .. } => Self::invalid("project.not_active", error.to_string()),
            CatalogError::NamedAsOurs(_) => Self::invalid("database.name_reserved", error.to_string()),
            CatalogError::Database(error) => Self::Database(error),
        }
    }
}
