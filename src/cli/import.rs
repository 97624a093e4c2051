//! `holdfast import`: takes an artifact back into the history, from a storage or from files; or tries a dump of anybody's in a database of its own.

use std::path::PathBuf;

use serde_json::Value;

use super::{Context, Exit, Failure, backup::queued, open, show, wait};
use crate::{
    app::App,
    artifact::ArtifactName,
    history,
    jobs::{
        authentic::TakeUp,
        import_files::{self, PlaceError},
        request::{self, ImportRequest, TryImportRequest},
    },
    report::{self, Table, fields},
};

/// Take an artifact back into the history, by its manifest; or try any dump in a new database.
///
/// Given as a file, the artifact is compared with its manifest, uploaded with it into the storage under the name that the manifest says, and
/// read back. Given as --key, both lie in the storage already. Then a job reads every byte, compares it with the manifest, and lists the backup
/// as completed; its project must be known. A backup that is listed gets a copy more. What has no manifest of Holdfast's is not taken, and
/// what its seal does not prove (docs/recovery.md) neither.
///
/// With --trial-database any dump of pg_dump (sql, custom, tar; as it is or behind gzip, zstd or age) is restored into a new database of this name,
/// by a role that owns nothing else, and no tenant is touched. What is in it is told; the database stays until somebody drops it. A dump that
/// is given as a file is put into the storage for the length of the job. Exit code 4 when the job failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast import acme.sql.gz.age --manifest acme.sql.gz.age.manifest.json --storage local --wait
  holdfast import --storage offsite --key backups/acme/backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age
  holdfast import --storage offsite --key backups/acme/x-2a52b6f0e7aa.sql.gz --even-if-deleted --wait --json
  holdfast import old-system.dump --trial-database old_system --storage local --wait
  holdfast import --storage offsite --key handover/acme.sql.gz --trial-database acme_trial --server staging --wait")]
pub struct Args {
    /// The artifact or dump, as a file.
    #[arg(required_unless_present = "key", requires = "how")]
    artifact: Option<PathBuf>,
    /// Its manifest, as a file.
    #[arg(long, value_name = "FILE", requires = "artifact", group = "how")]
    manifest: Option<PathBuf>,
    /// The storage in which the backup lies, or is put.
    #[arg(long, value_name = "NAME")]
    storage: String,
    /// The key of an artifact that lies in the storage, with its manifest beside it.
    #[arg(long, value_name = "KEY", conflicts_with = "artifact")]
    key: Option<String>,
    /// Try it in a new database of this name, and take nothing back into the history.
    #[arg(long, value_name = "NAME", group = "how")]
    trial_database: Option<String>,
    /// A registered database, on whose server the new one is made [default: the control plane's own].
    #[arg(long, value_name = "DATABASE", requires = "trial_database")]
    server: Option<String>,
    /// Take it back although it was deleted on purpose.
    #[arg(long, conflicts_with = "trial_database")]
    even_if_deleted: bool,
    /// Take it although its manifest has no seal: nothing then proves that the storage tells the truth.
    #[arg(long, conflicts_with = "trial_database")]
    allow_unsealed: bool,
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
        if let Some(database) = args.trial_database.clone() {
            return trial(app, context, args, database).await;
        }
        let key = key(app, &args).await?;
        let request = ImportRequest {
            storage: args.storage,
            key,
            even_if_deleted: args.even_if_deleted,
            allow_unsealed: args.allow_unsealed,
        };
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

async fn trial(app: &App, context: &Context, args: Args, database: String) -> anyhow::Result<()> {
    let key = match &args.artifact {
        Some(dump) => import_files::place_trial(app, dump, &args.storage).await.map_err(failure)?,
        None => key(app, &args).await?,
    };
    let is_passing = args.artifact.is_some();
    let request = TryImportRequest { storage: args.storage, key, database, server: args.server, is_passing };
    let job = request::try_import(app, &context.caller, &request, args.idempotency_key.as_deref()).await?;
    if !args.wait {
        return queued(app, context, &job).await;
    }
    let job = wait::until_final(app, context, job.job_id()).await?;
    if let Some(failure) = wait::failure(&job) {
        return Err(failure.into());
    }
    let found = job.result.unwrap_or_default();
    if context.is_json() {
        return report::print_json(&found);
    }
    report::print(&told(&found))
}

/// What a trial came to, for people.
fn told(found: &Value) -> String {
    let word = |name: &str| found[name].as_str().map(str::to_owned);
    let number = |name: &str| found[name].as_u64().map(|number| number.to_string());
    let made_of = ["format", "compression", "encryption"].iter().filter_map(|name| word(name));
    let made_of: Vec<String> = made_of.filter(|word| word != "none").collect();
    let statements = found["drop"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut text = fields(&[
        ("trial database", word("database")),
        ("on the server of", word("server")),
        ("owned by", word("owner")),
        ("made of", Some(made_of.join(", "))),
        ("sha256", word("sha256")),
        ("tables", number("table_count")),
        ("rows", number("row_count")),
    ]);
    let mut table = Table::new(&["TABLE", "ROWS"]);
    for row in found["tables"].as_array().into_iter().flatten() {
        let name =
            format!("{}.{}", row["schema"].as_str().unwrap_or_default(), row["table"].as_str().unwrap_or_default());
        table.row(vec![name, row["rows"].to_string()]);
    }
    text.push_str(&format!("\n{}\nto drop it:\n", table.render()));
    statements.for_each(|statement| text.push_str(&format!("  {statement};\n")));
    text
}

/// Where the artifact lies; files are put there first.
async fn key(app: &App, args: &Args) -> anyhow::Result<ArtifactName> {
    if let (Some(artifact), Some(manifest)) = (&args.artifact, &args.manifest) {
        let take_up = TakeUp::unsealed_if(args.allow_unsealed);
        return import_files::place(app, artifact, manifest, &args.storage, take_up).await.map_err(failure);
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
