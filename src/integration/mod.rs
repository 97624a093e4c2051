//! Holdfast inside another program: files that the program made itself are kept and recorded like Holdfast's own backups.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use holdfast::{artifact::BackupType, config, integration::{BackupIntegration, BackupOptions}};
//!
//! let config = config::load(None, &std::env::vars().collect())?;
//! let backups = BackupIntegration::open(&config, "telegram").await?;
//! let result = backups.send_and_record(BackupOptions::new("acme", BackupType::Database, "/var/dumps/acme.sql.gz")).await;
//! if let Some(error) = &result.error {
//!     eprintln!("{}: {}", error.code, error.message);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What always holds: a call tells both halves apart ([`Details`]); a file is stored whole with its manifest, or not at all; a record that could
//! not be written after its file was stored waits in the outbox and is written once; nothing is overwritten.

mod builder;
mod file;
mod jobs;
mod name;
mod options;
mod result;
mod upload;

use std::sync::{Arc, atomic::Ordering};

use sqlx::PgPool;

use self::upload::Sender;
pub use self::{
    builder::{Builder, OpenError},
    options::{BackupOptions, FileInput, ForeignMetadata, RecordMetadata},
    result::{BackupResult, Details, Failure, SentPart, TelegramMetadata},
};
pub use crate::history::{DatabaseRecord, Flushed, StoredFile};
use crate::{
    app::App,
    clock::{Clock, Timestamp},
    db,
    history::{self, FailedFile, ForeignFile, Outbox, OutboxEntry, RecordError},
    ids::BackupId,
    storage::Storage,
};

/// Sends files and records them. Share it by reference: calls may run side by side, and what one storage takes in turn waits its turn.
#[derive(Debug)]
pub struct BackupIntegration {
    destination: Destination,
    sender: Sender,
    pool: Option<PgPool>,
    outbox: Option<Outbox>,
    clock: Clock,
    retention_days: u32,
    created_by: String,
    /// Present in a program that has everything, and can queue every job.
    app: Option<App>,
}

/// Where files go.
#[derive(Debug)]
struct Destination {
    storage: Arc<dyn Storage>,
    /// Whether it may be told another chat.
    has_chats: bool,
}

impl BackupIntegration {
    /// Sends a file and records it as a completed backup. An unknown project is refused before anything is sent, when the database can be asked;
    /// when it cannot, the file is sent all the same and its record waits in the outbox. Of a file that could not be sent a `failed` backup is
    /// recorded.
    ///
    /// Dropping the call before its end ends the sending. A file without a manifest may stay, which is no backup; or, when the drop comes after
    /// the manifest and before the record, a whole backup that is not recorded, which `holdfast catalog rebuild` finds.
    pub async fn send_and_record(&self, options: BackupOptions) -> BackupResult {
        let now = self.clock.now();
        if let Err(failure) = options.check(now) {
            return BackupResult::refused(failure);
        }
        let about = About::of(&options, now);
        match self.look_up(&about.project_id).await {
            Ok(()) => self.ask_whether_proved().await,
            Err(error @ RecordError::NoSuchProject(_)) => {
                return BackupResult::of(Details { database_error: Some(error.into()), ..Details::default() });
            }
            Err(error) => tracing::warn!(%error, "the project is not looked up; the file is sent all the same"),
        }
        match self.send(options, &about).await {
            Ok(metadata) => self.record_sent(metadata).await,
            Err(failure) => self.record_failure(failure, &about).await,
        }
    }

    /// The same for several files, one after the other: one result each, in order. A failure does not stop the rest.
    pub async fn send_and_record_multiple(
        &self,
        options: impl IntoIterator<Item = BackupOptions>,
    ) -> Vec<BackupResult> {
        let mut results = Vec::new();
        for each in options {
            results.push(self.send_and_record(each).await);
        }
        results
    }

