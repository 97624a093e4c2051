//! The REST API. It checks who calls and what is sent, asks [`crate::jobs::request`] and [`crate::history`], and shapes the answers:
//! it enqueues work and does none.
//!
//! What always holds: every operation is in the OpenAPI document, since route and document are registered together; an operation
//! takes `extract::Signed` unless `tests/authorization.rs` lists it as open.

mod answer;
mod api;
mod buckets;
mod certificate_end;
mod client;
mod cookie;
mod docs;
mod error;
mod extract;
mod idempotency;
mod json_body;
mod limits;
mod measure;
mod named;
mod observe;
mod redact;
mod refusals;
mod scrape;
mod server;
mod stalled;
mod streams;
mod tls;
mod ui;
mod witness;
mod zero_bytes;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::header::{AUTHORIZATION, COOKIE},
};
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, sensitive_headers::SetSensitiveRequestHeadersLayer};

use ipnet::IpNet;

pub use self::{
    docs::openapi,
    error::Problem,
    server::{Listener, serve, serve_metrics},
    tls::{Tls, TlsError, others_may_read},
};
use self::{limits::Limits, refusals::Refusals, scrape::Scrape, streams::EventStreams};
use crate::{
    app::App,
    auth::{jwt::Verifier, password::Passwords},
};

/// Time for a request until its answer begins.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// What every handler shares.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

pub struct Shared {
    pub app: App,
    pub verifier: Verifier,
    pub passwords: Passwords,
    /// The server stops: streams without an end of their own end now.
    pub stopping: CancellationToken,
    pub event_streams: EventStreams,
    pub limits: Limits,
    pub refusals: Refusals,
    pub readiness: api::LastLook,
    /// Proxies in front, whose word on where a call comes from is taken.
    pub trusted_proxies: Vec<IpNet>,
    pub scrape: Scrape,
}

impl Deref for Api {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The whole API as a service.
pub fn router(app: App, verifier: Verifier) -> Router {
    router_until(app, verifier, CancellationToken::new())
}

fn router_until(app: App, verifier: Verifier, stopping: CancellationToken) -> Router {
    let max_body = usize::try_from(app.config.listen.max_body.bytes()).unwrap_or(usize::MAX);
    let (routes, document) = docs::documented(api::routes());
    let api = Api(Arc::new(Shared {
        verifier,
        passwords: Passwords::default(),
        stopping,
        event_streams: EventStreams::default(),
        limits: Limits::new(&app.config.limits),
        refusals: Refusals::new(&app.config.limits),
        readiness: api::LastLook::default(),
        // Checked when the configuration was read.
        trusted_proxies: app.config.listen.trusted_networks().unwrap_or_default(),
        scrape: Scrape::new(app.clone()),
        app,
    }));
    let keys = idempotency::Keys::new(api.clone(), &document);
    routes
        .route_layer(axum::middleware::from_fn_with_state(keys, idempotency::honour))
        .merge(ui::routes(&api))
        .with_state(api.clone())
        .merge(docs::pages(document))
        .fallback(api::no_such_route)
        .method_not_allowed_fallback(api::no_such_method)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(DefaultBodyLimit::max(max_body))
        .layer(axum::middleware::from_fn_with_state(api.clone(), limits::guard))
        .layer(axum::middleware::from_fn_with_state(api, witness::watch))
        // Neither limited nor witnessed: the same for everyone.
        .merge(ui::files())
        .layer(axum::middleware::from_fn_with_state(REQUEST_LIMIT, observe::observe))
        .layer(axum::middleware::from_fn(measure::measure))
        .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION, COOKIE]))
}
