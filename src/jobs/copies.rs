//! Which copy of a backup is read, and what happens when its bytes turn out bad: it is marked, the next one is tried, and one that is good
//! is copied to where it is missing.
//!
//! What always holds: nobody gets a byte before the manifest beside that copy was found sealed and as recorded, and all its bytes agreed with
//! both; a storage that cannot be reached says nothing about its bytes.

use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;

use super::{
    authentic::{self, Compare, Refusal},
    context::{JobContext, JobError},
    queue::{self, QueueError, Renewal},
    repair_copies, verify_files,
};
use crate::{
    app::App,
    artifact::ArtifactName,
    db,
    history::{self, Backup, BackupStatus, Copy, CopyStatus, Event, HistoryError},
    ids::BackupId,
    manifest::Manifest,
    pipeline::{self, FetchError, ManifestError, Spooled},
    storage::{self, ErrorKind, Locator, Pace, Storage},
    tenant::{Caller, Scope},
    transform::DecodeError,
};

/// A copy whose bytes were stored, in a storage that is configured.
#[derive(Clone, Debug)]
pub(super) struct Readable {
    pub copy: Copy,
    pub at: Locator,
    pub storage: Arc<dyn Storage>,
}

/// The copies that can be read, in the order in which they are tried: good before damaged (a disk that was not mounted may be back, and
/// bytes are compared anyway), quick storages before slow ones.
pub(super) async fn readable(app: &App, backup: &Backup) -> Result<Vec<Readable>, HistoryError> {
    let copies = history::copies(&app.pool, &[backup.id]).await?;
    let mut found: Vec<Readable> = copies
        .into_iter()
        .filter_map(|copy| {
            let (at, storage) = (copy.locator()?, app.storages.get(&copy.storage)?);
            Some(Readable { copy, at, storage })
        })
        .collect();
    found.sort_by_key(|found| (!found.copy.is_good(), found.storage.limits().pace == Pace::Afterwards));
    Ok(found)
}

/// Refuses a backup whose deletion was asked for while the job waited: what is left of its copies is on its way out.
pub(super) fn require_kept(backup: &Backup) -> Result<(), JobError> {
    if backup.is(BackupStatus::Deleted) {
        return Err(JobError::fail("backup.deleted", format!("backup {} is being deleted", backup.id)));
    }
    Ok(())
}

/// What is wrong with a copy.
#[derive(Debug)]
pub(super) enum CopyFault {
    /// Its bytes are not the recorded ones.
    Damaged(String),
    /// Its storage did not give them: no verdict on the bytes.
    OutOfReach(storage::Error),
    /// Something else went wrong, which another copy would not change.
    Other(JobError),
}

