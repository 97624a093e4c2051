//! The single-database family, and the control plane as a project.

mod control_plane;
mod names;
mod public_view;
mod scene;

use crate::{api, support};

use axum::http::Method;
use holdfast::{
    artifact::{Compression, Format},
    demo::sample,
    jobs::{
        catalog::{Adopt, Rebuild, sweep},
        request::Export,
    },
    tenant::{Permission, Role},
};
use scene::Scene;
use serde_json::{Value, json};
use sqlx::Executor;
use support::app::caller;

const COLUMNS: [&str; 11] = [
    "backup_type",
    "created_at",
    "created_by",
    "file_name",
    "file_size",
    "id",
    "message",
    "s3_bucket",
    "s3_region",
    "s3_url",
    "status",
];

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn the_database_is_backed_up_as_a_whole_and_its_record_answers_bare() {
    let scene = Scene::new().await;
    sample::create_tenant(&mut scene.test.tenants().await, "tenant_acme", 1).await.unwrap();
    let answer = scene.send(Method::POST, "/backup", None).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let taken = answer.json();
    assert_eq!(keys(&taken), COLUMNS);
    assert_eq!(
        (&taken["status"], &taken["backup_type"], &taken["message"]),
        (&json!("pending"), &json!("manual"), &Value::Null)
    );
    assert_eq!((&taken["created_by"], &taken["s3_url"]), (&json!("ada"), &Value::Null));
    let path = format!("/backup/{}", taken["id"].as_i64().unwrap());
    assert_eq!(answer.headers["location"], path);
    assert_eq!(scene.send(Method::GET, "/backup/latest", None).await.problem(404), "backup.not_found");

    scene.work().await;
    let done = scene.get(&path).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["file_name"], "backup-2026-11-21-120000.sql");
    assert_eq!(scene.test.stored_files()[0], scene.stored("backups/backup-2026-11-21-120000.sql"));
    let dump = std::fs::read_to_string(scene.stored("backups/backup-2026-11-21-120000.sql")).unwrap();
    assert_eq!(done["file_size"].as_u64().unwrap() as usize, dump.len());
    assert!(dump.contains("CREATE SCHEMA tenant_acme") && !dump.contains("CREATE SCHEMA control_plane"));
    assert_eq!(scene.get("/backup/latest").await, done);
    assert_eq!(scene.get("/backup").await, json!([done]));
    let viewed: Vec<(i32, String, i64, String)> =
        sqlx::query_as("SELECT id, file_name, file_size, status FROM public.backups")
            .fetch_all(&scene.test.app.pool)
            .await
            .unwrap();
    let id = done["id"].as_i64().unwrap() as i32;
    assert_eq!(viewed, [(id, "backup-2026-11-21-120000.sql".to_owned(), dump.len() as i64, "completed".to_owned())]);
}

#[tokio::test]
async fn a_failed_backup_says_why_and_is_not_the_latest() {
    let scene = Scene::new().await;
    let good = scene.take(json!({})).await;
    scene.later();
    let job = scene.send(Method::POST, "/backup", Some(json!({ "storages": ["local"], "format": "tar" }))).await.json();
    sqlx::query("UPDATE control_plane.projects SET status = 'PAUSED' WHERE id = 'holdfast-default'")
        .execute(&scene.test.app.pool)
        .await
        .unwrap();
    scene.work().await;
    let failed = scene.get(&format!("/backup/{}", job["id"])).await;
    assert_eq!(failed["status"], "failed");
    assert!(failed["message"].as_str().unwrap().contains("PAUSED"), "{failed}");
    assert_eq!(scene.get("/backup/latest").await["id"], good["id"]);
    let listed = scene.get("/backup").await;
    let ids = |list: &Value| list.as_array().unwrap().iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&listed), [failed["id"].clone(), good["id"].clone()], "newest first");
    assert_eq!(ids(&scene.get(&format!("/backup?before={}", failed["id"])).await), [good["id"].clone()]);
    assert_eq!(ids(&scene.get("/backup?limit=1").await), [failed["id"].clone()]);
}

