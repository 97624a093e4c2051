//! Wrong values for a field, from its schema.

use serde_json::{Value, json};

use super::document::Document;

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// 422, naming the field.
    Named,
    /// Some 4xx. Where [`takes_any_text`] says so, or where a query merely finds nothing, a success as well.
    Refused,
}

/// A body in which one field is wrong.
pub struct Wrong {
    /// As `target.database`.
    pub field: String,
    pub what: String,
    pub body: Value,
    pub expect: Expect,
}

/// Texts that are nobody's name, so that they may hold whatever can be stored: operation and field.
const ANY_TEXT: [(&str, &str); 7] = [
    // Passwords are hashed, never shown.
    ("POST /api/users", "password"),
    ("PATCH /api/users/{id}", "password"),
    ("POST /auth/login", "password"),
    ("POST /auth/setup", "password"),
    // PostgreSQL's names may hold them, and are looked up before they are used.
    ("POST /api/backup/export", "tables"),
    ("POST /api/backup/export", "exclude_tables"),
    ("POST /api/backup/export", "exclude_table_data"),
];

pub fn takes_any_text(operation: &str, field: &str) -> bool {
    ANY_TEXT.contains(&(operation, field))
}

/// The last name of a path of names.
pub fn last(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

/// Wrong values for every property of an object, those of objects within it too.
pub fn wrong_bodies(document: &Document, example: &Value, schema: &Value) -> Vec<Wrong> {
    let mut found = Vec::new();
    walk(document, example, schema, &mut Vec::new(), &mut found);
    found
}

fn walk(document: &Document, example: &Value, schema: &Value, above: &mut Vec<String>, found: &mut Vec<Wrong>) {
    for (name, schema, is_required) in document.properties(schema) {
        let mut path = above.clone();
        path.push(name.clone());
        let mut add = |what: String, value: Option<Value>, expect| {
            found.push(Wrong { field: path.join("."), what, body: with(example, &path, value), expect });
        };
        if is_required && above.is_empty() {
            add("absent".to_owned(), None, Expect::Named);
        }
        if is_required {
            add("null".to_owned(), Some(Value::Null), Expect::Named);
        }
        for (what, value, expect) in wrong_values(document, &schema) {
            add(what, Some(value), expect);
        }
        if !document.properties(&schema).is_empty() {
            add("with an unknown field".to_owned(), Some(json!({ "an_unknown_field": 1 })), Expect::Refused);
            above.push(name);
            walk(document, example, &schema, above, found);
            above.pop();
        }
    }
}

/// A copy in which the field at this path is another, or not there.
fn with(example: &Value, path: &[String], value: Option<Value>) -> Value {
    let mut body = example.clone();
    let (last, above) = path.split_last().unwrap();
    let mut at = &mut body;
    for name in above {
        if !at[name].is_object() {
            at[name] = json!({});
        }
        at = &mut at[name];
    }
    match value {
        Some(value) => at[last] = value,
        None => drop(at.as_object_mut().unwrap().remove(last)),
    }
    body
}

fn wrong_values(document: &Document, schema: &Value) -> Vec<(String, Value, Expect)> {
    let types = Document::types(schema);
    let allows = |name: &str| types.iter().any(|t| t == name);
    let mut values = Vec::new();
    let mut add = |what: &str, value: Value, expect| values.push((what.to_owned(), value, expect));
    if types.is_empty() {
        return values;
    }
    for (name, value) in [
        ("boolean", json!(true)),
        ("string", json!("a text")),
        ("array", json!([])),
        ("array", json!([[[]]])),
        ("object", json!({})),
        ("object", json!({ "$ref": "x" })),
    ] {
        if !allows(name) {
            add(&format!("is {value}"), value, Expect::Named);
        }
    }
    if allows("integer") {
        for value in [json!(1e300), json!(0.5), json!(u64::MAX), json!(i64::MIN)] {
            add(&format!("is {value}"), value, Expect::Named);
        }
    } else if allows("number") {
        add("is huge", json!(1e308), Expect::Refused);
    } else {
        add("is a number", json!(7), Expect::Named);
        add("is a huge number", json!(1e300), Expect::Named);
    }
    if allows("string") {
        let is_free = schema["enum"].is_null() && schema["format"] != "uuid" && schema["format"] != "date-time";
        add("has a zero byte", json!("a\0b"), Expect::Named);
        add(
            "has control characters",
            json!("a\u{1}\u{1b}[2Jb\r"),
            if is_free { Expect::Refused } else { Expect::Named },
        );
        add("has a megabyte", json!("x".repeat(1_000_000)), if is_free { Expect::Refused } else { Expect::Named });
        if !is_free {
            for text in ["", " ", "nothing like it", "..", "-1", "2026-13-45T25:61:61Z", "+262000-01-01T00:00:00Z"] {
                add(&format!("is {text:?}"), json!(text), Expect::Named);
            }
        }
    }
    if allows("array") {
        let items = document.resolved(&schema["items"]);
        add("holds null", json!([null]), Expect::Named);
        for (what, value, expect) in wrong_values(document, &items) {
            add(&format!("holds one that {what}"), json!([value]), expect);
        }
    }
    values
}

/// Wrong values for a parameter of a query, as `NAME=…`.
pub fn wrong_queries(field: &str, schema: &Value) -> Vec<(String, Expect)> {
    let types = Document::types(schema);
    let is_number = types.iter().any(|t| t == "integer" || t == "number");
    let is_boolean = types.iter().any(|t| t == "boolean");
    let is_list = types.iter().any(|t| t == "array");
    let is_narrow = is_number
        || is_boolean
        || schema["enum"].is_array()
        || matches!(schema["format"].as_str(), Some("uuid" | "date-time" | "date"))
        || field == "cursor";
    let narrow = if is_narrow { Expect::Named } else { Expect::Refused };
    let mut queries: Vec<(String, Expect)> = Vec::new();
    for value in [
        "%20",
        "x%27--",
        "..%2f..",
        "%F0%9F%92%A3",
        "1e99",
        "-x",
        "%ff",
        "%0d%0aX-Evil:1",
        "%1b%5b2J",
        "true%20",
        "null",
        "NaN",
    ] {
        queries.push((format!("NAME={value}"), narrow));
    }
    queries.push((format!("NAME={}", "x".repeat(20_000)), narrow));
    queries.push(("NAME=%00".to_owned(), Expect::Named));
    queries.push(("NAME=a%00b".to_owned(), Expect::Named));
    if is_number {
        for value in ["-1", "0", "99999999999999999999999", "1.5", "0x10", "+", ""] {
            queries.push((format!("NAME={value}"), narrow));
        }
    }
    if !is_list {
        queries.push(("NAME=1&NAME=1".to_owned(), Expect::Named));
        queries.push(("NAME[]=1".to_owned(), Expect::Refused));
    }
    queries
}
