//! A trial: a backup restored into a scratch database as the restricted role, compared with its proof, timed, and dropped again.
//!
//! What always holds: the scratch database is written down in `restores` before it is made, and belongs to the trial's own role while it
//! exists. Whoever has the project's next job, or tidies up after jobs that are over, knows it by that and drops it.

use std::time::{Duration, Instant};

use super::{
    context::{JobContext, JobError, StopReason},
    copies,
    restore_backup::{content_of, engine, everything, fill, open_held, put_right, timed_out, write_down},
    verify_files,
};
use crate::{
    catalog,
    history::{self, Backup},
    ids::{BackupId, RestoreId},
    manifest::{DatabaseContent, Manifest},
    pipeline::Spooled,
    proof,
    restore::{self, Place, Plan, Session},
};

/// What a trial restore came to.
pub(super) struct Trial {
    pub differences: Vec<String>,
    /// From the first byte fetched to the last row compared.
    pub seconds: f64,
}

/// Restores into a scratch database, compares, and drops it again. The inner error is the trial's own; the outer one came before or around it (a
/// storage, another restore, a server that is away), and says nothing about the backup.
pub(super) async fn run(
    context: &JobContext,
    backup: &Backup,
    manifest: &Manifest,
) -> Result<Result<Trial, JobError>, JobError> {
    if let Some(content) = manifest.body.files() {
        return verify_files::trial(context, backup, manifest, content).await;
    }
    let app = &context.app;
    let project = catalog::project(&app.pool, &everything(), &backup.project_id).await?;
    let content = content_of(manifest)?;
    if let Some(message) = needs_outside(content) {
        return Ok(Err(JobError::fail(NEEDS_OUTSIDE, message)));
    }
    put_right(context, &project).await?;
    let server = app.config.trials.database.as_str();
    let place = Place { server: Some(server.to_owned()).filter(|name| !name.is_empty()), database: None };
    let engine = engine(app, &project, &place).await?;
    let begun = Instant::now();
    let spooled = copies::fetch(context, backup, manifest).await?;
    let id = RestoreId::generate();
    let plan = Plan { place, ..engine.plan_database(id, Some(format!("hf_trial_{}", id.short()))).await? };
    write_down(context, id, BackupId(backup.id), &project.id, &plan).await?;
    let mut session = open_held(context, &engine, &plan).await?;
    let tried = bring_back(context, &mut session, manifest, content, spooled).await;
    let seconds = begun.elapsed().as_secs_f64();
    // A statement may still be under way in that session.
    drop(session);
    if context.stop.reason() == Some(StopReason::LeaseLost) {
        // Whoever has the job now finds the plan and drops the database.
        return Err(JobError::Stopped);
    }
    context.stage("dropping the scratch database").await;
    let mut session = open_held(context, &engine, &plan).await?;
    session.roll_back().await?;
    history::rolled_back(&app.pool, id).await?;
    session.close().await;
    Ok(tried.map(|restore::Trial { differences, of_owners }| {
        let mut told = proof::told(&differences);
        told.extend(of_owners);
        told.extend(content.not_compared());
        Trial { differences: told, seconds }
    }))
}

async fn bring_back(
    context: &JobContext,
    session: &mut Session,
    manifest: &Manifest,
    content: &DatabaseContent,
    spooled: Spooled,
) -> Result<restore::Trial, JobError> {
    let limit = Duration::from_secs(context.app.config.restore.timeout_seconds);
    context.stage("making a scratch database").await;
    context.check_stop()?;
    session.require_room(needed(manifest, content)).await?;
    fill(context, session, manifest, content, spooled, limit).await?;
    context.stage("comparing").await;
    tokio::select! {
        proved = tokio::time::timeout(limit, session.prove(content)) => Ok(proved.map_err(|_| timed_out(limit))??),
        () = context.stop.token.cancelled() => Err(JobError::Stopped),
    }
}

/// A trial that no scratch database can hold.
pub const NEEDS_OUTSIDE: &str = "verify.needs_outside";

/// Why a schema's backup cannot be tried in a database of its own. Nothing could stand in for a table with rows that others refer to.
pub fn needs_outside(content: &DatabaseContent) -> Option<String> {
    let needed = content.requirements.objects.first()?;
    let more = content.requirements.objects.len() - 1;
    let others = if more > 0 { format!(" and {more} others") } else { String::new() };
    Some(format!(
        "the backup is not tried in a scratch database, which has nothing of what its schema refers to: {} {}{others}. Restore it beside the \
         live schema (target.schema), where it is compared in the same way",
        needed.kind, needed.identity
    ))
}

/// What a restored dump needs on the server's disk: what it had when it was dumped, or, where little was known of that, twice its text.
fn needed(manifest: &Manifest, content: &DatabaseContent) -> u64 {
    let had = content.proof.as_ref().map_or(0, |proof| proof.disk_bytes);
    had.max(manifest.body.content.bytes.saturating_mul(2))
}
