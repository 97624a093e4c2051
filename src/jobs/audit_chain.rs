//! Links what was written into the audit trail, every second, and remembers where the chain ends outside the database: in the log, and in
//! a file of this machine.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    history::{self, ChainKey, Remembering},
};

/// Time between looks for entries that are not linked.
const EVERY: Duration = Duration::from_secs(1);

/// Time between two remembered heads.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// Entries that are linked in one transaction.
const AT_ONCE: i64 = 1_000;

/// The key of this installation's chain.
pub fn key(app: &App) -> ChainKey {
    ChainKey::new(app.keys.secrets.derive(ChainKey::PURPOSE))
}

/// Links entries until `stop`, and those that came last after it.
pub async fn keep_linked(app: App, stop: CancellationToken) {
    let key = key(&app);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut remembered_at: Option<Instant> = None;
    let mut trouble = String::new();
    loop {
        let is_over = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let mut now = link_all(&app, &key).await.err().unwrap_or_default();
        if is_over || remembered_at.is_none_or(|at| at.elapsed() >= REMEMBER_EVERY) {
            remembered_at = Some(Instant::now());
            if let Err(error) = remember(&app).await {
                now = error;
            }
        }
        // Once, and again when it is another.
        if now != trouble && !now.is_empty() {
            tracing::error!("Audit: {now}; see `holdfast audit verify`");
        }
        trouble = now;
        if is_over {
            return;
        }
    }
}

/// Links all that is there.
async fn link_all(app: &App, key: &ChainKey) -> Result<(), String> {
    loop {
        let linked = history::link(&app.pool, key, AT_ONCE).await.map_err(|error| error.to_string())?;
        if linked < AT_ONCE as usize {
            return Ok(());
        }
    }
}

/// Remembers where the chain ends.
async fn remember(app: &App) -> Result<(), String> {
    let look = async || history::chain_head(&app.pool).await.map_err(|error| error.to_string());
    let Some(mut head) = look().await? else { return Ok(()) };
    let mut remembering = history::remember_head(&app.config.data_dir, &head);
    // Another process of this machine may have looked later and written sooner: then the chain has gone on.
    if matches!(remembering, Ok(Remembering::Shorter { .. }))
        && let Some(newer) = look().await?
    {
        head = newer;
        remembering = history::remember_head(&app.config.data_dir, &head);
    }
    match remembering {
        Ok(Remembering::Done) => {
            tracing::info!(%head, "Audit: the chain ends here");
            Ok(())
        }
        Ok(Remembering::Known) => Ok(()),
        Ok(Remembering::Shorter { remembered }) => {
            Err(format!("the chain ends at {} and had reached {remembered}", head.sequence))
        }
        Ok(Remembering::Other { remembered }) => {
            Err(format!("the chain is {}, and this machine remembers {remembered}", head.chain_id))
        }
        Err(error) => Err(format!("cannot remember where the chain ends: {error}")),
    }
}
