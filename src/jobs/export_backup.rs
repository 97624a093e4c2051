//! `export_backup`: a project's schema or database, dumped into its storages and written into the history.
//!
//! What always holds: the backup is `completed` only after every exit status was good, the artifact was committed and read back, and its
//! manifest lies beside it. An attempt that finds what an earlier one published takes it over, or removes it and begins again.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    context::{JobContext, JobError, StopReason},
    ending,
    queue::{self, Ending, Renewal},
    request::{Export, ExportPayload},
    restore_backup,
};
use crate::{
    app::App,
    artifact::{ArtifactName, BackupType, Encryption},
    catalog, db,
    history::{self, Completed, Event, NewBackup},
    ids::{BackupId, ProjectId},
    manifest::{self, Body, Head, Manifest},
    pipeline::{self, BackupRun, PipelineError, Progress},
    source::pg_dump::{PgDump, PgDumpOptions},
    storage::{self, ErrorKind, Locator, Storage},
    tenant::{Caller, Scope},
    transform::EncodeOptions,
};

/// A storage under the name that the configuration gives it.
type NamedStorage = (String, Arc<dyn Storage>);

/// A copy that is complete: the artifact and, beside it, its manifest.
struct Published {
    storage: String,
    artifact: Locator,
    manifest: Locator,
}

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let payload = payload(context).await?;
    context.check_stop()?;
    let project = catalog::project(&app.pool, &everything(), &payload.request.project_id).await?;
    project.require_active()?;
    // A restore that was lost half-way leaves the tenant elsewhere: first it goes back.
    restore_backup::put_right(context, &project).await?;
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::start(&mut *transaction, payload.backup_id).await?;
    transaction.commit().await?;
    let storages = storages(app, &payload.storages)?;
    if let Some((manifest, published)) = take_over(context, &payload, &storages).await? {
        context.log("info", "an earlier attempt had stored the backup: taken over").await;
        let lost = |name: &String| (name.clone(), "the worker was lost before this copy was complete".to_owned());
        let has = |name: &String| published.iter().any(|copy| copy.storage == *name);
        let missing: Vec<_> = payload.storages.iter().filter(|name| !has(name)).map(lost).collect();
        return complete(context, &manifest, &published, &missing).await;
    }

    let connect = app.project_database(&project).await?;
    let source = PgDump::new(
        Arc::clone(&app.tools),
        PgDumpOptions {
            scope: project.dump_scope(&connect.database),
            connect,
            format: payload.encoding.format,
            compress_level: None,
            lock_wait: Duration::from_secs(app.config.backup.lock_wait_seconds),
            tool: None,
            exclude_schemas: Vec::new(),
        },
    );
    let mut is_proved = true;
    for (name, _) in &storages {
        is_proved &= history::has_good_copy_in(&app.pool, name).await?;
    }
    context.stage("dumping").await;
    let (progress, seen) = watch::channel(Progress::default());
    let reporter = tokio::spawn(pass_on(context.clone(), seen));
    let stored = pipeline::back_up(BackupRun {
        source: Box::new(source),
        encode: EncodeOptions {
            encoding: payload.encoding,
            zstd_level: app.config.backup.zstd_level,
            gzip_level: app.config.backup.gzip_level,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            recipients: recipients(app, payload.encoding.encryption)?,
        },
        storages: storages.clone(),
        name: payload.key.clone(),
        attempt: context.lease.token,
        max_size: app.config.backup.max_size,
        timeout: Duration::from_secs(app.config.backup.timeout_seconds),
        progress,
        cancel: context.stop.token.clone(),
        // The first backup in a storage is read back in full.
        verify_read_back: !is_proved,
    })
    .await;
    reporter.abort();
    let stored = stored.map_err(decide)?;

    context.stage("publishing").await;
    let project_id: ProjectId = project.id.parse().map_err(|error| JobError::fail("project.id", error))?;
    let backup = history::get(&app.pool, &everything(), payload.backup_id).await?;
    let manifest = Manifest {
        head: Head {
            manifest_version: manifest::VERSION,
            written_by: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
            backup_id: payload.backup_id,
            project_id,
            backup_type: BackupType::Database,
            key: payload.key.clone(),
            encoding: payload.encoding,
            stored: stored.stored,
            parts: stored.parts,
            created_at: backup.created_at,
            expires_at: backup.expires_at,
        },
        body: Body { content: stored.content, database: stored.report.database },
    };
    let mut published = Vec::new();
    let mut failed: Vec<(String, String)> =
        stored.failed_copies.into_iter().map(|(name, error)| (name, error.to_string())).collect();
    for copy in stored.copies {
        let Some((_, storage)) = storages.iter().find(|(name, _)| *name == copy.storage) else { continue };
        // Another worker may be storing the same backup by now: then it clears away, or takes over, what lies here.
        still_ours(context).await?;
        match publish_manifest(context, storage.as_ref(), &manifest).await {
            Ok(locator) => {
                published.push(Published { storage: copy.storage, artifact: copy.locator, manifest: locator });
            }
            Err(error) => failed.push((copy.storage, error.to_string())),
        }
    }
    if published.is_empty() {
        let reasons = failed.iter().map(|(name, error)| format!("{name}: {error}")).collect::<Vec<_>>().join("; ");
        return Err(JobError::retry("storage.unavailable", format!("no storage took the backup: {reasons}")));
    }
    complete(context, &manifest, &published, &failed).await
}

