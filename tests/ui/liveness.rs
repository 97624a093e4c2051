//! A browser that stays: pages bring themselves up to date without moving under the reader, say when the server is gone, and lose nothing when the
//! session ends.

use std::time::{Duration, Instant};

use holdfast::{ids::JobId, tenant::Role};
use serde_json::{Value, json};

use super::{
    browser::Browser,
    journey::{PASSWORD, Served},
    pictures::MADE_UP,
};

/// Counts how far things move (Layout Instability, W3C) and how often parts of the page are swapped.
const WATCH: &str = "window.moved = 0; window.swaps = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.moved += entry.value; }).observe({ type: 'layout-shift' });
    document.addEventListener('htmx:afterSettle', () => { window.swaps += 1; }); return true;";

/// Where everything stands that is shown.
const PLACES: &str = "return [...document.querySelectorAll(arguments_selector)].map((e) => { const r = e.getBoundingClientRect(); \
    return e.tagName + ' ' + [r.x, r.y + scrollY, r.width, r.height].map(Math.round).join(' '); })";

async fn places(browser: &Browser, selector: &str) -> Value {
    browser.script(&PLACES.replace("arguments_selector", &format!("{selector:?}"))).await
}

/// Waits until what was swapped is painted, and how far things moved is known.
async fn moved(browser: &Browser) -> Option<f64> {
    let wait = "const done = arguments[arguments.length - 1]; \
        requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => done(window.moved), 0)))";
    browser.driver.execute_async(wait, Vec::<Value>::new()).await.unwrap().json().as_f64()
}

async fn swapped(browser: &Browser, times: i64) {
    browser
        .until("the page to bring itself up to date", async || {
            browser.script("return window.swaps").await.as_i64().is_some_and(|swaps| swaps >= times)
        })
        .await;
}

