//! What the demonstration stands on: the sample platform's database beside the control plane's, its projects, and settings that fit
//! a sample.

use std::sync::Arc;

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection};

use super::sample::TENANTS;
use crate::{
    app::App,
    catalog::{self, CatalogError, NewProject, ProjectScope},
    db,
    postgres::{
        connect::ConnectInfo,
        inspect,
        tools::{ClientTool, ToolError},
    },
    tenant::Scope,
};

/// The sample platform's database, and its name in the catalogue.
pub const DATABASE: &str = "sample_platform";

/// Seconds after which a run that was killed has lost its job, so that the next run need not wait for long.
const LEASE_SECONDS: u64 = 15;

/// Makes the control plane, the database and the projects, unless an earlier run did.
///
/// # Errors
/// The server refuses, or cannot be reached.
pub async fn prepare(app: &App) -> anyhow::Result<ConnectInfo> {
    db::migrate(&app.pool).await?;
    let mut c = app.control.connect().await.context("cannot reach PostgreSQL")?;
    let made = sqlx::query("CREATE DATABASE sample_platform TEMPLATE template0").execute(&mut c).await;
    c.close().await?;
    match made {
        // 42P04: duplicate_database.
        Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() != Some("42P04") => {
            return Err(error).context("cannot make the sample platform's database");
        }
        _ => {}
    }
    let platform = app.control.with_database(DATABASE);
    let sealed = app.keys.seal_database(DATABASE, &platform)?;
    catalog::add_database(&app.pool, DATABASE, &sealed, &platform.to_string()).await?;
    let scope = Scope::everything("the demonstration enrols its own tenants");
    for tenant in TENANTS {
        match catalog::project(&app.pool, &scope, tenant.project).await {
            Ok(project) => {
                let ours = project.database_name.as_deref() == Some(DATABASE)
                    && project.scope() == ProjectScope::Schema(tenant.schema.to_owned());
                anyhow::ensure!(
                    ours,
                    "there is another project {:?} in this data directory: choose another one with HOLDFAST_DATA_DIR",
                    tenant.project
                );
            }
            Err(CatalogError::NoSuchProject(_)) => {
                let new = NewProject {
                    id: tenant.project.parse()?,
                    name: tenant.name.to_owned(),
                    slug: Some(tenant.project.to_owned()),
                    organization_id: None,
                    scope: ProjectScope::Schema(tenant.schema.to_owned()),
                    database_name: Some(DATABASE.to_owned()),
                };
                catalog::add_project(&app.pool, &new).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(platform)
}

/// Changes this process's settings for the sample. Gives what has to be said about them.
///
/// # Errors
/// There are no client tools for the server, or it cannot be reached.
pub async fn adapt(app: &mut App, c: &mut PgConnection) -> anyhow::Result<Option<String>> {
    let mut config = (*app.config).clone();
    config.worker.lease_seconds = config.worker.lease_seconds.min(LEASE_SECONDS);
    let version = inspect::server_version(c).await?;
    let mut warning = None;
    for tool in [ClientTool::PgDump, ClientTool::Psql, ClientTool::PgRestore] {
        app.tools.client(tool, version)?;
        match app.tools.restore_client(tool, version, config.restore.allow_vulnerable_clients) {
            Ok(_) => {}
            Err(error @ ToolError::Vulnerable { .. }) => {
                config.restore.allow_vulnerable_clients = true;
                warning = Some(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    app.config = Arc::new(config);
    Ok(warning)
}
