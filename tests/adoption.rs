//! Migrations on what a platform already has: its tables are adopted or refused with the statements that mend them, never changed
//! behind its back.

use crate::support;

use holdfast::{
    catalog,
    config::DatabaseConfig,
    db::{self, MigrateError},
    tenant::Scope,
};
use sqlx::{Executor, PgPool};

async fn empty() -> PgPool {
    let info = support::fresh_database("adopt").await;
    db::connect(&info, &DatabaseConfig::default()).await.unwrap()
}

async fn columns(pool: &PgPool, table: &str) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname",
    )
    .bind(table)
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn an_empty_database_is_migrated_once_and_a_second_time_changes_nothing() {
    let pool = empty().await;
    assert!(db::pending(&pool).await.unwrap() > 0);
    db::migrate(&pool).await.unwrap();
    assert_eq!(db::pending(&pool).await.unwrap(), 0);
    let before = columns(&pool, "control_plane.backups").await;
    db::migrate(&pool).await.unwrap();
    assert_eq!(columns(&pool, "control_plane.backups").await, before);
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let pool = empty().await;
    let (a, b, c) = tokio::join!(db::migrate(&pool), db::migrate(&pool), db::migrate(&pool));
    a.unwrap();
    b.unwrap();
    c.unwrap();
}

