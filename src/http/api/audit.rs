//! The audit trail, for operators and organisation admins.

use std::fmt::Write as _;

use axum::{
    body::Body,
    extract::State,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::{TryStreamExt, stream};
use serde::Deserialize;
use uuid::Uuid;

use super::page_size;
use crate::{
    history::{self, AuditEntry, AuditFilter},
    http::{
        Api,
        answer::{Cursor, Page},
        error::Problem,
        extract::{Params, Signed},
        redact,
    },
    tenant::{Caller, Permission, Role},
};

/// Entries of an export that are fetched at once.
const BATCH: i64 = 1_000;

/// How the trail is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditFormat {
    /// One page, as JSON.
    Json,
    /// Everything that fits the filters, one JSON object a line.
    Jsonl,
    /// The same as comma-separated values (RFC 4180), with a line of names first.
    Csv,
}

/// Which entries to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    pub project_id: Option<String>,
    pub backup_id: Option<Uuid>,
    /// Who, as the entries name it.
    #[param(example = "user:alice@example.com")]
    pub actor: Option<String>,
    #[param(example = "downloaded")]
    pub event: Option<String>,
    /// `ok`, `refused` or `failed`.
    pub outcome: Option<String>,
    /// At this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
    /// Default: `json`. The others give everything in one stream, and take neither `limit` nor `cursor`.
    #[param(inline)]
    pub format: Option<AuditFormat>,
    /// Rows on a page. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// List the audit trail
///
/// Everything that was done or refused, newest first: all of it for an operator; for an organisation admin what concerns the organisation's
/// projects and people. Entries are linked by digests: `holdfast audit verify` notices one that was altered or removed.
#[utoipa::path(
    get, path = "/api/audit", operation_id = "list_audit", tag = "audit",
    params(ListParams),
    responses((status = 200, description = "One page, or everything.", content(
        (Page<AuditEntry> = "application/json"),
        (String = "application/jsonl"),
        (String = "text/csv"),
    ))),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Response, Problem> {
    caller.require(Permission::Read)?;
    require_overseer(&caller.0)?;
    let Params(params) = params?;
    let format = params.format.unwrap_or(AuditFormat::Json);
    if format == AuditFormat::Json {
        return Ok(entries(&api, &caller, params).await?.into_response());
    }
    let has_pages = params.limit.is_some() || params.cursor.is_some();
    let filter = filter(params)?.0;
    if has_pages {
        return Err(Problem::invalid(
            "request.format",
            "this format gives everything: it takes no limit and no cursor",
        ));
    }
    Ok(export(api, caller.0, filter, format))
}

/// One page of the trail, for whoever may read it.
pub async fn entries(api: &Api, caller: &Signed, params: ListParams) -> Result<Page<AuditEntry>, Problem> {
    caller.require(Permission::Read)?;
    require_overseer(&caller.0)?;
    let (filter, limit) = filter(params)?;
    let rows = history::audit_entries(&api.app.pool, &caller.0.scope(), &filter).await?;
    let rows = rows.into_iter().map(|entry| redact::entry(entry, &caller.0)).collect();
    Ok(Page::of(rows, limit, |entry: &AuditEntry| Cursor {
        at: entry.at,
        id: Uuid::from_u64_pair(0, entry.id.unsigned_abs()),
    }))
}

/// The filter of a page of so many rows.
fn filter(params: ListParams) -> Result<(AuditFilter, usize), Problem> {
    for (name, text) in [("actor", &params.actor), ("event", &params.event), ("outcome", &params.outcome)] {
        if text.as_deref().is_some_and(|text| text.is_empty() || text.contains('\0')) {
            return Err(Problem::invalid("request.filter", format!("{name} is empty or has a zero byte")));
        }
    }
    let limit = page_size(params.limit)?;
    let before = params.cursor.as_deref().map(str::parse::<Cursor>).transpose()?;
    let filter = AuditFilter {
        project_id: params.project_id,
        backup_id: params.backup_id,
        actor: params.actor,
        event: params.event,
        outcome: params.outcome,
        since: params.since,
        until: params.until,
        before: before.map(entry_of).transpose()?,
        limit: limit as i64 + 1,
    };
    Ok((filter, limit))
}

/// 403 for members. A key may read the trail if its role may: so that it can be collected elsewhere.
fn require_overseer(caller: &Caller) -> Result<(), Problem> {
    match caller.role {
        Role::Operator => Ok(()),
        Role::OrgAdmin if caller.organization_id.is_some() => Ok(()),
        Role::OrgAdmin | Role::Member => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "auth.role",
            "this needs the role operator, or org_admin for one's own organisation",
        )),
    }
}

