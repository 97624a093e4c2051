//! How much one may ask for: calls, jobs in flight, pages, bodies, and the head of a request.

use crate::api;

use std::net::SocketAddr;

use api::{Answer, TestApi, request};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request, header},
};
use bytes::Bytes;
use chrono::Duration;
use holdfast::{
    auth::jwt::Claims,
    tenant::{Permission, Role},
};
use serde_json::json;

fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let address: SocketAddr = address.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(address));
    request
}

fn get(path: &str, token: Option<&str>) -> Request<Body> {
    request(Method::GET, path, token, None)
}

/// Seconds that the answer says to wait.
#[track_caller]
fn retry_after(answer: &Answer, code: &str) -> i64 {
    assert_eq!(answer.problem(429), code);
    let seconds = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!(seconds > 0);
    seconds
}

#[tokio::test]
async fn a_caller_who_calls_too_often_waits_as_long_as_it_is_told_and_no_other_caller_does() {
    let api = TestApi::with(|config| config.limits.requests_per_minute = 60).await;
    let (acme, globex) = (api.acme(), api.member("globex", Permission::ALL));
    for _ in 0..10 {
        api.get(&acme, "/api/backup").await.data(200);
    }
    let wait = retry_after(&api.get(&acme, "/api/backup").await, "limits.rate");
    api.get(&globex, "/api/backup").await.data(200);
    // The same subject in another tenant is another caller.
    let namesake = api.token(&Claims {
        subject: "member of acme".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: vec!["globex".parse().unwrap()],
        organization_id: None,
        role: Role::Member,
    });
    api.get(&namesake, "/api/backup").await.data(200);
    // Health is answered whoever asks, and however often.
    for _ in 0..30 {
        assert_eq!(api.send(from("192.0.2.1:1", get("/healthz", Some(&acme)))).await.status, 200);
    }
    api.clock.advance(Duration::seconds(wait));
    api.get(&acme, "/api/backup").await.data(200);
}

#[tokio::test]
async fn a_stream_of_events_counts_as_one_call_however_long_it_lasts() {
    let api = TestApi::with(|config| config.limits.requests_per_minute = 12).await;
    let token = api.acme();
    let job = api.job("acme", "export_backup", "completed").await;
    let stream = api.get(&token, &format!("/api/jobs/{job}/events")).await;
    assert!(stream.status == 200 && !stream.body.is_empty());
    api.get(&token, "/api/jobs").await.data(200);
    retry_after(&api.get(&token, "/api/jobs").await, "limits.rate");
}

#[tokio::test]
async fn a_call_with_an_idempotency_key_counts_once_and_so_does_its_repetition() {
    let api = TestApi::with(|config| config.limits.requests_per_minute = 60).await;
    let token = api.acme();
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let pin = async |key: usize| {
        let mut request = request(Method::POST, &format!("/api/backup/{id}/pin"), Some(&token), Some(json!(null)));
        request.headers_mut().insert("idempotency-key", key.to_string().parse().unwrap());
        api.send(request).await
    };
    for number in 0..10 {
        pin(number / 2).await.data(200);
    }
    retry_after(&pin(9).await, "limits.rate");
    retry_after(&pin(0).await, "limits.rate");
}

#[tokio::test]
async fn metrics_are_always_told_to_prometheus_and_others_who_ask_are_counted() {
    const TOKEN: &str = "a token for prometheus alone";
    let api = TestApi::with(|config| {
        config.limits.anonymous_requests_per_minute = 60;
        config.metrics.token = Some(holdfast::config::Secret::new(TOKEN));
    })
    .await;
    let ask = async |token: Option<&str>| api.send(from("192.0.2.1:1", get("/metrics", token))).await;
    let no_key = format!("hfk_{}_{}", "0".repeat(32), "0".repeat(64));
    for number in 0..10 {
        ask((number % 2 == 0).then_some(no_key.as_str())).await.problem(401);
    }
    retry_after(&ask(None).await, "limits.rate");
    retry_after(&ask(Some(&no_key)).await, "limits.rate");
    for _ in 0..20 {
        assert_eq!(ask(Some(TOKEN)).await.status, 200);
    }
}

