//! Backups: list them, look at them, verify and delete them. To ask for one, or for a restore, is in `backup/ask.rs`.

pub mod ask;
pub mod import;
pub mod pin;

use axum::{extract::State, response::Response};
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};

use super::{
    page_size,
    refusal::{self, About},
};
use crate::{
    artifact::{BackupType, Sha256Digest},
    history::{self, Backup, BackupFilter, BackupStatus, Copy, PastEvent, Stats},
    http::{
        Api,
        answer::{Accepted, Cursor, Data, Page, accepted},
        error::Problem,
        extract::{Body, Id, IdempotencyKey, Params, Signed},
        redact,
    },
    ids::BackupId,
    jobs::request::{self, DeleteRequest, Depth, VerifyRequest},
    manifest::{Content, Requirements},
    proof_record::ProofLevel,
    tenant::Permission,
};

/// Keeps to years that RFC 3339 can write.
fn plausible(name: &str, at: DateTime<Utc>) -> Result<(), Problem> {
    if (1..=9999).contains(&at.year()) {
        Ok(())
    } else {
        Err(Problem::invalid("request.time", format!("{name} is not in the years 1 to 9999")))
    }
}

/// Which backups to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    pub project_id: Option<String>,
    /// What it holds.
    #[param(inline)]
    pub r#type: Option<BackupType>,
    #[param(inline)]
    pub status: Option<BackupStatus>,
    /// Made at this time or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Made before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// Completed ones that expire within this time from now: a number with `d`, `h`, `m` or `s`, or of days.
    #[param(example = "7d")]
    pub expiring_within: Option<String>,
    /// Rows on a page. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// The project that a query names. No id has a zero byte, and no database takes one.
fn checked(project_id: Option<String>) -> Result<Option<String>, Problem> {
    match project_id {
        Some(id) if id.contains('\0') => Err(Problem::invalid("request.project_id", "project_id has a zero byte")),
        other => Ok(other),
    }
}

/// `7d`, `36h`, `90m`, `30s`, or a number of days.
fn duration(text: &str) -> Option<chrono::Duration> {
    let digits = text.trim_end_matches(['d', 'h', 'm', 's']);
    let number: u32 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    let seconds = match &text[digits.len()..] {
        "" | "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    // A century is more than any retention.
    chrono::Duration::try_seconds(i64::from(number) * seconds).filter(|d| d.num_days() <= 36_525)
}

/// List backups
///
/// Newest first, page by page; those of projects within the caller's reach.
#[utoipa::path(
    get, path = "/api/backup", operation_id = "list_backups", tag = "backup",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<Backup>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<Backup>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    if let (Some(after), Some(before)) = (params.created_after, params.created_before)
        && after >= before
    {
        return Err(Problem::invalid("request.time", "created_after is not before created_before"));
    }
    for (name, at) in [("created_after", params.created_after), ("created_before", params.created_before)] {
        at.map_or(Ok(()), |at| plausible(name, at))?;
    }
    let within = params.expiring_within.map(|text| {
        duration(&text).ok_or_else(|| {
            Problem::invalid("request.expiring_within", "expiring_within is not a duration")
                .hint("Write a number of days, or a number with d, h, m or s: `7d`, `36h`.")
        })
    });
    let before = Cursor::read(params.cursor.as_deref())?;
    let filter = BackupFilter {
        project_id: checked(params.project_id)?,
        backup_type: params.r#type,
        status: params.status,
        created_after: params.created_after,
        created_before: params.created_before,
        expires_before: within.transpose()?.map(|within| api.app.clock.now() + within),
        before,
        limit: limit as i64 + 1,
    };
    let rows = history::list(&api.app.pool, &caller.0.scope(), &filter).await?;
    let rows = rows.into_iter().map(|backup| redact::backup(backup, &caller.0)).collect();
    Ok(Page::of(rows, limit, |backup: &Backup| Cursor { at: backup.created_at, id: backup.id }))
}

