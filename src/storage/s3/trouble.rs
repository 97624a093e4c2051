//! What went wrong between us and the service, and what kind of storage error that is.
//!
//! Error codes: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. A service's own message is shown only where it cannot hold
//! a key or a signature, and never a URL, an upload's id or a header.

use std::{error::Error as StdError, fmt, time::Duration};

use hyper::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use crate::{
    config::Secret,
    storage::{Error, ErrorKind},
};

/// The most of a service's message that is shown.
const MOST_OF_A_MESSAGE: usize = 200;
const POLICY_HINT: &str = "Check what the key may do: docs/s3.md lists the full policy.";

/// Why a request brought no answer that can be used.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The service answered that it will not.
    Refused(Refusal),
    /// Nothing moved for too long.
    Stalled,
    /// Not reached: no byte of the request was sent.
    Unreached(String),
    /// The connection broke, or the answer makes no sense.
    Broken(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Stalled => f.write_str("the service does not answer"),
            Self::Unreached(text) => write!(f, "cannot connect: {text}"),
            Self::Broken(text) => f.write_str(text),
        }
    }
}

impl StdError for Trouble {}

impl Trouble {
    pub(super) fn broken(text: &str) -> Self {
        Self::Broken(one_line(text))
    }

    pub(super) fn of_connection(error: reqwest::Error) -> Self {
        let is_connect = error.is_connect();
        let text = one_line(&root(&error.without_url()));
        if is_connect { Self::Unreached(text) } else { Self::Broken(format!("the connection broke: {text}")) }
    }

