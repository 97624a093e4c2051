//! `holdfast schedule`: when backups are taken without anyone asking.

use clap::Subcommand;
use serde_json::json;

use super::{Context, Failure, failure::Exit, open};
use crate::{
    app::App,
    artifact::{BackupType, Compression, Format},
    cron::{Cron, Zone},
    report::{self, Table, fields},
    retention::Rules,
    schedule::{self, Changes, DEFAULT_ID, NewSchedule, Schedule, SchedulePage, Target},
};

/// Add, list, look at, change and remove schedules.
///
/// Every project without a schedule of its own is backed up by the configuration's, daily at 02:00 unless `schedules.schedule_default` says
/// otherwise.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List schedules, newest first.
    #[command(after_help = "Examples:
  holdfast schedule list
  holdfast schedule list --project acme --json")]
    List {
        /// Only those for this project alone.
        #[arg(long, value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Add a schedule: for one project, all of an organisation, or all whose name matches a pattern.
    ///
    /// Projects that are added later are covered as well.
    #[command(after_help = "Examples:
  holdfast schedule add '30 3 * * *' --project acme --zone Europe/Berlin
  holdfast schedule add '0 */6 * * *' --pattern 'gold-*' --days 14 --keep-monthly 12
  holdfast schedule add '0 1 * * SUN' --organization o-acme --format custom --storage s3-main")]
    Add(Add),
    /// Look at a schedule: its next times and newest runs.
    #[command(after_help = "Example:\n  holdfast schedule show 0199ab12")]
    Show {
        /// Its id, the beginning of it, or its name.
        schedule: String,
    },
    /// Change a schedule. What is not named stays.
    #[command(after_help = "Examples:
  holdfast schedule change 0199ab12 --cron '0 4 * * *'
  holdfast schedule change nightly --disable")]
    Change(Change),
    /// Remove a schedule. The backups that it has taken stay as long as its retention says.
    #[command(after_help = "Example:\n  holdfast schedule remove 0199ab12")]
    Remove {
        /// Its id, the beginning of it, or its name.
        schedule: String,
    },
    /// Say what an expression means, and when it runs next.
    #[command(after_help = "Examples:
  holdfast schedule next '30 2 * * *' --zone Europe/Berlin
  holdfast schedule next '0 2 L * *' --count 12 --json")]
    Next {
        /// Five fields: minute, hour, day of month, month, day of week.
        cron: String,
        /// A time zone, such as Europe/Berlin [default: that of the setting schedules.zone].
        #[arg(long)]
        zone: Option<String>,
        /// How many times.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        count: u16,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Five fields: minute, hour, day of month, month, day of week.
    cron: String,
    /// A time zone, such as Europe/Berlin [default: that of the setting schedules.zone].
    #[arg(long)]
    zone: Option<String>,
    /// What it is for.
    #[arg(long, default_value = "")]
    name: String,
    /// The one project that it covers.
    #[arg(long, value_name = "PROJECT", conflicts_with_all = ["organization", "pattern"], required_unless_present_any = ["organization", "pattern"])]
    project: Option<String>,
    /// Every project of this organisation.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// Every project whose name or id matches: * is anything, ? one character.
    #[arg(long)]
    pattern: Option<String>,
    /// database, logs or storage.
    #[arg(long = "type", value_name = "TYPE", default_value = "database")]
    backup_type: BackupType,
    #[command(flatten)]
    how: How,
    /// Add it, but do not begin.
    #[arg(long)]
    disabled: bool,
}

#[derive(Debug, clap::Args)]
struct How {
    /// sql, tar or custom [default: the setting backup.format].
    #[arg(long)]
    format: Option<Format>,
    /// gzip, zstd or none [default: the setting backup.compression].
    #[arg(long)]
    compression: Option<Compression>,
    /// A storage that takes it; may be repeated [default: those of the setting backup.storages].
    #[arg(long = "storage", value_name = "NAME")]
    storages: Vec<String>,
    /// Minutes over which its projects are spread [default: the setting schedules.jitter_minutes].
    #[arg(long, value_name = "MINUTES")]
    jitter: Option<u32>,
    /// Keep what it takes for this many days. With any rule given, the configuration's do not apply.
    #[arg(long)]
    days: Option<u32>,
    /// Keep this many of the newest.
    #[arg(long, value_name = "COUNT")]
    keep_last: Option<u32>,
    /// Keep the newest of each of this many days.
    #[arg(long, value_name = "COUNT")]
    keep_daily: Option<u32>,
    /// Keep the newest of each of this many weeks.
    #[arg(long, value_name = "COUNT")]
    keep_weekly: Option<u32>,
    /// Keep the newest of each of this many months.
    #[arg(long, value_name = "COUNT")]
    keep_monthly: Option<u32>,
    /// Keep the newest of each of this many years.
    #[arg(long, value_name = "COUNT")]
    keep_yearly: Option<u32>,
}

impl How {
    fn rules(&self) -> Option<Rules> {
        let rules = Rules {
            days: self.days,
            keep_last: self.keep_last,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
        };
        (!rules.is_empty()).then_some(rules)
    }
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Its id, the beginning of it, or its name.
    schedule: String,
    /// Five fields: minute, hour, day of month, month, day of week.
    #[arg(long)]
    cron: Option<String>,
    /// A time zone, such as Europe/Berlin.
    #[arg(long)]
    zone: Option<String>,
    /// What it is for.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    how: How,
    /// Begin, or begin again.
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Take no backups until it is enabled again.
    #[arg(long)]
    disable: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        match args.what {
            What::List { project } => list(app, context, project.as_deref()).await,
            What::Add(args) => add(app, context, args).await,
            What::Show { schedule } => {
                let schedule = find(app, context, &schedule).await?;
                show(app, context, &schedule).await
            }
            What::Change(args) => change(app, context, args).await,
            What::Remove { schedule } => {
                let schedule = find(app, context, &schedule).await?;
                tell(context, &schedule::remove(app, &context.caller, schedule.id).await?, "removed")
            }
            What::Next { cron, zone, count } => next(app, context, &cron, zone.as_deref(), count.into()),
        }
    })
    .await
}

