//! What answers look like: an example for every JSON answer, put together from its schema, for every text, and for every failure. Words that a
//! schema does not say stand here.

use serde_json::{Map, Value, json};
use utoipa::openapi::{Content, OpenApi, RefOr, Response};

use crate::http::{
    api::audit::{self, AuditFormat},
    error::MEDIA_TYPE,
};

/// The same id wherever one stands.
const ID: &str = "0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa";

const INSTANT: &str = "2026-11-21T02:00:00Z";

/// What a field of this name holds, where its schema does not say it. One that may be `null` and is not listed is `null`.
const FIELDS: &[(&str, &str)] = &[
    ("actor", "alice@example.com"),
    ("address", "192.0.2.17"),
    ("backup_scope", "schema"),
    ("backup_type", "manual"),
    ("compression", "gzip"),
    ("content_sha256", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    ("created_by", "alice@example.com"),
    ("cron", "0 2 * * *"),
    ("database", "app"),
    ("description", "At 02:00 AM."),
    ("digest", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    ("encryption", "age"),
    ("event", "completed"),
    ("file_id", "backups/acme/backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age"),
    ("file_name", "backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age"),
    ("format", "sql"),
    ("host", "db2.internal"),
    ("key", "hfk_0199c5f07c1e7d2a9d5c2a52b6f0e7aa_…"),
    ("level", "info"),
    ("message", "uploading"),
    ("name", "Acme Ltd"),
    ("origin", "configuration"),
    ("outcome", "ok"),
    ("permission", "backup:read"),
    ("pg_version", "15.20"),
    ("place", "s3://backups/holdfast"),
    ("project_id", "acme"),
    ("role", "member"),
    ("schema", "tenant_acme"),
    ("sha256", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    ("slug", "acme"),
    ("status", "completed"),
    ("storage", "offsite"),
    ("subject", "alice@example.com"),
    ("token", "eyJhbGciOiJIUzI1NiJ9.…"),
    ("type", "database"),
    ("user", "backup"),
    ("version", "15.20"),
    ("zone", "Europe/Berlin"),
];

/// The same for numbers; the others are 1, or their minimum.
const NUMBERS: &[(&str, u64)] = &[
    ("bytes", 4_216_779),
    ("copies_missing", 0),
    ("expiring_soon", 2),
    ("last_30_days", 30),
    ("last_7_days", 7),
    ("max_attempts", 3),
    ("number", 7),
    ("port", 5432),
    ("projects_elsewhere", 0),
    ("size", 4_216_779),
    ("total_backups", 31),
    ("total_size", 130_720_149),
];

/// Said only when there is something to say.
const MOSTLY_NULL: &[&str] = &["message"];

/// Gives every answer of the document an example that has none, but for those that are bytes.
pub(super) fn add(document: &mut OpenApi) {
    let schemas = document.components.as_ref().and_then(|all| serde_json::to_value(&all.schemas).ok());
    let schemas = Schemas(schemas.unwrap_or_default());
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    give(response, status, &schemas);
                }
            }
        }
    }
}

fn give(response: &mut Response, status: &str, schemas: &Schemas) {
    for (media_type, content) in &mut response.content {
        let RefOr::T(content) = content else { continue };
        if content.example.is_some() || !content.examples.is_empty() {
            continue;
        }
        content.example = match media_type.as_str() {
            "application/json" => answer(content, schemas),
            "application/jsonl" => Some(json!(audit::example(AuditFormat::Jsonl))),
            "text/csv" => Some(json!(audit::example(AuditFormat::Csv))),
            "text/event-stream" => Some(json!(stream(schemas))),
            MEDIA_TYPE => problem(status),
            _ => None,
        };
    }
}

fn answer(content: &Content, schemas: &Schemas) -> Option<Value> {
    let schema = serde_json::to_value(content.schema.as_ref()?).ok()?;
    Some(schemas.example(&schema, ""))
}

/// A job that ended, as whoever follows it is told: a line of its log, and the job.
fn stream(schemas: &Schemas) -> String {
    let of = |name: &str| schemas.example(&json!({ "$ref": format!("#/components/schemas/{name}") }), "");
    format!("event: log\nid: 17\ndata: {}\n\nevent: end\ndata: {}\n\n", of("LogLine"), of("Job"))
}

/// The document's components.
struct Schemas(Value);

