//! What there is to back up, projects and the databases they live in, and what belongs to that: organisations, storages and notice channels
//! that are kept in the control plane.

mod built_in;
mod channels;
mod databases;
mod error;
mod files;
mod organizations;
mod possession;
mod project_changes;
mod projects;
mod settings;
mod storages;

pub use self::{
    built_in::{ensure_control_plane, ensure_default, secret_tables},
    channels::{
        ChannelConfig, ChannelRow, EmailChannel, TelegramChannel, WebhookChannel, begin_channel_test, channel,
        channel_by_id, channels, channels_called, channels_of, delete_channel, put_channel, seal_channel,
    },
    databases::{
        DatabaseRow, DatabaseUse, add_database, database_page, database_url, database_use, databases, delete_database,
        hold_database, insert_database, lock_database,
    },
    error::{ManageError, Managed},
    files::{DirectorySource, FileSource, PrefixSource, all_files, files, set_files},
    organizations::{
        Organization, delete_organization, hold_organization, insert_organization, lock_organization, organization,
        organizations, rename_organization,
    },
    possession::{end_organizations_hold, end_others_hold, id_has_a_past, pending_projects},
    project_changes::{
        MAX_RETENTION_DAYS, ProjectChanges, ProjectFilter, ProjectSettings, change_project, lock_project,
        one_source_at_a_time, project_hold, project_page,
    },
    projects::{
        NewProject, Project, ProjectScope, add_project, project, projects, schema_is_taken, schema_name_fault,
        set_scope,
    },
    settings::{Settings, SettingsFault, StorageSettings},
    storages::{
        StorageRow, StorageUse, delete_storage, forget_failed_copies, insert_storage, lock_storage, seal_storage,
        storage, storage_use, storages, update_storage,
    },
};

pub use crate::notice::{NoticeEvent, is_email_address};

/// A name that is safe in a path, a log line and a command: begins with a letter or digit, then also '.', '_' and '-'.
pub fn is_plain_name(name: &str, most_bytes: usize) -> bool {
    name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.len() <= most_bytes
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Why the catalogue could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("there is no project {0:?}")]
    NoSuchProject(String),
    #[error("project {id:?} is {status}, not ACTIVE")]
    NotActive { id: String, status: String },
    #[error("project {0:?} exists already")]
    ProjectExists(String),
    #[error("project {0:?} is to be the default project, but it is not a database as a whole, or is an organisation's")]
    NotWhole(String),
    #[error("there is no database {0:?}")]
    NoSuchDatabase(String),
    #[error("the sealed URL of database {0:?} cannot be opened: it was sealed with another key than the one in use")]
    Sealed(String),
    #[error(
        "a database is registered as {0:?}, which is Holdfast's own database's name: register it under another name, move its projects \
         there, and remove this one"
    )]
    NamedAsOurs(String),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}
