//! People and programs that call: local users and what they reach, their sessions, API keys, and how often a login may be tried.
//!
//! What always holds: a row of `users` that we did not enrol is nobody; a session or a key is looked at, with its user, on every call,
//! so that what ends ends at once; secrets are kept as hashes and leave this room in no answer.

mod keys;
mod passwords;
mod sessions;
mod setup;
mod throttle;
mod users;

pub use self::{
    keys::{
        ApiKey, KeyRights, KeyToken, NewKey, find_key, insert_key, keys, refuse_too_many_keys, revoke_key, touch_key,
    },
    passwords::{OwnPassword, change_own_password, own_password},
    sessions::{delete_session, delete_sessions_of, insert_session, session_user},
    setup::{SetupToken, put_setup_token, take_setup_token},
    throttle::{Attempt, forget_account, try_login},
    users::{
        Changes, NewUser, User, change_user, delete_user, has_operator, insert_user, login_user, user, user_by_name,
        users,
    },
};

/// Why something about people could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("there is a user {0:?} already")]
    NameTaken(String),
    #[error("{0}")]
    Invalid(String),
    #[error("without this user there is no operator who can log in")]
    LastOperator,
    #[error("there are {0} keys of this maker already, and no more are allowed")]
    TooManyKeys(i64),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}

impl PeopleError {
    /// A stable word for answers, exit codes and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "people.not_found",
            Self::NameTaken(_) => "user.exists",
            Self::Invalid(_) => "user.invalid",
            Self::LastOperator => "user.last_operator",
            Self::TooManyKeys(_) => "key.too_many",
            Self::Database(_) => "control_plane.unavailable",
        }
    }
}

/// A random secret of 256 bits as 64 hexadecimal digits, and its SHA-256.
fn random_secret() -> Result<(secrecy::SecretString, [u8; 32]), PeopleError> {
    use rand::{TryRng, rngs::SysRng};
    let mut bytes = [0u8; 32];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| PeopleError::Invalid(format!("the system gives no random numbers ({error})")))?;
    let mut text = String::with_capacity(64);
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    let digest = sha256(text.as_bytes());
    Ok((text.into(), digest))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}
