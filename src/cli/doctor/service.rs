//! What a service needs beside databases and storages: its certificate, its log's file, its metrics' address, its collector, its mail server.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use chrono::TimeDelta;

use super::checks::Findings;
use crate::{
    clock::{Clock, Timestamp},
    config::Config,
    http::{Tls, others_may_read},
    logging,
    notify::Senders,
    telemetry,
};

/// Certificates are renewed well before this, so something does not work then.
const ENDS_SOON: TimeDelta = TimeDelta::days(14);

/// How long a Holdfast that runs may take to say that it is one.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn tls(findings: &mut Findings, config: &Config) {
    let check = "TLS";
    let address = config.listen.address;
    match config.listen.tls.files() {
        None if address.ip().is_loopback() => {}
        None => findings.warn(
            check,
            format!("the API listens on {address} in plain HTTP"),
            "Set listen.tls, or let nobody but a proxy with TLS reach it.",
        ),
        Some((cert, key)) => match Tls::open(cert, key) {
            Err(error) => {
                findings.fail(check, error.to_string(), "Correct listen.tls: `serve` does not start with it.")
            }
            Ok(_) if others_may_read(key) => findings.warn(
                check,
                format!("everybody on this machine may read {}", key.display()),
                &format!("chmod o= {}", key.display()),
            ),
            Ok(tls) => certificate(findings, cert, tls.ends().map(|ends| (ends, ends - Clock::System.now()))),
        },
    }
}

/// When the certificate ends, and how long that is from now.
fn certificate(findings: &mut Findings, cert: &Path, ends: Option<(Timestamp, TimeDelta)>) {
    let check = "TLS";
    let cert = cert.display();
    match ends {
        Some((ends, left)) if left < TimeDelta::zero() => findings.fail(
            check,
            format!("{cert} ended at {ends:?}"),
            "Renew it; `serve` takes the new one into use by itself.",
        ),
        Some((ends, left)) if left < ENDS_SOON => findings.warn(
            check,
            format!("{cert} ends at {ends:?}, in {} days", left.num_days()),
            "Look at what should renew it; `serve` takes the new one into use by itself.",
        ),
        Some((ends, _)) => findings.ok(check, format!("{cert} and its key fit together; it ends at {ends:?}")),
        None => findings.ok(check, format!("{cert} and its key fit together")),
    }
}

/// Looked at before the log is started, which would not begin without it.
pub(super) fn log_file(findings: &mut Findings, config: &Config) {
    let Some(path) = &config.log.file else { return };
    match logging::open_file(path) {
        Ok(_) => findings.ok("log file", path.display().to_string()),
        Err(error) => findings.fail(
            "log file",
            format!("cannot open {}: {error}", path.display()),
            "Make its directory, writable for the user that runs Holdfast, or correct log.file.",
        ),
    }
}

pub(super) async fn metrics(findings: &mut Findings, config: &Config) {
    let check = "metrics";
    let Some(address) = config.metrics.listen else { return };
    match std::net::TcpListener::bind(address) {
        Ok(_) => findings.ok(check, format!("{address} is free for `serve` or `worker`")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_ours(address).await => {
            findings.ok(check, format!("a running Holdfast serves them at {address}"));
        }
        Err(error) => findings.fail(
            check,
            format!("cannot listen on {address}: {error}"),
            "Set metrics.listen to a free address of this machine.",
        ),
    }
}

/// Whether a Holdfast answers there.
async fn is_ours(address: SocketAddr) -> bool {
    let asked = async {
        let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build().ok()?;
        let answer = client.get(format!("http://{address}/healthz")).send().await.ok()?;
        let said: serde_json::Value = answer.json().await.ok()?;
        Some(said["data"]["status"] == "ok")
    };
    asked.await.unwrap_or(false)
}

pub(super) fn traces(findings: &mut Findings, config: &Config) {
    match &config.telemetry.otlp_endpoint {
        Some(endpoint) if telemetry::IS_BUILT_IN => findings.ok("traces", format!("go to {endpoint}")),
        Some(_) => findings.fail(
            "traces",
            "telemetry.otlp_endpoint is set, but this program was built without OpenTelemetry",
            "Build it with `--features otel`, or unset telemetry.otlp_endpoint and OTEL_EXPORTER_OTLP_ENDPOINT.",
        ),
        None => {}
    }
}

/// Whether the mail server takes us. No message is sent.
pub(super) async fn mail(findings: &mut Findings, config: &Config) {
    let check = "mail";
    if config.smtp.host.is_none() {
        if !config.notify.operators.is_empty() {
            findings.warn(
                check,
                "notify.operators has addresses, but no mail server is configured",
                "Set smtp.host and smtp.from.",
            );
        }
        return;
    }
    let seen = match Senders::new(config) {
        Ok(senders) => senders.look_at_mail().await.map_err(|error| (error.to_string(), error.hint)),
        Err(error) => Err((error.to_string(), None)),
    };
    match seen {
        Ok(seen) => findings.ok(check, seen.unwrap_or_default()),
        Err((error, hint)) => findings.fail(check, error, hint.unwrap_or("Correct [smtp].")),
    }
}
