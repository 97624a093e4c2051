//! Faults that a test asks for.

use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use super::{
    bot::{Bot, noise},
    telegram_stand_in::{Calls, Canned, DOWNLOAD, Fault},
};

#[tokio::test]
async fn a_fault_meets_the_calls_that_it_was_made_for() {
    let bot = Bot::new().await;
    let control = bot.control();
    control.inject(Fault::Answer(Canned::bad_gateway()), Calls::next("sendMessage").after(1).times(2));
    Bot::ok(bot.say("first").await);
    for _ in 0..2 {
        let body = json!({ "chat_id": bot.chat, "text": "lost" });
        let answer = bot.http.post(bot.method_url("sendMessage")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert!(answer.text().await.unwrap().starts_with("<html>"));
    }
    Bot::ok(bot.say("last").await);
    assert_eq!(control.messages(bot.chat).len(), 2);
    assert_eq!(control.faults_left(), 0);

    control.inject(Fault::Answer(Canned::too_many_requests(7)), Calls::any());
    let answer = bot.http.get(bot.method_url("getMe")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(answer.json::<Value>().await.unwrap()["parameters"]["retry_after"], 7);

    control.inject(Fault::Answer(Canned::empty(200)), Calls::next("getMe"));
    let answer = bot.http.get(bot.method_url("getMe")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "");

    control.inject(Fault::AnswerAfterEffect(Canned::error(500, "Internal Server Error")), Calls::next("sendMessage"));
    Bot::refused(bot.say("sent all the same").await, 500, "Internal Server Error");
    assert_eq!(control.messages(bot.chat).len(), 3);
}

#[tokio::test]
async fn a_lost_answer_leaves_its_effect_and_a_lost_request_does_not() {
    let bot = Bot::new().await;
    let control = bot.control();
    control.inject(Fault::ResetRequestAt(1000), Calls::next("sendDocument"));
    let form = || {
        let part = Part::bytes(noise(3_000_000)).file_name("a.age");
        Form::new().text("chat_id", bot.chat.to_string()).part("document", part)
    };
    let send = async || bot.http.post(bot.method_url("sendDocument")).multipart(form()).send().await;
    assert!(send().await.is_err(), "the connection is reset while the request is sent");
    assert!(control.messages(bot.chat).is_empty());
    control.inject(Fault::DropAnswer, Calls::next("sendDocument"));
    assert!(send().await.is_err(), "the connection is reset before the answer");
    assert_eq!(control.messages(bot.chat).len(), 1);
    assert_eq!(control.log().iter().map(|call| call.status).collect::<Vec<_>>(), [None, None]);
}

#[tokio::test]
async fn a_download_can_break_in_the_middle() {
    let bot = Bot::new().await;
    let content = noise(200_000);
    let message = bot.upload(&content).await;
    let path = bot.file_path(&message["document"]["file_id"]).await;
    bot.control().inject(Fault::ResetAnswerAt(70_000), Calls::next(DOWNLOAD));
    let url = bot.url(&format!("file/bot{}/{path}", bot.token));
    let mut answer = bot.http.get(url).send().await.unwrap();
    assert_eq!((answer.status(), answer.content_length()), (StatusCode::OK, Some(200_000)));
    let mut got = Vec::new();
    let error = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => got.extend(chunk),
            Ok(None) => panic!("a whole answer of {} bytes", got.len()),
            Err(error) => break error,
        }
    };
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    assert!(got.len() <= 70_000 && content.starts_with(&got), "{} bytes", got.len());
    assert!(bot.download(&path).await.1 == content, "more than one download is broken");
}

#[tokio::test]
async fn a_call_that_hangs_does_nothing() {
    let bot = Bot::new().await;
    bot.control().inject(Fault::Hang, Calls::next("sendMessage"));
    let body = json!({ "chat_id": bot.chat, "text": "x" });
    let request = bot.http.post(bot.method_url("sendMessage")).json(&body);
    let error = request.timeout(std::time::Duration::from_millis(200)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(bot.control().messages(bot.chat).is_empty());
}
