use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn secret() -> Secret {
    Secret::new("0123456789abcdef0123456789abcdef")
}

fn verifier() -> Verifier {
    Verifier::new(&secret(), &AuthConfig::default(), Clock::fixed(now())).unwrap()
}

fn claims() -> Claims {
    Claims {
        subject: "alice".to_owned(),
        permissions: vec![Permission::Read],
        project_ids: vec!["acme".parse().unwrap()],
        organization_id: None,
        role: Role::Member,
    }
}

fn body() -> Value {
    let at = now().timestamp();
    json!({ "iss": "holdfast", "aud": "holdfast", "sub": "alice", "iat": at, "exp": at + 60 })
}

fn sign_as(algorithm: Algorithm, body: &Value) -> String {
    let key = EncodingKey::from_secret(secret().expose().as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), body, &key).unwrap()
}

/// The outcome of a well-signed token with one claim changed; `Null` takes the claim away.
fn with(name: &str, value: Value) -> Result<Caller, AuthError> {
    let mut body = body();
    if value.is_null() {
        body.as_object_mut().unwrap().remove(name);
    } else {
        body[name] = value;
    }
    verifier().verify(&sign_as(Algorithm::HS256, &body))
}

#[test]
fn a_token_that_we_issue_is_verified_to_the_same_caller() {
    let mut given = claims();
    given.permissions = Permission::ALL.to_vec();
    given.organization_id = Some("o1".to_owned());
    given.role = Role::OrgAdmin;
    let token = issue(&secret(), &AuthConfig::default(), &given, now(), Duration::from_secs(60)).unwrap();
    let caller = verifier().verify(&token).unwrap();
    assert_eq!((caller.subject, caller.role, caller.permissions), (given.subject, given.role, given.permissions));
    assert_eq!((caller.project_ids, caller.organization_id), (given.project_ids, given.organization_id));
    assert_eq!(caller.address, None);
}

#[test]
fn a_token_expires_when_the_clock_moves() {
    let clock = Clock::fixed(now());
    let verifier = Verifier::new(&secret(), &AuthConfig::default(), clock.clone()).unwrap();
    let token = issue(&secret(), &AuthConfig::default(), &claims(), now(), Duration::from_secs(60)).unwrap();
    clock.advance(chrono::Duration::seconds(60 + 29));
    assert!(verifier.verify(&token).is_ok());
    clock.advance(chrono::Duration::seconds(1));
    assert_eq!(verifier.verify(&token), Err(AuthError::Expired));
}

#[test]
fn nobody_claims_a_subject_of_our_own() {
    for subject in ["system:worker", "cli:root", "user:alice", "key:1 (ci)"] {
        let refused = AuthError::Claim { name: "sub", problem: "begins like those that Holdfast gives itself" };
        assert_eq!(with("sub", json!(subject)), Err(refused.clone()), "{subject}");
        let given = Claims { subject: subject.to_owned(), ..claims() };
        assert_eq!(issue(&secret(), &AuthConfig::default(), &given, now(), Duration::from_secs(60)), Err(refused));
    }
    assert!(with("sub", json!("systems:worker")).is_ok() && with("sub", json!("auth0|user:1")).is_ok());
}

#[test]
fn a_token_from_the_future_is_refused() {
    let at = now().timestamp();
    assert!(with("iat", json!(at + 30)).is_ok());
    assert_eq!(with("iat", json!(at + 31)), Err(AuthError::NotYet("iat")));
    assert_eq!(with("nbf", json!(at + 31)), Err(AuthError::NotYet("nbf")));
}

#[test]
fn every_claim_that_is_required_is_required() {
    for name in ["exp", "iat", "sub", "aud", "iss"] {
        let error = with(name, Value::Null).unwrap_err();
        assert!(matches!(error, AuthError::Claim { name: n, .. } if n == name), "{name}: {error}");
    }
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    let at = now().timestamp();
    for (name, value) in [
        ("exp", json!((at + 60).to_string())),
        ("exp", json!(at * 1000)),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!([at + 60])),
        ("iat", json!("now")),
        ("iat", json!(true)),
        ("nbf", json!({})),
        ("sub", json!(7)),
        ("sub", json!(["alice"])),
        ("aud", json!(7)),
        ("aud", json!({ "holdfast": true })),
        ("iss", json!(["holdfast"])),
        ("iss", json!(1)),
        ("scope", json!([1])),
        ("scope", json!(1)),
        ("project_ids", json!("acme")),
        ("project_ids", json!([1])),
        ("project_ids", json!(["../etc"])),
        ("project_ids", json!({})),
        ("org_id", json!(1)),
        ("org_id", json!("")),
        ("role", json!([1])),
        ("role", json!("root")),
        ("role", json!("Operator")),
        ("role", json!("")),
    ] {
        let error = with(name, value.clone()).unwrap_err();
        let is_named = matches!(error, AuthError::Claim { name: n, .. } if n == name);
        // The library gives up on a list or an object where it wants a number, before we can name the claim.
        let is_too_odd = error == AuthError::Invalid && (value.is_array() || value.is_object());
        assert!(is_named || is_too_odd, "{name} {value}: {error}");
    }
}

