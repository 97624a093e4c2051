//! `holdfast backup`: asks for a backup of a project's database, log or files, and with `--wait` sees it through.

use serde_json::json;

use super::{Context, Failure, open, show, wait};
use crate::{
    app::App,
    artifact::{BackupType, Compression, Format},
    clock::Timestamp,
    history,
    ids::BackupId,
    jobs::{
        queue::{self, Job},
        request::{self, Asked, DateRange, Export, ExportLogs, ExportStorage, Moment},
    },
    proof_record::ProofLevel,
    report,
};

/// Take a backup of a project: of its database, or with --type logs of its log, or with --type storage of its files.
///
/// Queues a job. With --wait, waits until it has ended and shows the backup; when no worker is alive, the job is worked on in this
/// process. Exit code 4 when the backup failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast backup acme --wait
  holdfast backup acme --format custom --wait --json
  holdfast backup acme --compression zstd --storage local --storage offsite
  holdfast backup acme --table orders --table order_lines --storage-path 'extracts/{project_id}/{timestamp}'
  holdfast backup acme --exclude-table-data audit_log --expires-at 2027-01-01T00:00:00Z --caption 'before the upgrade'
  holdfast backup acme --type logs --since 2026-11-01 --until 2026-11-21 --format text --wait
  holdfast backup acme --type storage --wait           the project's files
  holdfast backup holdfast-control-plane --wait        the control plane itself, without secrets")]
