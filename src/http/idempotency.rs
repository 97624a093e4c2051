//! `Idempotency-Key` for calls that make no job: the same call under the same key is answered as before and not made again, for a day. (Calls
//! that make a job find the job that was made: see `jobs::request`.)
//!
//! What always holds: a key belongs to one caller with its rights of then, and to one call; an answer is given again only to the same call of
//! the same caller; only success is kept, so that what was refused may be put right and sent again; an answer that holds a secret
//! ([`HoldsSecret`]) is not kept, and asking for it again is told so.
//!
//! Calls under `/auth/` are left out: they answer with sessions and take passwords, and none of it is to be kept.
//!
//! A process that dies, or a call that takes too long, between its change and the keeping of its answer leaves a key that is taken again after [`LOST_AFTER`]: then the call
//! is made a second time.

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::hmac;
use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, MatchedPath, Request, State, rejection::JsonRejection},
    http::{
        HeaderName, HeaderValue, Method, StatusCode,
        header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::Duration;
use sha2::{Digest, Sha256};
use tracing::Instrument;
use utoipa::openapi::OpenApi;
use uuid::Uuid;

use super::{
    Api, REQUEST_LIMIT,
    error::Problem,
    extract::{IdempotencyKey, Signed},
    witness,
};
use crate::{
    history::{self, CallStanding, KeptAnswer, KeyedCall},
    tenant::Caller,
};

/// How long an answer is kept.
pub(super) const KEPT_FOR: Duration = Duration::hours(24);

/// After this time without an answer an attempt was lost with its process: twice the time that a request may take.
pub(super) const LOST_AFTER: Duration = Duration::seconds(60);

/// Largest answer that is kept, in bytes.
const MAX_ANSWER: usize = 256 << 10;

/// Says that an answer was given before and is given again.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Put among an answer's extensions: it holds a secret that is shown once.
#[derive(Clone, Copy, Debug)]
pub struct HoldsSecret;

/// What the middleware works with.
#[derive(Clone)]
pub struct Keys {
    api: Api,
    /// Paths of the calls that make a job.
    job_calls: Arc<BTreeSet<String>>,
}

impl Keys {
    pub fn new(api: Api, document: &OpenApi) -> Self {
        let makes_job =
            |operation: &utoipa::openapi::path::Operation| operation.responses.responses.contains_key("202");
        let paths = document.paths.paths.iter();
        let job_calls =
            paths.filter(|(_, item)| item.post.as_ref().is_some_and(makes_job)).map(|(path, _)| path.clone());
        Self { api, job_calls: Arc::new(job_calls.collect()) }
    }

    fn concerns(&self, request: &Request) -> bool {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        request.method() == Method::POST
            && request.headers().contains_key("idempotency-key")
            && path.is_some_and(|path| !path.starts_with("/auth/") && !self.job_calls.contains(path))
    }
}

/// Honours the key of a call that makes no job.
pub async fn honour(State(keys): State<Keys>, request: Request, next: Next) -> Result<Response, Problem> {
    if !keys.concerns(&request) {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let signed = match Signed::from_request_parts(&mut parts, &keys.api).await {
        Ok(signed) => signed,
        // Whoever is nobody is told so by the call itself.
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            return Ok(next.run(Request::from_parts(parts, body)).await);
        }
        // A call whose caller could not be looked up now is not carried out without its key: the handler might look with more luck.
        Err(problem) => return Err(problem),
    };
    // A call with a key is one call: the handler is not to count it again.
    parts.extensions.insert(signed.clone());
    let Signed(caller, _) = signed;
    let key = IdempotencyKey::from_request_parts(&mut parts, &keys.api).await?;
    let Some(key) = key.as_deref().map(str::to_owned) else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    // Read as the handlers would, with the same limit.
    let whole = Request::from_parts(parts.clone(), body);
    let body = Bytes::from_request(whole, &()).await.map_err(|error| Problem::from(JsonRejection::from(error)))?;
    let digests = Digests::of(&keys.api, &caller, &parts, &body);
    let call = OwnedCall { digests, key, attempt: Uuid::now_v7() };
    let (pool, now) = (&keys.api.app.pool, keys.api.app.clock.now());
    match history::begin_answer(pool, &call.as_keyed(), now, now - LOST_AFTER, now + KEPT_FOR).await? {
        CallStanding::Fresh => {}
        CallStanding::UnderWay => {
            return Err(Problem::new(StatusCode::CONFLICT, "idempotency.under_way", "the same call is being answered")
                .hint("Send it again in a moment, with the same key.")
                .header(RETRY_AFTER, "1"));
        }
        CallStanding::Another => {
            let detail = "the idempotency key was used before for another request";
            return Err(Problem::new(StatusCode::CONFLICT, "idempotency.reused", detail)
                .hint("Use a fresh Idempotency-Key for a different request."));
        }
        CallStanding::Answered(answer) => return replay(answer),
    }
    // On a task of its own: a client that leaves does not stop it between the change and the keeping of the answer.
    let request = Request::from_parts(parts, Body::from(body));
    let work = witness::also_seen(async move { answer(&keys.api, &call, next.run(request).await).await });
    // What waits outside ends at its own limit: the task must not go on without one.
    let work = tokio::time::timeout(REQUEST_LIMIT, work);
    match tokio::spawn(work.in_current_span()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => Err(Problem::timeout()),
        Err(error) => {
            tracing::error!(%error, "a call with an idempotency key ended unexpectedly");
            Err(Problem::internal())
        }
    }
}

/// Who called and what, as digests under a key of ours: bodies hold passwords, which a plain digest would let guess.
pub(super) struct Digests {
    pub(super) caller: [u8; 32],
    pub(super) request: [u8; 32],
}

impl Digests {
    pub(super) fn of(api: &Api, caller: &Caller, parts: &Parts, body: &[u8]) -> Self {
        let secret = api.app.keys.jwt_secret.expose().as_bytes();
        let mut projects: Vec<&str> = caller.project_ids.iter().map(|id| id.as_str()).collect();
        projects.sort_unstable();
        let mut permissions: Vec<&str> = caller.permissions.iter().map(|permission| permission.as_str()).collect();
        permissions.sort_unstable();
        let organization = caller.organization_id.as_deref().unwrap_or_default();
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let who =
            [caller.subject.as_str(), caller.role.as_str(), &permissions.join(" "), organization, &projects.join(" ")];
        Self {
            caller: keyed(secret, "caller", who.map(str::as_bytes)),
            request: keyed(secret, "request", [parts.method.as_str().as_bytes(), path.as_bytes(), body]),
        }
    }
}

/// HMAC-SHA256 over parts, each with its length before it.
fn keyed<'a>(secret: &[u8], purpose: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    // A key of its own, so that what is kept here says nothing about tokens.
    let derived =
        Sha256::new().chain_update("holdfast idempotency ").chain_update(purpose).chain_update(secret).finalize();
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &derived));
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    let mut digest = [0u8; 32];
    digest.copy_from_slice(mac.sign().as_ref());
    digest
}

