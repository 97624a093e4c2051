//! `Idempotency-Key` on calls that make no job.

use axum::http::{Method, header};
use bytes::Bytes;
use futures::StreamExt;
use holdfast::{
    auth::jwt::Claims,
    ids::BackupId,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{
    api::{Answer, PASSWORD, TestApi, request},
    raw, with_key,
};

const USERS: &str = "/api/users";

fn operator(api: &TestApi, subject: &str) -> String {
    api.token(&Claims {
        subject: subject.to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    })
}

fn user(name: &str) -> Value {
    json!({ "name": name, "password": "canary battery staple", "project_ids": ["acme"] })
}

/// Everything that is kept about keys.
async fn kept(api: &TestApi) -> String {
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT k::text FROM control_plane.idempotency_keys k").fetch_all(api.pool()).await.unwrap();
    rows.join("\n")
}

#[tokio::test]
async fn a_hundred_equal_calls_make_one_row() {
    let api = TestApi::new().await;
    let token = operator(&api, "op");
    let sends = (0..100).map(|_| api.send(with_key(USERS, &token, "same", user("bob"))));
    let answers: Vec<Answer> = futures::stream::iter(sends).buffer_unordered(100).collect().await;
    let (made, under_way): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 201);
    for answer in under_way {
        assert_eq!(answer.problem(409), "idempotency.under_way");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    }
    let first = made.iter().find(|answer| !answer.headers.contains_key("idempotency-replayed")).unwrap();
    assert!(made.iter().all(|answer| answer.body == first.body));
    assert_eq!(made.iter().filter(|answer| !answer.headers.contains_key("idempotency-replayed")).count(), 1);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.users").await, 1);
    assert_eq!(api.audit().await.len(), 1);

    let again = api.send(with_key(USERS, &token, "same", user("bob"))).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &first.body));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers[header::CONTENT_TYPE], "application/json");
    assert!(!kept(&api).await.contains("canary"));
}

#[tokio::test]
async fn a_key_belongs_to_one_call_of_one_caller() {
    let api = TestApi::new().await;
    let token = operator(&api, "op");
    let first = api.send(with_key(USERS, &token, "k", user("bob"))).await.data(201);
    assert_eq!(api.send(with_key(USERS, &token, "k", user("eve"))).await.problem(409), "idempotency.reused");
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let pin = format!("/api/backup/{id}/pin");
    assert_eq!(api.send(with_key(&pin, &token, "k", Value::Null)).await.problem(409), "idempotency.reused");
    let other = api.send(with_key(USERS, &operator(&api, "another"), "k", user("eve"))).await.data(201);
    assert_ne!(other["id"], first["id"]);
    // The same subject with other rights is another caller: nothing that it may not see is repeated to it.
    let less = api.token(&Claims {
        subject: "op".to_owned(),
        permissions: vec![Permission::Read],
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    });
    assert_eq!(api.send(with_key(USERS, &less, "k", user("bob"))).await.problem(403), "auth.forbidden");
    // Nobody's key is looked at.
    assert_eq!(api.send(with_key(USERS, "nonsense", "k", user("bob"))).await.problem(401), "auth.token_invalid");
}

#[tokio::test]
async fn what_was_refused_may_be_put_right_under_the_same_key() {
    let api = TestApi::new().await;
    let token = operator(&api, "op");
    let short = json!({ "name": "bob", "password": "short" });
    assert_eq!(api.send(with_key(USERS, &token, "k", short)).await.problem(422), "user.password");
    api.send(with_key(USERS, &token, "k", user("bob"))).await.data(201);
    let nothing = format!("/api/backup/{}/pin", BackupId::generate());
    api.send(with_key(&nothing, &token, "p", Value::Null)).await.problem(404);
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    api.send(with_key(&format!("/api/backup/{id}/pin"), &token, "p", Value::Null)).await.data(200);
}

#[tokio::test]
async fn an_answer_with_a_secret_is_given_once() {
    let api = TestApi::new().await;
    let token = operator(&api, "op");
    let body = json!({ "name": "ci", "permissions": ["backup:read"], "project_ids": ["acme"] });
    let made = api.send(with_key("/api/keys", &token, "k", body.clone())).await.data(201);
    let secret = made["key"].as_str().unwrap().rsplit('_').next().unwrap();
    let again = api.send(with_key("/api/keys", &token, "k", body)).await;
    assert_eq!(again.problem(409), "idempotency.not_kept");
    assert!(!again.json().to_string().contains(secret));
    assert_eq!(api.count("SELECT count(*) FROM control_plane.api_keys").await, 1);
    let kept = kept(&api).await;
    assert!(!kept.is_empty() && !kept.contains(secret) && !kept.contains("hfk_"), "{kept}");
}

