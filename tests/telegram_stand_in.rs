//! The stand-in of Telegram's Bot API keeps the limits and shapes that it says it keeps, seen with a plain HTTP client.

mod bot;
mod faults;

use crate::support::telegram_stand_in;

use bot::{Bot, noise};
use chrono::{DateTime, Duration};
use holdfast::clock::Clock;
use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use telegram_stand_in::{ChatKind, Content, Membership, Rights};

/// 20 MiB, as `getFile` has it.
const DOWNLOADABLE: usize = 20 << 20;

#[tokio::test]
async fn a_document_comes_back_as_it_was_sent() {
    let bot = Bot::new().await;
    // Every byte, and what looks like the end of a part.
    let mut content = noise(300_000);
    content.extend(0..=255);
    content.extend(b"\r\n--\r\n\r\r\n--x");
    let message = Bot::ok(bot.upload_as("sales 2026.sql.gz.age", content.clone(), "part 1 of 1").await);
    let document = &message["document"];
    assert_eq!(message["caption"], "part 1 of 1");
    assert_eq!(message["chat"], json!({ "id": bot.chat, "title": "Backups", "type": "channel" }));
    assert_eq!(message["sender_chat"]["id"], bot.chat);
    assert_eq!(message.get("from"), None, "posts of a channel have no sender");
    assert_eq!(document["file_name"], "sales 2026.sql.gz.age");
    assert_eq!(document["file_size"], content.len());
    let path = bot.file_path(&document["file_id"]).await;
    let (status, bytes) = bot.download(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert!(bytes == content, "the bytes differ");
    assert!(bot.control().content(document["file_unique_id"].as_str().unwrap()) == content, "the kept bytes differ");
}

#[tokio::test]
async fn arguments_come_from_the_query_a_form_json_or_multipart() {
    let bot = Bot::new().await;
    let chat = bot.chat.to_string();
    let arguments = [("chat_id", chat.as_str()), ("text", "a b+c")];
    let url = bot.method_url("sendMessage");
    let query = bot.http.get(&url).query(&arguments);
    let body = format!("chat_id={chat}&text=a%20b%2Bc");
    let form = bot.http.post(&url).header("content-type", "application/x-www-form-urlencoded").body(body);
    let json = bot.http.post(&url).json(&json!({ "chat_id": bot.chat, "text": "a b+c" }));
    let parts = Form::new().text("chat_id", chat.clone()).text("text", "a b+c");
    let multipart = bot.http.post(bot.method_url("SENDMESSAGE")).multipart(parts);
    for request in [query, form, json, multipart] {
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["result"]["text"], "a b+c", "{answer}");
    }
    assert_eq!(bot.control().calls("sendMessage"), 4, "methods are not case-sensitive");
}

#[tokio::test]
async fn an_unknown_token_is_401_a_malformed_one_and_an_unknown_method_404() {
    let mut bot = Bot::new().await;
    Bot::refused(bot.call("getNothing", json!({})).await, 404, "Not Found: method not found");
    let known = std::mem::replace(&mut bot.token, format!("1234567:{}", "A".repeat(35)));
    Bot::refused(bot.call("getMe", json!({})).await, 401, "Unauthorized");
    assert_eq!(bot.download("documents/file_0").await.0, StatusCode::UNAUTHORIZED);
    for malformed in ["nonsense", "123:short", &known.replace(':', "")] {
        bot.token = malformed.to_owned();
        Bot::refused(bot.call("getMe", json!({})).await, 404, "Not Found");
    }
    bot.token = bot.control().revoke(&known);
    assert_eq!(Bot::ok(bot.call("getMe", json!({})).await)["is_bot"], true);
    bot.token = known;
    Bot::refused(bot.call("getMe", json!({})).await, 401, "Unauthorized");
}

