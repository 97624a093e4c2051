//! Forms: fields with labels, what was typed, and what is wrong with it beside the field.

use std::fmt::Write as _;

use super::{
    frame::Frame,
    show::{Html, escape, unturned},
    visit::{LEFT_OUT, Typed},
};
use crate::http::error::Problem;

/// How a field is typed into.
#[derive(Clone, Debug)]
pub enum Kind {
    Text,
    Number,
    /// Never shown again.
    Secret,
    /// What a browser's password manager fills in: the value of `autocomplete`.
    Password(&'static str),
    /// Value and text of each choice.
    Choice(Vec<(String, String)>),
    /// Value, words and meaning of each choice, all of them in sight.
    Radio(Vec<(&'static str, &'static str, &'static str)>),
    /// Any number of them.
    Many(Vec<(String, String)>),
    Check,
}

/// One field.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    pub kind: Kind,
    pub hint: &'static str,
    pub values: Vec<String>,
    pub error: Option<String>,
    pub is_required: bool,
    /// Shown while one of these values of the form's radio buttons is chosen; empty: always. Styles alone do that.
    pub shown_for: &'static str,
    /// What a browser offers while one types.
    pub suggestions: Vec<String>,
}

impl Field {
    pub const fn new(name: &'static str, label: &'static str, kind: Kind) -> Self {
        Self {
            name,
            label,
            kind,
            hint: "",
            values: Vec::new(),
            error: None,
            is_required: false,
            shown_for: "",
            suggestions: Vec::new(),
        }
    }

    pub const fn text(name: &'static str, label: &'static str) -> Self {
        Self::new(name, label, Kind::Text)
    }

    pub const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    pub const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub fn suggesting(mut self, texts: Vec<String>) -> Self {
        self.suggestions = texts;
        self
    }

    pub const fn only_for(mut self, values: &'static str) -> Self {
        self.shown_for = values;
        self
    }

    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.values = vec![value.into()];
        self
    }

    pub fn values(mut self, values: &[String]) -> Self {
        self.values = values.to_vec();
        self
    }

    fn first(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }

    /// The field with its label, hint and error, which a screen reader tells together.
    pub fn show(&self) -> Html {
        let (name, id) = (self.name, format!("f-{}", self.name.replace('.', "-")));
        let mut told = Vec::new();
        if !self.hint.is_empty() {
            told.push(format!("{id}-hint"));
        }
        if self.error.is_some() {
            told.push(format!("{id}-error"));
        }
        let mut more = String::new();
        if !told.is_empty() {
            let _ = write!(more, " aria-describedby=\"{}\"", told.join(" "));
        }
        if self.error.is_some() {
            more.push_str(" aria-invalid=\"true\"");
        }
        if self.is_required {
            more.push_str(" required");
        }
        let shown_for = self.shown_for();
        let value = escape(self.first());
        let control = match &self.kind {
            Kind::Text => format!(
                "<input type=\"text\" id=\"{id}\" name=\"{name}\" value=\"{value}\" autocomplete=\"off\"{more}>"
            ),
            Kind::Number => {
                format!(
                    "<input type=\"text\" inputmode=\"numeric\" id=\"{id}\" name=\"{name}\" value=\"{value}\" autocomplete=\"off\"{more}>"
                )
            }
            Kind::Secret => {
                format!("<input type=\"password\" id=\"{id}\" name=\"{name}\" autocomplete=\"off\"{more}>")
            }
            Kind::Password(autocomplete) => {
                format!("<input type=\"password\" id=\"{id}\" name=\"{name}\" autocomplete=\"{autocomplete}\"{more}>")
            }
            Kind::Choice(choices) => {
                let mut options = String::new();
                for (choice, text) in choices {
                    let selected = if choice == self.first() { " selected" } else { "" };
                    // No element stands inside an option, so nothing keeps a mark of direction to itself.
                    let text = escape(&unturned(text));
                    let _ = write!(options, "<option value=\"{}\"{selected}>{text}</option>", escape(choice));
                }
                format!("<select id=\"{id}\" name=\"{name}\"{more}>{options}</select>")
            }
            Kind::Radio(choices) => return self.radio(choices, &id, &more),
            Kind::Many(choices) => return self.many(choices, &id, &more),
            Kind::Check => {
                let checked = if self.first().is_empty() { "" } else { " checked" };
                return Html::ours(format!(
                    "<div class=\"field check\"{shown_for}><label><input type=\"checkbox\" id=\"{id}\" name=\"{name}\" value=\"1\"{checked}{more}> {}</label>{}</div>",
                    self.label,
                    self.told(&id),
                ));
            }
        };
        let control = if self.suggestions.is_empty() {
            control
        } else {
            let texts = self.suggestions.iter().fold(String::new(), |mut texts, text| {
                let _ = write!(texts, "<option value=\"{}\"></option>", escape(text));
                texts
            });
            format!(
                "{}<datalist id=\"{id}-list\">{texts}</datalist>",
                control.replacen("<input ", &format!("<input list=\"{id}-list\" "), 1)
            )
        };
        let optional = if self.is_required { "" } else { " <span class=\"faint\">optional</span>" };
        let optional = if matches!(self.kind, Kind::Choice(_)) { "" } else { optional };
        Html::ours(format!(
            "<div class=\"field\"{shown_for}><label for=\"{id}\">{}{optional}</label>{control}{}</div>",
            self.label,
            self.told(&id)
        ))
    }

    fn shown_for(&self) -> String {
        if self.shown_for.is_empty() { String::new() } else { format!(" data-for=\"{}\"", self.shown_for) }
    }

    fn radio(&self, choices: &[(&str, &str, &str)], id: &str, more: &str) -> Html {
        let mut buttons = String::new();
        for (choice, text, meaning) in choices {
            let checked = if *choice == self.first() { " checked" } else { "" };
            let _ = write!(
                buttons,
                "<label class=\"way-to\"><input type=\"radio\" name=\"{}\" value=\"{choice}\"{checked}> <span><strong>{text}</strong> <span class=\"hint\">{meaning}</span></span></label>",
                self.name,
            );
        }
        Html::ours(format!(
            "<fieldset class=\"field\" id=\"{id}\"{more}><legend>{}</legend><div class=\"ways-to\">{buttons}</div>{}</fieldset>",
            self.label,
            self.told(id)
        ))
    }

    fn many(&self, choices: &[(String, String)], id: &str, more: &str) -> Html {
        // There is nothing to choose.
        if choices.is_empty() && self.error.is_none() {
            return Html::default();
        }
        let mut boxes = String::new();
        for (choice, text) in choices {
            let checked = if self.values.contains(choice) { " checked" } else { "" };
            let _ = write!(
                boxes,
                "<label><input type=\"checkbox\" name=\"{}\" value=\"{}\"{checked}> <bdi>{}</bdi></label>",
                self.name,
                escape(choice),
                escape(text)
            );
        }
        let more = more.replace(" required", "");
        Html::ours(format!(
            "<fieldset class=\"field many\" id=\"{id}\"{}{more}><legend>{}</legend><div class=\"choices\">{boxes}</div>{}</fieldset>",
            self.shown_for(),
            self.label,
            self.told(id)
        ))
    }

    fn told(&self, id: &str) -> String {
        let mut told = String::new();
        if !self.hint.is_empty() {
            let _ = write!(told, "<p class=\"hint\" id=\"{id}-hint\">{}</p>", self.hint);
        }
        if let Some(error) = &self.error {
            let _ = write!(told, "<p class=\"error\" id=\"{id}-error\"><bdi>{}</bdi></p>", escape(error));
        }
        told
    }
}

/// A form, and what is wrong with it as a whole.
#[derive(Clone, Debug)]
pub struct Form {
    pub action: String,
    pub submit: &'static str,
    /// What it does cannot be taken back.
    pub is_grave: bool,
    pub fields: Vec<Field>,
    pub error: Option<String>,
    pub hint: Option<String>,
}

impl Form {
    pub fn new(action: impl Into<String>, submit: &'static str, fields: Vec<Field>) -> Self {
        Self { action: action.into(), submit, is_grave: false, fields, error: None, hint: None }
    }

