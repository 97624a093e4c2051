//! What happened: an audit event goes to `backup_history` and, for the project's own people, to `project_logs`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::{HistoryError, endpoints::without_endpoints};
use crate::{
    ids::{BackupId, JobId},
    tenant::{Caller, Scope},
};

/// Something that was done, or refused.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    pub backup_id: Option<BackupId>,
    pub project_id: &'a str,
    /// `requested`, `completed`, `failed`, `downloaded`, `restored`, …
    pub event: &'a str,
    pub caller: &'a Caller,
    /// `ok`, `refused` or `failed`.
    pub outcome: &'a str,
    pub detail: serde_json::Value,
}

/// What of an event's detail the project's own people are told, who read and export its log: nothing that says where things are.
const TOLD: [&str; 8] = ["job_id", "backup_id", "format", "compression", "size", "tables", "rows", "storages"];

/// Writes an event in the transaction of what it tells about.
pub async fn record(connection: &mut PgConnection, event: &Event<'_>) -> Result<(), HistoryError> {
    let address = event.caller.address.map(|a| a.to_string());
    sqlx::query!(
        "INSERT INTO control_plane.backup_history (backup_id, project_id, event, actor, address, outcome, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        event.backup_id.map(|id| id.0),
        event.project_id,
        event.event,
        event.caller.subject,
        address,
        event.outcome,
        event.detail,
    )
    .execute(&mut *connection)
    .await?;
    let level = if event.outcome == "ok" { "info" } else { "error" };
    let told: serde_json::Map<_, _> =
        TOLD.iter().filter_map(|name| Some(((*name).to_owned(), event.detail.get(name)?.clone()))).collect();
    let mut metadata = serde_json::json!({
        "source": "holdfast", "event": event.event, "actor": event.caller.subject, "outcome": event.outcome, "detail": told,
    });
    if let Some(id) = event.backup_id {
        metadata["backup_id"] = serde_json::json!(id);
    }
    if let Some(job) = event.detail.get("job_id") {
        metadata["job_id"] = job.clone();
    }
    project_log(connection, event.project_id, level, &format!("backup {}", event.event), metadata).await
}

/// Writes what a project's own people are told.
pub(super) async fn project_log(
    connection: &mut PgConnection,
    project_id: &str,
    level: &str,
    message: &str,
    metadata: serde_json::Value,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.project_logs (project_id, level, message, metadata) VALUES ($1, $2, $3, $4)",
        project_id,
        level,
        message,
        metadata,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Something that people did, or were refused, that is about no project: a login, a new user, a revoked key.
#[derive(Clone, Debug)]
pub struct PeopleEvent<'a> {
    /// `logged_in`, `login_failed`, `logged_out`, `user_added`, `user_changed`, `user_deleted`, `key_made`, `key_revoked`.
    pub event: &'a str,
    pub caller: &'a Caller,
    /// Whose organisation it concerns.
    pub organization_id: Option<&'a str>,
    /// `ok` or `failed`.
    pub outcome: &'a str,
    pub detail: serde_json::Value,
}

/// Writes an event about people in the transaction of what it tells about.
pub async fn record_people(connection: &mut PgConnection, event: &PeopleEvent<'_>) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.backup_history (organization_id, event, actor, address, outcome, detail)
         VALUES ($1, $2, $3, $4, $5, $6)",
        event.organization_id,
        event.event,
        event.caller.subject,
        event.caller.address.map(|address| address.to_string()),
        event.outcome,
        event.detail,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A past event of a backup.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PastEvent {
    /// Its place among all events.
    #[serde(skip)]
    pub id: i64,
    pub at: DateTime<Utc>,
    pub event: String,
    pub actor: String,
    pub address: Option<String>,
    pub outcome: String,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// All events of one backup within reach, oldest first; also of one that was deleted. The row that a deletion has moved into its event is
/// told without the manifest, which can be large.
pub async fn events(pool: &PgPool, scope: &Scope, backup: BackupId) -> Result<Vec<PastEvent>, HistoryError> {
    events_after(pool, scope, backup, 0, i64::MAX).await
}

/// The events after the one with the id `after` (0: from the first on), `most` at most; else as [`events`].
pub async fn events_after(
    pool: &PgPool,
    scope: &Scope,
    backup: BackupId,
    after: i64,
    most: i64,
) -> Result<Vec<PastEvent>, HistoryError> {
    Ok(sqlx::query_as!(
        PastEvent,
        r#"SELECT id, at, event, actor, address, outcome, detail #- '{backup,manifest}' AS "detail!" FROM control_plane.backup_history h
         WHERE backup_id = $1 AND ($2::text[] IS NULL OR project_id = ANY($2))
           AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = h.project_id AND p.organization_id = $3))
           AND id > $4
         ORDER BY id LIMIT $5"#,
        backup.0,
        scope.project_ids(),
        scope.organization_id(),
        after,
        most,
    )
    .fetch_all(pool)
    .await?)
}

