//! Puts an artifact and its manifest, which lie here as files, where an import finds them: into a storage, under the name that the manifest
//! says. Every byte is compared before and after.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    authentic::{self, TakeUp},
    request::{self, RequestError},
};
use crate::{
    app::App,
    artifact::{ArtifactName, Encryption, Fingerprint, Sha256Digest},
    ids::LeaseToken,
    manifest::Head,
    pipeline::{MAX_MANIFEST, ManifestError, ManifestFile},
    storage::{self, ErrorKind, NewObject, Storage},
};

/// Why files were not put into a storage.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("cannot read {path}: {source}")]
    File { path: String, source: io::Error },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file is not what the manifest says; or another object has its name.
    #[error("{message}")]
    Misfit { code: &'static str, message: String },
    #[error("storage {name:?}: {error:#}")]
    Storage { name: String, error: storage::Error },
}

impl PlaceError {
    /// A stable word for exit codes and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request(error) => error.code(),
            Self::File { .. } => "import.file",
            Self::Manifest(error) => error.code(),
            Self::Misfit { code, .. } => code,
            Self::Storage { error, .. } => error.kind.code(),
        }
    }
}

/// What the keys of dumps begin with that are put into a storage for a trial alone.
pub(super) const PLACED: &str = "trials/";

/// What an age file begins with. Source: age-encryption.org/v1.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// Uploads a dump that is tried, under a name of its own: `trials/{id}/{file name}`. Gives its key.
///
/// # Errors
/// See [`PlaceError`]. A storage that takes encrypted artifacts only takes no other dump either.
pub async fn place_trial(app: &App, dump: &Path, name: &str) -> Result<ArtifactName, PlaceError> {
    let storage = request::storage(app, name)?;
    let owned = dump.to_path_buf();
    let head = blocking(move || {
        let mut head = Vec::new();
        File::open(owned)?.take(AGE.len() as u64).read_to_end(&mut head)?;
        Ok(head)
    });
    if head.await.map_err(|error| unread(dump, error))? != AGE && !storage.takes_plaintext() {
        return Err(PlaceError::Misfit {
            code: "request.plaintext",
            message: format!("storage {name:?} takes what is encrypted only, and {} is not", dump.display()),
        });
    }
    let found = fingerprint_of(dump).await?;
    let attempt = LeaseToken::generate();
    let key = trial_key(attempt, dump)?;
    let failed = |error| PlaceError::Storage { name: name.to_owned(), error };
    upload(storage.as_ref(), dump, &key, attempt).await.map_err(|error| match error {
        Uploading::File(source) => unread(dump, source),
        Uploading::Storage(error) => failed(error),
    })?;
    same_bytes(storage.as_ref(), &key, found).await.map_err(failed)?;
    Ok(key)
}

fn trial_key(id: LeaseToken, dump: &Path) -> Result<ArtifactName, PlaceError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = dump.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String =
        name.trim_start_matches('.').chars().take(100).map(|c| if is_plain(c) { c } else { '_' }).collect();
    let name = if name.is_empty() { "dump" } else { &name };
    format!("{PLACED}{id}/{name}").parse().map_err(|error| PlaceError::Misfit {
        code: "request.key",
        message: format!("the dump cannot be named: {error}"),
    })
}

/// Uploads both files, the manifest last, and reads them back. Safe to repeat: what lies there already with the same bytes stays. Gives the
/// artifact's key.
///
/// # Errors
/// See [`PlaceError`]. An artifact that was uploaded without its manifest is no backup; a repeated call takes it over.
pub async fn place(
    app: &App,
    artifact: &Path,
    manifest: &Path,
    name: &str,
    take_up: TakeUp,
) -> Result<ArtifactName, PlaceError> {
    let storage = request::storage(app, name)?;
    let bytes = Bytes::from(read_small(manifest).await?);
    let file = ManifestFile::parse(&bytes)?;
    authentic::may_be_taken_up(&file.sealed_by(&app.keys.seals), take_up)
        .map_err(|misfit| PlaceError::Misfit { code: misfit.code, message: misfit.message })?;
    let head = file.head;
    if head.encoding.encryption == Encryption::None && !storage.takes_plaintext() {
        return Err(PlaceError::Misfit {
            code: "request.plaintext",
            message: format!("storage {name:?} takes encrypted backups only, and this one is not encrypted"),
        });
    }
    compare(artifact, &head).await?;
    let attempt = LeaseToken::generate();
    let failed = |error| PlaceError::Storage { name: name.to_owned(), error };
    if storage.find(&head.key).await.map_err(failed)?.is_none() {
        upload(storage.as_ref(), artifact, &head.key, attempt).await.map_err(|error| match error {
            Uploading::File(source) => unread(artifact, source),
            Uploading::Storage(error) => failed(error),
        })?;
    }
    same_bytes(storage.as_ref(), &head.key, head.stored).await.map_err(failed)?;
    let key = head.key.manifest();
    if storage.find(&key).await.map_err(failed)?.is_none() {
        storage::put_whole(storage.as_ref(), &key, attempt, bytes.clone()).await.map_err(failed)?;
    }
    same_bytes(storage.as_ref(), &key, Fingerprint::of(&bytes)).await.map_err(failed)?;
    Ok(head.key)
}

