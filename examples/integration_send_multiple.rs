//! Sends several files, one after the other, and records each: `cargo run --example integration_send_multiple -- PROJECT FILE…`.
//! `docs/integration.md` lists the variables that it needs.

#[path = "integration/environment.rs"]
mod environment;

use anyhow::Context;
use holdfast::{artifact::BackupType, integration::BackupOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let project = arguments.next().context("which project?")?;
    let files: Vec<String> = arguments.collect();

    let backups = environment::integration().await?;
    let options = files.iter().map(|file| BackupOptions::new(&project, BackupType::Storage, file.as_str()));
    let results = backups.send_and_record_multiple(options).await;

    let mut failed = 0;
    for (file, result) in files.iter().zip(&results) {
        match (&result.error, &result.database_record) {
            (None, Some(record)) => println!("{file}: backup {}", record.id),
            (None, None) => println!("{file}: sent"),
            (Some(error), _) => {
                failed += 1;
                println!("{file}: {}: {error}", error.code);
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} files failed", files.len());
    Ok(())
}
