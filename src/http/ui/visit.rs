//! Someone with a browser: who it is, what a form brought, what is said on the next page; and what happens when a session has ended.
//!
//! What always holds: what a form brought when nobody was logged in any more is given back after the login, unless it came from a page of
//! another site; passwords and other secrets are left out of what is given back.

use askama::Template;
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, LOCATION,
            REFERRER_POLICY, SET_COOKIE, VARY,
        },
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::Compression;
use url::form_urlencoded;

use super::{
    assets,
    frame::{Frame, Place},
    login,
    problem::{Told, carry},
    show,
};
use crate::{
    byte_size::ByteSize,
    http::{Api, cookie, error::Problem, extract::Signed, idempotency::HoldsSecret, zero_bytes},
    tenant::{Caller, Permission, Role},
};

/// The message that the next page shows.
const FLASH: &str = "holdfast_flash";

/// Longest form, in bytes: each is kept to be given back after a login.
const MAX_KEPT: usize = 64 << 10;

/// Among the fields of a form that is given back: something secret was left out of it.
pub const LEFT_OUT: &str = "holdfast_left_out";

/// Pages run our own scripts alone, show nothing of other hosts and are shown in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Set by htmx on what it asks for.
pub const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");

/// A page as it is sent.
pub fn page(template: &impl Template) -> Result<Response, Problem> {
    page_as(StatusCode::OK, template)
}

/// The same, for a page that tells of something wrong.
pub fn page_as(status: StatusCode, template: &impl Template) -> Result<Response, Problem> {
    let markup = template.render().map_err(|error| {
        tracing::error!(%error, "a page could not be made");
        Problem::internal()
    })?;
    let mut response = (status, markup).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // With `no-referrer` browsers would not say where a form comes from (Fetch, "serializing a request origin").
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// On to another page, which says `told`.
pub fn go(path: &str, told: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(LOCATION, path);
    }
    if !told.is_empty() {
        set_flash(response.headers_mut(), &BASE64_URL_SAFE_NO_PAD.encode(told), 60);
    }
    response
}

fn set_flash(headers: &mut HeaderMap, value: &str, seconds: u32) {
    let cookie = format!("{FLASH}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(SET_COOKIE, cookie);
    }
}

fn flash(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.find(|(name, _)| *name == FLASH)?.1;
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(value).ok()?).ok().filter(|text| text.len() <= 2_000)
}

/// Whether the browser's own script asks for a part of a page.
pub fn is_partial(headers: &HeaderMap) -> bool {
    headers.contains_key(HX_REQUEST)
}

/// Someone who is logged in.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub signed: Signed,
    pub now: DateTime<Utc>,
    flash: Option<String>,
}

impl Visitor {
    pub fn caller(&self) -> &Caller {
        &self.signed.0
    }

    pub fn may_write(&self) -> bool {
        self.caller().may(Permission::Write)
    }

    pub fn is_operator(&self) -> bool {
        self.caller().role == Role::Operator
    }

    pub fn is_admin(&self) -> bool {
        match self.caller().role {
            Role::Operator => true,
            Role::OrgAdmin => self.caller().organization_id.is_some(),
            Role::Member => false,
        }
    }

    /// A message of ours as this visitor may read it.
    pub fn told(&self, message: &str) -> String {
        match self.is_operator() {
            true => message.to_owned(),
            false => crate::history::without_endpoints(message),
        }
    }

    /// What stands around a page.
    pub fn frame(&self, here: Place, title: impl Into<String>) -> Frame {
        Frame {
            title: show::unturned(&title.into()),
            here,
            who: Some(self.caller().subject.trim_start_matches("user:").to_owned()),
            is_operator: self.is_operator(),
            is_admin: self.is_admin(),
            flash: self.flash.clone(),
        }
    }
}

impl FromRequestParts<Api> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let signed = Signed::from_request_parts(parts, api).await?;
        Ok(Self { signed, now: api.app.clock.now(), flash: flash(&parts.headers) })
    }
}

/// What a form brought, as it was typed.
#[derive(Clone, Debug, Default)]
pub struct Typed(Vec<(String, String)>);

impl Typed {
    pub fn read(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The field's text without spaces around; empty when it is missing.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.trim())
    }

