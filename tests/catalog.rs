//! The catalogue from the manifests alone: a control plane that was lost, a record that could not be written, a storage that lies.

mod imports;
mod remote;
mod trials;

use crate::support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use holdfast::{
    clock::Clock,
    config::{Config, LocalStorageConfig, StorageConfig},
    demo::{compare, sample},
    history::{self, Backup, BackupFilter},
    ids::LeaseToken,
    jobs::{
        catalog::{self, Adopt, Rebuild, Rebuilt},
        request::{self, DeleteRequest},
    },
    storage::NewObject,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};
use support::{
    app::{TestApp, caller, everything, export},
    seal,
};

/// Storages `first` and `second` below a directory that outlives the control plane.
fn storages_below(config: &mut Config, root: &Path) {
    config.storages.clear();
    for name in ["first", "second"] {
        let local = LocalStorageConfig::new(root.join(name));
        config.storages.insert(name.to_owned(), StorageConfig::Local(local));
    }
}

/// A control plane with a tenant, whose backups go below `root`.
async fn original(root: &Path) -> TestApp {
    let test = TestApp::with(|config| storages_below(config, root)).await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    test
}

/// An empty control plane on a fresh database, with the same storages and the key of another.
async fn empty_with_the_key_of(other: &TestApp, root: &Path) -> TestApp {
    let mut test = TestApp::with(|config| storages_below(config, root)).await;
    test.app.keys = Arc::clone(&other.app.keys);
    test
}

async fn rebuild(test: &TestApp, storages: &[&str]) -> Vec<Rebuilt> {
    run(test, storages, Adopt::Everything, false).await
}

async fn run(test: &TestApp, storages: &[&str], adopt: Adopt, dry_run: bool) -> Vec<Rebuilt> {
    let caller = caller();
    let mut rebuild = Rebuild::new(&test.app, &caller, adopt, dry_run);
    let mut reports = Vec::new();
    for name in storages {
        reports.push(rebuild.storage(name).await.unwrap());
    }
    reports
}

async fn backups(test: &TestApp) -> Vec<Backup> {
    let filter = BackupFilter { limit: 100, ..BackupFilter::default() };
    history::list(&test.app.pool, &everything(), &filter).await.unwrap()
}

async fn copies(test: &TestApp, backup: &Backup) -> Vec<(String, String)> {
    let copies = history::copies(&test.app.pool, &[backup.id]).await.unwrap();
    copies.into_iter().map(|copy| (copy.storage, copy.status)).collect()
}

async fn count(test: &TestApp, table: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM control_plane.{table}");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&test.app.pool).await.unwrap()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Manifests, projects, backups, copies, known, deleted, problems.
fn numbers(report: &Rebuilt) -> (u64, usize, u64, u64, u64, u64, usize) {
    (
        report.manifests,
        report.projects.len(),
        report.backups,
        report.copies,
        report.known,
        report.deleted,
        report.problems.len(),
    )
}

fn codes(report: &Rebuilt) -> Vec<&'static str> {
    let mut codes: Vec<_> = report.problems.iter().map(|problem| problem.code).collect();
    codes.sort_unstable();
    codes
}

/// A stored file, by storage and name.
fn stored(root: &Path, storage: &str, key: &str) -> PathBuf {
    root.join(storage).join(key)
}

fn manifest_of(backup: &Backup) -> String {
    format!("{}.manifest.json", backup.file_id.as_deref().unwrap())
}

/// Changes a stored manifest, which is written without a right to write, and seals it again.
fn edit(test: &TestApp, path: &Path, change: impl FnOnce(&mut Value)) {
    let mut manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut manifest);
    replace(path, &seal::sealed(manifest, test.app.keys.seals.key().unwrap()));
}

fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_lost_control_plane_comes_back_from_two_storages_and_its_tenant_with_it() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    let good = compare::snapshot(&mut lost.tenants().await, "tenant_acme").await.unwrap();
    let older = lost.backup(export("acme")).await;
    let newest = lost.backup(export("acme")).await;

    let test = empty_with_the_key_of(&lost, root.path()).await;
    let dry = run(&test, &["first", "second"], Adopt::Everything, true).await;
    assert_eq!(
        count(&test, "projects").await + count(&test, "backups").await + count(&test, "backup_history").await,
        0
    );
    let reports = rebuild(&test, &["first", "second"]).await;
    assert_eq!(numbers(&reports[0]), (2, 1, 2, 2, 0, 0, 0), "{:?}", reports[0]);
    assert_eq!(numbers(&reports[1]), (2, 0, 0, 2, 0, 0, 0), "{:?}", reports[1]);
    assert_eq!(dry.iter().map(numbers).collect::<Vec<_>>(), reports.iter().map(numbers).collect::<Vec<_>>());
    let again = rebuild(&test, &["first", "second"]).await;
    assert_eq!(numbers(&again[0]), (2, 0, 0, 0, 2, 0, 0), "a second run changes nothing");

    let found = backups(&test).await;
    assert_eq!(found.iter().map(|b| b.id).collect::<Vec<_>>(), [newest.id, older.id]);
    let (was, is) = (&newest, history::get(&test.app.pool, &everything(), newest.backup_id()).await.unwrap());
    let facts = |b: &Backup| {
        serde_json::json!([
            b.project_id,
            b.r#type,
            b.status,
            b.file_id,
            b.file_name,
            b.format,
            b.compression,
            b.encryption,
            b.size,
            b.sha256,
            b.content_size,
            b.content_sha256,
            b.table_count,
            b.row_count,
            b.pg_version,
            b.created_at,
            b.expires_at,
            b.manifest,
        ])
    };
    assert_eq!(facts(was), facts(&is));
    assert_eq!(copies(&test, &is).await, pairs(&[("first", "good"), ("second", "good")]));
    let project = holdfast::catalog::project(&test.app.pool, &everything(), "acme").await.unwrap();
    assert!(project.is_active() && project.name == "acme" && project.database_name.is_none());
    assert_eq!(project.scope(), holdfast::catalog::ProjectScope::Schema("tenant_acme".to_owned()));

    // Nothing is there to be replaced: the schema is made.
    let job = test.restore(&is).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["outcome"], "verified");
    let now = compare::snapshot(&mut test.tenants().await, "tenant_acme").await.unwrap();
    assert_eq!(compare::diff(&good, &now), Vec::<String>::new());
    // And the project goes on as before.
    assert_eq!(test.backup(export("acme")).await.status, "completed");
}

#[tokio::test]
async fn without_the_key_a_backup_is_listed_and_with_it_restored() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    let taken = lost.backup(export("acme")).await;
    let seal = lost.app.keys.seals.key().unwrap().public().to_string();
    let mut test = TestApp::with(|config| {
        storages_below(config, root.path());
        config.seal.accepted_keys = vec![seal];
    })
    .await;
    let report = rebuild(&test, &["first"]).await.pop().unwrap();
    assert_eq!((numbers(&report), report.without_key), ((1, 1, 1, 1, 0, 0, 0), 1), "{report:?}");
    let listed = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
    assert_eq!((listed.status.as_str(), &listed.sha256, &listed.manifest), ("completed", &taken.sha256, &None));
    let request = request::RestoreRequest::in_place(taken.backup_id());
    let refused = request::restore(&test.app, &caller(), &request, None).await.unwrap_err();
    assert_eq!(refused.code(), "key.unavailable");
    assert!(refused.hint().unwrap().contains("catalog rebuild"));
    let verify = request::VerifyRequest { backup_id: taken.backup_id(), depth: request::Depth::Head };
    assert_eq!(request::verify(&test.app, &caller(), &verify, None).await.unwrap_err().code(), "key.unavailable");

    test.app.keys = Arc::clone(&lost.app.keys);
    let report = rebuild(&test, &["first"]).await.pop().unwrap();
    assert_eq!((numbers(&report), report.without_key, report.filled_in), ((1, 0, 0, 0, 1, 0, 0), 0, 1), "{report:?}");
    let filled = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
    assert_eq!((&filled.manifest, filled.row_count), (&taken.manifest, taken.row_count));
    let job = test.restore(&filled).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
}