#[tokio::test]
async fn a_file_of_20_mib_is_given_back_and_a_larger_one_is_not() {
    let bot = Bot::new().await;
    let largest = noise(DOWNLOADABLE);
    let message = bot.upload(&largest).await;
    let path = bot.file_path(&message["document"]["file_id"]).await;
    let (status, bytes) = bot.download(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert!(bytes == largest, "the bytes differ");
    let message = bot.upload(&vec![7; DOWNLOADABLE + 1]).await;
    let asked = bot.call("getFile", json!({ "file_id": message["document"]["file_id"] })).await;
    Bot::refused(asked, 400, "Bad Request: file is too big");
}

#[tokio::test]
async fn an_upload_beyond_50_mb_is_413() {
    let bot = Bot::new().await;
    let sent = bot.upload_as("large.age", vec![0; 50 << 20], "").await;
    Bot::refused(sent, 413, "Request Entity Too Large");
    assert!(bot.control().messages(bot.chat).is_empty());
}

#[tokio::test]
async fn an_empty_file_is_refused() {
    let bot = Bot::new().await;
    let sent = bot.upload_as("empty.age", Vec::new(), "").await;
    Bot::refused(sent, 400, "Bad Request: file must be non-empty");
    let sent = bot.call("sendDocument", json!({ "chat_id": bot.chat })).await;
    Bot::refused(sent, 400, "Bad Request: there is no document in the request");
}

#[tokio::test]
async fn a_caption_has_at_most_1024_characters_after_its_entities() {
    let bot = Bot::new().await;
    let longest = "é".repeat(1024);
    let message = Bot::ok(bot.upload_as("a.age", vec![1], &longest).await);
    assert_eq!(message["caption"], longest);
    let sent = bot.upload_as("a.age", vec![1], &"x".repeat(1025)).await;
    Bot::refused(sent, 400, "Bad Request: message caption is too long");
    let html = json!({
        "chat_id": bot.chat, "message_id": message["message_id"], "parse_mode": "HTML",
        "caption": format!("<b>{}</b>&amp;", "x".repeat(1023)),
    });
    let edited = Bot::ok(bot.call("editMessageCaption", html).await);
    assert_eq!(edited["caption"], format!("{}&", "x".repeat(1023)));
    assert!(edited["edit_date"].is_i64());
}

#[tokio::test]
async fn a_files_name_is_cleaned() {
    let bot = Bot::new().await;
    let long = format!("{}.{}", "s".repeat(70), "e".repeat(20));
    let cut = format!("{}.{}", "s".repeat(64), "e".repeat(16));
    for (given, kept) in [
        ("backup-2026-01-01.sql.gz.age", "backup-2026-01-01.sql.gz.age"),
        ("../../etc/passwd", "passwd"),
        ("what?*<is>:this.age", "what   is  this.age"),
        (" .hidden. .age", "hidden.age"),
        (long.as_str(), cut.as_str()),
    ] {
        let message = Bot::ok(bot.upload_as(given, vec![1], "").await);
        assert_eq!(message["document"]["file_name"], kept, "{given:?}");
    }
}

#[tokio::test]
async fn a_link_is_valid_for_an_hour() {
    let bot = Bot::new().await;
    let message = bot.upload(b"bytes").await;
    let path = bot.file_path(&message["document"]["file_id"]).await;
    bot.control().advance(Duration::minutes(59));
    assert_eq!(bot.download(&path).await, (StatusCode::OK, b"bytes".to_vec()));
    bot.control().advance(Duration::minutes(2));
    assert_eq!(bot.download(&path).await.0, StatusCode::NOT_FOUND);
    let path = bot.file_path(&message["document"]["file_id"]).await;
    assert_eq!(bot.download(&path).await.0, StatusCode::OK);
}

#[tokio::test]
async fn message_ids_grow_and_are_shared_with_others() {
    let bot = Bot::new().await;
    let first = bot.upload(b"1").await["message_id"].as_i64().unwrap();
    let foreign = bot.control().post_foreign(bot.chat, "hello");
    let second = bot.upload(b"2").await["message_id"].as_i64().unwrap();
    assert_eq!((foreign, second), (first + 1, first + 2));
    let other = bot.control().add_chat(ChatKind::Channel);
    let sent = Bot::ok(bot.call("sendMessage", json!({ "chat_id": other, "text": "x" })).await);
    assert_eq!(sent["message_id"], 1, "each chat counts for itself");
}

#[tokio::test]
async fn a_file_id_belongs_to_one_bot() {
    let mut bot = Bot::new().await;
    let message = bot.upload(b"bytes").await;
    let (id, first_bot, first_id) = (message["message_id"].clone(), bot.token.clone(), message["document"].clone());
    bot.token = bot.stand_in.second_token();
    let asked = bot.call("getFile", json!({ "file_id": first_id["file_id"] })).await;
    Bot::refused(asked, 400, "Bad Request: wrong file_id or the file is temporarily unavailable");
    let sent = bot.call("sendDocument", json!({ "chat_id": bot.chat, "document": first_id["file_id"] })).await;
    Bot::refused(sent, 400, "Bad Request: wrong file identifier/HTTP URL specified");
    Bot::ok(bot.call("pinChatMessage", json!({ "chat_id": bot.chat, "message_id": id })).await);
    let seen = bot.pinned().await["document"].clone();
    assert_eq!(seen["file_unique_id"], first_id["file_unique_id"]);
    assert_ne!(seen["file_id"], first_id["file_id"]);
    let path = bot.file_path(&seen["file_id"]).await;
    assert_eq!(bot.download(&path).await, (StatusCode::OK, b"bytes".to_vec()));
    bot.token = first_bot;
    assert_eq!(bot.download(&path).await.0, StatusCode::NOT_FOUND, "a link too");
    Bot::refused(bot.call("getFile", json!({ "file_id": "BQAC" })).await, 400, "Bad Request: invalid file_id");
}

#[tokio::test]
async fn a_forward_and_a_file_sent_again_have_a_fresh_file_id() {
    let bot = Bot::new().await;
    let sent = bot.upload(b"bytes").await;
    let forward = json!({ "chat_id": bot.chat, "from_chat_id": bot.chat, "message_id": sent["message_id"] });
    let forwarded = Bot::ok(bot.call("forwardMessage", forward).await);
    assert_eq!(forwarded["forward_origin"]["message_id"], sent["message_id"]);
    let again = json!({ "chat_id": bot.chat, "document": sent["document"]["file_id"], "caption": "again" });
    let again = Bot::ok(bot.call("sendDocument", again).await);
    for message in [&forwarded, &again] {
        assert_ne!(message["document"]["file_id"], sent["document"]["file_id"]);
        assert_eq!(message["document"]["file_unique_id"], sent["document"]["file_unique_id"]);
        let path = bot.file_path(&message["document"]["file_id"]).await;
        assert_eq!(bot.download(&path).await.1, b"bytes");
    }
    let missing = json!({ "chat_id": bot.chat, "from_chat_id": bot.chat, "message_id": 999 });
    Bot::refused(bot.call("forwardMessage", missing).await, 400, "Bad Request: message to forward not found");
}

#[tokio::test]
async fn the_21st_message_in_a_minute_has_to_wait() {
    let bot = Bot::new().await;
    for _ in 0..20 {
        Bot::ok(bot.say("x").await);
    }
    let body = json!({ "chat_id": bot.chat, "text": "x" });
    let answer = bot.http.post(bot.method_url("sendMessage")).json(&body).send().await.unwrap();
    let header = answer.headers()["retry-after"].to_str().unwrap().to_owned();
    let answer: (StatusCode, Value) = (answer.status(), answer.json().await.unwrap());
    let wait = answer.1["parameters"]["retry_after"].as_i64().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(header, wait.to_string());
    Bot::refused(answer, 429, &format!("Too Many Requests: retry after {wait}"));
    Bot::ok(bot.call("getChat", json!({ "chat_id": bot.chat })).await);
    bot.control().advance(Duration::seconds(wait));
    Bot::ok(bot.say("x").await);
    bot.control().set_pacing(false);
    for _ in 0..40 {
        Bot::ok(bot.say("x").await);
    }
}

#[tokio::test]
async fn nothing_is_deleted_after_48_hours() {
    let bot = Bot::new().await;
    let (first, second) = (bot.upload(b"1").await, bot.upload(b"2").await);
    let delete = |message: &Value| json!({ "chat_id": bot.chat, "message_id": message["message_id"] });
    bot.control().advance(Duration::hours(48) - Duration::minutes(1));
    Bot::ok(bot.call("deleteMessage", delete(&first)).await);
    Bot::refused(bot.call("deleteMessage", delete(&first)).await, 400, "Bad Request: message to delete not found");
    bot.control().advance(Duration::minutes(2));
    Bot::refused(bot.call("deleteMessage", delete(&second)).await, 400, "Bad Request: message can't be deleted");
    assert_eq!(bot.control().documents(bot.chat).len(), 1);
}

#[tokio::test]
async fn delete_messages_takes_1_to_100_skips_missing_ones_and_does_all_or_nothing() {
    let bot = Bot::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(Bot::ok(bot.say("x").await)["message_id"].as_i64().unwrap());
    }
    bot.control().advance(Duration::hours(49));
    let young = Bot::ok(bot.say("young").await)["message_id"].as_i64().unwrap();
    let delete =
        async |ids: Vec<i64>| bot.call("deleteMessages", json!({ "chat_id": bot.chat, "message_ids": ids })).await;
    Bot::refused(delete(vec![young, ids[0]]).await, 400, "Bad Request: message can't be deleted");
    assert_eq!(bot.control().messages(bot.chat).len(), 4, "the young one is still there too");
    assert_eq!(Bot::ok(delete(vec![young, 12_345]).await), json!(true));
    assert_eq!(bot.control().messages(bot.chat).len(), 3);
    assert_eq!(Bot::ok(delete(vec![young]).await), json!(true), "what is gone is skipped");
    Bot::refused(delete(Vec::new()).await, 400, "Bad Request: message identifiers are not specified");
    Bot::refused(delete((1..=101).collect()).await, 400, "Bad Request: too many message identifiers specified");
}

