//! Starting runs: what is due becomes a job, by the same request that people make.

use chrono::Duration;
use uuid::Uuid;

use super::{
    asked::Wanted,
    rows::{self, DueRun},
};
use crate::{
    app::App,
    catalog::Project,
    clock::Timestamp,
    db,
    history::{self, Event},
    ids::JobId,
    jobs::{
        queue,
        request::{self, Asked, Origin, RequestError},
    },
    tenant::Caller,
};

/// Runs held in one transaction.
const BATCH: i64 = 50;

/// A run that cannot start for now is tried again after this time.
const RETRY: Duration = Duration::minutes(5);

/// Starts up to `limit` runs that are due, in turn between the projects, the longest due first. Gives how many were looked at.
pub async fn start_due(app: &App, limit: usize) -> Result<usize, RequestError> {
    let now = app.clock.now();
    let grace = Duration::hours(i64::from(app.config.schedules.grace_hours));
    let mut seen = 0;
    while seen < limit {
        let mut transaction = db::begin(&app.pool).await?;
        let due = rows::hold_runs(&mut transaction, now, BATCH).await?;
        for run in &due {
            let outcome = match (left_out(run, now, grace), &run.message) {
                // It was tried all the time: what kept it is told, once.
                (Some(TOO_LATE), Some(why)) => Outcome::Refused(format!("until it was too late: {why}")),
                (Some(why), _) => Outcome::Skipped(why.to_owned()),
                (None, _) => start(app, run).await?,
            };
            match outcome {
                Outcome::Enqueued(job) => rows::end_run(&mut transaction, run, "enqueued", None, Some(job)).await?,
                Outcome::Skipped(why) => {
                    tracing::info!(project = %run.project_id, slot = %run.slot, "Schedule: no backup: {why}");
                    rows::end_run(&mut transaction, run, "skipped", Some(&why), None).await?;
                }
                Outcome::PutOff(why) => {
                    tracing::warn!(project = %run.project_id, slot = %run.slot, "Schedule: no backup yet: {why}");
                    rows::put_off(&mut transaction, run, &why, now + RETRY).await?;
                }
                Outcome::Refused(why) => {
                    tracing::warn!(project = %run.project_id, slot = %run.slot, "Schedule: no backup: {why}");
                    rows::end_run(&mut transaction, run, "refused", Some(&why), None).await?;
                    let caller = Caller::system("scheduler");
                    let detail =
                        serde_json::json!({ "schedule_id": run.schedule_id, "slot": run.slot, "message": why });
                    let event = Event {
                        backup_id: None,
                        project_id: &run.project_id,
                        event: "schedule_refused",
                        caller: &caller,
                        outcome: "failed",
                        detail,
                    };
                    history::record(&mut transaction, &event).await?;
                }
            }
        }
        transaction.commit().await?;
        seen += due.len();
        if (due.len() as i64) < BATCH {
            break;
        }
    }
    Ok(seen)
}

enum Outcome {
    Enqueued(JobId),
    Skipped(String),
    /// Not now; perhaps later.
    PutOff(String),
    Refused(String),
}

const TOO_LATE: &str = "it was missed, and is too late to be caught up";

/// Why a run that is due is not started.
fn left_out(run: &DueRun, now: Timestamp, grace: Duration) -> Option<&'static str> {
    if !run.is_wanted {
        Some("the schedule was disabled or removed meanwhile")
    } else if run.project_status.as_deref() != Some(Project::ACTIVE) {
        Some("the project is not ACTIVE")
    } else if run.is_overtaken {
        Some("a later time of the same schedule takes its place")
    } else if now - run.due_at > grace {
        Some(TOO_LATE)
    } else if run.is_behind {
        Some("the backup of the time before has not ended")
    } else {
        None
    }
}

