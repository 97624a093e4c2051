//! One row per backup, from the moment it is asked for.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::HistoryError;
use crate::{
    artifact::{ArtifactName, BackupType, Encoding, UnknownWord},
    ids::{BackupId, JobId},
    manifest::Manifest,
    storage::S3Address,
    tenant::Scope,
};

crate::artifact::words! {
    /// How far a backup has come.
    BackupStatus, "backup status" {
        Pending = "pending",
        InProgress = "in_progress",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        Expired = "expired",
        /// No longer usable: its copies are being deleted. Then its row goes too.
        Deleted = "deleted",
        /// It was stored, and no copy is good any more.
        Damaged = "damaged",
    }
}

/// One row of `control_plane.backups`, without its manifest. Words from rows that a platform wrote itself are kept as they are.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Backup {
    #[schema(value_type = Uuid)]
    pub id: Uuid,
    pub project_id: String,
    /// `database`, `storage` or `logs`.
    pub r#type: String,
    pub status: String,
    /// Why it failed, or what else there is to say.
    pub message: Option<String>,
    pub file_name: Option<String>,
    /// The first part's Telegram id, else the storage key.
    pub file_id: Option<String>,
    pub format: Option<String>,
    pub compression: Option<String>,
    pub encryption: Option<String>,
    /// `manual` or `scheduled`.
    pub backup_type: String,
    pub number: i32,
    /// Bytes as stored.
    pub size: i64,
    pub sha256: Option<String>,
    /// Bytes of the dump before compression and encryption.
    pub content_size: Option<i64>,
    pub content_sha256: Option<String>,
    pub table_count: Option<i64>,
    pub row_count: Option<i64>,
    pub pg_version: Option<String>,
    pub storage: Option<String>,
    pub s3_url: Option<String>,
    pub s3_region: Option<String>,
    pub s3_bucket: Option<String>,
    pub job_id: Option<Uuid>,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub verified_at: Option<DateTime<Utc>>,
    pub verified_depth: Option<String>,
    /// A trial restore showed exactly what its proof says. `null`: not yet.
    pub proved_at: Option<DateTime<Utc>>,
    /// How long the last trial restore took, from the first byte fetched to the last row compared.
    pub recovery_seconds: Option<f64>,
    /// What the last trial restore found to differ, a line each. `null`: there was none.
    #[schema(value_type = Option<Vec<String>>)]
    pub differences: Option<serde_json::Value>,
    pub pinned: bool,
    pub is_partial: bool,
    /// Good copies without which it does not count as safe. `null`: not asked for.
    pub required_copies: Option<i32>,
    /// How many of them are missing. Only a completed backup that lacks none counts as good for retention.
    pub copies_missing: i32,
    #[serde(skip)]
    pub manifest: Option<serde_json::Value>,
}

impl Backup {
    pub fn backup_id(&self) -> BackupId {
        BackupId(self.id)
    }

    /// The manifest; `None` when there is none, or none that this version reads.
    pub fn manifest(&self) -> Option<Manifest> {
        serde_json::from_value(self.manifest.clone()?).ok()
    }

    /// How its content became what is stored. A platform's own row may say what nobody knows.
    pub fn encoding(&self) -> Result<Encoding, UnknownWord> {
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
        Ok(Encoding {
            format: self.format.as_deref().map(str::parse).transpose()?,
            compression: word(&self.compression).parse()?,
            encryption: word(&self.encryption).parse()?,
        })
    }

    pub fn is(&self, status: BackupStatus) -> bool {
        self.status == status.as_str()
    }

    /// Whether it is stored as safely as was asked for. The same in SQL, for a backup `b`: `b.status = 'completed' AND
    /// control_plane.holdfast_copies_missing(b.id, b.status, b.required_copies) = 0`.
    pub fn is_complete(&self) -> bool {
        self.is(BackupStatus::Completed) && self.copies_missing == 0
    }
}