impl Schemas {
    /// What stands in a field of this name, by its schema.
    fn example(&self, schema: &Value, field: &str) -> Value {
        if let Some(example) = schema.get("example").or_else(|| schema.get("examples")?.get(0)) {
            return example.clone();
        }
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|name| name.rsplit('/').next()) {
            return self.0.get(name).map_or(Value::Null, |schema| self.example(schema, field));
        }
        if let Some(Value::Array(all)) = schema.get("allOf") {
            let parts = all.iter().filter_map(|schema| match self.example(schema, field) {
                Value::Object(members) => Some(members),
                _ => None,
            });
            return Value::Object(parts.flatten().collect());
        }
        if let Some(Value::Array(one_of)) = schema.get("oneOf").or_else(|| schema.get("anyOf")) {
            // Of one that may be null, nothing; else the first.
            let is_null = |schema: &Value| schema["type"] == "null";
            let first = one_of.iter().find(|schema| !is_null(schema)).filter(|_| !one_of.iter().any(is_null));
            return first.map_or(Value::Null, |schema| self.example(schema, field));
        }
        if let Some(word) = schema.get("enum").and_then(|words| words.get(0)) {
            return word.clone();
        }
        self.by_type(schema, field)
    }

    fn by_type(&self, schema: &Value, field: &str) -> Value {
        let types: Vec<&str> = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let listed = FIELDS.iter().find(|(name, _)| *name == field).map(|(_, text)| *text);
        let is_told = listed.is_some() && types.contains(&"string") && !MOSTLY_NULL.contains(&field);
        if types.contains(&"null") && !is_told {
            return Value::Null;
        }
        let format = schema["format"].as_str();
        match types.iter().find(|name| **name != "null").copied() {
            Some("object") => Value::Object(self.members(schema)),
            Some("array") => match &schema["items"] {
                items @ Value::Object(_) => json!([self.example(items, field.trim_end_matches('s'))]),
                _ => json!([]),
            },
            Some("string") => match (format, listed) {
                (Some("uuid"), _) => json!(ID),
                (Some("date-time"), _) => json!(INSTANT),
                (_, Some(text)) => json!(text),
                (_, None) => json!("…"),
            },
            Some("integer" | "number") => match NUMBERS.iter().find(|(name, _)| *name == field) {
                Some((_, number)) => json!(number),
                None => schema.get("minimum").filter(|least| **least != 0).cloned().unwrap_or(json!(1)),
            },
            Some("boolean") => json!(matches!(field, "good" | "enabled")),
            _ => Value::Null,
        }
    }

    fn members(&self, schema: &Value) -> Map<String, Value> {
        let fields = schema["properties"].as_object().into_iter().flatten();
        fields.map(|(name, schema)| (name.clone(), self.example(schema, name))).collect()
    }
}

/// A failure of this status as it comes most.
fn problem(status: &str) -> Option<Value> {
    let (code, title, detail) = match status {
        "400" => ("request.json", "Bad Request", "the body is not JSON: expected value at line 1 column 1"),
        "401" => ("auth.token_missing", "Unauthorized", "this call needs a token"),
        "403" => ("auth.forbidden", "Forbidden", "this needs the scope backup:write"),
        "404" => ("backup.not_found", "Not Found", "there is no backup 0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa"),
        "409" => ("project.not_active", "Conflict", "project \"acme\" is INACTIVE, not ACTIVE"),
        "413" => ("request.too_large", "Payload Too Large", "the body is larger than is allowed"),
        "414" => ("request.uri_too_long", "URI Too Long", "the path and query have 9000 bytes, and 8192 are allowed"),
        "415" => ("request.content_type", "Unsupported Media Type", "the body is not marked as JSON"),
        "416" => ("request.range", "Range Not Satisfiable", "the range lies behind the end"),
        "422" => ("request.limit", "Unprocessable Entity", "limit is 1000: use 1 to 200"),
        "429" => ("limits.rate", "Too Many Requests", "too many calls"),
        "431" => (
            "request.headers_too_large",
            "Request Header Fields Too Large",
            "the headers have 20000 bytes, and 16384 are allowed",
        ),
        "500" => ("internal", "Internal Server Error", "something went wrong on our side"),
        "502" => ("storage.not_found", "Bad Gateway", "the stored bytes are gone"),
        "503" => ("control_plane.unavailable", "Service Unavailable", "the control plane cannot be reached now"),
        _ => return None,
    };
    let status: u16 = status.parse().ok()?;
    Some(json!({
        "type": format!("urn:holdfast:problem:{code}"), "title": title, "status": status, "detail": detail, "code": code,
        "request_id": "0199c5f1-0b52-7f0e-8a34-8a1d3c7f5b10",
    }))
}
