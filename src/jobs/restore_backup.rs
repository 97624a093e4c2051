//! `restore_backup`: brings a backup back, in place or (a whole database) into a new database.
//!
//! What always holds: the plan is in `restores` before the target is touched; an attempt begins by putting right what a lost one left; on
//! any failure everything is as it was before.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    JobType,
    context::{JobContext, JobError, StopReason},
    copies, ending,
    queue::{self, Ending, Renewal},
    request::RestorePayload,
    restore_files, verify_files,
};
use crate::{
    app::App,
    artifact::BackupType,
    catalog::{self, Project, ProjectScope},
    db,
    history::{self, Backup, Event},
    ids::{BackupId, RestoreId},
    manifest::{Content, DatabaseContent, Manifest},
    pipeline::{self, Spooled},
    restore::{Engine, Finished, Load, OpenContent, Plan, Recovery, RestoreError, Session, Target, files::FilesPlan},
    tenant::{Caller, Scope},
};

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let RestorePayload { request, backup_id } = context.payload()?;
    let backup = history::get(&app.pool, &everything(), backup_id).await?;
    if backup.r#type == BackupType::Storage.as_str() {
        return restore_files::run(context, &backup).await;
    }
    let manifest = manifest_of(&backup)?;
    let project = catalog::project(&app.pool, &everything(), &backup.project_id).await?;
    if let Some((id, plan)) = put_right(context, &project).await? {
        // An earlier attempt had committed and was lost before it could say so.
        let mut session = open_held(context, &engine(app, &project).await?, &plan).await?;
        let differences = session.recount(content_of(&manifest)?).await;
        let schema_oid = session.restored_oid().await?;
        session.close().await;
        return complete(context, &backup, id, &plan, Finished { schema_oid, differences }, &[]).await;
    }
    if let Some(done) =
        history::restore_of_job(&app.pool, context.lease.job).await?.filter(|restore| restore.state == "done")
    {
        // It stands, and was written down by someone who came between; a second restore would replace what was written since.
        return end_as_written(context, backup_id, &done).await;
    }
    context.check_stop()?;
    copies::require_kept(&backup)?;
    let spooled = copies::fetch(context, &backup, &manifest).await?;
    context.check_stop()?;

    let engine = engine(app, &project).await?;
    let id = RestoreId::generate();
    let plan = match project.scope() {
        ProjectScope::Schema(schema) => engine.plan_schema(id, &schema).await?,
        ProjectScope::WholeDatabase => engine.plan_database(id, request.target_database).await?,
    };
    write_down(context, id, backup_id, &project.id, &plan).await?;
    let mut session = open_held(context, &engine, &plan).await?;
    let restored = bring_back(context, &mut session, &manifest, spooled).await;
    let error = match restored {
        Ok((finished, warnings)) => {
            session.close().await;
            return complete(context, &backup, id, &plan, finished, &warnings).await;
        }
        Err(error) => error,
    };
    // A statement may still be under way in that session, even the last COMMIT: a fresh one ends it and looks at the facts.
    drop(session);
    if context.stop.reason() == Some(StopReason::LeaseLost) {
        // Whoever has the job now finds the plan and puts things right.
        return Err(error);
    }
    context.log("warn", &format!("putting everything back: {error}")).await;
    let put_back = async {
        let mut session = open_held(context, &engine, &plan).await?;
        let recovery = session.roll_back().await?;
        if recovery == Recovery::Finished {
            let differences = session.recount(content_of(&manifest)?).await;
            let schema_oid = session.restored_oid().await?;
            session.close().await;
            return Ok(Some(Finished { schema_oid, differences }));
        }
        history::rolled_back(&app.pool, id).await?;
        session.close().await;
        Ok::<_, JobError>(None)
    };
    match put_back.await {
        Ok(None) => Err(error),
        // It had been committed before it was told to stop: so it stands, with its undo.
        Ok(Some(finished)) => complete(context, &backup, id, &plan, finished, &[]).await,
        // The row stays `running`: the next attempt, or the next job of the project, puts things right.
        Err(failure) => {
            Err(JobError::retry("restore.away", format!("{error}; and putting everything back failed: {failure}")))
        }
    }
}

/// Connects to the target and takes its lock, as the holder of the job's lease. Looked at before, because taking the lock ends another
/// holder's session; and after, because from then on whoever claims this job has to come through that lock.
pub(super) async fn open_held(context: &JobContext, engine: &Engine, plan: &Plan) -> Result<Session, JobError> {
    held(context).await?;
    let session = engine.open(plan).await?;
    match held(context).await {
        Ok(()) => Ok(session),
        Err(error) => {
            session.close().await;
            Err(error)
        }
    }
}

