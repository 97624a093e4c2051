//! Sending a file: cut, encrypted and digested while it streams, committed, read back, and its manifest published. Then the storage alone
//! knows enough to give it back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    BackupOptions, Failure,
    file::{FileSource, OpenFile},
    name::{Unique, artifact_name},
};
use crate::{
    artifact::{ArtifactName, Compression, Encoding, Encryption},
    byte_size::ByteSize,
    clock::Timestamp,
    history::StoredFile,
    ids::{BackupId, LeaseToken, ProjectId},
    manifest::{self, Body, Head, Manifest},
    pipeline::{self, BackupRun, PipelineError, Progress, Stored},
    storage::{Error, ErrorKind, Locator, Storage},
    transform::{EncodeOptions, SealKey},
};

/// What every sending shares.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    /// The storage's name in the configuration.
    pub name: String,
    pub recipients: Vec<age::x25519::Recipient>,
    /// Largest stored file.
    pub max_size: ByteSize,
    /// Longest time for one file.
    pub timeout: Duration,
    /// The first file in a storage is read back in full.
    pub is_proved: Arc<AtomicBool>,
    /// Seals the manifests, where there is one.
    pub seal: Option<Arc<SealKey>>,
}

/// A file that was checked and is ready to be sent.
pub(super) struct Ready {
    pub backup_id: BackupId,
    pub project_id: ProjectId,
    pub options: Described,
    file: OpenFile,
    storage: Arc<dyn Storage>,
}

