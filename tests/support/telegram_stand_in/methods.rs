//! The methods. Source of what each takes and gives: its section of core.telegram.org/bots/api; of what it says when it refuses:
//! `Client.cpp` in tdlib/telegram-bot-api unless something else is named.

use chrono::Duration;
use serde_json::{Value, json};

use super::{
    access::{self, Access},
    answer::{self, Refusal},
    request::{Arguments, Upload},
    state::{Bot, Content, Document, Link, State},
};

/// Largest file that is given back by the cloud Bot API. Source: core.telegram.org/bots/api#getfile, "up to 20MB in size", and
/// `MAX_DOWNLOAD_FILE_SIZE = 20 << 20` in tdlib/telegram-bot-api, telegram-bot-api/Client.h.
const MAX_DOWNLOAD: u64 = 20 << 20;

/// "It is guaranteed that the link will be valid for at least 1 hour." Source: core.telegram.org/bots/api#getfile.
const LINK_LIFE: Duration = Duration::hours(1);

/// "0-1024 characters after entities parsing." Source: core.telegram.org/bots/api#senddocument. Counted here in UTF-16 units, as
/// entities are (core.telegram.org/bots/api#messageentity): the stricter reading.
const MAX_CAPTION: usize = 1024;

/// "1-4096 characters after entities parsing." Source: core.telegram.org/bots/api#sendmessage.
const MAX_TEXT: usize = 4096;

/// Most ids in one `deleteMessages`. Source: core.telegram.org/bots/api#deletemessages.
const MAX_IDS: usize = 100;

/// Does what `method`, in lower case, asks for.
pub fn call(state: &mut State, bot: &Bot, method: &str, arguments: &Arguments) -> Result<Value, Refusal> {
    match method {
        "getme" => Ok(get_me(bot)),
        "getchat" => {
            let chat = access::chat(state, bot.id, arguments, "chat_id", Access::Read)?;
            Ok(answer::full_chat(state, bot.id, chat))
        }
        "getchatmember" => get_chat_member(state, bot.id, arguments),
        "senddocument" => send_document(state, bot.id, arguments),
        "sendmessage" => send_message(state, bot.id, arguments),
        "forwardmessage" => forward_message(state, bot.id, arguments),
        "editmessagemedia" => edit_message_media(state, bot.id, arguments),
        "editmessagecaption" => edit_message_caption(state, bot.id, arguments),
        "deletemessage" => delete_message(state, bot.id, arguments),
        "deletemessages" => delete_messages(state, bot.id, arguments),
        "pinchatmessage" => pin_chat_message(state, bot.id, arguments),
        "unpinchatmessage" => unpin_chat_message(state, bot.id, arguments),
        "getfile" => get_file(state, bot.id, arguments),
        _ => Err(Refusal::new(404, "Not Found: method not found")),
    }
}

fn get_me(bot: &Bot) -> Value {
    let mut me = answer::user(bot);
    me["can_join_groups"] = true.into();
    me["can_read_all_group_messages"] = false.into();
    me["supports_inline_queries"] = false.into();
    me
}

fn get_chat_member(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Read)?;
    let user = arguments.text("user_id").and_then(|text| text.parse::<i64>().ok());
    let user = user.ok_or_else(|| Refusal::bad("invalid user_id specified"))?;
    let asked = state.bots.iter().find(|bot| bot.id == user).ok_or_else(|| Refusal::bad("user not found"))?;
    let chat = &state.chats[&chat];
    let membership = chat.members.get(&user).ok_or_else(|| Refusal::bad("user not found"))?;
    Ok(answer::member(asked, chat.kind, *membership))
}

fn send_document(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let caption = caption(arguments.text("caption"), arguments.text("parse_mode"))?;
    let wanted = named_document(arguments, "document", arguments.text("document"))?;
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    access::check_post(&state.chats[&chat], bot)?;
    let document = document(state, bot, wanted)?;
    post(state, bot, chat, Content::Document { document, caption })
}

fn send_message(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let text = parsed(arguments.text("text").unwrap_or_default(), arguments.text("parse_mode"))?;
    if text.is_empty() {
        return Err(Refusal::bad("message text is empty"));
    }
    if text.encode_utf16().count() > MAX_TEXT {
        return Err(Refusal::bad("message is too long"));
    }
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    access::check_post(&state.chats[&chat], bot)?;
    post(state, bot, chat, Content::Text(text))
}

