//! Every operation of the OpenAPI document against every kind of caller. An operation that has no row here fails the test.

mod api;
#[path = "auth/signers.rs"]
mod signers;
mod support;

use std::collections::BTreeSet;

use api::{Answer, TestApi, request};
use axum::http::{Method, header};
use bytes::Bytes;
use holdfast::{
    auth::jwt::Claims,
    ids::{BackupId, JobId},
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use signers::Signer;

/// What an operation needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Nothing at all, on purpose.
    Nothing,
    /// Any valid token.
    Signed,
    Read,
    Write,
}

/// What a caller without reach finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elsewhere {
    /// The object does not exist for it.
    NotFound,
    /// A list or sum of nothing.
    Empty,
    /// The operation knows no tenants.
    Same,
    /// 403 for members, whatever they ask for; an organisation admin finds nothing of another's.
    Admins(Beyond),
}

/// What an organisation admin finds of another organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    NotFound,
    Empty,
    /// It gives away nothing of its own that the other could see.
    Refused,
}

/// What a `{id}` in the path stands for.
#[derive(Clone, Copy, Debug)]
enum Object {
    Nothing,
    Backup,
    EndedJob,
    WaitingJob,
    UndoableJob,
    /// A local user of `acme` and its organisation.
    User,
    /// A fresh API key of whoever calls. Strangers ask for one of an operator's.
    OwnKey,
}

struct Row {
    operation: &'static str,
    needs: Needs,
    elsewhere: Elsewhere,
    object: Object,
    body: Option<fn(BackupId) -> Value>,
    success: u16,
    /// The event that a refusal leaves.
    refusal: Option<&'static str>,
    /// The event that a success leaves.
    event: Option<&'static str>,
}

const fn read(operation: &'static str, object: Object, elsewhere: Elsewhere) -> Row {
    Row { operation, needs: Needs::Read, elsewhere, object, body: None, success: 200, refusal: None, event: None }
}

const fn write(
    operation: &'static str,
    object: Object,
    body: Option<fn(BackupId) -> Value>,
    event: &'static str,
) -> Row {
    let (needs, elsewhere) = (Needs::Write, Elsewhere::NotFound);
    Row { operation, needs, elsewhere, object, body, success: 202, refusal: Some(event), event: Some(event) }
}

const fn open(operation: &'static str) -> Row {
    let (needs, elsewhere) = (Needs::Nothing, Elsewhere::Same);
    Row { operation, needs, elsewhere, object: Object::Nothing, body: None, success: 200, refusal: None, event: None }
}

const fn signed(operation: &'static str, success: u16) -> Row {
    let (needs, elsewhere) = (Needs::Signed, Elsewhere::Same);
    Row { operation, needs, elsewhere, object: Object::Nothing, body: None, success, refusal: None, event: None }
}

/// A change of users or keys, which belong to no project: refusals leave nothing in a tenant's history.
const fn manage(
    operation: &'static str,
    object: Object,
    body: Option<fn(BackupId) -> Value>,
    success: u16,
    event: &'static str,
    elsewhere: Elsewhere,
) -> Row {
    Row { operation, needs: Needs::Write, elsewhere, object, body, success, refusal: None, event: Some(event) }
}

fn new_user(id: BackupId) -> Value {
    json!({ "name": format!("new {id}"), "password": "a password that is long", "organization_id": "o-acme", "project_ids": ["acme"] })
}

fn new_key(_: BackupId) -> Value {
    json!({ "name": "ci", "permissions": ["backup:write"], "project_ids": ["acme"] })
}

