//! Asking for an artifact to be taken back into the history, by the manifest that lies beside it.

use serde::{Deserialize, Serialize};

use super::{RequestError, asked_before, enqueue_for, new_job, require, storage, to_json};
use crate::{
    app::App,
    artifact::ArtifactName,
    catalog,
    history::{self, BackupStatus},
    ids::BackupId,
    jobs::{
        JobType,
        authentic::{self, TakeUp},
        catalog as rebuild,
        queue::Job,
    },
    manifest::Head,
    pipeline::{self, ManifestError},
    storage::{ErrorKind, Locator},
    tenant::{Caller, Permission},
};

/// An import as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportRequest {
    /// A configured storage.
    pub storage: String,
    /// The artifact's key in it; the manifest lies beside it.
    pub key: ArtifactName,
    /// Whether a backup that was deleted on purpose may come back.
    #[serde(default)]
    pub even_if_deleted: bool,
    /// Whether it is taken although its manifest has no seal, so that nothing proves what it says.
    #[serde(default)]
    pub allow_unsealed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportPayload {
    pub request: ImportRequest,
    pub backup_id: BackupId,
}

/// Asks for an import. The manifest is read at once, so that what cannot be taken is told at once; the artifact's bytes are for the job. The API
/// lets only operators ask: the answers tell what a storage holds.
///
/// # Errors
/// Nothing lies there; the manifest is not one of ours; its project is not known; the backup was deleted.
pub async fn import(
    app: &App,
    caller: &Caller,
    request: &ImportRequest,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::ImportBackup, request).await? {
        return Ok(job);
    }
    let (_, head) = find(app, request).await?;
    let project = catalog::project(&app.pool, &caller.scope(), head.project_id.as_str()).await?;
    let id = head.backup_id;
    let mut connection = app.pool.acquire().await?;
    let row = history::recorded(&mut connection, id).await?;
    match &row {
        Some(row) if row.status == BackupStatus::Deleted.as_str() => {
            return Err(RequestError::conflict(
                "backup.deleted",
                format!("backup {id} is being deleted"),
                "Wait until that is over.",
            ));
        }
        Some(row) => rebuild::fits(row, &head).map_err(|misfit| RequestError::Conflict {
            code: misfit.code,
            message: misfit.message,
            hint: None,
        })?,
        None if !request.even_if_deleted && history::is_buried(&mut *connection, id).await? => {
            return Err(RequestError::conflict(
                "backup.deleted",
                format!("backup {id} was deleted on purpose"),
                "Say even_if_deleted to take it back all the same.",
            ));
        }
        None => {}
    }
    drop(connection);
    let payload = ImportPayload { request: request.clone(), backup_id: id };
    let new = new_job(app, caller, JobType::ImportBackup, &project.id, to_json(&payload)?, idempotency_key);
    enqueue_for(app, caller, new, Some(id), &project.id, "import_requested").await
}

/// The manifest beside the artifact, which says that it belongs there.
async fn find(app: &App, request: &ImportRequest) -> Result<(Locator, Head), RequestError> {
    let invalid = |code, message: String| RequestError::Invalid { code, message, hint: None };
    let away = |error: crate::storage::Error| {
        tracing::warn!(storage = %request.storage, "cannot look for what is to be imported: {error:#}");
        let message = format!("storage {:?} cannot be read now", request.storage);
        RequestError::conflict(error.kind.code(), message, "Try the storage with `holdfast storage test`.")
    };
    let storage = storage(app, &request.storage)?;
    let key = &request.key;
    let Some(at) = storage.find(&key.manifest()).await.map_err(away)? else {
        return Err(RequestError::Invalid {
            code: "manifest.missing",
            message: format!("key: there is no {} in storage {:?}", key.manifest(), request.storage),
            hint: Some("An artifact is taken back by its manifest, which lies beside it.".to_owned()),
        });
    };
    let (head, seal) = match pipeline::read_manifest_file(storage.as_ref(), &at).await {
        Ok(file) => (file.head.clone(), file.sealed_by(&app.keys.seals)),
        Err(ManifestError::Storage(error)) if !matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Err(away(error));
        }
        Err(error) => return Err(invalid(error.code(), format!("key: {error}"))),
    };
    if head.key != *key {
        return Err(invalid("manifest.misplaced", format!("key: the manifest says that it belongs to {}", head.key)));
    }
    authentic::may_be_taken_up(&seal, TakeUp::unsealed_if(request.allow_unsealed))
        .map_err(|misfit| invalid(misfit.code, format!("key: {}", misfit.message)))?;
    if storage.find(key).await.map_err(away)?.is_none() {
        return Err(invalid("backup.no_copy", format!("key: there is no {key} in storage {:?}", request.storage)));
    }
    Ok((at, head))
}
