//! `holdfast backup`: asks for a backup, and with `--wait` sees it through.

use serde_json::json;

use super::{Context, open, show, wait};
use crate::{
    app::App,
    artifact::{Compression, Format},
    history,
    ids::BackupId,
    jobs::{
        queue::{self, Job},
        request::{self, Export},
    },
    report,
};

/// Take a backup of a project.
///
/// Queues a job. With --wait, waits until it has ended and shows the backup; when no worker is alive, the job is worked on in this
/// process. Exit code 4 when the backup failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast backup acme --wait
  holdfast backup acme --format custom --wait --json
  holdfast backup acme --compression zstd --storage local --storage offsite")]
pub struct Args {
    /// The project's id.
    project: String,
    /// sql, tar or custom [default: backup.format].
    #[arg(long)]
    format: Option<Format>,
    /// gzip, zstd or none; custom is compressed by pg_dump alone [default: backup.compression].
    #[arg(long)]
    compression: Option<Compression>,
    /// A storage that takes a copy; may be repeated [default: backup.storages].
    #[arg(long, value_name = "NAME")]
    storage: Vec<String>,
    /// Wait until it has ended.
    #[arg(long)]
    wait: bool,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    let request = Export {
        project_id: args.project,
        format: args.format,
        compression: args.compression,
        storages: args.storage,
        ..Export::default()
    };
    open::with(&config, async |opened| {
        let app = &opened.app;
        let job = request::export(app, &context.caller, &request, args.idempotency_key.as_deref()).await?;
        if !args.wait {
            return queued(app, context, &job).await;
        }
        let job = wait::until_final(app, context, job.job_id()).await?;
        let id = backup_of(&job)?;
        let backup = history::get(&app.pool, &context.caller.scope(), id).await?;
        show::print_backup(app, context, &backup).await?;
        wait::failure(&job).map_or(Ok(()), |failure| Err(failure.into()))
    })
    .await
}

fn backup_of(job: &Job) -> anyhow::Result<BackupId> {
    let id = job.payload.get("backup_id").cloned().unwrap_or_default();
    serde_json::from_value(id).map_err(|error| anyhow::anyhow!("job {} names no backup ({error})", job.id))
}

/// Tells of a job that was queued and is not waited for.
pub(super) async fn queued(app: &App, context: &Context, job: &Job) -> anyhow::Result<()> {
    if context.is_json() {
        report::print_json(&json!({
            "job_id": job.id,
            "backup_id": job.payload.get("backup_id"),
            "type": job.r#type,
            "status": job.status,
            "project_id": job.project_id,
            "created_at": job.created_at,
        }))?;
    } else {
        report::print(&format!("queued: job {}\n", job.id))?;
    }
    if !job.is_final() && !queue::has_live_worker(&app.pool, wait::fresh(app)).await? {
        context.warn("no worker is alive: start `holdfast worker` or `holdfast serve`, or use --wait");
    }
    Ok(())
}
