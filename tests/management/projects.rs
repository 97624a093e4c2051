use holdfast::{
    catalog::{self, CatalogError},
    jobs::JobType,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{admin, all_pages, api::TestApi, operator, token};

#[tokio::test]
async fn an_operator_makes_an_organisation_and_puts_projects_and_users_into_it() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let body = json!({ "id": "o-new", "name": "New Ltd" });
    assert_eq!(api.post(&olga, "/api/organizations", body.clone()).await.data(201)["projects"], 0);
    assert_eq!(api.post(&olga, "/api/organizations", body).await.problem(409), "organization.exists");
    let project = json!({ "id": "n1", "name": "One", "organization_id": "o-new", "retention_days": 7 });
    let added = api.post(&olga, "/api/projects", project.clone()).await.data(201);
    assert_eq!((&added["status"], &added["schema"]), (&json!("ACTIVE"), &json!("tenant_n1")));
    assert!(added["warning"].as_str().unwrap().contains("does not exist"), "{added}");
    assert_eq!(api.post(&olga, "/api/projects", project).await.problem(409), "project.exists");
    api.patch(&olga, "/api/projects/globex", json!({ "organization_id": "o-new" })).await.data(200);
    let user = json!({ "name": "ann", "password": "a password that is long", "role": "org_admin", "organization_id": "o-new" });
    api.post(&olga, "/api/users", user).await.data(201);
    let shown = api.get(&olga, "/api/organizations/o-new").await.data(200);
    assert_eq!((&shown["projects"], &shown["users"]), (&json!(2), &json!(1)));
    let refused = api.delete(&olga, "/api/organizations/o-new").await;
    assert_eq!(refused.problem(409), "organization.in_use");
    assert!(refused.json()["detail"].as_str().unwrap().contains("2 projects and 1 users"));

    // Its admin reaches what was put into it, and nothing else.
    let ann = token(&api, "ann", Role::OrgAdmin, Some("o-new"));
    let (rows, _) = all_pages(&api, &ann, "/api/projects").await;
    assert_eq!(rows.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>(), ["globex", "n1"]);
    assert_eq!(api.get(&ann, "/api/organizations").await.data(200).as_array().unwrap().len(), 1);
    assert_eq!(api.get(&ann, "/api/projects?organization_id=o-acme").await.data(200), json!([]));
    // The retention that the project has is that of its backups.
    let job = api.post(&ann, "/api/backup/export", json!({ "project_id": "n1" })).await.data(202);
    let backup = api.get(&ann, &format!("/api/backup/{}", job["backup_id"].as_str().unwrap())).await.data(200);
    assert_eq!(backup["expires_at"], "2026-11-28T12:00:00Z");
}

#[tokio::test]
async fn an_organisations_admin_adds_a_project_that_waits_for_an_operator() {
    let api = TestApi::new().await;
    let (ada, olga) = (admin(&api), operator(&api));
    let added = api.post(&ada, "/api/projects", json!({ "id": "a2", "name": "Second" })).await.data(201);
    assert_eq!((&added["status"], &added["organization_id"]), (&json!("PENDING"), &json!("o-acme")));
    let refused = api.post(&ada, "/api/backup/export", json!({ "project_id": "a2" })).await;
    assert_eq!(refused.problem(409), "project.not_active");
    for status in ["ACTIVE", "INACTIVE"] {
        assert_eq!(api.patch(&ada, "/api/projects/a2", json!({ "status": status })).await.problem(403), "auth.grant");
    }
    api.patch(&olga, "/api/projects/a2", json!({ "status": "ACTIVE" })).await.data(200);
    api.patch(&ada, "/api/projects/a2", json!({ "status": "INACTIVE" })).await.data(200);
    let back = json!({ "status": "ACTIVE", "name": "2nd", "storages": ["second"], "retention_days": 3 });
    let changed = api.patch(&ada, "/api/projects/a2", back).await.data(200);
    assert_eq!((&changed["storages"], &changed["retention_days"]), (&json!(["second"]), &json!(3)));
    api.patch(&olga, "/api/projects/a2", json!({ "status": "SUSPENDED" })).await.data(200);
    assert_eq!(api.patch(&ada, "/api/projects/a2", json!({ "status": "ACTIVE" })).await.problem(403), "auth.grant");
}

