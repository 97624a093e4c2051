//! The log: lines on standard error and, where asked for, the same in a file, which can be rotated.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{ConfigError, LogConfig, LogFormat},
    telemetry::TraceLayer,
};

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

/// The log's file, which can be opened anew under its name.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// Opens a log file for appending: owner writes, group reads.
///
/// # Errors
/// It cannot be opened or made.
pub fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, ConfigError> {
        let file = open_file(path)
            .map_err(|error| ConfigError::Invalid(format!("log.file: cannot open {}: {error}", path.display())))?;
        Ok(Self { path: path.to_path_buf(), file: Mutex::new(file) })
    }

    /// What was rotated away keeps its lines so far; the next ones go to a file of the old name. When that cannot be opened, the old one
    /// stays.
    fn reopen(&self) -> io::Result<()> {
        let file = open_file(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

static LOG_FILE: OnceLock<Arc<LogFile>> = OnceLock::new();

/// Opens the log's file anew at every SIGHUP, as logrotate wants it. Does not end.
pub async fn reopen_on_hangup() {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        let Some(log) = LOG_FILE.get() else { continue };
        match log.reopen() {
            Ok(()) => tracing::info!(file = %log.path.display(), "the log goes on in a fresh file"),
            Err(error) => tracing::warn!(file = %log.path.display(), "the log's file cannot be opened anew: {error}"),
        }
    }
}

/// Starts the log, with traces where they are wanted. Once per process; a second call changes nothing.
///
/// # Errors
/// The level cannot be read, or the file cannot be opened.
pub fn start(config: &LogConfig, verbosity: Verbosity, traces: TraceLayer) -> Result<(), ConfigError> {
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
        let (in_file, writer) = (filter(&config.level)?, Arc::new(LogFile::open(path)?));
        let _ = LOG_FILE.set(Arc::clone(&writer)); // the first log stands
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
    layers.extend(traces);
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
    fn a_rotated_file_keeps_its_lines_and_a_fresh_one_takes_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("log"), directory.path().join("log.1"));
        let log = LogFile::open(&path).unwrap();
        (&log).write_all(b"one\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        (&log).write_all(b"two\n").unwrap();
        log.reopen().unwrap();
        (&log).write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        let config = LogConfig { level: "info=loud=x".to_owned(), ..LogConfig::default() };
        assert!(start(&config, Verbosity::Configured, None).unwrap_err().to_string().contains("log.level"));
    }
}