pub struct Args {
    /// The project's id.
    project: String,
    /// database; logs: the project's rows of project_logs; or storage: the project's files.
    #[arg(long, value_name = "TYPE", default_value = "database")]
    r#type: BackupType,
    /// sql, tar or custom [default: backup.format]; of logs json or text [default: json].
    #[arg(long)]
    format: Option<Format>,
    /// Log lines from this day (UTC) or instant on, by ISO 8601 [default: the first one].
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Log lines to the end of this day (UTC), or up to this instant [default: the last one].
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// gzip, zstd or none; custom is compressed by pg_dump alone [default: backup.compression].
    #[arg(long)]
    compression: Option<Compression>,
    /// A storage that takes a copy; may be repeated [default: backup.storages].
    #[arg(long, value_name = "NAME")]
    storage: Vec<String>,
    #[command(flatten)]
    part: Part,
    /// full: a digest of every table's rows is taken while they are dumped; counts: rows are counted; off [default: the project's, else
    /// backup.proof].
    #[arg(long, value_name = "LEVEL")]
    proof: Option<ProofLevel>,
    /// Where in the storages, below their prefix: {project_id}, {timestamp} and {format} stand for their values; the backup's short id and
    /// the extension are added [default: backups/{project_id}/backup-{timestamp}].
    #[arg(long, value_name = "TEMPLATE")]
    storage_path: Option<String>,
    /// When it may be deleted, such as 2027-01-01T00:00:00Z [default: after backup.retention_days].
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    /// A note of at most 1024 characters.
    #[arg(long, value_name = "TEXT")]
    caption: Option<String>,
    /// Who is told by e-mail how it ended.
    #[arg(long, value_name = "ADDRESS")]
    notify_email: Option<String>,
    /// Wait until it has ended.
    #[arg(long)]
    wait: bool,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// Tables by name, as they are called in the project's schema; of a whole database as schema.table. Any of these makes the backup a partial one,
/// for download.
#[derive(Debug, clap::Args)]
struct Part {
    /// Only this table; may be repeated. The backup is then partial: for download, never restored in place.
    #[arg(long = "table", value_name = "NAME")]
    tables: Vec<String>,
    /// Not this table; may be repeated.
    #[arg(long = "exclude-table", value_name = "NAME")]
    exclude_tables: Vec<String>,
    /// This table's definition without its rows; may be repeated.
    #[arg(long, value_name = "NAME")]
    exclude_table_data: Vec<String>,
}

impl Part {
    const fn is_everything(&self) -> bool {
        self.tables.is_empty() && self.exclude_tables.is_empty() && self.exclude_table_data.is_empty()
    }
}

impl Args {
    /// What is asked for.
    ///
    /// # Errors
    /// The options do not fit the type.
    fn request(&self) -> Result<Asked, Failure> {
        if self.r#type != BackupType::Database
            && (self.storage_path.is_some() || self.proof.is_some() || !self.part.is_everything())
        {
            let message = "--storage-path, --proof and what chooses tables belong to --type database";
            return Err(Failure::refused("usage", message).hint("Leave them out, or back up the database."));
        }
        if self.r#type != BackupType::Logs && (self.since.is_some() || self.until.is_some()) {
            let message = "--since and --until belong to --type logs";
            return Err(Failure::refused("usage", message).hint("Other backups have what is there now."));
        }
        match self.r#type {
            BackupType::Database => Ok(Asked::Database(Export {
                project_id: self.project.clone(),
                format: self.format,
                compression: self.compression,
                storages: self.storage.clone(),
                storage_path: self.storage_path.clone(),
                tables: self.part.tables.clone(),
                exclude_tables: self.part.exclude_tables.clone(),
                exclude_table_data: self.part.exclude_table_data.clone(),
                proof: self.proof,
                expires_at: self.expires_at,
                caption: self.caption.clone(),
                notify_email: self.notify_email.clone(),
                ..Export::default()
            })),
            BackupType::Logs => Ok(Asked::Logs(ExportLogs {
                project_id: self.project.clone(),
                format: self.format,
                date_range: (self.since.is_some() || self.until.is_some())
                    .then_some(DateRange { start: self.since, end: self.until }),
                compression: self.compression,
                storages: self.storage.clone(),
                expires_at: self.expires_at,
                caption: self.caption.clone(),
                notify_email: self.notify_email.clone(),
                ..ExportLogs::default()
            })),
            BackupType::Storage if self.format.is_some_and(|format| format != Format::Tar) => {
                Err(Failure::refused("usage", "a project's files are archived as tar and in no other format"))
            }
            BackupType::Storage => Ok(Asked::Storage(ExportStorage {
                project_id: self.project.clone(),
                compression: self.compression,
                storages: self.storage.clone(),
                expires_at: self.expires_at,
                caption: self.caption.clone(),
                notify_email: self.notify_email.clone(),
                ..ExportStorage::default()
            })),
        }
    }
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    let request = args.request()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let job = request::export(app, &context.caller, request, args.idempotency_key.as_deref()).await?;
        if !args.wait {
            return queued(app, context, &job).await;
        }
        let job = wait::until_final(app, context, job.job_id()).await?;
        let id = backup_of(&job)?;
        let backup = history::get(&app.pool, &context.caller.scope(), id).await?;
        show::print_backup(app, context, &backup).await?;
        wait::failure(&job).map_or(Ok(()), |failure| Err(failure.into()))
    })
    .await
}

fn backup_of(job: &Job) -> anyhow::Result<BackupId> {
    let id = job.payload.get("backup_id").cloned().unwrap_or_default();
    serde_json::from_value(id).map_err(|error| anyhow::anyhow!("job {} names no backup ({error})", job.id))
}

/// Tells of a job that was queued and is not waited for.
pub(super) async fn queued(app: &App, context: &Context, job: &Job) -> anyhow::Result<()> {
    if context.is_json() {
        report::print_json(&json!({
            "job_id": job.id,
            "backup_id": job.payload.get("backup_id"),
            "type": job.r#type,
            "status": job.status,
            "project_id": job.project_id,
            "created_at": job.created_at,
        }))?;
    } else {
        report::print(&format!("queued: job {}\n", job.id))?;
    }
    if !job.is_final() && !queue::has_live_worker(&app.pool, wait::fresh(app)).await? {
        context.warn("no worker is alive: start `holdfast worker` or `holdfast serve`, or use --wait");
    }
    Ok(())
}