/// Fails when the lease is lost. Being asked to stop is no reason: putting things back goes on.
pub(super) async fn held(context: &JobContext) -> Result<(), JobError> {
    let lease_for = Duration::from_secs(context.app.config.worker.lease_seconds);
    match queue::renew(&context.app.pool, context.lease, lease_for, None).await? {
        Renewal::Kept | Renewal::CancelRequested => Ok(()),
        Renewal::Lost => {
            context.stop.now(StopReason::LeaseLost);
            Err(JobError::Stopped)
        }
    }
}

/// Ends the job by what `restores` says of it.
pub(super) async fn end_as_written(
    context: &JobContext,
    backup_id: BackupId,
    done: &history::RestoreRow,
) -> Result<(), JobError> {
    let result = serde_json::json!({
        "restore_id": done.id, "backup_id": backup_id, "outcome": done.outcome, "differences": done.differences,
        "warnings": [], "undo_until": done.undo_until,
    });
    queue::end(&context.app.pool, context.lease, &Ending::Completed(&result)).await?;
    Ok(())
}

/// Puts right what lost attempts left, when no further attempt is made.
pub async fn clean_up(context: &JobContext) -> Result<(), JobError> {
    let Some(project_id) = &context.job.project_id else { return Ok(()) };
    let project = catalog::project(&context.app.pool, &everything(), project_id).await?;
    match put_right(context, &project).await? {
        None => Ok(()),
        Some((id, plan)) => {
            let RestorePayload { backup_id, .. } = context.payload()?;
            let backup = history::get(&context.app.pool, &everything(), backup_id).await?;
            let finished = Finished {
                schema_oid: None,
                differences: vec!["the worker was lost before the restore was compared".to_owned()],
            };
            complete(context, &backup, id, &plan, finished, &[]).await?;
            Err(JobError::Stopped)
        }
    }
}

fn everything() -> Scope {
    Scope::everything("the right to this backup was checked when the restore was asked for")
}

pub(super) fn manifest_of(backup: &Backup) -> Result<Manifest, JobError> {
    if backup.r#type != BackupType::Database.as_str() {
        return Err(JobError::fail("backup.not_restorable", format!("a {} backup is not restored", backup.r#type)));
    }
    backup.manifest().ok_or_else(|| {
        JobError::fail("backup.no_manifest", "there is no manifest: the backup was not taken by this program")
    })
}

/// The engine for a project's database.
pub(super) async fn engine(app: &App, project: &Project) -> Result<Engine, JobError> {
    Ok(Engine {
        tools: Arc::clone(&app.tools),
        admin: app.project_database(project).await?,
        allow_vulnerable_clients: app.config.restore.allow_vulnerable_clients,
    })
}

/// Rolls back every restore of the project that was begun and never ended. The job's lease is the right to do so: at most one job runs per
/// project. Returns the restore of *this* job when it turns out to have been finished.
pub(super) async fn put_right(context: &JobContext, project: &Project) -> Result<Option<(RestoreId, Plan)>, JobError> {
    let app = &context.app;
    let mut finished = None;
    for row in history::running_restores(&app.pool, &project.id).await? {
        if let Some(plan) = FilesPlan::read(&row.plan) {
            // A directory that is away is no reason not to see to the database.
            match restore_files::put_right(context, &row, &plan).await {
                Err(error @ (JobError::Retry { .. } | JobError::Fail { .. })) if !is_about_files(context) => {
                    context.log("warn", &format!("a restore of files cannot be put right: {error}")).await;
                }
                done => done?,
            }
            continue;
        }
        let plan: Plan = serde_json::from_value(row.plan).map_err(|error| JobError::fail("restore.plan", error))?;
        let id = RestoreId(row.id);
        context.stage("putting right what an earlier attempt left").await;
        let mut session = open_held(context, &engine(app, project).await?, &plan).await?;
        let recovery = session.roll_back().await?;
        match recovery {
            Recovery::Finished if row.job_id == context.lease.job.0 => finished = Some((id, plan)),
            Recovery::Finished => {
                // Its own job has given up: the data is in place, and the replaced schema is kept as after any restore.
                let restored_oid = session.restored_oid().await?.map(i64::from);
                let kept = kept(&plan);
                let until = app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours));
                let kept = kept.as_ref().map(|(name, oid)| (name.as_str(), *oid));
                let unknown = ["the worker was lost before the restore was compared".to_owned()];
                let until = Some(until);
                history::finish_restore(&app.pool, id, "differences", &unknown, kept, restored_oid, until).await?;
            }
            Recovery::RolledBack | Recovery::Nothing => {
                history::rolled_back(&app.pool, id).await?;
                context.log("warn", "an earlier attempt was rolled back").await;
            }
        }
        session.close().await;
    }
    Ok(finished)
}

