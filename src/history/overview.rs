//! What the overview shows: how every project stands, what expires next, and what was taken day by day.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{HistoryError, backups::projects_of};
use crate::tenant::Scope;

/// How one project stands.
#[derive(Clone, Debug)]
pub struct StandingProject {
    pub id: String,
    pub name: String,
    pub status: String,
    pub settings: serde_json::Value,
    pub created_at: DateTime<Utc>,
    /// Its newest good `database` backup: the one by which it is called stale or not.
    pub good_id: Option<Uuid>,
    pub good_at: Option<DateTime<Utc>>,
    /// Bytes as stored.
    pub good_size: Option<i64>,
    /// From its start to its end.
    pub good_seconds: Option<f64>,
    /// The last time that a backup of it was found to be as recorded, and how thoroughly it was looked at.
    pub proved_at: Option<DateTime<Utc>>,
    pub proof_depth: Option<String>,
    /// How long the last trial restore that came to an end took, and when that was.
    pub recovery_seconds: Option<f64>,
    pub recovery_at: Option<DateTime<Utc>>,
    /// Its newest backup, whatever became of it.
    pub newest_id: Option<Uuid>,
    pub newest_status: Option<String>,
    pub newest_at: Option<DateTime<Utc>>,
    pub newest_message: Option<String>,
}

/// Which projects.
#[derive(Clone, Debug, Default)]
pub struct StandingFilter {
    /// This one alone.
    pub id: Option<String>,
    /// Part of an id or a name, whatever its case.
    pub search: Option<String>,
    pub status: Option<String>,
    /// Those whose id comes after this one.
    pub after: Option<String>,
    pub limit: i64,
}

