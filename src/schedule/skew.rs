//! Whether this machine's clock may decide. One process whose clock runs far ahead would delete history, and write times that stop the others;
//! so nothing is done by a clock that the database's does not confirm.

use std::sync::{Mutex, PoisonError};

use chrono::Duration;
use sqlx::PgPool;
use tokio::time::Instant;

use crate::{
    app::App,
    clock::{Clock, Timestamp},
    jobs::request::RequestError,
};

/// How far a clock may be from the database's.
pub(super) const TOLERATED: Duration = Duration::minutes(5);

/// A warning is repeated after this time.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// How far `here` is ahead of the database's clock, when that is too far either way.
pub async fn off_by(pool: &PgPool, here: Timestamp) -> Result<Option<Duration>, RequestError> {
    let there = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(pool).await?;
    Ok(too_far(here, there))
}

fn too_far(here: Timestamp, there: Timestamp) -> Option<Duration> {
    let ahead = here - there;
    (ahead.abs() > TOLERATED).then_some(ahead)
}

/// Looks at the clock before each round, and warns at most once a minute.
#[derive(Debug, Default)]
pub(super) struct ClockCheck {
    warned: Mutex<Option<Instant>>,
}

impl ClockCheck {
    /// Whether a round may go by this process's clock. One that was set by hand is nobody's mistake.
    pub(super) async fn passes(&self, app: &App) -> bool {
        if !matches!(app.clock, Clock::System) || !app.config.schedules.check_clock {
            return true;
        }
        match off_by(&app.pool, app.clock.now()).await {
            Ok(None) => true,
            Ok(Some(ahead)) => {
                self.warn(&format!(
                    "this machine's clock is {} seconds {} the database's, so nothing is done by it: set the clocks",
                    ahead.num_seconds().abs(),
                    if ahead > Duration::zero() { "ahead of" } else { "behind" },
                ));
                false
            }
            Err(error) => {
                self.warn(&format!("cannot ask the database for the time: {error}"));
                false
            }
        }
    }

    fn warn(&self, message: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= SILENCE) {
            *warned = Some(Instant::now());
            tracing::warn!("Schedule: {message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_more_than_five_minutes_off_either_way_is_not_trusted() {
        let there: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        for (ahead, is_off) in
            [(0, false), (300, false), (301, true), (-300, false), (-301, true), (86_400 * 400, true)]
        {
            let ahead = Duration::seconds(ahead);
            assert_eq!(too_far(there + ahead, there), is_off.then_some(ahead), "{ahead}");
        }
    }
}