#[tokio::test]
async fn the_pinned_message_of_a_chat_is_the_youngest_one() {
    let bot = Bot::new().await;
    assert_eq!(bot.pinned().await, Value::Null);
    let (older, younger) = (bot.upload(b"older").await, bot.upload(b"younger").await);
    for message in [&younger, &older] {
        let pin = json!({ "chat_id": bot.chat, "message_id": message["message_id"], "disable_notification": true });
        assert_eq!(Bot::ok(bot.call("pinChatMessage", pin).await), json!(true));
    }
    let pinned = bot.pinned().await;
    assert_eq!(pinned["message_id"], younger["message_id"], "by sending date, not by the order of pinning");
    let path = bot.file_path(&pinned["document"]["file_id"]).await;
    assert_eq!(bot.download(&path).await.1, b"younger");
    assert_eq!(Bot::ok(bot.call("unpinChatMessage", json!({ "chat_id": bot.chat })).await), json!(true));
    assert_eq!(bot.pinned().await["message_id"], older["message_id"]);
    let missing = json!({ "chat_id": bot.chat, "message_id": 999 });
    Bot::refused(bot.call("pinChatMessage", missing).await, 400, "Bad Request: message to pin not found");
    let foreign = bot.control().post_foreign(bot.chat, "look here");
    bot.control().pin(bot.chat, foreign);
    assert_eq!(bot.pinned().await["message_id"], foreign, "anybody's pin counts");
}

