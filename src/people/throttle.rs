//! How often a login may be tried, by account and by address. The counts are rows, so that they hold for every process together.

use std::net::IpAddr;

use chrono::{DateTime, Duration, Utc};
use sqlx::{PgConnection, PgPool};

use super::PeopleError;

/// How long attempts are counted together. With 10 attempts in it an account can be tried 350,000 times a year, which a password
/// that is not among the most common ones withstands.
const WINDOW: Duration = Duration::minutes(15);

/// Whether a password may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Allowed,
    /// Too many: not before so many seconds have passed.
    Refused {
        retry_after_seconds: i64,
    },
}

/// What an account's attempts are counted under. The database puts it into lower case, as it does with the name when it looks for the user:
/// other ideas of what is lower case would give one account several counts.
fn of_account(name: &str) -> String {
    format!("account {name}")
}

fn of_address(address: IpAddr) -> String {
    // One customer commonly holds a whole /64 of IPv6 addresses.
    match address {
        IpAddr::V4(address) => format!("address {address}"),
        IpAddr::V6(address) => format!("address {:x?}", &address.segments()[..4]),
    }
}

/// Counts an attempt before the password is looked at, so that attempts at the same moment count too. A limit of 0 is none.
pub async fn try_login(
    pool: &PgPool,
    name: &str,
    address: Option<IpAddr>,
    (per_account, per_address): (u32, u32),
    now: DateTime<Utc>,
) -> Result<Attempt, PeopleError> {
    if let Some(address) = address {
        match count(pool, &of_address(address), per_address, now).await? {
            Attempt::Allowed => {}
            refused @ Attempt::Refused { .. } => return Ok(refused),
        }
    }
    count(pool, &of_account(name), per_account, now).await
}

async fn count(pool: &PgPool, whose: &str, limit: u32, now: DateTime<Utc>) -> Result<Attempt, PeopleError> {
    if limit == 0 {
        return Ok(Attempt::Allowed);
    }
    sqlx::query!(
        "DELETE FROM control_plane.login_attempts WHERE key IN (SELECT key FROM control_plane.login_attempts
             WHERE window_ends_at <= $1 LIMIT 100 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(pool)
    .await?;
    let counted = sqlx::query!(
        "INSERT INTO control_plane.login_attempts AS a (key, attempts, window_ends_at)
         VALUES (sha256(convert_to(lower($1::text), 'UTF8')), 1, $2)
         ON CONFLICT (key) DO UPDATE SET
             attempts = CASE WHEN a.window_ends_at <= $3 THEN 1 ELSE least(a.attempts, 1000000) + 1 END,
             window_ends_at = CASE WHEN a.window_ends_at <= $3 THEN $2 ELSE a.window_ends_at END
         RETURNING attempts, window_ends_at",
        whose,
        now + WINDOW,
        now,
    )
    .fetch_one(pool)
    .await?;
    if i64::from(counted.attempts) <= i64::from(limit) {
        return Ok(Attempt::Allowed);
    }
    Ok(Attempt::Refused { retry_after_seconds: (counted.window_ends_at - now).num_seconds().max(1) })
}

/// Forgets the attempts on an account whose password was right. Those of the address stay: it may try other accounts.
pub async fn forget_account(connection: &mut PgConnection, name: &str) -> Result<(), PeopleError> {
    sqlx::query!(
        "DELETE FROM control_plane.login_attempts WHERE key = sha256(convert_to(lower($1::text), 'UTF8'))",
        of_account(name),
    )
    .execute(connection)
    .await?;
    Ok(())
}
