//! Whether a restore can be one transaction. A transaction holds a lock on every table, index and sequence that it makes, and the server
//! keeps all locks in one table of a fixed size.

use sqlx::PgConnection;

use crate::{manifest::DatabaseContent, postgres::locks::LockTable};

/// How a dump comes to its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The dump is loaded in one transaction, unseen, and takes its place in another: whoever reads sees the old state until then.
    OneTransaction,
    /// The live schema is renamed away first and the dump loaded statement by statement: meanwhile the tenant is unavailable.
    Aside { because: String },
}

impl Way {
    /// For a job's progress and result.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::OneTransaction => "one transaction",
            Self::Aside { .. } => "renamed aside",
        }
    }

    /// Why not in one transaction.
    pub fn because(&self) -> Option<&str> {
        match self {
            Self::OneTransaction => None,
            Self::Aside { because } => Some(because),
        }
    }
}

/// Chooses by counting: what the backup needs against what the lock table has.
pub(super) async fn choose(
    c: &mut PgConnection,
    content: &DatabaseContent,
    live_oid: Option<u32>,
) -> Result<Way, sqlx::Error> {
    let table = LockTable::look(c).await?;
    let has_plpgsql: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql')")
            .fetch_one(&mut *c)
            .await?;
    // With their indexes, TOAST tables and the indexes of those: as they are now, which the backup may resemble.
    let live: i64 = sqlx::query_scalar(
        "SELECT count(*) + 2 * count(*) FILTER (WHERE reltoastrelid <> 0) FROM pg_catalog.pg_class WHERE relnamespace = $1::int8::oid",
    )
    .bind(live_oid.map_or(0, i64::from))
    .fetch_one(c)
    .await?;
    if !has_plpgsql {
        return Ok(Way::Aside { because: "the database has no language plpgsql".to_owned() });
    }
    Ok(decide(live.max(recorded(content)), table))
}

/// Locks that the backup's objects need, as far as the manifest tells: it names no indexes, so a table counts for three.
fn recorded(content: &DatabaseContent) -> i64 {
    let named = content.ownership.len().max(content.tables.len() + content.sequences.len());
    i64::try_from(named).unwrap_or(i64::MAX).saturating_add_unsigned(content.table_count.saturating_mul(2))
}

/// Pure: a third of the room is left to everybody else.
fn decide(needed: i64, table: LockTable) -> Way {
    let free = table.free();
    if needed <= free / 3 * 2 {
        return Way::OneTransaction;
    }
    Way::Aside {
        because: format!(
            "about {needed} locks are needed at once, and the server's lock table has room for {free}: raise max_locks_per_transaction"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_lock_table_is_left_to_others() {
        let room = LockTable { size: 6400, taken: 100 };
        assert_eq!(decide(0, room), Way::OneTransaction);
        assert_eq!(decide(4200, room), Way::OneTransaction);
        let aside = decide(4201, room);
        assert!(aside.because().unwrap().contains("4201") && aside.because().unwrap().contains("6300"), "{aside:?}");
        assert!(matches!(decide(1, LockTable { size: 64, taken: 500 }), Way::Aside { .. }));
    }
}