#[tokio::test]
async fn an_edit_keeps_the_message_and_changes_the_file() {
    let bot = Bot::new().await;
    let sent = bot.upload(b"old").await;
    let media = json!({ "type": "document", "media": "attach://new", "caption": "new" }).to_string();
    let form = || {
        Form::new()
            .text("chat_id", bot.chat.to_string())
            .text("message_id", sent["message_id"].to_string())
            .text("media", media.clone())
            .part("new", Part::bytes(b"new".to_vec()).file_name("new.json"))
    };
    let edit = async || -> Value {
        let request = bot.http.post(bot.method_url("editMessageMedia")).multipart(form());
        request.send().await.unwrap().json().await.unwrap()
    };
    let edited = edit().await["result"].clone();
    assert_eq!((&edited["message_id"], &edited["caption"]), (&sent["message_id"], &json!("new")));
    assert_ne!(edited["document"]["file_unique_id"], sent["document"]["file_unique_id"]);
    let path = bot.file_path(&edited["document"]["file_id"]).await;
    assert_eq!(bot.download(&path).await.1, b"new");
    let same = json!({ "chat_id": bot.chat, "message_id": sent["message_id"], "caption": "new" });
    let (status, answer) = bot.call("editMessageCaption", same).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["description"].as_str().unwrap().starts_with("Bad Request: message is not modified"), "{answer}");
}

