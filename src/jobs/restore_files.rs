//! `restore_backup`, `undo_restore` and what tidies up after them, for a backup of files. As for a database: the plan is in `restores`
//! before anything is touched, an attempt begins by putting right what a lost one left, and on any failure everything is as it was.
//!
//! A directory is restored beside the live one, compared, and swapped with it. A bucket has no such step: the files are restored below a
//! prefix of their own, compared, and the project is pointed there in the transaction that ends the job. Nothing that was there is removed.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::spawn_blocking;

use super::{
    context::{JobContext, JobError, StopReason},
    copies, ending,
    queue::{self, Ending},
    restore_backup::{end_as_written, held, timed_out, write_down},
    sources,
    verify_files::compare,
};
use crate::{
    app::App,
    catalog::{self, DirectorySource, FileSource, PrefixSource, Project},
    db,
    history::{self, Backup, Event, RestoreRow, RestoreState},
    ids::{BackupId, JobId, RestoreId},
    manifest::{FilesContent, FilesKind, Manifest},
    pipeline::{self, Spooled},
    restore::{
        RestoreError,
        files::{self, Extraction, FilesPlan, FilesRecovery, FilesTarget, Identity},
    },
    source::files::{Origin, beneath::Place},
    storage::Objects,
    tenant::{Caller, Scope},
};

/// A restore that stands.
struct Done {
    /// What was replaced: a directory's name and inode, or a prefix.
    kept: (String, i64),
    /// The inode of what was restored.
    restored: Option<i64>,
    /// Where the project's files are from now on, when that changes.
    moved_to: Option<FileSource>,
    warnings: Vec<String>,
}

/// One attempt.
pub(super) async fn run(context: &JobContext, backup: &Backup) -> Result<(), JobError> {
    let app = &context.app;
    let no_manifest =
        || JobError::fail("backup.no_manifest", "there is no manifest: the backup was not taken by this program");
    let manifest = backup.manifest().ok_or_else(no_manifest)?;
    let content = manifest.body.files().ok_or_else(no_manifest)?;
    let project = catalog::project(&app.pool, &everything(), &backup.project_id).await?;
    put_all_right(context, &project).await?;
    if let Some(done) =
        history::restore_of_job(&app.pool, context.lease.job).await?.filter(|restore| restore.state == "done")
    {
        return end_as_written(context, BackupId(backup.id), &done).await;
    }
    context.check_stop()?;
    copies::require_kept(backup)?;
    let origin = sources::origin(app, &project).await?;
    require_same_kind(content, &origin)?;
    let spooled = copies::fetch(context, backup, &manifest).await?;
    context.check_stop()?;

    let id = RestoreId::generate();
    let mut plan = plan(app, &project, &origin, id).await?;
    write_down(context, id, BackupId(backup.id), &project.id, &plan).await?;
    let error = match bring_back(context, &mut plan, &manifest, content, spooled).await {
        Ok(done) => return complete(context, backup.id.into(), &backup.project_id, id, done).await,
        Err(error) => error,
    };
    if context.stop.reason() == Some(StopReason::LeaseLost) {
        // Whoever has the job now finds the plan and puts things right.
        return Err(error);
    }
    context.log("warn", &format!("putting everything back: {error}")).await;
    match recover(context, &plan).await {
        Ok(None) => {
            history::rolled_back(&app.pool, id).await?;
            Err(error)
        }
        // It had been swapped before something else went wrong: so it stands, with its undo.
        Ok(Some(done)) => complete(context, backup.id.into(), &backup.project_id, id, done).await,
        // The row stays `running`: the next attempt, or the next job of the project, puts things right.
        Err(failure) => {
            Err(JobError::retry("restore.away", format!("{error}; and putting everything back failed: {failure}")))
        }
    }
}

fn everything() -> Scope {
    Scope::everything("the right to this backup was checked when the restore was asked for")
}

fn require_same_kind(content: &FilesContent, origin: &Origin) -> Result<(), JobError> {
    match (content.kind, origin) {
        (FilesKind::Directory, Origin::Directory { .. }) | (FilesKind::Prefix, Origin::Prefix { .. }) => Ok(()),
        (FilesKind::Directory, Origin::Prefix { .. }) => Err(JobError::fail(
            "restore.other_kind",
            "the backup holds a directory, and the project's files are in a bucket now: download it instead",
        )),
        (FilesKind::Prefix, Origin::Directory { .. }) => Err(JobError::fail(
            "restore.other_kind",
            "the backup holds a bucket's objects, and the project's files are in a directory now: download it instead",
        )),
    }
}