#[tokio::test]
async fn nothing_of_logins_and_passwords_is_kept() {
    let api = TestApi::new().await;
    let token = operator(&api, "op");
    api.user("alice", Role::Member, None, &["acme"]).await;
    let login = json!({ "name": "alice", "password": PASSWORD });
    for _ in 0..2 {
        let answer = api.send(with_key("/auth/login", &token, "k", login.clone())).await;
        assert!(answer.data(200)["token"].is_string() && !answer.headers.contains_key("idempotency-replayed"));
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.sessions").await, 2);
    assert_eq!(kept(&api).await, "");
}

#[tokio::test]
async fn a_refusal_of_a_call_with_a_key_is_written_down_as_without() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let reader = api.member("acme", &[Permission::Read]);
    let pin = format!("/api/backup/{id}/pin");
    let audit = async || -> Vec<(String, String, Option<String>)> {
        sqlx::query_as("SELECT event, actor, project_id FROM control_plane.backup_history ORDER BY id")
            .fetch_all(api.pool())
            .await
            .unwrap()
    };
    let entries = async |key: Option<&str>, token: &str, path: &str, body: Value| {
        let before = audit().await.len();
        let answer = match key {
            Some(key) => api.send(with_key(path, token, key, body)).await,
            None => api.post(token, path, body).await,
        };
        assert!(answer.status.is_client_error());
        audit().await.split_off(before)
    };
    // Told by the handler, and by what the body names.
    let member = api.acme();
    for (token, path, body) in [
        (&reader, pin.as_str(), Value::Null),
        (&member, "/api/schedules", json!({ "project_id": "acme", "nonsense": 1 })),
    ] {
        let (with, without) =
            (entries(Some("k"), token, path, body.clone()).await, entries(None, token, path, body).await);
        assert!(with.len() == 1 && with[0].2.as_deref() == Some("acme"), "{path}: {with:?}");
        assert_eq!(with, without, "{path}");
    }
}

#[tokio::test]
async fn a_call_whose_caller_cannot_be_looked_up_is_not_carried_out_without_its_key() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let body = json!({ "name": "ci", "permissions": ["backup:write"], "project_ids": ["acme"] });
    let token = api.key(&api.acme(), body).await;
    // The first look at the API key fails, and every later one succeeds: a sequence does not go back with its transaction.
    api.pool()
        .execute(
            "CREATE SEQUENCE public.looks;
             CREATE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN
                 IF nextval('public.looks') = 1 THEN RAISE EXCEPTION 'too many' USING ERRCODE = '53300'; END IF;
                 RETURN new;
             END $f$;
             CREATE TRIGGER looks BEFORE UPDATE ON control_plane.api_keys FOR EACH ROW EXECUTE FUNCTION public.fail_once()",
        )
        .await
        .unwrap();
    let pin = format!("/api/backup/{id}/pin");
    let answer = api.send(with_key(&pin, &token, "k", Value::Null)).await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.backups WHERE pinned").await, 0);
    let again = async || api.send(with_key(&pin, &token, "k", Value::Null)).await;
    assert_eq!(again().await.data(200)["pinned"], true);
    assert!(again().await.headers.contains_key("idempotency-replayed"));
}

#[tokio::test]
async fn a_key_is_honoured_for_a_day_and_one_whose_answer_was_lost_for_a_minute() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let (pin, unpin) = (format!("/api/backup/{id}/pin"), format!("/api/backup/{id}/unpin"));
    let call = async |path: &str, key: &str| {
        // A token lives for an hour.
        api.send(with_key(path, &api.acme(), key, Value::Null)).await
    };
    let is_pinned = async || api.count("SELECT count(*) FROM control_plane.backups WHERE pinned").await == 1;
    call(&pin, "k").await.data(200);
    call(&unpin, "u").await.data(200);
    api.clock.advance(chrono::Duration::hours(23));
    assert_eq!(call(&pin, "k").await.data(200)["pinned"], true, "as it was then");
    assert!(!is_pinned().await, "it was not done again");
    api.clock.advance(chrono::Duration::hours(1));
    call(&pin, "k").await.data(200);
    assert!(is_pinned().await);
    // The other key's day is over too.
    assert_eq!(api.count("SELECT count(*) FROM control_plane.idempotency_keys").await, 1);

    // A process that died before it kept its answer.
    call(&unpin, "u2").await.data(200);
    sqlx::query("UPDATE control_plane.idempotency_keys SET status = NULL, body = NULL WHERE key = 'k'")
        .execute(api.pool())
        .await
        .unwrap();
    assert_eq!(call(&pin, "k").await.problem(409), "idempotency.under_way");
    api.clock.advance(chrono::Duration::seconds(61));
    call(&pin, "k").await.data(200);
    assert!(is_pinned().await);
}

#[tokio::test]
async fn a_key_or_body_that_cannot_be_used_is_refused_as_without() {
    let api = TestApi::with(|config| config.listen.max_body = holdfast::byte_size::ByteSize::kib(64)).await;
    let token = operator(&api, "op");
    let mut bad = request(Method::POST, USERS, Some(&token), Some(user("bob")));
    bad.headers_mut().insert("idempotency-key", "a b".parse().unwrap());
    assert_eq!(api.send(bad).await.problem(400), "request.idempotency_key");
    for (body, status) in [(" ".repeat(70_000), 413), ("{".to_owned(), 400)] {
        let mut request = raw(USERS, &token, body);
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        api.send(request).await.problem(status);
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.users").await, 0);
}
