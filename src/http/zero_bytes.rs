//! Texts with a zero byte are refused where they come in, by the name of their field: PostgreSQL takes none, and could not say whose it was.

use serde_json::Value;

use super::error::Problem;

/// How JSON writes a zero byte; it allows no bare one in a text.
const ESCAPED: &[u8] = b"\\u0000";

/// Refuses a JSON document in which one text has a zero byte. What is no JSON passes: its reader says what is wrong.
pub fn refuse_in_json(document: &[u8]) -> Result<(), Problem> {
    if document.windows(ESCAPED.len()).any(|window| window == ESCAPED)
        && let Ok(value) = serde_json::from_slice(document)
        && let Some(path) = find(&value)
    {
        return Err(zero_byte(&path));
    }
    Ok(())
}

/// Refuses a query of which one value has a zero byte.
pub fn refuse_in_query(query: Option<&str>) -> Result<(), Problem> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    for (name, value) in pairs {
        if value.contains('\0') {
            return Err(zero_byte(&name));
        }
    }
    Ok(())
}

fn zero_byte(path: &str) -> Problem {
    Problem::invalid("request.value", format!("{path}: a text with a zero byte cannot be used"))
}

/// Where the first text with a zero byte is, as `target.names[2]`.
fn find(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            let found = items.iter().enumerate().find_map(|(index, item)| Some((index, find(item)?)));
            found.map(|(index, path)| joined(&format!("[{index}]"), &path))
        }
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            if name.contains('\0') {
                return Some("a name".to_owned());
            }
            Some(joined(name, &find(member)?))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn joined(head: &str, rest: &str) -> String {
    let dot = if rest.is_empty() || rest.starts_with('[') { "" } else { "." };
    format!("{head}{dot}{rest}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_zero_byte_is_found_wherever_it_is() {
        for (value, path) in [
            (json!({ "a": "x\0" }), Some("a")),
            (json!({ "a": { "b": ["x", "\0"] } }), Some("a.b[1]")),
            (json!(["x", { "c": "\0" }]), Some("[1].c")),
            (json!({ "a\0": 1 }), Some("a name")),
            (json!("\0"), Some("")),
            (json!({ "a": "\\u0000", "b": [1, null, true] }), None),
        ] {
            assert_eq!(find(&value).as_deref(), path, "{value}");
        }
    }

    #[test]
    fn a_query_is_looked_at_after_decoding() {
        assert!(refuse_in_query(Some("a=1&b=%2500")).is_ok());
        assert!(refuse_in_query(None).is_ok());
        let problem = refuse_in_query(Some("a=1&b=x%00y")).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (422, "request.value"));
        assert!(problem.detail.starts_with("b: "), "{}", problem.detail);
    }
}
