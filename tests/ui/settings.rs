//! Storages and channels: added, changed, tested. Their secrets go in and never come out, and an empty one leaves what there was.

use holdfast::{catalog, tenant::Role};
use secrecy::ExposeSecret;

use super::{form, operator, session, text, visit};
use crate::api::TestApi;

/// A channel's settings as they are kept.
async fn kept(api: &TestApi, id: uuid::Uuid) -> String {
    let row = catalog::channel(api.pool(), &crate::support::app::everything(), id).await.unwrap();
    row.open(&api.app.keys.secrets).unwrap().to_text().expose_secret().to_owned()
}

#[tokio::test]
async fn a_channel_is_changed_and_tested_and_its_secret_stays_where_it_is() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let url = "https://127.0.0.1:1/hook";
    let new = [("name", "On call"), ("url", url), ("secret", "canary-of-16-characters"), ("events", "failed")];
    assert_eq!(api.send(form("/channels/new/webhook", &new, Some(&cookie))).await.status, 303);
    let id: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM control_plane.channels").fetch_one(api.pool()).await.unwrap();
    let path = format!("/channels/{id}/change");
    let page = text(&api.send(visit(&path, Some(&cookie))).await);
    assert!(page.contains("value=\"On call\"") && page.contains(&format!("value=\"{url}\"")), "{page}");
    assert!(page.contains("value=\"failed\" checked") && page.contains("Empty: it stays as it is."), "{page}");
    assert!(!page.contains("canary"), "{page}");
    // Another name, the same secret.
    let changed = [("name", "Night shift"), ("url", url), ("secret", ""), ("events", "failed"), ("events", "stale")];
    assert_eq!(api.send(form(&path, &changed, Some(&cookie))).await.status, 303);
    assert!(kept(&api, id).await.contains("canary-of-16-characters"));
    let list = text(&api.send(visit("/channels", Some(&cookie))).await);
    assert!(list.contains("Night shift") && list.contains("failed, stale") && !list.contains("canary"), "{list}");
    // A secret is not sent to another place by whoever does not know it.
    let moved = [("name", "Night shift"), ("url", "https://127.0.0.1:2/hook"), ("secret", "")];
    let refused = api.send(form(&path, &moved, Some(&cookie))).await;
    let page = text(&refused);
    assert_eq!(refused.status, 422, "{page}");
    assert!(
        page.contains("id=\"f-secret-error\"") && page.contains("give it again together with another url"),
        "{page}"
    );
    assert!(page.contains("value=\"https://127.0.0.1:2/hook\""), "{page}");
    let with = [("name", "Night shift"), ("url", "https://127.0.0.1:2/hook"), ("secret", "another-one-of-16-chars")];
    assert_eq!(api.send(form(&path, &with, Some(&cookie))).await.status, 303);
    let settings = kept(&api, id).await;
    assert!(settings.contains("another-one-of-16-chars") && !settings.contains("canary"), "{settings}");
    // The test says what became of it.
    let tested = api.send(form(&format!("/channels/{id}/test"), &[], Some(&cookie))).await;
    let page = text(&tested);
    assert_eq!(tested.status, 200, "{page}");
    assert!(page.contains("The test message was not taken") && page.contains("Night shift: "), "{page}");
    // An admin of the organisation sees neither where an operator's channel leads nor may change that.
    sqlx::query("UPDATE control_plane.channels SET organization_id = 'o-acme'").execute(api.pool()).await.unwrap();
    api.user("adam", Role::OrgAdmin, Some("o-acme"), &[]).await;
    let admin = session(&api, "adam").await;
    let page = text(&api.send(visit(&path, Some(&admin))).await);
    assert!(
        page.contains("value=\"Night shift\"") && !page.contains("127.0.0.1") && !page.contains("f-secret"),
        "{page}"
    );
    let renamed = [("name", "Ours"), ("url", "https://127.0.0.1:3/hook"), ("secret", "a-third-one-of-16-chars")];
    assert_eq!(api.send(form(&path, &renamed, Some(&admin))).await.status, 303);
    let settings = kept(&api, id).await;
    assert!(settings.contains("127.0.0.1:2/hook") && settings.contains("another-one-of-16-chars"), "{settings}");
}