#[tokio::test]
async fn the_schema_is_the_one_of_the_newest_backup_in_whatever_order_they_are_read() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    sample::create_tenant(&mut lost.tenants().await, "moved", 2).await.unwrap();
    let mut taken = Vec::new();
    for schema in ["tenant_acme", "moved"] {
        let sql = "UPDATE control_plane.projects SET schema_name = $1";
        sqlx::query(sql).bind(schema).execute(&lost.app.pool).await.unwrap();
        taken.push(lost.backup(export("acme")).await);
    }
    // The newest is in the first storage alone, the older one in the second.
    fs::remove_file(stored(root.path(), "first", &manifest_of(&taken[0]))).unwrap();
    fs::remove_file(stored(root.path(), "second", &manifest_of(&taken[1]))).unwrap();
    let mut test = None;
    for order in [["first", "second"], ["second", "first"]] {
        let empty = empty_with_the_key_of(&lost, root.path()).await;
        rebuild(&empty, &order).await;
        let project = holdfast::catalog::project(&empty.app.pool, &everything(), "acme").await.unwrap();
        assert_eq!(project.schema_name.as_deref(), Some("moved"), "{order:?}");
        test = Some(empty);
    }
    let test = test.unwrap();
    // A run later, what a person has set meanwhile stands.
    sqlx::query("UPDATE control_plane.projects SET schema_name = 'mine'").execute(&test.app.pool).await.unwrap();
    rebuild(&test, &["first", "second"]).await;
    let project = holdfast::catalog::project(&test.app.pool, &everything(), "acme").await.unwrap();
    assert_eq!(project.schema_name.as_deref(), Some("mine"));
}

#[tokio::test]
async fn what_does_not_fit_is_named_one_by_one_and_the_rest_is_taken_up() {
    let root = tempfile::tempdir().unwrap();
    // In the clear, so that a hostile storage can write what it likes.
    let lost = TestApp::with(|config| {
        storages_below(config, root.path());
        config.encryption.enabled = false;
        config.backup.storages = vec!["first".to_owned()];
    })
    .await;
    sample::create_tenant(&mut lost.tenants().await, "tenant_acme", 1).await.unwrap();
    lost.add_schema_project("acme", "tenant_acme").await;
    let mut taken = Vec::new();
    for _ in 0..9 {
        taken.push(lost.backup(export("acme")).await);
    }
    let path = |backup: &Backup| stored(root.path(), "first", &manifest_of(backup));
    let artifact = |backup: &Backup| stored(root.path(), "first", backup.file_id.as_deref().unwrap());
    let [misplaced, garbage, newer, short, missing, system, stolen, cut, _good] = &taken[..] else { unreachable!() };
    // Laid under another's name, it would stand for that one.
    fs::copy(path(misplaced), root.path().join("copy")).unwrap();
    replace(
        &root.path().join("first/backups/acme/other.sql.gz.manifest.json"),
        &fs::read(root.path().join("copy")).unwrap(),
    );
    fs::remove_file(path(misplaced)).unwrap();
    replace(&path(garbage), b"{}");
    edit(&lost, &path(newer), |manifest| manifest["head"]["manifest_version"] = 99.into());
    replace(&artifact(short), b"short");
    fs::remove_file(artifact(missing)).unwrap();
    edit(&lost, &path(system), |manifest| {
        manifest["head"]["project_id"] = "evil".into();
        manifest["body"]["database"]["scope"]["schema"] = "control_plane".into();
    });
    edit(&lost, &path(stolen), |manifest| manifest["head"]["project_id"] = "thief".into());
    let half = fs::read(path(cut)).unwrap();
    replace(&path(cut), &half[..half.len() / 2]);

    let mut test = TestApp::with(|config| {
        storages_below(config, root.path());
        config.encryption.enabled = false;
    })
    .await;
    test.app.keys = Arc::clone(&lost.app.keys);
    test.add_schema_project("acme", "tenant_acme").await;
    let report = rebuild(&test, &["first"]).await.pop().unwrap();
    assert_eq!(
        codes(&report),
        [
            "backup.damaged",
            "backup.damaged",
            "manifest.damaged",
            "manifest.damaged",
            "manifest.misplaced",
            "manifest.newer",
            "project.schema",
            "project.schema_taken"
        ],
        "{report:#?}"
    );
    assert_eq!((report.manifests, report.backups, report.copies, report.projects.len()), (9, 3, 3, 0));
    for problem in &report.problems {
        assert!(problem.manifest.starts_with("backups/acme/") && !problem.message.is_empty(), "{problem:?}");
    }
    let mut found: Vec<(String, uuid::Uuid)> = backups(&test).await.into_iter().map(|b| (b.status, b.id)).collect();
    found.sort();
    assert_eq!(
        found,
        [("completed", taken[8].id), ("damaged", short.id), ("damaged", missing.id)].map(|(s, id)| (s.to_owned(), id))
    );
    assert_eq!(count(&test, "projects").await, 1);
    assert_eq!(
        test.restore(&backups(&test).await.into_iter().find(|b| b.id == taken[8].id).unwrap()).await.status,
        "completed"
    );
}

