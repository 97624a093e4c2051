//! `delete_backup`: deletes every copy of a backup, confirmed.
//!
//! What always holds: the backup was marked `deleted` before its first byte goes; in each storage the manifest goes before the artifact;
//! a copy counts as deleted when its storage no longer finds it; what was done is kept, so another attempt, or another job, goes on there.
//! The row leaves `backups` in the transaction that writes its tombstone, after the last copy was confirmed.

use serde::Serialize;

use super::{
    JobType,
    context::{JobContext, JobError},
    copies::{self, Owner},
    queue::{self, Ending, JobStatus, NewJob, QueueError},
    request::{DELETE_ATTEMPTS, Decided, DeletePayload, DeleteRequest},
};
use crate::{
    app::App,
    artifact::ArtifactName,
    db,
    history::{self, Backup, BackupStatus, DoomedCopy, HistoryError},
    ids::{BackupId, JobId},
    storage::{self, Deletion, ErrorKind, Locator, Storage},
    tenant::{Caller, Scope},
};

/// How often the copies are gone through while others of this backup still appear.
const PASSES: usize = 3;

/// One attempt.
pub async fn run(context: &JobContext) -> Result<(), JobError> {
    let app = &context.app;
    let DeletePayload { request, .. } = context.payload()?;
    let id = request.backup_id;
    let backup = match history::get(&app.pool, &everything(), id).await {
        Ok(backup) => backup,
        // By an earlier job, after this one was asked for.
        Err(HistoryError::NoSuchBackup(_)) if history::is_buried(&app.pool, id).await? => {
            let result = serde_json::json!({ "backup_id": id, "deleted": [], "remains": [] });
            queue::end(&app.pool, context.lease, &Ending::Completed(&result)).await?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if !backup.is(BackupStatus::Deleted) {
        return Err(JobError::fail(
            "backup.not_marked",
            format!("backup {id} is {}, not to be deleted", backup.status),
        ));
    }
    refuse_while_copying(context, &backup).await?;
    let asked = asked_for(context, &backup).await?;
    for _ in 0..PASSES {
        let copies = doomed(context, id, asked.as_ref()).await?;
        let key = key_of(&backup, &copies, asked.as_ref());
        let mut problems = Vec::new();
        for copy in copies.iter().filter(|copy| !copy.is_over()) {
            context.check_stop()?;
            context.stage(&format!("deleting from {}", copy.storage)).await;
            match delete_copy(context, key.as_ref(), &backup, copy).await {
                Ok(remains) => write_down(context, id, &copy.storage, Ok(remains.as_deref())).await?,
                Err(Problem::Stopped) => return Err(JobError::Stopped),
                Err(problem) => {
                    let message = problem.to_string();
                    context.log("warn", &format!("storage {}: {message}", copy.storage)).await;
                    write_down(context, id, &copy.storage, Err(&message)).await?;
                    problems.push((copy.storage.clone(), problem));
                }
            }
        }
        if !problems.is_empty() {
            return Err(stuck(context, id, &problems).await?);
        }
        if close(context, &backup).await? {
            return Ok(());
        }
    }
    Err(JobError::retry("backup.copies_changed", "copies of the backup appeared while it was being deleted"))
}

/// Takes deletions up again that have failed: a key for each backup and day keeps it to one, however many workers look.
pub async fn enqueue_due(app: &App) -> Result<(), JobError> {
    for stuck in history::stuck_deletions(&app.pool).await? {
        let payload = DeletePayload {
            request: DeleteRequest { backup_id: BackupId(stuck.backup_id) },
            was: BackupStatus::Deleted.as_str().to_owned(),
        };
        let new = NewJob {
            id: JobId::generate(),
            job_type: JobType::DeleteBackup,
            project_id: Some(stuck.project_id),
            payload: serde_json::to_value(&payload).map_err(|error| JobError::fail("job.payload", error))?,
            max_attempts: DELETE_ATTEMPTS,
            priority: -10,
            created_by: "system:worker".to_owned(),
            idempotency_key: Some(format!("delete:{}:{}", stuck.backup_id, app.clock.now().timestamp() / 86_400)),
        };
        let mut connection = app.pool.acquire().await?;
        queue::enqueue(&mut connection, &new).await?;
    }
    Ok(())
}

fn everything() -> Scope {
    Scope::everything("the right to this backup was checked when its deletion was asked for")
}

/// Why a copy is not known to be gone.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it is no longer configured: put it back into the configuration, so that its copy can be deleted")]
    UnknownStorage,
    #[error("{0}")]
    Storage(#[from] storage::Error),
    #[error("the job was stopped")]
    Stopped,
}

impl Problem {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind.may_pass())
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownStorage => "storage.unknown",
            Self::Storage(error) => error.kind.code(),
            Self::Stopped => "job.stopped",
        }
    }
}

