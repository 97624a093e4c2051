//! What happens by the clock, in every `serve` and `worker` process: schedules make jobs, what expires is announced and deleted, and projects
//! without a good backup are called stale.
//!
//! A schedule's *slot* is opened once: a row of `schedule_runs` for each project that it covers, due at the project's own place in the window.
//! What is due becomes a job under a key of its own, so that it is one job whatever the processes' timing and wherever one of them dies.
//! What always holds: the rows' times and every decision go by the application's clock, which is a parameter; and nothing is done by a
//! machine's clock that is far from the database's.

mod asked;
mod expiring;
mod managing;
mod next;
mod opening;
mod rows;
mod sending;
mod skew;
mod spread;
mod stale;
mod starting;
mod tell;
mod trials;
mod upkeep;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::skew::ClockCheck;
pub use self::{
    expiring::announce,
    managing::{Changes, NewSchedule, Target, add, change, get, list, preview, remove},
    next::next_starts,
    opening::open_due,
    rows::{Schedule, SchedulePage, ScheduledRun, runs_of},
    skew::off_by,
    spread::{due_at, place},
    stale::{allowed_age, is_stale, look as look_for_stale},
    starting::start_due,
    trials::try_next,
};
use crate::{app::App, jobs::request::RequestError};

/// The id of the schedule that the configuration gives to every project without one of its own.
pub const DEFAULT_ID: Uuid = Uuid::nil();

/// Runs that are started before it is looked whether to stop.
const STARTS_A_TICK: usize = 1_000;

/// Keeps time until `stop`. Any number of processes may do so on one control plane.
pub async fn run(app: App, stop: CancellationToken) {
    let check = ClockCheck::default();
    let schedules = repeat(&app, &stop, async || {
        if check.passes(&app).await {
            tick(&app, &stop).await;
        }
    });
    // Beside them: a large deletion must not keep a backup from beginning.
    let upkeep = repeat(&app, &stop, async || {
        if check.passes(&app).await {
            report("do the upkeep", upkeep::all(&app).await);
        }
    });
    // Beside both: a mail server that hangs keeps nothing else waiting.
    tokio::join!(schedules, upkeep, sending::keep_sending(&app, &stop, &check));
}

async fn repeat(app: &App, stop: &CancellationToken, mut work: impl AsyncFnMut()) {
    let mut ticks = interval(Duration::from_secs(app.config.schedules.tick_seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = work() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Opens and starts what is due now. What fails is tried again with the next tick.
async fn tick(app: &App, stop: &CancellationToken) {
    report("open what is due", opening::open_due(app).await);
    while !stop.is_cancelled() {
        let started = starting::start_due(app, STARTS_A_TICK).await;
        let is_full = matches!(started, Ok(count) if count >= STARTS_A_TICK);
        report("start what is due", started);
        if !is_full {
            break;
        }
    }
}

fn report<T>(what: &str, outcome: Result<T, RequestError>) {
    if let Err(error) = outcome {
        tracing::warn!("Schedule: cannot {what}: {error}");
    }
}
