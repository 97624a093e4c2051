//! Downloads: the bytes, ranges of them, and which copy they come from.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::http::{Method, header};
use holdfast::{
    app::App,
    artifact::Sha256Digest,
    auth::jwt::{self, Claims, Verifier},
    history::{self, Backup},
    http,
    tenant::{Permission, Role},
    transform::Identities,
};
use tower::ServiceExt;

use super::{
    api::{TestApi, request},
    some_bytes,
    support::app::{TestApp, everything, export},
};

#[tokio::test]
async fn a_download_gives_the_stored_bytes_and_leaves_an_event() {
    let api = TestApi::new().await;
    let bytes = some_bytes(100_001);
    let id = api.stored_backup("acme", &bytes, &["first", "second"]).await;
    let path = format!("/api/backup/{id}/download");
    let answer = api.get(&api.acme(), &path).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, bytes);
    let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-length"), "100001");
    assert_eq!(header("etag"), format!("\"{}\"", Sha256Digest::of(&bytes)));
    assert_eq!(header("content-disposition"), format!("attachment; filename=\"backup-{}.sql.gz\"", id.short()));
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("accept-ranges"), "bytes");
    assert_eq!(api.audit().await, [("downloaded".into(), "member of acme".into(), "ok".into())]);

    let head = api.send(request(Method::HEAD, &path, Some(&api.acme()), None)).await;
    assert_eq!((head.status.as_u16(), head.headers["content-length"].to_str().unwrap()), (200, "100001"));
    assert_eq!(api.audit().await.len(), 1, "asking for the head moves no bytes");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let api = TestApi::new().await;
    let bytes = some_bytes(5000);
    let id = api.stored_backup("acme", &bytes, &["first"]).await;
    let etag = format!("\"{}\"", Sha256Digest::of(&bytes));
    let ask = async |range: &str, condition: Option<&str>| {
        let mut request = request(Method::GET, &format!("/api/backup/{id}/download"), Some(&api.acme()), None);
        request.headers_mut().insert(header::RANGE, range.parse().unwrap());
        if let Some(condition) = condition {
            request.headers_mut().insert(header::IF_RANGE, condition.parse().unwrap());
        }
        api.send(request).await
    };
    for (range, condition, start, end) in [
        ("bytes=0-0", None, 0, 1),
        ("bytes=10-1999", None, 10, 2000),
        ("bytes=4000-", None, 4000, 5000),
        ("bytes=-500", None, 4500, 5000),
        ("bytes=0-", Some(etag.as_str()), 0, 5000),
    ] {
        let answer = ask(range, condition).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, bytes.slice(start..end), "{range}");
        assert_eq!(answer.headers["content-range"], format!("bytes {start}-{}/5000", end - 1));
        assert_eq!(answer.headers["content-length"], (end - start).to_string());
    }
    for (range, condition) in
        [("bytes=0-1,5-6", None), ("items=1-2", None), ("bytes=4-2", None), ("bytes=1-2", Some("\"other\""))]
    {
        let answer = ask(range, condition).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 5000), "{range}");
    }
    let answer = ask("bytes=5000-", None).await;
    assert_eq!(answer.problem(416), "request.range");
    assert_eq!(answer.headers["content-range"], "bytes */5000");
}

#[tokio::test]
async fn a_download_falls_to_the_next_copy() {
    let api = TestApi::new().await;
    let bytes = some_bytes(3000);
    let id = api.stored_backup("acme", &bytes, &["first", "second"]).await;
    let path = format!("/api/backup/{id}/download");
    let locator = history::copies(api.pool(), &[id.0]).await.unwrap()[0].locator().unwrap();
    let holdfast::storage::Locator::Memory { key } = locator else { panic!("{locator:?}") };

    api.first.put(&key, bytes.slice(..2999));
    assert_eq!(api.get(&api.acme(), &path).await.body, bytes, "a copy of another length is passed over");
    api.first.is_away.store(true, Ordering::SeqCst);
    assert_eq!(api.get(&api.acme(), &path).await.body, bytes);

    api.second.is_away.store(true, Ordering::SeqCst);
    let before = api.audit().await.len();
    let answer = api.get(&api.acme(), &path).await;
    assert_eq!(answer.problem(503), "storage.unavailable");
    assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "a storage's own words stay inside");
    assert_eq!(api.audit().await.len(), before, "nothing was downloaded");

    sqlx::query("UPDATE control_plane.backup_copies SET status = 'damaged'").execute(api.pool()).await.unwrap();
    assert_eq!(api.get(&api.acme(), &path).await.problem(409), "backup.no_copy");
    sqlx::query("UPDATE control_plane.backups SET status = 'failed'").execute(api.pool()).await.unwrap();
    assert_eq!(api.get(&api.acme(), &path).await.problem(409), "backup.not_completed");
}