/// A copy that is being made appears under its name at the end, after we have looked. Its job was told to stop when the deletion was asked
/// for.
async fn refuse_while_copying(context: &JobContext, backup: &Backup) -> Result<(), JobError> {
    let (pool, id) = (&context.app.pool, backup.backup_id());
    let open = queue::open_about(pool, JobType::RepairCopies, &backup.project_id, id).await?;
    if open.iter().any(|job| job.status() == Some(JobStatus::InProgress)) {
        return Err(JobError::retry("backup.copy_under_way", "a copy of the backup is still being made"));
    }
    Ok(())
}

/// What the backup's own job was asked for, when that job is still known.
async fn asked_for(context: &JobContext, backup: &Backup) -> Result<Option<Decided>, JobError> {
    let Some(job) = backup.job_id else { return Ok(None) };
    match queue::get(&context.app.pool, &everything(), JobId(job)).await {
        Ok(job) => Ok(serde_json::from_value(job.payload).ok()),
        Err(QueueError::NoSuchJob(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The copies on record, and the storages that an unfinished attempt may have written to without a record.
async fn doomed(context: &JobContext, id: BackupId, asked: Option<&Decided>) -> Result<Vec<DoomedCopy>, JobError> {
    let mut copies = history::doomed_copies(&context.app.pool, id).await?;
    for storage in asked.into_iter().flat_map(|payload| &payload.storages) {
        if context.app.storages.contains_key(storage) && !copies.iter().any(|copy| copy.storage == *storage) {
            copies.push(DoomedCopy::unrecorded(storage));
        }
    }
    Ok(copies)
}

/// The artifact's name, which is the same in every storage. `None` for a row of a platform's own that tells none.
fn key_of(backup: &Backup, copies: &[DoomedCopy], asked: Option<&Decided>) -> Option<ArtifactName> {
    let of_copies = copies.iter().find_map(|copy| copy.locator().map(|at| at.key().clone()));
    let of_manifest = || backup.manifest().map(|manifest| manifest.head.key);
    of_copies.or_else(of_manifest).or_else(|| asked.map(|payload| payload.key.clone()))
}

/// Deletes what one storage holds: what was recorded and what lies under the name, the manifest first. Gives the storage's words for what
/// remains.
async fn delete_copy(
    context: &JobContext,
    key: Option<&ArtifactName>,
    backup: &Backup,
    copy: &DoomedCopy,
) -> Result<Option<String>, Problem> {
    let storage = context.app.storages.get(&copy.storage).ok_or(Problem::UnknownStorage)?;
    let work = async {
        let keeper = match copy.locator() {
            Some(at) => storage::keeper(storage.as_ref(), &at).await?,
            None => None,
        };
        let storage = keeper.as_deref().unwrap_or(storage.as_ref());
        let recorded = (copy.manifest_locator(), copy.locator());
        let owners = owners(storage, key, backup, &recorded).await?;
        let key = key.filter(|_| owners.named == Owner::Ours);
        let (manifest_at, at) = if owners.recorded == Owner::Ours { recorded } else { (None, None) };
        let mut remains = Vec::new();
        remains.extend(delete_object(storage, key.map(ArtifactName::manifest), manifest_at).await?);
        remains.extend(delete_object(storage, key.cloned(), at).await?);
        remains.extend(owners.unclear());
        Ok((!remains.is_empty()).then(|| remains.join("; ")))
    };
    tokio::select! {
        done = work => done,
        () = context.stop.token.cancelled() => Err(Problem::Stopped),
    }
}

/// Whose bytes lie under a copy's name, and where its row says.
struct Owners {
    named: Owner,
    recorded: Owner,
}

impl Owners {
    /// What is told of bytes that are left where they are because nobody knows whose they are.
    fn unclear(&self) -> Option<String> {
        [self.named, self.recorded].into_iter().find_map(|owner| match owner {
            Owner::Unclear { bytes } => Some(format!(
                "an artifact of {bytes} bytes has the backup's name and no manifest: it may be another backup's, and is left where it is"
            )),
            Owner::Ours | Owner::Another => None,
        })
    }
}

/// What has the name need not be this backup's: where nothing was recorded, and where what was recorded has gone and another backup was given its
/// name. Nor need the two be one place: the storage's prefix may have been changed since.
async fn owners(
    storage: &dyn Storage,
    key: Option<&ArtifactName>,
    backup: &Backup,
    recorded: &(Option<Locator>, Option<Locator>),
) -> Result<Owners, storage::Error> {
    let ours = Owners { named: Owner::Ours, recorded: Owner::Ours };
    let Some(key) = key.filter(|key| !key.is_only_of(backup.backup_id())) else { return Ok(ours) };
    let (manifest_at, at) = recorded;
    let Some(at) = at else {
        let is_anothers = copies::may_be_anothers(storage, key, backup.backup_id()).await?;
        return Ok(if is_anothers { Owners { named: Owner::Another, ..ours } } else { ours });
    };
    let found = (copies::look(storage, &key.manifest()).await?, copies::look(storage, key).await?);
    // What says more than a name is this backup's wherever it is found.
    if !at.is_a_name() && found.1.as_ref() == Some(at) {
        return Ok(ours);
    }
    let named = copies::owner(storage, found.0.as_ref(), found.1.as_ref(), backup).await?;
    let recorded = if !at.is_a_name() {
        Owner::Ours
    } else if found == *recorded {
        named
    } else {
        copies::owner(storage, manifest_at.as_ref(), Some(at), backup).await?
    };
    Ok(Owners { named, recorded })
}

async fn delete_object(
    storage: &dyn Storage,
    name: Option<ArtifactName>,
    recorded: Option<Locator>,
) -> Result<Option<String>, storage::Error> {
    let found = match &name {
        Some(name) => storage.find(name).await?.filter(|found| Some(found) != recorded.as_ref()),
        None => None,
    };
    let mut remains = Vec::new();
    for at in recorded.into_iter().chain(found) {
        remains.extend(what_remains(storage.delete(&at).await?));
    }
    // What cannot be deleted may be found as long as it is there.
    if remains.is_empty()
        && let Some(name) = &name
        && storage.find(name).await?.is_some()
    {
        return Err(storage::Error::new(ErrorKind::Unavailable, format!("{name} is still there after its deletion")));
    }
    Ok((!remains.is_empty()).then(|| remains.join("; ")))
}

fn what_remains(deletion: Deletion) -> Option<String> {
    match deletion {
        Deletion::Gone => None,
        Deletion::BytesMayRemain { what } => Some(what),
    }
}

/// Writes down what became of a copy, as the holder of the lease.
async fn write_down(
    context: &JobContext,
    id: BackupId,
    storage: &str,
    outcome: Result<Option<&str>, &str>,
) -> Result<(), JobError> {
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    match outcome {
        Ok(remains) => history::copy_deleted(&mut *transaction, id, storage, remains).await?,
        Err(reason) => history::copy_not_deleted(&mut *transaction, id, storage, reason).await?,
    }
    transaction.commit().await?;
    Ok(())
}

/// Another attempt while something may pass; else the end, which names every storage.
async fn stuck(context: &JobContext, id: BackupId, problems: &[(String, Problem)]) -> Result<JobError, JobError> {
    let named: Vec<String> =
        problems.iter().map(|(storage, problem)| format!("storage {storage}: {problem}")).collect();
    let message = format!("not deleted everywhere: {}", named.join("; "));
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::deletion_stuck(&mut *transaction, id, &message).await?;
    transaction.commit().await?;
    let passing = problems.iter().find(|(_, problem)| problem.may_pass());
    Ok(match (passing, problems.first()) {
        (Some((_, problem)), _) => JobError::retry(problem.code(), message),
        (None, Some((_, problem))) => JobError::fail(problem.code(), message),
        (None, None) => JobError::Stopped,
    })
}

/// What is told of a copy that cannot be deleted whole.
#[derive(Clone, Debug, Serialize)]
struct Remaining {
    storage: String,
    what: String,
}

/// The file of a row that another program has written: no storage of ours knows it.
fn not_managed(backup: &Backup) -> impl Iterator<Item = Remaining> {
    let storage = backup.storage.clone().unwrap_or_else(|| "elsewhere".to_owned());
    let file = backup.s3_url.as_ref().or(backup.file_id.as_ref());
    file.map(|file| Remaining { storage, what: format!("the file {file}, recorded but not managed here") }).into_iter()
}

/// The tombstone, the rows and the job, in one transaction that the lease fences. `false` when a copy has appeared meanwhile.
async fn close(context: &JobContext, backup: &Backup) -> Result<bool, JobError> {
    let id = backup.backup_id();
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::hold(&mut transaction, id).await?;
    let copies = history::doomed_copies(&mut *transaction, id).await?;
    if copies.iter().any(|copy| !copy.is_over()) {
        transaction.rollback().await?;
        return Ok(false);
    }
    let mut remains: Vec<Remaining> = copies
        .iter()
        .filter(|copy| copy.status == history::CopyStatus::Remains.as_str())
        .map(|copy| Remaining { storage: copy.storage.clone(), what: copy.message.clone().unwrap_or_default() })
        .collect();
    remains.extend(not_managed(backup).filter(|_| copies.is_empty()));
    let deleted: Vec<&str> = copies
        .iter()
        .filter(|copy| copy.status == history::CopyStatus::Deleted.as_str())
        .map(|copy| copy.storage.as_str())
        .collect();
    let outcome = serde_json::json!({ "deleted": deleted, "remains": remains });
    history::bury(&mut transaction, id, &Caller::system("worker"), Some(context.lease.job), &outcome).await?;
    let mut result = outcome;
    result["backup_id"] = serde_json::json!(id);
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(true)
}