struct OwnedCall {
    digests: Digests,
    key: String,
    attempt: Uuid,
}

impl OwnedCall {
    fn as_keyed(&self) -> KeyedCall<'_> {
        let Digests { caller, request } = &self.digests;
        KeyedCall { caller, key: &self.key, request, attempt: self.attempt }
    }
}

/// The answer on its way out: kept when it is a success, else the key is free again.
async fn answer(api: &Api, call: &OwnedCall, response: Response) -> Response {
    let pool = &api.app.pool;
    let (head, body) = response.into_parts();
    let kept = if head.status.is_success() {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let location = head.headers.get(LOCATION).and_then(text);
        let status = head.status.as_u16();
        // All answers of calls that change something are small and whole.
        let Ok(bytes) = to_bytes(body, usize::MAX).await else { return Problem::internal().into_response() };
        let is_kept = head.extensions.get::<HoldsSecret>().is_none() && bytes.len() <= MAX_ANSWER;
        let body = is_kept.then(|| String::from_utf8(bytes.to_vec()).ok()).flatten();
        let kept = history::keep_answer(pool, &call.as_keyed(), &KeptAnswer { status, location, body }).await;
        (kept, Response::from_parts(head, Body::from(bytes)))
    } else {
        (history::forget_call(pool, &call.as_keyed()).await, Response::from_parts(head, body))
    };
    if let Err(error) = kept.0 {
        tracing::error!(%error, "what became of a call with an idempotency key could not be written down");
    }
    if let Err(error) = history::forget_old_answers(pool, api.app.clock.now()).await {
        tracing::warn!(%error, "old answers could not be removed");
    }
    kept.1
}

fn replay(answer: KeptAnswer) -> Result<Response, Problem> {
    let Some(body) = answer.body else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "idempotency.not_kept",
            "the same call was answered before, with a secret that is not kept",
        )
        .hint("What it made is there: delete it, and make another under a fresh Idempotency-Key."));
    };
    let status = StatusCode::from_u16(answer.status).map_err(|_| Problem::internal())?;
    let has_body = !body.is_empty();
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    if has_body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(location) = answer.location.and_then(|location| HeaderValue::from_str(&location).ok()) {
        headers.insert(LOCATION, location);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
