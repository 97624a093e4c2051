//! A second machine on the same control plane: it must not encrypt with a key of its own that nobody knows of.

use crate::support;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use holdfast::postgres::connect::ConnectInfo;
use secrecy::ExposeSecret;
use sqlx::Executor;

/// Runs a command on a machine, which is a data directory.
fn on(machine: &Path, control: &ConnectInfo, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", control.to_url().expose_secret())
        .env("HOLDFAST_DATA_DIR", machine)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_machine_without_the_key_is_refused_once_there_are_encrypted_backups() {
    let control = support::fresh_database("second").await;
    let directory = tempfile::tempdir().unwrap();
    let machine = |name: &str| directory.path().join(name);
    // The first start makes the key, and so does every other while there is nothing to open.
    succeeds(&on(&machine("first"), &control, &[], &["migrate"]));
    succeeds(&on(&machine("early"), &control, &[], &["list"]));
    let mut connection = support::connect(&control).await;
    connection
        .execute(
            "INSERT INTO control_plane.projects (id, name, slug) VALUES ('acme', 'Acme', 'acme');
             INSERT INTO control_plane.backups (id, project_id, type, status, encryption, file_id, file_name)
             VALUES ('0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa', 'acme', 'database', 'failed', 'age', 'k', 'k'),
                    ('0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7ab', 'acme', 'database', 'completed', 'none', 'l', 'l')",
        )
        .await
        .unwrap();
    succeeds(&on(&machine("still early"), &control, &[], &["list"]));
    connection.execute("UPDATE control_plane.backups SET status = 'completed'").await.unwrap();

    let late = machine("late");
    for command in [&["list"][..], &["migrate"], &["worker"], &["serve"]] {
        let refused = on(&late, &control, &[("HOLDFAST_LISTEN", "127.0.0.1:0")], command);
        assert_eq!(refused.status.code(), Some(2), "{command:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            said.contains("age.key is missing") && said.contains("Copy age.key, secrets.key and jwt.secret"),
            "{said}"
        );
    }
    assert!(!late.join("age.key").exists(), "no key was made");
    succeeds(&on(&machine("first"), &control, &[], &["list"]));
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    for settings in [("HOLDFAST_ENCRYPTION_RECIPIENTS", recipient.as_str()), ("HOLDFAST_ENCRYPTION_ENABLED", "false")] {
        succeeds(&on(&machine(settings.0), &control, &[settings], &["list"]));
    }
    std::fs::create_dir_all(&late).unwrap();
    for key in ["age.key", "secrets.key", "jwt.secret"] {
        std::fs::copy(machine("first").join(key), late.join(key)).unwrap();
    }
    succeeds(&on(&late, &control, &[], &["list"]));
}
