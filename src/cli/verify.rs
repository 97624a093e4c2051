//! `holdfast verify`: proves a backup.

use serde_json::json;

use super::{Context, Exit, Failure, open, resolve, restore, wait};
use crate::{
    app::App,
    history::{self, Backup, BackupStatus},
    jobs::{
        queue::Job,
        request::{self, Depth, VerifyRequest},
    },
    report::{self, fields, instant_and_age},
};

/// Check a backup, and wait for the answer.
///
/// head: every copy's size, as its storage tells it, is compared with the recorded one, and the seal of the manifest beside it is checked; no byte of the backup is
/// read. read: every byte is decrypted and decompressed, and the dump's digest compared.
/// restore: it is restored into a scratch database and compared with its proof, and the time is taken. Exit code 6 when damage or differences were
/// found, 4 when the check itself could not be done.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast verify latest:acme --depth head
  holdfast verify 0199ab12 --depth restore --json")]
pub struct Args {
    /// An id, its unique beginning, or latest:PROJECT.
    backup: String,
    /// head, read or restore.
    #[arg(long, default_value = "read")]
    depth: Depth,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// It always waits.
    #[arg(long, hide = true)]
    wait: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let backup = resolve::backup(app, context, &args.backup).await?;
        let request = VerifyRequest { backup_id: backup.backup_id(), depth: args.depth };
        let job = request::verify(app, &context.caller, &request, args.idempotency_key.as_deref()).await?;
        let job = wait::until_final(app, context, job.job_id()).await?;
        let backup = history::get(&app.pool, &context.caller.scope(), backup.backup_id()).await?;
        outcome(app, context, args.depth, &job, &backup).await
    })
    .await
}

async fn outcome(app: &App, context: &Context, depth: Depth, job: &Job, backup: &Backup) -> anyhow::Result<()> {
    let differences = restore::differences(job, None);
    let copies = history::copies(&app.pool, &[backup.id]).await?;
    // What this job found: a bad copy may have been made good since.
    let mut damaged = of_copies(job, |good| good.as_bool() == Some(false));
    for copy in copies.iter().filter(|copy| copy.status == "damaged") {
        if !damaged.contains(&copy.storage.as_str()) {
            damaged.push(&copy.storage);
        }
    }
    let is_damaged = backup.is(BackupStatus::Damaged) || !damaged.is_empty();
    let completed = wait::failure(job).is_none();
    let is_good = completed && !is_damaged && (differences.is_empty() || restore::is_nothing_known(&differences));
    if context.is_json() {
        report::print_json(&json!({
            "job_id": job.id,
            "backup_id": backup.id,
            "project_id": backup.project_id,
            "depth": depth,
            "status": job.status,
            "good": is_good,
            "backup_status": backup.status,
            "differences": differences,
            "copies": copies,
            "verified_at": backup.verified_at,
            "verified_depth": backup.verified_depth,
            "result": job.result,
            "error_message": job.error_message,
        }))?;
    } else {
        let now = app.clock.now();
        let seconds = restore::of_result(job, "restore_seconds").and_then(serde_json::Value::as_f64);
        report::print(&fields(&[
            ("backup", Some(backup.id.to_string())),
            ("depth", Some(depth.to_string())),
            ("result", Some(if is_good { "good" } else { "not good" }.to_owned())),
            ("status", Some(backup.status.clone())),
            ("restored in", seconds.map(|seconds| format!("{seconds:.1} seconds"))),
            ("verified", backup.verified_at.map(|at| instant_and_age(at, now))),
            ("not read", not_read(job)),
        ]))?;
    }
    if is_damaged {
        let why = job.error_message.clone().or_else(|| backup.message.clone()).unwrap_or_else(|| {
            if damaged.is_empty() { "the bytes are not those that were stored".to_owned() } else { damaged.join(", ") }
        });
        return Err(Failure::new(Exit::Damage, "backup.damaged", format!("backup {} is damaged: {why}", backup.id))
            .hint("Take a fresh backup now, and look at the storage.")
            .into());
    }
    if let Some(failure) = wait::failure(job) {
        return Err(failure.into());
    }
    if differences.is_empty() || restore::nothing_compared(context, &differences) {
        return Ok(());
    }
    let named: Vec<&str> = differences.iter().take(10).filter_map(serde_json::Value::as_str).collect();
    let more = if differences.len() > 10 { format!(" and {} more", differences.len() - 10) } else { String::new() };
    let count = differences.len();
    let message =
        format!("the restored backup differs from what was dumped in {count} places: {}{more}", named.join("; "));
    Err(Failure::new(Exit::Damage, "verify.differences", message).hint("`--json` lists them.").into())
}

/// The storages of whose copies the job's result says this.
fn of_copies(job: &Job, says: impl Fn(&serde_json::Value) -> bool) -> Vec<&str> {
    let copies = restore::of_result(job, "copies").and_then(serde_json::Value::as_array).map_or(&[][..], Vec::as_slice);
    copies.iter().filter(|copy| says(&copy["good"])).filter_map(|copy| copy["storage"].as_str()).collect()
}

/// The storages whose bytes could not be read, so that nothing is known of their copies.
fn not_read(job: &Job) -> Option<String> {
    Some(of_copies(job, serde_json::Value::is_null).join(", ")).filter(|names| !names.is_empty())
}