fn rows() -> Vec<Row> {
    use Elsewhere::{Admins, Empty, NotFound};
    vec![
        write("POST /api/backup/export", Object::Nothing, Some(|_| json!({ "project_id": "acme" })), "requested"),
        write(
            "POST /api/backup/restore",
            Object::Nothing,
            Some(|backup| json!({ "backup_id": backup, "confirm": true })),
            "restore_requested",
        ),
        read("GET /api/backup", Object::Nothing, Empty),
        read("GET /api/backup/stats", Object::Nothing, Empty),
        read("GET /api/backup/{id}", Object::Backup, NotFound),
        read("GET /api/backup/{id}/history", Object::Backup, NotFound),
        Row {
            refusal: Some("downloaded"),
            event: Some("downloaded"),
            ..read("GET /api/backup/{id}/download", Object::Backup, NotFound)
        },
        write("POST /api/backup/{id}/verify", Object::Backup, Some(|_| json!({ "depth": "head" })), "verify_requested"),
        write("DELETE /api/backup/{id}", Object::Backup, None, "delete_requested"),
        read("GET /api/jobs", Object::Nothing, Empty),
        read("GET /api/jobs/{id}", Object::EndedJob, NotFound),
        read("GET /api/jobs/{id}/events", Object::EndedJob, NotFound),
        read("GET /api/jobs/{id}/logs", Object::EndedJob, NotFound),
        write("POST /api/jobs/{id}/cancel", Object::WaitingJob, None, "cancel_requested"),
        write("POST /api/jobs/{id}/undo", Object::UndoableJob, None, "undo_requested"),
        // Refused for want of a right password or link, not of a token: see tests/people.rs.
        Row { body: Some(|_| json!({ "name": "nobody", "password": "x" })), success: 401, ..open("POST /auth/login") },
        Row {
            body: Some(|_| json!({ "token": "x", "name": "nobody", "password": "a password that is long" })),
            success: 401,
            ..open("POST /auth/setup")
        },
        signed("GET /auth/me", 200),
        // These tokens belong to no session.
        signed("POST /auth/logout", 409),
        read("GET /api/users", Object::Nothing, Admins(Beyond::Empty)),
        read("GET /api/users/{id}", Object::User, Admins(Beyond::NotFound)),
        manage("POST /api/users", Object::Nothing, Some(new_user), 201, "user_added", Admins(Beyond::Refused)),
        manage(
            "PATCH /api/users/{id}",
            Object::User,
            Some(|_| json!({ "disabled": true })),
            200,
            "user_changed",
            Admins(Beyond::NotFound),
        ),
        manage("DELETE /api/users/{id}", Object::User, None, 204, "user_deleted", Admins(Beyond::NotFound)),
        read("GET /api/keys", Object::Nothing, Empty),
        manage("POST /api/keys", Object::Nothing, Some(new_key), 201, "key_made", NotFound),
        manage("DELETE /api/keys/{id}", Object::OwnKey, None, 204, "key_revoked", NotFound),
        open("GET /healthz"),
        open("GET /readyz"),
    ]
}

