//! Asking for a backup of a project's database, and for a restore.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::{
    artifact::{Compression, DumpFormat, Format},
    http::{
        Api,
        answer::{Accepted, Data, accepted},
        api::refusal::{self, About},
        error::Problem,
        extract::{Body, IdempotencyKey, Signed},
    },
    ids::BackupId,
    jobs::request::{self, Export, RestoreRequest},
    tenant::Permission,
};

/// A backup of a project's database, as it is asked for.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportBody {
    #[schema(example = "acme")]
    pub project_id: String,
    /// Default: the setting `backup.format`, which is `sql` unless changed.
    #[schema(inline, value_type = Option<DumpFormat>)]
    pub format: Option<Format>,
    /// `true`: gzip; `false`: not at all. A `custom` dump is compressed by `pg_dump` itself, whatever is said here. Default: the
    /// setting `backup.compression`, which is `gzip` unless changed.
    pub compress: Option<bool>,
    /// Instead of `compress`: which compression. Both together are refused.
    #[schema(inline)]
    pub compression: Option<Compression>,
    /// Who is told by e-mail how it ended.
    #[schema(example = "ops@example.com")]
    pub notify_email: Option<String>,
    /// The key below the storage's own prefix. `{project_id}`, `{timestamp}` (UTC) and `{format}` stand for their values; other characters are
    /// letters, digits and `/ . _ - = + @`. The backup's short id and the extension are added, so that nothing is ever overwritten. Default:
    /// `backups/{project_id}/backup-{timestamp}`.
    #[schema(example = "nightly/{project_id}/{timestamp}.{format}", min_length = 1, max_length = 512)]
    pub storage_path: Option<String>,
    /// Names of the storages that take it. Default: those of the setting `backup.storages`, which is all of them unless changed.
    #[serde(default)]
    pub storages: Vec<String>,
    /// Only these tables, with their indexes, constraints and own sequences: no types or functions. Exact names, as they are called in the
    /// project's schema; in a whole database `schema.table`. A partitioned table brings its partitions along. Like the two lists below it
    /// makes the backup a partial one, which is for download and never restored in place.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub tables: Vec<String>,
    /// Not these tables.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub exclude_tables: Vec<String>,
    /// The definition of these tables, and not their rows.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub exclude_table_data: Vec<String>,
    /// When it may be deleted. Default: after `backup.retention_days`, which is 30 unless changed.
    pub expires_at: Option<DateTime<Utc>>,
    /// A note of at most 1024 characters.
    #[schema(max_length = 1024)]
    pub caption: Option<String>,
}

impl From<ExportBody> for Export {
    fn from(body: ExportBody) -> Self {
        Self {
            project_id: body.project_id,
            format: body.format,
            compression: body.compression,
            compress: body.compress,
            storages: body.storages,
            expires_at: body.expires_at,
            notify_email: body.notify_email,
            caption: body.caption,
            storage_path: body.storage_path,
            tables: body.tables,
            exclude_tables: body.exclude_tables,
            exclude_table_data: body.exclude_table_data,
        }
    }
}

/// Take a backup
///
/// Writes down a job that backs the project's database up. The answer comes at once; follow the job at its `Location`.
#[utoipa::path(
    post, path = "/api/backup/export", operation_id = "export_backup", tag = "backup",
    request_body(content = ExportBody, example = json!({ "project_id": "acme", "format": "sql", "compression": "zstd" })),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn export(
    State(api): State<Api>,
    caller: Signed,
    key: IdempotencyKey,
    body: Result<Body<ExportBody>, Problem>,
) -> Result<Response, Problem> {
    if let Err(refused) = caller.require(Permission::Write) {
        if let Ok(Body(body)) = &body {
            let about = About::Project(&body.project_id);
            refusal::record(&api, &caller.0, "requested", Permission::Write, about).await;
        }
        return Err(refused);
    }
    let request = Export::from(body?.0);
    Ok(accepted(request::export(&api.app, &caller.0, &request, key.as_deref()).await?))
}

/// A restore, as it is asked for.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    pub backup_id: BackupId,
    /// Must be `true`: the project's data of now is replaced. It is kept for an undo until its window ends.
    #[schema(example = true)]
    pub confirm: Option<bool>,
    /// Where to, when not in place.
    pub target: Option<RestoreTarget>,
}

/// Another place to restore to.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreTarget {
    /// For a whole-database project: the name of the new database, 1 to 63 bytes. Left out, a name is made.
    #[schema(min_length = 1, max_length = 63)]
    pub database: Option<String>,
}

/// Restore a backup
///
/// Writes down a job that replaces the project's data by that of the backup, all or nothing. A whole-database project is restored
/// into a new database.
#[utoipa::path(
    post, path = "/api/backup/restore", operation_id = "restore_backup", tag = "backup",
    request_body(content = RestoreBody, example = json!({ "backup_id": "0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa", "confirm": true })),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn restore(
    State(api): State<Api>,
    caller: Signed,
    key: IdempotencyKey,
    body: Result<Body<RestoreBody>, Problem>,
) -> Result<Response, Problem> {
    if let Err(refused) = caller.require(Permission::Write) {
        if let Ok(Body(body)) = &body {
            let about = About::Backup(body.backup_id);
            refusal::record(&api, &caller.0, "restore_requested", Permission::Write, about).await;
        }
        return Err(refused);
    }
    let Body(body) = body?;
    if body.confirm != Some(true) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "restore.unconfirmed",
            "a restore replaces the project's data and was not confirmed",
        )
        .hint("Send `\"confirm\": true`."));
    }
    let target_database = body.target.and_then(|target| target.database);
    if let Some(name) = &target_database
        && (name.is_empty() || name.len() > 63 || name.chars().any(char::is_control))
    {
        return Err(Problem::invalid("request.target", "target.database must be a name of 1 to 63 bytes"));
    }
    let request = RestoreRequest { backup_id: body.backup_id, target_database };
    Ok(accepted(request::restore(&api.app, &caller.0, &request, key.as_deref()).await?))
}
