//! Storages: those of the configuration can be looked at and tested, those of the control plane added, changed and removed as well.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Mode, record, require_operator};
use crate::{
    app::App,
    catalog::{self, ManageError, Managed, Settings, SettingsFault, StorageRow},
    config::{StorageConfig, is_storage_name},
    db,
    history::PgLedger,
    jobs::{self, request::RequestError},
    storage::{self, Pace, ProbeDepth},
    tenant::{Caller, Permission},
};

/// Longest wait while a new storage is opened, and while one is tested quickly. Below the limit of a request.
const LIMIT: Duration = Duration::from_secs(20);

crate::artifact::words! {
    /// Where a storage's settings are kept.
    Origin, "origin" {
        /// In the TOML file or the environment: they are changed there alone.
        Configuration = "configuration",
        /// In the control plane.
        Database = "database",
    }
}

/// A storage as it may be shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ShownStorage {
    #[schema(example = "offsite")]
    pub name: String,
    #[schema(inline)]
    pub origin: Origin,
    /// `local`, `s3` or `telegram`.
    #[schema(example = "s3")]
    pub r#type: String,
    /// Where it is, for people.
    pub place: Option<String>,
    /// As given, with `{"set": true}` in the place of secrets. `null` when they cannot be opened.
    #[schema(value_type = Object)]
    pub settings: Value,
    /// Why this process cannot use it.
    pub problem: Option<String>,
    /// Largest part, in bytes.
    pub part_bytes: Option<u64>,
    pub parts_in_flight: Option<usize>,
    /// Largest artifact, in bytes, where there is a limit.
    pub max_artifact_bytes: Option<u64>,
    /// `false`: its copies are made afterwards, from a good one.
    pub fed_while_dumping: Option<bool>,
    /// `null` for one of the configuration.
    pub created_at: Option<DateTime<Utc>>,
    pub updated_at: Option<DateTime<Utc>>,
}

/// What a test has shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct StorageTest {
    pub storage: String,
    pub good: bool,
    /// Free space in bytes, where the storage tells.
    pub free_bytes: Option<u64>,
    /// What was done and seen.
    pub seen: Vec<String>,
    pub warnings: Vec<String>,
    /// A stable word for what went wrong, such as `storage.denied`.
    pub code: Option<String>,
    pub problem: Option<String>,
    pub hint: Option<String>,
}

/// Every storage, by name.
pub async fn list(app: &App, caller: &Caller) -> Result<Vec<ShownStorage>, ManageError> {
    require_operator(caller, Permission::Read)?;
    all(app).await
}

async fn all(app: &App) -> Result<Vec<ShownStorage>, ManageError> {
    app.storages.refresh().await?;
    let configured = app.config.storages.iter().map(|(name, config)| {
        let shown = (Settings::shown_of(config), Some(config.place()), config.kind().to_owned());
        shown_as(app, name, Origin::Configuration, shown, None)
    });
    let mut all: Vec<ShownStorage> = configured.collect();
    for row in catalog::storages(&app.pool).await? {
        all.push(shown_row(app, &row));
    }
    all.sort_by(|a, b| (&a.name, a.origin.as_str()).cmp(&(&b.name, b.origin.as_str())));
    Ok(all)
}

/// One storage.
pub async fn show(app: &App, caller: &Caller, name: &str) -> Result<ShownStorage, ManageError> {
    require_operator(caller, Permission::Read)?;
    one(app, name).await
}

async fn one(app: &App, name: &str) -> Result<ShownStorage, ManageError> {
    all(app)
        .await?
        .into_iter()
        .find(|storage| storage.name == name)
        .ok_or_else(|| ManageError::not_found(Managed::Storage, name))
}

fn shown_row(app: &App, row: &StorageRow) -> ShownStorage {
    let (settings, place) = match row.open(&app.keys.secrets) {
        Ok(settings) => (settings.shown(), settings.parse().ok().map(|config| config.place())),
        Err(_) => (Value::Null, None),
    };
    shown_as(app, &row.name, Origin::Database, (settings, place, row.kind.clone()), Some(row))
}

