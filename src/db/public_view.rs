//! The view `public.backups`: the default project's backups in the columns of platforms with a single database.
//!
//! It is made once, where nothing of that name is. Its rows come from a function whose body is a text, so that a dump of `public` can be restored
//! where there is no control plane; whoever reads it needs the right to read the control plane.

use sqlx::PgPool;

const FUNCTION: &str = "CREATE FUNCTION public.holdfast_backups()
    RETURNS TABLE (id integer, file_name text, s3_url text, s3_region text, s3_bucket text, file_size bigint, backup_type text, status text,
                   message text, created_by text, created_at timestamptz)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
        SELECT b.number, b.file_name, b.s3_url, b.s3_region, b.s3_bucket, b.size, b.backup_type, b.status, b.message, b.created_by, b.created_at
        FROM control_plane.backups b JOIN control_plane.projects p ON p.id = b.project_id
        WHERE p.holdfast_default AND b.type = 'database' AND b.status <> 'deleted'
    $$";

const VIEW: &str = "CREATE VIEW public.backups AS
    SELECT id, file_name, s3_url, s3_region, s3_bucket, file_size, backup_type, status, message, created_by, created_at
    FROM public.holdfast_backups()";

/// Makes the view, unless something has its name or this role may not write into `public`.
pub(super) async fn create(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = super::begin(pool).await?;
    // Several processes may migrate at once.
    sqlx::raw_sql("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('holdfast.public_view'))")
        .execute(&mut *transaction)
        .await?;
    let (is_free, may_create): (bool, Option<bool>) = sqlx::query_as(
        "SELECT to_regclass('public.backups') IS NULL AND to_regprocedure('public.holdfast_backups()') IS NULL,
                (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'public')",
    )
    .fetch_one(&mut *transaction)
    .await?;
    match (is_free, may_create) {
        (true, Some(true)) => {
            sqlx::raw_sql(FUNCTION).execute(&mut *transaction).await?;
            sqlx::raw_sql(VIEW).execute(&mut *transaction).await?;
            transaction.commit().await
        }
        (true, Some(false) | None) => {
            tracing::info!("the view public.backups was not made: this role may not create in the schema public");
            transaction.rollback().await
        }
        (false, _) => transaction.rollback().await,
    }
}
