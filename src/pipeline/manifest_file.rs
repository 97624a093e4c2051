//! The manifest as it lies beside an artifact: a head in the clear, a body in the clear or as `{"age": "<armoured age file>"}`, and a seal.
//!
//! A seal is the file's end, and always of the same length and form:
//!
//! ```text
//! ,
//!   "seal": {
//!     "key": "0123456789abcdef",
//!     "ed25519": "…88 characters of base64…"
//!   }
//! }
//! ```
//!
//! It signs the bytes before it, as they are stored: `head -c -157 FILE` gives them. Nothing is parsed and written again to check it.

use std::io::{Read, Write};

use age::{
    Decryptor,
    armor::{ArmoredReader, ArmoredWriter, Format},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    artifact::{ArtifactName, Encryption, Sha256Digest},
    byte_size::ByteSize,
    ids::LeaseToken,
    manifest::{Body, Head, Manifest, VERSION},
    storage::{Error, ErrorKind, Locator, Storage, get_whole, put_whole},
    transform::{
        DecodeError, Identities, age as age_stream,
        seal::{KeyId, SIGNATURE_BYTES, SealError, SealKey, Seals},
    },
};

/// The largest manifest that is written or read.
pub const MAX_MANIFEST: ByteSize = ByteSize::mib(64);

/// A manifest as stored: its body may need a key.
#[derive(Clone, Debug)]
pub struct ManifestFile {
    pub head: Head,
    body: StoredBody,
    seal: Seal,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Seal {
    None,
    /// There is one, and it is not the file's end in the one form that it has.
    Misshapen,
    Signed {
        key: KeyId,
        signature: Box<[u8; SIGNATURE_BYTES]>,
    },
}

/// The end of a sealed file, around the key's name and the signature.
const SEAL: [&str; 3] = [",\n  \"seal\": {\n    \"key\": \"", "\",\n    \"ed25519\": \"", "\"\n  }\n}\n"];
/// Characters of a key's name and of a signature.
const SEAL_FIELDS: [usize; 2] = [16, 88];
/// Bytes of that end.
pub const SEAL_BYTES: usize = SEAL[0].len() + SEAL_FIELDS[0] + SEAL[1].len() + SEAL_FIELDS[1] + SEAL[2].len();
/// What a file without a seal ends with, where a sealed one has its seal.
const END: &str = "\n}";

/// What is written before the seal.
#[derive(Serialize)]
struct Unsealed<'a> {
    head: &'a Head,
    body: &'a StoredBody,
}