/// Fetches the first copy whose bytes are all as recorded. One that is damaged is marked, one that is out of reach left alone, and the
/// next one tried. Without any: the job is tried again when a storage may come back, else it fails.
pub(super) async fn fetch(context: &JobContext, backup: &Backup, manifest: &Manifest) -> Result<Spooled, JobError> {
    let mut last = JobError::fail("backup.no_copy", "no configured storage has a copy of this backup");
    for found in readable(&context.app, backup).await? {
        context.check_stop()?;
        context.stage("fetching").await;
        let name = &found.copy.storage;
        let mut code = "backup.damaged";
        let fault = match proved(context, backup, &found).await {
            Ok(()) => match spool(context, found.storage.as_ref(), &found.at, manifest).await {
                Ok(spooled) => match seal(context, &spooled, manifest).await {
                    Ok(()) => return Ok(spooled),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            },
            Err(Refusal::Unproved { code, message, hint }) => {
                let error =
                    JobError::fail(code, format!("the copy in {name:?} is not read: {message} ({code}). {hint}"));
                context.log("warn", &error.to_string()).await;
                // One that may be there later is worth another attempt.
                if !matches!(last, JobError::Retry { .. }) {
                    last = error;
                }
                continue;
            }
            Err(refusal) => {
                code = refusal.code();
                of_refusal(refusal)
            }
        };
        let error = match fault {
            CopyFault::Damaged(reason) => {
                mark_damaged(context, backup, &found.copy, &reason).await?;
                JobError::fail(code, format!("the copy in {name:?} is damaged: {reason}"))
            }
            CopyFault::OutOfReach(error) => out_of_reach(&found, &error),
            CopyFault::Other(error) => return Err(error),
        };
        context.log("warn", &error.to_string()).await;
        // One that may be there later is worth another attempt.
        if !matches!(last, JobError::Retry { .. }) {
            last = error;
        }
    }
    Err(last)
}

/// Compares the record with the sealed manifest beside a copy.
async fn proved(context: &JobContext, backup: &Backup, found: &Readable) -> Result<(), Refusal> {
    authentic::check(&context.app, backup, found.storage.as_ref(), &found.at, Compare::Whole).await.map(|_| ())
}

/// A copy that is not the recorded backup's is a damaged one. One that nothing proves may be good: that is for whoever has the keys.
fn of_refusal(refusal: Refusal) -> CopyFault {
    match refusal {
        Refusal::Forged { code, message } => CopyFault::Damaged(format!("{message} ({code})")),
        Refusal::Storage(error) => of_storage(error),
        unproved @ Refusal::Unproved { .. } => CopyFault::Other(unproved.into()),
    }
}

/// Compares the record with the head of the sealed manifest beside a copy: needs no key that decrypts.
pub(super) async fn sealed(context: &JobContext, backup: &Backup, found: &Readable) -> Result<(), CopyFault> {
    let checked = authentic::check(&context.app, backup, found.storage.as_ref(), &found.at, Compare::Head).await;
    checked.map(|_| ()).map_err(of_refusal)
}

/// Reads one copy to its end: manifest, stored digest, the encryption's own seal, content digest.
pub(super) async fn read_through(context: &JobContext, found: &Readable, manifest: &Manifest) -> Result<(), CopyFault> {
    let backup = find(&context.app, BackupId(found.copy.backup_id)).await.map_err(CopyFault::Other)?;
    if let Some(backup) = backup {
        proved(context, &backup, found).await.map_err(of_refusal)?;
    }
    let spooled = spool(context, found.storage.as_ref(), &found.at, manifest).await?;
    let (encoding, keys, content) = (manifest.head.encoding, Arc::clone(&context.app.keys), manifest.body.content);
    if let Some(files) = manifest.body.files() {
        return verify_files::read_through(context, spooled, manifest, files).await;
    }
    let checked =
        tokio::task::spawn_blocking(move || pipeline::check(&spooled, &encoding, &keys.identities, content)).await;
    verdict(checked.map_err(|error| CopyFault::Other(JobError::retry("worker.panic", error)))?)
}

async fn spool(
    context: &JobContext,
    storage: &dyn Storage,
    at: &Locator,
    manifest: &Manifest,
) -> Result<Spooled, CopyFault> {
    let directory = context.app.config.data_dir.join("spool");
    let total = manifest.head.stored.bytes;
    let report = |bytes: u64| {
        context.report(serde_json::json!({ "stage": "fetching", "stored_bytes": bytes, "total_bytes": total }))
    };
    pipeline::spool(storage, at, manifest.head.stored, &directory, &report, &context.stop.token).await.map_err(
        |error| match error {
            FetchError::Cancelled => CopyFault::Other(JobError::Stopped),
            FetchError::Damaged(message) => CopyFault::Damaged(message),
            FetchError::Storage(error) => of_storage(error),
            FetchError::NoSpace { .. } | FetchError::Io { .. } => CopyFault::Other(JobError::fail(error.code(), error)),
        },
    )
}

/// That nothing lies there, or something else, is damage.
pub(super) fn of_storage(error: storage::Error) -> CopyFault {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::Corrupt => CopyFault::Damaged(error.to_string()),
        _ => CopyFault::OutOfReach(error),
    }
}

