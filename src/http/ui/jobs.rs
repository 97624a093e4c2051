//! Jobs: the list, and one with its live progress, its log, cancel, and undo where it was a restore.

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderName, HeaderValue},
    response::Response,
};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    frame::{Frame, Place},
    list::{Asked, Choice, Pages, ROWS, choices, plain},
    show::{self, Html},
    visit::{Visitor, go, page},
};
use crate::{
    artifact::BackupType,
    history::{self, Backup, BackupFilter, BackupStatus},
    http::{
        Api,
        api::jobs as calls,
        error::Problem,
        extract::{Id, IdempotencyKey, Params},
        redact,
    },
    ids::{BackupId, JobId},
    jobs::{
        JobType,
        queue::{Job, JobStatus},
    },
    proof_record::is_not_compared,
};

/// Lines of a log that are shown.
const TAIL: usize = 200;

/// Tells htmx to load the whole page anew.
pub const HX_REFRESH: HeaderName = HeaderName::from_static("hx-refresh");

/// A job in a list.
#[derive(Clone, Debug)]
pub struct Row {
    pub path: String,
    pub what: String,
    /// Id and page.
    pub project: Option<(String, String)>,
    pub badge: Html,
    pub at: Html,
    pub took: Html,
    pub by: String,
    pub why: Option<String>,
}

fn seconds(job: &Job, now: DateTime<Utc>) -> Option<f64> {
    let from = job.started_at?;
    let until = job.finished_at.unwrap_or(now);
    Some((until - from).num_milliseconds() as f64 / 1000.0)
}

