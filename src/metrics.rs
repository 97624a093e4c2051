//! What can be measured: every name with its labels and its meaning, what this process counts, and the text that Prometheus reads.
//!
//! Two origins. What *happens* is counted by the process in which it happens: sum over the processes. What *is* stands in the control
//! plane and is looked up for each page (`http::scrape`): every process says the same, so take the maximum.
//!
//! What always holds: a label's values come from the program's own words, from its routes, or from names that operators give to storages
//! and projects. What callers send becomes no label.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How samples are to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bounds, which are given.
    Histogram(&'static [f64]),
}

/// Who knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Each process for itself.
    Process,
    /// The control plane, for all processes.
    ControlPlane,
}

/// One family of samples.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub origin: Origin,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// From one millisecond to what a request may take at most.
const REQUEST_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// From a small tenant's backup to one that takes a night.
const JOB_SECONDS: &[f64] =
    &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 43_200.0];

/// Powers of four from 16 KiB to 1 TiB.
const SIZE_BYTES: &[f64] = &[
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
    274_877_906_944.0,
    1_099_511_627_776.0,
];

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:expr, $origin:ident, [$($label:literal),*], $help:literal;)+) => {
        $(pub const $constant: Metric =
            Metric { name: $name, kind: $kind, origin: Origin::$origin, labels: &[$($label),*], help: $help };)+
        /// Every family, in the order of the page.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    BUILD_INFO = "holdfast_build_info", Kind::Gauge, Process, ["version"],
        "Always 1, with the program's version.";
    START_TIME = "process_start_time_seconds", Kind::Gauge, Process, [],
        "When the process started, in seconds since 1970.";
    CONTROL_PLANE_UP = "holdfast_control_plane_up", Kind::Gauge, Process, [],
        "1 when the control plane answered for this page. With 0 nothing that it knows is on the page.";
    HTTP_REQUESTS = "holdfast_http_requests_total", Kind::Counter, Process, ["method", "route", "status"],
        "Requests answered, by the route's template.";
    HTTP_SECONDS = "holdfast_http_request_seconds", Kind::Histogram(REQUEST_SECONDS), Process, ["method", "route"],
        "Time until the head of the answer.";
    JOB_ATTEMPTS = "holdfast_job_attempts_total", Kind::Counter, Process, ["type", "outcome"],
        "Attempts at jobs that ended: completed, failed, retried, cancelled, handed_back, lost.";
    JOB_SECONDS_TAKEN = "holdfast_job_attempt_seconds", Kind::Histogram(JOB_SECONDS), Process, ["type"],
        "How long attempts at jobs took, however they ended.";
    BACKUP_SECONDS = "holdfast_backup_seconds", Kind::Histogram(JOB_SECONDS), Process, ["type"],
        "How long the attempts took that completed a backup.";
    BACKUP_STORED_BYTES = "holdfast_backup_stored_bytes", Kind::Histogram(SIZE_BYTES), Process, ["type"],
        "Completed backups by size as stored.";
    BACKUP_CONTENT_BYTES = "holdfast_backup_content_bytes", Kind::Histogram(SIZE_BYTES), Process, ["type"],
        "Completed backups by size before compression and encryption.";
    STORAGE_ERRORS = "holdfast_storage_errors_total", Kind::Counter, Process, ["storage", "kind"],
        "Calls to a storage that failed: not_found, exists, denied, full, too_large, throttled, unavailable, corrupt, invalid.";
    STORAGE_UPLOADS = "holdfast_storage_uploads_total", Kind::Counter, Process, ["storage", "outcome"],
        "Uploads that ended: committed, aborted, failed. Artifacts and manifests both count.";
    STORAGE_WRITTEN = "holdfast_storage_written_bytes_total", Kind::Counter, Process, ["storage"],
        "Bytes that a storage took, also those of uploads that were aborted later.";
    STORAGE_READ = "holdfast_storage_read_bytes_total", Kind::Counter, Process, ["storage"],
        "Bytes that were read from a storage.";
    TLS_RELOADS = "holdfast_tls_reloads_total", Kind::Counter, Process, ["outcome"],
        "Changes of certificate or key that were seen: loaded, refused.";
    TLS_ENDS = "holdfast_tls_certificate_not_after_timestamp_seconds", Kind::Gauge, Process, [],
        "When the API's certificate in use ends. Only with listen.tls.";
    NOTICE_ATTEMPTS = "holdfast_notice_attempts_total", Kind::Counter, Process, ["channel", "outcome"],
        "Attempts to send a notice by email, webhook or telegram: sent, later (in vain, and tried again), given_up.";
    JOBS = "holdfast_jobs", Kind::Gauge, ControlPlane, ["type", "state"],
        "Jobs that have not ended: pending, in_progress.";
    JOBS_ENDED_DAY = "holdfast_jobs_ended_last_day", Kind::Gauge, ControlPlane, ["type", "state"],
        "Jobs asked for within the last 24 hours that have ended: completed, failed, cancelled.";
    QUEUE_DEPTH = "holdfast_queue_depth", Kind::Gauge, ControlPlane, ["type"],
        "Pending jobs whose time has come.";
    QUEUE_OLDEST = "holdfast_queue_oldest_seconds", Kind::Gauge, ControlPlane, ["type"],
        "How long the oldest of them has waited.";
    JOBS_LAPSED = "holdfast_jobs_lapsed", Kind::Gauge, ControlPlane, [],
        "Running jobs whose worker gives no sign of life any more, and that no other has taken.";
    WORKERS = "holdfast_workers_alive", Kind::Gauge, ControlPlane, [],
        "Workers that gave a sign of life within worker.lease_seconds.";
    PROJECTS = "holdfast_projects_active", Kind::Gauge, ControlPlane, [],
        "Projects that are backed up.";
    LAST_SUCCESS = "holdfast_project_last_success_timestamp_seconds", Kind::Gauge, ControlPlane, ["project", "type"],
        "When the project's newest good backup of this type began. 0 for `database` when none of its newest 100 backups is a good one; \
         other types are left out then. Not with metrics.per_project = false.";
    OLDEST_SUCCESS = "holdfast_oldest_success_timestamp_seconds", Kind::Gauge, ControlPlane, [],
        "The smallest of these for `database` over all active projects: every tenant is protected up to here.";
    COPIES_MISSING = "holdfast_backup_copies_missing", Kind::Gauge, ControlPlane, [],
        "Good copies that backups lack of those that are required.";
    DAMAGED = "holdfast_backups_damaged", Kind::Gauge, ControlPlane, [],
        "Backups of which no copy is good any more.";
    EXPIRING = "holdfast_backups_expiring", Kind::Gauge, ControlPlane, [],
        "Completed backups that expire within 7 days and are not pinned.";
    DELETIONS = "holdfast_deletions_waiting", Kind::Gauge, ControlPlane, [],
        "Backups that are marked as deleted and whose copies are not all confirmed gone.";
    STALE = "holdfast_projects_stale", Kind::Gauge, ControlPlane, [],
        "Active projects without a good backup within their allowed age.";
    NOTICES = "holdfast_notices", Kind::Gauge, ControlPlane, ["state"],
        "Notices that have not reached anybody: pending, failed (given up within notify.keep_days and not tried again).";
    NOTICES_OLDEST = "holdfast_notices_oldest_seconds", Kind::Gauge, ControlPlane, [],
        "How long the oldest pending notice has waited.";
}

