//! Projects that Holdfast makes itself: the default one, which is the configured database as a whole, and the control plane.

use sqlx::PgPool;

use super::{CatalogError, Project, ProjectScope, project};
use crate::{
    ids::{CONTROL_PLANE_PROJECT, ProjectId},
    tenant::Scope,
};

fn everything() -> Scope {
    Scope::everything("built-in projects are made for whoever may ask for them")
}

/// Tables of the control plane whose rows are secrets, let someone in, or are worth nothing elsewhere. Also those that are not there, or not yet.
const SECRET_TABLES: &[&str] = &[
    "api_keys",
    "channels",
    "databases",
    "idempotency_keys",
    "login_attempts",
    "sessions",
    "setup_tokens",
    "storages",
    "users",
];

/// Names of columns that hold secrets, in a platform's own tables too.
const SECRET_COLUMNS: &str =
    "(sealed|secret|password|passwd|passphrase|private_key|api_key|credential|token_sha256|token_hash)";

/// The tables of the control plane whose rows no backup may have: the listed ones, and every other with a column that is called like a secret.
pub async fn secret_tables(pool: &PgPool) -> Result<Vec<String>, CatalogError> {
    let tables = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'control_plane' AND c.relkind IN ('r', 'p')
           AND (c.relname::text = ANY ($1) OR EXISTS (
               SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname::text ~* $2))
         ORDER BY 1",
    );
    Ok(tables.bind(SECRET_TABLES).bind(SECRET_COLUMNS).fetch_all(pool).await?)
}

/// The default project: made when it is not there, and marked as the one that `public.backups` shows.
///
/// # Errors
/// [`CatalogError::NotWhole`]: a project of this id is there, and is a schema or an organisation's.
pub async fn ensure_default(pool: &PgPool, id: &ProjectId) -> Result<Project, CatalogError> {
    sqlx::query!(
        "INSERT INTO control_plane.projects (id, name, backup_scope) VALUES ($1, 'The whole database', 'database')
         ON CONFLICT (id) DO NOTHING",
        id.as_str(),
    )
    .execute(pool)
    .await?;
    let found = project(pool, &everything(), id.as_str()).await?;
    if found.scope() != ProjectScope::WholeDatabase || found.organization_id.is_some() {
        return Err(CatalogError::NotWhole(found.id));
    }
    sqlx::query!(
        "UPDATE control_plane.projects SET holdfast_default = (id = $1) WHERE holdfast_default IS DISTINCT FROM (id = $1) AND (holdfast_default OR id = $1)",
        id.as_str(),
    )
    .execute(pool)
    .await?;
    Ok(found)
}

/// The control plane as a project.
pub async fn ensure_control_plane(pool: &PgPool) -> Result<Project, CatalogError> {
    sqlx::query!(
        "INSERT INTO control_plane.projects (id, name, backup_scope, schema_name) VALUES ($1, 'The control plane', 'schema', 'control_plane')
         ON CONFLICT (id) DO NOTHING",
        CONTROL_PLANE_PROJECT,
    )
    .execute(pool)
    .await?;
    project(pool, &everything(), CONTROL_PLANE_PROJECT).await
}
