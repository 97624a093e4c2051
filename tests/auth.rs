//! Tokens that a platform signs itself, over the API.

pub mod signers;

use crate::api;

use api::{Answer, TestApi, request};
use axum::http::{Method, StatusCode};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use holdfast::config::{AuthConfig, TokenAlgorithm};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use signers::{KeyServer, Signer};

/// What a platform says of an operator. The API's clock stands at this time.
fn claims() -> Value {
    let now = "2026-11-21T12:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
    json!({
        "iss": "holdfast", "aud": "holdfast", "sub": "platform|7", "iat": now, "exp": now + 3600,
        "scope": "backup:read backup:write", "role": "member", "project_ids": ["acme"],
    })
}

async fn ask(api: &TestApi, token: &str) -> Answer {
    api.get(token, "/api/backup").await
}

const fn configured(algorithm: Algorithm) -> TokenAlgorithm {
    match algorithm {
        Algorithm::RS256 => TokenAlgorithm::RS256,
        Algorithm::ES256 => TokenAlgorithm::ES256,
        _ => TokenAlgorithm::EdDSA,
    }
}

fn signers() -> [(Signer, Signer); 3] {
    [
        (Signer::rs256("one"), Signer::rs256("one")),
        (Signer::es256("one"), Signer::es256("one")),
        (Signer::eddsa("one"), Signer::eddsa("one")),
    ]
}

#[tokio::test]
async fn a_token_signed_with_the_configured_public_keys_pair_is_taken_and_no_other() {
    for (signer, stranger) in signers() {
        let directory = tempfile::tempdir().unwrap();
        let file = signer.public_pem_file(&directory);
        let api = TestApi::with(|config| {
            config.auth.algorithms = vec![configured(signer.algorithm)];
            config.auth.public_key_file = Some(file);
        })
        .await;
        let name = format!("{:?}", signer.algorithm);
        let good = signer.sign(&claims());
        assert_eq!(ask(&api, &good).await.status, 200, "{name}");
        assert_eq!(ask(&api, &stranger.sign(&claims())).await.problem(401), "auth.token_invalid", "{name}");
        let mut late = claims();
        late["exp"] = json!(claims()["iat"].as_i64().unwrap() - 31);
        assert_eq!(ask(&api, &signer.sign(&late)).await.problem(401), "auth.token_expired", "{name}");
        for (claim, value) in [("aud", json!("other")), ("iss", json!("other")), ("exp", json!("soon"))] {
            let mut body = claims();
            body[claim] = value;
            assert_eq!(ask(&api, &signer.sign(&body)).await.problem(401), "auth.token_invalid", "{name} {claim}");
        }
        // What is signed with the public key as an HMAC's secret, or not at all.
        for secret in [signer.public_pem().into_bytes(), signer.public_pem().trim_end().as_bytes().to_vec()] {
            for kid in [None, signer.kid.clone()] {
                let mut header = Header::new(Algorithm::HS256);
                header.kid = kid;
                let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
                assert_eq!(ask(&api, &forged).await.problem(401), "auth.token_invalid", "{name}");
            }
        }
        let (header, rest) = good.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        for algorithm in ["none", "None", "HS256", "RS256", "PS256", "ES256", "ES384", "EdDSA"] {
            if algorithm == name {
                continue;
            }
            let changed = BASE64.encode(json!({ "alg": algorithm, "kid": "one" }).to_string());
            for signature in ["", signature] {
                let token = format!("{changed}.{payload}.{signature}");
                assert_eq!(ask(&api, &token).await.problem(401), "auth.token_invalid", "{name} as {algorithm}");
            }
        }
        let other_body = BASE64.encode(json!({ "role": "operator" }).to_string());
        assert_eq!(ask(&api, &format!("{header}.{other_body}.{signature}")).await.problem(401), "auth.token_invalid");
        // HS256 is not configured, so our own secret opens nothing either.
        let own = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims(),
            &EncodingKey::from_secret(b"an HS256 secret that is long enough"),
        );
        assert_eq!(ask(&api, &own.unwrap()).await.problem(401), "auth.token_invalid", "{name}");
    }
}

