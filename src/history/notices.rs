//! The outbox of notices: written in the transaction of what they tell about, sent later.

use sqlx::PgExecutor;

use super::HistoryError;
use crate::ids::{BackupId, JobId};

/// A notice to be sent.
#[derive(Clone, Debug)]
pub struct NewNotice<'a> {
    pub project_id: Option<&'a str>,
    pub backup_id: Option<BackupId>,
    pub job_id: JobId,
    /// `completed`, `failed`, …
    pub event: &'a str,
    /// `email`, …
    pub channel: &'a str,
    pub recipient: &'a str,
    pub payload: serde_json::Value,
}

pub async fn add_notice(executor: impl PgExecutor<'_>, notice: &NewNotice<'_>) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.notices (project_id, backup_id, job_id, event, channel, recipient, payload)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        notice.project_id,
        notice.backup_id.map(|id| id.0),
        notice.job_id.0,
        notice.event,
        notice.channel,
        notice.recipient,
        notice.payload,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The same for what is told once, however many processes notice it: `once` names it. `false`: it was told before.
pub async fn add_notice_once(
    executor: impl PgExecutor<'_>,
    once: &str,
    notice: &OnceNotice<'_>,
) -> Result<bool, HistoryError> {
    let written = sqlx::query!(
        "INSERT INTO control_plane.notices (project_id, backup_id, event, channel, recipient, payload, once_key)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (once_key) WHERE once_key IS NOT NULL DO NOTHING",
        notice.project_id,
        notice.backup_id.map(|id| id.0),
        notice.event,
        notice.channel,
        notice.recipient,
        notice.payload,
        once,
    )
    .execute(executor)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// A notice that no job gives.
#[derive(Clone, Debug)]
pub struct OnceNotice<'a> {
    pub project_id: &'a str,
    pub backup_id: Option<BackupId>,
    /// `expiring`, `stale`.
    pub event: &'a str,
    pub channel: &'a str,
    pub recipient: &'a str,
    pub payload: serde_json::Value,
}
