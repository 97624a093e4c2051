//! The shapes of success: `{"data": …}`, and pages with an opaque cursor.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::error::Problem;
use crate::jobs::queue::Job;

/// One thing.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Data<T> {
    pub data: T,
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// 201 with what was made.
pub fn created<T: Serialize>(data: T) -> Response {
    (StatusCode::CREATED, Data { data }).into_response()
}

/// One page of a list, newest first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Send it back as `cursor` for the next page. `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

impl<T> Page<T> {
    /// Makes a page of `rows`, of which one more than `limit` was asked for: that one shows that there is another page.
    pub fn of(mut rows: Vec<T>, limit: usize, key: impl Fn(&T) -> Cursor) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = if has_more { rows.last().map(|row| key(row).to_string()) } else { None };
        Self { data: rows, next_cursor }
    }
}

/// The last row of a page: when it was made, to the microsecond that PostgreSQL keeps, and its id, since many rows may share an
/// instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub at: DateTime<Utc>,
    pub id: Uuid,
}

impl Cursor {
    /// Where the page begins that a caller asks for: behind this row. `None` is the first page.
    ///
    /// # Errors
    /// The text is none that a page before has given.
    pub fn read(text: Option<&str>) -> Result<Option<(DateTime<Utc>, Uuid)>, Problem> {
        let cursor = text.map(str::parse::<Self>).transpose()?;
        Ok(cursor.map(|cursor| (cursor.at, cursor.id)))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.at.timestamp_micros().to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl std::str::FromStr for Cursor {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let wrong = || {
            Problem::invalid("request.cursor", "the cursor is not one of ours")
                .hint("Send `next_cursor` of the page before, unchanged.")
        };
        let bytes: [u8; 24] =
            BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
        let (at, id) = bytes.split_at(8);
        let at = at.try_into().map(i64::from_be_bytes).map_err(|_| wrong())?;
        let at = DateTime::from_timestamp_micros(at).ok_or_else(wrong)?;
        Ok(Self { at, id: Uuid::from_slice(id).map_err(|_| wrong())? })
    }
}

/// A job that was written down.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Accepted {
    pub job_id: Uuid,
    /// `pending`, or further on when the same `Idempotency-Key` was sent before.
    pub status: String,
    pub project_id: Option<String>,
    /// The backup that it makes, restores or checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<Uuid>,
    pub created_at: DateTime<Utc>,
}

/// 202 with the job, and where to look at it.
pub fn accepted(job: Job) -> Response {
    let uuid = |value: Option<&serde_json::Value>| value?.as_str()?.parse::<Uuid>().ok();
    let backup_id = uuid(job.payload.get("backup_id"))
        .or_else(|| uuid(job.payload.get("request").and_then(|request| request.get("backup_id"))));
    let location = HeaderValue::from_str(&format!("/api/jobs/{}", job.id));
    let data = Accepted {
        job_id: job.id,
        status: job.status,
        project_id: job.project_id,
        backup_id,
        created_at: job.created_at,
    };
    let mut response = (StatusCode::ACCEPTED, Data { data }).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips_and_others_are_refused() {
        let cursor = Cursor { at: "2026-11-21T12:00:00.123456Z".parse().unwrap(), id: Uuid::now_v7() };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        for bad in ["", "x", "AAAA", "../..", &"A".repeat(33), &BASE64_URL_SAFE_NO_PAD.encode([0x7f; 24])] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let key = |_: &i32| Cursor { at: DateTime::UNIX_EPOCH, id: Uuid::nil() };
        assert!(Page::of(vec![1, 2], 2, key).next_cursor.is_none());
        let page = Page::of(vec![1, 2, 3], 2, key);
        assert_eq!(page.data, [1, 2]);
        assert!(page.next_cursor.is_some());
    }
}
