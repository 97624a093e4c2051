//! Refusals in the trail: each with who, from where, about what and why; none that tells of another tenant, and never too many.

use std::net::SocketAddr;

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use bytes::Bytes;
use holdfast::{
    auth::jwt::Claims,
    ids::BackupId,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};

use super::api::{PASSWORD, TestApi, request};

const FROM: &str = "198.51.100.7";

/// The same request, from this address.
fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let address: SocketAddr = format!("{address}:4711").parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(address));
    request
}

#[derive(Debug, sqlx::FromRow)]
struct Entry {
    event: String,
    actor: String,
    address: Option<String>,
    outcome: String,
    project_id: Option<String>,
    organization_id: Option<String>,
    backup_id: Option<uuid::Uuid>,
    detail: Value,
}

async fn entries(api: &TestApi) -> Vec<Entry> {
    sqlx::query_as(
        "SELECT event, actor, address, outcome, project_id, organization_id, backup_id, detail
         FROM control_plane.backup_history ORDER BY id",
    )
    .fetch_all(api.pool())
    .await
    .unwrap()
}

/// Token, method, path, body; the answer's status and code, and whether the caller reaches the object.
type Case<'a> = (&'a str, Method, String, Option<Value>, u16, &'a str, bool);

fn admin(api: &TestApi, organization: &str) -> String {
    api.token(&Claims {
        subject: format!("admin of {organization}"),
        permissions: Permission::ALL.to_vec(),
        project_ids: vec![],
        organization_id: Some(organization.to_owned()),
        role: Role::OrgAdmin,
    })
}

#[tokio::test]
async fn every_refused_change_is_an_entry_with_actor_address_object_and_reason() {
    let api = TestApi::new().await;
    let backup = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let job = api.job("acme", "export_backup", "completed").await;
    let user = api.user("alice", Role::Member, Some("o-acme"), &["acme"]).await;
    let logs = async || api.count("SELECT count(*) FROM control_plane.project_logs WHERE project_id = 'acme'").await;
    let (writer, reader) = (api.acme(), api.member("acme", &[Permission::Read]));
    let cases: [Case<'_>; 10] = [
        // 422, about a project that is named in the body.
        (
            &writer,
            Method::POST,
            "/api/backup/export".into(),
            Some(json!({ "project_id": "acme", "caption": "x".repeat(1025) })),
            422,
            "request.caption",
            true,
        ),
        (
            &writer,
            Method::POST,
            "/api/backup/export".into(),
            Some(json!({ "project_id": "acme", "nonsense": 1 })),
            422,
            "request.body",
            true,
        ),
        // 400, about a backup that is named in the body.
        (
            &writer,
            Method::POST,
            "/api/backup/restore".into(),
            Some(json!({ "backup_id": backup })),
            400,
            "restore.unconfirmed",
            true,
        ),
        // 409, about a job and a backup in the path.
        (&writer, Method::POST, format!("/api/jobs/{job}/cancel"), None, 409, "job.ended", true),
        (&writer, Method::POST, format!("/api/jobs/{job}/undo"), None, 409, "restore.none", true),
        (
            &writer,
            Method::POST,
            format!("/api/backup/{backup}/verify"),
            Some(json!({ "depth": "deep" })),
            422,
            "request.body",
            true,
        ),
        // 403 for want of a role, and of a scope without an event of its own.
        (
            &writer,
            Method::POST,
            "/api/users".into(),
            Some(json!({ "name": "x", "password": "canary password" })),
            403,
            "auth.role",
            false,
        ),
        (&writer, Method::DELETE, format!("/api/users/{user}"), None, 403, "auth.role", false),
        (
            &reader,
            Method::POST,
            "/api/keys".into(),
            Some(json!({ "name": "x", "permissions": [], "project_ids": ["acme"] })),
            403,
            "auth.forbidden",
            false,
        ),
        // 415.
        (&writer, Method::POST, "/auth/logout".into(), None, 409, "auth.no_session", false),
    ];
    for (token, method, path, body, status, code, reaches) in cases {
        let (before, logs_before) = (entries(&api).await.len(), logs().await);
        let answer = api.send(from(FROM, request(method.clone(), &path, Some(token), body))).await;
        assert_eq!(answer.problem(status), code, "{path}");
        let mut added = entries(&api).await.split_off(before);
        let entry = added.pop().unwrap_or_else(|| panic!("no entry for {method} {path}"));
        assert!(added.is_empty(), "{path}: {added:?}");
        assert_eq!((entry.event.as_str(), entry.outcome.as_str()), ("refused", "refused"));
        assert_eq!((entry.actor.as_str(), entry.address.as_deref()), ("member of acme", Some(FROM)));
        assert_eq!((entry.detail["status"].as_u64(), entry.detail["code"].as_str()), (Some(status.into()), Some(code)));
        assert!(entry.detail["call"].as_str().unwrap().starts_with(method.as_str()), "{}", entry.detail);
        assert_eq!(entry.detail["path"], path);
        assert_eq!(entry.project_id.as_deref(), reaches.then_some("acme"), "{path}");
        assert_eq!(
            entry.backup_id.is_some(),
            reaches && path.contains("backup") && !path.ends_with("export"),
            "{path}"
        );
        assert_eq!(logs().await - logs_before, i64::from(reaches), "the project's own log: {path}");
        assert!(!entry.detail.to_string().contains("canary"), "{}", entry.detail);
    }
}

