//! `export_backup` and the other jobs that take a backup: streamed from its source into the storages, and written into the history.
//!
//! What always holds: the backup is `completed` only after every exit status was good, the artifact was committed and read back, and its
//! manifest lies beside it. An attempt that finds what an earlier one published takes it over, or removes it and begins again.
//!
//! One dump feeds all storages but those too slow for it, whose copies are made afterwards, as are those that failed, by `repair_copies`.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    JobType,
    context::{JobContext, JobError, StopReason},
    copies, ending, names,
    queue::{self, Ending, Renewal},
    repair_copies,
    request::{self, Asked, Decided, ExportPayload},
    restore_backup, sources,
};
use crate::{
    app::App,
    artifact::Encryption,
    catalog, db,
    history::{self, Completed, Event},
    ids::ProjectId,
    manifest::{self, Body, DatabaseContent, FilesContent, Head, Manifest},
    metrics,
    pipeline::{self, BackupRun, ManifestError, PipelineError, Progress, ReadBack},
    source::Tables,
    storage::{self, ErrorKind, Locator, Pace, Storage},
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
    read_back: ReadBack,
}

/// Why a storage has no copy yet.
enum Missing {
    /// It is too slow for a dump to wait for: its copy is made afterwards.
    Afterwards,
    Failed(String),
}

/// Where the copies of one attempt are, and where not.
#[derive(Default)]
struct Copies {
    published: Vec<Published>,
    missing: Vec<(String, Missing)>,
}

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let payload = names::avoid(context, payload(context).await?).await?;
    let ExportPayload { request, decided: payload } = payload;
    context.check_stop()?;
    let project = catalog::project(&app.pool, &everything(), request.common().project_id).await?;
    project.require_active()?;
    // A restore that was lost half-way leaves the tenant elsewhere: first it goes back.
    restore_backup::put_right(context, &project).await?;
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::start(&mut *transaction, payload.backup_id).await?;
    transaction.commit().await?;
    let paced = |(name, storage): NamedStorage| (name, app.storages.paced(&project, storage));
    let storages: Vec<NamedStorage> = storages(app, &payload.storages)?.into_iter().map(paced).collect();
    let (fed, afterwards) = feed(storages.clone());
    if complete_earlier(context, &payload, &storages, &afterwards).await? {
        return Ok(());
    }

    let mut is_proved = true;
    for (name, _) in &fed {
        is_proved &= history::has_good_copy_in(&app.pool, name).await?;
    }
    let source = sources::open(context, &project, &request, &payload).await?;
    context.stage("dumping").await;
    let (progress, seen) = watch::channel(Progress::default());
    let reporter = tokio::spawn(pass_on(context.clone(), seen));
    let stored = pipeline::back_up(BackupRun {
        source,
        encode: EncodeOptions {
            encoding: payload.encoding,
            zstd_level: app.config.backup.zstd_level,
            gzip_level: app.config.backup.gzip_level,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            recipients: recipients(app, payload.encoding.encryption)?,
        },
        storages: fed.clone(),
        name: payload.key.clone(),
        attempt: context.lease.token,
        caption: request.common().caption.map(str::to_owned),
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
            backup_type: request.backup_type(),
            key: payload.key.clone(),
            encoding: payload.encoding,
            stored: stored.stored,
            parts: stored.parts,
            created_at: backup.created_at,
            expires_at: backup.expires_at,
            is_partial: backup.is_partial,
        },
        body: Body { content: stored.content, holds: stored.report.holds },
    };
    let mut copies = Copies::default();
    copies.missing.extend(afterwards.into_iter().map(|name| (name, Missing::Afterwards)));
    copies.missing.extend(stored.failed_copies.into_iter().map(|(name, e)| (name, Missing::Failed(format!("{e:#}")))));
    for copy in stored.copies {
        let Some((_, storage)) = fed.iter().find(|(name, _)| *name == copy.storage) else { continue };
        // Another worker may be storing the same backup by now: then it clears away, or takes over, what lies here.
        still_ours(context).await?;
        match publish_manifest(context, storage.as_ref(), &manifest).await {
            Ok(locator) => copies.published.push(Published {
                storage: copy.storage,
                artifact: copy.locator,
                manifest: locator,
                read_back: copy.read_back,
            }),
            Err(error) => copies.missing.push((copy.storage, Missing::Failed(error.to_string()))),
        }
    }
    if copies.published.is_empty() {
        let reason = |(name, why): &(String, Missing)| match why {
            Missing::Failed(error) => Some(format!("{name}: {error}")),
            Missing::Afterwards => None,
        };
        let reasons = copies.missing.iter().filter_map(reason).collect::<Vec<_>>().join("; ");
        return Err(JobError::retry("storage.unavailable", format!("no storage took the backup: {reasons}")));
    }
    remove_parts(context, &copies, &payload).await?;
    complete(context, &manifest, &copies).await
}