fn shown_as(
    app: &App,
    name: &str,
    origin: Origin,
    (settings, place, kind): (Value, Option<String>, String),
    row: Option<&StorageRow>,
) -> ShownStorage {
    let limits = app.storages.get(name).map(|storage| storage.limits());
    ShownStorage {
        name: name.to_owned(),
        origin,
        r#type: kind,
        place,
        settings,
        problem: row.and_then(|_| app.storages.problem(name)),
        part_bytes: limits.map(|limits| limits.part.0),
        parts_in_flight: limits.map(|limits| limits.parts_in_flight),
        max_artifact_bytes: limits.and_then(|limits| limits.artifact).map(|size| size.0),
        fed_while_dumping: limits.map(|limits| limits.pace == Pace::Streamed),
        created_at: row.map(|row| row.created_at),
        updated_at: row.map(|row| row.updated_at),
    }
}

/// Reads the settings of a storage and opens it once, so that what cannot work is not written down.
async fn try_open(app: &App, name: &str, settings: &Settings) -> Result<StorageConfig, ManageError> {
    let config = settings.parse()?;
    let ledger: std::sync::Arc<dyn storage::Ledger> = std::sync::Arc::new(PgLedger::new(app.pool.clone()));
    match tokio::time::timeout(LIMIT, storage::open(name, &config, &ledger)).await {
        Ok(Ok(_)) => Ok(config),
        Ok(Err(error)) => Err(SettingsFault::new("", format!("the storage cannot be opened: {error}")).into()),
        Err(_) => Err(SettingsFault::new("", "the storage does not open in time").into()),
    }
}

/// A tenant's files and backups are not kept in one place: a restore of the files would replace the backups.
async fn refuse_files(connection: &mut PgConnection, name: &str, config: &StorageConfig) -> Result<(), ManageError> {
    let found = jobs::request::files_in_the_way(connection, name, config).await.map_err(|error| match error {
        RequestError::Database(error) => error.into(),
        other => ManageError::from(SettingsFault::new("", other.to_string())),
    })?;
    let field = if matches!(config, StorageConfig::S3(_)) { "prefix" } else { "root" };
    found.map_or(Ok(()), |(project, files)| {
        Err(SettingsFault::new(field, format!("overlaps {files}, where project {project:?} has its files")).into())
    })
}

fn refuse_configured(app: &App, name: &str) -> Result<(), ManageError> {
    if app.storages.is_configured(name) { Err(ManageError::ReadOnly(name.to_owned())) } else { Ok(()) }
}

/// Adds a storage to the control plane. Every process uses it from its next job or request on.
pub async fn add(app: &App, caller: &Caller, name: &str, settings: &Settings) -> Result<ShownStorage, ManageError> {
    require_operator(caller, Permission::Write)?;
    if !is_storage_name(name) {
        return Err(ManageError::invalid("request.name", "name: use 1 to 63 letters, digits, '-' or '_'"));
    }
    if app.storages.is_configured(name) {
        return Err(ManageError::Exists { what: Managed::Storage, name: name.to_owned() });
    }
    let config = try_open(app, name, settings).await?;
    let sealed = catalog::seal_storage(&app.keys.secrets, name, settings)?;
    let mut transaction = db::begin(&app.pool).await?;
    catalog::one_source_at_a_time(&mut *transaction).await?;
    refuse_files(&mut transaction, name, &config).await?;
    catalog::insert_storage(&mut *transaction, name, config.kind(), &sealed, &config.place()).await?;
    let detail = json!({ "storage": name, "type": config.kind(), "place": config.place() });
    record(&mut transaction, caller, "storage_added", None, detail).await?;
    transaction.commit().await?;
    one(app, name).await
}