#[tokio::test]
async fn a_download_from_a_named_storage_falls_to_no_other() {
    let api = TestApi::new().await;
    let bytes = some_bytes(3000);
    let id = api.stored_backup("acme", &bytes, &["first", "second"]).await;
    let path = format!("/api/backup/{id}/download?from=second");
    assert_eq!(api.get(&api.acme(), &path).await.body, bytes);
    let events = history::events(api.pool(), &everything(), id).await.unwrap();
    assert_eq!(events.last().unwrap().detail["storage"], "second");
    api.second.is_away.store(true, Ordering::SeqCst);
    assert_eq!(api.get(&api.acme(), &path).await.problem(503), "storage.unavailable");
    let nowhere = format!("/api/backup/{id}/download?from=nowhere");
    assert_eq!(api.get(&api.acme(), &nowhere).await.problem(409), "backup.no_copy");
    let unknown = format!("/api/backup/{id}/download?form=second");
    assert_eq!(api.get(&api.acme(), &unknown).await.problem(422), "request.query");
}

#[tokio::test]
async fn a_file_name_cannot_leave_its_header() {
    let api = TestApi::new().await;
    let id = api.stored_backup("acme", &some_bytes(10), &["first"]).await;
    sqlx::query("UPDATE control_plane.backups SET file_name = $1")
        .bind("../x\"; filename=\"evil.exe\r\nSet-Cookie: a=b ü")
        .execute(api.pool())
        .await
        .unwrap();
    let answer = api.get(&api.acme(), &format!("/api/backup/{id}/download")).await;
    let name = answer.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert_eq!(name, "attachment; filename=\".._x___filename__evil.exe__Set-Cookie__a_b__\"");
}

/// A Holdfast that has taken an encrypted backup, and may give it out decrypted.
struct Taken {
    test: TestApp,
    backup: Backup,
}

impl Taken {
    async fn new() -> Self {
        let test = TestApp::with(|config| config.encryption.decrypted_downloads = true).await;
        let sql = "CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t AS SELECT n FROM generate_series(1, 200000) n";
        sqlx::raw_sql(sql).execute(&mut test.tenants().await).await.unwrap();
        test.add_schema_project("acme", "tenant_acme").await;
        let backup = test.backup(export("acme")).await;
        assert_eq!(backup.encryption.as_deref(), Some("age"));
        Self { test, backup }
    }

    /// Downloads as a member of the project, from an installation that is a little different.
    async fn ask(&self, change: impl FnOnce(&mut App)) -> axum::response::Response {
        let mut app = self.test.app.clone();
        change(&mut app);
        let claims = Claims {
            subject: "Mia".to_owned(),
            permissions: vec![Permission::Read],
            project_ids: vec!["acme".parse().unwrap()],
            organization_id: None,
            role: Role::Member,
        };
        let (secret, auth) = (&app.keys.jwt_secret, &app.config.auth);
        let token = jwt::issue(secret, auth, &claims, app.clock.now(), Duration::from_secs(60)).unwrap();
        let verifier = Verifier::new(secret, auth, app.clock.clone()).unwrap();
        let path = format!("/api/backup/{}/download?decrypt=true", self.backup.id);
        http::router(app, verifier).oneshot(request(Method::GET, &path, Some(&token), None)).await.unwrap()
    }
}

async fn code(answer: axum::response::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (status, body["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_a_backup_holds_is_given_out_where_that_is_allowed_and_broken_off_where_it_is_not_right() {
    let taken = Taken::new().await;
    let answer = taken.ask(|_| {}).await;
    assert_eq!(answer.status(), 200);
    let name = answer.headers()[header::CONTENT_DISPOSITION].to_str().unwrap().to_owned();
    assert!(name.ends_with(".sql\"") && !answer.headers().contains_key(header::CONTENT_LENGTH), "{name}");
    let content = axum::body::to_bytes(answer.into_body(), 64 << 20).await.unwrap();
    assert_eq!(taken.backup.content_sha256, Some(Sha256Digest::of(&content).to_string()));
    assert!(String::from_utf8_lossy(&content).contains("CREATE TABLE tenant_acme.t"));
    let events = history::events(&taken.test.app.pool, &everything(), taken.backup.backup_id()).await.unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.event == "downloaded").collect();
    assert_eq!((told.len(), &told[0].detail["decrypted"]), (1, &serde_json::json!(true)));

    let usual = taken.ask(|app| Arc::make_mut(&mut app.config).encryption.decrypted_downloads = false).await;
    assert_eq!(code(usual).await, (403, "download.encrypted".to_owned()));
    let without_key = taken.ask(|app| Arc::make_mut(&mut app.keys).identities = Identities::none()).await;
    assert_eq!(code(without_key).await, (409, "key.unavailable".to_owned()));

    // What was taken was something else: nobody is told that this is all of it.
    sqlx::query("UPDATE control_plane.backups SET content_sha256 = repeat('0', 64)")
        .execute(&taken.test.app.pool)
        .await
        .unwrap();
    let answer = taken.ask(|_| {}).await;
    assert_eq!(answer.status(), 200);
    assert!(axum::body::to_bytes(answer.into_body(), 64 << 20).await.is_err());
}
