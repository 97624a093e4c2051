//! Files below a prefix in a bucket.

use std::{collections::BTreeMap, fs, path::Path};

use holdfast::{
    artifact::Compression,
    catalog::{self, FileSource, PrefixSource},
    config::StorageConfig,
    jobs::request::{self, Depth, VerifyRequest},
    manifest::FilesKind,
};

use super::{
    s3_server::{BUCKET, S3Server},
    scene::{back_up, backup_of, content, write},
    support::app::{TestApp, caller},
};

fn in_bucket(prefix: &str) -> FileSource {
    FileSource::Prefix(PrefixSource { storage: "bucket".to_owned(), prefix: prefix.to_owned() })
}

/// Artifacts go to a local storage and to the bucket, below a prefix of its own.
async fn app_with(server: &S3Server) -> TestApp {
    let mut config = server.config();
    config.prefix = "holdfast".to_owned();
    let test = TestApp::with(|c| {
        c.storages.insert("bucket".to_owned(), StorageConfig::S3(Box::new(config)));
        c.encryption.enabled = false;
        c.backup.compression = Compression::Zstd;
    })
    .await;
    test.add_schema_project("acme", "tenant_acme").await;
    test
}

/// Objects below a prefix, straight from the server's directory.
fn objects(server: &S3Server, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let root = server.root.path().join(BUCKET).join(prefix);
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn put(server: &S3Server, key: &str, bytes: impl AsRef<[u8]>) {
    write(&server.root.path().join(BUCKET).join(Path::new(key)), bytes);
}

#[tokio::test]
async fn a_prefix_is_backed_up_restored_beside_itself_and_pointed_back() {
    let server = S3Server::start().await;
    let test = app_with(&server).await;
    let noise: Vec<u8> = (0..20u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for (key, bytes) in [
        ("a.txt", &b"first"[..]),
        ("a-b", b"sorts between"),
        ("a/inside", b"inside"),
        ("a/deeper/still", b"x"),
        ("empty", b""),
        ("Straße & Co", b"x"),
        ("large", &noise),
    ] {
        put(&server, &format!("uploads/acme/{key}"), bytes);
    }
    put(&server, "uploads/acme2/other", "another tenant's");
    let set = request::set_files(&test.app, &caller(), "acme", Some(&in_bucket("uploads/acme"))).await;
    set.unwrap();
    let before = objects(&server, "uploads/acme");
    let job = back_up(&test).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let backup = backup_of(&test, &job).await;
    let held = content(&backup);
    assert_eq!((held.kind, held.file_count, held.directories), (FilesKind::Prefix, 7, 0));
    assert_eq!(held.total_bytes, before.values().map(|bytes| bytes.len() as u64).sum::<u64>());

    let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Read };
    let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
    assert_eq!(test.run(job.job_id()).await.result.unwrap()["outcome"], "verified");

    put(&server, "uploads/acme/a.txt", "ruined");
    let ruined = objects(&server, "uploads/acme");
    let restore = test.restore(&backup).await;
    assert_eq!(restore.status, "completed", "{:?}", restore.error_message);
    let Some(FileSource::Prefix(now)) = catalog::files(&test.app.pool, "acme").await.unwrap() else {
        panic!("the files are in a bucket")
    };
    assert!(now.prefix.starts_with("uploads/acme.restored-"), "{}", now.prefix);
    assert_eq!(restore.result.as_ref().unwrap()["files"]["prefix"], now.prefix.as_str());
    assert!(objects(&server, &now.prefix) == before, "every object came back");
    assert!(objects(&server, "uploads/acme") == ruined, "nothing that was there is touched");
    assert_eq!(objects(&server, "uploads/acme2").len(), 1);

    let undo = request::undo(&test.app, &caller(), restore.job_id(), None).await.unwrap();
    let undo = test.run(undo.job_id()).await;
    assert_eq!(undo.status, "completed", "{:?}", undo.error_message);
    assert_eq!(catalog::files(&test.app.pool, "acme").await.unwrap(), Some(in_bucket("uploads/acme")));
}

#[tokio::test]
async fn a_restore_that_fails_leaves_no_objects_and_the_project_where_it_was() {
    let server = S3Server::start().await;
    let test = app_with(&server).await;
    put(&server, "uploads/acme/a", "x");
    put(&server, "uploads/acme/b", "x");
    request::set_files(&test.app, &caller(), "acme", Some(&in_bucket("uploads/acme"))).await.unwrap();
    let job = back_up(&test).await;
    let backup = backup_of(&test, &job).await;
    let before = server.objects();
    let refusal =
        super::s3_server::Mishap::Answer(403, &[], "<Error><Code>AccessDenied</Code><Message>x</Message></Error>");
    server.control.befall("PutObject", refusal);
    let job = test.restore(&backup).await;
    assert_eq!(job.status, "failed", "{:?}", job.result);
    assert!(job.error_message.unwrap().contains("cannot write"));
    assert_eq!(server.objects(), before);
    assert_eq!(catalog::files(&test.app.pool, "acme").await.unwrap(), Some(in_bucket("uploads/acme")));
}

#[tokio::test]
async fn the_prefix_of_backups_is_no_projects() {
    let server = S3Server::start().await;
    let test = app_with(&server).await;
    for prefix in ["holdfast", "holdfast/backups/acme"] {
        let error = request::set_files(&test.app, &caller(), "acme", Some(&in_bucket(prefix))).await.unwrap_err();
        assert!(error.to_string().contains("keeps backups"), "{error}");
    }
}
