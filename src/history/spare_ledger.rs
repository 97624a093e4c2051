//! A ledger for a program that must be able to send while the control plane is away: what storages remember goes there, and into this
//! process's memory while it cannot.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{Instant, timeout};

use super::PgLedger;
use crate::storage::{
    Error, ErrorKind, Ledger,
    ledger::{Entry, Held, InMemoryLedger},
};

/// How long a server may take to show that it is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a control plane that was away is left alone.
const REST: Duration = Duration::from_secs(10);

/// The control plane's ledger, with a spare one. While the control plane is away no other process gets its locks either, so that a lock of
/// this process is as good as can be had.
#[derive(Debug)]
pub struct SpareLedger {
    pool: PgPool,
    control: PgLedger,
    spare: InMemoryLedger,
    /// What was forgotten while the control plane was away, as facts without a value.
    forgotten: InMemoryLedger,
    /// The storages that have facts in one of these two.
    stranded: Mutex<BTreeSet<String>>,
    /// Until then the control plane is not asked for facts: each question would wait for a connection as long as the first one did.
    resting_until: Mutex<Option<Instant>>,
}

impl SpareLedger {
    pub fn new(pool: PgPool) -> Self {
        Self {
            control: PgLedger::new(pool.clone()),
            pool,
            spare: InMemoryLedger::default(),
            forgotten: InMemoryLedger::default(),
            stranded: Mutex::default(),
            resting_until: Mutex::default(),
        }
    }

    /// Brings to the control plane what was remembered while it was away.
    async fn bring_back(&self) -> Result<(), Error> {
        // Taken before the look, so that a fact which comes meanwhile is found by the next one.
        let storages = std::mem::take(&mut *self.stranded.lock().unwrap_or_else(PoisonError::into_inner));
        let brought = self.bring(&storages).await;
        if brought.is_err() {
            self.stranded.lock().unwrap_or_else(PoisonError::into_inner).extend(storages);
        }
        brought
    }

    async fn bring(&self, storages: &BTreeSet<String>) -> Result<(), Error> {
        for storage in storages {
            let known = self.control.list(storage, "").await?;
            for entry in self.spare.list(storage, "").await? {
                // Another process may have written it anew since the control plane is back.
                if !known.iter().any(|other| other.key == entry.key && other.written_at > entry.written_at) {
                    self.control.put(storage, &entry.key, entry.value).await?;
                }
                self.spare.remove(storage, &entry.key).await?;
            }
            for gone in self.forgotten.list(storage, "").await? {
                if known.iter().any(|other| other.key == gone.key && other.written_at <= gone.written_at) {
                    self.control.remove(storage, &gone.key).await?;
                }
                self.forgotten.remove(storage, &gone.key).await?;
            }
        }
        Ok(())
    }

    /// Notes that a storage has something to bring back.
    fn strand(&self, storage: &str) {
        self.stranded.lock().unwrap_or_else(PoisonError::into_inner).insert(storage.to_owned());
    }

    /// The control plane's answer; `None` while it is away.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Result<Option<T>, Error> {
        if self.is_resting() {
            return Ok(None);
        }
        match question.await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind.may_pass() => {
                tracing::warn!(%error, "what storages remember is in this process alone for now");
                self.rest();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn rest(&self) {
        *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    fn is_resting(&self) -> bool {
        let until = *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the control plane gives its locks to nobody now: it cannot be reached, shuts down or starts (57P01 to 57P03), or its database
    /// lets nobody in (55000). Whatever else it answers, a wrong password or no connection to spare, others may hold the lock there.
    /// Source: postgresql.org/docs/current/errcodes-appendix.html.
    async fn is_away(&self) -> bool {
        match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.pool.connect_options())).await {
            Ok(Ok(connection)) => {
                let _ = connection.close().await; // it has answered
                false
            }
            Ok(Err(sqlx::Error::Database(error))) => {
                error.code().is_some_and(|code| code.starts_with("57P0") || code == "55000")
            }
            Ok(Err(error)) => matches!(error, sqlx::Error::Io(_)),
            Err(_) => true, // no answer in time
        }
    }
}

#[async_trait]
impl Ledger for SpareLedger {
    async fn hold(&self, name: &str) -> Result<Held, Error> {
        if self.is_resting() && self.is_away().await {
            self.rest();
            return self.spare.hold(name).await;
        }
        match self.control.hold(name).await {
            Ok(held) => {
                *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if let Err(error) = self.bring_back().await {
                    tracing::warn!(%error, "what storages remembered while the control plane was away is still here alone");
                }
                Ok(held)
            }
            Err(error) if error.kind.may_pass() && self.is_away().await => {
                tracing::warn!(%error, "a storage is locked for this process alone");
                self.rest();
                self.spare.hold(name).await
            }
            Err(error) => Err(error),
        }
    }

    async fn put(&self, storage: &str, key: &str, value: Value) -> Result<(), Error> {
        match self.ask(self.control.put(storage, key, value.clone())).await? {
            Some(()) => self.spare.remove(storage, key).await?,
            None => {
                self.spare.put(storage, key, value).await?;
                self.strand(storage);
            }
        }
        self.forgotten.remove(storage, key).await
    }

    async fn remove(&self, storage: &str, key: &str) -> Result<(), Error> {
        self.spare.remove(storage, key).await?;
        if self.ask(self.control.remove(storage, key)).await?.is_none() {
            self.forgotten.put(storage, key, Value::Null).await?;
            self.strand(storage);
            return Ok(());
        }
        self.forgotten.remove(storage, key).await
    }

    /// Fails while the control plane is away: what is here is not all, and an answer that lacks something would be taken for the whole.
    async fn list(&self, storage: &str, prefix: &str) -> Result<Vec<Entry>, Error> {
        let Some(mut all) = self.ask(self.control.list(storage, prefix)).await? else {
            let context = format!("cannot tell what storage {storage} remembers: the control plane is away");
            return Err(Error::new(ErrorKind::Unavailable, context));
        };
        let (here, gone) = (self.spare.list(storage, prefix).await?, self.forgotten.list(storage, prefix).await?);
        all.retain(|entry| gone.iter().all(|gone| gone.key != entry.key || gone.written_at < entry.written_at));
        // What is remembered here is newer.
        all.retain(|entry| here.iter().all(|newer| newer.key != entry.key));
        all.extend(here);
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }
}
