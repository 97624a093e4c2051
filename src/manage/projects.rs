//! Projects: who may add and change them, and tenants that nobody has enrolled yet.
//!
//! A schema's name says nothing about whose it is. So what a project backs up is chosen by operators: a project that an organisation's admin
//! adds waits (`PENDING`) until an operator has looked at it and makes it `ACTIVE`.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{check_name, is_operator, require_admin};
use crate::{
    app::App,
    byte_size::ByteSize,
    catalog::{
        self, CatalogError, FileSource, MAX_RETENTION_DAYS, ManageError, Managed, NewProject, Project, ProjectChanges,
        ProjectFilter, ProjectScope,
    },
    config::LEAST_RATE,
    db,
    history::{self, Event},
    ids::{CONTROL_PLANE_PROJECT, ProjectId},
    jobs::request,
    postgres::{connect::ConnectInfo, inspect},
    tenant::{Caller, Permission, Scope},
};

/// What an organisation's admin may switch `ACTIVE` to, and back.
pub const INACTIVE: &str = "INACTIVE";

/// A path of its own in the API.
pub(super) const NOT_AN_ID: &str = "discover";

/// Most projects of one organisation that wait for an operator.
const MAX_PENDING: i64 = 20;

/// Most storages that one project can name.
const MAX_STORAGES: usize = 20;

/// Where a project's tenant lives.
#[derive(Clone, Debug, Default)]
pub enum Home {
    /// In the control plane's own database.
    #[default]
    Control,
    /// In a database that was added before.
    Database(String),
    /// At this address, which is kept (sealed) under a name made of it. For operators.
    At(ConnectInfo),
}

/// What of the database is backed up.
#[derive(Clone, Debug, Default)]
pub enum What {
    /// The schema `tenant_{slug}`.
    #[default]
    OwnSchema,
    Schema(String),
    WholeDatabase,
}

/// A project as it is added.
#[derive(Clone, Debug)]
pub struct AddProject {
    pub id: ProjectId,
    pub name: String,
    pub slug: Option<String>,
    pub organization_id: Option<String>,
    pub home: Home,
    pub what: What,
    /// Empty: those of the configuration's choice.
    pub storages: Vec<String>,
    pub retention_days: Option<u32>,
    /// Where its files are, beside the database. For operators.
    pub files: Option<FileSource>,
}

/// A project that was added, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Added {
    pub project: Project,
    pub warning: Option<String>,
}

/// Projects within reach, by id.
pub async fn list(
    app: &App,
    caller: &Caller,
    filter: &ProjectFilter,
    limit: usize,
) -> Result<Vec<Project>, ManageError> {
    super::require(caller, Permission::Read)?;
    catalog::project_page(&app.pool, &caller.scope(), filter, limit.cast_signed() as i64).await
}

/// One project within reach.
pub async fn show(app: &App, caller: &Caller, id: &str) -> Result<Project, ManageError> {
    super::require(caller, Permission::Read)?;
    Ok(catalog::project(&app.pool, &caller.scope(), id).await?)
}

fn refuse_source(caller: &Caller, is_chosen: bool) -> Result<(), ManageError> {
    if is_chosen && !is_operator(caller) {
        return Err(ManageError::Grant(
            "what a project backs up, and of whom it is, is chosen by operators".to_owned(),
        ));
    }
    Ok(())
}

/// A slow export holds a worker's slot, a snapshot and the tenant's locks for as long as it lasts: how slow one may be is the platform's to say.
fn refuse_rate(caller: &Caller, is_set: bool) -> Result<(), ManageError> {
    if is_set && !is_operator(caller) {
        return Err(ManageError::Grant(
            "max_rate: how fast a project's backups are uploaded is set by operators".to_owned(),
        ));
    }
    Ok(())
}

