//! How much room a server's lock table has. All sessions share it, and its size is fixed when the server starts.

use sqlx::PgConnection;

/// Most locks that one transaction of ours takes where work can be cut into parts.
const MOST: i64 = 500;
/// What one of them takes at least, however small the table is: a table with some indexes.
const LEAST: i64 = 20;

/// A lock table by its numbers of locks.
#[derive(Clone, Copy, Debug)]
pub struct LockTable {
    pub size: i64,
    pub taken: i64,
}

impl LockTable {
    /// Each lock of a table beyond the first few of a session is in the shared table, which has `max_locks_per_transaction` for every
    /// session and prepared transaction. Source: postgresql.org/docs/current/runtime-config-locks.html.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn look(c: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let (size, taken) = sqlx::query_as(
            "SELECT current_setting('max_locks_per_transaction')::int8 \
                    * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8), \
                    (SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT fastpath)",
        )
        .fetch_one(c)
        .await?;
        Ok(Self { size, taken })
    }

    pub fn free(self) -> i64 {
        (self.size - self.taken).max(0)
    }

    /// About how many locks one of several transactions should take: most of what is free is left to everybody else.
    pub fn part(self) -> i64 {
        (self.free() / 3).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_a_small_table_has_room_for() {
        let part = |size, taken| LockTable { size, taken }.part();
        assert_eq!(part(6400, 100), 500);
        assert_eq!(part(200, 20), 60);
        assert_eq!((part(64, 500), part(30, 0)), (20, 20));
    }
}
