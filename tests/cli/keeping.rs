//! Parts of a tenant, pins, and backups that come back from files.

use std::fs;

use sqlx::Executor;

use super::{Holdfast, support, walk};

#[tokio::test]
async fn a_partial_backup_is_pinned_deleted_and_comes_back_from_its_files() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    let tables = "CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.orders AS SELECT 1 AS x; CREATE TABLE tenant_acme.log AS SELECT 2 AS x";
    support::connect(&info).await.execute(tables).await.unwrap();
    holdfast.run(&["migrate"]).expect(0);
    holdfast.run(&["project", "add", "acme", "--name", "Acme"]).expect(0);
    for wrong in [["--storage-path", "../x"], ["--table", ""], ["--expires-at", "2020-01-01T00:00:00Z"]] {
        holdfast.run(&[&["backup", "acme"], &wrong[..]].concat()).expect(2);
    }
    let unknown = holdfast.run(&["backup", "acme", "--wait", "--exclude-table", "nothing"]).expect(4);
    assert!(unknown.stderr.contains("exclude_tables names \"nothing\""), "{}", unknown.stderr);

    let path = "extracts/{project_id}/{timestamp}.{format}";
    let asked =
        ["backup", "acme", "--wait", "--json", "--table", "orders", "--storage-path", path, "--caption", "one table"];
    let taken = holdfast.run(&asked).expect(0).json();
    let (id, key) = (taken["id"].as_str().unwrap(), taken["file_id"].as_str().unwrap());
    assert!(key.starts_with("extracts/acme/"), "{key}");
    assert_eq!((&taken["is_partial"], &taken["table_count"]), (&true.into(), &1.into()));
    assert!(holdfast.run(&["show", id]).expect(0).stdout.contains("partial"), "people are told");
    holdfast.run(&["restore", id, "--confirm"]).expect(2);

    assert_eq!(holdfast.run(&["pin", id, "--json"]).expect(0).json()["pinned"], true);
    assert!(holdfast.run(&["list"]).expect(0).stdout.contains("completed, partial, pinned"));
    let refused = holdfast.run(&["delete", id, "--confirm"]).expect(2);
    assert!(refused.stderr.contains("pinned"), "{}", refused.stderr);
    assert_eq!(holdfast.run(&["pin", id, "--undo", "--json"]).expect(0).json()["pinned"], false);

    let storage = holdfast.dir.path().join("data/storage");
    let manifest = format!("{key}.manifest.json");
    for (name, file) in [(key, "artifact"), (manifest.as_str(), "manifest")] {
        fs::copy(storage.join(name), holdfast.path(file)).unwrap();
    }
    holdfast.run(&["delete", id, "--confirm", "--wait"]).expect(0);
    assert!(!walk(&storage).iter().any(|file| file.contains("extracts")), "{:?}", walk(&storage));

    let import = ["import", "artifact", "--manifest", "manifest", "--storage", "local", "--wait", "--json"];
    assert!(holdfast.run(&import).expect(2).stderr.contains("deleted on purpose"));
    let back = holdfast.run(&[&import[..], &["--even-if-deleted"]].concat()).expect(0).json();
    for member in ["id", "project_id", "file_id", "sha256", "size", "is_partial", "table_count", "created_at"] {
        assert_eq!(back[member], taken[member], "{member}");
    }
    let again = holdfast.run(&["import", "--storage", "local", "--key", key, "--wait", "--json"]).expect(0);
    assert_eq!(again.json()["copies"].as_array().unwrap().len(), 1);

    let mut bytes = fs::read(holdfast.path("artifact")).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(holdfast.path("artifact"), bytes).unwrap();
    let damaged = holdfast.run(&import).expect(6);
    assert!(damaged.stderr.contains("its manifest says"), "{}", damaged.stderr);
    for wrong in [
        &["import", "artifact", "--storage", "local"][..],
        &["import", "--storage", "local"],
        &["import", "--storage", "local", "--key", "../x"],
    ] {
        holdfast.run(wrong).expect(2);
    }
}
