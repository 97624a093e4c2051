//! When each project is backed up next.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};

use super::{DEFAULT_ID, spread};
use crate::{
    app::App,
    cron::{Cron, Zone},
    jobs::request::RequestError,
    tenant::Scope,
};

/// The next backup of each of these projects' databases, where a schedule covers them: the first of all its schedules, at the project's own
/// place in the window.
pub async fn next_starts(
    app: &App,
    scope: &Scope,
    projects: &[String],
) -> Result<HashMap<String, DateTime<Utc>>, RequestError> {
    let rows = sqlx::query!(
        r#"WITH mine AS (SELECT p.id, p.name, p.organization_id, p.settings FROM control_plane.projects p
                         WHERE p.status = 'ACTIVE' AND p.id = ANY($1) AND ($2::text[] IS NULL OR p.id = ANY($2))
                           AND ($3::text IS NULL OR p.organization_id = $3)),
                live AS (SELECT * FROM control_plane.schedules WHERE removed_at IS NULL AND holdfast AND type = 'database')
           SELECT m.id AS "project_id!", s.cron AS "cron!", s.zone AS "zone!", s.jitter_minutes, s.next_slot AS "next_slot!"
           FROM mine m JOIN live s ON s.project_id = m.id WHERE s.enabled AND s.next_slot IS NOT NULL
           UNION ALL
           SELECT m.id, s.cron, s.zone, s.jitter_minutes, s.next_slot
           FROM live s JOIN mine m ON control_plane.holdfast_covers(s.organization_id, s.name_pattern, m.id, m.name, m.organization_id)
           WHERE s.project_id IS NULL AND s.id <> $4 AND s.enabled AND s.next_slot IS NOT NULL
           UNION ALL
           SELECT m.id, d.cron, d.zone, d.jitter_minutes, d.next_slot FROM mine m JOIN live d ON d.id = $4
           WHERE d.enabled AND d.next_slot IS NOT NULL AND m.settings ->> 'schedule_default' IS DISTINCT FROM 'off'
             AND NOT EXISTS (SELECT 1 FROM live o WHERE o.project_id = m.id)
             AND NOT EXISTS (SELECT 1 FROM live o WHERE o.project_id IS NULL AND o.id <> $4
                               AND control_plane.holdfast_covers(o.organization_id, o.name_pattern, m.id, m.name, m.organization_id))"#,
        projects,
        scope.project_ids(),
        scope.organization_id(),
        DEFAULT_ID,
    )
    .fetch_all(&app.pool)
    .await?;
    let now = app.clock.now();
    let mut next = waiting(app, scope, projects).await?;
    // Most projects share few schedules: each is read once.
    let mut windows: HashMap<(String, String, DateTime<Utc>), Duration> = HashMap::new();
    for row in rows {
        let jitter = row.jitter_minutes.map_or(i64::from(app.config.schedules.jitter_minutes), i64::from);
        let key = (row.cron, row.zone, row.next_slot);
        let space = *windows.entry(key).or_insert_with_key(|(cron, zone, slot)| until_next(cron, zone, *slot));
        let window = Duration::minutes(jitter).min(space);
        let due = spread::due_at(row.next_slot, now, window, &row.project_id);
        next.entry(row.project_id).and_modify(|known| *known = due.min(*known)).or_insert(due);
    }
    Ok(next)
}

/// The runs of slots that have come, and that have not begun.
async fn waiting(
    app: &App,
    scope: &Scope,
    projects: &[String],
) -> Result<HashMap<String, DateTime<Utc>>, RequestError> {
    let rows = sqlx::query!(
        r#"SELECT project_id, min(due_at) AS "due_at!" FROM control_plane.schedule_runs r
           WHERE status = 'waiting' AND project_id = ANY($1) AND ($2::text[] IS NULL OR project_id = ANY($2))
             AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = r.project_id AND p.organization_id = $3))
           GROUP BY project_id"#,
        projects,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_all(&app.pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.project_id, row.due_at)).collect())
}

/// From one slot to the one after it.
fn until_next(cron: &str, zone: &str, slot: DateTime<Utc>) -> Duration {
    let (Ok(cron), Ok(zone)) = (cron.parse::<Cron>(), zone.parse::<Zone>()) else { return Duration::zero() };
    cron.next(&zone, slot).map_or(Duration::zero(), |next| next - slot)
}
