//! Swagger UI in a real browser: "Authorize" takes a token, and "Execute" sends it.

use std::time::Duration;

use holdfast::http;
use thirtyfour::{prelude::*, stringmatch::StringMatch};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{api::TestApi, ui::browser::Browser};

async fn clicks(browser: &Browser, css: &str) {
    let query = browser.driver.query(By::Css(css)).wait(Duration::from_secs(20), Duration::from_millis(50));
    query.and_clickable().first().await.unwrap().click().await.unwrap();
}

/// Sends the request of `list_backups` and waits for an answer of this status.
async fn executes(browser: &Browser, status: &str) {
    clicks(browser, "#operations-backup-list_backups .btn.execute").await;
    let answered = "#operations-backup-list_backups .live-responses-table .response .response-col_status";
    let query = browser.driver.query(By::Css(answered)).wait(Duration::from_secs(20), Duration::from_millis(50));
    query.with_text(StringMatch::new(status).partial()).first().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_given_to_authorize_is_sent_by_execute() {
    let api = TestApi::new().await;
    let backup = api.stored_backup("acme", &vec![7; 100].into(), &["first"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(http::serve(api.app.clone(), api.verifier(), listener, stop.clone().cancelled_owned()));
    let browser = Browser::start(&base).await;
    browser.go("/docs/").await;

    clicks(&browser, "#operations-backup-list_backups .opblock-summary-control").await;
    executes(&browser, "401").await;

    clicks(&browser, ".auth-wrapper .btn.authorize").await;
    let field = browser.driver.find(By::Css(".auth-container input")).await.unwrap();
    field.send_keys(api.acme()).await.unwrap();
    clicks(&browser, ".auth-container .btn.authorize").await;
    clicks(&browser, ".auth-container .btn-done").await;
    executes(&browser, "200").await;
    browser.sees(&backup.to_string()).await;

    browser.end().await;
    stop.cancel();
    serving.await.unwrap().unwrap();
}
