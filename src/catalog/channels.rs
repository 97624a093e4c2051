//! Notice channels: where the news of one project, one organisation or the whole platform goes. Like those of storages, their settings are
//! sealed whole, for the row's id alone.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Deserialize;
use sqlx::{PgExecutor, PgPool};
use url::Url;
use uuid::Uuid;

use super::{ManageError, Managed, Settings, SettingsFault};
use crate::{
    config::{ChatId, Secret, TelegramStorageConfig},
    keys::{KeyError, SecretsKey},
    notice::{NoticeEvent, is_email_address},
    tenant::Scope,
};

/// Most addresses of one e-mail channel.
const MAX_ADDRESSES: usize = 20;

/// Bytes of a webhook's secret, of which an HMAC is made.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// Longest URL, in bytes.
const MAX_URL: usize = 2_048;

/// A channel's settings, opened.
#[derive(Clone, Debug)]
pub enum ChannelConfig {
    Email(EmailChannel),
    Webhook(WebhookChannel),
    Telegram(TelegramChannel),
}

/// Mail to a few people.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailChannel {
    pub to: Vec<String>,
}

/// A signed request to a program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookChannel {
    pub url: Url,
    /// Signs each request.
    pub secret: Secret,
}

/// A message to a chat.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelegramChannel {
    pub bot_token: Secret,
    pub chat_id: ChatId,
    /// A Bot API other than Telegram's own.
    pub base_url: Option<Url>,
}

impl ChannelConfig {
    /// The fields that [`url`](Self::url) comes from.
    pub const URL_FIELDS: [&'static str; 2] = ["url", "base_url"];

    /// Reads and checks settings.
    ///
    /// # Errors
    /// Says what is wrong, and with which field.
    pub fn parse(settings: &Settings) -> Result<Self, SettingsFault> {
        match settings.kind() {
            "email" => {
                let email: EmailChannel = settings.read()?;
                if !(1..=MAX_ADDRESSES).contains(&email.to.len()) {
                    return Err(SettingsFault::new("to", format!("give 1 to {MAX_ADDRESSES} addresses")));
                }
                match email.to.iter().all(|address| is_email_address(address)) {
                    true => Ok(Self::Email(email)),
                    false => Err(SettingsFault::new("to", "one of them is not an e-mail address")),
                }
            }
            "webhook" => {
                let hook: WebhookChannel = settings.read()?;
                check_url("url", &hook.url)?;
                // Its length and form alone are looked at.
                let secret = hook.secret.expose();
                if !SECRET_BYTES.contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(SettingsFault::new("secret", "use 16 to 256 visible ASCII characters"));
                }
                Ok(Self::Webhook(hook))
            }
            "telegram" => {
                let chat: TelegramChannel = settings.read()?;
                let mut like = TelegramStorageConfig::new(chat.bot_token.clone(), chat.chat_id.clone());
                if let Some(url) = &chat.base_url {
                    check_url("base_url", url)?;
                    like.base_url = url.as_str().to_owned();
                }
                let named = |why: String| SettingsFault::new(why.split(' ').next().unwrap_or_default().to_owned(), why);
                like.check().map_err(named)?;
                Ok(Self::Telegram(chat))
            }
            _ => Err(SettingsFault::new("type", "use email, webhook or telegram")),
        }
    }

    /// The URL that notices are sent to, where the channel has one of its own.
    pub const fn url(&self) -> Option<(&'static str, &Url)> {
        match self {
            Self::Webhook(hook) => Some(("url", &hook.url)),
            Self::Telegram(TelegramChannel { base_url: Some(url), .. }) => Some(("base_url", url)),
            Self::Telegram(TelegramChannel { base_url: None, .. }) | Self::Email(_) => None,
        }
    }
}

