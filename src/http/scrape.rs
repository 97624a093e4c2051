//! The page of metrics: what this process has counted, and what the control plane knows, which is the same for every process.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Mutex;

use super::{REQUEST_LIMIT, api, error::Problem, observe};
use crate::{
    app::App,
    artifact::Sha256Digest,
    clock::Timestamp,
    db, history,
    jobs::census,
    metrics::{self, Page},
};

/// How long the control plane may take for all it is asked.
const WITHIN: Duration = Duration::from_secs(5);

/// Makes pages. What the control plane says is kept for `metrics.max_age_seconds`, and asked for once at a time.
#[derive(Clone, Debug)]
pub struct Scrape(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    app: App,
    started: Timestamp,
    /// `None` in the middle: the control plane did not answer.
    known: Mutex<Option<(Instant, Option<Arc<Page>>)>>,
}

impl Scrape {
    pub fn new(app: App) -> Self {
        static STARTED: OnceLock<Timestamp> = OnceLock::new();
        let started = *STARTED.get_or_init(|| app.clock.now());
        Self(Arc::new(Inner { app, started, known: Mutex::default() }))
    }

    /// Whether a request carries the token that the configuration gives to Prometheus. Digests are compared, so that the time taken tells
    /// nothing of the token.
    pub fn is_opened_by(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.0.app.config.metrics.token else { return false };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            // Compared and nothing else.
            scheme.eq_ignore_ascii_case("bearer")
                && Sha256Digest::of(given.trim().as_bytes()) == Sha256Digest::of(token.expose().as_bytes())
        })
    }

    /// The page as it is now.
    pub async fn page(&self) -> Response {
        let mut page = Page::default();
        page.family(&metrics::BUILD_INFO, [(vec![env!("CARGO_PKG_VERSION")], 1.0)]);
        page.single(&metrics::START_TIME, self.0.started.timestamp_millis() as f64 / 1000.0);
        let known = self.known().await;
        page.single(&metrics::CONTROL_PLANE_UP, if known.is_some() { 1.0 } else { 0.0 });
        page.append(&Page::of_this_process());
        if let Some(known) = known {
            page.append(&known);
        }
        ([(CONTENT_TYPE, Page::MEDIA_TYPE)], page.into_text()).into_response()
    }

    async fn known(&self) -> Option<Arc<Page>> {
        let max_age = Duration::from_secs(self.0.app.config.metrics.max_age_seconds);
        let mut kept = self.0.known.lock().await;
        if let Some((at, page)) = kept.as_ref()
            && at.elapsed() < max_age
        {
            return page.clone();
        }
        let page = match tokio::time::timeout(WITHIN, ask(&self.0.app)).await {
            Ok(Ok(page)) => Some(Arc::new(page)),
            Ok(Err(error)) => {
                tracing::warn!("the control plane cannot be counted: {error}");
                None
            }
            Err(_) => {
                tracing::warn!(seconds = WITHIN.as_secs(), "the control plane was not counted in time");
                None
            }
        };
        *kept = Some((Instant::now(), page.clone()));
        page
    }
}

/// Everything that the control plane knows, at one moment.
async fn ask(app: &App) -> anyhow::Result<Page> {
    let mut transaction = db::begin(&app.pool).await?;
    // The server gives up as well when we do.
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '5s'")
        .execute(&mut *transaction)
        .await?;
    let fresh = Duration::from_secs(app.config.worker.lease_seconds.max(10));
    let census = census::census(&mut transaction, fresh).await?;
    let successes = history::last_successes(&mut transaction).await?;
    let troubles = history::troubles(&mut transaction, app.clock.now()).await?;
    let stale = history::stale_count(&mut *transaction).await?;
    let notices = history::notice_census(&mut transaction, app.clock.now()).await?;
    transaction.rollback().await?;

    let mut page = Page::default();
    let waiting = || census.waiting.iter();
    page.family(
        &metrics::JOBS,
        waiting().flat_map(|(job_type, w)| {
            [("pending", w.pending), ("in_progress", w.in_progress)]
                .map(|(state, n)| (vec![*job_type, state], n as f64))
        }),
    );
    page.family(
        &metrics::JOBS_ENDED_DAY,
        census.ended.iter().map(|((job_type, state), n)| (vec![*job_type, state.as_str()], *n as f64)),
    );
    page.family(&metrics::QUEUE_DEPTH, waiting().map(|(job_type, w)| (vec![*job_type], w.due as f64)));
    page.family(&metrics::QUEUE_OLDEST, waiting().map(|(job_type, w)| (vec![*job_type], w.oldest_due_seconds)));
    page.single(&metrics::JOBS_LAPSED, census.lapsed as f64);
    page.single(&metrics::WORKERS, census.workers_alive as f64);
    let seconds = |at: Option<Timestamp>| at.map_or(0.0, |at| at.timestamp_millis() as f64 / 1000.0);
    let of_databases = || successes.iter().filter(|success| success.backup_type == "database");
    page.single(&metrics::PROJECTS, of_databases().count() as f64);
    if app.config.metrics.per_project {
        page.family(
            &metrics::LAST_SUCCESS,
            successes
                .iter()
                .map(|success| (vec![success.project_id.as_str(), success.backup_type.as_str()], seconds(success.at))),
        );
    }
    if let Some(oldest) = of_databases().map(|success| seconds(success.at)).min_by(f64::total_cmp) {
        page.single(&metrics::OLDEST_SUCCESS, oldest);
    }
    page.single(&metrics::COPIES_MISSING, troubles.copies_missing as f64);
    page.single(&metrics::DAMAGED, troubles.damaged as f64);
    page.single(&metrics::EXPIRING, troubles.expiring as f64);
    page.single(&metrics::DELETIONS, troubles.deletions as f64);
    page.single(&metrics::STALE, stale as f64);
    let states = [("pending", notices.pending), ("failed", notices.failed)];
    page.family(&metrics::NOTICES, states.map(|(state, count)| (vec![state], count as f64)));
    page.single(&metrics::NOTICES_OLDEST, notices.oldest_seconds);
    Ok(page)
}

/// What `metrics.listen` serves. Without a token, which is possible on loopback alone, everyone there may read.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(async |State(scrape): State<Scrape>| api::readiness(&scrape.0.app).await))
        .with_state(Scrape::new(app))
        .fallback(api::no_such_route)
        .method_not_allowed_fallback(api::no_such_method)
        .layer(axum::middleware::from_fn_with_state(REQUEST_LIMIT, observe::observe))
}

async fn page(State(scrape): State<Scrape>, headers: HeaderMap) -> Result<Response, Problem> {
    if scrape.0.app.config.metrics.token.is_some() && !scrape.is_opened_by(&headers) {
        return Err(Problem::unauthenticated("auth.token_invalid", "the metrics need the token of metrics.token_file"));
    }
    Ok(scrape.page().await)
}
