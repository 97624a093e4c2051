//! What the stand-in remembers: bots, chats with their messages, files, and how time goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{Duration, SubsecRound as _};
use holdfast::clock::{Clock, Timestamp};

use super::{
    answer::Refusal,
    faults::{Calls, Fault},
    files::{Blob, clean_name},
};

/// "Your bot will not be able to send more than 20 messages per minute to the same group."
/// Source: core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this. Channels are treated alike.
pub const MESSAGES_A_MINUTE: usize = 20;

/// What a chat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatKind {
    Group,
    Supergroup,
    Channel,
}

impl ChatKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Supergroup => "supergroup",
            Self::Channel => "channel",
        }
    }
}

/// An administrator's rights that matter here. Source: core.telegram.org/bots/api#chatmemberadministrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// `can_post_messages`, channels only.
    pub post: bool,
    /// `can_edit_messages`, channels only: others' posts, and pinning.
    pub edit: bool,
    /// `can_delete_messages`: others' messages.
    pub delete: bool,
    /// `can_pin_messages`, groups and supergroups only.
    pub pin: bool,
}

impl Rights {
    pub const ALL: Self = Self { post: true, edit: true, delete: true, pin: true };
}

/// What a bot is in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    Administrator(Rights),
    Member,
    Left,
    Kicked,
}

impl Membership {
    pub fn rights(self) -> Option<Rights> {
        match self {
            Self::Administrator(rights) => Some(rights),
            Self::Member | Self::Left | Self::Kicked => None,
        }
    }
}

/// Whether a chat is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Alive,
    Deleted,
    MigratedTo(i64),
}

#[derive(Clone, Debug)]
pub struct Bot {
    pub id: i64,
    pub token: String,
    pub username: String,
}

/// A document as a message shows it; its bytes are found by `file_unique_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub file_unique_id: String,
    pub file_name: String,
    pub mime_type: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Document {
        document: Document,
        caption: String,
    },
    Text(String),
    /// The announcement that a message was pinned.
    Pinned(i64),
    /// The announcement that a group became this supergroup, or came from this group.
    Migrated(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    /// The bot that sent it; `None` when it was someone else.
    pub bot: Option<i64>,
    pub date: Timestamp,
    pub edited: Option<Timestamp>,
    /// Chat, message and date of the original.
    pub forwarded: Option<(i64, i64, Timestamp)>,
    /// When the chat's auto-delete timer takes it.
    pub expires: Option<Timestamp>,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub struct Chat {
    pub id: i64,
    pub kind: ChatKind,
    pub title: String,
    pub fate: Fate,
    pub members: BTreeMap<i64, Membership>,
    pub messages: BTreeMap<i64, Message>,
    pub pinned: BTreeSet<i64>,
    pub auto_delete: Option<Duration>,
    next_message_id: i64,
    /// By bot, when it sent in the last minute.
    sent: BTreeMap<i64, VecDeque<Timestamp>>,
}

/// What a bot may use a file by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileId {
    pub bot: i64,
    pub file_unique_id: String,
}

/// A download link.
#[derive(Clone, Debug)]
pub struct Link {
    pub bot: i64,
    pub blob: Blob,
    pub until: Timestamp,
}

/// One call that reached the stand-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// In lower case; [`DOWNLOAD`](super::DOWNLOAD) for downloads.
    pub method: String,
    pub at: Timestamp,
    /// The answer's status; `None` when there was none.
    pub status: Option<u16>,
}

#[derive(Debug)]
pub struct State {
    moved: Duration,
    pub paces: bool,
    pub bots: Vec<Bot>,
    pub chats: BTreeMap<i64, Chat>,
    /// By `file_unique_id`: what was ever sent, and its bytes unless they were forgotten.
    pub documents: HashMap<String, (Document, Option<Blob>)>,
    pub file_ids: HashMap<String, FileId>,
    /// The `file_id` that a bot sees in a message, by bot, chat, message and `file_unique_id`.
    shown: HashMap<(i64, i64, i64, String), String>,
    /// By `file_path`.
    pub links: HashMap<String, Link>,
    pub faults: Vec<(Calls, Fault)>,
    pub calls: Vec<Call>,
}

