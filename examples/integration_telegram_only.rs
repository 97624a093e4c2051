//! Sends what comes on standard input to Telegram, and records nothing; no database is needed:
//! `pg_dump acme | cargo run --example integration_telegram_only -- PROJECT NAME`.
//! It prints the metadata with which `integration_record_only` records the file later. `docs/integration.md` lists the variables that it needs.

#[path = "integration/environment.rs"]
mod environment;

use anyhow::Context;
use holdfast::{
    artifact::BackupType,
    integration::{BackupOptions, FileInput},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let project = arguments.next().context("which project?")?;
    let name = arguments.next().context("which name?")?;

    let backups = environment::integration().await?;
    let input = tokio::fs::File::open("/dev/stdin").await?;
    let options = BackupOptions {
        filename: Some(name),
        ..BackupOptions::new(project, BackupType::Database, FileInput::reader(input))
    };
    environment::show(&backups.send_to_telegram_only(options).await)
}
