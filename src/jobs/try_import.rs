//! `try_import`: restores a dump of anybody's into a database that is made for it, and says what came out.
//!
//! What always holds: nothing that was there before is touched, and a database that is there is refused. The dump runs as a role made for
//! this trial, which owns the new database and nothing else; afterwards that role stays its owner, without a login, so that functions of
//! the dump never run with an administrator's rights. Names come from the job's id: an attempt that was lost is found and cleared away
//! by the next.

mod look;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use self::look::{Dump, look};
use super::{
    context::{JobContext, JobError, StopReason},
    import_files::PLACED,
    queue::{self, Ending},
    request::{TryImportPayload, TryImportRequest},
    restore_backup::{open_held, timed_out},
};
use crate::{
    db,
    history::{self, Event},
    ids::{CONTROL_PLANE_PROJECT, RestoreId},
    manifest::{DatabaseContent, DumpScope, Requirements},
    pipeline::{self, FetchError, Spooled},
    postgres::{
        inspect,
        quote::{ident, literal},
    },
    restore::{Engine, Load, OpenContent, Plan, Session},
    storage,
    tenant::Caller,
};

/// Tables whose rows are told one by one.
const MAX_TABLES: usize = 1000;

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let TryImportPayload { request } = context.payload()?;
    let done = attempt(context, &request).await;
    let is_over = match &done {
        Ok(()) | Err(JobError::Fail { .. }) => true,
        Err(JobError::Retry { .. }) => context.job.attempts >= context.job.max_attempts,
        Err(JobError::Stopped) => context.stop.reason() == Some(StopReason::Cancelled),
    };
    if is_over {
        clear_away(context, &request).await;
    }
    done
}

/// What a lost attempt has left, when no further one is made.
pub async fn clean_up(context: &JobContext) -> Result<(), JobError> {
    let TryImportPayload { request } = context.payload()?;
    put_right(context, &engine(context, &request).await?, &request).await?;
    clear_away(context, &request).await;
    Ok(())
}

async fn attempt(context: &JobContext, request: &TryImportRequest) -> Result<(), JobError> {
    let engine = engine(context, request).await?;
    put_right(context, &engine, request).await?;
    context.check_stop()?;
    // Refuses a name that is taken before anything is fetched.
    let plan = engine.plan_database(id(context), Some(request.database.clone())).await?;
    let spooled = fetch(context, request).await?;
    context.stage("looking at the dump").await;
    let (whole, keys) = (spooled.clone(), Arc::clone(&context.app.keys));
    let looked = tokio::task::spawn_blocking(move || look(&whole, &keys.identities)).await;
    let dump = looked.map_err(|error| JobError::retry("worker.panic", error))??;
    context.check_stop()?;

    let mut session = open_held(context, &engine, &plan).await?;
    let tried = restore(context, &engine, &mut session, &spooled, dump, request).await;
    let error = match tried {
        Ok(result) => {
            session.close().await;
            return end(context, result).await;
        }
        Err(error) => error,
    };
    // Something may still be under way in that session: a fresh one ends it.
    drop(session);
    if context.stop.reason() == Some(StopReason::LeaseLost) {
        return Err(error);
    }
    match put_right(context, &engine, request).await {
        Ok(()) => Err(error),
        Err(failure) => Err(JobError::retry("restore.away", format!("{error}; and clearing away failed: {failure}"))),
    }
}

fn id(context: &JobContext) -> RestoreId {
    RestoreId(context.lease.job.0)
}

async fn engine(context: &JobContext, request: &TryImportRequest) -> Result<Engine, JobError> {
    Ok(Engine {
        tools: Arc::clone(&context.app.tools),
        admin: context.app.database(request.server.as_deref()).await?,
        // Whatever is set for one's own backups: this may be anybody's archive.
        allow_vulnerable_clients: false,
        allow_detached_references: false,
        // Nobody sees the database before the end, and of a dump without a record nobody knows how many locks one transaction would take.
        one_transaction: false,
        keep_free: context.app.config.restore.keep_free.0,
    })
}

/// Drops what an earlier attempt has made. A database that is not this job's role's stays.
async fn put_right(context: &JobContext, engine: &Engine, request: &TryImportRequest) -> Result<(), JobError> {
    let plan = Plan::database(id(context), Some(request.database.clone()));
    let mut session = open_held(context, engine, &plan).await?;
    session.roll_back().await?;
    session.close().await;
    Ok(())
}

/// The dump in a private file.
async fn fetch(context: &JobContext, request: &TryImportRequest) -> Result<Spooled, JobError> {
    let app = &context.app;
    let storage = app.storages.get(&request.storage).ok_or_else(|| {
        JobError::fail("storage.unknown", format!("storage {:?} is no longer configured", request.storage))
    })?;
    context.stage("fetching").await;
    let gone = || JobError::fail("import.missing", format!("there is no {} any more", request.key));
    let at = storage.find(&request.key).await?.ok_or_else(gone)?;
    // Nobody has recorded how much it is.
    let stored = tokio::select! {
        read = storage::fingerprint(storage.as_ref(), &at) => read?,
        () = context.stop.token.cancelled() => return Err(JobError::Stopped),
    };
    let directory = app.config.data_dir.join("spool");
    let report = |bytes: u64| {
        context.report(json!({ "stage": "fetching", "stored_bytes": bytes, "total_bytes": stored.bytes }));
    };
    let spooled = pipeline::spool(storage.as_ref(), &at, stored, &directory, &report, &context.stop.token).await;
    spooled.map_err(|error| match error {
        FetchError::Cancelled => JobError::Stopped,
        FetchError::Storage(error) => error.into(),
        // It was changed between the two readings.
        FetchError::Damaged(_) => JobError::retry("import.changed", error),
        FetchError::NoSpace { .. } | FetchError::Io { .. } => JobError::fail(error.code(), error),
    })
}

