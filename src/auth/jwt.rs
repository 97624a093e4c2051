//! JSON Web Tokens, signed with HS256.
//!
//! What always holds: the algorithm comes from the [`Verifier`], never from the token; `exp`, `iat`, `sub`, `aud` and `iss` are
//! there and have their types; what is wrong with a claim is told only to those who hold a token that we signed.
//!
//! A [`Verifier`] holds one key and the list of algorithms that go with it. Public keys and key sets belong there.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use crate::{
    clock::{Clock, Timestamp},
    config::{AuthConfig, Secret},
    ids::ProjectId,
    tenant::{Caller, Permission, Role},
};

/// Smallest signing secret, in bytes: the size of HS256's output, as RFC 7518 section 3.2 requires.
pub const MIN_SECRET_BYTES: usize = 32;

/// Longest token that is looked at, in bytes. Servers and proxies commonly allow 8 KiB for all headers together.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Longest subject, in characters: RFC 7519 sets no limit, OpenID Connect Core section 2 says 255.
pub const MAX_SUBJECT_CHARS: usize = 255;

/// Longest life of a token that we sign.
pub const MAX_TTL: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Why a token was refused, or could not be signed. Never repeats the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("the signing secret has {0} bytes: use {MIN_SECRET_BYTES} or more")]
    ShortSecret(usize),
    /// Not a token, not signed by us, or not with the algorithm we use: outsiders learn no more.
    #[error("the token is not valid")]
    Invalid,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet: its {0} lies in the future")]
    NotYet(&'static str),
    #[error("the token's {name} {problem}")]
    Claim { name: &'static str, problem: &'static str },
    #[error("the token cannot be signed: {0}")]
    Sign(String),
}

impl AuthError {
    /// A stable word for answers and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ShortSecret(_) | Self::Sign(_) => "auth.signing",
            Self::Expired => "auth.token_expired",
            Self::Invalid | Self::NotYet(_) | Self::Claim { .. } => "auth.token_invalid",
        }
    }
}

/// What a token says of its holder, beside the times, issuer and audience that [`issue`] adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub subject: String,
    pub permissions: Vec<Permission>,
    pub project_ids: Vec<ProjectId>,
    pub organization_id: Option<String>,
    pub role: Role,
}

/// Signs a token that is valid from `now` for `ttl`. Only what [`Verifier::verify`] would take is signed.
pub fn issue(
    secret: &Secret,
    config: &AuthConfig,
    claims: &Claims,
    now: Timestamp,
    ttl: Duration,
) -> Result<String, AuthError> {
    let bytes = long_enough(secret)?;
    check_subject(&claims.subject)?;
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(AuthError::Claim { name: "exp", problem: "must lie within ten years from now" });
    }
    let issued_at = now.timestamp();
    let scope: Vec<&str> = claims.permissions.iter().map(|permission| permission.as_str()).collect();
    let mut body = serde_json::json!({
        "iss": config.issuer,
        "aud": config.audience,
        "sub": claims.subject,
        "iat": issued_at,
        "exp": issued_at.saturating_add_unsigned(ttl.as_secs().max(1)),
        "scope": scope.join(" "),
        "project_ids": claims.project_ids,
        "role": claims.role,
    });
    if let Some(organization) = &claims.organization_id {
        body["org_id"] = Value::String(organization.clone());
    }
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &body, &EncodingKey::from_secret(bytes))
        .map_err(|error| AuthError::Sign(error.to_string()))
}

/// The secret's bytes, for signing and checking signatures alone.
fn long_enough(secret: &Secret) -> Result<&[u8], AuthError> {
    let bytes = secret.expose().as_bytes(); // the key of the HMAC
    if bytes.len() < MIN_SECRET_BYTES { Err(AuthError::ShortSecret(bytes.len())) } else { Ok(bytes) }
}