impl Row {
    pub fn of(job: Job, now: DateTime<Utc>) -> Self {
        Self {
            path: format!("/jobs/{}", job.id),
            what: show::job_type(&job.r#type).to_owned(),
            badge: show::badge(&job.status),
            at: show::when(job.created_at, now),
            took: seconds(&job, now).map_or_else(Html::default, show::took),
            by: job.created_by.unwrap_or_default(),
            project: job.project_id.map(|id| {
                let path = format!("/projects/{}", show::in_path(&id));
                (id, path)
            }),
            why: job.error_message,
        }
    }
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    frame: Frame,
    rows: Vec<Row>,
    pages: Pages,
    action: &'static str,
    searches: Vec<(&'static str, &'static str, String)>,
    selects: Vec<(&'static str, &'static str, Vec<Choice>)>,
}

pub async fn list(State(api): State<Api>, visitor: Visitor, asked: Asked) -> Result<Response, Problem> {
    let params = calls::ListParams {
        project_id: asked.given("project_id"),
        r#type: asked.given("type"),
        status: asked.word("status")?,
        limit: Some(ROWS),
        cursor: asked.given("cursor"),
    };
    let jobs = calls::list(State(api), visitor.signed.clone(), Ok(Params(params))).await?;
    let types = JobType::ALL.iter().map(|word| (word.as_str(), show::job_type(word.as_str()).to_owned()));
    let states = JobStatus::ALL.iter().map(|word| plain(word.as_str()));
    page(&JobsPage {
        frame: visitor.frame(Place::Jobs, "Jobs"),
        rows: jobs.data.into_iter().map(|job| Row::of(job, visitor.now)).collect(),
        pages: asked.pages(jobs.next_cursor),
        action: "/jobs",
        searches: vec![("project_id", "Project", asked.get("project_id").to_owned())],
        selects: vec![
            ("type", "What", choices("everything", types, asked.get("type"))),
            ("status", "State", choices("any", states, asked.get("status"))),
        ],
    })
}

/// How far a job is, as its page shows it.
struct Progress {
    badge: Html,
    stage: String,
    /// Bytes read and stored, and the rate.
    numbers: Vec<(&'static str, Html)>,
    storages: Vec<(String, Html)>,
    /// Done and all, where the whole is known.
    share: Option<(u64, u64)>,
    is_live: bool,
    is_cancelling: bool,
    attempt: String,
}

fn number(value: &Value, name: &str) -> Option<i64> {
    value.get(name)?.as_i64()
}

impl Progress {
    /// `expected`: bytes to read, where the last time tells.
    fn of(job: &Job, expected: Option<i64>, now: DateTime<Utc>) -> Self {
        let nothing = Value::Null;
        let progress = job.progress.as_ref().unwrap_or(&nothing);
        let content = number(progress, "content_bytes");
        let mut numbers = Vec::new();
        numbers.extend(content.map(|bytes| ("Read", show::size(bytes))));
        numbers.extend(number(progress, "stored_bytes").map(|bytes| ("Stored", show::size(bytes))));
        if let (Some(done), Some(all)) = (number(progress, "tables_done"), number(progress, "tables")) {
            numbers.push(("Tables", Html::ours(format!("{done} of {all}"))));
        }
        let taken = seconds(job, now).filter(|seconds| *seconds > 0.5);
        let moved = content.or_else(|| number(progress, "stored_bytes"));
        if let (Some(bytes), Some(seconds)) = (moved.filter(|bytes| *bytes > 0), taken) {
            let rate = show::size((bytes as f64 / seconds) as i64);
            numbers.push(("Rate", Html::ours(format!("{rate}/s"))));
        }
        numbers.extend(taken.map(|seconds| ("Time", show::took(seconds))));
        let storages = progress.get("storages").and_then(Value::as_object);
        let why = |value: &Value| match value.get("message").and_then(Value::as_str) {
            Some(why) => format!("<p class=\"why\"><bdi>{}</bdi></p>", show::escape(why)),
            None => String::new(),
        };
        let state = |value: &Value| match number(value, "stored_bytes").or_else(|| value.as_i64()) {
            Some(bytes) => Html::ours(format!("{}{}", show::size(bytes), why(value))),
            None => show::name(&show::detail(value)),
        };
        let total = number(progress, "total_bytes");
        let guess = expected.filter(|_| total.is_none() && job.status() == Some(JobStatus::InProgress));
        let share = total
            .or(guess)
            .filter(|total| *total > 0)
            .and_then(|total| Some((moved?.min(total).unsigned_abs(), total.unsigned_abs())));
        numbers.extend(guess.map(|bytes| ("Read the last time", show::size(bytes))));
        Self {
            badge: show::badge(&job.status),
            stage: match progress.get("stage").and_then(Value::as_str) {
                Some(stage) if !job.is_final() => stage.replace('_', " "),
                _ if job.is_final() => String::new(),
                _ => "waits for a worker".to_owned(),
            },
            numbers,
            storages: storages.into_iter().flatten().map(|(name, value)| (name.clone(), state(value))).collect(),
            share,
            is_live: !job.is_final(),
            is_cancelling: job.cancel_requested && !job.is_final(),
            attempt: if job.attempts > 1 {
                format!("attempt {} of {}", job.attempts, job.max_attempts)
            } else {
                String::new()
            },
        }
    }
}

/// A line of a log.
struct Line {
    at: String,
    level: String,
    message: String,
}

/// What a restore, or a look at a backup, came to.
struct Outcome {
    is_verified: bool,
    title: &'static str,
    words: Vec<Html>,
    differences: Vec<String>,
    warnings: Vec<String>,
    where_to: Option<String>,
    /// Until when it can be undone, when it still can.
    undo_until: Option<Html>,
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    id: String,
    what: String,
    project: Option<String>,
    project_path: String,
    facts: Vec<(&'static str, Html)>,
    error: Option<String>,
    progress: Progress,
    lines: Vec<Line>,
    more_lines: bool,
    backup: Option<String>,
    outcome: Option<Outcome>,
    may_cancel: bool,
    may_undo: bool,
    expected: Option<i64>,
}

#[derive(Template)]
#[template(path = "job_live.html")]
struct LivePart {
    id: String,
    expected: Option<i64>,
    progress: Progress,
    lines: Vec<Line>,
}

/// The last lines of a job that the visitor reaches, and whether there are more before them.
async fn lines(api: &Api, visitor: &Visitor, job: &Job) -> Result<(Vec<Line>, bool), Problem> {
    let log = history::job_log_tail(&api.app.pool, job.job_id(), TAIL as i64 + 1).await?;
    let skipped = log.len().saturating_sub(TAIL);
    let line = |line: history::LogLine| {
        let line = redact::line(line, visitor.caller());
        Line { at: line.at.format("%H:%M:%S").to_string(), level: line.level, message: line.message }
    };
    Ok((log.into_iter().skip(skipped).map(line).collect(), skipped > 0))
}

fn backup_of(job: &Job) -> Option<String> {
    let find = |value: Option<&Value>| Some(value?.get("backup_id")?.as_str()?.to_owned());
    find(job.result.as_ref()).or_else(|| find(Some(&job.payload))).or_else(|| find(job.payload.get("request")))
}

/// A backup, to compare a job with: the one that it is about, or the project's last one while that is not there yet.
async fn compared(api: &Api, visitor: &Visitor, job: &Job) -> Result<Option<(Backup, bool)>, Problem> {
    let (pool, scope) = (&api.app.pool, visitor.caller().scope());
    let is_export = job.r#type == JobType::ExportBackup.as_str();
    if is_export && job.status() != Some(JobStatus::Completed) {
        let filter = BackupFilter {
            project_id: job.project_id.clone(),
            backup_type: Some(BackupType::Database),
            status: Some(BackupStatus::Completed),
            limit: 1,
            ..BackupFilter::default()
        };
        let last = history::list(pool, &scope, &filter).await?.into_iter().next();
        return Ok(last.filter(|_| !job.is_final()).map(|backup| (backup, true)));
    }
    let is_about_one =
        is_export || [JobType::RestoreBackup, JobType::VerifyBackup].iter().any(|t| job.r#type == t.as_str());
    let id = backup_of(job).filter(|_| is_about_one).and_then(|id| id.parse::<BackupId>().ok());
    let Some(id) = id else { return Ok(None) };
    // It may have been deleted since.
    Ok(history::get(pool, &scope, id).await.ok().map(|backup| (backup, false)))
}

/// What a job that looks at a backup has found.
fn verified(result: &Value, differences: Vec<String>) -> Outcome {
    let text = |name: &str| result.get(name).and_then(Value::as_str);
    let depth = text("depth").unwrap_or_default();
    let is_verified = text("outcome") == Some("verified");
    let title = match (text("outcome"), depth) {
        (Some("verified"), "restore") => "Proved: it can be restored",
        (Some("verified"), "read") => "Every byte is as it was recorded",
        (Some("verified"), _) => "The sizes are as they were recorded",
        (Some("differences"), _) if is_not_compared(&differences) => {
            "Brought back by a trial restore, without rows counted to compare with"
        }
        (Some("differences"), _) => "The trial restore found differences",
        _ => "No good copy was found",
    };
    let mut words = Vec::new();
    if let Some(seconds) = result.get("restore_seconds").and_then(Value::as_f64) {
        words.push(Html::ours(format!("A recovery takes <strong>{}</strong>.", show::took(seconds))));
    }
    for copy in result.get("copies").and_then(Value::as_array).into_iter().flatten() {
        let storage = show::name(copy.get("storage").and_then(Value::as_str).unwrap_or_default());
        let found = match copy.get("good").and_then(Value::as_bool) {
            Some(true) => "good",
            Some(false) => "damaged",
            None => "out of reach",
        };
        let why = copy
            .get("message")
            .and_then(Value::as_str)
            .map_or_else(String::new, |why| format!(": {}", show::name(why)));
        words.push(Html::ours(format!("{storage} {}{why}", show::badge(found))));
    }
    Outcome { is_verified, title, words, differences, warnings: Vec::new(), where_to: None, undo_until: None }
}

async fn outcome(api: &Api, job: &Job, now: DateTime<Utc>) -> Result<Option<Outcome>, Problem> {
    let is = |wanted: JobType| job.r#type == wanted.as_str();
    let Some(result) = job.result.as_ref().filter(|_| is(JobType::RestoreBackup) || is(JobType::VerifyBackup)) else {
        return Ok(None);
    };
    let texts = |name: &str| {
        let items = result.get(name).and_then(Value::as_array).into_iter().flatten();
        items.map(|item| item.as_str().map_or_else(|| show::detail(item), str::to_owned)).collect()
    };
    if is(JobType::VerifyBackup) {
        return Ok(Some(verified(result, texts("differences"))));
    }
    let text = |name: &str| result.get(name).and_then(Value::as_str);
    let is_verified = text("outcome") == Some("verified");
    let restore = history::restore_of_job(&api.app.pool, job.job_id()).await?;
    let undoable = restore.filter(|restore| restore.state == "done" && restore.kept_schema.is_some());
    let until = undoable.and_then(|restore| restore.undo_until).filter(|until| *until > now);
    let differences: Vec<String> = texts("differences");
    let title = match is_verified {
        true => "Restored, and proved",
        false if is_not_compared(&differences) => "Restored, without rows counted to compare with",
        false => "Restored, with differences",
    };
    let words = is_verified.then(|| {
        Html::ours(
            "What stands there now was compared with what was recorded when the backup was taken: nothing differs."
                .to_owned(),
        )
    });
    Ok(Some(Outcome {
        is_verified,
        title,
        words: words.into_iter().collect(),
        differences,
        warnings: texts("warnings"),
        where_to: where_to(result),
        undo_until: until.map(show::at),
    }))
}

/// Schema, database and server, as far as they are told.
fn where_to(result: &Value) -> Option<String> {
    let part = |name: &str, what: &str| Some(format!("{what} {}", result.get(name)?.as_str()?));
    let parts = [part("schema", "schema"), part("database", "database"), part("server", "on the server of")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<JobId>, Problem>,
) -> Result<Response, Problem> {
    let id = id?.0;
    let job = calls::show(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data;
    let now = visitor.now;
    let (lines, more_lines) = lines(&api, &visitor, &job).await?;
    let mut facts = vec![("Asked for", show::when(job.created_at, now))];
    facts.extend(job.created_by.as_deref().map(|by| ("By", show::name(by))));
    facts.extend(job.started_at.map(|at| ("Began", show::when(at, now))));
    facts.extend(job.finished_at.map(|at| ("Ended", show::when(at, now))));
    facts.extend(seconds(&job, now).filter(|_| job.is_final()).map(|taken| ("Took", show::took(taken))));
    let compared = compared(&api, &visitor, &job).await?;
    let mut expected = None;
    if let Some((backup, is_last)) = &compared {
        let about = |number: i64| {
            Html::ours(format!("{}{}", show::count(number), if *is_last { " the last time" } else { "" }))
        };
        facts.extend(backup.table_count.map(|tables| ("Tables", about(tables))));
        facts.extend(backup.row_count.map(|rows| ("Rows", about(rows))));
        expected = backup.content_size.filter(|_| *is_last);
    }
    facts.extend(job.lease_owner.as_deref().map(|worker| ("Worker", show::name(worker))));
    let what = show::job_type(&job.r#type).to_owned();
    let is_known = job.r#type.parse::<JobType>().is_ok();
    page(&JobPage {
        frame: visitor.frame(Place::Jobs, what.clone()),
        id: job.id.to_string(),
        what,
        project_path: job
            .project_id
            .as_deref()
            .map_or_else(String::new, |id| format!("/projects/{}", show::in_path(id))),
        facts,
        progress: Progress::of(&job, expected, now),
        lines,
        more_lines,
        backup: backup_of(&job),
        outcome: outcome(&api, &job, now).await?,
        may_undo: visitor.may_write(),
        may_cancel: visitor.may_write() && is_known && !job.is_final() && !job.cancel_requested,
        error: job.error_message,
        expected: expected.filter(|_| job.finished_at.is_none()),
        project: job.project_id,
    })
}

/// The part that changes, which the page asks for every second. When the job has ended the whole page is loaded anew.
pub async fn live(
    State(api): State<Api>,
    visitor: Visitor,
    asked: Asked,
    id: Result<Id<JobId>, Problem>,
) -> Result<Response, Problem> {
    let id = id?.0;
    let job = calls::show(State(api.clone()), visitor.signed.clone(), Ok(Id(id))).await?.data;
    let (lines, _) = lines(&api, &visitor, &job).await?;
    // As the page found it, so that it is not looked up every second.
    let expected = asked.get("of").parse::<i64>().ok().filter(|bytes| *bytes > 0);
    let progress = Progress::of(&job, expected, visitor.now);
    let mut response = page(&LivePart { id: job.id.to_string(), expected, progress, lines })?;
    if job.is_final() {
        response.headers_mut().insert(HX_REFRESH, HeaderValue::from_static("true"));
    }
    Ok(response)
}

pub async fn cancel(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<JobId>, Problem>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let id = id?.0;
    calls::cancel(State(api), visitor.signed, Ok(Id(id)), key).await?;
    Ok(go(&format!("/jobs/{id}"), "The job is being cancelled."))
}

pub async fn undo(
    State(api): State<Api>,
    visitor: Visitor,
    id: Result<Id<JobId>, Problem>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let accepted = calls::undo(State(api), visitor.signed, Ok(Id(id?.0)), key).await?;
    Ok(go(&job_path(&accepted), "What the restore replaced is being put back."))
}

/// The page of the job that a call of the API has made.
pub fn job_path(accepted: &Response) -> String {
    let location = accepted.headers().get(axum::http::header::LOCATION).and_then(|path| path.to_str().ok());
    location.and_then(|path| path.strip_prefix("/api")).unwrap_or("/jobs").to_owned()
}
