//! What the pages of a backup, its restores and its jobs say and do, over real dumps: without a browser, as reading works without scripts.

use axum::{Router, body::Body, http::Request};
use holdfast::{artifact::Format, auth::jwt::Verifier, http, ids::JobId, jobs::request::Export, tenant::Role};
use sqlx::Executor;
use tower::ServiceExt;

use super::{
    form,
    journey::{PASSWORD, Served, tenant},
    text, visit,
};
use crate::{api::Answer, support::app::export};

struct Scene {
    served: Served,
    router: Router,
}

impl Scene {
    async fn new() -> Self {
        let served = Served::start().await;
        tenant(&served, "tenant_acme").await;
        served.app.add_schema_project("acme", "tenant_acme").await;
        sqlx::query("UPDATE control_plane.projects SET name = 'Acme Tools' WHERE id = 'acme'")
            .execute(&served.app.app.pool)
            .await
            .unwrap();
        let app = served.app.app.clone();
        let verifier = Verifier::new(&app.keys.jwt_secret, &app.config.auth, app.clock.clone()).unwrap();
        Self { router: http::router(app, verifier), served }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn log_in(&self, name: &str, role: Role, projects: &[&str]) -> String {
        self.served.user(name, role, projects).await;
        let answer = self.send(form("/login", &[("name", name), ("password", PASSWORD)], None)).await;
        answer.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    async fn page(&self, path: &str, cookie: &str) -> String {
        let answer = self.send(visit(path, Some(cookie))).await;
        assert_eq!(answer.status, 200, "{path}: {}", text(&answer));
        text(&answer)
    }

    /// Sends a form that makes a job, and works on that to its end. The job's page.
    async fn does(&self, path: &str, fields: &[(&str, &str)], cookie: &str) -> String {
        let answer = self.send(form(path, fields, Some(cookie))).await;
        assert_eq!(answer.status, 303, "{path} {fields:?}: {}", text(&answer));
        let job = answer.headers["location"].to_str().unwrap().to_owned();
        let id: JobId = job.strip_prefix("/jobs/").unwrap().parse().unwrap();
        let ended = self.served.app.run(id).await;
        assert_eq!(ended.status, "completed", "{path} {fields:?}: {:?}", ended.error_message);
        self.page(&job, cookie).await
    }

    async fn refuses(&self, path: &str, fields: &[(&str, &str)], cookie: &str, field: &str, words: &str) {
        let answer = self.send(form(path, fields, Some(cookie))).await;
        let page = text(&answer);
        assert_eq!(answer.status, 422, "{page}");
        assert!(page.contains(&format!("id=\"f-{field}-error\"")) && page.contains(words), "{fields:?}: {page}");
        for (name, value) in fields.iter().filter(|(name, _)| matches!(*name, "to" | "database" | "schema")) {
            assert!(page.contains(&format!("name=\"{name}\" value=\"{value}\"")), "{name} stays: {page}");
        }
    }

    async fn rows_of(&self, table: &str) -> i64 {
        let mut connection = self.served.app.tenants().await;
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }
}

#[tokio::test]
async fn a_restore_leads_where_the_wizard_says_and_is_offered_to_those_who_may() {
    let scene = Scene::new().await;
    let operator = scene.log_in("olga", Role::Operator, &[]).await;
    let member = scene.log_in("mia", Role::Member, &["acme"]).await;
    let custom = Export { format: Some(Format::Custom), ..export("acme") };
    let (text_dump, custom) = (scene.served.app.backup(export("acme")).await, scene.served.app.backup(custom).await);
    let wizard = format!("/backups/{}/restore", custom.id);

    // What is offered is what the API takes from this visitor, for this backup.
    let page = scene.page(&wizard, &operator).await;
    for way in ["place", "tables", "schema", "database"] {
        assert!(page.contains(&format!("type=\"radio\" name=\"to\" value=\"{way}\"")), "{way}: {page}");
    }
    assert!(page.contains("name=\"tables\" value=\"orders\"") && page.contains("What it replaces"), "{page}");
    let page = scene.page(&wizard, &member).await;
    assert!(page.contains("value=\"tables\"") && !page.contains("value=\"schema\""), "{page}");
    let page = scene.page(&format!("/backups/{}/restore", text_dump.id), &member).await;
    assert!(!page.contains("type=\"radio\"") && page.contains("in the format custom or tar"), "{page}");

    // What is missing is said beside its field, and what was chosen stays.
    let id = ("confirm", "acme");
    scene.refuses(&wizard, &[("to", "tables"), id], &operator, "tables", "choose one or more").await;
    scene.refuses(&wizard, &[("to", "schema"), id], &operator, "schema", "type a name").await;
    scene.refuses(&wizard, &[("to", "database"), id], &operator, "database", "type a name").await;
    let taken = [("to", "schema"), ("schema", "tenant_acme"), id];
    scene.refuses(&wizard, &taken, &operator, "schema", "acme").await;
    let other = [("to", "schema"), ("schema", "copy_of_acme"), ("confirm", "globex")];
    scene.refuses(&wizard, &other, &operator, "confirm", "not the project").await;

    // A copy under another name; the project is named by its name as well.
    let mut connection = scene.served.app.tenants().await;
    connection.execute("DELETE FROM tenant_acme.orders WHERE id > 10").await.unwrap();
    let copy = [("to", "schema"), ("schema", "copy_of_acme"), ("confirm", "Acme Tools")];
    let page = scene.does(&wizard, &copy, &operator).await;
    assert!(page.contains("Restored, and proved") && page.contains("schema copy_of_acme"), "{page}");
    assert!(!page.contains("Undo the restore"), "nothing was replaced: {page}");
    assert_eq!((scene.rows_of("copy_of_acme.orders").await, scene.rows_of("tenant_acme.orders").await), (2000, 10));

    // Single tables, by a member.
    let page = scene.does(&wizard, &[("to", "tables"), ("tables", "orders"), id], &member).await;
    assert!(page.contains("schema hf_tables_"), "{page}");
    assert_eq!(scene.rows_of("tenant_acme.orders").await, 10);

    // Another database, as it was asked for.
    let elsewhere =
        [("to", "database"), ("database", "staging_of_acme"), ("create", "1"), ("schema", "tenant_staging"), id];
    let answer = scene.send(form(&wizard, &elsewhere, Some(&operator))).await;
    assert_eq!(answer.status, 303, "{}", text(&answer));
    let asked: serde_json::Value =
        sqlx::query_scalar("SELECT payload->'request' FROM control_plane.jobs WHERE status = 'pending'")
            .fetch_one(&scene.served.app.app.pool)
            .await
            .unwrap();
    assert_eq!(
        (&asked["target_database"], &asked["target_schema"], &asked["create_database"]),
        (&"staging_of_acme".into(), &"tenant_staging".into(), &true.into())
    );
    sqlx::query("UPDATE control_plane.jobs SET status = 'cancelled' WHERE status = 'pending'")
        .execute(&scene.served.app.app.pool)
        .await
        .unwrap();

    // In place, with the undo.
    let page = scene.does(&wizard, &[("to", "place"), id], &member).await;
    assert!(page.contains("Restored, and proved") && page.contains("Undo the restore"), "{page}");
    assert_eq!(scene.rows_of("tenant_acme.orders").await, 2000);
    scene.served.end().await;
}

#[tokio::test]
async fn a_backups_page_tells_its_copies_proof_needs_and_history_and_every_depth_verifies_it() {
    let scene = Scene::new().await;
    let cookie = scene.log_in("olga", Role::Operator, &[]).await;
    let backup = scene.served.app.backup(export("acme")).await;
    let path = format!("/backups/{}", backup.id);
    let page = scene.page(&path, &cookie).await;
    assert!(page.contains("Not proved by a restore yet") && page.contains("digest of every table"), "{page}");
    assert!(page.contains("It needs") && page.contains("The manifest") && page.contains("manifest_version"), "{page}");
    assert!(
        page.contains("Without Holdfast") && page.contains("psql -v ON_ERROR_STOP=1 -1 -d DATABASE -f dump.sql"),
        "{page}"
    );
    assert!(page.contains("requested") && page.contains("completed"), "its history: {page}");
    // Of one storage, these very bytes.
    let copy = page.split("href=\"").find_map(|part| part.split_once("/download?from=")).unwrap();
    let storage = copy.1.split('"').next().unwrap();
    let bytes = scene.send(visit(&format!("{path}/download?from={storage}"), Some(&cookie))).await;
    assert_eq!((bytes.status.as_u16(), bytes.body.len() as i64), (200, backup.size));
    assert_eq!(scene.send(visit(&format!("{path}/download?from=nowhere"), Some(&cookie))).await.status, 409);

    let verify = format!("{path}/verify");
    let page = scene.does(&verify, &[("depth", "head")], &cookie).await;
    assert!(page.contains("The sizes are as they were recorded"), "{page}");
    let page = scene.does(&verify, &[("depth", "read")], &cookie).await;
    assert!(page.contains("Every byte is as it was recorded"), "{page}");
    assert!(page.contains("<dt>Tables</dt><dd>2</dd>") && page.contains("<dt>Rows</dt><dd>2,002</dd>"), "{page}");
    let page = scene.does(&verify, &[("depth", "restore")], &cookie).await;
    assert!(page.contains("Proved: it can be restored") && page.contains("A recovery takes"), "{page}");

    // What was measured is told wherever one asks whether the project is safe.
    let seconds: f64 = sqlx::query_scalar("SELECT recovery_seconds FROM control_plane.backups WHERE id = $1")
        .bind(backup.id)
        .fetch_one(&scene.served.app.app.pool)
        .await
        .unwrap();
    let measured = format!("title=\"{seconds:.3} seconds");
    for at in ["/", "/projects", "/projects/acme", path.as_str()] {
        let page = scene.page(at, &cookie).await;
        assert!(page.contains(&measured) && page.contains("ecovery takes"), "{at}: {page}");
    }
    let page = scene.page(&path, &cookie).await;
    assert!(page.contains("Proved by a trial restore") && page.contains("outcome good"), "{page}");
    assert!(page.contains("brought everything back") && !page.contains("last verified by a restore"), "once: {page}");

    // Differences are named.
    sqlx::query("UPDATE control_plane.backups SET differences = '[\"table <orders>: 3 rows are missing\"]'")
        .execute(&scene.served.app.app.pool)
        .await
        .unwrap();
    let page = scene.page(&path, &cookie).await;
    assert!(page.contains("The last trial restore found differences") && page.contains("outcome warn"), "{page}");
    assert!(page.contains("table &#60;orders&#62;: 3 rows are missing"), "{page}");

    // It brings itself up to date, and is made anew when its state has changed.
    assert!(page.contains(&format!("hx-get=\"{path}?state=completed\"")), "{page}");
    let part = |state: &str| {
        let mut request = visit(&format!("{path}?state={state}"), Some(&cookie));
        request.headers_mut().insert("hx-request", "true".parse().unwrap());
        request
    };
    assert!(!scene.send(part("completed")).await.headers.contains_key("hx-refresh"));
    assert_eq!(scene.send(part("in_progress")).await.headers["hx-refresh"], "true");
    scene.served.end().await;
}

#[tokio::test]
async fn a_jobs_page_tells_bytes_rate_stage_tables_and_storages_while_it_runs() {
    let scene = Scene::new().await;
    let cookie = scene.log_in("olga", Role::Operator, &[]).await;
    let last = scene.served.app.backup(export("acme")).await;
    let pool = &scene.served.app.app.pool;
    let id = JobId::generate();
    sqlx::query(
        "INSERT INTO control_plane.jobs (id, type, status, project_id, created_by, attempts, started_at, progress)
         VALUES ($1, 'export_backup', 'in_progress', 'acme', 'olga', 2, now() - interval '100 seconds', $2)",
    )
    .bind(id.0)
    .bind(serde_json::json!({
        "stage": "dumping", "content_bytes": 209_715_200, "stored_bytes": 52_428_800,
        "storages": { "near": { "stored_bytes": 52_428_800, "state": "uploading" }, "far": { "stored_bytes": 1, "state": "failed", "message": "no room" } },
    }))
    .execute(pool)
    .await
    .unwrap();
    let page = scene.page(&format!("/jobs/{id}"), &cookie).await;
    for said in ["dumping", "200 MiB", "50 MiB", "2.0 MiB</span>/s", "into <bdi>near</bdi>", "no room", "attempt 2 of"]
    {
        assert!(page.contains(said), "{said}: {page}");
    }
    // How much there will be is known from the last time.
    let expected = last.content_size.unwrap();
    assert!(page.contains("<dt>Tables</dt><dd>2 the last time</dd>") && page.contains("Read the last time"), "{page}");
    assert!(page.contains(&format!("/live?of={expected}")) && page.contains(&format!("max=\"{expected}\"")), "{page}");
    let part = scene.page(&format!("/jobs/{id}/live?of={expected}"), &cookie).await;
    assert!(part.contains(&format!("max=\"{expected}\"")) && !part.contains("<html"), "{part}");
    // A restore knows the whole.
    sqlx::query("UPDATE control_plane.jobs SET type = 'restore_backup', progress = $2 WHERE id = $1")
        .bind(id.0)
        .bind(serde_json::json!({ "stage": "fetching", "stored_bytes": 300, "total_bytes": 1200 }))
        .execute(pool)
        .await
        .unwrap();
    let part = scene.page(&format!("/jobs/{id}/live"), &cookie).await;
    assert!(part.contains("value=\"300\" max=\"1200\"") && part.contains("fetching"), "{part}");
    scene.served.end().await;
}
