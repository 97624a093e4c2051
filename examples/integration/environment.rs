//! What the examples have in common: an integration from the environment.

use holdfast::{
    config,
    integration::{BackupIntegration, BackupResult},
};

/// Reads `holdfast.toml` where there is one, and the variables that `docs/integration.md` lists.
pub async fn integration() -> anyhow::Result<BackupIntegration> {
    let config = config::load(None, &std::env::vars().collect())?;
    Ok(BackupIntegration::open(&config, "telegram").await?)
}

/// Prints what came of a call as JSON, and fails where it failed.
#[allow(dead_code, reason = "one example prints its results in a line each")]
pub fn show(result: &BackupResult) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(result)?);
    match &result.error {
        None => Ok(()),
        Some(error) => anyhow::bail!("{}: {error}", error.code),
    }
}
