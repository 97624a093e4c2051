//! `holdfast list`: the history.

use super::{Context, open};
use crate::{
    artifact::BackupType,
    byte_size::ByteSize,
    catalog,
    history::{self, Backup, BackupFilter, BackupStatus},
    report::{self, Table, age, instant, instant_and_age},
};

/// List backups, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast list
  holdfast list acme --status completed --json
  holdfast list --type database --limit 200")]
pub struct Args {
    /// Only this project's.
    project: Option<String>,
    /// Only this type: database, storage or logs.
    #[arg(long = "type", value_name = "TYPE")]
    backup_type: Option<BackupType>,
    /// Only this status: pending, in_progress, completed, failed, cancelled, expired, deleted or damaged.
    #[arg(long)]
    status: Option<BackupStatus>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let (app, scope) = (&opened.app, context.caller.scope());
        if let Some(project) = &args.project {
            // An unknown project is an error, not an empty list.
            catalog::project(&app.pool, &scope, project).await?;
        }
        let filter = BackupFilter {
            project_id: args.project,
            backup_type: args.backup_type,
            status: args.status,
            limit: args.limit,
            ..BackupFilter::default()
        };
        let backups = history::list(&app.pool, &scope, &filter).await?;
        if context.is_json() {
            return report::print_json(&backups);
        }
        let now = app.clock.now();
        let mut table = Table::new(&["BACKUP", "PROJECT", "TYPE", "STATUS", "SIZE", "CREATED", "EXPIRES", "VERIFIED"]);
        for backup in backups {
            let size = if backup.size > 0 { ByteSize(backup.size.unsigned_abs()).to_string() } else { String::new() };
            table.row(vec![
                backup.id.to_string(),
                backup.project_id.clone(),
                backup.r#type.clone(),
                status(&backup),
                size,
                instant_and_age(backup.created_at, now),
                backup.expires_at.map(|at| age(at, now)).unwrap_or_default(),
                backup.verified_at.map(instant).unwrap_or_default(),
            ]);
        }
        report::print(&table.render())
    })
    .await
}

/// The status, and what else sets the backup apart: a pin, that it is partial, and how many of the copies that were asked for are missing.
fn status(backup: &Backup) -> String {
    let missing = match backup.copies_missing {
        0 => None,
        1 => Some("1 copy missing".to_owned()),
        missing => Some(format!("{missing} copies missing")),
    };
    let partial = backup.is_partial.then(|| "partial".to_owned());
    let pinned = backup.pinned.then(|| "pinned".to_owned());
    [Some(backup.status.clone()), partial, pinned, missing].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
