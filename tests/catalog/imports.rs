//! Artifacts taken back into the history one by one: from a storage, and from files.

use std::{fs, path::Path};

use holdfast::{
    artifact::ArtifactName,
    demo::{compare, sample},
    history::{self, Backup},
    jobs::{
        authentic::TakeUp,
        import_files,
        queue::Job,
        request::{self, DeleteRequest, Depth, Export, ImportRequest, RequestError, VerifyRequest},
    },
};

use super::{
    backups, copies, count, edit, empty_with_the_key_of, manifest_of, original, pairs, rebuild, replace, stored,
    support::app::{TestApp, caller, everything, export},
};

fn key(backup: &Backup) -> ArtifactName {
    backup.file_id.as_deref().unwrap().parse().unwrap()
}

fn of(storage: &str, backup: &Backup) -> ImportRequest {
    ImportRequest { storage: storage.to_owned(), key: key(backup), even_if_deleted: false, allow_unsealed: false }
}

async fn ask(test: &TestApp, request: &ImportRequest) -> Result<Job, RequestError> {
    request::import(&test.app, &caller(), request, None).await
}

async fn import(test: &TestApp, request: &ImportRequest) -> Job {
    let job = ask(test, request).await.unwrap();
    test.run(job.job_id()).await
}

async fn code_of_refusal(test: &TestApp, request: &ImportRequest) -> &'static str {
    let jobs = count(test, "jobs").await;
    let code = ask(test, request).await.unwrap_err().code();
    assert_eq!(count(test, "jobs").await, jobs, "{code} made a job");
    code
}

async fn listed(test: &TestApp, backup: &Backup) -> Backup {
    history::get(&test.app.pool, &everything(), backup.backup_id()).await.unwrap()
}

async fn events(test: &TestApp, backup: &Backup) -> Vec<String> {
    let events = history::events(&test.app.pool, &everything(), backup.backup_id()).await.unwrap();
    events.into_iter().map(|event| event.event).collect()
}

#[tokio::test]
async fn an_artifact_in_a_storage_comes_back_by_its_manifest_and_is_restored() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    let good = compare::snapshot(&mut lost.tenants().await, "tenant_acme").await.unwrap();
    let taken = lost.backup(export("acme")).await;
    let test = empty_with_the_key_of(&lost, root.path()).await;
    assert_eq!(code_of_refusal(&test, &of("first", &taken)).await, "project.not_found");
    test.add_schema_project("acme", "tenant_acme").await;

    let job = import(&test, &of("first", &taken)).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.project_id.as_deref(), Some("acme"));
    let back = listed(&test, &taken).await;
    assert_eq!((back.status.as_str(), &back.sha256, &back.manifest), ("completed", &taken.sha256, &taken.manifest));
    assert_eq!((back.created_at, back.expires_at), (taken.created_at, taken.expires_at));
    assert_eq!(copies(&test, &back).await, pairs(&[("first", "good")]));
    assert_eq!(events(&test, &taken).await, ["import_requested", "imported"]);

    // The other storage's copy joins it, and a second time changes nothing.
    for (added, storage) in [(true, "second"), (false, "second"), (false, "first")] {
        let job = import(&test, &of(storage, &taken)).await;
        let result = job.result.unwrap();
        assert_eq!((&result["new"], &result["copy_added"]), (&false.into(), &added.into()));
    }
    assert_eq!(copies(&test, &back).await, pairs(&[("first", "good"), ("second", "good")]));
    let restored = test.restore(&back).await;
    assert_eq!(restored.status, "completed", "{:?}", restored.error_message);
    let now = compare::snapshot(&mut test.tenants().await, "tenant_acme").await.unwrap();
    assert_eq!(compare::diff(&good, &now), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_ours_or_not_whole_is_never_listed() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    let taken = lost.backup(export("acme")).await;
    let test = empty_with_the_key_of(&lost, root.path()).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let artifact = stored(root.path(), "first", key(&taken).as_str());
    let bytes = fs::read(&artifact).unwrap();
    let named = |key: &str| ImportRequest { key: key.parse().unwrap(), ..of("first", &taken) };

    // As many bytes, and not the same.
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, words) in
        [(flipped, "not what its manifest says"), (bytes[..bytes.len() - 1].to_vec(), "bytes are stored")]
    {
        replace(&artifact, &bytes);
        let job = import(&test, &of("first", &taken)).await;
        assert_eq!(job.status, "failed");
        assert!(job.error_message.as_ref().unwrap().contains(words), "{:?}", job.error_message);
        assert!(backups(&test).await.is_empty());
    }
    fs::remove_file(&artifact).unwrap();
    assert_eq!(code_of_refusal(&test, &of("first", &taken)).await, "backup.no_copy");

    replace(&root.path().join("first/foreign.sql"), b"SELECT 1;");
    assert_eq!(code_of_refusal(&test, &named("foreign.sql")).await, "manifest.missing");
    replace(&root.path().join("first/foreign.sql.manifest.json"), b"{}");
    assert_eq!(code_of_refusal(&test, &named("foreign.sql")).await, "manifest.damaged");
    let manifest = fs::read(stored(root.path(), "first", &manifest_of(&taken))).unwrap();
    replace(&root.path().join("first/foreign.sql.manifest.json"), &manifest);
    assert_eq!(code_of_refusal(&test, &named("foreign.sql")).await, "manifest.misplaced");
    let nowhere = ImportRequest { storage: "nowhere".to_owned(), ..of("first", &taken) };
    assert_eq!(code_of_refusal(&test, &nowhere).await, "request.storage");
    assert!(backups(&test).await.is_empty());
}

