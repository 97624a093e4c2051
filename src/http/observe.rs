//! Around every request: an id, a log line, a time limit, and headers that keep browsers careful.
//!
//! The log line has method, path, status and duration. Queries, headers and bodies are never logged.

use std::time::{Duration, Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;
use uuid::Uuid;

use super::{error::Problem, ui};

/// The header that carries the id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Runs a request within `limit`, which ends when the answer's head is there: streams go on.
pub async fn observe(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(300).collect();
    let span = tracing::info_span!("request", %method, path, request_id = id);
    let wants_page = ui::wants_page(&path, request.headers());
    async move {
        let started = Instant::now();
        let mut response = match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::timeout().into_response(),
        };
        let is_told = response.extensions_mut().remove::<ui::Told>().is_some();
        if let Some(problem) = response.extensions_mut().remove::<Problem>()
            && !is_told
        {
            let added = std::mem::take(response.headers_mut());
            response = match wants_page {
                true => ui::problem_page(&problem, &id),
                false => problem.render(Some(&path), Some(&id)),
            };
            // Such as `Allow`, which the router adds to a 405.
            for (name, value) in &added {
                if !response.headers().contains_key(name) && name != header::CONTENT_LENGTH {
                    response.headers_mut().insert(name, value.clone());
                }
            }
        }
        harden(response.headers_mut(), path == "/docs" || path.starts_with("/docs/"));
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let milliseconds = started.elapsed().as_millis();
        tracing::info!(status = response.status().as_u16(), milliseconds, "answered");
        response
    }
    .instrument(span)
    .await
}

/// The caller's own id where it is harmless in a log, else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    let is_harmless = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .filter(is_harmless)
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Nothing of the API is to be framed, sniffed, cached or run; the page at `/docs` runs its own scripts only.
fn harden(headers: &mut HeaderMap, is_docs: bool) {
    let policy = if is_docs {
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    } else {
        "default-src 'none'; frame-ancestors 'none'"
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// A panic in a handler: the panic hook has told the log, the caller learns nothing of it.
pub fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::StatusCode, routing::get};
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    async fn ask(router: Router, limit: Duration, id: &str) -> (StatusCode, HeaderMap, serde_json::Value) {
        let router =
            router.layer(CatchPanicLayer::custom(panicked)).layer(axum::middleware::from_fn_with_state(limit, observe));
        let request = Request::get("/x?token=canary").header(REQUEST_ID, id).body(Body::empty()).unwrap();
        let (head, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_a_500_without_its_words() {
        let router = Router::new().route("/x", get(async || -> &'static str { panic!("canary") }));
        let (status, headers, body) = ask(router, Duration::from_secs(60), "mine-1").await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (500, Some("internal")));
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!((body["request_id"].as_str(), body["instance"].as_str()), (Some("mine-1"), Some("/x")));
        assert!(!body.to_string().contains("canary"), "{body}");
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_a_503() {
        let router = Router::new().route("/x", get(std::future::pending::<&'static str>));
        let (status, _, body) = ask(router, Duration::from_millis(1), "a b").await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (503, Some("request.timeout")));
        assert!(body["request_id"].as_str().unwrap().parse::<Uuid>().is_ok());
    }
}
