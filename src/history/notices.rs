//! The outbox of notices: written in the transaction of what they tell about, and sent later by whoever claims a row. One row is one message
//! to one recipient.
//!
//! Times and decisions go by the caller's clock; leases, which processes must agree on, by the database's.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::HistoryError;
use crate::ids::{BackupId, JobId};

crate::artifact::words! {
    /// How far a notice has come.
    NoticeStatus, "notice status" {
        /// It will be sent, or tried again.
        Pending = "pending",
        Sent = "sent",
        /// It was given up; the reason is with it.
        Failed = "failed",
    }
}

/// A notice to be sent.
#[derive(Clone, Debug)]
pub struct NewNotice<'a> {
    /// Names what is told, and to whom: it is told once, however many processes notice it and however often a job runs.
    pub once: &'a str,
    pub project_id: Option<&'a str>,
    pub backup_id: Option<BackupId>,
    pub job_id: Option<JobId>,
    /// A `notice::NoticeEvent`'s word.
    pub event: &'a str,
    /// `email`, `webhook` or `telegram`.
    pub channel: &'a str,
    /// The row of `channels` whose news it is, if it is one's.
    pub channel_id: Option<Uuid>,
    /// An e-mail address, or a channel's name.
    pub recipient: &'a str,
    pub payload: &'a serde_json::Value,
    pub now: DateTime<Utc>,
    pub give_up_at: DateTime<Utc>,
}

/// Writes a notice. `false`: it was told before.
pub async fn add_notice(executor: impl PgExecutor<'_>, notice: &NewNotice<'_>) -> Result<bool, HistoryError> {
    let written = sqlx::query!(
        "INSERT INTO control_plane.notices (once_key, project_id, backup_id, job_id, event, channel, channel_id, recipient, payload,
             created_at, next_at, give_up_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11)
         ON CONFLICT (once_key) WHERE once_key IS NOT NULL DO NOTHING",
        notice.once,
        notice.project_id,
        notice.backup_id.map(|id| id.0),
        notice.job_id.map(|id| id.0),
        notice.event,
        notice.channel,
        notice.channel_id,
        notice.recipient,
        notice.payload,
        notice.now,
        notice.give_up_at,
    )
    .execute(executor)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// One row of the outbox, as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct NoticeRow {
    pub id: i64,
    pub project_id: Option<String>,
    pub backup_id: Option<Uuid>,
    pub job_id: Option<Uuid>,
    pub event: String,
    pub channel: String,
    pub channel_id: Option<Uuid>,
    pub recipient: String,
    pub status: String,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    /// When it is tried next, while it is pending.
    pub next_at: DateTime<Utc>,
    pub give_up_at: DateTime<Utc>,
    pub sent_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    pub delivery_id: Uuid,
}

/// The newest notices, of one status when it is named.
pub async fn notices(
    executor: impl PgExecutor<'_>,
    status: Option<NoticeStatus>,
    limit: i64,
) -> Result<Vec<NoticeRow>, HistoryError> {
    Ok(sqlx::query_as!(
        NoticeRow,
        "SELECT id, project_id, backup_id, job_id, event, channel, channel_id, recipient, status, attempts, created_at, next_at, give_up_at,
             sent_at, last_error, delivery_id
         FROM control_plane.notices WHERE $1::text IS NULL OR status = $1 ORDER BY id DESC LIMIT $2",
        status.map(NoticeStatus::as_str),
        limit,
    )
    .fetch_all(executor)
    .await?)
}

/// Lets a notice be tried again from now on, whatever has become of it. Gives it as it is then; `None`: there is no such notice, or it was sent.
pub async fn retry_notice(
    executor: impl PgExecutor<'_>,
    id: i64,
    now: DateTime<Utc>,
    give_up_at: DateTime<Utc>,
) -> Result<Option<NoticeRow>, HistoryError> {
    Ok(sqlx::query_as!(
        NoticeRow,
        "UPDATE control_plane.notices SET status = 'pending', next_at = $2, give_up_at = $3, attempts = 0, ended_at = NULL
         WHERE id = $1 AND status <> 'sent'
         RETURNING id, project_id, backup_id, job_id, event, channel, channel_id, recipient, status, attempts, created_at, next_at,
             give_up_at, sent_at, last_error, delivery_id",
        id,
        now,
        give_up_at,
    )
    .fetch_optional(executor)
    .await?)
}

/// A notice that this process sends, and nobody else until the lease lapses. `attempts` counts this one.
#[derive(Clone, Debug)]
pub struct DueNotice {
    pub id: i64,
    pub delivery_id: Uuid,
    pub project_id: Option<String>,
    pub event: String,
    pub channel: String,
    pub channel_id: Option<Uuid>,
    pub recipient: String,
    pub payload: serde_json::Value,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    pub give_up_at: DateTime<Utc>,
}