/// Removes what the attempts have left under final names, when no further one is made.
pub async fn clean_up(context: &JobContext) -> Result<(), JobError> {
    let payload = payload(context).await?;
    for (_, storage) in storages(&context.app, &payload.storages)? {
        sweep(context, storage.as_ref(), &payload.key).await?;
    }
    Ok(())
}

/// Looks whether the lease is held and nobody asked to stop.
async fn still_ours(context: &JobContext) -> Result<(), JobError> {
    let lease_for = Duration::from_secs(context.app.config.worker.lease_seconds);
    match queue::renew(&context.app.pool, context.lease, lease_for, None).await? {
        Renewal::Kept => context.check_stop(),
        Renewal::CancelRequested => {
            context.stop.now(StopReason::Cancelled);
            Err(JobError::Stopped)
        }
        Renewal::Lost => {
            context.stop.now(StopReason::LeaseLost);
            Err(JobError::Stopped)
        }
    }
}

fn everything() -> Scope {
    Scope::everything("the right to this backup was checked when it was asked for")
}

/// The payload; for a row that the platform put into `jobs` itself, completed by what a request would have decided.
async fn payload(context: &JobContext) -> Result<ExportPayload, JobError> {
    let stored = queue::payload(&context.app.pool, context.lease).await?;
    if stored.get("backup_id").is_some() {
        return serde_json::from_value(stored)
            .map_err(|error| JobError::fail("job.payload", format!("the job's payload cannot be read: {error}")));
    }
    let app = &context.app;
    let mut request: Export =
        serde_json::from_value(context.job.payload.get("request").unwrap_or(&context.job.payload).clone())
            .map_err(|error| JobError::fail("job.payload", format!("the job's payload cannot be read: {error}")))?;
    // What keeps jobs of one project apart is the row's own column.
    match &context.job.project_id {
        Some(id) if request.project_id.is_empty() || request.project_id == *id => request.project_id.clone_from(id),
        Some(id) => {
            let message = format!("the row names project {id:?}, its payload {:?}", request.project_id);
            return Err(JobError::fail("job.project", message));
        }
        None => return Err(JobError::fail("job.project", "the row names no project: set project_id")),
    }
    let invalid = |error: super::request::RequestError| JobError::fail(error.code(), error);
    let project = catalog::project(&app.pool, &everything(), &request.project_id).await?;
    project.require_active()?;
    let encoding = super::request::encoding(app, &request).map_err(invalid)?;
    let storages = super::request::storages(app, &request.storages).map_err(invalid)?;
    let project_id: ProjectId = project.id.parse().map_err(|error| JobError::fail("project.id", error))?;
    let (backup_id, now) = (BackupId::generate(), app.clock.now());
    let expires_at = super::request::expiry(app, &request, now).map_err(invalid)?;
    let key = ArtifactName::of_backup(&project_id, backup_id, now, &encoding);
    let payload = ExportPayload { request, backup_id, key: key.clone(), encoding, storages };
    let new = NewBackup {
        id: backup_id,
        project_id: project.id,
        backup_type: BackupType::Database,
        key,
        encoding,
        is_scheduled: false,
        is_partial: false,
        job_id: context.lease.job,
        created_by: context.job.created_by.clone().unwrap_or_else(|| "platform".to_owned()),
        created_at: now,
        expires_at,
    };
    let json = serde_json::to_value(&payload).map_err(|error| JobError::fail("job.payload", error))?;
    let mut transaction = db::begin(&app.pool).await?;
    queue::set_payload(&mut *transaction, context.lease, &json).await?;
    history::create(&mut *transaction, &new).await?;
    transaction.commit().await?;
    Ok(payload)
}

fn storages(app: &App, names: &[String]) -> Result<Vec<NamedStorage>, JobError> {
    names
        .iter()
        .map(|name| match app.storages.get(name) {
            Some(storage) => Ok((name.clone(), Arc::clone(storage))),
            None => Err(JobError::fail("storage.unknown", format!("storage {name:?} is no longer configured"))),
        })
        .collect()
}

fn recipients(app: &App, encryption: Encryption) -> Result<Vec<age::x25519::Recipient>, JobError> {
    match encryption {
        Encryption::None => Ok(Vec::new()),
        Encryption::Age if app.keys.recipients.is_empty() => Err(JobError::fail(
            "key.unavailable",
            "encryption is on, but there is no recipient: set encryption.recipients, or run `holdfast key generate`",
        )),
        Encryption::Age => Ok(app.keys.recipients.clone()),
    }
}

