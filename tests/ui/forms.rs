//! What pages do with sessions that end, pages of other sites, wrong values and hostile names.

use axum::{
    body::Body,
    http::{Request, header},
};
use bytes::Bytes;

use super::{field, form, operator, text, visit};
use crate::api::TestApi;

#[tokio::test]
async fn a_form_that_was_sent_when_the_session_had_ended_goes_on_after_the_login() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    sqlx::query("DELETE FROM control_plane.sessions").execute(api.pool()).await.unwrap();
    let fields = [("id", "fresh"), ("name", "Fresh <b>"), ("retention_days", "12"), ("password", "canary")];
    let asked = api.send(form("/projects/new", &fields, Some(&cookie))).await;
    assert_eq!(asked.status, 401);
    let page = text(&asked);
    assert!(page.contains("name=\"resume_path\" value=\"/projects/new\"") && !page.contains("canary"), "{page}");
    let kept = field(&page, "resume");
    let login =
        [("name", "olga"), ("password", crate::api::PASSWORD), ("resume_path", "/projects/new"), ("resume", &kept)];
    let again = api.send(form("/login", &login, None)).await;
    assert_eq!(again.status, 200, "{}", text(&again));
    let page = text(&again);
    // What was not kept is asked for again by the form itself: see twice.rs.
    assert!(page.contains("holdfast_left_out") && page.contains("Fresh &#60;b&#62;"), "{page}");
    assert!(page.contains("Passwords and other secrets were not kept") && !page.contains("canary"), "{page}");
    let whole = kept.replace("&holdfast_left_out=1", "");
    assert_ne!(whole, kept);
    let login =
        [("name", "olga"), ("password", crate::api::PASSWORD), ("resume_path", "/projects/new"), ("resume", &whole)];
    let again = api.send(form("/login", &login, None)).await;
    let page = text(&again);
    assert!(
        page.contains("action=\"/projects/new\"")
            && page.contains("Fresh &#60;b&#62;")
            && page.contains("value=\"12\""),
        "{page}"
    );
    let cookie = again.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let done = api.send(form("/projects/new", &fields, Some(&cookie))).await;
    assert_eq!(done.status, 303, "{}", text(&done));
    // A page of another site cannot put a form there.
    let mut strange = form("/projects/new", &fields, None);
    strange.headers_mut().insert(header::ORIGIN, "http://evil.example".parse().unwrap());
    let page = text(&api.send(strange).await);
    assert!(!page.contains("resume_path") && !page.contains("Fresh"), "{page}");
    // A login that failed says so, and is no form that was lost.
    let wrong = api.send(form("/login", &[("name", "olga"), ("password", "wrong")], None)).await;
    assert_eq!(wrong.status, 401);
    let page = text(&wrong);
    assert!(page.contains("the name or the password is wrong") && !page.contains("resume_path"), "{page}");
    // Reading goes back to where one was.
    let sent_on = api.send(visit("/backups?status=failed", None)).await;
    assert_eq!(sent_on.headers[header::LOCATION], "/login?next=%2Fbackups%3Fstatus%3Dfailed");
}

#[tokio::test]
async fn a_form_of_another_sites_page_changes_nothing() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let id = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    let path = format!("/backups/{id}/pin");
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let mut strange = form(&path, &[], Some(&cookie));
        strange.headers_mut().insert(name, value.parse().unwrap());
        let answer = api.send(strange).await;
        assert_eq!(answer.status, 403, "{name}: {value}");
        assert!(text(&answer).contains("another site"));
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.backups WHERE pinned").await, 0);
    assert_eq!(api.send(form(&path, &[], Some(&cookie))).await.status, 303);
    assert_eq!(api.count("SELECT count(*) FROM control_plane.backups WHERE pinned").await, 1);
}

#[tokio::test]
async fn a_wrong_value_stays_in_its_field_with_what_is_wrong_beside_it() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    for (path, fields, field, said) in [
        (
            "/schedules/new",
            &[("project_id", "acme"), ("cron", "61 <i> * *"), ("zone", "UTC"), ("type", "database")][..],
            "cron",
            "61 &#60;i&#62; * *",
        ),
        (
            "/schedules/new",
            &[("project_id", "acme"), ("cron", "0 1 * * *"), ("zone", "Mars/Base"), ("type", "database")],
            "zone",
            "Mars/Base",
        ),
        (
            "/schedules/new",
            &[("project_id", "acme"), ("cron", "0 1 * * *"), ("zone", "UTC"), ("days", "many")],
            "days",
            "many",
        ),
        ("/projects/new", &[("id", "no spaces"), ("name", "x")], "id", "no spaces"),
        ("/people/new", &[("name", "x"), ("password", "short"), ("permissions", "backup:read")], "password", ""),
        ("/databases/new", &[("name", "x"), ("url", "canary")], "url", ""),
    ] {
        let answer = api.send(form(path, fields, Some(&cookie))).await;
        let page = text(&answer);
        assert_eq!(answer.status, 422, "{path}: {page}");
        let id = format!("f-{field}-error");
        assert!(page.contains(&format!("id=\"{id}\"")) && page.contains("aria-invalid"), "{path} {field}: {page}");
        let shown = said.replace("&#60;", "&lt;").replace("&#62;", "&gt;");
        // A secret is typed again.
        assert!(shown.is_empty() || page.contains(&format!("value=\"{shown}\"")), "{path} {field}: {page}");
        assert!(!page.contains("canary"), "{page}");
    }
}