#[tokio::test]
async fn a_chat_says_what_it_is_and_when_messages_vanish() {
    let bot = Bot::new().await;
    let chat = Bot::ok(bot.call("getChat", json!({ "chat_id": bot.chat })).await);
    assert_eq!((&chat["type"], chat.get("message_auto_delete_time")), (&json!("channel"), None));
    bot.control().set_auto_delete(bot.chat, Some(Duration::days(1)));
    let chat = Bot::ok(bot.call("getChat", json!({ "chat_id": bot.chat })).await);
    assert_eq!(chat["message_auto_delete_time"], 86_400);
    bot.upload(b"bytes").await;
    bot.control().advance(Duration::hours(25));
    assert!(bot.control().messages(bot.chat).is_empty());
    Bot::refused(bot.call("getChat", json!({ "chat_id": -1 })).await, 400, "Bad Request: chat not found");
    bot.control().delete_chat(bot.chat);
    Bot::refused(bot.say("x").await, 400, "Bad Request: chat not found");
}

#[tokio::test]
async fn rights_decide_what_a_bot_may_do() {
    let bot = Bot::new().await;
    let control = bot.control();
    let me = Bot::ok(bot.call("getMe", json!({})).await)["id"].clone();
    let member = async || bot.call("getChatMember", json!({ "chat_id": bot.chat, "user_id": me })).await;
    let own = bot.upload(b"own").await;
    let foreign = control.post_foreign(bot.chat, "x");
    let found = Bot::ok(member().await);
    assert_eq!((&found["status"], &found["can_post_messages"]), (&json!("administrator"), &json!(true)));
    let at = |id: &Value| json!({ "chat_id": bot.chat, "message_id": id });

    let only_post = Rights { post: true, edit: false, delete: false, pin: false };
    control.set_membership(bot.chat, &bot.token, Membership::Administrator(only_post));
    assert_eq!(Bot::ok(member().await)["can_delete_messages"], false);
    let no_pin = "Bad Request: not enough rights to manage pinned messages in the chat";
    Bot::refused(bot.call("pinChatMessage", at(&own["message_id"])).await, 400, no_pin);
    let deleted = bot.call("deleteMessage", at(&json!(foreign))).await;
    Bot::refused(deleted, 400, "Bad Request: message can't be deleted");
    Bot::ok(bot.call("deleteMessage", at(&own["message_id"])).await);

    control.set_membership(bot.chat, &bot.token, Membership::Member);
    assert_eq!(Bot::ok(member().await)["status"], "member");
    Bot::refused(bot.say("x").await, 400, "Bad Request: need administrator rights in the channel chat");
    control.set_membership(bot.chat, &bot.token, Membership::Left);
    Bot::refused(bot.say("x").await, 403, "Forbidden: bot is not a member of the channel chat");
    Bot::refused(member().await, 403, "Forbidden: bot is not a member of the channel chat");
    control.set_membership(bot.chat, &bot.token, Membership::Kicked);
    Bot::refused(bot.say("x").await, 403, "Forbidden: bot was kicked from the channel chat");
}

