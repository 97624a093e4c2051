//! What every part of a running Holdfast shares: configuration, the control plane's pool, storages, tools and keys.

mod storages;

use std::{collections::BTreeMap, sync::Arc};

use sqlx::PgPool;

pub use self::storages::Storages;
use crate::{
    catalog::{self, CatalogError, Project},
    clock::Clock,
    config::Config,
    db,
    history::PgLedger,
    ids::CONTROL_PLANE_PROJECT,
    keyring::Keyring,
    postgres::{connect::ConnectInfo, tools::Tools},
    storage::{self, Ledger},
};

/// Opened once per process and shared by reference.
#[derive(Clone, Debug)]
pub struct App {
    pub config: Arc<Config>,
    pub pool: PgPool,
    /// The control plane's own database, where tenants live unless their project says otherwise.
    pub control: ConnectInfo,
    pub storages: Storages,
    pub tools: Arc<Tools>,
    pub keys: Arc<Keyring>,
    pub clock: Clock,
}

/// Why the program cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot reach the control plane at {at}: {source}")]
    ControlPlane { at: String, source: sqlx::Error },
    #[error("cannot open storage {name:?}: {source}")]
    Storage { name: String, source: storage::Error },
}

impl App {
    /// Opens everything that `config` names. The control plane is reached, but not migrated; its own storages are there from the first
    /// [`Storages::refresh`] on.
    pub async fn open(
        config: Config,
        control: ConnectInfo,
        tools: Arc<Tools>,
        keys: Keyring,
    ) -> Result<Self, OpenError> {
        let pool = db::connect(&control, &config.database)
            .await
            .map_err(|source| OpenError::ControlPlane { at: control.to_string(), source })?;
        let ledger: Arc<dyn Ledger> = Arc::new(PgLedger::new(pool.clone()));
        let mut storages = BTreeMap::new();
        for (name, storage) in &config.storages {
            let opened = storage::open(name, storage, &ledger)
                .await
                .map_err(|source| OpenError::Storage { name: name.clone(), source })?;
            storages.insert(name.clone(), opened);
        }
        let keys = Arc::new(keys);
        Ok(Self {
            config: Arc::new(config),
            storages: Storages::new(storages, pool.clone(), Arc::clone(&keys)),
            pool,
            control,
            tools,
            keys,
            clock: Clock::System,
        })
    }

    /// How to reach the database in which a project lives. A project names one that was registered, whatever it is called.
    pub async fn project_database(&self, project: &Project) -> Result<ConnectInfo, CatalogError> {
        match &project.database_name {
            None => Ok(self.control.clone()),
            Some(name) => self.registered(name).await,
        }
    }

    /// How to reach the database that was registered under this name; without one, and by its own name, the control plane's.
    ///
    /// # Errors
    /// There is none, its URL cannot be opened, or one was registered under the control plane's own name.
    pub async fn database(&self, name: Option<&str>) -> Result<ConnectInfo, CatalogError> {
        match name {
            None => Ok(self.control.clone()),
            Some(name) if name != CONTROL_PLANE_PROJECT => self.registered(name).await,
            Some(name) => match catalog::database_url(&self.pool, name).await {
                Err(CatalogError::NoSuchDatabase(_)) => Ok(self.control.clone()),
                // Older versions let it be registered: neither of the two is used for the other.
                Ok(_) => Err(CatalogError::NamedAsOurs(name.to_owned())),
                Err(error) => Err(error),
            },
        }
    }

    async fn registered(&self, name: &str) -> Result<ConnectInfo, CatalogError> {
        let sealed = catalog::database_url(&self.pool, name).await?;
        self.keys.open_database(name, &sealed).map_err(|_| CatalogError::Sealed(name.to_owned()))
    }
}
