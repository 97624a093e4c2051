//! `holdfast undo`: gives back what a restore replaced.

use super::{Context, open, resolve, restore, wait};
use crate::jobs::request;

/// Undo a restore: the schema that it replaced comes back.
///
/// Possible while that schema is kept (`restore.undo_hours`, 24 by default). What the restore brought is kept in its place as
/// hf_undone_…, for as long. Waits until it has ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast undo 0199ab12-6a7e-7c1f-9a55-3f8c9f3f4e11
  holdfast job list --type restore_backup       shows the jobs of restores")]
pub struct Args {
    /// The job of the restore: its id or the unique beginning of it.
    restore_job: String,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// It always waits.
    #[arg(long, hide = true)]
    wait: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let restore_job = resolve::job(app, context, &args.restore_job).await?;
        let job = request::undo(app, &context.caller, restore_job, args.idempotency_key.as_deref()).await?;
        let job = wait::until_final(app, context, job.job_id()).await?;
        restore::outcome(app, context, &job).await
    })
    .await
}