#[derive(Deserialize)]
struct Parsed {
    head: Head,
    body: StoredBody,
    #[serde(default)]
    seal: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum StoredBody {
    Sealed(Sealed),
    Clear(Box<Body>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    /// An armoured age file that holds the body's JSON: `jq -r .body.age | age -d -i KEY` shows it.
    age: String,
}

/// Just enough to tell whether the rest can be understood.
#[derive(Deserialize)]
struct Versioned {
    head: VersionedHead,
}

#[derive(Deserialize)]
struct VersionedHead {
    manifest_version: u32,
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{0}")]
    Storage(#[from] Error),
    #[error("the manifest has version {found}, and this program knows versions up to {VERSION}: use a newer one")]
    Newer { found: u32 },
    #[error("the manifest cannot be read ({0})")]
    Malformed(String),
    #[error("the manifest's body: {0}")]
    Decode(#[from] DecodeError),
}

impl ManifestError {
    /// A stable word for logs and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Storage(error) => error.kind.code(),
            Self::Newer { .. } => "manifest.newer",
            Self::Malformed(_) => "manifest.damaged",
            Self::Decode(error) => error.code(),
        }
    }
}

impl ManifestFile {
    /// A manifest in its stored form; the body is encrypted to `recipients` when the artifact is.
    ///
    /// # Errors
    /// There are no recipients to encrypt to.
    pub fn write(
        manifest: &Manifest,
        recipients: &[age::x25519::Recipient],
        key: Option<&SealKey>,
    ) -> std::io::Result<Vec<u8>> {
        let body = match manifest.head.encoding.encryption {
            Encryption::None => StoredBody::Clear(Box::new(manifest.body.clone())),
            Encryption::Age => {
                let armour = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
                let mut writer = age_stream::encryptor(recipients)?.wrap_output(armour)?;
                writer.write_all(&serde_json::to_vec(&manifest.body)?)?;
                let text = writer.finish()?.finish()?;
                StoredBody::Sealed(Sealed { age: String::from_utf8(text).map_err(std::io::Error::other)? })
            }
        };
        let mut bytes = serde_json::to_vec_pretty(&Unsealed { head: &manifest.head, body: &body })?;
        if let Some(key) = key {
            bytes.truncate(bytes.len() - END.len());
            let (id, signature) = (key.public().id().to_string(), BASE64.encode(key.sign(&bytes)));
            for piece in [SEAL[0], &id, SEAL[1], &signature, SEAL[2]] {
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
        Ok(bytes)
    }

    /// Reads the stored form. Whose it is, [`sealed_by`](Self::sealed_by) tells.
    ///
    /// # Errors
    /// It is not one that this version reads.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |e: serde_json::Error| ManifestError::Malformed(e.to_string());
        let versioned: Versioned = serde_json::from_slice(bytes).map_err(malformed)?;
        if versioned.head.manifest_version > VERSION {
            return Err(ManifestError::Newer { found: versioned.head.manifest_version });
        }
        let Parsed { head, body, seal } = serde_json::from_slice(bytes).map_err(malformed)?;
        let seal = match (seal, read_seal(bytes)) {
            (None, _) => Seal::None,
            (Some(_), None) => Seal::Misshapen,
            (Some(_), Some((key, signature))) => Seal::Signed { key, signature },
        };
        Ok(Self { head, body, seal, bytes: Bytes::copy_from_slice(bytes) })
    }

    /// The stored form, byte for byte.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Of the stored form.
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }

    /// Which accepted key has sealed all of it.
    ///
    /// # Errors
    /// It has no seal, one of a strange key, or one that does not fit.
    pub fn sealed_by(&self, seals: &Seals) -> Result<KeyId, SealError> {
        match &self.seal {
            Seal::None => Err(SealError::Missing),
            Seal::Misshapen => Err(SealError::Broken),
            Seal::Signed { key, signature } => {
                let signed = &self.bytes[..self.bytes.len().saturating_sub(SEAL_BYTES)];
                seals.check(*key, signed, signature).map(|()| *key)
            }
        }
    }

    /// The manifest with its body, which may need an identity.
    pub fn open(self, identities: &Identities) -> Result<Manifest, ManifestError> {
        let body = match self.body {
            StoredBody::Clear(body) => *body,
            StoredBody::Sealed(_) if identities.is_empty() => return Err(DecodeError::KeyUnavailable.into()),
            StoredBody::Sealed(Sealed { age }) => {
                let armoured = ArmoredReader::new(age.as_bytes());
                let decryptor = Decryptor::new_buffered(armoured).map_err(age_stream::decode_error)?;
                let mut text = Vec::new();
                identities.decrypt(decryptor)?.take(MAX_MANIFEST.0).read_to_end(&mut text).map_err(DecodeError::Io)?;
                serde_json::from_slice(&text).map_err(|e| ManifestError::Malformed(e.to_string()))?
            }
        };
        Ok(Manifest { head: self.head, body })
    }
}

/// The key's name and the signature at the end of a sealed file.
fn read_seal(bytes: &[u8]) -> Option<(KeyId, Box<[u8; SIGNATURE_BYTES]>)> {
    let (_, end) = bytes.split_at_checked(bytes.len().checked_sub(SEAL_BYTES)?)?;
    let rest = end.strip_prefix(SEAL[0].as_bytes())?;
    let (key, rest) = rest.split_at_checked(SEAL_FIELDS[0])?;
    let rest = rest.strip_prefix(SEAL[1].as_bytes())?;
    let (signature, rest) = rest.split_at_checked(SEAL_FIELDS[1])?;
    if rest != SEAL[2].as_bytes() {
        return None;
    }
    let signature: [u8; SIGNATURE_BYTES] = BASE64.decode(signature).ok()?.try_into().ok()?;
    Some((std::str::from_utf8(key).ok()?.parse().ok()?, Box::new(signature)))
}

/// Publishes the manifest beside its artifact, sealed where there is a key, and reads it back in full, unless the storage's key may only write.
pub async fn publish_manifest(
    storage: &dyn Storage,
    manifest: &Manifest,
    recipients: &[age::x25519::Recipient],
    key: Option<&SealKey>,
    attempt: LeaseToken,
) -> Result<Locator, Error> {
    let name = manifest.head.key.manifest();
    let failed = |e: std::io::Error| Error::new(ErrorKind::Invalid, format!("cannot write {name}")).with_source(e);
    let bytes = ManifestFile::write(manifest, recipients, key).map_err(failed)?;
    publish_written(storage, &name, bytes.into(), attempt).await
}

/// Publishes a manifest that lies beside another copy, as it is: nobody seals for a second time what another had sealed.
pub async fn publish_again(storage: &dyn Storage, file: &ManifestFile, attempt: LeaseToken) -> Result<Locator, Error> {
    publish_written(storage, &file.head.key.manifest(), file.bytes.clone(), attempt).await
}

async fn publish_written(
    storage: &dyn Storage,
    name: &ArtifactName,
    bytes: Bytes,
    attempt: LeaseToken,
) -> Result<Locator, Error> {
    if bytes.len() as u64 > MAX_MANIFEST.0 {
        return Err(Error::new(ErrorKind::TooLarge, format!("cannot write {name} of {} bytes", bytes.len())));
    }
    let at = put_whole(storage, name, attempt, bytes.clone()).await?;
    match get_whole(storage, &at, MAX_MANIFEST).await {
        Ok(read) if read == bytes => Ok(at),
        Ok(_) => Err(Error::new(ErrorKind::Corrupt, format!("{name} does not read back as it was written"))),
        Err(error) if error.kind == ErrorKind::Denied => Ok(at),
        Err(error) => Err(error),
    }
}

/// Reads a manifest's stored form, whose head needs no key.
pub async fn read_manifest_file(storage: &dyn Storage, at: &Locator) -> Result<ManifestFile, ManifestError> {
    ManifestFile::parse(&get_whole(storage, at, MAX_MANIFEST).await?)
}

/// Reads a manifest whole.
pub async fn read_manifest(
    storage: &dyn Storage,
    at: &Locator,
    identities: &Identities,
) -> Result<Manifest, ManifestError> {
    read_manifest_file(storage, at).await?.open(identities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Fingerprint;

    fn file() -> (SealKey, Vec<u8>) {
        let key = SealKey::from_seed([9; 32]).unwrap();
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "head": {
                "manifest_version": 1, "written_by": "holdfast", "backup_id": "0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa",
                "project_id": "acme", "type": "storage", "key": "backups/acme/a-2a52b6f0e7aa.sql", "compression": "none",
                "encryption": "none", "stored": Fingerprint::of(b"x"), "parts": [Fingerprint::of(b"x")],
                "created_at": "2026-11-21T02:00:00Z", "expires_at": null,
            },
            "body": { "content": Fingerprint::of(b"x"), "file": { "file_name": "a.sql" } },
        }))
        .unwrap();
        let bytes = ManifestFile::write(&manifest, &[], Some(&key)).unwrap();
        (key, bytes)
    }

