//! Lists: pages, filters, and ids in paths.

use bytes::Bytes;
use holdfast::{
    ids::{BackupId, JobId},
    tenant::Permission,
};
use serde_json::{Value, json};

use super::api::TestApi;
use crate::ui::{operator, text, visit};

/// Reads a list to its end; every page but the last is full.
async fn read_all(api: &TestApi, token: &str, path: &str, limit: usize) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = match &cursor {
            None => format!("{path}limit={limit}"),
            Some(cursor) => format!("{path}limit={limit}&cursor={cursor}"),
        };
        let answer = api.get(token, &page).await;
        let rows = answer.data(200);
        let rows = rows.as_array().unwrap();
        ids.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        match answer.json()["next_cursor"].as_str() {
            Some(_) => assert_eq!(rows.len(), limit),
            None => return ids,
        }
        cursor = answer.json()["next_cursor"].as_str().map(str::to_owned);
    }
}

#[tokio::test]
async fn pages_have_no_gaps_and_no_repeats_when_many_rows_share_an_instant() {
    let api = TestApi::new().await;
    sqlx::query(
        "INSERT INTO control_plane.backups (id, project_id, type, created_at)
         SELECT gen_random_uuid(), 'acme', 'database', timestamptz '2026-11-01 00:00:00.123456+00' + (n / 20) * interval '1 microsecond'
         FROM generate_series(0, 59) n",
    )
    .execute(api.pool())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO control_plane.jobs (type, project_id, created_at)
         SELECT 'export_backup', 'acme', timestamptz '2026-11-01 00:00:00.5+00' FROM generate_series(1, 60)",
    )
    .execute(api.pool())
    .await
    .unwrap();
    let token = api.acme();
    for (path, table) in [("/api/backup?", "backups"), ("/api/jobs?project_id=acme&", "jobs")] {
        let sql = format!("SELECT id::text FROM control_plane.{table} ORDER BY created_at DESC, id DESC");
        let expected: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(api.pool()).await.unwrap();
        assert_eq!(expected.len(), 60);
        for limit in [1, 7, 20, 60, 200] {
            assert_eq!(read_all(&api, &token, path, limit).await, expected, "{path} by {limit}");
        }
    }
}

#[tokio::test]
async fn a_long_history_comes_in_pages_and_its_last_part_on_the_page_of_the_backup() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    sqlx::query(
        "INSERT INTO control_plane.backup_history (backup_id, project_id, event, actor, outcome)
         SELECT $1, 'acme', 'e' || n, 'someone', 'ok' FROM generate_series(1, 1001) n ORDER BY n",
    )
    .bind(id.0)
    .execute(api.pool())
    .await
    .unwrap();
    let token = api.acme();
    let path = format!("/api/backup/{id}/history");
    let all: Vec<String> = (1..=1001).map(|n| format!("e{n}")).collect();
    for (query, pages) in [("", 2), ("limit=400", 3), ("limit=1000", 2)] {
        let (mut told, mut cursor, mut seen) = (Vec::new(), String::new(), 0);
        loop {
            let answer = api.get(&token, &format!("{path}?{query}{cursor}")).await;
            let rows = answer.data(200);
            let events = rows.as_array().unwrap().iter().map(|row| row["event"].as_str().unwrap().to_owned());
            told.extend(events);
            seen += 1;
            let separator = if query.is_empty() { "" } else { "&" };
            match answer.json()["next_cursor"].as_str() {
                Some(next) => cursor = format!("{separator}cursor={next}"),
                None => break,
            }
        }
        assert_eq!((&told, seen), (&all, pages), "{query}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "cursor=x", "color=red"] {
        api.get(&token, &format!("{path}?{query}")).await.problem(422);
    }
    let stranger = api.member("globex", &[Permission::Read]);
    assert_eq!(api.get(&stranger, &format!("{path}?cursor=5")).await.problem(404), "backup.not_found");

    let cookie = operator(&api).await;
    let page = text(&api.send(visit(&format!("/backups/{id}"), Some(&cookie))).await);
    let is_listed = |n: u32| page.contains(&format!(">e{n}<"));
    assert!(is_listed(1001) && is_listed(802) && !is_listed(801), "{page}");
    assert!(page.contains(&format!("href=\"{path}\"")), "{page}");
}

