//! Emptying a schema in several transactions, where one would need more locks than one should.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{RestoreError, in_place::LOCK_TIMEOUT, role::execute};
use crate::postgres::locks::LockTable;

/// Empties a schema that nobody uses, unless one transaction that drops it will do. Safe to repeat.
pub(super) async fn drop_in_parts(c: &mut PgConnection, schema_oid: u32) -> Result<(), RestoreError> {
    loop {
        let part = LockTable::look(c).await?.part();
        let drops: Vec<String> = sqlx::query_scalar(include_str!("parts.sql"))
            .bind(i64::from(schema_oid))
            .bind(part)
            .fetch_all(&mut *c)
            .await?;
        if drops.is_empty() {
            return Ok(());
        }
        let mut tx = c.begin().await?;
        execute(&mut tx, LOCK_TIMEOUT.to_owned()).await?;
        sqlx::raw_sql(AssertSqlSafe(drops.join(";"))).execute(&mut *tx).await?;
        tx.commit().await?;
    }
}