async fn set_progress(served: &Served, id: JobId, progress: Value) {
    sqlx::query("UPDATE control_plane.jobs SET progress = $2 WHERE id = $1")
        .bind(id.0)
        .bind(progress)
        .execute(&served.app.app.pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_stay_in_place_while_they_are_brought_up_to_date_and_say_when_the_server_is_gone() {
    let mut served = Served::start().await;
    served.user("olga", Role::Operator, &[]).await;
    let pool = served.app.app.pool.clone();
    sqlx::raw_sql(MADE_UP).execute(&pool).await.unwrap();
    let backup: uuid::Uuid = sqlx::query_scalar(
        "SELECT id FROM control_plane.backups WHERE project_id = 'northwind' AND status = 'completed' LIMIT 1",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let id = JobId::generate();
    sqlx::query(
        "INSERT INTO control_plane.jobs (id, type, status, project_id, created_by, created_at, started_at, lease_expires_at)
         VALUES ($1, 'export_backup', 'in_progress', 'northwind', 'olga', now() - interval '5 hours 20 minutes',
                 now() - interval '5 hours 20 minutes', now() + interval '1 hour')",
    )
    .bind(id.0)
    .execute(&pool)
    .await
    .unwrap();
    let browser = Browser::start(&served.base).await;
    browser.go("/login").await;
    browser.logs_in("olga", PASSWORD).await;
    browser.sees("projects").await;

    // Each page asks for its live part once more: everything stands where it stood.
    let of_backup = format!("/backups/{backup}");
    for path in ["/", "/projects", "/projects/northwind", "/backups", of_backup.as_str(), "/jobs"] {
        browser.go(path).await;
        browser.script(WATCH).await;
        let before = places(&browser, "main *").await;
        browser.script("const live = document.getElementById('live'); htmx.ajax('GET', live.getAttribute('hx-get'), { source: live, target: live, select: '#live', swap: 'outerHTML' }); return true;").await;
        swapped(&browser, 1).await;
        let after = places(&browser, "main *").await;
        assert!(before.as_array().is_some_and(|places| places.len() > 20), "{path}: {before}");
        assert_eq!(before, after, "{path}");
        assert_eq!(moved(&browser).await, Some(0.0), "{path}");
    }

    // A job's page, from the first byte to the last storage.
    let parts = "main h1, main h2, .progress, .log, .facts, .stage";
    browser.go(&format!("/jobs/{id}")).await;
    browser.script(WATCH).await;
    let before = places(&browser, parts).await;
    for (round, progress) in [
        json!({ "stage": "dumping", "content_bytes": 1000 }),
        json!({ "stage": "dumping", "content_bytes": 1_234_567_890, "stored_bytes": 345_678, "tables_done": 3, "tables": 12, "storages": { "default": { "stored_bytes": 345_678 } } }),
        json!({ "stage": "publishing", "content_bytes": 1_234_567_890_123_i64, "stored_bytes": 345_678_901,
                "storages": { "default": { "stored_bytes": 345_678_901 }, "offsite": { "stored_bytes": 9 } } }),
    ]
    .into_iter()
    .enumerate()
    {
        let stage = progress["stage"].as_str().unwrap().to_owned();
        set_progress(&served, id, progress).await;
        browser.sees(&stage).await;
        if round == 1 {
            browser.sees("3 of 12").await;
        }
        swapped(&browser, 2 * round as i64 + 2).await;
    }
    browser.sees("into offsite").await;
    assert_eq!(places(&browser, parts).await, before);
    assert_eq!(moved(&browser).await, Some(0.0));

    // The server is gone, and comes back: the page says so, and goes on by itself.
    served.gone().await;
    browser.sees("The server cannot be reached").await;
    set_progress(&served, id, json!({ "stage": "reading back", "content_bytes": 5 })).await;
    served.back().await;
    browser.sees("reading back").await;
    browser.until("the warning to go", async || !browser.text().await.contains("cannot be reached")).await;
    // So does a page without live parts.
    browser.go("/account").await;
    served.gone().await;
    browser.sees("The server cannot be reached").await;
    served.back().await;
    browser.until("the warning to go", async || !browser.text().await.contains("cannot be reached")).await;

    // The session ends while a page is open, and in the middle of a form.
    browser.go(&format!("/jobs/{id}")).await;
    browser.driver.delete_all_cookies().await.unwrap();
    browser.sees("Your session has ended").await;
    browser.script("document.querySelector('#away a').click(); return true;").await;
    browser.arrives("/login?next=").await;
    browser.logs_in("olga", PASSWORD).await;
    browser.arrives(&format!("/jobs/{id}")).await;
    browser.go("/schedules/new?project_id=northwind").await;
    browser.types("name", "by night <b>").await;
    browser.types("cron", "7 3 * * *").await;
    browser.sees("At 03:07").await;
    browser.driver.delete_all_cookies().await.unwrap();
    browser.clicks("Save").await;
    browser.sees("what you typed is kept").await;
    browser.logs_in("olga", PASSWORD).await;
    browser.sees("Nothing was lost").await;
    browser.sees("by night <b>").await;
    browser.clicks("Go on").await;
    browser.sees("The schedule is added.").await;
    browser.sees("by night <b>").await;

    // A key is made once, however often the page that shows it is loaded again.
    browser.go("/keys/new").await;
    browser.types("name", "ci").await;
    browser.types("project_ids", "northwind").await;
    // What is typed is not lost to a server that is gone.
    served.gone().await;
    browser.clicks("Make the key").await;
    browser.sees("nothing was sent").await;
    assert_eq!(browser.script("return document.getElementById('f-name').value").await, "ci");
    served.back().await;
    browser.clicks("Make the key").await;
    browser.sees("It is not shown again").await;
    let _ = browser.driver.refresh().await;
    let began = Instant::now();
    // The browser asks whether the form is to be sent again.
    while began.elapsed() < Duration::from_secs(20) && !browser.text().await.contains("This was sent before") {
        let _ = browser.driver.accept_alert().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    browser.sees("This was sent before").await;
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.api_keys").fetch_one(&pool).await.unwrap();
    assert_eq!(keys, 1);
    browser.end().await;
    served.end().await;
}