/// Which notices a process takes.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub now: DateTime<Utc>,
    /// It can send e-mail.
    pub has_mail: bool,
    /// The configuration's own addresses, in lower case: their mail is nobody's but the platform's.
    pub operators: &'a [String],
    /// Most that are taken now.
    pub limit: i64,
    /// Most of one owner that are on their way, from all processes together.
    pub of_one_owner: i64,
    /// Names this batch.
    pub token: Uuid,
    /// In seconds.
    pub lease_seconds: f64,
}

/// Takes notices that are due, in turns. Of each channel one is on its way at a time; of each owner (the organisation or the project whose
/// channel or request it is; the platform) a few, new ones before those that are tried again; and every owner has its first before another
/// has its second. So receivers that hang delay their own owner's news and nobody else's.
pub async fn claim_notices(executor: impl PgExecutor<'_>, claim: &Claim<'_>) -> Result<Vec<DueNotice>, HistoryError> {
    let mut due = sqlx::query_as!(
        DueNotice,
        "WITH waiting AS (
             SELECT n.id, n.next_at, n.attempts > 0 AS is_again, coalesce(n.lease_expires_at > now(), false) AS is_under_way,
                 CASE WHEN n.channel = 'email' THEN n.id::text ELSE coalesce(n.channel_id::text, n.id::text) END AS way,
                 coalesce('o:' || c.organization_id, 'o:' || p.organization_id, 'p:' || p.id, '') AS owner
             FROM control_plane.notices n
             LEFT JOIN control_plane.channels c ON c.id = n.channel_id
             LEFT JOIN control_plane.projects p ON p.id = CASE
                 WHEN c.id IS NOT NULL THEN c.project_id WHEN lower(n.recipient) = ANY($6) THEN NULL ELSE n.project_id END
             WHERE n.status = 'pending' AND n.next_at <= $1
                 AND (n.lease_expires_at > now() OR (n.give_up_at > $1 AND ($2 OR n.channel <> 'email')))),
         first_of_each_way AS (
             SELECT DISTINCT ON (way) * FROM waiting ORDER BY way, is_under_way DESC, next_at, id),
         turns AS (
             SELECT id, is_under_way, next_at,
                 row_number() OVER (PARTITION BY owner ORDER BY is_under_way DESC, is_again, next_at, id) AS turn
             FROM first_of_each_way),
         due AS (
             SELECT n.id FROM control_plane.notices n JOIN turns t ON t.id = n.id
             WHERE NOT t.is_under_way AND t.turn <= $7
                 AND n.status = 'pending' AND (n.lease_expires_at IS NULL OR n.lease_expires_at <= now())
             ORDER BY t.turn, t.next_at, n.id LIMIT $3 FOR UPDATE OF n SKIP LOCKED)
         UPDATE control_plane.notices n
         SET lease_token = $4, lease_expires_at = now() + make_interval(secs => $5), attempts = attempts + 1
         FROM due WHERE n.id = due.id
         RETURNING n.id, n.delivery_id, n.project_id, n.event, n.channel, n.channel_id, n.recipient, n.payload, n.attempts, n.created_at,
             n.give_up_at",
        claim.now,
        claim.has_mail,
        claim.limit,
        claim.token,
        claim.lease_seconds,
        claim.operators,
        claim.of_one_owner,
    )
    .fetch_all(executor)
    .await?;
    due.sort_by_key(|notice| notice.id);
    Ok(due)
}

/// The address that the request named of which this notice tells, if it did.
pub async fn notice_asked_for(executor: impl PgExecutor<'_>, id: i64) -> Result<Option<String>, HistoryError> {
    Ok(sqlx::query_scalar!(
        "SELECT j.payload #>> '{request,notify_email}' FROM control_plane.notices n
         JOIN control_plane.jobs j ON j.id = coalesce(n.job_id,
             (SELECT b.job_id FROM control_plane.backups b WHERE b.id = n.backup_id),
             (SELECT newest.id FROM control_plane.jobs newest WHERE newest.project_id = n.project_id AND newest.type = 'export_backup'
              ORDER BY newest.created_at DESC, newest.id DESC LIMIT 1))
         WHERE n.id = $1",
        id,
    )
    .fetch_optional(executor)
    .await?
    .flatten())
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeEnd<'a> {
    Sent,
    /// Tried again then.
    Later {
        at: DateTime<Utc>,
        error: &'a str,
    },
    GivenUp {
        error: &'a str,
    },
}

