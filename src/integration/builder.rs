//! Putting an integration together: from a configuration, from an open [`App`], or piece by piece.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sqlx::PgPool;

use super::{BackupIntegration, Destination, upload::Sender};
use crate::{
    app::App,
    byte_size::ByteSize,
    clock::Clock,
    config::{Config, StorageConfig},
    db,
    history::{Outbox, SpareLedger},
    keyring::{self, KeyringError},
    postgres::connect::ConnectInfo,
    storage::{self, Ledger, Storage, ledger::InMemoryLedger},
    transform::SealKey,
};

/// Why an integration cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no storage {0:?} in the configuration")]
    NoSuchStorage(String),
    #[error("cannot open storage {name:?}: {source}")]
    Storage { name: String, source: storage::Error },
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// Never repeats the URL.
    #[error("database.url: {0}")]
    DatabaseUrl(String),
}

/// An integration that is being put together. Only the storage is needed; what is left out is not used.
#[derive(Debug)]
pub struct Builder {
    destination: Destination,
    sender: Sender,
    pool: Option<PgPool>,
    outbox: Option<Outbox>,
    clock: Clock,
    retention_days: u32,
    created_by: String,
    app: Option<App>,
}

impl BackupIntegration {
    /// Everything that a configuration says. Nothing is reached yet: the database may be down. No key is made: a program that embeds Holdfast
    /// encrypts to `encryption.recipients`, or to the key that an installation has in its data directory, and seals with the one it finds there.
    ///
    /// # Errors
    /// There is no such storage, or a setting or key cannot be used.
    pub async fn open(config: &Config, storage: &str) -> Result<Self, OpenError> {
        let pool = match &config.database.url {
            None => None,
            Some(url) => {
                let info =
                    url.expose().parse::<ConnectInfo>().map_err(|error| OpenError::DatabaseUrl(error.to_string()))?;
                Some(db::connect_lazily(&info, &config.database))
            }
        };
        let recipients = keyring::recipients(config)?;
        Ok(Self::of(config, storage, pool, recipients).await?.seal(keyring::seal_key(config)?).build())
    }

    /// The same out of an open [`App`], which can queue every job. It opens the storage once more, with a memory of its own for the time that
    /// the database is down.
    ///
    /// # Errors
    /// There is no such storage, or it cannot be opened.
    pub async fn new(app: &App, storage: &str) -> Result<Self, OpenError> {
        let builder = Self::of(&app.config, storage, Some(app.pool.clone()), app.keys.recipients.clone()).await?;
        let builder = builder.seal(app.keys.seals.shared_key()).clock(app.clock.clone());
        Ok(Builder { app: Some(app.clone()), ..builder }.build())
    }

    /// Around a storage. `name` is what records call it: the name under which the platform's Holdfast has it in its configuration.
    pub fn builder(name: impl Into<String>, storage: Arc<dyn Storage>) -> Builder {
        Builder::around(name.into(), Destination { storage, has_chats: false })
    }

    async fn of(
        config: &Config,
        name: &str,
        pool: Option<PgPool>,
        recipients: Vec<age::x25519::Recipient>,
    ) -> Result<Builder, OpenError> {
        let settings = config.storages.get(name).ok_or_else(|| OpenError::NoSuchStorage(name.to_owned()))?;
        let ledger: Arc<dyn Ledger> = match &pool {
            Some(pool) => Arc::new(SpareLedger::new(pool.clone())),
            None => Arc::new(InMemoryLedger::default()),
        };
        let storage = storage::open(name, settings, &ledger)
            .await
            .map_err(|source| OpenError::Storage { name: name.to_owned(), source })?;
        let destination = Destination { storage, has_chats: matches!(settings, StorageConfig::Telegram(_)) };
        let builder = Builder::around(name.to_owned(), destination)
            .recipients(recipients)
            .max_size(config.backup.max_size)
            .timeout(Duration::from_secs(config.backup.timeout_seconds))
            .retention_days(config.backup.retention_days)
            .outbox(config.data_dir.join("outbox"));
        Ok(Builder { pool, ..builder })
    }
}

impl Builder {
    fn around(name: String, destination: Destination) -> Self {
        Self {
            destination,
            sender: Sender {
                name,
                recipients: Vec::new(),
                max_size: ByteSize::gib(10),
                timeout: Duration::from_secs(30 * 60),
                is_proved: Arc::default(),
                seal: None,
            },
            pool: None,
            outbox: None,
            clock: Clock::System,
            retention_days: 30,
            created_by: "integration".to_owned(),
            app: None,
        }
    }

    /// Whom files are encrypted to. Without any, only a file that asks for no encryption is sent.
    #[must_use]
    pub fn recipients(mut self, recipients: Vec<age::x25519::Recipient>) -> Self {
        self.sender.recipients = recipients;
        self
    }

    /// The installation's key, which seals the manifests of files. Without it they are stored and recorded all the same, but `catalog rebuild` and
    /// `import` take them with `--allow-unsealed` alone.
    #[must_use]
    pub fn seal(mut self, key: Option<Arc<SealKey>>) -> Self {
        self.sender.seal = key;
        self
    }

    /// The control plane's database. It may be down, and need not be connected yet (`connect_lazy`).
    #[must_use]
    pub fn database(mut self, pool: PgPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// The directory for records that cannot be written; made with mode 0700. A worker empties the one below its data directory.
    #[must_use]
    pub fn outbox(mut self, directory: impl Into<PathBuf>) -> Self {
        self.outbox = Some(Outbox::at(directory));
        self
    }

    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Largest stored file. Default: 10 GiB.
    #[must_use]
    pub fn max_size(mut self, max_size: ByteSize) -> Self {
        self.sender.max_size = max_size;
        self
    }

    /// Longest time for one file. Default: 30 minutes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.sender.timeout = timeout;
        self
    }

    /// Days until a file without an `expires_at` expires. Default: 30.
    #[must_use]
    pub fn retention_days(mut self, days: u32) -> Self {
        self.retention_days = days;
        self
    }

    /// Who is named in the history. Default: `integration`.
    #[must_use]
    pub fn created_by(mut self, created_by: impl Into<String>) -> Self {
        self.created_by = created_by.into();
        self
    }

    pub fn build(self) -> BackupIntegration {
        let Self { destination, sender, pool, outbox, clock, retention_days, created_by, app } = self;
        BackupIntegration { destination, sender, pool, outbox, clock, retention_days, created_by, app }
    }
}
