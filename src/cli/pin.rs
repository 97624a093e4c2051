//! `holdfast pin`: keeps a backup whatever happens, or lets it go again.

use super::{Context, open, resolve, show};
use crate::jobs::request::{self, Pin};

/// Pin a backup: it does not expire and cannot be deleted.
///
/// With --undo the pin is taken out, and the backup expires like any other. What is so already stays so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast pin latest:acme
  holdfast pin 0199ab12 --undo
  holdfast pin 0199ab12 --json")]
pub struct Args {
    /// An id, its unique beginning, or latest:PROJECT.
    backup: String,
    /// Take the pin out.
    #[arg(long)]
    undo: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let backup = resolve::backup(app, context, &args.backup).await?;
        let pin = if args.undo { Pin::TakeOut } else { Pin::Set };
        let backup = request::pin(app, &context.caller, backup.backup_id(), pin).await?;
        show::print_backup(app, context, &backup).await
    })
    .await
}
