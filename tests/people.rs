//! Local users, their sessions and API keys, over the API and on real PostgreSQL.

use crate::{
    api,
    ui::{form, session, text, visit},
};

use api::{Answer, PASSWORD, TestApi, request};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request, header},
};
use chrono::Duration;
use holdfast::{
    auth::jwt::Claims,
    people,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};

const OPERATOR: &str = "Olga";

async fn with_operator() -> (TestApi, String) {
    let api = TestApi::new().await;
    api.user(OPERATOR, Role::Operator, None, &[]).await;
    let token = api.log_in(OPERATOR).await;
    (api, token)
}

async fn try_login(api: &TestApi, name: &str, password: &str) -> Answer {
    api.post("", "/auth/login", json!({ "name": name, "password": password })).await
}

fn key_body() -> Value {
    json!({ "name": "ci", "permissions": ["backup:read"], "project_ids": ["acme"] })
}

#[tokio::test]
async fn a_user_logs_in_reaches_its_projects_alone_and_logs_out() {
    let api = TestApi::new().await;
    let id = api.user("alice@example.com", Role::Member, None, &["acme"]).await;
    let answer = try_login(&api, "Alice@Example.com", PASSWORD).await;
    assert!(answer.headers.get(header::SET_COOKIE).is_none());
    let data = answer.data(200);
    assert_eq!((&data["user"]["id"], &data["user"]["project_ids"]), (&json!(id), &json!(["acme"])));
    assert_eq!(data["expires_at"], "2026-11-22T00:00:00Z");
    let token = data["token"].as_str().unwrap();
    let me = api.get(token, "/auth/me").await.data(200);
    assert_eq!(
        (&me["subject"], &me["via"], &me["role"]),
        (&json!("user:alice@example.com"), &json!("session"), &json!("member"))
    );
    let export = |project: &str| api.post(token, "/api/backup/export", json!({ "project_id": project }));
    export("acme").await.data(202);
    assert_eq!(export("globex").await.problem(404), "project.not_found");
    assert_eq!(api.post(token, "/auth/logout", json!({})).await.status, 204);
    assert_eq!(api.get(token, "/auth/me").await.problem(401), "auth.token_invalid");
    let events: Vec<String> = api.audit().await.into_iter().map(|(event, ..)| event).collect();
    assert_eq!(events, ["logged_in", "requested", "logged_out"]);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.sessions").await, 0);
}

#[tokio::test]
async fn a_session_ends_by_itself_and_is_swept_with_the_next_login() {
    let (api, token) = with_operator().await;
    api.clock.advance(Duration::hours(12) + Duration::seconds(31));
    assert_eq!(api.get(&token, "/auth/me").await.problem(401), "auth.token_expired");
    // Within the leeway of the token the row decides.
    let next = api.log_in(OPERATOR).await;
    assert_eq!(api.count("SELECT count(*) FROM control_plane.sessions").await, 1);
    api.clock.advance(Duration::hours(12));
    assert_eq!(api.get(&next, "/auth/me").await.problem(401), "auth.token_invalid");
}

#[tokio::test]
async fn disabling_deleting_and_a_new_password_end_sessions_at_once() {
    let (api, operator) = with_operator().await;
    for (name, change) in [
        ("a", Some(json!({ "disabled": true }))),
        ("b", Some(json!({ "password": "another long password" }))),
        ("c", None),
    ] {
        let id = api.user(name, Role::Member, None, &["acme"]).await;
        let token = api.log_in(name).await;
        let key = api.key(&token, key_body()).await;
        assert_eq!(api.get(&key, "/api/backup").await.status, 200);
        let path = format!("/api/users/{id}");
        match &change {
            Some(change) => drop(api.patch(&operator, &path, change.clone()).await.data(200)),
            None => assert_eq!(api.delete(&operator, &path).await.status, 204),
        }
        assert_eq!(api.get(&token, "/auth/me").await.problem(401), "auth.token_invalid", "{name}");
        // A key is no session: a new password leaves it.
        assert_eq!(api.get(&key, "/api/backup").await.status, if name == "b" { 200 } else { 401 }, "{name}");
        assert_eq!(try_login(&api, name, PASSWORD).await.problem(401), "auth.login_failed", "{name}");
    }
    assert_eq!(try_login(&api, "b", "another long password").await.status, 200);
}

