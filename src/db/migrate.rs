//! Brings the control plane to this version's shape. Tables that a platform already has are adopted: first compared, then only
//! added to.

use sqlx::{PgPool, migrate::Migrator};

use super::{adopt, public_view};

/// Why the control plane was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "tables found in control_plane do not fit; nothing was changed. Run these statements, or ask whoever owns the tables:\n  {}",
        .0.join("\n  ")
    )]
    DoesNotFit(Vec<String>),
    #[error("cannot migrate the control plane: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("cannot read the control plane: {0}")]
    Database(#[from] sqlx::Error),
}

/// Our migrations, kept in a table of their own beside a platform's.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.create_schema("control_plane");
    migrator.dangerous_set_table_name("control_plane.holdfast_migrations");
    // An older program beside a newer one must go on working: expand, move, contract.
    migrator.set_ignore_missing(true);
    migrator
}

/// Applies what is missing. Safe to run from several processes at once: sqlx holds an advisory lock meanwhile.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let misfits = adopt::misfits(pool).await?;
    if !misfits.is_empty() {
        return Err(MigrateError::DoesNotFit(misfits));
    }
    migrator().run(pool).await?;
    public_view::create(pool).await?;
    Ok(())
}

/// How many migrations have not been applied.
pub async fn pending(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('control_plane.holdfast_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    let known = migrator().iter().map(|m| m.version).collect::<Vec<_>>();
    if !exists {
        return Ok(known.len());
    }
    let applied: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.holdfast_migrations WHERE success AND version = ANY($1)",
    )
    .bind(&known)
    .fetch_one(pool)
    .await?;
    Ok(known.len().saturating_sub(applied as usize))
}