/// Whether this job has to do with a project's files alone.
fn is_about_files(context: &JobContext) -> bool {
    [JobType::ExportStorage, JobType::DropReplaced].iter().any(|t| context.job.r#type == t.as_str())
}

/// Writes the plan down, fenced, before the target is touched.
pub(super) async fn write_down(
    context: &JobContext,
    id: RestoreId,
    backup: BackupId,
    project_id: &str,
    plan: &impl serde::Serialize,
) -> Result<(), JobError> {
    let plan = serde_json::to_value(plan).map_err(|error| JobError::fail("restore.plan", error))?;
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::insert_restore(&mut *transaction, id, context.lease.job, backup, project_id, &plan).await?;
    transaction.commit().await?;
    Ok(())
}

/// From room made to owners given back.
async fn bring_back(
    context: &JobContext,
    session: &mut Session,
    manifest: &Manifest,
    spooled: Spooled,
) -> Result<(Finished, Vec<String>), JobError> {
    let limit = Duration::from_secs(context.app.config.restore.timeout_seconds);
    let content = content_of(manifest)?;
    context.stage("making room").await;
    context.check_stop()?;
    let warnings = session.prepare(content, limit.as_secs()).await?;
    for warning in &warnings {
        context.log("warn", warning).await;
    }
    load(context, session, manifest, spooled, limit).await?;
    context.stage("comparing").await;
    let finished = tokio::time::timeout(limit, session.finish(content, &context.stop.token)).await;
    let finished = finished.map_err(|_| timed_out(limit))??;
    Ok((finished, warnings))
}

async fn load(
    context: &JobContext,
    session: &mut Session,
    manifest: &Manifest,
    spooled: Spooled,
    limit: Duration,
) -> Result<(), JobError> {
    context.stage("loading").await;
    let loaded = Arc::new(AtomicU64::new(0));
    let (encoding, keys, expected) = (manifest.head.encoding, Arc::clone(&context.app.keys), manifest.body.content);
    let open: OpenContent =
        Arc::new(move || pipeline::content(&spooled, &encoding, &keys.identities, expected).map_err(io::Error::other));
    let cancel = context.stop.token.child_token();
    let request = Load {
        format: manifest.head.encoding.format.ok_or_else(|| not_restorable(manifest))?,
        content: open,
        loaded_bytes: Arc::clone(&loaded),
        cancel: cancel.clone(),
    };
    let total = manifest.body.content.bytes;
    let reporter = {
        let (context, loaded) = (context.clone(), Arc::clone(&loaded));
        tokio::spawn(async move {
            loop {
                let bytes = loaded.load(Ordering::Relaxed);
                context.report(serde_json::json!({ "stage": "loading", "content_bytes": bytes, "total_bytes": total }));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        })
    };
    let result = within(limit, session.load(&request), &cancel).await;
    reporter.abort();
    result
}

/// Ends a load that takes too long the way a cancellation does, so that nothing of it goes on.
async fn within(
    limit: Duration,
    load: impl Future<Output = Result<(), RestoreError>>,
    cancel: &CancellationToken,
) -> Result<(), JobError> {
    tokio::pin!(load);
    tokio::select! {
        result = &mut load => Ok(result?),
        () = tokio::time::sleep(limit) => {
            cancel.cancel();
            let _ = load.await; // it ends by the cancellation
            Err(timed_out(limit))
        }
    }
}

pub(super) fn timed_out(limit: Duration) -> JobError {
    let message = format!("the restore took longer than {} s: see restore.timeout_seconds", limit.as_secs());
    JobError::fail("restore.timeout", message)
}

/// The schema that waits for an undo.
fn kept(plan: &Plan) -> Option<(String, i64)> {
    match &plan.target {
        Target::Schema { live_oid: Some(oid), side, .. } => Some((side.clone(), i64::from(*oid))),
        Target::Schema { live_oid: None, .. } | Target::Database { .. } => None,
    }
}

async fn complete(
    context: &JobContext,
    backup: &Backup,
    id: RestoreId,
    plan: &Plan,
    finished: Finished,
    warnings: &[String],
) -> Result<(), JobError> {
    let app = &context.app;
    let backup_id = BackupId(backup.id);
    let outcome = if finished.differences.is_empty() { "verified" } else { "differences" };
    let kept = kept(plan);
    let undo_until =
        kept.is_some().then(|| app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours)));
    let (schema, database) = match &plan.target {
        Target::Schema { schema, .. } => (Some(schema), None),
        Target::Database { database } => (None, Some(database)),
    };
    let result = serde_json::json!({
        "restore_id": id, "backup_id": backup_id, "outcome": outcome, "differences": finished.differences, "warnings": warnings,
        "schema": schema, "database": database, "undo_until": undo_until,
    });
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let kept = kept.as_ref().map(|(name, oid)| (name.as_str(), *oid));
    let restored_oid = finished.schema_oid.map(i64::from);
    history::finish_restore(&mut *transaction, id, outcome, &finished.differences, kept, restored_oid, undo_until)
        .await?;
    let mut detail = result.clone();
    detail["job_id"] = serde_json::json!(context.lease.job);
    let caller = Caller::system("worker");
    let event = Event {
        backup_id: Some(backup_id),
        project_id: &backup.project_id,
        event: "restored",
        caller: &caller,
        outcome: "ok",
        detail,
    };
    history::record(&mut transaction, &event).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    let told = format!("backup {backup_id} restored: {outcome}");
    ending::notify(&mut transaction, context, &payload, Some(backup_id), "restored", &told)
        .await
        .map_err(|error| JobError::retry("control_plane.unavailable", error))?;
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}

