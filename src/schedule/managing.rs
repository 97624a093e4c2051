//! What people do with schedules: list, add, change and remove them. Members reach those of their projects, organisation admins those of
//! their organisation and its projects, operators all.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    DEFAULT_ID,
    asked::Wanted,
    rows::{self, Schedule, SchedulePage},
};
use crate::{
    app::App,
    artifact::{BackupType, Compression, Format},
    catalog,
    cron::{Cron, CronError, Zone},
    db,
    history::{self, Event, PeopleEvent},
    jobs::request::{self, RequestError},
    retention::Rules,
    tenant::{Caller, Permission, Role},
};

/// Schedules that one project, or one organisation, may have.
const MOST_OF_PROJECT: i64 = 20;
const MOST_OF_ORGANIZATION: i64 = 50;

/// Storages that a schedule may name.
const MOST_STORAGES: usize = 20;

/// Whom a schedule covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub project_id: Option<String>,
    pub organization_id: Option<String>,
    /// Of `*` and `?`, compared with names and ids without regard to case.
    pub name_pattern: Option<String>,
}

/// A schedule as it is asked for. What is left out comes from the configuration.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    pub name: String,
    pub target: Target,
    pub backup_type: BackupType,
    pub cron: String,
    pub zone: Option<String>,
    pub format: Option<Format>,
    pub compression: Option<Compression>,
    pub storages: Vec<String>,
    pub retention: Option<Rules>,
    pub jitter_minutes: Option<u32>,
    pub enabled: bool,
}

/// What changes. `None` stays; `Some(None)` goes back to the configuration's.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub name: Option<String>,
    pub cron: Option<String>,
    pub zone: Option<String>,
    pub format: Option<Option<Format>>,
    pub compression: Option<Option<Compression>>,
    pub storages: Option<Vec<String>>,
    pub retention: Option<Option<Rules>>,
    pub jitter_minutes: Option<Option<u32>>,
    pub enabled: Option<bool>,
}

fn require(caller: &Caller, permission: Permission) -> Result<(), RequestError> {
    if caller.may(permission) { Ok(()) } else { Err(RequestError::Forbidden(permission)) }
}

fn invalid(code: &'static str, message: impl Into<String>) -> RequestError {
    RequestError::Invalid { code, message: message.into(), hint: None }
}

/// The schedules within reach, newest first; those for one project alone when it is named.
pub async fn list(
    app: &App,
    caller: &Caller,
    project: Option<&str>,
    page: SchedulePage,
) -> Result<Vec<Schedule>, RequestError> {
    require(caller, Permission::Read)?;
    rows::list(&app.pool, &caller.scope(), project, page).await
}

/// One schedule within reach.
pub async fn get(app: &App, caller: &Caller, id: Uuid) -> Result<Schedule, RequestError> {
    require(caller, Permission::Read)?;
    rows::get(&app.pool, &caller.scope(), id).await
}

/// The expression and the zone, read: the configuration's where none is given.
///
/// # Errors
/// Names the field that is wrong.
pub fn preview(app: &App, cron: &str, zone: Option<&str>) -> Result<(Cron, Zone), RequestError> {
    let cron = cron.parse::<Cron>().map_err(|error| invalid("schedule.cron", format!("cron: {error}")))?;
    let zone = zone.map_or_else(|| app.config.schedules.zone(), str::parse);
    let zone = zone.map_err(|error: CronError| invalid("schedule.zone", format!("zone: {error}")))?;
    Ok((cron, zone))
}

/// Adds a schedule. It takes its first backup at its first time from now on.
pub async fn add(app: &App, caller: &Caller, new: NewSchedule) -> Result<Schedule, RequestError> {
    require(caller, Permission::Write)?;
    let target = reach(app, caller, new.target).await?;
    let now = app.clock.now();
    let mut row = Schedule {
        id: Uuid::now_v7(),
        name: new.name,
        project_id: target.project_id,
        organization_id: target.organization_id,
        name_pattern: target.name_pattern,
        r#type: new.backup_type.as_str().to_owned(),
        cron: new.cron,
        zone: String::new(),
        format: new.format.map(|format| format.as_str().to_owned()),
        compression: new.compression.map(|compression| compression.as_str().to_owned()),
        storages: new.storages,
        retention: to_json(new.retention.as_ref())?,
        jitter_minutes: jitter(new.jitter_minutes)?,
        enabled: new.enabled,
        next_slot: None,
        created_by: Some(caller.subject.clone()),
        created_at: now,
    };
    let (cron, zone) = preview(app, &row.cron, new.zone.as_deref())?;
    (row.cron, row.zone) = (cron.to_string(), zone.to_string());
    row.next_slot = cron.next(&zone, now);
    check(app, caller, &row, new.retention.as_ref()).await?;
    let mut transaction = db::begin(&app.pool).await?;
    refuse_too_many(&mut transaction, &row).await?;
    rows::put(&mut transaction, &row, now).await?;
    record(&mut transaction, caller, &row, "schedule_added").await?;
    transaction.commit().await?;
    Ok(row)
}

