//! What adapters must remember beyond the life of a process, and what one process at a time may do. The program keeps it in the control
//! plane; a program without one, and tests, use [`InMemoryLedger`].

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use serde_json::Value;

use super::Error;

/// One remembered fact.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub value: Value,
    pub written_at: SystemTime,
}

/// Remembers facts by storage and key, and hands out locks that hold across processes.
#[async_trait]
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Waits until nobody else, in any process, holds `name`. Free again when the guard is dropped or its process dies.
    async fn hold(&self, name: &str) -> Result<Held, Error>;

    /// Remembers a fact, or replaces it.
    async fn put(&self, storage: &str, key: &str, value: Value) -> Result<(), Error>;

    /// Forgets a fact; forgetting what is unknown is success.
    async fn remove(&self, storage: &str, key: &str) -> Result<(), Error>;

    /// The facts of one storage whose keys begin with `prefix`, by key.
    async fn list(&self, storage: &str, prefix: &str) -> Result<Vec<Entry>, Error>;
}

/// A lock that is held until this is dropped.
pub struct Held {
    guard: Box<dyn HeldGuard>,
}

/// What keeps a lock.
#[async_trait]
pub trait HeldGuard: Any + Send {
    /// Fails when the lock may have been lost, for instance with the session that held it.
    async fn check(&mut self) -> Result<(), Error>;
}

impl Held {
    pub fn new(guard: impl HeldGuard) -> Self {
        Self { guard: Box::new(guard) }
    }

    /// Fails when the lock may have been lost: what it protects must not go on.
    pub async fn check(&mut self) -> Result<(), Error> {
        self.guard.check().await
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// A ledger of one process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InMemoryLedger {
    facts: Arc<Mutex<BTreeMap<(String, String), Entry>>>,
    locks: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

struct InMemoryGuard {
    _held: tokio::sync::OwnedMutexGuard<()>,
}

#[async_trait]
impl HeldGuard for InMemoryGuard {
    async fn check(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Ledger for InMemoryLedger {
    async fn hold(&self, name: &str) -> Result<Held, Error> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        Ok(Held::new(InMemoryGuard { _held: lock.lock_owned().await }))
    }

    async fn put(&self, storage: &str, key: &str, value: Value) -> Result<(), Error> {
        #[allow(clippy::disallowed_methods, reason = "the age of a fact in this process, compared with nothing else")]
        let entry = Entry { key: key.to_owned(), value, written_at: SystemTime::now() };
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).insert((storage.to_owned(), key.to_owned()), entry);
        Ok(())
    }

    async fn remove(&self, storage: &str, key: &str) -> Result<(), Error> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).remove(&(storage.to_owned(), key.to_owned()));
        Ok(())
    }

    async fn list(&self, storage: &str, prefix: &str) -> Result<Vec<Entry>, Error> {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(facts
            .iter()
            .filter(|((of, key), _)| of == storage && key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}