/// A page's text without what stands in elements of its own direction, and without its markup.
fn outside_of_names(page: &str) -> String {
    let mut rest = page.to_owned();
    for element in ["bdi", "code", "pre"] {
        let (open, close) = (format!("<{element}"), format!("</{element}>"));
        while let Some(begin) = rest.find(&open) {
            let end = rest[begin..].find(&close).map_or(rest.len(), |end| begin + end + close.len());
            rest.replace_range(begin..end, "");
        }
    }
    let mut text = String::new();
    for part in rest.split('<') {
        text.push_str(part.split_once('>').map_or(part, |(_, text)| text));
    }
    text
}

#[tokio::test]
async fn hostile_names_are_text_on_every_page() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    let name = format!("<img src=x onerror=alert(1)>\u{202e}evil 🦊 \"'& {}", "x".repeat(500));
    sqlx::query("UPDATE control_plane.projects SET name = $1 WHERE id = 'acme'")
        .bind(&name)
        .execute(api.pool())
        .await
        .unwrap();
    let mut ids = Vec::new();
    let backup = api.stored_backup("acme", &Bytes::from_static(b"x"), &["first"]).await;
    sqlx::query("UPDATE control_plane.backups SET message = $1, created_by = $1, file_name = $1, status = 'failed'")
        .bind(&name)
        .execute(api.pool())
        .await
        .unwrap();
    let job = api.job("acme", "export_backup", "failed").await;
    sqlx::query("UPDATE control_plane.jobs SET error_message = $1, created_by = $1, progress = jsonb_build_object('stage', $1::text, 'storages', jsonb_build_object($1::text, 1))")
        .bind(&name)
        .execute(api.pool())
        .await
        .unwrap();
    sqlx::query("INSERT INTO control_plane.backup_history (project_id, backup_id, event, actor, outcome, detail) VALUES ('acme', $2, $1, $1, $1, jsonb_build_object($1::text, $1::text))")
        .bind(&name)
        .bind(backup.0)
        .execute(api.pool())
        .await
        .unwrap();
    sqlx::query("INSERT INTO control_plane.backup_copies (backup_id, storage, status, message) VALUES ($2, left($1, 200), 'failed', $1)")
        .bind(&name)
        .bind(backup.0)
        .execute(api.pool())
        .await
        .unwrap();
    let made = [
        ("/schedules/new", &[("project_id", "acme"), ("cron", "0 3 * * *"), ("zone", "UTC")][..]),
        ("/channels/new/email", &[("name", "x"), ("to", "ops@example.com")]),
        ("/keys/new", &[("name", "x"), ("permissions", "backup:read"), ("project_ids", "acme")]),
        ("/people/new", &[("name", "x"), ("password", crate::api::PASSWORD), ("permissions", "backup:read")]),
    ];
    for (path, fields) in made {
        let answer = api.send(form(path, fields, Some(&cookie))).await;
        assert!(matches!(answer.status.as_u16(), 200 | 303), "{path}: {}", text(&answer));
    }
    for sql in [
        "UPDATE control_plane.schedules SET name = $1 WHERE project_id = 'acme' RETURNING id",
        "UPDATE control_plane.channels SET name = $1 RETURNING id",
        "UPDATE control_plane.users SET name = $1 WHERE name = 'x' RETURNING id",
        "UPDATE control_plane.api_keys SET name = $1 RETURNING id",
    ] {
        let id: uuid::Uuid = sqlx::query_scalar(sql).bind(&name).fetch_one(api.pool()).await.unwrap();
        ids.push(id);
    }
    // A platform's own project may be called anything, and so may rows that nothing of ours has checked.
    let (project, other) = (name.replace("onerror", "onerror2"), uuid::Uuid::now_v7());
    for sql in [
        "INSERT INTO control_plane.projects (id, name, slug, status) VALUES ($1, $1, 'hostile', 'ACTIVE') RETURNING 1",
        "INSERT INTO control_plane.storages (name, kind, settings_sealed) VALUES ($1, $1, 'x') RETURNING 1",
        "INSERT INTO control_plane.databases (name, url_sealed, shown_as) VALUES ($1, 'x', $1) RETURNING 1",
    ] {
        sqlx::query(sql).bind(&project).fetch_one(api.pool()).await.unwrap();
    }
    for sql in [
        "INSERT INTO control_plane.backups (id, project_id, type, format, status, file_name, size, message, created_by, expires_at)
         VALUES ($2, $1, 'database', 'sql', 'completed', $1, 1, $1, $1, '2026-11-24T12:00:00Z') RETURNING 1",
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status, message) VALUES ($2, $1, 'good', $1) RETURNING 1",
    ] {
        sqlx::query(sql).bind(&project).bind(other).fetch_one(api.pool()).await.unwrap();
    }
    let query = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>();
    let in_path = url::form_urlencoded::byte_serialize(project.as_bytes()).collect::<String>().replace('+', "%20");
    for path in [
        format!("/projects/{in_path}"),
        format!("/projects/{in_path}/change"),
        format!("/projects/{in_path}/restore"),
        format!("/backups/{other}"),
        format!("/backups/{other}/restore"),
        format!("/backups/{other}/delete"),
        format!("/backups?project_id={in_path}"),
        "/retention".to_owned(),
        "/storages".to_owned(),
        "/databases".to_owned(),
        "/".to_owned(),
        "/projects".to_owned(),
        "/projects/acme".to_owned(),
        "/projects/acme/change".to_owned(),
        "/backups".to_owned(),
        format!("/backups/{backup}"),
        "/jobs".to_owned(),
        format!("/jobs/{job}"),
        format!("/jobs/{job}/live"),
        "/schedules".to_owned(),
        format!("/schedules/{}", ids[0]),
        format!("/schedules/{}/change", ids[0]),
        "/channels".to_owned(),
        format!("/channels/{}/change", ids[1]),
        "/people".to_owned(),
        format!("/people/{}/change", ids[2]),
        "/keys".to_owned(),
        "/audit".to_owned(),
        format!("/projects?q={query}"),
        format!("/jobs?project_id={query}"),
        format!("/audit?actor={query}"),
    ] {
        let answer = api.send(visit(&path, Some(&cookie))).await;
        let page = text(&answer);
        assert_eq!(answer.status, 200, "{path}: {page}");
        assert!(!page.contains("<img"), "{path}: {page}");
        assert!(page.contains("onerror"), "{path} shows it as text: {page}");
        // What turns the direction of writing turns its own element alone.
        let around = outside_of_names(&page);
        assert!(!around.contains('\u{202e}'), "{path}: {around}");
    }
    // What is wrong in an address is told on a page, as text.
    let answer = api.send(visit(&format!("/jobs?status={query}"), Some(&cookie))).await;
    assert_eq!(answer.status, 422);
    assert!(!text(&answer).contains("<img"));
    // As the script of a page asks: the part, or nothing that could be taken for it.
    let mut partial = visit(&format!("/jobs/{job}/live"), None);
    partial.headers_mut().insert("hx-request", "true".parse().unwrap());
    assert_eq!(api.send(partial).await.status, 401);
}

