//! A plain client of the Bot API, and what it expects of answers.

use reqwest::{
    Client, StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use super::telegram_stand_in::{Control, StandIn};

/// A stand-in and a bot's view of it.
pub struct Bot {
    pub stand_in: StandIn,
    pub http: Client,
    pub token: String,
    pub chat: i64,
}

impl Bot {
    pub async fn new() -> Self {
        let stand_in = StandIn::start().await;
        let (token, chat) = (stand_in.token(), stand_in.chat_id());
        Self { stand_in, http: Client::new(), token, chat }
    }

    pub fn control(&self) -> Control {
        self.stand_in.control()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.stand_in.base_url())
    }

    pub fn method_url(&self, method: &str) -> String {
        self.url(&format!("bot{}/{method}", self.token))
    }

    pub async fn send(&self, method: &str, arguments: Value) -> reqwest::Result<(StatusCode, Value)> {
        let answer = self.http.post(self.method_url(method)).json(&arguments).send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    pub async fn call(&self, method: &str, arguments: Value) -> (StatusCode, Value) {
        self.send(method, arguments).await.expect("an answer in JSON")
    }

    #[track_caller]
    pub fn ok((status, answer): (StatusCode, Value)) -> Value {
        assert_eq!((status, &answer["ok"]), (StatusCode::OK, &json!(true)), "{answer}");
        answer["result"].clone()
    }

    #[track_caller]
    pub fn refused((status, answer): (StatusCode, Value), code: u16, description: &str) -> Value {
        assert_eq!(status, code, "{answer}");
        assert_eq!(
            (&answer["ok"], &answer["error_code"], &answer["description"]),
            (&json!(false), &json!(code), &json!(description))
        );
        answer
    }

    pub async fn upload_as(&self, file_name: &str, content: Vec<u8>, caption: &str) -> (StatusCode, Value) {
        let form = Form::new()
            .text("chat_id", self.chat.to_string())
            .text("caption", caption.to_owned())
            .part("document", Part::bytes(content).file_name(file_name.to_owned()));
        let answer = self.http.post(self.method_url("sendDocument")).multipart(form).send().await.expect("an answer");
        (answer.status(), answer.json().await.expect("JSON"))
    }

    pub async fn upload(&self, content: &[u8]) -> Value {
        Self::ok(self.upload_as("part.age", content.to_vec(), "").await)
    }

    pub async fn say(&self, text: &str) -> (StatusCode, Value) {
        self.call("sendMessage", json!({ "chat_id": self.chat, "text": text })).await
    }

    pub async fn file_path(&self, file_id: &Value) -> String {
        let file = Self::ok(self.call("getFile", json!({ "file_id": file_id })).await);
        file["file_path"].as_str().expect("a path").to_owned()
    }

    pub async fn download(&self, file_path: &str) -> (StatusCode, Vec<u8>) {
        let url = self.url(&format!("file/bot{}/{file_path}", self.token));
        let answer = self.http.get(url).send().await.expect("an answer");
        (answer.status(), answer.bytes().await.expect("a body").to_vec())
    }

    pub async fn pinned(&self) -> Value {
        Self::ok(self.call("getChat", json!({ "chat_id": self.chat })).await)["pinned_message"].clone()
    }
}

/// Bytes that look like nothing.
pub fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes[..]);
    bytes
}
