use std::{net::SocketAddr, path::PathBuf};

use super::Secret;

/// Shortest token, in bytes.
const MIN_TOKEN: usize = 16;

super::section! {
    /// What Prometheus reads. At `/metrics` of the API it needs an operator's token or the one below, as `Authorization: Bearer`.
    MetricsConfig, "metrics" {
        /// An address of its own for `/metrics`, `/healthz` and `/readyz`, in plain HTTP, of `serve` and of `worker`. On loopback it is
        /// open to everyone on this machine unless there is a token; on other addresses a token is required. Default: none.
        listen: Option<SocketAddr> = None;
        /// A token of 16 bytes or more that opens the metrics and nothing else.
        token: Option<Secret> = None;
        /// A file that holds the token.
        token_file: Option<PathBuf> = None;
        /// Whether each active project has series of its own: one for each type of backup that it takes, up to 10,000 projects.
        /// Default: `true`.
        per_project: bool = true;
        /// For so many seconds the control plane is not asked again; 0 asks for each page. Default: 10.
        max_age_seconds: u64 = 10;
    }
}

impl MetricsConfig {
    /// What no type can say, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let length = self.token.as_ref().map(|token| token.expose().len()); // only its length is used
        match (length, self.listen) {
            (Some(length), _) if length < MIN_TOKEN => Err(format!(
                "metrics.token has {length} bytes: use {MIN_TOKEN} or more, for instance from `openssl rand -hex 16`"
            )),
            (None, Some(address)) if !address.ip().is_loopback() => Err(format!(
                "metrics.listen is {address}, which others may reach: set metrics.token_file, or listen on 127.0.0.1"
            )),
            _ => Ok(()),
        }
    }
}
