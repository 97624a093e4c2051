//! Tests: a message that says that it is one, sent at once and beside the outbox.

use futures::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::{
    App,
    address::{self, Nowhere},
};
use crate::{
    catalog::{ChannelConfig, ChannelRow},
    notice::Notice,
    notify::{Address, Letter, SendError, Senders},
};

/// What became of one test message.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Trial {
    /// `email`, `webhook` or `telegram`.
    pub channel: String,
    /// An e-mail address, or the channel's name.
    pub recipient: String,
    /// Whether somebody has taken it.
    pub good: bool,
    /// Why not.
    pub problem: Option<String>,
    pub hint: Option<String>,
}

impl Trial {
    fn of(channel: &str, recipient: &str, sent: Result<(), SendError>) -> Self {
        let error = sent.err();
        Self {
            channel: channel.to_owned(),
            recipient: recipient.to_owned(),
            good: error.is_none(),
            hint: error.as_ref().and_then(|error| error.hint).map(str::to_owned),
            problem: error.map(|error| error.message),
        }
    }
}

/// Sends a test to everyone of a channel, whether it is switched on or not.
pub async fn channel(app: &App, senders: &Senders, row: &ChannelRow) -> Vec<Trial> {
    let config = match address::open(app, row) {
        Ok(config) => config,
        Err(Nowhere::Ever(why)) => return vec![untried(row, why.to_owned())],
        Err(Nowhere::Now(why)) => return vec![untried(row, why)],
    };
    if let ChannelConfig::Email(email) = &config {
        return join_all(email.to.iter().map(|address| self::email(app, senders, address))).await;
    }
    match address::of_config(config, row) {
        Some(to) => vec![Trial::of(&row.kind, &row.name, send(app, senders, &to).await)],
        None => Vec::new(),
    }
}

fn untried(row: &ChannelRow, problem: String) -> Trial {
    Trial { channel: row.kind.clone(), recipient: row.name.clone(), good: false, problem: Some(problem), hint: None }
}

/// Sends a test to an e-mail address.
pub async fn email(app: &App, senders: &Senders, address: &str) -> Trial {
    Trial::of("email", address, send(app, senders, &Address::Email(address.to_owned())).await)
}

async fn send(app: &App, senders: &Senders, to: &Address) -> Result<(), SendError> {
    let now = app.clock.now();
    let notice = Notice {
        message: Some("somebody wanted to know whether notices arrive here; nothing has happened".to_owned()),
        ..Notice::default()
    };
    senders.send(to, &Letter { id: Uuid::now_v7(), event: None, at: now, notice: &notice }, now).await
}
