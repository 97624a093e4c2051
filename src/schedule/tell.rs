//! What is told of what the clock brings.

use sqlx::PgConnection;

use crate::{
    app::App,
    clock::Timestamp,
    history::{self, Expiring},
    ids::BackupId,
    jobs::request::RequestError,
    notice::{AboutStale, Notice, NoticeEvent},
    tell::{self, Told},
};

/// A backup will expire: once for each recipient, however often it is noticed.
pub(super) async fn expiring(connection: &mut PgConnection, app: &App, backup: &Expiring) -> Result<(), RequestError> {
    let id = BackupId(backup.id);
    let told = Told {
        event: NoticeEvent::Expiring,
        occurrence: &backup.id.to_string(),
        project_id: Some(&backup.project_id),
        backup_id: Some(id),
        job_id: None,
        asked_for: backup.notify_email.as_deref(),
        notice: Notice {
            backup: tell::backup(connection, id).await?,
            hint: Some(format!("Pin it to keep it: `holdfast pin {}`.", backup.id)),
            ..Notice::default()
        },
    };
    tell::tell(connection, app, &told).await?;
    Ok(())
}

/// A project has no good backup within its allowed age: once for each recipient and episode.
pub(super) async fn stale(
    connection: &mut PgConnection,
    app: &App,
    project_id: &str,
    raised_at: Timestamp,
    about: AboutStale,
) -> Result<(), RequestError> {
    let address = history::newest_notify_email(&mut *connection, project_id).await?;
    let told = Told {
        event: NoticeEvent::Stale,
        occurrence: &format!("{project_id}:{}", raised_at.timestamp()),
        project_id: Some(project_id),
        backup_id: None,
        job_id: None,
        asked_for: address.as_deref(),
        notice: Notice {
            stale: Some(about),
            hint: Some(format!(
                "Look why the last backups failed (`holdfast list {project_id}`), then take one: `holdfast backup {project_id} --wait`."
            )),
            ..Notice::default()
        },
    };
    tell::tell(connection, app, &told).await?;
    Ok(())
}
