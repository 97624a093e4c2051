//! Notices on their way out: sentences made of facts, and the three ways to somebody — e-mail, a signed request, a Telegram message.
//!
//! What always holds: one call is one attempt, with an end; whoever sends decides here whether another attempt may help; nothing that
//! somebody outside has chosen (names, messages, answers) can become a header, HTML or a second line; no error holds a secret.

mod email;
mod message;
mod remedy;
mod telegram;
mod text;
mod webhook;

use std::time::Duration;

use url::Url;
use uuid::Uuid;

use self::{email::Mailer, message::Message};
pub use self::{remedy::remedy, webhook::signature};
use crate::{
    clock::Timestamp,
    config::{ChatId, Config, Secret},
    notice::{Notice, NoticeEvent},
    outgoing::{self, OutgoingClient},
};

/// One notice for one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The same with every attempt: receivers know by it what they have already.
    pub id: Uuid,
    /// `None`: a test.
    pub event: Option<NoticeEvent>,
    /// When it happened.
    pub at: Timestamp,
    pub notice: &'a Notice,
}

impl Letter<'_> {
    /// The event's word; `test` for a test.
    pub fn word(&self) -> &'static str {
        self.event.map_or("test", NoticeEvent::as_str)
    }
}

/// Who chose an address, and so how far requests to it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// Whoever runs the platform: inside of its network as well.
    Operator,
    /// Anybody else: to public addresses only.
    Tenant,
}

/// Where a notice goes.
#[derive(Clone, Debug)]
pub enum Address {
    Email(String),
    Webhook { url: Url, secret: Secret, chosen_by: ChosenBy },
    Telegram { bot_token: Secret, chat_id: ChatId, base_url: Option<Url>, chosen_by: ChosenBy },
}

/// Whether another attempt may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Later, and not before the time that was asked for.
    Later { after: Option<Duration>, what: Trouble },
    /// Never: it was refused for good.
    Never,
}

/// What is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This notice, or its recipient.
    One,
    /// Everything that goes the same way: the mail server, the receiver, the chat.
    Way,
}

/// Why a notice was not taken. One line, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SendError {
    pub verdict: Verdict,
    pub message: String,
    /// A sentence with the remedy.
    pub hint: Option<&'static str>,
}

impl SendError {
    fn never(message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Never, message: message.into(), hint: None }
    }

    fn later(what: Trouble, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Later { after: None, what }, message: message.into(), hint: None }
    }

    fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The same; another attempt is made after this time at the earliest.
    fn after(mut self, asked: Option<Duration>) -> Self {
        if let Verdict::Later { after, .. } = &mut self.verdict {
            *after = asked;
        }
        self
    }
}

/// Why notices cannot be sent at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetUpError(String);

/// The three ways, opened once per process.
#[derive(Debug)]
pub struct Senders {
    /// `None`: no mail server is configured.
    mailer: Option<Mailer>,
    /// To addresses that operators have chosen.
    inside: reqwest::Client,
    /// To all others.
    outside: OutgoingClient,
    public_url: Option<Url>,
}

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Senders {
    /// Opens what the configuration names. Nothing is connected to.
    ///
    /// # Errors
    /// The mail server's certificate file cannot be read, or TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Self, SetUpError> {
        let timeout = Duration::from_secs(config.notify.timeout_seconds);
        let tls = |error: reqwest::Error| SetUpError(format!("cannot make an HTTP client: {error}"));
        let inside = reqwest::Client::builder()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout)
            // What is sent was meant for one address, and tokens are part of some.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .build()
            .map_err(tls)?;
        Ok(Self {
            mailer: Mailer::new(&config.smtp, timeout)?,
            inside,
            outside: outgoing::client(&config.outgoing, timeout).map_err(tls)?,
            public_url: config.notify.public_url.clone(),
        })
    }

    /// Whether this process can send e-mail.
    pub const fn has_mail(&self) -> bool {
        self.mailer.is_some()
    }

    /// Sends one notice to one recipient: one attempt, bounded in time.
    ///
    /// # Errors
    /// Nobody has taken it, or nobody has said so.
    pub async fn send(&self, to: &Address, letter: &Letter<'_>, now: Timestamp) -> Result<(), SendError> {
        let message = Message::of(letter, self.public_url.as_ref());
        match to {
            Address::Email(address) => {
                match &self.mailer {
                    Some(mailer) => mailer.send(address, letter, &message).await,
                    None => Err(SendError::later(Trouble::Way, "no mail server is configured")
                        .hint("Set smtp.host and smtp.from.")),
                }
            }
            Address::Webhook { url, secret, chosen_by } => {
                webhook::send(self.post(url, *chosen_by)?, secret, letter, &message, now).await
            }
            Address::Telegram { bot_token, chat_id, base_url, chosen_by } => {
                let url = telegram::method_url(base_url.as_ref(), bot_token, "sendMessage")?;
                let send =
                    async |chat: &ChatId| telegram::send(self.post(&url, *chosen_by)?, bot_token, chat, &message).await;
                match send(chat_id).await {
                    Err(telegram::Refusal::Moved(id)) => {
                        tracing::warn!("Notices: a Telegram chat has become {id}: change the channel's chat_id");
                        send(&ChatId::Number(id)).await.map_err(Into::into)
                    }
                    sent => sent.map_err(Into::into),
                }
            }
        }
    }

    /// Connects to the mail server as for a message, and sends none. Gives what was seen.
    ///
    /// # Errors
    /// It could not be reached, or refuses us.
    pub async fn look_at_mail(&self) -> Result<Option<String>, SendError> {
        match &self.mailer {
            Some(mailer) => mailer.look().await.map(Some),
            None => Ok(None),
        }
    }

    fn post(&self, url: &Url, chosen_by: ChosenBy) -> Result<reqwest::RequestBuilder, SendError> {
        match chosen_by {
            ChosenBy::Operator => Ok(self.inside.post(url.clone())),
            ChosenBy::Tenant => self.outside.post(url).map_err(|error| SendError::never(error.to_string())),
        }
    }
}

/// What a request's error says. The URL is left out, which may hold a token; and about the network of whoever chose it no more than that.
fn unanswered(error: reqwest::Error) -> SendError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<outgoing::OutgoingError>() {
            return SendError::later(Trouble::Way, refused.to_string());
        }
        cause = inner.source();
    }
    let said = match (error.is_timeout(), error.is_connect()) {
        (true, true) => "no connection in time",
        (true, false) => "no answer in time",
        (false, true) => {
            "no connection: the host is not known, nobody listens there, or its certificate is not trusted"
        }
        (false, false) => "the connection broke before an answer came",
    };
    SendError::later(Trouble::Way, said)
}