#[tokio::test]
async fn the_latest_is_whole_and_has_its_copies_where_one_does() {
    let scene = Scene::new().await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.push(scene.take(json!({})).await["id"].clone());
        scene.later();
    }
    assert_eq!(scene.get("/backup/latest").await["id"], taken[1]);
    for poor in ["is_partial = true", "manifest = NULL", "required_copies = 2"] {
        let sql = format!("UPDATE control_plane.backups SET {poor} WHERE number = {}", taken[1]);
        let before: (bool, Option<Value>, i32) =
            sqlx::query_as("SELECT is_partial, manifest, required_copies FROM control_plane.backups WHERE number = $1")
                .bind(taken[1].as_i64().unwrap() as i32)
                .fetch_one(&scene.test.app.pool)
                .await
                .unwrap();
        scene.test.app.pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        assert_eq!(scene.get("/backup/latest").await["id"], taken[0], "{poor}");
        sqlx::query(
            "UPDATE control_plane.backups SET is_partial = $2, manifest = $3, required_copies = $4 WHERE number = $1",
        )
        .bind(taken[1].as_i64().unwrap() as i32)
        .bind(before.0)
        .bind(before.1)
        .bind(before.2)
        .execute(&scene.test.app.pool)
        .await
        .unwrap();
    }
    scene.test.app.pool.execute("UPDATE control_plane.backups SET required_copies = 2").await.unwrap();
    assert_eq!(scene.get("/backup/latest").await["id"], taken[1], "none has all its copies");
}

#[tokio::test]
async fn a_deleted_record_leaves_its_file_and_nothing_takes_it_up_again() {
    let scene = Scene::new().await;
    let taken = scene.take(json!({})).await;
    let files = scene.test.stored_files();
    assert_eq!(files.len(), 2, "the artifact and its manifest");
    let path = format!("/backup/{}", taken["id"]);
    let id: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM control_plane.backups").fetch_one(&scene.test.app.pool).await.unwrap();

    sqlx::query("UPDATE control_plane.backups SET pinned = true").execute(&scene.test.app.pool).await.unwrap();
    assert_eq!(scene.send(Method::DELETE, &path, None).await.problem(409), "backup.pinned");
    sqlx::query("UPDATE control_plane.backups SET pinned = false").execute(&scene.test.app.pool).await.unwrap();
    let answer = scene.send(Method::DELETE, &path, None).await;
    assert_eq!((answer.status.as_u16(), answer.json()["id"].clone()), (200, taken["id"].clone()));

    assert_eq!(scene.send(Method::GET, &path, None).await.problem(404), "backup.not_found");
    assert_eq!(scene.send(Method::DELETE, &path, None).await.problem(404), "backup.not_found");
    assert_eq!(scene.get("/backup").await, json!([]));
    assert_eq!(scene.send(Method::GET, &format!("/api/backup/{id}"), None).await.problem(404), "backup.not_found");
    assert_eq!(scene.test.stored_files(), files);
    let event = scene.send(Method::GET, &format!("/api/backup/{id}/history"), None).await.data(200);
    let event = event.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&event["event"], &event["actor"]), (&json!("deleted"), &json!("ada")));
    assert_eq!((&event["detail"]["record_only"], &event["detail"]["files_stay_in"]), (&json!(true), &json!(["local"])));

    let app = &scene.test.app;
    let by = caller();
    let rebuilt = Rebuild::new(app, &by, Adopt::Everything, false).storage("local").await.unwrap();
    assert_eq!((rebuilt.deleted, rebuilt.backups), (1, 0), "{rebuilt:?}");
    let swept = sweep(app, &by, "local", std::time::Duration::ZERO, false).await.unwrap();
    assert_eq!((swept.adopted.deleted, swept.adopted.backups), (1, 0));
    assert_eq!(scene.test.stored_files(), files);

    // The clock stands still: the next one would have the same name, which the file still has.
    let bytes = std::fs::read(&files[0]).unwrap();
    let next = scene.take(json!({})).await;
    let name = next["file_name"].as_str().unwrap();
    assert!(name.starts_with("backup-2026-11-21-120000-") && name.ends_with(".sql"), "{name}");
    assert_eq!(std::fs::read(&files[0]).unwrap(), bytes);
}

#[tokio::test]
async fn a_backup_that_is_being_made_keeps_its_record() {
    let scene = Scene::new().await;
    let taken = scene.send(Method::POST, "/backup", None).await.json();
    let path = format!("/backup/{}", taken["id"]);
    assert_eq!(scene.send(Method::DELETE, &path, None).await.problem(409), "backup.unfinished");
    scene.work().await;
    assert_eq!(scene.get(&path).await["status"], "completed");
}

