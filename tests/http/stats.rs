//! Sums, which triggers keep: whatever happens to the rows, they are what a look at every row would tell.

use holdfast::{
    auth::jwt::Claims,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};

use super::api::TestApi;

/// The sums as every row tells them, of these projects.
async fn counted(api: &TestApi, projects: &[&str]) -> Value {
    sqlx::query_scalar(
        "WITH b AS (SELECT * FROM control_plane.backups WHERE project_id = ANY($1)), good AS (SELECT * FROM b WHERE status = 'completed'),
              by_type AS (SELECT type, count(*) AS n, sum(size) AS bytes FROM good GROUP BY type)
         SELECT jsonb_build_object(
             'total_backups', (SELECT count(*) FROM good), 'total_size', (SELECT coalesce(sum(size), 0) FROM good),
             'by_type', (SELECT coalesce(jsonb_object_agg(type, n), '{}') FROM by_type),
             'size_by_type', (SELECT coalesce(jsonb_object_agg(type, bytes), '{}') FROM by_type),
             'by_status', (SELECT coalesce(jsonb_object_agg(status, n), '{}') FROM (SELECT status, count(*) AS n FROM b GROUP BY 1) s),
             'oldest', (SELECT to_char(min(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM good),
             'newest', (SELECT to_char(max(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM good),
             'expiring_soon', (SELECT count(*) FROM good WHERE expires_at >= $2 AND expires_at < $2 + interval '7 days'),
             'last_7_days', (SELECT count(*) FROM good WHERE created_at >= $2 - interval '7 days'),
             'last_30_days', (SELECT count(*) FROM good WHERE created_at >= $2 - interval '30 days'))",
    )
    .bind(projects.iter().map(|project| (*project).to_owned()).collect::<Vec<_>>())
    .bind(api.clock.now())
    .fetch_one(api.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn the_sums_are_what_every_row_would_tell_whatever_happens_to_the_rows() {
    let api = TestApi::new().await;
    let of = |role: Role, projects: &[&str], organization: Option<&str>| {
        api.token(&Claims {
            subject: "someone".to_owned(),
            permissions: Permission::ALL.to_vec(),
            project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
            organization_id: organization.map(str::to_owned),
            role,
        })
    };
    let both = ["acme", "globex"];
    let callers = [
        (of(Role::Operator, &[], None), "", &both[..]),
        (of(Role::Operator, &[], None), "?project_id=acme", &both[..1]),
        (of(Role::Member, &["acme"], None), "", &both[..1]),
        (of(Role::Member, &both, None), "", &both[..]),
        (of(Role::Member, &both, None), "?project_id=globex", &both[1..]),
        (of(Role::Member, &["acme"], None), "?project_id=globex", &[][..]),
        (of(Role::Member, &[], None), "", &[][..]),
        (of(Role::OrgAdmin, &[], Some("o-globex")), "", &both[1..]),
    ];
    for change in [
        "SELECT",
        // Two months, a row every six hours, of both projects, all types and several states.
        "INSERT INTO control_plane.backups (project_id, type, status, size, created_at, expires_at)
         SELECT (ARRAY['acme', 'globex'])[1 + n % 2], (ARRAY['database', 'logs', 'storage'])[1 + n % 3],
                (ARRAY['completed', 'completed', 'completed', 'failed', 'pending'])[1 + n % 5], n * 1000,
                timestamptz '2026-11-21 12:00Z' - n * interval '6 hours', timestamptz '2026-12-21 12:00Z' - n * interval '6 hours'
         FROM generate_series(0, 240) n",
        "UPDATE control_plane.backups SET status = 'completed', size = size + 7 WHERE status = 'pending'",
        "UPDATE control_plane.backups SET project_id = 'acme', type = 'logs' WHERE size % 7 = 0",
        "UPDATE control_plane.backups SET message = 'nothing that counts'",
        "UPDATE control_plane.backups SET status = 'expired' WHERE created_at < '2026-10-01'",
        "DELETE FROM control_plane.backups WHERE size % 3 = 0",
        "DELETE FROM control_plane.backups WHERE project_id = 'globex' AND status = 'completed'",
        "INSERT INTO control_plane.backups (project_id, type, status, size, created_at)
         VALUES ('globex', 'database', 'completed', 9000000000000000, '2026-11-21T11:00:00Z')",
        "TRUNCATE control_plane.backups CASCADE",
    ] {
        sqlx::query(change).execute(api.pool()).await.unwrap();
        for (token, query, projects) in &callers {
            let stats = api.get(token, &format!("/api/backup/stats{query}")).await.data(200);
            assert_eq!(stats, counted(&api, projects).await, "{projects:?} after {change}");
        }
    }
    let empty = api.get(&callers[0].0, "/api/backup/stats").await.data(200);
    assert_eq!((&empty["total_backups"], &empty["by_type"], &empty["oldest"]), (&json!(0), &json!({}), &Value::Null));
}
