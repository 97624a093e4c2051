//! The log: lines on standard error and, where asked for, the same in a file.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal},
    os::unix::fs::OpenOptionsExt,
    sync::Mutex,
};

use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{ConfigError, LogConfig, LogFormat};

/// How much a command says besides its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// `--quiet`: errors only.
    Quiet,
    /// A command that ends by itself: warnings.
    Command,
    /// A service, or `-v`: what the configuration says.
    Configured,
    /// `-vv`
    Debug,
    /// `-vvv`
    Trace,
}

impl Verbosity {
    fn filter(self, configured: &str) -> &str {
        match self {
            Self::Quiet => "error",
            // Whoever configured another level than the usual one wants to see it.
            Self::Command if configured == LogConfig::default().level => "warn",
            Self::Command | Self::Configured => configured,
            Self::Debug => "info,holdfast=debug",
            Self::Trace => "info,holdfast=trace",
        }
    }
}

/// Starts the log. Once per process; a second call changes nothing.
///
/// # Errors
/// The level cannot be read, or the file cannot be opened.
pub fn start(config: &LogConfig, verbosity: Verbosity) -> Result<(), ConfigError> {
    let filter = |level: &str| {
        EnvFilter::builder().parse(level).map_err(|error| {
            ConfigError::Invalid(format!(
                "log.level is {level:?} ({error}): use error, warn, info, debug, trace or a filter"
            ))
        })
    };
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    let on_terminal = filter(verbosity.filter(&config.level))?;
    let colours = io::stderr().is_terminal();
    layers.push(match config.format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .log_internal_errors(false)
            .with_writer(io::stderr)
            .with_ansi(colours)
            .with_filter(on_terminal)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .log_internal_errors(false)
            .with_writer(io::stderr)
            .with_filter(on_terminal)
            .boxed(),
    });
    if let Some(path) = &config.file {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .map_err(|source| ConfigError::File { path: path.clone(), source })?;
        let (in_file, writer) = (filter(&config.level)?, Mutex::new(file));
        layers.push(match config.format {
            LogFormat::Text => tracing_subscriber::fmt::layer()
                .log_internal_errors(false)
                .with_writer(writer)
                .with_ansi(false)
                .with_filter(in_file)
                .boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer()
                .json()
                .log_internal_errors(false)
                .with_writer(writer)
                .with_filter(in_file)
                .boxed(),
        });
    }
    // Fails only when a log was started before.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quieter_than_a_service_unless_configured() {
        assert_eq!(Verbosity::Command.filter("info"), "warn");
        assert_eq!(Verbosity::Command.filter("debug"), "debug");
        assert_eq!(Verbosity::Configured.filter("info"), "info");
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        let config = LogConfig { level: "info=loud=x".to_owned(), ..LogConfig::default() };
        assert!(start(&config, Verbosity::Configured).unwrap_err().to_string().contains("log.level"));
    }
}
