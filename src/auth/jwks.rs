//! The key set of whoever signs tokens: kept, and asked for again when a token does not fit it or it has grown old.
//!
//! What always holds: it is asked for at most once within `auth.jwks_refresh_seconds`, however many strange tokens come; a set that
//! cannot be had or read leaves the keys as they were.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use url::{Host, Url};

use super::{
    jwt::{AuthError, library_algorithm},
    public_key::{self, MAX_BYTES, PublicKey},
};
use crate::{
    clock::{Clock, Timestamp},
    config::AuthConfig,
};

/// Time for a whole answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct Jwks {
    set: Arc<Set>,
    clock: Clock,
    between: chrono::Duration,
    max_age: chrono::Duration,
    /// When it was last asked for, successfully or not. Held while asking, so that one asks and the others wait for the outcome.
    asked_at: Arc<tokio::sync::Mutex<Option<Timestamp>>>,
}

struct Set {
    source: Source,
    wanted: Vec<Algorithm>,
    keys: RwLock<Arc<Vec<PublicKey>>>,
}

enum Source {
    File(PathBuf),
    Address { url: Url, client: reqwest::Client },
}

impl Jwks {
    /// The set that the configuration names, if any. A file is read now.
    ///
    /// # Errors
    /// The address is not allowed, or the file holds no usable key.
    pub fn open(config: &AuthConfig, clock: Clock) -> Result<Option<Self>, AuthError> {
        let source = match (&config.jwks_url, &config.jwks_file) {
            (Some(url), _) => Source::Address { url: allowed(url)?, client: client()? },
            (None, Some(path)) => Source::File(path.clone()),
            (None, None) => return Ok(None),
        };
        let wanted = config.algorithms.iter().copied().map(library_algorithm).collect();
        let set = Set { source, wanted, keys: RwLock::default() };
        let mut asked_at = None;
        if let Source::File(path) = &set.source {
            let keys =
                set.read_file(path).map_err(|problem| AuthError::Setting { setting: "auth.jwks_file", problem })?;
            set.put(keys);
            asked_at = Some(clock.now());
        }
        let seconds = |seconds: u64| chrono::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::from(u32::MAX)));
        Ok(Some(Self {
            set: Arc::new(set),
            clock,
            between: seconds(config.jwks_refresh_seconds),
            max_age: seconds(config.jwks_max_age_seconds),
            asked_at: Arc::new(tokio::sync::Mutex::new(asked_at)),
        }))
    }

    pub fn keys(&self) -> Arc<Vec<PublicKey>> {
        Arc::clone(&self.set.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for the set again, unless that was done a moment ago.
    pub async fn renew(&self) {
        self.renew_after(self.between).await;
    }

    /// Asks for the set again when it has grown old.
    pub async fn renew_if_old(&self) {
        self.renew_after(self.max_age.max(self.between)).await;
    }

    async fn renew_after(&self, age: chrono::Duration) {
        let (set, clock, asked_at) = (Arc::clone(&self.set), self.clock.clone(), Arc::clone(&self.asked_at));
        // On a task of its own: a client that leaves must not end it for the others.
        let task = tokio::spawn(async move {
            let mut asked_at = asked_at.lock_owned().await;
            let now = clock.now();
            if asked_at.is_some_and(|asked_at| now < asked_at + age) {
                return;
            }
            *asked_at = Some(now);
            match set.fetch().await {
                Ok(keys) => set.put(keys),
                Err(problem) => {
                    tracing::warn!(problem, "the key set of tokens could not be renewed: the keys so far stay in use");
                }
            }
        });
        if let Err(error) = task.await {
            tracing::error!(%error, "the key set of tokens could not be renewed");
        }
    }
}

impl Set {
    fn put(&self, keys: Vec<PublicKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn read_file(&self, path: &std::path::Path) -> Result<Vec<PublicKey>, String> {
        let text = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        self.parse(&text).map_err(|problem| format!("{} {problem}", path.display()))
    }

    fn parse(&self, text: &[u8]) -> Result<Vec<PublicKey>, &'static str> {
        if text.len() > MAX_BYTES {
            return Err("is too large");
        }
        public_key::from_set(text, &self.wanted)
    }

    async fn fetch(&self) -> Result<Vec<PublicKey>, String> {
        match &self.source {
            Source::File(path) => self.read_file(path),
            Source::Address { url, client } => {
                let told = |error: reqwest::Error| format!("{url}: {}", error.without_url());
                let mut answer =
                    client.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status).map_err(told)?;
                if !answer.status().is_success() {
                    return Err(format!("{url} answered {}", answer.status()));
                }
                let mut text = Vec::new();
                while let Some(chunk) = answer.chunk().await.map_err(told)? {
                    if text.len() + chunk.len() > MAX_BYTES {
                        return Err(format!("the key set at {url} is too large"));
                    }
                    text.extend_from_slice(&chunk);
                }
                self.parse(&text).map_err(|problem| format!("the key set at {url} {problem}"))
            }
        }
    }
}

/// Redirects are not followed: they could lead away from what was allowed.
fn client() -> Result<reqwest::Client, AuthError> {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| AuthError::Setting { setting: "auth.jwks_url", problem: error.to_string() })
}

/// Keys must not be changed on their way: `https`, or `http` on this machine.
fn allowed(text: &str) -> Result<Url, AuthError> {
    let wrong = |problem: &str| AuthError::Setting { setting: "auth.jwks_url", problem: problem.to_owned() };
    let url: Url = text.parse().map_err(|_| wrong("it is not an address"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it has a user or password"));
    }
    let is_here = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return Err(wrong("it names no host")),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        _ => Err(wrong("it must begin with https://, or with http:// on this machine's own address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in ["https://login.example.com/jwks", "http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost/x"] {
            assert!(allowed(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "http://login.example.com/jwks",
            "http://10.0.0.1/x",
            "http://localhost.example.com/x",
            "http://127.0.0.1.example.com/x",
            "file:///etc/passwd",
            "ftp://127.0.0.1/x",
            "https://user:canary@login.example.com/",
        ] {
            let error = allowed(bad).unwrap_err().to_string();
            assert!(error.starts_with("auth.jwks_url: ") && !error.contains("canary"), "{bad}: {error}");
        }
    }
}
