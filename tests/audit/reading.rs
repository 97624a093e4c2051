//! `GET /api/audit`: who reads what, filters, pages, exports; and the change of one's own password, which is in it.

use std::collections::BTreeSet;

use axum::http::header;
use holdfast::{
    auth::jwt::Claims,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};

use super::api::{PASSWORD, TestApi};

async fn insert(api: &TestApi, project: Option<&str>, organization: Option<&str>, actor: &str, minute: i64) {
    sqlx::query(
        "INSERT INTO control_plane.backup_history (project_id, organization_id, event, actor, outcome, at, detail)
         VALUES ($1, $2, 'completed', $3, 'ok', $4, '{\"message\": \"at 10.9.8.7:5432\"}')",
    )
    .bind(project)
    .bind(organization)
    .bind(actor)
    .bind(api.clock.now() - chrono::Duration::minutes(minute))
    .execute(api.pool())
    .await
    .unwrap();
}

fn token(api: &TestApi, role: Role, organization: Option<&str>, projects: &[&str]) -> String {
    api.token(&Claims {
        subject: format!("{role} of {organization:?}"),
        permissions: vec![Permission::Read],
        project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
        organization_id: organization.map(str::to_owned),
        role,
    })
}

fn actors(data: &Value) -> Vec<&str> {
    data.as_array().unwrap().iter().map(|entry| entry["actor"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn operators_read_all_and_organisation_admins_what_concerns_their_own() {
    let api = TestApi::new().await;
    insert(&api, Some("acme"), None, "of acme", 1).await;
    insert(&api, Some("globex"), None, "of globex", 2).await;
    insert(&api, None, Some("o-acme"), "people of acme", 3).await;
    insert(&api, None, Some("o-globex"), "people of globex", 4).await;
    insert(&api, None, None, "nobody", 5).await;
    // An organisation cannot take a project's events by naming itself in them.
    insert(&api, Some("globex"), Some("o-acme"), "mixed", 6).await;
    insert(&api, Some("gone"), None, "of a project that is gone", 7).await;
    let read = async |token: &str, query: &str| api.get(token, &format!("/api/audit{query}")).await.data(200);

    let operator = token(&api, Role::Operator, None, &[]);
    assert_eq!(actors(&read(&operator, "").await).len(), 7);
    let acme = token(&api, Role::OrgAdmin, Some("o-acme"), &["globex"]);
    assert_eq!(actors(&read(&acme, "").await), ["of acme", "people of acme"]);
    for query in ["?project_id=globex", "?actor=of%20globex", "?project_id=gone", "?actor=nobody"] {
        assert_eq!(read(&acme, query).await, json!([]), "{query}");
    }
    assert!(read(&acme, "").await.to_string().contains("[hidden]"), "hosts are for operators");
    assert!(read(&operator, "").await.to_string().contains("10.9.8.7:5432"));
    for (role, organization) in [(Role::Member, Some("o-acme")), (Role::OrgAdmin, None)] {
        let refused = api.get(&token(&api, role, organization, &["acme"]), "/api/audit").await;
        assert_eq!(refused.problem(403), "auth.role");
    }
}

#[tokio::test]
async fn filters_and_pages_find_every_entry_once() {
    let api = TestApi::new().await;
    for minute in 0..25 {
        // Three at each instant.
        insert(&api, Some(if minute % 2 == 0 { "acme" } else { "globex" }), None, &format!("a{minute}"), minute / 3)
            .await;
    }
    let operator = token(&api, Role::Operator, None, &[]);
    let mut seen = BTreeSet::new();
    let mut path = "/api/audit?limit=4".to_owned();
    loop {
        let page = api.get(&operator, &path).await;
        let data = page.data(200);
        for actor in actors(&data) {
            assert!(seen.insert(actor.to_owned()), "{actor} twice");
        }
        match page.json()["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/audit?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    let count =
        async |query: &str| actors(&api.get(&operator, &format!("/api/audit?limit=200&{query}")).await.data(200)).len();
    assert_eq!(count("project_id=acme").await, 13);
    assert_eq!(count("actor=a7").await, 1);
    assert_eq!(count("event=completed").await, 25);
    assert_eq!(count("event=failed").await + count("outcome=refused").await, 0);
    assert_eq!(count("since=2026-11-21T11:58:00Z").await, 9);
    assert_eq!(count("until=2026-11-21T11:58:00Z&project_id=globex").await, 8);
    assert_eq!(count("backup_id=0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa").await, 0);
    for query in [
        "limit=0",
        "limit=201",
        "cursor=x",
        "actor=",
        "actor=%00",
        "since=yesterday",
        "format=xml",
        "nonsense=1",
        "format=csv&limit=5",
    ] {
        api.get(&operator, &format!("/api/audit?{query}")).await.problem(422);
    }
}

#[tokio::test]
async fn everything_can_be_taken_along_as_lines_or_as_a_table() {
    let api = TestApi::new().await;
    sqlx::query(
        "INSERT INTO control_plane.backup_history (event, actor, outcome)
         SELECT 'completed', CASE WHEN n = 1 THEN '=HYPERLINK(\"x\")' ELSE 'a' || n END, 'ok' FROM generate_series(1, 2500) AS n",
    )
    .execute(api.pool())
    .await
    .unwrap();
    let operator = token(&api, Role::Operator, None, &[]);
    let answer = api.get(&operator, "/api/audit?format=jsonl").await;
    assert_eq!(
        (answer.status.as_u16(), answer.headers[header::CONTENT_TYPE].to_str().unwrap()),
        (200, "application/jsonl")
    );
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let lines: BTreeSet<i64> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap()).collect();
    assert_eq!(lines.len(), 2500);
    let answer = api.get(&operator, "/api/audit?format=csv&event=completed").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(text.lines().count(), 2501);
    assert!(text.starts_with("id,at,event,actor,"), "{}", &text[..80]);
    assert!(text.contains("\"'=HYPERLINK(\"\"x\"\")\""), "a name must be no formula");
    let acme = token(&api, Role::OrgAdmin, Some("o-acme"), &[]);
    assert_eq!(api.get(&acme, "/api/audit?format=csv").await.body.iter().filter(|byte| **byte == b'\n').count(), 1);
}

#[tokio::test]
async fn one_changes_ones_own_password_and_the_other_sessions_end() {
    let api = TestApi::new().await;
    api.user("alice", Role::Member, Some("o-acme"), &["acme"]).await;
    let (here, there) = (api.log_in("alice").await, api.log_in("alice").await);
    let change = async |token: &str, now: &str, new: &str| {
        api.post(token, "/auth/password", json!({ "current_password": now, "new_password": new })).await
    };
    assert_eq!(change(&here, "wrong", "another long password").await.problem(403), "auth.current_password");
    assert_eq!(change(&here, PASSWORD, "short").await.problem(422), "user.password");
    assert_eq!(change(&api.acme(), PASSWORD, "another long password").await.problem(409), "auth.no_session");
    assert_eq!(change("", PASSWORD, "another long password").await.problem(401), "auth.token_missing");
    api.get(&there, "/auth/me").await.data(200);
    assert_eq!(change(&here, PASSWORD, "another long password").await.status, 204);
    api.get(&here, "/auth/me").await.data(200);
    api.get(&there, "/auth/me").await.problem(401);
    let log_in =
        async |password: &str| api.post("", "/auth/login", json!({ "name": "alice", "password": password })).await;
    log_in(PASSWORD).await.problem(401);
    log_in("another long password").await.data(200);
    let events = api.audit().await;
    let changed = ("password_changed".to_owned(), "user:alice".to_owned(), "ok".to_owned());
    assert_eq!(events.iter().filter(|event| **event == changed).count(), 1);
    let rows: String = sqlx::query_scalar("SELECT string_agg(h::text, ' ') FROM control_plane.backup_history h")
        .fetch_one(api.pool())
        .await
        .unwrap();
    assert!(!rows.contains("long password") && !rows.contains(PASSWORD), "{rows}");
}

#[tokio::test]
async fn the_password_of_now_cannot_be_guessed_with_a_session_that_was_found_open() {
    let api = TestApi::with(|config| config.auth.login_attempts_per_account = 3).await;
    api.user("alice", Role::Member, None, &["acme"]).await;
    let session = api.log_in("alice").await;
    let guess = async |password: &str| {
        api.post(
            &session,
            "/auth/password",
            json!({ "current_password": password, "new_password": "another long password" }),
        )
        .await
    };
    for _ in 0..3 {
        assert_eq!(guess("wrong").await.problem(403), "auth.current_password");
    }
    let refused = guess(PASSWORD).await;
    assert_eq!(refused.problem(429), "auth.throttled");
    assert!(refused.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u32>().unwrap() > 0);
}