/// Completes the backup with what an earlier attempt has published in full. `false` when there is no such thing.
async fn complete_earlier(
    context: &JobContext,
    payload: &Decided,
    storages: &[NamedStorage],
    afterwards: &[String],
) -> Result<bool, JobError> {
    let Some((manifest, published)) = take_over(context, payload, storages).await? else { return Ok(false) };
    context.log("info", "an earlier attempt had stored the backup: taken over").await;
    let missing = |name: &String| {
        let lost = "the worker was lost before this copy was complete".to_owned();
        let why = if afterwards.contains(name) { Missing::Afterwards } else { Missing::Failed(lost) };
        (name.clone(), why)
    };
    let has = |name: &&String| published.iter().any(|copy| copy.storage == **name);
    let missing = payload.storages.iter().filter(|name| !has(name)).map(missing).collect();
    complete(context, &manifest, &Copies { published, missing }).await?;
    Ok(true)
}

/// For an attempt that failed, when no further one is made: a backup that is stored in full is completed all the same. What may have failed is
/// the control plane, as the success was to be written down.
pub async fn rescue(context: &JobContext) -> Result<bool, JobError> {
    let payload = payload(context).await?.decided;
    let storages = storages(&context.app, &payload.storages)?;
    let (_, afterwards) = feed(storages.clone());
    complete_earlier(context, &payload, &storages, &afterwards).await
}

/// Removes what was stored in part, where another storage has it whole.
async fn remove_parts(context: &JobContext, copies: &Copies, decided: &Decided) -> Result<(), JobError> {
    let (key, id) = (&decided.key, decided.backup_id);
    for (name, why) in &copies.missing {
        if let (Missing::Failed(_), Some(storage)) = (why, context.app.storages.get(name))
            && let Err(error) = copies::remove(context, storage.as_ref(), key, id).await
        {
            if matches!(error, JobError::Stopped) {
                return Err(error);
            }
            // Its copy is not good, so that `repair_copies` looks there again.
            let message = format!("storage {name}: what was stored in part could not be removed: {error}");
            context.log("warn", &message).await;
        }
    }
    Ok(())
}

/// Which storages the dump feeds, and the names of those whose copy is made afterwards. A dump holds a snapshot open, so it does not wait
/// for a slow storage; only where there is no other, the first one is fed.
fn feed(storages: Vec<NamedStorage>) -> (Vec<NamedStorage>, Vec<String>) {
    let (mut fed, mut slow): (Vec<_>, Vec<_>) =
        storages.into_iter().partition(|(_, storage)| storage.limits().pace == Pace::Streamed);
    if fed.is_empty() && !slow.is_empty() {
        fed.push(slow.remove(0));
    }
    (fed, slow.into_iter().map(|(name, _)| name).collect())
}