    /// Finds what the transport said inside the library's error. What it did not say is the library's own judgement of an answer.
    pub(super) fn of(error: object_store::Error) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        while let Some(at) = cause {
            if let Some(trouble) = at.downcast_ref::<Self>() {
                return trouble.copy();
            }
            cause = at.source();
        }
        Self::Broken(format!("the answer cannot be used: {}", one_line(&root(&error))))
    }

    fn copy(&self) -> Self {
        match self {
            Self::Refused(refusal) => Self::Refused(refusal.clone()),
            Self::Stalled => Self::Stalled,
            Self::Unreached(text) => Self::Unreached(text.clone()),
            Self::Broken(text) => Self::Broken(text.clone()),
        }
    }

    /// The code of a refusal, else an empty text.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::Stalled | Self::Unreached(_) | Self::Broken(_) => "",
        }
    }

    /// Whether the credentials themselves are wrong, not one right that they lack.
    pub(super) fn is_about_the_keys(&self) -> bool {
        key_trouble(self.code()).is_some()
    }

    /// Whether the service may have no such range: it says so, or answers with something else than a range.
    pub(super) fn may_be_about_the_range(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.status == StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Broken(_) => true,
            Self::Stalled | Self::Unreached(_) => false,
        }
    }

    /// Whether the object is gone from a bucket that keeps versions.
    pub(super) fn is_delete_marker(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_delete_marker)
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Stalled | Self::Unreached(_) | Self::Broken(_) => ErrorKind::Unavailable,
        }
    }

    /// How long the service asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after(),
            Self::Stalled | Self::Unreached(_) | Self::Broken(_) => None,
        }
    }

    /// Whether the request may have taken effect although no answer says so.
    pub(super) fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.is_answer_without_meaning()
                    || (refusal.status.is_server_error() && refusal.kind() == ErrorKind::Unavailable)
            }
            Self::Stalled | Self::Broken(_) => true,
            Self::Unreached(_) => false,
        }
    }

    /// The storage's error: `context` says what was tried.
    pub(super) fn told(self, context: impl Into<String>) -> Error {
        let error = Error::new(self.kind(), context);
        let hint = match &self {
            Self::Refused(refusal) => refusal.hint(),
            Self::Stalled | Self::Unreached(_) => {
                Some("Check `endpoint` and `region`, and that this machine reaches the service.".to_owned())
            }
            Self::Broken(_) => None,
        };
        let error = error.with_source(self);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// The last cause, which says what happened; those before it say where.
fn root(error: &(dyn StdError + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// Somebody else's words on one line, cut to what a person reads.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(MOST_OF_A_MESSAGE).collect()
}

/// The service's refusal, without anything that it must not repeat.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// S3's own word, such as `AccessDenied`; empty where there was none, as for every HEAD.
    code: String,
    message: String,
    retry_after: Option<Duration>,
    /// Where the bucket really is.
    region: Option<String>,
    is_html: bool,
    /// The object was deleted in a bucket that keeps versions: older ones are still there.
    is_delete_marker: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status.as_u16())?;
        if self.is_html {
            f.write_str(", an HTML page where S3 answers XML")?;
        }
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl Refusal {
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &str, is_html: bool, secrets: &[Secret]) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let word = |text: &str| {
            let is_word =
                text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            is_word.then(|| text.to_owned())
        };
        let body = if is_html { "" } else { body };
        let code = element(body, "Code").and_then(word).unwrap_or_default();
        // These messages repeat the key or what was signed.
        let is_about_keys =
            matches!(key_trouble(&code), Some(KeyTrouble::Unknown | KeyTrouble::Signature | KeyTrouble::Token));
        let mut message = match element(body, "Message") {
            Some(message) if !is_about_keys => one_line(&unescape(message)),
            _ => String::new(),
        };
        // Whatever a service repeats of what it was sent.
        if secrets.iter().any(|secret| !secret.expose().is_empty() && message.contains(secret.expose())) {
            message.clear();
        }
        Self {
            status,
            message,
            retry_after: header(RETRY_AFTER.as_str())
                .and_then(|text| text.trim().parse().ok())
                .map(Duration::from_secs),
            region: header("x-amz-bucket-region").or_else(|| element(body, "Region")).and_then(word),
            is_delete_marker: header("x-amz-delete-marker") == Some("true"),
            code,
            is_html,
        }
    }

    /// Whether the same request may be answered otherwise in a moment.
    pub(super) fn may_pass(&self) -> bool {
        self.kind().may_pass()
    }

    /// How long the service asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self.kind() {
            ErrorKind::Throttled { retry_after } => retry_after,
            _ => None,
        }
    }

    /// Success in status and none in content, such as a page of a portal in between.
    fn is_answer_without_meaning(&self) -> bool {
        self.status.is_success()
    }

    fn kind(&self) -> ErrorKind {
        let status = self.status.as_u16();
        // A balancer's page about its own trouble is HTML too.
        if self.is_html && !self.status.is_server_error() {
            return ErrorKind::Invalid;
        }
        match self.code.as_str() {
            "NoSuchKey" | "NoSuchUpload" | "NoSuchVersion" => ErrorKind::NotFound,
            // A missing bucket is a mistake in the settings; a backup that is looked for there is not known to be missing.
            "NoSuchBucket" | "InvalidBucketName" | "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
                ErrorKind::Invalid
            }
            code if key_trouble(code).is_some() => ErrorKind::Denied,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "MethodNotAllowed" => ErrorKind::Denied,
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded" => ErrorKind::Throttled { retry_after: self.retry_after },
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "InsufficientStorage"
            | "StorageCapExceeded" => ErrorKind::Full,
            "EntityTooLarge" | "MaxMessageLengthExceeded" => ErrorKind::TooLarge,
            "PreconditionFailed" => ErrorKind::Exists,
            // Altered on the way, or too slow on the way: the next attempt sends the same bytes again.
            "BadDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
            | "IncompleteBody"
            | "RequestTimeout"
            | "ConditionalRequestConflict"
            | "OperationAborted" => ErrorKind::Unavailable,
            _ => match status {
                // An error inside a success.
                200..=299 => ErrorKind::Unavailable,
                404 => ErrorKind::NotFound,
                401 | 403 | 405 => ErrorKind::Denied,
                412 => ErrorKind::Exists,
                413 => ErrorKind::TooLarge,
                429 | 503 => ErrorKind::Throttled { retry_after: self.retry_after },
                507 => ErrorKind::Full,
                408 | 409 | 425 => ErrorKind::Unavailable,
                501 => ErrorKind::Invalid,
                500.. => ErrorKind::Unavailable,
                _ => ErrorKind::Invalid,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match (self.code.as_str(), key_trouble(&self.code)) {
            _ if self.is_html && !self.status.is_server_error() => {
                "Check `endpoint`: something else than an S3 service answers there."
            }
            ("NoSuchBucket" | "InvalidBucketName", _) => {
                "Create the bucket, or correct `bucket`, `endpoint` and `path_style`."
            }
            (_, Some(KeyTrouble::Unknown)) => "Check `access_key`: the service does not know it.",
            (_, Some(KeyTrouble::Signature)) => "Check `secret_key`: it does not belong to the access key.",
            (_, Some(KeyTrouble::Token)) => "Renew the temporary keys and their `session_token`.",
            (_, Some(KeyTrouble::Clock)) => "Set this machine's clock: it differs from the service's by too much.",
            ("NotImplemented", _) => "The service does not know this request: try `checksum = \"none\"`.",
            _ => match (&self.region, self.kind()) {
                (Some(region), ErrorKind::Invalid) => {
                    return Some(format!("The bucket is in region {region}: set `region` to it."));
                }
                (_, ErrorKind::Denied) => POLICY_HINT,
                (_, ErrorKind::Full) => "Free space in the storage, or raise its quota.",
                (_, ErrorKind::Invalid) if self.status.is_redirection() => {
                    "Check `endpoint` and `region`: redirects are not followed."
                }
                _ => return None,
            },
        };
        Some(hint.to_owned())
    }
}

