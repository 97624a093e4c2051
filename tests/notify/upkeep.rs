//! What the clock does with notices that are over.

use chrono::Duration;
use holdfast::schedule;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Scene,
    receiver::{Receiver, Reply},
    within,
};

#[tokio::test]
async fn notices_that_are_over_are_forgotten_by_the_upkeep_and_no_others() {
    let receiver = Receiver::start([Reply::Status(200), Reply::Status(404)]).await;
    let scene = Scene::with(|config| {
        config.schedules.tick_seconds = 1;
        config.notify.keep_days = 10;
        config.notify.give_up_hours = 24 * 30;
    })
    .await;
    let pool = &scene.test.app.pool;
    // Nothing else comes of the time that passes.
    sqlx::query("UPDATE control_plane.projects SET status = 'INACTIVE'").execute(pool).await.unwrap();
    let hook = json!({ "type": "webhook", "url": receiver.url(), "secret": "canary-of-a-webhook" });
    scene.channel("hook", None, hook).await;
    scene.fails("sent", None).await;
    scene.send().await;
    scene.fails("given up", None).await;
    scene.send().await;
    // Nobody can send it: there is no mail server.
    scene.fails("pending", Some("a@example.com")).await;
    sqlx::query("DELETE FROM control_plane.notices WHERE once_key LIKE 'failed:pending:channel%'")
        .execute(pool)
        .await
        .unwrap();
    let left = async || {
        let rows = scene.rows().await;
        rows.into_iter().map(|row| row.status).collect::<Vec<_>>()
    };
    assert_eq!(left().await, ["sent", "failed", "pending"]);

    let stop = CancellationToken::new();
    let looked_at = async || -> Option<chrono::DateTime<chrono::Utc>> {
        sqlx::query_scalar("SELECT done_at FROM control_plane.upkeep WHERE task = 'notices'")
            .fetch_optional(pool)
            .await
            .unwrap()
    };
    let looking = async {
        within("the first look", async || looked_at().await.is_some()).await;
        let begun = scene.clock.now();
        // They are kept for as long as was said.
        scene.clock.advance(Duration::days(9));
        within("a look after nine days", async || looked_at().await > Some(begun)).await;
        assert_eq!(left().await, ["sent", "failed", "pending"]);
        scene.clock.advance(Duration::days(2));
        within("only what is pending is left", async || left().await == ["pending"]).await;
        stop.cancel();
    };
    tokio::join!(schedule::run(scene.test.app.clone(), stop.clone()), looking);
}
