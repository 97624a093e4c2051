//! The operations, one file per resource.

pub(super) mod audit;
pub(super) mod auth;
pub(super) mod backup;
mod channels;
mod databases;
pub(super) mod download;
mod events;
mod files_export;
mod health;
pub(super) mod jobs;
pub(super) mod keys;
mod logs_export;
mod metrics;
mod organizations;
mod people;
pub(super) mod projects;
mod range;
mod refusal;
pub(super) mod retention;
pub(super) mod schedules;
mod single;
pub(super) mod storages;
pub(super) mod users;

use axum::http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::health::{LastLook, healthz, readiness};
use super::{Api, error::Problem};

/// Every operation with its document.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(backup::ask::export))
        .routes(routes!(logs_export::export_logs))
        .routes(routes!(files_export::export))
        .routes(routes!(backup::ask::restore))
        .routes(routes!(backup::import::import))
        .routes(routes!(backup::list))
        .routes(routes!(backup::stats))
        .routes(routes!(backup::show, backup::delete))
        .routes(routes!(backup::history))
        .routes(routes!(download::download_backup))
        .routes(routes!(backup::verify))
        .routes(routes!(backup::pin::pin))
        .routes(routes!(backup::pin::unpin))
        .routes(routes!(single::list, single::take))
        .routes(routes!(single::latest))
        .routes(routes!(single::show, single::delete))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(events::events))
        .routes(routes!(jobs::logs))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::undo))
        .routes(routes!(auth::login))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::me))
        .routes(routes!(auth::password))
        .routes(routes!(audit::list))
        .routes(routes!(auth::setup))
        .routes(routes!(users::list, users::add))
        .routes(routes!(users::show, users::change, users::delete))
        .routes(routes!(keys::list, keys::make))
        .routes(routes!(keys::revoke))
        .routes(routes!(schedules::list, schedules::add))
        .routes(routes!(schedules::preview))
        .routes(routes!(schedules::show, schedules::change, schedules::remove))
        .routes(routes!(retention::plan))
        .routes(routes!(projects::list, projects::add))
        .routes(routes!(projects::discover))
        .routes(routes!(projects::show, projects::change))
        .routes(routes!(organizations::list, organizations::add))
        .routes(routes!(organizations::show, organizations::change, organizations::delete))
        .routes(routes!(databases::list, databases::add))
        .routes(routes!(databases::show, databases::change, databases::delete))
        .routes(routes!(databases::test))
        .routes(routes!(storages::list, storages::add))
        .routes(routes!(storages::show, storages::change, storages::delete))
        .routes(routes!(storages::test))
        .routes(routes!(channels::list, channels::add))
        .routes(routes!(channels::show, channels::change, channels::delete))
        .routes(routes!(channels::test))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
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