/// Asks for the backup. The key makes it one job, whoever else asks for the same run.
///
/// # Errors
/// The control plane does not answer. What fails for this run alone is its [`Outcome`].
async fn start(app: &App, run: &DueRun) -> Result<Outcome, RequestError> {
    let asked = match asked(run) {
        Ok(asked) => asked,
        Err(why) => return Ok(Outcome::Refused(why)),
    };
    let key = format!("schedule:{}:{}:{}", run.schedule_id, run.project_id, run.slot.timestamp());
    let mut outcome = request_job(app, run, asked.clone(), &key).await;
    if let Ok(None) = outcome {
        tracing::warn!(project = %run.project_id, slot = %run.slot, "Schedule: the key of this run names another project's job");
        outcome = request_job(app, run, asked, &format!("{key}:{}", Uuid::new_v4())).await;
    }
    match outcome {
        Ok(Some(job)) => Ok(Outcome::Enqueued(job)),
        Ok(None) => Ok(Outcome::PutOff("the key of this run names another project's job".to_owned())),
        Err(error) if is_down(&error) => Err(error),
        Err(error) if may_pass(&error) => Ok(Outcome::PutOff(error.to_string())),
        Err(error) => Ok(Outcome::Refused(error.to_string())),
    }
}

/// The job under this key, made now or before. `None`: it is another project's, so somebody else chose the key.
async fn request_job(app: &App, run: &DueRun, asked: Asked, key: &str) -> Result<Option<JobId>, RequestError> {
    let caller = Caller::system("scheduler");
    let job = match request::export_as(app, &caller, asked, Some(key), Origin::Scheduled).await {
        Ok(job) => job,
        // The schedule was changed between another process's request and its death; or the key was taken.
        Err(error @ RequestError::Conflict { code: "idempotency.reused", .. }) => {
            match queue::find_by_key(&app.pool, &caller.subject, key).await? {
                Some(id) => queue::get(&app.pool, &caller.scope(), id).await?,
                None => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    Ok((job.project_id.as_deref() == Some(run.project_id.as_str())).then(|| job.job_id()))
}

/// Whether the control plane does not answer at all: then no other run would start either.
fn is_down(error: &RequestError) -> bool {
    matches!(error, RequestError::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed))
}

/// Whether the same request may be taken later, without anybody's doing.
fn may_pass(error: &RequestError) -> bool {
    matches!(
        error,
        RequestError::Busy { .. } | RequestError::Database(_) | RequestError::Conflict { code: "job.lease_lost", .. }
    )
}

fn asked(run: &DueRun) -> Result<Asked, String> {
    fn word<T: std::str::FromStr<Err = crate::artifact::UnknownWord>>(text: Option<&str>) -> Result<Option<T>, String> {
        text.map(str::parse).transpose().map_err(|error: crate::artifact::UnknownWord| error.to_string())
    }
    let wanted = Wanted {
        backup_type: run.r#type.as_deref().unwrap_or("database").parse().map_err(|error| format!("{error}"))?,
        format: word(run.format.as_deref())?,
        compression: word(run.compression.as_deref())?,
        storages: run.storages.as_deref().unwrap_or_default(),
    };
    wanted.request(&run.project_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_left_out_with_the_reason() {
        let slot: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let run = DueRun {
            schedule_id: uuid::Uuid::nil(),
            project_id: "acme".to_owned(),
            slot,
            due_at: slot,
            is_wanted: true,
            project_status: Some("ACTIVE".to_owned()),
            is_overtaken: false,
            is_behind: false,
            r#type: Some("database".to_owned()),
            format: None,
            compression: None,
            storages: None,
            message: None,
        };
        let (now, grace) = (slot + Duration::hours(12), Duration::hours(12));
        assert_eq!(left_out(&run, now, grace), None);
        for (run, now, expected) in [
            (DueRun { is_wanted: false, ..run.clone() }, now, "disabled"),
            (DueRun { project_status: None, ..run.clone() }, now, "not ACTIVE"),
            (DueRun { project_status: Some("PAUSED".to_owned()), ..run.clone() }, now, "not ACTIVE"),
            (DueRun { is_overtaken: true, ..run.clone() }, now, "a later time"),
            (DueRun { is_behind: true, ..run.clone() }, now, "has not ended"),
            (run.clone(), now + Duration::seconds(1), "too late"),
        ] {
            assert!(left_out(&run, now, grace).unwrap().contains(expected));
        }
    }
}
