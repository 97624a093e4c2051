//! Calls that gave nothing: whether they may have had an effect, and what the Bot API's words mean.

use std::{fmt, time::Duration};

use crate::storage::{Error, ErrorKind};

/// What a download is called among the methods.
pub(super) const DOWNLOAD: &str = "the download of a file";

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The request did not leave: it surely had no effect.
    Unreached(String),
    /// No answer that can be understood: whether it had an effect is unknown.
    Unclear(String),
    /// Too many requests. No effect.
    SlowDown(Option<Duration>),
    /// The group has become a supergroup with this id. No effect.
    Moved(i64),
    /// Refused, with the Bot API's own words. No effect.
    Refused { code: u16, description: String },
}

/// A call that gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallError {
    pub method: &'static str,
    pub reason: Reason,
}

impl CallError {
    /// Whether the words of a refusal hold one of these.
    pub fn says(&self, words: &[&str]) -> bool {
        match &self.reason {
            Reason::Refused { description, .. } => {
                let description = description.to_lowercase();
                words.iter().any(|word| description.contains(word))
            }
            _ => false,
        }
    }

    /// The message is not in the chat (any more). Sources: `check_message` in tdlib/telegram-bot-api Client.cpp ("message to forward not
    /// found", "message to delete not found"), and the codes that Telegram's servers give themselves.
    pub fn is_message_gone(&self) -> bool {
        // Not a bare "not found": so a malformed token is answered.
        self.says(&["message_id_invalid", "message not found"])
            || (self.says(&["message to "]) && self.says(&["not found"]))
    }

    /// The message is there and stays. Source: the same, and `can_delete_channel_message` in tdlib/td: "bots can't delete messages older
    /// than 2 days".
    pub fn is_undeletable(&self) -> bool {
        self.says(&["can't be deleted", "message_delete_forbidden"])
    }

    /// The `file_id` gives nothing: of another bot, or for the moment. The server tells both with the same words, which "also includes all
    /// 5xx and 429 errors" of the servers behind it: `on_file_download` in tdlib/telegram-bot-api Client.cpp.
    pub fn is_file_unavailable(&self) -> bool {
        self.says(&[
            "wrong file_id",
            "temporarily unavailable",
            "invalid file_id",
            "wrong file identifier",
            "wrong remote file",
        ])
    }

    /// The storage error, with what can be done about it.
    pub fn explain(self, context: impl fmt::Display) -> Error {
        let (kind, said, hint) = match &self.reason {
            Reason::Unreached(text) | Reason::Unclear(text) => {
                (ErrorKind::Unavailable, text.clone(), Some("Check base_url and that this machine reaches it."))
            }
            Reason::SlowDown(retry_after) => {
                (ErrorKind::Throttled { retry_after: *retry_after }, "too many requests".to_owned(), None)
            }
            Reason::Moved(id) => (ErrorKind::Invalid, format!("the chat has become {id}"), Some("Set chat_id to it.")),
            Reason::Refused { code, description } => {
                let (kind, hint) = self.judge(*code);
                (kind, description.clone(), hint)
            }
        };
        let error = Error::new(kind, context.to_string()).with_source(format!("{}: {said}", self.method));
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// What a refusal means.
    fn judge(&self, code: u16) -> (ErrorKind, Option<&'static str>) {
        if code == 413 || self.says(&["file is too big", "too large"]) {
            return (
                ErrorKind::TooLarge,
                Some("The server takes smaller documents: set a smaller part_size, or the right profile."),
            );
        }
        if self.is_file_unavailable() {
            return (ErrorKind::Unavailable, None);
        }
        if self.says(&["chat not found"]) {
            return (ErrorKind::Denied, Some("Check chat_id, and that the bot is a member of the chat."));
        }
        // A well-formed token that is not known is answered with 401, any other with 404.
        if code == 404 && self.method == DOWNLOAD {
            // A link lives for an hour; the next getFile gives another.
            return (ErrorKind::Unavailable, None);
        }
        if code == 401 || code == 404 {
            return (ErrorKind::Denied, Some("Check bot_token: the Bot API does not know it."));
        }
        if code == 403 {
            return (ErrorKind::Denied, Some("Add the bot to the chat again, as an administrator."));
        }
        if self.says(&[
            "not enough rights",
            "administrator rights",
            "chat_admin_required",
            "chat_write_forbidden",
            "have no rights",
        ]) {
            return (
                ErrorKind::Denied,
                Some("Make the bot an administrator that may post, edit (or pin) and delete messages."),
            );
        }
        if self.is_message_gone() {
            return (ErrorKind::NotFound, None);
        }
        if (300..400).contains(&code) {
            return (ErrorKind::Invalid, Some("Set base_url to the address of the Bot API itself."));
        }
        (ErrorKind::Invalid, None)
    }
}