#[tokio::test]
async fn a_damaged_copy_is_made_up_for_by_a_good_one_of_another_storage() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    let taken = lost.backup(export("acme")).await;
    replace(&stored(root.path(), "first", taken.file_id.as_deref().unwrap()), b"short");
    let test = empty_with_the_key_of(&lost, root.path()).await;
    let reports = rebuild(&test, &["first"]).await;
    assert_eq!(codes(&reports[0]), ["backup.damaged"]);
    assert_eq!(backups(&test).await[0].status, "damaged", "no copy of it is good");
    let reports = rebuild(&test, &["second"]).await;
    assert_eq!(numbers(&reports[0]), (1, 0, 0, 1, 0, 0, 0));
    let found = backups(&test).await.remove(0);
    assert_eq!(found.status, "completed");
    assert_eq!(copies(&test, &found).await, pairs(&[("first", "damaged"), ("second", "good")]));
    assert_eq!(test.restore(&found).await.status, "completed");
}

#[tokio::test]
async fn rows_that_are_there_are_not_changed_and_get_the_copy_that_they_lack() {
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let taken = test.backup(export("acme")).await;
    for sql in [
        "UPDATE control_plane.backups SET message = 'mine', pinned = true, expires_at = NULL",
        "UPDATE control_plane.backup_copies SET message = 'mine' WHERE storage = 'first'",
        "DELETE FROM control_plane.backup_copies WHERE storage = 'second'",
    ] {
        test.app.pool.execute(sql).await.unwrap();
    }
    let before = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
    let reports = rebuild(&test, &["first", "second"]).await;
    assert_eq!(numbers(&reports[0]), (1, 0, 0, 0, 1, 0, 0));
    assert_eq!(numbers(&reports[1]), (1, 0, 0, 1, 0, 0, 0));
    let after = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
    assert_eq!((before.copies_missing, after.copies_missing), (1, 0));
    let as_before = history::Backup { copies_missing: before.copies_missing, ..after.clone() };
    assert_eq!(serde_json::to_value(&before).unwrap(), serde_json::to_value(&as_before).unwrap());
    assert_eq!(copies(&test, &after).await, pairs(&[("first", "good"), ("second", "good")]));

    // Another backup under the same id, or one that was given up, is no fit.
    for (sql, code) in [
        ("UPDATE control_plane.backups SET sha256 = repeat('0', 64)", "catalog.conflict"),
        ("UPDATE control_plane.backups SET project_id = 'globex'", "catalog.conflict"),
        ("UPDATE control_plane.backups SET project_id = 'acme', status = 'failed'", "catalog.not_completed"),
    ] {
        test.app.pool.execute(sql).await.unwrap();
        assert_eq!(codes(&rebuild(&test, &["first"]).await[0]), [code], "{sql}");
    }
}

