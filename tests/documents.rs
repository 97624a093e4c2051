//! What is written down is true: generated pages are current, and every command that a document shows exists.

use crate::support::document;

use std::{collections::BTreeSet, path::Path, process::Command};

use document::{Document, Operation};
use serde_json::{Value, json};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn docs_config_md_is_current() {
    assert!(read("docs/config.md") == holdfast::config::markdown(), "run `make regenerate`");
}

#[test]
fn docs_api_json_is_current() {
    let written: serde_json::Value = serde_json::from_str(&read("docs/api.json")).unwrap();
    let current = serde_json::to_value(holdfast::http::openapi()).unwrap();
    assert!(written == current, "run `make regenerate`");
}

#[test]
fn the_dockerfile_copies_everything_that_the_program_is_built_from() {
    let copied: BTreeSet<String> = read("contrib/docker/Dockerfile")
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"))
        .flat_map(|line| line.split_whitespace().rev().skip(1).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let let_in: BTreeSet<String> = read("contrib/docker/Dockerfile.dockerignore")
        .lines()
        .filter_map(|line| line.strip_prefix('!').map(str::to_owned))
        .collect();
    assert_eq!(copied, let_in, "what is copied and what .dockerignore lets in");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in &copied {
        assert!(root.join(name).exists(), "there is no {name}");
    }
    // What a build reads, where it is there: sources, what they include, what Cargo.toml names, and macros' own directories.
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        ".sqlx",
        "migrations",
        "src",
        "tests",
        "benches",
        "templates",
        "assets",
        "askama.toml",
    ] {
        assert_eq!(copied.contains(name), root.join(name).exists(), "{name}");
    }
}

/// The lines of a document's console blocks that call the program, without `$ `.
fn commands(document: &str) -> Vec<String> {
    read(document)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$ holdfast "))
        .map(|line| line.split('#').next().unwrap_or_default().trim().to_owned())
        .collect()
}

#[test]
fn every_command_in_the_documents_exists_with_its_options() {
    let mut seen = 0;
    for document in [
        "README.md",
        "docs/recovery.md",
        "docs/authentication.md",
        "docs/files.md",
        "docs/operations.md",
        "docs/notices.md",
    ] {
        for command in commands(document) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let mut path: Vec<&str> = words.iter().copied().take(1).collect();
            if matches!(path[0], "project" | "job" | "key" | "token" | "storage" | "catalog" | "user" | "notify") {
                path.push(words[1]);
            }
            let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).args(&path).arg("--help").output().unwrap();
            assert!(output.status.success(), "{document}: {command}");
            let help = String::from_utf8(output.stdout).unwrap();
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{document}: {command}: no {option}");
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} commands were found");
}

/// What an operation of this shape can answer, beside its success.
fn failures(operation: &Operation) -> Vec<&'static str> {
    let mut failures = vec!["500", "503"];
    let (is_signed, changes) = (!operation.value["security"].is_null(), operation.method != "GET");
    if is_signed {
        failures.extend(["401", "403"]);
    }
    if operation.has_placeholder() {
        failures.push("404");
    }
    if changes {
        failures.push("409");
    }
    if !operation.parameters("query").is_empty() {
        failures.push("422");
    }
    if operation.json_body().is_some() {
        failures.extend(["400", "413", "415", "422"]);
    }
    if !matches!(operation.path.as_str(), "/healthz" | "/readyz") {
        failures.push("429");
    }
    failures
}

