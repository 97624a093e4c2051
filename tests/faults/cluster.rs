//! A server of a test's own: another machine to restore to, and one that may crash.

use std::{
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use holdfast::postgres::connect::ConnectInfo;
use tempfile::TempDir;

use crate::support;

/// Stopped and removed when dropped.
pub struct Cluster {
    directory: TempDir,
    pub info: ConnectInfo,
}

/// `scripts/test-server` makes one below each directory for temporary files.
fn script(directory: &TempDir, what: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(support::checkout().join("scripts/test-server")).arg(what);
    command.env("TMPDIR", directory.path()).stdin(Stdio::null());
    command
}

fn told(mut command: Command) -> String {
    let output = command.output().expect("bash runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

impl Cluster {
    pub async fn start() -> Self {
        let directory = support::reachable_directory();
        let (directory, url) = tokio::task::spawn_blocking(move || {
            let url = told(script(&directory, "url"));
            (directory, url)
        })
        .await
        .expect("a server");
        Self { directory, info: url.parse().expect("a URL") }
    }

    /// As after a crash: nothing is written that was not, and what was committed is recovered from the log. Same address.
    pub async fn crash(&self) {
        let data = PathBuf::from(told(script(&self.directory, "dir"))).join("cluster");
        let programs = support::tools().await.server().expect("a server's programs").directory;
        let owner = std::fs::metadata(&data).expect("the cluster");
        let restart = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(programs.join("pg_ctl"));
            command.args(["-D", ".", "-s", "-w", "-t", "60", "-m", "immediate", "-l", "server.log", "restart"]);
            command.current_dir(&data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if rustix::process::geteuid().is_root() {
                command.uid(owner.uid()).gid(owner.gid());
            }
            command.status().expect("pg_ctl runs")
        });
        assert!(restart.await.expect("a restart").success(), "pg_ctl restart");
        let began = Instant::now();
        while let Err(error) = self.info.connect().await {
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not come back: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The directory goes next; without this its server would be left.
        let _ = script(&self.directory, "stop").output();
    }
}