#[tokio::test]
async fn a_backup_that_was_deleted_does_not_come_back() {
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let taken = test.backup(export("acme")).await;
    let (manifest, artifact) = (manifest_of(&taken), taken.file_id.clone().unwrap());
    let kept = [manifest, artifact].map(|key| {
        let path = stored(root.path(), "first", &key);
        (fs::read(&path).unwrap(), path)
    });
    let request = DeleteRequest { backup_id: taken.backup_id() };
    let job = request::delete(&test.app, &caller(), &request, None).await.unwrap();
    let report = rebuild(&test, &["first"]).await.pop().unwrap();
    assert_eq!(numbers(&report), (1, 0, 0, 0, 0, 1, 0), "it is being deleted: {report:?}");
    assert_eq!(test.run(job.job_id()).await.status, "completed");
    // Somebody copies the files back, or the storage had kept a version.
    for (bytes, path) in &kept {
        replace(path, bytes);
    }
    let report = rebuild(&test, &["first"]).await.pop().unwrap();
    assert_eq!(numbers(&report), (1, 0, 0, 0, 0, 1, 0), "{report:?}");
    let swept = catalog::sweep(&test.app, &caller(), "first", Duration::from_secs(1), false).await.unwrap();
    assert_eq!(numbers(&swept.adopted), (1, 0, 0, 0, 0, 1, 0));
    assert_eq!(backups(&test).await.len(), 0);
    assert!(kept.iter().all(|(_, path)| path.exists()), "nothing but a deletion deletes");
}

#[tokio::test]
async fn a_sweep_takes_up_what_lost_its_record_and_removes_what_died() {
    let root = tempfile::tempdir().unwrap();
    let mut test = original(root.path()).await;
    let taken = test.backup(export("acme")).await;
    // The upload had succeeded and the record was lost; and an attempt died in the middle of another.
    test.app.pool.execute("DELETE FROM control_plane.backups").await.unwrap();
    let name = "backups/acme/half.sql.gz".parse().unwrap();
    let mut half =
        test.app.storages.get("first").unwrap().create(NewObject::new(&name, LeaseToken::generate())).await.unwrap();
    half.put(Bytes::from_static(b"half")).await.unwrap();
    std::mem::forget(half);
    let files = || test_files(&root.path().join("first"));
    assert_eq!(files(), 3);

    let day = Duration::from_secs(86_400);
    let dry = catalog::sweep(&test.app, &caller(), "first", day, true).await.unwrap();
    assert_eq!((dry.removed, numbers(&dry.adopted)), (None, (1, 0, 1, 1, 0, 0, 0)));
    assert_eq!(backups(&test).await.len(), 0);
    let swept = catalog::sweep(&test.app, &caller(), "first", day, false).await.unwrap();
    assert_eq!((swept.removed, numbers(&swept.adopted)), (Some(0), (1, 0, 1, 1, 0, 0, 0)), "it may be alive");
    test.app.clock = Clock::fixed(Clock::System.now() + chrono::Duration::days(2));
    let swept = catalog::sweep(&test.app, &caller(), "first", day, false).await.unwrap();
    assert_eq!((swept.removed, numbers(&swept.adopted)), (Some(1), (1, 0, 0, 0, 1, 0, 0)));
    assert_eq!(files(), 2);
    let found = backups(&test).await.remove(0);
    assert_eq!((found.id, found.status.as_str()), (taken.id, "completed"));

    // A sweep makes no projects.
    for sql in ["DELETE FROM control_plane.backups", "DELETE FROM control_plane.projects"] {
        test.app.pool.execute(sql).await.unwrap();
    }
    let swept = catalog::sweep(&test.app, &caller(), "first", day, false).await.unwrap();
    assert_eq!(codes(&swept.adopted), ["project.not_found"]);
    assert_eq!(count(&test, "backups").await + count(&test, "projects").await, 0);
}

fn test_files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().flatten().filter(|entry| entry.file_name() != ".holdfast-storage");
    entries.map(|entry| if entry.path().is_dir() { test_files(&entry.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn a_whole_database_comes_back_as_one_and_an_unknown_storage_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    lost.add_project("warehouse", holdfast::catalog::ProjectScope::WholeDatabase).await;
    lost.backup(export("warehouse")).await;
    let test = empty_with_the_key_of(&lost, root.path()).await;
    let report = rebuild(&test, &["second"]).await.pop().unwrap();
    assert_eq!(report.projects, ["warehouse"]);
    let project = holdfast::catalog::project(&test.app.pool, &everything(), "warehouse").await.unwrap();
    assert_eq!(project.scope(), holdfast::catalog::ProjectScope::WholeDatabase);
    let caller = caller();
    let unknown = Rebuild::new(&test.app, &caller, Adopt::Everything, false).storage("nowhere").await.unwrap_err();
    assert_eq!(unknown.code(), "request.storage");
    assert!(unknown.hint().unwrap().contains("first, second"));
}
