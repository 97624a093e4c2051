//! What becomes known of a call while it is answered, for the audit trail: who calls, what it named, and whether a handler has written
//! down the outcome itself. A call that is refused is written down here, by the one layer that sees every answer, so that no handler can
//! forget it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;

use super::{Api, client::ClientAddress, error::Problem, refusals};
use crate::tenant::Caller;

tokio::task_local! {
    /// The call that this task answers.
    static CALL: Arc<Known>;
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct Known {
    pub caller: OnceLock<Caller>,
    /// As it was sent, if it was read.
    pub body: OnceLock<Bytes>,
    is_told: AtomicBool,
}

/// A call that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    pub method: Method,
    pub path: String,
    /// The path with names in the place of ids, where there is such a route.
    pub route: Option<String>,
    pub status: StatusCode,
    pub code: &'static str,
    pub address: ClientAddress,
}

/// The call comes from `caller`, whose token or session was checked.
pub fn caller_is(caller: &Caller) {
    let _ = CALL.try_with(|call| call.caller.set(caller.clone()));
}

/// Whether it is known who calls.
pub fn has_caller() -> bool {
    CALL.try_with(|call| call.caller.get().is_some()).unwrap_or(false)
}

/// The call has this body.
pub fn body_is(body: &Bytes) {
    let _ = CALL.try_with(|call| call.body.set(body.clone()));
}

/// A handler has written the refusal down with words of its own.
pub fn is_told() {
    let _ = CALL.try_with(|call| call.is_told.store(true, Ordering::Relaxed));
}

/// `work` as a part of this task's call, wherever it runs: what becomes known there is known here.
pub fn also_seen<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let known = CALL.try_with(Arc::clone).unwrap_or_default();
    CALL.scope(known, work)
}

/// Answers a request, and writes down that it was refused.
pub async fn watch(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let address = ClientAddress::of(request.extensions(), request.headers(), &api.trusted_proxies);
    request.extensions_mut().insert(address);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let known = Arc::new(Known::default());
    let response = CALL.scope(Arc::clone(&known), next.run(request)).await;
    if let Some(problem) = response.extensions().get::<Problem>()
        && problem.status.is_client_error()
        && !known.is_told.load(Ordering::Relaxed)
    {
        let refused = Refused { method, path, route, status: problem.status, code: problem.code, address };
        // Apart: a client that leaves now is written down all the same.
        let _ = tokio::spawn(async move { refusals::note(&api, &known, &refused).await }).await;
    }
    response
}