fn forward_message(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let from = access::chat(state, bot, arguments, "from_chat_id", Access::Read)?;
    let to = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    let original = access::message(&state.chats[&from], arguments, "message to forward")?.clone();
    if matches!(original.content, Content::Pinned(_) | Content::Migrated(_)) {
        return Err(Refusal::bad("the message can't be forwarded"));
    }
    access::check_post(&state.chats[&to], bot)?;
    take_pace(state, bot, to)?;
    let now = state.now();
    let origin = original.forwarded.unwrap_or((from, original.id, original.date));
    let message = state.chat_mut(to).add(Some(bot), now, original.content, Some(origin));
    let chat = state.chats[&to].clone();
    Ok(answer::message(state, bot, &chat, &message))
}

fn edit_message_media(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let media: Value = arguments
        .text("media")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| Refusal::bad("can't parse InputMedia: can't parse JSON object"))?;
    if media["type"] != "document" {
        return Err(Refusal::bad("type must be one of document: the stand-in knows no other"));
    }
    let caption = caption(media["caption"].as_str(), media["parse_mode"].as_str())?;
    let wanted = named_document(arguments, "", media["media"].as_str())?;
    let (chat, id) = editable(state, bot, arguments)?;
    let document = document(state, bot, wanted)?;
    edit(state, bot, chat, id, Content::Document { document, caption })
}

fn edit_message_caption(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let caption = caption(arguments.text("caption"), arguments.text("parse_mode"))?;
    let (chat, id) = editable(state, bot, arguments)?;
    let Content::Document { document, .. } = state.chats[&chat].messages[&id].content.clone() else {
        return Err(Refusal::bad("there is no caption in the message to edit"));
    };
    edit(state, bot, chat, id, Content::Document { document, caption })
}

fn editable(state: &State, bot: i64, arguments: &Arguments) -> Result<(i64, i64), Refusal> {
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    let message = access::message(&state.chats[&chat], arguments, "message to edit")?;
    access::check_edit(&state.chats[&chat], bot, message)?;
    Ok((chat, message.id))
}

fn edit(state: &mut State, bot: i64, chat: i64, id: i64, content: Content) -> Result<Value, Refusal> {
    let now = state.now();
    let message = state.chat_mut(chat).messages.get_mut(&id).expect("looked up before");
    if message.content == content {
        return Err(Refusal::bad(
            "message is not modified: specified new message content and reply markup are exactly the same as a current content \
             and reply markup of the message",
        ));
    }
    message.content = content;
    message.edited = Some(now);
    let (message, chat) = (message.clone(), state.chats[&chat].clone());
    Ok(answer::message(state, bot, &chat, &message))
}

fn delete_message(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    let message = access::message(&state.chats[&chat], arguments, "message to delete")?;
    access::check_delete(&state.chats[&chat], bot, message, state.now())?;
    let id = message.id;
    state.chat_mut(chat).remove(id);
    Ok(true.into())
}

/// "If some of the specified messages can't be found, they are skipped." What happens when one of them cannot be deleted is not
/// documented; here the call fails and none is, which leaves most to the caller.
fn delete_messages(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let ids: Option<Vec<i64>> = arguments.text("message_ids").and_then(|text| serde_json::from_str(text).ok());
    let ids = ids.ok_or_else(|| Refusal::bad("can't parse message_ids JSON object"))?;
    if ids.is_empty() {
        return Err(Refusal::bad("message identifiers are not specified"));
    }
    if ids.len() > MAX_IDS {
        return Err(Refusal::bad("too many message identifiers specified"));
    }
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    let (found, now) = (&state.chats[&chat], state.now());
    for message in ids.iter().filter_map(|id| found.messages.get(id)) {
        access::check_delete(found, bot, message, now)?;
    }
    let chat = state.chat_mut(chat);
    for id in ids {
        chat.remove(id);
    }
    Ok(true.into())
}

fn pin_chat_message(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    let id = access::message(&state.chats[&chat], arguments, "message to pin")?.id;
    access::check_pin(&state.chats[&chat], bot)?;
    let now = state.now();
    state.chat_mut(chat).pin(Some(bot), now, id);
    Ok(true.into())
}

/// "If not specified, the most recent pinned message (by sending date) will be unpinned."
fn unpin_chat_message(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let chat = access::chat(state, bot, arguments, "chat_id", Access::Write)?;
    let found = &state.chats[&chat];
    let id = match arguments.text("message_id") {
        Some(_) => access::message(found, arguments, "message to unpin")?.id,
        None => *found.pinned.last().ok_or_else(|| Refusal::bad("message to unpin not found"))?,
    };
    access::check_pin(found, bot)?;
    state.chat_mut(chat).pinned.remove(&id);
    Ok(true.into())
}

