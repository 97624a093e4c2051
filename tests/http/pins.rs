//! Pins: what is pinned is kept, and says so everywhere.

use bytes::Bytes;
use holdfast::{ids::BackupId, tenant::Permission};
use serde_json::{Value, json};

use super::api::TestApi;

#[tokio::test]
async fn a_pinned_backup_is_shown_so_and_cannot_be_deleted_until_it_is_unpinned() {
    let api = TestApi::new().await;
    let token = api.acme();
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let path = format!("/api/backup/{id}");
    assert_eq!(api.get(&token, &path).await.data(200)["pinned"], false);
    for _ in 0..2 {
        let pinned = api.post(&token, &format!("{path}/pin"), Value::Null).await.data(200);
        assert_eq!((&pinned["id"], &pinned["pinned"]), (&json!(id), &json!(true)));
    }
    assert_eq!(api.get(&token, &path).await.data(200)["pinned"], true);
    assert_eq!(api.get(&token, "/api/backup").await.data(200)[0]["pinned"], true);
    assert_eq!(api.delete(&token, &path).await.problem(409), "backup.pinned");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.jobs").await, 0);

    for _ in 0..2 {
        assert_eq!(api.post(&token, &format!("{path}/unpin"), Value::Null).await.data(200)["pinned"], false);
    }
    let events = api.get(&token, &format!("{path}/history")).await.data(200);
    let told: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        told,
        ["pinned", "refused", "unpinned"],
        "what was so already leaves no event, and the refused deletion one"
    );
    assert_eq!(events[0]["actor"], "member of acme");

    api.delete(&token, &path).await.data(202);
    for action in ["pin", "unpin"] {
        assert_eq!(api.post(&token, &format!("{path}/{action}"), Value::Null).await.problem(409), "backup.deleted");
    }
}

#[tokio::test]
async fn a_pin_of_nothing_or_of_anothers_is_not_found() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let mallory = api.member("globex", Permission::ALL);
    for id in [id.to_string(), BackupId::generate().to_string(), "x".to_owned()] {
        for action in ["pin", "unpin"] {
            let path = format!("/api/backup/{id}/{action}");
            assert_eq!(api.post(&mallory, &path, Value::Null).await.problem(404), "backup.not_found");
        }
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.backups WHERE pinned").await, 0);
    assert_eq!(api.audit().await, []);
}
