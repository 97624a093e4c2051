//! `holdfast worker`: works on jobs until it is stopped.

use tokio_util::sync::CancellationToken;

use super::{Context, open};
use crate::jobs;

/// Work on jobs until stopped.
///
/// Any number of workers may run on one control plane, on any machine that reaches it, the tenants' databases and the storages.
/// SIGTERM or Ctrl-C ends it: running jobs get `worker.shutdown_seconds`, then are handed back to the queue.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  DATABASE_URL=postgres://holdfast@db/app holdfast worker
  HOLDFAST_WORKER_CONCURRENCY=4 holdfast worker")]
pub struct Args {}

pub async fn run(context: &Context, _args: Args) -> anyhow::Result<()> {
    let config = context.config_and_service_log()?;
    open::with(&config, async |opened| {
        let stop = stop_on_signal()?;
        jobs::worker::run(opened.app.clone(), stop).await
    })
    .await
}

/// Cancelled at SIGTERM, SIGINT or SIGHUP. A second signal ends the process at once.
pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut signals =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?];
    let token = stop.clone();
    tokio::spawn(async move {
        for count in 0.. {
            let [term, int, hup] = &mut signals;
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = hup.recv() => {} }
            if count > 0 {
                tracing::warn!("stopping at once: jobs that run now are taken over after their lease");
                std::process::exit(130);
            }
            tracing::info!("stopping");
            token.cancel();
        }
    });
    Ok(stop)
}
