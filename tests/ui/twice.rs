//! Forms that are sent twice, and forms that come back after a login: nothing is done twice, nothing is lost.

use axum::http::header;
use holdfast::tenant::Role;

use super::{field, form, operator, session, text, visit};
use crate::api::TestApi;

/// Page of the form, its fields, where it is sent, what it makes.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);

#[tokio::test]
async fn a_form_that_is_sent_twice_does_what_it_does_once() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let cases: [Case; 3] = [
        (
            "/keys/new",
            &[("name", "ci"), ("permissions", "backup:read"), ("project_ids", "acme")],
            "/keys/new",
            "SELECT count(*) FROM control_plane.api_keys",
        ),
        (
            "/channels/new/email",
            &[("name", "mail"), ("to", "ops@example.com")],
            "/channels/new/email",
            "SELECT count(*) FROM control_plane.channels",
        ),
        ("/projects/acme", &[], "/projects/acme/backup", "SELECT count(*) FROM control_plane.jobs"),
    ];
    for (page, fields, action, count) in cases {
        let attempt = field(&text(&api.send(visit(page, Some(&cookie))).await), "attempt");
        let mut fields = fields.to_vec();
        fields.push(("attempt", &attempt));
        let first = api.send(form(action, &fields, Some(&cookie))).await;
        assert!(matches!(first.status.as_u16(), 200 | 303), "{action}: {}", text(&first));
        assert_eq!(api.count(count).await, 1, "{action}");
        // A reload of what the form answered, or the second click of two.
        let second = api.send(form(action, &fields, Some(&cookie))).await;
        assert_eq!(second.status, 303, "{action}: {}", text(&second));
        assert_eq!(api.count(count).await, 1, "{action}");
        let led = second.headers[header::LOCATION].to_str().unwrap().to_owned();
        match first.headers.get(header::LOCATION) {
            Some(first) => assert_eq!(led, first.to_str().unwrap()),
            // A key is shown once, whatever is sent again.
            None => {
                assert!(text(&first).contains("hfk_"));
                let flash = second.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
                let both = format!("{cookie}; {flash}");
                let page = text(&api.send(visit(&led, Some(&both))).await);
                assert!(page.contains("This was sent before") && !page.contains("hfk_"), "{page}");
            }
        }
        // The page has another attempt for whoever means it a second time.
        let again = field(&text(&api.send(visit(page, Some(&cookie))).await), "attempt");
        assert_ne!(again, attempt);
    }
    // Of two that come together one does it, and both are led to the same place.
    let page = text(&api.send(visit("/channels/new/email", Some(&cookie))).await);
    let attempt = field(&page, "attempt");
    let fields = [("name", "both"), ("to", "ops@example.com"), ("attempt", attempt.as_str())];
    let send = || api.send(form("/channels/new/email", &fields, Some(&cookie)));
    let (one, other) = tokio::join!(send(), send());
    assert_eq!((one.status.as_u16(), other.status.as_u16()), (303, 303), "{}{}", text(&one), text(&other));
    assert_eq!(api.count("SELECT count(*) FROM control_plane.channels WHERE name = 'both'").await, 1);
    // What was refused is put right in the same form; whoever goes back to it sends something else.
    let page = text(&api.send(visit("/channels/new/email", Some(&cookie))).await);
    let attempt = field(&page, "attempt");
    let right = async || api.count("SELECT count(*) FROM control_plane.channels WHERE name = 'right'").await;
    for (to, status, made) in [
        ("nonsense", 422, 0),
        ("a@example.com", 303, 1),
        ("b@example.com", 303, 2),
        // The second click.
        ("b@example.com", 303, 2),
        // Back to what it was, and that is meant.
        ("a@example.com", 303, 3),
        ("a@example.com", 303, 3),
    ] {
        let fields = [("name", "right"), ("to", to), ("attempt", attempt.as_str())];
        let answer = api.send(form("/channels/new/email", &fields, Some(&cookie))).await;
        assert_eq!(answer.status, status, "{to}: {}", text(&answer));
        assert_eq!(right().await, made, "{to}");
    }
    // Of two that come together, after another, one does it.
    let fields = [("name", "right"), ("to", "c@example.com"), ("attempt", attempt.as_str())];
    let send = || api.send(form("/channels/new/email", &fields, Some(&cookie)));
    let (one, other) = tokio::join!(send(), send());
    assert_eq!((one.status.as_u16(), other.status.as_u16()), (303, 303), "{}{}", text(&one), text(&other));
    assert_eq!(right().await, 4);
    // Another user's attempt of the same id is another one.
    api.user("otto", Role::Operator, None, &[]).await;
    let other = session(&api, "otto").await;
    let fields = [("name", "right"), ("to", "c@example.com"), ("attempt", attempt.as_str())];
    assert_eq!(api.send(form("/channels/new/email", &fields, Some(&other))).await.status, 303);
    assert_eq!(right().await, 5);
}

#[tokio::test]
async fn a_form_with_a_secret_comes_back_after_the_login_with_everything_but_the_secret() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    sqlx::query("DELETE FROM control_plane.sessions").execute(api.pool()).await.unwrap();
    let path = "/channels/new/webhook";
    let typed =
        [("name", "On call <b>"), ("url", "https://hooks.example.com/x"), ("secret", "canary of 16 characters")];
    let asked = text(&api.send(form(path, &typed, Some(&cookie))).await);
    assert!(!asked.contains("canary"), "{asked}");
    let kept = field(&asked, "resume");
    let login = [("name", "olga"), ("password", crate::api::PASSWORD), ("resume_path", path), ("resume", &kept)];
    let back = api.send(form("/login", &login, None)).await;
    let cookie = back.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let page = text(&back);
    assert!(page.contains("Nothing was lost") && page.contains("action=\"/channels/new/webhook\""), "{page}");
    // As its button sends it: the form comes back, and asks for what was not kept.
    let name = field(&page, "name");
    let mark = field(&page, "holdfast_left_out");
    let again = api.send(form(path, &[("name", &name), ("holdfast_left_out", &mark)], Some(&cookie))).await;
    assert_eq!(again.status, 422);
    let page = text(&again);
    assert!(page.contains("Type them again") && page.contains("value=\"On call &lt;b&gt;\""), "{page}");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.channels").await, 0);
}
