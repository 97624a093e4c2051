//! Passwords: argon2id, on threads of their own, few at a time, and as long for an unknown user as for a known one.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash};
use tokio::sync::Semaphore;

use crate::config::Secret;

/// 19 MiB, two passes, one lane: the first of the equal settings for argon2id that OWASP's Password Storage Cheat Sheet names.
/// Source: cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hashes that are computed at once. More wait, so that logins cannot take the memory and the processors from the jobs.
const AT_ONCE: usize = 2;

/// Shortest password, in characters. NIST SP 800-63B-4 section 3.1.1.2 asks for 8 beside another factor and 15 alone; throttling
/// makes up for the difference.
pub const MIN_CHARS: usize = 12;

/// Longest password, in bytes: no phrase is longer, and hashing stays short.
pub const MAX_BYTES: usize = 1024;

/// Why a password was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("the password is shorter than {MIN_CHARS} characters")]
    Short,
    #[error("the password is longer than {MAX_BYTES} bytes")]
    Long,
    #[error("passwords cannot be hashed: {0}")]
    Failed(String),
}

/// Hashes and checks passwords.
#[derive(Clone, Debug)]
pub struct Passwords {
    room: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Passwords {
    /// A hash to keep, as a PHC string with a fresh salt.
    pub async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        let length = password.expose(); // only its length is used
        if length.chars().count() < MIN_CHARS {
            return Err(PasswordError::Short);
        }
        if length.len() > MAX_BYTES {
            return Err(PasswordError::Long);
        }
        self.apart(move || {
            let hash = argon2()?.hash_password(password.expose().as_bytes()).map_err(failed)?; // hashed here
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether this is the password of this hash. Without a hash, because there is no such user, it takes as long and is false.
    pub async fn is_right(&self, password: Secret, hash: Option<String>) -> Result<bool, PasswordError> {
        self.apart(move || {
            let given = password.expose().as_bytes(); // compared here
            // Nobody has so long a password; the time must still be the same.
            let (given, is_possible) = if given.len() > MAX_BYTES { (&b""[..], false) } else { (given, true) };
            let (hash, is_user) = match hash.as_deref().map(PasswordHash::new) {
                Some(Ok(hash)) => (hash, true),
                Some(Err(_)) | None => (nobodys()?, false),
            };
            let is_right = argon2()?.verify_password(given, &hash).is_ok();
            Ok(is_right && is_user && is_possible)
        })
        .await
    }

    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(|error| failed(&error))?;
        // The place goes with the work: a client that leaves does not free it early.
        let task = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        task.await.map_err(|error| failed(&error))?
    }
}

fn failed(error: impl std::fmt::Display) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// A hash of the same settings that no password has been found for.
fn nobodys() -> Result<PasswordHash, PasswordError> {
    let text = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$AAAAAAAAAAAAAAAAAAAAAA${}", "A".repeat(43));
    PasswordHash::new(&text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_and_no_other() {
        let passwords = Passwords::default();
        let hash = passwords.hash(Secret::new("correct horse battery")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash(Secret::new("correct horse battery")).await.unwrap(), "the salt is fresh");
        for (password, hash, is_right) in [
            ("correct horse battery", Some(hash.clone()), true),
            ("correct horse batterz", Some(hash.clone()), false),
            ("", Some(hash.clone()), false),
            ("correct horse battery", None, false),
            ("correct horse battery", Some("$2b$12$canary".to_owned()), false),
            (&"x".repeat(MAX_BYTES + 1), Some(hash), false),
        ] {
            assert_eq!(passwords.is_right(Secret::new(password), hash).await.unwrap(), is_right, "{password}");
        }
    }

    #[tokio::test]
    async fn short_and_very_long_passwords_are_not_taken() {
        let passwords = Passwords::default();
        assert!(matches!(passwords.hash(Secret::new("ü".repeat(11))).await, Err(PasswordError::Short)));
        assert!(matches!(passwords.hash(Secret::new("x".repeat(1025))).await, Err(PasswordError::Long)));
        assert!(passwords.hash(Secret::new("ü".repeat(12))).await.is_ok());
    }

    #[test]
    fn an_unknown_user_costs_as_much_as_a_known_one() {
        let hash = nobodys().unwrap();
        let params = Params::try_from(&hash).unwrap();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (MEMORY_KIB, PASSES, LANES));
        assert!(hash.salt.is_some_and(|salt| salt.len() == 16) && hash.hash.is_some_and(|hash| hash.len() == 32));
    }
}
