//! The outbox: written once, claimed once, sent once — through outages and deaths.

use std::{sync::Arc, time::Duration};

use holdfast::{
    catalog::NoticeEvent,
    history,
    manage::channels::{self, ChannelChanges},
    notice::{AboutBackup, AboutRestore, AboutVerification, Notice},
    schedule,
    tell::Round,
};
use serde_json::json;
use sqlx::Executor;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Scene, given_up,
    receiver::{Receiver, Reply},
    sent,
    smtp::{Certificates, SmtpServer, Wanted, configure, header},
    within,
};
use crate::support::app::caller;

fn hook(receiver: &Receiver) -> serde_json::Value {
    json!({ "type": "webhook", "url": receiver.url(), "secret": "canary-of-a-webhook" })
}

#[tokio::test]
async fn everyone_who_hears_of_it_is_told_once() {
    let scene = Scene::with(|config| {
        config.notify.operators = vec!["Ops@example.com".to_owned()];
        config.smtp.host = Some("127.0.0.1".to_owned());
        config.smtp.port = Some(1);
        config.smtp.from = Some("backups@example.com".to_owned());
    })
    .await;
    scene.test.add_schema_project("globex", "tenant_globex").await;
    let own = scene
        .channel("own", Some("acme"), json!({ "type": "email", "to": ["ops@example.com", "acme@example.com"] }))
        .await;
    scene
        .channel(
            "platform",
            None,
            json!({ "type": "webhook", "url": "http://127.0.0.1:1/", "secret": "0123456789abcdef" }),
        )
        .await;
    scene.channel("other", Some("globex"), json!({ "type": "email", "to": ["globex@example.com"] })).await;
    let quiet = scene.channel("quiet", Some("acme"), json!({ "type": "email", "to": ["quiet@example.com"] })).await;
    let changes = ChannelChanges { enabled: Some(false), ..ChannelChanges::default() };
    channels::change(&scene.test.app, &caller(), quiet, changes).await.unwrap();
    // Several processes notice the same, and a job runs twice.
    let told = futures::future::join_all((0..4).map(|_| scene.fails("1", Some("acme@example.com")))).await;
    assert_eq!(told.iter().sum::<usize>(), 3);
    let mut heard: Vec<(String, String)> =
        scene.rows().await.into_iter().map(|row| (row.channel, row.recipient)).collect();
    heard.sort();
    let pair = |channel: &str, recipient: &str| (channel.to_owned(), recipient.to_owned());
    assert_eq!(
        heard,
        [pair("email", "Ops@example.com"), pair("email", "acme@example.com"), pair("webhook", "platform")]
    );

    // Operators hear of failures unless told otherwise, and of what is over without being well.
    let count = async |event, occurrence, notice| scene.tell(event, occurrence, None, notice).await;
    let lacking = AboutBackup { copies_missing: 1, ..AboutBackup::default() };
    assert_eq!(count(NoticeEvent::Completed, "2", Notice::default()).await, 3, "the channels alone");
    assert_eq!(count(NoticeEvent::Completed, "3", Notice { backup: Some(lacking), ..Notice::default() }).await, 3);
    let operators = scene.rows().await.into_iter().filter(|row| row.recipient == "Ops@example.com").count();
    assert_eq!(operators, 2, "of the failure, and of the missing copy");

    // An address that was checked by nobody is not written to.
    assert_eq!(scene.fails("4", Some("a@b.example\r\nBcc: x@y.example")).await, 3);
    // Whoever was taken out of a channel, or whose channel went, hears nothing of what waits.
    let settings = serde_json::from_value(json!({ "to": ["else@example.com"] })).unwrap();
    let changes = ChannelChanges { settings: Some(settings), ..ChannelChanges::default() };
    channels::change(&scene.test.app, &caller(), own, changes).await.unwrap();
    for _ in 0..4 {
        scene.send().await;
        scene.advance(1_200);
    }
    for row in scene.rows().await {
        let expected = if row.channel_id == Some(own) { "failed" } else { "pending" };
        assert_eq!(row.status, expected, "{row:?}");
        assert_eq!(
            row.last_error.as_deref() == Some("the address was taken out of the channel"),
            expected == "failed",
            "{row:?}"
        );
    }
}

#[tokio::test]
async fn where_things_are_is_told_to_those_who_run_the_platform_alone() {
    let scene = Scene::with(|config| {
        config.notify.operators = vec!["ops@example.com".to_owned()];
        config.notify.events = vec![NoticeEvent::Restored];
    })
    .await;
    let mail = |to: &str| json!({ "type": "email", "to": [to] });
    scene.channel("platform", None, mail("platform@example.com")).await;
    scene.channel("own", Some("acme"), mail("acme@example.com")).await;
    let said = || vec!["db-1.internal:5432 lacks a row".to_owned()];
    let notice = Notice {
        message: Some("cannot reach db-1.internal:5432".to_owned()),
        restore: Some(AboutRestore { differences: said(), ..AboutRestore::default() }),
        verification: Some(AboutVerification { differences: said(), ..AboutVerification::default() }),
        ..Notice::default()
    };
    assert_eq!(scene.tell(NoticeEvent::Restored, "1", Some("asked@example.com"), notice).await, 4);
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT recipient, payload::text FROM control_plane.notices ORDER BY id")
            .fetch_all(&scene.test.app.pool)
            .await
            .unwrap();
    for (recipient, payload) in rows {
        let times = if matches!(recipient.as_str(), "ops@example.com" | "platform@example.com") { 3 } else { 0 };
        assert_eq!(payload.matches("db-1.internal").count(), times, "{recipient}: {payload}");
    }
}