/// Changes the settings that are named; `null` brings a default back.
pub async fn change(app: &App, caller: &Caller, name: &str, changes: &Settings) -> Result<ShownStorage, ManageError> {
    require_operator(caller, Permission::Write)?;
    refuse_configured(app, name)?;
    let before = catalog::storage(&app.pool, name).await?;
    let sealed = |_| ManageError::Sealed { what: Managed::Storage, name: name.to_owned() };
    let settings = before.open(&app.keys.secrets).map_err(sealed)?.changed_by(changes)?;
    let config = try_open(app, name, &settings).await?;
    let settings_sealed = catalog::seal_storage(&app.keys.secrets, name, &settings)?;
    let mut transaction = db::begin(&app.pool).await?;
    if catalog::lock_storage(&mut *transaction, name).await?.revision != before.revision {
        let by = "somebody else has changed it meanwhile".to_owned();
        return Err(ManageError::InUse { what: Managed::Storage, name: name.to_owned(), by });
    }
    catalog::one_source_at_a_time(&mut *transaction).await?;
    refuse_files(&mut transaction, name, &config).await?;
    catalog::update_storage(&mut *transaction, name, &settings_sealed, &config.place()).await?;
    let detail =
        json!({ "storage": name, "type": config.kind(), "place": config.place(), "changed": changes.field_names() });
    record(&mut transaction, caller, "storage_changed", None, detail).await?;
    transaction.commit().await?;
    one(app, name).await
}

/// Removes a storage from the control plane. What is stored there stays as it is.
///
/// # Errors
/// Copies, projects or jobs still need it.
pub async fn delete(app: &App, caller: &Caller, name: &str, mode: Mode) -> Result<(), ManageError> {
    require_operator(caller, Permission::Write)?;
    let mut transaction = db::begin(&app.pool).await?;
    // A row of the same name as one of the configuration is not used, and so can go.
    let is_used = !app.storages.is_configured(name);
    let row = match catalog::lock_storage(&mut *transaction, name).await {
        Err(ManageError::NotFound { .. }) if !is_used => return Err(ManageError::ReadOnly(name.to_owned())),
        found => found?,
    };
    if is_used {
        let used = catalog::storage_use(&mut *transaction, name).await?;
        if (used.copies, used.projects, used.jobs) != (0, 0, 0) {
            let by = format!("{} copies, {} projects, {} jobs", used.copies, used.projects, used.jobs);
            return Err(ManageError::InUse { what: Managed::Storage, name: name.to_owned(), by });
        }
        catalog::forget_failed_copies(&mut *transaction, name).await?;
    }
    catalog::delete_storage(&mut *transaction, name).await?;
    record(&mut transaction, caller, "storage_deleted", None, json!({ "storage": name, "type": row.kind })).await?;
    if mode == Mode::DryRun {
        return Ok(());
    }
    transaction.commit().await?;
    app.storages.refresh().await?;
    Ok(())
}

/// Writes a probe into a storage, reads it back and deletes it.
pub async fn test(app: &App, caller: &Caller, name: &str) -> Result<StorageTest, ManageError> {
    require_operator(caller, Permission::Write)?;
    app.storages.refresh().await?;
    let mut test = StorageTest {
        storage: name.to_owned(),
        good: false,
        free_bytes: None,
        seen: Vec::new(),
        warnings: Vec::new(),
        code: None,
        problem: None,
        hint: None,
    };
    let Some(storage) = app.storages.get(name) else {
        test.problem = Some(app.storages.problem(name).ok_or_else(|| ManageError::not_found(Managed::Storage, name))?);
        test.code = Some("storage.unusable".to_owned());
        return Ok(test);
    };
    match tokio::time::timeout(LIMIT, storage.probe(ProbeDepth::Quick)).await {
        Ok(Ok(probe)) => {
            test.good = true;
            test.free_bytes = probe.free.map(|free| free.0);
            test.seen = probe.seen;
            test.warnings = probe.warnings;
        }
        Ok(Err(error)) => {
            test.code = Some(error.kind.code().to_owned());
            test.hint = error.hint().map(str::to_owned);
            test.problem = Some(error.to_string());
        }
        Err(_) => {
            test.code = Some("storage.unavailable".to_owned());
            test.problem = Some(format!("no end of the test within {} seconds", LIMIT.as_secs()));
        }
    }
    let mut connection = app.pool.acquire().await?;
    record(&mut connection, caller, "storage_tested", None, json!({ "storage": name, "good": test.good })).await?;
    Ok(test)
}