fn get_file(state: &mut State, bot: i64, arguments: &Arguments) -> Result<Value, Refusal> {
    let file_id = arguments.text("file_id").ok_or_else(|| Refusal::bad("file_id not specified"))?;
    let known = state.file_ids.get(file_id).ok_or_else(|| Refusal::bad("invalid file_id"))?;
    // The same words for another bot's file, for one that is lost, and for one that will be there in a minute.
    let found = state.document_of(bot, known);
    let (document, blob) = found.ok_or_else(|| Refusal::bad("wrong file_id or the file is temporarily unavailable"))?;
    if blob.bytes > MAX_DOWNLOAD {
        return Err(Refusal::bad("file is too big"));
    }
    let extension = document.file_name.rsplit_once('.').map(|(_, extension)| format!(".{extension}"));
    let file_path = format!("documents/file_{}{}", state.links.len(), extension.unwrap_or_default());
    let file = json!({
        "file_id": file_id, "file_unique_id": document.file_unique_id, "file_size": blob.bytes, "file_path": file_path,
    });
    let until = state.now() + LINK_LIFE;
    state.links.insert(file_path, Link { bot, blob, until });
    Ok(file)
}

/// Sends, when the pace allows it.
fn post(state: &mut State, bot: i64, chat: i64, content: Content) -> Result<Value, Refusal> {
    take_pace(state, bot, chat)?;
    let now = state.now();
    let message = state.chat_mut(chat).add(Some(bot), now, content, None);
    let chat = state.chats[&chat].clone();
    Ok(answer::message(state, bot, &chat, &message))
}

fn take_pace(state: &mut State, bot: i64, chat: i64) -> Result<(), Refusal> {
    let now = state.now();
    if state.paces { state.chat_mut(chat).take_pace(bot, now) } else { Ok(()) }
}

/// A document as an argument gives it.
enum Named<'a> {
    Upload(&'a Upload),
    FileId(&'a str),
}

/// An uploaded file under this name or `attach://…`, or a `file_id`. Source: core.telegram.org/bots/api#sending-files.
fn named_document<'a>(arguments: &'a Arguments, name: &str, text: Option<&'a str>) -> Result<Named<'a>, Refusal> {
    let missing = || Refusal::bad("there is no document in the request");
    match (arguments.file(name), text) {
        (Some(upload), _) => Ok(Named::Upload(upload)),
        (None, Some(text)) if text.starts_with("http://") || text.starts_with("https://") => {
            // The stand-in fetches nothing.
            Err(Refusal::bad("failed to get HTTP URL content"))
        }
        (None, Some(text)) => match text.strip_prefix("attach://") {
            Some(attached) => arguments.file(attached).map(Named::Upload).ok_or_else(missing),
            None => Ok(Named::FileId(text)),
        },
        (None, None) => Err(missing()),
    }
}

/// Keeps an upload, or finds the file that was sent before.
fn document(state: &mut State, bot: i64, named: Named<'_>) -> Result<Document, Refusal> {
    match named {
        Named::Upload(upload) if upload.blob.bytes == 0 => Err(Refusal::bad("file must be non-empty")),
        Named::Upload(upload) => Ok(state.keep(upload.blob.clone(), &upload.file_name, upload.content_type.as_deref())),
        Named::FileId(file_id) => {
            let known = state.file_ids.get(file_id);
            let known =
                known.ok_or_else(|| Refusal::bad("wrong remote file identifier specified: Wrong string length"))?;
            let found = state.document_of(bot, known).map(|(document, _)| document);
            found.ok_or_else(|| Refusal::bad("wrong file identifier/HTTP URL specified"))
        }
    }
}

fn caption(text: Option<&str>, parse_mode: Option<&str>) -> Result<String, Refusal> {
    let caption = parsed(text.unwrap_or_default(), parse_mode)?;
    if caption.encode_utf16().count() > MAX_CAPTION {
        return Err(Refusal::bad("message caption is too long"));
    }
    Ok(caption)
}

/// The text without its entities. Source: core.telegram.org/bots/api#html-style; the stand-in knows no other style.
fn parsed(text: &str, parse_mode: Option<&str>) -> Result<String, Refusal> {
    match parse_mode.map(str::to_lowercase).as_deref() {
        None | Some("") => return Ok(text.trim().to_owned()),
        Some("html") => {}
        Some(_) => return Err(Refusal::bad("unsupported parse_mode")),
    }
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('<') {
        plain.push_str(&rest[..at]);
        let end = rest[at..].find('>').ok_or_else(|| Refusal::bad("can't parse entities: Unclosed start tag"))?;
        rest = &rest[at + end + 1..];
    }
    plain.push_str(rest);
    let plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    Ok(plain.trim().to_owned())
}