    /// Sends a file without recording it; no database is needed. Its metadata can be recorded later, by
    /// [`record_in_database_only`](Self::record_in_database_only).
    pub async fn send_to_telegram_only(&self, options: BackupOptions) -> BackupResult {
        let now = self.clock.now();
        if let Err(failure) = options.check(now) {
            return BackupResult::refused(failure);
        }
        let about = About::of(&options, now);
        match self.send(options, &about).await {
            Ok(metadata) => BackupResult {
                telegram_metadata: Some(metadata),
                ..BackupResult::of(Details { telegram_success: true, ..Details::default() })
            },
            Err(failure) => BackupResult::of(Details { telegram_error: Some(failure), ..Details::default() }),
        }
    }

    /// Records a file that was sent before: by this library ([`TelegramMetadata`]), or by another program under an id of its own
    /// ([`ForeignMetadata`]). Recording the same once more changes nothing. `expires_at` is, left out, that of the sending, else 30 days from now.
    pub async fn record_in_database_only(
        &self,
        metadata: impl Into<RecordMetadata>,
        expires_at: Option<Timestamp>,
    ) -> BackupResult {
        let now = self.clock.now();
        if let Err(failure) = options::check_expiry(expires_at, now) {
            return BackupResult::refused(failure);
        }
        let entry = match metadata.into() {
            RecordMetadata::Sent(mut file) => {
                file.expires_at = expires_at.or(file.expires_at);
                OutboxEntry::Stored(file)
            }
            RecordMetadata::Foreign(foreign) => {
                if let Err(failure) = foreign.check() {
                    return BackupResult::refused(failure);
                }
                OutboxEntry::Foreign(ForeignFile {
                    external_id: foreign.external_id,
                    project_id: foreign.project_id,
                    backup_type: foreign.backup_type,
                    file_id: foreign.file_id,
                    file_name: foreign.filename,
                    size: foreign.size,
                    sha256: foreign.sha256,
                    created_at: foreign.created_at.unwrap_or(now),
                    expires_at: Some(expires_at.unwrap_or_else(|| self.default_expiry(now))),
                    created_by: self.created_by.clone(),
                })
            }
        };
        self.record(entry, Details::default()).await
    }

    /// Writes down what waits in the outbox. Every call that reaches the database does so too, and so does a worker.
    ///
    /// # Errors
    /// There is no database or no outbox, or one of them cannot be used just now.
    pub async fn flush_outbox(&self) -> Result<Flushed, Failure> {
        let Some(outbox) = &self.outbox else { return Ok(Flushed::default()) };
        let pool = self.pool.as_ref().ok_or_else(no_database)?;
        Ok(outbox.flush(pool).await?)
    }

    async fn send(&self, options: BackupOptions, about: &About) -> Result<TelegramMetadata, Failure> {
        let storage = self.storage_for(options.chat_id).await?;
        let expiry = self.default_expiry(about.now);
        let ready = self.sender.prepare(storage, about.backup_id, options, about.now, expiry).await?;
        let mut file = self.sender.send(ready).await?;
        file.created_by.clone_from(&self.created_by);
        Ok(TelegramMetadata::new(about.file_name.clone(), file))
    }

    async fn storage_for(&self, chat_id: Option<i64>) -> Result<Arc<dyn Storage>, Failure> {
        let usual = &self.destination;
        let Some(chat) = chat_id else { return Ok(Arc::clone(&usual.storage)) };
        if !usual.has_chats {
            let message =
                format!("the storage is not one that is configured with a chat: it has none with the id {chat}");
            return Err(Failure::new("options.chat_id", message));
        }
        let there =
            usual.storage.in_chat(chat).await.map_err(|error| Failure::of_storage(&self.sender.name, &error))?;
        Ok(there.unwrap_or_else(|| Arc::clone(&usual.storage)))
    }

    /// A storage that has a good copy need not be read back in full again.
    async fn ask_whether_proved(&self) {
        let Some(pool) = &self.pool else { return };
        if !self.sender.is_proved.load(Ordering::Relaxed)
            && history::has_good_copy_in(pool, &self.sender.name).await.unwrap_or(false)
        {
            self.sender.is_proved.store(true, Ordering::Relaxed);
        }
    }

