//! Where a row of the outbox goes, as its channel stands when it is sent: one that was switched off or removed meanwhile hears nothing.

use super::App;
use crate::{
    catalog::{self, ChannelConfig, ChannelRow},
    history::DueNotice,
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

/// Looks an address up.
pub(super) async fn of(app: &App, due: &DueNotice) -> Result<Address, Nowhere> {
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
