//! The parts that we use of the Bot API's objects. What else an answer holds is passed over.

use serde::Deserialize;

/// The parts that we use of core.telegram.org/bots/api#message.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Message {
    pub message_id: i64,
    pub caption: Option<String>,
    pub document: Option<Document>,
    pub forward_origin: Option<Origin>,
}

/// core.telegram.org/bots/api#messageorigin: of a copy of a copy it is the first original's.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Origin {
    /// In a channel alone.
    pub message_id: Option<i64>,
}

/// core.telegram.org/bots/api#document
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    pub file_id: String,
    pub file_unique_id: String,
    pub file_name: Option<String>,
    pub file_size: Option<u64>,
}

/// core.telegram.org/bots/api#file
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RemoteFile {
    pub file_size: Option<u64>,
    pub file_path: Option<String>,
}

/// The parts that we use of core.telegram.org/bots/api#chatfullinfo.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ChatInfo {
    pub id: i64,
    #[serde(rename = "type")]
    pub kind: String,
    pub title: Option<String>,
    /// The most recent pinned message, by sending date.
    pub pinned_message: Option<Message>,
    /// Seconds after which messages vanish.
    pub message_auto_delete_time: Option<u64>,
    #[serde(default)]
    pub has_protected_content: bool,
}

/// core.telegram.org/bots/api#user
#[derive(Clone, Debug, Deserialize)]
pub(super) struct User {
    pub id: i64,
    pub username: Option<String>,
}

/// core.telegram.org/bots/api#chatmember: a right that does not apply to the kind of chat is left out.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Member {
    pub status: String,
    #[serde(default)]
    pub can_post_messages: bool,
    #[serde(default)]
    pub can_edit_messages: bool,
    #[serde(default)]
    pub can_delete_messages: bool,
    #[serde(default)]
    pub can_pin_messages: bool,
}