#[tokio::test]
async fn a_deleted_backup_comes_back_only_when_that_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let test = original(root.path()).await;
    let taken = test.backup(export("acme")).await;
    let names = [key(&taken).to_string(), manifest_of(&taken)];
    let kept = names.clone().map(|name| fs::read(stored(root.path(), "first", &name)).unwrap());
    let delete = DeleteRequest { backup_id: taken.backup_id() };
    let job = request::delete(&test.app, &caller(), &delete, None).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.status, "completed");
    for (name, bytes) in names.iter().zip(&kept) {
        replace(&stored(root.path(), "first", name), bytes);
    }
    assert_eq!(code_of_refusal(&test, &of("first", &taken)).await, "backup.deleted");
    // Its time was over long ago.
    edit(&test, &stored(root.path(), "first", &names[1]), |manifest| {
        manifest["head"]["expires_at"] = "2020-01-01T00:00:00Z".into();
    });
    let job = import(&test, &ImportRequest { even_if_deleted: true, ..of("first", &taken) }).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let back = listed(&test, &taken).await;
    assert_eq!(back.status, "completed");
    assert!(back.expires_at.unwrap() > test.app.clock.now(), "it would have gone at once");
    assert_eq!(copies(&test, &back).await, pairs(&[("first", "good")]));
    // And it is deleted like any other.
    let job = request::delete(&test.app, &caller(), &delete, None).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.status, "completed");
    assert!(test.stored_files().is_empty() && !stored(root.path(), "first", &names[0]).exists());
}

