//! The shapes of answers. Source: core.telegram.org/bots/api, "Making requests" and "Available types".

use axum::{
    body::Body,
    http::{Response, header},
};
use serde_json::{Value, json};

use super::state::{Bot, Chat, ChatKind, Content, Membership, Message, Rights, State};

/// An answer with `ok: false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    description: String,
    parameters: Option<Value>,
    retry_after: Option<u64>,
}

impl Refusal {
    pub fn new(status: u16, description: impl Into<String>) -> Self {
        Self { status, description: description.into(), parameters: None, retry_after: None }
    }

    /// 400, `Bad Request: …`.
    pub fn bad(description: impl std::fmt::Display) -> Self {
        Self::new(400, format!("Bad Request: {description}"))
    }

    /// 403, `Forbidden: …`.
    pub fn forbidden(description: impl std::fmt::Display) -> Self {
        Self::new(403, format!("Forbidden: {description}"))
    }

    /// Source: `Query::set_retry_after_error` in tdlib/telegram-bot-api, Query.cpp, and `HttpConnection::send_response` for the header.
    pub fn too_many_requests(seconds: u64) -> Self {
        Self {
            parameters: Some(json!({ "retry_after": seconds })),
            retry_after: Some(seconds),
            ..Self::new(429, format!("Too Many Requests: retry after {seconds}"))
        }
    }

    /// Source: core.telegram.org/bots/api#responseparameters.
    pub fn migrated(to: i64) -> Self {
        Self {
            parameters: Some(json!({ "migrate_to_chat_id": to })),
            ..Self::bad("group chat was upgraded to a supergroup chat")
        }
    }
}

/// `{"ok":true,"result":…}` or `{"ok":false,"error_code":…,"description":…,"parameters":…}`.
pub fn response(outcome: Result<Value, Refusal>) -> Response<Body> {
    let (status, retry_after, body) = match outcome {
        Ok(result) => (200, None, json!({ "ok": true, "result": result })),
        Err(refusal) => {
            let mut body = json!({ "ok": false, "error_code": refusal.status, "description": refusal.description });
            if let Some(parameters) = refusal.parameters {
                body["parameters"] = parameters;
            }
            (refusal.status, refusal.retry_after, body)
        }
    };
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    response.body(Body::from(body.to_string())).expect("a status and headers that exist")
}

/// Source: core.telegram.org/bots/api#user.
pub fn user(bot: &Bot) -> Value {
    json!({ "id": bot.id, "is_bot": true, "first_name": "Holdfast", "username": bot.username })
}

/// Source: core.telegram.org/bots/api#chat.
pub fn chat(chat: &Chat) -> Value {
    json!({ "id": chat.id, "title": chat.title, "type": chat.kind.name() })
}

/// Source: core.telegram.org/bots/api#chatfullinfo. `pinned_message` is "the most recent pinned message (by sending date)": not the
/// one that was pinned last.
pub fn full_chat(state: &mut State, bot: i64, id: i64) -> Value {
    let found = state.chats[&id].clone();
    let mut info = chat(&found);
    info["accent_color_id"] = json!(0);
    info["max_reaction_count"] = json!(11);
    if let Some(after) = found.auto_delete {
        info["message_auto_delete_time"] = json!(after.num_seconds());
    }
    if let Some(pinned) = found.pinned.last().and_then(|id| found.messages.get(id)) {
        info["pinned_message"] = message(state, bot, &found, pinned);
    }
    info
}

/// Source: core.telegram.org/bots/api#chatmember and its kinds.
pub fn member(bot: &Bot, kind: ChatKind, membership: Membership) -> Value {
    let mut member = json!({ "user": user(bot) });
    let Membership::Administrator(Rights { post, edit, delete, pin }) = membership else {
        member["status"] = match membership {
            Membership::Kicked => {
                member["until_date"] = json!(0);
                "kicked".into()
            }
            Membership::Left => "left".into(),
            Membership::Member | Membership::Administrator(_) => "member".into(),
        };
        return member;
    };
    member["status"] = "administrator".into();
    for (right, given) in [
        ("can_be_edited", false),
        ("is_anonymous", false),
        ("can_manage_chat", true),
        ("can_change_info", false),
        ("can_delete_messages", delete),
        ("can_invite_users", false),
        ("can_restrict_members", false),
        ("can_promote_members", false),
        ("can_manage_video_chats", false),
        ("can_post_stories", false),
        ("can_edit_stories", false),
        ("can_delete_stories", false),
    ] {
        member[right] = given.into();
    }
    if kind == ChatKind::Channel {
        member["can_post_messages"] = post.into();
        member["can_edit_messages"] = edit.into();
    } else {
        member["can_pin_messages"] = pin.into();
    }
    member
}

/// Source: core.telegram.org/bots/api#message. Posts in a channel have a `sender_chat` and no `from`.
pub fn message(state: &mut State, bot: i64, found: &Chat, message: &Message) -> Value {
    let mut shown = json!({ "message_id": message.id, "date": message.date.timestamp(), "chat": chat(found) });
    match message.bot.and_then(|id| state.bots.iter().find(|bot| bot.id == id)) {
        _ if found.kind == ChatKind::Channel => shown["sender_chat"] = chat(found),
        Some(bot) => shown["from"] = user(bot),
        None => shown["from"] = json!({ "id": 4242, "is_bot": false, "first_name": "Someone else" }),
    }
    if let Some(edited) = message.edited {
        shown["edit_date"] = json!(edited.timestamp());
    }
    if let Some((from_chat, from_message, date)) = message.forwarded {
        let from = state.chats.get(&from_chat).map(chat);
        shown["forward_origin"] =
            json!({ "type": "channel", "chat": from, "message_id": from_message, "date": date.timestamp() });
    }
    match &message.content {
        Content::Text(text) => shown["text"] = json!(text),
        Content::Migrated(other) if found.kind == ChatKind::Group => shown["migrate_to_chat_id"] = json!(other),
        Content::Migrated(other) => shown["migrate_from_chat_id"] = json!(other),
        Content::Pinned(id) => {
            shown["pinned_message"] = json!({ "message_id": id, "date": 0, "chat": chat(found) });
        }
        Content::Document { document, caption } => {
            shown["document"] = json!({
                "file_name": document.file_name,
                "mime_type": document.mime_type,
                "file_id": state.file_id(bot, found.id, message.id, &document.file_unique_id),
                "file_unique_id": document.file_unique_id,
                "file_size": document.bytes,
            });
            if !caption.is_empty() {
                shown["caption"] = json!(caption);
            }
        }
    }
    shown
}
