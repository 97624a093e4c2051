use std::{path::Path, sync::Arc};

use axum::http::Method;
use holdfast::{
    app::App,
    catalog,
    clock::Clock,
    history,
    jobs::{request as ask, worker},
    keyring::Keyring,
    manage,
    tenant::Caller,
};
use serde_json::{Value, json};
use sqlx::Executor;
use tokio_util::sync::CancellationToken;

use super::{
    CANARY, all_pages,
    api::{TestApi, request},
    everything_stored, operator,
    support::app::{TestApp, everything, export},
};

fn local(root: &Path) -> Value {
    json!({ "type": "local", "root": root })
}

fn s3() -> Value {
    json!({
        "type": "s3", "bucket": "backups", "region": "eu-1", "endpoint": "https://s3.example.org",
        "access_key": "canary-id", "secret_key": "canary-key",
    })
}

async fn add(api: &TestApi, name: &str, settings: Value) -> super::api::Answer {
    api.post(&operator(api), "/api/storages", json!({ "name": name, "settings": settings })).await
}

#[tokio::test]
async fn secrets_go_in_and_are_nowhere_to_be_seen() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let mut said = Vec::new();
    let added = add(&api, "bucket", s3()).await;
    assert_eq!(added.data(201)["settings"]["secret_key"], json!({ "set": true }));
    said.push(added);
    let bot = json!({ "type": "telegram", "chat_id": -5, "bot_token": "1:canary-canary" });
    said.push(add(&api, "chat", bot).await);
    let change = json!({ "settings": { "secret_key": "canary-again", "max_rate": "20 MiB" } });
    said.push(api.patch(&olga, "/api/storages/bucket", change).await);
    for path in ["/api/storages", "/api/storages/bucket", "/api/storages/chat"] {
        said.push(api.get(&olga, path).await);
    }
    for (name, wrong) in [
        ("a", json!({ "type": "s3", "bucket": "b", "region": "r", "secret_key": "canary key", "access_key": "x" })),
        ("b", json!({ "type": "s3", "secret_key": ["canary"] })),
        ("c", json!({ "type": "telegram", "bot_token": "canary", "chat_id": 5 })),
        ("d", json!("canary")),
        ("bucket", s3()),
    ] {
        let answer = add(&api, name, wrong).await;
        assert!(answer.status.is_client_error(), "{name}");
        said.push(answer);
    }
    for answer in said {
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains(CANARY), "{text}");
    }
    let stored = everything_stored(&api).await;
    assert!(stored.contains("storage_changed") && !stored.contains(CANARY), "{stored}");
    // And yet they are there.
    api.app.storages.refresh().await.unwrap();
    let row = catalog::storage(api.pool(), "bucket").await.unwrap();
    let opened = row.open(&api.app.keys.secrets).unwrap().parse().unwrap();
    let holdfast::config::StorageConfig::S3(opened) = opened else { panic!("{opened:?}") };
    assert_eq!(opened.secret_key.unwrap().expose(), "canary-again");
    assert_eq!(opened.access_key.unwrap().expose(), "canary-id");
}

#[tokio::test]
async fn a_sealed_row_under_another_name_or_altered_opens_nothing() {
    let api = TestApi::new().await;
    add(&api, "bucket", s3()).await.data(201);
    let copy = "INSERT INTO control_plane.storages (name, kind, settings_sealed)
        SELECT 'stolen', kind, settings_sealed FROM control_plane.storages WHERE name = 'bucket'";
    api.pool().execute(copy).await.unwrap();
    let stolen = api.get(&operator(&api), "/api/storages/stolen").await.data(200);
    assert_eq!(stolen["settings"], Value::Null);
    assert!(stolen["problem"].as_str().unwrap().contains("secrets key"), "{stolen}");
    assert!(!api.app.storages.contains_key("stolen"));
    let tested = api.post(&operator(&api), "/api/storages/stolen/test", json!({})).await.data(200);
    assert_eq!((&tested["good"], &tested["code"]), (&json!(false), &json!("storage.unusable")));
    let change = json!({ "settings": { "bucket": "mine" } });
    assert_eq!(api.patch(&operator(&api), "/api/storages/stolen", change).await.problem(409), "secrets.sealed");
    // It can be removed.
    assert_eq!(api.delete(&operator(&api), "/api/storages/stolen").await.status, 204);
}