#[tokio::test]
async fn files_are_put_into_a_storage_and_imported_from_there() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    let taken = lost.backup(export("acme")).await;
    let name = |file: &str| root.path().join(file);
    fs::copy(stored(root.path(), "first", key(&taken).as_str()), name("artifact")).unwrap();
    fs::copy(stored(root.path(), "first", &manifest_of(&taken)), name("manifest")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let test = empty_with_the_key_of(&lost, elsewhere.path()).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let files = |root: &Path| {
        let path = root.join("first").join(key(&taken).as_str());
        path.parent().unwrap().read_dir().map_or(0, Iterator::count)
    };
    let place = async |artifact: &str, manifest: &str, storage: &str| {
        let (artifact, manifest) = (name(artifact), name(manifest));
        let placed = import_files::place(&test.app, &artifact, &manifest, storage, TakeUp::Sealed).await;
        placed.map_err(|error| error.code())
    };

    let mut bytes = fs::read(name("artifact")).unwrap();
    bytes[0] ^= 1;
    fs::write(name("damaged"), bytes).unwrap();
    assert_eq!(place("damaged", "manifest", "first").await, Err("backup.damaged"));
    assert_eq!(place("artifact", "artifact", "first").await, Err("manifest.damaged"));
    assert_eq!(place("nothing", "manifest", "first").await, Err("import.file"));
    assert_eq!(place("artifact", "manifest", "nowhere").await, Err("request.storage"));
    assert_eq!(files(elsewhere.path()), 0, "nothing was written");

    for _ in 0..2 {
        assert_eq!(place("artifact", "manifest", "first").await, Ok(key(&taken)));
    }
    assert_eq!(files(elsewhere.path()), 2);
    let job = import(&test, &of("first", &taken)).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let read = VerifyRequest { backup_id: taken.backup_id(), depth: Depth::Read };
    let job = request::verify(&test.app, &caller(), &read, None).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.result.unwrap()["outcome"], "verified");

    // What lies there under the name stays what it is.
    replace(&stored(elsewhere.path(), "second", key(&taken).as_str()), b"something else");
    assert_eq!(place("artifact", "manifest", "second").await, Err("storage.exists"));
    assert_eq!(fs::read(stored(elsewhere.path(), "second", key(&taken).as_str())).unwrap(), b"something else");
}

#[tokio::test]
async fn a_partial_backup_is_one_for_good_and_never_restored() {
    let root = tempfile::tempdir().unwrap();
    let lost = original(root.path()).await;
    sample::create_tenant(&mut lost.tenants().await, "tenant_other", 1).await.unwrap();
    let partial =
        Export { tables: vec!["orders".to_owned()], storage_path: Some("x/{timestamp}".to_owned()), ..export("acme") };
    let taken = lost.backup(partial).await;
    assert!(taken.is_partial && taken.file_id.as_ref().unwrap().starts_with("x/"));
    assert_eq!(taken.table_count, Some(1));
    let whole = lost.backup(export("acme")).await;
    assert!(!whole.is_partial);
    let unknown = lost.back_up(Export { exclude_tables: vec!["nothing".to_owned()], ..export("acme") }).await;
    assert_eq!(unknown.status, "failed");
    let message = unknown.error_message.unwrap();
    assert!(message.contains("exclude_tables names \"nothing\"") && message.contains("tenant_acme"), "{message}");
    assert_eq!(unknown.attempts, 1, "no attempt would help");

    let refused = async |test: &TestApp, backup: &Backup| {
        let restore = request::RestoreRequest::in_place(backup.backup_id());
        assert_eq!(request::restore(&test.app, &caller(), &restore, None).await.unwrap_err().code(), "backup.partial");
        let trial = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
        assert_eq!(request::verify(&test.app, &caller(), &trial, None).await.unwrap_err().code(), "backup.partial");
    };
    refused(&lost, &taken).await;
    let read = VerifyRequest { backup_id: taken.backup_id(), depth: Depth::Read };
    let job = request::verify(&lost.app, &caller(), &read, None).await.unwrap();
    assert_eq!(lost.run(job.job_id()).await.result.unwrap()["outcome"], "verified");

    // Whoever reads the manifest knows, with the key and without; and a head that hides it is contradicted by the body.
    let seal = lost.app.keys.seals.key().unwrap().public().to_string();
    let without_key = TestApp::with(|config| {
        super::storages_below(config, root.path());
        config.seal.accepted_keys = vec![seal];
    })
    .await;
    rebuild(&without_key, &["first"]).await;
    assert!(listed(&without_key, &taken).await.is_partial && !listed(&without_key, &whole).await.is_partial);
    edit(&lost, &stored(root.path(), "second", &manifest_of(&taken)), |manifest| {
        manifest["head"].as_object_mut().unwrap().remove("is_partial").unwrap();
    });
    let deceived = empty_with_the_key_of(&lost, root.path()).await;
    rebuild(&deceived, &["second"]).await;
    refused(&deceived, &listed(&deceived, &taken).await).await;
}
