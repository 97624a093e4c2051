//! Where a project's files may be, and who may say so.

use std::{
    fs,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::symlink,
    },
    path::Path,
};

use holdfast::{
    catalog::{self, FileSource},
    jobs::request::{self, ExportStorage, RestoreRequest},
    manage::storages,
    tenant::{Caller, Role},
};
use rustix::fs::{Mode, OFlags};

use super::{
    scene::{Scene, back_up, in_directory, write},
    support::app::{TestApp, caller},
};

async fn set(test: &TestApp, project: &str, directory: &Path) -> Result<(), String> {
    let files = in_directory(directory);
    let done = request::set_files(&test.app, &caller(), project, Some(&files)).await;
    done.map(drop).map_err(|error| format!("{}: {error}", error.code()))
}

#[tokio::test]
async fn a_directory_must_be_there_and_neither_holdfasts_own_nor_anothers() {
    let scene = Scene::new().await;
    let test = &scene.test;
    test.add_schema_project("globex", "tenant_globex").await;
    let free = tempfile::tempdir().unwrap();
    let data = test.directory.path();
    fs::create_dir_all(data.join("inside")).unwrap();
    fs::create_dir_all(scene.live().join("inside")).unwrap();
    symlink(data, free.path().join("to data")).unwrap();
    write(&free.path().join("a file"), "x");
    for (directory, expected) in [
        (free.path().join("missing"), "project.files"),
        (free.path().join("a file"), "symbolic link, or no directory"),
        (free.path().join("to data"), "Holdfast keeps its own files"),
        (free.path().join("to data/inside"), "Holdfast keeps its own files"),
        (data.to_owned(), "Holdfast keeps its own files"),
        (data.join("storage"), "Holdfast keeps its own files"),
        ("/".into(), "project.files"),
        ("/proc/../etc".into(), "write the directory plainly"),
        (scene.live(), "project.files_taken"),
        (scene.live().join("inside"), "project.files_taken"),
        (scene.live().parent().unwrap().to_owned(), "project.files_taken"),
    ] {
        let error = set(test, "globex", &directory).await.expect_err(&directory.display().to_string());
        assert!(error.contains(expected), "{}: {error}", directory.display());
    }
    set(test, "globex", free.path()).await.unwrap();
    assert_eq!(catalog::files(&test.app.pool, "globex").await.unwrap(), Some(in_directory(free.path())));
    request::set_files(&test.app, &caller(), "globex", None).await.unwrap();
    assert_eq!(catalog::files(&test.app.pool, "globex").await.unwrap(), None);
    let events: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.backup_history WHERE event = 'project_files_set'")
            .fetch_one(&test.app.pool)
            .await
            .unwrap();
    assert_eq!(events, 3);
}

#[tokio::test]
async fn with_roots_a_directory_lies_below_one_and_no_link_leads_there() {
    let roots = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let root = roots.path().join("srv");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(roots.path().join("srv2")).unwrap();
    fs::create_dir_all(elsewhere.path().join("b")).unwrap();
    symlink(elsewhere.path(), root.join("link")).unwrap();
    let (configured, test_roots) = (root.clone(), roots.path().to_owned());
    let test = TestApp::with(|config| config.files.roots = vec![configured]).await;
    test.add_schema_project("acme", "tenant_acme").await;
    for (directory, expected) in [
        (elsewhere.path().join("b"), "files.roots"),
        (test_roots.join("srv2"), "files.roots"),
        (root.clone(), "files.roots"),
        (root.join("link/b"), "symbolic link"),
        (root.join("link"), "symbolic link"),
    ] {
        let error = set(&test, "acme", &directory).await.expect_err(&directory.display().to_string());
        assert!(error.contains(expected), "{}: {error}", directory.display());
    }
    set(&test, "acme", &root.join("a/b")).await.unwrap();
    write(&root.join("a/b/file"), "x");
    assert_eq!(back_up(&test).await.status, "completed");
    // Whoever may write above it now cannot lead Holdfast elsewhere.
    fs::rename(root.join("a"), root.join("away")).unwrap();
    symlink(elsewhere.path(), root.join("a")).unwrap();
    let job = back_up(&test).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("symbolic link"));
}

#[tokio::test]
async fn only_operators_say_where_files_are_and_only_those_with_the_project_back_them_up() {
    let scene = Scene::new().await;
    let app = &scene.test.app;
    write(&scene.live().join("a"), "x");
    let backup = scene.backup().await;
    let of = |role, project: &str| Caller { role, project_ids: vec![project.parse().unwrap()], ..caller() };
    let elsewhere = tempfile::tempdir().unwrap();
    let files = in_directory(elsewhere.path());
    let (member, stranger) = (of(Role::Member, "acme"), of(Role::Member, "globex"));
    let refused = request::set_files(app, &member, "acme", Some(&files)).await.unwrap_err();
    assert_eq!(refused.code(), "project.files_operator");
    let refused = request::set_files(app, &stranger, "acme", Some(&files)).await.unwrap_err();
    assert_eq!(refused.code(), "project.not_found");
    assert_eq!(catalog::files(&app.pool, "acme").await.unwrap(), Some(in_directory(&scene.live())));

    let asked = ExportStorage { project_id: "acme".to_owned(), ..ExportStorage::default() };
    assert_eq!(request::export(app, &stranger, &asked, None).await.unwrap_err().code(), "project.not_found");
    let restore = RestoreRequest::in_place(backup.backup_id());
    assert_eq!(request::restore(app, &stranger, &restore, None).await.unwrap_err().code(), "backup.not_found");
    request::export(app, &member, &asked, None).await.unwrap();
    let elsewhere = RestoreRequest { target_database: Some("other".to_owned()), ..restore };
    assert_eq!(request::restore(app, &member, &elsewhere, None).await.unwrap_err().code(), "request.target");
}