#[tokio::test]
async fn a_channel_that_goes_takes_its_notices_with_it() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::with(|_| {}).await;
    let gone = scene.channel("gone", None, hook(&receiver)).await;
    let off = scene.channel("off", None, hook(&receiver)).await;
    scene.fails("1", None).await;
    channels::delete(&scene.test.app, &caller(), gone, holdfast::manage::Mode::Real).await.unwrap();
    let changes = ChannelChanges { enabled: Some(false), ..ChannelChanges::default() };
    channels::change(&scene.test.app, &caller(), off, changes).await.unwrap();
    assert_eq!(scene.send().await, given_up(2));
    let said: Vec<String> = scene.rows().await.into_iter().filter_map(|row| row.last_error).collect();
    assert_eq!(said, ["the channel was removed", "the channel was switched off"]);
    assert!(receiver.seen().is_empty());
}

#[tokio::test]
async fn many_processes_send_each_notice_once() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::with(|_| {}).await;
    scene.channel("hook", None, hook(&receiver)).await;
    for n in 0..100 {
        scene.fails(&n.to_string(), None).await;
    }
    let rounds = futures::future::join_all((0..6).map(|_| scene.send())).await;
    assert_eq!(rounds.iter().map(|round| round.sent).sum::<usize>(), 100);
    let mut deliveries: Vec<String> =
        receiver.seen().iter().map(|seen| seen.headers["holdfast-delivery"].to_str().unwrap().to_owned()).collect();
    deliveries.sort();
    deliveries.dedup();
    assert_eq!((receiver.seen().len(), deliveries.len()), (100, 100));
}

