//! Backups are announced some days before they expire, once each.

use chrono::Duration;

use super::tell;
use crate::{
    app::App,
    db,
    history::{self, Event},
    ids::BackupId,
    jobs::request::RequestError,
    tenant::Caller,
};

/// Announces what expires within `retention.warn_days`. Gives how many backups.
pub async fn announce(app: &App) -> Result<usize, RequestError> {
    let now = app.clock.now();
    let ahead = Duration::days(i64::from(app.config.retention.warn_days));
    if ahead.is_zero() {
        return Ok(0);
    }
    let caller = Caller::system("retention");
    let mut announced = 0;
    loop {
        let mut transaction = db::begin(&app.pool).await?;
        let expiring = history::announce_expiring(&mut *transaction, now, now + ahead).await?;
        for backup in &expiring {
            let event = Event {
                backup_id: Some(BackupId(backup.id)),
                project_id: &backup.project_id,
                event: "expiring",
                caller: &caller,
                outcome: "ok",
                detail: serde_json::json!({ "expires_at": backup.expires_at }),
            };
            history::record(&mut transaction, &event).await?;
            tell::expiring(&mut transaction, app, backup).await?;
        }
        transaction.commit().await?;
        if expiring.is_empty() {
            return Ok(announced);
        }
        announced += expiring.len();
    }
}