#[tokio::test]
async fn a_storage_is_changed_and_tested_and_those_of_the_configuration_are_not_changed() {
    let api = TestApi::with(|config| {
        let local = serde_json::json!({ "type": "local", "root": "/nonexistent/configured" });
        let local = serde_json::from_value(local).unwrap();
        config.storages.insert("configured".to_owned(), local);
    })
    .await;
    let cookie = operator(&api).await;
    let root = |name: &str| api.app.config.data_dir.join(name).display().to_string();
    let (one, two) = (root("one"), root("two"));
    let new = [("name", "shelf"), ("root", one.as_str())];
    let added = api.send(form("/storages/new/local", &new, Some(&cookie))).await;
    assert_eq!(added.status, 303, "{}", text(&added));
    let page = text(&api.send(visit("/storages/shelf/change", Some(&cookie))).await);
    assert!(page.contains(&format!("value=\"{one}\"")), "{page}");
    // What is wrong is said beside the field, and what was typed stays.
    let refused = api.send(form("/storages/shelf/change", &[("root", "not/absolute")], Some(&cookie))).await;
    let page = text(&refused);
    assert_eq!(refused.status, 422, "{page}");
    assert!(page.contains("id=\"f-root-error\"") && page.contains("value=\"not/absolute\""), "{page}");
    let changed = api.send(form("/storages/shelf/change", &[("root", two.as_str())], Some(&cookie))).await;
    assert_eq!(changed.status, 303, "{}", text(&changed));
    let tested = text(&api.send(form("/storages/shelf/test", &[], Some(&cookie))).await);
    assert!(tested.contains("shelf works") && tested.contains("are free") && tested.contains(&two), "{tested}");
    // A bucket's keys stay when nothing is typed, and are not shown.
    let bucket = [
        ("name", "bucket"),
        ("bucket", "b"),
        ("region", "eu-1"),
        ("endpoint", "http://127.0.0.1:1"),
        ("access_key", "canary-id"),
        ("secret_key", "canary-key"),
    ];
    let added = api.send(form("/storages/new/s3", &bucket, Some(&cookie))).await;
    assert_eq!(added.status, 303, "{}", text(&added));
    let page = text(&api.send(visit("/storages/bucket/change", Some(&cookie))).await);
    assert!(page.contains("value=\"eu-1\"") && !page.contains("canary"), "{page}");
    let typed = [("bucket", "b"), ("endpoint", "http://127.0.0.1:1"), ("max_rate", "20 MiB")];
    let changed = api.send(form("/storages/bucket/change", &typed, Some(&cookie))).await;
    assert_eq!(changed.status, 303, "{}", text(&changed));
    let row = catalog::storage(api.pool(), "bucket").await.unwrap();
    let settings = row.open(&api.app.keys.secrets).unwrap().to_text().expose_secret().to_owned();
    assert!(
        settings.contains("canary-id") && settings.contains("canary-key") && settings.contains("20 MiB"),
        "{settings}"
    );
    assert!(!settings.contains("eu-1"), "an empty field takes its setting out: {settings}");
    let refused = api.send(visit("/storages/configured/change", Some(&cookie))).await;
    assert_eq!(refused.status, 409, "{}", text(&refused));
}

#[tokio::test]
async fn a_projects_rate_is_typed_for_people_and_shown_as_it_was_typed() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let path = "/projects/acme/change";
    let typed = |rate: &'static str| [("name", "acme"), ("status", "ACTIVE"), ("max_rate", rate)];
    for wrong in ["fast", "1 B"] {
        let refused = api.send(form(path, &typed(wrong), Some(&cookie))).await;
        let page = text(&refused);
        assert_eq!(refused.status, 422, "{page}");
        assert!(page.contains("id=\"f-max_rate-error\"") && page.contains(&format!("value=\"{wrong}\"")), "{page}");
    }
    for (rate, is_set) in [("20 MiB", true), ("", false)] {
        let changed = api.send(form(path, &typed(rate), Some(&cookie))).await;
        assert_eq!(changed.status, 303, "{}", text(&changed));
        let page = text(&api.send(visit(path, Some(&cookie))).await);
        assert_eq!(page.contains("value=\"20 MiB\""), is_set, "{page}");
        let page = text(&api.send(visit("/projects/acme", Some(&cookie))).await);
        assert_eq!(page.contains("20 MiB a second"), is_set, "{page}");
    }
    // An admin of the organisation sees it, is not asked for it, and leaves it as it is.
    assert_eq!(api.send(form(path, &typed("20 MiB"), Some(&cookie))).await.status, 303);
    api.user("adam", Role::OrgAdmin, Some("o-acme"), &[]).await;
    let admin = session(&api, "adam").await;
    let page = text(&api.send(visit(path, Some(&admin))).await);
    assert!(page.contains("f-name") && !page.contains("max_rate"), "{page}");
    assert_eq!(api.send(form(path, &[("name", "acme"), ("status", "ACTIVE")], Some(&admin))).await.status, 303);
    assert_eq!(api.send(form(path, &typed("1 KiB"), Some(&admin))).await.status, 403);
    let page = text(&api.send(visit("/projects/acme", Some(&admin))).await);
    assert!(page.contains("20 MiB a second"), "{page}");
}

