//! Trial restores by the clock: one at a time, project after project, as long as the day's budget lasts.

use crate::{
    app::App,
    history,
    jobs::request::{self, Depth, RequestError, VerifyRequest},
    tenant::Caller,
};

/// Asks for the next trial, if one is due. Gives whether it did.
pub async fn try_next(app: &App) -> Result<bool, RequestError> {
    let config = &app.config.trials;
    let budget = f64::from(config.budget_minutes) * 60.0;
    let largest = i64::try_from(config.max_size.0).unwrap_or(i64::MAX);
    let Some(id) = history::next_trial(&app.pool, app.clock.now(), budget, largest).await? else { return Ok(false) };
    let request = VerifyRequest { backup_id: id, depth: Depth::Restore };
    match request::verify(app, &Caller::system("trials"), &request, Some(&format!("trial:{id}"))).await {
        Ok(_) => Ok(true),
        // It has changed since, or its project has enough to do: it was this one's turn.
        Err(error @ (RequestError::Conflict { .. } | RequestError::NotFound { .. } | RequestError::Busy { .. })) => {
            tracing::info!(backup = %id, "Schedule: no trial restore: {error}");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
