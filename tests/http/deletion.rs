//! Deleting a backup by the API, and what is told of it afterwards.

use axum::http::Method;
use bytes::Bytes;
use holdfast::{
    auth::jwt::Claims,
    jobs::worker,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{Answer, TestApi, request};

async fn delete(api: &TestApi, path: &str) -> Answer {
    api.send(request(Method::DELETE, path, Some(&api.acme()), None)).await
}

#[tokio::test]
async fn a_deleted_backup_is_out_of_use_at_once_and_its_events_stay() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first", "second"]).await;
    let path = format!("/api/backup/{id}");
    let answer = delete(&api, &path).await;
    let accepted = answer.data(202);
    assert_eq!((&accepted["status"], &accepted["backup_id"]), (&json!("pending"), &json!(id)));
    let job = accepted["job_id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/jobs/{job}"));
    assert_eq!(delete(&api, &path).await.data(202)["job_id"], json!(job), "the same job");

    let token = api.acme();
    assert_eq!(api.get(&token, &path).await.data(200)["status"], "deleted");
    assert_eq!(api.get(&token, "/api/backup").await.data(200), json!([]));
    assert_eq!(api.get(&token, "/api/backup?status=deleted").await.data(200)[0]["id"], json!(id));
    assert_eq!(api.get(&token, &format!("{path}/download")).await.problem(409), "backup.not_completed");
    let restore = json!({ "backup_id": id, "confirm": true });
    assert_eq!(api.post(&token, "/api/backup/restore", restore).await.problem(409), "backup.not_completed");

    worker::run_until_final(&api.app, job.parse().unwrap(), CancellationToken::new()).await.unwrap();
    let ended = api.get(&token, &format!("/api/jobs/{job}")).await.data(200);
    assert_eq!((&ended["status"], &ended["result"]["deleted"]), (&json!("completed"), &json!(["first", "second"])));
    assert_eq!(api.get(&token, &path).await.problem(404), "backup.not_found");
    assert_eq!(delete(&api, &path).await.problem(404), "backup.not_found");

    // Refusals are events too: what could not be downloaded or restored.
    let of_deletion = |mut events: Value| {
        events.as_array_mut().unwrap().retain(|event| event["outcome"] != "refused");
        events
    };
    let events = of_deletion(api.get(&token, &format!("{path}/history")).await.data(200));
    let names: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["delete_requested", "deleted"]);
    assert_eq!(events[1]["detail"]["backup"]["id"], json!(id));
    assert!(!events.to_string().contains("locator"), "where things were is for operators: {events}");
    let operator = Claims {
        subject: "dave".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    };
    let told = of_deletion(api.get(&api.token(&operator), &format!("{path}/history")).await.data(200));
    assert!(told[1]["detail"]["copies"][0]["locator"]["key"].is_string(), "{told}");
    let stranger = api.member("globex", Permission::ALL);
    assert_eq!(api.get(&stranger, &format!("{path}/history")).await.problem(404), "backup.not_found");
}

#[tokio::test]
async fn a_pinned_or_unfinished_backup_is_not_deleted() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    for (sql, code) in [
        ("UPDATE control_plane.backups SET pinned = true", "backup.pinned"),
        ("UPDATE control_plane.backups SET pinned = false, status = 'in_progress'", "backup.unfinished"),
    ] {
        sqlx::query(sql).execute(api.pool()).await.unwrap();
        let answer = delete(&api, &format!("/api/backup/{id}")).await;
        assert_eq!(answer.problem(409), code);
        assert!(answer.json()["hint"].is_string());
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 0);
    assert!(api.audit().await.is_empty());
}

#[tokio::test]
async fn chats_and_their_messages_are_told_to_operators_alone() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["channel"]).await;
    let path = format!("/api/backup/{id}");
    let job = delete(&api, &path).await.data(202)["job_id"].as_str().unwrap().to_owned();
    let remains = "messages 12–15, 17 of chat -1001234567890";
    sqlx::query("UPDATE control_plane.backup_copies SET message = $1").bind(remains).execute(api.pool()).await.unwrap();
    sqlx::query("UPDATE control_plane.jobs SET error_message = $1, result = jsonb_build_object('remains', jsonb_build_array($1))")
        .bind(remains)
        .execute(api.pool())
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO control_plane.project_logs (project_id, level, message, metadata)
         VALUES ('acme', 'info', $1, jsonb_build_object('source', 'holdfast', 'job_id', $2::text))",
    )
    .bind(remains)
    .bind(&job)
    .execute(api.pool())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO control_plane.backup_history (backup_id, project_id, event, actor, outcome, detail)
         VALUES ($1::text::uuid, 'acme', 'deleted', 'dave', 'ok',
                 jsonb_build_object('remains', $2::text, 'backup', jsonb_build_object('manifest', jsonb_build_object('large', true))))",
    )
    .bind(id.to_string())
    .bind(remains)
    .execute(api.pool())
    .await
    .unwrap();
    let operator = Claims {
        subject: "dave".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    };
    for place in [path.clone(), format!("{path}/history"), format!("/api/jobs/{job}"), format!("/api/jobs/{job}/logs")]
    {
        let told = api.get(&api.token(&operator), &place).await.data(200).to_string();
        assert!(told.contains(remains), "{place}: {told}");
        assert!(!told.contains("manifest\":{"), "{place}: {told}");
        let told = api.get(&api.acme(), &place).await.data(200).to_string();
        assert!(told.contains("messages [hidden], [hidden] of chat [hidden]"), "{place}: {told}");
        assert!(!told.contains("1234567890") && !told.contains("12–15"), "{place}: {told}");
    }
}
