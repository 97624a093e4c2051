//! Notice channels: operators manage all, organisation admins those of their organisation and its projects.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Mode, check_name, is_operator, record, require_admin};
use crate::{
    app::App,
    catalog::{self, ChannelConfig, ChannelRow, ManageError, Managed, NoticeEvent, Settings, SettingsFault},
    db,
    history::{self, Event},
    notify::Senders,
    outgoing::{Outgoing, OutgoingError},
    tell::{self, Trial},
    tenant::{Caller, Permission},
};

/// Longest wait for a test. Below the limit of a request.
const TEST_LIMIT: Duration = Duration::from_secs(25);

/// Most channels that an organisation's admins have made for it and its projects together: what happens is written down once for each.
const MAX_CHANNELS: usize = 50;

/// Between two tests of a channel by people who are no operators: each is a message to somebody.
const TEST_PAUSE: Duration = Duration::from_secs(10);

/// A channel as it may be shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ShownChannel {
    pub id: Uuid,
    #[schema(example = "on-call")]
    pub name: String,
    /// `email`, `webhook` or `telegram`.
    #[schema(example = "webhook")]
    pub r#type: String,
    /// It hears of this project alone.
    pub project_id: Option<String>,
    /// It hears of this organisation's projects. With neither: of every project.
    pub organization_id: Option<String>,
    /// What it hears of. Empty: everything.
    pub events: Vec<String>,
    pub enabled: bool,
    /// As given, with `{"set": true}` in the place of secrets. `null` when they cannot be opened, and for organisation admins where an
    /// operator has chosen them.
    #[schema(value_type = Object)]
    pub settings: Value,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A channel as it is added.
#[derive(Clone, Debug)]
pub struct NewChannel {
    pub name: String,
    pub project_id: Option<String>,
    pub organization_id: Option<String>,
    pub events: Vec<NoticeEvent>,
    pub enabled: bool,
    pub settings: Settings,
}

/// What is to be different. `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ChannelChanges {
    pub name: Option<String>,
    pub events: Option<Vec<NoticeEvent>>,
    pub enabled: Option<bool>,
    pub settings: Option<Settings>,
}

