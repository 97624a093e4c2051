//! `holdfast doctor`: looks at everything that a backup or a restore needs, and says what to do about what is wrong.

mod checks;
mod service;

use serde::Serialize;

use self::checks::Findings;
use super::{Context, Exit, Failure};
use crate::{
    keyring,
    logging::Verbosity,
    postgres::tools::Tools,
    report::{self, Table},
};

/// Check everything that backups and restores need: control plane, programs, keys, storages, projects, workers; and a service's certificate,
/// log file and metrics address.
///
/// Writes, reads back and deletes a small object in every storage. Makes the data directory when it is missing and, where no database
/// is configured, starts the embedded PostgreSQL, which is made at its first start; a configured database is only read. Exit code 1
/// when anything fails; warnings alone end with 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast doctor
  holdfast doctor --json")]
pub struct Args {}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    Ok,
    Warn,
    Fail,
}

impl Health {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub check: String,
    pub status: Health,
    pub message: String,
    /// A sentence that names the remedy.
    pub remedy: Option<String>,
}

pub async fn run(context: &Context, _args: Args) -> anyhow::Result<()> {
    let mut config = context.config()?;
    let mut findings = Findings::default();
    service::log_file(&mut findings, &config);
    // What a file's place in the log cannot take is a finding, not the end.
    let file = config.log.file.take();
    context.start_log(&config, Verbosity::Command, None)?;
    config.log.file = file;
    // Else the default storage, which lies below it, would make it with a mode that keeps the embedded PostgreSQL out.
    keyring::make_data_dir(&config.data_dir)?;
    checks::data_dir(&mut findings, &config);
    checks::keys(&mut findings, &config);
    service::tls(&mut findings, &config);
    service::metrics(&mut findings, &config).await;
    service::traces(&mut findings, &config);
    service::mail(&mut findings, &config).await;
    checks::storages(&mut findings, &config).await;
    let tools = Tools::discover(&config.tools).await;
    checks::control_plane(&mut findings, &config, &tools).await;
    let findings = findings.into_vec();
    if context.is_json() {
        report::print_json(&findings)?;
    } else {
        report::print(&render(&findings))?;
    }
    let failed = findings.iter().filter(|finding| finding.status == Health::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    let plural = if failed == 1 { "check" } else { "checks" };
    Err(Failure::new(Exit::Unexpected, "doctor.failed", format!("{failed} {plural} failed")).into())
}

fn render(findings: &[Finding]) -> String {
    let mut table = Table::new(&["", "CHECK", "RESULT"]);
    for finding in findings {
        table.row(vec![finding.status.word().to_owned(), finding.check.clone(), finding.message.clone()]);
        if let Some(remedy) = &finding.remedy {
            table.row(vec![String::new(), String::new(), format!("-> {remedy}")]);
        }
    }
    table.render()
}