    async fn look_up(&self, project_id: &str) -> Result<(), RecordError> {
        let Some(pool) = &self.pool else { return Ok(()) };
        let mut connection = pool.acquire().await.map_err(RecordError::Unreachable)?;
        history::require_project(&mut connection, project_id).await
    }

    async fn record_sent(&self, metadata: TelegramMetadata) -> BackupResult {
        let entry = OutboxEntry::Stored(Box::new(metadata.record.clone()));
        let result = self.record(entry, Details { telegram_success: true, ..Details::default() }).await;
        BackupResult { telegram_metadata: Some(metadata), ..result }
    }

    /// Writes the record, or keeps it in the outbox. When it was written, what waited there follows.
    async fn record(&self, entry: OutboxEntry, details: Details) -> BackupResult {
        let written = match &self.pool {
            None => Err(no_database()),
            Some(pool) => entry.record(pool).await.map_err(Failure::from),
        };
        let failure = match written {
            Ok(record) => {
                if let Err(error) = self.flush_outbox().await {
                    tracing::warn!(%error, "the outbox is not emptied");
                }
                let details = Details { database_success: true, ..details };
                return BackupResult { database_record: Some(record), ..BackupResult::of(details) };
            }
            Err(failure) => failure,
        };
        // A stored file must not be forgotten, whatever the reason; of the other kind the caller still has everything.
        let is_stored = matches!(entry, OutboxEntry::Stored(_)) && failure.code != "backup.deleted";
        let kept_in_outbox = (is_stored || failure.may_pass) && self.keep(entry).await;
        BackupResult::of(Details { database_error: Some(failure), kept_in_outbox, ..details })
    }

    async fn keep(&self, entry: OutboxEntry) -> bool {
        let Some(outbox) = &self.outbox else { return false };
        match outbox.keep(entry).await {
            Ok(path) => {
                tracing::warn!(file = %path.display(), "a record could not be written and waits in the outbox");
                true
            }
            Err(error) => {
                tracing::error!(%error, "a record could neither be written nor kept");
                false
            }
        }
    }

    async fn record_failure(&self, failure: Failure, about: &About) -> BackupResult {
        let details = Details { telegram_error: Some(failure.clone()), ..Details::default() };
        let Some(pool) = &self.pool else {
            return BackupResult::of(Details { database_error: Some(no_database()), ..details });
        };
        let file = FailedFile {
            id: about.backup_id,
            project_id: &about.project_id,
            backup_type: about.backup_type,
            file_name: &about.file_name.replace(char::is_control, "_"),
            message: &failure.message,
            created_at: about.now,
            created_by: &self.created_by,
        };
        let written = async {
            let mut transaction = db::begin(pool).await.map_err(RecordError::Unreachable)?;
            let record = history::record_failed(&mut transaction, &file).await?;
            transaction.commit().await?;
            Ok::<_, RecordError>(record)
        };
        match written.await {
            Ok(record) => BackupResult {
                database_record: Some(record),
                ..BackupResult::of(Details { database_success: true, ..details })
            },
            Err(error) => BackupResult::of(Details { database_error: Some(error.into()), ..details }),
        }
    }

    fn default_expiry(&self, now: Timestamp) -> Timestamp {
        now + chrono::Duration::days(i64::from(self.retention_days))
    }
}

/// What is known of a file before it is sent, and still when it was not.
struct About {
    backup_id: BackupId,
    project_id: String,
    backup_type: crate::artifact::BackupType,
    file_name: String,
    now: Timestamp,
}

impl About {
    fn of(options: &BackupOptions, now: Timestamp) -> Self {
        Self {
            backup_id: BackupId::generate(),
            project_id: options.project_id.clone(),
            backup_type: options.backup_type,
            file_name: options.file_name(),
            now,
        }
    }
}

fn no_database() -> Failure {
    Failure::new("control_plane.not_configured", "no database is configured: set database.url")
}