/// What a trial restore came to.
pub(super) struct Trial {
    pub differences: Vec<String>,
    /// From the first byte fetched to the last row counted.
    pub seconds: f64,
}

/// What a backup of a database holds; the other kinds are for download.
fn content_of(manifest: &Manifest) -> Result<&DatabaseContent, JobError> {
    manifest.body.database().ok_or_else(|| not_restorable(manifest))
}

fn not_restorable(manifest: &Manifest) -> JobError {
    let what = match &manifest.body.holds {
        Content::Database(_) => "a dump of no known format",
        Content::Logs(_) => "a project's log",
        Content::File(_) => "a file of another program",
        Content::Files(_) => "an archive of files",
    };
    JobError::fail("backup.not_restorable", format!("{what} is for download, and is not restored into a database"))
}

/// Restores into a scratch database on the project's server, counts, and drops it again.
pub(super) async fn trial(context: &JobContext, backup: &Backup, manifest: &Manifest) -> Result<Trial, JobError> {
    if let Some(content) = manifest.body.files() {
        return verify_files::trial(context, backup, manifest, content).await;
    }
    let app = &context.app;
    let project = catalog::project(&app.pool, &everything(), &backup.project_id).await?;
    let content = content_of(manifest)?;
    if let Some(needed) = content.requirements.objects.first() {
        return Err(JobError::fail(
            "verify.needs_outside",
            format!(
                "the schema cannot be restored alone: it refers to {} {} and perhaps others",
                needed.kind, needed.identity
            ),
        ));
    }
    put_right(context, &project).await?;
    let begun = Instant::now();
    let spooled = copies::fetch(context, backup, manifest).await?;
    let engine = engine(app, &project).await?;
    let id = RestoreId::generate();
    let plan = engine.plan_database(id, Some(format!("hf_trial_{}", id.short()))).await?;
    write_down(context, id, BackupId(backup.id), &project.id, &plan).await?;
    let mut session = open_held(context, &engine, &plan).await?;
    let limit = Duration::from_secs(app.config.restore.timeout_seconds);
    let tried = async {
        session.prepare(content, limit.as_secs()).await?;
        load(context, &mut session, manifest, spooled, limit).await?;
        context.stage("comparing").await;
        Ok::<_, JobError>(session.recount(content).await)
    }
    .await;
    if context.stop.reason() == Some(StopReason::LeaseLost) {
        return Err(JobError::Stopped);
    }
    session.roll_back().await?;
    history::rolled_back(&app.pool, id).await?;
    session.close().await;
    Ok(Trial { differences: tried?, seconds: begun.elapsed().as_secs_f64() })
}
