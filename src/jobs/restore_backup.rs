//! `restore_backup`: brings a backup back: in place, into another database, under another name, or single tables of it.
//!
//! What always holds: the plan is in `restores` before the target is touched; an attempt begins by putting right what a lost one left; on
//! any failure everything is as it was before.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    JobType,
    context::{JobContext, JobError, StopReason},
    copies, drop_replaced, ending,
    queue::{self, Ending, Renewal},
    request::{RestorePayload, RestoreRequest},
    restore_files,
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
    proof_record::is_not_compared,
    restore::{
        Beside, Engine, Finished, Load, OpenContent, Place, Plan, Recovery, RestoreError, Session, Target, Way,
        files::FilesPlan,
        stage::{Stage, reached},
    },
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
        let mut session = open_held(context, &engine(app, &project, &plan.place).await?, &plan).await?;
        let finished = look_again(&mut session, content_of(&manifest)?).await?;
        session.close().await;
        return complete(context, &backup, id, &plan, finished, &Told::default()).await;
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

    let place = place_of(&project, &request);
    let mut engine = engine(app, &project, &place).await?;
    engine.allow_detached_references = request.allow_detached_references;
    let id = RestoreId::generate();
    let plan = Plan { place, ..plan(&engine, id, &project, request).await? };
    write_down(context, id, backup_id, &project.id, &plan).await?;
    reached(Stage::Planned).await;
    let mut session = open_held(context, &engine, &plan).await?;
    let restored = bring_back(context, &mut session, &manifest, spooled).await;
    let plan = session.plan().clone();
    let error = match restored {
        Ok((finished, told)) => {
            session.close().await;
            return complete(context, &backup, id, &plan, finished, &told).await;
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
            let finished = look_again(&mut session, content_of(&manifest)?).await?;
            session.close().await;
            return Ok(Some(finished));
        }
        history::rolled_back(&app.pool, id).await?;
        session.close().await;
        Ok::<_, JobError>(None)
    };
    match put_back.await {
        Ok(None) => Err(error),
        // It had been committed before it was told to stop: so it stands, with its undo.
        Ok(Some(finished)) => complete(context, &backup, id, &plan, finished, &Told::default()).await,
        // The row stays `running`: the next attempt, or the next job of the project, puts things right.
        Err(failure) => {
            Err(JobError::retry("restore.away", format!("{error}; and putting everything back failed: {failure}")))
        }
    }
}

/// Where a restore of this project goes when it is asked for like this.
fn place_of(project: &Project, request: &RestoreRequest) -> Place {
    // A new database is made from the one that the URL names.
    let is_made = request.create_database || project.scope() == ProjectScope::WholeDatabase;
    Place { server: request.target_server.clone(), database: request.target_database.clone().filter(|_| !is_made) }
}

async fn plan(engine: &Engine, id: RestoreId, project: &Project, request: RestoreRequest) -> Result<Plan, JobError> {
    let schema = match project.scope() {
        ProjectScope::WholeDatabase => return Ok(engine.plan_database(id, request.target_database).await?),
        ProjectScope::Schema(schema) => schema,
    };
    let is_elsewhere = !place_of(project, &request).is_own();
    let becomes = request.target_schema.filter(|name| *name != schema);
    if request.create_database {
        let plan = engine.plan_database(id, request.target_database).await?;
        return Ok(Plan { schema_becomes: becomes, ..plan });
    }
    let tables = Some(request.tables).filter(|tables| !tables.is_empty());
    let copy = if tables.is_some() { Some(Plan::tables_name(id)) } else { becomes };
    if let Some(copy) = copy {
        return Ok(engine.plan_beside(id, &schema, Beside { schema: copy, tables }).await?);
    }
    let plan = engine.plan_schema(id, &schema).await?;
    match &plan.target {
        Target::Schema { live_oid: Some(_), .. } if is_elsewhere => {
            let message = format!("there already is a schema {schema:?} in database {:?}", engine.admin.database);
            Err(JobError::fail("restore.name_taken", format!("{message}: give it another name with target.schema")))
        }
        _ => Ok(plan),
    }
}

/// What a restore came to whose end was lost.
async fn look_again(session: &mut Session, content: &DatabaseContent) -> Result<Finished, JobError> {
    let schema_oid = session.restored_oid().await?;
    // What has another name by now differs everywhere in that.
    let is_renamed = session.plan().beside().is_some() || session.plan().schema_becomes.is_some();
    let differences = if is_renamed { vec![NOT_TOLD.to_owned()] } else { session.recount(content).await };
    Ok(Finished { schema_oid, differences, warnings: Vec::new() })
}

const NOT_TOLD: &str = "the worker was lost before it told how what was restored compares with the backup";