#[tokio::test]
async fn changed_rights_hold_at_once_for_sessions_and_keys() {
    let (api, operator) = with_operator().await;
    let id = api.user("alice", Role::Member, None, &["acme", "globex"]).await;
    let token = api.log_in("alice").await;
    let body =
        json!({ "name": "ci", "permissions": ["backup:read", "backup:write"], "project_ids": ["acme", "globex"] });
    let key = api.key(&token, body).await;
    let export = async |token: &str, project: &str| {
        api.post(token, "/api/backup/export", json!({ "project_id": project })).await.status.as_u16()
    };
    assert_eq!((export(&token, "globex").await, export(&key, "globex").await), (202, 202));
    let path = format!("/api/users/{id}");
    api.patch(&operator, &path, json!({ "project_ids": ["acme"] })).await.data(200);
    assert_eq!((export(&token, "globex").await, export(&key, "globex").await), (404, 404));
    assert_eq!((export(&token, "acme").await, export(&key, "acme").await), (202, 202));
    api.patch(&operator, &path, json!({ "permissions": ["backup:read"] })).await.data(200);
    assert_eq!((export(&token, "acme").await, export(&key, "acme").await), (403, 403));
}

#[tokio::test]
async fn every_wrong_login_gets_the_same_answer_and_is_written_down() {
    let (api, operator) = with_operator().await;
    let id = api.user("alice", Role::Member, None, &[]).await;
    api.user("bob", Role::Member, None, &[]).await;
    api.patch(&operator, &format!("/api/users/{id}"), json!({ "disabled": true })).await.data(200);
    // A platform's own row in the same table is nobody, whatever it says.
    sqlx::query("INSERT INTO control_plane.users (name, role, password_hash) SELECT 'carol', 'operator', password_hash FROM control_plane.users WHERE name = 'bob'")
        .execute(api.pool())
        .await
        .unwrap();
    let before = api.audit().await.len();
    let mut shapes = Vec::new();
    for (name, password) in [
        ("alice", PASSWORD),
        ("bob", "wrong"),
        ("bob", ""),
        ("carol", PASSWORD),
        ("nobody", PASSWORD),
        ("bob' OR true --", PASSWORD),
    ] {
        let answer = try_login(&api, name, password).await;
        assert_eq!(answer.problem(401), "auth.login_failed", "{name}");
        let mut json = answer.json();
        json.as_object_mut().unwrap().remove("request_id");
        shapes.push(json);
    }
    assert!(shapes.iter().all(|shape| *shape == shapes[0]), "{shapes:?}");
    let actors: Vec<String> = api
        .audit()
        .await
        .split_off(before)
        .into_iter()
        .map(|(event, actor, outcome)| {
            assert_eq!((event.as_str(), outcome.as_str()), ("login_failed", "failed"));
            actor
        })
        .collect();
    assert_eq!(actors, ["user:alice", "user:bob", "user:bob", "nobody", "nobody", "nobody"]);
    for bad in [
        json!({}),
        json!({ "name": "bob" }),
        json!({ "name": "", "password": "x" }),
        json!({ "name": "b", "password": "x", "x": 1 }),
    ] {
        api.post("", "/auth/login", bad).await.problem(422);
    }
    assert_eq!(try_login(&api, "a\0b", "x").await.problem(422), "request.value");
}

#[tokio::test]
async fn too_many_attempts_on_one_account_wait_and_others_do_not() {
    let (api, _) = with_operator().await;
    api.user("alice", Role::Member, None, &[]).await;
    let attempts = (0..20).map(|_| try_login(&api, "ALICE", "wrong"));
    let answers = futures::future::join_all(attempts).await;
    let looked_at = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(looked_at, 10, "attempts at the same moment count");
    let refused = try_login(&api, "alice", PASSWORD).await;
    assert_eq!(refused.problem(429), "auth.throttled", "the right password waits too");
    assert_eq!(refused.headers[header::RETRY_AFTER], "900");
    api.log_in(OPERATOR).await;
    api.clock.advance(Duration::minutes(14));
    let refused = try_login(&api, "alice", PASSWORD).await;
    assert_eq!(
        (refused.problem(429).as_str(), &refused.headers[header::RETRY_AFTER]),
        ("auth.throttled", &"60".parse().unwrap())
    );
    api.clock.advance(Duration::minutes(1));
    api.log_in("alice").await;
    // A right password forgets the attempts before.
    for _ in 0..2 {
        for _ in 0..9 {
            assert_eq!(try_login(&api, "alice", "wrong").await.status, 401);
        }
        api.log_in("alice").await;
    }
    let rows: i64 = api.count("SELECT count(*) FROM control_plane.login_attempts").await;
    assert!(rows <= 1, "what is over is swept: {rows}");
}

