//! Every operation of the OpenAPI document against every kind of caller. An operation that has no row here fails the test.

mod forged;
mod table;
#[cfg(feature = "slow-tests")]
mod timing;

use crate::{api, auth::signers, support};

use std::{collections::BTreeSet, sync::LazyLock};

use api::{Answer, TestApi, request};
use axum::http::{Method, header};
use bytes::Bytes;
use holdfast::{
    auth::jwt::Claims,
    config::Config,
    ids::{BackupId, JobId},
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use signers::Signer;
use support::heard::{Listener, tell_plans};
use table::{Beyond, Elsewhere, Needs, Object, Row, new_channel, new_key, new_schedule, new_storage, rows};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(holdfast::http::openapi()).unwrap());

/// `METHOD /path` of every operation in the document.
fn documented() -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if ["get", "put", "post", "delete", "patch", "head", "options", "trace"].contains(&method.as_str()) {
                operations.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    operations
}

fn claims(
    subject: &str,
    permissions: &[Permission],
    projects: &[&str],
    role: Role,
    organization: Option<&str>,
) -> Claims {
    Claims {
        subject: subject.to_owned(),
        permissions: permissions.to_vec(),
        project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
        organization_id: organization.map(str::to_owned),
        role,
    }
}

struct Tried {
    answer: Answer,
    path: String,
    /// The id or name that the request named.
    named: String,
    /// What the control plane was asked, where the test listens.
    statements: Vec<String>,
    /// Events that were added by this call, but for refusals that have no word of their own.
    events: Vec<(String, String, String)>,
    /// Such refusals that were added by this call.
    refusals: i64,
    /// Jobs that were added by this call.
    jobs: i64,
}

/// The id of a key that this caller made, or else an operator did.
async fn fresh_key(api: &TestApi, token: Option<&str>) -> String {
    let body = new_key(BackupId::generate());
    let mine = api.post(token.unwrap_or_default(), "/api/keys", body.clone()).await;
    let made = if mine.status == 201 {
        mine
    } else {
        let operator = api.token(&claims("another operator", Permission::ALL, &[], Role::Operator, None));
        api.post(&operator, "/api/keys", body).await
    };
    made.data(201)["id"].as_str().unwrap().to_owned()
}

/// A fresh object that an operator made, by its name or id.
async fn managed(api: &TestApi, object: Object, id: BackupId) -> String {
    let operator = api.token(&claims("another operator", Permission::ALL, &[], Role::Operator, None));
    let (path, body) = match object {
        Object::Channel => ("/api/channels", new_channel(id)),
        Object::Database => {
            ("/api/databases", json!({ "name": id.short(), "url": "postgres://u:canary@127.0.0.1:1/d" }))
        }
        Object::Storage => ("/api/storages", new_storage(id)),
        Object::Schedule => ("/api/schedules", new_schedule(id)),
        _ => ("/api/organizations", json!({ "id": format!("empty-{id}"), "name": "Empty" })),
    };
    let made = api.post(&operator, path, body).await.data(201);
    let key = if made["id"].is_string() { &made["id"] } else { &made["name"] };
    key.as_str().unwrap().to_owned()
}

/// What stands in the path of a call by this caller: a fresh object of `acme`.
async fn fresh_object(api: &TestApi, object: Object, backup: BackupId, token: Option<&str>) -> String {
    let job = |id: JobId| id.to_string();
    match object {
        Object::Nothing => String::new(),
        Object::Backup => backup.to_string(),
        Object::EndedJob => job(api.job("acme", "export_backup", "completed").await),
        Object::WaitingJob => job(api.job("acme", "export_backup", "pending").await),
        Object::UndoableJob => job(api.undoable("acme").await),
        Object::User => {
            let name = format!("user {backup}");
            api.user(&name, Role::Member, Some("o-acme"), &["acme"]).await.to_string()
        }
        Object::OwnKey => fresh_key(api, token).await,
        Object::Project => "acme".to_owned(),
        Object::Organization => "o-acme".to_owned(),
        Object::EmptyOrganization | Object::Channel | Object::Database | Object::Storage | Object::Schedule => {
            managed(api, object, backup).await
        }
        Object::Made(make) => make(api).await,
    }
}