#[tokio::test]
async fn what_is_backed_up_is_chosen_by_operators_alone() {
    let api = TestApi::new().await;
    let ada = admin(&api);
    for more in [
        json!({ "schema": "tenant_globex" }),
        json!({ "whole_database": true }),
        json!({ "database": "warehouse" }),
        json!({ "organization_id": "o-globex" }),
    ] {
        let mut body = json!({ "id": "a2", "name": "x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(api.post(&ada, "/api/projects", body).await.problem(403), "auth.grant", "{more}");
        assert_eq!(api.patch(&ada, "/api/projects/acme", more).await.problem(403), "auth.grant");
    }
    for null in ["organization_id", "database"] {
        assert_eq!(api.patch(&ada, "/api/projects/acme", json!({ null: null })).await.problem(403), "auth.grant");
    }
    // By its slug it could mean another's schema: it is told no more than that it cannot be had.
    let taken = api.post(&ada, "/api/projects", json!({ "id": "a2", "name": "x", "slug": "globex" })).await;
    assert_eq!(taken.problem(422), "project.schema_taken");
    assert!(!taken.json()["detail"].as_str().unwrap().contains("globex"), "{}", taken.json());
    let olga = operator(&api);
    let taken = api.post(&olga, "/api/projects", json!({ "id": "a2", "name": "x", "slug": "globex" })).await;
    assert_eq!(taken.problem(409), "project.schema_taken");
    let moved = api.patch(&olga, "/api/projects/acme", json!({ "schema": "tenant_globex" })).await;
    assert_eq!(moved.problem(409), "project.schema_taken");
    assert_eq!(api.get(&olga, "/api/projects/acme").await.data(200)["schema"], "tenant_acme");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.projects").await, 2);
}

#[tokio::test]
async fn where_files_are_is_said_and_seen_by_operators_alone() {
    let api = TestApi::new().await;
    let (ada, olga, member) = (admin(&api), operator(&api), api.acme());
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |directory: &std::path::Path| json!({ "directory": directory.display().to_string() });
    for files in [at(own.path()), Value::Null] {
        assert_eq!(api.patch(&ada, "/api/projects/acme", json!({ "files": files })).await.problem(403), "auth.grant");
        assert_eq!(api.patch(&member, "/api/projects/acme", json!({ "files": files })).await.problem(403), "auth.role");
    }
    let added = json!({ "id": "a2", "name": "x", "files": at(own.path()) });
    assert_eq!(api.post(&ada, "/api/projects", added.clone()).await.problem(403), "auth.grant");
    for token in [&ada, &member] {
        assert_eq!(api.get(token, "/api/projects/acme").await.data(200)["files"], Value::Null);
        assert_eq!(api.get(token, "/api/projects").await.data(200)[0]["files"], Value::Null);
    }
    assert_eq!(api.get(&olga, "/api/projects/acme").await.data(200)["files"], json!({ "directory": "/srv/acme" }));

    let changed = json!({ "name": "Acme", "files": at(own.path()) });
    assert_eq!(api.patch(&olga, "/api/projects/acme", changed).await.data(200)["files"], at(own.path()));
    // What is refused changes nothing else either.
    for (files, status, code) in [
        (at(own.path().join("missing").as_path()), 422, "project.files"),
        (at(&api.app.config.data_dir), 422, "project.files"),
        (json!({ "directory": "/srv/../etc" }), 422, "project.files"),
        (json!({ "storage": "first", "prefix": "uploads" }), 422, "project.files"),
        (json!({ "storage": "nowhere", "prefix": "uploads" }), 422, "request.storage"),
        (at(own.path()), 409, "project.files_taken"),
        (json!({ "directory": "/srv/x", "prefix": "x" }), 422, "request.body"),
        (json!({ "path": "/srv/x" }), 422, "request.body"),
        (json!("/srv/x"), 422, "request.body"),
    ] {
        let refused = api.patch(&olga, "/api/projects/globex", json!({ "name": "New", "files": files })).await;
        assert_eq!(refused.problem(status), code, "{files}");
    }
    let globex = api.get(&olga, "/api/projects/globex").await.data(200);
    assert_eq!((&globex["name"], &globex["files"]), (&json!("globex"), &json!({ "directory": "/srv/globex" })));
    // While a job has the project in hand the files stay where they are.
    let job = api.job("acme", JobType::ExportStorage.as_str(), "pending").await;
    let held = api.patch(&olga, "/api/projects/acme", json!({ "files": at(other.path()) })).await;
    assert_eq!(held.problem(409), "project.files_held");
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed' WHERE id = $1")
        .bind(job.0)
        .execute(api.pool())
        .await
        .unwrap();
    api.patch(&olga, "/api/projects/acme", json!({ "files": at(other.path()) })).await.data(200);
    assert_eq!(api.post(&olga, "/api/projects", added).await.data(201)["files"], at(own.path()));
    let none = api.patch(&olga, "/api/projects/acme", json!({ "files": null })).await.data(200);
    assert_eq!(none["files"], Value::Null);
    let control = api.patch(&olga, "/api/projects/holdfast-control-plane", json!({ "files": at(other.path()) })).await;
    assert_eq!(control.status, 404, "it is not there before somebody asks for it");
    let told: Value = sqlx::query_scalar(
        "SELECT detail FROM control_plane.backup_history WHERE event = 'project_changed' ORDER BY id LIMIT 1",
    )
    .fetch_one(api.pool())
    .await
    .unwrap();
    assert_eq!(told["files"], json!({ "before": { "directory": "/srv/acme" }, "after": at(own.path()) }));
}

#[tokio::test]
async fn an_id_with_a_past_is_given_to_nobody_by_whoever_wants_it() {
    let api = TestApi::with(|config| config.backup.default_project = "whole".to_owned()).await;
    let (ada, olga) = (admin(&api), operator(&api));
    let backup = api.stored_backup("of-backup", &bytes::Bytes::from_static(b"x"), &["first"]).await;
    api.job("of-job", JobType::VerifyBackup.as_str(), "completed").await;
    api.user("max", Role::Member, None, &["of-member"]).await;
    api.pool()
        .execute(
            "INSERT INTO control_plane.backup_history (project_id, event, actor, outcome) VALUES ('of-history', 'deleted', 'x', 'ok');
             INSERT INTO control_plane.project_logs (project_id, level, message) VALUES ('of-log', 'info', 'x');
             INSERT INTO control_plane.api_keys (id, project_ids) VALUES (gen_random_uuid(), '{of-key}');
             INSERT INTO control_plane.restores (id, job_id, backup_id, project_id, state, plan)
             VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'of-restore', 'done', '{}')",
        )
        .await
        .unwrap();
    let taken = api.post(&ada, "/api/projects", json!({ "id": "acme", "name": "x" })).await;
    assert_eq!(taken.problem(409), "project.exists");
    let said = taken.json()["detail"].as_str().unwrap().to_owned();
    let ids = ["of-backup", "of-job", "of-member", "of-key", "of-history", "of-log", "of-restore", "whole"];
    for id in ids.iter().chain(&["holdfast-control-plane"]) {
        let refused = api.post(&ada, "/api/projects", json!({ "id": id, "name": "x" })).await;
        assert_eq!(refused.problem(409), "project.exists", "{id}");
        // Word for word what is said of one that is there.
        assert_eq!(refused.json()["detail"].as_str().unwrap(), said.replace("acme", id));
    }
    assert_eq!(api.get(&ada, &format!("/api/backup/{backup}")).await.status, 404);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.projects").await, 2);
    for id in ids {
        api.post(&olga, "/api/projects", json!({ "id": id, "name": "x" })).await.data(201);
    }
    api.post(&ada, "/api/projects", json!({ "id": "new", "name": "x" })).await.data(201);
}

#[tokio::test]
async fn what_waits_for_an_operator_is_neither_restored_nor_undone() {
    let api = TestApi::new().await;
    let ada = admin(&api);
    let restore = api.undoable("acme").await;
    let backup = api.stored_backup("acme", &bytes::Bytes::from_static(b"x"), &["first"]).await;
    api.pool()
        .execute(
            "UPDATE control_plane.backups SET manifest = '{}'; UPDATE control_plane.projects SET status = 'PENDING'",
        )
        .await
        .unwrap();
    let undo = format!("/api/jobs/{restore}/undo");
    let body = json!({ "backup_id": backup, "confirm": true });
    let restored = api.post(&ada, "/api/backup/restore", body.clone()).await;
    assert_eq!(restored.problem(409), "project.not_active", "{}", restored.json());
    let undone = api.post(&ada, &undo, json!({})).await;
    assert_eq!(undone.problem(409), "project.not_active", "{}", undone.json());
    api.pool().execute("UPDATE control_plane.projects SET status = 'INACTIVE'").await.unwrap();
    api.post(&ada, "/api/backup/restore", body).await.data(202);
    api.post(&ada, &undo, json!({})).await.data(202);
}

#[tokio::test]
async fn an_organisations_project_is_never_the_default_one() {
    let api = TestApi::new().await;
    let id = "acme".parse().unwrap();
    api.pool().execute("UPDATE control_plane.projects SET backup_scope = 'database' WHERE id = 'acme'").await.unwrap();
    let refused = catalog::ensure_default(api.pool(), &id).await.unwrap_err();
    assert!(matches!(refused, CatalogError::NotWhole(_)), "{refused}");
    api.pool().execute("UPDATE control_plane.projects SET organization_id = NULL WHERE id = 'acme'").await.unwrap();
    catalog::ensure_default(api.pool(), &id).await.unwrap();
}

#[tokio::test]
async fn at_most_twenty_projects_of_an_organisation_wait() {
    let api = TestApi::new().await;
    let (ada, olga) = (admin(&api), operator(&api));
    let add = |n: usize| json!({ "id": format!("p{n}"), "name": "x" });
    for n in 0..20 {
        api.post(&ada, "/api/projects", add(n)).await.data(201);
    }
    assert_eq!(api.post(&ada, "/api/projects", add(20)).await.problem(422), "project.too_many_pending");
    api.patch(&olga, "/api/projects/p0", json!({ "status": "ACTIVE" })).await.data(200);
    api.post(&ada, "/api/projects", add(20)).await.data(201);
    let max = token(&api, "Max", Role::OrgAdmin, Some("o-globex"));
    api.post(&max, "/api/projects", add(21)).await.data(201);
}

#[tokio::test]
async fn a_project_that_changes_hands_leaves_nothing_with_those_who_had_it() {
    let api = TestApi::new().await;
    let (ada, olga) = (admin(&api), operator(&api));
    let mail = json!({ "type": "email", "to": ["a@example.com"] });
    let channel = json!({ "name": "x", "project_id": "acme", "settings": mail });
    api.post(&ada, "/api/channels", channel.clone()).await.data(201);
    api.post(&olga, "/api/channels", channel).await.data(201);
    api.user("mia", Role::Member, Some("o-acme"), &["acme"]).await;
    api.user("moe", Role::Member, Some("o-globex"), &["acme", "globex"]).await;
    api.user("root", Role::Operator, None, &[]).await;
    let key = |project: &str| json!({ "name": "k", "permissions": ["backup:read"], "project_ids": [project] });
    let theirs = api.key(&ada, key("acme")).await;
    let operators = api.key(&api.log_in("root").await, key("acme")).await;
    let others = api.key(&olga, key("globex")).await;
    let asked = json!({ "project_id": "acme", "notify_email": "ada@o-acme.example" });
    let job = api.post(&ada, "/api/backup/export", asked).await.data(202)["job_id"].clone();
    // A good backup, which expires when the project has been another's for long.
    sqlx::query(
        "UPDATE control_plane.backups SET status = 'completed', created_at = $1 - interval '30 days', expires_at = $1 + interval '1 day'",
    )
    .bind(api.clock.now())
    .execute(api.pool())
    .await
    .unwrap();
    let addresses = "SELECT count(*) FROM control_plane.jobs WHERE payload #>> '{request,notify_email}' IS NOT NULL";
    // Nothing changes hands, nothing ends.
    api.patch(&olga, "/api/projects/acme", json!({ "organization_id": "o-acme", "name": "still" })).await.data(200);
    assert_eq!(api.get(&theirs, "/api/projects/acme").await.status, 200);
    assert_eq!(api.count(addresses).await, 1);
    api.patch(&olga, "/api/projects/acme", json!({ "organization_id": "o-globex" })).await.data(200);
    // The address that somebody of then has named hears neither of that backup's end, nor of the project.
    assert_eq!(api.count(addresses).await, 0, "{job}");
    assert_eq!(holdfast::schedule::announce(&api.app).await.unwrap(), 1);
    holdfast::schedule::look_for_stale(&api.app).await.unwrap();
    let heard = "SELECT count(*) FROM control_plane.notices WHERE recipient LIKE '%o-acme.example'";
    assert_eq!(api.count(heard).await, 0);
    assert_eq!(api.get(&theirs, "/api/projects/acme").await.status, 401);
    assert_eq!(api.get(&operators, "/api/projects/acme").await.status, 200);
    assert_eq!(api.get(&others, "/api/projects/globex").await.status, 200);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.channels").await, 1);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.channels WHERE is_tenants_own").await, 0);
    assert_eq!(api.get(&api.log_in("mia").await, "/api/projects/acme").await.status, 404);
    assert_eq!(api.get(&api.log_in("moe").await, "/api/projects/acme").await.status, 200);
}