fn check_schema(schema: &str) -> Result<(), ManageError> {
    let fault = catalog::schema_name_fault(schema);
    let unprintable = || schema.chars().any(char::is_control).then(|| "it has control characters".to_owned());
    let Some(why) = fault.or_else(unprintable) else { return Ok(()) };
    let shown: String = schema.chars().take(80).collect();
    Err(ManageError::Invalid {
        code: "project.schema",
        message: format!("schema {shown:?} cannot be enrolled: {why}"),
        hint: Some("Name the tenant's schema."),
    })
}

async fn refuse_taken(
    app: &App,
    caller: &Caller,
    database_name: Option<&str>,
    schema: &str,
    but: Option<&str>,
) -> Result<(), ManageError> {
    match catalog::schema_is_taken(&app.pool, database_name, schema).await? {
        None => Ok(()),
        Some(other) if but == Some(other.as_str()) => Ok(()),
        // Whose it is, is another's business.
        Some(_) if !is_operator(caller) => Err(ManageError::invalid(
            "project.schema_taken",
            "a schema of this slug cannot be had: choose another slug",
        )),
        Some(other) => Err(ManageError::Taken { schema: schema.to_owned(), project: other }),
    }
}

fn check_retention(days: Option<u32>) -> Result<(), ManageError> {
    match days {
        Some(days) if !(1..=MAX_RETENTION_DAYS).contains(&days) => Err(ManageError::invalid(
            "request.retention_days",
            format!("retention_days is {days}: use 1 to {MAX_RETENTION_DAYS}"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn check_rate(rate: Option<ByteSize>) -> Result<(), ManageError> {
    match rate {
        Some(rate) if rate < LEAST_RATE => Err(ManageError::invalid(
            "request.max_rate",
            format!("max_rate is {} a second: use {LEAST_RATE} or more", rate.exact()),
        )),
        Some(_) | None => Ok(()),
    }
}

async fn check_storages(app: &App, names: &[String]) -> Result<(), ManageError> {
    if names.len() > MAX_STORAGES {
        return Err(ManageError::invalid("request.storages", format!("storages: name {MAX_STORAGES} at most")));
    }
    if names.iter().any(|name| !app.storages.contains_key(name)) {
        app.storages.refresh().await?;
    }
    match names.iter().find(|name| !app.storages.contains_key(name)) {
        None => Ok(()),
        Some(name) => {
            let shown: String = name.chars().take(60).collect();
            Err(ManageError::invalid("request.storages", format!("storages: there is no storage {shown:?}")))
        }
    }
}

/// A word in capitals, as platforms have them.
fn check_status(caller: &Caller, before: Option<&str>, status: &str) -> Result<(), ManageError> {
    let is_word = (1..=32).contains(&status.len())
        && status.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        && status.starts_with(|c: char| c.is_ascii_uppercase());
    if !is_word {
        return Err(ManageError::invalid(
            "request.status",
            "status: use a word in capitals, such as ACTIVE or INACTIVE",
        ));
    }
    let switches = |word: &str| matches!(word, Project::ACTIVE | INACTIVE);
    if is_operator(caller) || before == Some(status) || (before.is_none_or(switches) && switches(status)) {
        return Ok(());
    }
    Err(ManageError::Grant(format!(
        "only operators may take a project out of {} or to {status}",
        before.unwrap_or("it")
    )))
}

/// Adds a project. An organisation's admin adds it to its own organisation, with the schema of its slug; it waits for an operator.
pub async fn add(app: &App, caller: &Caller, add: AddProject) -> Result<Added, ManageError> {
    require_admin(caller, Permission::Write)?;
    check_name("request.name", &add.name)?;
    if add.id.as_str() == NOT_AN_ID {
        return Err(ManageError::invalid("request.id", format!("id: {NOT_AN_ID:?} is the name of a call")));
    }
    if add.slug.as_deref().is_some_and(|slug| slug.is_empty() || slug.len() > 63 || slug.chars().any(char::is_control))
    {
        return Err(ManageError::invalid("request.slug", "slug: use 1 to 63 bytes without control characters"));
    }
    let own = caller.organization_id.as_deref();
    let is_anothers = add.organization_id.as_deref().is_some_and(|id| Some(id) != own);
    let has_own_schema = matches!((&add.home, &add.what), (Home::Control, What::OwnSchema));
    refuse_source(caller, is_anothers || !has_own_schema || add.files.is_some())?;
    check_retention(add.retention_days)?;
    check_storages(app, &add.storages).await?;
    let scope = match add.what {
        What::WholeDatabase => ProjectScope::WholeDatabase,
        What::Schema(schema) => ProjectScope::Schema(schema),
        What::OwnSchema => ProjectScope::Schema(format!("tenant_{}", add.slug.as_deref().unwrap_or(add.id.as_str()))),
    };
    if let ProjectScope::Schema(schema) = &scope {
        check_schema(schema)?;
    }
    // Said before the schema is found taken by this very project. The row itself decides when two add it at once.
    match catalog::project(&app.pool, &Scope::everything("an id is taken whoever has it"), add.id.as_str()).await {
        Ok(project) => return Err(CatalogError::ProjectExists(project.id).into()),
        Err(CatalogError::NoSuchProject(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if !is_operator(caller)
        && (add.id.as_str() == app.config.backup.default_project || add.id.as_str() == CONTROL_PLANE_PROJECT)
    {
        return Err(CatalogError::ProjectExists(add.id.to_string()).into());
    }
    if let Some(files) = &add.files {
        request::find_files(app, files).await?;
    }
    let (info, database_name, is_new) = home(app, add.home).await?;
    let mut warning = None;
    if let ProjectScope::Schema(schema) = &scope
        && is_operator(caller)
    {
        warning = missing(&info, schema).await;
    }
    let organization_id = match is_operator(caller) {
        true => add.organization_id,
        false => caller.organization_id.clone(),
    };
    let new = NewProject { id: add.id, name: add.name, slug: add.slug, organization_id, scope, database_name };
    let changes = ProjectChanges {
        status: (!is_operator(caller)).then(|| Project::PENDING.to_owned()),
        storages: Some(add.storages),
        retention_days: Some(add.retention_days),
        ..ProjectChanges::default()
    };
    let mut transaction = db::begin(&app.pool).await?;
    catalog::one_source_at_a_time(&mut *transaction).await?;
    if let ProjectScope::Schema(schema) = &new.scope {
        refuse_taken(app, caller, new.database_name.as_deref(), schema, None).await?;
    }
    if is_operator(caller) {
        hold_organization(&mut transaction, caller, new.organization_id.as_deref()).await?;
    } else {
        refuse_more(&mut transaction, &new).await?;
    }
    match &new.database_name {
        Some(name) if is_new => {
            let sealed = app.keys.seal_database(name, &info)?;
            catalog::add_database(&mut *transaction, name, &sealed, &info.to_string()).await?;
        }
        Some(name) => hold_database(&mut transaction, name).await?,
        None => {}
    }
    let project = catalog::add_project(&mut *transaction, &new).await?;
    let mut project = catalog::change_project(&mut *transaction, &project, &changes).await?;
    if let Some(files) = &add.files {
        request::put_files(&mut transaction, app, &project, Some(files)).await?;
        project = catalog::project(&mut *transaction, &caller.scope(), &project.id).await?;
    }
    let detail = json!({
        "scope": project.backup_scope, "schema": project.schema_name, "database": project.database_name,
        "organization_id": project.organization_id, "status": project.status, "files": project.files,
    });
    tell(&mut transaction, caller, "project_added", &project, detail).await?;
    transaction.commit().await?;
    Ok(Added { project, warning })
}

/// What an organisation's admin may not add: an id that somebody's backups or history have, and too many that wait.
async fn refuse_more(connection: &mut PgConnection, new: &NewProject) -> Result<(), ManageError> {
    if catalog::id_has_a_past(&mut *connection, new.id.as_str()).await? {
        // The same as for one that is there: whose it was, is another's business.
        return Err(CatalogError::ProjectExists(new.id.to_string()).into());
    }
    let waiting = catalog::pending_projects(connection, new.organization_id.as_deref().unwrap_or_default()).await?;
    if waiting < MAX_PENDING {
        return Ok(());
    }
    Err(ManageError::Invalid {
        code: "project.too_many_pending",
        message: format!("{waiting} projects of the organisation wait for an operator, and {MAX_PENDING} may"),
        hint: Some("Ask an operator to look at them."),
    })
}

/// The database that is meant, the name it is kept under, and whether it is written down with the project.
async fn home(app: &App, home: Home) -> Result<(ConnectInfo, Option<String>, bool), ManageError> {
    match home {
        Home::Control => Ok((app.control.clone(), None, false)),
        Home::Database(name) => {
            let sealed =
                catalog::database_url(&app.pool, &name).await.map_err(|error| unknown_database(error.into()))?;
            let wrong = |_| ManageError::Sealed { what: Managed::Database, name: name.clone() };
            Ok((app.keys.open_database(&name, &sealed).map_err(wrong)?, Some(name), false))
        }
        // The control plane's own database by another way in is still that one.
        Home::At(info) if place(&info) == place(&app.control) => Ok((app.control.clone(), None, false)),
        Home::At(info) => {
            let name = place(&info);
            Ok((info, Some(name), true))
        }
    }
}

/// The name under which a database is kept that was given by its address.
fn place(info: &ConnectInfo) -> String {
    format!("{}:{}/{}", info.host, info.port, info.database)
}

/// A name in the body that does not exist is the body's fault.
fn unknown_database(error: ManageError) -> ManageError {
    match error {
        ManageError::NotFound { what: Managed::Database, name } => {
            ManageError::invalid("request.database", format!("database: there is no database {name:?}"))
        }
        other => other,
    }
}

async fn hold_database(connection: &mut PgConnection, name: &str) -> Result<(), ManageError> {
    catalog::hold_database(connection, name).await.map_err(unknown_database)
}

async fn hold_organization(
    connection: &mut PgConnection,
    caller: &Caller,
    id: Option<&str>,
) -> Result<(), ManageError> {
    // Whoever runs the program on this machine may name organisations that the platform alone knows. No token's subject begins so.
    let is_strict = !caller.subject.starts_with("cli:");
    match id {
        Some(id) if is_strict && !catalog::hold_organization(connection, id).await? => {
            let shown: String = id.chars().take(60).collect();
            Err(ManageError::Invalid {
                code: "request.organization_id",
                message: format!("organization_id: there is no organisation {shown:?}"),
                hint: Some("Add it with POST /api/organizations."),
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// What is odd about a schema that cannot be seen.
async fn missing(info: &ConnectInfo, schema: &str) -> Option<String> {
    let looked = async {
        let mut connection = info.connect().await?;
        inspect::schema_oid(&mut connection, schema).await
    };
    match tokio::time::timeout(std::time::Duration::from_secs(10), looked).await {
        Ok(Ok(Some(_))) => None,
        Ok(Ok(None)) => Some(format!("schema {schema:?} does not exist in {info} yet: backups fail until it does")),
        Ok(Err(error)) => Some(format!("cannot look for schema {schema:?} in {info}: {error}")),
        Err(_) => Some(format!("cannot look for schema {schema:?} in {info}: no answer in time")),
    }
}

/// Changes a project. Name, status, storages, proof and how long backups are kept are for organisation admins too; what is backed up (its files
/// too), whose it is, and how fast it is uploaded, for operators.
///
/// # Errors
/// Among others: it would move to another schema, database or directory while jobs have it in hand, or a restore can still be undone.
pub async fn change(app: &App, caller: &Caller, id: &str, changes: ProjectChanges) -> Result<Project, ManageError> {
    require_admin(caller, Permission::Write)?;
    let scope = caller.scope();
    let project = catalog::project(&app.pool, &scope, id).await?;
    let moves = changes.scope.is_some() || changes.database_name.is_some();
    let chooses = moves || changes.organization_id.is_some() || changes.files.is_some();
    if project.is_control_plane() && (chooses || changes.status.is_some()) {
        let message = "the control plane's own project is always backed up as what it is";
        return Err(ManageError::invalid("project.built_in", message));
    }
    refuse_source(caller, chooses)?;
    refuse_rate(caller, changes.max_rate.is_some())?;
    if let Some(name) = &changes.name {
        check_name("request.name", name)?;
    }
    check_retention(changes.retention_days.flatten())?;
    check_rate(changes.max_rate.flatten())?;
    check_storages(app, changes.storages.as_deref().unwrap_or_default()).await?;
    if let Some(ProjectScope::Schema(schema)) = &changes.scope {
        check_schema(schema)?;
    }
    if let Some(Some(files)) = &changes.files {
        request::find_files(app, files).await?;
    }
    let mut transaction = db::begin(&app.pool).await?;
    if moves || changes.files.is_some() {
        // Before the project's row, as everywhere.
        catalog::one_source_at_a_time(&mut *transaction).await?;
    }
    let before = catalog::lock_project(&mut *transaction, &scope, id).await?;
    if let Some(status) = &changes.status {
        check_status(caller, Some(&before.status), status)?;
    }
    if let Some(Some(name)) = &changes.database_name {
        hold_database(&mut transaction, name).await?;
    }
    hold_organization(&mut transaction, caller, changes.organization_id.as_ref().and_then(Option::as_deref)).await?;
    if moves {
        refuse_held(&mut transaction, &before).await?;
    }
    if let Some(files) = &changes.files {
        request::put_files(&mut transaction, app, &before, files.as_ref()).await?;
    }
    let after = catalog::change_project(&mut *transaction, &before, &changes).await?;
    if moves && let ProjectScope::Schema(schema) = after.scope() {
        refuse_taken(app, caller, after.database_name.as_deref(), &schema, Some(id)).await?;
    }
    if after.organization_id != before.organization_id {
        catalog::end_others_hold(&mut transaction, id, after.organization_id.as_deref(), app.clock.now()).await?;
    }
    tell(&mut transaction, caller, "project_changed", &after, difference(&before, &after)).await?;
    transaction.commit().await?;
    Ok(after)
}

async fn refuse_held(connection: &mut PgConnection, project: &Project) -> Result<(), ManageError> {
    let Ok(id) = project.id.parse::<ProjectId>() else { return Ok(()) };
    match catalog::project_hold(connection, &id).await? {
        (0, 0) => Ok(()),
        (jobs, kept) => Err(ManageError::InUse {
            what: Managed::Project,
            name: project.id.clone(),
            by: format!("{jobs} jobs have it in hand, {kept} restores can be undone or have to be put right"),
        }),
    }
}

/// What has changed, before and after.
fn difference(before: &Project, after: &Project) -> Value {
    let fields = |p: &Project| {
        let own = p.own_settings();
        json!({
            "name": p.name, "status": p.status, "organization_id": p.organization_id, "scope": p.backup_scope,
            "schema": p.schema_name, "database": p.database_name, "storages": own.storages,
            "retention_days": own.retention_days, "proof": own.proof, "max_rate": own.max_rate.map(ByteSize::exact),
            "files": p.files,
        })
    };
    let (before, after) = (fields(before), fields(after));
    let changed =
        after.as_object().into_iter().flatten().filter(|(name, value)| before.get(name.as_str()) != Some(value));
    Value::Object(
        changed.map(|(name, value)| (name.clone(), json!({ "before": before[name], "after": value }))).collect(),
    )
}

async fn tell(
    connection: &mut PgConnection,
    caller: &Caller,
    event: &str,
    project: &Project,
    detail: Value,
) -> Result<(), ManageError> {
    let event = Event { backup_id: None, project_id: &project.id, event, caller, outcome: "ok", detail };
    Ok(history::record(connection, &event).await?)
}