/// What was said about it.
pub(super) struct Described {
    pub backup_type: crate::artifact::BackupType,
    pub file_name: String,
    pub caption: Option<String>,
    pub encryption: Encryption,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Sender {
    /// Looks at everything that can be seen to be wrong before a byte is sent.
    pub(super) async fn prepare(
        &self,
        storage: Arc<dyn Storage>,
        backup_id: BackupId,
        options: BackupOptions,
        now: Timestamp,
        default_expiry: Timestamp,
    ) -> Result<Ready, Failure> {
        let project_id = options.project_id()?;
        if options.encryption == Encryption::Age && self.recipients.is_empty() {
            let message =
                "there is no recipient to encrypt to: set encryption.recipients, or run `holdfast key generate`";
            return Err(Failure::new("key.unavailable", message));
        }
        if options.encryption == Encryption::None && !storage.takes_plaintext() {
            let message = format!("storage {:?} takes encrypted files alone", self.name);
            return Err(Failure::new("encryption.required", message));
        }
        let described = Described {
            backup_type: options.backup_type,
            file_name: options.file_name(),
            caption: options.caption,
            encryption: options.encryption,
            created_at: now,
            expires_at: options.expires_at.unwrap_or(default_expiry),
        };
        let largest = storage.limits().artifact.map_or(self.max_size, |most| most.min(self.max_size));
        let file = OpenFile::open(options.file, largest).await?;
        Ok(Ready { backup_id, project_id, options: described, file, storage })
    }

    /// Sends the file and publishes its manifest. After a failure nothing of it is left, as far as the storage could be reached to clear it away;
    /// only a file that was published and does not read back stays under its name, without a manifest: it may be another's by then.
    pub(super) async fn send(&self, ready: Ready) -> Result<StoredFile, Failure> {
        let Ready { backup_id, project_id, options, file, storage } = ready;
        let encoding = Encoding { format: None, compression: Compression::None, encryption: options.encryption };
        let named = |unique| {
            artifact_name(&project_id, &options.file_name, backup_id, unique, options.encryption)
                .ok_or_else(|| Failure::new("options.filename", "the file's name cannot be used in a storage"))
        };
        // What can be read but once gets a name that nobody can take meanwhile.
        let again = file.again();
        let mut key = named(if again.is_some() { Unique::AsGiven } else { Unique::ById })?;
        let is_taken = |error: Error| Failure::of_storage(&self.name, &error);
        if again.is_some() && storage.find(&key).await.map_err(is_taken)?.is_some() {
            key = named(Unique::ById)?;
        }
        let attempt = LeaseToken::generate();
        let mut sent = self.run(&storage, file, &options, encoding, &key, attempt).await;
        if let (Err(PipelineError::Storage { error, .. }), Some(again)) = (&sent, again)
            && error.kind == ErrorKind::Exists
        {
            // Somebody took the name between the look and the commit.
            key = named(Unique::ById)?;
            let file = OpenFile::open(again, self.max_size).await?;
            sent = self.run(&storage, file, &options, encoding, &key, attempt).await;
        }
        let stored = sent?;
        let Some(copy) = stored.copies.into_iter().next() else {
            return Err(Failure::new("storage.unavailable", "the storage has no copy"));
        };
        let manifest = Manifest {
            head: Head {
                manifest_version: manifest::VERSION,
                written_by: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
                backup_id,
                project_id,
                backup_type: options.backup_type,
                key,
                encoding,
                stored: stored.stored,
                parts: stored.parts,
                created_at: options.created_at,
                expires_at: Some(options.expires_at),
                is_partial: false,
            },
            body: Body { content: stored.content, holds: stored.report.holds },
        };
        let manifest_locator = match self.publish(&*storage, &manifest, attempt).await {
            Ok(locator) => locator,
            Err(error) => {
                clear_away(&*storage, &manifest.head.key, &copy.locator).await;
                return Err(Failure::of_storage(&self.name, &error));
            }
        };
        self.is_proved.store(true, Ordering::Relaxed);
        Ok(StoredFile {
            manifest,
            storage: self.name.clone(),
            locator: copy.locator,
            manifest_locator,
            expires_at: Some(options.expires_at),
            created_by: String::new(),
        })
    }

    async fn run(
        &self,
        storage: &Arc<dyn Storage>,
        file: OpenFile,
        options: &Described,
        encoding: Encoding,
        key: &ArtifactName,
        attempt: LeaseToken,
    ) -> Result<Stored, PipelineError> {
        pipeline::back_up(BackupRun {
            source: Box::new(FileSource::new(file, options.file_name.clone())),
            encode: EncodeOptions {
                encoding,
                // A file is stored as it is.
                zstd_level: 1,
                gzip_level: 1,
                threads: 1,
                recipients: if encoding.encryption == Encryption::Age { self.recipients.clone() } else { Vec::new() },
            },
            storages: vec![(self.name.clone(), Arc::clone(storage))],
            name: key.clone(),
            attempt,
            caption: options.caption.clone(),
            max_size: self.max_size,
            timeout: self.timeout,
            verify_read_back: !self.is_proved.load(Ordering::Relaxed),
            progress: watch::channel(Progress::default()).0,
            cancel: CancellationToken::new(),
        })
        .await
    }

    /// Publishes the manifest. Where the answer was lost, what lies there decides.
    async fn publish(&self, storage: &dyn Storage, manifest: &Manifest, attempt: LeaseToken) -> Result<Locator, Error> {
        let recipients = match manifest.head.encoding.encryption {
            Encryption::None => &[][..],
            Encryption::Age => &self.recipients,
        };
        let error = match pipeline::publish_manifest(storage, manifest, recipients, self.seal.as_deref(), attempt).await
        {
            Ok(locator) => return Ok(locator),
            Err(error) => error,
        };
        if error.kind.may_pass()
            && let Ok(Some(locator)) = storage.find(&manifest.head.key.manifest()).await
            && let Ok(found) = pipeline::read_manifest_file(storage, &locator).await
            && found.head == manifest.head
        {
            return Ok(locator);
        }
        Err(error)
    }
}

/// Removes an artifact that has no manifest, the manifest first where a part of it is there. What cannot be removed now is no backup, and is
/// told to whoever reads the log.
async fn clear_away(storage: &dyn Storage, key: &ArtifactName, artifact: &Locator) {
    if let Ok(Some(manifest)) = storage.find(&key.manifest()).await
        && let Err(error) = storage.delete(&manifest).await
    {
        tracing::warn!(%key, %error, "a manifest that does not read back could not be removed");
    }
    if let Err(error) = storage.delete(artifact).await {
        tracing::warn!(%key, %error, "a file without a manifest could not be removed");
    }
}
