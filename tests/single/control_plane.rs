//! The control plane as a project: for operators, without secrets, and never restored over itself.

use axum::http::Method;
use holdfast::{
    catalog::{self, CatalogError, NewProject, ProjectScope},
    child::Command,
    config::DatabaseConfig,
    db,
    history::Backup,
    ids::CONTROL_PLANE_PROJECT,
    jobs::{
        catalog::{Adopt, Rebuild},
        request::{self, Depth, VerifyRequest},
    },
    postgres::{
        connect::ConnectInfo,
        tools::{ChildEnvironment, ClientTool},
    },
    tenant::{Permission, Role},
};
use serde_json::json;
use sqlx::Executor;

use super::{
    scene::Scene,
    support::{
        self,
        app::{caller, everything, export},
    },
};

const CANARY: &str = "canary-4f1c";

/// A secret in every place that has one, and things that are none beside them.
async fn with_secrets(scene: &Scene) {
    let statements = format!(
        "INSERT INTO control_plane.users (name, password_hash, enrolled_at) VALUES ('ada', '$argon2id${CANARY}', now());
         INSERT INTO control_plane.api_keys (id, name, secret_sha256) VALUES (gen_random_uuid(), '{CANARY}', '\\x63616e617279');
         INSERT INTO control_plane.sessions (id, user_id, expires_at)
             VALUES ('ca9a4700-0000-4000-8000-000000000000', gen_random_uuid(), now() + interval '1 hour');
         INSERT INTO control_plane.databases (name, url_sealed) VALUES ('other', 'sealed {CANARY}');
         INSERT INTO control_plane.setup_tokens (token_sha256, expires_at) VALUES ('\\x{hex}', now());
         CREATE TABLE control_plane.billing (id int, stripe_secret text);
         INSERT INTO control_plane.billing VALUES (1, '{CANARY}');
         INSERT INTO control_plane.projects (id, name, slug) VALUES ('acme', 'Acme Ltd', 'acme');
         INSERT INTO control_plane.project_logs (project_id, message) VALUES ('acme', 'a line that stays')",
        hex = "63616e6172792d34663163",
    );
    scene.test.app.pool.execute(sqlx::AssertSqlSafe(statements)).await.unwrap();
}

async fn backup(scene: &Scene) -> Backup {
    scene.test.backup(export(CONTROL_PLANE_PROJECT)).await
}

async fn psql(info: &ConnectInfo, file: &std::path::Path) {
    let tool = support::tools().await.client(ClientTool::Psql, 140_000).unwrap();
    let environment = ChildEnvironment::new(info, &[]).unwrap();
    let command = Command::new(tool.path)
        .args(["-X", "-q", "-1", "--set=ON_ERROR_STOP=1"])
        .arg(format!("--file={}", file.display()));
    let exit = environment.apply(command).spawn().await.unwrap().wait().await.unwrap();
    assert!(exit.status.success(), "{}", exit.stderr);
}

/// As the page on recovery says.
async fn end_what_was_waiting(target: &ConnectInfo) {
    let page = std::fs::read_to_string(support::checkout().join("docs/recovery.md")).unwrap();
    let section = page.split("## The control plane itself").nth(1).unwrap();
    let sql = section.split("```sql").nth(1).unwrap().split("```").next().unwrap().to_owned();
    let mut connection = support::connect(target).await;
    let open = "SELECT count(*) FROM control_plane.jobs WHERE status IN ('pending', 'in_progress')";
    let before: i64 = sqlx::query_scalar(open).fetch_one(&mut connection).await.unwrap();
    assert_eq!(before, 1, "the job that took it was running");
    connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    let after: i64 = sqlx::query_scalar(open).fetch_one(&mut connection).await.unwrap();
    assert_eq!(after, 0);
}

#[tokio::test]
async fn it_is_backed_up_without_a_secret_and_comes_back_in_an_empty_database() {
    let scene = Scene::new().await;
    with_secrets(&scene).await;
    let backup = backup(&scene).await;
    let file = scene.stored(backup.file_id.as_ref().unwrap());
    let dump = std::fs::read_to_string(&file).unwrap();
    for secret in [CANARY, "63616e617279", "ca9a4700"] {
        assert!(!dump.contains(secret), "{secret} is in the artifact");
    }
    assert!(
        dump.contains("Acme Ltd")
            && dump.contains("a line that stays")
            && dump.contains("CREATE TABLE control_plane.users")
    );
    let manifest = backup.manifest().unwrap();
    let counted = &manifest.body.database().unwrap().tables;
    let rows = |table: &str| counted.iter().find(|counted| counted.table == table).unwrap().rows;
    assert_eq!((rows("projects"), rows("users"), rows("billing")), (2, 0, 0));

    let target = support::fresh_database("recovered").await;
    psql(&target, &file).await;
    end_what_was_waiting(&target).await;
    let pool = db::connect(&target, &DatabaseConfig::default()).await.unwrap();
    db::migrate(&pool).await.unwrap();
    assert_eq!(db::pending(&pool).await.unwrap(), 0);
    let projects = catalog::projects(&pool, &everything()).await.unwrap();
    let ids: Vec<&str> = projects.iter().map(|project| project.id.as_str()).collect();
    assert_eq!(ids, ["acme", CONTROL_PLANE_PROJECT]);
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.users").fetch_one(&pool).await.unwrap();
    assert_eq!(users, 0);
    // It goes on from here: numbers and ids are not given twice.
    sqlx::query("INSERT INTO control_plane.project_logs (project_id, message) VALUES ('acme', 'after')")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("SELECT * FROM public.backups").execute(&pool).await.unwrap();
}

