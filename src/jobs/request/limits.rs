//! How many jobs of one project may wait or run at once.

use super::{RequestError, delete::RETENTIONS_PRIORITY};
use crate::{
    app::App,
    jobs::{JobType, queue::NewJob},
};

/// Refuses a job that has just been put into the queue in this transaction, when it is one too many: the transaction is then given up, and
/// the job with it. Looked at after the insertion, so that a request that is repeated under its key gets its job of before.
///
/// Of a project's requests only one at a time passes here until its transaction ends, so that no two that come together both find the last
/// place. Deletions are counted by themselves: those that wait for a storage must not keep a project from being backed up. What nobody waits
/// for is not counted: housekeeping's own jobs, and retention's deletions.
pub(super) async fn refuse_when_full(
    connection: &mut sqlx::PgConnection,
    app: &App,
    new: &NewJob,
) -> Result<(), RequestError> {
    let limit = app.config.limits.jobs_per_project;
    let Some(project_id) = new.project_id.as_deref().filter(|_| limit > 0) else { return Ok(()) };
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('holdfast jobs of ' || $1::text, 0))::text AS locked",
        project_id,
    )
    .fetch_one(&mut *connection)
    .await?;
    let open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM control_plane.jobs
           WHERE project_id = $1 AND status IN ('pending', 'in_progress') AND type = ANY($2) AND priority > $3"#,
        project_id,
        &counted_with(new.job_type),
        RETENTIONS_PRIORITY,
    )
    .fetch_one(connection)
    .await?;
    if open > i64::from(limit) {
        return Err(RequestError::Busy { project_id: project_id.to_owned(), limit });
    }
    Ok(())
}

/// The types that are counted together with this one.
fn counted_with(job_type: JobType) -> Vec<String> {
    let is_deletion = |job_type: JobType| job_type == JobType::DeleteBackup;
    let is_housekeeping = |job_type: JobType| matches!(job_type, JobType::RepairCopies | JobType::DropReplaced);
    let known = JobType::ALL.iter().copied();
    known
        .filter(|other| is_deletion(*other) == is_deletion(job_type) && !is_housekeeping(*other))
        .map(|other| other.as_str().to_owned())
        .collect()
}
