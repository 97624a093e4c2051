//! A client of the Bot API: one request, one answer. Nothing is repeated here; see [`super::chat`] for patience.
//!
//! The bot's token is part of every URL, so no URL leaves this file: not in an error, not in a log line, not in `Debug`.
//! Source of every shape: core.telegram.org/bots/api and the server behind it, github.com/tdlib/telegram-bot-api.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Response, StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
    multipart::{Form, Part},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    fault::{CallError, DOWNLOAD, Reason},
    pacing::MOST_BELIEVED,
    shapes::{Message, RemoteFile},
};
use crate::{
    byte_size::ByteSize,
    config::{Secret, TelegramProfile},
    storage::{Error, ErrorKind},
};

/// Answers are small; a longer one is no answer of the Bot API.
const LONGEST_ANSWER: usize = 4 << 20;
/// As much of the server's own words as fits a line.
const LONGEST_DESCRIPTION: usize = 300;
/// The slowest line on which a document still arrives: what its size adds to the time limit.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// What is handed to the connection at once.
const SLICE: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The Bot API as one bot sees it.
pub(super) struct BotApi {
    http: reqwest::Client,
    base: Url,
    token: Secret,
    profile: TelegramProfile,
    timeout: Duration,
}

impl fmt::Debug for BotApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BotApi({})", self.base)
    }
}

/// The envelope of every answer: core.telegram.org/bots/api#making-requests.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    result: Option<Value>,
    error_code: Option<u16>,
    description: Option<String>,
    parameters: Option<Parameters>,
}

/// core.telegram.org/bots/api#responseparameters
#[derive(Deserialize)]
struct Parameters {
    migrate_to_chat_id: Option<i64>,
    retry_after: Option<u64>,
}

/// A document to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub file_name: String,
    pub caption: String,
    pub bytes: Bytes,
}

