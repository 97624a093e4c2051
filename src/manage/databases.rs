//! Databases beside the control plane's own: their URLs go in and never come out again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::Connection;

use super::{Mode, record, require_operator};
use crate::{
    app::App,
    catalog::{self, DatabaseUse, ManageError, Managed},
    db,
    ids::CONTROL_PLANE_PROJECT,
    postgres::{
        connect::ConnectInfo,
        inspect, rights,
        tools::{ClientTool, display_version},
    },
    tenant::{Caller, Permission},
};

/// Longest wait for a database's answers in a test. Below the limit of a request.
const LIMIT: Duration = Duration::from_secs(15);

/// A database as it may be shown: without its URL.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ShownDatabase {
    #[schema(example = "warehouse")]
    pub name: String,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub database: Option<String>,
    pub user: Option<String>,
    /// How many projects live in it.
    pub projects: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<DatabaseUse> for ShownDatabase {
    fn from(row: DatabaseUse) -> Self {
        // A URL without a password; rows of older versions may have none.
        let info: Option<ConnectInfo> = row.shown_as.parse().ok();
        let DatabaseUse { name, projects, created_at, updated_at, .. } = row;
        Self {
            name,
            host: info.as_ref().map(|info| info.host.clone()),
            port: info.as_ref().map(|info| info.port),
            database: info.as_ref().map(|info| info.database.clone()),
            user: info.map(|info| info.user),
            projects,
            created_at,
            updated_at,
        }
    }
}

/// What a test has shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct DatabaseTest {
    pub database: String,
    /// Backups and restores will work, as far as server, programs and the role's rights go.
    pub good: bool,
    /// Of the server.
    pub version: Option<String>,
    pub role: Option<String>,
    /// Whether no table and no row is hidden from the role.
    pub sees_everything: Option<bool>,
    /// Rights without which not everything can be restored.
    pub missing_for_restores: Vec<String>,
    pub problems: Vec<String>,
}

