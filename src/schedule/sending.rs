//! The outbox of notices is emptied beside everything else that is done by the clock.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::skew::ClockCheck;
use crate::{app::App, notify::Senders, tell};

/// Sends what is due until `stop`; what is on its way then is finished, for as long as a running job may take.
pub(super) async fn keep_sending(app: &App, stop: &CancellationToken, check: &ClockCheck) {
    let senders = match Senders::new(&app.config) {
        Ok(senders) => senders,
        // Backups go on. Another process may be able to.
        Err(error) => return tracing::error!("Notices: none is sent by this process: {error}"),
    };
    let mut ticks = interval(Duration::from_secs(app.config.notify.poll_seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let round = async {
            if check.passes(app).await
                && let Err(error) = tell::send_due(app, &senders, stop).await
            {
                tracing::warn!("Notices: cannot look for what is to be sent: {error}");
            }
        };
        let grace = async {
            stop.cancelled().await;
            sleep(Duration::from_secs(app.config.worker.shutdown_seconds)).await;
        };
        tokio::select! {
            () = round => {}
            // Their leases lapse, and another process sends them: perhaps again.
            () = grace => return,
        }
    }
}