#[tokio::test]
async fn nobody_is_counted_by_address_and_a_valid_token_from_there_still_works() {
    let api = TestApi::with(|config| config.limits.anonymous_requests_per_minute = 60).await;
    let ask = async |address: &str, token: Option<&str>| api.send(from(address, get("/auth/me", token))).await;
    for number in 0..10 {
        // Another port is the same caller; a wrong token is no token.
        ask(&format!("192.0.2.1:{}", 1000 + number), (number % 2 == 0).then_some("x.y.z")).await.problem(401);
    }
    retry_after(&ask("192.0.2.1:1", None).await, "limits.rate");
    let wait = retry_after(&ask("192.0.2.1:1", Some("x.y.z")).await, "limits.rate");
    ask("192.0.2.2:1", None).await.problem(401);
    ask("192.0.2.1:1", Some(&api.acme())).await.data(200);
    // Logins are calls of nobody.
    let login = request(Method::POST, "/auth/login", None, Some(json!({ "name": "x", "password": "x" })));
    retry_after(&api.send(from("192.0.2.1:1", login)).await, "limits.rate");
    // And so are those for pages that need no token, whatever token comes along.
    retry_after(&api.send(from("192.0.2.1:1", get("/openapi.json", Some("x.y.z")))).await, "limits.rate");
    api.clock.advance(Duration::seconds(wait));
    ask("192.0.2.1:1", None).await.problem(401);
    // A whole /64 is one address.
    for number in 0..10 {
        ask(&format!("[2001:db8::{number}]:1"), None).await.problem(401);
    }
    retry_after(&ask("[2001:db8::ffff]:1", None).await, "limits.rate");
    ask("[2001:db8:0:1::1]:1", None).await.problem(401);
}

#[tokio::test]
async fn where_many_wrong_tokens_came_from_tokens_are_looked_at_first_and_valid_ones_let_in() {
    let api = TestApi::with(|config| config.limits.anonymous_requests_per_minute = 60).await;
    let ask = async |address: &str, path: &str, token: &str| api.send(from(address, get(path, Some(token)))).await;
    let valid = api.acme();
    let key = api
        .post(&valid, "/api/keys", json!({ "name": "ci", "permissions": ["backup:read"], "project_ids": ["acme"] }))
        .await
        .data(201)["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let wrong = format!("{}x", key.split_at(key.len() - 1).0);
    for _ in 0..10 {
        ask("192.0.2.1:1", "/auth/me", &wrong).await.problem(401);
    }
    // Refused before the path is looked at, by what the token is alone.
    for token in [wrong.as_str(), "x.y.z"] {
        for path in ["/auth/me", "/nowhere"] {
            retry_after(&ask("192.0.2.1:1", path, token).await, "limits.rate");
        }
    }
    for token in [&valid, &key] {
        ask("192.0.2.1:1", "/auth/me", token).await.data(200);
    }
    ask("192.0.2.2:1", "/auth/me", &wrong).await.problem(401);
}

#[tokio::test]
async fn forwarded_addresses_count_behind_trusted_proxies_alone() {
    let api = TestApi::with(|config| config.listen.trusted_proxies = vec!["10.0.0.0/8".to_owned()]).await;
    let address = async |peer: &str, forwarded: &str| -> String {
        let body = json!({ "project_id": "acme" });
        let mut request = from(peer, request(Method::POST, "/api/backup/export", Some(&api.acme()), Some(body)));
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        api.send(request).await.data(202);
        sqlx::query_scalar("SELECT address FROM control_plane.backup_history ORDER BY id DESC LIMIT 1")
            .fetch_one(api.pool())
            .await
            .unwrap()
    };
    assert_eq!(address("192.0.2.1:1", "198.51.100.1").await, "192.0.2.1");
    assert_eq!(address("10.1.2.3:1", "6.6.6.6, 198.51.100.1, 10.9.9.9").await, "198.51.100.1");
    assert_eq!(address("10.1.2.3:1", "garbage").await, "10.1.2.3");
}

#[tokio::test]
async fn a_project_has_so_many_jobs_in_flight_and_a_repeated_request_still_gets_its_own() {
    let api = TestApi::with(|config| config.limits.jobs_per_project = 3).await;
    let token = api.acme();
    let export = async |key: Option<&str>| {
        let mut request =
            request(Method::POST, "/api/backup/export", Some(&token), Some(json!({ "project_id": "acme" })));
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        }
        api.send(request).await
    };
    let first = export(Some("k")).await.data(202);
    export(None).await.data(202);
    let running = export(None).await.data(202)["job_id"].as_str().unwrap().to_owned();
    sqlx::query("UPDATE control_plane.jobs SET status = 'in_progress' WHERE id = $1::uuid")
        .bind(&running)
        .execute(api.pool())
        .await
        .unwrap();
    let rows = async || {
        (
            api.count("SELECT count(*) FROM control_plane.jobs").await,
            api.count("SELECT count(*) FROM control_plane.backups").await,
        )
    };
    let before = rows().await;
    retry_after(&export(None).await, "limits.jobs");
    assert_eq!(rows().await, before, "nothing is left of a refused request");
    assert_eq!(export(Some("k")).await.data(202)["job_id"], first["job_id"]);
    // Another project, and a deletion, have room of their own; housekeeping and a platform's own jobs take none.
    let globex = api.member("globex", Permission::ALL);
    api.post(&globex, "/api/backup/export", json!({ "project_id": "globex" })).await.data(202);
    for job_type in ["repair_copies", "send_report"] {
        api.job("globex", job_type, "pending").await;
        api.job("globex", job_type, "pending").await;
    }
    api.post(&globex, "/api/backup/export", json!({ "project_id": "globex" })).await.data(202);
    let backup = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    retry_after(
        &api.post(&token, &format!("/api/backup/{backup}/verify"), json!({ "depth": "head" })).await,
        "limits.jobs",
    );
    // Nor are the deletions that retention has asked for.
    for _ in 0..4 {
        let id = api.job("acme", "delete_backup", "pending").await;
        let sql = "UPDATE control_plane.jobs SET priority = -10 WHERE id = $1";
        sqlx::query(sql).bind(id.0).execute(api.pool()).await.unwrap();
    }
    assert_eq!(api.delete(&token, &format!("/api/backup/{backup}")).await.status, 202);
    // When one has ended there is room again.
    api.post(&token, &format!("/api/jobs/{}/cancel", first["job_id"].as_str().unwrap()), json!({})).await.data(202);
    export(None).await.data(202);
}

