//! The storages that a request names: whether there are such, and who is told of which others.

use std::{collections::BTreeSet, sync::Arc};

use super::RequestError;
use crate::{
    app::App,
    history,
    storage::Storage,
    tenant::{Caller, Role},
};

/// The storage of this name, for operators and the command line: what is refused tells of every other one.
///
/// # Errors
/// There is none.
pub fn storage(app: &App, name: &str) -> Result<Arc<dyn Storage>, RequestError> {
    app.storages.get(name).ok_or_else(|| unknown(name, Some(all(app))))
}

/// The storages that a caller is told of. Operators know them all; whoever else those alone that keep something of what it reaches, as a
/// backup's copies tell it too.
///
/// # Errors
/// The control plane does not answer.
pub async fn known_storages(app: &App, caller: &Caller) -> Result<BTreeSet<String>, RequestError> {
    if caller.role == Role::Operator {
        return Ok(app.storages.keys().into_iter().collect());
    }
    let kept = history::kept_by_storage(&app.pool, &caller.scope()).await?;
    Ok(kept.into_iter().map(|kept| kept.storage).collect())
}

/// Refuses names of no storage, and tells the caller of those that it may know.
///
/// # Errors
/// There is no storage of one of the names, or the control plane does not answer.
pub async fn require_storages(app: &App, caller: &Caller, names: &[String]) -> Result<(), RequestError> {
    let Some(name) = names.iter().find(|name| !app.storages.contains_key(name)) else { return Ok(()) };
    if caller.role == Role::Operator {
        return Err(unknown(name, Some(all(app))));
    }
    let known = Vec::from_iter(known_storages(app, caller).await?);
    let hint = match known.is_empty() {
        true => "Name none: then the configured ones are used.".to_owned(),
        false => format!("Storages that keep backups of yours: {}.", known.join(", ")),
    };
    Err(unknown(name, Some(hint)))
}

fn all(app: &App) -> String {
    format!("Configured storages: {}.", app.storages.keys().join(", "))
}

fn unknown(name: &str, hint: Option<String>) -> RequestError {
    let message = format!("there is no storage {:?}", name.chars().take(60).collect::<String>());
    RequestError::Invalid { code: "request.storage", message, hint }
}

/// The storages by name, each one known and named once; none named: those of the configuration's choice.
pub(super) fn storages(app: &App, asked: &[String]) -> Result<Vec<String>, RequestError> {
    let configured = || {
        if app.config.backup.storages.is_empty() { app.storages.keys() } else { app.config.backup.storages.clone() }
    };
    let mut names: Vec<String> = Vec::new();
    for name in if asked.is_empty() { configured() } else { asked.to_vec() } {
        // Whose request this is nobody knows here: it may have been put into the queue by a platform.
        let storage = app.storages.get(&name).ok_or_else(|| unknown(&name, None))?;
        if !storage.takes_plaintext() && !app.config.encryption.enabled {
            return Err(RequestError::Invalid {
                code: "request.plaintext",
                message: format!("storage {name:?} takes encrypted backups only, and encryption is off"),
                hint: Some(format!("Set encryption.enabled, or storages.{name}.allow_plaintext.")),
            });
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
