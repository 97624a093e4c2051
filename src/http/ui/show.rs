//! Numbers, times and states for people: short on the page, exact on hover.

use std::fmt::{self, Write as _};

use askama::filters::HtmlSafe;
use chrono::{DateTime, Duration, SecondsFormat, Utc};

use crate::byte_size::ByteSize;

/// Markup that is ours alone: what came from outside was escaped when it was made.
#[derive(Clone, Debug, Default)]
pub struct Html(String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Html {}

impl Html {
    /// `markup` holds nothing from outside that was not escaped.
    pub const fn ours(markup: String) -> Self {
        Self(markup)
    }
}

/// A text from outside, for use inside markup and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A name from outside. Apart in its own direction, so that no mark in it turns what stands around.
pub fn name(text: &str) -> Html {
    Html(format!("<bdi>{}</bdi>", escape(text)))
}

/// `1,234,567`
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('−');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 backup`, `2 backups`.
pub fn counted(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `1.2 GiB`, with the bytes on hover.
pub fn size(bytes: i64) -> Html {
    let shown = ByteSize(bytes.unsigned_abs());
    Html(format!("<span class=\"num\" title=\"{} bytes\">{shown}</span>", count(bytes)))
}

/// Nothing, or not known.
pub fn nothing() -> Html {
    Html("<span class=\"faint\" aria-label=\"none\">—</span>".to_owned())
}

/// `5 min ago`, `in 3 h`, or the date when that says more; the instant on hover.
pub fn when(at: DateTime<Utc>, now: DateTime<Utc>) -> Html {
    let away = now - at;
    let text = if away.abs() >= Duration::days(14) {
        at.format("%Y-%m-%d").to_string()
    } else if away.abs() < Duration::seconds(10) {
        "just now".to_owned()
    } else if away > Duration::zero() {
        format!("{} ago", rough(away))
    } else {
        format!("in {}", rough(-away))
    };
    moment(at, &text)
}

/// `2026-11-21 02:00`, the instant on hover.
pub fn at(at: DateTime<Utc>) -> Html {
    moment(at, &at.format("%Y-%m-%d %H:%M").to_string())
}

fn moment(at: DateTime<Utc>, text: &str) -> Html {
    Html(format!(
        "<time datetime=\"{}\" title=\"{} UTC\">{text}</time>",
        at.to_rfc3339_opts(SecondsFormat::Secs, true),
        at.format("%Y-%m-%d %H:%M:%S"),
    ))
}

pub fn when_or_nothing(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Html {
    at.map_or_else(nothing, |at| when(at, now))
}

/// `45 s`, `12 min`, `26 h`, `9 days`.
pub fn rough(length: Duration) -> String {
    let seconds = length.num_seconds().max(0);
    match seconds {
        0..=89 => format!("{seconds} s"),
        90..=5_399 => format!("{} min", (seconds + 30) / 60),
        5_400..=172_799 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// How long something took: `0.8 s`, `3 min 20 s`, `2 h 5 min`.
pub fn lasted(seconds: f64) -> String {
    let whole = seconds.max(0.0).round();
    match whole as u64 {
        _ if seconds < 10.0 => format!("{:.1} s", seconds.max(0.0)),
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
    }
}

/// The same, with the exact seconds on hover.
pub fn took(seconds: f64) -> Html {
    Html(format!("<span class=\"num\" title=\"{:.3} seconds\">{}</span>", seconds.max(0.0), lasted(seconds)))
}

/// The same, for what was measured at some time.
pub fn measured(seconds: f64, at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Html {
    let on = at.map_or_else(String::new, |at| format!(", measured at {} UTC", at.format("%Y-%m-%d %H:%M:%S")));
    let ago = at.map_or_else(String::new, |at| format!(", measured {} ago", rough(now - at)));
    Html(format!(
        "<span class=\"num\" title=\"{:.3} seconds{on}\">{}</span><span class=\"hidden\">{ago}</span>",
        seconds.max(0.0),
        lasted(seconds)
    ))
}

/// A text from outside for where no markup can be, such as a page's title: without the marks that would turn what stands around.
pub fn unturned(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|c| !turns(*c)).take(200).collect()
}

/// How good or bad a word is.
fn tone(word: &str) -> &'static str {
    match word {
        "completed" | "good" | "verified" | "ok" | "ACTIVE" | "enabled" | "done" => "good",
        "failed" | "damaged" | "stale" | "refused" => "bad",
        "in_progress" | "pending" | "waiting" | "running" => "live",
        "differences" | "never" | "late" | "PENDING" | "remains" => "warn",
        _ => "dull",
    }
}

/// A state as a badge. Words of a platform's own are shown as they are.
pub fn badge(word: &str) -> Html {
    let mut text = word.replace('_', " ");
    if word.chars().all(|c| c.is_ascii_uppercase()) {
        text = text.to_lowercase();
    }
    Html(format!("<span class=\"badge {}\"><bdi>{}</bdi></span>", tone(word), escape(&text)))
}

/// The job's type as a person says it.
pub fn job_type(word: &str) -> &str {
    match word {
        "export_backup" => "Back up",
        "export_logs" => "Back up logs",
        "export_storage" => "Back up files",
        "restore_backup" => "Restore",
        "undo_restore" => "Undo a restore",
        "verify_backup" => "Verify",
        "drop_replaced" => "Tidy up after a restore",
        "repair_copies" => "Make copies",
        "delete_backup" => "Delete",
        "import_backup" => "Import",
        other => other,
    }
}

/// What JSON says, on one line of `name: value` pairs, for details that have no shape of their own. What says nothing is left out.
pub fn detail(value: &serde_json::Value) -> String {
    let text = match value.as_object() {
        Some(members) => pairs(members),
        None => said(value).unwrap_or_default(),
    };
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn pairs(members: &serde_json::Map<String, serde_json::Value>) -> String {
    let pair =
        |(name, value): (&String, &serde_json::Value)| Some(format!("{}: {}", name.replace('_', " "), said(value)?));
    members.iter().filter_map(pair).collect::<Vec<_>>().join(", ")
}

fn said(value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let text = match value {
        Value::Null => return None,
        Value::Bool(is_so) => (if *is_so { "yes" } else { "no" }).to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => format!("{number:.3}"),
            None => number.to_string(),
        },
        Value::Array(items) => items.iter().filter_map(said).collect::<Vec<_>>().join("; "),
        Value::Object(members) => pairs(members),
    };
    (!text.is_empty()).then_some(text)
}

/// A value in an address' query.
pub fn in_query(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A text as one segment of a path.
pub fn in_path(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_said_as_people_say_them() {
        for (seconds, said) in [
            (0, "0 s"),
            (89, "89 s"),
            (90, "2 min"),
            (3_600, "60 min"),
            (5_400, "2 h"),
            (26 * 3_600, "26 h"),
            (9 * 86_400, "9 days"),
        ] {
            assert_eq!(rough(Duration::seconds(seconds)), said);
        }
        for (seconds, said) in [(0.84, "0.8 s"), (42.0, "42 s"), (200.0, "3 min 20 s"), (7_500.0, "2 h 5 min")] {
            assert_eq!(lasted(seconds), said);
        }
    }

    #[test]
    fn numbers_have_separators() {
        for (number, said) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (-1_000, "−1,000")]
        {
            assert_eq!(count(number), said);
        }
    }

    #[test]
    fn details_are_said_without_what_says_nothing() {
        let detail = detail(&serde_json::json!({
            "restore_seconds": 1.398_751_6, "rows": 2002, "differences": [], "message": null, "is_new": true,
            "copies": [{ "storage": "near", "good": true, "message": null }, { "storage": "far", "good": false }],
        }));
        for said in ["restore seconds: 1.399", "rows: 2002", "is new: yes", "storage: near", "good: yes; ", "good: no"]
        {
            assert!(detail.contains(said), "{said}: {detail}");
        }
        assert!(!detail.contains("differences") && !detail.contains("message") && !detail.contains('"'), "{detail}");
    }

    #[test]
    fn what_comes_from_outside_is_text() {
        assert_eq!(name("<b>\"'&").to_string(), "<bdi>&lt;b&gt;&#34;&#39;&amp;</bdi>");
        assert!(!badge("<img src=x>").to_string().contains("<img"));
        assert_eq!(in_path("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
    }
}
