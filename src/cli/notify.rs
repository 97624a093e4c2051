//! `holdfast notify`: whether notices arrive, and those that did not.

use clap::Subcommand;
use uuid::Uuid;

use super::{Context, Exit, Failure, open};
use crate::{
    app::App,
    catalog::{self, ChannelRow},
    history::{self, NoticeRow, NoticeStatus},
    notice::is_email_address,
    notify::Senders,
    report::{self, Table},
    tell::{self, Trial},
};

/// Test, list and retry notices: what is told of backups by e-mail, webhooks and Telegram.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Send a test message at once: to one channel, to one address, or to all that the platform itself has (`notify.operators`, and the
    /// channels of no project and no organisation).
    ///
    /// Exit code 1 when somebody could not be reached.
    #[command(after_help = "Examples:
  holdfast notify test
  holdfast notify test --channel on-call
  holdfast notify test --email ops@example.com --json")]
    Test {
        /// A channel's name or id.
        #[arg(long, value_name = "NAME", conflicts_with = "email")]
        channel: Option<String>,
        /// An e-mail address.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
    },
    /// List notices, newest first: what was sent, what waits, and what was given up and why.
    #[command(after_help = "Examples:
  holdfast notify list
  holdfast notify list --failed --json")]
    List {
        /// Those that were given up.
        #[arg(long, conflicts_with = "pending")]
        failed: bool,
        /// Those that wait.
        #[arg(long)]
        pending: bool,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Let a notice that waits or was given up be sent as soon as possible, by whichever process runs.
    #[command(after_help = "Example:\n  holdfast notify retry 42")]
    Retry {
        /// Its number, as the list has it.
        id: i64,
    },
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    if let What::Test { email: Some(address), .. } = &args.what
        && !is_email_address(address)
    {
        return Err(Failure::refused("request.email", "this is not an e-mail address").into());
    }
    open::with(&config, async |opened| match &args.what {
        What::Test { channel, email } => test(context, &opened.app, channel.as_deref(), email.as_deref()).await,
        What::List { failed, pending, limit } => {
            let status = match (failed, pending) {
                (true, _) => Some(NoticeStatus::Failed),
                (_, true) => Some(NoticeStatus::Pending),
                (false, false) => None,
            };
            list(context, &opened.app, status, *limit).await
        }
        What::Retry { id } => retry(context, &opened.app, *id).await,
    })
    .await
}

async fn test(context: &Context, app: &App, channel: Option<&str>, email: Option<&str>) -> anyhow::Result<()> {
    let senders = Senders::new(&app.config).map_err(|error| Failure::refused("notify.set_up", error.to_string()))?;
    let mut trials = Vec::new();
    match (channel, email) {
        (Some(name), _) => trials.extend(tell::test_channel(app, &senders, &named(context, app, name).await?).await),
        (None, Some(address)) => trials.push(tell::test_email(app, &senders, address).await),
        (None, None) => {
            for address in &app.config.notify.operators {
                trials.push(tell::test_email(app, &senders, address).await);
            }
            for row in platforms(context, app).await? {
                trials.extend(tell::test_channel(app, &senders, &row).await);
            }
            if trials.is_empty() {
                return Err(Failure::refused("notify.nobody", "nobody hears of what happens on this platform")
                    .hint("Set notify.operators and [smtp], or add a channel with `holdfast channel add`.")
                    .into());
            }
        }
    }
    if context.is_json() {
        report::print_json(&trials)?;
    } else {
        report::print(&render(&trials))?;
    }
    match trials.iter().filter(|trial| !trial.good).count() {
        0 => Ok(()),
        failed => {
            let message = format!("{failed} of {} test messages were not taken", trials.len());
            Err(Failure::new(Exit::Unexpected, "notify.not_taken", message).into())
        }
    }
}

