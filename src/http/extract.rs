//! What a handler takes from a request. Whatever is wrong with it becomes a [`Problem`].

use std::{net::IpAddr, str::FromStr};

use axum::{
    body::HttpBody as _,
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION, request::Parts},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Api, client::ClientAddress, cookie, error::Problem, json_body, witness, zero_bytes};
use crate::{
    auth::jwt::{AuthError, Identity},
    ids::{BackupId, JobId},
    jobs::request::RequestError,
    people::{self, KeyToken},
    tenant::{Caller, Permission},
};

/// Someone with a valid token, session or API key. Comes first among a handler's parameters, so that nobody else learns what is
/// wrong with a request. Who is among a request's extensions is known and counted already.
#[derive(Clone, Debug)]
pub struct Signed(pub Caller, pub Via);

/// By what a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A token that says all there is to say: ours, or a platform's.
    Token,
    /// A local user who logged in.
    Session { id: Uuid, user_id: Uuid },
    /// An API key.
    Key,
}

impl Signed {
    /// 403 unless the caller has this permission.
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.0.may(permission) { Ok(()) } else { Err(RequestError::Forbidden(permission).into()) }
    }

    /// The local user behind the call, if it is one.
    pub const fn user_id(&self) -> Option<Uuid> {
        match self.1 {
            Via::Session { user_id, .. } => Some(user_id),
            Via::Token | Via::Key => None,
        }
    }
}

impl FromRequestParts<Api> for Signed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let (mut caller, via) = identify(parts, api).await?;
        caller.address = address(parts);
        witness::caller_is(&caller);
        api.limits.count_caller(&caller, api.app.clock.now())?;
        Ok(Self(caller, via))
    }
}

/// Who has this token, session or API key.
///
/// # Errors
/// It is none that is valid.
pub async fn identify(parts: &Parts, api: &Api) -> Result<(Caller, Via), Problem> {
    if parts.headers.contains_key(AUTHORIZATION) {
        return by_token(api, bearer(&parts.headers)?).await;
    }
    match cookie::token(&parts.headers) {
        Some(token) => by_cookie(api, token, parts).await,
        None => Err(Problem::unauthenticated("auth.token_missing", "this call needs a token")),
    }
}

/// Where a request comes from.
pub fn address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<ClientAddress>().and_then(|ClientAddress(address)| *address)
}

async fn by_token(api: &Api, token: &str) -> Result<(Caller, Via), Problem> {
    if KeyToken::is_meant(token) {
        let now = api.app.clock.now();
        let key = KeyToken::parse(token).ok_or(AuthError::Invalid)?;
        let (id, caller) = people::find_key(&api.app.pool, key, now).await?.ok_or(AuthError::Invalid)?;
        people::touch_key(&api.app.pool, id, now).await?;
        return Ok((caller, Via::Key));
    }
    match api.verifier.identify(token).await? {
        Identity::Caller(caller) => Ok((caller, Via::Token)),
        Identity::Session(id) => by_session(api, id).await,
    }
}

/// Browsers send cookies with whatever any page asks for, so what changes something must come from a page of ours; and a cookie is
/// worth nothing but a session.
async fn by_cookie(api: &Api, token: &str, parts: &Parts) -> Result<(Caller, Via), Problem> {
    if !parts.method.is_safe() {
        cookie::require_same_origin(&parts.headers)?;
    }
    match api.verifier.identify(token).await? {
        Identity::Session(id) => by_session(api, id).await,
        Identity::Caller(_) => Err(AuthError::Invalid.into()),
    }
}

async fn by_session(api: &Api, id: Uuid) -> Result<(Caller, Via), Problem> {
    let user = people::session_user(&api.app.pool, id, api.app.clock.now()).await?;
    let known = user.and_then(|user| Some((user.caller()?, Via::Session { id, user_id: user.id })));
    Ok(known.ok_or(AuthError::Invalid)?)
}

/// The address of a request, for calls that are open to everyone.
#[derive(Clone, Copy, Debug)]
pub struct CallFrom(pub Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for CallFrom {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(address(parts)))
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1). It is taken from nowhere else: addresses end up in logs.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        return Err(Problem::unauthenticated("auth.token_missing", "this call needs a token"));
    };
    let wrong = || Problem::unauthenticated("auth.token_invalid", "the Authorization header holds no bearer token");
    let (scheme, token) = value.to_str().map_err(|_| wrong())?.split_once(' ').ok_or_else(wrong)?;
    if given.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
        return Err(wrong());
    }
    Ok(token.trim())
}

/// The `Idempotency-Key` of a call that changes something: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug)]
pub struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    pub fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// A key of ours, for a form that may be sent twice.
    pub const fn of(key: Option<String>) -> Self {
        Self(key)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut given = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = given.next() else { return Ok(Self(None)) };
        let key = value.as_bytes();
        let is_well_formed = !key.is_empty() && key.len() <= 255 && key.iter().all(u8::is_ascii_graphic);
        match (value.to_str(), is_well_formed, given.next()) {
            (Ok(key), true, None) => Ok(Self(Some(key.to_owned()))),
            _ => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "request.idempotency_key",
                "the Idempotency-Key is not usable",
            )
            .hint("Send one key of 1 to 255 visible ASCII characters, such as a UUID.")),
        }
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Api) -> Result<Self, Problem> {
        json_body::read(request).await.map(Self)
    }
}

/// A body that may be left out.
impl<T: DeserializeOwned> OptionalFromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Option<Self>, Problem> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<Api>>::from_request(request, api).await.map(Some)
    }
}

/// The query's parameters.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        zero_bytes::refuse_in_query(parts.uri.query())?;
        let Query(params) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(params))
    }
}

/// The one id in a path. What is no id names nothing: 404.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

/// What an id in a path names.
pub trait Names: FromStr {
    const WHAT: &'static str;
}

impl Names for BackupId {
    const WHAT: &'static str = "backup";
}

impl Names for JobId {
    const WHAT: &'static str = "job";
}

impl<S: Send + Sync, T: Names> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.map(|Path(text)| text).unwrap_or_default();
        text.parse().map(Self).map_err(|_| {
            let shown = text.chars().filter(|c| !c.is_control()).take(60).collect();
            RequestError::NotFound { what: T::WHAT, id: shown }.into()
        })
    }
}
