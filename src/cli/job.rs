//! `holdfast job`: the queue.

use std::time::Duration;

use clap::Subcommand;

use super::{Context, open, resolve};
use crate::{
    app::App,
    history,
    ids::JobId,
    jobs::{
        queue::{self, Job, JobFilter, JobStatus},
        request,
    },
    report::{self, Table, fields, instant, instant_and_age, one_line},
};

/// Look at jobs, and cancel them.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List jobs, newest first.
    #[command(after_help = "Examples:
  holdfast job list --status failed
  holdfast job list --project acme --type export_backup --json")]
    List {
        /// Only this project's.
        #[arg(long)]
        project: Option<String>,
        /// Only this type, such as export_backup, restore_backup, undo_restore, verify_backup or delete_backup.
        #[arg(long = "type", value_name = "TYPE")]
        job_type: Option<String>,
        /// Only this status: pending, in_progress, completed, failed or cancelled.
        #[arg(long)]
        status: Option<JobStatus>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
    },
    /// Show one job.
    #[command(after_help = "Example:\n  holdfast job show 0199ab12 --json")]
    Show {
        /// Its id or the unique beginning of it.
        job: String,
    },
    /// Cancel a job: a waiting one ends at once, a running one within seconds.
    #[command(after_help = "Example:\n  holdfast job cancel 0199ab12")]
    Cancel {
        /// Its id or the unique beginning of it.
        job: String,
    },
    /// Print a job's log.
    #[command(after_help = "Examples:
  holdfast job logs 0199ab12
  holdfast job logs 0199ab12 --follow")]
    Logs {
        /// Its id or the unique beginning of it.
        job: String,
        /// Go on until the job has ended. With --json one object a line.
        #[arg(short, long)]
        follow: bool,
    },
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        match args.what {
            What::List { project, job_type, status, limit } => {
                let filter = JobFilter { project_id: project, job_type, status, before: None, limit };
                list(app, context, &filter).await
            }
            What::Show { job } => {
                let id = resolve::job(app, context, &job).await?;
                let job = queue::get(&app.pool, &context.caller.scope(), id).await?;
                print(app, context, &job)
            }
            What::Cancel { job } => {
                let id = resolve::job(app, context, &job).await?;
                let job = request::cancel(app, &context.caller, id).await?;
                if !job.is_final() {
                    context.remark("asked its worker to stop");
                }
                print(app, context, &job)
            }
            What::Logs { job, follow } => {
                let id = resolve::job(app, context, &job).await?;
                logs(app, context, id, follow).await
            }
        }
    })
    .await
}

async fn list(app: &App, context: &Context, filter: &JobFilter) -> anyhow::Result<()> {
    let jobs = queue::list(&app.pool, &context.caller.scope(), filter).await?;
    if context.is_json() {
        return report::print_json(&jobs);
    }
    let now = app.clock.now();
    let mut table = Table::new(&["JOB", "TYPE", "PROJECT", "STATUS", "ATTEMPTS", "CREATED", "MESSAGE"]);
    for job in jobs {
        let message: String = job.error_message.unwrap_or_default().chars().take(80).collect();
        table.row(vec![
            job.id.to_string(),
            job.r#type,
            job.project_id.unwrap_or_default(),
            job.status,
            format!("{}/{}", job.attempts, job.max_attempts),
            instant_and_age(job.created_at, now),
            message,
        ]);
    }
    report::print(&table.render())
}

fn print(app: &App, context: &Context, job: &Job) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(job);
    }
    let now = app.clock.now();
    let progress = job.progress.as_ref().filter(|_| !job.is_final()).map(ToString::to_string);
    let backup = job.payload.get("backup_id").or_else(|| job.payload.pointer("/request/backup_id"));
    report::print(&fields(&[
        ("job", Some(job.id.to_string())),
        ("type", Some(job.r#type.clone())),
        ("project", job.project_id.clone()),
        ("backup", backup.and_then(|id| id.as_str()).map(str::to_owned)),
        ("status", Some(job.status.clone())),
        ("message", job.error_message.clone()),
        ("attempts", Some(format!("{} of {}", job.attempts, job.max_attempts))),
        ("worker", job.lease_owner.clone()),
        ("progress", progress),
        ("asked by", job.created_by.clone()),
        ("created", Some(instant_and_age(job.created_at, now))),
        ("started", job.started_at.map(|at| instant_and_age(at, now))),
        ("finished", job.finished_at.map(|at| instant_and_age(at, now))),
        ("result", job.result.as_ref().map(ToString::to_string)),
    ]))
}

async fn logs(app: &App, context: &Context, id: JobId, follow: bool) -> anyhow::Result<()> {
    let scope = context.caller.scope();
    let mut after = 0;
    loop {
        // Asked before the lines are read: what comes between is then read with the next round.
        let has_ended = queue::get(&app.pool, &scope, id).await?.is_final();
        let lines = history::job_log_lines(&app.pool, id, after).await?;
        after = lines.last().map_or(after, |line| line.id);
        match (context.is_json(), follow) {
            (true, false) => report::print_json(&lines)?,
            (true, true) => {
                lines.iter().try_for_each(|line| report::print(&format!("{}\n", serde_json::json!(line))))?
            }
            (false, _) => lines.iter().try_for_each(|line| {
                report::print(&format!("{}  {:<5}  {}\n", instant(line.at), line.level, one_line(&line.message)))
            })?,
        }
        if has_ended || !follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
