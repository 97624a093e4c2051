use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;

/// How a token may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// With `auth.jwt_secret`.
    HS256,
    /// With an RSA key of 2048 bits or more.
    RS256,
    /// With a key on the curve P-256.
    ES256,
    /// With an Ed25519 key.
    EdDSA,
}

super::section! {
    /// Who may call the API: JSON Web Tokens, ours or those of a platform, and local users.
    AuthConfig, "auth" {
        /// The signing secret, 32 bytes or more. Default: made at the first start, in `jwt.secret` below the data directory.
        ["HOLDFAST_JWT_SECRET"]
        jwt_secret: Option<Secret> = None;
        /// A file that holds the signing secret.
        ["HOLDFAST_JWT_SECRET_FILE"]
        jwt_secret_file: Option<PathBuf> = None;
        /// Signatures that are taken, and no others: `HS256` (the signing secret), `RS256`, `ES256`, `EdDSA` (public keys). Without
        /// `HS256` there are no tokens of our own and no local users. Default: `HS256`.
        algorithms: Vec<TokenAlgorithm> = vec![TokenAlgorithm::HS256];
        /// A PEM file with the public key of whoever signs the tokens (`BEGIN PUBLIC KEY`).
        public_key_file: Option<PathBuf> = None;
        /// The key set (RFC 7517) of whoever signs the tokens: an `https` address, or `http` on this machine.
        jwks_url: Option<String> = None;
        /// A file with the key set.
        jwks_file: Option<PathBuf> = None;
        /// The key set is asked for again when a token names a key that is not in it, but only once within so many seconds.
        /// Default: 60.
        jwks_refresh_seconds: u64 = 60;
        /// After so many seconds the key set is asked for again in any case, so that withdrawn keys go. Default: 3600.
        jwks_max_age_seconds: u64 = 3_600;
        /// The `iss` that tokens must carry. Default: `holdfast`.
        issuer: String = "holdfast".to_owned();
        /// The `aud` that tokens must carry. Default: `holdfast`.
        audience: String = "holdfast".to_owned();
        /// Clock difference allowed when `exp` is checked, in seconds. Default: 30.
        leeway_seconds: u64 = 30;
        /// How long a login lasts, in hours. Default: 12.
        session_hours: u32 = 12;
        /// Attempts to log in to one account within 15 minutes; 0 is no limit. Default: 10.
        login_attempts_per_account: u32 = 10;
        /// Attempts to log in from one address within 15 minutes; 0 is no limit. Behind a proxy all come from the proxy's address, unless
        /// it is named in `listen.trusted_proxies`. Default: 100.
        login_attempts_per_address: u32 = 100;
        /// Whether cookies are marked `Secure`. They are in any case with `listen.tls`, and when a proxy says `X-Forwarded-Proto: https`.
        /// Default: false.
        secure_cookies: bool = false;
    } with {
        /// What the claims are called, `[auth.claims]`.
        claims: ClaimsConfig;
        /// A platform's words for roles and ours, `[auth.roles]`. When there is an entry, no other word counts.
        roles: BTreeMap<String, String>;
    }
}

super::section! {
    /// What a platform's tokens call things. A dot looks inside an object: `realm_access.roles`. A claim whose own name has dots,
    /// such as `https://example.com/role`, is found as well. Tokens from `holdfast token issue` keep the default names.
    ///
    /// The table `[auth.roles]` translates a platform's roles, for instance `backup-admin = "operator"`. With such a table a word that
    /// is not in it means `member`; without one the words are `member`, `org_admin` and `operator`.
    ClaimsConfig, "auth.claims" {
        /// Who, as written into the history. Default: `sub`.
        subject: String = "sub".to_owned();
        /// What is allowed: `backup:read` and `backup:write`, in a text with spaces between or in a list. Default: `scope`.
        scope: String = "scope".to_owned();
        /// What is allowed to tokens that have no such claim. Default: nothing.
        default_scope: String = String::new();
        /// The projects that are reached, a list. Default: `project_ids`.
        project_ids: String = "project_ids".to_owned();
        /// The organisation. Default: `org_id`.
        organization: String = "org_id".to_owned();
        /// The role, or a list of which the strongest counts. Default: `role`.
        role: String = "role".to_owned();
    }
}

impl AuthConfig {
    /// Whether somebody else's keys are configured.
    pub const fn has_public_keys(&self) -> bool {
        self.public_key_file.is_some() || self.jwks_url.is_some() || self.jwks_file.is_some()
    }

    /// Whether tokens are signed here.
    pub fn signs(&self) -> bool {
        self.algorithms.contains(&TokenAlgorithm::HS256)
    }

    /// What no type can say, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.algorithms.is_empty() {
            return Err("auth.algorithms is empty: name at least one of HS256, RS256, ES256, EdDSA".to_owned());
        }
        let uses_public_keys = self.algorithms.iter().any(|algorithm| *algorithm != TokenAlgorithm::HS256);
        match (uses_public_keys, self.has_public_keys()) {
            (true, false) => {
                return Err(
                    "auth.algorithms needs a public key: set auth.public_key_file, auth.jwks_url or auth.jwks_file"
                        .to_owned(),
                );
            }
            (false, true) => {
                return Err(
                    "auth has a public key, but auth.algorithms has none that uses it: add RS256, ES256 or EdDSA"
                        .to_owned(),
                );
            }
            (true, true) | (false, false) => {}
        }
        if self.jwks_url.is_some() && self.jwks_file.is_some() {
            return Err("both auth.jwks_url and auth.jwks_file are set: keep one".to_owned());
        }
        for (name, value, low, high) in [
            ("auth.jwks_refresh_seconds", self.jwks_refresh_seconds, 1, 86_400),
            ("auth.jwks_max_age_seconds", self.jwks_max_age_seconds, 1, 30 * 86_400),
            ("auth.session_hours", u64::from(self.session_hours), 1, 8_784),
        ] {
            if !(low..=high).contains(&value) {
                return Err(format!("{name} is {value}: use {low} to {high}"));
            }
        }
        Ok(())
    }
}
