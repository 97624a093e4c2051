//! How much one may ask for: calls a minute by caller, or by address for those who are nobody; and how long a request's head may be.
//!
//! Whoever has a valid token is counted by who it is, wherever it calls from: many tenants may share one address. A call without a token
//! is counted by its address before anything is done for it, one whose token turns out to be none afterwards. From an address with too many
//! such tokens every token is looked at first, a few at once: whoever has a valid one is let in all the same.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        StatusCode,
        header::{AUTHORIZATION, RETRY_AFTER},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;

use super::{
    Api,
    buckets::{Buckets, Wait},
    client::{self, ClientAddress},
    cookie,
    error::Problem,
    extract, witness,
};
use crate::{config::LimitsConfig, tenant::Caller};

/// Longest path and query, in bytes.
const MAX_TARGET: usize = 8 * 1024;

/// Longest headers, names and values together, in bytes. Tokens of platforms that list a user's groups are up to 8 KiB long.
const MAX_HEADERS: usize = 16 * 1024;

/// Asked by machines that watch the service, and answered in any case.
const ALWAYS_ANSWERED: [&str; 2] = ["/healthz", "/readyz"];

/// Nobody's calls, whatever token comes along.
const ALWAYS_NOBODYS: [&str; 4] = ["/auth/login", "/auth/setup", "/login", "/setup"];

/// Tokens from suspected addresses that are looked at at once: an API key takes a query.
const SUSPECTS_AT_ONCE: usize = 2;

/// What has come in, by whom.
#[derive(Debug)]
pub struct Limits {
    callers: Buckets,
    addresses: Buckets,
    /// Tokens that were none, by address.
    wrong_tokens: Buckets,
    suspects: Semaphore,
}

impl Limits {
    pub fn new(config: &LimitsConfig) -> Self {
        Self {
            callers: Buckets::new(config.requests_per_minute),
            addresses: Buckets::new(config.anonymous_requests_per_minute),
            wrong_tokens: Buckets::new(config.anonymous_requests_per_minute),
            suspects: Semaphore::new(SUSPECTS_AT_ONCE),
        }
    }

    /// Counts a call of someone who is known.
    ///
    /// # Errors
    /// It is one too many: 429.
    pub fn count_caller(&self, caller: &Caller, now: DateTime<Utc>) -> Result<(), Problem> {
        self.callers.take(&identity(caller), now).map_err(too_many)
    }

    /// Counts a token that was none.
    fn count_wrong_token(&self, address: Option<IpAddr>, now: DateTime<Utc>) -> Result<(), Problem> {
        match address {
            Some(address) => self.wrong_tokens.take(&client::block(address), now).map_err(too_many),
            None => Ok(()),
        }
    }

    /// Whether too many wrong tokens came from there.
    fn is_suspect(&self, address: Option<IpAddr>, now: DateTime<Utc>) -> bool {
        address.is_some_and(|address| self.wrong_tokens.is_empty(&client::block(address), now))
    }

    /// Counts a call of nobody. One without an address comes from inside this process.
    fn count_address(&self, address: Option<IpAddr>, now: DateTime<Utc>) -> Result<(), Problem> {
        match address {
            Some(address) => self.addresses.take(&client::block(address), now).map_err(too_many),
            None => Ok(()),
        }
    }
}

/// Who somebody is: a subject alone may be somebody else in another tenant.
pub fn identity(caller: &Caller) -> (&str, &str, Option<&str>, Vec<&str>) {
    let projects = caller.project_ids.iter().map(|id| id.as_str()).collect();
    (&caller.subject, caller.role.as_str(), caller.organization_id.as_deref(), projects)
}

fn too_many(Wait(seconds): Wait) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "limits.rate", "too many calls")
        .hint("Wait as long as Retry-After says.")
        .header(RETRY_AFTER, &seconds.to_string())
}

/// Lets a request in, or refuses it for its size or number.
pub async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    if let Err(problem) = check_head(&request) {
        return problem.into_response();
    }
    let path = request.uri().path();
    // Whoever asks for metrics with a token that is not Prometheus' own is looked up like everybody else.
    let is_prometheus = path == "/metrics" && api.scrape.is_opened_by(request.headers());
    if is_prometheus || ALWAYS_ANSWERED.contains(&path) {
        return next.run(request).await;
    }
    let address = request.extensions().get::<ClientAddress>().and_then(|ClientAddress(address)| *address);
    let count = || api.limits.count_address(address, api.app.clock.now());
    let has_token = request.headers().contains_key(AUTHORIZATION) || cookie::token(request.headers()).is_some();
    if !has_token || ALWAYS_NOBODYS.contains(&request.uri().path()) {
        return match count() {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        };
    }
    let request = match look_first(&api, address, request).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    let response = next.run(request).await;
    // The token was none, or nobody looked at it.
    if !witness::has_caller() {
        let now = api.app.clock.now();
        let wrong = api.limits.count_wrong_token(address, now);
        if let Err(problem) = count().and(wrong) {
            return problem.into_response();
        }
    }
    response
}

/// Refuses a token that is none before anything else is done, if it comes from an address with too many of them.
async fn look_first(api: &Api, address: Option<IpAddr>, request: Request) -> Result<Request, Problem> {
    let now = api.app.clock.now();
    if !api.limits.is_suspect(address, now) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let turn = api.limits.suspects.acquire().await;
    let looked_at = extract::identify(&parts, api).await;
    drop(turn);
    if let Err(problem) = looked_at
        && problem.status == StatusCode::UNAUTHORIZED
    {
        return Err(api.limits.count_wrong_token(address, now).err().unwrap_or(problem));
    }
    Ok(Request::from_parts(parts, body))
}

fn check_head(request: &Request) -> Result<(), Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET {
        let detail = format!("the path and query have {target} bytes, and {MAX_TARGET} are allowed");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "request.uri_too_long", detail));
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers > MAX_HEADERS {
        let detail = format!("the headers have {headers} bytes, and {MAX_HEADERS} are allowed");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request.headers_too_large", detail));
    }
    Ok(())
}
