//! Facts of the history, for notices.

use sqlx::PgConnection;

use crate::{
    history::{self, HistoryError},
    ids::BackupId,
    notice::AboutBackup,
};

/// What there is to tell of a backup, as it stands in this transaction. `None`: there is no such backup.
pub async fn backup(connection: &mut PgConnection, id: BackupId) -> Result<Option<AboutBackup>, HistoryError> {
    let Some(facts) = history::backup_facts(connection, id).await? else { return Ok(None) };
    let missing = u32::try_from(facts.copies_missing).unwrap_or_default();
    Ok(Some(AboutBackup {
        id: facts.id,
        r#type: facts.r#type,
        size: u64::try_from(facts.size).ok().filter(|size| *size > 0),
        duration_seconds: facts
            .started_at
            .zip(facts.finished_at)
            .and_then(|(from, to)| u64::try_from((to - from).num_seconds()).ok()),
        created_at: Some(facts.created_at),
        expires_at: facts.expires_at,
        copies_missing: missing,
        storages_missing: if missing > 0 { facts.storages_missing } else { Vec::new() },
    }))
}
