//! Everything in a request that can be wrong, for every operation of the OpenAPI document: it is refused with a status of 4xx, a code
//! and the field's name; nothing falls over, and no job is written down.

mod listed;
mod values;

use crate::{api, support::document};

use api::{Answer, TestApi, request};
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, header},
};
use bytes::Bytes;
use document::{Document, Operation};
use holdfast::{
    auth::jwt::Claims,
    ids::BackupId,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use values::{Expect, Wrong};

/// Parts of a path that name nothing, as they are on the wire.
const PATH_TRICKS: [&str; 18] = [
    "..",
    "%2e%2e",
    "%2E%2E%2Fetc%2Fpasswd",
    "..%5c..%5cetc",
    "%2Fetc%2Fpasswd",
    "%00",
    "a%00b",
    "%ff%fe",
    "%0d%0aX-Evil:%201",
    "%1b%5b2J",
    "-x",
    "--help",
    "%F0%9F%92%A3",
    "%E2%80%AEgnp",
    "'%20OR%20'1'='1",
    "%25s%25n",
    "99999999999999999999999999",
    "*",
];

/// An API with a scene in it, and requests from ever new operators, so that no limit on one caller hides an answer.
struct Scene {
    api: TestApi,
    document: Document,
    callers: std::cell::Cell<u32>,
}

impl Scene {
    async fn new() -> Self {
        Self { api: TestApi::new().await, document: Document::served(), callers: 0.into() }
    }

    fn token(&self) -> String {
        self.callers.set(self.callers.get() + 1);
        self.api.token(&Claims {
            subject: format!("operator {}", self.callers.get()),
            permissions: Permission::ALL.to_vec(),
            project_ids: Vec::new(),
            organization_id: None,
            role: Role::Operator,
        })
    }

    /// Something that is there, for the placeholder of this operation's path.
    async fn object(&self, operation: &Operation) -> String {
        let Some((collection, rest)) = operation.path.split_once("/{") else { return String::new() };
        let id = BackupId::generate();
        match collection {
            "/api/backup" => self.backup().await.to_string(),
            "/api/jobs" => self.api.job("acme", "export_backup", "completed").await.to_string(),
            "/api/users" => self.api.user(&format!("user {id}"), Role::Member, None, &["acme"]).await.to_string(),
            _ => {
                let placeholder = rest.split('}').next().unwrap_or_default();
                self.made(collection, placeholder).await.unwrap_or_else(|| id.to_string())
            }
        }
    }

    /// One that was made by the document's own example, or is there already.
    async fn made(&self, collection: &str, placeholder: &str) -> Option<String> {
        let plain = |value: &Value| value.as_str().map(str::to_owned).or_else(|| Some(value.as_i64()?.to_string()));
        if let Some(post) = self.document.operation(&format!("POST {collection}")) {
            let body = self.example(&post).await;
            let answer = self.send("POST", collection, body.as_ref()).await;
            let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let member = json["data"].get(placeholder).or_else(|| json.get(placeholder));
            if let Some(found) = member.and_then(plain) {
                return Some(found);
            }
        }
        let listed = self.send("GET", collection, None).await;
        let json: Value = serde_json::from_slice(&listed.body).unwrap_or_default();
        let first = json["data"].get(0).or_else(|| json.get(0))?;
        first.get(placeholder).and_then(plain)
    }

    async fn backup(&self) -> BackupId {
        self.api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first"]).await
    }

    /// The document's example of a body, with the names of things that are there.
    async fn example(&self, operation: &Operation) -> Option<Value> {
        let mut example = operation.json_body()?.get("example")?.clone();
        let id = self.backup().await;
        for (name, value) in [
            ("project_id", json!("acme")),
            ("project_ids", json!(["acme"])),
            ("backup_id", json!(id)),
            ("organization_id", json!("o-acme")),
            ("storages", json!(["first"])),
            ("storage", json!("first")),
        ] {
            if example.get(name).is_some() {
                example[name] = value;
            }
        }
        // A user, a project and the like can be made once only.
        if operation.method == "POST" && example.get("name").is_some() {
            example["name"] = json!(format!("n{}", id.short()));
        }
        Some(example)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Request<Body> {
        request(method.parse::<Method>().unwrap(), path, Some(&self.token()), body.cloned())
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.api.send(self.request(method, path, body)).await
    }

    /// The same with these bytes, whatever they are.
    async fn send_bytes(&self, method: &str, path: &str, content_type: Option<&'static str>, body: Vec<u8>) -> Answer {
        let mut request = self.request(method, path, None);
        if let Some(content_type) = content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        *request.body_mut() = body.into();
        self.api.send(request).await
    }

    async fn jobs(&self) -> i64 {
        self.api.count("SELECT count(*) FROM control_plane.jobs").await
    }

    fn with_json_body(&self) -> Vec<Operation> {
        self.document.operations().into_iter().filter(|operation| operation.json_body().is_some()).collect()
    }
}

/// Refused as the request's own fault, with all that a problem has, in one of these ways.
#[track_caller]
fn refused(answer: &Answer, what: &str) -> (u16, String, String) {
    let status = answer.status.as_u16();
    assert!((400..500).contains(&status), "{what}: {status} {}", String::from_utf8_lossy(&answer.body));
    let code = answer.problem(status);
    assert!(!code.is_empty(), "{what}");
    let json = answer.json();
    (status, code, format!("{} {}", json["detail"].as_str().unwrap(), json["hint"].as_str().unwrap_or_default()))
}

/// Whether a text names this field, in the singular too.
fn names(detail: &str, field: &str) -> bool {
    detail.contains(field) || detail.contains(field.trim_end_matches('s'))
}

#[tokio::test]
async fn a_body_that_is_not_the_one_that_is_asked_for_is_refused() {
    let scene = Scene::new().await;
    for operation in scene.with_json_body() {
        let (name, object) = (operation.name(), scene.object(&operation).await);
        let path = operation.path_of(&object);
        let example = scene.example(&operation).await.unwrap_or_else(|| panic!("{name} has no example"));
        let before = scene.jobs().await;
        let json = Some("application/json");
        let method = operation.method.as_str();
        if operation.value["requestBody"]["required"] == true {
            let answer = scene.send_bytes(method, &path, json, Vec::new()).await;
            assert_eq!(refused(&answer, &format!("{name}: nothing")).0, 400);
        }
        let text = example.to_string();
        let mut invalid_utf8 = text.clone().into_bytes();
        invalid_utf8.splice(1..1, *b"\"\xff\xfe\":1,");
        for (what, body, allowed) in [
            ("cut", text.as_bytes()[..text.len() - 1].to_vec(), &[400][..]),
            ("invalid UTF-8", invalid_utf8, &[400, 422]),
            ("an array", b"[]".to_vec(), &[422]),
            ("a list of bodies", format!("[{text}]").into_bytes(), &[422]),
            (
                "a list of its values",
                json!(example.as_object().unwrap().values().collect::<Vec<_>>()).to_string().into(),
                &[422],
            ),
            ("null", b"null".to_vec(), &[422]),
            ("a text", b"\"x\"".to_vec(), &[422]),
            ("a number", b"1e400".to_vec(), &[400, 422]),
            ("deep arrays", [vec![b'['; 20_000], vec![b']'; 20_000]].concat(), &[400, 422]),
            ("deep objects", format!("{}1{}", "{\"a\":".repeat(20_000), "}".repeat(20_000)).into_bytes(), &[400, 422]),
            ("two values", format!("{text}{text}").into_bytes(), &[400]),
            ("too much", format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20)).into_bytes(), &[413]),
        ] {
            let answer = scene.send_bytes(method, &path, json, body).await;
            let what = format!("{name}: {what}");
            let (status, code, _) = refused(&answer, &what);
            assert!(allowed.contains(&status) || status == 404, "{what}: {status} {code}");
        }
        for content_type in
            [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/xml")]
        {
            let answer = scene.send_bytes(method, &path, content_type, text.clone().into_bytes()).await;
            let what = format!("{name}: as {content_type:?}");
            assert_eq!(refused(&answer, &what).0, 415, "{what}");
        }
        let mut unknown = example.clone();
        unknown["an_unknown_field"] = json!(1);
        let answer = scene.send(method, &path, Some(&unknown)).await;
        let (status, _, detail) = refused(&answer, &format!("{name}: an unknown field"));
        assert!(status == 422 && detail.contains("an_unknown_field"), "{name}: {status} {detail}");
        assert_eq!(scene.jobs().await, before, "{name} wrote a job down");
    }
}

#[tokio::test]
async fn an_example_of_the_document_is_understood() {
    let (scene, mut wrong) = (Scene::new().await, Vec::new());
    for operation in scene.with_json_body() {
        let object = scene.object(&operation).await;
        let example = scene.example(&operation).await.unwrap_or_else(|| panic!("{} has no example", operation.name()));
        let answer = scene.send(&operation.method, &operation.path_of(&object), Some(&example)).await;
        // The artifact of the example lies in nobody's storage: that is found out after everything was understood.
        let is_understood = operation.path == "/api/backup/import" && answer.json()["code"] == "manifest.missing";
        if !is_understood && matches!(answer.status.as_u16(), 400 | 413 | 415 | 422 | 500..) {
            wrong.push(format!("{}: {example}: {}", operation.name(), String::from_utf8_lossy(&answer.body)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_field_with_a_wrong_value_is_refused_by_its_name() {
    let scene = Scene::new().await;
    let (mut tried, mut wrong) = (0, Vec::new());
    for operation in scene.with_json_body() {
        let (name, object) = (operation.name(), scene.object(&operation).await);
        let path = operation.path_of(&object);
        let example = scene.example(&operation).await.unwrap_or_else(|| panic!("{name} has no example"));
        let schema = scene.document.resolved(&operation.json_body().unwrap()["schema"]);
        let (before, mut accepted) = (scene.jobs().await, 0);
        for case in values::wrong_bodies(&scene.document, &example, &schema) {
            let Wrong { field, what, body, expect } = case;
            tried += 1;
            let answer = scene.send(&operation.method, &path, Some(&body)).await;
            let status = answer.status.as_u16();
            let shown = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
            let may_be_taken = expect == Expect::Refused && values::takes_any_text(&name, &field);
            if may_be_taken && (200..300).contains(&status) {
                accepted += 1;
                continue;
            }
            // Many attempts on one account: the throttle's own test is in tests/people.rs.
            if status == 429 && operation.path.starts_with("/auth/") {
                continue;
            }
            if !(400..500).contains(&status) {
                wrong.push(format!("{name}: {field} {what}: {status} {shown}"));
                continue;
            }
            let (_, _, detail) = refused(&answer, &format!("{name}: {field} {what}"));
            // What does not exist is not there; which field named it follows.
            if matches!(status, 400 | 422) && !names(&detail, values::last(&field)) {
                wrong.push(format!("{name}: {field} {what}: not named: {shown}"));
            }
            if expect == Expect::Named && status != 422 && status != 404 {
                wrong.push(format!("{name}: {field} {what}: {status} instead of 422: {shown}"));
            }
        }
        if scene.jobs().await - before > accepted {
            wrong.push(format!("{name} wrote a job down"));
        }
    }
    assert!(tried > 200, "only {tried} were tried");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn a_query_with_a_wrong_value_is_refused_by_its_name() {
    let scene = Scene::new().await;
    let (mut tried, mut wrong) = (0, Vec::new());
    for operation in scene.document.operations() {
        let name = operation.name();
        let parameters = operation.parameters("query");
        if parameters.is_empty() {
            continue;
        }
        let path = operation.path_of(&scene.object(&operation).await);
        let before = scene.jobs().await;
        for parameter in parameters {
            let field = parameter["name"].as_str().unwrap();
            let schema = scene.document.resolved(&parameter["schema"]);
            for (value, expect) in values::wrong_queries(field, &schema) {
                tried += 1;
                // There the cursor is a project's id, and nearly every word can be one.
                let is_id = field == "cursor" && operation.path == "/api/retention/plan";
                let expect = if is_id { Expect::Refused } else { expect };
                let query = value.replace("NAME", field);
                let answer = scene.send(&operation.method, &format!("{path}?{query}"), None).await;
                let (status, shown) = (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned());
                let query: String = query.chars().take(80).collect();
                match expect {
                    Expect::Refused if (200..300).contains(&status) => {}
                    _ if !(400..500).contains(&status) => wrong.push(format!("{name}?{query}: {status} {shown}")),
                    _ => {
                        let (_, _, detail) = refused(&answer, &format!("{name}?{query}"));
                        // What is too long as a whole is refused before anything of it is read.
                        if expect == Expect::Named && status != 414 && !names(&detail, field) {
                            wrong.push(format!("{name}?{query}: not named: {shown}"));
                        }
                    }
                }
            }
        }
        let answer = scene.send(&operation.method, &format!("{path}?an_unknown_parameter=1"), None).await;
        let (status, _, detail) = refused(&answer, &format!("{name}: an unknown parameter"));
        if status != 422 || !detail.contains("an_unknown_parameter") {
            wrong.push(format!("{name}: an unknown parameter: {status} {detail}"));
        }
        if scene.jobs().await != before {
            wrong.push(format!("{name} wrote a job down"));
        }
    }
    assert!(tried > 100, "only {tried} were tried");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn a_path_that_names_nothing_is_refused() {
    let scene = Scene::new().await;
    let mut wrong = Vec::new();
    for operation in scene.document.operations().into_iter().filter(Operation::has_placeholder) {
        let name = operation.name();
        let body = scene.example(&operation).await;
        let before = scene.jobs().await;
        let long = "x".repeat(300);
        for trick in PATH_TRICKS.into_iter().chain([long.as_str()]) {
            let answer = scene.send(&operation.method, &operation.path_of(trick), body.as_ref()).await;
            let status = answer.status.as_u16();
            if !(400..500).contains(&status) {
                wrong.push(format!("{name} with {trick}: {status} {}", String::from_utf8_lossy(&answer.body)));
                continue;
            }
            let (_, _, detail) = refused(&answer, &format!("{name} with {trick}"));
            if detail.chars().any(char::is_control) || answer.headers.contains_key("x-evil") {
                wrong.push(format!("{name} with {trick} repeats what it was sent: {detail:?}"));
            }
        }
        if scene.jobs().await != before {
            wrong.push(format!("{name} wrote a job down"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn odd_methods_and_paths_are_problems_too() {
    let scene = Scene::new().await;
    for operation in scene.document.operations() {
        let object = scene.object(&operation).await;
        for method in ["TRACE", "CONNECT", "PROPFIND", "get"] {
            let answer = scene.send(method, &operation.path_of(&object), None).await;
            assert_eq!(answer.problem(405), "request.method", "{method} {}", operation.path);
        }
        let path = format!("{}/nothing/here", operation.path_of("x"));
        assert_eq!(refused(&scene.send("GET", &path, None).await, &path).0, 404);
    }
}
