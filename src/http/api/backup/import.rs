//! Taking an artifact back into the history. For operators.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use crate::{
    artifact::ArtifactName,
    http::{
        Api,
        answer::{Accepted, Data, accepted},
        error::Problem,
        extract::{Body, IdempotencyKey, Signed},
    },
    jobs::request::{self, ImportRequest},
    tenant::{Permission, Role},
};

/// What to take back.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// A configured storage, in which the artifact and its manifest lie.
    #[schema(example = "offsite")]
    pub storage: String,
    /// The artifact's key below the storage's prefix. Its manifest lies beside it: the same key and `.manifest.json`.
    #[schema(example = "backups/acme/backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age", max_length = 1024)]
    pub key: String,
    /// Whether a backup that was deleted on purpose may come back. Default: false.
    #[serde(default)]
    pub even_if_deleted: bool,
}

/// Take an artifact back into the history
///
/// For operators. The manifest beside the artifact says which backup it is, and its project must be known. The job reads every byte and
/// compares it with the manifest before the backup is listed as completed; one that is listed gets a copy more. A backup whose time is over
/// gets a new one. What has no manifest of ours is not taken.
#[utoipa::path(
    post, path = "/api/backup/import", operation_id = "import_backup", tag = "backup",
    request_body(content = ImportBody, example = json!({ "storage": "offsite", "key": "backups/acme/backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age" })),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn import(
    State(api): State<Api>,
    caller: Signed,
    key: IdempotencyKey,
    body: Result<Body<ImportBody>, Problem>,
) -> Result<Response, Problem> {
    caller.require(Permission::Write)?;
    if caller.0.role != Role::Operator {
        return Err(Problem::new(StatusCode::FORBIDDEN, "auth.role", "this needs the role operator"));
    }
    let Body(body) = body?;
    let name: ArtifactName =
        body.key.parse().map_err(|error| Problem::invalid("request.key", format!("key: {error}")))?;
    let request = ImportRequest { storage: body.storage, key: name, even_if_deleted: body.even_if_deleted };
    Ok(accepted(request::import(&api.app, &caller.0, &request, key.as_deref()).await?))
}
