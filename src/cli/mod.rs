//! The command line: each command in a file of its own. A command opens what it needs, prints its result on standard output and
//! nothing else there, and ends with a documented exit code.

mod api;
mod audit;
mod backup;
mod catalog;
mod channel;
mod config;
mod database;
mod delete;
mod demo;
mod doctor;
mod download;
mod failure;
mod grants;
mod import;
mod job;
mod key;
mod list;
mod migrate;
mod notify;
pub mod open;
mod pin;
mod project;
mod project_files;
mod project_set;
mod recovery_sheet;
mod resolve;
mod restore;
mod retention;
mod schedule;
mod serve;
mod settings_file;
mod show;
mod storage;
mod token;
mod typed_secret;
mod undo;
mod user;
mod verify;
mod wait;
mod worker;

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::failure::{Exit, Failure};
use crate::{
    config::{Config, ConfigError},
    logging::{self, Verbosity},
    report,
    telemetry::{self, TraceLayer},
    tenant::Caller,
};

/// Backs up PostgreSQL platforms that keep each tenant in its own schema: one tenant at a time, taken, kept, proved and restored.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    success
  1    unexpected failure
  2    the arguments or the configuration are wrong, or the request was refused
  3    not found: project, backup, job or stored artifact
  4    the job failed or was cancelled: the backup, restore, verification or deletion did not succeed
  5    the control plane cannot be reached or is not migrated
  6    a verification or a look at a storage found damage, or a restore ended with differences
  130  interrupted while waiting

Examples:
  holdfast project add acme --name 'Acme Ltd'       enrol a tenant: its schema is tenant_acme
  holdfast backup acme --wait                       take a backup
  holdfast verify latest:acme --depth restore       prove it
  holdfast restore latest:acme --confirm --wait     put it back
  holdfast serve                                    API and worker, until stopped

Without a database URL everything is kept in an embedded PostgreSQL below the data directory.
`holdfast config docs` lists every setting and variable.";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file [default: holdfast.toml here, else /etc/holdfast/holdfast.toml].
    #[arg(long, global = true, env = "HOLDFAST_CONFIG", value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Where keys, the embedded PostgreSQL and the default storage live. Overrides the configuration.
    #[arg(long, global = true, env = "HOLDFAST_DATA_DIR", value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON: a list as an array, anything else as an object. Errors too, on standard error.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// No progress, no remarks; errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
    /// Log more, on standard error; twice for debug, three times for trace.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(serve::Args),
    Worker(worker::Args),
    Demo(demo::Args),
    Migrate(migrate::Args),
    Doctor(doctor::Args),
    Project(project::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Verify(verify::Args),
    Undo(undo::Args),
    List(list::Args),
    Show(show::Args),
    Download(download::Args),
    Delete(delete::Args),
    Pin(pin::Args),
    Import(import::Args),
    Schedule(schedule::Args),
    Retention(retention::Args),
    Storage(storage::Args),
    Database(database::Args),
    Channel(channel::Args),
    Notify(notify::Args),
    Catalog(catalog::Args),
    Job(job::Args),
    Audit(audit::Args),
    User(user::Args),
    Token(token::Args),
    Key(key::Args),
    Grants(grants::Args),
    #[command(hide = true)]
    Config(config::Args),
    #[command(hide = true)]
    Api(api::Args),
}

/// What every command is given: the options of all, and who calls.
#[derive(Clone, Debug)]
pub struct Context {
    global: Global,
    environment: BTreeMap<String, String>,
    pub caller: Caller,
}

impl Context {
    fn new(global: Global) -> Self {
        // Variables that are not UTF-8 cannot be ours.
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        Self { global, environment, caller: Caller::command_line() }
    }