/// Databases after this name, by name.
pub async fn list(
    app: &App,
    caller: &Caller,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ShownDatabase>, ManageError> {
    require_operator(caller, Permission::Read)?;
    let rows = catalog::database_page(&app.pool, after, limit.cast_signed() as i64).await?;
    Ok(rows.into_iter().map(ShownDatabase::from).collect())
}

/// One database.
pub async fn show(app: &App, caller: &Caller, name: &str) -> Result<ShownDatabase, ManageError> {
    require_operator(caller, Permission::Read)?;
    Ok(catalog::database_use(&app.pool, name).await?.into())
}

/// Reads a URL as it was given. The error never repeats it.
pub fn parse_url(url: &str) -> Result<ConnectInfo, ManageError> {
    url.parse().map_err(|error: crate::postgres::connect::InvalidUrl| {
        ManageError::invalid("request.url", format!("url: {error}"))
    })
}

fn detail(name: &str, info: &ConnectInfo) -> serde_json::Value {
    json!({ "database": name, "at": info.to_string() })
}

/// Adds a database. Nothing is connected to: [`test()`] does that.
pub async fn add(app: &App, caller: &Caller, name: &str, info: &ConnectInfo) -> Result<ShownDatabase, ManageError> {
    require_operator(caller, Permission::Write)?;
    if !catalog::is_plain_name(name, 63) {
        return Err(ManageError::invalid(
            "request.name",
            "name: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        ));
    }
    if name == CONTROL_PLANE_PROJECT {
        return Err(ManageError::invalid("request.name", format!("name: {name:?} is Holdfast's own database")));
    }
    let sealed = app.keys.seal_database(name, info)?;
    let mut transaction = db::begin(&app.pool).await?;
    catalog::insert_database(&mut *transaction, name, &sealed, &info.to_string()).await?;
    record(&mut transaction, caller, "database_added", None, detail(name, info)).await?;
    transaction.commit().await?;
    Ok(catalog::database_use(&app.pool, name).await?.into())
}

/// Gives a database another URL: another password, another address of the same database.
pub async fn change(app: &App, caller: &Caller, name: &str, info: &ConnectInfo) -> Result<ShownDatabase, ManageError> {
    require_operator(caller, Permission::Write)?;
    let sealed = app.keys.seal_database(name, info)?;
    let mut transaction = db::begin(&app.pool).await?;
    catalog::lock_database(&mut *transaction, name).await?;
    catalog::add_database(&mut *transaction, name, &sealed, &info.to_string()).await?;
    record(&mut transaction, caller, "database_changed", None, detail(name, info)).await?;
    transaction.commit().await?;
    Ok(catalog::database_use(&app.pool, name).await?.into())
}

/// Removes a database from the control plane; the database itself stays as it is.
///
/// # Errors
/// Projects live in it.
pub async fn delete(app: &App, caller: &Caller, name: &str, mode: Mode) -> Result<(), ManageError> {
    require_operator(caller, Permission::Write)?;
    let mut transaction = db::begin(&app.pool).await?;
    catalog::lock_database(&mut *transaction, name).await?;
    let used = catalog::database_use(&mut *transaction, name).await?;
    if used.projects > 0 {
        let by = if used.projects == 1 {
            "1 project lives in it".to_owned()
        } else {
            format!("{} projects live in it", used.projects)
        };
        return Err(ManageError::InUse { what: Managed::Database, name: name.to_owned(), by });
    }
    catalog::delete_database(&mut *transaction, name).await?;
    record(&mut transaction, caller, "database_deleted", None, json!({ "database": name })).await?;
    if mode == Mode::DryRun {
        return Ok(());
    }
    transaction.commit().await?;
    Ok(())
}

/// Connects to a database and looks at what backups and restores need of it.
pub async fn test(app: &App, caller: &Caller, name: &str) -> Result<DatabaseTest, ManageError> {
    require_operator(caller, Permission::Write)?;
    let sealed = catalog::database_url(&app.pool, name).await?;
    let mut test = DatabaseTest {
        database: name.to_owned(),
        good: false,
        version: None,
        role: None,
        sees_everything: None,
        missing_for_restores: Vec::new(),
        problems: Vec::new(),
    };
    match app.keys.open_database(name, &sealed) {
        Err(_) => test.problems.push("its URL was sealed with another secrets key than the one in use".to_owned()),
        Ok(info) => match tokio::time::timeout(LIMIT, look(app, &info, &mut test)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => test.problems.push(told(&error)),
            Err(_) => test.problems.push(format!("no answer within {} seconds", LIMIT.as_secs())),
        },
    }
    test.good = test.problems.is_empty();
    let mut connection = app.pool.acquire().await?;
    record(&mut connection, caller, "database_tested", None, json!({ "database": name, "good": test.good })).await?;
    Ok(test)
}

/// What the server itself says, without our library's own preface.
fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

async fn look(app: &App, info: &ConnectInfo, test: &mut DatabaseTest) -> Result<(), sqlx::Error> {
    let mut connection = info.connect().await?;
    let version = inspect::server_version(&mut connection).await?;
    test.version = Some(display_version(version));
    let allow = app.config.restore.allow_vulnerable_clients;
    for tool in [
        app.tools.client(ClientTool::PgDump, version),
        app.tools.restore_client(ClientTool::Psql, version, allow),
        app.tools.restore_client(ClientTool::PgRestore, version, allow),
    ] {
        test.problems.extend(tool.err().map(|error| error.to_string()));
    }
    let rights = rights::role_rights(&mut connection).await?;
    test.sees_everything = Some(rights.sees_everything());
    test.missing_for_restores = rights.missing_for_restores().into_iter().map(str::to_owned).collect();
    if !rights.sees_everything() {
        let lacks = if rights.reads_all_data { "BYPASSRLS" } else { "pg_read_all_data and BYPASSRLS" };
        test.problems.push(format!("role {} may not see everything: it lacks {lacks}", rights.role));
    }
    if !test.missing_for_restores.is_empty() {
        let lacks = test.missing_for_restores.join(" and ");
        test.problems.push(format!("role {} cannot restore everything: it lacks {lacks}", rights.role));
    }
    test.role = Some(rights.role);
    connection.close().await
}