/// Whose sums.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsParams {
    /// Default: everything within the caller's reach.
    pub project_id: Option<String>,
}

/// Sums over backups
///
/// Counts, sizes and ages of the backups within the caller's reach.
#[utoipa::path(
    get, path = "/api/backup/stats", operation_id = "backup_stats", tag = "backup",
    params(StatsParams),
    responses((status = 200, description = "The sums.", body = Data<Stats>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn stats(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<StatsParams>, Problem>,
) -> Result<Data<Stats>, Problem> {
    caller.require(Permission::Read)?;
    let Params(params) = params?;
    let (scope, now, project_id) = (caller.0.scope(), api.app.clock.now(), checked(params.project_id)?);
    Ok(Data { data: history::stats(&api.app.pool, &scope, project_id.as_deref(), now).await? })
}

/// A backup with its copies.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BackupWithCopies {
    #[serde(flatten)]
    pub backup: Backup,
    /// One per storage. Where the bytes are (`locator`) is told to operators only.
    pub copies: Vec<Copy>,
    /// How much was proved when it was dumped. `null`: nothing is known of that.
    #[schema(inline)]
    pub proof: Option<ProofLevel>,
    /// SHA-256 of everything that defines its schema: the same for two backups between which no definition changed.
    #[schema(value_type = Option<String>)]
    pub definition_sha256: Option<Sha256Digest>,
    /// What a dump of a database needs from outside itself to be restored (`extensions`, `roles`, `objects`), and what it cannot bring back
    /// (`not_restorable`).
    #[schema(value_type = Option<Object>)]
    pub requirements: Option<Requirements>,
}

/// Look at a backup
///
/// One backup with its copies.
#[utoipa::path(
    get, path = "/api/backup/{id}", operation_id = "show_backup", tag = "backup",
    params(("id" = Uuid, Path, description = "The backup's id.")),
    responses((status = 200, description = "The backup.", body = Data<BackupWithCopies>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Data<BackupWithCopies>, Problem> {
    caller.require(Permission::Read)?;
    let backup = history::get(&api.app.pool, &caller.0.scope(), id?.0).await?;
    let copies = history::copies(&api.app.pool, &[backup.id]).await?;
    let copies = copies.into_iter().map(|copy| redact::copy(copy, &caller.0)).collect();
    let content = backup.manifest().and_then(|manifest| match manifest.body.holds {
        Content::Database(content) => Some(content),
        Content::Logs(_) | Content::File(_) | Content::Files(_) => None,
    });
    let proof = content.as_ref().and_then(|content| content.proof.as_ref());
    Ok(Data {
        data: BackupWithCopies {
            proof: proof.map(|proof| proof.level),
            definition_sha256: proof.and_then(|proof| proof.definition_sha256),
            backup: redact::backup(backup, &caller.0),
            copies,
            requirements: content.map(|content| content.requirements),
        },
    })
}

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryParams {
    /// Events on a page. Default: 1000, more than most backups ever have.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Events on a page of a history, and unless asked otherwise.
const MOST_EVENTS: u32 = 1_000;

/// A backup's events
///
/// What happened to it, oldest first: who, what, when, from where, with which outcome. A backup that was deleted still has its events.
#[utoipa::path(
    get, path = "/api/backup/{id}/history", operation_id = "backup_history", tag = "backup",
    params(("id" = Uuid, Path, description = "The backup's id."), HistoryParams),
    responses((status = 200, description = "One page.", body = Page<PastEvent>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn history(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
    params: Result<Params<HistoryParams>, Problem>,
) -> Result<Page<PastEvent>, Problem> {
    caller.require(Permission::Read)?;
    let (scope, Id(id), Params(params)) = (caller.0.scope(), id?, params?);
    let limit = match params.limit.unwrap_or(MOST_EVENTS) {
        limit @ 1..=MOST_EVENTS => limit as usize,
        _ => return Err(Problem::invalid("request.limit", format!("limit must be 1 to {MOST_EVENTS}"))),
    };
    let after = params.cursor.map_or(Ok(0), |cursor| {
        cursor.parse::<i64>().map_err(|_| Problem::invalid("request.cursor", "the cursor is not one of ours"))
    })?;
    let mut data = history::events_after(&api.app.pool, &scope, id, after, limit as i64 + 1).await?;
    if data.is_empty() {
        // Only a backup that is there can have none, or no more of them.
        history::get(&api.app.pool, &scope, id).await?;
    }
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = data.last().filter(|_| has_more).map(|event| event.id.to_string());
    let data = data.into_iter().map(|event| redact::event(event, &caller.0)).collect();
    Ok(Page { data, next_cursor })
}

/// The last events of a backup that was looked at already, newest first.
pub async fn last_events(api: &Api, caller: &Signed, id: BackupId, most: usize) -> Result<Vec<PastEvent>, Problem> {
    caller.require(Permission::Read)?;
    let events = history::last_events(&api.app.pool, &caller.0.scope(), id, most as i64).await?;
    Ok(events.into_iter().map(|event| redact::event(event, &caller.0)).collect())
}

/// A check, as it is asked for.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// `head` (default): each copy's size, as its storage tells it, is compared with the recorded one, and the seal of the manifest beside it is
    /// checked, while no byte of the copy is read; `read`: every byte decrypted and decompressed, digests compared; `restore`: restored into a scratch database, proof compared.
    #[schema(inline)]
    pub depth: Option<Depth>,
}

/// Verify a backup
///
/// Writes down a job that checks it.
#[utoipa::path(
    post, path = "/api/backup/{id}/verify", operation_id = "verify_backup", tag = "backup",
    params(("id" = Uuid, Path, description = "The backup's id.")),
    request_body(content = VerifyBody, example = json!({ "depth": "read" })),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn verify(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
    key: IdempotencyKey,
    body: Result<Body<VerifyBody>, Problem>,
) -> Result<Response, Problem> {
    let about = id.as_ref().ok().map(|Id(id)| About::Backup(*id));
    refusal::require(&api, &caller, Permission::Write, "verify_requested", about).await?;
    let (Id(backup_id), Body(body)) = (id?, body?);
    let request = VerifyRequest { backup_id, depth: body.depth.unwrap_or(Depth::Head) };
    Ok(accepted(request::verify(&api.app, &caller.0, &request, key.as_deref()).await?))
}

/// Delete a backup
///
/// Writes down a job that deletes every copy in every storage and confirms it. From now on the backup can no longer be used, and is listed
/// only when asked for by `status=deleted`. When all is done its row goes; its events stay, and say what could not be deleted. While it is
/// being deleted, asking again gives the same job.
#[utoipa::path(
    delete, path = "/api/backup/{id}", operation_id = "delete_backup", tag = "backup",
    params(("id" = Uuid, Path, description = "The backup's id.")),
    responses((status = 202, description = "The job was written down.", body = Data<Accepted>,
        headers(("Location" = String, description = "Where to look at the job.")))),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let about = id.as_ref().ok().map(|Id(id)| About::Backup(*id));
    refusal::require(&api, &caller, Permission::Write, "delete_requested", about).await?;
    let request = DeleteRequest { backup_id: id?.0 };
    Ok(accepted(request::delete(&api.app, &caller.0, &request, key.as_deref()).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_for_people() {
        for (text, seconds) in [("7", 604_800), ("7d", 604_800), ("36h", 129_600), ("90m", 5_400), ("0s", 0)] {
            assert_eq!(duration(text).map(|d| d.num_seconds()), Some(seconds), "{text}");
        }
        for bad in ["", "d", "-1d", "1.5d", "1w", "dd", "1dd", "99999999999", "4294967295d", "ü", "1ü"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
