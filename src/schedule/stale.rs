//! A project without a good backup within its allowed age is *stale*. Looked for by every process that keeps time, whatever became of the
//! jobs; each episode is told once and ends with the next good backup.

use chrono::Duration;

use super::tell;
use crate::{
    app::App,
    clock::Timestamp,
    db,
    history::{self, Event, ProtectedProject},
    jobs::request::RequestError,
    notice::AboutStale,
    tenant::Caller,
};

/// The age that a project's settings allow, else `usual`. `None`: whatever age.
pub fn allowed_age(settings: &serde_json::Value, usual: Duration) -> Option<Duration> {
    match settings.get("allowed_age_hours").and_then(serde_json::Value::as_u64) {
        Some(0) => None,
        // A century is as good as any longer time.
        Some(hours) => Some(Duration::hours(i64::try_from(hours).unwrap_or(i64::MAX).min(876_600))),
        None => Some(usual),
    }
}

/// Whether the newest good backup is too old; before there is any, the project's own age counts. Pure.
pub fn is_stale(
    last_good_at: Option<Timestamp>,
    added_at: Timestamp,
    allowed: Option<Duration>,
    now: Timestamp,
) -> bool {
    allowed.is_some_and(|allowed| now - last_good_at.unwrap_or(added_at) > allowed)
}

/// Looks at every project: opens and ends episodes.
pub async fn look(app: &App) -> Result<(), RequestError> {
    let (now, usual) = (app.clock.now(), app.config.schedules.allowed_age());
    for project in history::protected_projects(&app.pool).await? {
        let allowed = allowed_age(&project.settings, usual);
        let is_stale = project.is_active && is_stale(project.last_good_at, project.created_at, allowed, now);
        match (is_stale, project.is_stale) {
            (true, false) => raise(app, &project, allowed.unwrap_or(usual), now).await?,
            (false, true) => end(app, &project, now).await?,
            (true, true) | (false, false) => {}
        }
    }
    Ok(())
}

async fn raise(app: &App, project: &ProtectedProject, allowed: Duration, now: Timestamp) -> Result<(), RequestError> {
    let mut transaction = db::begin(&app.pool).await?;
    if !history::raise_stale(&mut *transaction, &project.id, now, project.last_good_at, allowed).await? {
        return Ok(());
    }
    let detail = serde_json::json!({ "last_good_at": project.last_good_at, "allowed_seconds": allowed.num_seconds() });
    record(&mut transaction, &project.id, "stale", "failed", detail).await?;
    let about = AboutStale { last_good_at: project.last_good_at, allowed_seconds: allowed.num_seconds() };
    tell::stale(&mut transaction, app, &project.id, now, about).await?;
    transaction.commit().await?;
    tracing::warn!(project = %project.id, "Schedule: no good backup within {} hours", allowed.num_hours());
    Ok(())
}

async fn end(app: &App, project: &ProtectedProject, now: Timestamp) -> Result<(), RequestError> {
    let mut transaction = db::begin(&app.pool).await?;
    let Some(raised_at) = history::end_stale(&mut *transaction, &project.id).await? else { return Ok(()) };
    let detail = serde_json::json!({ "since": raised_at, "seconds": (now - raised_at).num_seconds(), "last_good_at": project.last_good_at });
    record(&mut transaction, &project.id, "stale_ended", "ok", detail).await?;
    transaction.commit().await?;
    Ok(())
}

async fn record(
    connection: &mut sqlx::PgConnection,
    project_id: &str,
    event: &str,
    outcome: &str,
    detail: serde_json::Value,
) -> Result<(), RequestError> {
    let caller = Caller::system("watch");
    let event = Event { backup_id: None, project_id, event, caller: &caller, outcome, detail };
    Ok(history::record(connection, &event).await?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_project_is_stale_beyond_its_allowed_age_and_not_at_it() {
        let added: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        let allowed = Some(Duration::hours(26));
        assert!(!is_stale(None, added, allowed, added + Duration::hours(26)));
        assert!(is_stale(None, added, allowed, added + Duration::hours(26) + Duration::seconds(1)));
        let good = added + Duration::days(10);
        assert!(!is_stale(Some(good), added, allowed, good + Duration::hours(26)));
        assert!(is_stale(Some(good), added, allowed, good + Duration::hours(27)));
        assert!(!is_stale(None, added, None, added + Duration::days(10_000)));
    }

    #[test]
    fn a_projects_own_age_comes_first_and_nonsense_counts_for_nothing() {
        let usual = Duration::hours(26);
        for (settings, expected) in [
            (json!({}), Some(usual)),
            (json!({ "allowed_age_hours": 200 }), Some(Duration::hours(200))),
            (json!({ "allowed_age_hours": 0 }), None),
            (json!({ "allowed_age_hours": -1 }), Some(usual)),
            (json!({ "allowed_age_hours": "x" }), Some(usual)),
            (json!(null), Some(usual)),
            (json!({ "allowed_age_hours": u64::MAX }), Some(Duration::hours(876_600))),
        ] {
            assert_eq!(allowed_age(&settings, usual), expected, "{settings}");
        }
    }
}