fn check_url(field: &str, url: &Url) -> Result<(), SettingsFault> {
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if url.as_str().len() > MAX_URL {
        return Err(SettingsFault::new(field, format!("it is longer than {MAX_URL} bytes")));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_plain {
        return Err(SettingsFault::new(field, "use https:// and a host, without user, password and fragment"));
    }
    Ok(())
}

/// One row of `control_plane.channels`.
#[derive(Clone, Debug)]
pub struct ChannelRow {
    pub id: Uuid,
    pub name: String,
    /// `email`, `webhook` or `telegram`.
    pub kind: String,
    pub project_id: Option<String>,
    pub organization_id: Option<String>,
    /// Empty: every event.
    pub events: Vec<String>,
    pub enabled: bool,
    pub settings_sealed: String,
    /// Its address was chosen by someone who does not run the platform: it may lead to public addresses only.
    pub is_tenants_own: bool,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

fn context(id: Uuid) -> String {
    format!("channel {id}")
}

impl ChannelRow {
    /// Opens the settings.
    ///
    /// # Errors
    /// They were sealed with another key or for another row, or hold what this version does not know.
    pub fn open(&self, key: &SecretsKey) -> Result<Settings, KeyError> {
        let text = key.open(&self.settings_sealed, &context(self.id))?;
        // Read at once, into the type that shows no secret.
        serde_json::from_str(text.expose_secret()).map_err(|_| KeyError::CannotOpen)
    }
}

/// Seals settings for the row of this id.
///
/// # Errors
/// The system gives no random numbers.
pub fn seal_channel(key: &SecretsKey, id: Uuid, settings: &Settings) -> Result<String, KeyError> {
    key.seal(&settings.to_text(), &context(id))
}

/// Adds a channel, or gives the one of this id everything but its id, where it belongs, and who made it.
pub async fn put_channel(executor: impl PgExecutor<'_>, row: &ChannelRow) -> Result<ChannelRow, ManageError> {
    Ok(sqlx::query_as!(
        ChannelRow,
        "INSERT INTO control_plane.channels
             (id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, events = excluded.events, enabled = excluded.enabled,
             settings_sealed = excluded.settings_sealed, is_tenants_own = excluded.is_tenants_own, updated_at = now()
         RETURNING id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by, created_at,
             updated_at",
        row.id,
        row.name,
        row.kind,
        row.project_id,
        row.organization_id,
        &row.events,
        row.enabled,
        row.settings_sealed,
        row.is_tenants_own,
        row.created_by,
    )
    .fetch_one(executor)
    .await?)
}

/// One channel within reach: an operator's are all, an organisation admin's those of its organisation and its projects. Held until the
/// transaction ends.
pub async fn channel(executor: impl PgExecutor<'_>, scope: &Scope, id: Uuid) -> Result<ChannelRow, ManageError> {
    sqlx::query_as!(
        ChannelRow,
        "SELECT id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by, created_at,
             updated_at
         FROM control_plane.channels c
         WHERE id = $1 AND $2::text[] IS NULL AND ($3::text IS NULL OR organization_id = $3
             OR EXISTS (SELECT FROM control_plane.projects p WHERE p.id = c.project_id AND p.organization_id = $3))
         FOR UPDATE",
        id,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Channel, &id.to_string()))
}

/// Channels within reach, newest first.
pub async fn channels(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    project_id: Option<&str>,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<ChannelRow>, ManageError> {
    Ok(sqlx::query_as!(
        ChannelRow,
        "SELECT id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by, created_at,
             updated_at
         FROM control_plane.channels c
         WHERE $1::text[] IS NULL AND ($2::text IS NULL OR organization_id = $2
                 OR EXISTS (SELECT FROM control_plane.projects p WHERE p.id = c.project_id AND p.organization_id = $2))
             AND ($3::text IS NULL OR project_id = $3)
             AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
         ORDER BY created_at DESC, id DESC LIMIT $6",
        scope.project_ids(),
        scope.organization_id(),
        project_id,
        after.map(|(at, _)| at),
        after.map(|(_, id)| id),
        limit,
    )
    .fetch_all(executor)
    .await?)
}

/// The channels that hear of this event of this project: its own, its organisation's and the platform's. For whoever sends notices; open
/// each with [`ChannelRow::open`] and [`ChannelConfig::parse`].
pub async fn channels_of(
    executor: impl PgExecutor<'_>,
    project_id: &str,
    event: NoticeEvent,
) -> Result<Vec<ChannelRow>, ManageError> {
    Ok(sqlx::query_as!(
        ChannelRow,
        "SELECT id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by, created_at,
             updated_at
         FROM control_plane.channels c
         WHERE enabled AND (events = '{}' OR $2 = ANY(events))
           AND (project_id = $1
                OR (project_id IS NULL AND organization_id IS NULL)
                OR organization_id = (SELECT p.organization_id FROM control_plane.projects p WHERE p.id = $1))
         ORDER BY created_at, id",
        project_id,
        event.as_str(),
    )
    .fetch_all(executor)
    .await?)
}

/// A channel by its id, whoever's it is: for whoever sends its notices.
pub async fn channel_by_id(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<ChannelRow>, sqlx::Error> {
    sqlx::query_as!(
        ChannelRow,
        "SELECT id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by, created_at,
             updated_at
         FROM control_plane.channels WHERE id = $1",
        id,
    )
    .fetch_optional(executor)
    .await
}

/// The channels with this name, oldest first: names are for people, so there may be several.
pub async fn channels_called(pool: &PgPool, name: &str) -> Result<Vec<ChannelRow>, ManageError> {
    Ok(sqlx::query_as!(
        ChannelRow,
        "SELECT id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by, created_at,
             updated_at
         FROM control_plane.channels WHERE name = $1 ORDER BY created_at, id LIMIT 20",
        name,
    )
    .fetch_all(pool)
    .await?)
}

/// Whether a channel's last test is `pause` ago, for all processes together. Counts this one.
pub async fn begin_channel_test(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    now: DateTime<Utc>,
    pause: std::time::Duration,
) -> Result<bool, ManageError> {
    let begun = sqlx::query!(
        "UPDATE control_plane.channels SET tested_at = $2
         WHERE id = $1 AND (tested_at IS NULL OR tested_at <= $2::timestamptz - make_interval(secs => $3) OR tested_at > $2)",
        id,
        now,
        pause.as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(begun.rows_affected() == 1)
}

/// Removes a channel that was reached in this transaction.
pub async fn delete_channel(executor: impl PgExecutor<'_>, id: Uuid) -> Result<(), ManageError> {
    sqlx::query!("DELETE FROM control_plane.channels WHERE id = $1", id).execute(executor).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: Value) -> Result<ChannelConfig, SettingsFault> {
        ChannelConfig::parse(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn each_kind_is_read() {
        assert!(parse(json!({ "type": "email", "to": ["ops@example.com"] })).is_ok());
        assert!(
            parse(json!({ "type": "webhook", "url": "https://h.example/x?y=1", "secret": "0123456789abcdef" })).is_ok()
        );
        assert!(parse(json!({ "type": "telegram", "bot_token": "1:canary-canary", "chat_id": -5 })).is_ok());
    }

    #[test]
    fn a_fault_names_its_field_and_repeats_no_secret() {
        let hook = |url: &str| json!({ "type": "webhook", "url": url, "secret": "0123456789abcdef" });
        for (value, field) in [
            (json!({ "type": "pigeon" }), "type"),
            (json!({}), "type"),
            (json!({ "type": "email", "to": [] }), "to"),
            (json!({ "type": "email", "to": ["a@b.c\r\nBcc: x@y.z"] }), "to"),
            (json!({ "type": "email", "to": ["a@b.c"], "cc": [] }), "cc"),
            (hook("ftp://h/x"), "url"),
            (hook("https://u:canary@h/x"), "url"),
            (hook("not a url"), "url"),
            (json!({ "type": "webhook", "url": "https://h/x", "secret": "canary" }), "secret"),
            (json!({ "type": "webhook", "url": "https://h/x", "secret": "canary with spaces" }), "secret"),
            (json!({ "type": "webhook", "url": "https://h/x" }), "secret"),
            (json!({ "type": "telegram", "bot_token": "canary", "chat_id": -5 }), "bot_token"),
            (json!({ "type": "telegram", "bot_token": "1:canary-canary", "chat_id": "x" }), "chat_id"),
            (
                json!({ "type": "telegram", "bot_token": "1:canary-canary", "chat_id": -5, "base_url": "http://example.com" }),
                "base_url",
            ),
        ] {
            let fault = parse(value).unwrap_err().to_string();
            assert!(fault.contains(field) && !fault.contains("canary"), "{fault}: {field}");
        }
    }
}
