//! `holdfast retention`: what is kept and what goes, and why.

use clap::Subcommand;

use super::{Context, Failure, open};
use crate::{
    app::App,
    byte_size::ByteSize,
    catalog,
    jobs::apply_retention::{self, Applied, Plan},
    report::{self, Table, one_line},
    retention::Action,
};

/// Show what would be deleted and why, and delete it.
///
/// `serve` and `worker` do so by themselves once a day.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show every backup with keep or delete, and the reason. Nothing is done.
    #[command(after_help = "Examples:
  holdfast retention plan
  holdfast retention plan --project acme --json")]
    Plan(Whose),
    /// Delete what the plan deletes, and write down until when the others are kept.
    ///
    /// Each deletion is a job, tried until every storage has confirmed it. With --plan, only when the plan is still the one that was shown:
    /// else nothing is done and the exit code is 2. A backup that changes meanwhile is left alone and named.
    #[command(after_help = "Examples:
  holdfast retention apply --dry-run
  holdfast retention apply --confirm
  holdfast retention apply --project acme --plan 5feceb66ffc86f38d952786c6d696c79 --confirm")]
    Apply {
        #[command(flatten)]
        whose: Whose,
        /// The digest of the plan that was looked at.
        #[arg(long, value_name = "DIGEST")]
        plan: Option<String>,
        /// Really do it.
        #[arg(long)]
        confirm: bool,
        /// Only show the plan.
        #[arg(long, conflicts_with = "confirm")]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Whose {
    /// Only this project.
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| match args.what {
        What::Plan(whose) => show(context, &plan(&opened.app, context, &whose).await?),
        What::Apply { whose, plan: expected, confirm, dry_run } => {
            let plan = plan(&opened.app, context, &whose).await?;
            if dry_run {
                return show(context, &plan);
            }
            if let Some(expected) = expected
                && !expected.eq_ignore_ascii_case(&plan.digest)
            {
                let message = format!("the plan has changed: it is {} now, not {}", plan.digest, one_line(&expected));
                return Err(Failure::refused("retention.plan_changed", message)
                    .hint("Look at it again with `holdfast retention plan`.")
                    .into());
            }
            if !confirm {
                let message = format!("nothing was done: {} backups would be deleted", plan.deletes);
                return Err(Failure::refused("retention.not_confirmed", message)
                    .hint("Give --confirm to delete them, or --dry-run to see them.")
                    .into());
            }
            tell(context, &apply_retention::apply(&opened.app, &context.caller, &plan).await?)
        }
    })
    .await
}

async fn plan(app: &App, context: &Context, whose: &Whose) -> anyhow::Result<Plan> {
    let scope = context.caller.scope();
    if let Some(project) = &whose.project {
        catalog::project(&app.pool, &scope, project).await?;
    }
    Ok(apply_retention::whole_plan(app, &scope, whose.project.as_deref()).await?)
}

fn show(context: &Context, plan: &Plan) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(plan);
    }
    let mut table = Table::new(&["", "PROJECT", "TYPE", "BACKUP", "TAKEN", "SIZE", "STATUS", "BECAUSE"]);
    for backup in &plan.backups {
        let action = match backup.action {
            Action::Keep => "keep",
            Action::Delete => "delete",
        };
        table.row(vec![
            action.to_owned(),
            backup.project_id.clone(),
            backup.r#type.clone(),
            backup.backup_id.to_string(),
            report::instant(backup.created_at),
            ByteSize(backup.size.unsigned_abs()).to_string(),
            backup.status.clone(),
            backup.because.join("; "),
        ]);
    }
    let kept = plan.backups.len() - plan.deletes;
    report::print(&format!("{}\n{kept} kept, {} deleted; plan {}\n", table.render(), plan.deletes, plan.digest))
}

fn tell(context: &Context, applied: &Applied) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(applied);
    }
    for skipped in &applied.skipped {
        report::print(&format!(
            "left alone: backup {} of {}: {}\n",
            skipped.backup_id, skipped.project_id, skipped.because
        ))?;
    }
    for deleting in &applied.deleting {
        report::print(&format!(
            "deleting: backup {} of {}, job {}\n",
            deleting.backup_id, deleting.project_id, deleting.job_id
        ))?;
    }
    report::print(&format!(
        "{} are being deleted, {} were left alone, {} have another date\n",
        applied.deleting.len(),
        applied.skipped.len(),
        applied.redated
    ))
}
