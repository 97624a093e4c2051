//! The token with which the first operator is made: one at a time, for an hour, once.

use chrono::{DateTime, Duration, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{PgConnection, PgPool};

use super::{PeopleError, random_secret, sha256};
use crate::db;

/// How long a token is good.
const GOOD_FOR: Duration = Duration::hours(1);

/// A token as it is told.
#[derive(Debug)]
pub struct SetupToken(SecretString);

impl SetupToken {
    /// For the one line that tells it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Makes a fresh token in the place of all before.
pub async fn put_setup_token(pool: &PgPool, now: DateTime<Utc>) -> Result<SetupToken, PeopleError> {
    let (secret, digest) = random_secret()?;
    let mut transaction = db::begin(pool).await?;
    sqlx::query!("DELETE FROM control_plane.setup_tokens").execute(&mut *transaction).await?;
    sqlx::query!(
        "INSERT INTO control_plane.setup_tokens (token_sha256, expires_at) VALUES ($1, $2)",
        &digest[..],
        now + GOOD_FOR,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(SetupToken(secret))
}

/// Uses a token up. Of two who do it at once, one succeeds.
pub async fn take_setup_token(
    connection: &mut PgConnection,
    token: &str,
    now: DateTime<Utc>,
) -> Result<bool, PeopleError> {
    let taken = sqlx::query!(
        "DELETE FROM control_plane.setup_tokens WHERE token_sha256 = $1 AND expires_at > $2",
        &sha256(token.as_bytes())[..],
        now,
    )
    .execute(connection)
    .await?;
    Ok(taken.rows_affected() == 1)
}