/// How the projects within reach stand, by id. Each is a look into an index for its newest good backup, its last proof, its last trial restore and its newest row.
pub async fn standing_projects(
    pool: &PgPool,
    scope: &Scope,
    filter: &StandingFilter,
) -> Result<Vec<StandingProject>, HistoryError> {
    Ok(sqlx::query_as!(
        StandingProject,
        r#"SELECT p.id AS "id!", p.name AS "name!", p.status AS "status!", p.settings AS "settings!", p.created_at AS "created_at!",
                  good.id AS "good_id?", good.created_at AS "good_at?", good.size AS "good_size?",
                  extract(epoch FROM good.finished_at - good.started_at)::float8 AS good_seconds,
                  proof.verified_at AS "proved_at?", proof.verified_depth AS "proof_depth?",
                  recovery.recovery_seconds AS "recovery_seconds?", recovery.tried_at AS "recovery_at?",
                  newest.id AS "newest_id?", newest.status AS "newest_status?", newest.created_at AS "newest_at?",
                  newest.message AS "newest_message?"
           FROM (SELECT id, name, status, settings, created_at FROM control_plane.projects
                 WHERE ($1::text[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR organization_id = $2)
                   AND ($3::text IS NULL OR position(lower($3) IN lower(id)) > 0 OR position(lower($3) IN lower(name)) > 0)
                   AND ($4::text IS NULL OR status = $4) AND ($5::text IS NULL OR id > $5) AND ($7::text IS NULL OR id = $7)
                 ORDER BY id LIMIT $6) p
           LEFT JOIN LATERAL (
               SELECT b.id, b.created_at, b.size, b.started_at, b.finished_at FROM control_plane.backups b
               WHERE b.project_id = p.id AND b.type = 'database' AND b.status = 'completed' AND NOT b.is_partial
                 -- As `holdfast_copies_missing` counts: called for each of a thousand projects it takes longer than all the rest.
                 AND coalesce(b.required_copies, 0) <= (SELECT count(*) FROM control_plane.backup_copies c
                                                        WHERE c.backup_id = b.id AND c.status = 'good')
                 AND (b.manifest IS NOT NULL AND b.format IS NOT NULL
                      OR NOT EXISTS (SELECT 1 FROM control_plane.backups own
                                     WHERE own.project_id = p.id AND own.type = 'database' AND own.manifest IS NOT NULL
                                       AND own.format IS NOT NULL))
               ORDER BY b.created_at DESC, b.id DESC LIMIT 1) good ON true
           LEFT JOIN LATERAL (
               SELECT b.verified_at, b.verified_depth FROM control_plane.backups b
               WHERE b.project_id = p.id AND b.verified_at IS NOT NULL ORDER BY b.verified_at DESC LIMIT 1) proof ON true
           LEFT JOIN LATERAL (
               SELECT b.recovery_seconds, b.tried_at FROM control_plane.backups b
               WHERE b.project_id = p.id AND b.recovery_seconds IS NOT NULL ORDER BY b.tried_at DESC LIMIT 1) recovery ON true
           LEFT JOIN LATERAL (
               SELECT b.id, b.status, b.created_at, b.message FROM control_plane.backups b
               WHERE b.project_id = p.id AND b.status <> 'deleted' ORDER BY b.created_at DESC, b.id DESC LIMIT 1) newest ON true
           ORDER BY p.id"#,
        scope.project_ids(),
        scope.organization_id(),
        filter.search,
        filter.status,
        filter.after,
        filter.limit,
        filter.id,
    )
    .fetch_all(pool)
    .await?)
}

/// A good backup that goes soon.
#[derive(Clone, Debug)]
pub struct SoonGone {
    pub id: Uuid,
    pub project_id: String,
    pub r#type: String,
    pub size: i64,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// The completed backups within reach that expire between two times, the first to go first.
pub async fn soon_gone(
    pool: &PgPool,
    scope: &Scope,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<SoonGone>, HistoryError> {
    let Some(projects) = projects_of(pool, scope, None).await? else {
        return Ok(sqlx::query_as!(
            SoonGone,
            r#"SELECT id, project_id, type AS "type", size, created_at, expires_at AS "expires_at!" FROM control_plane.backups
               WHERE status = 'completed' AND NOT pinned AND expires_at >= $1 AND expires_at < $2 ORDER BY expires_at LIMIT $3"#,
            from,
            until,
            limit,
        )
        .fetch_all(pool)
        .await?);
    };
    Ok(sqlx::query_as!(
        SoonGone,
        r#"SELECT b.id AS "id!", b.project_id AS "project_id!", b.type AS "type!", b.size AS "size!", b.created_at AS "created_at!",
                  b.expires_at AS "expires_at!"
           FROM unnest($1::text[]) AS reach (id) CROSS JOIN LATERAL (
               SELECT id, project_id, type, size, created_at, expires_at FROM control_plane.backups
               WHERE project_id = reach.id AND status = 'completed' AND NOT pinned AND expires_at >= $2 AND expires_at < $3
               ORDER BY expires_at LIMIT $4) b
           ORDER BY b.expires_at LIMIT $4"#,
        &projects,
        from,
        until,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// What was taken on one day.
#[derive(Clone, Debug)]
pub struct Day {
    /// In UTC.
    pub day: NaiveDate,
    pub completed: i64,
    pub failed: i64,
    /// Stored bytes of those that were completed.
    pub bytes: i64,
    /// How long they took, on average.
    pub seconds: Option<f64>,
}

/// The days since then on which something was taken or failed, oldest first: of everything within reach, or of one project. Backups that have
/// expired and gone since are counted as well.
pub async fn days(
    pool: &PgPool,
    scope: &Scope,
    project_id: Option<&str>,
    since: NaiveDate,
) -> Result<Vec<Day>, HistoryError> {
    let Some(projects) = projects_of(pool, scope, project_id).await? else {
        return Ok(sqlx::query_as!(
            Day,
            r#"SELECT day, sum(completed)::bigint AS "completed!", sum(failed)::bigint AS "failed!",
                      greatest(least(sum(bytes), 9223372036854775807), 0)::bigint AS "bytes!", sum(seconds) / nullif(sum(timed), 0)::float8 AS seconds
               FROM control_plane.backup_day_totals WHERE day >= $1 GROUP BY day HAVING sum(completed) + sum(failed) > 0 ORDER BY day"#,
            since,
        )
        .fetch_all(pool)
        .await?);
    };
    Ok(sqlx::query_as!(
        Day,
        r#"SELECT d.day, sum(d.completed)::bigint AS "completed!", sum(d.failed)::bigint AS "failed!",
                  greatest(least(sum(d.bytes), 9223372036854775807), 0)::bigint AS "bytes!", sum(d.seconds) / nullif(sum(d.timed), 0)::float8 AS seconds
           FROM control_plane.backup_days d WHERE d.project_id = ANY($1) AND d.day >= $2
           GROUP BY d.day HAVING sum(d.completed) + sum(d.failed) > 0 ORDER BY d.day"#,
        &projects,
        since,
    )
    .fetch_all(pool)
    .await?)
}

/// Makes one row of the many that a day's total may have: each change adds one.
pub async fn merge_day_totals(executor: impl PgExecutor<'_>) -> Result<(), HistoryError> {
    sqlx::query!(
        "WITH many AS (SELECT day FROM control_plane.backup_day_totals GROUP BY day HAVING count(*) > 1),
              taken AS (DELETE FROM control_plane.backup_day_totals t USING many WHERE t.day = many.day
                        RETURNING t.day, t.completed, t.failed, t.bytes, t.seconds, t.timed)
         INSERT INTO control_plane.backup_day_totals (day, completed, failed, bytes, seconds, timed)
         SELECT day, sum(completed), sum(failed), sum(bytes), sum(seconds), sum(timed) FROM taken GROUP BY day",
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What one storage keeps of one type.
#[derive(Clone, Debug)]
pub struct Kept {
    pub storage: String,
    pub r#type: String,
    pub copies: i64,
    /// As stored.
    pub bytes: i64,
}

/// What the storages keep within reach, by storage and type.
pub async fn kept_by_storage(pool: &PgPool, scope: &Scope) -> Result<Vec<Kept>, HistoryError> {
    Ok(sqlx::query_as!(
        Kept,
        r#"SELECT storage, type AS "type", sum(copies)::bigint AS "copies!", least(sum(bytes), 9223372036854775807)::bigint AS "bytes!"
           FROM control_plane.copy_sums s
           WHERE ($1::text[] IS NULL OR project_id = ANY($1))
             AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM control_plane.projects p WHERE p.id = s.project_id AND p.organization_id = $2))
           GROUP BY storage, type HAVING sum(copies) > 0 ORDER BY storage, type"#,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_all(pool)
    .await?)
}