/// The last events, newest first, `most` at most; else as [`events`].
pub async fn last_events(
    pool: &PgPool,
    scope: &Scope,
    backup: BackupId,
    most: i64,
) -> Result<Vec<PastEvent>, HistoryError> {
    Ok(sqlx::query_as!(
        PastEvent,
        r#"SELECT id, at, event, actor, address, outcome, detail #- '{backup,manifest}' AS "detail!" FROM control_plane.backup_history h
         WHERE backup_id = $1 AND ($2::text[] IS NULL OR project_id = ANY($2))
           AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = h.project_id AND p.organization_id = $3))
         ORDER BY id DESC LIMIT $4"#,
        backup.0,
        scope.project_ids(),
        scope.organization_id(),
        most,
    )
    .fetch_all(pool)
    .await?)
}

/// One line of a job's log.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct LogLine {
    #[serde(skip)]
    pub id: i64,
    pub at: DateTime<Utc>,
    pub level: String,
    pub message: String,
}

/// Adds a line to a job's log, which is part of the project's. Its people read and export that log, and their platform may show it: the message
/// says nothing of where databases and storages are. What the tools said word for word is kept beside it, for operators.
pub async fn job_log(
    pool: &PgPool,
    project_id: Option<&str>,
    job: JobId,
    level: &str,
    message: &str,
) -> Result<(), HistoryError> {
    let told = without_endpoints(message);
    sqlx::query!(
        "INSERT INTO control_plane.project_logs (project_id, level, message, metadata, full_message) VALUES ($1, $2, $3, $4, $5)",
        project_id,
        level,
        told,
        serde_json::json!({ "source": "holdfast", "job_id": job }),
        (told != message).then_some(message),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The lines of one job's log after a given one, word for word: what of it a caller may read is for `http` to say. The caller has reached the
/// job through its scope already.
pub async fn job_log_lines(pool: &PgPool, job: JobId, after: i64) -> Result<Vec<LogLine>, HistoryError> {
    Ok(sqlx::query_as!(
        LogLine,
        r#"SELECT id::bigint AS "id!", created_at AS at, level, coalesce(full_message, message) AS "message!" FROM control_plane.project_logs
         WHERE metadata ? 'job_id' AND metadata ->> 'job_id' = $1 AND id > $2 ORDER BY id LIMIT 10000"#,
        job.to_string(),
        after,
    )
    .fetch_all(pool)
    .await?)
}

/// The last lines of one job's log in their order, `most` at most; else as [`job_log_lines`].
pub async fn job_log_tail(pool: &PgPool, job: JobId, most: i64) -> Result<Vec<LogLine>, HistoryError> {
    let rows: Vec<(i64, DateTime<Utc>, String, String)> = sqlx::query_as(
        "SELECT id::bigint, created_at, level, coalesce(full_message, message) FROM control_plane.project_logs
         WHERE metadata ? 'job_id' AND metadata ->> 'job_id' = $1 ORDER BY id DESC LIMIT $2",
    )
    .bind(job.to_string())
    .bind(most)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().rev().map(|(id, at, level, message)| LogLine { id, at, level, message }).collect())
}