#[tokio::test]
async fn too_many_attempts_from_one_address_wait_whatever_they_name() {
    let api = TestApi::with(|config| config.auth.login_attempts_per_address = 3).await;
    let from = async |address: &str, name: &str| {
        let body = Some(json!({ "name": name, "password": "wrong" }));
        let mut request = request(Method::POST, "/auth/login", None, body);
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::new(address.parse().unwrap(), 1)));
        api.send(request).await.status.as_u16()
    };
    for name in ["a", "b", "c"] {
        assert_eq!(from("192.0.2.7", name).await, 401);
    }
    assert_eq!(from("192.0.2.7", "d").await, 429);
    assert_eq!(from("::ffff:192.0.2.7", "d").await, 429);
    assert_eq!(from("192.0.2.8", "d").await, 401);
    for host in 1..=3 {
        assert_eq!(from(&format!("2001:db8:0:1::{host}"), "e").await, 401);
    }
    assert_eq!((from("2001:db8:0:1:9::9", "f").await, from("2001:db8:0:2::1", "f").await), (429, 401));
    let stored: Vec<Option<String>> =
        sqlx::query_scalar("SELECT address FROM control_plane.backup_history ORDER BY id LIMIT 1")
            .fetch_all(api.pool())
            .await
            .unwrap();
    assert_eq!(stored, [Some("192.0.2.7".to_owned())]);
}

#[tokio::test]
async fn what_the_database_takes_for_one_account_is_counted_as_one_and_nothing_else_is() {
    let api = TestApi::with(|config| config.auth.login_attempts_per_account = 1).await;
    // What is lower case depends on the database: what counts is that the login and the count agree.
    for (name, other) in
        [("alice", "al\u{130}ce"), ("al\u{130}na", "ali\u{307}na"), ("BOB", "bob"), ("stra\u{df}e", "STRASSE")]
    {
        let is_one: bool = sqlx::query_scalar("SELECT lower($1::text) = lower($2::text)")
            .bind(name)
            .bind(other)
            .fetch_one(api.pool())
            .await
            .unwrap();
        assert_eq!(try_login(&api, name, "wrong").await.problem(401), "auth.login_failed", "{name}");
        let status = try_login(&api, other, "wrong").await.status.as_u16();
        assert_eq!(status, if is_one { 429 } else { 401 }, "{name} and {other}");
    }
}

