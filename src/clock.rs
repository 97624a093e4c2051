//! Time as a parameter: tests move a clock, they do not sleep.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};

/// An instant in UTC.
pub type Timestamp = DateTime<Utc>;

/// Tells the time. What must agree between machines (leases, due times) uses the database's clock instead.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is moved.
    Fixed(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// A clock that stands still at `at`.
    pub fn fixed(at: Timestamp) -> Self {
        Self::Fixed(Arc::new(Mutex::new(at)))
    }

    pub fn now(&self) -> Timestamp {
        match self {
            #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
            Self::System => Utc::now(),
            Self::Fixed(at) => *at.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// Moves a fixed clock forward; the system's clock cannot be moved.
    pub fn advance(&self, by: chrono::Duration) {
        if let Self::Fixed(at) = self {
            *at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by;
        }
    }
}