#[tokio::test]
async fn whoever_does_not_reach_the_default_project_sees_none() {
    let scene = Scene::new().await;
    let member = scene.token("bob", Permission::ALL, &["holdfast-default"], Role::Member);
    let stranger = scene.token("mallory", Permission::ALL, &["acme"], Role::Member);
    // An operator makes it, not whoever's token happens to name it.
    assert_eq!(scene.send_as(&member, Method::POST, "/backup", None).await.problem(404), "project.not_found");
    let taken = scene.take(json!({})).await;
    let path = format!("/backup/{}", taken["id"]);
    assert_eq!(scene.send_as(&member, Method::GET, &path, None).await.json(), taken);
    assert_eq!(scene.send_as(&stranger, Method::GET, "/backup", None).await.json(), json!([]));
    for (method, path) in [(Method::GET, path.as_str()), (Method::DELETE, &path), (Method::GET, "/backup/latest")] {
        assert_eq!(scene.send_as(&stranger, method, path, None).await.problem(404), "backup.not_found");
    }
    assert_eq!(scene.send_as(&stranger, Method::POST, "/backup", None).await.problem(404), "project.not_found");
    let reader = scene.token("rita", &[Permission::Read], &["holdfast-default"], Role::Member);
    for method in [Method::POST, Method::DELETE] {
        let path = if method == Method::POST { "/backup" } else { &path };
        assert_eq!(scene.send_as(&reader, method, path, None).await.problem(403), "auth.forbidden");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_as_a_problem_and_makes_no_job() {
    let scene = Scene::new().await;
    for (body, code) in [
        (json!({ "project_id": "acme" }), "request.body"),
        (json!({ "format": "json" }), "request.body"),
        (json!({ "compress": true, "compression": "zstd" }), "request.compression"),
        (json!({ "storages": ["nowhere"] }), "request.storage"),
        (json!({ "caption": "x".repeat(1025) }), "request.caption"),
        (json!({ "expires_at": "2001-01-01T00:00:00Z" }), "request.expires_at"),
        (json!("x"), "request.body"),
    ] {
        assert_eq!(scene.send(Method::POST, "/backup", Some(body.clone())).await.problem(422), code, "{body}");
    }
    for path in ["/backup/0", "/backup/-1", "/backup/x", "/backup/99999999999", "/backup/1%00"] {
        assert_eq!(scene.send(Method::GET, path, None).await.problem(404), "backup.not_found", "{path}");
    }
    assert_eq!(scene.send(Method::GET, "/backup?limit=0", None).await.problem(422), "request.limit");
    assert_eq!(scene.send(Method::GET, "/backup?before=7", None).await.problem(422), "request.before");
    let jobs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.jobs").fetch_one(&scene.test.app.pool).await.unwrap();
    assert_eq!(jobs, 0);
}

#[tokio::test]
async fn one_key_makes_one_backup() {
    let scene = Scene::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut request = api::request(Method::POST, "/backup", Some(&scene.operator), None);
        request.headers_mut().insert("idempotency-key", "nightly".parse().unwrap());
        let answer = scene.answer(request).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        ids.push(answer.json()["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_schema_is_no_default_project() {
    let scene = Scene::with(|config| config.backup.default_project = "acme".to_owned()).await;
    scene.test.add_schema_project("acme", "tenant_acme").await;
    assert_eq!(scene.send(Method::POST, "/backup", None).await.problem(409), "project.not_whole");
    let none = Scene::with(|config| config.backup.default_project = String::new()).await;
    assert_eq!(none.send(Method::POST, "/backup", None).await.problem(404), "project.not_found");
    assert_eq!(none.get("/backup").await, json!([]));
}

#[tokio::test]
async fn it_is_restored_into_a_new_database() {
    let scene = Scene::new().await;
    sample::create_tenant(&mut scene.test.tenants().await, "tenant_acme", 1).await.unwrap();
    let request = Export {
        project_id: "holdfast-default".to_owned(),
        format: Some(Format::Custom),
        compression: Some(Compression::None),
        ..Export::default()
    };
    let backup = scene.test.backup(request).await;
    assert_eq!(backup.file_name.as_deref(), Some("backup-2026-11-21-120000.dump"));
    let job = scene.test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["differences"], json!([]));
}

#[tokio::test]
async fn another_project_keeps_its_own_names() {
    let scene = Scene::new().await;
    sample::create_tenant(&mut scene.test.tenants().await, "tenant_acme", 1).await.unwrap();
    scene.test.add_schema_project("acme", "tenant_acme").await;
    let backup = scene.test.backup(support::app::export("acme")).await;
    assert!(backup.file_id.unwrap().starts_with("backups/acme/backup-2026-11-21-120000-"));
}

#[tokio::test]
async fn a_tenant_in_public_is_restored_in_place_with_the_view_beside_it() {
    let scene = Scene::new().await;
    let pool = &scene.test.app.pool;
    pool.execute("CREATE TABLE public.things (id int PRIMARY KEY); INSERT INTO public.things VALUES (1), (2)")
        .await
        .unwrap();
    scene.test.add_schema_project("one", "public").await;
    scene.take(json!({})).await;
    let backup = scene.test.backup(support::app::export("one")).await;
    pool.execute("DELETE FROM public.things").await.unwrap();
    let job = scene.test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["differences"], json!([]));
    let count = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await.unwrap();
    assert_eq!(count("SELECT count(*) FROM public.things").await, 2);
    assert_eq!(count("SELECT count(*) FROM public.backups").await, 1);
}
