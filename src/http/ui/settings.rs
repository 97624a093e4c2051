//! Settings of storages and channels as the fields of a form. Secrets go in and never come out.

use serde_json::{Map, Value};

use super::{
    form::{Form, Kind},
    visit::{Typed, wrong},
};
use crate::{catalog::Settings, http::error::Problem};

/// What was typed, as the settings of a storage or channel of this kind.
pub fn settings(kind: &str, form: &Form, typed: &Typed, others: &[&str]) -> Result<Settings, Problem> {
    let mut given = Map::from_iter([("type".to_owned(), Value::from(kind))]);
    for field in form.fields.iter().filter(|field| !others.contains(&field.name)) {
        if let Some(value) = typed.given(field.name) {
            given.insert(field.name.to_owned(), Value::from(value));
        }
    }
    serde_json::from_value(Value::Object(given)).map_err(|_| wrong("name", "these settings cannot be used"))
}

/// What is set, in the fields of a form that makes such a thing: secrets are not there, and stay where nothing is typed.
pub fn filled(form: &mut Form, settings: &Value) {
    for field in &mut form.fields {
        match settings.get(field.name) {
            Some(Value::Object(_)) => {
                field.is_required = false;
                field.hint = "Empty: it stays as it is.";
            }
            Some(value) => field.values = vec![plain(value)],
            None => {}
        }
    }
}

/// A setting as it is typed.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The settings that were typed otherwise than they are: an empty field takes one out, but an empty secret leaves it.
pub fn changes(form: &Form, before: &Value, typed: &Typed, others: &[&str]) -> Result<Settings, Problem> {
    let mut changed = Map::new();
    for field in form.fields.iter().filter(|field| !others.contains(&field.name)) {
        let is_secret = matches!(field.kind, Kind::Secret) || before.get(field.name).is_some_and(Value::is_object);
        let was = before.get(field.name).filter(|_| !is_secret).map(plain).unwrap_or_default();
        match typed.given(field.name) {
            Some(text) if text != was => drop(changed.insert(field.name.to_owned(), Value::from(text))),
            None if !is_secret && !was.is_empty() => drop(changed.insert(field.name.to_owned(), Value::Null)),
            Some(_) | None => {}
        }
    }
    serde_json::from_value(Value::Object(changed)).map_err(|_| wrong("name", "these settings cannot be used"))
}