fn unread(path: &Path, source: io::Error) -> PlaceError {
    PlaceError::File { path: path.display().to_string(), source }
}

async fn read_small(path: &Path) -> Result<Vec<u8>, PlaceError> {
    let owned = path.to_path_buf();
    let read = move || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(owned)?.take(MAX_MANIFEST.0 + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_MANIFEST.0 {
            return Err(io::Error::other(format!("a manifest has at most {MAX_MANIFEST}")));
        }
        Ok(bytes)
    };
    blocking(read).await.map_err(|error| unread(path, error))
}

async fn fingerprint_of(path: &Path) -> Result<Fingerprint, PlaceError> {
    let owned = path.to_path_buf();
    let hash = move || -> io::Result<Fingerprint> {
        let (mut file, mut hasher, mut buffer, mut bytes) = (File::open(owned)?, Sha256::new(), vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Fingerprint { bytes, sha256: Sha256Digest(hasher.finalize().into()) }),
                length => {
                    hasher.update(&buffer[..length]);
                    bytes += length as u64;
                }
            }
        }
    };
    blocking(hash).await.map_err(|error| unread(path, error))
}

/// The file before it is uploaded.
async fn compare(path: &Path, head: &Head) -> Result<(), PlaceError> {
    let found = fingerprint_of(path).await?;
    if found == head.stored {
        return Ok(());
    }
    Err(PlaceError::Misfit {
        code: "backup.damaged",
        message: format!(
            "{} has {} bytes with SHA-256 {}, and its manifest says {} with {}",
            path.display(),
            found.bytes,
            found.sha256,
            head.stored.bytes,
            head.stored.sha256
        ),
    })
}

enum Uploading {
    File(io::Error),
    Storage(storage::Error),
}

async fn upload(storage: &dyn Storage, path: &Path, key: &ArtifactName, attempt: LeaseToken) -> Result<(), Uploading> {
    let owned = path.to_path_buf();
    let mut file = blocking(move || File::open(owned)).await.map_err(Uploading::File)?;
    // Parts are sent one after another, so that one is in memory.
    let part = storage.limits().part.0.clamp(1, 64 << 20);
    let mut upload = storage.create(NewObject::new(key, attempt)).await.map_err(Uploading::Storage)?;
    let outcome = loop {
        let read = blocking(move || {
            let mut bytes = Vec::new();
            (&mut file).take(part).read_to_end(&mut bytes)?;
            Ok((file, bytes))
        });
        match read.await {
            Ok((_, bytes)) if bytes.is_empty() => break Ok(()),
            Ok((again, bytes)) => {
                file = again;
                if let Err(error) = upload.put(bytes.into()).await {
                    break Err(Uploading::Storage(error));
                }
            }
            Err(error) => break Err(Uploading::File(error)),
        }
    };
    match outcome {
        Ok(()) => upload.commit().await.map(|_| ()).map_err(Uploading::Storage),
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// What lies there now is what was to be put there.
async fn same_bytes(storage: &dyn Storage, key: &ArtifactName, expected: Fingerprint) -> Result<(), storage::Error> {
    let Some(at) = storage.find(key).await? else {
        return Err(storage::Error::new(ErrorKind::NotFound, format!("cannot find {key} again")));
    };
    if storage::fingerprint(storage, &at).await? == expected {
        return Ok(());
    }
    Err(storage::Error::new(ErrorKind::Exists, format!("cannot put {key}: something else lies under this name")))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
