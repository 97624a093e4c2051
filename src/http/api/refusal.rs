//! Refusals are part of the history too, where the caller could have seen the object: else the record would tell a tenant of
//! strangers' attempts, and strangers could write into a tenant's log.

use serde_json::json;

use crate::{
    catalog, db,
    history::{self, Event, HistoryError},
    http::Api,
    ids::{BackupId, JobId},
    jobs::queue,
    tenant::{Caller, Permission},
};

/// What a refused call was about.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    Project(&'a str),
    Backup(BackupId),
    Job(JobId),
}

/// Writes down that `caller` was refused `event` for want of a scope. The refusal stands whether or not this succeeds.
pub async fn record(api: &Api, caller: &Caller, event: &str, needed: Permission, about: About<'_>) {
    let Some((project_id, backup_id)) = within_reach(api, caller, about).await else { return };
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

/// The project, and the backup where one is named, if this caller reaches them.
async fn within_reach(api: &Api, caller: &Caller, about: About<'_>) -> Option<(String, Option<BackupId>)> {
    let (pool, scope) = (&api.app.pool, caller.scope());
    match about {
        About::Project(id) => Some((catalog::project(pool, &scope, id).await.ok()?.id, None)),
        About::Backup(id) => Some((history::get(pool, &scope, id).await.ok()?.project_id, Some(id))),
        About::Job(id) => Some((queue::get(pool, &scope, id).await.ok()?.project_id?, None)),
    }
}
