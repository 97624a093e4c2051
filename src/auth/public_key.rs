//! Public keys of those who sign tokens elsewhere. Each belongs to exactly one algorithm, fixed when it is read.

use std::path::Path;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use super::jwt::AuthError;

/// Most keys that are taken from a set. Issuers publish a few: the current ones, the next and the last.
const MAX_KEYS: usize = 64;

/// Largest file with keys, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// Bytes of an uncompressed point on the curve P-256 (SEC 1 section 2.3.3).
const P256_POINT: usize = 65;

#[derive(Clone)]
pub struct PublicKey {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

impl PublicKey {
    /// Whether a token that names this key id may be signed with it. A key or a token without a name fits all.
    pub fn answers_to(&self, kid: Option<&str>) -> bool {
        match (kid, &self.kid) {
            (Some(named), Some(own)) => named == own,
            (None, _) | (_, None) => true,
        }
    }
}

/// Reads a key as `openssl pkey -pubout` writes it.
pub fn from_pem_file(path: &Path) -> Result<PublicKey, AuthError> {
    let wrong = |problem: String| AuthError::Setting { setting: "auth.public_key_file", problem };
    let text = std::fs::read(path).map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))?;
    from_pem(&text).map_err(|problem| wrong(format!("{} {problem}", path.display())))
}

fn from_pem(text: &[u8]) -> Result<PublicKey, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("is too large to be a key");
    }
    // The library would take the public half of a private key, which has no place on this machine.
    if String::from_utf8_lossy(text).contains("PRIVATE KEY") {
        return Err("holds a private key: give its public half, as `openssl pkey -pubout` writes it");
    }
    let readers = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
    let key = readers.iter().find_map(|read| read(text).ok()).ok_or("holds no public key in PEM form")?;
    let algorithm = match key.family() {
        AlgorithmFamily::Rsa => Algorithm::RS256,
        AlgorithmFamily::Ec if key.try_get_as_bytes().is_ok_and(|point| point.len() == P256_POINT) => Algorithm::ES256,
        AlgorithmFamily::Ec => return Err("holds a key that is not on the curve P-256"),
        AlgorithmFamily::Ed => Algorithm::EdDSA,
        AlgorithmFamily::Hmac => return Err("holds no public key"),
    };
    Ok(PublicKey { kid: None, algorithm, key })
}

/// The keys of a set (RFC 7517 section 5) that can be used here: of a kind that we know, and for signatures. Others are left out, as
/// that section asks. Symmetric keys are never taken.
pub fn from_set(text: &[u8], wanted: &[Algorithm]) -> Result<Vec<PublicKey>, &'static str> {
    let set: Value = serde_json::from_slice(text).map_err(|_| "is not JSON")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("has no list of keys")?;
    let usable: Vec<PublicKey> =
        keys.iter().filter_map(from_jwk).filter(|key| wanted.contains(&key.algorithm)).collect();
    match usable.len() {
        0 => Err("has no key that can be used with auth.algorithms"),
        1..=MAX_KEYS => Ok(usable),
        _ => Err("has too many keys"),
    }
}

fn from_jwk(value: &Value) -> Option<PublicKey> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        // Symmetric keys, other curves, and kinds that the library may learn to read.
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let is_for_this_algorithm = common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm));
    if !is_for_signatures || !is_for_this_algorithm {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(PublicKey { kid: jwk.common.key_id, algorithm, key })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: &[Algorithm] = &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    fn ed(more: Value) -> Value {
        // The key of RFC 8037 appendix A.2.
        let mut key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn usable(keys: Value) -> Result<usize, &'static str> {
        from_set(json!({ "keys": keys }).to_string().as_bytes(), ALL).map(|keys| keys.len())
    }

    #[test]
    fn keys_that_are_not_for_signatures_or_not_known_are_left_out() {
        assert_eq!(usable(json!([ed(json!({}))])), Ok(1));
        assert_eq!(usable(json!([ed(json!({ "use": "sig", "alg": "EdDSA", "key_ops": ["verify"] }))])), Ok(1));
        for other in [
            ed(json!({ "use": "enc" })),
            ed(json!({ "key_ops": ["encrypt"] })),
            ed(json!({ "alg": "RS256" })),
            ed(json!({ "crv": "X25519" })),
            ed(json!({ "kty": "new" })),
            json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" }),
            json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
            json!(7),
        ] {
            assert!(usable(json!([other])).is_err(), "{other}");
            assert_eq!(usable(json!([other, ed(json!({}))])), Ok(1), "{other}");
        }
        assert!(usable(json!(vec![ed(json!({})); MAX_KEYS + 1])).is_err());
        for bad in ["", "[]", "{}", "{\"keys\":{}}"] {
            assert!(from_set(bad.as_bytes(), ALL).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_private_key_or_no_key_is_refused() {
        for bad in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "ssh-ed25519 AAAA"] {
            assert!(from_pem(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