#[tokio::test]
async fn lists_are_filtered() {
    let api = TestApi::new().await;
    let token = api.acme();
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    sqlx::query("UPDATE control_plane.backups SET created_at = '2026-11-20T00:00:00Z'")
        .execute(api.pool())
        .await
        .unwrap();
    for (query, found) in [
        ("", true),
        ("?project_id=acme", true),
        ("?project_id=globex", false),
        ("?project_id=%27%20OR%201%3D1--", false),
        ("?type=database", true),
        ("?type=logs", false),
        ("?status=completed", true),
        ("?status=failed", false),
        ("?created_after=2026-11-20T00:00:00Z", true),
        ("?created_after=2026-11-20T00:00:01Z", false),
        ("?created_before=2026-11-20T00:00:00Z", false),
        ("?created_before=2026-11-20T01:00:00%2B00:59", true),
        ("?expiring_within=7d", true),
        ("?expiring_within=71h", false),
        ("?limit=200", true),
    ] {
        let data = api.get(&token, &format!("/api/backup{query}")).await.data(200);
        let expected = if found { json!([id]) } else { json!([]) };
        let ids: Vec<&Value> = data.as_array().unwrap().iter().map(|row| &row["id"]).collect();
        assert_eq!(json!(ids), expected, "{query}");
    }
    let stats = api.get(&token, "/api/backup/stats").await.data(200);
    assert_eq!(
        (&stats["total_backups"], &stats["total_size"], &stats["expiring_soon"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(stats["by_type"], json!({ "database": 1 }));
}

#[tokio::test]
async fn queries_that_do_not_fit_are_refused() {
    let api = TestApi::new().await;
    let token = api.acme();
    for query in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "cursor=x",
        "cursor=",
        "cursor=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%00",
        "type=zip",
        "status=done",
        "created_after=yesterday",
        "created_after=%2B262000-01-01T00:00:00Z",
        "created_before=-0001-01-01T00:00:00Z",
        "created_after=2026-11-20T00:00:00Z&created_before=2026-11-19T00:00:00Z",
        "expiring_within=soon",
        "expiring_within=99999999999999d",
        "project_id=a%00b",
        "order_by=id",
    ] {
        api.get(&token, &format!("/api/backup?{query}")).await.problem(422);
    }
    for path in ["/api/jobs?limit=0", "/api/jobs?status=done", "/api/jobs?cursor=x", "/api/backup/stats?x=1"] {
        api.get(&token, path).await.problem(422);
    }
    let zero = "A".repeat(32);
    assert_eq!(api.get(&token, &format!("/api/backup?cursor={zero}")).await.data(200), json!([]));
}

#[tokio::test]
async fn ids_that_are_none_name_nothing() {
    let api = TestApi::new().await;
    let token = api.acme();
    let dots = "..".to_owned();
    for id in ["x", "1", "%00", "%FF", "%2e%2e%2fetc%2fpasswd", "latest", "' OR 1=1", &"a".repeat(5000), &dots] {
        let id = id.replace(' ', "%20");
        for path in
            [format!("/api/backup/{id}"), format!("/api/backup/{id}/download"), format!("/api/jobs/{id}/events")]
        {
            api.get(&token, &path).await.problem(404);
        }
        api.post(&token, &format!("/api/jobs/{id}/cancel"), json!({})).await.problem(404);
        api.post(&token, &format!("/api/backup/{id}/verify"), json!({})).await.problem(404);
    }
    assert_eq!(
        api.get(&token, &format!("/api/backup/{}", BackupId::generate())).await.problem(404),
        "backup.not_found"
    );
    assert_eq!(api.get(&token, &format!("/api/jobs/{}", JobId::generate())).await.problem(404), "job.not_found");
}