#[tokio::test]
async fn a_platforms_own_tables_are_adopted_with_their_rows() {
    let pool = empty().await;
    pool.execute(
        "CREATE SCHEMA control_plane;
         CREATE TABLE control_plane.projects (id varchar(40) PRIMARY KEY, name varchar(100) NOT NULL, slug text UNIQUE NOT NULL,
             status varchar(20) NOT NULL DEFAULT 'ACTIVE', plan text DEFAULT 'free', created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO control_plane.projects (id, name, slug) VALUES ('p1', 'Acme', 'acme'), ('p2', 'Old', 'old');
         UPDATE control_plane.projects SET status = 'SUSPENDED' WHERE id = 'p2';
         CREATE TABLE control_plane.backups (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id text NOT NULL, type text NOT NULL,
             file_id text NOT NULL, size bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL);
         INSERT INTO control_plane.backups (project_id, type, file_id, size, expires_at)
             VALUES ('p1', 'database', 'BQACAgQ', 1234, now() + interval '3 days');
         CREATE TABLE control_plane.jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), type text NOT NULL, status text NOT NULL,
             project_id text, payload jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT now(),
             updated_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO control_plane.jobs (type, status) VALUES ('send_newsletter', 'pending');
         CREATE TABLE control_plane.project_logs (id bigserial PRIMARY KEY, project_id text, level text NOT NULL, message text NOT NULL,
             metadata jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO control_plane.project_logs (project_id, level, message) VALUES ('p1', 'info', 'hello');",
    )
    .await
    .unwrap();
    db::migrate(&pool).await.unwrap();
    let scope = Scope::everything("a test looks at all");
    let acme = catalog::project(&pool, &scope, "p1").await.unwrap();
    assert_eq!(acme.scope(), catalog::ProjectScope::Schema("tenant_acme".to_owned()));
    assert!(catalog::project(&pool, &scope, "p2").await.unwrap().require_active().is_err());
    let filter = holdfast::history::BackupFilter { limit: 10, ..Default::default() };
    let backups = holdfast::history::list(&pool, &scope, &filter).await.unwrap();
    assert_eq!((backups.len(), backups[0].size, backups[0].status.as_str()), (1, 1234, "completed"));
    let (plan, logs): (String, i64) =
        sqlx::query_as("SELECT (SELECT plan FROM control_plane.projects WHERE id = 'p1'), (SELECT count(*) FROM control_plane.project_logs)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((plan.as_str(), logs), ("free", 1));
}

#[tokio::test]
async fn tables_that_do_not_fit_are_refused_with_the_statements_that_mend_them() {
    let pool = empty().await;
    pool.execute(
        "CREATE SCHEMA control_plane;
         CREATE TABLE control_plane.projects (id text PRIMARY KEY, owner_email text NOT NULL, created_at timestamp NOT NULL DEFAULT now());
         CREATE TABLE control_plane.backups (id uuid PRIMARY KEY, project_id text NOT NULL, type text NOT NULL, size integer NOT NULL,
             created_at timestamptz);
         CREATE TABLE control_plane.jobs (id uuid PRIMARY KEY, type text NOT NULL, payload json NOT NULL,
             status text NOT NULL CHECK (status IN ('pending', 'running', 'done')));",
    )
    .await
    .unwrap();
    let before = [columns(&pool, "control_plane.projects").await, columns(&pool, "control_plane.jobs").await];
    let Err(MigrateError::DoesNotFit(statements)) = db::migrate(&pool).await else { panic!("not refused") };
    assert_eq!(
        [columns(&pool, "control_plane.projects").await, columns(&pool, "control_plane.jobs").await],
        before,
        "nothing was changed"
    );
    // The statements are meant to be run: run them, and the migration goes through.
    for statement in &statements {
        pool.execute(sqlx::AssertSqlSafe(statement.clone()))
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    db::migrate(&pool).await.unwrap();
    assert!(statements.iter().any(|s| s.contains("created_at AT TIME ZONE 'UTC'")), "{statements:#?}");
}

#[tokio::test]
async fn a_platforms_own_users_keep_their_rows_and_are_nobody_here() {
    let pool = empty().await;
    pool.execute(
        "CREATE SCHEMA control_plane;
         CREATE TABLE control_plane.users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(80) NOT NULL, email text UNIQUE,
             role varchar(20) NOT NULL DEFAULT 'member', password_hash text, created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO control_plane.users (name, email, role, password_hash) VALUES ('root', 'root@example.com', 'operator', 'x'),
             ('root', 'other@example.com', 'operator', 'y');",
    )
    .await
    .unwrap();
    db::migrate(&pool).await.unwrap();
    let scope = Scope::everything("a test looks at all");
    assert!(!holdfast::people::has_operator(&pool).await.unwrap());
    assert!(holdfast::people::users(&pool, &scope, None, 10).await.unwrap().is_empty());
    assert!(holdfast::people::login_user(&pool, "root").await.unwrap().is_none());
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.users").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, 2);

    let pool = empty().await;
    pool.execute(
        "CREATE SCHEMA control_plane;
         CREATE TABLE control_plane.users (id uuid PRIMARY KEY, name text, tenant text NOT NULL,
             role text NOT NULL CHECK (role IN ('admin', 'editor')));
         CREATE TABLE control_plane.api_keys (id uuid PRIMARY KEY, permissions jsonb);",
    )
    .await
    .unwrap();
    let Err(MigrateError::DoesNotFit(statements)) = db::migrate(&pool).await else { panic!("not refused") };
    for expected in
        ["ALTER COLUMN \"tenant\" DROP NOT NULL", "users_role_check", "api_keys ALTER COLUMN permissions TYPE text[]"]
    {
        let shown = statements.join("\n").replace("COLUMN tenant", "COLUMN \"tenant\"");
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[tokio::test]
async fn a_platforms_own_schedules_storages_and_channels_are_told_with_what_mends_them() {
    let pool = empty().await;
    pool.execute(
        "CREATE SCHEMA control_plane;
         CREATE TABLE control_plane.schedules (id uuid PRIMARY KEY, project_id text NOT NULL, frequency text NOT NULL,
             type text NOT NULL DEFAULT 'report' CHECK (type IN ('report')), cron text, name text, zone text);
         INSERT INTO control_plane.schedules (id, project_id, frequency, cron) VALUES (gen_random_uuid(), 'p1', 'daily', '0 2 * * *');
         CREATE TABLE control_plane.storages (id serial PRIMARY KEY, name text NOT NULL, bucket text NOT NULL);
         INSERT INTO control_plane.storages (name, bucket) VALUES ('main', 'b');
         CREATE TABLE control_plane.channels (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text);
         INSERT INTO control_plane.channels (title) VALUES ('general');",
    )
    .await
    .unwrap();
    let Err(MigrateError::DoesNotFit(statements)) = db::migrate(&pool).await else { panic!("not refused") };
    let shown = statements.join("\n");
    for expected in [
        "schedules ALTER COLUMN project_id DROP NOT NULL",
        "schedules ALTER COLUMN frequency DROP NOT NULL",
        "schedules_type_check",
        "storages RENAME TO platform_storages; -- it is another program's: it has no kind, settings_sealed",
        "channels RENAME TO platform_channels; -- it is another program's: it has no name, kind, settings_sealed",
    ] {
        assert!(shown.replace('"', "").contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains("bucket"), "{shown}");
    for statement in statements {
        pool.execute(sqlx::AssertSqlSafe(statement.clone()))
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    db::migrate(&pool).await.unwrap();
    let (ours, rows): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM control_plane.schedules WHERE holdfast), (SELECT count(*) FROM control_plane.platform_storages)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((ours, rows), (0, 1));
    // A row as our own schedule's is.
    pool.execute("INSERT INTO control_plane.schedules (id, name, type, cron, zone, holdfast) VALUES (gen_random_uuid(), 'x', 'database', '0 2 * * *', 'UTC', true)")
        .await
        .unwrap();
}
