//! Every failure as the API tells it: RFC 9457 `application/problem+json`, with a status and a stable code. This file alone decides
//! which error gets which.
//!
//! What always holds: an error of the database, a storage or our own is logged here once and told without its inner words.

use axum::{
    extract::rejection::{JsonRejection, QueryRejection},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    auth::{jwt::AuthError, password::PasswordError},
    catalog::{CatalogError, ManageError},
    history::HistoryError,
    jobs::{queue::QueueError, request::RequestError},
    people::PeopleError,
    storage,
    tenant::Permission,
};

/// A failure on its way out. `observe.rs` adds the request's id and path.
#[derive(Clone, Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    pub hint: Option<String>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The document of a failure, by RFC 9457 section 3.1, with the extensions `code`, `hint` and `request_id`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(example = json!({
    "type": "urn:holdfast:problem:backup.not_found",
    "title": "Not Found",
    "status": 404,
    "detail": "there is no backup 0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa",
    "code": "backup.not_found",
    "instance": "/api/backup/0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa",
    "request_id": "0199c5f1-0b52-7f0e-8a34-8a1d3c7f5b10",
}))]
pub struct ProblemDocument<'a> {
    /// `urn:holdfast:problem:` and the code.
    pub r#type: String,
    /// The status in words.
    pub title: &'a str,
    pub status: u16,
    /// What went wrong this time.
    pub detail: &'a str,
    /// A stable word to branch on, such as `backup.not_found`.
    pub code: &'a str,
    /// What to do about it, where there is a remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'a str>,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<&'a str>,
    /// The id that the server's log lines of this request carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

