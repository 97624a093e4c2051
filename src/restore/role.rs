//! The login role made for one restore. A tenant's dump is hostile code, so whoever runs it owns the new schema and nothing else.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::RngExt as _;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::RestoreError;
use crate::postgres::quote::{ident, literal};

/// Rounds of PBKDF2, the server's own default. Source: `SCRAM_SHA_256_DEFAULT_ITERATIONS`, src/include/common/scram-common.h.
const ITERATIONS: u32 = 4096;

/// A password that nobody types: 32 random bytes.
pub(super) fn random_password() -> SecretString {
    SecretString::from(random_word())
}

/// 64 hexadecimal digits that nobody can guess.
pub(super) fn random_word() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// What the server keeps instead of the password, made here so that the password itself is in no statement and no server log.
/// Source: RFC 5803; `scram_build_secret`, src/common/scram-common.c. The password is ASCII, so SASLprep leaves it as it is.
fn scram_verifier(password: &SecretString, salt: &[u8]) -> String {
    let password = password.expose_secret().as_bytes();
    let mut block = hmac(password, &[salt, &1u32.to_be_bytes()]);
    let mut salted = block;
    for _ in 1..ITERATIONS {
        block = hmac(password, &[&block]);
        for (sum, byte) in salted.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
    let stored_key = Sha256::digest(hmac(&salted, &[b"Client Key"]));
    let server_key = hmac(&salted, &[b"Server Key"]);
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${ITERATIONS}:{}${}:{}", encode(salt), encode(&stored_key), encode(&server_key))
}

/// HMAC-SHA-256 (RFC 2104) over the parts in order.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut padded = [0u8; 64];
    match key.len() {
        0..=64 => padded[..key.len()].copy_from_slice(key),
        _ => padded[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let mut inner = Sha256::new_with_prefix(padded.map(|b| b ^ 0x36));
    parts.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(padded.map(|b| b ^ 0x5c)).chain_update(inner.finalize()).finalize().into()
}

/// Makes the role: it may log in, owns nothing, is a member of nothing. (As the owner of a new database it counts as a member of
/// `pg_database_owner`, to whom the schema `public` belongs: PostgreSQL 15 lets only a role with INHERIT have the use of that.)
/// `lifetime_seconds` limits for how long its password opens
/// a new session.
pub(super) async fn create(
    c: &mut PgConnection,
    role: &str,
    password: &SecretString,
    lifetime_seconds: u64,
) -> Result<(), RestoreError> {
    let salt: [u8; 16] = rand::rng().random();
    let verifier = scram_verifier(password, &salt);
    let until: String = sqlx::query_scalar("SELECT (now() + make_interval(secs => $1))::text")
        .bind(lifetime_seconds as f64)
        .fetch_one(&mut *c)
        .await?;
    execute(
        c,
        format!(
            "CREATE ROLE {} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 3 \
             PASSWORD {} VALID UNTIL {}",
            ident(role),
            literal(&verifier),
            literal(&until),
        ),
    )
    .await?;
    let (superuser, version): (bool, i32) = sqlx::query_as(
        "SELECT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), current_setting('server_version_num')::int4",
    )
    .fetch_one(&mut *c)
    .await?;
    if !superuser {
        // Without this a restore administrator could neither give the role a schema nor take it back. Since PostgreSQL 16 the maker
        // has the admin option, and must ask for the rest.
        let options = if version >= 160_000 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
        execute(c, format!("GRANT {} TO CURRENT_USER{options}", ident(role))).await?;
    }
    Ok(())
}

/// Lets the role into the connection's database, in which it restores, where not everybody may come in.
pub(super) async fn let_in(c: &mut PgConnection, role: &str) -> Result<(), RestoreError> {
    let (may_connect, database): (bool, String) = sqlx::query_as(
        "SELECT has_database_privilege($1::name, current_database(), 'CONNECT'), current_database()::text",
    )
    .bind(role)
    .fetch_one(&mut *c)
    .await?;
    if may_connect {
        return Ok(());
    }
    execute(c, format!("GRANT CONNECT ON DATABASE {} TO {}", ident(&database), ident(role))).await
}

/// The role's oid, while it exists.
pub(super) async fn oid(c: &mut PgConnection, role: &str) -> Result<Option<u32>, RestoreError> {
    let oid: Option<i64> = sqlx::query_scalar("SELECT oid::int8 FROM pg_catalog.pg_roles WHERE rolname = $1")
        .bind(role)
        .fetch_optional(c)
        .await?;
    Ok(oid.and_then(|oid| u32::try_from(oid).ok()))
}

/// Shuts the role out: no new session, and none of its old ones runs when this returns. Safe to repeat.
pub(super) async fn disable(c: &mut PgConnection, role: &str) -> Result<(), RestoreError> {
    execute(c, format!("ALTER ROLE {} NOLOGIN", ident(role))).await?;
    end_sessions(c, "usename = $1", role).await?;
    roll_back_prepared(c, role).await
}

/// Ends everybody's sessions for which this condition on `pg_stat_activity` holds, with `name` as `$1`. None of them runs when this returns.
pub(super) async fn end_sessions(c: &mut PgConnection, which: &str, name: &str) -> Result<(), RestoreError> {
    let count = async |c: &mut PgConnection, what: &str| -> Result<i64, sqlx::Error> {
        let statement = format!("SELECT count(*) {what} FROM pg_catalog.pg_stat_activity WHERE {which}");
        sqlx::query_scalar(AssertSqlSafe(statement)).bind(name).fetch_one(c).await
    };
    // Ten rounds of up to five seconds each: a backend ends at its next check for interrupts.
    for _ in 0..10 {
        let left = count(&mut *c, "FILTER (WHERE NOT pg_terminate_backend(pid, 5000))").await?;
        if left == 0 && count(&mut *c, "").await? == 0 {
            return Ok(());
        }
    }
    Err(RestoreError::passing("restore.session_remains", format!("a session of {name:?} does not end")))
}

/// A transaction that a dump has prepared outlives its session, with its locks, and ends only in its own database: the connection's.
pub(super) async fn roll_back_prepared(c: &mut PgConnection, role: &str) -> Result<(), RestoreError> {
    roll_back_prepared_by(c, Some(role)).await
}

/// The same of whoever has prepared it, in a database that was made for the dump; or of this role.
pub(super) async fn roll_back_prepared_by(c: &mut PgConnection, role: Option<&str>) -> Result<(), RestoreError> {
    let prepared: Vec<(String, String)> = sqlx::query_as(
        "SELECT gid, owner::text FROM pg_catalog.pg_prepared_xacts \
         WHERE ($1::text IS NULL OR owner = $1) AND database = current_database()",
    )
    .bind(role)
    .fetch_all(&mut *c)
    .await?;
    for (gid, owner) in prepared {
        // Whoever is no superuser has to be the one who prepared it. Source: `LockGXact` in twophase.c.
        execute(c, format!("SET ROLE {}", ident(&owner))).await?;
        let ended = execute(c, format!("ROLLBACK PREPARED {}", literal(&gid))).await;
        execute(c, "RESET ROLE".to_owned()).await?;
        ended?;
    }
    Ok(())
}

/// Drops the role with the privileges that were given to it and whatever it still owns in this database; refused when others' objects
/// depend on those. Safe to repeat.
pub(super) async fn drop(c: &mut PgConnection, role: &str) -> Result<(), RestoreError> {
    if oid(c, role).await?.is_none() {
        return Ok(());
    }
    let mut tx = c.begin().await?;
    execute(&mut tx, format!("DROP OWNED BY {} RESTRICT", ident(role))).await?;
    execute(&mut tx, format!("DROP ROLE {}", ident(role))).await?;
    tx.commit().await?;
    Ok(())
}

/// Runs a statement that was put together here from quoted names.
pub(super) async fn execute(c: &mut PgConnection, statement: String) -> Result<(), RestoreError> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(c).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_the_published_vectors() {
        // RFC 4231, test cases 2 and 6.
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"])),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
