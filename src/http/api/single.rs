//! The single-database family: the configured database as a whole, by the shapes that platforms with one database know. Answers are bare, ids
//! are numbers, and a deletion removes the record alone.
//!
//! It is the same service as `/api/backup` over the default project (`backup.default_project`), with the same rights.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};

use super::{
    page_size,
    refusal::{self, About},
};
use crate::{
    artifact::{BackupType, Compression, DumpFormat, Format},
    catalog::{self, CatalogError, ProjectScope},
    history::{self, Backup, BackupFilter},
    http::{
        Api,
        error::Problem,
        extract::{Body, Id, IdempotencyKey, Names, Params, Signed},
        redact,
    },
    ids::BackupId,
    jobs::request::{self, Export, RequestError},
    tenant::Permission,
};

/// A backup of the default project. `status` goes from `pending` to `in_progress` and then to `completed`, `failed` or `cancelled`; a
/// completed one may become `damaged`. One that is deleted, by retention too, is no longer listed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(example = json!({
    "id": 7, "file_name": "backup-2026-11-21-020000.sql.gz", "s3_url": "s3://backups/backups/backup-2026-11-21-020000.sql.gz",
    "s3_region": "eu-central-1", "s3_bucket": "backups", "file_size": 1048576, "backup_type": "manual", "status": "completed", "message": null,
    "created_by": "ada", "created_at": "2026-11-21T02:00:00Z",
}))]
pub struct SingleBackup {
    pub id: i32,
    pub file_name: Option<String>,
    /// Where the first good copy in a bucket is; `null` without one.
    pub s3_url: Option<String>,
    pub s3_region: Option<String>,
    pub s3_bucket: Option<String>,
    /// Bytes as stored.
    pub file_size: i64,
    /// `manual` or `scheduled`.
    pub backup_type: String,
    pub status: String,
    /// Why it failed, or what else there is to say.
    pub message: Option<String>,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl From<Backup> for SingleBackup {
    fn from(backup: Backup) -> Self {
        Self {
            id: backup.number,
            file_name: backup.file_name,
            s3_url: backup.s3_url,
            s3_region: backup.s3_region,
            s3_bucket: backup.s3_bucket,
            file_size: backup.size,
            backup_type: backup.backup_type,
            status: backup.status,
            message: backup.message,
            created_by: backup.created_by,
            created_at: backup.created_at,
        }
    }
}

/// A backup's number in a path.
#[derive(Clone, Copy, Debug)]
pub struct Number(i32);

impl std::str::FromStr for Number {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Names for Number {
    const WHAT: &'static str = "backup";
}

fn not_found(number: i32) -> Problem {
    RequestError::NotFound { what: "backup", id: number.to_string() }.into()
}

/// The backup of the default project that has this number.
async fn find(api: &Api, caller: &Signed, number: i32) -> Result<Backup, Problem> {
    let (pool, scope) = (&api.app.pool, caller.0.scope());
    let project = &api.app.config.backup.default_project;
    let id = history::id_of_number(pool, &scope, project, number).await?.ok_or_else(|| not_found(number))?;
    Ok(history::get(pool, &scope, id).await?)
}

fn shown(backup: Backup, caller: &Signed) -> SingleBackup {
    redact::backup(backup, &caller.0).into()
}

/// How the backup is to be taken. All of it may be left out, and the body too.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeBody {
    /// `sql`, `tar` or `custom`. Default: the setting `backup.format`.
    #[schema(inline)]
    pub format: Option<DumpFormat>,
    /// `true`: gzip; `false`: not at all. Default: the setting `backup.compression`.
    pub compress: Option<bool>,
    /// Instead of `compress`: which compression. Both together are refused.
    #[schema(inline)]
    pub compression: Option<Compression>,
    /// Names of the storages that take it. Default: those of the setting `backup.storages`.
    #[serde(default)]
    pub storages: Vec<String>,
    /// Who is told by e-mail how it ended.
    #[schema(example = "ops@example.com")]
    pub notify_email: Option<String>,
    /// When it may be deleted. Default: after `backup.retention_days`.
    pub expires_at: Option<DateTime<Utc>>,
    /// A note of at most 1024 characters.
    #[schema(max_length = 1024)]
    pub caption: Option<String>,
}

/// Take a backup of the database
///
/// Writes down a job that backs the configured database up as a whole. The answer, the backup that is `pending`, comes at once; look at it
/// again at its `Location`. An operator's first call makes the default project.
#[utoipa::path(
    post, path = "/backup", operation_id = "take_database_backup", tag = "single database",
    request_body(content = Option<TakeBody>, example = json!({ "compression": "zstd" })),
    responses((status = 202, description = "The job was written down.", body = SingleBackup,
        headers(("Location" = String, description = "Where to look at the backup.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn take(
    State(api): State<Api>,
    caller: Signed,
    key: IdempotencyKey,
    body: Result<Option<Body<TakeBody>>, Problem>,
) -> Result<Response, Problem> {
    let project_id = api.app.config.backup.default_project.clone();
    refusal::require(&api, &caller, Permission::Write, "requested", Some(About::Project(&project_id))).await?;
    let body = body?.map_or_else(TakeBody::default, |Body(body)| body);
    // Before the project is looked at, as whatever else is wrong with the body.
    if body.expires_at.is_some_and(|at| !(1..=9999).contains(&at.year())) {
        return Err(Problem::invalid("request.expires_at", "expires_at is not in the years 1 to 9999"));
    }
    match catalog::project(&api.app.pool, &caller.0.scope(), &project_id).await {
        Ok(project) if project.scope() != ProjectScope::WholeDatabase => {
            return Err(CatalogError::NotWhole(project_id).into());
        }
        // An operator's first call makes it.
        Ok(_) | Err(CatalogError::NoSuchProject(_)) => {}
        Err(error) => return Err(error.into()),
    }
    #[allow(clippy::needless_update, reason = "what else an export may say is left to the configuration")]
    let request = Export {
        project_id,
        format: body.format.map(Format::from),
        compression: body.compression,
        compress: body.compress,
        storages: body.storages,
        expires_at: body.expires_at,
        notify_email: body.notify_email,
        caption: body.caption,
        ..Export::default()
    };
    let job = request::export(&api.app, &caller.0, &request, key.as_deref()).await?;
    let id = job.payload.get("backup_id").and_then(|id| serde_json::from_value::<BackupId>(id.clone()).ok());
    let id = id.ok_or_else(Problem::internal)?;
    let backup = shown(history::get(&api.app.pool, &caller.0.scope(), id).await?, &caller);
    let location = HeaderValue::from_str(&format!("/backup/{}", backup.id));
    let mut response = (StatusCode::ACCEPTED, Json(backup)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Which backups to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SingleListParams {
    /// Most rows. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// Those older than the backup of this id: the last one of the page before.
    pub before: Option<i32>,
}

/// List the database's backups
///
/// Newest first, as a bare array; empty for whoever does not reach the default project.
#[utoipa::path(
    get, path = "/backup", operation_id = "list_database_backups", tag = "single database",
    params(SingleListParams),
    responses((status = 200, description = "The backups.", body = Vec<SingleBackup>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<SingleListParams>, Problem>,
) -> Result<Json<Vec<SingleBackup>>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let before = match params.before {
        Some(number) => Some(find(&api, &caller, number).await.map_err(|problem| match problem.status {
            StatusCode::NOT_FOUND => Problem::invalid("request.before", format!("before: there is no backup {number}")),
            _ => problem,
        })?),
        None => None,
    };
    let rows = newest(&api, &caller, before, page_size(params.limit)?).await?;
    Ok(Json(rows.into_iter().map(|backup| shown(backup, &caller)).collect()))
}

async fn newest(api: &Api, caller: &Signed, before: Option<Backup>, limit: usize) -> Result<Vec<Backup>, Problem> {
    let filter = BackupFilter {
        project_id: Some(api.app.config.backup.default_project.clone()),
        backup_type: Some(BackupType::Database),
        before: before.map(|backup| (backup.created_at, backup.id)),
        limit: limit as i64,
        ..BackupFilter::default()
    };
    Ok(history::list(&api.app.pool, &caller.0.scope(), &filter).await?)
}

/// Look at the newest good backup of the database
///
/// The newest one that is `completed` and whole; one that lacks copies only where none has them all.
#[utoipa::path(
    get, path = "/backup/latest", operation_id = "latest_database_backup", tag = "single database",
    responses((status = 200, description = "The backup.", body = SingleBackup)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn latest(State(api): State<Api>, caller: Signed) -> Result<Json<SingleBackup>, Problem> {
    caller.require(Permission::Read)?;
    let scope = caller.0.scope();
    let newest = history::id_of_newest_good(&api.app.pool, &scope, &api.app.config.backup.default_project).await?;
    let id = newest.ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "backup.not_found", "the database has no completed backup")
            .hint("`POST /backup` takes one.")
    })?;
    let backup = history::get(&api.app.pool, &scope, id).await?;
    Ok(Json(shown(backup, &caller)))
}

/// Look at a backup of the database
///
/// One backup by its number.
#[utoipa::path(
    get, path = "/backup/{id}", operation_id = "show_database_backup", tag = "single database",
    params(("id" = i32, Path, description = "The backup's number.")),
    responses((status = 200, description = "The backup.", body = SingleBackup)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<Number>, Problem>,
) -> Result<Json<SingleBackup>, Problem> {
    caller.require(Permission::Read)?;
    let backup = find(&api, &caller, id?.0.0).await?;
    Ok(Json(shown(backup, &caller)))
}

/// What a deletion has left.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Forgotten {
    pub id: i32,
    pub message: &'static str,
}

/// Delete the record of a backup of the database
///
/// The stored files stay, and nothing here knows of them any more: no list, no retention, and no rebuild of the catalogue from the storages.
/// `DELETE /api/backup/{id}` deletes the files too.
#[utoipa::path(
    delete, path = "/backup/{id}", operation_id = "delete_database_backup_record", tag = "single database",
    params(("id" = i32, Path, description = "The backup's number.")),
    responses((status = 200, description = "The record is gone.", body = Forgotten)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<Number>, Problem>,
) -> Result<Json<Forgotten>, Problem> {
    let backup = match id {
        Ok(Id(Number(number))) => find(&api, &caller, number).await,
        Err(problem) => Err(problem),
    };
    let about = backup.as_ref().ok().map(|backup| About::Backup(backup.backup_id()));
    refusal::require(&api, &caller, Permission::Write, "deleted", about).await?;
    let backup = backup?;
    request::forget(&api.app, &caller.0, backup.backup_id()).await?;
    Ok(Json(Forgotten { id: backup.number, message: "the record is deleted, the stored files stay" }))
}