/// What an earlier attempt published in full, if anything; what it published in part is removed.
async fn take_over(
    context: &JobContext,
    payload: &ExportPayload,
    storages: &[NamedStorage],
) -> Result<Option<(Manifest, Vec<Published>)>, JobError> {
    let mut found: Option<(Manifest, Vec<Published>)> = None;
    for (name, storage) in storages {
        let (artifact, manifest) = (storage.find(&payload.key).await?, storage.find(&payload.key.manifest()).await?);
        if let (Some(artifact), Some(at)) = (&artifact, &manifest)
            && let Ok(manifest) = pipeline::read_manifest(storage.as_ref(), at, &context.app.keys.identities).await
            && manifest.head.backup_id == payload.backup_id
            && storage::fingerprint(storage.as_ref(), artifact).await.is_ok_and(|stored| stored == manifest.head.stored)
            && found.as_ref().is_none_or(|(first, _)| first.head.stored == manifest.head.stored)
        {
            let copy = Published { storage: name.clone(), artifact: artifact.clone(), manifest: at.clone() };
            found.get_or_insert_with(|| (manifest, Vec::new())).1.push(copy);
        } else if artifact.is_some() || manifest.is_some() {
            sweep(context, storage.as_ref(), &payload.key).await?;
        }
    }
    Ok(found)
}

/// Removes an artifact and its manifest by name, the manifest first. The names are the same for all attempts, so only the holder of the
/// lease may: a worker that was paused would else delete its successor's good backup.
async fn sweep(context: &JobContext, storage: &dyn Storage, key: &ArtifactName) -> Result<(), JobError> {
    queue::while_held(&context.app.pool, context.lease, async {
        for name in [key.manifest(), key.clone()] {
            if let Some(at) = storage.find(&name).await? {
                storage.delete(&at).await?;
            }
        }
        Ok(())
    })
    .await
}

/// Stores the manifest and reads it back in full.
async fn publish_manifest(
    context: &JobContext,
    storage: &dyn Storage,
    manifest: &Manifest,
) -> Result<Locator, JobError> {
    let recipients = recipients(&context.app, manifest.head.encoding.encryption)?;
    let at = pipeline::publish_manifest(storage, manifest, &recipients, context.lease.token)
        .await
        .map_err(|error| JobError::retry("manifest.publish", error))?;
    Ok(at)
}

fn decide(error: PipelineError) -> JobError {
    match error {
        PipelineError::Cancelled => JobError::Stopped,
        // What another attempt has left under the final name: the next one clears it away.
        PipelineError::Storage { ref error, .. } if error.kind == ErrorKind::Exists => {
            JobError::retry("storage.exists", error)
        }
        other if other.may_pass() => JobError::retry(other.code(), other),
        other => JobError::fail(other.code(), other),
    }
}

/// Passes the pipeline's progress on to the job's row.
async fn pass_on(context: JobContext, mut seen: watch::Receiver<Progress>) {
    while seen.changed().await.is_ok() {
        let progress = *seen.borrow_and_update();
        context.report(serde_json::json!({
            "stage": progress.stage.as_str(), "content_bytes": progress.content_bytes, "stored_bytes": progress.stored_bytes,
        }));
    }
}

/// The history row, the copies, the audit event, the notice and the job, in one transaction that the lease fences.
async fn complete(
    context: &JobContext,
    manifest: &Manifest,
    published: &[Published],
    failed: &[(String, String)],
) -> Result<(), JobError> {
    let app = &context.app;
    let id = manifest.head.backup_id;
    for (name, _) in failed {
        if let Some(storage) = app.storages.get(name)
            && let Err(error) = sweep(context, storage.as_ref(), &manifest.head.key).await
        {
            context
                .log("warn", &format!("storage {name}: what was stored in part could not be removed: {error}"))
                .await;
        }
    }
    let missing = failed.iter().map(|(name, error)| format!("{name}: {error}")).collect::<Vec<_>>().join("; ");
    let message = (!failed.is_empty()).then(|| format!("stored, but not everywhere: {missing}"));
    let storage = published.first().map(|copy| copy.storage.as_str()).unwrap_or_default();
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::complete(&mut *transaction, id, &Completed { manifest, storage, message: message.as_deref() }).await?;
    for copy in published {
        history::put_copy(&mut *transaction, id, &copy.storage, Ok((&copy.artifact, &copy.manifest))).await?;
    }
    for (name, error) in failed {
        history::put_copy(&mut *transaction, id, name, Err(error)).await?;
    }
    let detail = serde_json::json!({
        "job_id": context.lease.job, "size": manifest.head.stored.bytes, "tables": manifest.body.database.table_count,
        "rows": manifest.body.database.row_count, "storages": published.iter().map(|copy| &copy.storage).collect::<Vec<_>>(),
    });
    let caller = Caller::system("worker");
    let project_id = manifest.head.project_id.as_str();
    let event = Event { backup_id: Some(id), project_id, event: "completed", caller: &caller, outcome: "ok", detail };
    history::record(&mut transaction, &event).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    let told = format!("backup of {project_id} completed: {} bytes", manifest.head.stored.bytes);
    ending::notify(&mut transaction, context, &payload, Some(id), "completed", &told)
        .await
        .map_err(|error| JobError::retry("control_plane.unavailable", error))?;
    let result =
        serde_json::json!({ "backup_id": id, "size": manifest.head.stored.bytes, "copies_missing": failed.len() });
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}