#[tokio::test]
async fn the_keys_and_schedules_of_an_organisation_end_with_it() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let organization = json!({ "id": "o-new", "name": "New Ltd" });
    api.post(&olga, "/api/organizations", organization.clone()).await.data(201);
    let ann = token(&api, "ann", Role::OrgAdmin, Some("o-new"));
    let key = api.key(&ann, json!({ "name": "k", "role": "org_admin", "permissions": ["backup:read"] })).await;
    api.pool()
        .execute("INSERT INTO control_plane.schedules (name, organization_id, cron) VALUES ('nightly', 'o-new', '0 2 * * *')")
        .await
        .unwrap();
    assert_eq!(api.get(&key, "/api/projects").await.status, 200);
    assert_eq!(api.delete(&olga, "/api/organizations/o-new").await.status, 204);
    api.post(&olga, "/api/organizations", organization).await.data(201);
    assert_eq!(api.get(&key, "/api/projects").await.status, 401);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.schedules WHERE enabled").await, 0);
}

#[tokio::test]
async fn a_projects_own_log_says_nothing_of_where_it_lives() {
    let api = TestApi::new().await;
    api.patch(&operator(&api), "/api/projects/acme", json!({ "schema": "canary_place" })).await.data(200);
    let told = "SELECT count(*) FROM control_plane.project_logs WHERE metadata ->> 'event' = 'project_changed'";
    let places = "SELECT count(*) FROM control_plane.project_logs WHERE metadata::text LIKE '%canary%'";
    assert_eq!((api.count(told).await, api.count(places).await), (1, 0));
    let kept = "SELECT count(*) FROM control_plane.backup_history WHERE detail::text LIKE '%canary_place%'";
    assert_eq!(api.count(kept).await, 1);
    // Nor does the audit trail of its organisation of the database, whose name may be its address.
    let url = json!({ "name": "canary-host", "url": "postgres://backup:secret@127.0.0.1:1/app" });
    api.post(&operator(&api), "/api/databases", url).await.data(201);
    let moved = json!({ "database": "canary-host", "name": "moved" });
    api.patch(&operator(&api), "/api/projects/acme", moved).await.data(200);
    let told = api.get(&admin(&api), "/api/audit?event=project_changed").await.data(200);
    assert_eq!(told[0]["detail"]["name"]["after"], "moved");
    assert!(!told.to_string().contains("canary-host"), "{told}");
    let told = api.get(&operator(&api), "/api/audit?event=project_changed").await.data(200);
    assert_eq!(told[0]["detail"]["database"]["after"], "canary-host");
}