/// What a browser sends.
fn browser(method: Method, path: &str, cookie: &str, site: &[(&str, &str)], body: Option<Value>) -> Request<Body> {
    let mut request = request(method, path, None, body);
    request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
    for (name, value) in site {
        request.headers_mut().insert(header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_cookie_is_enough_to_read_and_changes_only_from_our_own_pages() {
    let api = TestApi::new().await;
    api.user("alice", Role::Member, None, &["acme"]).await;
    let body = json!({ "name": "alice", "password": PASSWORD, "cookie": true });
    let answer = api.post("", "/auth/login", body.clone()).await;
    assert_eq!(answer.data(200).get("token"), None, "scripts of the page do not see it");
    let set = answer.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(attribute), "{set}");
    }
    let cookie = set.split(';').next().unwrap();
    let read = api.send(browser(Method::GET, "/api/backup", cookie, &[("sec-fetch-site", "cross-site")], None)).await;
    assert_eq!(read.status, 200, "a link from a mail; another site's script cannot read the answer");
    let export = async |site: &[(&str, &str)]| {
        let body = Some(json!({ "project_id": "acme" }));
        api.send(browser(Method::POST, "/api/backup/export", cookie, site, body)).await
    };
    assert_eq!(export(&[("sec-fetch-site", "same-origin")]).await.status, 202);
    assert_eq!(export(&[("origin", "http://backups.example"), ("host", "backups.example")]).await.status, 202);
    for site in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example"), ("host", "backups.example")],
        &[("origin", "null"), ("host", "backups.example")],
    ] {
        assert_eq!(export(site).await.problem(403), "auth.cross_site", "{site:?}");
    }
    // Nor can another site log a browser in as somebody else.
    let forged = browser(Method::POST, "/auth/login", "", &[("sec-fetch-site", "cross-site")], Some(body));
    assert_eq!(api.send(forged).await.problem(403), "auth.cross_site");
    // Only a session's token works as a cookie.
    let bearer = format!("holdfast_session={}", api.acme());
    assert_eq!(
        api.send(browser(Method::GET, "/api/backup", &bearer, &[], None)).await.problem(401),
        "auth.token_invalid"
    );
    let out = api.send(browser(Method::POST, "/auth/logout", cookie, &[("sec-fetch-site", "same-origin")], None)).await;
    assert_eq!(out.status, 204);
    assert!(out.headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(
        api.send(browser(Method::GET, "/api/backup", cookie, &[], None)).await.problem(401),
        "auth.token_invalid"
    );
}

#[tokio::test]
async fn a_key_does_what_it_was_given_until_it_expires_or_is_revoked() {
    let (api, operator) = with_operator().await;
    api.user("alice", Role::Member, None, &["acme", "globex"]).await;
    let alice = api.log_in("alice").await;
    let key = api.key(&alice, key_body()).await;
    let id = uuid::Uuid::parse_str(key.split('_').nth(1).unwrap()).unwrap();
    let me = api.get(&key, "/auth/me").await.data(200);
    assert_eq!(
        (&me["via"], &me["project_ids"], &me["permissions"]),
        (&json!("key"), &json!(["acme"]), &json!(["backup:read"]))
    );
    assert_eq!(me["subject"], format!("key:{id} (ci)"));
    assert_eq!(api.get(&key, "/api/backup").await.status, 200);
    assert_eq!(
        api.post(&key, "/api/backup/export", json!({ "project_id": "acme" })).await.problem(403),
        "auth.forbidden"
    );
    // The last use is kept to the minute.
    let used = async || api.get(&alice, "/api/keys").await.data(200)[0]["last_used_at"].clone();
    assert_eq!(used().await, "2026-11-21T12:00:00Z");
    api.clock.advance(Duration::seconds(59));
    api.get(&key, "/api/backup").await.data(200);
    assert_eq!(used().await, "2026-11-21T12:00:00Z");
    api.clock.advance(Duration::seconds(1));
    api.get(&key, "/api/backup").await.data(200);
    assert_eq!(used().await, "2026-11-21T12:01:00Z");
    // Another's key is not there; an operator sees and revokes all.
    api.user("bob", Role::Member, None, &["acme"]).await;
    let bob = api.log_in("bob").await;
    assert_eq!(api.get(&bob, "/api/keys").await.data(200), json!([]));
    assert_eq!(api.delete(&bob, &format!("/api/keys/{id}")).await.problem(404), "people.not_found");
    assert_eq!(api.get(&operator, "/api/keys").await.data(200).as_array().unwrap().len(), 1);
    for _ in 0..2 {
        assert_eq!(api.delete(&operator, &format!("/api/keys/{id}")).await.status, 204);
    }
    assert_eq!(api.get(&key, "/api/backup").await.problem(401), "auth.token_invalid");
    // One that expires does so on the day.
    let mut short = key_body();
    short["expires_in_days"] = json!(1);
    let alice = api.log_in("alice").await;
    let key = api.key(&alice, short).await;
    api.clock.advance(Duration::days(1) - Duration::seconds(1));
    assert_eq!(api.get(&key, "/api/backup").await.status, 200);
    api.clock.advance(Duration::seconds(1));
    assert_eq!(api.get(&key, "/api/backup").await.problem(401), "auth.token_invalid");
    // One letter off is another key.
    let wrong =
        if key.ends_with('0') { format!("{}1", &key[..key.len() - 1]) } else { format!("{}0", &key[..key.len() - 1]) };
    assert_eq!(api.get(&wrong, "/api/backup").await.problem(401), "auth.token_invalid");
}

#[tokio::test]
async fn nobody_gives_more_than_it_has() {
    let api = TestApi::new().await;
    api.user("admin", Role::OrgAdmin, Some("o-acme"), &[]).await;
    api.user("alice", Role::Member, None, &["acme"]).await;
    let (admin, alice) = (api.log_in("admin").await, api.log_in("alice").await);
    let reader = api.member("acme", &[Permission::Write]);
    let key = |more: Value| {
        let mut body = key_body();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (who, token, body, status, code) in [
        ("a member", &alice, key(json!({ "project_ids": ["globex"] })), 404, "project.not_found"),
        ("a member", &alice, key(json!({ "role": "operator" })), 403, "auth.grant"),
        ("a member", &alice, key(json!({ "role": "org_admin", "organization_id": "o-acme" })), 403, "auth.grant"),
        ("one who may only write", &reader, key(json!({})), 403, "auth.grant"),
        ("an admin", &admin, key(json!({ "role": "operator" })), 403, "auth.grant"),
        ("an admin", &admin, key(json!({ "role": "org_admin", "organization_id": "o-globex" })), 403, "auth.grant"),
        ("an admin", &admin, key(json!({ "project_ids": ["globex"] })), 404, "project.not_found"),
        ("a member", &alice, key(json!({ "project_ids": [] })), 422, "key.invalid"),
        ("a member", &alice, key(json!({ "permissions": [] })), 422, "key.invalid"),
        ("a member", &alice, key(json!({ "expires_in_days": 0 })), 422, "key.invalid"),
        ("a member", &alice, key(json!({ "expires_in_days": 367 })), 422, "key.invalid"),
        ("a member", &alice, key(json!({ "name": "a\nb" })), 422, "key.invalid"),
    ] {
        assert_eq!(api.post(token, "/api/keys", body.clone()).await.problem(status), code, "{who}: {body}");
    }
    let user = |more: Value| {
        let mut body = json!({ "name": "new", "password": "a long password" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, status, code) in [
        (user(json!({ "role": "operator" })), 403, "auth.grant"),
        (user(json!({ "organization_id": "o-globex" })), 403, "auth.grant"),
        (user(json!({ "project_ids": ["globex"] })), 404, "project.not_found"),
        (user(json!({ "password": "short" })), 422, "user.password"),
        (user(json!({ "name": " new" })), 422, "user.invalid"),
        (user(json!({ "name": "ALICE" })), 409, "user.exists"),
    ] {
        assert_eq!(api.post(&admin, "/api/users", body.clone()).await.problem(status), code, "{body}");
    }
    let made = api.post(&admin, "/api/users", user(json!({ "project_ids": ["acme"] }))).await.data(201);
    assert_eq!((&made["organization_id"], &made["role"]), (&json!("o-acme"), &json!("member")));
    let path = format!("/api/users/{}", made["id"].as_str().unwrap());
    for body in [json!({ "role": "operator" }), json!({ "organization_id": "o-globex" })] {
        assert_eq!(api.patch(&admin, &path, body).await.problem(403), "auth.grant");
    }
    // An operator of the same organisation is beyond its admin.
    let operator = api.user("boss", Role::Operator, Some("o-acme"), &[]).await;
    let path = format!("/api/users/{operator}");
    assert_eq!(
        api.patch(&admin, &path, json!({ "password": "taken over now" })).await.problem(404),
        "people.not_found"
    );
    assert_eq!(api.delete(&admin, &path).await.problem(404), "people.not_found");
    // Nor does an admin let itself in as someone who reaches more, or give more to it; taking away is free.
    let both = api.user("both", Role::Member, Some("o-acme"), &["acme", "globex"]).await;
    let path_of_both = format!("/api/users/{both}");
    let writer = api.token(&Claims {
        subject: "writer".to_owned(),
        permissions: vec![Permission::Write],
        project_ids: Vec::new(),
        organization_id: Some("o-acme".to_owned()),
        role: Role::OrgAdmin,
    });
    let less = json!({ "permissions": ["backup:read"], "disabled": true });
    let patched = api.patch(&admin, &path_of_both, less).await.data(200);
    // Which projects of others it reaches is theirs to know: their number is told, by every way.
    let shown = api.get(&admin, &path_of_both).await.data(200);
    let listed = api.get(&admin, "/api/users").await.data(200);
    let listed = listed.as_array().unwrap().iter().find(|user| user["name"] == "both").unwrap().clone();
    for told in [patched, shown, listed] {
        assert_eq!((&told["project_ids"], &told["projects_elsewhere"]), (&json!(["acme"]), &json!(1)), "{told}");
    }
    let changed = |who: String| {
        let api = &api;
        async move { api.get(&who, "/api/audit?event=user_changed").await.data(200)[0]["detail"]["project_ids"].clone() }
    };
    assert_eq!(changed(admin.clone()).await, json!(["acme"]));
    let olga = api.token(&Claims {
        subject: "olga".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    });
    // The form that does not show them does not take them away either.
    let cookie = session(&api, "admin").await;
    let page = text(&api.send(visit("/people", Some(&cookie))).await);
    assert!(page.contains("acme, and 1 project elsewhere") && !page.contains("globex"), "{page}");
    let fields = [("role", "member"), ("permissions", "backup:read"), ("project_ids", "acme"), ("disabled", "1")];
    let saved = api.send(form(&format!("/people/{both}/change"), &fields, Some(&cookie))).await;
    assert_eq!(saved.status, 303, "{}", text(&saved));
    let whole = api.get(&olga, &path_of_both).await.data(200);
    assert_eq!((&whole["project_ids"], &whole["projects_elsewhere"]), (&json!(["acme", "globex"]), &json!(0)));
    assert_eq!(changed(olga).await, json!(["acme", "globex"]));
    for body in [
        json!({ "password": "taken over now" }),
        json!({ "role": "org_admin" }),
        json!({ "permissions": ["backup:read", "backup:write"] }),
        json!({ "disabled": false }),
    ] {
        let refused = api.patch(&admin, &path_of_both, body.clone()).await;
        assert_eq!(refused.problem(403), "auth.grant", "{body}");
    }
    api.patch(&admin, &path_of_both, json!({ "project_ids": ["acme"] })).await.data(200);
    let hand_over = json!({ "password": "handed over now", "disabled": false });
    let refused = api.patch(&writer, &path_of_both, hand_over.clone()).await;
    assert_eq!(refused.problem(403), "auth.grant", "the user may read, and the caller may not");
    api.patch(&admin, &path_of_both, hand_over).await.data(200);
    assert_eq!(try_login(&api, "both", "handed over now").await.status, 200);
    // A key neither makes keys nor manages people.
    let boss = api.log_in("boss").await;
    let strong = api
        .key(&boss, json!({ "name": "all", "permissions": ["backup:read", "backup:write"], "role": "operator" }))
        .await;
    assert_eq!(api.get(&strong, "/api/users").await.problem(403), "auth.by_key");
    assert_eq!(api.post(&strong, "/api/keys", key_body()).await.problem(403), "auth.by_key");
    // And follows the one who made it down.
    api.user("boss2", Role::Operator, None, &[]).await;
    let boss2 = api.log_in("boss2").await;
    assert_eq!(api.get(&strong, "/auth/me").await.status, 200);
    api.patch(&boss2, &path, json!({ "role": "member" })).await.data(200);
    assert_eq!(api.get(&strong, "/auth/me").await.problem(401), "auth.token_invalid");
}

#[tokio::test]
async fn the_last_operator_stays_even_when_two_remove_each_other() {
    let (api, olga) = with_operator().await;
    let oscar_id = api.user("Oscar", Role::Operator, None, &[]).await;
    let oscar = api.log_in("Oscar").await;
    let olga_id = api.get(&olga, "/auth/me").await.data(200)["user_id"].as_str().unwrap().to_owned();
    let (olga_path, oscar_path) = (format!("/api/users/{olga_id}"), format!("/api/users/{oscar_id}"));
    let (one, other) = tokio::join!(api.delete(&olga, &oscar_path), api.delete(&oscar, &olga_path));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    // The one that came second was refused, or its session had ended with its user.
    assert!(matches!(statuses, [204, 401 | 409]), "{statuses:?}");
    let (token, path) = if one.status == 204 { (&olga, &olga_path) } else { (&oscar, &oscar_path) };
    for change in [json!({ "disabled": true }), json!({ "role": "member" })] {
        assert_eq!(api.patch(token, path, change).await.problem(409), "user.last_operator");
    }
    assert_eq!(api.delete(token, path).await.problem(409), "user.last_operator");
    assert_eq!(api.get(token, "/auth/me").await.status, 200, "nothing was changed");
}

#[tokio::test]
async fn the_setup_link_makes_the_first_operator_once_within_its_hour() {
    let api = TestApi::new().await;
    let setup = |token: &str, password: &str| {
        api.post("", "/auth/setup", json!({ "token": token, "name": "first", "password": password }))
    };
    let (pool, now) = (api.pool(), || api.clock.now());
    let replaced = people::put_setup_token(pool, now()).await.unwrap();
    let late = people::put_setup_token(pool, now()).await.unwrap();
    assert_eq!(setup(replaced.expose(), "a long password").await.problem(401), "auth.setup_token");
    api.clock.advance(Duration::hours(1));
    assert_eq!(setup(late.expose(), "a long password").await.problem(401), "auth.setup_token");
    let good = people::put_setup_token(pool, now()).await.unwrap();
    assert_eq!(setup(good.expose(), "short").await.problem(422), "user.password");
    let (one, other) = tokio::join!(setup(good.expose(), "a long password"), setup(good.expose(), "a long password"));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401]);
    assert_eq!(try_login(&api, "first", "a long password").await.data(200)["user"]["role"], "operator");
    let another = people::put_setup_token(pool, now()).await.unwrap();
    assert_eq!(setup(another.expose(), "a long password").await.problem(409), "auth.set_up");
    assert!(!format!("{another:?}").contains(another.expose()));
}

#[tokio::test]
async fn without_our_own_tokens_there_are_no_local_users() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    std::fs::write(&file, json!({ "keys": [key] }).to_string()).unwrap();
    let api = TestApi::with(|config| {
        config.auth.algorithms = vec![holdfast::config::TokenAlgorithm::EdDSA];
        config.auth.jwks_file = Some(file);
    })
    .await;
    api.user("alice", Role::Member, None, &[]).await;
    assert_eq!(try_login(&api, "alice", PASSWORD).await.problem(409), "auth.no_local_users");
}

#[tokio::test]
async fn no_password_hash_or_key_shows_in_answers_or_rows_that_are_shown() {
    let (api, operator) = with_operator().await;
    let key = api.key(&operator, json!({ "name": "k", "permissions": ["backup:read"], "role": "operator" })).await;
    let body = json!({ "name": "new", "password": "canary of a new user" });
    let mut shown = String::from_utf8_lossy(&api.post(&operator, "/api/users", body).await.body).into_owned();
    let id = api.user("other", Role::Member, None, &[]).await;
    let path = format!("/api/users/{id}");
    shown += &String::from_utf8_lossy(
        &api.patch(&operator, &path, json!({ "password": "canary of a changed one" })).await.body,
    );
    for path in ["/api/users", "/api/keys", "/auth/me", path.as_str(), "/api/backup", "/api/jobs"] {
        let answer = api.get(&operator, path).await;
        assert_eq!(answer.status, 200, "{path}");
        shown += &String::from_utf8_lossy(&answer.body);
    }
    for bad in [
        json!({ "name": "x", "password": ["canary"] }),
        json!({ "name": "x", "password": 4711_0815_u64 }),
        json!({ "name": "x", "password": -4711_0815.5 }),
    ] {
        shown += &String::from_utf8_lossy(&api.post(&operator, "/api/users", bad.clone()).await.body);
        shown += &String::from_utf8_lossy(&api.post("", "/auth/login", bad).await.body);
    }
    let rows: String = sqlx::query_scalar("SELECT string_agg(h::text, ' ') FROM control_plane.backup_history h")
        .fetch_one(api.pool())
        .await
        .unwrap();
    let logs: Option<String> = sqlx::query_scalar("SELECT string_agg(l::text, ' ') FROM control_plane.project_logs l")
        .fetch_one(api.pool())
        .await
        .unwrap();
    let keys: String = sqlx::query_scalar("SELECT string_agg(k::text, ' ') FROM control_plane.api_keys k")
        .fetch_one(api.pool())
        .await
        .unwrap();
    shown += &format!("{rows}{}{keys}", logs.unwrap_or_default());
    let secret = key.rsplit('_').next().unwrap();
    for canary in ["canary", "argon2", "47110815", secret] {
        assert!(!shown.contains(canary), "{canary} in {shown}");
    }
}

#[tokio::test]
async fn a_platforms_token_manages_within_its_reach_without_a_local_user() {
    let api = TestApi::new().await;
    let token = api.token(&Claims {
        subject: "platform|7".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: Some("o-acme".to_owned()),
        role: Role::OrgAdmin,
    });
    let key = api.key(&token, key_body()).await;
    assert_eq!(api.get(&key, "/api/backup").await.status, 200);
    let listed = api.get(&token, "/api/keys").await.data(200);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["created_by"]), (1, &json!("platform|7")));
    // A local user of that name is somebody else.
    api.user("x", Role::Operator, None, &[]).await;
    let keys = api.get(&api.acme(), "/api/keys").await.data(200);
    assert_eq!(keys, json!([]));
}

