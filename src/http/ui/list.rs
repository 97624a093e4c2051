//! Lists: what an address asks for, filters that are kept in it, and the way to the next page.

use std::convert::Infallible;
use std::str::FromStr;

use axum::{extract::FromRequestParts, http::request::Parts};
use url::form_urlencoded;

use super::visit::{Typed, wrong};
use crate::http::error::Problem;

/// Rows on a page.
pub const ROWS: u32 = 50;

/// What an address asks for, behind its `?`.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    path: String,
    typed: Typed,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let typed = Typed::read(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self { path: parts.uri.path().to_owned(), typed })
    }
}

impl Asked {
    pub fn get(&self, name: &str) -> &str {
        self.typed.get(name)
    }

    pub fn given(&self, name: &str) -> Option<String> {
        self.typed.given(name)
    }

    /// The field as one of a set of words.
    ///
    /// # Errors
    /// It is none of them.
    pub fn word<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        let word = self.given(name).map(|text| text.parse().map_err(|error: T::Err| wrong(name, &error.to_string())));
        word.transpose()
    }

    /// Where this list begins, and where it goes on, with the same filters.
    pub fn pages(&self, next_cursor: Option<String>) -> Pages {
        let with = |cursor: Option<&str>| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            for (name, value) in self.typed.pairs().filter(|(name, value)| *name != "cursor" && !value.is_empty()) {
                query.append_pair(name, value);
            }
            if let Some(cursor) = cursor {
                query.append_pair("cursor", cursor);
            }
            let query = query.finish();
            if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) }
        };
        Pages {
            first: (!self.get("cursor").is_empty()).then(|| with(None)),
            next: next_cursor.map(|cursor| with(Some(&cursor))),
            here: with(self.given("cursor").as_deref()),
        }
    }
}

/// Addresses around a page of a list.
#[derive(Clone, Debug)]
pub struct Pages {
    /// On the first page there is none.
    pub first: Option<String>,
    /// On the last page there is none.
    pub next: Option<String>,
    pub here: String,
}

/// A choice of a filter.
#[derive(Clone, Debug)]
pub struct Choice {
    pub value: String,
    pub text: String,
    pub is_chosen: bool,
}

/// Choices for a filter: any, or one of `words`.
pub fn choices(any: &str, words: impl IntoIterator<Item = (&'static str, String)>, chosen: &str) -> Vec<Choice> {
    let first = Choice { value: String::new(), text: any.to_owned(), is_chosen: chosen.is_empty() };
    let others =
        words.into_iter().map(|(value, text)| Choice { is_chosen: value == chosen, value: value.to_owned(), text });
    std::iter::once(first).chain(others).collect()
}

/// A word as a choice reads.
pub fn plain(word: &'static str) -> (&'static str, String) {
    (word, word.replace('_', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_keeps_the_filters() {
        let asked =
            Asked { path: "/jobs".to_owned(), typed: Typed::read(b"status=failed&project_id=a%26b&type=&cursor=x") };
        let pages = asked.pages(Some("y".to_owned()));
        assert_eq!(pages.next.as_deref(), Some("/jobs?status=failed&project_id=a%26b&cursor=y"));
        assert_eq!(pages.first.as_deref(), Some("/jobs?status=failed&project_id=a%26b"));
        assert!(Asked::default().pages(None).first.is_none());
    }
}
