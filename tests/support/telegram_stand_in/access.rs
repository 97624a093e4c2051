//! Who may do what in which chat, in the server's own words. Source: `Client::check_chat_access` and `Client::check_message` in
//! tdlib/telegram-bot-api, telegram-bot-api/Client.cpp; what TDLib itself checks is named where it is.

use chrono::Duration;
use holdfast::clock::Timestamp;

use super::{
    answer::Refusal,
    request::Arguments,
    state::{Chat, ChatKind, Fate, Membership, Message, State},
};

/// "A message can only be deleted if it was sent less than 48 hours ago." Source: core.telegram.org/bots/api#deletemessage.
const DELETABLE: Duration = Duration::hours(48);

/// What a call wants of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// The chat that the argument names, when the bot may use it so.
pub fn chat(state: &State, bot: i64, arguments: &Arguments, name: &str, access: Access) -> Result<i64, Refusal> {
    let text = arguments.text(name).ok_or_else(|| Refusal::bad(format_args!("{name} is empty")))?;
    let found = text.parse().ok().and_then(|id: i64| state.chats.get(&id));
    let chat = found.ok_or_else(|| Refusal::bad("chat not found"))?;
    match (chat.fate, access) {
        (Fate::Alive, _) | (Fate::MigratedTo(_), Access::Read) => {}
        (Fate::MigratedTo(to), Access::Write) => return Err(Refusal::migrated(to)),
        (Fate::Deleted, _) if chat.kind == ChatKind::Group => {
            return Err(Refusal::forbidden("the group chat was deleted"));
        }
        (Fate::Deleted, _) => return Err(Refusal::bad("chat not found")),
    }
    let kind = chat.kind.name();
    match chat.members.get(&bot) {
        Some(Membership::Administrator(_) | Membership::Member) => Ok(chat.id),
        Some(Membership::Kicked) => Err(Refusal::forbidden(format_args!("bot was kicked from the {kind} chat"))),
        Some(Membership::Left) => Err(Refusal::forbidden(format_args!("bot is not a member of the {kind} chat"))),
        // A private chat that the bot never saw.
        None => Err(Refusal::bad("chat not found")),
    }
}

/// Source: `can_send_message` in tdlib/td, td/telegram/MessagesManager.cpp, in a channel; elsewhere any member may.
pub fn check_post(chat: &Chat, bot: i64) -> Result<(), Refusal> {
    let may = chat.kind != ChatKind::Channel || chat.members[&bot].rights().is_some_and(|rights| rights.post);
    if may { Ok(()) } else { Err(Refusal::bad("need administrator rights in the channel chat")) }
}

/// In a channel, pinning is a matter of editing. Source: `DialogManager::can_pin_messages` in tdlib/td, td/telegram/DialogManager.cpp.
pub fn check_pin(chat: &Chat, bot: i64) -> Result<(), Refusal> {
    let rights = chat.members[&bot].rights();
    let may = rights.is_some_and(|rights| if chat.kind == ChatKind::Channel { rights.edit } else { rights.pin });
    if may { Ok(()) } else { Err(Refusal::bad("not enough rights to manage pinned messages in the chat")) }
}

/// The message that the argument names; `what` is "message to delete" and the like.
pub fn message<'a>(chat: &'a Chat, arguments: &Arguments, what: &str) -> Result<&'a Message, Refusal> {
    let id = arguments.text("message_id").and_then(|text| text.parse::<i64>().ok());
    let found = id.and_then(|id| chat.messages.get(&id));
    found.ok_or_else(|| Refusal::bad(format_args!("{what} not found")))
}

/// A bot's own posts need the right to post; everything else needs the right to delete; nothing is deleted after 48 hours, not even by
/// an administrator. Words and the age: what bots were told of channels in eternnoir/pyTelegramBotAPI issue 1544 and
/// TelegramBots/Telegram.Bot issue 471, and of groups in tdlib/telegram-bot-api issue 403.
pub fn check_delete(chat: &Chat, bot: i64, message: &Message, now: Timestamp) -> Result<(), Refusal> {
    let rights = chat.members[&bot].rights();
    let is_own = message.bot == Some(bot);
    let may = match rights {
        Some(rights) => rights.delete || (is_own && (rights.post || chat.kind != ChatKind::Channel)),
        None => is_own && chat.kind != ChatKind::Channel,
    };
    match (may && now - message.date < DELETABLE, chat.kind) {
        (true, _) => Ok(()),
        (false, ChatKind::Group) => Err(Refusal::bad("message can't be deleted for everyone")),
        (false, ChatKind::Supergroup | ChatKind::Channel) => Err(Refusal::bad("message can't be deleted")),
    }
}

/// A bot edits its own posts, and others' in a channel with the right to. Source: core.telegram.org/bots/api#updating-messages.
pub fn check_edit(chat: &Chat, bot: i64, message: &Message) -> Result<(), Refusal> {
    let rights = chat.members[&bot].rights();
    let may = match chat.kind {
        ChatKind::Channel => rights.is_some_and(|rights| rights.edit || (rights.post && message.bot == Some(bot))),
        ChatKind::Group | ChatKind::Supergroup => message.bot == Some(bot),
    };
    if may { Ok(()) } else { Err(Refusal::bad("message can't be edited")) }
}