/// Changes a schedule. Where its times change, they count from now on.
pub async fn change(app: &App, caller: &Caller, id: Uuid, changes: Changes) -> Result<Schedule, RequestError> {
    require(caller, Permission::Write)?;
    let mut row = changeable(app, caller, id).await?;
    let now = app.clock.now();
    let before = (row.cron.clone(), row.zone.clone(), row.enabled);
    row.name = changes.name.unwrap_or(row.name);
    if let Some(format) = changes.format {
        row.format = format.map(|format| format.as_str().to_owned());
    }
    if let Some(compression) = changes.compression {
        row.compression = compression.map(|compression| compression.as_str().to_owned());
    }
    row.storages = changes.storages.unwrap_or(row.storages);
    let mut rules = None;
    if let Some(retention) = changes.retention {
        row.retention = to_json(retention.as_ref())?;
        rules = retention;
    }
    if let Some(minutes) = changes.jitter_minutes {
        row.jitter_minutes = jitter(minutes)?;
    }
    row.enabled = changes.enabled.unwrap_or(row.enabled);
    let zone = changes.zone.as_deref().unwrap_or(&row.zone);
    let (cron, zone) = preview(app, changes.cron.as_deref().unwrap_or(&row.cron), Some(zone))?;
    (row.cron, row.zone) = (cron.to_string(), zone.to_string());
    if before != (row.cron.clone(), row.zone.clone(), row.enabled) {
        row.next_slot = cron.next(&zone, now);
    }
    check(app, caller, &row, rules.as_ref()).await?;
    let mut transaction = db::begin(&app.pool).await?;
    rows::put(&mut transaction, &row, now).await?;
    record(&mut transaction, caller, &row, "schedule_changed").await?;
    transaction.commit().await?;
    Ok(row)
}

/// Removes a schedule. The backups that it has taken stay as long as its retention says.
pub async fn remove(app: &App, caller: &Caller, id: Uuid) -> Result<Schedule, RequestError> {
    require(caller, Permission::Write)?;
    let row = changeable(app, caller, id).await?;
    let mut transaction = db::begin(&app.pool).await?;
    rows::retire(&mut transaction, id, app.clock.now()).await?;
    record(&mut transaction, caller, &row, "schedule_removed").await?;
    transaction.commit().await?;
    Ok(row)
}

/// A schedule within reach that people may change.
async fn changeable(app: &App, caller: &Caller, id: Uuid) -> Result<Schedule, RequestError> {
    let row = rows::get(&app.pool, &caller.scope(), id).await?;
    if row.id == DEFAULT_ID {
        return Err(RequestError::Conflict {
            code: "schedule.of_config",
            message: "this schedule comes from the configuration".to_owned(),
            hint: Some("Change schedules.schedule_default, or give projects a schedule of their own.".to_owned()),
        });
    }
    Ok(row)
}

/// The target, if it is one and this caller reaches it. What it does not reach is not there.
async fn reach(app: &App, caller: &Caller, mut target: Target) -> Result<Target, RequestError> {
    if let Some(project) = &target.project_id {
        if target.organization_id.is_some() || target.name_pattern.is_some() {
            return Err(invalid("schedule.target", "project_id excludes organization_id and name_pattern"));
        }
        catalog::project(&app.pool, &caller.scope(), project).await?;
        return Ok(target);
    }
    if let Some(pattern) = &target.name_pattern {
        // Each further `*` makes comparing slower.
        let is_usable = (1..=200).contains(&pattern.chars().count())
            && !pattern.chars().any(char::is_control)
            && pattern.matches('*').count() <= 8;
        if !is_usable {
            let message = "name_pattern must have 1 to 200 characters, at most 8 of them *, and no control characters";
            return Err(invalid("schedule.target", message));
        }
    }
    match caller.role {
        Role::Operator => {}
        Role::OrgAdmin => match (&caller.organization_id, &target.organization_id) {
            (Some(own), None) => target.organization_id = Some(own.clone()),
            (Some(own), Some(named)) if own == named => {}
            (_, named) => {
                let id = named.clone().unwrap_or_default();
                return Err(RequestError::NotFound { what: "organization", id });
            }
        },
        Role::Member => {
            return Err(invalid("schedule.target", "project_id is missing: members schedule single projects"));
        }
    }
    if target.organization_id.is_none() && target.name_pattern.is_none() {
        return Err(RequestError::Invalid {
            code: "schedule.target",
            message: "project_id, organization_id or name_pattern is missing".to_owned(),
            hint: Some("The name_pattern * covers every project.".to_owned()),
        });
    }
    Ok(target)
}