#[test]
fn every_operation_says_what_it_is_what_it_takes_and_what_it_answers() {
    let document = Document::served();
    let tags: BTreeSet<&str> =
        document.0["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    assert_eq!(tags.len(), document.0["tags"].as_array().unwrap().len(), "a tag is told of twice");
    let mut ids = BTreeSet::new();
    for operation in document.operations() {
        let (name, value) = (operation.name(), &operation.value);
        let id = value["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no operationId"));
        assert!(ids.insert(id.to_owned()), "{name}: {id} is there twice");
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(id.chars().all(is_plain), "{name}: {id} is no name for a function");
        for tag in value["tags"].as_array().unwrap_or_else(|| panic!("{name} has no tag")) {
            assert!(tags.contains(tag.as_str().unwrap()), "{name}: nothing is said of the tag {tag}");
        }
        for text in ["summary", "description"] {
            assert!(value[text].as_str().is_some_and(|text| !text.trim().is_empty()), "{name} has no {text}");
        }
        for parameter in value["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["name"].is_string() && !parameter["schema"].is_null(), "{name}: {parameter}");
        }
        let placeholders = operation.path.matches('{').count();
        assert_eq!(operation.parameters("path").len(), placeholders, "{name}: the path's parameters");
        if let Some(body) = operation.json_body() {
            assert!(body["example"].is_object(), "{name} has no example of its body");
            let schema = document.resolved(&body["schema"]);
            assert!(is_closed(&document, &schema), "{name} takes unknown fields");
            // Two bodies of one name: the schema of the one would be documented for the other.
            let properties = document.properties(&schema);
            for field in body["example"].as_object().unwrap().keys() {
                let is_known = properties.is_empty() || properties.iter().any(|(name, ..)| name == field);
                assert!(is_known, "{name}: its example has {field}, its schema {} has not", body["schema"]);
            }
            for (field, _, is_required) in properties {
                assert!(!is_required || body["example"].get(&field).is_some(), "{name}: its example lacks {field}");
            }
        }
    }
    assert!(ids.len() > 25, "only {} operations", ids.len());
}

/// What does not fit between an example and its schema: members that are missing or unknown, and other types.
fn misfits(document: &Document, example: &Value, schema: &Value, at: &str, found: &mut Vec<String>) {
    if example.is_null() {
        // References are resolved without the possibility of null.
        return;
    }
    let schema = document.resolved(schema);
    let types = Document::types(&schema);
    let name = match example {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Null | Value::Number(_) => "integer",
    };
    if !types.is_empty() && !types.iter().any(|one| one == name || (one == "number" && name == "integer")) {
        found.push(format!("{at} is {name}, and not {types:?}"));
    }
    if let Some(words) = schema["enum"].as_array().filter(|words| !words.contains(example)) {
        found.push(format!("{at} is {example}, and none of {words:?}"));
    }
    match example {
        Value::Array(items) => items.iter().for_each(|item| misfits(document, item, &schema["items"], at, found)),
        Value::Object(members) => {
            let properties = document.properties(&schema);
            for (name, property, is_required) in &properties {
                match members.get(name) {
                    Some(member) => misfits(document, member, property, &format!("{at}.{name}"), found),
                    None if *is_required => found.push(format!("{at} has no {name}")),
                    None => {}
                }
            }
            if !properties.is_empty() {
                let known = |name: &String| properties.iter().any(|(property, ..)| property == name);
                found.extend(members.keys().filter(|name| !known(name)).map(|name| format!("{at} has {name}")));
            }
        }
        _ => {}
    }
}

/// An example of what is no JSON document is the text as it is sent; what it holds of JSON fits its schema.
fn fits_as_text(document: &Document, media_type: &str, text: &str, name: &str) {
    let fits = |json: &str, schema: &str| {
        let value: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{name}: {error}: {json}"));
        let mut found = Vec::new();
        misfits(document, &value, &json!({ "$ref": format!("#/components/schemas/{schema}") }), "it", &mut found);
        assert!(found.is_empty(), "{name}: {found:?}");
    };
    assert!(text.ends_with('\n'), "{name}: {text:?}");
    match media_type {
        "application/jsonl" => text.lines().for_each(|line| fits(line, "AuditEntry")),
        "text/event-stream" => {
            for event in text.strip_suffix("\n\n").unwrap().split("\n\n") {
                let field = |field: &str| event.lines().find_map(|line| line.strip_prefix(field));
                let schema = if field("event: ") == Some("log") { "LogLine" } else { "Job" };
                fits(field("data: ").unwrap(), schema);
            }
        }
        "text/csv" => assert!(text.starts_with("id,at,event,") && text.lines().count() == 2, "{text}"),
        "text/plain" => {}
        other => panic!("{name}: {other} is not looked at"),
    }
}