#[tokio::test]
async fn a_mail_server_that_is_down_for_an_hour_delays_notices_and_backups_do_not_notice() {
    let certificates = Certificates::new();
    let wanted = Wanted::default();
    let server = SmtpServer::start(&certificates, wanted).await;
    let port = server.port;
    drop(server);
    let scene = Scene::with(|config| {
        configure(config, &certificates, wanted, port);
        config.notify.operators = vec!["ops@example.com".to_owned()];
        config.notify.events = vec![NoticeEvent::Completed];
    })
    .await;
    scene.test.tenants().await.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t (id int)").await.unwrap();
    let backup = scene.test.backup(crate::support::app::export("acme")).await;
    assert_eq!(backup.status, "completed");
    let mut attempts = 0;
    for _ in 0..12 {
        attempts += scene.send().await.later;
        scene.advance(300);
    }
    assert!((3..=12).contains(&attempts), "{attempts}");
    let row = scene.rows().await.remove(0);
    assert_eq!((row.status.as_str(), row.attempts as usize), ("pending", attempts));
    assert!(row.last_error.unwrap().contains("cannot be reached"));

    let mut server = SmtpServer::start(&certificates, Wanted { port, ..wanted }).await;
    scene.advance(900 + 225);
    assert_eq!(scene.send().await, sent(1));
    scene.advance(7_200);
    assert_eq!(scene.send().await, sent(0));
    let message = server.message().await;
    assert_eq!(header(&message, "subject"), "Backup completed of acme");
    assert_eq!(header(&message, "message-id"), format!("<{}@example.com>", row.delivery_id));
    let text = message["parts"]["text/plain"].as_str().unwrap();
    for expected in [format!("Backup: {} (database)", backup.id), "Size: ".to_owned(), "Expires at: ".to_owned()] {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    assert_eq!(server.further(), 0, "once");
    let row = scene.rows().await.remove(0);
    assert_eq!((row.status.as_str(), row.last_error), ("sent", None));
}

#[tokio::test]
async fn a_process_that_dies_between_sending_and_writing_it_down_is_followed_by_one_that_sends_the_same_number() {
    let certificates = Certificates::new();
    // Takes the first message, and the process that sent it dies before the server says so.
    let wanted = Wanted { hold: 1, ..Wanted::default() };
    let mut server = SmtpServer::start(&certificates, wanted).await;
    let port = server.port;
    let scene = Scene::with(|config| {
        configure(config, &certificates, wanted, port);
        config.notify.timeout_seconds = 60;
    })
    .await;
    scene.fails("1", Some("ops@example.com")).await;
    let first = tokio::select! {
        round = scene.send() => panic!("{round:?}"),
        message = server.message() => message,
    };
    let row = scene.rows().await.remove(0);
    assert_eq!((row.status.as_str(), row.attempts), ("pending", 1));
    // Nobody touches it while the lease lasts.
    assert_eq!(scene.send().await, Round::default());
    sqlx::query("UPDATE control_plane.notices SET lease_expires_at = now() WHERE lease_expires_at > now()")
        .execute(&scene.test.app.pool)
        .await
        .unwrap();
    assert_eq!(scene.send().await, sent(1));
    let second = server.message().await;
    assert_eq!(header(&first, "message-id"), header(&second, "message-id"));
    assert_eq!(scene.rows().await[0].status, "sent");
}

#[tokio::test]
async fn the_word_of_a_process_that_was_thought_dead_does_not_count() {
    let receiver = Receiver::start([Reply::Status(500)]).await;
    let scene = Scene::with(|_| {}).await;
    scene.channel("hook", None, hook(&receiver)).await;
    scene.fails("1", None).await;
    let pool = &scene.test.app.pool;
    let now = scene.test.app.clock.now();
    let claim = |token| history::Claim {
        now,
        has_mail: true,
        operators: &[],
        limit: 9,
        of_one_owner: 9,
        token,
        lease_seconds: 0.0,
    };
    let (old, new) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let due = history::claim_notices(pool, &claim(old)).await.unwrap().remove(0);
    assert_eq!(history::claim_notices(pool, &claim(new)).await.unwrap().len(), 1, "the lease has lapsed");
    assert!(!history::end_notice(pool, due.id, old, now, &history::NoticeEnd::Sent).await.unwrap());
    let later = history::NoticeEnd::Later { at: now, error: "no answer in time" };
    assert!(history::end_notice(pool, due.id, new, now, &later).await.unwrap());
    let row = scene.rows().await.remove(0);
    assert_eq!((row.status.as_str(), row.attempts), ("pending", 2));
}

#[tokio::test]
async fn what_nobody_takes_is_given_up_in_the_end_seen_and_can_be_sent_again() {
    let receiver = Receiver::start((0..1_000).map(|_| Reply::Status(500))).await;
    let scene = Scene::with(|config| config.notify.give_up_hours = 24).await;
    scene.channel("hook", None, hook(&receiver)).await;
    // One is refused again and again, the other nobody can send at all.
    assert_eq!(scene.fails("1", Some("ops@example.com")).await, 2);
    let mut all = Round::default();
    for _ in 0..(25 * 12) {
        all += scene.send().await;
        scene.advance(300);
    }
    assert_eq!((all.sent, all.given_up), (0, 2));
    assert!((24 * 3..=24 * 6).contains(&receiver.seen().len()), "{}", receiver.seen().len());
    let rows = scene.rows().await;
    assert!(rows.iter().all(|row| row.status == "failed"));
    assert_eq!(rows[0].last_error.as_deref(), Some("the receiver answered 500"));
    assert!(rows[1].last_error.as_ref().unwrap().contains("smtp.host"), "{:?}", rows[1]);
    let pool = &scene.test.app.pool;
    let mut connection = pool.acquire().await.unwrap();
    let now = scene.test.app.clock.now();
    let census = history::notice_census(&mut connection, now).await.unwrap();
    assert_eq!((census.pending, census.failed), (0, 2));

    let quiet = Receiver::start([]).await;
    let again = history::retry_notice(pool, rows[0].id, now, now + chrono::Duration::hours(1)).await.unwrap().unwrap();
    assert_eq!((again.status.as_str(), again.attempts), ("pending", 0));
    let settings = serde_json::from_value(json!({ "url": quiet.url(), "secret": "canary-of-a-webhook" })).unwrap();
    let changes = ChannelChanges { settings: Some(settings), ..ChannelChanges::default() };
    channels::change(&scene.test.app, &caller(), rows[0].channel_id.unwrap(), changes).await.unwrap();
    assert_eq!(scene.send().await, sent(1));
    assert_eq!(history::retry_notice(pool, rows[0].id, now, now).await.unwrap().map(|row| row.id), None, "it was sent");

    // Some time later nobody wants to look at them any more.
    let later = now + chrono::Duration::days(30);
    assert_eq!(history::forget_notices(pool, now).await.unwrap(), 1);
    assert_eq!(history::forget_notices(pool, later).await.unwrap(), 1);
    assert!(scene.rows().await.is_empty());
}

#[tokio::test]
async fn a_stop_finishes_what_is_on_its_way_and_begins_nothing() {
    let word = Arc::new(Semaphore::new(0));
    let receiver = Receiver::start([Reply::Wait(Arc::clone(&word))]).await;
    let scene = Scene::with(|config| config.notify.poll_seconds = 1).await;
    scene.channel("hook", None, hook(&receiver)).await;
    scene.fails("1", None).await;
    let stop = CancellationToken::new();
    let stopping = async {
        within("the first is on its way", async || receiver.seen().len() == 1).await;
        scene.fails("2", None).await;
        stop.cancel();
        word.add_permits(1);
    };
    let running = tokio::time::timeout(Duration::from_secs(60), schedule::run(scene.test.app.clone(), stop.clone()));
    tokio::join!(running, stopping).0.expect("it ends");
    assert_eq!(receiver.seen().len(), 1);
    let statuses: Vec<String> = scene.rows().await.into_iter().map(|row| row.status).collect();
    assert_eq!(statuses, ["sent", "pending"]);
}
