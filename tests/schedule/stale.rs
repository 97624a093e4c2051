//! What is told when nothing happens: projects without a good backup, and backups that will expire.

use chrono::Duration;
use holdfast::{clock::Clock, demo::sample, history, jobs::request::Export, schedule};

use super::{
    at,
    support::app::{TestApp, everything, export},
};

async fn scene() -> (TestApp, Clock) {
    let mut test = TestApp::new().await;
    let clock = Clock::fixed(at("2026-11-21T02:00:00Z"));
    test.app.clock = clock.clone();
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    set(&test, "UPDATE control_plane.projects SET created_at = '2026-11-21T02:00:00Z'").await;
    (test, clock)
}

async fn set(test: &TestApp, sql: &'static str) {
    sqlx::query(sql).execute(&test.app.pool).await.unwrap();
}

/// Several processes look at the same time.
async fn look(test: &TestApp) {
    let looks = (0..4).map(|_| schedule::look_for_stale(&test.app));
    for looked in futures::future::join_all(looks).await {
        looked.unwrap();
    }
}

async fn stale(test: &TestApp) -> Vec<String> {
    history::stale_projects(&test.app.pool, &everything())
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.project_id)
        .collect()
}

async fn events(test: &TestApp, event: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM control_plane.backup_history WHERE event = $1")
        .bind(event)
        .fetch_one(&test.app.pool)
        .await
        .unwrap()
}

async fn notices(test: &TestApp, event: &str) -> Vec<(String, String)> {
    sqlx::query_as("SELECT channel, recipient FROM control_plane.notices WHERE event = $1 ORDER BY id")
        .bind(event)
        .fetch_all(&test.app.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_project_without_a_good_backup_is_called_stale_once_and_no_longer_when_there_is_one() {
    let (test, clock) = scene().await;
    let mail = Export { notify_email: Some("ops@example.com".to_owned()), ..export("acme") };
    // 24 hours and the window of two.
    clock.advance(Duration::hours(26));
    look(&test).await;
    assert!(stale(&test).await.is_empty());
    clock.advance(Duration::seconds(1));
    look(&test).await;
    look(&test).await;
    assert_eq!(stale(&test).await, ["acme"]);
    assert_eq!((events(&test, "stale").await, notices(&test, "stale").await.len()), (1, 0));

    let backup = test.backup(mail).await;
    look(&test).await;
    assert!(stale(&test).await.is_empty());
    assert_eq!(events(&test, "stale_ended").await, 1);

    // A second episode, with an address from the request. Failed, partial and incomplete backups end nothing.
    clock.advance(Duration::hours(27));
    look(&test).await;
    look(&test).await;
    assert_eq!(stale(&test).await, ["acme"]);
    assert_eq!(
        (events(&test, "stale").await, notices(&test, "stale").await),
        (2, vec![("email".to_owned(), "ops@example.com".to_owned())])
    );
    let newer = test.backup(export("acme")).await;
    assert!(newer.created_at > backup.created_at);
    for poor in ["status = 'failed'", "is_partial = true", "required_copies = 2"] {
        let sql = format!(
            "UPDATE control_plane.backups SET {poor} WHERE created_at = (SELECT max(created_at) FROM control_plane.backups)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&test.app.pool).await.unwrap();
        look(&test).await;
        assert_eq!(stale(&test).await, ["acme"], "{poor}");
        set(&test, "UPDATE control_plane.backups SET status = 'completed', is_partial = false, required_copies = 1")
            .await;
    }
    look(&test).await;
    assert!(stale(&test).await.is_empty());
}

#[tokio::test]
async fn a_projects_own_age_counts_and_one_that_is_not_active_is_not_called_stale() {
    let (test, clock) = scene().await;
    set(&test, "UPDATE control_plane.projects SET settings = '{\"allowed_age_hours\": 200}'").await;
    clock.advance(Duration::hours(199));
    look(&test).await;
    assert!(stale(&test).await.is_empty());
    clock.advance(Duration::hours(2));
    look(&test).await;
    assert_eq!(stale(&test).await, ["acme"]);
    set(&test, "UPDATE control_plane.projects SET status = 'SUSPENDED'").await;
    look(&test).await;
    assert!(stale(&test).await.is_empty());
    set(&test, "UPDATE control_plane.projects SET status = 'ACTIVE', settings = '{\"allowed_age_hours\": 0}'").await;
    look(&test).await;
    assert!(stale(&test).await.is_empty(), "0: whatever its age");
}

#[tokio::test]
async fn a_backup_is_announced_once_a_week_before_it_expires() {
    let (test, clock) = scene().await;
    let mail = Export { notify_email: Some("ops@example.com".to_owned()), ..export("acme") };
    let long = test.backup(mail.clone()).await;
    let short = test.backup(Export { expires_at: Some(clock.now() + Duration::days(5)), ..mail.clone() }).await;
    let pinned = test.backup(mail).await;
    sqlx::query("UPDATE control_plane.backups SET pinned = true WHERE id = $1")
        .bind(pinned.id)
        .execute(&test.app.pool)
        .await
        .unwrap();
    let announce = async || {
        let announced = futures::future::join_all((0..4).map(|_| schedule::announce(&test.app))).await;
        announced.into_iter().map(Result::unwrap).sum::<usize>()
    };
    assert_eq!(announce().await, 0, "{} is not announced: its whole life is shorter than the warning", short.id);
    clock.advance(Duration::days(23) - Duration::seconds(1));
    assert_eq!(announce().await, 0);
    clock.advance(Duration::seconds(1));
    assert_eq!(announce().await, 1);
    assert_eq!(announce().await, 0);
    clock.advance(Duration::days(3));
    assert_eq!(announce().await, 0);
    let about: Vec<(uuid::Uuid, String)> =
        sqlx::query_as("SELECT backup_id, recipient FROM control_plane.notices WHERE event = 'expiring'")
            .fetch_all(&test.app.pool)
            .await
            .unwrap();
    assert_eq!(about, [(long.id, "ops@example.com".to_owned())]);
    let told = history::events(&test.app.pool, &everything(), long.backup_id()).await.unwrap();
    assert_eq!(told.iter().filter(|event| event.event == "expiring").count(), 1);
}
