//! Records a file that is in Telegram already:
//! `cargo run --example integration_record_only -- PROJECT ID FILE_ID` records one that another program has sent, under that program's id;
//! `cargo run --example integration_record_only < RESULT` one that `integration_telegram_only` has sent.
//! `docs/integration.md` lists the variables that it needs.

#[path = "integration/environment.rs"]
mod environment;

use anyhow::Context;
use holdfast::{
    artifact::BackupType,
    integration::{BackupResult, ForeignMetadata, RecordMetadata},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let metadata: RecordMetadata = match &arguments[..] {
        [project, id, file_id] => ForeignMetadata::new(id, project, BackupType::Database, file_id).into(),
        _ => {
            let sent: BackupResult = serde_json::from_reader(std::io::stdin()).context("no result of a sending")?;
            sent.telegram_metadata.context("nothing was sent")?.into()
        }
    };

    let backups = environment::integration().await?;
    environment::show(&backups.record_in_database_only(metadata, None).await)
}
