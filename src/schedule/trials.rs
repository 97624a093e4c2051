//! Trial restores by the clock: one at a time, project after project, as long as the day's budget lasts.

use crate::{
    app::App,
    history,
    ids::BackupId,
    jobs::{
        request::{self, Depth, RequestError, VerifyRequest},
        trial_restore::{NEEDS_OUTSIDE, needs_outside},
    },
    tenant::{Caller, Scope},
};

/// How many backups that cannot be tried are passed over at once.
const PASSED_OVER: usize = 20;

/// Asks for the next trial, if one is due. Gives whether it did.
pub async fn try_next(app: &App) -> Result<bool, RequestError> {
    let config = &app.config.trials;
    let budget = f64::from(config.budget_minutes) * 60.0;
    let largest = i64::try_from(config.max_size.0).unwrap_or(i64::MAX);
    let Some(id) = next(app, budget, largest).await? else { return Ok(false) };
    let request = VerifyRequest { backup_id: id, depth: Depth::Restore };
    // One whose trial came to no end is asked for again on another day.
    let key = format!("trial:{id}:{}", app.clock.now().date_naive());
    match request::verify(app, &Caller::system("trials"), &request, Some(&key)).await {
        Ok(_) => Ok(true),
        // It has changed since, or its project has enough to do: it was this one's turn.
        Err(error @ (RequestError::Conflict { .. } | RequestError::NotFound { .. } | RequestError::Busy { .. })) => {
            tracing::info!(backup = %id, "Schedule: no trial restore: {error}");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The next one that can be tried.
async fn next(app: &App, budget: f64, largest: i64) -> Result<Option<BackupId>, RequestError> {
    for _ in 0..PASSED_OVER {
        match history::next_trial(&app.pool, app.clock.now(), budget, largest).await? {
            Some(id) if pass_over(app, id).await? => {}
            next => return Ok(next),
        }
    }
    Ok(None)
}

/// Writes down at a backup that cannot be tried why that is, and gives whether it is one. A job could only fail, and would be told of.
async fn pass_over(app: &App, id: BackupId) -> Result<bool, RequestError> {
    let everything = Scope::everything("a backup's turn to be tried comes whoever owns it");
    let manifest = history::get(&app.pool, &everything, id).await?.manifest();
    let Some(why) = manifest.as_ref().and_then(|manifest| needs_outside(manifest.body.database()?)) else {
        return Ok(false);
    };
    history::tried(&app.pool, id, app.clock.now(), None, &[format!("no trial restore ({NEEDS_OUTSIDE}): {why}")])
        .await?;
    Ok(true)
}