    /// The configuration: the file, the environment, then `--data-dir`.
    ///
    /// # Errors
    /// Says in one line what is wrong.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut environment = self.environment.clone();
        if let Some(dir) = &self.global.data_dir {
            let dir = dir.to_str().ok_or_else(|| ConfigError::Invalid("the data directory is not UTF-8".to_owned()))?;
            environment.insert("HOLDFAST_DATA_DIR".to_owned(), dir.to_owned());
        }
        crate::config::load(self.global.config.as_deref(), &environment)
    }

    /// The configuration of a command that ends by itself, with its log started.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn config_and_log(&self) -> Result<Config, ConfigError> {
        let config = self.config()?;
        self.start_log(&config, Verbosity::Command, None)?;
        Ok(config)
    }

    /// The same of a service, with traces where they are configured.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn config_and_service_log(&self) -> Result<Config, ConfigError> {
        let config = self.config()?;
        let traces = telemetry::layer(&config.telemetry)?;
        self.start_log(&config, Verbosity::Configured, traces)?;
        Ok(config)
    }

    fn start_log(&self, config: &Config, usual: Verbosity, traces: TraceLayer) -> Result<(), ConfigError> {
        let verbosity = match (self.global.quiet, self.global.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => usual,
            (false, 1) => Verbosity::Configured,
            (false, 2) => Verbosity::Debug,
            (false, _) => Verbosity::Trace,
        };
        logging::start(&config.log, verbosity, traces)
    }

    pub fn is_json(&self) -> bool {
        self.global.json
    }

    pub fn is_quiet(&self) -> bool {
        self.global.quiet
    }

    /// A remark for people, on standard error.
    pub fn remark(&self, text: &str) {
        if !self.is_quiet() {
            report::note(text);
        }
    }

    /// Like [`remark`](Self::remark), for what may be wrong.
    pub fn warn(&self, text: &str) {
        self.remark(&format!("warning: {text}"));
    }
}

/// Everything that `main` does after choosing the TLS provider.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = Cli::command().try_get_matches_from(&arguments).and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error, arguments.iter().any(|argument| argument == "--json")),
    };
    let as_json = cli.global.json;
    let outcome =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(
            |runtime| {
                let outcome = runtime.block_on(run(cli));
                // A blocking read of a pipe or a terminal must not keep the program from ending.
                runtime.shutdown_timeout(std::time::Duration::from_secs(2));
                outcome
            },
        );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if failure::is_stdout_closed(&error) => ExitCode::from(Exit::Unexpected.code()),
        Err(error) => {
            let failure = Failure::of(&error);
            report::note(failure.render(as_json).trim_end());
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Help and version go to standard output with 0; mistakes to standard error with 2.
fn usage_error(error: &clap::Error, as_json: bool) -> ExitCode {
    if as_json && error.use_stderr() {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::refused("usage", message).hint("`holdfast COMMAND --help` shows what is expected.");
        report::note(failure.render(true).trim_end());
    } else {
        // Fails when nobody reads: then there is nobody to tell.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Refused.code()))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let context = &Context::new(cli.global);
    match cli.command {
        Command::Serve(args) => serve::run(context, args).await,
        Command::Worker(args) => worker::run(context, args).await,
        Command::Demo(args) => demo::run(context, args).await,
        Command::Migrate(args) => migrate::run(context, args).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Project(args) => project::run(context, args).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::Undo(args) => undo::run(context, args).await,
        Command::List(args) => list::run(context, args).await,
        Command::Show(args) => show::run(context, args).await,
        Command::Download(args) => download::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::Pin(args) => pin::run(context, args).await,
        Command::Import(args) => import::run(context, args).await,
        Command::Schedule(args) => schedule::run(context, args).await,
        Command::Retention(args) => retention::run(context, args).await,
        Command::Storage(args) => storage::run(context, args).await,
        Command::Database(args) => database::run(context, args).await,
        Command::Channel(args) => channel::run(context, args).await,
        Command::Notify(args) => notify::run(context, args).await,
        Command::Catalog(args) => catalog::run(context, args).await,
        Command::Job(args) => job::run(context, args).await,
        Command::Audit(args) => audit::run(context, args).await,
        Command::User(args) => user::run(context, args).await,
        Command::Token(args) => token::run(context, args),
        Command::Key(args) => key::run(context, args),
        Command::Grants(args) => grants::run(args),
        Command::Config(args) => config::run(args),
        Command::Api(args) => api::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
