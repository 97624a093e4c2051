//! Settings with secrets in them, from a file or standard input: arguments can be seen by every user of the machine.

use std::path::PathBuf;

use super::{Failure, typed_secret};
use crate::{catalog::Settings, config};

#[derive(Debug, clap::Args)]
pub struct SettingsFile {
    /// A file with the settings, as TOML or JSON; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
}

impl SettingsFile {
    /// Reads them.
    ///
    /// # Errors
    /// The file cannot be read, or is neither.
    pub fn read(&self) -> Result<Settings, Failure> {
        let text = typed_secret::from_file(&self.settings)?;
        let wrong = |why: String| Failure::refused("request.settings", format!("{}: {why}", self.settings.display()));
        // Parsed here; the errors never repeat it.
        let value = config::settings_from_text(text.expose()).map_err(|error| wrong(error.to_string()))?;
        serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
    }
}
