//! Where manifests come from, and who believes them: rebuilds, imports, repairs, earlier attempts, people with openssl.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use holdfast::{
    clock::Clock,
    config::{Config, LocalStorageConfig, StorageConfig},
    demo::sample,
    history::{self, Backup},
    jobs::{
        authentic::TakeUp,
        catalog::{Adopt, Rebuild, Rebuilt},
        repair_copies,
        request::{self, ImportRequest},
    },
    keys,
    transform::{SealKey, Seals},
};
use sqlx::Executor;

use super::scene::{Scene, key, manifest_key};
use crate::support::{
    app::{TestApp, caller, everything, export},
    seal,
};

fn storages_below(config: &mut Config, root: &Path) {
    config.storages.clear();
    for name in ["first", "second"] {
        let local = LocalStorageConfig::new(root.join(name));
        config.storages.insert(name.to_owned(), StorageConfig::Local(local));
    }
}

async fn with_a_tenant(root: &Path) -> TestApp {
    let test = TestApp::with(|config| storages_below(config, root)).await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    test
}

fn replace(path: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

async fn rebuild(test: &TestApp, storage: &str, take_up: TakeUp) -> Rebuilt {
    let caller = caller();
    Rebuild::new(&test.app, &caller, Adopt::Everything, false).taking(take_up).storage(storage).await.unwrap()
}

fn codes(report: &Rebuilt) -> Vec<&str> {
    report.problems.iter().map(|problem| problem.code).collect()
}

/// The keys of an installation, with others for seals.
fn sealing_with(test: &TestApp, seals: Seals) -> Arc<holdfast::keyring::Keyring> {
    let mut keys = (*test.app.keys).clone();
    keys.seals = seals;
    Arc::new(keys)
}

#[tokio::test]
async fn a_rebuild_and_an_import_believe_sealed_manifests_of_accepted_keys_alone() {
    let root = tempfile::tempdir().unwrap();
    let lost = with_a_tenant(root.path()).await;
    let taken = lost.backup(export("acme")).await;
    let own = lost.app.keys.seals.key().unwrap().public();
    let path = |storage: &str| root.path().join(storage).join(manifest_key(&taken));
    let stored = std::fs::read(path("first")).unwrap();
    replace(&path("second"), &seal::unsealed(serde_json::from_slice(&std::fs::read(path("second")).unwrap()).unwrap()));

    let mut test = TestApp::with(|config| storages_below(config, root.path())).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let import = async |test: &TestApp, storage: &str, allow_unsealed| {
        let (key, storage) = (key(&taken).parse().unwrap(), storage.to_owned());
        let request = ImportRequest { storage, key, even_if_deleted: false, allow_unsealed };
        match request::import(&test.app, &caller(), &request, None).await {
            Ok(job) => test.run(job.job_id()).await.error_message.map_or(Ok(()), Err),
            Err(error) => Err(error.code().to_owned()),
        }
    };
    // Another installation's, as far as this one knows.
    test.app.keys = sealing_with(&lost, Seals::new(SealKey::from_seed([8; 32]).ok(), Vec::new(), None));
    for take_up in [TakeUp::Sealed, TakeUp::AlsoUnsealed] {
        let report = rebuild(&test, "first", take_up).await;
        assert_eq!((codes(&report), report.backups), (vec!["seal.unknown_key"], 0));
        assert!(report.problems[0].message.contains("seal.accepted_keys"));
    }
    assert_eq!(import(&test, "first", true).await, Err("seal.unknown_key".to_owned()));
    // Without a seal it is taken when that is asked for, and both say so.
    assert_eq!(codes(&rebuild(&test, "second", TakeUp::Sealed).await), ["seal.missing"]);
    assert_eq!(import(&test, "second", false).await, Err("seal.missing".to_owned()));
    let report = rebuild(&test, "second", TakeUp::AlsoUnsealed).await;
    assert_eq!((codes(&report), report.backups, report.unsealed), (vec![], 1, 1), "{report:?}");
    let listed = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
    assert!(listed.message.as_deref().unwrap().contains("has no seal"), "{:?}", listed.message);
    let job = test.restore(&listed).await;
    assert!(
        job.error_message.as_deref().unwrap().contains("seal.missing"),
        "it is younger than the key: {:?}",
        job.error_message
    );

    // With its key accepted, the sealed copy joins it, and is restored.
    test.app.keys = sealing_with(&test, test.app.keys.seals.clone().accepting([own]));
    let report = rebuild(&test, "first", TakeUp::Sealed).await;
    assert_eq!((codes(&report), report.copies), (vec![], 1), "{report:?}");
    let job = test.restore(&listed).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    // As many copies are asked for as were found, and one that is damaged later is missed.
    let listed = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
    assert_eq!((listed.required_copies, listed.copies_missing), (Some(2), 0));
    assert_eq!(import(&test, "first", false).await, Ok(()));

    // A seal that is there and broken is never taken.
    let mut altered: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    altered["head"]["expires_at"] = serde_json::Value::Null;
    replace(&path("first"), &serde_json::to_vec_pretty(&altered).unwrap());
    for take_up in [TakeUp::Sealed, TakeUp::AlsoUnsealed] {
        assert_eq!(codes(&rebuild(&test, "first", take_up).await), ["seal.broken"]);
    }
    assert_eq!(import(&test, "first", true).await, Err("seal.broken".to_owned()));
}

#[tokio::test]
async fn the_configured_number_of_copies_bounds_what_a_rebuild_asks_for() {
    let root = tempfile::tempdir().unwrap();
    let lost = with_a_tenant(root.path()).await;
    let taken = lost.backup(export("acme")).await;
    let mut test = TestApp::with(|config| {
        storages_below(config, root.path());
        config.backup.required_copies = std::num::NonZeroU32::new(1);
    })
    .await;
    test.app.keys = Arc::clone(&lost.app.keys);
    for storage in ["first", "second"] {
        rebuild(&test, storage, TakeUp::Sealed).await;
        let listed = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
        assert_eq!(listed.required_copies, Some(1), "{storage}");
    }
}

#[tokio::test]
async fn a_key_that_was_replaced_is_accepted_and_one_that_was_taken_out_is_not() {
    let mut scene = Scene::new().await;
    let file = scene.test.directory.path().join("seal.key");
    let (new, old) = keys::rotate_seal_file(&file, &Clock::System).unwrap();
    scene.test.app.keys = sealing_with(&scene.test, keys::load_seals(&file).unwrap());
    assert_eq!(scene.test.restore(&scene.newer).await.status, "completed");
    let later = scene.test.backup(export("acme")).await;
    let path = |backup: &Backup| scene.test.directory.path().join("storage").join(manifest_key(backup));
    let stored: serde_json::Value = serde_json::from_slice(&std::fs::read(path(&later)).unwrap()).unwrap();
    assert_eq!(stored["seal"]["key"], new.id().to_string());

    let text = std::fs::read_to_string(&file).unwrap();
    replace(&file, text.split("-----BEGIN PUBLIC KEY-----").next().unwrap().as_bytes());
    scene.test.app.keys = sealing_with(&scene.test, keys::load_seals(&file).unwrap());
    let job = scene.test.restore(&scene.newer).await;
    let told = job.error_message.unwrap();
    assert!(told.contains("seal.unknown_key") && told.contains(&old.id().to_string()), "{told}");
    assert_eq!(scene.test.restore(&later).await.status, "completed");
}

#[tokio::test]
async fn a_copy_gets_the_manifest_of_another_byte_for_byte_and_nothing_that_the_record_makes_up() {
    let root = tempfile::tempdir().unwrap();
    let test = with_a_tenant(root.path()).await;
    sample::create_tenant(&mut test.tenants().await, "tenant_other", 1).await.unwrap();
    test.add_schema_project("other", "tenant_other").await;
    let (taken, other) = (test.backup(export("acme")).await, test.backup(export("other")).await);
    let at = |storage: &str, name: String| root.path().join(storage).join(name);
    let repair = async || {
        repair_copies::enqueue_due(&test.app).await.unwrap();
        let sql =
            "SELECT id FROM control_plane.jobs WHERE type = 'repair_copies' ORDER BY created_at DESC, id DESC LIMIT 1";
        let id: uuid::Uuid = sqlx::query_scalar(sql).fetch_one(&test.app.pool).await.unwrap();
        test.run(id.into()).await
    };
    let lose_second = async |backup: &Backup| {
        for name in [key(backup), manifest_key(backup)] {
            std::fs::remove_file(at("second", name)).unwrap();
        }
        let sql = "UPDATE control_plane.backup_copies SET status = 'failed', locator = NULL, manifest_locator = NULL
                   WHERE storage = 'second' AND backup_id = $1";
        sqlx::query(sql).bind(backup.id).execute(&test.app.pool).await.unwrap();
    };
    lose_second(&taken).await;
    let job = repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let bytes = |storage: &str| std::fs::read(at(storage, manifest_key(&taken))).unwrap();
    assert_eq!(bytes("first"), bytes("second"));

    // The record says that this backup is what another project's is. Nobody puts a seal to that.
    lose_second(&taken).await;
    sqlx::query(
        "UPDATE control_plane.backups b SET size = o.size, sha256 = o.sha256, manifest = jsonb_set(o.manifest, '{head}',
             (o.manifest -> 'head') || jsonb_build_object('backup_id', b.id, 'project_id', 'acme', 'key', $3::text,
                 'created_at', b.manifest -> 'head' -> 'created_at'))
         FROM control_plane.backups o WHERE b.id = $1 AND o.id = $2",
    )
    .bind(taken.id)
    .bind(other.id)
    .bind(key(&taken))
    .execute(&test.app.pool)
    .await
    .unwrap();
    sqlx::query(
        "UPDATE control_plane.backup_copies c SET locator = o.locator, manifest_locator = o.manifest_locator
         FROM control_plane.backup_copies o WHERE c.storage = 'first' AND o.storage = 'first' AND c.backup_id = $1 AND o.backup_id = $2",
    )
    .bind(taken.id)
    .bind(other.id)
    .execute(&test.app.pool)
    .await
    .unwrap();
    test.app.pool.execute("DELETE FROM control_plane.jobs WHERE type = 'repair_copies'").await.unwrap();
    let job = repair().await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.as_deref().unwrap().contains("seal.mismatch"), "{:?}", job.error_message);
    assert!(!at("second", key(&taken)).exists() && !at("second", manifest_key(&taken)).exists());
}

