//! `repair_copies`: makes the copies of a backup that are missing or damaged, and those of storages too slow to be fed by a dump, from one
//! that is good.
//!
//! What always holds: a copy gets its final name only after all its bytes agreed with the manifest, and is `good` only in a transaction that
//! the lease fences and that found the backup still there. What damage left under the name is removed only after a good source was read
//! to its end. The manifest beside a new copy is that of another one, byte for byte, after its seal was found to be good and to agree with the
//! record: nothing is sealed here, so that nobody who alters the record gets a seal for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    JobType,
    authentic::{self, Compare, Refusal},
    context::{JobContext, JobError},
    copies::{self, Readable},
    export_backup,
    queue::{self, Ending, NewJob},
};
use crate::{
    app::App,
    artifact::ArtifactName,
    catalog::{self, CatalogError},
    db,
    history::{self, Backup, BackupStatus, Copy, Event},
    ids::{BackupId, JobId},
    manifest::Manifest,
    pipeline::{self, Check, ManifestError, ManifestFile, ReadBack, TransferError},
    storage::{self, ErrorKind, Locator, NewObject, Pace, Storage},
    tenant::Caller,
};

/// What a good copy's row says when its storage's key may only write.
pub(super) const NOT_READ_BACK: &str = "not read back: the key may not read";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payload {
    request: Request,
    /// Written down before the first byte is stored, so that a later attempt knows what to remove when the backup is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun: Option<Begun>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Request {
    backup_id: BackupId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Begun {
    key: ArtifactName,
    /// Where something may have been stored.
    storages: Vec<String>,
}

/// Asks for the missing copies of a backup, in the transaction in which a job found out about them; once for each such job.
pub(super) async fn enqueue(
    connection: &mut PgConnection,
    context: &JobContext,
    backup: BackupId,
    project_id: &str,
) -> Result<(), JobError> {
    put(connection, &context.app, backup, project_id, format!("repair:{backup}:job:{}", context.lease.job)).await
}

/// How many jobs that nobody has begun may wait for copies.
const AT_ONCE: i64 = 100;

/// Puts jobs into the queue for backups with copies that could be made. A key per backup and period keeps it to one, however many workers
/// look, so that a storage that was away for days gets its copies when it is back.
pub async fn enqueue_due(app: &App) -> Result<(), JobError> {
    // One that can never fit is not tried again.
    let most =
        |storage: &Arc<dyn Storage>| storage.limits().artifact.map_or(i64::MAX, |most| most.0.cast_signed().max(0));
    let storages: Vec<(String, i64)> = app.storages.iter().map(|(name, storage)| (name, most(&storage))).collect();
    let now = app.clock.now().timestamp();
    for wanting in history::wanting_copies(&app.pool, &storages, AT_ONCE).await? {
        let id = BackupId(wanting.backup_id);
        let hours = hours_between(wanting.tried);
        let key = format!("repair:{id}:{hours}h:{}", now / (hours * 3600));
        let mut connection = app.pool.acquire().await?;
        put(&mut connection, app, id, &wanting.project_id, key).await?;
    }
    Ok(())
}

/// What has often failed is tried less often.
fn hours_between(tried: i64) -> i64 {
    match tried {
        ..6 => 1,
        6..12 => 6,
        _ => 24,
    }
}

async fn put(
    connection: &mut PgConnection,
    app: &App,
    backup_id: BackupId,
    project_id: &str,
    key: String,
) -> Result<(), JobError> {
    let payload = Payload { request: Request { backup_id }, begun: None };
    let new = NewJob {
        id: JobId::generate(),
        job_type: JobType::RepairCopies,
        project_id: Some(project_id.to_owned()),
        payload: to_json(&payload)?,
        max_attempts: app.config.worker.max_attempts,
        priority: -5,
        created_by: "system:worker".to_owned(),
        idempotency_key: Some(key),
    };
    queue::enqueue(connection, &new).await?;
    Ok(())
}

fn to_json(payload: &Payload) -> Result<serde_json::Value, JobError> {
    serde_json::to_value(payload).map_err(|error| JobError::fail("job.payload", error))
}

/// How it went with one copy.
enum Outcome {
    Good,
    /// The backup was deleted meanwhile; what was stored is removed again.
    Gone,
}

/// A copy to make.
struct Target<'a> {
    copy: &'a Copy,
    storage: Arc<dyn Storage>,
    /// Which one this is, of how many.
    number: usize,
    of: usize,
}

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let payload: Payload = context.payload()?;
    let backup = copies::find(app, payload.request.backup_id).await?;
    let Some(backup) = backup.filter(is_kept) else {
        return end_without(context, &payload).await;
    };
    let manifest = backup.manifest().ok_or_else(|| {
        JobError::fail("backup.no_manifest", "there is no manifest: the backup was not taken by this program")
    })?;
    let wanting = wanting(app, &backup).await?;
    let payload = begin(context, payload, &manifest, &wanting).await?;
    let (mut repaired, mut failed) = (Vec::new(), Vec::new());
    for (at, (copy, storage)) in wanting.iter().enumerate() {
        context.check_stop()?;
        let target = Target { copy, storage: Arc::clone(storage), number: at + 1, of: wanting.len() };
        match repair(context, &backup, &manifest, &target).await {
            Ok(Outcome::Good) => repaired.push(copy.storage.clone()),
            Ok(Outcome::Gone) => return end_without(context, &payload).await,
            Err(JobError::Stopped) => return Err(JobError::Stopped),
            Err(error) => {
                context.log("warn", &format!("storage {}: {error}", copy.storage)).await;
                write_failure(context, &backup, copy, &error).await?;
                failed.push((copy.storage.clone(), error));
            }
        }
    }
    if failed.is_empty() {
        let result = serde_json::json!({ "backup_id": backup.id, "repaired": repaired });
        queue::end(&app.pool, context.lease, &Ending::Completed(&result)).await?;
        return Ok(());
    }
    let told = failed.iter().map(|(name, error)| format!("storage {name}: {error}")).collect::<Vec<_>>().join("; ");
    let may_pass = failed.iter().find_map(|(_, error)| match error {
        JobError::Retry { code, wait, .. } => Some((*code, *wait)),
        JobError::Fail { .. } | JobError::Stopped => None,
    });
    Err(match may_pass {
        Some((code, wait)) => JobError::retry(code, told).not_before(wait),
        None => JobError::fail("copies.missing", told),
    })
}

