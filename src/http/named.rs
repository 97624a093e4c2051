//! Things that are known by a name of their own: in a path, and in lists that are ordered by it.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer};

use super::{answer::Page, error::Problem};

/// The one name in a path. What nothing can be called is the name of nothing.
#[derive(Clone, Debug)]
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.map(|Path(text)| text).unwrap_or_default();
        Ok(Self(if text.chars().any(char::is_control) { String::new() } else { text }))
    }
}

/// The name after which a page begins, out of the page before.
pub fn after(cursor: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok().filter(|bytes| (1..=255).contains(&bytes.len()));
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|name| !name.chars().any(char::is_control));
    match name {
        Some(name) => Ok(Some(name)),
        None => Err(Problem::invalid("request.cursor", "the cursor is not one of ours")
            .hint("Send `next_cursor` of the page before, unchanged.")),
    }
}

/// Makes a page of `rows`, of which one more than `limit` was asked for.
pub fn page<T>(mut rows: Vec<T>, limit: usize, name: impl Fn(&T) -> &str) -> Page<T> {
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let last = if has_more { rows.last() } else { None };
    let next_cursor = last.map(|row| BASE64_URL_SAFE_NO_PAD.encode(name(row)));
    Page { data: rows, next_cursor }
}

/// Tells a field that is `null` from one that is left out: `#[serde(default, deserialize_with = "given")]`.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_where_the_next_begins_and_others_words_are_refused() {
        let page = page(vec!["a", "b", "ü"], 2, |name| name);
        assert_eq!(page.data, ["a", "b"]);
        assert_eq!(after(page.next_cursor.as_deref()).unwrap().unwrap(), "b");
        assert!(super::page(vec!["a"], 1, |name| name).next_cursor.is_none());
        for bad in
            ["", "!", "AA", &BASE64_URL_SAFE_NO_PAD.encode([0xff]), &BASE64_URL_SAFE_NO_PAD.encode("x".repeat(256))]
        {
            assert_eq!(after(Some(bad)).unwrap_err().code, "request.cursor", "{bad}");
        }
    }
}
