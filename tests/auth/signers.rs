//! Those who sign tokens elsewhere: fresh keys of every kind, their public halves as PEM and in a key set, and a server for the set.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use axum::{Router, http::StatusCode, routing::get};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64_URL},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

pub struct Signer {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    key: EncodingKey,
    public_der: Vec<u8>,
    jwk: Value,
}

impl Signer {
    pub fn rs256(kid: &str) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let public_der = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
        // RSAPublicKey of RFC 8017 appendix A.1.1 with 2048 bits: SEQUENCE { INTEGER 00 n, INTEGER e }.
        let pkcs1 = pair.public_key().as_ref();
        assert_eq!((&pkcs1[..2], &pkcs1[4..9]), (&[0x30, 0x82][..], &[0x02, 0x82, 0x01, 0x01, 0x00][..]));
        assert_eq!(pkcs1[265..267], [0x02, 0x03]);
        let jwk =
            json!({ "kty": "RSA", "n": BASE64_URL.encode(&pkcs1[9..265]), "e": BASE64_URL.encode(&pkcs1[267..]) });
        // The library reads PKCS#1 DER here, which is inside PKCS#8: PEM lets it look.
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let key = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
        Self::new(Algorithm::RS256, kid, key, public_der, jwk)
    }

    pub fn es256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public_der = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
        let point = pair.public_key().as_ref();
        let (x, y) = (BASE64_URL.encode(&point[1..33]), BASE64_URL.encode(&point[33..]));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        Self::new(Algorithm::ES256, kid, key, public_der, jwk)
    }

    pub fn eddsa(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public_der = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64_URL.encode(pair.public_key().as_ref()) });
        let key = EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref());
        Self::new(Algorithm::EdDSA, kid, key, public_der, jwk)
    }

    fn new(algorithm: Algorithm, kid: &str, key: EncodingKey, public_der: Vec<u8>, mut jwk: Value) -> Self {
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Self { algorithm, kid: Some(kid.to_owned()), key, public_der, jwk }
    }

    pub fn sign(&self, body: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid.clone_from(&self.kid);
        jsonwebtoken::encode(&header, body, &self.key).unwrap()
    }

    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der)
    }

    pub fn public_pem_file(&self, directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("public.pem");
        std::fs::write(&path, self.public_pem()).unwrap();
        path
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| &signer.jwk).collect::<Vec<_>>() }).to_string()
}

/// A server of key sets on loopback. What it answers can be changed.
#[derive(Clone)]
pub struct KeyServer {
    pub url: String,
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    pub async fn start(signers: &[&Signer]) -> Self {
        let answer = Arc::new(Mutex::new((StatusCode::OK, key_set(signers))));
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let served = get(async move || {
            count.fetch_add(1, Ordering::SeqCst);
            answers.lock().unwrap().clone()
        });
        let router = Router::new().route("/jwks.json", served);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, answer, asked }
    }

    pub fn rotate(&self, signers: &[&Signer]) {
        self.answer(StatusCode::OK, &key_set(signers));
    }

    pub fn answer(&self, status: StatusCode, text: &str) {
        *self.answer.lock().unwrap() = (status, text.to_owned());
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