/// The copies that are not good and whose storage is configured, those of quick storages first: they may serve the others as a source.
async fn wanting(app: &App, backup: &Backup) -> Result<Vec<(Copy, Arc<dyn Storage>)>, JobError> {
    let project = match catalog::project(&app.pool, &copies::everything(), &backup.project_id).await {
        Ok(project) => Some(project),
        // Its backups stay without it.
        Err(CatalogError::NoSuchProject(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let copies = history::copies(&app.pool, &[backup.id]).await?;
    let mut wanting: Vec<_> = copies
        .into_iter()
        .filter(|copy| !copy.is_good())
        .filter_map(|copy| {
            let storage = app.storages.get(&copy.storage)?;
            let storage = match &project {
                Some(project) => app.storages.paced(project, storage),
                None => storage,
            };
            Some((copy, storage))
        })
        .collect();
    wanting.sort_by_key(|(_, storage)| storage.limits().pace == Pace::Afterwards);
    Ok(wanting)
}

/// Writes down where something will be stored.
async fn begin(
    context: &JobContext,
    payload: Payload,
    manifest: &Manifest,
    wanting: &[(Copy, Arc<dyn Storage>)],
) -> Result<Payload, JobError> {
    let mut storages = payload.begun.map(|begun| begun.storages).unwrap_or_default();
    for (copy, _) in wanting {
        if !storages.contains(&copy.storage) {
            storages.push(copy.storage.clone());
        }
    }
    let begun = Some(Begun { key: manifest.head.key.clone(), storages });
    let payload = Payload { request: payload.request, begun };
    queue::set_payload(&context.app.pool, context.lease, &to_json(&payload)?).await?;
    Ok(payload)
}

/// For a job that is given up: of a backup that is no longer kept, nothing is left behind.
pub async fn clean_up(context: &JobContext) -> Result<(), JobError> {
    let payload: Payload = context.payload()?;
    match copies::find(&context.app, payload.request.backup_id).await? {
        Some(backup) if is_kept(&backup) => Ok(()),
        Some(_) | None => remove_unwritten(context, &payload).await,
    }
}

fn is_kept(backup: &Backup) -> bool {
    backup.is(BackupStatus::Completed) || backup.is(BackupStatus::Damaged)
}

/// The backup is gone, or is no longer one that is kept: what this job's attempts have stored and not written down is removed.
async fn end_without(context: &JobContext, payload: &Payload) -> Result<(), JobError> {
    remove_unwritten(context, payload).await?;
    context.log("info", "the backup is no longer kept: nothing to repair").await;
    let result = serde_json::json!({ "backup_id": payload.request.backup_id, "repaired": [] });
    queue::end(&context.app.pool, context.lease, &Ending::Completed(&result)).await?;
    Ok(())
}

async fn remove_unwritten(context: &JobContext, payload: &Payload) -> Result<(), JobError> {
    let id = payload.request.backup_id;
    if let Some(begun) = &payload.begun {
        let written = history::copies(&context.app.pool, &[id.0]).await?;
        for name in &begun.storages {
            // One that was written down belongs to whoever deletes the backup.
            let is_ours = !written.iter().any(|copy| copy.storage == *name && copy.is_good());
            if let (true, Some(storage)) = (is_ours, context.app.storages.get(name)) {
                copies::remove(context, storage.as_ref(), &begun.key, id).await?;
            }
        }
    }
    Ok(())
}

/// Makes one copy.
async fn repair(
    context: &JobContext,
    backup: &Backup,
    manifest: &Manifest,
    target: &Target<'_>,
) -> Result<Outcome, JobError> {
    let key = &manifest.head.key;
    context.stage(&format!("copying to {}", target.copy.storage)).await;
    let sealed = sealed_manifest(context, backup).await?;
    let (artifact, read_back, source) = match lying_there(target, manifest).await? {
        Lying::Ours(at) => (at, ReadBack::Agreed, None),
        Lying::Nothing => copy_over(context, backup, manifest, target).await?,
        Lying::Bad(known) => {
            if copies::may_be_anothers(target.storage.as_ref(), key, backup.backup_id()).await? {
                return Err(JobError::fail("storage.name_taken", format!("{key} may belong to another backup")));
            }
            prove_a_source(context, backup, manifest, target).await?;
            copies::remove(context, target.storage.as_ref(), key, backup.backup_id()).await?;
            for at in &known {
                copies::remove_at(context, target.storage.as_ref(), at).await?;
            }
            copy_over(context, backup, manifest, target).await?
        }
    };
    export_backup::still_ours(context).await?;
    let manifest_at = manifest_beside(context, target.storage.as_ref(), &sealed).await?;
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let id = backup.backup_id();
    if !history::hold_stored(&mut transaction, id).await? {
        transaction.rollback().await?;
        copies::remove(context, target.storage.as_ref(), key, backup.backup_id()).await?;
        return Ok(Outcome::Gone);
    }
    write_copy(&mut transaction, id, &target.copy.storage, &artifact, &manifest_at, read_back).await?;
    if backup.s3_url.is_none()
        && let Some(address) = target.storage.s3_address(&artifact)
    {
        history::set_s3_address(&mut *transaction, id, &address).await?;
    }
    history::settle_copies(&mut transaction, id).await?;
    let caller = Caller::system("worker");
    let detail = serde_json::json!({
        "job_id": context.lease.job, "storage": target.copy.storage, "from": source, "was": target.copy.status,
        "bytes": manifest.head.stored.bytes,
    });
    let project_id = &backup.project_id;
    let event =
        Event { backup_id: Some(id), project_id, event: "copy_repaired", caller: &caller, outcome: "ok", detail };
    history::record(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(Outcome::Good)
}

/// Writes a good copy's row, and that it was not read back where the storage's key may only write.
pub(super) async fn write_copy(
    connection: &mut PgConnection,
    backup: BackupId,
    storage: &str,
    artifact: &Locator,
    manifest: &Locator,
    read_back: ReadBack,
) -> Result<(), JobError> {
    history::put_copy(&mut *connection, backup, storage, Ok((artifact, manifest))).await?;
    match read_back {
        ReadBack::Agreed => {}
        ReadBack::Denied => {
            history::mark_copy(connection, backup, storage, history::CopyStatus::Good, Some(NOT_READ_BACK)).await?;
        }
    }
    Ok(())
}

/// What lies where the copy belongs.
enum Lying {
    Nothing,
    /// The bytes of the backup: an earlier attempt was lost before it could say so, or a disk is back.
    Ours(Locator),
    /// Something else.
    Bad(Vec<Locator>),
}

async fn lying_there(target: &Target<'_>, manifest: &Manifest) -> Result<Lying, JobError> {
    let storage = target.storage.as_ref();
    let named = match storage.find(&manifest.head.key).await {
        Ok(found) => found,
        // A key that may only write: when the name is taken, the upload will say so.
        Err(error) if error.kind == ErrorKind::Denied => None,
        Err(error) => return Err(error.into()),
    };
    let mut bad = Vec::new();
    for at in [named, target.copy.locator()].into_iter().flatten() {
        if bad.contains(&at) {
            continue;
        }
        match storage::fingerprint(storage, &at).await {
            Ok(found) if found == manifest.head.stored => return Ok(Lying::Ours(at)),
            Ok(_) => bad.push(at),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) if error.kind == ErrorKind::Corrupt => bad.push(at),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(if bad.is_empty() { Lying::Nothing } else { Lying::Bad(bad) })
}

/// The good copies in other storages.
async fn sources(context: &JobContext, backup: &Backup, target: &Target<'_>) -> Result<Vec<Readable>, JobError> {
    let mut found = copies::readable(&context.app, backup).await?;
    found.retain(|source| source.copy.is_good() && source.copy.storage != target.copy.storage);
    Ok(found)
}

/// Reads good copies until one has all bytes. Even a damaged copy is not removed while it may be the best that is left.
async fn prove_a_source(
    context: &JobContext,
    backup: &Backup,
    manifest: &Manifest,
    target: &Target<'_>,
) -> Result<(), JobError> {
    let mut last = no_source();
    for source in sources(context, backup, target).await? {
        context.check_stop()?;
        match storage::fingerprint(source.storage.as_ref(), &source.at).await {
            Ok(found) if found == manifest.head.stored => return Ok(()),
            Ok(_) => {
                copies::mark_damaged(context, backup, &source.copy, "it reads back with other bytes").await?;
            }
            Err(error) => match copies::of_storage(error) {
                copies::CopyFault::Damaged(reason) => {
                    copies::mark_damaged(context, backup, &source.copy, &reason).await?;
                }
                copies::CopyFault::OutOfReach(error) => last = copies::out_of_reach(&source, &error),
                copies::CopyFault::Other(error) => return Err(error),
            },
        }
    }
    Err(last)
}

fn no_source() -> JobError {
    JobError::fail("backup.no_copy", "no configured storage has a good copy to make it from")
}

/// Streams the first good copy that has all its bytes. Also gives where it came from.
async fn copy_over(
    context: &JobContext,
    backup: &Backup,
    manifest: &Manifest,
    target: &Target<'_>,
) -> Result<(Locator, ReadBack, Option<String>), JobError> {
    let name = &target.copy.storage;
    let is_proved = history::has_good_copy_in(&context.app.pool, name).await?;
    // The first copy in a storage is read back in full.
    let check = if is_proved { Check::Size } else { Check::Full };
    let caption = caption(context, backup).await;
    let limit = Duration::from_secs(context.app.config.backup.copy_timeout_seconds);
    let (deadline, moved) = (Instant::now() + limit, AtomicU64::new(0));
    let mut last = no_source();
    for source in sources(context, backup, target).await? {
        context.check_stop()?;
        let new = NewObject { name: &manifest.head.key, attempt: context.lease.token, caption: caption.as_deref() };
        let report = |bytes: u64| {
            moved.store(bytes, Ordering::Relaxed);
            context.report(serde_json::json!({
                "stage": "copying", "copy": target.number, "copies": target.of, "storage": name, "source": source.copy.storage,
                "stored_bytes": bytes, "total_bytes": manifest.head.stored.bytes,
            }));
        };
        let from = (source.storage.as_ref(), &source.at);
        let stop = context.stop.token.child_token();
        let to = target.storage.as_ref();
        let transfer = pipeline::transfer(from, to, new, manifest.head.stored, check, &report, &stop);
        match within(deadline, &stop, transfer).await {
            Ok((at, read_back)) => return Ok((at, read_back, Some(source.copy.storage))),
            Err(TransferError::Cancelled) if context.stop.token.is_cancelled() => return Err(JobError::Stopped),
            Err(TransferError::Cancelled) => {
                let (moved, total) = (moved.load(Ordering::Relaxed), manifest.head.stored.bytes);
                let message = format!(
                    "{moved} of {total} bytes were stored within {} s: another job begins anew later; raise the storage's or the project's \
                     max_rate, or backup.copy_timeout_seconds",
                    limit.as_secs()
                );
                return Err(JobError::fail("copies.timeout", message));
            }
            // Something lies there that may be neither looked at nor replaced.
            Err(TransferError::Target(error))
                if error.kind == ErrorKind::Exists && is_denied(target, manifest).await =>
            {
                return Err(JobError::fail(
                    error.kind.code(),
                    format!("{error:#}, and the key may not read what it is"),
                ));
            }
            // The name was taken meanwhile, by an earlier attempt's commit that came late: the next attempt takes it over or removes it.
            Err(TransferError::Target(error)) if matches!(error.kind, ErrorKind::Exists | ErrorKind::Corrupt) => {
                return Err(JobError::retry(error.kind.code(), format!("{error:#}")));
            }
            Err(TransferError::Target(error)) => return Err(error.into()),
            Err(TransferError::Source(error)) => last = copies::out_of_reach(&source, &error),
            Err(TransferError::Damaged(reason)) => {
                copies::mark_damaged(context, backup, &source.copy, &reason).await?;
            }
        }
    }
    Err(last)
}

/// Waits for the work, which is told to stop at the deadline and clears away then what it has begun.
async fn within<T>(deadline: Instant, stop: &CancellationToken, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = sleep_until(deadline) => stop.cancel(),
    }
    work.await
}

/// Whether the storage's key may not look for the artifact.
async fn is_denied(target: &Target<'_>, manifest: &Manifest) -> bool {
    target.storage.find(&manifest.head.key).await.is_err_and(|error| error.kind == ErrorKind::Denied)
}

/// The caption that the backup was asked for with.
async fn caption(context: &JobContext, backup: &Backup) -> Option<String> {
    let job = queue::get(&context.app.pool, &copies::everything(), JobId(backup.job_id?)).await.ok()?;
    Some(job.payload.pointer("/request/caption")?.as_str()?.to_owned())
}

/// A manifest that lies beside some copy, good or not, and is proved to be this backup's.
async fn sealed_manifest(context: &JobContext, backup: &Backup) -> Result<ManifestFile, JobError> {
    let mut last = no_source();
    for found in copies::readable(&context.app, backup).await? {
        let storage = found.storage.as_ref();
        let error = match authentic::check(&context.app, backup, storage, &found.at, Compare::Head).await {
            Ok(Some(file)) => return Ok(file),
            Ok(None) => JobError::fail("manifest.missing", "no copy has its manifest beside it"),
            Err(Refusal::Storage(error)) => copies::out_of_reach(&found, &error),
            Err(refusal) => refusal.into(),
        };
        if !matches!(last, JobError::Retry { .. }) {
            last = error;
        }
    }
    Err(last)
}

/// The manifest in this storage: the same that is there, or a new one.
async fn manifest_beside(
    context: &JobContext,
    storage: &dyn Storage,
    sealed: &ManifestFile,
) -> Result<Locator, JobError> {
    let found = match storage.find(&sealed.head.key.manifest()).await {
        Ok(found) => found,
        Err(error) if error.kind == ErrorKind::Denied => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(at) = found {
        match pipeline::read_manifest_file(storage, &at).await {
            // Its body may be encrypted otherwise; a seal that fits says that it is one of ours.
            Ok(file) if file.bytes() == sealed.bytes() => return Ok(at),
            Ok(file) if file.head == sealed.head && file.sealed_by(&context.app.keys.seals).is_ok() => return Ok(at),
            Err(ManifestError::Storage(error)) if error.kind.may_pass() => return Err(error.into()),
            // Whoever may not read it does not know that it is wrong, and a newer program's is not ours to replace.
            Err(ManifestError::Storage(error)) if error.kind == ErrorKind::Denied => return Err(error.into()),
            Err(error @ ManifestError::Newer { .. }) => return Err(JobError::fail(error.code(), error)),
            Ok(_) | Err(_) => copies::remove_at(context, storage, &at).await?,
        }
    }
    export_backup::still_ours(context).await?;
    let published = pipeline::publish_again(storage, sealed, context.lease.token).await;
    published.map_err(export_backup::not_published)
}

/// The reason why a copy could not be made, in its row.
async fn write_failure(context: &JobContext, backup: &Backup, copy: &Copy, error: &JobError) -> Result<(), JobError> {
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    if history::hold_stored(&mut transaction, backup.backup_id()).await? {
        history::copy_failed(&mut *transaction, backup.backup_id(), &copy.storage, &error.to_string()).await?;
        history::settle_copies(&mut transaction, backup.backup_id()).await?;
    }
    transaction.commit().await?;
    Ok(())
}
