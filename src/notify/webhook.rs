//! Notices to programs: a signed POST of JSON. docs/notices.md tells receivers what to check.

use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::{
    RequestBuilder, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use serde::Serialize;
use uuid::Uuid;

use super::{Letter, SendError, Trouble, message::Message, unanswered};
use crate::{clock::Timestamp, config::Secret, notice::Notice};

/// What a receiver's `Retry-After` is believed at most.
const MOST_BELIEVED: Duration = Duration::from_secs(86_400);

/// The body. `text` makes it readable for chat services that take JSON with that one field.
#[derive(Serialize)]
struct Body<'a> {
    id: Uuid,
    event: &'static str,
    at: Timestamp,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(flatten)]
    notice: &'a Notice,
}

/// Sends one. The answer's status is all that is read of it: neither its body, which might have no end, nor its redirection.
pub(super) async fn send(
    request: RequestBuilder,
    secret: &Secret,
    letter: &Letter<'_>,
    message: &Message,
    now: Timestamp,
) -> Result<(), SendError> {
    let body = Body {
        id: letter.id,
        event: letter.word(),
        at: letter.at,
        text: &message.subject,
        link: message.link.as_deref(),
        notice: letter.notice,
    };
    let body = serde_json::to_vec(&body)
        .map_err(|error| SendError::never(format!("the notice cannot be written as JSON: {error}")))?;
    let timestamp = now.timestamp();
    let response = request
        .header(CONTENT_TYPE, "application/json")
        .header("Holdfast-Delivery", letter.id.to_string())
        .header("Holdfast-Event", letter.word())
        .header("Holdfast-Timestamp", timestamp.to_string())
        .header("Holdfast-Signature", signature(secret, timestamp, &body))
        .body(body)
        .send()
        .await
        .map_err(unanswered)?;
    judge(response.status(), response.headers())
}

/// `v1=` and the HMAC-SHA256 in hexadecimal digits of the timestamp, a dot and the body, by the channel's secret.
pub fn signature(secret: &Secret, timestamp: i64, body: &[u8]) -> String {
    // The key of the HMAC.
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    let mut signed = hmac::Context::with_key(&key);
    signed.update(timestamp.to_string().as_bytes());
    signed.update(b".");
    signed.update(body);
    let digits: String = signed.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={digits}")
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), SendError> {
    if status.is_success() {
        return Ok(());
    }
    let said = format!("the receiver answered {}", status.as_u16());
    match status.as_u16() {
        300..400 => {
            Err(SendError::never(format!("{said}: redirections are not followed"))
                .hint("Set the URL that it leads to."))
        }
        408 | 425 | 429 => Err(SendError::later(Trouble::Way, said).after(retry_after(headers))),
        400..500 => {
            Err(SendError::never(said).hint("Check the URL, and that the receiver knows the channel's secret."))
        }
        _ => Err(SendError::later(Trouble::Way, said).after(retry_after(headers))),
    }
}

/// Seconds; a date is not understood and counts as nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MOST_BELIEVED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::Verdict;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let signed = signature(&Secret::new("0123456789abcdef"), 1_700_000_000, b"{}");
        assert_eq!(signed, "v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "90".parse().unwrap());
        let verdict =
            |status: u16| judge(StatusCode::from_u16(status).unwrap(), &headers).map_err(|error| error.verdict);
        let wait = Verdict::Later { after: Some(Duration::from_secs(90)), what: Trouble::Way };
        for (status, expected) in [
            (200, Ok(())),
            (204, Ok(())),
            (301, Err(Verdict::Never)),
            (307, Err(Verdict::Never)),
            (400, Err(Verdict::Never)),
            (404, Err(Verdict::Never)),
            (410, Err(Verdict::Never)),
            (408, Err(wait)),
            (425, Err(wait)),
            (429, Err(wait)),
            (500, Err(wait)),
            (503, Err(wait)),
        ] {
            assert_eq!(verdict(status), expected, "{status}");
        }
    }
}
