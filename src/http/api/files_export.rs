//! Backups of a project's files.

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::refusal::{self, About};
use crate::{
    artifact::Compression,
    http::{
        Api,
        answer::{Accepted, Data, accepted},
        error::Problem,
        extract::{Body, IdempotencyKey, Signed},
    },
    jobs::request::{self, ExportStorage},
    tenant::Permission,
};

/// A backup of a project's files, as it is asked for.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportStorageBody {
    #[schema(example = "acme")]
    pub project_id: String,
    /// `true`: gzip; `false`: not at all. Default: the setting `backup.compression`, which is `gzip` unless changed.
    pub compress: Option<bool>,
    /// Instead of `compress`: which compression. Both together are refused.
    #[schema(inline)]
    pub compression: Option<Compression>,
    /// Who is told by e-mail how it ended.
    #[schema(example = "ops@example.com")]
    pub notify_email: Option<String>,
    /// Names of the storages that take it. Default: those of the setting `backup.storages`, which is all of them unless changed.
    #[serde(default)]
    pub storages: Vec<String>,
    /// When it may be deleted. Default: after `backup.retention_days`, which is 30 unless changed.
    pub expires_at: Option<DateTime<Utc>>,
    /// A note of at most 1024 characters.
    #[schema(max_length = 1024)]
    pub caption: Option<String>,
}

impl From<ExportStorageBody> for ExportStorage {
    fn from(body: ExportStorageBody) -> Self {
        Self {
            project_id: body.project_id,
            compression: body.compression,
            compress: body.compress,
            storages: body.storages,
            expires_at: body.expires_at,
            notify_email: body.notify_email,
            caption: body.caption,
        }
    }
}

/// Take a backup of a project's files
///
/// Writes down a job that archives the directory, or the prefix in a bucket, which an operator has set for the project: one tar stream. The
/// answer comes at once; follow the job at its `Location`.
#[utoipa::path(
    post, path = "/api/backup/export-storage", operation_id = "export_storage", tag = "backup",
    request_body(content = ExportStorageBody, example = json!({ "project_id": "acme", "compression": "zstd" })),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn export(
    State(api): State<Api>,
    caller: Signed,
    key: IdempotencyKey,
    body: Result<Body<ExportStorageBody>, Problem>,
) -> Result<Response, Problem> {
    let about = body.as_ref().ok().map(|Body(body)| About::Project(&body.project_id));
    refusal::require(&api, &caller, Permission::Write, "requested", about).await?;
    let request = ExportStorage::from(body?.0);
    Ok(accepted(request::export(&api.app, &caller.0, &request, key.as_deref()).await?))
}
