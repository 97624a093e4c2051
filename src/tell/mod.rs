//! Who is told what: the outbox is filled in the transaction of what happened, with one row for each recipient, and emptied by every process
//! that keeps time.
//!
//! What always holds: the same thing is written once for each recipient, whoever notices it and however often; a mail server's trouble
//! changes nothing but rows of the outbox; a row is attempted by one process at a time, and told again only when a process died, or the
//! connection, between the receiver's word and its writing down, and then it carries the same number as before; receivers that hang delay the
//! news of their own organisation or project alone.

mod address;
mod facts;
mod sending;
mod trial;

use sqlx::PgConnection;

pub use self::{
    facts::backup,
    sending::{Postman, Round},
    trial::{Trial, channel as test_channel, email as test_email},
};
use crate::{
    app::App,
    catalog::{self, CatalogError, ChannelConfig, ChannelRow, ManageError},
    history::{self, HistoryError, NewNotice},
    ids::{BackupId, JobId},
    notice::{AboutProject, Notice, NoticeEvent, is_email_address},
    tenant::Scope,
};

/// Something to tell.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    pub event: NoticeEvent,
    /// Names what happened among all that is told of this event: a job's id, for instance.
    pub occurrence: &'a str,
    pub project_id: Option<&'a str>,
    pub backup_id: Option<BackupId>,
    pub job_id: Option<JobId>,
    /// The address that the request for it named.
    pub asked_for: Option<&'a str>,
    /// The facts; the project's name is added.
    pub notice: Notice,
}

/// Why nothing could be told. The transaction is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
    #[error("a notice cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<HistoryError> for TellError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Database(error) => Self::Database(error),
            other @ HistoryError::NoSuchBackup(_) => Self::Database(sqlx::Error::Decode(other.into())),
        }
    }
}

impl From<ManageError> for TellError {
    fn from(error: ManageError) -> Self {
        match error {
            ManageError::Database(error) => Self::Database(error),
            other => Self::Database(sqlx::Error::Decode(other.into())),
        }
    }
}

/// A way to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recipient {
    /// `email`, `webhook` or `telegram`.
    kind: String,
    channel_id: Option<uuid::Uuid>,
    name: String,
    /// Of those who run the platform. Others are not told where databases and storages are.
    is_platforms: bool,
}

impl Recipient {
    fn email(address: &str, channel_id: Option<uuid::Uuid>, is_platforms: bool) -> Self {
        Self { kind: "email".to_owned(), channel_id, name: address.to_owned(), is_platforms }
    }

    /// What is told once: to an address, whatever list it is on, or to a channel.
    fn key(&self) -> String {
        match (self.kind.as_str(), self.channel_id) {
            ("email", _) | (_, None) => format!("{}:{}", self.kind, self.name.to_lowercase()),
            (_, Some(id)) => format!("channel:{id}"),
        }
    }
}

/// Writes a notice into the outbox for everyone who hears of it, in the transaction of what it tells about. Gives how many are new.
pub async fn tell(connection: &mut PgConnection, app: &App, told: &Told<'_>) -> Result<usize, TellError> {
    let recipients = recipients(connection, app, told.event, told.project_id, told.asked_for, &told.notice).await?;
    if recipients.is_empty() {
        return Ok(0);
    }
    let mut notice = told.notice.clone();
    notice.project = project(connection, told.project_id).await?;
    let whole = serde_json::to_value(&notice)?;
    hide_endpoints(&mut notice);
    let hidden = serde_json::to_value(&notice)?;
    let now = app.clock.now();
    let give_up_at = now + chrono::Duration::hours(i64::from(app.config.notify.give_up_hours));
    let mut written = 0;
    for recipient in &recipients {
        let once = format!("{}:{}:{}", told.event, told.occurrence, recipient.key());
        let new = NewNotice {
            once: &once,
            project_id: told.project_id,
            backup_id: told.backup_id,
            job_id: told.job_id,
            event: told.event.as_str(),
            channel: &recipient.kind,
            channel_id: recipient.channel_id,
            recipient: &recipient.name,
            payload: if recipient.is_platforms { &whole } else { &hidden },
            now,
            give_up_at,
        };
        written += usize::from(history::add_notice(&mut *connection, &new).await?);
    }
    Ok(written)
}

