//! Seals: Ed25519 signatures (RFC 8032) over manifests, so that anyone who has the public key can tell that an installation wrote one, and
//! `openssl pkeyutl -verify` as well as this program.
//!
//! A key pair seals manifests and nothing else, so that no signature over something else can pass for a seal.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::SecretString;

use crate::{artifact::Sha256Digest, clock::Timestamp};

/// Bytes of a private key (its seed) and of a public one.
pub const KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What stands before the seed in a PKCS #8 private key of version 1, in DER (RFC 8410 section 7).
const PRIVATE_DER: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// What stands before the key in a SubjectPublicKeyInfo, in DER (RFC 8410 section 4).
const PUBLIC_DER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The short name of a key: the first eight bytes of its public half's SHA-256, as 16 hexadecimal digits. It finds a key among those that are
/// accepted, and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not a seal's key, or not its name. Never repeats it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("not an Ed25519 key: {0}")]
pub struct InvalidSealKey(pub &'static str);

impl FromStr for KeyId {
    type Err = InvalidSealKey;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = InvalidSealKey("its name is 16 hexadecimal digits");
        if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| wrong)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// The half of a key that checks seals, and may be known to everybody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256Digest::of(&self.0).0[..8]);
        KeyId(id)
    }

    /// Whether this key's private half has signed exactly these bytes.
    pub fn has_signed(&self, bytes: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, self.0).verify(bytes, signature).is_ok()
    }

    /// As `openssl pkey -pubout` writes it, which `openssl pkeyutl -verify -pubin` reads.
    pub fn to_pem(&self) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{self}\n-----END PUBLIC KEY-----\n")
    }
}

/// One line: the base64 text between the first and the last line of a PEM file.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode([&PUBLIC_DER[..], &self.0].concat()))
    }
}

impl FromStr for PublicKey {
    type Err = InvalidSealKey;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        der(text, &PUBLIC_DER, "expected 60 characters that begin with MCowBQYDK2VwAyEA").map(Self)
    }
}

/// The key behind a known beginning, in base64.
fn der(text: &str, beginning: &[u8], wrong: &'static str) -> Result<[u8; KEY_BYTES], InvalidSealKey> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| InvalidSealKey(wrong))?;
    let key = bytes.strip_prefix(beginning).ok_or(InvalidSealKey(wrong))?;
    key.try_into().map_err(|_| InvalidSealKey(wrong))
}

/// A whole key: it makes seals.
pub struct SealKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
    seed: [u8; KEY_BYTES],
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.public.id())
    }
}

impl SealKey {
    /// The key of a seed, which is 32 random bytes.
    ///
    /// # Errors
    /// The library refuses it, which it does for none of this length.
    pub fn from_seed(seed: [u8; KEY_BYTES]) -> Result<Self, InvalidSealKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| InvalidSealKey("it was refused"))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| InvalidSealKey("it was refused"))?;
        Ok(Self { pair, public: PublicKey(public), seed })
    }

    /// Reads the base64 text between the first and the last line of a PEM file (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// It is something else.
    pub fn from_pem_body(text: &str) -> Result<Self, InvalidSealKey> {
        Self::from_seed(der(text, &PRIVATE_DER, "expected 64 characters that begin with MC4CAQAwBQYDK2VwBCIEI")?)
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }

    /// As `openssl genpkey -algorithm ed25519` writes it: for a key file.
    pub fn to_pem(&self) -> SecretString {
        let body = BASE64.encode([&PRIVATE_DER[..], &self.seed].concat());
        SecretString::from(format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"))
    }
}

/// Why a seal proves nothing.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    #[error("the manifest has no seal")]
    Missing,
    #[error("the manifest is sealed with key {0}, which is not accepted here")]
    UnknownKey(KeyId),
    #[error("the manifest's seal is broken: it was altered, or cut, or its seal belongs to another")]
    Broken,
}

impl SealError {
    /// A stable word for logs and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "seal.missing",
            Self::UnknownKey(_) => "seal.unknown_key",
            Self::Broken => "seal.broken",
        }
    }
}