/// Calls an operation on fresh objects of `acme`.
async fn call(api: &TestApi, row: &Row, token: Option<&str>) -> Tried {
    let backup = api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first"]).await;
    // A project may have so many schedules and no more; only what has a manifest is the latest good one; and one restore at a time.
    for made_room in [
        "UPDATE control_plane.jobs SET status = 'cancelled', finished_at = now() WHERE status = 'pending'",
        "DELETE FROM control_plane.schedules WHERE project_id IS NOT NULL",
        "UPDATE control_plane.backups SET manifest = '{}' WHERE manifest IS NULL",
    ] {
        sqlx::query(made_room).execute(api.pool()).await.unwrap();
    }
    let object = fresh_object(api, row.object, backup, token).await;
    let path = row.target(&object);
    let refused = "SELECT count(*) FROM control_plane.backup_history WHERE event = 'refused'";
    let (events, refusals) = (api.audit().await.len(), api.count(refused).await);
    let jobs = api.count("SELECT count(*) FROM control_plane.jobs").await;
    let body = row.body.map(|body| body(backup));
    let listener = Listener::start();
    let answer = api.send(request(row.method(), &path, token, body)).await;
    let statements = listener.statements();
    drop(listener);
    let events = api.audit().await.split_off(events);
    let refusals = api.count(refused).await - refusals;
    let jobs = api.count("SELECT count(*) FROM control_plane.jobs").await - jobs;
    let named = if object.is_empty() { backup.to_string() } else { object };
    Tried { answer, path, named, statements, events, refusals, jobs }
}

/// The API with `acme` as the default project, which is a whole database.
async fn api_with(configure: impl FnOnce(&mut Config)) -> TestApi {
    let api = TestApi::with(configure).await;
    let whole = "UPDATE control_plane.projects SET backup_scope = 'database' WHERE id = 'acme'";
    sqlx::query(whole).execute(api.pool()).await.unwrap();
    api
}

/// Nothing of `acme` was named where others than its own people could have put it, in entries of what this one was refused.
async fn assert_nothing_is_written_about_acme(api: &TestApi, actor: &str) {
    let written = "SELECT count(*) FROM control_plane.backup_history
        WHERE actor = $1 AND (project_id IS NOT NULL OR backup_id IS NOT NULL)";
    let entries: i64 = sqlx::query_scalar(written).bind(actor).fetch_one(api.pool()).await.unwrap();
    assert_eq!(entries, 0, "entries by {actor}");
}

#[test]
fn every_operation_of_the_document_has_a_row() {
    let rows: BTreeSet<String> = rows().iter().map(|row| row.operation.to_owned()).collect();
    assert_eq!(documented(), rows);
}

#[test]
fn the_table_is_in_the_order_of_the_paths() {
    let rows = rows();
    let order: Vec<(&str, &str)> =
        rows.iter().map(|row| row.operation.split_once(' ').unwrap()).map(|(method, path)| (path, method)).collect();
    assert!(order.is_sorted(), "{:?}", order.windows(2).find(|pair| pair[0] > pair[1]));
}

