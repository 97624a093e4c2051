//! The other side of the stand-in: time, faults, others' doings in the chat, and what was left behind.

use chrono::Duration;
use holdfast::clock::Timestamp;

use super::{
    Api,
    faults::{Calls, Fault},
    files::Blob,
    state::{Call, Chat, ChatKind, Content, Document, Fate, Membership, Message, new_token},
};

/// A message as it lies in a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMessage {
    pub id: i64,
    pub date: Timestamp,
    pub is_pinned: bool,
    /// Whether a bot sent it.
    pub is_by_bot: bool,
    pub content: Content,
}

impl SeenMessage {
    pub fn document(&self) -> Option<&Document> {
        match &self.content {
            Content::Document { document, .. } => Some(document),
            Content::Text(_) | Content::Pinned(_) | Content::Migrated(_) => None,
        }
    }

    /// Empty without one.
    pub fn caption(&self) -> &str {
        match &self.content {
            Content::Document { caption, .. } => caption,
            Content::Text(_) | Content::Pinned(_) | Content::Migrated(_) => "",
        }
    }
}

/// Decides over a stand-in and looks into it; clones are the same. Chats and files that do not exist panic.
#[derive(Clone, Debug)]
pub struct Control(pub(super) Api);

impl Control {
    /// The stand-in's time: the machine's, moved by [`advance`](Self::advance).
    pub fn now(&self) -> Timestamp {
        self.0.state().now()
    }

    pub fn advance(&self, by: Duration) {
        let mut state = self.0.state();
        state.advance(by);
        state.tick();
    }

    /// Whether the 21st message in a minute is refused; so it is from the start.
    pub fn set_pacing(&self, paces: bool) {
        self.0.state().paces = paces;
    }

    /// Lets calls go wrong. Of several faults that wait for a call, the first one meets it.
    pub fn inject(&self, fault: Fault, calls: Calls) {
        self.0.state().faults.push((calls, fault));
    }

    /// How many faults have not been met yet.
    pub fn faults_left(&self) -> usize {
        self.0.state().faults.len()
    }

    /// How often a method was called, refused calls included. Case does not matter.
    pub fn calls(&self, method: &str) -> usize {
        self.0.state().calls.iter().filter(|call| call.method.eq_ignore_ascii_case(method)).count()
    }

    /// Every call so far.
    pub fn log(&self) -> Vec<Call> {
        self.0.state().calls.clone()
    }

    /// A further private chat, with every bot as an administrator.
    pub fn add_chat(&self, kind: ChatKind) -> i64 {
        let mut state = self.0.state();
        let bots: Vec<i64> = state.bots.iter().map(|bot| bot.id).collect();
        state.add_chat(kind, &bots)
    }

    /// The token of a further bot, which is in no chat.
    pub fn add_bot(&self) -> String {
        self.0.state().add_bot().token
    }

    /// What the bot with this token is in a chat from now on: without rights, or kicked.
    pub fn set_membership(&self, chat: i64, token: &str, membership: Membership) {
        let mut state = self.0.state();
        let bot = state.bots.iter().find(|bot| bot.token == token).expect("a bot's token").id;
        state.chat_mut(chat).members.insert(bot, membership);
    }

    /// The token stops being valid, as when the bot's owner asks for a new one, which this gives.
    pub fn revoke(&self, token: &str) -> String {
        let mut state = self.0.state();
        let bot = state.bots.iter_mut().find(|bot| bot.token == token).expect("a bot's token");
        bot.token = new_token(bot.id);
        bot.token.clone()
    }

    /// Messages that come from now on vanish after this time.
    pub fn set_auto_delete(&self, chat: i64, after: Option<Duration>) {
        self.0.state().chat_mut(chat).auto_delete = after;
    }

    pub fn delete_chat(&self, chat: i64) {
        self.0.state().chat_mut(chat).fate = Fate::Deleted;
    }

