//! The cookie that keeps a browser's login, and the check that what it changes comes from a page of ours.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{COOKIE, HOST, ORIGIN},
};

use super::error::Problem;
use crate::config::AuthConfig;

const NAME: &str = "holdfast_session";

/// Over TLS. Browsers take a cookie of such a name only with `Secure`, for this host alone and all of it (RFC 6265bis section 4.1.3.2).
const SECURE_NAME: &str = "__Host-holdfast_session";

/// What browsers say of where a call comes from (Fetch Metadata, W3C).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The token in a request's cookie. The one that only TLS can have set comes first.
pub fn token(headers: &HeaderMap) -> Option<&str> {
    let find = |wanted: &str| {
        let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(';'));
        pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    find(SECURE_NAME).or_else(|| find(NAME))
}

/// `Set-Cookie` for a session of so many seconds; an empty token takes the cookie away.
pub fn set(headers: &HeaderMap, config: &AuthConfig, token: &str, seconds: i64) -> Option<HeaderValue> {
    // What a client claims here can only spoil its own cookie.
    let is_secure = config.secure_cookies || headers.get(FORWARDED_PROTO).is_some_and(|proto| proto == "https");
    let (name, secure) = if is_secure { (SECURE_NAME, "; Secure") } else { (NAME, "") };
    let mut value =
        HeaderValue::from_str(&format!("{name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"))
            .ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Refuses a call from a page of another site. `Sec-Fetch-Site` says it outright; browsers without it send `Origin`, which must be
/// the host that was asked. A call with neither is no browser's, and has no business with a cookie.
pub fn require_same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let is_ours = match headers.get(SEC_FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => origin_is_host(headers),
    };
    if is_ours { Ok(()) } else { Err(elsewhere()) }
}

/// The same for calls that need no cookie: programs say nothing of sites, and pass.
pub fn refuse_other_sites(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(SEC_FETCH_SITE) || headers.contains_key(ORIGIN) {
        require_same_origin(headers)
    } else {
        Ok(())
    }
}

fn origin_is_host(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else { return false };
    origin
        .split_once("://")
        .is_some_and(|(scheme, authority)| matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host))
}

fn elsewhere() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "auth.cross_site", "the call comes from a page of another site")
        .hint("Programs send a token as `Authorization: Bearer TOKEN` instead of a cookie.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_changes_something_must_come_from_our_own_pages() {
        for (pairs, is_ours) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://h:1"), ("host", "h:1")], false),
            (&[("origin", "http://h:1"), ("host", "h:1")], true),
            (&[("origin", "https://H:1"), ("host", "h:1")], true),
            (&[("origin", "http://h:2"), ("host", "h:1")], false),
            (&[("origin", "http://evil.example"), ("host", "h:1")], false),
            (&[("origin", "null"), ("host", "h:1")], false),
            (&[("origin", "file://h:1"), ("host", "h:1")], false),
            (&[("host", "h:1")], false),
            (&[], false),
        ] {
            assert_eq!(require_same_origin(&headers(pairs)).is_ok(), is_ours, "{pairs:?}");
        }
    }

    #[test]
    fn a_cookie_is_for_us_alone_and_secure_behind_tls() {
        let plain = set(&headers(&[]), &AuthConfig::default(), "t", 60).unwrap();
        assert_eq!(plain, "holdfast_session=t; Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
        for (headers, secure_cookies) in [(headers(&[("x-forwarded-proto", "https")]), false), (headers(&[]), true)] {
            let config = AuthConfig { secure_cookies, ..AuthConfig::default() };
            let cookie = set(&headers, &config, "t", 60).unwrap();
            assert_eq!(cookie, "__Host-holdfast_session=t; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
            assert!(!format!("{cookie:?}").contains("=t"));
        }
        assert_eq!(token(&headers(&[("cookie", "a=b; holdfast_session=x; __Host-holdfast_session=y")])), Some("y"));
        assert_eq!(token(&headers(&[("cookie", "a=b; holdfast_session=x")])), Some("x"));
        assert_eq!(token(&headers(&[("cookie", "token=x")])), None);
    }
}
