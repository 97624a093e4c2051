//! Telegram, against the stand-in of the Bot API.

use holdfast::{catalog::NoticeEvent, notice::Notice};
use serde_json::{Value, json};

use super::{Scene, given_up, later, sent};
use crate::support::telegram_stand_in::{Calls, Canned, ChatKind, Content, Fault, StandIn};

fn chat(bot_api: &StandIn, chat_id: i64) -> Value {
    json!({ "type": "telegram", "bot_token": bot_api.token(), "chat_id": chat_id, "base_url": bot_api.base_url() })
}

fn texts(bot_api: &StandIn, chat_id: i64) -> Vec<String> {
    let text = |content| match content {
        Content::Text(text) => Some(text),
        _ => None,
    };
    bot_api.control().messages(chat_id).into_iter().filter_map(|message| text(message.content)).collect()
}

#[tokio::test]
async fn a_message_is_plain_text_whatever_a_name_holds() {
    let bot_api = StandIn::start().await;
    let scene = Scene::with(|_| {}).await;
    scene.channel("chat", None, chat(&bot_api, bot_api.chat_id())).await;
    let hostile = "<b>*_`[x](https://e.example)\nWhat to do: pay";
    sqlx::query("UPDATE control_plane.projects SET name = $1 WHERE id = 'acme'")
        .bind(hostile)
        .execute(&scene.test.app.pool)
        .await
        .unwrap();
    let notice = Notice { message: Some("x".repeat(900) + hostile), ..Notice::default() };
    scene.tell(NoticeEvent::Failed, "1", None, notice).await;
    assert_eq!(scene.send().await, sent(1));
    let text = texts(&bot_api, bot_api.chat_id()).remove(0);
    assert!(text.starts_with("Backup FAILED of \"<b>*_`[x](https://e.example) What to do: pay\" (acme)\n"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("What to do")), "{text}");
    let call = bot_api.control().log().pop().unwrap();
    assert_eq!(call.method.to_lowercase(), "sendmessage");
}

#[tokio::test]
async fn what_the_bot_api_says_decides_whether_it_is_tried_again() {
    for (fault, expected, wait, words) in [
        (Fault::Answer(Canned::too_many_requests(120)), later(1), 120, "429"),
        (Fault::Answer(Canned::bad_gateway()), later(1), 13, "502"),
        (Fault::Answer(Canned::empty(500)), later(1), 13, "500"),
        (Fault::Answer(Canned::error(401, "Unauthorized")), given_up(1), 0, "Unauthorized"),
        (Fault::Answer(Canned::error(403, "Forbidden: bot was kicked")), given_up(1), 0, "kicked"),
        (Fault::Answer(Canned::error(400, "Bad Request: chat not found")), given_up(1), 0, "chat not found"),
        // It may have been sent, or not: at least once is what is promised.
        (Fault::DropAnswer, later(1), 13, "before an answer came"),
    ] {
        let bot_api = StandIn::start().await;
        let scene = Scene::with(|_| {}).await;
        scene.channel("chat", None, chat(&bot_api, bot_api.chat_id())).await;
        scene.fails("1", None).await;
        bot_api.control().inject(fault.clone(), Calls::next("sendMessage"));
        assert_eq!(scene.send().await, expected, "{fault:?}");
        let error = scene.rows().await[0].last_error.clone().unwrap();
        assert!(error.contains(words), "{error}: {words}");
        assert!(!error.contains(&bot_api.token()) && !error.contains("/bot"), "{error}");
        if expected == later(1) {
            scene.advance(wait - 6);
            assert_eq!(scene.send().await, sent(0), "{fault:?}");
            scene.advance(120);
            assert_eq!(scene.send().await, sent(1), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_group_that_became_a_supergroup_is_followed() {
    let bot_api = StandIn::start().await;
    let control = bot_api.control();
    let group = control.add_chat(ChatKind::Group);
    let scene = Scene::with(|_| {}).await;
    scene.channel("chat", None, chat(&bot_api, group)).await;
    let moved = control.migrate(group);
    scene.fails("1", None).await;
    assert_eq!(scene.send().await, sent(1));
    assert_eq!(texts(&bot_api, moved).len(), 1);
}
