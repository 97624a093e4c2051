//! What comes of the clock alone: the backups that schedules say, warnings, stale projects and deletions.

use chrono::{DateTime, Duration, Utc};
use holdfast::{
    app::App,
    artifact::{BackupType, Compression, Format},
    demo::sample,
    ids::JobId,
    jobs::apply_retention,
    retention::Rules,
    schedule::{self, NewSchedule},
};
use uuid::Uuid;

use super::{
    clockwork::{add, count, execute, new, of_project, project, scene, scene_with, tick},
    support::app::{caller, everything, export},
};

#[tokio::test]
async fn a_schedule_takes_backups_of_its_type_in_its_format_into_its_storages_and_keeps_them_by_its_rules() {
    let (test, clock) = scene().await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    project(&test.app, "acme", None).await;
    let files = tempfile::tempdir().unwrap();
    sqlx::query("UPDATE control_plane.projects SET files = jsonb_build_object('directory', $1::text)")
        .bind(files.path().to_str().unwrap())
        .execute(&test.app.pool)
        .await
        .unwrap();
    let storage = test.app.config.storages.keys().next().unwrap().clone();
    for (backup_type, format, compression, days) in [
        (BackupType::Database, Some(Format::Tar), Some(Compression::Zstd), 3),
        (BackupType::Logs, None, Some(Compression::None), 4),
        (BackupType::Storage, None, Some(Compression::Gzip), 5),
    ] {
        let retention = Some(Rules { days: Some(days), ..Rules::default() });
        let storages = vec![storage.clone()];
        let new = NewSchedule {
            backup_type,
            format,
            compression,
            storages,
            retention,
            ..new("0 2 * * *", of_project("acme"))
        };
        add(&test.app, new).await;
    }
    clock.advance(Duration::hours(1));
    tick(&test.app).await;
    let asked: Vec<(String, Option<String>, String, String)> = sqlx::query_as(
        "SELECT type, payload #>> '{request,format}', payload #>> '{request,compression}', payload #>> '{request,storages,0}'
         FROM control_plane.jobs WHERE type LIKE 'export_%' ORDER BY type",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    let job = |job: &str, format: Option<&str>, compression: &str| {
        (job.to_owned(), format.map(str::to_owned), compression.to_owned(), storage.clone())
    };
    assert_eq!(
        asked,
        [
            job("export_backup", Some("tar"), "zstd"),
            job("export_logs", None, "none"),
            job("export_storage", None, "gzip"),
        ]
    );
    let id: Uuid = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE type = 'export_backup'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    let job = test.run(JobId(id)).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let plan = apply_retention::whole_plan(&test.app, &everything(), Some("acme")).await.unwrap();
    apply_retention::apply(&test.app, &caller(), &plan).await.unwrap();
    let kept_for: Vec<(String, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
        "SELECT file_name, created_at, expires_at FROM control_plane.backups WHERE status = 'completed' AND type = 'database'",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(kept_for.len(), 1);
    assert!(kept_for[0].0.contains(".tar.zst"), "{kept_for:?}");
    assert_eq!(kept_for[0].2 - kept_for[0].1, Duration::days(3));
}

/// Waits until a query counts so many.
async fn counts(app: &App, wanted: i64, sql: &'static str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let found = count(app, sql).await;
        if found == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found}, not {wanted}: {sql}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn by_the_clock_alone_what_will_expire_is_announced_what_has_goes_and_who_lacks_a_backup_is_called_stale() {
    let (test, clock) = scene_with(|config| {
        config.schedules.tick_seconds = 1;
        config.schedules.schedule_default = "off".to_owned();
        // A trial would read what is to go.
        config.trials.budget_minutes = 0;
    })
    .await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    project(&test.app, "acme", None).await;
    execute(&test.app, "UPDATE control_plane.projects SET created_at = '2026-11-01T00:00:00Z'").await;
    let old = test.backup(export("acme")).await;
    clock.advance(Duration::days(1));
    test.backup(export("acme")).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let looking = async {
        counts(&test.app, 1, "SELECT count(*) FROM control_plane.upkeep WHERE task = 'retention'").await;
        clock.advance(Duration::days(25));
        counts(&test.app, 2, "SELECT count(*) FROM control_plane.backup_history WHERE event = 'expiring'").await;
        counts(&test.app, 1, "SELECT count(*) FROM control_plane.stale_projects WHERE project_id = 'acme'").await;
        assert_eq!(count(&test.app, "SELECT count(*) FROM control_plane.backups WHERE status = 'deleted'").await, 0);
        // Both have expired, and one stays.
        clock.advance(Duration::days(10));
        counts(&test.app, 1, "SELECT count(*) FROM control_plane.backups WHERE status = 'deleted'").await;
        stop.cancel();
    };
    tokio::join!(schedule::run(test.app.clone(), stop.clone()), looking);
    let (job, about): (Uuid, String) = sqlx::query_as(
        "SELECT id, payload #>> '{request,backup_id}' FROM control_plane.jobs WHERE type = 'delete_backup'",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert_eq!((about, test.run(JobId(job)).await.status.as_str()), (old.id.to_string(), "completed"));
}
