//! A form that is sent twice (a double click, a reload of what it answered) does what it does once: every form of ours carries an attempt's id,
//! and a second sending is led to where the first one led.
//!
//! What always holds: an attempt belongs to one session's user and to what the form was sent with last, so that whoever goes back to it may
//! send other values, and the first ones after them; only success is kept, so that what was refused may be put right and sent again; a secret
//! that an answer showed is not shown again.

use std::time::{Duration, Instant};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header::LOCATION},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;
use uuid::Uuid;

use super::visit::{Typed, go};
use crate::{
    history::{self, CallStanding, KeptAnswer, KeyedCall},
    http::{
        Api, REQUEST_LIMIT,
        error::Problem,
        extract,
        idempotency::{Digests, HoldsSecret, KEPT_FOR, LOST_AFTER},
        witness,
    },
};

/// The field of every form that carries its attempt.
pub const ATTEMPT: &str = "attempt";

/// Longest wait for the first sending's answer, when a second one comes meanwhile, and the pause between two looks.
const WAIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// A fresh attempt's id.
pub fn attempt() -> String {
    Uuid::now_v7().to_string()
}

/// Around what a form does. Forms without an attempt, and those of nobody, are none of its business.
pub async fn once(State(api): State<Api>, request: Request, next: Next) -> Result<Response, Problem> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let (parts, body) = request.into_parts();
    // Its length was looked at before: see `visit::watch`.
    let body = to_bytes(body, usize::MAX).await.map_err(|_| Problem::internal())?;
    let attempt = Typed::read(&body).given(ATTEMPT).and_then(|text| Uuid::parse_str(&text).ok());
    let known = match attempt {
        Some(attempt) => extract::identify(&parts, &api).await.ok().map(|(caller, _)| (attempt, caller)),
        None => None,
    };
    let Some((attempt, caller)) = known else {
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    };
    let digests = Digests::of(&api, &caller, &parts, &body);
    let key = format!("form {attempt}");
    let own = Uuid::now_v7();
    let call = KeyedCall { caller: &digests.caller, key: &key, request: &digests.request, attempt: own };
    let (began, mut has_waited) = (Instant::now(), false);
    loop {
        let now = api.app.clock.now();
        match history::begin_answer(&api.app.pool, &call, now, now - LOST_AFTER, now + KEPT_FOR).await? {
            CallStanding::Fresh => break,
            CallStanding::Answered(answer) => return Ok(again(&answer)),
            // Someone went back to the form, and sends something else. What has waited for its own first sending is not sent anew, though.
            CallStanding::Another if began.elapsed() < WAIT && !has_waited => {
                history::forget_other(&api.app.pool, &call, now - LOST_AFTER).await?;
                // The other one may still be worked on.
                tokio::time::sleep(PAUSE / 10).await;
            }
            CallStanding::UnderWay if began.elapsed() < WAIT => {
                has_waited = true;
                tokio::time::sleep(PAUSE).await;
            }
            CallStanding::Another | CallStanding::UnderWay => {
                let problem =
                    Problem::new(StatusCode::CONFLICT, "idempotency.under_way", "this form is being worked on");
                return Err(problem.hint("Wait a moment, then look whether it was done."));
            }
        }
    }
    // On a task of its own: a browser that sends again lets go of its first call, which is not to stop half way.
    let request = Request::from_parts(parts, Body::from(body));
    let work = async move {
        let response = next.run(request).await;
        let call = KeyedCall { caller: &digests.caller, key: &key, request: &digests.request, attempt: own };
        keep(&api, &call, led(&response)).await;
        response
    };
    let work = tokio::time::timeout(REQUEST_LIMIT, witness::also_seen(work));
    match tokio::spawn(work.in_current_span()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => Err(Problem::timeout()),
        Err(error) => {
            tracing::error!(%error, "a form ended unexpectedly");
            Err(Problem::internal())
        }
    }
}

/// Where a success led. What only looked at something may be sent as often as one likes.
fn led(response: &Response) -> Option<KeptAnswer> {
    let location = response.headers().get(LOCATION).and_then(|path| path.to_str().ok()).map(str::to_owned);
    let is_kept = response.status().is_redirection() || response.extensions().get::<HoldsSecret>().is_some();
    is_kept.then(|| KeptAnswer { status: response.status().as_u16(), location, body: None })
}

async fn keep(api: &Api, call: &KeyedCall<'_>, answer: Option<KeptAnswer>) {
    let pool = &api.app.pool;
    let kept = match &answer {
        Some(answer) => history::keep_answer(pool, call, answer).await,
        None => history::forget_call(pool, call).await,
    };
    if let Err(error) = kept {
        tracing::error!(%error, "what became of a form could not be written down");
    }
    if let Err(error) = history::forget_old_answers(pool, api.app.clock.now()).await {
        tracing::warn!(%error, "old answers could not be removed");
    }
}

fn again(answer: &KeptAnswer) -> Response {
    match &answer.location {
        Some(path) => go(path, "This was sent before: it was done once."),
        None => {
            let told = "This was sent before: the key was made then, and it is shown once. Revoke it if you have not copied it, and make another.";
            go("/keys", told)
        }
    }
}