#[tokio::test]
async fn a_want_of_scope_has_the_word_of_what_was_wanted_and_one_entry() {
    let api = TestApi::new().await;
    let reader = api.member("acme", &[Permission::Read]);
    let body = json!({ "project_id": "acme" });
    api.send(from(FROM, request(Method::POST, "/api/backup/export", Some(&reader), Some(body)))).await.problem(403);
    let all = entries(&api).await;
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].event.as_str(), all[0].address.as_deref()), ("requested", Some(FROM)));
}

#[tokio::test]
async fn what_is_looked_for_beyond_ones_reach_is_an_entry_of_ones_own_organisation_and_tells_nothing() {
    let api = TestApi::new().await;
    let theirs = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let nobodys = BackupId::generate();
    let mallory = admin(&api, "o-globex");
    for id in [theirs, nobodys] {
        api.get(&mallory, &format!("/api/backup/{id}/download")).await.problem(404);
        api.delete(&mallory, &format!("/api/backup/{id}")).await.problem(404);
        let body = json!({ "backup_id": id, "confirm": true });
        api.post(&mallory, "/api/backup/restore", body).await.problem(404);
    }
    let mut all = entries(&api).await;
    assert_eq!(all.len(), 6);
    for entry in &mut all {
        assert_eq!((entry.actor.as_str(), entry.organization_id.as_deref()), ("admin of o-globex", Some("o-globex")));
        assert!(entry.project_id.is_none() && entry.backup_id.is_none(), "{entry:?}");
    }
    // Word for word the same, but for the id that was asked for.
    let about =
        |entry: &Entry| entry.detail.to_string().replace(&theirs.to_string(), "X").replace(&nobodys.to_string(), "X");
    for number in 0..3 {
        assert_eq!(about(&all[number]), about(&all[number + 3]));
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.project_logs").await, 0);
    // The tenant's own admin reads nothing of it.
    let seen = api.get(&admin(&api, "o-acme"), "/api/audit").await.data(200);
    assert_eq!(seen, json!([]));
    assert_eq!(api.get(&mallory, "/api/audit").await.data(200).as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn reading_that_succeeds_or_is_only_wrongly_asked_leaves_no_entry() {
    let api = TestApi::new().await;
    let token = api.acme();
    api.get(&token, "/api/backup").await.data(200);
    api.get(&token, "/api/backup?limit=0").await.problem(422);
    api.get(&token, "/api/nothing").await.problem(404);
    api.get("", "/api/nothing").await.problem(404);
    assert!(entries(&api).await.is_empty());
}

#[tokio::test]
async fn beyond_so_many_a_minute_refusals_are_counted_and_the_counts_are_written() {
    let api = TestApi::with(|config| config.limits.refusals_per_minute = 30).await;
    let (writer, other) = (api.acme(), api.member("globex", Permission::ALL));
    for _ in 0..20 {
        api.post(&writer, "/api/backup/restore", json!({})).await.problem(422);
    }
    // A sixth of 30 at once; the clock stands still.
    assert_eq!(entries(&api).await.len(), 5);
    api.post(&other, "/api/backup/restore", json!({})).await.problem(422);
    assert_eq!(entries(&api).await.len(), 6, "another caller has entries of its own");
    api.clock.advance(chrono::Duration::seconds(61));
    for _ in 0..20 {
        api.post(&writer, "/api/backup/restore", json!({})).await.problem(422);
    }
    let counted = eventually(&api, "refusals").await;
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert_eq!((counted[0].actor.as_str(), counted[0].outcome.as_str()), ("member of acme", "refused"));
    assert_eq!(counted[0].detail["count"], 15);
    assert_eq!(counted[0].detail["codes"], json!({ "request.body": 15 }));
}

#[tokio::test]
async fn the_calls_of_nobody_are_counted_by_address_and_never_written_one_by_one() {
    let api = TestApi::new().await;
    for number in 0..200 {
        let address = format!("203.0.113.{}", number % 100);
        let request = request(Method::GET, "/api/backup", Some("x.y.z"), None);
        api.send(from(&address, request)).await.problem(401);
    }
    assert!(entries(&api).await.is_empty());
    api.clock.advance(chrono::Duration::seconds(61));
    api.get("", "/api/backup").await.problem(401);
    let counted = eventually(&api, "refusals").await;
    // 32 addresses by themselves, and all others as one.
    assert_eq!(counted.len(), 33);
    assert_eq!(counted.iter().map(|entry| entry.detail["count"].as_i64().unwrap()).sum::<i64>(), 200);
    let by_address = counted.iter().filter(|entry| entry.address.is_some()).collect::<Vec<_>>();
    assert_eq!(by_address.len(), 32);
    assert!(by_address.iter().all(|entry| entry.actor == "nobody" && entry.detail["count"] == 2));
}

#[tokio::test]
async fn failed_logins_are_entries_up_to_a_number_and_counted_beyond() {
    let api = TestApi::with(|config| config.limits.refusals_per_minute = 30).await;
    api.user("alice", Role::Member, Some("o-acme"), &["acme"]).await;
    for number in 0..8 {
        let body = json!({ "name": format!("nobody {number}"), "password": PASSWORD });
        api.send(from(FROM, request(Method::POST, "/auth/login", None, Some(body)))).await.problem(401);
    }
    let failed: Vec<Entry> = entries(&api).await.into_iter().filter(|entry| entry.event == "login_failed").collect();
    assert_eq!(failed.len(), 5);
    assert!(failed.iter().all(|entry| entry.address.as_deref() == Some(FROM)), "{failed:?}");
    let body = json!({ "name": "alice", "password": "wrong" });
    api.send(from("203.0.113.1", request(Method::POST, "/auth/login", None, Some(body)))).await.problem(401);
    let last = entries(&api).await.pop().unwrap();
    assert_eq!((last.actor.as_str(), last.organization_id.as_deref()), ("user:alice", Some("o-acme")));
    api.clock.advance(chrono::Duration::seconds(61));
    api.get("", "/api/backup").await.problem(401);
    let counted = eventually(&api, "refusals").await;
    assert_eq!(counted[0].detail["codes"], json!({ "auth.login_failed": 3 }));
}

#[tokio::test]
async fn a_server_that_is_stopped_writes_what_it_has_counted() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api = TestApi::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let server = tokio::spawn(holdfast::http::serve(api.app.clone(), api.verifier(), listener, stopped));
    for _ in 0..3 {
        let status = reqwest::get(format!("{at}/api/backup")).await.unwrap().status();
        assert_eq!(status.as_u16(), 401);
    }
    assert!(entries(&api).await.is_empty());
    stop.cancel();
    server.await.unwrap().unwrap();
    let counted = eventually(&api, "refusals").await;
    assert_eq!((counted.len(), counted[0].address.as_deref()), (1, Some("127.0.0.1")));
    assert_eq!(counted[0].detail["codes"], json!({ "auth.token_missing": 3 }));
}

/// The entries of this event, as soon as there are some.
async fn eventually(api: &TestApi, event: &str) -> Vec<Entry> {
    let started = std::time::Instant::now();
    loop {
        let found: Vec<Entry> = entries(api).await.into_iter().filter(|entry| entry.event == event).collect();
        if !found.is_empty() {
            return found;
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "no {event}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
