//! E-mail, to a server that we did not write.

use holdfast::{
    catalog::NoticeEvent,
    config::{Config, Secret, SmtpTls},
    notice::{AboutBackup, AboutJob, Notice},
};
use uuid::Uuid;

use super::{
    Scene, given_up, later, sent,
    smtp::{Certificates, PASSWORD, SmtpServer, Wanted, configure, header},
};

async fn scene(certificates: &Certificates, wanted: Wanted, port: u16) -> Scene {
    Scene::with(|config| {
        configure(config, certificates, wanted, port);
        config.notify.public_url = Some("https://backups.example.com/".parse().unwrap());
    })
    .await
}

#[tokio::test]
async fn a_message_arrives_encrypted_with_text_and_html_and_one_of_each_header() {
    let certificates = Certificates::new();
    let wanted = Wanted::default();
    let mut server = SmtpServer::start(&certificates, wanted).await;
    let scene = scene(&certificates, wanted, server.port).await;
    let hostile = "</td><script>x</script>\r\nBcc: eve@example.com\r\n\r\n*Ünal* \u{202e}🚀";
    sqlx::query("UPDATE control_plane.projects SET name = $1 WHERE id = 'acme'")
        .bind(hostile)
        .execute(&scene.test.app.pool)
        .await
        .unwrap();
    let backup = Uuid::now_v7();
    let notice = Notice {
        job: Some(AboutJob { id: Uuid::now_v7(), r#type: "export_backup".to_owned() }),
        backup: Some(AboutBackup { id: backup, r#type: "database".to_owned(), ..AboutBackup::default() }),
        message: Some(format!("pg_dump: error: {hostile}\n.\n{}", "long ".repeat(400))),
        hint: Some("Check that the key may write.".to_owned()),
        ..Notice::default()
    };
    assert_eq!(scene.tell(NoticeEvent::Failed, "1", Some("ops@example.com"), notice).await, 1);
    assert_eq!(scene.send().await, sent(1));
    let message = server.message().await;
    assert_eq!((&message["is_encrypted"], &message["is_logged_in"]), (&true.into(), &true.into()));
    assert_eq!(message["defects"], serde_json::json!([]));
    assert_eq!((&message["from"], &message["to"][0]), (&"backups@example.com".into(), &"ops@example.com".into()));
    assert_eq!(message["to"].as_array().unwrap().len(), 1);
    assert_eq!(message["addresses"], serde_json::json!(["ops@example.com"]));
    assert_eq!(header(&message, "from"), "Holdfast <backups@example.com>");
    assert_eq!(header(&message, "auto-submitted"), "auto-generated");
    assert_eq!(header(&message, "holdfast-event"), "failed");
    assert_eq!(header(&message, "date"), "Sat, 21 Nov 2026 04:00:00 +0000");
    let row = scene.rows().await.remove(0);
    assert_eq!(header(&message, "message-id"), format!("<{}@example.com>", row.delivery_id));
    assert!(!message["headers"].to_string().contains("\"bcc\""), "{message}");
    let subject = header(&message, "subject");
    assert!(subject.starts_with("Backup FAILED of \"</td><script>x</script>  Bcc: eve@example.com"), "{subject}");
    assert!(
        subject.contains("*Ünal*") && subject.contains("🚀\" (acme)") && !subject.contains('\u{202e}'),
        "{subject}"
    );
    assert_eq!(message["structure"], serde_json::json!(["multipart/alternative", "text/plain", "text/html"]));
    assert!(message["longest_line"].as_u64().unwrap() <= 998 && message["is_ascii"] == true, "RFC 5322 section 2.1.1");
    let text = message["parts"]["text/plain"].as_str().unwrap();
    let html = message["parts"]["text/html"].as_str().unwrap();
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");
    assert!(!text.lines().any(|line| line.starts_with("Bcc") || line == "."), "{text}");
    for part in [text, html] {
        for expected in ["pg_dump: error:", "Check that the key may write.", "2026-11-21T04:00:00Z"] {
            assert!(part.contains(expected), "{expected}: {part}");
        }
        assert!(part.contains(&format!("https://backups.example.com/backups/{backup}")), "{part}");
    }
    assert_eq!((row.status.as_str(), row.attempts), ("sent", 1));
    assert_eq!(scene.send().await, sent(0));
    assert_eq!(server.further(), 0);
}

#[tokio::test]
async fn each_kind_of_connection_is_made_as_configured_and_none_is_weaker() {
    let certificates = Certificates::new();
    for (wanted, is_encrypted) in [
        (Wanted { tls: SmtpTls::Implicit, ..Wanted::default() }, true),
        (Wanted { tls: SmtpTls::None, has_users: false, ..Wanted::default() }, false),
    ] {
        let mut server = SmtpServer::start(&certificates, wanted).await;
        let scene = scene(&certificates, wanted, server.port).await;
        scene.fails("1", Some("ops@example.com")).await;
        assert_eq!(scene.send().await, sent(1), "{wanted:?}");
        let message = server.message().await;
        assert_eq!(
            (&message["is_encrypted"], &message["is_logged_in"]),
            (&is_encrypted.into(), &wanted.has_users.into())
        );
        if !is_encrypted {
            // A server that does not offer STARTTLS is told nothing when encryption is wanted.
            let strict =
                self::scene(&certificates, Wanted { has_users: false, ..Wanted::default() }, server.port).await;
            strict.fails("1", Some("ops@example.com")).await;
            assert_eq!(strict.send().await, later(1));
            assert!(strict.rows().await[0].last_error.as_ref().unwrap().contains("STARTTLS"));
            assert_eq!(server.further(), 0);
        }
    }
}

type Change = Box<dyn FnOnce(&mut Config)>;

#[tokio::test]
async fn a_refusal_of_the_recipient_ends_it_and_every_other_trouble_is_tried_again_without_a_secret_in_its_words() {
    let certificates = Certificates::new();
    let wanted = Wanted::default();
    let mut server = SmtpServer::start(&certificates, wanted).await;
    let scene = scene(&certificates, wanted, server.port).await;
    scene.fails("1", Some("nobody@example.com")).await;
    assert_eq!(scene.send().await, given_up(1));
    scene.fails("2", Some("busy@example.com")).await;
    assert_eq!(scene.send().await, later(1));
    scene.fails("3", Some("ünal@example.com")).await;
    assert_eq!(scene.send().await, given_up(1), "the server does not take such addresses");
    let strangers = Certificates::new();
    let (port, stranger) = (server.port, strangers.path("ca.pem"));
    let troubles: [(&str, Change); 4] = [
        ("user and password", Box::new(|config| config.smtp.password = Some(Secret::new("canary wrong")))),
        ("STARTTLS", Box::new(move |config| config.smtp.ca_file = Some(stranger))),
        ("does not take our sender", Box::new(|config| (config.smtp.username, config.smtp.password) = (None, None))),
        ("cannot be reached", Box::new(|config| config.smtp.port = Some(1))),
    ];
    let mut said = String::new();
    for (expected, change) in troubles {
        let scene = Scene::with(|config| {
            configure(config, &certificates, wanted, port);
            change(config);
        })
        .await;
        scene.fails("1", Some("ops@example.com")).await;
        assert_eq!(scene.send().await, later(1), "{expected}");
        let error = scene.rows().await[0].last_error.clone().unwrap();
        assert!(error.contains(expected), "{expected}: {error}");
        said.push_str(&error);
    }
    for row in scene.rows().await {
        said.push_str(row.last_error.as_deref().unwrap());
    }
    assert!(said.contains("there is no such person") && said.contains("the mailbox is busy"), "{said}");
    assert!(!said.contains("canary") && !said.contains(PASSWORD) && !said.contains('\n'), "{said}");
    assert_eq!(server.further(), 0);
}

#[tokio::test]
async fn a_mail_server_that_says_nothing_costs_a_few_attempts_and_not_one_for_each_notice() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let certificates = Certificates::new();
    let scene = Scene::with(|config| {
        configure(config, &certificates, Wanted::default(), port);
        config.notify.timeout_seconds = 1;
    })
    .await;
    for n in 0..40 {
        scene.fails(&n.to_string(), Some("ops@example.com")).await;
    }
    let begun = std::time::Instant::now();
    // As many as one owner has on their way at once; what waits behind them is put off.
    assert_eq!(scene.send().await, later(4));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    let rows = scene.rows().await;
    assert_eq!(rows.iter().filter(|row| row.attempts == 0).count(), 36);
    assert!(rows.iter().all(|row| row.next_at > scene.test.app.clock.now()));
    assert!(rows[0].last_error.as_ref().unwrap().contains("no end within 1 s"), "{:?}", rows[0]);
}

#[tokio::test]
async fn a_recipient_for_whom_the_mail_server_never_answers_holds_up_nobody_elses_mail() {
    let certificates = Certificates::new();
    let mut server = SmtpServer::start(&certificates, Wanted::default()).await;
    let scene = Scene::with(|config| {
        configure(config, &certificates, Wanted::default(), server.port);
        config.notify.operators = vec!["ops@example.com".to_owned()];
    })
    .await;
    for n in 0..3 {
        scene.fails(&n.to_string(), Some("slow@example.com")).await;
    }
    let round = scene.send().await;
    assert_eq!((round.sent, round.later), (3, 3), "all of the operators', and one attempt for each of the others");
    for _ in 0..3 {
        assert_eq!(server.message().await["to"][0], "ops@example.com");
    }
    let slow: Vec<_> = scene.rows().await.into_iter().filter(|row| row.recipient == "slow@example.com").collect();
    assert!(slow.iter().all(|row| row.status == "pending" && row.attempts == 1), "{slow:?}");
}
