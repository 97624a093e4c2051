//! The operations, one file per resource.

mod auth;
mod backup;
mod download;
mod events;
mod health;
mod jobs;
mod keys;
mod people;
mod range;
mod refusal;
mod users;

use axum::http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, error::Problem};

/// Every operation with its document.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(backup::export))
        .routes(routes!(backup::restore))
        .routes(routes!(backup::list))
        .routes(routes!(backup::stats))
        .routes(routes!(backup::show, backup::delete))
        .routes(routes!(backup::history))
        .routes(routes!(download::download))
        .routes(routes!(backup::verify))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(events::events))
        .routes(routes!(jobs::logs))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::undo))
        .routes(routes!(auth::login))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::me))
        .routes(routes!(auth::setup))
        .routes(routes!(users::list, users::add))
        .routes(routes!(users::show, users::change, users::delete))
        .routes(routes!(keys::list, keys::make))
        .routes(routes!(keys::revoke))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

pub(super) async fn no_such_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "request.no_route", "there is nothing at this path")
        .hint("The document at /openapi.json lists every call.")
}

pub(super) async fn no_such_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "request.method", "this path does not take this method")
        .hint("The document at /openapi.json lists every call.")
}

/// Number of rows on a page: 50 unless asked otherwise, 200 at most.
fn page_size(asked: Option<u32>) -> Result<usize, Problem> {
    match asked {
        None => Ok(50),
        Some(limit @ 1..=200) => Ok(limit as usize),
        Some(_) => Err(Problem::invalid("request.limit", "limit must be 1 to 200")),
    }
}
