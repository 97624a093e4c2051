//! Asking for a dump of anybody's to be tried: restored into a database of its own, made for it.

use serde::{Deserialize, Serialize};

use super::{RequestError, asked_before, enqueue_for, new_job, require, storage, to_json};
use crate::{
    app::App,
    artifact::ArtifactName,
    catalog,
    jobs::{JobType, queue::Job},
    restore::MAX_NAME,
    tenant::{Caller, Permission},
};

/// A trial as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TryImportRequest {
    /// A configured storage.
    pub storage: String,
    /// The dump's key in it. No manifest is looked for.
    pub key: ArtifactName,
    /// The name of the database that is made.
    pub database: String,
    /// A registered database, on whose server it is made. `None`: the control plane's own.
    #[serde(default)]
    pub server: Option<String>,
    /// Whether the dump was put there for this alone, and goes when it is over.
    #[serde(default)]
    pub is_passing: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TryImportPayload {
    pub request: TryImportRequest,
}

/// Asks for a trial. It is a job of the control plane's own project: the dump is no tenant's yet. The API lets only operators ask.
///
/// # Errors
/// Nothing lies there; the database's name cannot be one; there is no such server. Whether the name is taken is for the job to see.
pub async fn try_import(
    app: &App,
    caller: &Caller,
    request: &TryImportRequest,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::TryImport, request).await? {
        return Ok(job);
    }
    check_name(&request.database)?;
    if let Some(name) = &request.server {
        catalog::database_url(&app.pool, name).await.map_err(|error| match error {
            catalog::CatalogError::Database(error) => error.into(),
            other => RequestError::invalid("request.server", format!("server: {other}")),
        })?;
    }
    let found = storage(app, &request.storage)?.find(&request.key).await.map_err(|error| {
        tracing::warn!(storage = %request.storage, "cannot look for what is to be tried: {error:#}");
        let message = format!("storage {:?} cannot be read now", request.storage);
        RequestError::conflict(error.kind.code(), message, "Try the storage with `holdfast storage test`.")
    })?;
    if found.is_none() {
        let message = format!("key: there is no {} in storage {:?}", request.key, request.storage);
        return Err(RequestError::invalid("import.missing", message));
    }
    let project = catalog::ensure_control_plane(&app.pool).await?;
    let payload = TryImportPayload { request: request.clone() };
    let new = new_job(app, caller, JobType::TryImport, &project.id, to_json(&payload)?, idempotency_key);
    enqueue_for(app, caller, new, None, &project.id, "trial_import_requested").await
}

fn check_name(database: &str) -> Result<(), RequestError> {
    if (1..=MAX_NAME).contains(&database.len()) && !database.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!("trial.database: use a name of 1 to {MAX_NAME} bytes without control characters");
    Err(RequestError::invalid("request.database", message))
}
