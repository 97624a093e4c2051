//! Schedules: when backups are taken without anyone asking.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::{
    page_size,
    refusal::{self, About},
};
use crate::{
    artifact::{BackupType, Compression, Format},
    cron::{Cron, Zone},
    http::{
        Api,
        answer::{Cursor, Data, Page, created},
        error::Problem,
        extract::{Body, Id, Names, Params, Signed},
    },
    retention::Rules,
    schedule::{self, Changes, NewSchedule, Schedule, SchedulePage, ScheduledRun, Target},
    tenant::Permission,
};

/// Runs shown of a schedule, and of a preview.
const SHOWN_RUNS: usize = 5;

/// A schedule's id in a path.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleId(Uuid);

impl std::str::FromStr for ScheduleId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

impl Names for ScheduleId {
    const WHAT: &'static str = "schedule";
}

/// A time to come.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Upcoming {
    pub at: DateTime<Utc>,
    /// The same on the wall clock of the zone.
    #[schema(example = "2026-11-22 02:00:00 +01:00")]
    pub local: String,
}

fn upcoming(cron: &Cron, zone: &Zone, now: DateTime<Utc>) -> Vec<Upcoming> {
    let runs = cron.upcoming(zone, now, SHOWN_RUNS);
    runs.into_iter().map(|at| Upcoming { at, local: zone.show(at) }).collect()
}

/// A schedule with its next times.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ScheduleWithRuns {
    #[serde(flatten)]
    pub schedule: Schedule,
    /// The expression in words.
    pub description: String,
    /// Its next times. Each project begins at its own place in the window from there on.
    pub next_runs: Vec<Upcoming>,
    /// The newest runs, at most 50.
    pub runs: Vec<ScheduledRun>,
}

/// Which schedules to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only those for this project alone.
    pub project_id: Option<String>,
    /// Rows on a page: 50 unless asked otherwise.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// List schedules
///
/// Newest first: members see those of their projects, organisation admins those of their organisation and its projects, operators all and
/// the configuration's own.
#[utoipa::path(
    get, path = "/api/schedules", operation_id = "list_schedules", tag = "schedules",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<Schedule>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<Schedule>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    let before = Cursor::read(params.cursor.as_deref())?;
    let page = SchedulePage { before, limit: limit as i64 + 1 };
    let rows = schedule::list(&api.app, &caller.0, params.project_id.as_deref(), page).await?;
    Ok(Page::of(rows, limit, |row| Cursor { at: row.created_at, id: row.id }))
}

/// What is to be previewed.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PreviewParams {
    /// Five fields: minute, hour, day of month, month, day of week.
    #[param(example = "0 2 * * *")]
    pub cron: String,
    /// A time zone of the IANA database. Default: the setting `schedules.zone`.
    #[param(example = "Europe/Berlin")]
    pub zone: Option<String>,
}

/// What an expression means.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Preview {
    pub cron: String,
    pub zone: String,
    /// The expression in words.
    pub description: String,
    /// The next five times.
    pub next_runs: Vec<Upcoming>,
}

/// Preview an expression
///
/// Its next five times and its meaning in words, before there is a schedule.
#[utoipa::path(
    get, path = "/api/schedules/preview", operation_id = "preview_schedule", tag = "schedules",
    params(PreviewParams),
    responses((status = 200, description = "The next times.", body = Data<Preview>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn preview(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<PreviewParams>, Problem>,
) -> Result<Data<Preview>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let (cron, zone) = schedule::preview(&api.app, &params.cron, params.zone.as_deref())?;
    let next_runs = upcoming(&cron, &zone, api.app.clock.now());
    let data = Preview { description: cron.describe(), cron: cron.to_string(), zone: zone.to_string(), next_runs };
    Ok(Data { data })
}

/// A new schedule. It is for one project, or for all of an organisation, or for those whose name matches a pattern.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddScheduleBody {
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 100)]
    pub name: String,
    #[schema(example = "acme")]
    pub project_id: Option<String>,
    /// Every project of this organisation, those that come later too. Organisation admins: their own.
    pub organization_id: Option<String>,
    /// Every project whose name or id matches, with `*` for anything and `?` for one character. For operators and organisation admins.
    #[schema(example = "acme-*", max_length = 200)]
    pub name_pattern: Option<String>,
    /// Default: `database`.
    #[schema(inline)]
    pub r#type: Option<BackupType>,
    /// Five fields: minute, hour, day of month, month, day of week.
    #[schema(example = "0 2 * * *")]
    pub cron: String,
    /// A time zone of the IANA database. Default: the setting `schedules.zone`.
    #[schema(example = "Europe/Berlin")]
    pub zone: Option<String>,
    /// Default: the setting `backup.format`.
    #[schema(inline)]
    pub format: Option<Format>,
    /// Default: the setting `backup.compression`.
    #[schema(inline)]
    pub compression: Option<Compression>,
    /// Default: those of the setting `backup.storages`.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub storages: Vec<String>,
    /// What is kept of what it takes. Default: the project's, else the configuration's.
    pub retention: Option<Rules>,
    /// Over how many minutes its projects are spread. Default: the setting `schedules.jitter_minutes`.
    #[schema(maximum = 1_440)]
    pub jitter_minutes: Option<u32>,
    /// Default: `true`.
    pub enabled: Option<bool>,
}