#[tokio::test]
async fn a_subject_of_the_same_name_in_another_tenant_is_somebody_else() {
    let api = TestApi::new().await;
    let token = |role, projects: &[&str], organization: Option<&str>| {
        api.token(&Claims {
            subject: "alice".to_owned(),
            permissions: Permission::ALL.to_vec(),
            project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
            organization_id: organization.map(str::to_owned),
            role,
        })
    };
    let [acme, globex] = ["acme", "globex"].map(|project| token(Role::Member, &[project], None));
    let [acme_admin, globex_admin] = ["o-acme", "o-globex"].map(|id| token(Role::OrgAdmin, &[], Some(id)));
    let admins = json!({ "name": "all", "permissions": ["backup:read"], "role": "org_admin" });
    let keys = [api.key(&acme, key_body()).await, api.key(&acme_admin, admins).await];
    let paths = keys.each_ref().map(|key| format!("/api/keys/{}", key.split('_').nth(1).unwrap()));
    for other in [&globex, &globex_admin] {
        assert_eq!(api.get(other, "/api/keys").await.data(200), json!([]));
        for path in &paths {
            assert_eq!(api.delete(other, path).await.problem(404), "people.not_found");
        }
    }
    for own in [&acme, &acme_admin] {
        assert_eq!(api.get(own, "/api/keys").await.data(200).as_array().unwrap().len(), 2);
    }
    for ((own, path), key) in [&acme, &acme_admin].into_iter().zip(&paths).zip(&keys) {
        assert_eq!(api.get(key, "/api/backup").await.status, 200);
        assert_eq!(api.delete(own, path).await.status, 204);
        assert_eq!(api.get(key, "/api/backup").await.problem(401), "auth.token_invalid");
    }

    // Whoever has lost a project or a role since still sees and revokes what it made, and is not told what it reaches no more.
    let both = token(Role::Member, &["acme", "globex"], None);
    let wide = json!({ "name": "wide", "permissions": ["backup:read"], "project_ids": ["globex", "acme"] });
    let admins = json!({ "name": "all", "permissions": ["backup:read"], "role": "org_admin" });
    let keys = [api.key(&both, wide).await, api.key(&acme_admin, admins).await];
    let elsewhere = token(Role::Member, &["initech"], None);
    // Names and projects of the keys that are not revoked, by name: all were made at one instant.
    let good = async |token: &str| -> Vec<(String, Value)> {
        let rows = api.get(token, "/api/keys").await.data(200);
        let rows = rows.as_array().unwrap().iter().filter(|row| row["revoked_at"].is_null());
        let mut told: Vec<_> =
            rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["project_ids"].clone())).collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    };
    let all = || ("all".to_owned(), json!([]));
    let wide = |projects: Value| ("wide".to_owned(), projects);
    assert_eq!(good(&elsewhere).await, []);
    assert_eq!(good(&both).await, [all(), wide(json!(["globex", "acme"]))]);
    assert_eq!(good(&acme).await, [all(), wide(json!(["acme"]))]);
    assert_eq!(good(&globex_admin).await, [wide(json!(["globex"]))]);
    for key in keys {
        let path = format!("/api/keys/{}", key.split('_').nth(1).unwrap());
        assert_eq!(api.get(&key, "/api/backup").await.status, 200);
        assert_eq!(api.delete(&elsewhere, &path).await.problem(404), "people.not_found");
        assert_eq!(api.delete(&acme, &path).await.status, 204);
        assert_eq!(api.get(&key, "/api/backup").await.problem(401), "auth.token_invalid");
    }
}