/// How an attempt at a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    Failed,
    Retried,
    Cancelled,
    HandedBack,
    Lost,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Cancelled => "cancelled",
            Self::HandedBack => "handed_back",
            Self::Lost => "lost",
        }
    }
}

/// What an attempt to send a notice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeOutcome {
    Sent,
    Later,
    GivenUp,
}

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadEnd {
    Committed,
    Aborted,
    Failed,
}

/// A request was answered. `route` is a template such as `/api/backup/{id}`, or a word for what has none.
pub fn http_request(method: &'static str, route: &str, status: u16, took: Duration) {
    count(&HTTP_REQUESTS, &[method, route, &status.to_string()], 1);
    observe(&HTTP_SECONDS, &[method, route], took.as_secs_f64());
}

/// An attempt at a job of a known type ended.
pub fn job_attempt(job_type: &str, outcome: Outcome, took: Duration) {
    count(&JOB_ATTEMPTS, &[job_type, outcome.word()], 1);
    observe(&JOB_SECONDS_TAKEN, &[job_type], took.as_secs_f64());
}

/// A backup was completed.
pub fn backup_completed(backup_type: &str, stored_bytes: u64, content_bytes: u64, took: Duration) {
    observe(&BACKUP_SECONDS, &[backup_type], took.as_secs_f64());
    observe(&BACKUP_STORED_BYTES, &[backup_type], stored_bytes as f64);
    observe(&BACKUP_CONTENT_BYTES, &[backup_type], content_bytes as f64);
}