#[tokio::test]
async fn files_are_kept_for_good_and_programs_are_answered_as_before() {
    let api = TestApi::new().await;
    let page = text(&api.send(visit("/login", None)).await);
    let names: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert!(names.len() >= 4, "{page}");
    for name in names {
        let request = Request::get(name).header(header::ACCEPT_ENCODING, "br, gzip").body(Body::empty()).unwrap();
        let answer = api.send(request).await;
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        assert_eq!(answer.headers[header::CONTENT_ENCODING], "gzip");
    }
    // Who asks without wanting a page gets the document of a problem; so does whoever asks below the API.
    assert_eq!(api.get("", "/nowhere").await.problem(404), "request.no_route");
    assert_eq!(api.send(visit("/api/nowhere", None)).await.problem(404), "request.no_route");
    let nowhere = api.send(visit("/nowhere", None)).await;
    assert_eq!((nowhere.status.as_u16(), text(&nowhere).contains("There is nothing here")), (404, true));
}

#[tokio::test]
async fn a_list_that_finds_no_such_project_leads_to_the_search_for_it() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    for list in ["/backups", "/jobs", "/schedules", "/retention", "/audit"] {
        let page = text(&api.send(visit(&format!("{list}?project_id=ac%3Cb"), Some(&cookie))).await);
        assert!(page.contains("href=\"/projects?q=ac%3Cb\""), "{list}: {page}");
        let page = text(&api.send(visit(&format!("{list}?project_id=acm"), Some(&cookie))).await);
        assert!(page.contains("href=\"/projects?q=acm\"") && page.contains("<bdi>acm</bdi>"), "{list}: {page}");
    }
    let found = text(&api.send(visit("/projects?q=acm", Some(&cookie))).await);
    assert!(found.contains("href=\"/projects/acme\""), "{found}");
}
