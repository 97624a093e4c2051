//! `holdfast channel`: where notices go.

use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{Context, open, settings_file::SettingsFile};
use crate::{
    app::App,
    catalog::NoticeEvent,
    manage::{
        Mode,
        channels::{self, NewChannel, ShownChannel},
    },
    report::{self, Table},
};

/// Add, list and remove notice channels: e-mail, webhooks and Telegram chats that hear of backups.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add a channel. Its settings are stored encrypted.
    ///
    /// Settings come from a file or standard input, as TOML or JSON: `type = "email"` with `to`; `type = "webhook"` with `url` and `secret`;
    /// `type = "telegram"` with `bot_token` and `chat_id`. Without --project and --organization it hears of every project.
    #[command(after_help = "Examples:
  holdfast channel add on-call --settings /run/secrets/on-call.toml --event failed --event stale
  echo '{\"type\": \"email\", \"to\": [\"ops@example.com\"]}' | holdfast channel add ops --project acme --settings -")]
    Add(Add),
    /// List channels.
    #[command(after_help = "Example:\n  holdfast channel list --json")]
    List,
    /// Remove a channel.
    #[command(after_help = "Examples:
  holdfast channel remove 0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa --dry-run
  holdfast channel remove 0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa")]
    Remove {
        /// Its id, as the list has it.
        id: Uuid,
        /// Check everything, write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Its name, for people.
    name: String,
    #[command(flatten)]
    settings: SettingsFile,
    /// It hears of this project alone.
    #[arg(long, value_name = "ID", conflicts_with = "organization")]
    project: Option<String>,
    /// It hears of this organisation's projects.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// What it hears of; may be repeated [default: everything].
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<NoticeEvent>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let settings = match &args.what {
        What::Add(add) => Some(add.settings.read()?),
        What::List | What::Remove { .. } => None,
    };
    let config = context.config_and_log()?;
    open::with(&config, async |opened| match (&args.what, &settings) {
        (What::Add(add), Some(settings)) => {
            let new = NewChannel {
                name: add.name.clone(),
                project_id: add.project.clone(),
                organization_id: add.organization.clone(),
                events: add.events.clone(),
                enabled: true,
                settings: settings.clone(),
            };
            let channel = channels::add(&opened.app, &context.caller, new).await?;
            if context.is_json() {
                return report::print_json(&channel);
            }
            report::print(&format!("added channel {} ({})\n", report::one_line(&channel.name), channel.id))
        }
        (What::Remove { id, dry_run }, _) => remove(context, &opened.app, *id, *dry_run).await,
        (What::List | What::Add(_), _) => list(context, &opened.app).await,
    })
    .await
}

async fn list(context: &Context, app: &App) -> anyhow::Result<()> {
    const PAGE: usize = 500;
    let mut all: Vec<ShownChannel> = Vec::new();
    loop {
        let after = all.last().map(|channel| (channel.created_at, channel.id));
        let page = channels::list(app, &context.caller, None, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            break;
        }
    }
    if context.is_json() {
        return report::print_json(&all);
    }
    let mut table = Table::new(&["CHANNEL", "NAME", "TYPE", "OF", "EVENTS", "STATE"]);
    for channel in all {
        let of = match (channel.project_id, channel.organization_id) {
            (Some(project), _) => format!("project {project}"),
            (None, Some(organization)) => format!("organisation {organization}"),
            (None, None) => "everything".to_owned(),
        };
        let events = if channel.events.is_empty() { "all".to_owned() } else { channel.events.join(" ") };
        let state = if channel.enabled { "enabled" } else { "disabled" }.to_owned();
        table.row(vec![channel.id.to_string(), channel.name, channel.r#type, of, events, state]);
    }
    report::print(&table.render())
}

async fn remove(context: &Context, app: &App, id: Uuid, dry_run: bool) -> anyhow::Result<()> {
    channels::delete(app, &context.caller, id, if dry_run { Mode::DryRun } else { Mode::Real }).await?;
    if context.is_json() {
        return report::print_json(&json!({ "channel": id, "removed": !dry_run, "dry_run": dry_run }));
    }
    let done = if dry_run { "would remove" } else { "removed" };
    report::print(&format!("{done} channel {id}\n"))
}
