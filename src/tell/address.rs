//! Where a row of the outbox goes, as its channel stands when it is sent: one that was switched off or removed meanwhile hears nothing.

use super::{App, Recipient, TellError, recipients};
use crate::{
    catalog::{self, ChannelConfig, ChannelRow},
    history::{self, DueNotice},
    notice::Notice,
    notify::{Address, ChosenBy},
};

/// Why a row goes nowhere.
#[derive(Debug)]
pub(super) enum Nowhere {
    /// Not any more.
    Ever(&'static str),
    /// Not now.
    Now(String),
}

/// Which of the facts the recipient is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Those that were written for it.
    AsWritten,
    /// The same, but not where databases and storages are.
    WithoutPlaces,
}

/// Looks an address up. An e-mail address is told once, whatever lists it is on: when the list that the row names is no more, it still goes to
/// whom another list has.
pub(super) async fn of(app: &App, due: &DueNotice, notice: &Notice) -> Result<(Address, Words), Nowhere> {
    match of_row(app, due).await {
        Ok(address) => Ok((address, Words::AsWritten)),
        Err(Nowhere::Ever(why)) if due.channel == "email" => {
            let found = on_another_list(app, due, notice).await;
            match found.map_err(|error| Nowhere::Now(format!("control plane: {error}")))? {
                Some(words) => Ok((Address::Email(due.recipient.clone()), words)),
                None => Err(Nowhere::Ever(why)),
            }
        }
        Err(nowhere) => Err(nowhere),
    }
}

/// Looks whether the address would hear of it if it were told now.
async fn on_another_list(app: &App, due: &DueNotice, notice: &Notice) -> Result<Option<Words>, TellError> {
    let Ok(event) = due.event.parse() else { return Ok(None) };
    let mut connection = app.pool.acquire().await?;
    let asked_for = history::notice_asked_for(&mut *connection, due.id).await?;
    let asked_for = asked_for.as_deref();
    let found = recipients(&mut connection, app, event, due.project_id.as_deref(), asked_for, notice).await?;
    let same = |recipient: &&Recipient| {
        recipient.kind == "email" && recipient.name.to_lowercase() == due.recipient.to_lowercase()
    };
    let words = |found: &Recipient| if found.is_platforms { Words::AsWritten } else { Words::WithoutPlaces };
    Ok(found.iter().find(same).map(words))
}

async fn of_row(app: &App, due: &DueNotice) -> Result<Address, Nowhere> {
    let Some(id) = due.channel_id else {
        return match due.channel.as_str() {
            "email" => Ok(Address::Email(due.recipient.clone())),
            _ => Err(Nowhere::Ever("this version does not know the kind of channel")),
        };
    };
    let row =
        catalog::channel_by_id(&app.pool, id).await.map_err(|error| Nowhere::Now(format!("control plane: {error}")))?;
    match row {
        None => Err(Nowhere::Ever("the channel was removed")),
        Some(row) if !row.enabled => Err(Nowhere::Ever("the channel was switched off")),
        Some(row) => match open(app, &row)? {
            ChannelConfig::Email(email) if !email.to.contains(&due.recipient) => {
                Err(Nowhere::Ever("the address was taken out of the channel"))
            }
            ChannelConfig::Email(_) => Ok(Address::Email(due.recipient.clone())),
            config => of_config(config, &row).ok_or(Nowhere::Ever("the channel's kind has changed")),
        },
    }
}

/// Opens a channel's settings.
pub(super) fn open(app: &App, row: &ChannelRow) -> Result<ChannelConfig, Nowhere> {
    let settings = row
        .open(&app.keys.secrets)
        .map_err(|_| Nowhere::Now("the channel's settings do not open with the secrets key in use".to_owned()))?;
    ChannelConfig::parse(&settings).map_err(|fault| Nowhere::Now(format!("the channel's settings: {fault}")))
}

/// `None` for e-mail, which has an address for each recipient.
pub(super) fn of_config(config: ChannelConfig, row: &ChannelRow) -> Option<Address> {
    let chosen_by = if row.is_tenants_own { ChosenBy::Tenant } else { ChosenBy::Operator };
    match config {
        ChannelConfig::Email(_) => None,
        ChannelConfig::Webhook(hook) => Some(Address::Webhook { url: hook.url, secret: hook.secret, chosen_by }),
        ChannelConfig::Telegram(chat) => Some(Address::Telegram {
            bot_token: chat.bot_token,
            chat_id: chat.chat_id,
            base_url: chat.base_url,
            chosen_by,
        }),
    }
}
