//! Refusals for want of a scope, told with the event that would have been: the handlers know it. All other refusals are written down by
//! [`crate::http`]'s own layer.

use serde_json::json;

pub use crate::http::refusals::About;
use crate::{
    db,
    history::{self, Event, HistoryError},
    http::{
        Api,
        error::Problem,
        extract::Signed,
        refusals::{count, within_reach},
        witness,
    },
    tenant::{Caller, Permission},
};

/// 403 unless the caller has this permission. The refusal is told as `event` where it is known what the call was about.
pub async fn require(
    api: &Api,
    caller: &Signed,
    needed: Permission,
    event: &str,
    about: Option<About<'_>>,
) -> Result<(), Problem> {
    let Err(refused) = caller.require(needed) else { return Ok(()) };
    if let Some(about) = about {
        record(api, &caller.0, event, needed, about).await;
    }
    Err(refused)
}

/// Writes down that `caller` was refused `event` for want of a scope, where it could have seen the object. The refusal stands whether or
/// not this succeeds.
async fn record(api: &Api, caller: &Caller, event: &str, needed: Permission, about: About<'_>) {
    let Some((project_id, backup_id)) = within_reach(api, caller, about).await else { return };
    witness::is_told();
    if !api.refusals.admit(caller, api.app.clock.now()) {
        return count(api, Some(caller), caller.address, "auth.forbidden");
    }
    let mut detail = json!({ "needed": needed });
    if let About::Job(id) = about {
        detail["job_id"] = json!(id);
    }
    let event = Event { backup_id, project_id: &project_id, event, caller, outcome: "refused", detail };
    if let Err(error) = write(api, &event).await {
        tracing::error!(%error, "a refusal could not be written into the history");
    }
}

async fn write(api: &Api, event: &Event<'_>) -> Result<(), HistoryError> {
    let mut transaction = db::begin(&api.app.pool).await?;
    history::record(&mut transaction, event).await?;
    Ok(transaction.commit().await?)
}
