//! `holdfast demo`: the whole story on sample data.

use super::{Context, open, worker::stop_on_signal};
use crate::{
    config::{LocalStorageConfig, StorageConfig},
    demo::{self, DemoOptions},
    proof_record::ProofLevel,
};

/// Show everything on sample data: three tenants in an embedded PostgreSQL, a backup, a disaster, a restore.
///
/// Starts API and worker as `serve` does and goes on running, unless --exit is given. Uses the data directory alone; a configured
/// database is not touched. May be run again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast demo                               show it, then serve until Ctrl-C
  holdfast demo --exit                        show it, then end
  holdfast --data-dir /tmp/try demo --exit    keep everything in one directory to delete afterwards")]
pub struct Args {
    /// End after the demonstration.
    #[arg(long)]
    exit: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let mut config = context.config_and_log()?;
    // Sample data is ruined on purpose: it stays away from what is configured for real data.
    config.database.url = None;
    config.database.url_file = None;
    let root = config.data_dir.join("storage");
    config.storages = [("local".to_owned(), StorageConfig::Local(LocalStorageConfig::new(root)))].into();
    config.backup.storages.clear();
    // It shows that what came back was compared.
    config.backup.proof = ProofLevel::Full;
    let stop = stop_on_signal()?;
    open::with(&config, async |opened| demo::run(opened.app.clone(), DemoOptions { exit: args.exit }, stop).await).await
}