#[tokio::test]
async fn tokens_of_our_own_are_taken_beside_a_platforms_when_both_are_configured() {
    let signer = Signer::es256("one");
    let directory = tempfile::tempdir().unwrap();
    let file = signer.public_pem_file(&directory);
    let api = TestApi::with(|config| {
        config.auth.algorithms = vec![TokenAlgorithm::HS256, TokenAlgorithm::ES256];
        config.auth.public_key_file = Some(file);
        config.auth.claims.scope = "permissions".to_owned();
    })
    .await;
    assert_eq!(ask(&api, &api.acme()).await.status, 200, "ours keep our names");
    assert_eq!(ask(&api, &signer.sign(&claims())).await.problem(403), "auth.forbidden");
    let mut body = claims();
    body["permissions"] = json!(["backup:read"]);
    assert_eq!(ask(&api, &signer.sign(&body)).await.status, 200);
}

#[tokio::test]
async fn a_key_set_is_asked_for_once_and_again_when_keys_rotate() {
    let (first, second, third) = (Signer::rs256("a"), Signer::es256("b"), Signer::eddsa("c"));
    let server = KeyServer::start(&[&first]).await;
    let api = TestApi::with(|config| with_server(&mut config.auth, &server)).await;
    assert_eq!(server.asked(), 0, "nothing is asked for before the first token");
    for _ in 0..3 {
        assert_eq!(ask(&api, &first.sign(&claims())).await.status, 200);
    }
    assert_eq!(server.asked(), 1);
    // Rotated at once: still within the time in which it is not asked again.
    server.rotate(&[&first, &second]);
    for _ in 0..3 {
        assert_eq!(ask(&api, &second.sign(&claims())).await.problem(401), "auth.token_invalid");
    }
    assert_eq!(server.asked(), 1, "strange keys do not make it ask");
    api.clock.advance(chrono::Duration::seconds(60));
    assert_eq!(ask(&api, &second.sign(&claims())).await.status, 200);
    assert_eq!(ask(&api, &first.sign(&claims())).await.status, 200);
    assert_eq!(server.asked(), 2);
    // Withdrawn keys go when the set has grown old, though nobody names an unknown one.
    server.rotate(&[&second, &third]);
    api.clock.advance(chrono::Duration::seconds(600));
    assert_eq!(ask(&api, &first.sign(&claims())).await.problem(401), "auth.token_invalid");
    assert_eq!(ask(&api, &third.sign(&claims())).await.status, 200);
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn a_key_set_that_cannot_be_had_leaves_the_keys_as_they_were() {
    let (first, second) = (Signer::eddsa("a"), Signer::eddsa("b"));
    let server = KeyServer::start(&[&first]).await;
    let api = TestApi::with(|config| with_server(&mut config.auth, &server)).await;
    assert_eq!(ask(&api, &first.sign(&claims())).await.status, 200);
    for (status, text) in [
        (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, json!({ "keys": [] }).to_string()),
        (StatusCode::OK, format!("{}{}", signers::key_set(&[&second]), " ".repeat(300 * 1024))),
        (StatusCode::FOUND, String::new()),
    ] {
        server.answer(status, &text);
        let asked = server.asked();
        api.clock.advance(chrono::Duration::seconds(60));
        assert_eq!(ask(&api, &second.sign(&claims())).await.problem(401), "auth.token_invalid");
        assert_eq!(server.asked(), asked + 1, "{status}");
        assert_eq!(ask(&api, &first.sign(&claims())).await.status, 200, "{status}");
    }
}

#[tokio::test]
async fn many_strange_tokens_at_once_ask_for_the_key_set_once() {
    let (known, strange) = (Signer::eddsa("a"), Signer::eddsa("b"));
    let server = KeyServer::start(&[&known]).await;
    let api = TestApi::with(|config| with_server(&mut config.auth, &server)).await;
    let (good, bad) = (known.sign(&claims()), strange.sign(&claims()));
    let calls = (0..40).map(|n| ask(&api, if n % 2 == 0 { &good } else { &bad }));
    let statuses: Vec<u16> =
        futures::future::join_all(calls).await.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 401].repeat(20));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_key_set_in_a_file_is_read_again_when_it_has_changed() {
    let (first, second) = (Signer::es256("a"), Signer::es256("b"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, signers::key_set(&[&first])).unwrap();
    let api = TestApi::with(|config| {
        config.auth.algorithms = vec![TokenAlgorithm::ES256];
        config.auth.jwks_file = Some(file.clone());
    })
    .await;
    assert_eq!(ask(&api, &first.sign(&claims())).await.status, 200);
    std::fs::write(&file, signers::key_set(&[&second])).unwrap();
    api.clock.advance(chrono::Duration::seconds(60));
    assert_eq!(ask(&api, &second.sign(&claims())).await.status, 200);
    assert_eq!(ask(&api, &first.sign(&claims())).await.problem(401), "auth.token_invalid");
}

#[tokio::test]
async fn a_platforms_own_claims_reach_its_projects_without_local_users() {
    let signer = Signer::rs256("a");
    let directory = tempfile::tempdir().unwrap();
    let file = signer.public_pem_file(&directory);
    let api = TestApi::with(|config| {
        let auth = &mut config.auth;
        auth.algorithms = vec![TokenAlgorithm::RS256];
        auth.public_key_file = Some(file);
        auth.issuer = "https://login.example.com/realms/main".to_owned();
        auth.audience = "backups".to_owned();
        auth.claims.subject = "preferred_username".to_owned();
        auth.claims.scope = "https://example.com/permissions".to_owned();
        auth.claims.project_ids = "tenants".to_owned();
        auth.claims.organization = "org.id".to_owned();
        auth.claims.role = "realm_access.roles".to_owned();
        auth.roles.insert("backup-admin".to_owned(), "operator".to_owned());
        auth.roles.insert("customer-admin".to_owned(), "org_admin".to_owned());
    })
    .await;
    let body = |roles: Value| {
        let mut body = claims();
        let object = body.as_object_mut().unwrap();
        for ours in ["scope", "role", "project_ids"] {
            object.remove(ours);
        }
        let theirs = json!({
            "iss": "https://login.example.com/realms/main", "aud": ["account", "backups"], "preferred_username": "alice",
            "https://example.com/permissions": ["backup:read", "backup:write", "other:thing"], "tenants": ["acme"],
            "org": { "id": "o-globex" }, "realm_access": { "roles": roles },
        });
        object.extend(theirs.as_object().unwrap().clone());
        body
    };
    let export = async |roles: Value, project: &str| {
        let request = request(
            Method::POST,
            "/api/backup/export",
            Some(&signer.sign(&body(roles))),
            Some(json!({ "project_id": project })),
        );
        api.send(request).await.status.as_u16()
    };
    for (roles, acme, globex) in [
        (json!(["uma_authorization"]), 202, 404),
        // The word is ours, but not in the platform's table.
        (json!(["operator"]), 202, 404),
        (json!(["customer-admin"]), 404, 202),
        (json!(["customer-admin", "backup-admin"]), 202, 202),
    ] {
        assert_eq!(
            (export(roles.clone(), "acme").await, export(roles.clone(), "globex").await),
            (acme, globex),
            "{roles}"
        );
    }
    let mut posing = body(json!(["backup-admin"]));
    posing["preferred_username"] = json!("cli:root");
    assert_eq!(ask(&api, &signer.sign(&posing)).await.problem(401), "auth.token_invalid");
    assert_eq!(api.audit().await[0], ("requested".to_owned(), "alice".to_owned(), "ok".to_owned()));
}

fn with_server(auth: &mut AuthConfig, server: &KeyServer) {
    auth.algorithms = vec![TokenAlgorithm::RS256, TokenAlgorithm::ES256, TokenAlgorithm::EdDSA];
    auth.jwks_url = Some(server.url.clone());
    auth.jwks_refresh_seconds = 60;
    auth.jwks_max_age_seconds = 600;
}
