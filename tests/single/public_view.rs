//! `public.backups`: made where nothing of that name is and this role may, and never in the way.

use holdfast::{config::DatabaseConfig, db, postgres::connect::ConnectInfo};
use sqlx::{Connection, Executor, PgPool};

use super::support;

async fn migrated(info: &ConnectInfo) -> PgPool {
    let pool = db::connect(info, &DatabaseConfig::default()).await.unwrap();
    db::migrate(&pool).await.unwrap();
    pool
}

async fn kind(pool: &PgPool) -> Option<String> {
    sqlx::query_scalar("SELECT relkind::text FROM pg_class WHERE oid = to_regclass('public.backups')")
        .fetch_optional(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn it_has_the_documented_columns_and_migrating_again_leaves_it() {
    let info = support::fresh_database("view").await;
    let pool = migrated(&info).await;
    db::migrate(&pool).await.unwrap();
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
         WHERE attrelid = 'public.backups'::regclass AND attnum > 0 ORDER BY attnum",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let columns: Vec<String> = columns.into_iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    assert_eq!(
        columns.join(", "),
        "id integer, file_name text, s3_url text, s3_region text, s3_bucket text, file_size bigint, backup_type text, status text, \
         message text, created_by text, created_at timestamp with time zone"
    );
}

#[tokio::test]
async fn a_platforms_own_table_of_that_name_stays() {
    let info = support::fresh_database("view").await;
    let mut connection = support::connect(&info).await;
    connection.execute("CREATE TABLE public.backups (id bigint PRIMARY KEY)").await.unwrap();
    let pool = migrated(&info).await;
    assert_eq!(kind(&pool).await.as_deref(), Some("r"));
}

#[tokio::test]
async fn a_role_that_may_not_write_into_public_migrates_without_it() {
    let info = support::fresh_database("view").await;
    let mut connection = support::connect(&info).await;
    let role = format!("plain_{}", uuid::Uuid::now_v7().simple());
    let statements = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'plain'; GRANT CREATE ON DATABASE \"{}\" TO {role}; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        info.database
    );
    connection.execute(sqlx::AssertSqlSafe(statements)).await.unwrap();
    let pool = migrated(&info.with_user(role.as_str(), "plain".to_owned().into())).await;
    assert_eq!(kind(&pool).await, None);
    assert_eq!(db::pending(&pool).await.unwrap(), 0);
    pool.close().await;
    connection.execute("DROP SCHEMA public").await.unwrap();
    let pool = migrated(&info.with_user(role.as_str(), "plain".to_owned().into())).await;
    assert_eq!(kind(&pool).await, None);
    pool.close().await;
    let statements = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    connection.execute(sqlx::AssertSqlSafe(statements)).await.unwrap();
    connection.close().await.unwrap();
}
