//! `holdfast project set`: what a project says about its backups in the place of the configuration.

use std::str::FromStr;

use serde_json::json;

use super::{Context, open};
use crate::{
    byte_size::ByteSize,
    catalog::{self, Project, ProjectChanges},
    manage::projects as manage,
    proof_record::ProofLevel,
    report::{self, fields},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The project's id.
    project: String,
    /// Its name, for people.
    #[arg(long)]
    name: Option<String>,
    /// ACTIVE or INACTIVE: only active projects are backed up.
    #[arg(long)]
    status: Option<String>,
    /// How much is proved when its database is dumped: full, counts or off; default: as backup.proof says.
    #[arg(long, value_name = "LEVEL")]
    proof: Option<OrDefault<ProofLevel>>,
    /// How long its backups are kept; default: as backup.retention_days says.
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<OrDefault<u32>>,
    /// A storage that takes its backups; may be repeated. default: those of backup.storages.
    #[arg(long, value_name = "NAME")]
    storage: Vec<String>,
    /// Largest rate of all uploads of its backups together, a second, such as "20 MiB"; default: as fast as the storages take them.
    #[arg(long, value_name = "RATE")]
    max_rate: Option<OrDefault<ByteSize>>,
}

/// A value, or the word `default`: as configured.
#[derive(Clone, Copy, Debug)]
struct OrDefault<T>(Option<T>);

const DEFAULT: &str = "default";

impl<T: FromStr> FromStr for OrDefault<T> {
    type Err = T::Err;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == DEFAULT { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

/// Changes what is given, or without options shows it.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    let changes = ProjectChanges {
        name: args.name,
        status: args.status,
        proof: args.proof.map(|level| level.0),
        retention_days: args.retention_days.map(|days| days.0),
        storages: (!args.storage.is_empty()).then(|| args.storage.into_iter().filter(|name| name != DEFAULT).collect()),
        max_rate: args.max_rate.map(|rate| rate.0),
        ..ProjectChanges::default()
    };
    let is_change = changes.name.is_some()
        || changes.status.is_some()
        || changes.proof.is_some()
        || changes.retention_days.is_some()
        || changes.storages.is_some()
        || changes.max_rate.is_some();
    open::with(&config, async |opened| {
        let app = &opened.app;
        let project = if is_change {
            manage::change(app, &context.caller, &args.project, changes).await?
        } else {
            catalog::project(&app.pool, &context.caller.scope(), &args.project).await?
        };
        show(context, &project)
    })
    .await
}

fn show(context: &Context, project: &Project) -> anyhow::Result<()> {
    let own = project.own_settings();
    if context.is_json() {
        return report::print_json(&json!({
            "id": project.id, "name": project.name, "status": project.status,
            "proof": own.proof, "retention_days": own.retention_days, "storages": own.storages,
            "max_rate": own.max_rate.map(ByteSize::exact),
        }));
    }
    let configured = || "as configured".to_owned();
    let storages = if own.storages.is_empty() { configured() } else { own.storages.join(", ") };
    report::print(&fields(&[
        ("project", Some(project.id.clone())),
        ("name", Some(project.name.clone())),
        ("status", Some(project.status.clone())),
        ("proof", Some(own.proof.map_or_else(configured, |level| level.to_string()))),
        ("kept", Some(own.retention_days.map_or_else(configured, |days| format!("{days} days")))),
        ("storages", Some(storages)),
        ("largest rate", own.max_rate.map(|rate| format!("{} a second", rate.exact()))),
    ]))
}
