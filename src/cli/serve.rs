//! `holdfast serve`: the API, and a worker beside it, until stopped.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Failure,
    open::{self, Opened},
    worker::{listen_for_metrics, serve_metrics, stop_on_signal},
};
use crate::{
    auth::jwt::Verifier,
    catalog,
    config::Config,
    http::{self, Listener, Tls},
    jobs,
    people::{self, SetupToken},
    report, schedule, telemetry,
};

/// Serve the REST API, and work on jobs, until stopped.
///
/// Listens on `listen.address` (HOLDFAST_LISTEN), by default on this machine alone, port 3000. With `worker.in_serve = false` it
/// only serves. With `listen.tls` it speaks HTTPS. SIGTERM or Ctrl-C ends it: running jobs get `worker.shutdown_seconds`, then are handed
/// back to the queue. SIGHUP opens the log's file anew and looks at the certificate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast serve
  DATABASE_URL=postgres://holdfast@db/app HOLDFAST_LISTEN=0.0.0.0:3000 holdfast serve")]
pub struct Args {}

pub async fn run(context: &Context, _args: Args) -> anyhow::Result<()> {
    let config = context.config_and_service_log()?;
    // Before anything is started: a port that is taken is the likeliest mistake.
    let listener = listen(&config).await?;
    let metrics = listen_for_metrics(&config).await?;
    open::with(&config, async |opened| {
        let address = listener.local_addr()?;
        let stop = stop_on_signal()?;
        catalog::ensure_control_plane(&opened.app.pool).await?;
        let setup = setup_token(opened).await?;
        let scheme = if listener.is_encrypted() { "https" } else { "http" };
        announce(context, opened, &format!("{scheme}://{address}"), setup.as_ref())?;
        let scraped = serve_metrics(opened, metrics, stop.clone());
        let (served, ()) = tokio::join!(services(opened, listener, stop), scraped);
        telemetry::finish().await;
        served
    })
    .await
}

async fn listen(config: &Config) -> Result<Listener, Failure> {
    let open = |(cert, key)| {
        Tls::open(cert, key).map_err(|error| {
            Failure::refused("listen.tls", error.to_string())
                .hint("Correct listen.tls.cert_file and listen.tls.key_file, or leave both out for plain HTTP.")
        })
    };
    let tls = config.listen.tls.files().map(open).transpose()?;
    let address = config.listen.address;
    let tcp = TcpListener::bind(address).await.map_err(|error| {
        Failure::refused("listen.address", format!("cannot listen on {address}: {error}"))
            .hint("Set HOLDFAST_LISTEN to a free address, such as 127.0.0.1:3001.")
    })?;
    Ok(Listener::new(tcp, tls))
}

/// A token for the first operator, where nobody could come in yet: local users are the only ones, and none is an operator. A
/// configured secret or key belongs to a platform that signs its own tokens.
async fn setup_token(opened: &Opened) -> anyhow::Result<Option<SetupToken>> {
    let (app, auth) = (&opened.app, &opened.app.config.auth);
    let is_platforms = auth.has_public_keys() || auth.jwt_secret.is_some() || !auth.signs();
    if is_platforms || people::has_operator(&app.pool).await? {
        return Ok(None);
    }
    Ok(Some(people::put_setup_token(&app.pool, app.clock.now()).await?))
}

/// On standard output: where the API is, and how the first operator is made where there is none.
fn announce(context: &Context, opened: &Opened, url: &str, setup: Option<&SetupToken>) -> anyhow::Result<()> {
    let control = opened.app.control.to_string();
    if context.is_json() {
        let mut line = serde_json::json!({ "listening": url, "control_plane": control });
        if let Some(token) = setup {
            // For whoever started the program, this once.
            line["setup"] = serde_json::json!({ "url": format!("{url}/auth/setup"), "token": token.expose() });
        }
        return report::print(&format!("{line}\n"));
    }
    report::print(&format!("listening on {url} (documentation at {url}/docs), control plane {control}\n"))?;
    let Some(token) = setup else { return Ok(()) };
    report::print(&format!(
        "there is no operator yet: open {url}/setup#{} within an hour, or use `holdfast user add --role operator`\n",
        // For whoever started the program, this once.
        token.expose()
    ))
}

/// API, worker and schedules until `stop`. When one ends before, the other is stopped too.
pub(super) async fn services(opened: &Opened, listener: Listener, stop: CancellationToken) -> anyhow::Result<()> {
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
    let (api, worker, ()) = tokio::join!(api, worker, schedule::run(app.clone(), stop.clone()));
    api.and(worker)
}
