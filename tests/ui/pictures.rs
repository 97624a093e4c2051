//! Pictures of every page. Without `HOLDFAST_SCREENSHOTS`, which `make screenshots` sets, the pages are only checked for their width: none is
//! wider than a phone.

use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};
use holdfast::{
    app::App,
    artifact::Format,
    jobs::request::{self, Depth, Export, VerifyRequest},
    manage::{
        channels::{self, NewChannel},
        storages,
    },
    tenant::Role,
};
use serde_json::json;

use super::{
    browser::Browser,
    journey::{Served, tenant},
};
use crate::support::app::{caller, export};

/// Rows as of a platform that has run for three months.
pub const MADE_UP: &str = "
INSERT INTO control_plane.projects (id, name, slug, status, created_at)
SELECT id, name, id, status, now() - interval '200 days' FROM (VALUES
  ('northwind', 'Northwind Traders', 'ACTIVE'), ('initech', 'Initech', 'ACTIVE'), ('umbrella', 'Umbrella Clinics', 'ACTIVE'), ('stark', 'Stark Metals', 'ACTIVE'),
  ('wayne', 'Wayne Logistics', 'ACTIVE'), ('hooli', 'Hooli Search', 'ACTIVE'), ('vandelay', 'Vandelay Imports', 'ACTIVE'), ('soylent', 'Soylent Kitchens', 'INACTIVE')) AS p (id, name, status);
INSERT INTO control_plane.backups (id, project_id, type, format, compression, encryption, status, message, file_name, size, content_size, created_at, started_at, finished_at, expires_at, backup_type, created_by, table_count, row_count, verified_at, verified_depth, manifest)
SELECT gen_random_uuid(), p.id, 'database', 'sql', 'zstd', 'age', CASE WHEN bad THEN 'failed' ELSE 'completed' END, CASE WHEN bad THEN 'pg_dump: error: connection to server was lost while reading table \"events\"' END,
  'backup.sql.zst.age', CASE WHEN bad THEN 0 ELSE base * (100 + 90 - d) / 100 END, base * 4, at, at, at + interval '1 second' * (base / 9000000 + (d * 7) % 23), at + interval '30 days', 'scheduled', 'system:schedule', 42, 182344,
  CASE WHEN (d + hashtext(p.id)) % 9 = 0 AND NOT bad THEN at + interval '1 hour' END, CASE WHEN (d + hashtext(p.id)) % 9 = 0 AND NOT bad THEN 'restore' END, CASE WHEN NOT bad THEN '{}'::jsonb END
FROM (SELECT id, (abs(hashtext(id)) % 900 + 40)::bigint * 1000000 AS base FROM control_plane.projects WHERE id NOT IN ('acme', 'holdfast', 'soylent')) p,
  generate_series(0, 89) d, LATERAL (SELECT now() - interval '5 hours' - d * interval '1 day' + (hashtext(p.id) % 60) * interval '1 minute' AS at, (d IN (13, 14) AND p.id IN ('initech', 'stark')) OR (d = 0 AND p.id = 'umbrella') OR (d < 3 AND p.id = 'vandelay') AS bad) l;
UPDATE control_plane.backups SET proved_at = verified_at, tried_at = verified_at, differences = '[]', recovery_seconds = 60 + size / 5000000 WHERE verified_at IS NOT NULL AND project_id <> 'acme';
INSERT INTO control_plane.backup_copies (backup_id, storage, status, checked_at) SELECT id, 'default', 'good', created_at FROM control_plane.backups WHERE status = 'completed' AND project_id NOT IN ('acme');
INSERT INTO control_plane.backup_copies (backup_id, storage, status, checked_at) SELECT id, 'offsite', 'good', created_at FROM control_plane.backups WHERE status = 'completed' AND project_id NOT IN ('acme', 'hooli');
INSERT INTO control_plane.jobs (id, type, status, project_id, error_message, created_by, created_at, started_at, finished_at, attempts)
SELECT gen_random_uuid(), 'export_backup', b.status, b.project_id, b.message, 'system:schedule', b.created_at, b.started_at, b.finished_at, 1 FROM control_plane.backups b WHERE b.created_at > now() - interval '6 days' AND project_id <> 'acme';
";

/// Bytes over the wire, with their headers (Resource Timing, W3C).
const TRANSFERRED: &str = "return [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')] \
    .reduce((sum, entry) => sum + entry.transferSize, 0)";

