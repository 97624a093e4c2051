//! What storages remember, in the control plane: facts in `storage_ledger`, locks as advisory locks of a session of their own.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::storage::{
    Error, ErrorKind,
    ledger::{Entry, Held, HeldGuard, Ledger},
};

/// How long another process's lock is waited for. Nobody can cancel that wait, so it is short; the job comes back.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// The SQLSTATE of a lock that was not to be had in time. Source: PostgreSQL's appendix A, `lock_not_available`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A ledger that every process with the same control plane shares.
#[derive(Clone, Debug)]
pub struct PgLedger {
    pool: PgPool,
    lock_timeout: Duration,
}

impl PgLedger {
    pub fn new(pool: PgPool) -> Self {
        Self { pool, lock_timeout: LOCK_TIMEOUT }
    }

    /// The same with another limit to the wait for a lock; a part of a millisecond counts as one.
    #[must_use]
    pub fn with_lock_timeout(self, lock_timeout: Duration) -> Self {
        Self { lock_timeout, ..self }
    }
}

fn failed(context: &str, error: sqlx::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{context} in the control plane")).with_source(error)
}

/// The lock ends with this session.
struct SessionLock {
    connection: PgConnection,
}

#[async_trait]
impl HeldGuard for SessionLock {
    async fn check(&mut self) -> Result<(), Error> {
        self.connection.ping().await.map_err(|error| failed("cannot keep a storage's lock", error))
    }
}

#[async_trait]
impl Ledger for PgLedger {
    /// [`ErrorKind::Unavailable`] when another process holds it for too long.
    async fn hold(&self, name: &str) -> Result<Held, Error> {
        let context = "cannot take a storage's lock";
        // Not given back to the pool: closing the session is what frees the lock.
        let mut connection = self.pool.acquire().await.map_err(|error| failed(context, error))?.detach();
        // Zero would mean no limit.
        let limit = self.lock_timeout.as_micros().div_ceil(1000).max(1);
        sqlx::raw_sql(AssertSqlSafe(format!("SET lock_timeout = {limit}")))
            .execute(&mut connection)
            .await
            .map_err(|error| failed(context, error))?;
        sqlx::query!("SELECT pg_advisory_lock(hashtextextended('holdfast storage ' || $1, 0))", name)
            .execute(&mut connection)
            .await
            .map_err(|error| match error.as_database_error().and_then(|error| error.code()) {
                Some(code) if code == LOCK_NOT_AVAILABLE => {
                    Error::new(ErrorKind::Unavailable, context).with_source("another process writes to this storage")
                }
                _ => failed(context, error),
            })?;
        Ok(Held::new(SessionLock { connection }))
    }

    async fn put(&self, storage: &str, key: &str, value: Value) -> Result<(), Error> {
        sqlx::query!(
            "INSERT INTO control_plane.storage_ledger (storage, key, value) VALUES ($1, $2, $3)
             ON CONFLICT (storage, key) DO UPDATE SET value = excluded.value, written_at = now()",
            storage,
            key,
            value,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| failed("cannot remember what a storage needs", error))?;
        Ok(())
    }

    async fn remove(&self, storage: &str, key: &str) -> Result<(), Error> {
        sqlx::query!("DELETE FROM control_plane.storage_ledger WHERE storage = $1 AND key = $2", storage, key)
            .execute(&self.pool)
            .await
            .map_err(|error| failed("cannot forget what a storage needed", error))?;
        Ok(())
    }

    async fn list(&self, storage: &str, prefix: &str) -> Result<Vec<Entry>, Error> {
        let rows = sqlx::query!(
            "SELECT key, value, written_at FROM control_plane.storage_ledger
             WHERE storage = $1 AND starts_with(key, $2) ORDER BY key",
            storage,
            prefix,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| failed("cannot look up what a storage needs", error))?;
        Ok(rows
            .into_iter()
            .map(|row| Entry { key: row.key, value: row.value, written_at: SystemTime::from(row.written_at) })
            .collect())
    }
}