#[tokio::test]
async fn a_storage_that_is_added_and_files_keep_out_of_each_others_place() {
    let scene = Scene::new().await;
    let test = &scene.test;
    test.add_schema_project("globex", "tenant_globex").await;
    let backups = tempfile::tempdir().unwrap();
    let settings = |root: &Path| serde_json::from_value(serde_json::json!({ "type": "local", "root": root })).unwrap();
    storages::add(&test.app, &caller(), "second", &settings(backups.path())).await.unwrap();
    fs::create_dir(backups.path().join("inside")).unwrap();
    for directory in [backups.path().to_owned(), backups.path().join("inside")] {
        let error = set(test, "globex", &directory).await.unwrap_err();
        assert!(error.contains("Holdfast keeps its own files"), "{error}");
    }
    // The other way round.
    fs::create_dir(scene.live().join("inside")).unwrap();
    for root in [scene.live(), scene.live().join("inside")] {
        let error = storages::add(&test.app, &caller(), "third", &settings(&root)).await.unwrap_err();
        assert!(error.to_string().contains("project \"acme\" has its files"), "{error}");
        let changes = serde_json::from_value(serde_json::json!({ "root": root })).unwrap();
        let error = storages::change(&test.app, &caller(), "second", &changes).await.unwrap_err();
        assert!(error.to_string().contains("project \"acme\" has its files"), "{error}");
    }
}

#[tokio::test]
async fn files_stay_where_they_are_while_jobs_or_an_undo_need_them() {
    let scene = Scene::new().await;
    let (test, elsewhere) = (&scene.test, tempfile::tempdir().unwrap());
    write(&scene.live().join("a"), "x");
    let asked = ExportStorage { project_id: "acme".to_owned(), ..ExportStorage::default() };
    let job = request::export(&test.app, &caller(), &asked, None).await.unwrap();
    let error = set(test, "acme", elsewhere.path()).await.unwrap_err();
    assert!(error.starts_with("project.files_held"), "{error}");
    set(test, "acme", &scene.live()).await.expect("what is so already");
    test.run(job.job_id()).await;
    let restore = scene.restored(&scene.backup().await).await;
    let error = set(test, "acme", elsewhere.path()).await.unwrap_err();
    assert!(error.starts_with("project.files_held"), "{error}");
    // Moved all the same, past every check: an undo refuses to swap what is not the project's any more.
    catalog::set_files(&test.app.pool, "acme", Some(&in_directory(elsewhere.path()))).await.unwrap();
    let before = scene.beside();
    let undo = request::undo(&test.app, &caller(), restore.job_id(), None).await.unwrap();
    let undo = test.run(undo.job_id()).await;
    assert_eq!(undo.status, "failed");
    assert!(undo.error_message.unwrap().contains("moved since the restore"));
    assert_eq!(scene.beside(), before);
}

#[tokio::test]
async fn a_project_without_files_has_no_backup_of_them() {
    let test = TestApp::new().await;
    test.add_schema_project("acme", "tenant_acme").await;
    let asked = ExportStorage { project_id: "acme".to_owned(), ..ExportStorage::default() };
    let error = request::export(&test.app, &caller(), &asked, None).await.unwrap_err();
    assert_eq!(error.code(), "project.no_files");
    assert!(error.hint().unwrap().contains("holdfast project files"));
    let nothing: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.jobs").fetch_one(&test.app.pool).await.unwrap();
    assert_eq!(nothing, 0);
    let prefix: FileSource = serde_json::from_value(serde_json::json!({ "storage": "local", "prefix": "a" })).unwrap();
    let error = request::set_files(&test.app, &caller(), "acme", Some(&prefix)).await.unwrap_err();
    assert!(error.to_string().contains("is no bucket"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_the_backup() {
    if rustix::process::geteuid().is_root() {
        // Root reads everything; a tree that is too deep stands in for it.
        let scene = Scene::new().await;
        let open = |at: BorrowedFd<'_>, name: &str| {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            rustix::fs::openat(at, name, flags, Mode::empty()).unwrap()
        };
        let mut at = open(rustix::fs::CWD, scene.live().to_str().unwrap());
        for _ in 0..1100 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open(at.as_fd(), "d");
        }
        let job = back_up(&scene.test).await;
        assert_eq!(job.status, "failed");
        assert!(job.error_message.unwrap().contains("1024 deep"));
        return;
    }
    let scene = Scene::new().await;
    write(&scene.live().join("locked"), "x");
    fs::set_permissions(scene.live().join("locked"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let job = back_up(&scene.test).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("locked"));
}