/// A storage and a channel of the control plane.
async fn furnish(app: &App) {
    let root = json!({ "type": "local", "root": app.config.data_dir.join("archive") });
    storages::add(app, &caller(), "archive", &serde_json::from_value(root).unwrap()).await.unwrap();
    let hook =
        json!({ "type": "webhook", "url": "https://hooks.example.com/backups", "secret": "16-characters-or-more" });
    let channel = NewChannel {
        name: "On call".to_owned(),
        project_id: None,
        organization_id: None,
        events: Vec::new(),
        enabled: true,
        settings: serde_json::from_value(hook).unwrap(),
    };
    channels::add(app, &caller(), channel).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_looked_at() {
    let wanted = std::env::var_os("HOLDFAST_SCREENSHOTS").map(PathBuf::from);
    let mut served = Served::start().await;
    served.user("olga@example.com", Role::Operator, &[]).await;
    let browser = Browser::start(&served.base).await;
    let pictures = async |pages: &[(String, String)]| {
        if let Some(directory) = &wanted {
            std::fs::create_dir_all(directory).unwrap();
            for page in pages {
                picture(&browser, directory, page).await;
            }
        }
    };
    let named = |pages: &[(&str, &str)]| -> Vec<(String, String)> {
        pages.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect()
    };
    browser.go("/login").await;
    pictures(&named(&[("login", "/login")])).await;
    browser.logs_in("olga@example.com", super::journey::PASSWORD).await;
    browser.sees("First steps").await;
    // Of an installation in which there is nothing yet.
    let first = [
        ("first-overview", "/"),
        ("first-projects", "/projects"),
        ("first-backups", "/backups"),
        ("first-jobs", "/jobs"),
        ("first-schedules", "/schedules"),
        ("first-retention", "/retention"),
        ("first-databases", "/databases"),
        ("first-notices", "/channels"),
        ("first-keys", "/keys"),
    ];
    let first = named(&first);
    pictures(&first).await;
    tenant(&served, "tenant_acme").await;
    served.app.add_schema_project("acme", "tenant_acme").await;
    served.user("gina@example.com", Role::Member, &["northwind", "initech"]).await;
    let backup = served.app.backup(export("acme")).await;
    let custom = served.app.backup(Export { format: Some(Format::Custom), ..export("acme") }).await;
    furnish(&served.app.app).await;
    sqlx::raw_sql(MADE_UP).execute(&served.app.app.pool).await.unwrap();
    holdfast::schedule::open_due(&served.app.app).await.unwrap();
    let restored = served.app.restore(&backup).await;
    let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
    let verified = request::verify(&served.app.app, &caller(), &verify, None).await.unwrap();
    let verified = served.app.run(verified.job_id()).await;
    assert_eq!(verified.status, "completed", "{:?}", verified.error_message);
    served.work();
    let mut pages = named(&[
        ("overview", "/"),
        ("projects", "/projects"),
        ("project", "/projects/northwind"),
        ("project-new", "/projects/new"),
        ("discover", "/projects/discover"),
        ("backups", "/backups"),
        ("restore-choose", "/projects/northwind/restore"),
        ("jobs", "/jobs"),
        ("schedules", "/schedules"),
        ("schedule-new", "/schedules/new?project_id=acme"),
        ("schedule", "/schedules/00000000-0000-0000-0000-000000000000"),
        ("retention", "/retention?project_id=northwind"),
        ("storages", "/storages"),
        ("storage-new", "/storages/new/s3"),
        ("storage-change", "/storages/archive/change"),
        ("databases", "/databases"),
        ("notices", "/channels"),
        ("people", "/people"),
        ("person-new", "/people/new"),
        ("keys", "/keys"),
        ("key-new", "/keys/new"),
        ("audit", "/audit"),
        ("account", "/account"),
        ("database-new", "/databases/new"),
        ("notice-new", "/channels/new/webhook"),
        ("nothing", "/nowhere"),
    ]);
    pages.push(("backup".to_owned(), format!("/backups/{}", backup.id)));
    pages.push(("restore".to_owned(), format!("/backups/{}/restore", custom.id)));
    pages.push(("delete".to_owned(), format!("/backups/{}/delete", backup.id)));
    pages.push(("job-restored".to_owned(), format!("/jobs/{}", restored.id)));
    pages.push(("job-verified".to_owned(), format!("/jobs/{}", verified.id)));
    pages.push(("retention-all".to_owned(), "/retention".to_owned()));
    browser.screen(390, 844).await;
    browser.command("Network.enable", json!({})).await;
    browser.command("Network.setCacheDisabled", json!({ "cacheDisabled": true })).await;
    for (name, path) in &pages {
        browser.go(path).await;
        // As on a first visit: everything that the page needs comes over the wire.
        let bytes = browser.script(TRANSFERRED).await.as_f64().unwrap();
        assert!((1_000.0..150_000.0).contains(&bytes), "{name} takes {bytes} bytes");
        let width = browser.script("return document.documentElement.scrollWidth").await;
        let wide = "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 390 && !e.closest('.scroll')) \
            .map(e => e.outerHTML.slice(0, 200)).join('\\n')";
        let is_narrow = width.as_i64().is_some_and(|width| width <= 390);
        assert!(is_narrow, "{name} is {width} wide on a phone: {}", browser.script(wide).await);
    }
    pictures(&pages).await;
    browser.end().await;
    served.end().await;
}

/// Of one page, in both themes and at a phone's width.
async fn picture(browser: &Browser, directory: &std::path::Path, (name, path): &(String, String)) {
    for (kind, width, height, theme) in
        [("light", 1360, 900, "light"), ("dark", 1360, 900, "dark"), ("phone", 390, 844, "light")]
    {
        browser.screen(width, height).await;
        browser.theme(theme).await;
        browser.go(path).await;
        let whole =
            browser.script("return document.documentElement.scrollHeight").await.as_u64().unwrap_or(900).min(2400);
        browser.screen(width, (whole as u32).max(height)).await;
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        let shot = browser.command("Page.captureScreenshot", json!({ "format": "png" })).await;
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(directory.join(format!("{name}-{kind}.png")), bytes).unwrap();
    }
}