async fn plan(app: &App, project: &Project, origin: &Origin, id: RestoreId) -> Result<FilesPlan, JobError> {
    match (origin, catalog::files(&app.pool, &project.id).await?) {
        (Origin::Directory { directory, roots }, _) => {
            let (directory, roots) = (directory.clone(), roots.clone());
            blocking(move || FilesPlan::directory(id, &Place::find(&directory, &roots)?)).await
        }
        (Origin::Prefix { prefix, .. }, Some(FileSource::Prefix(source))) if *prefix == source.prefix => {
            Ok(FilesPlan::prefix(id, source.storage, source.prefix))
        }
        (Origin::Prefix { .. }, _) => Err(JobError::retry("project.files", "the project's files were moved just now")),
    }
}

/// Runs work on files beside the reactor.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, JobError> {
    Ok(spawn_blocking(work).await.map_err(|error| JobError::retry("worker.panic", error))??)
}

/// Does something at the place of a plan.
async fn at_place<T: Send + 'static>(
    app: &App,
    directory: &Path,
    work: impl FnOnce(&Place) -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, JobError> {
    let (directory, roots) = (directory.to_owned(), app.config.files.roots.clone());
    blocking(move || work(&Place::find(&directory, &roots)?)).await
}

fn objects(app: &App, storage: &str) -> Result<Objects, JobError> {
    let objects = app.storages.get(storage).and_then(|storage| storage.objects());
    objects.ok_or_else(|| JobError::fail("storage.unknown", format!("storage {storage:?} is no longer a bucket")))
}

/// From the first byte extracted to the swap.
async fn bring_back(
    context: &JobContext,
    plan: &mut FilesPlan,
    manifest: &Manifest,
    content: &FilesContent,
    spooled: Spooled,
) -> Result<Done, JobError> {
    let app = &context.app;
    let limit = Duration::from_secs(app.config.restore.timeout_seconds);
    held(context).await?;
    context.stage("extracting").await;
    match plan.files.clone() {
        FilesTarget::Directory { directory, .. } => {
            let warnings =
                extract(context, plan, &directory, &app.config.files.roots, manifest, content, spooled, limit).await?;
            record_staged(context, plan, &directory).await?;
            context.stage("comparing").await;
            let staged = directory.with_file_name(plan.staged());
            compare(context, content, Origin::Directory { directory: staged, roots: app.config.files.roots.clone() })
                .await?;
            context.check_stop()?;
            // From here on whoever claims this job finds what was staged, or the swap.
            held(context).await?;
            context.stage("swapping").await;
            let swapping = plan.clone();
            let restored = at_place(app, &directory, move |place| files::swap(place, &swapping)).await?;
            for warning in &warnings {
                context.log("warn", warning).await;
            }
            Ok(Done { warnings, ..swapped(plan, restored)? })
        }
        FilesTarget::Prefix { storage, prefix, restored } => {
            let objects = objects(app, &storage)?;
            let (to, below, what) = (objects.clone(), restored.clone(), content.clone());
            let runtime = tokio::runtime::Handle::current();
            with_content(context, manifest, spooled, limit, move |input, cancel, progress| {
                let how = Extraction { content: &what, cancel, progress };
                files::extract_to_prefix(&to, &below, input, &how, &runtime)
            })
            .await?;
            context.stage("comparing").await;
            compare(context, content, Origin::Prefix { objects, prefix: restored.clone() }).await?;
            context.check_stop()?;
            let moved_to = FileSource::Prefix(PrefixSource { storage, prefix: restored });
            Ok(Done { kept: (prefix, 0), restored: None, moved_to: Some(moved_to), warnings: Vec::new() })
        }
    }
}

/// Writes down which directory was extracted, before it is compared: a recovery takes no other for it.
async fn record_staged(context: &JobContext, plan: &mut FilesPlan, directory: &Path) -> Result<(), JobError> {
    let mut recorded = plan.clone();
    *plan = at_place(&context.app, directory, move |place| recorded.record_staged(place).map(|()| recorded)).await?;
    let json = serde_json::to_value(&*plan).map_err(|error| JobError::fail("restore.plan", error))?;
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::set_restore_plan(&mut *transaction, plan.id, &json).await?;
    transaction.commit().await?;
    Ok(())
}

/// What a swap that was done comes to.
fn swapped(plan: &FilesPlan, restored: Identity) -> Result<Done, JobError> {
    let FilesTarget::Directory { live, .. } = &plan.files else {
        return Err(JobError::fail("restore.plan", "the plan is one of a bucket"));
    };
    let (kept, restored) = (plan.kept(), Some(restored.inode.cast_signed()));
    Ok(Done { kept: (kept, live.inode.cast_signed()), restored, moved_to: None, warnings: Vec::new() })
}

