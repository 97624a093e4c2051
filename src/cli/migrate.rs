//! `holdfast migrate`: brings the control plane to this version's shape.

use serde_json::json;

use super::{Context, Exit, Failure, open};
use crate::{
    config::Config,
    db,
    postgres::{connect::ConnectInfo, embedded, tools::Tools},
    report,
};

/// Make or renew Holdfast's tables in the control plane.
///
/// Tables that a platform has already are adopted: first compared, then only added to. When they do not fit, nothing is changed and
/// the statements that would make them fit are printed. May be run again; other processes may go on running.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  DATABASE_URL=postgres://holdfast@db/app holdfast migrate
  holdfast migrate --check                    only say whether anything is missing (exit code 5 if so)")]
pub struct Args {
    /// Change nothing; end with 5 when migrations are missing.
    #[arg(long)]
    check: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    if args.check {
        return check(context, &config).await;
    }
    let opened = open::open_with(&config, open::Migrations::Ignored).await?;
    let outcome = async {
        let pending = db::pending(&opened.app.pool).await?;
        db::migrate(&opened.app.pool).await?;
        anyhow::Ok(pending)
    }
    .await;
    opened.close().await;
    tell(context, outcome?)
}

/// Says whether anything is missing, and changes nothing: neither keys nor an embedded PostgreSQL are made. One that is
/// there is started when it is down.
async fn check(context: &Context, config: &Config) -> anyhow::Result<()> {
    if config.database.url.is_none() && !embedded::is_made(&config.data_dir) {
        let message = format!("there is no embedded PostgreSQL in {} yet", config.data_dir.display());
        return Err(Failure::new(Exit::ControlPlane, "control_plane.not_migrated", message)
            .hint("The first start makes and migrates it; set DATABASE_URL to use a server that is there.")
            .into());
    }
    let (cluster, control) = match open::configured(config)? {
        Some(control) => (None, control),
        None => {
            let cluster = open::start_embedded(config, &Tools::discover(&config.tools).await).await?;
            let control = cluster.connect_info(open::EMBEDDED_DATABASE);
            (Some(cluster), control)
        }
    };
    let is_embedded = cluster.is_some();
    let pending = pending(config, &control).await;
    if let Some(cluster) = cluster {
        cluster.close().await?;
    }
    match pending? {
        0 => tell(context, 0),
        pending => {
            let plural = if pending == 1 { "migration is" } else { "migrations are" };
            let hint = if is_embedded { "The next start applies them." } else { "Run `holdfast migrate`." };
            let message = format!("the control plane at {control} is not migrated: {pending} {plural} missing");
            Err(Failure::new(Exit::ControlPlane, "control_plane.not_migrated", message).hint(hint).into())
        }
    }
}

async fn pending(config: &Config, control: &ConnectInfo) -> anyhow::Result<usize> {
    // First: the pool tries for long before it says that a connection is refused.
    open::server_version(control).await?;
    let pool = db::connect(control, &config.database).await?;
    let pending = db::pending(&pool).await;
    pool.close().await;
    Ok(pending?)
}

fn tell(context: &Context, applied: usize) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(&json!({ "applied": applied }));
    }
    match applied {
        0 => report::print("the control plane is up to date\n"),
        1 => report::print("applied 1 migration\n"),
        n => report::print(&format!("applied {n} migrations\n")),
    }
}