#[tokio::test]
async fn the_configurations_storages_are_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("near");
    let api = TestApi::with(|config| {
        let near = holdfast::config::LocalStorageConfig::new(root.clone());
        config.storages.insert("first".to_owned(), holdfast::config::StorageConfig::Local(near));
        let s3 = holdfast::config::S3StorageConfig {
            bucket: "b".to_owned(),
            secret_key: Some(holdfast::config::Secret::new("canary")),
            ..Default::default()
        };
        config.storages.insert("second".to_owned(), holdfast::config::StorageConfig::S3(Box::new(s3)));
    })
    .await;
    let olga = operator(&api);
    let shown = api.get(&olga, "/api/storages/first").await.data(200);
    assert_eq!((&shown["origin"], &shown["type"]), (&json!("configuration"), &json!("local")));
    let second = api.get(&olga, "/api/storages/second").await;
    assert_eq!(second.data(200)["settings"]["secret_key"], json!({ "set": true }));
    assert!(!String::from_utf8_lossy(&second.body).contains(CANARY));
    let change = json!({ "settings": local(directory.path()) });
    assert_eq!(api.patch(&olga, "/api/storages/first", change).await.problem(409), "storage.read_only");
    assert_eq!(api.delete(&olga, "/api/storages/first").await.problem(409), "storage.read_only");
    assert_eq!(add(&api, "first", local(directory.path())).await.problem(409), "storage.name_taken");
    assert_eq!(api.post(&olga, "/api/storages/first/test", json!({})).await.data(200)["good"], true);
    // A row of the same name, from before the configuration had it, is not used.
    let storage = api.app.storages.get("first").unwrap();
    let sql = "INSERT INTO control_plane.storages (name, kind, settings_sealed) VALUES ('first', 'local', 'x')";
    api.pool().execute(sql).await.unwrap();
    api.app.storages.refresh().await.unwrap();
    assert!(Arc::ptr_eq(&storage, &api.app.storages.get("first").unwrap()));
    // It can go, the configuration's stays.
    assert_eq!(api.delete(&olga, "/api/storages/first").await.status, 204);
    assert_eq!(api.delete(&olga, "/api/storages/first").await.problem(409), "storage.read_only");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_the_fields_name() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    for name in ["", "..", "../x", "a/b", "a\\b", "a b", "ü", "-/", &"x".repeat(64), "%2e%2e", "a.b"] {
        let answer = add(&api, name, local(Path::new("/tmp"))).await;
        assert_eq!(answer.problem(422), "request.name", "{name:?}");
    }
    assert_eq!(add(&api, "a\0b", local(Path::new("/tmp"))).await.problem(422), "request.value");
    for (settings, field) in [
        (json!({ "type": "local" }), "root"),
        (json!({ "type": "local", "root": "relative" }), "settings.root"),
        (json!({ "type": "local", "root": "/srv/../etc" }), "settings.root"),
        (json!({ "type": "local", "root": "/tmp/x", "speed": 1 }), "speed"),
        (json!({ "type": "local", "root": "/tmp/x", "max_rate": 1023 }), "settings.max_rate"),
        (json!({ "type": "tape" }), "settings.type"),
        (json!({ "type": "s3", "bucket": "a/b" }), "settings.bucket"),
        (
            json!({ "type": "s3", "bucket": "b", "region": "r", "part_size": "1 KiB", "access_key": "a", "secret_key": "s" }),
            "settings.part_size",
        ),
        (json!({ "type": "s3", "bucket": "b", "parts_in_flight": "many" }), "settings.parts_in_flight"),
        (json!({ "type": "s3", "bucket": "b", "secret_key_file": "/etc/shadow" }), "settings.secret_key_file"),
        (json!({ "type": "telegram", "chat_id": "x", "bot_token": "1:aaaaaaaaaa" }), "settings.chat_id"),
    ] {
        let answer = add(&api, "new", settings).await;
        assert_eq!(answer.problem(422), "request.settings", "{field}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(field), "{detail}: {field}");
    }
    for body in [
        json!({ "name": "x" }),
        json!({ "name": "x", "settings": {}, "more": 1 }),
        json!({ "settings": {} }),
        json!([]),
    ] {
        assert_eq!(api.post(&olga, "/api/storages", body).await.problem(422), "request.body");
    }
    for path in ["/api/storages/nothing", "/api/storages/%2e%2e", "/api/storages/a%00b", "/api/storages/..%2ffirst"] {
        assert_eq!(api.get(&olga, path).await.problem(404), "storage.unknown", "{path}");
        assert_eq!(api.delete(&olga, path).await.problem(404), "storage.unknown", "{path}");
        assert_eq!(api.post(&olga, &format!("{path}/test"), json!({})).await.problem(404), "storage.unknown");
    }
    add(&api, "disk", local(tempfile::tempdir().unwrap().path())).await.data(201);
    let other_type = json!({ "settings": { "type": "s3" } });
    assert_eq!(api.patch(&olga, "/api/storages/disk", other_type).await.problem(422), "request.settings");
    let nowhere = json!({ "settings": { "root": "/proc/holdfast/nothing" } });
    assert_eq!(api.patch(&olga, "/api/storages/disk", nowhere).await.problem(422), "request.settings");
}