#[allow(clippy::too_many_arguments, reason = "what an extraction needs, each of another kind")]
pub(super) async fn extract(
    context: &JobContext,
    plan: &FilesPlan,
    directory: &Path,
    roots: &[PathBuf],
    manifest: &Manifest,
    content: &FilesContent,
    spooled: Spooled,
    limit: Duration,
) -> Result<Vec<String>, JobError> {
    let (plan, content, directory, roots) = (plan.clone(), content.clone(), directory.to_owned(), roots.to_owned());
    with_content(context, manifest, spooled, limit, move |input, cancel, progress| {
        let how = Extraction { content: &content, cancel, progress };
        files::extract(&Place::find(&directory, &roots)?, &plan, input, &how)
    })
    .await
}

/// Runs work over the backup's content on a thread, reports how far it is, and ends it when it takes too long.
async fn with_content<T: Send + 'static>(
    context: &JobContext,
    manifest: &Manifest,
    spooled: Spooled,
    limit: Duration,
    work: impl FnOnce(Box<dyn Read + Send>, &tokio_util::sync::CancellationToken, &dyn Fn(u64)) -> Result<T, RestoreError>
    + Send
    + 'static,
) -> Result<T, JobError> {
    let (encoding, keys, expected) = (manifest.head.encoding, Arc::clone(&context.app.keys), manifest.body.content);
    let (cancel, reporting) = (context.stop.token.child_token(), context.clone());
    let stop = cancel.clone();
    let working = blocking(move || {
        let input = pipeline::content(&spooled, &encoding, &keys.identities, expected)
            .map_err(|error| RestoreError { message: error.to_string(), code: error.code(), may_pass: false })?;
        let progress = |bytes: u64| {
            reporting.report(
                serde_json::json!({ "stage": "extracting", "content_bytes": bytes, "total_bytes": expected.bytes }),
            );
        };
        work(input, &stop, &progress)
    });
    tokio::pin!(working);
    tokio::select! {
        result = &mut working => result,
        () = tokio::time::sleep(limit) => {
            cancel.cancel();
            let _ = working.await; // it ends by the cancellation
            Err(timed_out(limit))
        }
    }
}

/// Finds out from what lies there how far an attempt came; `None` after everything was put back.
async fn recover(context: &JobContext, plan: &FilesPlan) -> Result<Option<Done>, JobError> {
    held(context).await?;
    match &plan.files {
        FilesTarget::Directory { directory, .. } => {
            let recovering = plan.clone();
            match at_place(&context.app, directory, move |place| files::recover(place, &recovering)).await? {
                FilesRecovery::Finished { restored } => swapped(plan, restored).map(Some),
                FilesRecovery::RolledBack => Ok(None),
            }
        }
        // The project is pointed there in the transaction that ends the restore, so it was not.
        FilesTarget::Prefix { storage, restored, .. } => {
            files::remove_prefix(&objects(&context.app, storage)?, restored).await?;
            Ok(None)
        }
    }
}

/// Puts right every restore of the project's files that was begun and never ended.
async fn put_all_right(context: &JobContext, project: &Project) -> Result<(), JobError> {
    for row in history::running_restores(&context.app.pool, &project.id).await? {
        if let Some(plan) = FilesPlan::read(&row.plan) {
            put_right(context, &row, &plan).await?;
        }
    }
    Ok(())
}

/// Puts right a restore that was begun and never ended. The job's lease is the right to do so: at most one job runs per project.
pub(super) async fn put_right(context: &JobContext, row: &RestoreRow, plan: &FilesPlan) -> Result<(), JobError> {
    context.stage("putting right what an earlier attempt left").await;
    match recover(context, plan).await? {
        None => {
            history::rolled_back(&context.app.pool, RestoreId(row.id)).await?;
            context.log("warn", "an earlier attempt was rolled back").await;
        }
        // It was compared before it was swapped, so it stands as it is.
        Some(done) => {
            let mut transaction = db::begin(&context.app.pool).await?;
            queue::fence(&mut transaction, context.lease).await?;
            stand(&mut transaction, context, BackupId(row.backup_id), &row.project_id, RestoreId(row.id), &done)
                .await?;
            transaction.commit().await?;
        }
    }
    Ok(())
}

/// Writes down that a restore stands: its row, where the project's files are, and the audit event. Gives the job's result.
async fn stand(
    transaction: &mut sqlx::PgConnection,
    context: &JobContext,
    backup_id: BackupId,
    project_id: &str,
    id: RestoreId,
    done: &Done,
) -> Result<serde_json::Value, JobError> {
    let app = &context.app;
    let undo_until = app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours));
    let kept = Some((done.kept.0.as_str(), done.kept.1));
    history::finish_restore(&mut *transaction, id, "verified", &[], kept, done.restored, Some(undo_until)).await?;
    if let Some(files) = &done.moved_to {
        catalog::set_files(&mut *transaction, project_id, Some(files)).await?;
    }
    let result = serde_json::json!({
        "restore_id": id, "backup_id": backup_id, "outcome": "verified", "differences": [], "warnings": done.warnings,
        "kept": done.kept.0, "files": done.moved_to, "undo_until": undo_until,
    });
    let mut detail = result.clone();
    detail["job_id"] = serde_json::json!(context.lease.job);
    let caller = Caller::system("worker");
    let event =
        Event { backup_id: Some(backup_id), project_id, event: "restored", caller: &caller, outcome: "ok", detail };
    history::record(transaction, &event).await?;
    Ok(result)
}

