//! Turns: receivers that hang delay nobody else's news, and one channel has one notice on its way.

use holdfast::{
    catalog::NoticeEvent,
    jobs::request::{self, Export},
    manage::channels::{self, ChannelChanges},
    notice::Notice,
};
use serde_json::{Value, json};

use super::{
    Scene,
    receiver::{Receiver, Reply},
    sent,
    smtp::{Certificates, SmtpServer, Wanted, configure},
    within,
};
use crate::support::app::{caller, export};

fn hook(receiver: &Receiver) -> Value {
    json!({ "type": "webhook", "url": receiver.url(), "secret": "canary-of-a-webhook" })
}

fn never() -> impl Iterator<Item = Reply> {
    std::iter::repeat_n(Reply::Hang, 1_000)
}

#[tokio::test]
async fn many_channels_of_one_project_that_hang_keep_no_other_project_and_no_operator_waiting() {
    let certificates = Certificates::new();
    let mut server = SmtpServer::start(&certificates, Wanted::default()).await;
    let hanging = Receiver::start(never()).await;
    let good = Receiver::start([]).await;
    let scene = Scene::with(|config| {
        configure(config, &certificates, Wanted::default(), server.port);
        config.notify.operators = vec!["ops@example.com".to_owned()];
        // None of them comes to an end while the test looks.
        config.notify.timeout_seconds = 60;
    })
    .await;
    scene.test.add_schema_project("globex", "tenant_globex").await;
    for n in 0..50 {
        scene.channel(&format!("hanging {n}"), Some("acme"), hook(&hanging)).await;
    }
    scene.channel("good", Some("globex"), hook(&good)).await;
    for n in 0..4 {
        scene.fails(&n.to_string(), None).await;
    }
    scene.tell_of("globex", NoticeEvent::Failed, "of globex", None, Notice::default()).await;
    // All that is owed to others arrives, although one project has two hundred before it.
    let arrived = async {
        for _ in 0..5 {
            assert_eq!(server.message().await["to"][0], "ops@example.com");
        }
        within("the other project's news", async || good.seen().len() == 1).await;
        within("as many as one owner may have", async || hanging.seen().len() == 4).await;
    };
    tokio::select! {
        round = scene.send() => panic!("{round:?}"),
        () = arrived => {}
    }
    assert_eq!(hanging.seen().len(), 4);
}

#[tokio::test]
async fn a_channel_in_trouble_costs_one_attempt_and_keeps_no_other_waiting() {
    let hanging = Receiver::start(never()).await;
    let good = Receiver::start([]).await;
    let scene = Scene::with(|config| config.notify.timeout_seconds = 1).await;
    scene.channel("hanging", None, hook(&hanging)).await;
    scene.channel("good", None, hook(&good)).await;
    for n in 0..20 {
        scene.fails(&n.to_string(), None).await;
    }
    let round = scene.send().await;
    assert_eq!((round.sent, round.later, hanging.seen().len()), (20, 1, 1));
    assert_eq!(scene.send().await, sent(0), "all that goes there is put off");
    // Nor do several processes try more than one at a time.
    scene.advance(13);
    let rounds = futures::future::join_all((0..4).map(|_| scene.send())).await;
    assert_eq!(rounds.iter().map(|round| round.later).sum::<usize>(), 1, "{rounds:?}");
    assert_eq!(hanging.seen().len(), 2);
}

#[tokio::test]
async fn an_address_on_two_lists_is_told_as_long_as_one_of_them_has_it() {
    let certificates = Certificates::new();
    let mut server = SmtpServer::start(&certificates, Wanted::default()).await;
    let scene = Scene::with(|config| configure(config, &certificates, Wanted::default(), server.port)).await;
    let list = |to: &[&str]| json!({ "type": "email", "to": to });
    let first = scene.channel("platform", None, list(&["both@example.com", "first@example.com"])).await;
    let second = scene.channel("own", Some("acme"), list(&["Both@example.com"])).await;
    let notice = Notice { message: Some("cannot reach db-1.internal:5432".to_owned()), ..Notice::default() };
    let switch = async |id, enabled| {
        let changes = ChannelChanges { enabled: Some(enabled), ..ChannelChanges::default() };
        channels::change(&scene.test.app, &caller(), id, changes).await.unwrap();
    };
    assert_eq!(scene.tell(NoticeEvent::Failed, "1", None, notice.clone()).await, 2);
    switch(first, false).await;
    let round = scene.send().await;
    assert_eq!((round.sent, round.given_up), (1, 1), "the other address is on no list any more");
    let message = server.message().await;
    assert_eq!(message["to"][0], "both@example.com");
    // By the second list it is no platform's address.
    assert!(!message["parts"].to_string().contains("db-1.internal"), "{message}");

    assert_eq!(scene.tell(NoticeEvent::Failed, "2", None, notice.clone()).await, 1);
    switch(second, false).await;
    assert_eq!(scene.send().await.given_up, 1, "no list has it any more");
    assert_eq!(server.further(), 0);

    // The same where a request has named it.
    let asked = Export { notify_email: Some("both@example.com".to_owned()), ..export("acme") };
    request::export(&scene.test.app, &caller(), &asked, None).await.unwrap();
    switch(second, true).await;
    assert_eq!(scene.tell(NoticeEvent::Failed, "3", Some("both@example.com"), notice).await, 1);
    switch(second, false).await;
    assert_eq!(scene.send().await, sent(1));
    assert_eq!(server.message().await["to"][0], "Both@example.com");
}