/// What a finished restore tells beside its differences.
#[derive(Default)]
struct Told {
    warnings: Vec<String>,
    /// `None`: by a worker that was lost.
    way: Option<Way>,
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
            let differences = vec![NOT_TOLD.to_owned()];
            let finished = Finished { schema_oid: made(&plan), differences, warnings: Vec::new() };
            complete(context, &backup, id, &plan, finished, &Told::default()).await?;
            Err(JobError::Stopped)
        }
    }
}

pub(super) fn everything() -> Scope {
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

/// The engine for a place: a project's own database, or another.
pub(super) async fn engine(app: &App, project: &Project, place: &Place) -> Result<Engine, JobError> {
    let server = match &place.server {
        None => app.project_database(project).await?,
        Some(name) => app.database(Some(name)).await?,
    };
    Ok(Engine {
        tools: Arc::clone(&app.tools),
        admin: place.database.as_ref().map_or_else(|| server.clone(), |database| server.with_database(database)),
        allow_vulnerable_clients: app.config.restore.allow_vulnerable_clients,
        allow_detached_references: false,
        one_transaction: app.config.restore.one_transaction,
        keep_free: app.config.restore.keep_free.0,
    })
}

/// Rolls back every restore of the project that was begun and never ended. The job's lease is the right to do so: at most one job runs per
/// project. What another job left in a place that is away waits for that place, unless putting it right is what this job is for. Returns the
/// restore of *this* job when it turns out to have been finished.
pub(super) async fn put_right(context: &JobContext, project: &Project) -> Result<Option<(RestoreId, Plan)>, JobError> {
    let app = &context.app;
    let mut finished = None;
    for row in history::running_restores(&app.pool, &project.id).await? {
        let id = RestoreId(row.id);
        let is_tidied = drop_replaced::tidied(context) == Some(id);
        if let Some(plan) = FilesPlan::read(&row.plan) {
            // A directory that is away is no reason not to see to the database.
            match restore_files::put_right(context, &row, &plan).await {
                Err(error @ (JobError::Retry { .. } | JobError::Fail { .. }))
                    if !is_tidied && !is_about_files(context) =>
                {
                    context.log("warn", &format!("a restore of files cannot be put right: {error}")).await;
                }
                done => done?,
            }
            continue;
        }
        let mut plan: Plan = serde_json::from_value(row.plan).map_err(|error| JobError::fail("restore.plan", error))?;
        context.stage("putting right what an earlier attempt left").await;
        let (mut session, recovery) = match roll_back(context, project, &plan).await {
            // There it has replaced nothing: the tenant need not wait.
            Err(error @ (JobError::Retry { .. } | JobError::Fail { .. }))
                if !plan.place.is_own() && row.job_id != context.lease.job.0 && !is_tidied =>
            {
                let what = "what an earlier job left on another server or in another database cannot be put right";
                context.log("warn", &format!("{what}: {error}")).await;
                continue;
            }
            done => done?,
        };
        match recovery {
            Recovery::Finished if row.job_id == context.lease.job.0 => {
                plan.made = plan.made.or(session.restored_oid().await?);
                finished = Some((id, plan));
            }
            Recovery::Finished => {
                // Its own job has given up: the data is in place, and the replaced schema is kept as after any restore.
                let restored_oid = session.restored_oid().await?.map(i64::from);
                let kept = kept(&plan);
                let until = app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours));
                let kept = kept.as_ref().map(|(name, oid)| (name.as_str(), *oid));
                let unknown = [NOT_TOLD.to_owned()];
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

/// Connects to where a plan went and decides there.
async fn roll_back(context: &JobContext, project: &Project, plan: &Plan) -> Result<(Session, Recovery), JobError> {
    let mut session = open_held(context, &engine(&context.app, project, &plan.place).await?, plan).await?;
    let recovery = session.roll_back().await?;
    Ok((session, recovery))
}

/// Whether this job has to do with a project's files alone.
fn is_about_files(context: &JobContext) -> bool {
    context.job.r#type == JobType::ExportStorage.as_str()
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
) -> Result<(Finished, Told), JobError> {
    let limit = Duration::from_secs(context.app.config.restore.timeout_seconds);
    let content = content_of(manifest)?;
    context.check_stop()?;
    session.require_room(manifest.body.content.bytes).await?;
    let mut warnings = fill(context, session, manifest, content, spooled, limit).await?;
    context.stage("comparing").await;
    context.report(progress("comparing", session.way()));
    let finished = tokio::time::timeout(limit, session.finish(content, &context.stop.token)).await;
    let finished = finished.map_err(|_| timed_out(limit))??;
    warnings.extend(finished.warnings.iter().cloned());
    warnings.extend(session.bodies_that_name_another().await);
    for warning in &warnings {
        context.log("warn", warning).await;
    }
    Ok((finished, Told { warnings, way: Some(session.way().clone()) }))
}

/// Makes room and loads, in another way when the server's lock table turns out too small for one transaction; and writes down what was made.
/// Returns warnings.
pub(super) async fn fill(
    context: &JobContext,
    session: &mut Session,
    manifest: &Manifest,
    content: &DatabaseContent,
    spooled: Spooled,
    limit: Duration,
) -> Result<Vec<String>, JobError> {
    let mut warnings = prepare(context, session, content, limit).await?;
    match load(context, session, manifest, spooled.clone(), limit).await {
        Err(JobError::Fail { code: "restore.too_many_locks", message }) if *session.way() == Way::OneTransaction => {
            context.log("warn", &message).await;
            session.roll_back().await?;
            session.without_one_transaction("the server's lock table was full");
            warnings = prepare(context, session, content, limit).await?;
            load(context, session, manifest, spooled, limit).await?;
        }
        loaded => loaded?,
    }
    let plan = session.plan();
    let json = serde_json::to_value(plan).map_err(|error| JobError::fail("restore.plan", error))?;
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::set_restore_plan(&mut *transaction, plan.id, &json).await?;
    transaction.commit().await?;
    Ok(warnings)
}

/// Makes room, and says how the dump will come to its place.
async fn prepare(
    context: &JobContext,
    session: &mut Session,
    content: &DatabaseContent,
    limit: Duration,
) -> Result<Vec<String>, JobError> {
    context.stage("making room").await;
    let warnings = session.prepare(content, limit.as_secs()).await?;
    let way = session.way().clone();
    let told = match &way {
        Way::OneTransaction => "in one transaction".to_owned(),
        Way::Aside { because } => format!("not in one transaction: {because}"),
    };
    context.log("info", &told).await;
    context.report(progress("making room", &way));
    Ok(warnings)
}

/// How far it is, and how the dump comes to its place.
fn progress(stage: &str, way: &Way) -> serde_json::Value {
    serde_json::json!({ "stage": stage, "way": way.as_str(), "way_because": way.because() })
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
        let mut progress = progress("loading", session.way());
        tokio::spawn(async move {
            loop {
                progress["content_bytes"] = loaded.load(Ordering::Relaxed).into();
                progress["total_bytes"] = total.into();
                context.report(progress.clone());
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

/// The oid of the schema that the restore has brought.
fn made(plan: &Plan) -> Option<u32> {
    plan.made.filter(|_| matches!(plan.target, Target::Schema { .. }))
}

/// The schema that waits for an undo.
fn kept(plan: &Plan) -> Option<(String, i64)> {
    match &plan.target {
        Target::Schema { live_oid: Some(oid), side, beside: None, .. } => Some((side.clone(), i64::from(*oid))),
        Target::Schema { .. } | Target::Database { .. } => None,
    }
}

async fn complete(
    context: &JobContext,
    backup: &Backup,
    id: RestoreId,
    plan: &Plan,
    finished: Finished,
    told: &Told,
) -> Result<(), JobError> {
    let app = &context.app;
    let backup_id = BackupId(backup.id);
    let mut differences = finished.differences;
    let manifest = backup.manifest();
    let content = manifest.as_ref().and_then(|manifest| manifest.body.database());
    differences.extend(content.and_then(DatabaseContent::not_compared));
    let outcome = if differences.is_empty() { "verified" } else { "differences" };
    let kept = kept(plan);
    let undo_until =
        kept.is_some().then(|| app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours)));
    let (schema, database) = match &plan.target {
        Target::Schema { schema, beside, .. } => {
            (Some(beside.as_ref().map_or(schema, |copy| &copy.schema)), plan.place.database.as_ref())
        }
        Target::Database { database } => (plan.schema_becomes.as_ref(), Some(database)),
    };
    let result = serde_json::json!({
        "restore_id": id, "backup_id": backup_id, "outcome": outcome, "differences": differences,
        "warnings": told.warnings, "schema": schema, "database": database, "server": plan.place.server, "undo_until": undo_until,
        "way": told.way.as_ref().map(Way::as_str), "way_because": told.way.as_ref().and_then(Way::because),
    });
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let kept = kept.as_ref().map(|(name, oid)| (name.as_str(), *oid));
    let restored_oid = finished.schema_oid.map(i64::from);
    history::finish_restore(&mut *transaction, id, outcome, &differences, kept, restored_oid, undo_until).await?;
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
    let told = if is_not_compared(&differences) { "its rows were not compared" } else { outcome };
    let message = format!("backup {backup_id} restored: {told}");
    ending::notify(&mut transaction, context, &payload, Some(backup_id), "restored", &message)
        .await
        .map_err(|error| JobError::retry("control_plane.unavailable", error))?;
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    reached(Stage::Recorded).await;
    Ok(())
}

/// What a backup of a database holds; the other kinds are for download.
pub(super) fn content_of(manifest: &Manifest) -> Result<&DatabaseContent, JobError> {
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