async fn complete(
    context: &JobContext,
    backup_id: BackupId,
    project_id: &str,
    id: RestoreId,
    done: Done,
) -> Result<(), JobError> {
    let mut transaction = db::begin(&context.app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    let result = stand(&mut transaction, context, backup_id, project_id, id, &done).await?;
    let payload = queue::payload(&mut *transaction, context.lease).await?;
    let told = format!("backup {backup_id} restored: verified");
    ending::notify(&mut transaction, context, &payload, Some(backup_id), "restored", &told)
        .await
        .map_err(|error| JobError::retry("control_plane.unavailable", error))?;
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}

/// Undoes a restore. An attempt after a lost one finds the names swapped already and only writes it down.
pub(super) async fn undo(
    context: &JobContext,
    restore: &RestoreRow,
    plan: &FilesPlan,
    restore_job_id: JobId,
) -> Result<(), JobError> {
    let app = &context.app;
    let project = catalog::project(&app.pool, &everything(), &restore.project_id).await?;
    put_all_right(context, &project).await?;
    context.check_stop()?;
    held(context).await?;
    context.stage("swapping back").await;
    let (kept, back_to) = match &plan.files {
        FilesTarget::Directory { directory, .. } => {
            let source = DirectorySource { directory: directory.to_string_lossy().into_owned() };
            if catalog::files(&app.pool, &project.id).await? != Some(FileSource::Directory(source)) {
                let message = "the project's files were moved since the restore";
                return Err(JobError::fail("restore.target_moved", message));
            }
            let inode = restore.restored_oid.unwrap_or_default().cast_unsigned();
            let undoing = plan.clone();
            let restored = at_place(app, directory, move |place| files::undo(place, &undoing, inode)).await?;
            (Some((plan.undone(), restored.inode.cast_signed())), None)
        }
        FilesTarget::Prefix { storage, prefix, restored } => {
            let at =
                |prefix: &String| FileSource::Prefix(PrefixSource { storage: storage.clone(), prefix: prefix.clone() });
            let now = catalog::files(&app.pool, &project.id).await?;
            if now != Some(at(restored)) && now != Some(at(prefix)) {
                let message = "the project's files were moved since the restore";
                return Err(JobError::fail("restore.target_moved", message));
            }
            (None, Some(at(prefix)))
        }
    };
    let id = RestoreId(restore.id);
    let mut transaction = db::begin(&app.pool).await?;
    queue::fence(&mut transaction, context.lease).await?;
    history::set_restore_state(&mut *transaction, id, RestoreState::Undone).await?;
    if back_to.is_some() {
        catalog::set_files(&mut *transaction, &project.id, back_to.as_ref()).await?;
    }
    // A window of its own: what was written since the restore is in there.
    let kept_until = app.clock.now() + chrono::Duration::hours(i64::from(app.config.restore.undo_hours));
    let named = kept.as_ref().map(|(name, inode)| (name.as_str(), *inode));
    history::set_kept(&mut *transaction, id, named, Some(kept_until)).await?;
    let kept_now = kept.map(|(name, _)| name);
    let caller = Caller::system("worker");
    let event = Event {
        backup_id: Some(BackupId(restore.backup_id)),
        project_id: &restore.project_id,
        event: "restore_undone",
        caller: &caller,
        outcome: "ok",
        detail: serde_json::json!({
            "job_id": context.lease.job, "restore_job_id": restore_job_id, "kept": kept_now, "files": back_to,
        }),
    };
    history::record(&mut transaction, &event).await?;
    let result = serde_json::json!({
        "restore_job_id": restore_job_id, "kept": kept_now, "kept_until": kept_until, "files": back_to,
    });
    queue::end(&mut *transaction, context.lease, &Ending::Completed(&result)).await?;
    transaction.commit().await?;
    Ok(())
}

/// Drops what a restore replaced, after its window. What was in a bucket stays there: `false`.
pub(super) async fn drop_kept(
    context: &JobContext,
    plan: &FilesPlan,
    kept: &str,
    inode: i64,
) -> Result<bool, JobError> {
    let FilesTarget::Directory { directory, .. } = &plan.files else { return Ok(false) };
    held(context).await?;
    let (kept, inode) = (kept.to_owned(), inode.cast_unsigned());
    at_place(&context.app, directory, move |place| files::drop_kept(place, &kept, inode)).await?;
    Ok(true)
}
