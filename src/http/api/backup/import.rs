//! Taking an artifact back into the history, or trying a dump of anybody's. For operators.

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
    jobs::request::{self, ImportRequest, TryImportRequest},
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
    /// Tries what lies there in a new database, and takes nothing back into the history. The one way for a dump without a manifest of ours.
    pub trial: Option<Trial>,
    /// Whether it is taken although its manifest has no seal, so that nothing proves what it says. Default: false.
    #[serde(default)]
    pub allow_unsealed: bool,
}

/// The database that a dump is tried in.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The name of the new database, 1 to 63 bytes. One that is there is refused.
    #[schema(example = "acme_trial", min_length = 1, max_length = 63)]
    pub database: String,
    /// A registered database, on whose server it is made. Default: the control plane's own.
    #[schema(example = "staging")]
    pub server: Option<String>,
}

/// Take an artifact back into the history
///
/// For operators. The manifest beside the artifact says which backup it is, and its project must be known. The job reads every byte and
/// compares it with the manifest before the backup is listed as completed; one that is listed gets a copy more. A backup whose time is over
/// gets a new one. What has no manifest of ours is not taken, nor one that was altered or that a strange key has sealed.
///
/// Except into a trial database: with `trial` any dump of `pg_dump` (`sql`, `custom` or `tar`; as it is or behind gzip, zstd or age) is restored into
/// a new database, by a role that owns nothing else. No tenant is touched. The job's result names the tables with their rows; the database stays,
/// for operators to look at, until somebody drops it.
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
    if let Some(Trial { database, server }) = body.trial {
        let history =
            [(body.even_if_deleted, "request.even_if_deleted"), (body.allow_unsealed, "request.allow_unsealed")];
        if let Some((_, code)) = history.into_iter().find(|(given, _)| *given) {
            let field = code.trim_start_matches("request.");
            return Err(Problem::invalid(code, format!("{field}: a trial takes nothing back into the history")));
        }
        let request = TryImportRequest { storage: body.storage, key: name, database, server, is_passing: false };
        return Ok(accepted(request::try_import(&api.app, &caller.0, &request, key.as_deref()).await?));
    }
    let request = ImportRequest {
        storage: body.storage,
        key: name,
        even_if_deleted: body.even_if_deleted,
        allow_unsealed: body.allow_unsealed,
    };
    Ok(accepted(request::import(&api.app, &caller.0, &request, key.as_deref()).await?))
}