fn shown(app: &App, caller: &Caller, row: ChannelRow) -> ShownChannel {
    let settings = match is_operators_choice(caller, &row) {
        true => Value::Null,
        false => row.open(&app.keys.secrets).map_or(Value::Null, |settings| settings.shown()),
    };
    ShownChannel {
        id: row.id,
        name: row.name,
        r#type: row.kind,
        project_id: row.project_id,
        organization_id: row.organization_id,
        events: row.events,
        enabled: row.enabled,
        settings,
        created_by: row.created_by,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// Whether where it leads was chosen by an operator, and the caller is none: it may be inside of the platform's own network.
const fn is_operators_choice(caller: &Caller, row: &ChannelRow) -> bool {
    !is_operator(caller) && !row.is_tenants_own
}

fn words(events: &[NoticeEvent]) -> Vec<String> {
    let mut words: Vec<String> = events.iter().map(|event| event.as_str().to_owned()).collect();
    words.sort();
    words.dedup();
    words
}

/// The id in a path. What is no id names nothing.
///
/// # Errors
/// It is none.
pub fn id_of(text: &str) -> Result<Uuid, ManageError> {
    Uuid::parse_str(text).map_err(|_| ManageError::not_found(Managed::Channel, text))
}

/// Channels within reach, newest first; of one project when it is named.
pub async fn list(
    app: &App,
    caller: &Caller,
    project_id: Option<&str>,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: usize,
) -> Result<Vec<ShownChannel>, ManageError> {
    require_admin(caller, Permission::Read)?;
    let rows = catalog::channels(&app.pool, &caller.scope(), project_id, after, limit.cast_signed() as i64).await?;
    Ok(rows.into_iter().map(|row| shown(app, caller, row)).collect())
}

/// One channel within reach.
pub async fn show(app: &App, caller: &Caller, id: Uuid) -> Result<ShownChannel, ManageError> {
    require_admin(caller, Permission::Read)?;
    Ok(shown(app, caller, catalog::channel(&app.pool, &caller.scope(), id).await?))
}

/// Reads settings and, of those that a tenant gives, looks where they lead.
async fn check(app: &App, caller: &Caller, settings: &Settings) -> Result<ChannelConfig, ManageError> {
    let config = ChannelConfig::parse(settings)?;
    if is_operator(caller) {
        return Ok(config);
    }
    if let Some((field, url)) = config.url() {
        let outgoing = Outgoing::new(&app.config.outgoing);
        outgoing.check(url).await.map_err(|error| match error {
            OutgoingError::Form | OutgoingError::NotPublic | OutgoingError::NotFound => {
                SettingsFault::new(field, error.to_string())
            }
        })?;
    }
    Ok(config)
}

/// Adds a channel: of a project, of an organisation, or (operators) of the whole platform.
pub async fn add(app: &App, caller: &Caller, new: NewChannel) -> Result<ShownChannel, ManageError> {
    require_admin(caller, Permission::Write)?;
    check_name("request.name", &new.name)?;
    if new.project_id.is_some() && new.organization_id.is_some() {
        return Err(ManageError::invalid("request.organization_id", "give project_id or organization_id, not both"));
    }
    let organization_id = match (&new.project_id, is_operator(caller)) {
        (Some(_), _) => None,
        (None, true) => new.organization_id.clone(),
        // Without either it is the caller's own, never the platform's.
        (None, false) => new.organization_id.clone().or_else(|| caller.organization_id.clone()),
    };
    if let Some(id) = &organization_id
        && !is_operator(caller)
        && caller.organization_id.as_ref() != Some(id)
    {
        return Err(ManageError::Grant(
            "this would be a channel of an organisation that is not the caller's".to_owned(),
        ));
    }
    if let Some(project) = &new.project_id {
        catalog::project(&app.pool, &caller.scope(), project).await?;
    }
    check(app, caller, &new.settings).await?;
    let id = Uuid::now_v7();
    let now = app.clock.now();
    let row = ChannelRow {
        id,
        name: new.name,
        kind: new.settings.kind().to_owned(),
        project_id: new.project_id,
        organization_id,
        events: words(&new.events),
        enabled: new.enabled,
        settings_sealed: catalog::seal_channel(&app.keys.secrets, id, &new.settings)?,
        is_tenants_own: !is_operator(caller),
        created_by: caller.subject.clone(),
        created_at: now,
        updated_at: now,
    };
    let mut transaction = db::begin(&app.pool).await?;
    match (&row.organization_id, &row.project_id) {
        (Some(id), _) if is_operator(caller) && !catalog::hold_organization(&mut *transaction, id).await? => {
            return Err(ManageError::invalid("request.organization_id", format!("there is no organisation {id:?}")));
        }
        (_, Some(project)) => drop(catalog::lock_project(&mut *transaction, &caller.scope(), project).await?),
        _ => {}
    }
    check_room(&mut transaction, caller).await?;
    let row = catalog::put_channel(&mut *transaction, &row).await?;
    write_event(&mut transaction, caller, "channel_added", &row, json!({})).await?;
    transaction.commit().await?;
    Ok(shown(app, caller, row))
}

/// Refuses an organisation's admins one channel too many, one caller after the other. What operators made does not count.
async fn check_room(connection: &mut PgConnection, caller: &Caller) -> Result<(), ManageError> {
    if is_operator(caller) {
        return Ok(());
    }
    if let Some(id) = &caller.organization_id {
        catalog::lock_organization(&mut *connection, id).await?;
    }
    let rows = catalog::channels(&mut *connection, &caller.scope(), None, None, 1_000).await?;
    if rows.iter().filter(|row| row.is_tenants_own).count() < MAX_CHANNELS {
        return Ok(());
    }
    Err(ManageError::Source {
        code: "channel.too_many",
        is_conflict: true,
        message: format!("the organisation and its projects have {MAX_CHANNELS} channels of their own already"),
        hint: Some("Remove one that nobody needs, or ask an operator to add this one.".to_owned()),
    })
}

/// Changes a channel. What it is of, and its type, stay.
pub async fn change(
    app: &App,
    caller: &Caller,
    id: Uuid,
    changes: ChannelChanges,
) -> Result<ShownChannel, ManageError> {
    require_admin(caller, Permission::Write)?;
    if let Some(name) = &changes.name {
        check_name("request.name", name)?;
    }
    let scope = caller.scope();
    let before = catalog::channel(&app.pool, &scope, id).await?;
    let mut settings = None;
    if let Some(changes) = &changes.settings {
        if is_operators_choice(caller, &before) {
            return Err(ManageError::Grant("where this channel leads was chosen by an operator".to_owned()));
        }
        let sealed = |_| ManageError::Sealed { what: Managed::Channel, name: id.to_string() };
        let changed = before.open(&app.keys.secrets).map_err(sealed)?.changed_by(changes)?;
        // All of them, also those that are not changed.
        check(app, caller, &changed).await?;
        settings = Some(catalog::seal_channel(&app.keys.secrets, id, &changed)?);
    }
    let mut transaction = db::begin(&app.pool).await?;
    // Again: it may have changed, or left the caller's reach, meanwhile.
    let mut row = catalog::channel(&mut *transaction, &scope, id).await?;
    if settings.is_some() && row.settings_sealed != before.settings_sealed {
        let by = "somebody else has changed it meanwhile".to_owned();
        return Err(ManageError::InUse { what: Managed::Channel, name: id.to_string(), by });
    }
    let fields: Vec<String> =
        changes.settings.iter().flat_map(|settings| settings.field_names()).map(str::to_owned).collect();
    // An operator who changes something else has not vouched for where it leads.
    if is_operator(caller) && fields.iter().any(|name| ChannelConfig::URL_FIELDS.contains(&name.as_str())) {
        row.is_tenants_own = false;
    }
    row.name = changes.name.unwrap_or(row.name);
    row.events = changes.events.as_deref().map_or(row.events, words);
    row.enabled = changes.enabled.unwrap_or(row.enabled);
    row.settings_sealed = settings.unwrap_or(row.settings_sealed);
    let row = catalog::put_channel(&mut *transaction, &row).await?;
    write_event(&mut transaction, caller, "channel_changed", &row, json!(fields)).await?;
    transaction.commit().await?;
    Ok(shown(app, caller, row))
}

/// What a test has shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ChannelTest {
    pub channel: Uuid,
    /// Everyone has taken it.
    pub good: bool,
    /// One for each recipient.
    pub trials: Vec<Trial>,
}

/// Sends a test message to a channel, at once and whether it is switched on or not.
pub async fn test(app: &App, caller: &Caller, id: Uuid) -> Result<ChannelTest, ManageError> {
    require_admin(caller, Permission::Write)?;
    let row = catalog::channel(&app.pool, &caller.scope(), id).await?;
    if !is_operator(caller) && !catalog::begin_channel_test(&app.pool, id, app.clock.now(), TEST_PAUSE).await? {
        return Err(ManageError::TooSoon { what: Managed::Channel, name: row.name, wait: TEST_PAUSE });
    }
    let senders = Senders::new(&app.config).map_err(|error| match is_operator(caller) {
        true => ManageError::invalid("notify.set_up", error.to_string()),
        // It tells of the platform's files and mail server.
        false => {
            tracing::warn!("Notices: cannot be set up for a test: {error}");
            ManageError::invalid("notify.set_up", "notices cannot be sent now; an operator can see why")
        }
    })?;
    let tried = tokio::time::timeout(TEST_LIMIT, tell::test_channel(app, &senders, &row)).await;
    let mut trials = tried.unwrap_or_else(|_| {
        let problem = Some(format!("no end of the test within {} seconds", TEST_LIMIT.as_secs()));
        vec![Trial { channel: row.kind.clone(), recipient: row.name.clone(), good: false, problem, hint: None }]
    });
    let is_hidden = is_operators_choice(caller, &row);
    for trial in &mut trials {
        if is_hidden {
            trial.recipient.clone_from(&row.name);
        }
        // What is there is none of the caller's business, nor is the platform's mail server.
        if !trial.good && (is_hidden || (!is_operator(caller) && row.kind == "email")) {
            trial.problem = Some("it was not taken; an operator can see why".to_owned());
            trial.hint = None;
        }
    }
    let good = trials.iter().all(|trial| trial.good);
    let mut connection = app.pool.acquire().await?;
    write_event(&mut connection, caller, "channel_tested", &row, json!({ "good": good })).await?;
    Ok(ChannelTest { channel: id, good, trials })
}

/// Removes a channel.
pub async fn delete(app: &App, caller: &Caller, id: Uuid, mode: Mode) -> Result<(), ManageError> {
    require_admin(caller, Permission::Write)?;
    let mut transaction = db::begin(&app.pool).await?;
    let row = catalog::channel(&mut *transaction, &caller.scope(), id).await?;
    catalog::delete_channel(&mut *transaction, id).await?;
    write_event(&mut transaction, caller, "channel_deleted", &row, json!({})).await?;
    if mode == Mode::DryRun {
        return Ok(());
    }
    transaction.commit().await?;
    Ok(())
}

/// Writes the event: into the project's own trail where it is a project's.
async fn write_event(
    connection: &mut PgConnection,
    caller: &Caller,
    event: &str,
    row: &ChannelRow,
    changed: Value,
) -> Result<(), ManageError> {
    let detail = json!({
        "channel_id": row.id, "name": row.name, "type": row.kind, "enabled": row.enabled, "events": row.events,
        "settings_changed": changed,
    });
    match &row.project_id {
        Some(project_id) => {
            let event = Event { backup_id: None, project_id, event, caller, outcome: "ok", detail };
            Ok(history::record(connection, &event).await?)
        }
        None => record(connection, caller, event, row.organization_id.as_deref(), detail).await,
    }
}