/// The media type of RFC 9457.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Longest text of a request that is repeated in an answer, in characters.
const MAX_ECHO: usize = 300;

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let detail = if detail.chars().nth(MAX_ECHO).is_some() {
            detail.chars().take(MAX_ECHO).chain(['…']).collect()
        } else {
            detail
        };
        Self { status, code, detail, hint: None, headers: Vec::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// The request is wrong in a way that its shape does not show.
    pub fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// Nobody is named, or not in a way that we read.
    pub fn unauthenticated(code: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
            .hint("Send a token as `Authorization: Bearer TOKEN`; `POST /auth/login` and `holdfast token issue` make one.")
            .header(WWW_AUTHENTICATE, r#"Bearer realm="holdfast""#)
    }

    /// A fault of ours. Its cause goes to the log alone.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong on our side")
            .hint("The server's log says more under this request id.")
    }

    /// The time for a request is over.
    pub fn timeout() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "request.timeout", "the request took too long")
            .hint("Try again later.")
    }

    /// The control plane's database does not answer as it should.
    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "control_plane.unavailable",
            "the control plane's database cannot answer now",
        )
        .hint("Try again in a few seconds.")
        .header(RETRY_AFTER, "5")
    }

    /// The answer, as far as it is known where the problem arose or after `instance` and `request_id` are.
    pub fn render(&self, instance: Option<&str>, request_id: Option<&str>) -> Response {
        let document = ProblemDocument {
            r#type: format!("urn:holdfast:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            hint: self.hint.as_deref(),
            instance,
            request_id,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.render(None, None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match &error {
            AuthError::ShortSecret(_) | AuthError::Sign(_) | AuthError::Setting { .. } => {
                tracing::error!(%error, "cannot check a token");
                Self::internal()
            }
            AuthError::Invalid | AuthError::Expired | AuthError::NotYet(_) | AuthError::Claim { .. } => {
                Self::unauthenticated(error.code(), &error.to_string())
                    .header(WWW_AUTHENTICATE, r#"Bearer realm="holdfast", error="invalid_token""#)
            }
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::NotFound { .. } => StatusCode::NOT_FOUND,
            RequestError::Forbidden(permission) => return forbidden(*permission),
            RequestError::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            RequestError::Conflict { .. } => StatusCode::CONFLICT,
            RequestError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            RequestError::Database(error) => return database(error),
        };
        let problem = Self::new(status, error.code(), error.to_string());
        let problem = match error {
            // Nobody knows how long a job takes; a minute is a good time to ask again.
            RequestError::Busy { .. } => problem.header(RETRY_AFTER, "60"),
            _ => problem,
        };
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

/// The caller is known and lacks a scope. Told in the words of RFC 6750 section 3.1 as well.
fn forbidden(permission: Permission) -> Problem {
    let error = RequestError::Forbidden(permission);
    let challenge = format!(r#"Bearer realm="holdfast", error="insufficient_scope", scope="{permission}""#);
    Problem::new(StatusCode::FORBIDDEN, error.code(), error.to_string())
        .hint(format!("Use a token whose scope contains {permission}."))
        .header(WWW_AUTHENTICATE, &challenge)
}

/// Values that PostgreSQL cannot take (SQLSTATE class 22, such as a zero byte in a text) are the request's fault; everything else
/// is the control plane's.
fn database(error: &sqlx::Error) -> Problem {
    let class = error.as_database_error().and_then(|error| error.code());
    if class.is_some_and(|code| code.starts_with("22")) {
        return Problem::invalid("request.value", "a value in the request cannot be used")
            .hint("Leave out zero bytes and numbers or times that are out of range.");
    }
    tracing::error!(%error, "the control plane's database failed a request");
    Problem::unavailable()
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        database(&error)
    }
}

impl From<HistoryError> for Problem {
    fn from(error: HistoryError) -> Self {
        RequestError::from(error).into()
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        RequestError::from(error).into()
    }
}

impl From<PeopleError> for Problem {
    fn from(error: PeopleError) -> Self {
        let status = match &error {
            PeopleError::NotFound { .. } => StatusCode::NOT_FOUND,
            PeopleError::NameTaken(_) | PeopleError::LastOperator => StatusCode::CONFLICT,
            PeopleError::TooManyKeys(_) => {
                return Self::new(StatusCode::CONFLICT, error.code(), error.to_string())
                    .hint("Revoke one that nobody uses: GET /api/keys says when each was used last.");
            }
            PeopleError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            PeopleError::Database(error) => return database(error),
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Short | PasswordError::Long => Self::invalid("user.password", error.to_string()),
            PasswordError::Failed(_) => {
                tracing::error!(%error, "a password could not be looked at");
                Self::internal()
            }
        }
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        RequestError::from(error).into()
    }
}

impl From<ManageError> for Problem {
    fn from(error: ManageError) -> Self {
        let status = match &error {
            ManageError::Forbidden(permission) => return forbidden(*permission),
            ManageError::Role(_) | ManageError::Grant(_) => StatusCode::FORBIDDEN,
            ManageError::NotFound { .. } => StatusCode::NOT_FOUND,
            ManageError::Exists { .. }
            | ManageError::ReadOnly(_)
            | ManageError::InUse { .. }
            | ManageError::Taken { .. }
            | ManageError::Sealed { .. }
            | ManageError::Source { is_conflict: true, .. } => StatusCode::CONFLICT,
            ManageError::Invalid { .. } | ManageError::Source { is_conflict: false, .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ManageError::TooSoon { .. } => StatusCode::TOO_MANY_REQUESTS,
            ManageError::Key(_) => {
                tracing::error!(%error, "a secret cannot be sealed");
                return Self::internal();
            }
            ManageError::Database(error) => return database(error),
        };
        let problem = Self::new(status, error.code(), error.to_string());
        let problem = match &error {
            ManageError::TooSoon { wait, .. } => problem.header(RETRY_AFTER, &wait.as_secs().to_string()),
            _ => problem,
        };
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

/// A storage failed while its bytes were asked for. Its own words may name paths and hosts.
impl From<storage::Error> for Problem {
    fn from(error: storage::Error) -> Self {
        use storage::ErrorKind as Kind;
        tracing::error!(%error, "a storage failed a request");
        let (status, detail) = match error.kind {
            Kind::NotFound => (StatusCode::BAD_GATEWAY, "the stored bytes are gone"),
            Kind::Corrupt => (StatusCode::BAD_GATEWAY, "the stored bytes are not what was stored"),
            Kind::Denied => (StatusCode::BAD_GATEWAY, "the storage denies access"),
            Kind::Exists | Kind::Invalid | Kind::TooLarge => {
                (StatusCode::BAD_GATEWAY, "the storage refused the request")
            }
            Kind::Full => (StatusCode::INSUFFICIENT_STORAGE, "the storage has no space"),
            Kind::Throttled { .. } => (StatusCode::SERVICE_UNAVAILABLE, "the storage asks to slow down"),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "the storage cannot be reached"),
        };
        let problem = Self::new(status, error.kind.code(), detail);
        match error.kind {
            Kind::Throttled { retry_after: Some(wait) } => {
                problem.header(RETRY_AFTER, &wait.as_secs().max(1).to_string())
            }
            Kind::Throttled { retry_after: None } | Kind::Unavailable => problem.header(RETRY_AFTER, "30"),
            Kind::NotFound
            | Kind::Corrupt
            | Kind::Denied
            | Kind::Exists
            | Kind::Invalid
            | Kind::TooLarge
            | Kind::Full => problem.hint("Verify the backup to learn which of its copies are good."),
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let words = |text: String| text.split_once(": ").map_or(text.clone(), |(_, cause)| cause.to_owned());
        match rejection {
            JsonRejection::JsonDataError(error) => Self::invalid("request.body", words(error.body_text())),
            JsonRejection::JsonSyntaxError(error) => {
                Self::new(StatusCode::BAD_REQUEST, "request.json", words(error.body_text()))
            }
            JsonRejection::MissingJsonContentType(_) => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "request.content_type", "the body is not marked as JSON")
                    .hint("Send `Content-Type: application/json`.")
            }
            JsonRejection::BytesRejection(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request.too_large", "the body is larger than is allowed")
                    .hint("The setting `listen.max_body` holds the limit.")
            }
            JsonRejection::BytesRejection(_) => {
                Self::new(StatusCode::BAD_REQUEST, "request.body", "the body could not be read")
            }
            // axum's list of rejections may grow; the body is unusable in any case.
            _ => Self::new(StatusCode::BAD_REQUEST, "request.body", "the body could not be read"),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        let text = rejection.body_text();
        let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
        Self::invalid("request.query", format!("the query cannot be read: {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_says_is_not_told() {
        let problem = Problem::from(sqlx::Error::Protocol("canary at 10.0.0.1".to_owned()));
        assert_eq!((problem.status.as_u16(), problem.code), (503, "control_plane.unavailable"));
        assert!(!format!("{problem:?}").contains("canary"));
    }

    #[test]
    fn what_a_storage_says_is_not_told() {
        let error = storage::Error::new(storage::ErrorKind::Denied, "cannot open /srv/canary");
        let problem = Problem::from(error);
        assert_eq!((problem.status.as_u16(), problem.code), (502, "storage.denied"));
        assert!(!format!("{problem:?}").contains("canary"));
    }

    #[test]
    fn long_details_are_cut() {
        assert_eq!(Problem::invalid("x", "ü".repeat(1000)).detail.chars().count(), MAX_ECHO + 1);
    }
}