/// Removes what the attempts have left under final names, when no further one is made. What cannot be removed is remembered in the
/// copies of the backup.
pub async fn clean_up(context: &JobContext) -> Result<(), JobError> {
    let payload = payload(context).await?.decided;
    for (name, storage) in storages(&context.app, &payload.storages)? {
        if let Err(error) = copies::remove(context, storage.as_ref(), &payload.key, payload.backup_id).await {
            let message = format!("what the attempts may have left could not be removed: {error}");
            context.log("warn", &format!("storage {name}: {message}")).await;
            let mut transaction = db::begin(&context.app.pool).await?;
            queue::fence(&mut transaction, context.lease).await?;
            history::put_copy(&mut *transaction, payload.backup_id, &name, Err(&message)).await?;
            transaction.commit().await?;
        }
    }
    Ok(())
}

/// Looks whether the lease is held and nobody asked to stop.
pub(super) async fn still_ours(context: &JobContext) -> Result<(), JobError> {
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
    let unreadable = |error| JobError::fail("job.payload", format!("the job's payload cannot be read: {error}"));
    let job_type: JobType = context.job.r#type.parse().map_err(|error| JobError::fail("job.type", error))?;
    let stored = queue::payload(&context.app.pool, context.lease).await?;
    if stored.get("backup_id").is_some() {
        return ExportPayload::read(job_type, &stored).map_err(unreadable);
    }
    let app = &context.app;
    let asked = context.job.payload.get("request").unwrap_or(&context.job.payload);
    let mut request = Asked::read(job_type, asked).map_err(unreadable)?;
    // What keeps jobs of one project apart is the row's own column.
    let named = request.project_id_mut();
    match &context.job.project_id {
        Some(id) if named.is_empty() || named == id => named.clone_from(id),
        Some(id) => {
            let message = format!("the row names project {id:?}, its payload {named:?}");
            return Err(JobError::fail("job.project", message));
        }
        None => return Err(JobError::fail("job.project", "the row names no project: set project_id")),
    }
    let project = catalog::project(&app.pool, &everything(), request.common().project_id).await?;
    let created_by = context.job.created_by.as_deref().unwrap_or("platform");
    let (mut payload, mut new) =
        request::decide(app, &project, request, context.lease.job, created_by, request::Origin::Manual)
            .map_err(|error| JobError::fail(error.code(), error))?;
    let mut transaction = db::begin(&app.pool).await?;
    names::choose(&mut transaction, app, &project, &mut payload, &mut new).await?;
    let json = serde_json::to_value(&payload).map_err(|error| JobError::fail("job.payload", error))?;
    queue::set_payload(&mut *transaction, context.lease, &json).await?;
    history::create(&mut *transaction, &new).await?;
    transaction.commit().await?;
    Ok(payload)
}