async fn all(app: &App, context: &Context, project: Option<&str>) -> anyhow::Result<Vec<Schedule>> {
    const PAGE: i64 = 500;
    let mut all: Vec<Schedule> = Vec::new();
    loop {
        let before = all.last().map(|row| (row.created_at, row.id));
        let page = schedule::list(app, &context.caller, project, SchedulePage { before, limit: PAGE }).await?;
        let is_last = (page.len() as i64) < PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// The one schedule with this id, beginning of an id, or name.
async fn find(app: &App, context: &Context, named: &str) -> anyhow::Result<Schedule> {
    let is_it = |row: &Schedule| {
        row.name == named || (named.len() >= 4 && row.id.to_string().starts_with(&named.to_ascii_lowercase()))
    };
    let mut found: Vec<Schedule> = all(app, context, None).await?.into_iter().filter(is_it).collect();
    match (found.pop(), found.is_empty()) {
        (Some(row), true) => Ok(row),
        (Some(_), false) => {
            Err(Failure::refused("schedule.ambiguous", format!("several schedules are called {named:?}"))
                .hint("Give the id in full: `holdfast schedule list --json` shows it.")
                .into())
        }
        (None, _) => Err(Failure::new(Exit::NotFound, "schedule.not_found", format!("there is no schedule {named:?}"))
            .hint("`holdfast schedule list` shows what there is.")
            .into()),
    }
}

async fn list(app: &App, context: &Context, project: Option<&str>) -> anyhow::Result<()> {
    let rows = all(app, context, project).await?;
    if context.is_json() {
        return report::print_json(&rows);
    }
    let mut table = Table::new(&["ID", "NAME", "COVERS", "TYPE", "CRON", "ZONE", "NEXT", "STATE"]);
    for row in rows {
        let next = row.next_slot.filter(|_| row.enabled).map_or_else(String::new, report::instant);
        let state = if row.enabled { "enabled" } else { "disabled" }.to_owned();
        table.row(vec![
            row.id.to_string(),
            row.name.clone(),
            covers(&row),
            row.r#type,
            row.cron,
            row.zone,
            next,
            state,
        ]);
    }
    report::print(&table.render())
}

/// Whom a schedule covers, in words.
fn covers(row: &Schedule) -> String {
    match (&row.project_id, &row.organization_id, &row.name_pattern) {
        _ if row.id == DEFAULT_ID => "projects without their own".to_owned(),
        (Some(project), ..) => format!("project {project}"),
        (None, Some(organization), Some(pattern)) => format!("{pattern} of organisation {organization}"),
        (None, Some(organization), None) => format!("organisation {organization}"),
        (None, None, Some(pattern)) => format!("projects {pattern}"),
        (None, None, None) => "nothing".to_owned(),
    }
}

async fn add(app: &App, context: &Context, args: Add) -> anyhow::Result<()> {
    let new = NewSchedule {
        name: args.name,
        target: Target { project_id: args.project, organization_id: args.organization, name_pattern: args.pattern },
        backup_type: args.backup_type,
        cron: args.cron,
        zone: args.zone,
        format: args.how.format,
        compression: args.how.compression,
        retention: args.how.rules(),
        storages: args.how.storages,
        jitter_minutes: args.how.jitter,
        enabled: !args.disabled,
    };
    tell(context, &schedule::add(app, &context.caller, new).await?, "added")
}

async fn change(app: &App, context: &Context, args: Change) -> anyhow::Result<()> {
    let row = find(app, context, &args.schedule).await?;
    let changes = Changes {
        name: args.name,
        cron: args.cron,
        zone: args.zone,
        format: args.how.format.map(Some),
        compression: args.how.compression.map(Some),
        retention: args.how.rules().map(Some),
        storages: (!args.how.storages.is_empty()).then_some(args.how.storages),
        jitter_minutes: args.how.jitter.map(Some),
        enabled: match (args.enable, args.disable) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        },
    };
    tell(context, &schedule::change(app, &context.caller, row.id, changes).await?, "changed")
}

fn tell(context: &Context, row: &Schedule, done: &str) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(row);
    }
    report::print(&format!(
        "{done} schedule {}: {} {} for {}\n",
        row.id,
        row.cron,
        row.zone,
        report::one_line(&covers(row))
    ))
}

