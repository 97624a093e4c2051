//! `holdfast import`: takes an artifact back into the history, from a storage or from files.

use std::path::PathBuf;

use super::{Context, Exit, Failure, backup::queued, open, show, wait};
use crate::{
    app::App,
    artifact::ArtifactName,
    history,
    jobs::{
        import_files::{self, PlaceError},
        request::{self, ImportRequest},
    },
};

/// Take an artifact back into the history, by its manifest.
///
/// Given as a file, the artifact is compared with its manifest, uploaded with it into the storage under the name that the manifest says, and
/// read back. Given as --key, both lie in the storage already. Then a job reads every byte, compares it with the manifest, and lists the backup
/// as completed; its project must be known. A backup that is listed gets a copy more. What has no manifest of Holdfast's is not taken. Exit
/// code 4 when the job failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast import acme.sql.gz.age --manifest acme.sql.gz.age.manifest.json --storage local --wait
  holdfast import --storage offsite --key backups/acme/backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age
  holdfast import --storage offsite --key backups/acme/x-2a52b6f0e7aa.sql.gz --even-if-deleted --wait --json")]
pub struct Args {
    /// The artifact, as a file.
    #[arg(required_unless_present = "key", requires = "manifest")]
    artifact: Option<PathBuf>,
    /// Its manifest, as a file.
    #[arg(long, value_name = "FILE", requires = "artifact")]
    manifest: Option<PathBuf>,
    /// The storage in which the backup lies, or is put.
    #[arg(long, value_name = "NAME")]
    storage: String,
    /// The key of an artifact that lies in the storage, with its manifest beside it.
    #[arg(long, value_name = "KEY", conflicts_with = "artifact")]
    key: Option<String>,
    /// Take it back although it was deleted on purpose.
    #[arg(long)]
    even_if_deleted: bool,
    /// Wait until it has ended.
    #[arg(long)]
    wait: bool,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let key = key(app, &args).await?;
        let request = ImportRequest { storage: args.storage, key, even_if_deleted: args.even_if_deleted };
        let job = request::import(app, &context.caller, &request, args.idempotency_key.as_deref()).await?;
        if !args.wait {
            return queued(app, context, &job).await;
        }
        let job = wait::until_final(app, context, job.job_id()).await?;
        if let Some(failure) = wait::failure(&job) {
            return Err(failure.into());
        }
        let id = serde_json::from_value(job.payload.get("backup_id").cloned().unwrap_or_default())?;
        let backup = history::get(&app.pool, &context.caller.scope(), id).await?;
        show::print_backup(app, context, &backup).await
    })
    .await
}

/// Where the artifact lies; files are put there first.
async fn key(app: &App, args: &Args) -> anyhow::Result<ArtifactName> {
    if let (Some(artifact), Some(manifest)) = (&args.artifact, &args.manifest) {
        return import_files::place(app, artifact, manifest, &args.storage).await.map_err(failure);
    }
    let key = args.key.as_deref().unwrap_or_default();
    Ok(key.parse().map_err(|error| Failure::refused("request.key", format!("--key: {error}")))?)
}

fn failure(error: PlaceError) -> anyhow::Error {
    let (code, message) = (error.code(), error.to_string());
    let exit = match error {
        // It has an exit code of its own.
        PlaceError::Request(error) => return error.into(),
        PlaceError::Misfit { code: "backup.damaged", .. } => Exit::Damage,
        PlaceError::File { .. } | PlaceError::Manifest(_) | PlaceError::Misfit { .. } => Exit::Refused,
        PlaceError::Storage { .. } => Exit::JobFailed,
    };
    Failure::new(exit, code, message).into()
}
