//! Restoring without Holdfast: what `docs/recovery.md` and the README tell people to do, done with stock tools on real artifacts.

use crate::support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use holdfast::{
    artifact::{Compression, Format},
    demo::{compare, sample},
    jobs::request::Export,
    postgres::{connect::ConnectInfo, inspect, tools::ClientTool},
};
use secrecy::ExposeSecret;
use sqlx::Connection;
use support::app::{TestApp, export};

/// Runs a program as a person would, and shows its words when it fails.
fn run(program: impl AsRef<Path>, args: &[&str], info: Option<&ConnectInfo>) -> Vec<u8> {
    let mut command = Command::new(program.as_ref());
    command.args(args).stdin(Stdio::null());
    if let Some(info) = info {
        command.env("PGHOST", &info.host).env("PGPORT", info.port.to_string()).env("PGUSER", &info.user);
        if let Some(password) = &info.password {
            command.env("PGPASSWORD", password.expose_secret());
        }
    }
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.as_ref().display()));
    assert!(
        output.status.success(),
        "{} {args:?}: {}",
        program.as_ref().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Reads the extension from right to left, as the page says.
fn unpack(artifact: &Path, key: &Path, into: &Path) -> PathBuf {
    let mut path = into.join(artifact.file_name().unwrap());
    std::fs::copy(artifact, &path).unwrap();
    while let Some(extension) = path.extension().map(|e| e.to_str().unwrap().to_owned()) {
        let inner = path.with_extension("");
        match extension.as_str() {
            "age" => drop(run("age", &["-d", "-i", text(key), "-o", text(&inner), text(&path)], None)),
            "gz" => drop(run("gunzip", &[text(&path)], None)),
            "zst" => drop(run("zstd", &["-q", "-d", text(&path)], None)),
            _ => break,
        }
        path = inner;
    }
    path
}

#[tokio::test]
async fn three_stock_commands_bring_back_what_holdfast_stored() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let before = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
    let key = test.directory.path().join("age.key");
    let tools = support::tools().await;
    let server = inspect::server_version(&mut connection).await.unwrap();
    for (format, compression) in [
        (Format::Sql, Compression::Gzip),
        (Format::Sql, Compression::Zstd),
        (Format::Sql, Compression::None),
        (Format::Tar, Compression::Gzip),
        (Format::Custom, Compression::None),
    ] {
        let what = format!("{format} {compression}");
        let backup =
            test.backup(Export { format: Some(format), compression: Some(compression), ..export("acme") }).await;
        let artifact = test.directory.path().join("storage").join(backup.file_id.as_ref().unwrap());
        let sum = String::from_utf8(run("sha256sum", &[text(&artifact)], None)).unwrap();
        assert_eq!(sum.split_whitespace().next(), backup.sha256.as_deref(), "{what}: as sha256sum prints it");

        let scratch = tempfile::tempdir().unwrap();
        let dump = unpack(&artifact, &key, scratch.path());
        let target = support::fresh_database("recovered").await;
        let program = |tool| tools.client(tool, 140_000).unwrap().path;
        let database = target.database.as_str();
        // A line of `pg_dump` 17 that an older server does not know, where such a one was all there is: the page says how.
        let must_edit = server < 170_000 && tools.client(ClientTool::PgDump, server).unwrap().version >= 170_000;
        let is_archive = format != Format::Sql;
        let script = scratch.path().join("script.sql");
        if must_edit && is_archive {
            run(program(ClientTool::PgRestore), &["--no-owner", "-f", text(&script), text(&dump)], None);
        } else if !is_archive {
            std::fs::copy(&dump, &script).unwrap();
        }
        if must_edit {
            run("sed", &["-i", "1,50{/^SET transaction_timeout = 0;$/d}", text(&script)], None);
        }
        if must_edit || !is_archive {
            let args = ["-q", "-v", "ON_ERROR_STOP=1", "-1", "-d", database, "-f", text(&script)];
            run(program(ClientTool::Psql), &args, Some(&target));
        } else {
            let args = ["--exit-on-error", "-1", "--no-owner", "-d", database, text(&dump)];
            run(program(ClientTool::PgRestore), &args, Some(&target));
        }
        let mut recovered = target.connect().await.unwrap();
        let mut after = compare::snapshot(&mut recovered, "tenant_acme").await.unwrap();
        recovered.close().await.unwrap();
        // Owners and grants are in the manifest, not in the dump: the page says so.
        after.owners.clone_from(&before.owners);
        after.grants.clone_from(&before.grants);
        let differences = compare::diff(&before, &after);
        assert_eq!(differences, Vec::<String>::new(), "{what}");
    }
}

#[tokio::test]
async fn the_manifest_opens_with_stock_age_and_tells_rows_and_owners() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    let path = test.directory.path().join("storage").join(format!("{}.manifest.json", backup.file_id.unwrap()));
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(manifest["head"]["stored"]["sha256"], *backup.sha256.as_ref().unwrap());
    assert!(!manifest.to_string().contains("customers"), "tables are told to holders of the key only");
    let sealed = test.directory.path().join("body.age");
    std::fs::write(&sealed, manifest["body"]["age"].as_str().unwrap()).unwrap();
    let key = test.directory.path().join("age.key");
    let body: serde_json::Value =
        serde_json::from_slice(&run("age", &["-d", "-i", text(&key), text(&sealed)], None)).unwrap();
    assert_eq!(body["database"]["row_count"], backup.row_count.unwrap());
    assert!(body["database"]["ownership"].as_array().is_some_and(|objects| objects.len() > 20));
}