/// Writes down what became of a notice. `false`: the lease has lapsed and another process has it, whose word counts.
pub async fn end_notice(
    executor: impl PgExecutor<'_>,
    id: i64,
    token: Uuid,
    now: DateTime<Utc>,
    end: &NoticeEnd<'_>,
) -> Result<bool, HistoryError> {
    let (status, next_at, error) = match end {
        NoticeEnd::Sent => (NoticeStatus::Sent, None, None),
        NoticeEnd::Later { at, error } => (NoticeStatus::Pending, Some(*at), Some(*error)),
        NoticeEnd::GivenUp { error } => (NoticeStatus::Failed, None, Some(*error)),
    };
    let written = sqlx::query!(
        "UPDATE control_plane.notices
         SET status = $3, next_at = coalesce($4, next_at), lease_token = NULL, lease_expires_at = NULL,
             last_error = CASE WHEN $3 = 'sent' THEN NULL ELSE coalesce($5, last_error) END,
             sent_at = CASE WHEN $3 = 'sent' THEN $6 ELSE sent_at END,
             ended_at = CASE WHEN $3 = 'pending' THEN NULL ELSE $6 END
         WHERE id = $1 AND lease_token = $2",
        id,
        token,
        status.as_str(),
        next_at,
        error,
        now,
    )
    .execute(executor)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Puts off everything that would go the same way, when that is in trouble: e-mail as a whole, or one channel. So a server that hangs
/// costs one attempt, and not one for each notice that waits.
pub async fn postpone_notices(
    executor: impl PgExecutor<'_>,
    channel: &str,
    channel_id: Option<Uuid>,
    until: DateTime<Utc>,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.notices SET next_at = $3
         WHERE status = 'pending' AND channel = $1 AND ($1 = 'email' OR channel_id = $2) AND next_at < $3 AND lease_token IS NULL",
        channel,
        channel_id,
        until,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Gives up what nobody could send in its time. Gives how many.
pub async fn give_up_notices(executor: impl PgExecutor<'_>, now: DateTime<Utc>) -> Result<u64, HistoryError> {
    let given_up = sqlx::query!(
        "UPDATE control_plane.notices
         SET status = 'failed', ended_at = $1, lease_token = NULL, lease_expires_at = NULL,
             last_error = coalesce(last_error, 'no process that could send it was running: e-mail needs smtp.host')
         WHERE status = 'pending' AND give_up_at <= $1 AND (lease_expires_at IS NULL OR lease_expires_at <= now())",
        now,
    )
    .execute(executor)
    .await?;
    Ok(given_up.rows_affected())
}

/// Removes notices that ended before a moment: sent, or given up. Gives how many.
pub async fn forget_notices(executor: impl PgExecutor<'_>, before: DateTime<Utc>) -> Result<u64, HistoryError> {
    let gone = sqlx::query!(
        "DELETE FROM control_plane.notices WHERE id IN (
             SELECT id FROM control_plane.notices WHERE ended_at < $1 AND status <> 'pending' LIMIT 10000)",
        before
    )
    .execute(executor)
    .await?;
    Ok(gone.rows_affected())
}

/// The outbox in numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoticeCensus {
    pub pending: i64,
    /// Given up, and still to be looked at.
    pub failed: i64,
    /// Age of the oldest that is pending.
    pub oldest_seconds: f64,
}

/// Counts the outbox, by an index.
pub async fn notice_census(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<NoticeCensus, HistoryError> {
    Ok(sqlx::query_as!(
        NoticeCensus,
        r#"SELECT (SELECT count(*) FROM control_plane.notices WHERE status = 'failed') AS "failed!",
                  count(*) AS "pending!", coalesce(greatest(extract(epoch FROM $1 - min(created_at)), 0), 0)::float8 AS "oldest_seconds!"
           FROM control_plane.notices WHERE status = 'pending'"#,
        now,
    )
    .fetch_one(connection)
    .await?)
}

/// What there is to tell of a backup, as it stands in this transaction.
#[derive(Clone, Debug)]
pub struct BackupFacts {
    pub id: Uuid,
    pub r#type: String,
    pub status: String,
    pub size: i64,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub copies_missing: i32,
    /// Storages whose copy is not good.
    pub storages_missing: Vec<String>,
}

/// Reads what there is to tell of a backup. For notices, whose recipients may hear of it.
pub async fn backup_facts(executor: impl PgExecutor<'_>, id: BackupId) -> Result<Option<BackupFacts>, HistoryError> {
    Ok(sqlx::query_as!(
        BackupFacts,
        r#"SELECT id, type AS "type!", status AS "status!", coalesce(size, 0) AS "size!", created_at AS "created_at!", started_at, finished_at,
                  expires_at, control_plane.holdfast_copies_missing(id, status, required_copies) AS "copies_missing!",
                  ARRAY(SELECT c.storage FROM control_plane.backup_copies c WHERE c.backup_id = b.id AND c.status <> 'good'
                        ORDER BY c.storage) AS "storages_missing!"
           FROM control_plane.backups b WHERE id = $1"#,
        id.0
    )
    .fetch_optional(executor)
    .await?)
}