#[tokio::test]
async fn a_group_that_was_upgraded_names_its_new_id() {
    let mut bot = Bot::new().await;
    bot.chat = bot.control().add_chat(ChatKind::Group);
    let sent = bot.upload(b"bytes").await;
    let new = bot.control().migrate(bot.chat);
    let refused = bot.say("x").await;
    let answer = Bot::refused(refused, 400, "Bad Request: group chat was upgraded to a supergroup chat");
    assert_eq!(answer["parameters"]["migrate_to_chat_id"], new);
    let old = std::mem::replace(&mut bot.chat, new);
    Bot::ok(bot.say("x").await);
    let path = bot.file_path(&sent["document"]["file_id"]).await;
    assert_eq!(bot.download(&path).await.1, b"bytes", "its files stay");
    let forward = json!({ "chat_id": new, "from_chat_id": old, "message_id": sent["message_id"] });
    Bot::ok(bot.call("forwardMessage", forward).await);
    let delete = json!({ "chat_id": new, "message_id": 999 });
    Bot::refused(bot.call("deleteMessage", delete).await, 400, "Bad Request: message to delete not found");
}

#[tokio::test]
async fn the_date_of_an_answer_is_the_stand_ins() {
    let bot = Bot::new().await;
    bot.control().advance(Duration::days(400));
    let answer = bot.http.get(bot.method_url("getMe")).send().await.unwrap();
    let date = DateTime::parse_from_rfc2822(answer.headers()["date"].to_str().unwrap()).unwrap();
    let moved = date.to_utc() - Clock::System.now();
    assert!((moved - Duration::days(400)).abs() < Duration::minutes(1), "{moved}");
}

#[tokio::test]
async fn a_forgotten_file_is_temporarily_unavailable_and_a_corrupted_one_differs_in_one_byte() {
    let bot = Bot::new().await;
    let message = bot.upload(b"bytes").await;
    let unique = message["document"]["file_unique_id"].as_str().unwrap();
    bot.control().corrupt_file(unique, 1);
    let path = bot.file_path(&message["document"]["file_id"]).await;
    assert_eq!(bot.download(&path).await.1, [b'b', !b'y', b't', b'e', b's']);
    bot.control().forget_file(unique);
    let asked = bot.call("getFile", json!({ "file_id": message["document"]["file_id"] })).await;
    Bot::refused(asked, 400, "Bad Request: wrong file_id or the file is temporarily unavailable");
    assert_eq!(bot.control().documents(bot.chat).len(), 1, "its message stays");
}

#[tokio::test]
async fn what_others_do_is_seen() {
    let bot = Bot::new().await;
    let control = bot.control();
    let foreign = control.post_foreign_document(bot.chat, "holiday.jpg", b"jpeg");
    let own = bot.upload(b"own").await["message_id"].as_i64().unwrap();
    let seen = control.messages(bot.chat);
    assert_eq!(
        seen.iter().map(|message| (message.id, message.is_by_bot)).collect::<Vec<_>>(),
        [(foreign, false), (own, true)]
    );
    assert!(matches!(&seen[0].content, Content::Document { document, .. } if document.file_name == "holiday.jpg"));
    control.remove_message(bot.chat, own);
    let delete = json!({ "chat_id": bot.chat, "message_id": own });
    Bot::refused(bot.call("deleteMessage", delete).await, 400, "Bad Request: message to delete not found");
}