/// What an installation seals with, and whose seals it accepts.
#[derive(Clone, Debug, Default)]
pub struct Seals {
    signing: Option<Arc<SealKey>>,
    accepted: Vec<PublicKey>,
    since: Option<Timestamp>,
}

impl Seals {
    /// `accepted` are further keys beside the signing one. `since` is when this installation got its first key: what is younger has a seal.
    /// `None`: that is not known, or nothing is older.
    pub fn new(signing: Option<SealKey>, accepted: Vec<PublicKey>, since: Option<Timestamp>) -> Self {
        Self { signing: signing.map(Arc::new), accepted, since }
    }

    /// The key that makes seals.
    pub fn key(&self) -> Option<&SealKey> {
        self.signing.as_deref()
    }

    /// The same, to be kept.
    pub fn shared_key(&self) -> Option<Arc<SealKey>> {
        self.signing.clone()
    }

    /// When this installation began to seal, where that is known.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Every key whose seals count, the own one first.
    pub fn accepted(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.signing.iter().map(|key| key.public()).chain(self.accepted.iter().copied())
    }

    /// Accepts the seals of further keys.
    #[must_use]
    pub fn accepting(mut self, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        self.accepted.extend(keys);
        self
    }

    /// Fails unless an accepted key of this name has signed exactly these bytes.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] or [`SealError::Broken`].
    pub fn check(&self, key: KeyId, bytes: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> Result<(), SealError> {
        let mut named = self.accepted().filter(|accepted| accepted.id() == key).peekable();
        if named.peek().is_none() {
            return Err(SealError::UnknownKey(key));
        }
        if named.any(|accepted| accepted.has_signed(bytes, signature)) { Ok(()) } else { Err(SealError::Broken) }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn keys_and_signatures_are_those_of_rfc_8032() {
        // Section 7.1, test 2.
        let hex = |text: &str| -> Vec<u8> {
            text.as_bytes()
                .chunks(2)
                .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
                .collect()
        };
        let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SealKey::from_seed(seed.try_into().unwrap()).unwrap();
        assert_eq!(key.public().0.to_vec(), hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
        let signature = key.sign(&[0x72]);
        assert_eq!(
            signature.to_vec(),
            hex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                 085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
        );
        assert!(key.public().has_signed(&[0x72], &signature));
        assert!(!key.public().has_signed(&[0x73], &signature));
    }

    #[test]
    fn keys_round_trip_and_what_is_none_is_not_repeated() {
        let key = SealKey::from_seed([7; 32]).unwrap();
        let public = key.public();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        assert_eq!(public.id().to_string().parse::<KeyId>().unwrap(), public.id());
        let pem = key.to_pem();
        let body = pem.expose_secret().lines().nth(1).unwrap();
        assert_eq!(SealKey::from_pem_body(body).unwrap().public(), public);
        assert!(!format!("{key:?}").contains(body));
        for bad in ["", "canary", body, &public.to_string()[..59]] {
            let error = bad.parse::<PublicKey>().unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        for bad in ["", "0123", "0123456789abcdeg", "0123456789ABCDEF", "+123456789abcdef"] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_seal_counts_for_its_bytes_and_by_an_accepted_key_alone() {
        let key = |seed| SealKey::from_seed(seed).unwrap();
        let [old, new, strange] = [[1; 32], [2; 32], [3; 32]].map(key);
        let seals = Seals::new(Some(key([2; 32])), vec![old.public()], None);
        for known in [&old, &new] {
            let signature = known.sign(b"manifest");
            assert_eq!(seals.check(known.public().id(), b"manifest", &signature), Ok(()));
            assert_eq!(seals.check(known.public().id(), b"manifesT", &signature), Err(SealError::Broken));
        }
        let signature = strange.sign(b"manifest");
        let id = strange.public().id();
        assert_eq!(seals.check(id, b"manifest", &signature), Err(SealError::UnknownKey(id)));
        assert_eq!(seals.check(new.public().id(), b"manifest", &signature), Err(SealError::Broken));
        assert_eq!(seals.clone().accepting([strange.public()]).check(id, b"manifest", &signature), Ok(()));
        assert_eq!(Seals::default().check(id, b"manifest", &signature), Err(SealError::UnknownKey(id)));
    }
}