    /// The field as typed, for passwords.
    pub fn exact(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    pub fn given(&self, name: &str) -> Option<String> {
        Some(self.get(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// Whether the form had this field, filled in or not.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(field, _)| field == name)
    }

    pub fn is_checked(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// Every value of a field that may be given several times.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(field, value)| field == name && !value.is_empty());
        values.map(|(_, value)| value.clone()).collect()
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Refuses a form that was kept through a login: its secrets were not.
    ///
    /// # Errors
    /// They were left out.
    pub fn require_whole(&self) -> Result<(), Problem> {
        if !self.is_checked(LEFT_OUT) {
            return Ok(());
        }
        let told = "passwords and other secrets were not kept while you logged in again";
        Err(Problem::invalid("request.left_out", told).hint("Type them again; everything else is as you left it."))
    }

    /// A number, where one was typed.
    ///
    /// # Errors
    /// It is none; names the field.
    pub fn number(&self, name: &'static str) -> Result<Option<u32>, Problem> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| wrong(name, "this is not a whole number"))
    }

    /// A number of bytes, where one was typed.
    ///
    /// # Errors
    /// It is none; names the field.
    pub fn size(&self, name: &'static str) -> Result<Option<ByteSize>, Problem> {
        let size = self.given(name).map(|text| text.parse::<ByteSize>()).transpose();
        size.map_err(|error| wrong(name, &error.to_string()))
    }
}

/// A field is wrong, and why. The field is named before the words: see `form.rs`.
pub fn wrong(field: &str, why: &str) -> Problem {
    Problem::invalid("request.field", format!("{field}: {why}"))
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request.too_large", "the form is larger than is allowed")
}

impl<S: Send + Sync> FromRequest<S> for Typed {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_form(request.headers()) {
            let problem = Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "request.content_type",
                "the body is not marked as a form",
            );
            return Err(problem.hint("Send `Content-Type: application/x-www-form-urlencoded`."));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|_| too_large())?;
        let typed = Self::read(&bytes);
        if typed.0.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(Problem::invalid("request.value", "a field has a zero byte"));
        }
        Ok(typed)
    }
}

/// Around every page: whoever is nobody logs in first and comes back; what a form brought is not lost.
pub async fn watch(State(_): State<Api>, request: Request, next: Next) -> Response {
    if let Err(problem) = zero_bytes::refuse_in_query(request.uri().query()) {
        return problem.into_response();
    }
    let headers = request.headers().clone();
    let place = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    let (request, kept) = if is_read {
        (request, None)
    } else {
        match keep_form(request).await {
            Ok((request, form)) => (request, Some(form)),
            Err(problem) => return problem.into_response(),
        }
    };
    let mut response = next.run(request).await;
    // A login that failed has been told by its own page.
    let is_told = response.extensions().get::<Told>().is_some();
    let nobody = response.extensions().get::<Problem>().filter(|p| p.status == StatusCode::UNAUTHORIZED && !is_told);
    if let Some(problem) = nobody.filter(|_| !is_partial(&headers)).cloned() {
        if is_read {
            return go(&format!("/login?next={}", show::in_query(&place)), "");
        }
        let form = kept.filter(|_| cookie::require_same_origin(&headers).is_ok());
        return match login::again(&place, form.as_ref()) {
            Ok(mut page) => {
                carry(&mut page, problem);
                page
            }
            Err(problem) => problem.into_response(),
        };
    }
    // Said once.
    if flash(&headers).is_some() && response.status() == StatusCode::OK && !is_partial(&headers) {
        set_flash(response.headers_mut(), "", 0);
    }
    smaller(&headers, response).await
}

/// A page in the form of gzip, for browsers that read it. Never one that holds a secret: its length would tell of it to whoever chooses
/// other parts of the page.
async fn smaller(asked: &HeaderMap, response: Response) -> Response {
    let is_page = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let holds_secret = response.extensions().get::<HoldsSecret>().is_some();
    if !is_page || holds_secret || !assets::takes_gzip(asked) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // Pages are made whole before they are sent.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return Problem::internal().into_response() };
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, Body::from(assets::compressed(&bytes, Compression::fast())))
}

/// The form's bytes beside the request that has them.
async fn keep_form(request: Request) -> Result<(Request, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_KEPT).await.map_err(|_| too_large())?;
    Ok((Request::from_parts(parts, Body::from(bytes.clone())), bytes))
}

/// The fields of a form that may be given back, and [`LEFT_OUT`] where that is not all that was typed.
pub fn without_secrets(form: &[u8]) -> Vec<(String, String)> {
    const SECRETS: [&str; 4] = ["password", "secret", "token", "url"];
    let is_secret = |name: &str| SECRETS.iter().any(|secret| name.contains(secret));
    let (secrets, mut told): (Vec<_>, Vec<_>) = Typed::read(form).0.into_iter().partition(|(name, _)| is_secret(name));
    if secrets.iter().any(|(_, value)| !value.is_empty()) {
        told.push((LEFT_OUT.to_owned(), "1".to_owned()));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_after_a_login_has_no_secret() {
        let kept =
            without_secrets(b"name=a+b&new_password=canary&settings.secret_key=canary&bot_token=canary&url=canary");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(kept, [pair("name", "a b"), pair(LEFT_OUT, "1")]);
        assert_eq!(without_secrets(b"name=a+b&password="), [pair("name", "a b")]);
    }

    #[tokio::test]
    async fn what_is_no_form_or_too_large_is_refused() {
        let posted =
            |kind: &str, body: String| Request::post("/").header(CONTENT_TYPE, kind).body(Body::from(body)).unwrap();
        let form = "application/x-www-form-urlencoded; charset=UTF-8";
        assert_eq!(Typed::from_request(posted(form, "a=b".to_owned()), &()).await.unwrap().get("a"), "b");
        let refused = Typed::from_request(posted("text/plain", "a=b".to_owned()), &()).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let refused = keep_form(posted(form, "a".repeat(MAX_KEPT + 1))).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn a_message_is_said_as_it_was_written() {
        let mut headers = HeaderMap::new();
        let answer = go("/x", "Pinned „ü“.");
        let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        headers.insert(COOKIE, cookie.parse().unwrap());
        assert_eq!(flash(&headers).as_deref(), Some("Pinned „ü“."));
    }
}