/// What a job that needs this copy's bytes says: tried again when the storage may come back.
pub(super) fn out_of_reach(found: &Readable, error: &storage::Error) -> JobError {
    let told = format!("cannot read the copy in {:?}: {error:#}", found.copy.storage);
    if error.kind.may_pass() {
        JobError::retry(error.kind.code(), told)
    } else {
        JobError::fail(error.kind.code(), told)
    }
}

/// The encryption's own seal over all bytes: needs the identity, and says so before the target is touched.
async fn seal(context: &JobContext, spooled: &Spooled, manifest: &Manifest) -> Result<(), CopyFault> {
    let (spooled, encoding, keys) = (spooled.clone(), manifest.head.encoding, Arc::clone(&context.app.keys));
    let checked =
        tokio::task::spawn_blocking(move || pipeline::check_seal(&spooled, &encoding, &keys.identities)).await;
    verdict(checked.map_err(|error| CopyFault::Other(JobError::retry("worker.panic", error)))?)
}

fn verdict(checked: Result<(), DecodeError>) -> Result<(), CopyFault> {
    checked.map_err(of_decoding)
}

pub(super) fn of_decoding(error: DecodeError) -> CopyFault {
    match error.code() {
        "artifact.damaged" => CopyFault::Damaged(error.to_string()),
        code => CopyFault::Other(JobError::fail(code, error)),
    }
}

