//! The outbox of notices is emptied beside everything else that is done by the clock.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::skew::ClockCheck;
use crate::{app::App, notify::Senders, tell::Postman};

/// How long others are waited for when a notice has ended, before the next are looked for: that reads all that is due.
const TOGETHER: Duration = Duration::from_millis(50);

/// Sends what is due until `stop`; what is on its way then is finished, for as long as a running job may take.
pub(super) async fn keep_sending(app: &App, stop: &CancellationToken, check: &ClockCheck) {
    let senders = match Senders::new(&app.config) {
        Ok(senders) => senders,
        // Backups go on. Another process may be able to.
        Err(error) => return tracing::error!("Notices: none is sent by this process: {error}"),
    };
    let mut postman = Postman::new(app, senders);
    let mut ticks = interval(Duration::from_secs(app.config.notify.poll_seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_tick = tokio::select! {
            _ = ticks.tick() => true,
            // There is room for others: one look for all that end at about the same time.
            Some(_) = postman.ended() => {
                let soon = tokio::time::Instant::now() + TOGETHER;
                while let Ok(Some(_)) = timeout_at(soon, postman.ended()).await {}
                false
            }
            () = stop.cancelled() => break,
        };
        if check.passes(app).await
            && let Err(error) = postman.begin(is_tick).await
        {
            tracing::warn!("Notices: cannot look for what is to be sent: {error}");
        }
    }
    // What is not over by then is sent by another process when its lease has lapsed: perhaps again.
    let _ = timeout(Duration::from_secs(app.config.worker.shutdown_seconds), async {
        while postman.ended().await.is_some() {}
    })
    .await;
}
