//! `holdfast worker`: works on jobs until it is stopped.

use std::io::IsTerminal as _;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Failure,
    open::{self, Opened},
};
use crate::{catalog, config::Config, http, jobs, logging, schedule, telemetry};

/// Work on jobs until stopped.
///
/// Any number of workers may run on one control plane, on any machine that reaches it, the tenants' databases and the storages.
/// SIGTERM or Ctrl-C ends it: running jobs get `worker.shutdown_seconds`, then are handed back to the queue. SIGHUP opens the log's file
/// anew. With `metrics.listen` Prometheus reads its metrics there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  DATABASE_URL=postgres://holdfast@db/app holdfast worker
  HOLDFAST_WORKER_CONCURRENCY=4 holdfast worker")]
pub struct Args {}

pub async fn run(context: &Context, _args: Args) -> anyhow::Result<()> {
    let config = context.config_and_service_log()?;
    let metrics = listen_for_metrics(&config).await?;
    open::with(&config, async |opened| {
        catalog::ensure_control_plane(&opened.app.pool).await?;
        let stop = stop_on_signal()?;
        let scraped = serve_metrics(opened, metrics, stop.clone());
        let keep_time = schedule::run(opened.app.clone(), stop.clone());
        let worked = async {
            let worked = jobs::worker::run(opened.app.clone(), stop.clone()).await;
            stop.cancel();
            worked
        };
        let (worked, (), ()) = tokio::join!(worked, scraped, keep_time);
        telemetry::finish().await;
        worked
    })
    .await
}

/// The metrics' own address, where there is one.
pub(super) async fn listen_for_metrics(config: &Config) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Failure::refused("metrics.listen", format!("cannot listen on {address}: {error}"))
            .hint("Set metrics.listen to a free address; each process on a machine needs one of its own.")
    })?;
    Ok(Some(listener))
}

pub(super) async fn serve_metrics(opened: &Opened, listener: Option<TcpListener>, stop: CancellationToken) {
    let Some(listener) = listener else { return };
    if let Ok(address) = listener.local_addr() {
        tracing::info!("Metrics: at http://{address}/metrics");
    }
    http::serve_metrics(opened.app.clone(), listener, stop.cancelled_owned()).await;
}

/// Cancelled at SIGTERM or SIGINT; on a terminal at SIGHUP as well, which tells that it is gone. A second signal ends the process at once.
/// A service, which has no terminal, takes SIGHUP as the wish to look at its files again.
pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let on_terminal = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
    let mut signals =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?];
    if !on_terminal {
        tokio::spawn(logging::reopen_on_hangup());
    }
    let token = stop.clone();
    tokio::spawn(async move {
        for count in 0.. {
            let [term, int, hup] = &mut signals;
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = hup.recv(), if on_terminal => {} }
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
