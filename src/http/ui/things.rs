//! Lists of what is managed: each thing with its state, its facts and what can be done with it.

use askama::Template;

use super::{frame::Frame, list::Pages, show::Html};

/// A button that sends a form.
pub struct Act {
    pub path: String,
    pub text: &'static str,
    pub hidden: Vec<(&'static str, String)>,
    /// What is asked before it is sent; then the button looks grave.
    pub question: Option<&'static str>,
}

impl Act {
    pub const fn new(path: String, text: &'static str) -> Self {
        Self { path, text, hidden: Vec::new(), question: None }
    }

    pub const fn asking(mut self, question: &'static str) -> Self {
        self.question = Some(question);
        self
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.hidden.push((name, value.into()));
        self
    }
}

/// One thing.
#[derive(Default)]
pub struct Thing {
    pub name: String,
    pub badges: Vec<Html>,
    pub facts: Vec<Html>,
    pub problem: Option<String>,
    pub links: Vec<(String, &'static str)>,
    pub acts: Vec<Act>,
}

/// What was just seen or made.
pub struct Seen {
    pub is_good: bool,
    pub title: String,
    pub lines: Vec<String>,
    /// Shown this once, to be copied.
    pub secret: Option<String>,
}

/// A page of things.
#[derive(Template)]
#[template(path = "things.html")]
pub struct Things {
    pub frame: Frame,
    pub intro: &'static str,
    pub adds: Vec<(&'static str, &'static str)>,
    pub seen: Option<Seen>,
    pub things: Vec<Thing>,
    pub empty: &'static str,
    pub pages: Pages,
}
