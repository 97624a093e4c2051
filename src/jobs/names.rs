//! The names of the default project's artifacts: `backups/backup-{time}.{extension}`, with the backup's id only where that is taken.

use sqlx::PgConnection;

use super::{
    context::{JobContext, JobError},
    copies, queue,
    request::ExportPayload,
};
use crate::{
    app::App,
    artifact::{ArtifactName, BackupType},
    catalog::Project,
    db,
    history::{self, HistoryError, NewBackup},
    ids::ProjectId,
};

/// Gives a backup of the default project its plain name, unless a backup of this control plane has it. In the transaction that writes the row.
pub(super) async fn choose(
    connection: &mut PgConnection,
    app: &App,
    project: &Project,
    payload: &mut ExportPayload,
    new: &mut NewBackup,
) -> Result<(), HistoryError> {
    let is_database = matches!(new.backup_type, BackupType::Database);
    let usual = |id: ProjectId| ArtifactName::of_backup(&id, new.id, new.created_at, &new.encoding);
    // A name that was asked for stays.
    let is_usual = project.id.parse().is_ok_and(|id| usual(id) == new.key);
    if project.id != app.config.backup.default_project || !is_database || !is_usual {
        return Ok(());
    }
    let mut key = ArtifactName::plain(new.created_at, &new.encoding);
    if history::is_name_taken(connection, &key).await? {
        key = key.with_id(new.id, &new.encoding);
    }
    payload.decided.key = key.clone();
    new.key = key;
    Ok(())
}

/// Takes the name with the id where a storage has something under the plain one that is not known to be this backup's: another
/// installation's, or what stayed when a record was deleted.
pub(super) async fn avoid(context: &JobContext, mut payload: ExportPayload) -> Result<ExportPayload, JobError> {
    let decided = &payload.decided;
    let id = decided.backup_id;
    let mut is_taken = false;
    for name in decided.storages.iter().filter(|_| !decided.key.is_only_of(id)) {
        let Some(storage) = context.app.storages.get(name) else { continue };
        // A storage that does not tell refuses to overwrite as well.
        is_taken |= copies::may_be_anothers(storage.as_ref(), &decided.key, id).await.unwrap_or(false);
    }
    if !is_taken {
        return Ok(payload);
    }
    let key = decided.key.with_id(id, &decided.encoding);
    context.log("info", &format!("{} is taken: the backup is called {}", decided.key, key.file_name())).await;
    payload.decided.key = key;
    let json = serde_json::to_value(&payload).map_err(|error| JobError::fail("job.payload", error))?;
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::set_payload(&mut *transaction, context.lease, &json).await?;
    history::rename(&mut *transaction, id, &payload.decided.key).await?;
    transaction.commit().await?;
    Ok(payload)
}