/// Takes out where databases and storages are.
fn hide_endpoints(notice: &mut Notice) {
    let restored = notice.restore.iter_mut().flat_map(|restore| &mut restore.differences);
    let verified = notice.verification.iter_mut().flat_map(|verification| &mut verification.differences);
    for text in notice.message.iter_mut().chain(restored).chain(verified) {
        *text = history::without_endpoints(text);
    }
}

/// Everyone who hears of it. The platform's own come first, then an organisation's, then a project's: an address is told once, and whoever may
/// take it off one list must not keep it from hearing what another list has it for.
async fn recipients(
    connection: &mut PgConnection,
    app: &App,
    event: NoticeEvent,
    project_id: Option<&str>,
    asked_for: Option<&str>,
    notice: &Notice,
) -> Result<Vec<Recipient>, TellError> {
    // What is no success although it is over is heard of by those as well who hear of failures alone.
    let mut events = vec![event];
    if notice.is_worrying(event) {
        events.push(NoticeEvent::Failed);
    }
    let mut found = Vec::new();
    let config = &app.config.notify;
    if events.iter().any(|event| config.events.contains(event)) {
        found.extend(config.operators.iter().map(|address| Recipient::email(address, None, true)));
    }
    let mut channels: Vec<ChannelRow> = Vec::new();
    for event in events {
        for row in catalog::channels_of(&mut *connection, project_id.unwrap_or_default(), event).await? {
            if channels.iter().all(|known| known.id != row.id) {
                channels.push(row);
            }
        }
    }
    channels.sort_by_key(|row| (row.project_id.is_some(), row.organization_id.is_some(), row.created_at));
    found.extend(channels.iter().flat_map(|row| of_channel(app, row)));
    // Whoever asked for a backup knows that it begins. A row that a platform wrote itself was checked by nobody.
    if event != NoticeEvent::Started {
        let asked_for = asked_for.filter(|to| is_email_address(to));
        found.extend(asked_for.map(|address| Recipient::email(address, None, false)));
    }
    let mut keys = std::collections::BTreeSet::new();
    found.retain(|recipient| keys.insert(recipient.key()));
    Ok(found)
}

fn of_channel(app: &App, row: &ChannelRow) -> Vec<Recipient> {
    // One that an operator made for a project or an organisation is still read by its people.
    let is_platforms = row.project_id.is_none() && row.organization_id.is_none();
    let whole = || Recipient { kind: row.kind.clone(), channel_id: Some(row.id), name: row.name.clone(), is_platforms };
    if row.kind != "email" {
        return vec![whole()];
    }
    match row.open(&app.keys.secrets).ok().and_then(|settings| ChannelConfig::parse(&settings).ok()) {
        Some(ChannelConfig::Email(email)) => {
            email.to.iter().map(|address| Recipient::email(address, Some(row.id), is_platforms)).collect()
        }
        // Not left out: that it cannot be opened is told where it is sent.
        Some(_) | None => vec![whole()],
    }
}

async fn project(connection: &mut PgConnection, id: Option<&str>) -> Result<Option<AboutProject>, TellError> {
    let Some(id) = id else { return Ok(None) };
    let scope = Scope::everything("what is told goes to those who hear of this project");
    let name = match catalog::project(connection, &scope, id).await {
        Ok(project) => project.name,
        Err(CatalogError::Database(error)) => return Err(error.into()),
        Err(_) => id.to_owned(),
    };
    Ok(Some(AboutProject { id: id.to_owned(), name }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        notice::AboutRestore,
        proof_record::{ROWS_NOT_COUNTED, is_not_compared},
    };

    #[test]
    fn that_rows_were_not_counted_is_told_as_it_is_where_endpoints_are_hidden() {
        let differences = vec![ROWS_NOT_COUNTED.to_owned()];
        let restore = AboutRestore { differences, ..AboutRestore::default() };
        let mut notice = Notice { restore: Some(restore), ..Notice::default() };
        hide_endpoints(&mut notice);
        assert!(is_not_compared(&notice.restore.unwrap().differences));
    }
}
