//! `drop_replaced`: tidies up after a restore. Drops the schema that it replaced, once the time for an undo has passed; and puts right a
//! restore whose own job has given up and left its target half-way.

use serde::{Deserialize, Serialize};

use super::{
    JobType,
    context::{JobContext, JobError},
    queue::{self, Ending, NewJob},
    restore_backup::{engine, open_held, put_right},
    restore_files,
};
use crate::{
    app::App,
    catalog, db,
    history::{self, Event},
    ids::{BackupId, JobId, RestoreId},
    restore::{Plan, files::FilesPlan},
    tenant::{Caller, Scope},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payload {
    request: Request,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Request {
    restore_id: RestoreId,
    restore_job_id: JobId,
}

/// Puts a job into the queue for every restore to tidy up after; a key per restore and stretch of time keeps it to one, however many
/// workers look, and lets what failed be tried again.
pub async fn enqueue_due(app: &App) -> Result<(), JobError> {
    for restore in history::untidy_restores(&app.pool).await? {
        let payload =
            Payload { request: Request { restore_id: RestoreId(restore.id), restore_job_id: JobId(restore.job_id) } };
        // A tenant that is away comes first; a schema that cannot be dropped is tried again the next day.
        let every = if restore.state == "running" { 600 } else { 86_400 };
        let new = NewJob {
            id: JobId::generate(),
            job_type: JobType::DropReplaced,
            project_id: Some(restore.project_id),
            payload: serde_json::to_value(&payload).map_err(|error| JobError::fail("job.payload", error))?,
            max_attempts: app.config.worker.max_attempts,
            priority: -10,
            created_by: "system:worker".to_owned(),
            idempotency_key: Some(format!("tidy:{}:{}", restore.id, app.clock.now().timestamp() / every)),
        };
        let mut connection = app.pool.acquire().await?;
        queue::enqueue(&mut connection, &new).await?;
    }
    Ok(())
}

/// The restore that this job tidies up after; `None`: it is another kind of job.
pub(super) fn tidied(context: &JobContext) -> Option<RestoreId> {
    let is_tidying = context.job.r#type == JobType::DropReplaced.as_str();
    let Payload { request } = context.payload().ok().filter(|_| is_tidying)?;
    Some(request.restore_id)
}

/// One attempt. A schema that is gone already counts as dropped.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let Payload { request } = context.payload()?;
    let everything = Scope::everything("a restore's own leftovers are tidied up whoever restored");
    if let Some(project_id) = &context.job.project_id {
        let project = catalog::project(&app.pool, &everything, project_id).await?;
        put_right(context, &project).await?;
    }
    let restore = history::restore_of_job(&app.pool, request.restore_job_id).await?;
    let dropped = match restore.filter(|restore| restore.id == request.restore_id.0) {
        Some(restore) if restore.undo_until.is_some_and(|until| until <= app.clock.now()) => {
            match (&restore.kept_schema, restore.kept_oid) {
                (Some(kept), Some(inode)) if let Some(plan) = FilesPlan::read(&restore.plan) => {
                    context.stage("dropping").await;
                    let dropped = restore_files::drop_kept(context, &plan, kept, inode).await?;
                    history::set_kept(&app.pool, request.restore_id, None, None).await?;
                    dropped.then(|| (kept.clone(), BackupId(restore.backup_id)))
                }
                (Some(schema), Some(oid)) => {
                    let project = catalog::project(&app.pool, &everything, &restore.project_id).await?;
                    context.stage("dropping").await;
                    let oid = u32::try_from(oid).map_err(|error| JobError::fail("restore.kept", error))?;
                    let plan: Plan = serde_json::from_value(restore.plan.clone())
                        .map_err(|error| JobError::fail("restore.plan", error))?;
                    let mut session = open_held(context, &engine(app, &project, &plan.place).await?, &plan).await?;
                    let dropped = session.drop_side(schema, oid).await;
                    session.close().await;
                    dropped?;
                    Some((schema.clone(), BackupId(restore.backup_id)))
                }
                _ => None,
            }
        }
        _ => None,
    };
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    if let Some((schema, backup)) = &dropped {
        history::set_kept(&mut *transaction, request.restore_id, None, None).await?;
        let caller = Caller::system("worker");
        let event = Event {
            backup_id: Some(*backup),
            project_id: context.job.project_id.as_deref().unwrap_or_default(),
            event: "replaced_schema_dropped",
            caller: &caller,
            outcome: "ok",
            detail: serde_json::json!({ "job_id": context.lease.job, "schema": schema }),
        };
        history::record(&mut transaction, &event).await?;
    }
    let result = serde_json::json!({ "dropped": dropped.map(|(schema, _)| schema) });
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}
