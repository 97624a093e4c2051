//! Many rows, made by the server itself.

use sqlx::{Executor, PgPool};
use uuid::Uuid;

pub const PROJECTS: i32 = 1_000;
pub const ROWS: i32 = 60_000;

pub struct Seeded {
    /// Of project `p7`.
    pub backup: Uuid,
    pub job: Uuid,
    /// Cursors of the rows after which the last page begins.
    pub last_backups: String,
    pub last_jobs: String,
    pub some_projects: Vec<String>,
}

/// 1,000 projects in ten organisations and 60,000 rows of each kind, of which one in a hundred is not as the others.
pub async fn seed(pool: &PgPool) -> Seeded {
    let sql =
        include_str!("seed.sql").replace("{projects}", &PROJECTS.to_string()).replace("{rows}", &ROWS.to_string());
    pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    // An index alone answers only for pages that were looked at; PostgreSQL does it by itself after a while.
    pool.execute("VACUUM (ANALYZE)").await.unwrap();
    let one = async |sql: &'static str| sqlx::query_scalar::<_, Uuid>(sql).fetch_one(pool).await.unwrap();
    Seeded {
        backup: one("SELECT id FROM control_plane.backups WHERE project_id = 'p7' ORDER BY created_at LIMIT 1").await,
        job: one("SELECT id FROM control_plane.jobs WHERE project_id = 'p7' ORDER BY created_at LIMIT 1").await,
        last_backups: last_page(pool, "SELECT (extract(epoch FROM created_at) * 1000000)::bigint, id FROM control_plane.backups ORDER BY created_at, id OFFSET 50 LIMIT 1").await,
        last_jobs: last_page(pool, "SELECT (extract(epoch FROM created_at) * 1000000)::bigint, id FROM control_plane.jobs ORDER BY created_at, id OFFSET 50 LIMIT 1").await,
        some_projects: (1..=50).map(|n| format!("p{n}")).collect(),
    }
}

async fn last_page(pool: &PgPool, sql: &'static str) -> String {
    let (micros, id): (i64, Uuid) = sqlx::query_as(sql).fetch_one(pool).await.unwrap();
    super::cursor(micros, id)
}