impl BotApi {
    pub fn new(base: Url, token: Secret, profile: TelegramProfile, timeout: Duration) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            // The token must not follow a redirection to another host.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        if base.scheme() == "http" {
            // A server nearby is not behind the proxy to the outside, which would read the token.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            Error::new(ErrorKind::Invalid, "cannot make an HTTP client").with_source(error.without_url())
        })?;
        Ok(Self { http, base, token, profile, timeout })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Calls a method with JSON parameters, for at most `within`.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        parameters: &Value,
        within: Duration,
    ) -> Result<T, CallError> {
        let request = self.http.post(self.url(&["bot"], method)).json(parameters).timeout(within);
        let answered = self.answer(request).await.and_then(understood);
        answered.map_err(|reason| CallError { method, reason })
    }

    /// Sends a document to a chat. It is kept byte for byte: the server's content detection is off, as it would turn some into videos or
    /// music. Source: core.telegram.org/bots/api#senddocument.
    pub async fn send_document(&self, chat_id: i64, document: &Outgoing) -> Result<Message, CallError> {
        let method = "sendDocument";
        let size = document.bytes.len() as u64;
        let file = Part::stream_with_length(in_slices(&document.bytes), size).file_name(document.file_name.clone());
        let form = Form::new()
            .text("chat_id", chat_id.to_string())
            .text("caption", document.caption.clone())
            .text("disable_notification", "true")
            .text("disable_content_type_detection", "true")
            .part("document", file);
        let request = self.http.post(self.url(&["bot"], method)).multipart(form).timeout(self.time_for(size));
        let answered = self.answer(request).await.and_then(understood);
        answered.map_err(|reason| CallError { method, reason })
    }

    /// Downloads what `getFile` told of, of at most `expected` bytes.
    pub async fn download(&self, file: &RemoteFile, expected: u64) -> Result<Bytes, CallError> {
        let method = DOWNLOAD;
        self.read(file, expected).await.map_err(|reason| CallError { method, reason })
    }

    async fn read(&self, file: &RemoteFile, expected: u64) -> Result<Bytes, Reason> {
        let Some(path) = file.file_path.as_deref() else {
            return Err(Reason::Unclear("the answer to getFile has no file_path".to_owned()));
        };
        if path.starts_with('/') {
            return self.read_here(Path::new(path), expected).await;
        }
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(Reason::Unclear("the answer to getFile has a file_path that leaves its directory".to_owned()));
        }
        let request = self.http.get(self.url(&["file", "bot"], path)).timeout(self.time_for(expected));
        let response = request.send().await.map_err(|error| self.unanswered(error))?;
        let status = response.status();
        if status != StatusCode::OK {
            let headers = response.headers().clone();
            let body = self.body(response, LONGEST_ANSWER as u64).await?;
            return Err(self.refusal(status, &headers, &body));
        }
        self.body(response, expected).await
    }

    /// A server started with `--local` tells where the file lies on its own machine, and serves no downloads:
    /// core.telegram.org/bots/api#using-a-local-bot-api-server. What is read is handed to nobody before its SHA-256 agrees.
    async fn read_here(&self, path: &Path, expected: u64) -> Result<Bytes, Reason> {
        if self.profile != TelegramProfile::Local {
            return Err(Reason::Unclear("the answer to getFile names a path on the server's own machine".to_owned()));
        }
        let path: PathBuf = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            use std::io::Read;
            let file = std::fs::File::open(&path)?;
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            let mut bytes = Vec::new();
            file.take(expected.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read.await {
            Ok(Ok(bytes)) => Ok(bytes.into()),
            Ok(Err(error)) => Err(Reason::Refused {
                code: 400,
                description: format!(
                    "the server keeps the file in its own working directory, which is not readable here: {error}"
                ),
            }),
            Err(_) => Err(Reason::Unclear("the file could not be read".to_owned())),
        }
    }

    /// `{base}/{prefix}{token}/{path}`, the token in the second-last place of the prefix.
    fn url(&self, prefix: &[&str], path: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            let (last, before) = prefix.split_last().unwrap_or((&"bot", &[]));
            // The token is what the URL is for.
            segments.extend(before).push(&format!("{last}{}", self.token.expose())).extend(path.split('/'));
        }
        url
    }

    /// How long a document of this size may take.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, Reason> {
        let response = request.send().await.map_err(|error| self.unanswered(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.body(response, LONGEST_ANSWER as u64).await?;
        match serde_json::from_slice::<Answer>(&body) {
            Ok(Answer { ok: true, result: Some(result), .. }) if status.is_success() => Ok(result),
            _ => Err(self.refusal(status, &headers, &body)),
        }
    }

    /// What an answer says that is not the wished one. Only JSON of the Bot API's own shape is a refusal; anything else, such as a page of a
    /// server in between, says nothing of what happened.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Reason {
        let answer = serde_json::from_slice::<Answer>(body).ok().filter(|answer| !answer.ok);
        let code = answer.as_ref().and_then(|answer| answer.error_code).unwrap_or(status.as_u16());
        let parameters = answer.as_ref().and_then(|answer| answer.parameters.as_ref());
        if code == 429 {
            let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let seconds = parameters.and_then(|parameters| parameters.retry_after).or(header);
            return Reason::SlowDown(seconds.map(|seconds| Duration::from_secs(seconds).min(MOST_BELIEVED)));
        }
        if let Some(id) = parameters.and_then(|parameters| parameters.migrate_to_chat_id) {
            return Reason::Moved(id);
        }
        match answer.and_then(|answer| answer.description) {
            Some(description) if code < 500 => Reason::Refused { code, description: self.clean(&description) },
            Some(description) => Reason::Unclear(format!("the Bot API answers {code}: {}", self.clean(&description))),
            // The cloud's front server answers a body that is too large before the Bot API sees it.
            None if code == 413 => Reason::Refused { code, description: "Request Entity Too Large".to_owned() },
            None if status.is_redirection() => Reason::Refused { code, description: "redirected elsewhere".to_owned() },
            None => Reason::Unclear(format!("an answer with status {code} that is not the Bot API's")),
        }
    }

    /// The body, if it is no longer than `most`.
    async fn body(&self, mut response: Response, most: u64) -> Result<Bytes, Reason> {
        let too_long = || Reason::Unclear(format!("an answer of more than {} came", ByteSize(most)));
        if response.content_length().is_some_and(|length| length > most) {
            return Err(too_long());
        }
        let mut body = BytesMut::with_capacity(usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.cut_short(error))? {
            if (body.len() + chunk.len()) as u64 > most {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn unanswered(&self, error: reqwest::Error) -> Reason {
        let error = error.without_url();
        let text = self.clean(&cause(&error));
        if error.is_connect() || error.is_builder() { Reason::Unreached(text) } else { Reason::Unclear(text) }
    }

    fn cut_short(&self, error: reqwest::Error) -> Reason {
        Reason::Unclear(self.clean(&cause(&error.without_url())))
    }

    /// Someone else's words: one line, not long, and never the token, which a server may repeat.
    fn clean(&self, text: &str) -> String {
        let without = text.replace(self.token.expose(), "(token)"); // taken out
        without.chars().take(LONGEST_DESCRIPTION).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// A body that goes out slice by slice: as one piece a connection that cannot write from several places would copy the whole document first.
fn in_slices(bytes: &Bytes) -> reqwest::Body {
    let mut rest = bytes.clone();
    let slices = std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(SLICE.min(rest.len()))));
    reqwest::Body::wrap_stream(futures::stream::iter(slices.map(Ok::<Bytes, std::convert::Infallible>)))
}

fn understood<T: DeserializeOwned>(result: Value) -> Result<T, Reason> {
    serde_json::from_value(result)
        .map_err(|error| Reason::Unclear(format!("an answer of an unexpected shape: {error}")))
}

/// What the innermost error says: the outer ones only say that a request failed.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time" } else { "no answer in time" }.to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> BotApi {
        let base = Url::parse("https://bots.example/proxy/").unwrap();
        BotApi::new(base, Secret::new("1:canary-canary"), TelegramProfile::Cloud, Duration::from_secs(60)).unwrap()
    }

    fn reason(status: u16, retry_after: Option<&str>, body: &str) -> Reason {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
        }
        api().refusal(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    fn kind(status: u16, body: &str) -> ErrorKind {
        CallError { method: "getChat", reason: reason(status, None, body) }.explain("cannot ask").kind
    }

    #[test]
    fn the_token_has_its_place_in_the_url_and_nowhere_else() {
        let api = api();
        assert_eq!(api.url(&["bot"], "getMe").as_str(), "https://bots.example/proxy/bot1:canary-canary/getMe");
        assert_eq!(
            api.url(&["file", "bot"], "documents/file 1?.x").as_str(),
            "https://bots.example/proxy/file/bot1:canary-canary/documents/file%201%3F.x"
        );
        assert!(!format!("{api:?}").contains("canary"));
        let body = r#"{"ok":false,"error_code":400,"description":"Bad Request: /bot1:canary-canary/x\nis bad"}"#;
        let error = CallError { method: "getChat", reason: reason(400, None, body) }.explain("cannot ask");
        assert_eq!(error.to_string(), "cannot ask: invalid (getChat: Bad Request: /bot(token)/x is bad)");
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[test]
    fn too_many_requests_say_how_long_to_wait() {
        let both = r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}"#;
        assert_eq!(reason(429, Some("9"), both), Reason::SlowDown(Some(Duration::from_secs(7))));
        assert_eq!(reason(429, Some("9"), "<html>"), Reason::SlowDown(Some(Duration::from_secs(9))));
        assert_eq!(reason(429, None, ""), Reason::SlowDown(None));
    }

    #[test]
    fn a_group_that_moved_says_where_to() {
        let body = r#"{"ok":false,"error_code":400,"description":"Bad Request: group chat was upgraded to a supergroup chat","parameters":{"migrate_to_chat_id":-1001234567890}}"#;
        assert_eq!(reason(400, None, body), Reason::Moved(-1_001_234_567_890));
    }

    #[test]
    fn what_may_pass_and_what_may_not_are_told_apart() {
        let unknown = || Reason::Refused { code: 404, description: "Not Found".to_owned() };
        assert!(!CallError { method: "deleteMessages", reason: unknown() }.is_message_gone());
        assert_eq!(
            CallError { method: DOWNLOAD, reason: unknown() }.explain("cannot read").kind,
            ErrorKind::Unavailable
        );
        let refused = |code: u16, words: &str| {
            kind(code, &format!(r#"{{"ok":false,"error_code":{code},"description":{words:?}}}"#))
        };
        for body in ["", "<html>502</html>", "{", "null", r#"{"ok":true}"#] {
            for status in [200, 400, 404, 500, 502, 504] {
                assert_eq!(kind(status, body), ErrorKind::Unavailable, "{status} {body}");
            }
        }
        assert_eq!(kind(413, "<html>413 Request Entity Too Large</html>"), ErrorKind::TooLarge);
        assert_eq!(kind(302, "<html>moved</html>"), ErrorKind::Invalid);
        for (code, words, expected) in [
            (500, "Internal Server Error", ErrorKind::Unavailable),
            (400, "Bad Request: wrong file_id or the file is temporarily unavailable", ErrorKind::Unavailable),
            (400, "Bad Request: file is too big", ErrorKind::TooLarge),
            (413, "Request Entity Too Large", ErrorKind::TooLarge),
            (401, "Unauthorized", ErrorKind::Denied),
            (404, "Not Found", ErrorKind::Denied),
            (403, "Forbidden: bot was kicked from the channel chat", ErrorKind::Denied),
            (403, "Forbidden: bot is not a member of the channel chat", ErrorKind::Denied),
            (400, "Bad Request: chat not found", ErrorKind::Denied),
            (400, "Bad Request: need administrator rights in the channel chat", ErrorKind::Denied),
            (400, "Bad Request: not enough rights to manage pinned messages in the chat", ErrorKind::Denied),
            (400, "Bad Request: message to forward not found", ErrorKind::NotFound),
            (400, "Bad Request: user not found", ErrorKind::Invalid),
            (400, "Bad Request: MESSAGE_ID_INVALID", ErrorKind::NotFound),
            (400, "Bad Request: file must be non-empty", ErrorKind::Invalid),
        ] {
            assert_eq!(refused(code, words), expected, "{code} {words}");
        }
    }

    #[tokio::test]
    async fn a_path_on_the_servers_machine_is_read_for_ones_own_server_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"ciphertext").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let at = RemoteFile { file_size: None, file_path: Some(path) };
        assert!(matches!(api().download(&at, 10).await.unwrap_err().reason, Reason::Unclear(_)));
        let own = BotApi { profile: TelegramProfile::Local, ..api() };
        assert_eq!(own.download(&at, 10).await.unwrap(), "ciphertext");
        for path in ["/dev/null", "/nowhere/at-all"] {
            let at = RemoteFile { file_size: None, file_path: Some(path.to_owned()) };
            assert!(matches!(own.download(&at, 10).await.unwrap_err().reason, Reason::Refused { .. }));
        }
        let leaving = RemoteFile { file_size: None, file_path: Some("documents/../../getMe".to_owned()) };
        assert!(matches!(api().download(&leaving, 10).await.unwrap_err().reason, Reason::Unclear(_)));
    }
}
