//! The real server, as a process of its own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use holdfast::postgres::connect::ConnectInfo;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;

/// Signs the tokens.
pub const SECRET: &str = "a secret of the bench, long enough to sign";

pub struct Serving {
    child: Child,
    pub url: String,
}

impl Serving {
    /// With everything as it is by default, but that nobody works on the jobs.
    pub fn start(info: &ConnectInfo, directory: &Path) -> Result<Self> {
        let config = directory.join("holdfast.toml");
        std::fs::write(
            &config,
            "[worker]\nin_serve = false\n\n[limits]\nrequests_per_minute = 0\nanonymous_requests_per_minute = 0\njobs_per_project = 0\n",
        )?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["serve", "--json"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", info.to_url().expose_secret())
            .env("HOLDFAST_DATA_DIR", directory.join("data"))
            .env("HOLDFAST_CONFIG", config)
            .env("HOLDFAST_LISTEN", "127.0.0.1:0")
            .env("HOLDFAST_JWT_SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.join("serve.log"))?)
            .spawn()
            .context("cannot run holdfast")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let said: serde_json::Value = serde_json::from_str(&line).with_context(|| {
            let log = std::fs::read_to_string(directory.join("serve.log")).unwrap_or_default();
            format!("holdfast does not serve: {line}{log}")
        })?;
        let url = said["listening"].as_str().context("no address")?.to_owned();
        Ok(Self { child, url })
    }

    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "holdfast ended with {status}");
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