    /// Upgrades a group to a supergroup, whose id this gives. Its messages stay under the old id, and those of the new one are counted
    /// from 1. Source: core.telegram.org/bots/api#message, `migrate_to_chat_id`.
    pub fn migrate(&self, group: i64) -> i64 {
        let mut state = self.0.state();
        let bots: Vec<i64> = state.bots.iter().map(|bot| bot.id).collect();
        let (to, now) = (state.add_chat(ChatKind::Supergroup, &bots), state.now());
        let old = state.chat_mut(group);
        old.fate = Fate::MigratedTo(to);
        old.add(None, now, Content::Migrated(to), None);
        let members = old.members.clone();
        let new = state.chat_mut(to);
        new.members = members;
        new.add(None, now, Content::Migrated(group), None);
        to
    }

    /// Someone else writes; gives the message's id.
    pub fn post_foreign(&self, chat: i64, text: &str) -> i64 {
        let mut state = self.0.state();
        let now = state.now();
        state.chat_mut(chat).add(None, now, Content::Text(text.to_owned()), None).id
    }

    /// Someone else sends a document; gives the message's id.
    pub fn post_foreign_document(&self, chat: i64, file_name: &str, content: &[u8]) -> i64 {
        let mut state = self.0.state();
        let (blob, now) = (Blob::of(content).expect("a temporary file"), state.now());
        let document = state.keep(blob, file_name, None);
        let content = Content::Document { document, caption: String::new() };
        state.chat_mut(chat).add(None, now, content, None).id
    }

    /// Someone else pins a message.
    pub fn pin(&self, chat: i64, message: i64) {
        let mut state = self.0.state();
        let now = state.now();
        state.chat_mut(chat).pin(None, now, message);
    }

    /// Someone else takes a pin away.
    pub fn unpin(&self, chat: i64, message: i64) {
        self.0.state().chat_mut(chat).pinned.remove(&message);
    }

    /// The chat's owner deletes a message, at any age.
    pub fn remove_message(&self, chat: i64, message: i64) {
        assert!(self.0.state().chat_mut(chat).remove(message), "there is no message {message}");
    }

    /// The messages of a chat, oldest first.
    pub fn messages(&self, chat: i64) -> Vec<SeenMessage> {
        let mut state = self.0.state();
        state.tick();
        let chat = state.chat_mut(chat);
        chat.messages.values().map(|message| seen(chat, message)).collect()
    }

    /// Those that hold a document.
    pub fn documents(&self, chat: i64) -> Vec<SeenMessage> {
        self.messages(chat).into_iter().filter(|message| message.document().is_some()).collect()
    }

    /// The ids of the pinned messages, oldest message first.
    pub fn pinned(&self, chat: i64) -> Vec<i64> {
        self.0.state().chat_mut(chat).pinned.iter().copied().collect()
    }

    /// The bytes of a document.
    pub fn content(&self, file_unique_id: &str) -> Vec<u8> {
        self.blob(file_unique_id).read().expect("a readable file")
    }

    /// Loses a file: its messages stay, its bytes are gone.
    pub fn forget_file(&self, file_unique_id: &str) {
        self.0.state().documents.get_mut(file_unique_id).expect("a known file").1 = None;
    }

    /// Inverts one byte of a stored file.
    pub fn corrupt_file(&self, file_unique_id: &str, at: u64) {
        self.blob(file_unique_id).flip(at).expect("a writable file");
    }

    fn blob(&self, file_unique_id: &str) -> Blob {
        let state = self.0.state();
        let (_, blob) = state.documents.get(file_unique_id).expect("a known file");
        blob.clone().expect("a file that was not forgotten")
    }
}

fn seen(chat: &Chat, message: &Message) -> SeenMessage {
    SeenMessage {
        id: message.id,
        date: message.date,
        is_pinned: chat.pinned.contains(&message.id),
        is_by_bot: message.bot.is_some(),
        content: message.content.clone(),
    }
}
