//! The manifest as it lies beside an artifact: a head in the clear, and a body in the clear or as `{"age": "<armoured age file>"}`.

use std::io::{Read, Write};

use age::{
    Decryptor,
    armor::{ArmoredReader, ArmoredWriter, Format},
};
use serde::{Deserialize, Serialize};

use crate::{
    artifact::Encryption,
    byte_size::ByteSize,
    ids::LeaseToken,
    manifest::{Body, Head, Manifest, VERSION},
    storage::{Error, ErrorKind, Locator, Storage, get_whole, put_whole},
    transform::{DecodeError, Identities, age as age_stream},
};

/// The largest manifest that is written or read.
pub const MAX_MANIFEST: ByteSize = ByteSize::mib(64);

/// A manifest as stored: its body may need a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestFile {
    pub head: Head,
    body: StoredBody,
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
    /// Puts a manifest into its stored form; the body is encrypted to `recipients` when the artifact is.
    pub fn seal(manifest: &Manifest, recipients: &[age::x25519::Recipient]) -> std::io::Result<Self> {
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
        Ok(Self { head: manifest.head.clone(), body })
    }

    /// Reads the stored form.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |e: serde_json::Error| ManifestError::Malformed(e.to_string());
        let versioned: Versioned = serde_json::from_slice(bytes).map_err(malformed)?;
        if versioned.head.manifest_version > VERSION {
            return Err(ManifestError::Newer { found: versioned.head.manifest_version });
        }
        serde_json::from_slice(bytes).map_err(malformed)
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

/// Publishes the manifest beside its artifact and reads it back in full, unless the storage's key may only write.
pub async fn publish_manifest(
    storage: &dyn Storage,
    manifest: &Manifest,
    recipients: &[age::x25519::Recipient],
    attempt: LeaseToken,
) -> Result<Locator, Error> {
    let name = manifest.head.key.manifest();
    let failed = |e: std::io::Error| Error::new(ErrorKind::Invalid, format!("cannot write {name}")).with_source(e);
    let file = ManifestFile::seal(manifest, recipients).map_err(failed)?;
    let bytes = serde_json::to_vec_pretty(&file).map_err(|e| failed(e.into()))?;
    if bytes.len() as u64 > MAX_MANIFEST.0 {
        return Err(Error::new(ErrorKind::TooLarge, format!("cannot write {name} of {} bytes", bytes.len())));
    }
    let at = put_whole(storage, &name, attempt, bytes.clone().into()).await?;
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
