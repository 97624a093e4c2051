//! Plain names carry no id, so two backups may want the same one: neither is ever overwritten or cleared away for the other.

use axum::http::Method;
use holdfast::config::{LocalStorageConfig, StorageConfig};
use serde_json::json;

use super::scene::Scene;

/// Another installation that keeps its backups in the same place.
async fn beside(first: &Scene) -> Scene {
    let root = first.stored("");
    Scene::with(|config| {
        config.worker.max_attempts = 1;
        config.storages.insert("local".to_owned(), StorageConfig::Local(LocalStorageConfig::new(root)));
    })
    .await
}

#[tokio::test]
async fn two_backups_of_one_second_have_two_names() {
    let scene = Scene::new().await;
    let (first, second) = (scene.take(json!({})).await, scene.take(json!({})).await);
    assert_eq!(first["file_name"], "backup-2026-11-21-120000.sql");
    let name = second["file_name"].as_str().unwrap();
    assert_eq!(name.len(), "backup-2026-11-21-120000-0123456789ab.sql".len());
    assert_eq!(scene.test.stored_files().len(), 4);
    scene.later();
    assert_eq!(scene.take(json!({})).await["file_name"], "backup-2026-11-21-120001.sql");
}

#[tokio::test]
async fn another_installations_backup_of_the_same_name_stays_and_this_one_gets_its_id() {
    let first = Scene::new().await;
    first.take(json!({})).await;
    let files = first.test.stored_files();
    let bytes = std::fs::read(&files[0]).unwrap();
    let second = beside(&first).await;
    let taken = second.take(json!({})).await;
    assert!(taken["file_name"].as_str().unwrap().starts_with("backup-2026-11-21-120000-"), "{taken}");
    assert_eq!(first.test.stored_files().len(), 4);
    assert_eq!(std::fs::read(&files[0]).unwrap(), bytes);
}

#[tokio::test]
async fn a_backup_that_fails_clears_nothing_of_another_installation_away() {
    let first = Scene::new().await;
    first.take(json!({})).await;
    let files = first.test.stored_files();
    let second = beside(&first).await;
    // A name that was free when it was chosen, and is taken when the attempt ends.
    let answer = second.send(Method::POST, "/backup", None).await;
    sqlx::query("UPDATE control_plane.projects SET status = 'PAUSED'").execute(&second.test.app.pool).await.unwrap();
    second.work().await;
    let failed = second.get(&format!("/backup/{}", answer.json()["id"])).await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(first.test.stored_files(), files);
}

#[tokio::test]
async fn an_artifact_without_a_manifest_is_left_to_whoever_is_writing_it() {
    let scene = Scene::new().await;
    let path = scene.stored("backups/backup-2026-11-21-120000.sql");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "half of another's").unwrap();
    let taken = scene.take(json!({})).await;
    assert!(taken["file_name"].as_str().unwrap().starts_with("backup-2026-11-21-120000-"), "{taken}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "half of another's");
}

#[tokio::test]
async fn deleting_a_failed_backup_leaves_what_another_installation_has_stored_under_its_name() {
    let first = Scene::new().await;
    let second = beside(&first).await;
    let answer = second.send(Method::POST, "/backup", None).await;
    sqlx::query("UPDATE control_plane.projects SET status = 'PAUSED'").execute(&second.test.app.pool).await.unwrap();
    second.work().await;
    let failed = second.get(&format!("/backup/{}", answer.json()["id"])).await;
    assert_eq!((&failed["status"], &failed["file_name"]), (&json!("failed"), &json!("backup-2026-11-21-120000.sql")));
    // The name was free, and is another's by now.
    assert_eq!(first.take(json!({})).await["file_name"], failed["file_name"]);
    let files = first.test.stored_files();
    let listed = second.send(Method::GET, "/api/backup", None).await.data(200);
    let path = format!("/api/backup/{}", listed[0]["id"].as_str().unwrap());
    second.send(Method::DELETE, &path, None).await.data(202);
    second.work().await;
    assert_eq!(second.send(Method::GET, &path, None).await.problem(404), "backup.not_found");
    assert_eq!(first.test.stored_files(), files);
}