/// A backup as it is asked for.
#[derive(Clone, Debug)]
pub struct NewBackup {
    pub id: BackupId,
    pub project_id: String,
    pub backup_type: BackupType,
    pub key: ArtifactName,
    pub encoding: Encoding,
    pub is_scheduled: bool,
    pub is_partial: bool,
    pub job_id: JobId,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Writes the row of a backup that is waiting for a worker.
pub async fn create(executor: impl PgExecutor<'_>, new: &NewBackup) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.backups (id, project_id, type, status, file_id, file_name, format, compression, encryption,
             backup_type, is_partial, job_id, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        new.id.0,
        new.project_id,
        new.backup_type.as_str(),
        new.key.as_str(),
        new.key.file_name(),
        new.encoding.format.map(crate::artifact::Format::as_str),
        new.encoding.compression.as_str(),
        new.encoding.encryption.as_str(),
        if new.is_scheduled { "scheduled" } else { "manual" },
        new.is_partial,
        new.job_id.0,
        new.created_by,
        new.created_at,
        new.expires_at,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// A worker has begun.
pub async fn start(executor: impl PgExecutor<'_>, id: BackupId) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups SET status = 'in_progress', started_at = coalesce(started_at, now()), message = NULL
         WHERE id = $1 AND status IN ('pending', 'in_progress')",
        id.0
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What is known of a backup whose bytes are stored and read back.
#[derive(Clone, Debug)]
pub struct Completed<'a> {
    pub manifest: &'a Manifest,
    /// The storage named first.
    pub storage: &'a str,
    pub message: Option<&'a str>,
}

/// The backup is good: sizes, digests, counts and manifest are written in one statement.
pub async fn complete(executor: impl PgExecutor<'_>, id: BackupId, done: &Completed<'_>) -> Result<(), HistoryError> {
    let Manifest { head, body } = done.manifest;
    let manifest = serde_json::to_value(done.manifest).map_err(|e| sqlx::Error::Encode(e.into()))?;
    let database = body.database();
    let version = body.server_version();
    sqlx::query!(
        "UPDATE control_plane.backups
         SET status = 'completed', finished_at = now(), message = $2, storage = $3, size = $4, sha256 = $5, content_size = $6,
             content_sha256 = $7, table_count = $8, row_count = $9, pg_version = $10, manifest = $11, file_id = $12
         WHERE id = $1",
        id.0,
        done.message,
        done.storage,
        head.stored.bytes as i64,
        head.stored.sha256.to_string(),
        body.content.bytes as i64,
        body.content.sha256.to_string(),
        database.map(|content| content.table_count as i64),
        body.row_count().map(|rows| rows as i64),
        version.map(|version| format!("{}.{}", version / 10_000, version % 10_000)),
        manifest,
        head.key.as_str(),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Where the first good copy in a bucket is: `s3_url`, `s3_region`, `s3_bucket`. For the transaction that completes the backup, or makes the
/// copy good.
pub async fn set_s3_address(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    address: &S3Address,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups SET s3_url = $2, s3_region = $3, s3_bucket = $4 WHERE id = $1",
        id.0,
        address.url,
        address.region,
        address.bucket,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The backup ends otherwise (`failed`, `cancelled`) or waits for another attempt (`pending`), with the reason. A completed one is
/// never changed by this.
pub async fn close(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    status: BackupStatus,
    message: &str,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups
         SET status = $2, message = $3, finished_at = CASE WHEN $2 = 'pending' THEN NULL ELSE now() END
         WHERE id = $1 AND status IN ('pending', 'in_progress')",
        id.0,
        status.as_str(),
        message,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// A verification is over. `proved`: all was as recorded, so the time is kept. What it found in the copies is written by
/// [`settle_copies`](super::settle_copies); `message` is what else there is to say.
pub async fn verified(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    depth: &str,
    proved: bool,
    message: Option<&str>,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups
         SET verified_at = CASE WHEN $3 THEN now() ELSE verified_at END, verified_depth = CASE WHEN $3 THEN $2 ELSE verified_depth END,
             message = coalesce($4, message)
         WHERE id = $1 AND status IN ('completed', 'damaged')",
        id.0,
        depth,
        proved,
        message,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What a trial restore came to: `differences` as lines, none when it is proved. `seconds`: how long it took, if it came to its end.
pub async fn tried(
    executor: impl PgExecutor<'_>,
    id: BackupId,
    at: DateTime<Utc>,
    seconds: Option<f64>,
    differences: &[String],
) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups
         SET tried_at = $2::timestamptz, recovery_seconds = coalesce($3, recovery_seconds), differences = $4,
             proved_at = CASE WHEN $5 THEN $2::timestamptz END,
             message = CASE WHEN message = differences ->> 0 AND $5 THEN NULL ELSE message END
         WHERE id = $1",
        id.0,
        at,
        seconds,
        serde_json::json!(differences),
        differences.is_empty(),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The backup that is tried next by the clock, and marks it as tried: the oldest one without a trial of the project whose last trial is the
/// longest ago. One whose trial came to nothing, so that neither a proof nor a difference is known, has its turn again after a day; one whose
/// rows were not counted (proof `off`) has none, as there is nothing to compare with. `None`: there is none that fits, one is being tried, or
/// the budget of the last 24 hours is used up, by trials that failed as well.
pub async fn next_trial(
    executor: impl PgExecutor<'_>,
    now: DateTime<Utc>,
    budget_seconds: f64,
    max_bytes: i64,
) -> Result<Option<BackupId>, HistoryError> {
    let id = sqlx::query_scalar!(
        r#"UPDATE control_plane.backups SET tried_at = $1::timestamptz
           WHERE id = (
               SELECT b.id FROM control_plane.backups b JOIN control_plane.projects p ON p.id = b.project_id AND p.status = 'ACTIVE'
               WHERE b.status = 'completed' AND b.type = 'database' AND b.proved_at IS NULL
                 AND (b.tried_at IS NULL OR b.tried_at < $1::timestamptz - interval '1 day' AND b.differences IS NULL)
                 AND b.row_count IS NOT NULL
                 AND NOT b.is_partial AND b.format IS NOT NULL AND b.manifest IS NOT NULL AND b.content_size <= $3 AND p.id <> $4
               ORDER BY (SELECT max(t.tried_at) FROM control_plane.backups t WHERE t.project_id = b.project_id) NULLS FIRST,
                        b.tried_at NULLS FIRST, b.created_at, b.id
               LIMIT 1 FOR UPDATE OF b SKIP LOCKED)
             AND (SELECT coalesce(sum(extract(epoch FROM coalesce(j.finished_at, $1::timestamptz) - j.started_at))::float8, 0)
                  FROM control_plane.jobs j
                  WHERE j.type = 'verify_backup' AND j.created_by = 'system:trials' AND j.started_at > $1::timestamptz - interval '24 hours') < $2
             AND NOT EXISTS (SELECT 1 FROM control_plane.jobs j
                             WHERE j.type = 'verify_backup' AND j.status IN ('pending', 'in_progress') AND j.created_by = 'system:trials')
           RETURNING id"#,
        now,
        budget_seconds,
        max_bytes,
        crate::ids::CONTROL_PLANE_PROJECT,
    )
    .fetch_optional(executor)
    .await?;
    Ok(id.map(BackupId))
}

/// One backup within reach; [`HistoryError::NoSuchBackup`] also for another's.
pub async fn get(executor: impl PgExecutor<'_>, scope: &Scope, id: BackupId) -> Result<Backup, HistoryError> {
    sqlx::query_as!(
        Backup,
        r#"SELECT id, project_id, type AS "type", status, message, file_name, file_id, format, compression, encryption, backup_type, number,
                  size, sha256, content_size, content_sha256, table_count, row_count, pg_version, storage, s3_url, s3_region, s3_bucket,
                  job_id, created_by, created_at, started_at, finished_at, expires_at, verified_at, verified_depth, proved_at, recovery_seconds, differences, pinned, is_partial,
                  required_copies, control_plane.holdfast_copies_missing(id, status, required_copies) AS "copies_missing!", manifest
           FROM control_plane.backups b
           WHERE id = $1 AND ($2::text[] IS NULL OR project_id = ANY($2))
             AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = b.project_id AND p.organization_id = $3))"#,
        id.0,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| HistoryError::NoSuchBackup(id.to_string()))
}

/// Which backups to list. Newest first; `before` is the last row of the page before.
#[derive(Clone, Debug, Default)]
pub struct BackupFilter {
    pub project_id: Option<String>,
    pub backup_type: Option<BackupType>,
    pub status: Option<BackupStatus>,
    pub created_after: Option<DateTime<Utc>>,
    pub created_before: Option<DateTime<Utc>>,
    pub expires_before: Option<DateTime<Utc>>,
    pub before: Option<(DateTime<Utc>, Uuid)>,
    pub limit: i64,
}

/// Projects that are looked at one by one for a page. With more, rows of theirs are so frequent that the whole history is read in its order.
const FEW_PROJECTS: usize = 64;

/// One page of backups within reach. Those that are being deleted are listed only when asked for by status. Manifests are left out: they can
/// be large.
pub async fn list(pool: &PgPool, scope: &Scope, filter: &BackupFilter) -> Result<Vec<Backup>, HistoryError> {
    match projects_of(pool, scope, filter.project_id.as_deref()).await? {
        Some(projects) if projects.is_empty() => Ok(Vec::new()),
        Some(projects) if projects.len() <= FEW_PROJECTS => list_few(pool, &projects, filter).await,
        projects => list_many(pool, projects.as_deref(), filter).await,
    }
}

/// The projects within reach; `None` is all.
pub(super) async fn projects_of(
    pool: &PgPool,
    scope: &Scope,
    named: Option<&str>,
) -> Result<Option<Vec<String>>, HistoryError> {
    if let Some(organization) = scope.organization_id() {
        let of_organization = sqlx::query_scalar!(
            "SELECT id FROM control_plane.projects WHERE organization_id = $1 AND ($2::text IS NULL OR id = $2)",
            organization,
            named,
        );
        return Ok(Some(of_organization.fetch_all(pool).await?));
    }
    let named = named.map(str::to_owned);
    Ok(match (scope.project_ids(), named) {
        (None, named) => named.map(|named| vec![named]),
        (Some(ids), None) => Some(ids.to_vec()),
        (Some(ids), Some(named)) => Some(if ids.contains(&named) { vec![named] } else { Vec::new() }),
    })
}

/// Each project's newest rows from its own index, then the newest of those: quick on any page, however old the rows are.
async fn list_few(pool: &PgPool, projects: &[String], filter: &BackupFilter) -> Result<Vec<Backup>, HistoryError> {
    let (before_at, before_id) = filter.before.unzip();
    Ok(sqlx::query_as!(
        Backup,
        r#"SELECT b.id, project_id, type AS "type", status, message, file_name, file_id, format, compression, encryption, backup_type, number,
                  size, sha256, content_size, content_sha256, table_count, row_count, pg_version, storage, s3_url, s3_region, s3_bucket,
                  job_id, created_by, b.created_at, started_at, finished_at, expires_at, verified_at, verified_depth, proved_at, recovery_seconds, differences, pinned, is_partial,
                  required_copies, control_plane.holdfast_copies_missing(b.id, status, required_copies) AS "copies_missing!",
                  NULL::jsonb AS manifest
           FROM (SELECT newest.id FROM unnest($1::text[]) AS reach (id) CROSS JOIN LATERAL (
                     SELECT id, created_at FROM control_plane.backups
                     WHERE project_id = reach.id
                       AND ($2::text IS NULL OR type = $2)
                       AND (status = $3 OR ($3::text IS NULL AND status <> 'deleted'))
                       AND ($4::timestamptz IS NULL OR created_at >= $4)
                       AND ($5::timestamptz IS NULL OR created_at < $5)
                       AND ($6::timestamptz IS NULL OR (expires_at < $6 AND status = 'completed'))
                       AND ($7::timestamptz IS NULL OR (created_at, id) < ($7, $8))
                     ORDER BY created_at DESC, id DESC LIMIT $9) newest
                 ORDER BY newest.created_at DESC, newest.id DESC LIMIT $9) page
           JOIN control_plane.backups b ON b.id = page.id
           ORDER BY b.created_at DESC, b.id DESC"#,
        projects,
        filter.backup_type.map(BackupType::as_str),
        filter.status.map(BackupStatus::as_str),
        filter.created_after,
        filter.created_before,
        filter.expires_before,
        before_at,
        before_id,
        filter.limit,
    )
    .fetch_all(pool)
    .await?)
}

async fn list_many(
    pool: &PgPool,
    projects: Option<&[String]>,
    filter: &BackupFilter,
) -> Result<Vec<Backup>, HistoryError> {
    let (before_at, before_id) = filter.before.unzip();
    Ok(sqlx::query_as!(
        Backup,
        r#"SELECT id, project_id, type AS "type", status, message, file_name, file_id, format, compression, encryption, backup_type, number,
                  size, sha256, content_size, content_sha256, table_count, row_count, pg_version, storage, s3_url, s3_region, s3_bucket,
                  job_id, created_by, created_at, started_at, finished_at, expires_at, verified_at, verified_depth, proved_at, recovery_seconds, differences, pinned, is_partial,
                  required_copies, control_plane.holdfast_copies_missing(id, status, required_copies) AS "copies_missing!",
                  NULL::jsonb AS manifest
           FROM control_plane.backups
           WHERE ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR type = $2)
             AND (status = $3 OR ($3::text IS NULL AND status <> 'deleted'))
             AND ($4::timestamptz IS NULL OR created_at >= $4)
             AND ($5::timestamptz IS NULL OR created_at < $5)
             AND ($6::timestamptz IS NULL OR (expires_at < $6 AND status = 'completed'))
             AND ($7::timestamptz IS NULL OR (created_at, id) < ($7, $8))
           ORDER BY created_at DESC, id DESC LIMIT $9"#,
        projects,
        filter.backup_type.map(BackupType::as_str),
        filter.status.map(BackupStatus::as_str),
        filter.created_after,
        filter.created_before,
        filter.expires_before,
        before_at,
        before_id,
        filter.limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Up to two ids of backups within reach and between two ids, both included: enough to see whether a prefix names one.
pub async fn ids_between(pool: &PgPool, scope: &Scope, low: Uuid, high: Uuid) -> Result<Vec<Uuid>, HistoryError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM control_plane.backups b
           WHERE id BETWEEN $3 AND $4 AND ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = b.project_id AND p.organization_id = $2))
           ORDER BY id LIMIT 2"#,
        scope.project_ids(),
        scope.organization_id(),
        low,
        high,
    )
    .fetch_all(pool)
    .await?)
}