/// A call to a storage failed; `code` is a `storage::ErrorKind`'s.
pub fn storage_error(storage: &str, code: &str) {
    count(&STORAGE_ERRORS, &[storage, code.trim_start_matches("storage.")], 1);
}

/// An upload ended.
pub fn upload_ended(storage: &str, end: UploadEnd) {
    let word = match end {
        UploadEnd::Committed => "committed",
        UploadEnd::Aborted => "aborted",
        UploadEnd::Failed => "failed",
    };
    count(&STORAGE_UPLOADS, &[storage, word], 1);
}

/// A storage took so many bytes.
pub fn storage_written(storage: &str, bytes: u64) {
    count(&STORAGE_WRITTEN, &[storage], bytes);
}

/// A notice was sent by a kind of channel, or was not.
pub fn notice_attempt(channel: &'static str, outcome: NoticeOutcome) {
    let word = match outcome {
        NoticeOutcome::Sent => "sent",
        NoticeOutcome::Later => "later",
        NoticeOutcome::GivenUp => "given_up",
    };
    count(&NOTICE_ATTEMPTS, &[channel, word], 1);
}

/// So many bytes were read from a storage.
pub fn storage_read(storage: &str, bytes: u64) {
    count(&STORAGE_READ, &[storage], bytes);
}

/// A changed certificate or key was taken into use, or was not.
pub fn tls_reload(is_loaded: bool) {
    count(&TLS_RELOADS, &[if is_loaded { "loaded" } else { "refused" }], 1);
}

/// The certificate in use ends at this moment, in seconds since 1970.
pub fn tls_certificate_ends(seconds: f64) {
    let value = Value::Is(seconds);
    counted().entry(TLS_ENDS.name).or_default().insert(String::new(), value);
}

/// What this process has counted: by family, and by the labels as the page shows them.
static COUNTED: Mutex<BTreeMap<&'static str, BTreeMap<String, Value>>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Debug)]
enum Value {
    Count(u64),
    Is(f64),
    Distribution {
        /// One for each bound, and the rest. Not summed up.
        buckets: Vec<u64>,
        sum: f64,
    },
}

fn counted() -> MutexGuard<'static, BTreeMap<&'static str, BTreeMap<String, Value>>> {
    COUNTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(metric: &Metric, labels: &[&str], by: u64) {
    let labels = label_text(metric, labels);
    if let Value::Count(count) = counted().entry(metric.name).or_default().entry(labels).or_insert(Value::Count(0)) {
        *count += by;
    }
}

fn observe(metric: &Metric, labels: &[&str], value: f64) {
    let Kind::Histogram(bounds) = metric.kind else { return };
    let labels = label_text(metric, labels);
    let empty = || Value::Distribution { buckets: vec![0; bounds.len() + 1], sum: 0.0 };
    if let Value::Distribution { buckets, sum } =
        counted().entry(metric.name).or_default().entry(labels).or_insert_with(empty)
    {
        buckets[bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len())] += 1;
        *sum += value;
    }
}