#[tokio::test]
async fn where_a_project_lives_is_told_to_operators_and_a_platforms_own_settings_to_nobody() {
    let api = TestApi::new().await;
    let sql = "UPDATE control_plane.projects SET database_name = 'canary-host:5432/app',
        settings = '{\"token\": \"canary\", \"storages\": 5, \"retention_days\": \"x\", \"max_rate\": 7}' WHERE id = 'acme'";
    api.pool().execute(sql).await.unwrap();
    for token in [admin(&api), api.acme()] {
        for path in ["/api/projects", "/api/projects/acme"] {
            let answer = api.get(&token, path).await;
            assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "{path}");
        }
        assert_ne!(api.get(&token, "/api/projects?database=canary-host:5432%2Fapp").await.status, 200);
    }
    let shown = api.get(&operator(&api), "/api/projects/acme").await;
    assert_eq!(shown.data(200)["database"], "canary-host:5432/app");
    assert_eq!((&shown.data(200)["storages"], &shown.data(200)["retention_days"]), (&json!([]), &Value::Null));
    assert_eq!(shown.data(200)["max_rate"], Value::Null);
    // A slow export keeps a worker from the other tenants: a rate is the operator's to set, and reads back as it was given.
    for rate in [json!({ "max_rate": "20 MiB" }), json!({ "max_rate": null, "name": "Acme" })] {
        assert_eq!(api.patch(&api.acme(), "/api/projects/acme", rate.clone()).await.problem(403), "auth.role");
        assert_eq!(api.patch(&admin(&api), "/api/projects/acme", rate).await.problem(403), "auth.grant");
    }
    for (given, shown) in
        [(json!("20 MiB"), json!("20 MiB")), (json!(20_000_000), json!("20000000 B")), (Value::Null, Value::Null)]
    {
        let changed = api.patch(&operator(&api), "/api/projects/acme", json!({ "max_rate": given })).await.data(200);
        assert_eq!((&changed["max_rate"], &changed["retention_days"]), (&shown, &Value::Null));
        for token in [admin(&api), api.acme()] {
            assert_eq!(api.get(&token, "/api/projects/acme").await.data(200)["max_rate"], shown);
        }
    }
    // What the platform keeps there stays.
    api.patch(&operator(&api), "/api/projects/acme", json!({ "retention_days": 5 })).await.data(200);
    let settings: Value = sqlx::query_scalar("SELECT settings FROM control_plane.projects WHERE id = 'acme'")
        .fetch_one(api.pool())
        .await
        .unwrap();
    assert_eq!((&settings["token"], &settings["retention_days"]), (&json!("canary"), &json!(5)));
}

