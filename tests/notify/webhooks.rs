//! Webhooks: signed, bounded, and not led astray.

use std::{io::Write as _, process::Stdio, time::Duration};

use holdfast::{
    catalog::{self, Settings},
    config::Secret,
    notify::signature,
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{
    Scene, given_up, later,
    receiver::{Receiver, Reply},
    sent,
};
use crate::support;

const SECRET: &str = "canary-of-a-webhook";

fn hook(url: &str) -> Value {
    json!({ "type": "webhook", "url": url, "secret": SECRET })
}

/// The receiver's code of docs/notices.md.
fn example() -> String {
    let page = std::fs::read_to_string(support::checkout().join("docs/notices.md")).unwrap();
    let (_, code) = page.split_once("```python\n").expect("an example in Python");
    code.split_once("```").unwrap().0.to_owned()
}

/// Runs the example on a request.
fn checks(headers: &Value, body: &[u8], now: i64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("receiver.py"), example()).unwrap();
    let program = "import json, sys\nfrom receiver import is_genuine\n\
         asked = json.loads(sys.argv[1])\n\
         print(is_genuine(asked['secret'], asked['headers'], sys.stdin.buffer.read(), now=asked['now']))\n";
    let asked = json!({ "secret": SECRET, "headers": headers, "now": now }).to_string();
    let mut child = std::process::Command::new("python3")
        .args(["-c", program, &asked])
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    match String::from_utf8(output.stdout).unwrap().trim() {
        "True" => true,
        "False" => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_request_is_signed_and_the_documented_example_checks_it() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::with(|config| config.notify.public_url = Some("https://b.example/".parse().unwrap())).await;
    scene.channel("hook", None, hook(&receiver.url())).await;
    scene.fails("1", None).await;
    assert_eq!(scene.send().await, sent(1));
    let seen = receiver.seen().remove(0);
    let header = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
    let now = scene.test.app.clock.now().timestamp();
    assert_eq!(header("holdfast-timestamp"), now.to_string());
    assert_eq!(header("holdfast-signature"), signature(&Secret::new(SECRET), now, &seen.body));
    assert_eq!((header("holdfast-event").as_str(), header("content-type").as_str()), ("failed", "application/json"));
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["id"], header("holdfast-delivery"));
    assert_eq!(body["project"], json!({ "id": "acme", "name": "acme" }));
    assert_eq!((&body["event"], &body["at"]), (&json!("failed"), &json!("2026-11-21T04:00:00Z")));
    assert_eq!(
        (&body["text"], &body["link"]),
        (&json!("Backup FAILED of acme"), &json!("https://b.example/projects/acme"))
    );

    let headers = json!({
        "Holdfast-Timestamp": header("holdfast-timestamp"), "Holdfast-Signature": header("holdfast-signature"),
    });
    assert!(checks(&headers, &seen.body, now));
    assert!(checks(&headers, &seen.body, now + 299));
    assert!(!checks(&headers, &seen.body, now + 301), "an old request that somebody sends again");
    let mut other = seen.body.to_vec();
    other.push(b' ');
    assert!(!checks(&headers, &other, now), "another body");
    let mut moved = headers.clone();
    moved["Holdfast-Timestamp"] = json!((now + 1).to_string());
    assert!(!checks(&moved, &seen.body, now), "another time");
    assert!(!checks(&json!({}), &seen.body, now));
}

#[tokio::test]
async fn a_receiver_that_fails_hangs_redirects_or_never_ends_harms_nobody() {
    let elsewhere = Receiver::start([]).await;
    let wait = Duration::from_secs(1);
    for (reply, expected, said) in [
        (Reply::Status(500), later(1), "answered 500"),
        (Reply::Status(429), later(1), "answered 429"),
        (Reply::Status(404), given_up(1), "answered 404"),
        (Reply::Redirect(elsewhere.url()), given_up(1), "redirections are not followed"),
        (Reply::Hang, later(1), "no answer in time"),
        (Reply::Endless, sent(1), ""),
    ] {
        let receiver = Receiver::start([reply.clone()]).await;
        let scene = Scene::with(|config| config.notify.timeout_seconds = wait.as_secs()).await;
        scene.channel("hook", None, hook(&receiver.url())).await;
        scene.fails("1", None).await;
        let begun = std::time::Instant::now();
        assert_eq!(scene.send().await, expected, "{reply:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{reply:?}");
        let row = scene.rows().await.remove(0);
        let error = row.last_error.unwrap_or_default();
        assert!(error.contains(said), "{reply:?}: {error}");
        assert!(!error.contains("canary"), "{error}");
        if expected == later(1) {
            scene.advance(13);
            assert_eq!(scene.send().await, sent(1), "{reply:?}");
            let ids: Vec<_> = receiver.seen().iter().map(|seen| seen.headers["holdfast-delivery"].clone()).collect();
            assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
        }
    }
    assert!(elsewhere.seen().is_empty());

    // Told when to come back, it is not asked before.
    let receiver = Receiver::start([Reply::After(503, 1_800)]).await;
    let scene = Scene::with(|_| {}).await;
    scene.channel("hook", None, hook(&receiver.url())).await;
    scene.fails("1", None).await;
    assert_eq!(scene.send().await, later(1));
    scene.advance(1_799);
    assert_eq!(scene.send().await, sent(0));
    scene.advance(1);
    assert_eq!(scene.send().await, sent(1));
}

#[tokio::test]
async fn a_tenants_webhook_reaches_nothing_inside() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::with(|_| {}).await;
    for name in ["a", "b"] {
        let url = receiver.url().replace("http:", if name == "a" { "http:" } else { "https:" });
        let id = scene.channel(name, Some("acme"), hook("https://example.com/")).await;
        // As when the address was checked, and something has changed since.
        let settings: Settings = serde_json::from_value(hook(&url)).unwrap();
        let sealed = catalog::seal_channel(&scene.test.app.keys.secrets, id, &settings).unwrap();
        sqlx::query("UPDATE control_plane.channels SET is_tenants_own = true, settings_sealed = $2 WHERE id = $1")
            .bind(id)
            .bind(sealed)
            .execute(&scene.test.app.pool)
            .await
            .unwrap();
    }
    scene.fails("1", None).await;
    assert_eq!(scene.send().await, given_up(2));
    let mut said: Vec<String> = scene.rows().await.into_iter().filter_map(|row| row.last_error).collect();
    said.sort();
    assert_eq!(
        said,
        ["the URL is not https:// and a host, without user and password", "the URL's host is not a public address"]
    );
    assert!(receiver.seen().is_empty());
}

#[tokio::test]
async fn settings_that_do_not_open_wait_for_the_right_key() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::with(|_| {}).await;
    scene.channel("mail", None, json!({ "type": "email", "to": ["a@example.com"] })).await;
    scene.channel("hook", None, hook(&receiver.url())).await;
    let pool = &scene.test.app.pool;
    pool.execute("CREATE TABLE kept AS SELECT id, settings_sealed FROM control_plane.channels").await.unwrap();
    pool.execute("UPDATE control_plane.channels SET settings_sealed = 'x'").await.unwrap();
    assert_eq!(scene.fails("1", None).await, 2, "told all the same");
    assert_eq!(scene.send().await, later(1));
    pool.execute(
        "UPDATE control_plane.channels c SET settings_sealed = k.settings_sealed FROM kept k WHERE k.id = c.id",
    )
    .await
    .unwrap();
    scene.advance(13);
    assert_eq!(scene.send().await, sent(1));
}
