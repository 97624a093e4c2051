//! Pinning a backup: a pinned one is kept whatever happens, until someone takes the pin out. Done at once, without a job.

use serde_json::json;

use super::{RequestError, record, require};
use crate::{
    app::App,
    db,
    history::{self, Backup, BackupStatus},
    ids::BackupId,
    tenant::{Caller, Permission},
};

/// What to do with the pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    Set,
    TakeOut,
}

impl Pin {
    /// The event that it leaves.
    pub const fn event(self) -> &'static str {
        match self {
            Self::Set => "pinned",
            Self::TakeOut => "unpinned",
        }
    }
}

/// Pins a backup, or takes its pin out. One that has expired and is not being deleted is a good one again when it is pinned. Safe to repeat: what is so already changes nothing and leaves no event.
///
/// # Errors
/// There is no such backup within reach; it is being deleted.
pub async fn pin(app: &App, caller: &Caller, id: BackupId, pin: Pin) -> Result<Backup, RequestError> {
    require(caller, Permission::Write)?;
    let backup = history::get(&app.pool, &caller.scope(), id).await?;
    let mut transaction = db::begin(&app.pool).await?;
    // A deletion holds the row as well: either it finds the pin, or we find the mark.
    let Some(held) = history::hold(&mut transaction, id).await? else {
        return Err(RequestError::NotFound { what: "backup", id: id.to_string() });
    };
    if held.status == BackupStatus::Deleted.as_str() {
        return Err(RequestError::conflict(
            "backup.deleted",
            format!("backup {id} is being deleted"),
            "While the deletion waits, its job can be cancelled.",
        ));
    }
    let pinned = pin == Pin::Set;
    if held.pinned != pinned {
        history::set_pinned(&mut *transaction, id, pinned).await?;
        if pinned && held.status == BackupStatus::Expired.as_str() {
            history::set_status(&mut *transaction, id, BackupStatus::Completed.as_str()).await?;
            // A deletion that was begun may have taken copies.
            history::settle_copies(&mut transaction, id).await?;
        }
        record(&mut transaction, caller, Some(id), &backup.project_id, pin.event(), json!({})).await?;
    }
    transaction.commit().await?;
    Ok(history::get(&app.pool, &caller.scope(), id).await?)
}
