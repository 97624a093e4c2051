//! Backups of a project's log lines.

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::refusal::{self, About};
use crate::{
    artifact::{Compression, Format},
    http::{
        Api,
        answer::{Accepted, Data, accepted},
        error::Problem,
        extract::{Body, IdempotencyKey, Signed},
    },
    jobs::request::{self, DateRange, ExportLogs, Moment},
    tenant::Permission,
};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogsFormat {
    /// One JSON object a line.
    Json,
    /// Time, level, message and metadata, separated by tabs.
    Text,
}

/// A backup of a project's log lines, as it is asked for.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportLogsBody {
    #[schema(example = "acme")]
    pub project_id: String,
    /// `json` (default): one object a line, with `id`, `created_at`, `level`, `message` and `metadata`; `text`: time, level, message and
    /// metadata, separated by tabs.
    #[schema(inline)]
    pub format: Option<LogsFormat>,
    /// Which lines. Default: all.
    pub date_range: Option<LogsDateRange>,
    /// `true`: gzip; `false`: not at all. Default: the setting `backup.compression`, which is `gzip` unless changed.
    pub compress: Option<bool>,
    /// Instead of `compress`: which compression. Both together are refused.
    #[schema(inline)]
    pub compression: Option<Compression>,
    /// Who is told by e-mail how it ended.
    #[schema(example = "ops@example.com")]
    pub notify_email: Option<String>,
    /// Names of the storages that take it. Default: those of the setting `backup.storages`, which is all of them unless changed.
    #[serde(default)]
    pub storages: Vec<String>,
    /// When it may be deleted. Default: after `backup.retention_days`, which is 30 unless changed.
    pub expires_at: Option<DateTime<Utc>>,
    /// A note of at most 1024 characters.
    #[schema(max_length = 1024)]
    pub caption: Option<String>,
}

/// A range of time: dates or instants of ISO 8601.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogsDateRange {
    /// From the beginning of this day in UTC, or from this instant on. Default: from the first line.
    #[schema(example = "2026-11-01")]
    pub start: Option<String>,
    /// To the end of this day in UTC, or up to this instant, which is not included. Default: to the last line.
    #[schema(example = "2026-11-21")]
    pub end: Option<String>,
}

impl LogsDateRange {
    fn read(&self) -> Result<DateRange, Problem> {
        let read = |name: &str, text: &Option<String>| {
            let moment = text.as_deref().map(str::parse::<Moment>).transpose();
            moment.map_err(|error| Problem::invalid("request.date_range", format!("date_range.{name}: {error}")))
        };
        Ok(DateRange { start: read("start", &self.start)?, end: read("end", &self.end)? })
    }
}

impl ExportLogsBody {
    fn into_request(self) -> Result<ExportLogs, Problem> {
        Ok(ExportLogs {
            format: self.format.map(|format| match format {
                LogsFormat::Json => Format::Json,
                LogsFormat::Text => Format::Text,
            }),
            date_range: self.date_range.as_ref().map(LogsDateRange::read).transpose()?,
            project_id: self.project_id,
            compression: self.compression,
            compress: self.compress,
            storages: self.storages,
            expires_at: self.expires_at,
            notify_email: self.notify_email,
            caption: self.caption,
        })
    }
}

/// Take a backup of a project's log
///
/// Writes down a job that backs up the project's rows of `project_logs`. Such a backup is for download: it is not restored. The answer comes
/// at once; follow the job at its `Location`.
#[utoipa::path(
    post, path = "/api/backup/export-logs", operation_id = "export_logs", tag = "backup",
    request_body(content = ExportLogsBody, example = json!({
        "project_id": "acme", "format": "json", "date_range": { "start": "2026-11-01", "end": "2026-11-21" },
    })),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn export_logs(
    State(api): State<Api>,
    caller: Signed,
    key: IdempotencyKey,
    body: Result<Body<ExportLogsBody>, Problem>,
) -> Result<Response, Problem> {
    let about = body.as_ref().ok().map(|Body(body)| About::Project(&body.project_id));
    refusal::require(&api, &caller, Permission::Write, "requested", about).await?;
    let request = body?.0.into_request()?;
    Ok(accepted(request::export(&api.app, &caller.0, &request, key.as_deref()).await?))
}
