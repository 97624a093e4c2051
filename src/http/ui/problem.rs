//! Failures as pages, for whoever asks with a browser.

use askama::Template;
use axum::{
    http::{
        HeaderMap,
        header::{ACCEPT, AUTHORIZATION},
    },
    response::{IntoResponse, Response},
};

use super::{
    frame::Frame,
    visit::{self, HX_REQUEST},
};
use crate::http::error::Problem;

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    status: u16,
    detail: &'a str,
    hint: Option<&'a str>,
    request_id: &'a str,
}

/// Among an answer's extensions beside its [`Problem`]: the answer is a page that tells it already.
#[derive(Clone, Copy, Debug)]
pub struct Told;

/// Leaves the problem with a page that tells it, for the audit trail.
pub fn carry(response: &mut Response, problem: Problem) {
    response.extensions_mut().insert(problem);
    response.extensions_mut().insert(Told);
}

/// Whether a page is wanted in the place of a JSON document: by a browser, and not below the API's paths.
pub fn is_wanted(path: &str, headers: &HeaderMap) -> bool {
    const PROGRAMS: [&str; 8] =
        ["/api", "/auth", "/backup", "/openapi.json", "/healthz", "/readyz", "/metrics", "/docs"];
    let is_below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut accepts = accepts.flat_map(|value| value.split(','));
    let is_browser = accepts.any(|kind| kind.trim().starts_with("text/html")) || headers.contains_key(HX_REQUEST);
    is_browser && !headers.contains_key(AUTHORIZATION) && !PROGRAMS.into_iter().any(is_below)
}

/// The page that tells a failure.
pub fn page(problem: &Problem, request_id: &str) -> Response {
    let title = match problem.status.as_u16() {
        403 => "This is not for you",
        404 => "There is nothing here",
        409 => "Not now",
        429 => "Too many calls",
        503 => "Not available now",
        status if status >= 500 => "Something went wrong",
        _ => "This cannot be done",
    };
    // Told in the API's words, which send elsewhere.
    let hint = problem.hint.as_deref().filter(|_| problem.code != "request.no_route");
    let template = ProblemPage {
        frame: Frame::outside(title),
        status: problem.status.as_u16(),
        detail: &problem.detail,
        hint,
        request_id,
    };
    let mut response = match visit::page_as(problem.status, &template) {
        Ok(response) => response,
        Err(problem) => return problem.into_response(),
    };
    for (name, value) in &problem.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}