fn storages(app: &App, names: &[String]) -> Result<Vec<NamedStorage>, JobError> {
    names
        .iter()
        .map(|name| match app.storages.get(name) {
            Some(storage) => Ok((name.clone(), storage)),
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
    payload: &Decided,
    storages: &[NamedStorage],
) -> Result<Option<(Manifest, Vec<Published>)>, JobError> {
    let mut found: Option<(Manifest, Vec<Published>)> = None;
    for (name, storage) in storages {
        match left_in(context, payload, name, storage.as_ref()).await {
            Ok(Left::Nothing) => {}
            Ok(Left::Whole(manifest, copy))
                if found.as_ref().is_none_or(|(first, _)| first.head.stored == manifest.head.stored) =>
            {
                found.get_or_insert_with(|| (*manifest, Vec::new())).1.push(copy);
            }
            Ok(Left::Whole(..) | Left::Useless) => {
                match copies::remove(context, storage.as_ref(), &payload.key, payload.backup_id).await {
                    Ok(()) => {}
                    Err(JobError::Stopped) => return Err(JobError::Stopped),
                    Err(error) => {
                        let message = format!("storage {name}: cannot remove what an earlier attempt left: {error}");
                        context.log("warn", &message).await;
                    }
                }
            }
            // The others get their copies. Should something lie there, an upload under its name is refused.
            Err(error) => {
                context.log("warn", &format!("storage {name}: cannot look for an earlier attempt: {error}")).await;
            }
        }
    }
    Ok(found)
}

/// What an earlier attempt has left in a storage.
enum Left {
    Nothing,
    /// The artifact with its manifest, and they agree.
    Whole(Box<Manifest>, Published),
    /// Proven to be of no use: a part is missing, or they do not agree. Also what cannot be opened because the key is not at hand: a dump
    /// needs the public one only, and its name is taken.
    Useless,
}

/// A manifest that one of our workers has written: nobody else's is taken over.
async fn read_sealed(context: &JobContext, storage: &dyn Storage, at: &Locator) -> Result<Manifest, ManifestError> {
    let file = pipeline::read_manifest_file(storage, at).await?;
    file.sealed_by(&context.app.keys.seals).map_err(|error| ManifestError::Malformed(error.to_string()))?;
    file.open(&context.app.keys.identities)
}

/// Fails when the storage does not let it be known.
async fn left_in(
    context: &JobContext,
    payload: &Decided,
    name: &str,
    storage: &dyn Storage,
) -> Result<Left, storage::Error> {
    let (artifact, at) = match (storage.find(&payload.key).await?, storage.find(&payload.key.manifest()).await?) {
        (None, None) => return Ok(Left::Nothing),
        (Some(artifact), Some(at)) => (artifact, at),
        (Some(_), None) | (None, Some(_)) => return Ok(Left::Useless),
    };
    let is_proof = |error: &storage::Error| matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt);
    let manifest = match read_sealed(context, storage, &at).await {
        Ok(manifest) if manifest.head.backup_id == payload.backup_id => manifest,
        Err(ManifestError::Storage(error)) if !is_proof(&error) => return Err(error),
        Ok(_) | Err(_) => return Ok(Left::Useless),
    };
    match storage::fingerprint(storage, &artifact).await {
        Ok(stored) if stored == manifest.head.stored => {}
        Err(error) if !is_proof(&error) => return Err(error),
        Ok(_) | Err(_) => return Ok(Left::Useless),
    }
    let copy = Published { storage: name.to_owned(), artifact, manifest: at, read_back: ReadBack::Agreed };
    Ok(Left::Whole(Box::new(manifest), copy))
}

/// Stores the manifest and reads it back in full.
pub(super) async fn publish_manifest(
    context: &JobContext,
    storage: &dyn Storage,
    manifest: &Manifest,
) -> Result<Locator, JobError> {
    let recipients = recipients(&context.app, manifest.head.encoding.encryption)?;
    let key = context.app.keys.seals.key();
    let published = pipeline::publish_manifest(storage, manifest, &recipients, key, context.lease.token).await;
    published.map_err(not_published)
}

pub(super) fn not_published(error: storage::Error) -> JobError {
    match error.kind {
        // The next attempt clears it away.
        ErrorKind::Exists | ErrorKind::Corrupt => JobError::retry("manifest.publish", error),
        _ => error.into(),
    }
}

fn decide(error: PipelineError) -> JobError {
    match error {
        PipelineError::Cancelled => JobError::Stopped,
        // What another attempt has left under the final name: the next one clears it away.
        PipelineError::Storage { ref error, .. } if error.kind == ErrorKind::Exists => {
            JobError::retry("storage.exists", error)
        }
        other if other.may_pass() => {
            let wait = match &other {
                PipelineError::Storage { error, .. } => error.kind.retry_after(),
                _ => None,
            };
            JobError::retry(other.code(), other).not_before(wait)
        }
        other => JobError::fail(other.code(), other),
    }
}

/// Passes the pipeline's progress on to the job's row.
async fn pass_on(context: JobContext, mut seen: watch::Receiver<Progress>) {
    while seen.changed().await.is_ok() {
        let progress = seen.borrow_and_update().clone();
        let mut report = serde_json::json!({
            "stage": progress.stage.as_str(), "content_bytes": progress.content_bytes, "stored_bytes": progress.stored_bytes,
            "storages": progress.storages,
        });
        if let Some(Tables { done, all }) = progress.tables {
            (report["tables_done"], report["tables"]) = (done.into(), all.into());
        }
        context.report(report);
    }
}

/// How many good copies make this backup complete: as many as are configured, at most one in each of its storages.
fn required_copies(app: &App, storages: usize) -> i32 {
    let most = i32::try_from(storages).unwrap_or(i32::MAX);
    app.config.backup.required_copies.map_or(most, |required| i32::try_from(required.get()).unwrap_or(most).min(most))
}

/// The history row, the copies, the audit event, the notice, the job for what is missing and the job's own end, in one transaction that
/// the lease fences.
async fn complete(context: &JobContext, manifest: &Manifest, copies: &Copies) -> Result<(), JobError> {
    let app = &context.app;
    let id = manifest.head.backup_id;
    let Copies { published, missing } = copies;
    let storage = published.first().map(|copy| copy.storage.as_str()).unwrap_or_default();
    let required = required_copies(app, published.len() + missing.len());
    let lacking = usize::try_from(required).unwrap_or_default().saturating_sub(published.len());
    let project_id = manifest.head.project_id.as_str();
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let remark = manifest.body.files().and_then(FilesContent::remark);
    history::complete(&mut *transaction, id, &Completed { manifest, storage, message: remark.as_deref() }).await?;
    history::require_copies(&mut *transaction, id, required).await?;
    for copy in published {
        let Published { storage, artifact, manifest, read_back } = copy;
        repair_copies::write_copy(&mut transaction, id, storage, artifact, manifest, *read_back).await?;
    }
    let address = |copy: &Published| app.storages.get(&copy.storage)?.s3_address(&copy.artifact);
    if let Some(address) = published.iter().find_map(address) {
        history::set_s3_address(&mut *transaction, id, &address).await?;
    }
    for (name, why) in missing {
        match why {
            Missing::Afterwards => history::await_copy(&mut *transaction, id, name).await?,
            Missing::Failed(error) => history::put_copy(&mut *transaction, id, name, Err(error)).await?,
        }
    }
    history::settle_copies(&mut transaction, id).await?;
    if !missing.is_empty() {
        repair_copies::enqueue(&mut transaction, context, id, project_id).await?;
    }
    let content = manifest.body.database();
    let warnings = content.map(DatabaseContent::warnings).unwrap_or_default();
    for warning in &warnings {
        context.log("warn", warning).await;
    }
    let detail = serde_json::json!({
        "job_id": context.lease.job, "size": manifest.head.stored.bytes, "tables": content.map(|c| c.table_count), "rows": manifest.body.row_count(),
        "files": manifest.body.files().map(|c| c.file_count),
        "storages": published.iter().map(|copy| &copy.storage).collect::<Vec<_>>(),
        "storages_missing": missing.iter().map(|(name, _)| name).collect::<Vec<_>>(), "copies_missing": lacking,
        "warnings": warnings,
    });
    let caller = Caller::system("worker");
    let event = Event { backup_id: Some(id), project_id, event: "completed", caller: &caller, outcome: "ok", detail };
    history::record(&mut transaction, &event).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    let mut told = format!("backup of {project_id} completed: {} bytes", manifest.head.stored.bytes);
    if lacking > 0 {
        let names = missing.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        told.push_str(&format!("; {lacking} of {required} copies are still missing: {names}"));
    }
    ending::notify(&mut transaction, context, &payload, Some(id), "completed", &told)
        .await
        .map_err(|error| JobError::retry("control_plane.unavailable", error))?;
    let result = serde_json::json!({ "backup_id": id, "size": manifest.head.stored.bytes, "copies_missing": lacking, "warnings": warnings });
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    let (stored, content) = (manifest.head.stored.bytes, manifest.body.content.bytes);
    metrics::backup_completed(manifest.head.backup_type.as_str(), stored, content, context.began.elapsed());
    Ok(())
}
