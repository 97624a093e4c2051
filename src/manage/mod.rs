//! Changes of what is managed: projects, organisations, databases, storages and notice channels. What the API and the command line call: each
//! change is checked in full, rights first, then written together with its audit event in one transaction.
//!
//! What always holds: a secret goes in and never comes out again, in no answer, event, log line or error; what the configuration holds is
//! read only; an organisation admin never reaches beyond its organisation.

pub mod channels;
pub mod databases;
pub mod discover;
pub mod organizations;
pub mod projects;
pub mod standing;
pub mod storages;

use sqlx::PgConnection;

use crate::{
    catalog::{ManageError, SettingsFault},
    history::{self, HistoryError, PeopleEvent},
    jobs::request::RequestError,
    tenant::{Caller, Permission, Role},
};

/// Longest name for people, in characters.
const MAX_NAME_CHARS: usize = 200;

/// Whether a removal is done, or everything is checked and nothing written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    DryRun,
}

/// Refuses callers who are no operators, and those who may not do this.
pub fn require_operator(caller: &Caller, permission: Permission) -> Result<(), ManageError> {
    require(caller, permission)?;
    match caller.role {
        Role::Operator => Ok(()),
        Role::OrgAdmin | Role::Member => Err(ManageError::Role("operator")),
    }
}

/// Refuses callers who are neither operators nor admins of an organisation, and those who may not do this.
pub fn require_admin(caller: &Caller, permission: Permission) -> Result<(), ManageError> {
    require(caller, permission)?;
    match caller.role {
        Role::Operator => Ok(()),
        Role::OrgAdmin if caller.organization_id.is_some() => Ok(()),
        Role::OrgAdmin | Role::Member => Err(ManageError::Role("operator, or org_admin for one's own organisation")),
    }
}

fn require(caller: &Caller, permission: Permission) -> Result<(), ManageError> {
    if caller.may(permission) { Ok(()) } else { Err(ManageError::Forbidden(permission)) }
}

const fn is_operator(caller: &Caller) -> bool {
    matches!(caller.role, Role::Operator)
}

/// A name that can be shown and logged.
fn check_name(code: &'static str, name: &str) -> Result<(), ManageError> {
    let is_fine = !name.is_empty()
        && name.trim() == name
        && name.chars().count() <= MAX_NAME_CHARS
        && !name.chars().any(char::is_control);
    if is_fine {
        return Ok(());
    }
    Err(ManageError::invalid(
        code,
        "the name is empty, longer than 200 characters, begins or ends with a space, or has control characters",
    ))
}

impl From<SettingsFault> for ManageError {
    fn from(fault: SettingsFault) -> Self {
        Self::invalid("request.settings", fault.to_string())
    }
}

impl From<RequestError> for ManageError {
    fn from(error: RequestError) -> Self {
        let (code, message, hint) = (error.code(), error.to_string(), error.hint().map(str::to_owned));
        match error {
            RequestError::Database(error) => Self::Database(error),
            RequestError::Forbidden(permission) => Self::Forbidden(permission),
            RequestError::Conflict { .. } | RequestError::Busy { .. } => {
                Self::Source { code, is_conflict: true, message, hint }
            }
            RequestError::NotFound { .. } | RequestError::Invalid { .. } => {
                Self::Source { code, is_conflict: false, message, hint }
            }
        }
    }
}

impl From<HistoryError> for ManageError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Database(error) => Self::Database(error),
            HistoryError::NoSuchBackup(id) => Self::invalid("backup.not_found", format!("there is no backup {id}")),
        }
    }
}

/// Writes an event that is about no project.
async fn record(
    connection: &mut PgConnection,
    caller: &Caller,
    event: &str,
    organization_id: Option<&str>,
    detail: serde_json::Value,
) -> Result<(), ManageError> {
    let event = PeopleEvent { event, caller, organization_id, outcome: "ok", detail };
    Ok(history::record_people(connection, &event).await?)
}
