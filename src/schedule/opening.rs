//! Opening slots: when a schedule's time has come, every project that it covers gets a run. Of slots that were missed only the newest is
//! caught up, and only within the grace period.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use super::{
    DEFAULT_ID,
    rows::{self, NewRuns, Schedule},
    spread,
};
use crate::{
    app::App,
    clock::Timestamp,
    cron::{Cron, Zone},
    db,
    jobs::request::RequestError,
    tenant::Scope,
};

/// Schedules opened in one transaction.
const BATCH: i64 = 200;

/// Opens every slot that has come. Gives how many runs were made.
pub async fn open_due(app: &App) -> Result<u64, RequestError> {
    let now = app.clock.now();
    keep_default(app, now).await?;
    let mut opened = 0;
    loop {
        let mut transaction = db::begin(&app.pool).await?;
        let due = rows::hold_due(&mut transaction, now, BATCH).await?;
        let is_last = (due.len() as i64) < BATCH;
        let steps: Vec<Step> = due.iter().map(|schedule| step(app, schedule, now)).collect();
        let slots: HashMap<Uuid, (Timestamp, Duration)> =
            steps.iter().filter_map(|step| Some((step.schedule, step.open?))).collect();
        let with_slot: Vec<Uuid> = slots.keys().copied().collect();
        if !with_slot.is_empty() {
            let mut new = NewRuns::default();
            for (schedule, project) in rows::covered(&mut transaction, &with_slot).await? {
                let Some((slot, window)) = slots.get(&schedule).copied() else { continue };
                new.due.push(spread::due_at(slot, now, window, &project));
                new.slots.push(slot);
                new.schedules.push(schedule);
                new.projects.push(project);
            }
            opened += rows::open_runs(&mut transaction, &new).await?;
        }
        let (ids, next): (Vec<Uuid>, Vec<DateTime<Utc>>) = steps.iter().map(|step| (step.schedule, step.next)).unzip();
        rows::set_next_slots(&mut transaction, &ids, &next).await?;
        transaction.commit().await?;
        if is_last {
            return Ok(opened);
        }
    }
}

/// What happens to one schedule now.
struct Step {
    schedule: Uuid,
    /// The slot that is opened, and the window over which its projects are spread.
    open: Option<(Timestamp, Duration)>,
    next: Timestamp,
}

fn step(app: &App, schedule: &Schedule, now: Timestamp) -> Step {
    let config = &app.config.schedules;
    let (Ok(cron), Ok(zone)) = (schedule.cron.parse::<Cron>(), schedule.zone.parse::<Zone>()) else {
        tracing::warn!(schedule = %schedule.id, "Schedule: its expression or zone cannot be read, so it takes no backups");
        return Step { schedule: schedule.id, open: None, next: now + Duration::hours(1) };
    };
    // Never before the calendar ends.
    let next = cron.next(&zone, now).unwrap_or(Timestamp::MAX_UTC);
    let jitter = schedule.jitter_minutes.map_or(i64::from(config.jitter_minutes), i64::from);
    let oldest = now - Duration::hours(i64::from(config.grace_hours));
    let open = schedule.next_slot.and_then(|since| {
        let slot = cron.newest(&zone, since.max(oldest), now)?;
        // A window that is longer than the time to the next slot would let the slots overlap.
        Some((slot, Duration::minutes(jitter).min(next - slot)))
    });
    Step { schedule: schedule.id, open, next }
}

/// Keeps the row of the configuration's own schedule as the configuration says.
async fn keep_default(app: &App, now: Timestamp) -> Result<(), RequestError> {
    let config = &app.config.schedules;
    let everything = Scope::everything("the configuration's schedule belongs to nobody");
    let known = match rows::get(&app.pool, &everything, DEFAULT_ID).await {
        Ok(row) => Some(row),
        Err(RequestError::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let unusable = |error: crate::cron::CronError| RequestError::Invalid {
        code: "config.invalid",
        message: error.to_string(),
        hint: None,
    };
    let (cron, zone) = (config.default_cron().map_err(unusable)?, config.zone().map_err(unusable)?);
    let wanted = cron.as_ref().map(|cron| (cron.to_string(), zone.to_string()));
    let is_as_wanted = match (&known, &wanted) {
        (None, None) => true,
        (Some(row), None) => !row.enabled,
        (Some(row), Some((cron, zone))) => row.enabled && row.cron == *cron && row.zone == *zone,
        (None, Some(_)) => false,
    };
    if is_as_wanted {
        return Ok(());
    }
    let mut row = known.unwrap_or_else(|| default_row(now));
    row.enabled = wanted.is_some();
    if let (Some(cron), Some((text, name))) = (&cron, wanted) {
        (row.cron, row.zone) = (text, name);
        row.next_slot = cron.next(&zone, now);
    }
    let mut transaction = db::begin(&app.pool).await?;
    rows::put(&mut transaction, &row, now).await?;
    transaction.commit().await?;
    Ok(())
}

fn default_row(now: Timestamp) -> Schedule {
    Schedule {
        id: DEFAULT_ID,
        name: "every project without a schedule of its own".to_owned(),
        project_id: None,
        organization_id: None,
        name_pattern: None,
        r#type: "database".to_owned(),
        cron: "0 2 * * *".to_owned(),
        zone: "UTC".to_owned(),
        format: None,
        compression: None,
        storages: Vec::new(),
        retention: None,
        jitter_minutes: None,
        enabled: false,
        next_slot: None,
        created_by: Some("config".to_owned()),
        created_at: now,
    }
}