/// Nobody has counted what is in it.
fn unknown(database: &str) -> DatabaseContent {
    DatabaseContent {
        scope: DumpScope::Database { database: database.to_owned() },
        partial: None,
        server_version: 0,
        tool_version: 0,
        table_count: 0,
        row_count: 0,
        tables: Vec::new(),
        sequences: Vec::new(),
        ownership: Vec::new(),
        requirements: Requirements::default(),
        proof: None,
    }
}

/// From the role and the database made to what is in it.
async fn restore(
    context: &JobContext,
    engine: &Engine,
    session: &mut Session,
    spooled: &Spooled,
    dump: Dump,
    request: &TryImportRequest,
) -> Result<Value, JobError> {
    let limit = Duration::from_secs(context.app.config.restore.timeout_seconds);
    context.stage("making room").await;
    session.prepare(&unknown(&request.database), limit.as_secs()).await?;
    context.stage("loading").await;
    load(context, session, spooled, dump, limit).await?;
    context.stage("counting").await;
    let found = tokio::select! {
        found = tokio::time::timeout(limit, settle(context, engine, session, &request.database)) => {
            found.map_err(|_| timed_out(limit))??
        }
        () = context.stop.token.cancelled() => return Err(JobError::Stopped),
    };
    let (database, role) = (&request.database, &session.plan().role);
    let rows: u64 = found.iter().map(|table| table.rows).sum();
    Ok(json!({
        "database": database, "server": request.server, "owner": role,
        "format": dump.encoding.format, "compression": dump.encoding.compression, "encryption": dump.encoding.encryption,
        "size": spooled.stored().bytes, "sha256": spooled.stored().sha256,
        "content_size": dump.content.bytes, "content_sha256": dump.content.sha256,
        "table_count": found.len(), "row_count": rows, "tables": found.iter().take(MAX_TABLES).collect::<Vec<_>>(),
        "drop": [format!("DROP DATABASE {}", ident(database)), format!("DROP ROLE {}", ident(role))],
    }))
}

async fn load(
    context: &JobContext,
    session: &mut Session,
    spooled: &Spooled,
    dump: Dump,
    limit: Duration,
) -> Result<(), JobError> {
    let loaded = Arc::new(AtomicU64::new(0));
    let (spooled, keys) = (spooled.clone(), Arc::clone(&context.app.keys));
    let content: OpenContent = Arc::new(move || {
        pipeline::content(&spooled, &dump.encoding, &keys.identities, dump.content).map_err(io::Error::other)
    });
    let cancel = context.stop.token.child_token();
    let load = Load { format: dump.format, content, loaded_bytes: Arc::clone(&loaded), cancel: cancel.clone() };
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let late = tokio::time::sleep(limit);
    let loading = session.load(&load);
    tokio::pin!(late, loading);
    loop {
        tokio::select! {
            done = &mut loading => return Ok(done?),
            () = &mut late => {
                cancel.cancel();
                drop(loading.await); // it ends by the cancellation
                return Err(timed_out(limit));
            }
            _ = tick.tick() => {
                let bytes = loaded.load(Ordering::Relaxed);
                context.report(json!({ "stage": "loading", "content_bytes": bytes, "total_bytes": dump.content.bytes }));
            }
        }
    }
}

/// Ends the dump's hold on the database, and counts what is there.
async fn settle(
    context: &JobContext,
    engine: &Engine,
    session: &mut Session,
    database: &str,
) -> Result<Vec<crate::manifest::TableRows>, JobError> {
    session.leave_to_role().await?;
    let mut admin = engine.admin.with_database(database).connect().await?;
    let scope = DumpScope::Database { database: database.to_owned() };
    let tables = inspect::table_rows(&mut admin, &scope).await?;
    let what = literal(&format!("a trial import of Holdfast's, job {}", context.lease.job));
    let statement = format!("COMMENT ON DATABASE {} IS {what}", ident(database));
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await?;
    drop(admin.close().await);
    Ok(tables)
}

async fn end(context: &JobContext, result: Value) -> Result<(), JobError> {
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let mut detail = result.clone();
    detail["job_id"] = json!(context.lease.job);
    detail.as_object_mut().into_iter().for_each(|detail| drop(detail.remove("tables")));
    let caller = Caller::system("worker");
    let event = Event {
        backup_id: None,
        project_id: CONTROL_PLANE_PROJECT,
        event: "trial_imported",
        caller: &caller,
        outcome: "ok",
        detail,
    };
    history::record(&mut transaction, &event).await?;
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}

/// Removes a dump that was put into the storage for the trial alone.
async fn clear_away(context: &JobContext, request: &TryImportRequest) {
    // Only what `import_files::place_trial` has put there.
    let is_ours = request.is_passing && request.key.as_str().starts_with(PLACED);
    let Some(storage) = context.app.storages.get(&request.storage).filter(|_| is_ours) else { return };
    let removed = async {
        match storage.find(&request.key).await? {
            Some(at) => storage.delete(&at).await.map(drop),
            None => Ok(()),
        }
    };
    if let Err(error) = removed.await {
        tracing::warn!(job = %context.lease.job, "cannot remove {} from storage {:?}: {error:#}", request.key, request.storage);
    }
}