/// Add a schedule
///
/// It takes its first backup at its first time from now on. A project that has a schedule of its own is no longer covered by the
/// configuration's. A project has at most 20 schedules, an organisation at most 50.
#[utoipa::path(
    post, path = "/api/schedules", operation_id = "add_schedule", tag = "schedules",
    request_body(content = AddScheduleBody, example = json!({ "project_id": "acme", "cron": "30 3 * * *", "zone": "Europe/Berlin", "retention": { "days": 14, "keep_monthly": 12 } })),
    responses((status = 201, description = "The schedule.", body = Data<Schedule>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddScheduleBody>, Problem>,
) -> Result<Response, Problem> {
    let about = body.as_ref().ok().and_then(|Body(body)| body.project_id.as_deref()).map(About::Project);
    refusal::require(&api, &caller, Permission::Write, "schedule_added", about).await?;
    let Body(add) = body?;
    let new = NewSchedule {
        name: add.name,
        target: Target {
            project_id: add.project_id,
            organization_id: add.organization_id,
            name_pattern: add.name_pattern,
        },
        backup_type: add.r#type.unwrap_or(BackupType::Database),
        cron: add.cron,
        zone: add.zone,
        format: add.format,
        compression: add.compression,
        storages: add.storages,
        retention: add.retention,
        jitter_minutes: add.jitter_minutes,
        enabled: add.enabled.unwrap_or(true),
    };
    let data = schedule::add(&api.app, &caller.0, new).await?;
    Ok(created(data))
}

/// Look at a schedule
///
/// With its next five times and its newest runs.
#[utoipa::path(
    get, path = "/api/schedules/{id}", operation_id = "show_schedule", tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule's id.")),
    responses((status = 200, description = "The schedule.", body = Data<ScheduleWithRuns>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<ScheduleId>, Problem>,
) -> Result<Data<ScheduleWithRuns>, Problem> {
    caller.require(Permission::Read)?;
    let Id(ScheduleId(id)) = id?;
    let schedule = schedule::get(&api.app, &caller.0, id).await?;
    let runs = schedule::runs_of(&api.app.pool, id, 50).await?;
    let (cron, zone) = schedule::preview(&api.app, &schedule.cron, Some(&schedule.zone))?;
    let next_runs = if schedule.enabled { upcoming(&cron, &zone, api.app.clock.now()) } else { Vec::new() };
    Ok(Data { data: ScheduleWithRuns { schedule, description: cron.describe(), next_runs, runs } })
}

/// Tells a field that is `null` from one that is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// What changes. What is left out stays; `null` goes back to the configuration's.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeScheduleBody {
    #[schema(max_length = 100)]
    pub name: Option<String>,
    pub cron: Option<String>,
    pub zone: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<Format>)]
    pub format: Option<Option<Format>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<Compression>)]
    pub compression: Option<Option<Compression>>,
    #[schema(max_items = 20)]
    pub storages: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Rules>)]
    pub retention: Option<Option<Rules>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, maximum = 1_440)]
    pub jitter_minutes: Option<Option<u32>>,
    pub enabled: Option<bool>,
}

/// Change a schedule
///
/// Where its times change, they count from now on. Whom it covers stays: for another target, add another schedule.
#[utoipa::path(
    patch, path = "/api/schedules/{id}", operation_id = "change_schedule", tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule's id.")),
    request_body(content = ChangeScheduleBody, example = json!({ "cron": "0 4 * * *", "retention": null })),
    responses((status = 200, description = "The schedule.", body = Data<Schedule>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<ScheduleId>, Problem>,
    body: Result<Body<ChangeScheduleBody>, Problem>,
) -> Result<Data<Schedule>, Problem> {
    caller.require(Permission::Write)?;
    let Id(ScheduleId(id)) = id?;
    let Body(change) = body?;
    let changes = Changes {
        name: change.name,
        cron: change.cron,
        zone: change.zone,
        format: change.format,
        compression: change.compression,
        storages: change.storages,
        retention: change.retention,
        jitter_minutes: change.jitter_minutes,
        enabled: change.enabled,
    };
    Ok(Data { data: schedule::change(&api.app, &caller.0, id, changes).await? })
}

/// Remove a schedule
///
/// What it has taken stays as long as its retention says.
#[utoipa::path(
    delete, path = "/api/schedules/{id}", operation_id = "remove_schedule", tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule's id.")),
    responses((status = 204, description = "It takes no more backups.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<ScheduleId>, Problem>,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::Write)?;
    let Id(ScheduleId(id)) = id?;
    schedule::remove(&api.app, &caller.0, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
