//! What is told of what really happens: each event once, with the facts.

use holdfast::{
    demo::sample,
    history,
    jobs::request::{self, Depth, VerifyRequest},
    schedule,
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::Scene;
use crate::support::app::{caller, export};

/// Event, job's type and payload of each notice, oldest first.
async fn told(scene: &Scene) -> Vec<(String, String, Value)> {
    let rows: Vec<(String, Value)> = sqlx::query_as("SELECT event, payload FROM control_plane.notices ORDER BY id")
        .fetch_all(&scene.test.app.pool)
        .await
        .unwrap();
    rows.into_iter()
        .map(|(event, payload)| (event, payload["job"]["type"].as_str().unwrap_or_default().to_owned(), payload))
        .collect()
}

async fn forget(scene: &Scene) {
    scene.test.app.pool.execute("DELETE FROM control_plane.notices").await.unwrap();
}

#[tokio::test]
async fn every_event_is_told_once_with_its_facts() {
    let scene = Scene::with(|_| {}).await;
    let test = &scene.test;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    let mail = json!({ "type": "email", "to": ["ops@example.com"] });
    scene.channel("own", Some("acme"), mail).await;

    let backup = test.backup(export("acme")).await;
    let heard = told(&scene).await;
    let words: Vec<(&str, &str)> = heard.iter().map(|(event, job, _)| (event.as_str(), job.as_str())).collect();
    assert_eq!(words, [("started", "export_backup"), ("completed", "export_backup")]);
    let facts = &heard[1].2;
    assert_eq!(facts["project"], json!({ "id": "acme", "name": "acme" }));
    assert_eq!((&facts["backup"]["id"], &facts["backup"]["size"]), (&json!(backup.id), &json!(backup.size)));
    assert!(facts["backup"]["expires_at"].is_string() && facts["backup"]["duration_seconds"].is_u64(), "{facts}");
    assert_eq!(facts["backup"]["copies_missing"], 0);
    forget(&scene).await;

    let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Read };
    let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
    test.run(job.job_id()).await;
    let heard = told(&scene).await;
    assert_eq!((heard.len(), heard[0].0.as_str()), (1, "verified"));
    let facts = &heard[0].2["verification"];
    assert_eq!((&facts["depth"], &facts["outcome"]), (&json!("read"), &json!("verified")));
    forget(&scene).await;

    test.restore(&backup).await;
    let heard = told(&scene).await;
    let words: Vec<(&str, &str)> = heard.iter().map(|(event, job, _)| (event.as_str(), job.as_str())).collect();
    assert_eq!(words, [("started", "restore_backup"), ("restored", "restore_backup")]);
    let facts = &heard[1].2["restore"];
    assert_eq!((&facts["outcome"], facts["undo_until"].is_string()), (&json!("verified"), true));
    forget(&scene).await;

    // One that never began is told as cancelled, and not as started.
    let queued = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
    request::cancel(&test.app, &caller(), queued.job_id()).await.unwrap();
    let heard = told(&scene).await;
    assert_eq!((heard.len(), heard[0].0.as_str()), (1, "cancelled"));
    forget(&scene).await;

    sqlx::query(
        "UPDATE control_plane.backups SET expires_at = $1, created_at = created_at - interval '30 days' WHERE id = $2",
    )
    .bind(test.app.clock.now() + chrono::Duration::days(5))
    .bind(backup.id)
    .execute(&test.app.pool)
    .await
    .unwrap();
    schedule::announce(&test.app).await.unwrap();
    schedule::announce(&test.app).await.unwrap();
    let heard = told(&scene).await;
    assert_eq!((heard.len(), heard[0].0.as_str()), (1, "expiring"));
    assert!(heard[0].2["hint"].as_str().unwrap().contains(&format!("holdfast pin {}", backup.id)));
    forget(&scene).await;

    test.app.pool.execute("UPDATE control_plane.projects SET created_at = '2026-01-01'").await.unwrap();
    test.app.pool.execute("UPDATE control_plane.backups SET status = 'damaged'").await.unwrap();
    schedule::look_for_stale(&test.app).await.unwrap();
    schedule::look_for_stale(&test.app).await.unwrap();
    let heard = told(&scene).await;
    assert_eq!((heard.len(), heard[0].0.as_str()), (1, "stale"));
    assert_eq!(heard[0].2["stale"], json!({ "last_good_at": null, "allowed_seconds": 26 * 3_600 }));
    forget(&scene).await;

    test.tenants().await.execute("DROP SCHEMA tenant_acme CASCADE").await.unwrap();
    let job = test.back_up(export("acme")).await;
    let heard = told(&scene).await;
    let words: Vec<&str> = heard.iter().map(|(event, ..)| event.as_str()).collect();
    assert_eq!(words, ["started", "failed"]);
    let facts = &heard[1].2;
    assert_eq!(facts["message"], json!(history::without_endpoints(&job.error_message.unwrap())));
    assert!(facts["hint"].as_str().unwrap().ends_with('.'), "{facts}");
}