/// Writes down, fenced, that a copy no longer has its bytes.
pub(super) async fn mark_damaged(
    context: &JobContext,
    backup: &Backup,
    copy: &Copy,
    reason: &str,
) -> Result<(), JobError> {
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    if history::hold_stored(&mut transaction, backup.backup_id()).await? {
        damaged(&mut transaction, context, backup, copy, reason).await?;
        settle(&mut transaction, context, backup).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// The row and the audit event of a copy that was found damaged; nothing when it was replaced while it was looked at.
pub(super) async fn damaged(
    connection: &mut PgConnection,
    context: &JobContext,
    backup: &Backup,
    copy: &Copy,
    reason: &str,
) -> Result<(), JobError> {
    let known = copy.status == CopyStatus::Damaged.as_str();
    if history::judge_copy(&mut *connection, copy, CopyStatus::Damaged, Some(reason)).await? && !known {
        let caller = Caller::system("worker");
        let detail = serde_json::json!({ "job_id": context.lease.job, "storage": copy.storage, "message": reason });
        let event = Event {
            backup_id: Some(backup.backup_id()),
            project_id: &backup.project_id,
            event: "copy_damaged",
            caller: &caller,
            outcome: "failed",
            detail,
        };
        history::record(connection, &event).await?;
    }
    Ok(())
}

/// Brings the backup's row to what its copies say, and asks for the missing ones where a good one is left.
pub(super) async fn settle(
    connection: &mut PgConnection,
    context: &JobContext,
    backup: &Backup,
) -> Result<(), JobError> {
    let standing = history::settle_copies(&mut *connection, backup.backup_id()).await?;
    if standing.is_some_and(|standing| standing.good > 0 && standing.wanting > 0) {
        repair_copies::enqueue(connection, context, backup.backup_id(), &backup.project_id).await?;
    }
    Ok(())
}

/// Removes an artifact and its manifest by name, the manifest first. The names are the same for all attempts, so only the holder of the
/// lease may: a worker that was paused would else delete its successor's good backup.
pub(super) async fn remove(
    context: &JobContext,
    storage: &dyn Storage,
    key: &ArtifactName,
    backup: BackupId,
) -> Result<(), JobError> {
    if may_be_anothers(storage, key, backup).await? {
        context.log("warn", &format!("{key} is left where it is: it may belong to another backup")).await;
        return Ok(());
    }
    for name in [key.manifest(), key.clone()] {
        as_holder(context, storage, async {
            if let Some(at) = storage.find(&name).await? {
                storage.delete(&at).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Whether what lies under a name may belong to another backup: the name does not carry this backup's id, and no manifest says that it is this
/// one's. Two installations that share a storage give the same plain name to what they begin in the same second.
pub(super) async fn may_be_anothers(
    storage: &dyn Storage,
    key: &ArtifactName,
    backup: BackupId,
) -> Result<bool, storage::Error> {
    if key.is_only_of(backup) {
        return Ok(false);
    }
    match storage.find(&key.manifest()).await? {
        None => Ok(storage.find(key).await?.is_some()),
        Some(at) => match pipeline::read_manifest_file(storage, &at).await {
            Ok(file) => Ok(file.head.backup_id != backup),
            Err(ManifestError::Storage(error)) if error.kind.may_pass() => Err(error),
            Err(_) => Ok(true),
        },
    }
}

/// Whose bytes lie in a place, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This backup's: nothing says otherwise.
    Ours,
    /// Another backup's, by its own manifest.
    Another,
    /// There is no manifest, and not the size on record: perhaps another's, whose manifest is still to come.
    Unclear { bytes: u64 },
}

/// Whose artifact lies at `artifact`, with the manifest at `manifest`. Without a manifest its size alone can tell: a deletion takes the manifest
/// first, so that one that is taken up again finds none.
pub(super) async fn owner(
    storage: &dyn Storage,
    manifest: Option<&Locator>,
    artifact: Option<&Locator>,
    backup: &Backup,
) -> Result<Owner, storage::Error> {
    if let Some(at) = manifest {
        match pipeline::read_manifest_file(storage, at).await {
            Ok(file) if file.head.backup_id == backup.backup_id() => return Ok(Owner::Ours),
            Ok(_) => return Ok(Owner::Another),
            Err(ManifestError::Storage(error)) if error.kind == ErrorKind::NotFound => {}
            Err(ManifestError::Storage(error)) if error.kind.may_pass() => return Err(error),
            // Whoever may not look may still delete.
            Err(_) => return Ok(Owner::Ours),
        }
    }
    let Some(at) = artifact else { return Ok(Owner::Ours) };
    match storage.stat(at).await {
        Ok(stat) if stat.bytes != backup.size.cast_unsigned() => Ok(Owner::Unclear { bytes: stat.bytes }),
        Err(error) if error.kind.may_pass() => Err(error),
        Ok(_) | Err(_) => Ok(Owner::Ours),
    }
}

/// Where a name is; `None` also for a key that may not look.
pub(super) async fn look(storage: &dyn Storage, name: &ArtifactName) -> Result<Option<Locator>, storage::Error> {
    match storage.find(name).await {
        Err(error) if error.kind == ErrorKind::Denied => Ok(None),
        found => found,
    }
}

/// Removes one object, as the holder of the lease.
pub(super) async fn remove_at(context: &JobContext, storage: &dyn Storage, at: &Locator) -> Result<(), JobError> {
    as_holder(context, storage, async {
        storage.delete(at).await?;
        Ok(())
    })
    .await
}

/// Does one short thing in a storage while nobody else can take the job. A slow storage may need longer than a lease lasts: there the lease is
/// looked at before and after instead.
async fn as_holder(
    context: &JobContext,
    storage: &dyn Storage,
    work: impl Future<Output = Result<(), JobError>>,
) -> Result<(), JobError> {
    let (pool, lease) = (&context.app.pool, context.lease);
    let lease_for = Duration::from_secs(context.app.config.worker.lease_seconds);
    if storage.limits().pace == Pace::Streamed {
        return queue::while_held(pool, lease, lease_for, work).await;
    }
    let held = async || match queue::renew(pool, lease, lease_for, None).await? {
        Renewal::Kept | Renewal::CancelRequested => Ok(()),
        Renewal::Lost => Err(JobError::from(QueueError::LeaseLost(lease.job))),
    };
    held().await?;
    work.await?;
    held().await
}

/// Everything about the backup that a job was asked about; the right to it was checked then.
pub(super) fn everything() -> Scope {
    Scope::everything("the right to this backup was checked when the job was asked for")
}

/// A backup's row for a job; `None` when it is gone.
pub(super) async fn find(app: &App, id: BackupId) -> Result<Option<Backup>, JobError> {
    match history::get(&app.pool, &everything(), id).await {
        Ok(backup) => Ok(Some(backup)),
        Err(HistoryError::NoSuchBackup(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