#[test]
fn subjects_that_would_spoil_a_log_are_refused() {
    for bad in ["", "  ", "a\nb", "a\0", "\u{7f}", &"x".repeat(256)] {
        assert!(matches!(with("sub", json!(bad)), Err(AuthError::Claim { name: "sub", .. })), "{bad:?}");
        let given = Claims { subject: bad.to_owned(), ..claims() };
        assert!(issue(&secret(), &AuthConfig::default(), &given, now(), Duration::from_secs(60)).is_err());
    }
    for good in ["x".repeat(255), "ü".repeat(255), "auth0|5f7c".to_owned()] {
        assert_eq!(with("sub", json!(good)).unwrap().subject, good);
    }
}

#[test]
fn another_audience_or_issuer_is_refused() {
    for value in [json!("other"), json!(["other"]), json!([]), json!("")] {
        assert!(matches!(with("aud", value.clone()), Err(AuthError::Claim { name: "aud", .. })), "{value}");
    }
    assert!(with("aud", json!(["other", "holdfast"])).is_ok());
    assert!(matches!(with("iss", json!("other")), Err(AuthError::Claim { name: "iss", .. })));
}

#[test]
fn unknown_scopes_are_left_out_and_a_part_of_a_scope_is_none() {
    assert_eq!(with("scope", json!("openid backup:read email")).unwrap().permissions, [Permission::Read]);
    for none in ["", "backup:reader", "BACKUP:READ", "backup:read,backup:write", "backup", "*"] {
        assert_eq!(with("scope", json!(none)).unwrap().permissions, [], "{none}");
    }
    let bare = with("scope", Value::Null).unwrap();
    assert_eq!((bare.role, bare.permissions, bare.project_ids), (Role::Member, vec![], vec![]));
}

#[test]
fn other_algorithms_are_refused_whatever_the_token_says() {
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        assert_eq!(verifier().verify(&sign_as(algorithm, &body())), Err(AuthError::Invalid));
    }
    let payload = BASE64.encode(body().to_string());
    let signature = sign_as(Algorithm::HS256, &body()).rsplit('.').next().unwrap().to_owned();
    for algorithm in ["none", "None", "NONE", "nOnE", "RS256", "ES256", "EdDSA", "HS1", ""] {
        let header = BASE64.encode(json!({ "alg": algorithm, "typ": "JWT" }).to_string());
        for signature in ["", signature.as_str()] {
            let token = format!("{header}.{payload}.{signature}");
            assert_eq!(verifier().verify(&token), Err(AuthError::Invalid), "{algorithm}");
        }
    }
}

#[test]
fn a_key_that_comes_with_the_token_is_not_used() {
    let other = EncodingKey::from_secret(&[b'x'; 32]);
    let mut header = Header::new(Algorithm::HS256);
    header.jku = Some("https://attacker.example/keys".to_owned());
    header.kid = Some("../../dev/null".to_owned());
    let token = jsonwebtoken::encode(&header, &body(), &other).unwrap();
    assert_eq!(verifier().verify(&token), Err(AuthError::Invalid));
}

#[test]
fn critical_extensions_are_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let key = EncodingKey::from_secret(secret().expose().as_bytes());
    let token = jsonwebtoken::encode(&header, &body(), &key).unwrap();
    assert_eq!(verifier().verify(&token), Err(AuthError::Invalid));
}

#[test]
fn a_token_changed_at_any_character_is_refused() {
    let token = sign_as(Algorithm::HS256, &body());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'Z' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(verifier().verify(&changed), Err(AuthError::Invalid), "at {at}");
    }
    for end in 0..token.len() {
        assert_eq!(verifier().verify(&token[..end]), Err(AuthError::Invalid), "cut at {end}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let long = format!("{}.{}.{}", "a".repeat(4000), "b".repeat(4000), "c".repeat(4000));
    for bad in ["", ".", "..", "...", "a.b.c", "Bearer x", "\0", "ü.ü.ü", long.as_str()] {
        assert_eq!(verifier().verify(bad), Err(AuthError::Invalid), "{bad:?}");
    }
    let list = BASE64.encode("[1]");
    let header = BASE64.encode(json!({ "alg": "HS256" }).to_string());
    assert_eq!(verifier().verify(&format!("{header}.{list}.AAAA")), Err(AuthError::Invalid));
}

#[test]
fn another_secret_does_not_verify() {
    let other = Verifier::new(&Secret::new("x".repeat(32)), &AuthConfig::default(), Clock::fixed(now())).unwrap();
    assert_eq!(other.verify(&sign_as(Algorithm::HS256, &body())), Err(AuthError::Invalid));
}

#[test]
fn a_short_secret_neither_signs_nor_verifies() {
    for short in ["", "secret", &"x".repeat(31)] {
        let secret = Secret::new(short);
        let expected = AuthError::ShortSecret(short.len());
        let config = AuthConfig::default();
        assert_eq!(Verifier::new(&secret, &config, Clock::System).unwrap_err(), expected);
        assert_eq!(issue(&secret, &config, &claims(), now(), Duration::from_secs(1)).unwrap_err(), expected);
    }
}

#[test]
fn a_token_that_never_ends_is_not_signed() {
    for ttl in [Duration::ZERO, Duration::MAX, MAX_TTL + Duration::from_secs(1)] {
        assert!(issue(&secret(), &AuthConfig::default(), &claims(), now(), ttl).is_err(), "{ttl:?}");
    }
}

#[test]
fn neither_errors_nor_debug_show_a_secret() {
    let shown = format!("{:?} {:?}", verifier(), AuthError::ShortSecret(3));
    assert!(!shown.contains("0123456789abcdef"), "{shown}");
}