async fn show(app: &App, context: &Context, row: &Schedule) -> anyhow::Result<()> {
    let (cron, zone) = schedule::preview(app, &row.cron, Some(&row.zone))?;
    let runs = schedule::runs_of(&app.pool, row.id, 20).await?;
    let next = if row.enabled { cron.upcoming(&zone, app.clock.now(), 5) } else { Vec::new() };
    if context.is_json() {
        let mut shown = serde_json::to_value(row)?;
        shown["description"] = json!(cron.describe());
        shown["next_runs"] = json!(next);
        shown["runs"] = json!(runs);
        return report::print_json(&shown);
    }
    let retention = row.retention.as_ref().map(ToString::to_string);
    report::print(&fields(&[
        ("schedule", Some(row.id.to_string())),
        ("name", Some(row.name.clone()).filter(|name| !name.is_empty())),
        ("covers", Some(covers(row))),
        ("type", Some(row.r#type.clone())),
        ("times", Some(format!("{} {} ({})", row.cron, row.zone, cron.describe()))),
        ("format", row.format.clone()),
        ("compression", row.compression.clone()),
        ("storages", Some(row.storages.join(", ")).filter(|names| !names.is_empty())),
        ("retention", retention),
        ("state", Some(if row.enabled { "enabled" } else { "disabled" }.to_owned())),
    ]))?;
    report::print(&format!("\n{}", times(&zone, &next)))?;
    if runs.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["SLOT", "PROJECT", "BEGINS", "STATUS", "JOB", "MESSAGE"]);
    for run in runs {
        table.row(vec![
            zone.show(run.slot),
            run.project_id,
            report::instant(run.due_at),
            run.status,
            run.job_id.map(|id| id.to_string()).unwrap_or_default(),
            run.message.unwrap_or_default(),
        ]);
    }
    report::print(&format!("\n{}", table.render()))
}

fn times(zone: &Zone, next: &[crate::clock::Timestamp]) -> String {
    let mut table = Table::new(&["NEXT", "UTC"]);
    for at in next {
        table.row(vec![zone.show(*at), report::instant(*at)]);
    }
    table.render()
}

fn next(app: &App, context: &Context, cron: &str, zone: Option<&str>, count: usize) -> anyhow::Result<()> {
    let (cron, zone): (Cron, Zone) = schedule::preview(app, cron, zone)?;
    let next = cron.upcoming(&zone, app.clock.now(), count);
    if context.is_json() {
        let runs: Vec<_> = next.iter().map(|at| json!({ "at": at, "local": zone.show(*at) })).collect();
        return report::print_json(&json!({
            "cron": cron.to_string(), "zone": zone.to_string(), "description": cron.describe(), "next_runs": runs,
        }));
    }
    report::print(&format!("{}\n\n{}", cron.describe(), times(&zone, &next)))
}