#[tokio::test]
async fn of_many_that_come_together_no_more_than_the_limit_get_in() {
    let api = TestApi::with(|config| config.limits.jobs_per_project = 5).await;
    let token = api.acme();
    let asked = (0..30).map(|_| api.post(&token, "/api/backup/export", json!({ "project_id": "acme" })));
    let answers = futures::future::join_all(asked).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!((accepted, answers.iter().filter(|answer| answer.status == 429).count()), (5, 25));
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 5);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.backups").await, 5);
}

#[tokio::test]
async fn a_hundred_equal_requests_under_one_key_make_one_job_when_there_is_room_for_one() {
    let api = TestApi::with(|config| config.limits.jobs_per_project = 1).await;
    let token = api.acme();
    let asked = (0..100).map(|_| {
        let mut request =
            request(Method::POST, "/api/backup/export", Some(&token), Some(json!({ "project_id": "acme" })));
        request.headers_mut().insert("idempotency-key", "one".parse().unwrap());
        api.send(request)
    });
    let answers = futures::future::join_all(asked).await;
    let first = answers[0].data(202)["job_id"].clone();
    assert!(answers.iter().all(|answer| answer.data(202)["job_id"] == first));
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 1);
}

#[tokio::test]
async fn pages_bodies_queries_and_headers_have_a_largest_size() {
    let api = TestApi::with(|config| config.listen.max_body = holdfast::byte_size::ByteSize::kib(4)).await;
    let token = api.acme();
    for path in ["/api/backup", "/api/jobs", "/api/keys"] {
        for limit in ["0", "201", "-1", "99999999999999999999"] {
            api.get(&token, &format!("{path}?limit={limit}")).await.problem(422);
        }
        api.get(&token, &format!("{path}?limit=200")).await.data(200);
    }
    let body = json!({ "project_id": "acme", "caption": "x".repeat(5000) });
    assert_eq!(api.post(&token, "/api/backup/export", body).await.problem(413), "request.too_large");
    let long = api.get(&token, &format!("/api/backup?project_id={}", "x".repeat(9000))).await;
    assert_eq!(long.problem(414), "request.uri_too_long");
    let mut wide = get("/api/backup", Some(&token));
    wide.headers_mut().insert("x-wide", "x".repeat(17_000).parse().unwrap());
    assert_eq!(api.send(wide).await.problem(431), "request.headers_too_large");
    // Just below both.
    let mut wide = get(&format!("/api/backup?project_id={}", "x".repeat(8_000)), Some(&token));
    wide.headers_mut().insert("x-wide", "x".repeat(14_000).parse().unwrap());
    api.send(wide).await.data(200);
}

#[test]
fn a_proxy_that_is_no_network_stops_the_start_with_one_line() {
    let listen = |proxies: &[&str]| holdfast::config::ListenConfig {
        trusted_proxies: proxies.iter().map(|proxy| (*proxy).to_owned()).collect(),
        ..Default::default()
    };
    assert_eq!(listen(&["10.0.0.0/8", "192.0.2.7", "::1"]).trusted_networks().unwrap().len(), 3);
    assert!(listen(&["my-proxy"]).trusted_networks().unwrap_err().contains("\"my-proxy\""));
}
