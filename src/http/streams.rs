//! How many event streams are open, in all and for each caller. Each looks at the database a few times a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::tenant::Caller;

/// Streams open at once in one process.
const MAX_IN_ALL: usize = 256;

/// Streams open at once for one caller.
const MAX_PER_CALLER: usize = 16;

/// The open streams, by whom.
#[derive(Clone, Debug, Default)]
pub struct EventStreams(Arc<Mutex<HashMap<String, usize>>>);

/// The right to one stream. Dropped, it makes room.
#[derive(Debug)]
pub struct Permit {
    streams: EventStreams,
    caller: String,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The caller has too many open already.
    Caller,
    /// All callers together have.
    All,
}

impl EventStreams {
    /// # Errors
    /// There is no room for another.
    pub fn open(&self, caller: &Caller) -> Result<Permit, Refused> {
        // A subject alone may be somebody else in another tenant.
        let caller = format!("{:?}", (&caller.subject, caller.role, &caller.organization_id, &caller.project_ids));
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&caller).is_some_and(|own| *own >= MAX_PER_CALLER) {
            return Err(Refused::Caller);
        }
        if open.values().sum::<usize>() >= MAX_IN_ALL {
            return Err(Refused::All);
        }
        *open.entry(caller.clone()).or_default() += 1;
        Ok(Permit { streams: self.clone(), caller })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.caller);
            }
        }
    }
}