/// Everything but target, expression and zone.
async fn check(app: &App, caller: &Caller, row: &Schedule, rules: Option<&Rules>) -> Result<(), RequestError> {
    if row.name.chars().count() > 100 || row.name.chars().any(char::is_control) {
        return Err(invalid("schedule.name", "name must have at most 100 characters, and no control characters"));
    }
    if row.storages.len() > MOST_STORAGES {
        return Err(invalid("schedule.storages", format!("storages must name at most {MOST_STORAGES}")));
    }
    request::require_storages(app, caller, &row.storages).await?;
    if let Some(rules) = rules {
        rules.check().map_err(|fault| invalid("schedule.retention", format!("retention.{fault}")))?;
        if rules.is_empty() {
            return Err(RequestError::Invalid {
                code: "schedule.retention",
                message: "retention has no rule".to_owned(),
                hint: Some("Leave it out to use the project's or the configuration's.".to_owned()),
            });
        }
    }
    fn word<T: std::str::FromStr<Err = crate::artifact::UnknownWord>>(
        text: Option<&str>,
    ) -> Result<Option<T>, RequestError> {
        let unknown = |error: crate::artifact::UnknownWord| invalid("schedule.format", error.to_string());
        text.map(str::parse).transpose().map_err(unknown)
    }
    let backup_type: BackupType = row
        .r#type
        .parse()
        .map_err(|error: crate::artifact::UnknownWord| invalid("schedule.type", error.to_string()))?;
    let (format, compression) =
        (word::<Format>(row.format.as_deref())?, word::<Compression>(row.compression.as_deref())?);
    if backup_type != BackupType::Database && format.is_some() {
        return Err(invalid("schedule.format", format!("format is for backups of type database, not {backup_type}")));
    }
    let is_compressed = compression.is_some_and(|compression| compression != Compression::None);
    if format == Some(Format::Custom) && is_compressed {
        return Err(invalid(
            "schedule.compression",
            "compression: a custom-format dump is compressed by pg_dump itself",
        ));
    }
    let wanted = Wanted { backup_type, format, compression, storages: &row.storages };
    wanted.request("any").map_err(|why| invalid("schedule.type", format!("type: {why}")))?;
    Ok(())
}

fn jitter(minutes: Option<u32>) -> Result<Option<i32>, RequestError> {
    match minutes {
        None => Ok(None),
        Some(minutes @ 0..=1_440) => Ok(i32::try_from(minutes).ok()),
        Some(minutes) => Err(invalid("schedule.jitter_minutes", format!("jitter_minutes is {minutes}: use 0 to 1440"))),
    }
}

fn to_json(rules: Option<&Rules>) -> Result<Option<serde_json::Value>, RequestError> {
    rules
        .map(serde_json::to_value)
        .transpose()
        .map_err(|error| RequestError::Database(sqlx::Error::Encode(error.into())))
}

/// Refuses a new schedule that is one too many for its project or organisation. Those of operators for all organisations are not counted.
async fn refuse_too_many(connection: &mut PgConnection, row: &Schedule) -> Result<(), RequestError> {
    let (whose, most) = match (&row.project_id, &row.organization_id) {
        (Some(id), _) => (format!("project {id}"), MOST_OF_PROJECT),
        (None, Some(id)) => (format!("organization {id}"), MOST_OF_ORGANIZATION),
        (None, None) => return Ok(()),
    };
    if rows::count_of(connection, row).await? < most {
        return Ok(());
    }
    Err(RequestError::Conflict {
        code: "schedule.too_many",
        message: format!("{whose} has {most} schedules, and no more are allowed"),
        hint: Some("Remove one, or give one more times: `0 2,14 * * *`.".to_owned()),
    })
}

async fn record(
    connection: &mut PgConnection,
    caller: &Caller,
    row: &Schedule,
    event: &str,
) -> Result<(), RequestError> {
    let detail = serde_json::json!({
        "schedule_id": row.id, "name": row.name, "name_pattern": row.name_pattern, "type": row.r#type, "cron": row.cron, "zone": row.zone,
        "storages": row.storages, "retention": row.retention, "enabled": row.enabled,
    });
    match &row.project_id {
        Some(project_id) => {
            let event = Event { backup_id: None, project_id, event, caller, outcome: "ok", detail };
            history::record(connection, &event).await?;
        }
        None => {
            let organization_id = row.organization_id.as_deref();
            let event = PeopleEvent { event, caller, organization_id, outcome: "ok", detail };
            history::record_people(connection, &event).await?;
        }
    }
    Ok(())
}