#[tokio::test]
async fn what_lies_ready_under_a_backups_name_is_not_taken_for_an_earlier_attempt() {
    let test = TestApp::new().await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let first = test.backup(export("acme")).await;
    let root = test.directory.path().join("storage");
    let stored: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join(manifest_key(&first))).unwrap()).unwrap();
    let strange = SealKey::from_seed([4; 32]).unwrap();
    for sealed in [true, false] {
        let job = request::export(&test.app, &caller(), &export("acme"), None).await.unwrap();
        let (id, name): (uuid::Uuid, String) =
            sqlx::query_as("SELECT id, file_id FROM control_plane.backups WHERE status = 'pending'")
                .fetch_one(&test.app.pool)
                .await
                .unwrap();
        // Everything fits, but that nobody of ours has sealed it.
        let mut manifest = stored.clone();
        manifest["head"]["backup_id"] = id.to_string().into();
        manifest["head"]["key"] = name.clone().into();
        std::fs::copy(root.join(key(&first)), root.join(&name)).unwrap();
        let planted = if sealed { seal::sealed(manifest, &strange) } else { seal::unsealed(manifest) };
        replace(&root.join(format!("{name}.manifest.json")), &planted);
        let job = test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        let backup = history::get(&test.app.pool, &everything(), id.into()).await.unwrap();
        assert_ne!(backup.sha256, first.sha256, "it was taken anew");
        assert_eq!(test.restore(&backup).await.status, "completed");
    }
}