#[tokio::test]
async fn it_is_for_operators_whatever_a_token_says() {
    let scene = Scene::new().await;
    let body = json!({ "project_id": CONTROL_PLANE_PROJECT });
    let member = scene.token("mallory", Permission::ALL, &[CONTROL_PLANE_PROJECT], Role::Member);
    let refused = scene.send_as(&member, Method::POST, "/api/backup/export", Some(body.clone())).await;
    assert_eq!(refused.problem(404), "project.not_found");
    scene.send(Method::POST, "/api/backup/export", Some(body.clone())).await.data(202);
    scene.work().await;
    let refused = scene.send_as(&member, Method::POST, "/api/backup/export", Some(body)).await;
    assert_eq!(refused.problem(404), "project.not_found");
    assert_eq!(scene.send_as(&member, Method::GET, "/api/backup", None).await.data(200), json!([]));
    let listed = scene.send(Method::GET, "/api/backup", None).await.data(200);
    assert_eq!(listed[0]["project_id"], CONTROL_PLANE_PROJECT);
    let path = format!("/api/backup/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(scene.send_as(&member, Method::GET, &path, None).await.problem(404), "backup.not_found");

    let restore = json!({ "backup_id": listed[0]["id"], "confirm": true });
    let refused = scene.send(Method::POST, "/api/backup/restore", Some(restore)).await;
    assert_eq!(refused.problem(409), "restore.control_plane");
    assert!(refused.json()["hint"].as_str().unwrap().contains("docs/recovery.md"));
}

#[tokio::test]
async fn its_backup_is_proved_like_others() {
    let scene = Scene::new().await;
    with_secrets(&scene).await;
    let backup = backup(&scene).await;
    for depth in [Depth::Read, Depth::Restore] {
        let request = VerifyRequest { backup_id: backup.backup_id(), depth };
        let job = request::verify(&scene.test.app, &caller(), &request, None).await.unwrap();
        let job = scene.test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{depth}: {:?}", job.error_message);
        let result = job.result.unwrap();
        assert_eq!((&result["outcome"], &result["differences"]), (&json!("verified"), &json!([])), "{depth}");
    }
}

#[tokio::test]
async fn a_lost_control_plane_finds_its_own_backup_again() {
    let scene = Scene::new().await;
    with_secrets(&scene).await;
    let lost = backup(&scene).await;
    let root = scene.stored("");
    let seal = scene.test.app.keys.seals.key().unwrap().public().to_string();
    let new = Scene::with(|config| {
        config.seal.accepted_keys = vec![seal];
        let local = holdfast::config::LocalStorageConfig::new(root);
        config.storages.insert("local".to_owned(), holdfast::config::StorageConfig::Local(local));
    })
    .await;
    let rebuilt = Rebuild::new(&new.test.app, &caller(), Adopt::Everything, false).storage("local").await.unwrap();
    assert_eq!((rebuilt.backups, rebuilt.problems.len()), (1, 0), "{rebuilt:?}");
    let found = holdfast::history::get(&new.test.app.pool, &everything(), lost.backup_id()).await.unwrap();
    assert_eq!((found.project_id.as_str(), found.status.as_str()), (CONTROL_PLANE_PROJECT, "completed"));
}

#[tokio::test]
async fn no_tenant_takes_its_place_or_its_schema() {
    let scene = Scene::new().await;
    let new = NewProject {
        id: CONTROL_PLANE_PROJECT.parse().unwrap(),
        name: "mallory".to_owned(),
        slug: None,
        organization_id: None,
        scope: ProjectScope::Schema("tenant_mallory".to_owned()),
        database_name: None,
    };
    let refused = catalog::add_project(&scene.test.app.pool, &new).await.unwrap_err();
    assert!(matches!(refused, CatalogError::ProjectExists(_)), "{refused}");
    scene.test.add_schema_project("mallory", "control_plane").await;
    let job = scene.test.back_up(export("mallory")).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("is no tenant's"));
    assert!(scene.test.stored_files().is_empty());
}