    /// With what was typed, but for secrets.
    #[must_use]
    pub fn typed(mut self, typed: &Typed) -> Self {
        for field in &mut self.fields {
            // One of them is always chosen.
            if matches!(field.kind, Kind::Radio(_)) && typed.get(field.name).is_empty() {
                continue;
            }
            // It was left out while one logged in: what is set stays.
            if typed.is_checked(LEFT_OUT)
                && matches!(field.kind, Kind::Text)
                && typed.pairs().all(|(name, _)| name != field.name)
            {
                continue;
            }
            field.values = match field.kind {
                Kind::Secret | Kind::Password(_) => Vec::new(),
                Kind::Many(_) => typed.all(field.name),
                Kind::Text | Kind::Number | Kind::Choice(_) | Kind::Radio(_) | Kind::Check => {
                    vec![typed.exact(field.name).to_owned()]
                }
            };
        }
        self
    }

    /// With what is wrong, beside the field that a problem names: before a colon in its words, as its first word, or at the end of its code.
    #[must_use]
    pub fn refused(mut self, problem: &Problem) -> Self {
        let whole = problem.detail.as_str();
        // `settings.bucket` is the field `bucket`.
        let field = |name: &str| {
            let name = name.trim().rsplit('.').next().unwrap_or_default();
            self.fields.iter().position(|field| field.name == name)
        };
        let before_colon = || whole.split_once(": ").and_then(|(name, words)| Some((field(name)?, words)));
        let by_first_word = || Some((field(whole.split(' ').next()?)?, whole));
        let by_code = || Some((field(problem.code)?, whole));
        match before_colon().or_else(by_first_word).or_else(by_code) {
            Some((at, words)) => self.fields[at].error = Some(words.to_owned()),
            None => self.error = Some(problem.detail.clone()),
        }
        self.hint.clone_from(&problem.hint);
        self
    }
}

/// A page that is one form.
#[derive(askama::Template)]
#[template(path = "form.html")]
pub struct FormPage {
    pub frame: Frame,
    /// Where one comes from: path and text.
    pub back: (String, String),
    pub intro: String,
    pub form: Form,
    /// More below the form, such as what a live preview fills.
    pub below: Html,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ui::visit::wrong;

    #[test]
    fn what_was_typed_stays_and_what_is_wrong_stands_beside_its_field() {
        let fields = vec![Field::text("cron", "When").required(), Field::new("password", "Password", Kind::Secret)];
        let typed = Typed::read(b"cron=%22%3Cb%3E&password=canary");
        let form = Form::new("/x", "Save", fields).typed(&typed).refused(&wrong("cron", "no <i>"));
        let shown: String = form.fields.iter().map(|field| field.show().to_string()).collect();
        assert!(shown.contains("value=\"&#34;&lt;b&gt;\""), "{shown}");
        assert!(shown.contains("aria-invalid=\"true\"") && shown.contains("no &lt;i&gt;"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
        assert_eq!(form.error, None);
    }
}