/// Runs a line of docs/recovery.md.
fn line(directory: &Path, line: &str) -> String {
    let output = Command::new("bash").args(["-ec", line]).current_dir(directory).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn stock_openssl_checks_a_seal_as_the_page_says() {
    let scene = Scene::new().await;
    let directory = tempfile::tempdir().unwrap();
    let data = scene.test.directory.path();
    let holdfast = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(arguments)
            .env_clear()
            .env("HOLDFAST_DATA_DIR", data)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let public = holdfast(&["key", "seal"]);
    std::fs::write(directory.path().join("seal.pub"), &public).unwrap();
    let sheet = holdfast(&["key", "recovery-sheet"]);
    assert!(sheet.contains(public.lines().nth(1).unwrap()), "{sheet}");
    let name = "backup-1.manifest.json";
    std::fs::write(directory.path().join(name), scene.stored(&manifest_key(&scene.newer))).unwrap();
    let page = std::fs::read_to_string(crate::support::checkout().join("docs/recovery.md")).unwrap();
    let commands: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .filter(|line| line.starts_with("head -c") || line.contains(".seal.ed25519") || line.contains("pkeyutl"))
        .map(|line| line.replace("backup-….manifest.json", name))
        .collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let said: Vec<String> = commands.iter().map(|command| line(directory.path(), command)).collect();
    assert_eq!(said[2].trim(), "Signature Verified Successfully");

    // What was signed is not anything else.
    let signed = directory.path().join("signed");
    let mut bytes = std::fs::read(&signed).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&signed, bytes).unwrap();
    let refused = Command::new("bash").args(["-ec", &commands[2]]).current_dir(directory.path()).output().unwrap();
    assert!(!refused.status.success());

    // Rotated, the old key is still told, and doctor names the new one.
    let before: serde_json::Value = serde_json::from_str(&holdfast(&["key", "seal", "--json"])).unwrap();
    let dry: serde_json::Value =
        serde_json::from_str(&holdfast(&["key", "rotate-seal", "--dry-run", "--json"])).unwrap();
    assert_eq!(dry["replaced"], before["signing"]["key_id"]);
    assert_eq!(holdfast(&["key", "seal"]), public, "a dry run changes nothing");
    let rotated: serde_json::Value = serde_json::from_str(&holdfast(&["key", "rotate-seal", "--json"])).unwrap();
    let after: serde_json::Value = serde_json::from_str(&holdfast(&["key", "seal", "--json"])).unwrap();
    assert_eq!(after["signing"]["key_id"], rotated["key_id"]);
    assert_eq!(after["accepted"][1], before["signing"]);
    let doctor = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["doctor", "--json"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOLDFAST_DATA_DIR", data)
        .env("DATABASE_URL", secrecy::ExposeSecret::expose_secret(&scene.test.app.control.to_url()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "seal key").unwrap();
    let message = finding["message"].as_str().unwrap();
    assert_eq!(finding["status"], "ok", "{finding}");
    for id in [&rotated["key_id"], &before["signing"]["key_id"]] {
        assert!(message.contains(id.as_str().unwrap()), "{message}");
    }
}