    #[test]
    fn a_seal_is_the_end_of_the_file_and_covers_every_byte_before_it() {
        let (key, bytes) = file();
        let seals = Seals::default().accepting([key.public()]);
        let good = ManifestFile::parse(&bytes).unwrap();
        assert_eq!(good.sealed_by(&seals), Ok(key.public().id()));
        assert_eq!(good.bytes(), &bytes);
        assert_eq!(SEAL_BYTES, 157, "the number that this module and docs/recovery.md tell");
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["seal"]["key"], key.public().id().to_string());
        assert_eq!(
            ManifestFile::parse(&bytes).unwrap().sealed_by(&Seals::default()),
            Err(SealError::UnknownKey(key.public().id()))
        );
        // Every byte changed, every length but its own.
        let accepted =
            |bytes: &[u8]| ManifestFile::parse(bytes).ok().is_some_and(|file| file.sealed_by(&seals).is_ok());
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(!accepted(&altered), "byte {at}");
            assert!(!accepted(&bytes[..at]), "cut at {at}");
        }
        for more in ["\n", " ", "}", "\0"] {
            assert!(!accepted(&[&bytes, more.as_bytes()].concat()), "{more:?}");
        }
    }

    #[test]
    fn without_a_key_there_is_no_seal_and_one_of_another_form_is_broken() {
        let (key, bytes) = file();
        let seals = Seals::default().accepting([key.public()]);
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let sealed_by = |value: &serde_json::Value| {
            ManifestFile::parse(&serde_json::to_vec_pretty(value).unwrap()).unwrap().sealed_by(&seals)
        };
        assert_eq!(sealed_by(&value), Err(SealError::Broken), "without the line's end");
        value["seal"] = serde_json::json!({});
        assert_eq!(sealed_by(&value), Err(SealError::Broken));
        value.as_object_mut().unwrap().remove("seal");
        assert_eq!(sealed_by(&value), Err(SealError::Missing));
        // A second head, a second seal.
        let text = String::from_utf8(bytes).unwrap();
        for twice in [
            text.replacen("{", "{\n  \"head\": {\"manifest_version\": 1},", 1),
            text.replacen("{", "{\"seal\": {},", 1),
        ] {
            assert!(ManifestFile::parse(twice.as_bytes()).is_err());
        }
    }
}
