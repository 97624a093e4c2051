//! The programs that read a dump: one that falls over in the middle, and those that can be made to run code.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use holdfast::{
    artifact::Format,
    postgres::{
        inspect,
        tools::{ClientTool, Tools},
    },
    restore::Engine,
};

use crate::{
    restore_engine::scene::{HOUR, Scene, good, load},
    support,
};

/// The programs of this machine; what `script` says stands in the place of `pg_restore` or of both, with `REAL` for the program.
async fn behind(directory: &Path, script: impl Fn(ClientTool) -> Option<String>) -> Arc<Tools> {
    let tools = support::tools().await;
    for (name, tool) in [("pg_restore", ClientTool::PgRestore), ("psql", ClientTool::Psql)] {
        let real = tools.client(tool, 140_000).unwrap().path.display().to_string();
        let said = script(tool).unwrap_or_else(|| "exec REAL \"$@\"".to_owned()).replace("REAL", &format!("'{real}'"));
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nulimit -c 0\n{said}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    Arc::new(Tools::among(vec![directory.to_path_buf()]).await)
}

#[tokio::test]
async fn an_archive_over_which_pg_restore_falls_commits_nothing() {
    let scene = Scene::new().await;
    let before = scene.text(None).await;
    let (bytes, proof) = scene.dump(Format::Custom).await;
    const FALLS: &str = "kill -SEGV $$";
    for (when, script) in [
        (
            "while it lists",
            format!("case \"$1\" in --version) exec REAL \"$@\";; esac; head -c 500 > /dev/null; {FALLS}"),
        ),
        (
            "while it writes",
            format!("case \"$1\" in --file=-) REAL \"$@\" | head -c 4000; {FALLS};; esac; exec REAL \"$@\""),
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let tools = behind(directory.path(), |tool| (tool == ClientTool::PgRestore).then(|| script.clone())).await;
        let engine = Engine { tools, ..scene.engine.clone() };
        for one_transaction in [true, false] {
            let engine = Engine { one_transaction, ..engine.clone() };
            let plan = scene.plan().await;
            let mut session = engine.open(&plan).await.unwrap();
            session.prepare(&proof, HOUR).await.unwrap();
            let error = session.load(&load(Format::Custom, good(&bytes))).await.unwrap_err();
            assert_eq!(error.code, "restore.load_failed", "{when}: {error}");
            assert!(error.message.contains("signal: 11"), "{when}: {error}");
            session.roll_back().await.unwrap();
            session.close().await;
            scene.assert_untouched(&plan, &before, when).await;
        }
    }
    scene.clean().await;
}

#[tokio::test]
async fn clients_that_can_be_made_to_run_code_are_refused_before_anything_is_touched() {
    let scene = Scene::new().await;
    let version = inspect::server_version(&mut scene.admin.connect().await.unwrap()).await.unwrap() / 10_000;
    let (bytes, proof) = scene.dump(Format::Custom).await;
    let directory = tempfile::tempdir().unwrap();
    let old = |tool: ClientTool| {
        let says = format!("echo '{tool} (PostgreSQL) {version}.1'; exit");
        Some(format!("case \"$1\" in --version) {says};; esac; exec REAL \"$@\""))
    };
    let tools = behind(directory.path(), old).await;
    let engine = Engine { tools, allow_vulnerable_clients: false, ..scene.engine.clone() };
    let plan = scene.plan().await;
    let before = scene.text(None).await;
    let mut session = engine.open(&plan).await.unwrap();
    let error = session.prepare(&proof, HOUR).await.unwrap_err();
    assert!(error.code == "restore.tool" && error.message.contains("CVE-2026-116314"), "{error}");
    session.close().await;
    scene.assert_untouched(&plan, &before, "refused").await;

    let engine = Engine { allow_vulnerable_clients: true, ..engine };
    let mut session = engine.open(&plan).await.unwrap();
    session.prepare(&proof, HOUR).await.unwrap();
    session.load(&load(Format::Custom, good(&bytes))).await.unwrap();
    session.roll_back().await.unwrap();
    session.close().await;
    scene.clean().await;
}
