//! Notices into a Telegram chat, as plain text: nothing in it is markup.
//!
//! Not through the client of `storage::telegram`: a tenant's own Bot API server must be reached as `outgoing` says, a notice is one small call,
//! and the two have to do with nothing else of each other. Source of every shape: core.telegram.org/bots/api#sendmessage and
//! #making-requests.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, header::RETRY_AFTER};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{SendError, Trouble, message::Message, text::one_line, unanswered};
use crate::config::{ChatId, Secret};

/// Telegram's own Bot API.
const CLOUD: &str = "https://api.telegram.org/";

/// "1-4096 characters after entities parsing": core.telegram.org/bots/api#sendmessage. In UTF-16 units, as entities are counted, which is
/// the stricter reading.
const MAX_TEXT: usize = 4_096;

/// Longest answer that is read, in bytes: the message comes back in it.
const MAX_ANSWER: usize = 64 << 10;

/// What a server is believed at most when it says how long to wait.
const MOST_BELIEVED: Duration = Duration::from_secs(86_400);

/// Longest words of a server that are kept.
const MAX_WORDS: usize = 200;

/// Why a message was not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The group has become a supergroup with this id.
    Moved(i64),
    Other(SendError),
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        Self::Other(error)
    }
}

impl From<Refusal> for SendError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Moved(id) => Self::never(format!("the chat has become {id}, and that one has moved as well")),
            Refusal::Other(error) => error,
        }
    }
}

/// Every answer of the Bot API, as far as we look at it.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    error_code: Option<u16>,
    #[serde(default)]
    description: String,
    parameters: Option<Parameters>,
}

/// core.telegram.org/bots/api#responseparameters
#[derive(Deserialize)]
struct Parameters {
    migrate_to_chat_id: Option<i64>,
    retry_after: Option<u64>,
}

/// The address of a method, with the token in it: it goes into no error and no log line.
pub(super) fn method_url(base: Option<&Url>, token: &Secret, method: &str) -> Result<Url, SendError> {
    let invalid = || SendError::never("the Bot API's address cannot be used");
    let mut url = match base {
        Some(base) => base.clone(),
        None => Url::parse(CLOUD).map_err(|_| invalid())?,
    };
    // The token is what the URL is for.
    let bot = format!("bot{}", token.expose());
    url.path_segments_mut().map_err(|()| invalid())?.pop_if_empty().extend([bot.as_str(), method]);
    Ok(url)
}

/// Sends one.
pub(super) async fn send(
    request: RequestBuilder,
    token: &Secret,
    chat: &ChatId,
    message: &Message,
) -> Result<(), Refusal> {
    let body =
        json!({ "chat_id": chat, "text": shortened(&message.text()), "link_preview_options": { "is_disabled": true } });
    let response = request.json(&body).send().await.map_err(unanswered)?;
    let status = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let bytes = beginning(response).await?;
    match serde_json::from_slice::<Answer>(&bytes) {
        Ok(answer) if answer.ok && status < 300 => Ok(()),
        Ok(answer) if !answer.ok => Err(judge(&answer, status, header, token)),
        // A page of something in between: whether the message was sent is not known.
        Ok(_) | Err(_) => {
            let said = format!("the Bot API's address answered {status}, and not as the Bot API does");
            Err(SendError::later(Trouble::Way, said).hint("Check base_url.").into())
        }
    }
}

/// What a refusal means. `401` and `404` are a token that is not known, `403` and some `400` a chat that is lost: those stay.
fn judge(answer: &Answer, status: u16, header: Option<u64>, token: &Secret) -> Refusal {
    let code = answer.error_code.unwrap_or(status);
    if let Some(id) = answer.parameters.as_ref().and_then(|parameters| parameters.migrate_to_chat_id) {
        return Refusal::Moved(id);
    }
    // Someone else's words, and a server may repeat the token: it is taken out.
    let words = one_line(&answer.description.replace(token.expose(), "(token)"), MAX_WORDS);
    let said = format!("the Bot API answered {code}: {words}");
    let error = match code {
        429 => {
            let seconds = answer.parameters.as_ref().and_then(|parameters| parameters.retry_after).or(header);
            let asked = seconds.map(|seconds| Duration::from_secs(seconds).min(MOST_BELIEVED));
            SendError::later(Trouble::Way, said).after(asked)
        }
        401 | 404 => SendError::never(said).hint("Check bot_token: the Bot API does not know it."),
        403 => SendError::never(said).hint("Add the bot to the chat again."),
        400..500 => SendError::never(said).hint("Check chat_id, and that the bot is a member of the chat."),
        _ => SendError::later(Trouble::Way, said),
    };
    Refusal::Other(error)
}

/// The body, if it is not too long for an answer.
async fn beginning(mut response: Response) -> Result<Vec<u8>, SendError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER {
            return Err(SendError::later(
                Trouble::Way,
                "the Bot API's address answered with more than an answer of the Bot API has",
            ));
        }
    }
    Ok(bytes)
}

/// What fits into one message; the end goes.
fn shortened(text: &str) -> String {
    let mut units = 0;
    let fitting = text.chars().take_while(|c| {
        units += c.len_utf16();
        units < MAX_TEXT
    });
    let short: String = fitting.collect();
    if short.len() == text.len() { short } else { format!("{short}…") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::Verdict;

    #[test]
    fn the_token_has_its_place_and_no_other() {
        let token = Secret::new("1:canary-canary");
        let own = Url::parse("https://bots.example/proxy").unwrap();
        assert_eq!(
            method_url(Some(&own), &token, "sendMessage").unwrap().as_str(),
            "https://bots.example/proxy/bot1:canary-canary/sendMessage"
        );
        assert!(method_url(None, &token, "x").unwrap().as_str().starts_with("https://api.telegram.org/bot1:"));
        let answer = Answer {
            ok: false,
            error_code: Some(400),
            description: "Bad Request: /bot1:canary-canary/x\nis bad".to_owned(),
            parameters: None,
        };
        let error: SendError = judge(&answer, 400, None, &token).into();
        assert_eq!(error.message, "the Bot API answered 400: Bad Request: /bot(token)/x is bad");
        assert_eq!(error.verdict, Verdict::Never);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"🚀".repeat(3_000));
        assert!(long.ends_with('…') && long.encode_utf16().count() <= MAX_TEXT);
    }
}