/// The entry that a cursor stands for: ids of entries are numbers.
fn entry_of(cursor: Cursor) -> Result<(DateTime<Utc>, i64), Problem> {
    match cursor.id.as_u64_pair() {
        (0, id) if i64::try_from(id).is_ok() => Ok((cursor.at, id.cast_signed())),
        _ => Err(Problem::invalid("request.cursor", "the cursor is not one of this list")),
    }
}

/// Streams everything, a batch at a time: no transaction stays open, and memory does not depend on the number of entries.
fn export(api: Api, caller: Caller, filter: AuditFilter, format: AuditFormat) -> Response {
    let (media, name, head) = match format {
        AuditFormat::Csv => ("text/csv; charset=utf-8", "audit.csv", CSV_HEAD),
        AuditFormat::Jsonl | AuditFormat::Json => ("application/jsonl", "audit.jsonl", ""),
    };
    let batches = stream::try_unfold(Some(AuditFilter { limit: BATCH, ..filter }), move |filter| {
        let (api, caller) = (api.clone(), caller.clone());
        async move {
            let Some(mut filter) = filter else { return Ok(None) };
            let rows = history::audit_entries(&api.app.pool, &caller.scope(), &filter).await?;
            let next = match rows.last() {
                Some(last) if rows.len() as i64 == BATCH => {
                    filter.before = Some((last.at, last.id));
                    Some(filter)
                }
                _ => None,
            };
            let mut text = String::new();
            for entry in rows.into_iter().map(|entry| redact::entry(entry, &caller)) {
                match format {
                    AuditFormat::Csv => csv_line(&mut text, &entry),
                    AuditFormat::Jsonl | AuditFormat::Json => {
                        text.push_str(&serde_json::to_string(&entry)?);
                        text.push('\n');
                    }
                }
            }
            Ok::<_, anyhow::Error>(Some((text, next)))
        }
    });
    let told = batches.inspect_err(|error| tracing::error!(%error, "an export of the audit trail broke off"));
    let begun = stream::once(async move { Ok(head.to_owned()) });
    let mut response = Body::from_stream(futures::StreamExt::chain(begun, told)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    response
}

const CSV_HEAD: &str =
    "id,at,event,actor,address,outcome,project_id,organization_id,backup_id,detail,sequence,digest\r\n";

/// How an export of one entry looks, for the document.
pub fn example(format: AuditFormat) -> String {
    let entry = AuditEntry {
        id: 1_204,
        at: DateTime::from_timestamp(1_795_226_400, 0).unwrap_or_default(),
        event: "downloaded".to_owned(),
        actor: "alice@example.com".to_owned(),
        address: Some("192.0.2.17".to_owned()),
        outcome: "ok".to_owned(),
        project_id: Some("acme".to_owned()),
        organization_id: None,
        backup_id: Some(Uuid::from_u128(0x0199_c5f0_7c1e_7d2a_9d5c_2a52_b6f0_e7aa)),
        detail: serde_json::json!({ "storage": "offsite" }),
        sequence: Some(1_204),
        digest: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned()),
    };
    match format {
        AuditFormat::Csv => {
            let mut text = CSV_HEAD.to_owned();
            csv_line(&mut text, &entry);
            text
        }
        AuditFormat::Jsonl | AuditFormat::Json => serde_json::to_string(&entry).unwrap_or_default() + "\n",
    }
}

fn csv_line(text: &mut String, entry: &AuditEntry) {
    let id = entry.backup_id.map(|id| id.to_string()).unwrap_or_default();
    let sequence = entry.sequence.map(|sequence| sequence.to_string()).unwrap_or_default();
    let optional = |field: &Option<String>| field.clone().unwrap_or_default();
    let fields = [
        entry.id.to_string(),
        entry.at.to_rfc3339_opts(SecondsFormat::Micros, true),
        entry.event.clone(),
        entry.actor.clone(),
        optional(&entry.address),
        entry.outcome.clone(),
        optional(&entry.project_id),
        optional(&entry.organization_id),
        id,
        entry.detail.to_string(),
        sequence,
        optional(&entry.digest),
    ];
    for (number, field) in fields.iter().enumerate() {
        let comma = if number > 0 { "," } else { "" };
        // Spreadsheets take what begins like this for a formula, and names come from outside.
        let guard = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
        // Writing into a text does not fail.
        let _ = write!(text, "{comma}\"{guard}{}\"", field.replace('"', "\"\""));
    }
    text.push_str("\r\n");
}
