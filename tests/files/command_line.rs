//! The same by hand.

use std::process::{Command, Stdio};

use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::scene::{Scene, look, write};

/// Runs a command; gives its exit code, what it printed as JSON, and its words.
async fn holdfast(scene: &Scene, arguments: &[&str]) -> (i32, Value, String) {
    let test = &scene.test;
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .args(arguments)
        .arg("--json")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", test.app.control.to_url().expose_secret())
        .env("HOLDFAST_DATA_DIR", test.directory.path())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), json, String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn files_are_set_backed_up_restored_and_given_back_from_the_command_line() {
    let scene = Scene::new().await;
    write(&scene.live().join("a/b"), "stored");
    let live = scene.live().to_str().unwrap().to_owned();

    let (code, json, _) = holdfast(&scene, &["project", "files", "acme"]).await;
    assert_eq!((code, json["files"]["directory"].as_str()), (0, Some(&*live)));
    let (code, json, _) = holdfast(&scene, &["project", "files", "acme", "--none"]).await;
    assert_eq!((code, &json["files"]), (0, &Value::Null));
    let (code, _, words) = holdfast(&scene, &["backup", "acme", "--type", "storage", "--wait"]).await;
    assert!(code == 2 && words.contains("project.no_files"), "{code}: {words}");
    for (arguments, expected) in [
        (&["--directory", "/srv/../etc"][..], "plainly"),
        (&["--directory", "/no such directory"], "No such file"),
        (&["--s3", "local", "--prefix", "a"], "no bucket"),
        (&["--s3", "local"], "required arguments"),
        (&["--directory", "/srv", "--none"], "cannot be used with"),
    ] {
        let (code, _, words) = holdfast(&scene, &[&["project", "files", "acme"], arguments].concat()).await;
        assert!(code == 2 && words.contains(expected), "{arguments:?}: {code}: {words}");
    }
    let (code, _, words) = holdfast(&scene, &["project", "files", "acme", "--directory", &live]).await;
    assert_eq!(code, 0, "{words}");

    let (code, json, words) = holdfast(&scene, &["backup", "acme", "--type", "storage", "--wait"]).await;
    assert!(code == 0 && json["type"] == "storage", "{words}: {json}");
    let id = json["id"].as_str().unwrap().to_owned();
    write(&scene.live().join("a/b"), "ruined");
    let ruined = look(&scene.live());
    let (code, json, _) = holdfast(&scene, &["restore", &id]).await;
    assert_eq!((code, json["file_count"].as_u64()), (2, Some(1)));
    assert_eq!(json["would_replace"], format!("directory {live:?} and everything in it"));
    assert_eq!(look(&scene.live()), ruined, "nothing was done");
    let (code, json, words) = holdfast(&scene, &["restore", &id, "--confirm", "--wait"]).await;
    assert!(code == 0 && json["outcome"] == "verified", "{words}: {json}");
    assert_eq!(std::fs::read(scene.live().join("a/b")).unwrap(), b"stored");
    let job = json["job_id"].as_str().unwrap().to_owned();
    let (code, _, words) = holdfast(&scene, &["undo", &job, "--wait"]).await;
    assert_eq!(code, 0, "{words}");
    assert_eq!(look(&scene.live()), ruined);
}
