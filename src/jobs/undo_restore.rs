//! `undo_restore`: the schema that a restore replaced takes its name back. What the restore had brought is kept under another name for
//! the rest of the window, so that nothing written since is lost without a chance.

use super::{
    context::{JobContext, JobError},
    queue::{self, Ending},
    request::UndoPayload,
    restore_backup::{engine, open_held, put_right},
    restore_files,
};
use crate::{
    catalog, db,
    history::{self, Event, RestoreState},
    ids::{BackupId, RestoreId},
    restore::{Plan, files::FilesPlan},
    tenant::{Caller, Scope},
};

/// One attempt. An attempt after a lost one finds the schemas swapped already and only writes it down.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let UndoPayload { request } = context.payload()?;
    let everything = Scope::everything("the right to this restore was checked when the undo was asked for");
    let not_undoable = || JobError::fail("restore.not_undoable", "the restore can no longer be undone");
    let restore = history::restore_of_job(&app.pool, request.restore_job_id).await?.ok_or_else(not_undoable)?;
    // Asked for in time, it may come too late: what was replaced may be half dropped by then.
    if restore.state != RestoreState::Done.as_str() || restore.undo_until.is_some_and(|until| until <= app.clock.now())
    {
        return Err(not_undoable());
    }
    if let Some(plan) = FilesPlan::read(&restore.plan) {
        return restore_files::undo(context, &restore, &plan, request.restore_job_id).await;
    }
    let plan: Plan =
        serde_json::from_value(restore.plan.clone()).map_err(|error| JobError::fail("restore.plan", error))?;
    let project = catalog::project(&app.pool, &everything, &restore.project_id).await?;
    put_right(context, &project).await?;
    let engine = engine(app, &project, &plan.place).await?;
    context.check_stop()?;
    context.stage("swapping back").await;
    let restored_oid = restore.restored_oid.and_then(|oid| u32::try_from(oid).ok());
    let mut session = open_held(context, &engine, &plan).await?;
    let undone = session.undo(restored_oid).await;
    session.close().await;
    let undone = undone?;
    let told = |what| format!("{what} refers to what the restore had brought and will go on doing so");
    let warnings: Vec<String> = undone.detached.iter().map(told).collect();
    for warning in &warnings {
        context.log("warn", warning).await;
    }

    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let id = RestoreId(restore.id);
    history::set_restore_state(&mut *transaction, id, RestoreState::Undone).await?;
    let kept = undone.kept.as_ref().map(|(name, oid)| (name.as_str(), i64::from(*oid)));
    // A window of its own: what was written since the restore is in there.
    let kept_until = app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours));
    history::set_kept(&mut *transaction, id, kept, Some(kept_until)).await?;
    let caller = Caller::system("worker");
    let kept_now = undone.kept.map(|(name, _)| name);
    let event = Event {
        backup_id: Some(BackupId(restore.backup_id)),
        project_id: &restore.project_id,
        event: "restore_undone",
        caller: &caller,
        outcome: "ok",
        detail: serde_json::json!({ "job_id": context.lease.job, "restore_job_id": request.restore_job_id, "kept": kept_now }),
    };
    history::record(&mut transaction, &event).await?;
    let result = serde_json::json!({
        "restore_job_id": request.restore_job_id, "kept": kept_now, "kept_until": kept_until, "warnings": warnings,
    });
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}