#[tokio::test]
async fn a_maker_has_a_hundred_good_keys_and_others_room_of_their_own() {
    let api = TestApi::new().await;
    let acme = api.acme();
    // Of these one has expired, and one was revoked.
    sqlx::query(
        "INSERT INTO control_plane.api_keys
             (id, name, secret_sha256, created_by, permissions, project_ids, created_at, expires_at, revoked_at)
         SELECT gen_random_uuid(), 'key ' || n, '\\x00', 'member of acme', '{backup:read}', '{acme}', $1,
             CASE WHEN n = 100 THEN $1 ELSE $1 + interval '1 day' END, CASE WHEN n = 101 THEN $1 END
         FROM generate_series(1, 101) AS n",
    )
    .bind(api.clock.now())
    .execute(api.pool())
    .await
    .unwrap();
    let (one, other) = tokio::join!(api.post(&acme, "/api/keys", key_body()), api.post(&acme, "/api/keys", key_body()));
    let (made, refused) = if one.status == 201 { (one, other) } else { (other, one) };
    assert_eq!(refused.problem(409), "key.too_many");
    assert!(refused.json()["hint"].is_string());
    let id = made.data(201)["id"].as_str().unwrap().to_owned();
    // Not counted against somebody of the same name in another tenant.
    let namesake = api.token(&Claims {
        subject: "member of acme".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: vec!["globex".parse().unwrap()],
        organization_id: None,
        role: Role::Member,
    });
    let elsewhere = json!({ "name": "ci", "permissions": ["backup:read"], "project_ids": ["globex"] });
    api.key(&namesake, elsewhere).await;
    assert_eq!(api.delete(&acme, &format!("/api/keys/{id}")).await.status, 204);
    api.key(&acme, key_body()).await;
    assert_eq!(api.count("SELECT count(*) FROM control_plane.api_keys").await, 104);
}
