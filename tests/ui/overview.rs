//! The first page answers "am I safe?": each word of it, and none of it for another tenant.

use bytes::Bytes;
use holdfast::tenant::Role;

use super::{form, operator, session, text, visit};
use crate::api::TestApi;

/// Says that the newest good backup is of three hours ago, and that one failed yesterday. The clock stands at 2026-11-21 12:00 UTC.
const HISTORY: &str = "
UPDATE control_plane.backups SET status = 'in_progress';
UPDATE control_plane.backups SET status = 'completed', created_at = '2026-11-21T09:00:00Z', started_at = '2026-11-21T09:00:00Z', finished_at = '2026-11-21T09:01:37Z',
    expires_at = '2026-11-24T12:00:00Z', verified_at = '2026-11-20T12:00:00Z', verified_depth = 'restore', proved_at = '2026-11-20T12:00:00Z',
    tried_at = '2026-11-20T12:00:00Z', recovery_seconds = 250, differences = '[]';
INSERT INTO control_plane.backups (id, project_id, type, status, message, created_at, backup_type)
VALUES (gen_random_uuid(), 'acme', 'database', 'failed', 'no room left', '2026-11-20T09:00:00Z', 'scheduled');
INSERT INTO control_plane.jobs (id, type, status, project_id, error_message, created_by, created_at, finished_at)
VALUES (gen_random_uuid(), 'export_backup', 'failed', 'acme', 'no room left <b>', 'someone', '2026-11-20T09:00:00Z', '2026-11-20T09:00:09Z');
UPDATE control_plane.projects SET created_at = '2026-01-01T00:00:00Z';
";

#[tokio::test]
async fn the_overview_says_what_is_safe_what_failed_what_goes_and_what_is_kept_where() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let id = api.stored_backup("acme", &Bytes::from(vec![b'x'; 2048]), &["first", "second"]).await;
    sqlx::raw_sql(HISTORY).execute(api.pool()).await.unwrap();
    let nightly = [("project_id", "acme"), ("cron", "0 3 * * *"), ("zone", "UTC"), ("jitter_minutes", "0")];
    assert_eq!(api.send(form("/schedules/new", &nightly, Some(&cookie))).await.status, 303);
    let page = text(&api.send(visit("/", Some(&cookie))).await);
    for said in [
        // globex has nothing.
        "1 of 2 projects is not safe",
        // The last good backup, its age against what is allowed, the last proof and the recovery time, the next run.
        &format!(
            "<a href=\"/backups/{id}\"><time datetime=\"2026-11-21T09:00:00Z\" title=\"2026-11-21 09:00:00 UTC\">3 h ago</time></a> <span class=\"faint\">/ 26 h</span>"
        ),
        "24 h ago</time> <span class=\"faint\">restore</span>",
        "title=\"250.000 seconds, measured at 2026-11-20 12:00:00 UTC\">4 min 10 s</span>",
        "title=\"2026-11-22 03:00:00 UTC\">in 15 h</time>",
        "title=\"97.000 seconds\">1 min 37 s</span>",
        // What failed and why; what expires.
        "no room left &#60;b&#62;",
        "href=\"/backups?expires=7d\"",
        "in 3 days</time>",
        // What each storage keeps, by type.
        "<bdi class=\"strong\">first</bdi>",
        "<bdi class=\"strong\">second</bdi>",
        "<bdi>database</bdi> <span class=\"num\" title=\"2,048 bytes\">2 KiB</span> in 1 copy",
        // Ninety days, as a calendar, charts and numbers.
        "2026-11-21: 1 backup</title>",
        "2026-11-20: 0 backups, 1 failed</title>",
        "data-plot=\"bytes\"",
        "data-plot=\"seconds\"",
        "The same in numbers",
    ] {
        assert!(page.contains(said), "{said}: {page}");
    }
    assert_eq!(page.matches("<rect").count(), 90);
    // What has expired and gone since was taken all the same; what was found damaged counts among the failed ones until it is good again.
    let days = async || {
        let since = "2026-08-24".parse().unwrap();
        let days =
            holdfast::history::days(api.pool(), &crate::support::app::everything(), Some("acme"), since).await.unwrap();
        days.iter().map(|d| (d.day.to_string(), d.completed, d.failed, d.bytes, d.seconds)).collect::<Vec<_>>()
    };
    let before = days().await;
    let failed = ("2026-11-20".to_owned(), 0, 1, 0, None);
    assert_eq!(before, [failed.clone(), ("2026-11-21".to_owned(), 1, 0, 2048, Some(97.0))]);
    let set = async |sql: &'static str| sqlx::query(sql).bind(id.0).execute(api.pool()).await.unwrap();
    set("UPDATE control_plane.backups SET status = 'damaged' WHERE id = $1").await;
    assert_eq!(days().await, [failed, ("2026-11-21".to_owned(), 0, 1, 0, None)]);
    set("UPDATE control_plane.backups SET status = 'completed' WHERE id = $1").await;
    assert_eq!(days().await, before);
    set("UPDATE control_plane.backups SET status = 'deleted' WHERE id = $1").await;
    assert_eq!(days().await, before);
    set("UPDATE control_plane.backups SET status = 'completed' WHERE id = $1").await;
    assert_eq!(days().await, before);
    let soon = text(&api.send(visit("/backups?expires=7d", Some(&cookie))).await);
    assert!(soon.contains(&format!("/backups/{id}")) && soon.contains("value=\"7d\" selected"), "{soon}");
    let later = text(&api.send(visit("/backups?expires=1d", Some(&cookie))).await);
    assert!(!later.contains(&format!("/backups/{id}")), "{later}");
    // Another tenant's member sees none of it.
    api.user("gina", Role::Member, None, &["globex"]).await;
    let member = session(&api, "gina").await;
    let page = text(&api.send(visit("/", Some(&member))).await);
    assert!(page.contains("1 of 1 projects is not safe") && page.contains("globex"), "{page}");
    for hidden in ["acme", "no room", "<bdi class=\"strong\">second", "2 KiB", "1 failed"] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
}