#[test]
fn every_answer_has_an_example_that_fits_its_schema() {
    let document = Document::served();
    let mut seen = 0;
    for operation in document.operations() {
        for (status, response) in operation.value["responses"].as_object().unwrap() {
            let name = format!("{} {status}", operation.name());
            for (media_type, content) in response["content"].as_object().into_iter().flatten() {
                let example = &content["example"];
                match media_type.as_str() {
                    "application/json" => assert!(!example.is_null(), "{name} has no example"),
                    "application/problem+json" => {
                        assert_eq!(example["status"].to_string(), *status, "{name}");
                        let code = example["code"].as_str().unwrap();
                        assert_eq!(example["type"], format!("urn:holdfast:problem:{code}"), "{name}");
                    }
                    "application/octet-stream" => continue,
                    _ => {
                        let text = example.as_str().unwrap_or_else(|| panic!("{name} has no example of {media_type}"));
                        fits_as_text(&document, media_type, text, &name);
                        seen += 1;
                        continue;
                    }
                }
                let mut found = Vec::new();
                misfits(&document, example, &content["schema"], "it", &mut found);
                assert!(found.is_empty(), "{name}: {found:?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 500, "only {seen} examples");
}

/// Whether an object, in each of its variants, takes no field that is not described.
fn is_closed(document: &Document, schema: &Value) -> bool {
    let variants = schema["oneOf"].as_array().or_else(|| schema["allOf"].as_array());
    match variants {
        Some(variants) => variants.iter().all(|variant| is_closed(document, &document.resolved(variant))),
        None => schema["additionalProperties"] == false,
    }
}

#[test]
fn every_failure_that_can_be_is_documented_as_a_problem() {
    let document = Document::served();
    for operation in document.operations() {
        let name = operation.name();
        let responses = operation.value["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name} never succeeds");
        for status in failures(&operation) {
            assert!(responses.contains_key(status), "{name} does not document {status}");
        }
        for (status, response) in responses {
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {status}");
            if !status.starts_with(['4', '5']) {
                continue;
            }
            let content = response["content"].as_object().unwrap_or_else(|| panic!("{name}: {status} has no content"));
            let types: Vec<&str> = content.keys().map(String::as_str).collect();
            assert_eq!(types, ["application/problem+json"], "{name}: {status}");
            let schema = &content["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ProblemDocument", "{name}: {status}");
        }
    }
}

#[test]
fn every_operation_says_who_may_call_it_in_terms_that_authorize_understands() {
    let document = Document::served();
    let schemes = document.0["components"]["securitySchemes"].as_object().unwrap();
    // What Swagger UI's "Authorize" asks a bearer token for.
    assert_eq!((&schemes["bearer"]["type"], &schemes["bearer"]["scheme"]), (&"http".into(), &"bearer".into()));
    for operation in document.operations() {
        let (name, security) = (operation.name(), &operation.value["security"]);
        let is_open =
            matches!(operation.path.as_str(), "/auth/login" | "/auth/setup" | "/healthz" | "/readyz" | "/metrics");
        if security.is_null() {
            assert!(is_open, "{name} needs no token, and is not among those that are open on purpose");
            continue;
        }
        for requirement in security.as_array().unwrap() {
            let (scheme, scopes) = requirement.as_object().unwrap().iter().next().unwrap();
            assert!(schemes.contains_key(scheme), "{name}: there is no security scheme {scheme}");
            for scope in scopes.as_array().unwrap() {
                assert!(matches!(scope.as_str(), Some("backup:read" | "backup:write")), "{name}: {scope}");
            }
        }
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn walk(document: &Value, value: &Value, seen: &mut usize) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    *seen += 1;
                }
                members.values().for_each(|member| walk(document, member, seen));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(document, item, seen)),
            _ => {}
        }
    }
    let (document, mut seen) = (Document::served(), 0);
    walk(&document.0, &document.0, &mut seen);
    assert!(seen > 100, "only {seen} references");
}
