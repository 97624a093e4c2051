//! Tokens that are nearly right. Each differs in one thing from one that is taken.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use super::{Needs, TestApi, api_with, call, rows};

fn claims(api: &TestApi) -> Map<String, Value> {
    let now = api.clock.now().timestamp();
    let claims = json!({
        "iss": "holdfast", "aud": "holdfast", "sub": "mallory", "iat": now, "exp": now + 3600, "role": "operator",
        "scope": "backup:read backup:write", "project_ids": ["acme"],
    });
    claims.as_object().unwrap().clone()
}

fn signed(algorithm: Algorithm, secret: &str, claims: &Map<String, Value>) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn with(mut claims: Map<String, Value>, name: &str, value: Value) -> Map<String, Value> {
    claims.insert(name.to_owned(), value);
    claims
}

fn without(mut claims: Map<String, Value>, name: &str) -> Map<String, Value> {
    claims.remove(name).unwrap();
    claims
}

/// A token whose header says what it likes, with this signature.
fn unsigned(header: &Value, claims: &Map<String, Value>, signature: &str) -> String {
    let part = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{signature}", part(header.to_string()), part(json!(claims).to_string()))
}

/// What is wrong with it, and the token.
fn forged(api: &TestApi) -> Vec<(&'static str, String)> {
    let (good, secret) = (claims(api), super::api::JWT_SECRET);
    let now = api.clock.now().timestamp();
    let hs256 = |claims: &Map<String, Value>| signed(Algorithm::HS256, secret, claims);
    let signature = hs256(&good).rsplit_once('.').unwrap().1.to_owned();
    let none = json!({ "alg": "none", "typ": "JWT" });
    vec![
        ("wrong signature", signed(Algorithm::HS256, "another secret, as long as the right one", &good)),
        ("another algorithm of the same secret", signed(Algorithm::HS512, secret, &good)),
        ("alg none", unsigned(&none, &good, "")),
        ("alg none with a good signature", unsigned(&none, &good, &signature)),
        ("alg NONE", unsigned(&json!({ "alg": "NONE" }), &good, "")),
        ("no alg", unsigned(&json!({ "typ": "JWT" }), &good, "")),
        (
            "somebody else's claims under a good signature",
            unsigned(&json!({ "alg": "HS256", "typ": "JWT" }), &with(good.clone(), "sub", json!("alice")), &signature),
        ),
        ("wrong audience", hs256(&with(good.clone(), "aud", json!("elsewhere")))),
        ("no audience", hs256(&without(good.clone(), "aud"))),
        ("wrong issuer", hs256(&with(good.clone(), "iss", json!("elsewhere")))),
        ("exp as a string", hs256(&with(good.clone(), "exp", json!((now + 3600).to_string())))),
        ("no exp", hs256(&without(good.clone(), "exp"))),
        ("exp of null", hs256(&with(good.clone(), "exp", Value::Null))),
        ("iat in the future", hs256(&with(good.clone(), "iat", json!(now + 3000)))),
        ("no subject", hs256(&without(good.clone(), "sub"))),
        ("an empty subject", hs256(&with(good, "sub", json!("")))),
    ]
}

#[tokio::test]
async fn the_token_that_the_forged_ones_are_made_from_is_taken() {
    let api = TestApi::new().await;
    let token = signed(Algorithm::HS256, super::api::JWT_SECRET, &claims(&api));
    api.get(&token, "/api/backup").await.data(200);
}

#[tokio::test]
async fn a_forged_token_reaches_no_operation() {
    let api = api_with(|_| {}).await;
    let tokens = forged(&api);
    for row in rows().into_iter().filter(|row| row.needs != Needs::Nothing) {
        for (what, token) in &tokens {
            let tried = call(&api, &row, Some(token)).await;
            assert_eq!(tried.answer.status, 401, "{} with {what}: {:?}", row.operation, tried.answer);
            assert_eq!(tried.answer.problem(401), "auth.token_invalid", "{} with {what}", row.operation);
            let has_left = !tried.events.is_empty() || tried.refusals != 0 || tried.jobs != 0;
            assert!(!has_left, "{} with {what} left something", row.operation);
        }
    }
}