#[tokio::test]
async fn the_days_of_everything_are_the_sum_of_each_projects_whatever_happens_to_the_rows() {
    let api = TestApi::new().await;
    let look = async |project: Option<&str>| {
        let since = "2026-08-24".parse().unwrap();
        let everything = crate::support::app::everything();
        let days = holdfast::history::days(api.pool(), &everything, project, since).await.unwrap();
        days.into_iter().map(|d| (d.day.to_string(), [d.completed, d.failed, d.bytes], d.seconds)).collect::<Vec<_>>()
    };
    let is_the_sum = async || {
        let mut sum = std::collections::BTreeMap::<String, [i64; 3]>::new();
        for project in ["acme", "globex"] {
            for (day, numbers, _) in look(Some(project)).await {
                let all = sum.entry(day).or_default();
                (0..3).for_each(|at| all[at] += numbers[at]);
            }
        }
        let all = look(None).await;
        assert_eq!(
            all.iter().map(|(day, numbers, _)| (day.clone(), *numbers)).collect::<Vec<_>>(),
            Vec::from_iter(sum)
        );
        all
    };
    let rows =
        async || api.count("SELECT count(*) FROM control_plane.backup_day_totals WHERE completed + failed <> 0").await;
    is_the_sum().await;
    let many = "INSERT INTO control_plane.backups (id, project_id, type, status, size, created_at, started_at, finished_at)
        SELECT gen_random_uuid(), (ARRAY['acme', 'globex'])[1 + n % 2], 'database', (ARRAY['completed', 'failed', 'in_progress'])[1 + n % 3], n * 1000,
               t, t, t + interval '10 seconds' FROM generate_series(1, 60) n, LATERAL (SELECT timestamptz '2026-11-01T00:00:00Z' + n * interval '5 hours' AS t) t";
    for sql in [
        many,
        "UPDATE control_plane.backups SET status = 'completed' WHERE status = 'in_progress'",
        "UPDATE control_plane.backups SET status = 'damaged' WHERE size = 12000",
        "UPDATE control_plane.backups SET project_id = 'globex', size = 5 WHERE size = 24000",
        "UPDATE control_plane.backups SET status = 'deleted' WHERE size = 36000",
        "DELETE FROM control_plane.backups WHERE size = 36000",
        "DELETE FROM control_plane.backup_days WHERE project_id = 'globex' AND day = '2026-11-05'",
    ] {
        sqlx::query(sql).execute(api.pool()).await.unwrap();
        is_the_sum().await;
    }
    let (before, parts) = (is_the_sum().await, rows().await);
    assert!(before.iter().any(|(_, _, seconds)| *seconds == Some(10.0)), "{before:?}");
    // Two that do it at once count nothing twice.
    let merge = || holdfast::history::merge_day_totals(api.pool());
    let (one, other) = tokio::join!(merge(), merge());
    one.and(other).unwrap();
    assert_eq!(is_the_sum().await, before);
    assert!(rows().await < parts && rows().await <= before.len() as i64, "{} of {parts}", rows().await);
    sqlx::query("UPDATE control_plane.backups SET status = 'completed' WHERE size = 12000")
        .execute(api.pool())
        .await
        .unwrap();
    sqlx::query("DELETE FROM control_plane.backups WHERE created_at < '2026-11-20' AND size % 1000 = 0")
        .execute(api.pool())
        .await
        .unwrap();
    is_the_sum().await;
}
