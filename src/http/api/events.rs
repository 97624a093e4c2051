//! A job as it goes on, as server-sent events: `progress` whenever its row changes, `log` for every line of its log, `end` at last.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::Stream;

use super::jobs;
use crate::{
    history,
    http::{
        Api,
        error::Problem,
        extract::{self, Id, Signed},
        redact,
        streams::{Permit, Refused},
    },
    ids::JobId,
    jobs::queue::{self, Job, QueueError},
    tenant::{Caller, Permission},
};

/// Time between looks at the job's row.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How long it holds who follows a job. A session or key that ends meanwhile ends its streams then.
const KNOWN_FOR: TimeDelta = TimeDelta::seconds(30);

/// Looks in a row that may fail before the stream gives up: half a minute of a control plane that is away.
const MAX_FAILURES: u32 = 100;

/// One event of the stream, as the fields that server-sent events have.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct JobEvent {
    /// `progress`, `log` or `end`.
    pub event: String,
    /// JSON: the job (`progress`, `end`) or a line of its log (`log`).
    pub data: String,
    /// On lines of the log.
    pub id: Option<String>,
}

/// Follow a job
///
/// Server-sent events: `progress` with the job whenever it changes, `log` with each line of its log, and `end` with the job when it
/// has ended; then the stream closes. `Last-Event-ID` leaves out the lines that were seen before. A stream closes without `end` within half
/// a minute after its caller's token, session or key has ended, or the caller's rights have changed.
#[utoipa::path(
    get, path = "/api/jobs/{id}/events", operation_id = "job_events", tag = "jobs",
    params(
        ("id" = Uuid, Path, description = "The job's id."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen."),
    ),
    responses((status = 200, description = "The events.", content_type = "text/event-stream", body = JobEvent)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn events(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<JobId>, Problem>,
    parts: Parts,
) -> Result<Response, Problem> {
    caller.require(Permission::Read)?;
    let Signed(caller, _) = caller;
    let job = queue::get(&api.app.pool, &caller.scope(), id?.0).await?;
    let permit = api.event_streams.open(&caller).map_err(|refused| {
        let (status, detail) = match refused {
            Refused::Caller => (StatusCode::TOO_MANY_REQUESTS, "too many event streams of this caller are open"),
            Refused::All => (StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open"),
        };
        Problem::new(status, "events.too_many", detail)
            .hint("Look at the job itself every few seconds instead.")
            .header(RETRY_AFTER, "10")
    })?;
    let seen = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
    let follower = Follower {
        id: job.job_id(),
        known_at: api.app.clock.now(),
        api,
        parts,
        caller,
        last_line: seen,
        shown: None,
        ready: VecDeque::new(),
        failures: 0,
        state: Stand::First,
        _permit: permit,
    };
    let mut response = Sse::new(follower.stream()).keep_alive(KeepAlive::default()).into_response();
    // Proxies that gather an answer before they pass it on would hold the events back.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Look at once.
    First,
    Waiting,
    Ended,
}

struct Follower {
    api: Api,
    /// The request, by which the caller is looked up again.
    parts: Parts,
    caller: Caller,
    known_at: DateTime<Utc>,
    id: JobId,
    /// The id of the last line of the log that was sent.
    last_line: i64,
    /// The row as it was last sent.
    shown: Option<serde_json::Value>,
    ready: VecDeque<Event>,
    failures: u32,
    state: Stand,
    _permit: Permit,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut follower| async move { Some((Ok(follower.next().await?), follower)) })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.state {
                Stand::First => self.state = Stand::Waiting,
                Stand::Waiting => tokio::select! {
                    () = self.api.stopping.cancelled() => return None,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                },
                Stand::Ended => return None,
            }
            if !self.is_known().await {
                return None;
            }
            match self.look().await {
                Ok(()) => self.failures = 0,
                Err(QueueError::Database(error)) => {
                    self.failures += 1;
                    if self.failures == 1 {
                        tracing::warn!(%error, "an event stream cannot see its job");
                    }
                    if self.failures >= MAX_FAILURES {
                        return None;
                    }
                }
                // The job is gone, or no longer within reach.
                Err(_) => return None,
            }
        }
    }

    /// Whether whoever follows still is who it was, with the same rights. A control plane that cannot be asked decides nothing.
    async fn is_known(&mut self) -> bool {
        let now = self.api.app.clock.now();
        if (now - self.known_at).abs() < KNOWN_FOR {
            return true;
        }
        let found = extract::identify(&self.parts, &self.api).await;
        match found {
            Ok((caller, _)) => {
                self.known_at = now;
                Caller { address: self.caller.address, ..caller } == self.caller
            }
            Err(problem) => problem.status != StatusCode::UNAUTHORIZED,
        }
    }

    /// Gathers what is new. The row is read before the log, so that the lines of a job that has ended are all there.
    async fn look(&mut self) -> Result<(), QueueError> {
        let pool = &self.api.app.pool;
        let job = jobs::shown(queue::get(pool, &self.caller.scope(), self.id).await?, &self.caller);
        let lines = history::job_log_lines(pool, self.id, self.last_line).await.map_err(|error| match error {
            history::HistoryError::Database(error) => QueueError::Database(error),
            history::HistoryError::NoSuchBackup(id) => QueueError::NoSuchJob(id),
        })?;
        for line in lines {
            self.last_line = line.id;
            self.push("log", &redact::line(line, &self.caller), Some(self.last_line));
        }
        let row = serde_json::to_value(&job).map_err(|error| sqlx::Error::Encode(error.into()))?;
        if self.shown.as_ref() != Some(&row) {
            self.push("progress", &row, None);
            self.shown = Some(row);
        }
        if job.is_final() {
            self.end(&job);
        }
        Ok(())
    }

    fn end(&mut self, job: &Job) {
        self.push("end", job, None);
        self.state = Stand::Ended;
    }

    fn push(&mut self, name: &str, data: &impl serde::Serialize, id: Option<i64>) {
        let mut event = Event::default().event(name);
        if let Some(id) = id {
            event = event.id(id.to_string());
        }
        match event.json_data(data) {
            Ok(event) => self.ready.push_back(event),
            Err(error) => tracing::error!(%error, "an event could not be written"),
        }
    }
}
