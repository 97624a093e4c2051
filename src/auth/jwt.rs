//! JSON Web Tokens: ours, signed with HS256, and a platform's own, signed with HS256, RS256, ES256 or EdDSA.
//!
//! What always holds: the algorithms come from the configuration and each key belongs to exactly one, so that a public key is never
//! the secret of an HMAC; `exp`, `iat`, `sub`, `aud` and `iss` are there and have their types; what is wrong with a claim is told
//! only to those who hold a token that is well signed.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    claims::{Names, missing, text, time},
    jwks::Jwks,
    public_key::{self, PublicKey},
};
use crate::{
    clock::{Clock, Timestamp},
    config::{AuthConfig, Secret, TokenAlgorithm},
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

/// The `typ` of tokens that [`issue`] signs (explicit typing, RFC 8725 section 3.11): their claims have our names, whatever a
/// platform calls its own.
const OWN_TYPE: &str = "holdfast+jwt";

/// The `typ` of tokens that [`issue_session`] signs. They say which session, and nothing of what its user may do.
const SESSION_TYPE: &str = "holdfast-session+jwt";

/// Why a token was refused, or could not be signed. Never repeats the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("the signing secret has {0} bytes: use {MIN_SECRET_BYTES} or more")]
    ShortSecret(usize),
    /// Not a token, not well signed, or not with an algorithm that is configured: outsiders learn no more.
    #[error("the token is not valid")]
    Invalid,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet: its {0} lies in the future")]
    NotYet(&'static str),
    /// Named as we call the claim, whatever the platform does.
    #[error("the token's {name} {problem}")]
    Claim { name: &'static str, problem: &'static str },
    #[error("the token cannot be signed: {0}")]
    Sign(String),
    #[error("{setting}: {problem}")]
    Setting { setting: &'static str, problem: String },
}

impl AuthError {
    /// A stable word for answers and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ShortSecret(_) | Self::Sign(_) => "auth.signing",
            Self::Setting { .. } => "auth.setting",
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
    check_claimed_subject(&claims.subject)?;
    let scope: Vec<&str> = claims.permissions.iter().map(|permission| permission.as_str()).collect();
    let mut body = serde_json::json!({
        "sub": claims.subject,
        "scope": scope.join(" "),
        "project_ids": claims.project_ids,
        "role": claims.role,
    });
    if let Some(organization) = &claims.organization_id {
        body["org_id"] = Value::String(organization.clone());
    }
    sign(secret, config, OWN_TYPE, body, now, ttl)
}

/// Signs the token of a local user's session.
pub fn issue_session(
    secret: &Secret,
    config: &AuthConfig,
    subject: &str,
    session: Uuid,
    now: Timestamp,
    ttl: Duration,
) -> Result<String, AuthError> {
    let body = serde_json::json!({ "sub": subject, "jti": session });
    sign(secret, config, SESSION_TYPE, body, now, ttl)
}

/// Adds issuer, audience and times to a body with a `sub`, and signs it.
fn sign(
    secret: &Secret,
    config: &AuthConfig,
    token_type: &str,
    mut body: Value,
    now: Timestamp,
    ttl: Duration,
) -> Result<String, AuthError> {
    let bytes = long_enough(secret)?;
    if !config.signs() {
        return Err(AuthError::Sign("auth.algorithms does not have HS256, so tokens come from elsewhere".to_owned()));
    }
    check_subject(body["sub"].as_str().unwrap_or_default())?;
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(AuthError::Claim { name: "exp", problem: "must lie within ten years from now" });
    }
    let issued_at = now.timestamp();
    body["iss"] = Value::String(config.issuer.clone());
    body["aud"] = Value::String(config.audience.clone());
    body["iat"] = issued_at.into();
    body["exp"] = issued_at.saturating_add_unsigned(ttl.as_secs().max(1)).into();
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some(token_type.to_owned());
    jsonwebtoken::encode(&header, &body, &EncodingKey::from_secret(bytes))
        .map_err(|error| AuthError::Sign(error.to_string()))
}

/// The secret's bytes, for signing and checking signatures alone.
fn long_enough(secret: &Secret) -> Result<&[u8], AuthError> {
    let bytes = secret.expose().as_bytes(); // the key of the HMAC
    if bytes.len() < MIN_SECRET_BYTES { Err(AuthError::ShortSecret(bytes.len())) } else { Ok(bytes) }
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The token says all there is to say.
    Caller(Caller),
    /// A session of a local user, whose row has to be looked at.
    Session(Uuid),
}

/// Turns tokens into callers.
#[derive(Clone)]
pub struct Verifier {
    /// Where HS256 is configured.
    secret: Option<DecodingKey>,
    /// The key of `auth.public_key_file`.
    public_keys: Vec<PublicKey>,
    jwks: Option<Arc<Jwks>>,
    algorithms: Vec<Algorithm>,
    issuer: String,
    audience: String,
    names: Names,
    leeway_seconds: i64,
    clock: Clock,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Checks signatures with `secret` and the keys that `config` names, and times with `clock`. Files are read now; a key set at an
    /// address is asked for with the first token.
    ///
    /// # Errors
    /// The secret is short, or a key cannot be used.
    pub fn new(secret: &Secret, config: &AuthConfig, clock: Clock) -> Result<Self, AuthError> {
        let algorithms: Vec<Algorithm> = config.algorithms.iter().copied().map(library_algorithm).collect();
        let secret = if config.signs() { Some(DecodingKey::from_secret(long_enough(secret)?)) } else { None };
        let public_keys = match &config.public_key_file {
            Some(path) => vec![public_key::from_pem_file(path)?],
            None => Vec::new(),
        };
        if let Some(key) = public_keys.iter().find(|key| !algorithms.contains(&key.algorithm)) {
            let problem = format!("the key is for {:?}, which auth.algorithms does not have", key.algorithm);
            return Err(AuthError::Setting { setting: "auth.public_key_file", problem });
        }
        Ok(Self {
            secret,
            public_keys,
            jwks: Jwks::open(config, clock.clone())?.map(Arc::new),
            algorithms,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            names: Names::of(config)?,
            leeway_seconds: i64::try_from(config.leeway_seconds.min(300)).unwrap_or(300),
            clock,
        })
    }

    /// Whom this token speaks for. The key set is asked for again when the token does not fit it.
    ///
    /// # Errors
    /// The token is refused.
    pub async fn identify(&self, token: &str) -> Result<Identity, AuthError> {
        let Some(jwks) = &self.jwks else { return self.check(token).map_err(Refusal::told) };
        if is_for_public_keys(token) {
            jwks.renew_if_old().await;
        }
        match self.check(token) {
            Err(Refusal::NoKeyFits) => {
                jwks.renew().await;
                self.check(token).map_err(Refusal::told)
            }
            other => other.map_err(Refusal::told),
        }
    }

    /// The caller that this token speaks for by itself, by the keys that are known now.
    ///
    /// # Errors
    /// The token is refused, or is a session's.
    pub fn verify(&self, token: &str) -> Result<Caller, AuthError> {
        match self.check(token).map_err(Refusal::told)? {
            Identity::Caller(caller) => Ok(caller),
            Identity::Session(_) => Err(AuthError::Invalid),
        }
    }

    fn check(&self, token: &str) -> Result<Identity, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid.into());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        // RFC 7515 section 4.1.11: extensions that are marked critical and not understood must be refused; we know none.
        if header.crit.is_some() || !self.algorithms.contains(&header.alg) {
            return Err(AuthError::Invalid.into());
        }
        let claims = if header.alg == Algorithm::HS256 {
            let key = self.secret.as_ref().ok_or(AuthError::Invalid)?;
            self.signed_with(key, header.alg, token).map_err(|_: BadSignature| AuthError::Invalid)??
        } else {
            self.signed_with_a_public_key(&header, token)?
        };
        self.check_times_and_subject(&claims)?;
        let token_type = header.typ.as_deref().filter(|_| header.alg == Algorithm::HS256);
        match token_type {
            Some(SESSION_TYPE) => {
                let id = text(&claims, "jti")?.and_then(|id| id.parse().ok());
                Ok(Identity::Session(id.ok_or(missing("jti"))?))
            }
            Some(OWN_TYPE) => Ok(Identity::Caller(Names::default().caller(&claims)?)),
            Some(_) | None => Ok(Identity::Caller(self.names.caller(&claims)?)),
        }
    }

    /// The claims, if one of the keys for the token's algorithm and `kid` fits.
    fn signed_with_a_public_key(&self, header: &Header, token: &str) -> Result<Map<String, Value>, Refusal> {
        let from_set = self.jwks.as_ref().map(|jwks| jwks.keys());
        let keys = self.public_keys.iter().chain(from_set.iter().flat_map(|keys| keys.iter()));
        for key in keys.filter(|key| key.algorithm == header.alg && key.answers_to(header.kid.as_deref())) {
            if let Ok(outcome) = self.signed_with(&key.key, key.algorithm, token) {
                return Ok(outcome?);
            }
        }
        Err(Refusal::NoKeyFits)
    }

    fn signed_with(
        &self,
        key: &DecodingKey,
        algorithm: Algorithm,
        token: &str,
    ) -> Result<Result<Map<String, Value>, AuthError>, BadSignature> {
        // One algorithm alone: the library takes whatever a list allows.
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "sub", "aud", "iss"]);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        // The library reads the machine's clock; times are compared with ours.
        validation.validate_exp = false;
        match jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation) {
            Ok(token) => Ok(Ok(token.claims)),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => Err(BadSignature),
            Err(error) => Ok(Err(refusal(&error))),
        }
    }

    fn check_times_and_subject(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        let now = self.clock.now().timestamp();
        if time(claims, "exp")?.ok_or(missing("exp"))? <= now.saturating_sub(self.leeway_seconds) {
            return Err(AuthError::Expired);
        }
        let begins_at = now.saturating_add(self.leeway_seconds);
        if time(claims, "iat")?.ok_or(missing("iat"))? > begins_at {
            return Err(AuthError::NotYet("iat"));
        }
        if time(claims, "nbf")?.is_some_and(|not_before| not_before > begins_at) {
            return Err(AuthError::NotYet("nbf"));
        }
        // The library takes a list of issuers as well, which RFC 7519 does not know.
        text(claims, "iss")?.ok_or(missing("iss"))?;
        check_subject(text(claims, "sub")?.ok_or(missing("sub"))?)
    }
}