#[tokio::test]
async fn storages_come_in_pages_by_name() {
    let api = TestApi::new().await;
    let directory = tempfile::tempdir().unwrap();
    for name in ["e", "a", "d", "b", "c"] {
        add(&api, name, local(&directory.path().join(name))).await.data(201);
    }
    let (rows, pages) = all_pages(&api, &operator(&api), "/api/storages").await;
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    assert_eq!(pages, 3);
    for bad in ["limit=0", "limit=201", "cursor=!", "color=red"] {
        assert_eq!(api.get(&operator(&api), &format!("/api/storages?{bad}")).await.status, 422, "{bad}");
    }
}

/// Another process on the same control plane, with the same configuration and keys.
async fn another_process(test: &TestApp) -> App {
    let keys = Keyring::open(&test.app.config, &Clock::System).unwrap();
    let config = (*test.app.config).clone();
    App::open(config, test.app.control.clone(), Arc::clone(&test.app.tools), keys).await.unwrap()
}

fn settings(value: Value) -> catalog::Settings {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn a_new_storage_takes_backups_of_a_worker_that_was_already_running_and_survives_a_restart() {
    let test = TestApp::new().await;
    let caller = Caller::system("test");
    test.tenants().await.execute("CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS a").await.unwrap();
    test.add_schema_project("acme", "s").await;
    // It has looked at the table before there was anything in it.
    let worker_elsewhere = another_process(&test).await;
    worker_elsewhere.storages.refresh().await.unwrap();
    assert!(!worker_elsewhere.storages.contains_key("offsite"));

    let root = test.directory.path().join("offsite");
    let added = manage::storages::add(&test.app, &caller, "offsite", &settings(local(&root))).await.unwrap();
    assert_eq!(added.origin, manage::storages::Origin::Database);
    let request = ask::Export { storages: vec!["offsite".to_owned()], ..export("acme") };
    let job = ask::export(&test.app, &caller, &request, None).await.unwrap();
    worker::run_until_final(&worker_elsewhere, job.job_id(), CancellationToken::new()).await.unwrap();
    let job = holdfast::jobs::queue::get(&test.app.pool, &everything(), job.job_id()).await.unwrap();
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let id: holdfast::ids::BackupId = serde_json::from_value(job.result.unwrap()["backup_id"].clone()).unwrap();
    let copies = history::copies(&test.app.pool, &[id.0]).await.unwrap();
    assert_eq!((copies.len(), copies[0].storage.as_str(), copies[0].is_good()), (1, "offsite", true));
    assert!(root.join("backups/acme").is_dir());

    // After a restart it is there again, and what is in it can be read.
    let restarted = another_process(&test).await;
    restarted.storages.refresh().await.unwrap();
    let storage = restarted.storages.get("offsite").unwrap();
    let found = holdfast::storage::fingerprint(storage.as_ref(), &copies[0].locator().unwrap()).await.unwrap();
    let backup = history::get(&test.app.pool, &everything(), id).await.unwrap();
    assert_eq!(Some(found.sha256.to_string()), backup.sha256);

    // What holds a copy is kept; what is changed is opened anew, what is not stays as it is.
    let refused = manage::storages::delete(&test.app, &caller, "offsite", manage::Mode::Real).await.unwrap_err();
    assert_eq!(refused.code(), "storage.in_use");
    assert!(refused.to_string().contains("1 copies"), "{refused}");
    restarted.storages.refresh().await.unwrap();
    assert!(Arc::ptr_eq(&storage, &restarted.storages.get("offsite").unwrap()));
    manage::storages::change(&test.app, &caller, "offsite", &settings(json!({ "root": root }))).await.unwrap();
    restarted.storages.refresh().await.unwrap();
    assert!(!Arc::ptr_eq(&storage, &restarted.storages.get("offsite").unwrap()));

    sqlx::query("DELETE FROM control_plane.backup_copies").execute(&test.app.pool).await.unwrap();
    manage::storages::delete(&test.app, &caller, "offsite", manage::Mode::DryRun).await.unwrap();
    assert!(catalog::storage(&test.app.pool, "offsite").await.is_ok(), "a dry run removes nothing");
    manage::storages::delete(&test.app, &caller, "offsite", manage::Mode::Real).await.unwrap();
    restarted.storages.refresh().await.unwrap();
    assert!(!restarted.storages.contains_key("offsite"));
    assert!(root.join("backups/acme").is_dir(), "what is stored stays");
}

#[tokio::test]
async fn a_storage_that_projects_or_jobs_name_is_kept() {
    let api = TestApi::new().await;
    let (olga, directory) = (operator(&api), tempfile::tempdir().unwrap());
    add(&api, "disk", local(directory.path())).await.data(201);
    api.patch(&olga, "/api/projects/acme", json!({ "storages": ["disk"] })).await.data(200);
    let refused = api.delete(&olga, "/api/storages/disk").await;
    assert_eq!(refused.problem(409), "storage.in_use");
    assert!(refused.json()["detail"].as_str().unwrap().contains("1 projects"), "{}", refused.json());
    // A backup of the project now goes there.
    let job = api.post(&olga, "/api/backup/export", json!({ "project_id": "acme" })).await.data(202);
    let payload: Value = sqlx::query_scalar("SELECT payload FROM control_plane.jobs WHERE id = $1")
        .bind(job["job_id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap())
        .fetch_one(api.pool())
        .await
        .unwrap();
    assert_eq!(payload["storages"], json!(["disk"]));
    api.patch(&olga, "/api/projects/acme", json!({ "storages": null })).await.data(200);
    let refused = api.delete(&olga, "/api/storages/disk").await;
    assert!(refused.json()["detail"].as_str().unwrap().contains("1 jobs"), "{}", refused.json());
    sqlx::query("UPDATE control_plane.jobs SET status = 'cancelled'").execute(api.pool()).await.unwrap();
    assert_eq!(api.delete(&olga, "/api/storages/disk").await.status, 204);
    let gone = json!({ "project_id": "acme", "storages": ["disk"] });
    assert_eq!(api.post(&olga, "/api/backup/export", gone).await.problem(422), "request.storage");
}

#[tokio::test]
async fn copies_that_never_came_to_be_go_with_their_storage_and_are_wanted_no_more() {
    let api = TestApi::new().await;
    let (olga, directory) = (operator(&api), tempfile::tempdir().unwrap());
    add(&api, "disk", local(directory.path())).await.data(201);
    let backup = api.stored_backup("acme", &bytes::Bytes::from_static(b"x"), &["first"]).await;
    history::require_copies(api.pool(), backup, 2).await.unwrap();
    history::put_copy(api.pool(), backup, "disk", Err("no space")).await.unwrap();
    let missing = "SELECT count(*) FROM control_plane.backups WHERE control_plane.holdfast_copies_missing(id, status, required_copies) > 0";
    assert_eq!(api.count(missing).await, 1);
    assert_eq!(api.delete(&olga, "/api/storages/disk").await.status, 204);
    assert_eq!(api.count(missing).await, 0);
    assert_eq!(history::copies(api.pool(), &[backup.0]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_test_writes_reads_and_deletes_a_probe_and_says_what_went_wrong() {
    let api = TestApi::new().await;
    let (olga, directory) = (operator(&api), tempfile::tempdir().unwrap());
    let root = directory.path().join("disk");
    add(&api, "disk", local(&root)).await.data(201);
    let good = api.send(request(Method::POST, "/api/storages/disk/test", Some(&olga), None)).await.data(200);
    assert_eq!(good["good"], true);
    assert!(good["free_bytes"].as_u64().unwrap() > 0 && !good["seen"].as_array().unwrap().is_empty(), "{good}");
    std::fs::remove_dir_all(&root).unwrap();
    let bad = api.post(&olga, "/api/storages/disk/test", json!({})).await.data(200);
    assert_eq!(bad["good"], false);
    assert!(bad["code"].as_str().unwrap().starts_with("storage.") && bad["problem"].is_string(), "{bad}");
    let events: Vec<String> = api.audit().await.into_iter().map(|(event, _, _)| event).collect();
    assert_eq!(events, ["storage_added", "storage_tested", "storage_tested"]);
}

#[tokio::test]
async fn a_storage_that_is_not_there_is_told_with_the_names_that_the_caller_may_know() {
    let api = TestApi::new().await;
    let bytes = bytes::Bytes::from_static(b"x");
    api.stored_backup("acme", &bytes, &["first"]).await;
    api.stored_backup("globex", &bytes, &["second"]).await;
    let whole = |role, project_ids: &[&str], organization: Option<&str>| {
        api.token(&holdfast::auth::jwt::Claims {
            subject: "someone".to_owned(),
            permissions: holdfast::tenant::Permission::ALL.to_vec(),
            project_ids: project_ids.iter().map(|id| id.parse().unwrap()).collect(),
            organization_id: organization.map(str::to_owned),
            role,
        })
    };
    use holdfast::tenant::Role::{Member, Operator, OrgAdmin};
    let yours = |names: &str| format!("Storages that keep backups of yours: {names}.");
    for (token, project, hint) in [
        (whole(Operator, &[], None), "acme", "Configured storages: first, second.".to_owned()),
        (whole(Member, &["acme"], None), "acme", yours("first")),
        (whole(Member, &["acme", "globex"], None), "globex", yours("first, second")),
        (whole(OrgAdmin, &[], Some("o-globex")), "globex", yours("second")),
    ] {
        for (path, body) in [
            ("/api/backup/export", json!({ "project_id": project, "storages": ["nowhere"] })),
            ("/api/backup/export-logs", json!({ "project_id": project, "storages": ["nowhere"] })),
            ("/api/schedules", json!({ "project_id": project, "cron": "0 3 * * *", "storages": ["nowhere"] })),
        ] {
            let answer = api.post(&token, path, body).await;
            assert_eq!(answer.problem(422), "request.storage", "{path}: {answer:?}");
            assert_eq!(answer.json()["hint"], hint, "{path}");
        }
    }
    // Whoever has no backup yet learns no name, and neither does one whose project names a storage that has gone.
    sqlx::query("DELETE FROM control_plane.backup_copies").execute(api.pool()).await.unwrap();
    sqlx::query("UPDATE control_plane.projects SET settings = '{\"storages\": [\"gone\"]}'")
        .execute(api.pool())
        .await
        .unwrap();
    for body in [json!({ "project_id": "acme", "storages": ["nowhere"] }), json!({ "project_id": "acme" })] {
        let answer = api.post(&api.acme(), "/api/backup/export", body).await;
        assert_eq!(answer.problem(422), "request.storage");
        let said = answer.json().to_string();
        assert!(!said.contains("first") && !said.contains("second"), "{said}");
    }
}