#[tokio::test]
async fn a_project_does_not_move_while_a_job_or_an_undo_needs_its_place() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let moves = json!({ "schema": "elsewhere" });
    let job = api.job("acme", JobType::VerifyBackup.as_str(), "pending").await;
    assert_eq!(api.patch(&olga, "/api/projects/acme", moves.clone()).await.problem(409), "project.in_use");
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed' WHERE id = $1")
        .bind(job.0)
        .execute(api.pool())
        .await
        .unwrap();
    api.undoable("acme").await;
    assert_eq!(api.patch(&olga, "/api/projects/acme", moves.clone()).await.problem(409), "project.in_use");
    api.patch(&olga, "/api/projects/acme", json!({ "name": "still" })).await.data(200);
    // A lost worker's, which waits to be put right where the project was.
    api.pool().execute("UPDATE control_plane.restores SET kept_schema = NULL, state = 'running'").await.unwrap();
    for elsewhere in [moves.clone(), json!({ "whole_database": true })] {
        let refused = api.patch(&olga, "/api/projects/acme", elsewhere.clone()).await;
        assert_eq!(refused.problem(409), "project.in_use", "{elsewhere}");
        assert!(refused.json()["detail"].as_str().unwrap().contains("put right"), "{}", refused.json());
    }
    api.pool().execute("UPDATE control_plane.restores SET state = 'rolled_back'").await.unwrap();
    assert_eq!(api.patch(&olga, "/api/projects/acme", moves).await.data(200)["schema"], "elsewhere");
    let whole = api.patch(&olga, "/api/projects/acme", json!({ "whole_database": true })).await.data(200);
    assert_eq!((&whole["backup_scope"], &whole["schema"]), (&json!("database"), &Value::Null));
}