#[tokio::test]
async fn a_database_gets_another_url_which_is_never_shown() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let url = |password: &str, host: &str| format!("postgres://backup:{password}@{host}:5432/shop");
    let first = url("canary-1", "db1.internal");
    let added = api.send(form("/databases/new", &[("name", "shop"), ("url", &first)], Some(&cookie))).await;
    assert_eq!(added.status, 303, "{}", text(&added));
    let page = text(&api.send(visit("/databases", Some(&cookie))).await);
    assert!(page.contains("href=\"/databases/shop/change\"") && page.contains("db1.internal"), "{page}");
    let page = text(&api.send(visit("/databases/shop/change", Some(&cookie))).await);
    assert!(page.contains("type=\"password\"") && !page.contains("canary"), "{page}");
    let refused = api.send(form("/databases/shop/change", &[("url", "canary")], Some(&cookie))).await;
    let page = text(&refused);
    assert_eq!(refused.status, 422, "{page}");
    assert!(page.contains("id=\"f-url-error\"") && !page.contains("canary"), "{page}");
    let second = url("canary-2", "db2.internal");
    let changed = api.send(form("/databases/shop/change", &[("url", &second)], Some(&cookie))).await;
    assert_eq!(changed.status, 303, "{}", text(&changed));
    let page = text(&api.send(visit("/databases", Some(&cookie))).await);
    assert!(page.contains("db2.internal") && !page.contains("db1.internal") && !page.contains("canary"), "{page}");
    assert_eq!(api.send(visit("/databases/nowhere/change", Some(&cookie))).await.status, 404);
}

#[tokio::test]
async fn a_member_chooses_among_the_storages_that_keep_something_of_theirs() {
    let api = TestApi::new().await;
    let first = bytes::Bytes::from_static(b"x");
    api.stored_backup("acme", &first, &["first"]).await;
    api.stored_backup("globex", &first, &["second"]).await;
    api.user("mia", Role::Member, None, &["acme"]).await;
    let member = session(&api, "mia").await;
    let page = text(&api.send(visit("/schedules/new", Some(&member))).await);
    assert!(page.contains("name=\"storages\" value=\"first\"") && !page.contains("second"), "{page}");
    let typed = [("project_id", "acme"), ("cron", "0 3 * * *"), ("zone", "UTC"), ("storages", "guessed")];
    let refused = text(&api.send(form("/schedules/new", &typed, Some(&member))).await);
    assert!(refused.contains("there is no storage") && !refused.contains("second"), "{refused}");
}

#[tokio::test]
async fn a_schedule_is_told_in_words_with_its_times_without_any_script() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let typed = [("project_id", "acme"), ("cron", "15 4 * * 1"), ("zone", "Europe/Berlin"), ("keep_last", "5")];
    // The clock stands at Saturday, 2026-11-21 12:00 UTC.
    let mondays = ["2026-11-23 04:15", "2026-11-30", "2026-12-07", "2026-12-14", "2026-12-21"];
    let mut look = typed.to_vec();
    look.push(("look", "1"));
    let looked = api.send(form("/schedules/new", &look, Some(&cookie))).await;
    assert_eq!(looked.status, 200);
    let page = text(&looked);
    assert!(
        page.contains("At 04:15") && page.contains("value=\"15 4 * * 1\"") && page.contains("value=\"5\""),
        "{page}"
    );
    assert!(mondays.iter().all(|day| page.contains(day)) && page.contains("+01:00"), "{page}");
    assert_eq!(api.count("SELECT count(*) FROM control_plane.schedules WHERE project_id = 'acme'").await, 0);
    // While it is typed, the script asks for the same.
    let part = text(&api.send(visit("/schedules/preview?cron=15+4+*+*+1&zone=Europe%2FBerlin", Some(&cookie))).await);
    assert!(mondays.iter().all(|day| part.contains(day)) && !part.contains("<html"), "{part}");
    let mut all = typed.to_vec();
    all.extend([("format", "custom"), ("compression", "none"), ("jitter_minutes", "10")]);
    assert_eq!(api.send(form("/schedules/new", &all, Some(&cookie))).await.status, 303);
    let id: uuid::Uuid = sqlx::query_scalar("SELECT id FROM control_plane.schedules WHERE project_id = 'acme'")
        .fetch_one(api.pool())
        .await
        .unwrap();
    let page = text(&api.send(visit(&format!("/schedules/{id}/change"), Some(&cookie))).await);
    assert!(page.contains("<option value=\"custom\" selected>") && page.contains("value=\"10\""), "{page}");
    assert!(mondays.iter().all(|day| page.contains(day)), "{page}");
    let wrong = api
        .send(form(
            "/schedules/new",
            &[("project_id", "acme"), ("cron", "0 3 * * *"), ("zone", "UTC"), ("type", "logs"), ("format", "custom")],
            Some(&cookie),
        ))
        .await;
    assert!(text(&wrong).contains("id=\"f-format-error\""), "{}", text(&wrong));
}

#[tokio::test]
async fn a_decrypted_download_is_offered_where_the_configuration_allows_it() {
    for is_allowed in [false, true] {
        let api = TestApi::with(|config| config.encryption.decrypted_downloads = is_allowed).await;
        let cookie = operator(&api).await;
        let id = api.stored_backup("acme", &bytes::Bytes::from_static(b"x"), &["first"]).await;
        let page = text(&api.send(visit(&format!("/backups/{id}"), Some(&cookie))).await);
        assert_eq!(page.contains(&format!("/backups/{id}/download?decrypt=1")), is_allowed, "{page}");
        let answer = api.send(visit(&format!("/backups/{id}/download?decrypt=1"), Some(&cookie))).await;
        assert_eq!(answer.status, if is_allowed { 200 } else { 403 }, "{}", text(&answer));
    }
}