/// Turns tokens into callers.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    leeway_seconds: i64,
    clock: Clock,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Checks signatures with `secret`, and times with `clock`.
    pub fn new(secret: &Secret, config: &AuthConfig, clock: Clock) -> Result<Self, AuthError> {
        let key = DecodingKey::from_secret(long_enough(secret)?);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "sub", "aud", "iss"]);
        validation.set_audience(&[&config.audience]);
        validation.set_issuer(&[&config.issuer]);
        // The library reads the machine's clock; times are compared below, with ours.
        validation.validate_exp = false;
        let leeway_seconds = i64::try_from(config.leeway_seconds.min(300)).unwrap_or(300);
        Ok(Self { key, validation, leeway_seconds, clock })
    }

    /// The caller that this token speaks for, without an address. Unknown scopes are left out, since tokens may carry those of
    /// other services; an unknown role is refused, since no smaller one can be guessed.
    pub fn verify(&self, token: &str) -> Result<Caller, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        let token =
            jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.validation).map_err(|e| refusal(&e))?;
        // RFC 7515 section 4.1.11: extensions that are marked critical and not understood must be refused; we know none.
        if token.header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        let claims = token.claims;
        let now = self.clock.now().timestamp();
        if time(&claims, "exp")?.ok_or(missing("exp"))? <= now.saturating_sub(self.leeway_seconds) {
            return Err(AuthError::Expired);
        }
        let begins_at = now.saturating_add(self.leeway_seconds);
        if time(&claims, "iat")?.ok_or(missing("iat"))? > begins_at {
            return Err(AuthError::NotYet("iat"));
        }
        if time(&claims, "nbf")?.is_some_and(|not_before| not_before > begins_at) {
            return Err(AuthError::NotYet("nbf"));
        }
        // The library takes a list of issuers as well, which RFC 7519 does not know.
        text(&claims, "iss")?.ok_or(missing("iss"))?;
        let subject = text(&claims, "sub")?.ok_or(missing("sub"))?;
        check_subject(subject)?;
        let scope = text(&claims, "scope")?.unwrap_or_default();
        let role = match text(&claims, "role")? {
            Some(word) => word.parse().map_err(|_| AuthError::Claim { name: "role", problem: "is unknown" })?,
            None => Role::Member,
        };
        let organization_id = text(&claims, "org_id")?;
        if organization_id.is_some_and(|id| id.is_empty() || id.len() > 255 || id.chars().any(char::is_control)) {
            return Err(AuthError::Claim { name: "org_id", problem: "is empty, too long or has control characters" });
        }
        Ok(Caller {
            subject: subject.to_owned(),
            role,
            permissions: Permission::ALL
                .iter()
                .copied()
                .filter(|permission| scope.split(' ').any(|word| word == permission.as_str()))
                .collect(),
            project_ids: projects(&claims)?,
            organization_id: organization_id.map(str::to_owned),
            address: None,
        })
    }
}

const fn missing(name: &'static str) -> AuthError {
    AuthError::Claim { name, problem: "is missing" }
}

/// What may be said of the library's errors. Claims are looked at only after the signature, so those can be named.
fn refusal(error: &jsonwebtoken::errors::Error) -> AuthError {
    match error.kind() {
        ErrorKind::InvalidIssuer => AuthError::Claim { name: "iss", problem: "is not ours" },
        ErrorKind::InvalidAudience => AuthError::Claim { name: "aud", problem: "is not ours" },
        ErrorKind::MissingRequiredClaim(claim) => {
            let name = ["exp", "sub", "aud", "iss"].into_iter().find(|name| name == claim).unwrap_or("claims");
            AuthError::Claim { name, problem: "is missing or has the wrong type" }
        }
        // The library's list of kinds may grow; whatever else it finds, the token is not to be trusted.
        _ => AuthError::Invalid,
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AuthError::Claim { name, problem: "is not a string" }),
    }
}

/// A NumericDate of RFC 7519 section 2: seconds since 1970, of which fractions are allowed and cut off here.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, AuthError> {
    let seconds = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_f64().ok_or(AuthError::Claim { name, problem: "is not a number" })?,
    };
    // Beyond the year 9999 a time is more likely in milliseconds, and such a token would never expire.
    if (0.0..=253_402_300_799.0).contains(&seconds) {
        Ok(Some(seconds as i64))
    } else {
        Err(AuthError::Claim { name, problem: "is not a time in seconds" })
    }
}

fn projects(claims: &Map<String, Value>) -> Result<Vec<ProjectId>, AuthError> {
    let wrong = AuthError::Claim { name: "project_ids", problem: "is not a list of project ids" };
    match claims.get("project_ids") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| id.as_str().and_then(|id| id.parse().ok()))
            .collect::<Option<Vec<ProjectId>>>()
            .ok_or(wrong),
        Some(_) => Err(wrong),
    }
}

fn check_subject(subject: &str) -> Result<(), AuthError> {
    let wrong = |problem| Err(AuthError::Claim { name: "sub", problem });
    if subject.trim().is_empty() {
        wrong("is empty")
    } else if subject.chars().count() > MAX_SUBJECT_CHARS {
        wrong("is longer than 255 characters")
    } else if subject.chars().any(char::is_control) {
        wrong("has control characters")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