fn render(trials: &[Trial]) -> String {
    let mut table = Table::new(&["CHANNEL", "RECIPIENT", "RESULT"]);
    for trial in trials {
        let result = trial.problem.clone().unwrap_or_else(|| "taken".to_owned());
        table.row(vec![trial.channel.clone(), trial.recipient.clone(), result]);
        if let Some(hint) = &trial.hint {
            table.row(vec![String::new(), String::new(), format!("-> {hint}")]);
        }
    }
    table.render()
}

/// The channel of this name or id.
async fn named(context: &Context, app: &App, name: &str) -> anyhow::Result<ChannelRow> {
    if let Ok(id) = Uuid::parse_str(name) {
        return Ok(catalog::channel(&app.pool, &context.caller.scope(), id).await?);
    }
    let mut called = catalog::channels_called(&app.pool, name).await?;
    match (called.pop(), called.is_empty()) {
        (None, _) => {
            let message = format!("there is no channel {:?}", report::one_line(name));
            Err(Failure::new(Exit::NotFound, "channel.not_found", message)
                .hint("`holdfast channel list` has them.")
                .into())
        }
        (Some(row), true) => Ok(row),
        (Some(row), false) => {
            let ids: Vec<String> = called.iter().chain([&row]).map(|row| row.id.to_string()).collect();
            let message = format!("several channels are called {:?}", report::one_line(name));
            Err(Failure::refused("channel.ambiguous", message)
                .hint(format!("Give one's id: {}.", ids.join(", ")))
                .into())
        }
    }
}

/// The channels of no project and no organisation.
async fn platforms(context: &Context, app: &App) -> anyhow::Result<Vec<ChannelRow>> {
    const PAGE: i64 = 500;
    let mut all: Vec<ChannelRow> = Vec::new();
    let mut after = None;
    loop {
        let page = catalog::channels(&app.pool, &context.caller.scope(), None, after, PAGE).await?;
        after = page.last().map(|row| (row.created_at, row.id));
        let is_last = page.len() < PAGE as usize;
        all.extend(page.into_iter().filter(|row| row.project_id.is_none() && row.organization_id.is_none()));
        if is_last {
            return Ok(all);
        }
    }
}

async fn list(context: &Context, app: &App, status: Option<NoticeStatus>, limit: u32) -> anyhow::Result<()> {
    let rows = history::notices(&app.pool, status, i64::from(limit)).await?;
    if context.is_json() {
        return report::print_json(&rows);
    }
    let now = app.clock.now();
    let mut table = Table::new(&["NOTICE", "EVENT", "PROJECT", "CHANNEL", "RECIPIENT", "STATE", "WRITTEN", "REMARK"]);
    for row in rows {
        table.row(vec![
            row.id.to_string(),
            row.event.clone(),
            row.project_id.clone().unwrap_or_default(),
            row.channel.clone(),
            row.recipient.clone(),
            row.status.clone(),
            report::age(row.created_at, now),
            remark(&row, now),
        ]);
    }
    report::print(&table.render())
}

fn remark(row: &NoticeRow, now: chrono::DateTime<chrono::Utc>) -> String {
    let is_pending = row.status == NoticeStatus::Pending.as_str();
    match (&row.last_error, is_pending && row.next_at > now) {
        (Some(error), true) => format!("{error}; tried again {}", report::age(row.next_at, now)),
        (Some(error), false) => error.clone(),
        (None, _) => String::new(),
    }
}

async fn retry(context: &Context, app: &App, id: i64) -> anyhow::Result<()> {
    let now = app.clock.now();
    let give_up_at = now + chrono::Duration::hours(i64::from(app.config.notify.give_up_hours));
    let Some(row) = history::retry_notice(&app.pool, id, now, give_up_at).await? else {
        let message = format!("there is no notice {id} that was not sent");
        return Err(Failure::new(Exit::NotFound, "notice.not_found", message)
            .hint("`holdfast notify list` has them.")
            .into());
    };
    if context.is_json() {
        return report::print_json(&row);
    }
    report::print(&format!("notice {id} to {} will be sent again\n", report::one_line(&row.recipient)))
}
