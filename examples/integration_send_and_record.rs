//! Sends a file to Telegram and records it: `cargo run --example integration_send_and_record -- PROJECT FILE`.
//! `docs/integration.md` lists the variables that it needs.

#[path = "integration/environment.rs"]
mod environment;

use anyhow::Context;
use holdfast::{artifact::BackupType, integration::BackupOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let project = arguments.next().context("which project?")?;
    let file = arguments.next().context("which file?")?;

    let backups = environment::integration().await?;
    let options = BackupOptions {
        caption: Some(format!("{project}, sent by an example")),
        ..BackupOptions::new(project, BackupType::Database, file.as_str())
    };
    let result = backups.send_and_record(options).await;

    if result.details.kept_in_outbox {
        eprintln!("the file is sent; its record waits until the database is back");
    }
    environment::show(&result)
}