#[test]
fn the_document_says_which_scope_each_operation_needs() {
    for row in rows() {
        let (method, path) = row.operation.split_once(' ').unwrap();
        let security = &DOCUMENT["paths"][path][method.to_lowercase()]["security"];
        let expected = match row.needs {
            Needs::Nothing => Value::Null,
            Needs::Signed => json!([{ "bearer": [] }]),
            Needs::Read => json!([{ "bearer": ["backup:read"] }]),
            Needs::Write => json!([{ "bearer": ["backup:write"] }]),
        };
        assert_eq!(security, &expected, "{}", row.operation);
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_valid_token() {
    let api = api_with(|_| {}).await;
    let mut cut = api.acme();
    cut.truncate(cut.len() - 4);
    let stale = api.acme();
    let no_key = format!("hfk_{}_{}", "0".repeat(32), "0".repeat(64));
    for name in ["alice", "bob"] {
        api.user(name, Role::Operator, None, &[]).await;
    }
    api.user("carol", Role::Operator, None, &[]).await;
    let (logged_out, disabled, carol) = (api.log_in("alice").await, api.log_in("bob").await, api.log_in("carol").await);
    let disabled_key = api.key(&disabled, new_key(BackupId::generate())).await;
    let revoked = api.key(&carol, new_key(BackupId::generate())).await;
    assert_eq!(api.post(&logged_out, "/auth/logout", json!({})).await.status, 204);
    let me = api.get(&disabled, "/auth/me").await.data(200)["user_id"].as_str().unwrap().to_owned();
    api.patch(&carol, &format!("/api/users/{me}"), json!({ "disabled": true })).await.data(200);
    let id = revoked.split('_').nth(1).unwrap().to_owned();
    assert_eq!(api.delete(&carol, &format!("/api/keys/{id}")).await.status, 204);
    for row in rows() {
        for (who, token) in [
            ("no token", None),
            ("nonsense", Some("x.y.z")),
            ("a cut token", Some(cut.as_str())),
            ("a key of no form", Some("hfk_x")),
            ("a key that is not there", Some(no_key.as_str())),
            ("a logged-out session", Some(logged_out.as_str())),
            ("a disabled user", Some(disabled.as_str())),
            ("a disabled user's key", Some(disabled_key.as_str())),
            ("a revoked key", Some(revoked.as_str())),
        ] {
            let tried = call(&api, &row, token).await;
            if row.needs == Needs::Nothing {
                // Logins are counted whoever sends a token along.
                let is_throttled = tried.answer.status == 429 && row.operation == "POST /auth/login";
                assert!(tried.answer.status.as_u16() == row.success || is_throttled, "{} by {who}", row.operation);
                continue;
            }
            let code = tried.answer.problem(401);
            assert_eq!(code, if token.is_some() { "auth.token_invalid" } else { "auth.token_missing" });
            let challenge = tried.answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert!(challenge.starts_with("Bearer "), "{challenge}");
            let has_left = !tried.events.is_empty() || tried.refusals != 0 || tried.jobs != 0;
            assert!(!has_left, "{} by {who} left something", row.operation);
        }
    }
    api.clock.advance(chrono::Duration::hours(2));
    for row in rows().into_iter().filter(|row| row.needs != Needs::Nothing) {
        let tried = call(&api, &row, Some(&stale)).await;
        assert_eq!(tried.answer.problem(401), "auth.token_expired", "{}", row.operation);
    }
}

#[tokio::test]
async fn a_token_without_the_scope_is_forbidden_and_the_refusal_is_written_down() {
    let api = api_with(|_| {}).await;
    for row in rows().into_iter().filter(|row| matches!(row.needs, Needs::Read | Needs::Write)) {
        for permissions in [&[Permission::Read][..], &[Permission::Write], &[]] {
            let tried = call(&api, &row, Some(&api.member("acme", permissions))).await;
            let needed = if row.needs == Needs::Read { Permission::Read } else { Permission::Write };
            if permissions.contains(&needed) {
                if matches!(row.elsewhere, Elsewhere::Admins(_) | Elsewhere::Operators) {
                    assert_eq!(tried.answer.problem(403), "auth.role", "{}", row.operation);
                    assert_eq!(tried.refusals, 1, "{}", row.operation);
                    continue;
                }
                assert_eq!(tried.answer.status.as_u16(), row.success, "{} {:?}", row.operation, tried.answer);
                continue;
            }
            assert_eq!(tried.answer.problem(403), "auth.forbidden", "{}", row.operation);
            let challenge = tried.answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert!(challenge.contains(needed.as_str()), "{challenge}");
            assert_eq!(tried.jobs, 0, "{} was done all the same", row.operation);
            let refused = |event: &str| (event.to_owned(), "member of acme".to_owned(), "refused".to_owned());
            assert_eq!(tried.events, row.refusal.map(refused).into_iter().collect::<Vec<_>>(), "{}", row.operation);
            assert_eq!(tried.refusals, i64::from(row.refusal.is_none()), "{}", row.operation);
        }
    }
}

#[tokio::test]
async fn a_refusal_of_a_stranger_leaves_nothing_in_the_tenants_history() {
    let api = api_with(|_| {}).await;
    for row in rows().into_iter().filter(|row| matches!(row.needs, Needs::Read | Needs::Write)) {
        let tried = call(&api, &row, Some(&api.member("globex", &[]))).await;
        assert_eq!(tried.answer.problem(403), "auth.forbidden", "{}", row.operation);
        assert!(tried.events.is_empty() && tried.jobs == 0, "{}: {:?}", row.operation, tried.events);
        assert_eq!(tried.refusals, 1, "{}", row.operation);
    }
    assert_nothing_is_written_about_acme(&api, "member of globex").await;
}

#[tokio::test]
async fn another_tenant_finds_nothing_and_cannot_tell_it_from_what_does_not_exist() {
    let api = api_with(|config| config.database.max_connections = 1).await;
    // Where the default project is not there.
    let elsewhere = TestApi::with(|config| {
        config.database.max_connections = 1;
        config.backup.default_project = "nobody".to_owned();
    })
    .await;
    for api in [&api, &elsewhere] {
        tell_plans(api.pool()).await;
    }
    let all = Permission::ALL;
    for (who, claims) in [
        ("another tenant", claims("mallory", all, &["globex"], Role::Member, None)),
        // For a member the organisation opens nothing.
        ("a member without projects", claims("mallory", all, &[], Role::Member, Some("o-acme"))),
        ("another organisation's admin", claims("mallory", all, &["acme"], Role::OrgAdmin, Some("o-globex"))),
        ("an admin without an organisation", claims("mallory", all, &["acme"], Role::OrgAdmin, None)),
    ] {
        let token = api.token(&claims);
        // What needs nothing is the same for all: see above.
        for row in rows().into_iter().filter(|row| row.needs != Needs::Nothing) {
            let tried = call(&api, &row, Some(&token)).await;
            assert!(tried.events.is_empty() && tried.jobs == 0, "{} by {who} left something", row.operation);
            let is_refused = !tried.answer.status.is_success();
            assert_eq!(tried.refusals, i64::from(is_refused), "{} by {who}", row.operation);
            let missing_from = if row.names_an_object() { &api } else { &elsewhere };
            match row.elsewhere {
                Elsewhere::Own => assert_nothing_of_acme(&tried),
                Elsewhere::Admins(beyond) if claims.role == Role::OrgAdmin && claims.organization_id.is_some() => {
                    match beyond {
                        Beyond::NotFound => assert_same_as_missing(missing_from, &row, &token, &tried).await,
                        Beyond::Empty => assert_empty(&row, who, &tried.answer),
                        Beyond::Own => assert_nothing_of_acme(&tried),
                        Beyond::Refused => assert_eq!(tried.answer.problem(403), "auth.grant"),
                    }
                }
                Elsewhere::Admins(_) | Elsewhere::Operators => {
                    assert_eq!(tried.answer.problem(403), "auth.role", "{} by {who}", row.operation)
                }
                Elsewhere::Same => assert_eq!(tried.answer.status.as_u16(), row.success),
                Elsewhere::Empty => assert_empty(&row, who, &tried.answer),
                Elsewhere::NotFound => assert_same_as_missing(missing_from, &row, &token, &tried).await,
            }
        }
    }
    assert_nothing_is_written_about_acme(&api, "mallory").await;
}

/// A list of nothing, or sums that are all zero or null, in `data` or bare.
fn assert_empty(row: &Row, who: &str, answer: &Answer) {
    assert_eq!(answer.status, 200, "{} by {who}: {answer:?}", row.operation);
    let json = answer.json();
    let data = json.get("data").unwrap_or(&json);
    assert!(!data.to_string().contains("acme"), "{} by {who}: {data}", row.operation);
    // A plan says more than which backups it is about.
    let data = data.get("backups").unwrap_or(data);
    assert!(is_nothing(data), "{} by {who}: {data}", row.operation);
}

fn assert_nothing_of_acme(tried: &Tried) {
    for mut item in tried.answer.data(200).as_array().unwrap().clone() {
        if let Some(organization) = item.get("organization_id") {
            assert_eq!(organization, "o-globex", "{}: {item}", tried.path);
        }
        // Of what its own people were refused the audit trail says what they had asked for.
        if item["event"] == "refused" && item["project_id"].is_null() {
            item["detail"] = Value::Null;
        }
        assert!(!item.to_string().contains("acme"), "{}: {item}", tried.path);
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::String(_) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_nothing),
    }
}

/// An id or name of the kind that the operation's path has, and that nothing has.
fn missing_object(row: &Row) -> String {
    let (method, path) = row.operation.split_once(' ').unwrap();
    let parameters = DOCUMENT["paths"][path][method.to_lowercase()]["parameters"].as_array().cloned();
    let schema = parameters.iter().flatten().find(|p| p["in"] == "path").map(|p| p["schema"].clone());
    let is_number = schema.is_some_and(|schema| schema["type"] == "integer");
    if is_number { "2147483647".to_owned() } else { BackupId::generate().to_string() }
}

/// The request for something that does not exist: for every name that says where to look, another that nothing has.
fn missing_request(row: &Row, token: &str) -> (axum::http::Request<axum::body::Body>, String) {
    let (id, object) = (BackupId::generate(), missing_object(row));
    let mut body = row.body.map(|body| body(id));
    if let Some(body) = &mut body {
        if body.get("project_id").is_some() {
            body["project_id"] = json!("nobody");
        }
        if body.get("project_ids").is_some() {
            body["project_ids"] = json!(["nobody"]);
        }
    }
    let named = if row.operation.contains('{') { object.clone() } else { id.to_string() };
    (request(row.method(), &row.target(&object), Some(token), body), named)
}

/// An answer's headers and body, with placeholders for what is different in every request and for what the caller itself has sent.
fn normalised(answer: &Answer, named: &str) -> (Vec<(String, String)>, String) {
    let id = answer.headers["x-request-id"].to_str().unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let text = text.replace(id, "REQUEST").replace(named, "NAMED").replace("acme", "nobody");
    // Names differ in length, and the length of the body with them.
    let headers = answer.headers.iter().filter(|(name, _)| *name != "x-request-id" && *name != "content-length");
    (headers.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect(), text)
}

/// Another's object and one that does not exist get the same answer byte for byte, but for what the caller has named, after the same
/// questions to the database.
async fn assert_same_as_missing(api: &TestApi, row: &Row, token: &str, tried: &Tried) {
    tried.answer.problem(404);
    let (request, named) = missing_request(row, token);
    let listener = Listener::start();
    let missing = api.send(request).await;
    let statements = listener.statements();
    drop(listener);
    assert_eq!(normalised(&missing, &named), normalised(&tried.answer, &tried.named), "{}", tried.path);
    let is_written_down = statements.iter().any(|statement| statement.contains("INTO control_plane.backup_history"));
    assert!(is_written_down, "{}: the refusal is not among {statements:?}", tried.path);
    assert_eq!(statements, tried.statements, "{}", tried.path);
}

#[tokio::test]
async fn those_who_reach_the_tenant_are_served() {
    let api = api_with(|_| {}).await;
    let all = Permission::ALL;
    for (who, claims) in [
        ("the tenant", claims("alice", all, &["acme"], Role::Member, None)),
        ("a member of both", claims("bob", all, &["globex", "acme"], Role::Member, None)),
        ("the organisation's admin", claims("carol", all, &[], Role::OrgAdmin, Some("o-acme"))),
        ("an operator", claims("dave", all, &[], Role::Operator, None)),
    ] {
        let token = api.token(&claims);
        for row in rows() {
            let tried = call(&api, &row, Some(&token)).await;
            let is_refused = match row.elsewhere {
                Elsewhere::Admins(_) => claims.role == Role::Member,
                Elsewhere::Operators => claims.role != Role::Operator,
                Elsewhere::NotFound | Elsewhere::Empty | Elsewhere::Own | Elsewhere::Same => false,
            };
            if is_refused {
                assert_eq!(tried.answer.problem(403), "auth.role", "{} by {who}", row.operation);
                assert!(tried.events.is_empty() && tried.jobs == 0, "{} by {who}", row.operation);
                assert_eq!(tried.refusals, 1, "{} by {who}", row.operation);
                continue;
            }
            assert_eq!(tried.answer.status.as_u16(), row.success, "{} by {who}: {:?}", row.operation, tried.answer);
            if let Some(event) = row.event.filter(|_| row.success < 300) {
                let expected = (event.to_owned(), claims.subject.clone(), "ok".to_owned());
                assert_eq!(tried.events, [expected], "{} by {who}", row.operation);
            }
        }
    }
}

#[tokio::test]
async fn a_platforms_signatures_a_session_and_a_key_reach_what_they_say_and_forged_ones_nothing() {
    let good = [Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d")];
    let strangers = [Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d")];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, signers::key_set(&good.iter().collect::<Vec<_>>())).unwrap();
    let api = api_with(|config| {
        use holdfast::config::TokenAlgorithm::{ES256, EdDSA, HS256, RS256};
        config.auth.algorithms = vec![HS256, RS256, ES256, EdDSA];
        config.auth.jwks_file = Some(file);
    })
    .await;
    let now = api.clock.now().timestamp();
    let body = json!({
        "iss": "holdfast", "aud": "holdfast", "sub": "platform|7", "iat": now, "exp": now + 3600,
        "scope": "backup:read backup:write", "project_ids": ["acme"],
    });
    api.user("alice", Role::Member, None, &["acme"]).await;
    let session = api.log_in("alice").await;
    let both = json!({ "name": "all", "permissions": ["backup:read", "backup:write"], "project_ids": ["acme"] });
    let key = api.key(&session, both).await;
    let key_id = key.split('_').nth(1).unwrap().parse::<uuid::Uuid>().unwrap();
    let mut callers: Vec<(String, String)> =
        good.iter().map(|signer| (signer.sign(&body), "platform|7".to_owned())).collect();
    callers.push((session, "user:alice".to_owned()));
    callers.push((key, format!("key:{key_id} (all)")));
    for row in rows() {
        for (token, subject) in &callers {
            // Ends the session, or asks for its user's password; tests/people.rs and tests/audit.rs have them.
            if ["POST /auth/logout", "POST /auth/password"].contains(&row.operation) {
                continue;
            }
            let tried = call(&api, &row, Some(token)).await;
            let is_key = token.starts_with("hfk_");
            let of_people = row.operation.contains("/api/users") || row.operation.contains("/api/keys");
            match (of_people && is_key, row.elsewhere) {
                (true, _) => assert_eq!(tried.answer.problem(403), "auth.by_key", "{} by {subject}", row.operation),
                (_, Elsewhere::Admins(_) | Elsewhere::Operators) => {
                    assert_eq!(tried.answer.problem(403), "auth.role", "{}", row.operation)
                }
                _ => {
                    assert_eq!(tried.answer.status.as_u16(), row.success, "{} by {subject}", row.operation);
                    if let Some(event) = row.event.filter(|_| row.success < 300) {
                        assert_eq!(tried.events, [(event.to_owned(), subject.clone(), "ok".to_owned())]);
                    }
                }
            }
        }
        for signer in strangers.iter().filter(|_| row.needs != Needs::Nothing) {
            let tried = call(&api, &row, Some(&signer.sign(&body))).await;
            assert_eq!(tried.answer.problem(401), "auth.token_invalid", "{}", row.operation);
            assert!(tried.events.is_empty() && tried.jobs == 0, "{}", row.operation);
        }
    }
}

#[tokio::test]
async fn where_things_are_is_told_to_operators_only() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let job = api.job("acme", "export_backup", "failed").await;
    let said = "cannot read postgres://canary-role@10.9.8.7:5432/app: permission denied";
    holdfast::history::job_log(api.pool(), Some("acme"), job, "error", said).await.unwrap();
    sqlx::query(
        "UPDATE control_plane.jobs SET lease_owner = 'canary-host:17', error_message = $1,
             result = jsonb_build_object('message', $1, 'server', 'canary-server', 'database', 'canary_database', 'schema', 'copy',
                 'files', jsonb_build_object('storage', 'canary-bucket', 'prefix', 'canary/now'), 'kept', 'canary/before'),
             payload = jsonb_build_object('request', jsonb_build_object('target_server', 'canary-server', 'target_database',
                 'canary_database', 'target_schema', 'copy', 'storages', jsonb_build_array($1)))",
    )
    .bind(said)
    .execute(api.pool())
    .await
    .unwrap();
    for sql in ["UPDATE control_plane.backups SET message = $1", "UPDATE control_plane.backup_copies SET message = $1"]
    {
        sqlx::query(sql).bind(said).execute(api.pool()).await.unwrap();
    }
    let event = "INSERT INTO control_plane.backup_history (backup_id, project_id, event, actor, outcome, detail)
        VALUES ($1, 'acme', 'failed', 'system:worker', 'failed', jsonb_build_object('message', $2))";
    sqlx::query(event).bind(id.0).bind(said).execute(api.pool()).await.unwrap();
    let place = json!({ "storage": "canary-bucket", "prefix": "canary/now" });
    for (event, detail) in [
        ("restored", json!({ "server": "canary-server", "database": "canary_database", "schema": "copy" })),
        ("restored", json!({ "files": &place, "kept": "canary/before" })),
        ("restored", json!({ "database": "own_database" })),
        ("project_added", json!({ "database": "canary-host", "files": &place, "schema": "tenant_acme" })),
        ("project_files_set", json!({ "files": &place })),
        ("completed", json!({ "files": 42 })),
    ] {
        sqlx::query(
            "INSERT INTO control_plane.backup_history (backup_id, project_id, event, actor, outcome, detail)
             VALUES ($1, 'acme', $2, 'system:worker', 'ok', $3)",
        )
        .bind(id.0)
        .bind(event)
        .bind(detail)
        .execute(api.pool())
        .await
        .unwrap();
    }

    let tenant = api.acme();
    let admin = api.token(&claims("carol", Permission::ALL, &[], Role::OrgAdmin, Some("o-acme")));
    let operator = api.token(&claims("dave", Permission::ALL, &[], Role::Operator, None));
    for path in [
        "/api/jobs".to_owned(),
        format!("/api/jobs/{job}"),
        format!("/api/jobs/{job}/logs"),
        format!("/api/jobs/{job}/events"),
        "/api/backup".to_owned(),
        format!("/api/backup/{id}"),
        format!("/api/backup/{id}/history"),
    ] {
        let text = async |token: &str| String::from_utf8(api.get(token, &path).await.body.to_vec()).unwrap();
        for token in [&tenant, &admin] {
            let shown = text(token).await;
            assert!(shown.contains("permission denied"), "{path}: {shown}");
            for hidden in ["canary", "10.9.8.7", "5432", "memory"] {
                assert!(!shown.contains(hidden), "{hidden} in {path}: {shown}");
            }
        }
        assert!(text(&operator).await.contains("canary-role@10.9.8.7:5432"), "{path}");
        // What a job carries, in lists, alone and in its events.
        if path.starts_with("/api/jobs") && !path.ends_with("/logs") {
            assert!(text(&tenant).await.contains("target_schema"), "{path}");
            for told in ["canary-server", "canary_database", "canary/now", "canary/before"] {
                assert!(text(&operator).await.contains(told), "{path}");
            }
        }
    }
    // The same events, each way that they are told.
    let history = format!("/api/backup/{id}/history");
    for (path, admins) in [
        (history.as_str(), [Some(&tenant), Some(&admin)]),
        ("/api/audit", [None, Some(&admin)]),
        ("/api/audit?format=jsonl", [None, Some(&admin)]),
        ("/api/audit?format=csv", [None, Some(&admin)]),
    ] {
        let text = async |token: &str| {
            String::from_utf8(api.get(token, path).await.body.to_vec()).unwrap().replace("\"\"", "\"")
        };
        for token in admins.into_iter().flatten() {
            let shown = text(token).await;
            assert!(!shown.contains("canary"), "{path}: {shown}");
            for told in ["project_files_set", "own_database", "tenant_acme", "\"files\":42"] {
                assert!(shown.contains(told), "{told} in {path}: {shown}");
            }
        }
        let shown = text(&operator).await;
        for told in ["canary-server", "canary_database", "canary-host", "canary/now", "canary/before"] {
            assert!(shown.contains(told), "{told} in {path}: {shown}");
        }
    }
}

#[tokio::test]
async fn an_idempotency_key_tells_nothing_of_another_tenants_job() {
    let api = TestApi::new().await;
    // One subject in two tenants: what a key belongs to is the subject.
    let token = |project: &str| api.token(&claims("alice", Permission::ALL, &[project], Role::Member, None));
    let export = async |project: &str, key: &str| {
        let body = json!({ "project_id": project });
        let mut request = request(Method::POST, "/api/backup/export", Some(&token(project)), Some(body));
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        api.send(request).await
    };
    let first = export("acme", "k").await.data(202);
    let second = export("globex", "k").await;
    assert_eq!(second.problem(409), "idempotency.reused");
    let shown = second.json().to_string();
    for id in ["job_id", "backup_id"] {
        assert!(!shown.contains(first[id].as_str().unwrap()), "{shown}");
    }
    let own = export("globex", "k2").await.data(202);
    assert_eq!((&own["status"], &own["project_id"]), (&json!("pending"), &json!("globex")));
}

#[tokio::test]
async fn another_tenants_job_is_not_there_and_only_the_id_that_was_asked_for_is_repeated() {
    let api = TestApi::new().await;
    let mallory = api.member("globex", Permission::ALL);
    let job = api.undoable("acme").await;
    for action in ["cancel", "undo"] {
        let answer = api.post(&mallory, &format!("/api/jobs/{job}/{action}"), json!({})).await;
        assert_eq!(answer.problem(404), "job.not_found");
        let mut told = answer.json();
        assert_eq!(told["detail"], format!("there is no job {job}"));
        assert_eq!(told["instance"], format!("/api/jobs/{job}/{action}"));
        let members: Vec<String> = told.as_object_mut().unwrap().keys().cloned().collect();
        for member in members {
            let known = ["type", "title", "status", "detail", "code", "hint", "instance", "request_id"];
            assert!(known.contains(&member.as_str()), "{member}");
        }
        assert!(!told.to_string().contains("acme"), "{told}");
    }
}

#[tokio::test]
async fn tokens_are_taken_from_one_authorization_header_only() {
    let api = TestApi::new().await;
    let token = api.acme();
    let ask = |name: &'static str, value: String| {
        let mut request = request(Method::GET, "/api/backup", None, None);
        request.headers_mut().append(name, value.parse().unwrap());
        request
    };
    for (name, value) in [
        ("authorization", token.clone()),
        ("authorization", format!("Basic {token}")),
        ("authorization", format!("Bearer  {token} x")),
        ("authorization", "Bearer".to_owned()),
        ("cookie", format!("token={token}")),
        ("x-authorization", format!("Bearer {token}")),
    ] {
        api.send(ask(name, value)).await.problem(401);
    }
    let mut twice = ask("authorization", format!("Bearer {token}"));
    twice.headers_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    api.send(twice).await.problem(401);
    api.get("", &format!("/api/backup?access_token={token}")).await.problem(401);
    assert_eq!(api.send(ask("authorization", format!("bearer {token}"))).await.status, 200);
}
