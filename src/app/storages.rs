//! The storages of one process: those of the configuration, which stay, and those of the control plane's table, which operators add, change
//! and remove while everything runs.
//!
//! What always holds: a name of the configuration is never the table's; a storage whose row has not changed is opened once, so that what it
//! remembers (its pace, its connections) stays; [`refresh`](Storages::refresh) sees everything that was committed before it began. It is
//! called at the beginning of every job and every request that picks a storage, so that no process works with an older list.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use sqlx::PgPool;

use crate::{
    catalog::{self, Project, StorageRow},
    history::PgLedger,
    keyring::Keyring,
    storage::{self, Ledger, Pacers, Storage},
};

type Opened = Arc<dyn Storage>;

/// Storages by name.
#[derive(Clone, Debug)]
pub struct Storages {
    /// Each clone has its own, so that one can be changed for itself.
    configured: Arc<BTreeMap<String, Opened>>,
    table: Option<Arc<Table>>,
    /// The rates of projects.
    pacers: Pacers,
}

/// What comes from the control plane's table.
#[derive(Debug)]
struct Table {
    pool: PgPool,
    keys: Arc<Keyring>,
    held: RwLock<BTreeMap<String, Held>>,
    /// One at a time: an older look at the table must not replace a newer one.
    refreshing: tokio::sync::Mutex<()>,
}

/// One row of the table as it was opened.
#[derive(Clone, Debug)]
struct Held {
    revision: i64,
    /// `Err`: why it cannot be used, as the log was told.
    storage: Result<Opened, String>,
}

impl Storages {
    /// Those of the configuration, and those of the table from the first [`refresh`](Self::refresh) on.
    pub fn new(configured: BTreeMap<String, Opened>, pool: PgPool, keys: Arc<Keyring>) -> Self {
        let table = Table { pool, keys, held: RwLock::default(), refreshing: tokio::sync::Mutex::default() };
        Self { configured: Arc::new(configured), table: Some(Arc::new(table)), pacers: Pacers::default() }
    }

    /// Reads the table again: what is new or has changed is opened, what is gone is let go of. One that cannot be opened is as good as
    /// missing; the log says why, once.
    ///
    /// # Errors
    /// The control plane does not answer.
    pub async fn refresh(&self) -> Result<(), sqlx::Error> {
        let Some(table) = &self.table else { return Ok(()) };
        let _alone = table.refreshing.lock().await;
        let rows = catalog::storages(&table.pool).await?;
        let before = table.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut now = BTreeMap::new();
        for row in rows {
            let known = before.get(&row.name).filter(|held| held.revision == row.revision);
            let held = match known {
                Some(held) if held.storage.is_ok() => held.clone(),
                known => self.open(table, &row, known).await,
            };
            now.insert(row.name, held);
        }
        *table.held.write().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    async fn open(&self, table: &Table, row: &StorageRow, known: Option<&Held>) -> Held {
        let storage = if self.configured.contains_key(&row.name) {
            Err("the configuration has a storage of this name, which is used".to_owned())
        } else {
            open_row(table, row).await
        };
        if let Err(why) = &storage
            && known.is_none_or(|known| known.storage.as_ref().err() != Some(why))
        {
            tracing::warn!(storage = row.name, "a storage of the control plane cannot be used: {why}");
        }
        Held { revision: row.revision, storage }
    }

    /// The storage of this name.
    pub fn get(&self, name: &str) -> Option<Opened> {
        if let Some(storage) = self.configured.get(name) {
            return Some(Arc::clone(storage));
        }
        self.held(|held| held.get(name)?.storage.clone().ok()).flatten()
    }

    /// `storage` for uploads of this project: kept to the rate that the project has, which all its uploads in this process share.
    pub fn paced(&self, project: &Project, storage: Opened) -> Opened {
        self.pacers.wrap(&project.id, storage, project.own_settings().max_rate)
    }

    /// Why a storage of the table cannot be used here.
    pub fn problem(&self, name: &str) -> Option<String> {
        self.held(|held| held.get(name)?.storage.as_ref().err().cloned()).flatten()
    }

    /// Whether there is one of this name that can be used.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the name is the configuration's.
    pub fn is_configured(&self, name: &str) -> bool {
        self.configured.contains_key(name)
    }

    /// The names of all that can be used, in order.
    pub fn keys(&self) -> Vec<String> {
        self.iter().map(|(name, _)| name).collect()
    }

    /// All that can be used, by name, as they are now.
    pub fn iter(&self) -> std::collections::btree_map::IntoIter<String, Opened> {
        let mut all = BTreeMap::clone(&self.configured);
        let held = self.held(|held| {
            let usable = |(name, held): (&String, &Held)| Some((name.clone(), held.storage.clone().ok()?));
            held.iter().filter_map(usable).collect::<Vec<_>>()
        });
        for (name, storage) in held.into_iter().flatten() {
            all.entry(name).or_insert(storage);
        }
        all.into_iter()
    }

    fn held<T>(&self, look: impl FnOnce(&BTreeMap<String, Held>) -> T) -> Option<T> {
        let table = self.table.as_ref()?;
        Some(look(&table.held.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Puts one among those of the configuration; other clones do not see it.
    pub fn insert(&mut self, name: String, storage: Opened) -> Option<Opened> {
        Arc::make_mut(&mut self.configured).insert(name, storage)
    }

    /// Lets go of those of the configuration; other clones keep them.
    pub fn clear(&mut self) {
        self.configured = Arc::default();
    }

    /// Takes one from those of the configuration; other clones keep it.
    pub fn remove(&mut self, name: &str) -> Option<Opened> {
        Arc::make_mut(&mut self.configured).remove(name)
    }
}

/// Without a table behind it: what is given is all there is.
impl From<BTreeMap<String, Opened>> for Storages {
    fn from(storages: BTreeMap<String, Opened>) -> Self {
        Self { configured: Arc::new(storages), table: None, pacers: Pacers::default() }
    }
}

impl IntoIterator for &Storages {
    type Item = (String, Opened);
    type IntoIter = std::collections::btree_map::IntoIter<String, Opened>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

async fn open_row(table: &Table, row: &StorageRow) -> Result<Opened, String> {
    let settings = row.open(&table.keys.secrets).map_err(|error| error.to_string())?;
    let config = settings.parse().map_err(|error| error.to_string())?;
    let ledger: Arc<dyn Ledger> = Arc::new(PgLedger::new(table.pool.clone()));
    storage::open(&row.name, &config, &ledger).await.map_err(|error| error.to_string())
}