/// What is wrong with the credentials themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyTrouble {
    Unknown,
    Signature,
    Token,
    Clock,
}

fn key_trouble(code: &str) -> Option<KeyTrouble> {
    Some(match code {
        "InvalidAccessKeyId" | "NotSignedUp" | "InvalidSecurity" => KeyTrouble::Unknown,
        "SignatureDoesNotMatch" => KeyTrouble::Signature,
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => KeyTrouble::Token,
        "RequestTimeTooSkewed" | "RequestExpired" => KeyTrouble::Clock,
        _ => return None,
    })
}

/// The text of the first element of this name. The documents are small and flat, and nothing is decided by more than a known word in them.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let rest = body.split_once(&format!("<{name}>"))?.1;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Refusal {
        let secrets = [Secret::new("AKIAEXAMPLE"), Secret::new("canary")];
        Refusal::read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body, false, &secrets)
    }

    fn error(code: &str, message: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    #[test]
    fn codes_become_kinds() {
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::Invalid),
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "", ErrorKind::Denied),
            (403, "InvalidAccessKeyId", ErrorKind::Denied),
            (403, "SignatureDoesNotMatch", ErrorKind::Denied),
            (403, "RequestTimeTooSkewed", ErrorKind::Denied),
            (400, "ExpiredToken", ErrorKind::Denied),
            (301, "PermanentRedirect", ErrorKind::Invalid),
            (412, "PreconditionFailed", ErrorKind::Exists),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable),
            (400, "BadDigest", ErrorKind::Unavailable),
            (503, "SlowDown", ErrorKind::Throttled { retry_after: None }),
            (503, "", ErrorKind::Throttled { retry_after: None }),
            (500, "InternalError", ErrorKind::Unavailable),
            (502, "", ErrorKind::Unavailable),
            (200, "InternalError", ErrorKind::Unavailable),
            (507, "", ErrorKind::Full),
            (400, "EntityTooLarge", ErrorKind::TooLarge),
            (501, "NotImplemented", ErrorKind::Invalid),
            (400, "InvalidRequest", ErrorKind::Invalid),
        ] {
            assert_eq!(read(status, &error(code, "m")).kind(), kind, "{status} {code}");
        }
    }

    #[test]
    fn a_retry_after_is_kept_and_a_region_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        headers.insert("x-amz-bucket-region", "eu-north-1".parse().unwrap());
        let of = |status| Refusal::read(StatusCode::from_u16(status).unwrap(), &headers, "", false, &[]);
        assert_eq!(of(429).kind(), ErrorKind::Throttled { retry_after: Some(Duration::from_secs(7)) });
        assert!(of(301).hint().unwrap().contains("eu-north-1"));
    }

    #[test]
    fn what_a_service_repeats_of_keys_and_signatures_is_not_shown() {
        for body in [
            error("SignatureDoesNotMatch", "you sent PUT /x x-amz-date:… signature 00ff"),
            error("InvalidAccessKeyId", "the key AKIAEXAMPLE is unknown"),
            error("AccessDenied", "user AKIAEXAMPLE may not"),
            error("Weird&lt;Code", "canary"),
        ] {
            let shown = Trouble::Refused(read(403, &body)).told("cannot write a").to_string();
            assert!(!shown.contains("AKIA") && !shown.contains("canary") && !shown.contains("00ff"), "{shown}");
        }
        let shown = Trouble::Refused(read(403, &error("AccessDenied", "no\n\u{1b}[31m &quot;s3:PutObject&quot;")))
            .told("cannot write a");
        assert_eq!(
            format!("{shown:#}"),
            format!("cannot write a: access denied (HTTP 403 AccessDenied: no [31m \"s3:PutObject\"). {POLICY_HINT}")
        );
    }

    #[test]
    fn a_page_in_html_is_named() {
        let page = Refusal::read(StatusCode::OK, &HeaderMap::new(), "<html><Code>NoSuchKey</Code>", true, &[]);
        let error = Trouble::Refused(page).told("cannot look at a");
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().contains("HTML page") && error.hint().unwrap().contains("`endpoint`"), "{error}");
        let page = Refusal::read(StatusCode::BAD_GATEWAY, &HeaderMap::new(), "", true, &[]);
        assert_eq!(page.kind(), ErrorKind::Unavailable);
    }
}