#[tokio::test]
async fn what_is_wrong_is_told_with_the_fields_name() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let with = |more: Value| {
        let mut body = json!({ "id": "new", "name": "New" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, code) in [
        (json!({ "id": "../x" }), "request.body"),
        (json!({ "id": "-x" }), "request.body"),
        (json!({ "id": "a\0" }), "request.value"),
        (json!({ "id": "discover" }), "request.id"),
        (json!({ "name": "" }), "request.name"),
        (json!({ "name": "a\u{7}" }), "request.name"),
        (json!({ "name": "x".repeat(201) }), "request.name"),
        (json!({ "slug": "" }), "request.slug"),
        (json!({ "slug": "a\0b" }), "request.value"),
        (json!({ "schema": "pg_catalog" }), "project.schema"),
        (json!({ "schema": "control_plane" }), "project.schema"),
        (json!({ "schema": "x".repeat(64) }), "project.schema"),
        (json!({ "schema": "a", "whole_database": true }), "request.whole_database"),
        (json!({ "storages": ["nowhere"] }), "request.storages"),
        (json!({ "storages": ["../first"] }), "request.storages"),
        (json!({ "retention_days": 0 }), "request.retention_days"),
        (json!({ "retention_days": 36_501 }), "request.retention_days"),
        (json!({ "retention_days": -1 }), "request.body"),
        (json!({ "organization_id": "o-none" }), "request.organization_id"),
        (json!({ "settings": {} }), "request.body"),
    ] {
        let answer = api.post(&olga, "/api/projects", with(more.clone())).await;
        assert_eq!(answer.problem(422), code, "{more}");
        if code == "request.body" {
            let field = more.as_object().unwrap().keys().next().unwrap().clone();
            assert!(answer.json()["detail"].as_str().unwrap().contains(&field), "{}", answer.json());
        }
    }
    for (change, code) in [
        (json!({ "status": "active" }), "request.status"),
        (json!({ "status": "" }), "request.status"),
        (json!({ "whole_database": false }), "request.schema"),
        (json!({ "retention_days": 0 }), "request.retention_days"),
        (json!({ "max_rate": "1023 B" }), "request.max_rate"),
        (json!({ "max_rate": 0 }), "request.max_rate"),
        (json!({ "max_rate": "fast" }), "request.body"),
        (json!({ "max_rate": -1 }), "request.body"),
        (json!({ "database": "none" }), "request.database"),
        (json!({ "id": "other" }), "request.body"),
    ] {
        assert_eq!(api.patch(&olga, "/api/projects/acme", change.clone()).await.problem(422), code, "{change}");
    }
    for path in ["/api/projects/nobody", "/api/projects/a%00b", "/api/projects/..%2facme"] {
        assert_eq!(api.get(&olga, path).await.problem(404), "project.not_found");
        assert_eq!(api.patch(&olga, path, json!({ "name": "x" })).await.problem(404), "project.not_found");
    }
    for id in ["", "../x", "-x", "a b"] {
        let body = json!({ "id": id, "name": "x" });
        assert_eq!(api.post(&olga, "/api/organizations", body).await.problem(422), "request.id");
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.projects").await, 2);
}

#[tokio::test]
async fn projects_come_in_pages_by_id_and_every_change_is_written_down() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    for id in ["p3", "p1", "p2"] {
        api.post(&olga, "/api/projects", json!({ "id": id, "name": id })).await.data(201);
    }
    let (rows, pages) = all_pages(&api, &olga, "/api/projects").await;
    let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!((ids.as_slice(), pages), (&["acme", "globex", "p1", "p2", "p3"][..], 3));
    api.patch(&olga, "/api/projects/p1", json!({ "status": "INACTIVE", "storages": ["first"] })).await.data(200);
    let (inactive, _) = all_pages(&api, &olga, "/api/projects?status=INACTIVE").await;
    assert_eq!(inactive.len(), 1);
    let detail: Value =
        sqlx::query_scalar("SELECT detail FROM control_plane.backup_history WHERE event = 'project_changed'")
            .fetch_one(api.pool())
            .await
            .unwrap();
    assert_eq!(
        detail,
        json!({ "status": { "before": "ACTIVE", "after": "INACTIVE" }, "storages": { "before": [], "after": ["first"] } })
    );
    let told = api.member("p1", &[Permission::Read]);
    assert_eq!(api.get(&told, "/api/projects/p1").await.data(200)["status"], "INACTIVE");
}

#[tokio::test]
async fn tenants_that_nobody_has_enrolled_are_found_and_enrolled() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    api.pool()
        .execute("CREATE SCHEMA tenant_acme; CREATE SCHEMA tenant_new; CREATE SCHEMA \"tenant_o d\"")
        .await
        .unwrap();
    let found = api.post(&olga, "/api/projects/discover", json!({})).await.data(200);
    let of = |schema: &str| found.as_array().unwrap().iter().find(|found| found["schema"] == schema).cloned();
    assert_eq!(of("tenant_acme"), None);
    assert_eq!(of("tenant_new").unwrap()["project_id"], "new");
    assert!(of("tenant_o d").unwrap()["problem"].is_string());
    assert_eq!(api.get(&olga, "/api/projects/new").await.status, 404);
    // Who has only asked for a schema does not hide that nobody looks after it.
    api.post(&admin(&api), "/api/projects", json!({ "id": "mine", "name": "x", "slug": "new" })).await.data(201);
    let asked_for = api.post(&olga, "/api/projects/discover", json!({})).await.data(200);
    assert!(asked_for.as_array().unwrap().iter().any(|found| found["schema"] == "tenant_new"), "{asked_for}");
    api.pool().execute("DELETE FROM control_plane.projects WHERE id = 'mine'").await.unwrap();
    let added = api.post(&olga, "/api/projects/discover", json!({ "add": true })).await.data(200);
    assert_eq!(added.as_array().unwrap().iter().filter(|found| found["added"] == true).count(), 1);
    assert_eq!(api.get(&olga, "/api/projects/new").await.data(200)["schema"], "tenant_new");
}
