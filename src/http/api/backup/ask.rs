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
    proof_record::ProofLevel,
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
    /// How much is proved while it is dumped, to be compared after a restore: `full` reads every row a second time for a digest of each table,
    /// `counts` counts rows and records definitions, `off` records definitions alone. Default: as the project says, else the setting `backup.proof`, which
    /// is `full` unless changed.
    #[schema(inline)]
    pub proof: Option<ProofLevel>,
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
            proof: body.proof,
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
    let about = body.as_ref().ok().map(|Body(body)| About::Project(&body.project_id));
    refusal::require(&api, &caller, Permission::Write, "requested", about).await?;
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
    /// Replace the schema even when objects outside it (foreign keys, views, publications) go on referring to what is replaced.
    #[serde(default)]
    pub allow_detached_references: bool,
}

/// Another place to restore to. Nothing that is there is replaced.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreTarget {
    /// Another database on the server, 1 to 63 bytes. For a whole-database project a new one; left out, a name is made. For a schema's
    /// project: for operators.
    #[schema(min_length = 1, max_length = 63)]
    pub database: Option<String>,
    /// The name of a database known here, whose server is restored to. For operators.
    #[schema(min_length = 1, max_length = 63)]
    pub server: Option<String>,
    /// The schema's name there, 1 to 63 bytes: a copy beside what is live. For operators.
    #[schema(min_length = 1, max_length = 63)]
    pub schema: Option<String>,
    /// Make `database`, which must not be there. A whole-database project's is always made.
    #[serde(default)]
    pub create: bool,
    /// Only these tables, out of a backup in the format `custom` or `tar`, into the new schema `hf_tables_…`: rows, keys, checks and indexes,
    /// without foreign keys, triggers, rules and policies.
    #[schema(max_items = 1000)]
    pub tables: Option<Vec<String>>,
}

/// Restore a backup
///
/// Writes down a job that replaces the project's data by that of the backup, all or nothing. A whole-database project is restored
/// into a new database. With a `target` nothing is replaced. Refused while another restore of the project waits or runs
/// (`restore.in_progress`), and while it is being backed up (`restore.during_backup`).
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
    let about = body.as_ref().ok().map(|Body(body)| About::Backup(body.backup_id));
    refusal::require(&api, &caller, Permission::Write, "restore_requested", about).await?;
    let Body(body) = body?;
    if body.confirm != Some(true) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "restore.unconfirmed",
            "a restore replaces the project's data and was not confirmed",
        )
        .hint("Send `\"confirm\": true`."));
    }
    let allow_detached_references = body.allow_detached_references;
    let request = RestoreRequest { allow_detached_references, ..RestoreRequest::in_place(body.backup_id) };
    let request = match body.target {
        None => request,
        Some(target) => to(request, target)?,
    };
    Ok(accepted(request::restore(&api.app, &caller.0, &request, key.as_deref()).await?))
}

/// The request for this target, whose names could be names.
fn to(request: RestoreRequest, target: RestoreTarget) -> Result<RestoreRequest, Problem> {
    let tables = target.tables.unwrap_or_default();
    let named = [("database", &target.database), ("server", &target.server), ("schema", &target.schema)];
    let named = named.into_iter().filter_map(|(field, name)| Some((field, name.as_ref()?)));
    for (field, name) in named.chain(tables.iter().map(|table| ("tables", table))) {
        if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) {
            let message = format!("target.{field} must be a name of 1 to 63 bytes");
            return Err(Problem::invalid("request.target", message));
        }
    }
    if tables.len() > 1000 {
        return Err(Problem::invalid("request.target", "target.tables has at most 1000 names"));
    }
    Ok(RestoreRequest {
        target_database: target.database,
        target_server: target.server,
        target_schema: target.schema,
        create_database: target.create,
        tables,
        ..request
    })
}
