//! Who is told of what the clock brings. Until notices have channels of their own, these are the addresses that requests named; what is told
//! is written into the outbox once for each channel and recipient.

use sqlx::PgConnection;

use crate::{
    clock::Timestamp,
    history::{self, Expiring, HistoryError, OnceNotice},
    ids::BackupId,
};

/// A way to somebody.
struct Recipient<'a> {
    channel: &'a str,
    address: &'a str,
}

fn by_email(address: Option<&str>) -> Vec<Recipient<'_>> {
    address.map(|address| Recipient { channel: "email", address }).into_iter().collect()
}

/// A backup will expire.
pub(super) async fn expiring(connection: &mut PgConnection, backup: &Expiring) -> Result<(), HistoryError> {
    for Recipient { channel, address } in by_email(backup.notify_email.as_deref()) {
        let notice = OnceNotice {
            project_id: &backup.project_id,
            backup_id: Some(BackupId(backup.id)),
            event: "expiring",
            channel,
            recipient: address,
            payload: serde_json::json!({ "type": backup.r#type, "created_at": backup.created_at, "expires_at": backup.expires_at }),
        };
        history::add_notice_once(&mut *connection, &format!("expiring:{}:{channel}:{address}", backup.id), &notice)
            .await?;
    }
    Ok(())
}

/// A project has no good backup within its allowed age.
pub(super) async fn stale(
    connection: &mut PgConnection,
    project_id: &str,
    raised_at: Timestamp,
    detail: &serde_json::Value,
) -> Result<(), HistoryError> {
    let address = history::newest_notify_email(&mut *connection, project_id).await?;
    for Recipient { channel, address } in by_email(address.as_deref()) {
        let notice = OnceNotice {
            project_id,
            backup_id: None,
            event: "stale",
            channel,
            recipient: address,
            payload: detail.clone(),
        };
        let once = format!("stale:{project_id}:{}:{channel}:{address}", raised_at.timestamp());
        history::add_notice_once(&mut *connection, &once, &notice).await?;
    }
    Ok(())
}