/// A signature that this key did not make.
struct BadSignature;

/// Why a token is not taken, and whether newer keys could change that.
enum Refusal {
    NoKeyFits,
    For(AuthError),
}

impl Refusal {
    fn told(self) -> AuthError {
        match self {
            Self::NoKeyFits => AuthError::Invalid,
            Self::For(error) => error,
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::For(error)
    }
}

fn is_for_public_keys(token: &str) -> bool {
    token.len() <= MAX_TOKEN_BYTES
        && jsonwebtoken::decode_header(token).is_ok_and(|header| header.alg != Algorithm::HS256)
}

pub(super) const fn library_algorithm(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::HS256 => Algorithm::HS256,
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
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

pub(super) fn check_subject(subject: &str) -> Result<(), AuthError> {
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

/// What the subjects of callers who come without a token begin with: the system, the command line, local users and keys. In the history
/// one could not be told from the other.
const OWN_SUBJECTS: [&str; 4] = ["system:", "cli:", "user:", "key:"];

/// Refuses a subject in a token that says all there is to say of its holder.
pub(super) fn check_claimed_subject(subject: &str) -> Result<(), AuthError> {
    check_subject(subject)?;
    if OWN_SUBJECTS.iter().any(|prefix| subject.starts_with(prefix)) {
        return Err(AuthError::Claim { name: "sub", problem: "begins like those that Holdfast gives itself" });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
