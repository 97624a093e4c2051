//! Many rows, made by the server itself.

use anyhow::Result;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sqlx::{AssertSqlSafe, Executor, PgPool};
use uuid::Uuid;

#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub projects: u32,
    pub backups: u32,
    pub jobs: u32,
}

/// What requests name.
pub struct Known {
    /// Some backups, from all over the table, and their projects.
    pub backups: Vec<(Uuid, String)>,
    /// The cursor after which the last page begins.
    pub last_page: String,
    pub server_version: u32,
}

pub async fn make(pool: &PgPool, sizes: Sizes) -> Result<Known> {
    let is_there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM control_plane.projects)").fetch_one(pool).await?;
    if !is_there {
        fill(pool, sizes).await?;
    }
    let backups = sqlx::query_as("SELECT id, project_id FROM control_plane.backups TABLESAMPLE SYSTEM (2) LIMIT 5000")
        .fetch_all(pool)
        .await?;
    let (micros, id): (i64, Uuid) = sqlx::query_as(
        "SELECT (extract(epoch FROM created_at) * 1000000)::bigint, id FROM control_plane.backups ORDER BY created_at, id OFFSET 50 LIMIT 1",
    )
    .fetch_one(pool)
    .await?;
    let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(pool).await?;
    let last_page = BASE64_URL_SAFE_NO_PAD.encode([&micros.to_be_bytes()[..], id.as_bytes()].concat());
    Ok(Known { backups, last_page, server_version: version.parse()? })
}

async fn fill(pool: &PgPool, sizes: Sizes) -> Result<()> {
    let Sizes { projects, backups, jobs } = sizes;
    for sql in [
        "INSERT INTO control_plane.organizations (id, name) SELECT 'o' || n, 'o' || n FROM generate_series(0, 9) AS n".to_owned(),
        format!(
            "INSERT INTO control_plane.projects (id, name, slug, organization_id)
             SELECT 'p' || n, 'p' || n, 'p' || n, 'o' || n % 10 FROM generate_series(1, {projects}) AS n"
        ),
        format!(
            "INSERT INTO control_plane.backups (id, project_id, type, format, status, file_name, file_id, size, created_at, expires_at, expiry_warned_at, required_copies)
             SELECT gen_random_uuid(), 'p' || 1 + n % {projects}, (ARRAY['database', 'database', 'logs', 'storage'])[1 + n % 7 % 4], 'sql',
                    CASE WHEN n % 97 = 0 THEN (ARRAY['failed', 'cancelled', 'expired', 'deleted', 'damaged'])[1 + n / 97 % 5] ELSE 'completed' END,
                    'backup-' || n || '.sql.gz', 'backups/p/backup-' || n || '.sql.gz', n,
                    now() - ({backups} - n) * interval '30 seconds', now() + n * interval '30 seconds',
                    CASE WHEN n * interval '30 seconds' < interval '7 days' THEN now() END, 1
             FROM generate_series(1, {backups}) AS n"
        ),
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status) SELECT id, 'default', 'good' FROM control_plane.backups".to_owned(),
        "INSERT INTO control_plane.backup_history (backup_id, project_id, at, event, actor, outcome)
         SELECT id, project_id, created_at, 'requested', 'someone', 'ok' FROM control_plane.backups".to_owned(),
        format!(
            "INSERT INTO control_plane.jobs (id, type, status, project_id, created_by, created_at, updated_at)
             SELECT gen_random_uuid(), 'export_backup', CASE WHEN n % 97 = 0 THEN 'failed' ELSE 'completed' END, 'p' || 1 + n % {projects},
                    'someone', now() - ({jobs} - n) * interval '30 seconds', now()
             FROM generate_series(1, {jobs}) AS n"
        ),
        // What PostgreSQL does by itself after a while.
        "VACUUM (ANALYZE)".to_owned(),
        "CHECKPOINT".to_owned(),
    ] {
        pool.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(())
}