/// `METHOD /path` of every operation in the document.
fn documented() -> BTreeSet<String> {
    let document = serde_json::to_value(holdfast::http::openapi()).unwrap();
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
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
    /// Events that were added by this call.
    events: Vec<(String, String, String)>,
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

/// Calls an operation on fresh objects of `acme`.
async fn call(api: &TestApi, row: &Row, token: Option<&str>) -> Tried {
    let backup = api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first"]).await;
    let (method, template) = row.operation.split_once(' ').unwrap();
    let job = |id: JobId| id.to_string();
    let id = match row.object {
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
    };
    let path = template.replace("{id}", &id);
    let (events, jobs) = (api.audit().await.len(), api.count("SELECT count(*) FROM control_plane.jobs").await);
    let body = row.body.map(|body| body(backup));
    let method: Method = method.parse().unwrap();
    let answer = api.send(request(method, &path, token, body)).await;
    let events = api.audit().await.split_off(events);
    let jobs = api.count("SELECT count(*) FROM control_plane.jobs").await - jobs;
    Tried { answer, path, events, jobs }
}

#[test]
fn every_operation_of_the_document_has_a_row() {
    let rows: BTreeSet<String> = rows().iter().map(|row| row.operation.to_owned()).collect();
    assert_eq!(documented(), rows);
}

#[test]
fn the_document_says_which_scope_each_operation_needs() {
    let document = serde_json::to_value(holdfast::http::openapi()).unwrap();
    for row in rows() {
        let (method, path) = row.operation.split_once(' ').unwrap();
        let security = &document["paths"][path][method.to_lowercase()]["security"];
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
    let api = TestApi::new().await;
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
            assert!(tried.events.is_empty() && tried.jobs == 0, "{} by {who} left something", row.operation);
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
    let api = TestApi::new().await;
    for row in rows().into_iter().filter(|row| matches!(row.needs, Needs::Read | Needs::Write)) {
        for permissions in [&[Permission::Read][..], &[Permission::Write], &[]] {
            let tried = call(&api, &row, Some(&api.member("acme", permissions))).await;
            let needed = if row.needs == Needs::Read { Permission::Read } else { Permission::Write };
            if permissions.contains(&needed) {
                if matches!(row.elsewhere, Elsewhere::Admins(_)) {
                    assert_eq!(tried.answer.problem(403), "auth.role", "{}", row.operation);
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
        }
    }
}

#[tokio::test]
async fn a_refusal_of_a_stranger_leaves_nothing_in_the_tenants_history() {
    let api = TestApi::new().await;
    for row in rows().into_iter().filter(|row| matches!(row.needs, Needs::Read | Needs::Write)) {
        let tried = call(&api, &row, Some(&api.member("globex", &[]))).await;
        assert_eq!(tried.answer.problem(403), "auth.forbidden", "{}", row.operation);
        assert!(tried.events.is_empty() && tried.jobs == 0, "{}: {:?}", row.operation, tried.events);
    }
}

#[tokio::test]
async fn another_tenant_finds_nothing_and_cannot_tell_it_from_what_does_not_exist() {
    let api = TestApi::new().await;
    let all = Permission::ALL;
    for (who, claims) in [
        ("another tenant", claims("mallory", all, &["globex"], Role::Member, None)),
        // For a member the organisation opens nothing.
        ("a member without projects", claims("mallory", all, &[], Role::Member, Some("o-acme"))),
        ("another organisation's admin", claims("mallory", all, &["acme"], Role::OrgAdmin, Some("o-globex"))),
        ("an admin without an organisation", claims("mallory", all, &["acme"], Role::OrgAdmin, None)),
    ] {
        let token = api.token(&claims);
        for row in rows() {
            let tried = call(&api, &row, Some(&token)).await;
            if row.operation != "POST /auth/login" {
                assert!(tried.events.is_empty() && tried.jobs == 0, "{} by {who} left something", row.operation);
            }
            match row.elsewhere {
                Elsewhere::Admins(beyond) if claims.role == Role::OrgAdmin && claims.organization_id.is_some() => {
                    match beyond {
                        Beyond::NotFound => assert_eq!(tried.answer.problem(404), "people.not_found"),
                        Beyond::Empty => assert_eq!(tried.answer.data(200), json!([])),
                        Beyond::Refused => assert_eq!(tried.answer.problem(403), "auth.grant"),
                    }
                }
                Elsewhere::Admins(_) => {
                    assert_eq!(tried.answer.problem(403), "auth.role", "{} by {who}", row.operation)
                }
                Elsewhere::Same => assert_eq!(tried.answer.status.as_u16(), row.success),
                Elsewhere::Empty => {
                    let data = tried.answer.data(200);
                    let is_empty = data.as_array().map_or(data["total_backups"] == 0, Vec::is_empty);
                    assert!(is_empty, "{} by {who}: {data}", row.operation);
                }
                Elsewhere::NotFound => {
                    tried.answer.problem(404);
                    assert_same_as_missing(&api, &row, &token, &tried).await;
                }
            }
        }
    }
}

/// Another's object and one that does not exist get the same answer, but for the ids.
async fn assert_same_as_missing(api: &TestApi, row: &Row, token: &str, tried: &Tried) {
    let (method, template) = row.operation.split_once(' ').unwrap();
    let id = BackupId::generate();
    let path = template.replace("{id}", &id.to_string());
    let mut body = row.body.map(|body| body(id));
    if let Some(body) = &mut body
        && body.get("project_id").is_some()
    {
        body["project_id"] = json!("nobody");
    }
    if let Some(body) = &mut body
        && body.get("project_ids").is_some()
    {
        body["project_ids"] = json!(["nobody"]);
    }
    let missing = api.send(request(method.parse().unwrap(), &path, Some(token), body)).await;
    let shape = |answer: &Answer| {
        let mut json = answer.json();
        for member in ["detail", "instance", "request_id"] {
            json.as_object_mut().unwrap().remove(member);
        }
        json
    };
    assert_eq!(shape(&missing), shape(&tried.answer), "{}", tried.path);
}

#[tokio::test]
async fn those_who_reach_the_tenant_are_served() {
    let api = TestApi::new().await;
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
            if claims.role == Role::Member && matches!(row.elsewhere, Elsewhere::Admins(_)) {
                assert_eq!(tried.answer.problem(403), "auth.role", "{} by {who}", row.operation);
                continue;
            }
            assert_eq!(tried.answer.status.as_u16(), row.success, "{} by {who}: {:?}", row.operation, tried.answer);
            if let Some(event) = row.event {
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
    let api = TestApi::with(|config| {
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
            // Ends the session; tests/people.rs has it.
            if row.operation == "POST /auth/logout" {
                continue;
            }
            let tried = call(&api, &row, Some(token)).await;
            let is_key = token.starts_with("hfk_");
            let of_people = row.operation.contains("/api/users") || row.operation.contains("/api/keys");
            match (of_people && is_key, row.elsewhere) {
                (true, _) => assert_eq!(tried.answer.problem(403), "auth.by_key", "{} by {subject}", row.operation),
                (_, Elsewhere::Admins(_)) => assert_eq!(tried.answer.problem(403), "auth.role", "{}", row.operation),
                _ => {
                    assert_eq!(tried.answer.status.as_u16(), row.success, "{} by {subject}", row.operation);
                    if let Some(event) = row.event {
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
        "UPDATE control_plane.jobs SET lease_owner = 'canary-host:17', error_message = $1, result = jsonb_build_object('message', $1)",
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