/// `type="database",state="pending"`, with what ends a value escaped (Prometheus text format 0.0.4).
fn label_text(metric: &Metric, values: &[&str]) -> String {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let mut text = String::new();
    for (label, value) in metric.labels.iter().zip(values) {
        let separator = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{separator}{label}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c if c.is_control() => text.push('\u{fffd}'),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

/// The page that Prometheus reads, in its text format 0.0.4.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// The media type of the page.
    pub const MEDIA_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins with everything that this process has counted.
    pub fn of_this_process() -> Self {
        let mut page = Self::default();
        let counted = counted().clone();
        for metric in ALL.iter().filter(|metric| metric.origin == Origin::Process) {
            let Some(series) = counted.get(metric.name) else { continue };
            page.head(metric);
            for (labels, value) in series {
                match (value, metric.kind) {
                    (Value::Count(count), _) => page.line(metric.name, "", labels, *count as f64),
                    (Value::Is(value), _) => page.line(metric.name, "", labels, *value),
                    (Value::Distribution { buckets, sum }, Kind::Histogram(bounds)) => {
                        page.distribution(metric.name, labels, bounds, buckets, *sum);
                    }
                    (Value::Distribution { .. }, _) => {}
                }
            }
        }
        page
    }

    /// Adds a family with its samples: the labels' values, in the family's order, and the number.
    pub fn family<'a>(&mut self, metric: &Metric, samples: impl IntoIterator<Item = (Vec<&'a str>, f64)>) {
        self.head(metric);
        for (labels, value) in samples {
            self.line(metric.name, "", &label_text(metric, &labels), value);
        }
    }

    /// Adds a family of one sample without labels.
    pub fn single(&mut self, metric: &Metric, value: f64) {
        self.family(metric, [(Vec::new(), value)]);
    }

    /// Adds what another page says.
    pub fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn head(&mut self, metric: &Metric) {
        let kind = kind_word(metric.kind);
        let _ = write!(self.0, "# HELP {0} {1}\n# TYPE {0} {kind}\n", metric.name, metric.help);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name}{suffix} {value}")
        } else {
            writeln!(self.0, "{name}{suffix}{{{labels}}} {value}")
        };
    }

    fn distribution(&mut self, name: &str, labels: &str, bounds: &[f64], buckets: &[u64], sum: f64) {
        let separator = if labels.is_empty() { "" } else { "," };
        let mut so_far = 0;
        let upper = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in upper.zip(buckets) {
            so_far += count;
            self.line(name, "_bucket", &format!("{labels}{separator}le=\"{bound}\""), so_far as f64);
        }
        self.line(name, "_sum", labels, sum);
        self.line(name, "_count", labels, so_far as f64);
    }
}

const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    }
}

/// The table of `docs/operations.md`.
pub fn markdown() -> String {
    let mut table = "| Name | Kind | Labels | Known to | Meaning |\n|---|---|---|---|---|\n".to_owned();
    for metric in ALL {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let origin = match metric.origin {
            Origin::Process => "each process",
            Origin::ControlPlane => "the control plane",
        };
        let kind = kind_word(metric.kind);
        let _ = writeln!(table, "| `{}` | {kind} | {labels} | {origin} | {} |", metric.name, metric.help);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_their_unit() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.name.starts_with("holdfast_") || metric.name.starts_with("process_"));
            assert!(!metric.help.contains('\n') && !metric.help.contains('|') && metric.help.ends_with('.'));
        }
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let text = label_text(&STORAGE_READ, &["a\"} 1\n# x \\ \u{7}"]);
        assert_eq!(text, "storage=\"a\\\"} 1\\n# x \\\\ \u{fffd}\"");
    }

    #[test]
    fn a_histogram_sums_up_its_buckets() {
        let metric = &BACKUP_STORED_BYTES;
        for bytes in [1.0, 16_384.0, 16_385.0, 1e15] {
            observe(metric, &["a test's own"], bytes);
        }
        let page = Page::of_this_process().into_text();
        let of = |rest: &str| format!("holdfast_backup_stored_bytes{rest}");
        for line in [
            of("_bucket{type=\"a test's own\",le=\"16384\"} 2"),
            of("_bucket{type=\"a test's own\",le=\"65536\"} 3"),
            of("_bucket{type=\"a test's own\",le=\"1099511627776\"} 3"),
            of("_bucket{type=\"a test's own\",le=\"+Inf\"} 4"),
            of("_count{type=\"a test's own\"} 4"),
        ] {
            assert!(page.contains(&line), "{line} in {page}");
        }
    }
}