impl State {
    pub fn new() -> Self {
        Self {
            moved: Duration::zero(),
            paces: true,
            bots: Vec::new(),
            chats: BTreeMap::new(),
            documents: HashMap::new(),
            file_ids: HashMap::new(),
            shown: HashMap::new(),
            links: HashMap::new(),
            faults: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// The machine's time, moved by what was asked for.
    pub fn now(&self) -> Timestamp {
        Clock::System.now() + self.moved
    }

    pub fn advance(&mut self, by: Duration) {
        self.moved += by;
    }

    /// Does what time has brought about: messages vanish from chats with an auto-delete timer.
    pub fn tick(&mut self) {
        let now = self.now();
        for chat in self.chats.values_mut() {
            chat.expire(now);
        }
    }

    pub fn add_bot(&mut self) -> Bot {
        let id = 7_000_000_000 + i64::from(rand::random::<u32>());
        let bot = Bot { id, token: new_token(id), username: format!("holdfast_{id}_bot") };
        self.bots.push(bot.clone());
        bot
    }

    /// A private chat of this kind, with these bots as administrators.
    pub fn add_chat(&mut self, kind: ChatKind, administrators: &[i64]) -> i64 {
        let number = 1_000_000_000 + i64::from(rand::random::<u32>() / 2);
        // Supergroups and channels are "-100…". Source: core.telegram.org/api/bots/ids.
        let id = if kind == ChatKind::Group { -number } else { -1_000_000_000_000 - number };
        let members = administrators.iter().map(|bot| (*bot, Membership::Administrator(Rights::ALL))).collect();
        let chat = Chat {
            id,
            kind,
            title: "Backups".to_owned(),
            fate: Fate::Alive,
            members,
            messages: BTreeMap::new(),
            pinned: BTreeSet::new(),
            auto_delete: None,
            next_message_id: 1,
            sent: BTreeMap::new(),
        };
        self.chats.insert(id, chat);
        id
    }

    pub fn chat_mut(&mut self, id: i64) -> &mut Chat {
        self.chats.get_mut(&id).unwrap_or_else(|| panic!("there is no chat {id}"))
    }

    /// Keeps a new document.
    pub fn keep(&mut self, blob: Blob, file_name: &str, mime_type: Option<&str>) -> Document {
        let document = Document {
            file_unique_id: format!("AgAD{}", random_text::<9>()),
            file_name: clean_name(file_name),
            mime_type: mime_type.unwrap_or("application/octet-stream").to_owned(),
            bytes: blob.bytes,
        };
        self.documents.insert(document.file_unique_id.clone(), (document.clone(), Some(blob)));
        document
    }

    /// The document and the bytes behind a `file_id`, when it is this bot's and they are still there.
    pub fn document_of(&self, bot: i64, file_id: &FileId) -> Option<(Document, Blob)> {
        let (document, blob) = self.documents.get(&file_id.file_unique_id)?;
        (file_id.bot == bot).then(|| Some((document.clone(), blob.clone()?))).flatten()
    }

    /// The `file_id` under which a bot sees a message's file: one for each bot and message, so that a forwarded or sent-again file has
    /// a fresh one. Source: core.telegram.org/bots/api#sending-files, "file_id is unique for each individual bot".
    pub fn file_id(&mut self, bot: i64, chat: i64, message: i64, file_unique_id: &str) -> String {
        let shown = self.shown.entry((bot, chat, message, file_unique_id.to_owned())).or_insert_with(|| {
            // Documents' ids begin so.
            format!("BQACAgIAAx{}", random_text::<45>())
        });
        let known = FileId { bot, file_unique_id: file_unique_id.to_owned() };
        self.file_ids.insert(shown.clone(), known);
        shown.clone()
    }

    /// The fault that a call of this method, in lower case, meets: the first one that waits for it.
    pub fn fault(&mut self, method: &str) -> Option<Fault> {
        let mut met = None;
        for (calls, fault) in &mut self.faults {
            if met.is_none() && calls.take(method) {
                met = Some(fault.clone());
            }
        }
        self.faults.retain(|(calls, _)| !calls.is_spent());
        met
    }
}

impl Chat {
    fn expire(&mut self, now: Timestamp) {
        let gone = self.messages.values().filter(|message| message.expires.is_some_and(|at| at <= now));
        for id in gone.map(|message| message.id).collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    pub fn remove(&mut self, message: i64) -> bool {
        self.pinned.remove(&message);
        self.messages.remove(&message).is_some()
    }

    /// Adds a message under the chat's next id, which its messages share whoever sent them.
    pub fn add(
        &mut self,
        bot: Option<i64>,
        now: Timestamp,
        content: Content,
        forwarded: Option<(i64, i64, Timestamp)>,
    ) -> Message {
        let id = self.next_message_id;
        self.next_message_id += 1;
        // A message's date is in whole seconds.
        let date = now.trunc_subsecs(0);
        let expires = self.auto_delete.map(|after| date + after);
        let message = Message { id, bot, date, edited: None, forwarded, expires, content };
        self.messages.insert(id, message.clone());
        message
    }

    /// Pins a message and announces it, which takes a message id too.
    pub fn pin(&mut self, bot: Option<i64>, now: Timestamp, message: i64) {
        if self.pinned.insert(message) {
            self.add(bot, now, Content::Pinned(message), None);
        }
    }

    /// Takes one of the bot's messages of this minute.
    ///
    /// # Errors
    /// There is none left: 429 with the time after which there is.
    pub fn take_pace(&mut self, bot: i64, now: Timestamp) -> Result<(), Refusal> {
        let sent = self.sent.entry(bot).or_default();
        while sent.front().is_some_and(|at| *at + Duration::minutes(1) <= now) {
            sent.pop_front();
        }
        if sent.len() < MESSAGES_A_MINUTE {
            sent.push_back(now);
            return Ok(());
        }
        let wait = sent[0] + Duration::minutes(1) - now;
        // In whole seconds, upwards.
        Err(Refusal::too_many_requests(u64::try_from((wait.num_milliseconds() + 999) / 1000).unwrap_or(1).max(1)))
    }
}

/// A token as BotFather gives it.
pub fn new_token(bot: i64) -> String {
    format!("{bot}:AA{}", random_text::<25>())
}

/// `BYTES` random bytes in the alphabet of tokens and file ids.
fn random_text<const BYTES: usize>() -> String {
    let mut bytes = [0_u8; BYTES];
    rand::fill(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
