//! `holdfast serve`: the API, and a worker beside it, until stopped.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Failure,
    open::{self, Opened},
    worker::stop_on_signal,
};
use crate::{auth::jwt::Verifier, config::Config, http, jobs, report};

/// Serve the REST API, and work on jobs, until stopped.
///
/// Listens on `listen.address` (HOLDFAST_LISTEN), by default on this machine alone, port 3000. With `worker.in_serve = false` it
/// only serves. SIGTERM or Ctrl-C ends it: running jobs get `worker.shutdown_seconds`, then are handed back to the queue.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast serve
  DATABASE_URL=postgres://holdfast@db/app HOLDFAST_LISTEN=0.0.0.0:3000 holdfast serve")]
pub struct Args {}

pub async fn run(context: &Context, _args: Args) -> anyhow::Result<()> {
    let config = context.config_and_service_log()?;
    // Before anything is started: a port that is taken is the likeliest mistake.
    let listener = listen(&config).await?;
    open::with(&config, async |opened| {
        let address = listener.local_addr()?;
        let stop = stop_on_signal()?;
        announce(context, opened, address)?;
        services(opened, listener, stop).await
    })
    .await
}

async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    let address = config.listen.address;
    TcpListener::bind(address).await.map_err(|error| {
        Failure::refused("listen.address", format!("cannot listen on {address}: {error}"))
            .hint("Set HOLDFAST_LISTEN to a free address, such as 127.0.0.1:3001.")
    })
}

/// The one line on standard output: where the API is.
fn announce(context: &Context, opened: &Opened, address: SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    let control = opened.app.control.to_string();
    if context.is_json() {
        return report::print(&format!("{}\n", serde_json::json!({ "listening": url, "control_plane": control })));
    }
    report::print(&format!("listening on {url} (documentation at {url}/docs), control plane {control}\n"))
}

/// API and worker until `stop`. When one ends before, the other is stopped too.
pub(super) async fn services(opened: &Opened, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let app = &opened.app;
    let verifier = Verifier::new(&app.keys.jwt_secret, &app.config.auth, app.clock.clone())
        .map_err(|error| Failure::refused(error.code(), error.to_string()))?;
    let api = async {
        let served = http::serve(app.clone(), verifier, listener, stop.clone().cancelled_owned()).await;
        stop.cancel();
        served.context("the API stopped")
    };
    let worker = async {
        if !app.config.worker.in_serve {
            return Ok(());
        }
        let worked = jobs::worker::run(app.clone(), stop.clone()).await;
        stop.cancel();
        worked.context("the worker stopped")
    };
    let (api, worker) = tokio::join!(api, worker);
    api.and(worker)
}
