//! There and back: what was archived is what is restored, by us and by others.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use holdfast::{
    jobs::{
        drop_replaced,
        queue::Job,
        request::{self, Depth, VerifyRequest},
    },
    manifest::FilesKind,
};

use super::{
    scene::{Scene, assert_same, awkward, content, look, no_files, sparse, write},
    support::app::caller,
};

#[tokio::test]
async fn an_awkward_tree_comes_back_byte_for_byte_and_its_restore_can_be_undone() {
    let scene = Scene::new().await;
    awkward(&scene.live());
    let before = look(&scene.live());
    let backup = scene.backup().await;
    assert!(backup.file_id.as_ref().unwrap().contains(".tar."), "{:?}", backup.file_id);
    let content = content(&backup);
    let count = |kind| before.values().filter(|seen| seen.kind == kind).count() as u64;
    assert_eq!(
        (content.kind, content.directories, content.file_count, content.link_count),
        (FilesKind::Directory, count('d'), count('f'), count('l'))
    );
    assert_eq!(content.total_bytes, before.values().map(|seen| seen.size).sum::<u64>());
    assert_eq!(content.hard_linked.first, ["plain's other name", "plain.txt"]);
    assert_eq!((content.changed_while_read.count, content.vanished.count, content.left_out.count), (0, 0, 0));

    fs::remove_dir_all(scene.live().join("sub")).unwrap();
    fs::write(scene.live().join("plain.txt"), "ruined").unwrap();
    write(&scene.live().join("made later"), "since the backup");
    let ruined = look(&scene.live());
    let job = scene.restored(&backup).await;
    assert_same(&before, &look(&scene.live()));
    let kept = job.result.as_ref().unwrap()["kept"].as_str().unwrap().to_owned();
    assert_eq!(scene.beside(), [kept]);

    let undo = request::undo(&scene.test.app, &caller(), job.job_id(), None).await.unwrap();
    let undo = scene.test.run(undo.job_id()).await;
    assert_eq!(undo.status, "completed", "{:?}", undo.error_message);
    assert_same(&ruined, &look(&scene.live()));
    let undone = undo.result.unwrap()["kept"].as_str().unwrap().to_owned();
    assert!(undone.starts_with(".hf-undone-"), "{undone}");
    assert_eq!(scene.beside(), [&*undone]);

    pass_window(&scene, &job).await;
    assert!(scene.beside().is_empty(), "{:?}", scene.beside());
    assert_same(&ruined, &look(&scene.live()));
}

/// Lets the time for an undo pass, by the database's clock, and works on what is then to be done.
async fn pass_window(scene: &Scene, restore: &Job) {
    let app = &scene.test.app;
    sqlx::query("UPDATE control_plane.restores SET undo_until = now() - interval '1 hour' WHERE job_id = $1")
        .bind(restore.id)
        .execute(&app.pool)
        .await
        .unwrap();
    drop_replaced::enqueue_due(app).await.unwrap();
    let id = sqlx::query_scalar::<_, uuid::Uuid>("SELECT id FROM control_plane.jobs WHERE type = 'drop_replaced'")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    let job = scene.test.run(id.into()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
}

#[tokio::test]
async fn what_was_replaced_goes_after_the_window_and_nothing_else() {
    let scene = Scene::new().await;
    write(&scene.live().join("a/b"), "before");
    let backup = scene.backup().await;
    let job = scene.restored(&backup).await;
    write(&scene.live().join("a/c"), "after");
    let now = look(&scene.live());
    pass_window(&scene, &job).await;
    assert!(scene.beside().is_empty(), "{:?}", scene.beside());
    assert_same(&now, &look(&scene.live()));
    let undo = request::undo(&scene.test.app, &caller(), job.job_id(), None).await;
    assert_eq!(undo.unwrap_err().code(), "restore.not_undoable");
}

#[tokio::test]
async fn gnu_tar_extracts_the_artifact_and_sha256sum_agrees() {
    let scene = Scene::plain().await;
    awkward(&scene.live());
    sparse(&scene.live().join("sparse"), 32 << 20);
    let before = look(&scene.live());
    scene.backup().await;
    let out = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(out.path()).env("LC_ALL", "C").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    run("tar", &["-xpf", scene.artifact().to_str().unwrap()]);
    run("sha256sum", &["--check", "--quiet", ".holdfast.sha256"]);
    let mut after = look(out.path());
    assert!(after.remove(&b".holdfast.sha256"[..]).is_some());
    assert!(fs::metadata(out.path().join("sparse")).unwrap().blocks() < 1000, "GNU tar made holes again");
    // Removing nothing changed the root's time: the list was written into it.
    after.get_mut(&b""[..]).unwrap().modified = before[&b""[..]].modified;
    assert_same(&before, &after);
}

#[tokio::test]
async fn a_sparse_file_of_a_gibibyte_stays_small_stored_and_restored() {
    let scene = Scene::new().await;
    sparse(&scene.live().join("sparse"), 1 << 30);
    let hole = fs::File::create(scene.live().join("nothing but a hole")).unwrap();
    hole.set_len(5 << 20).unwrap();
    let before = look(&scene.live());
    let backup = scene.backup().await;
    let content = content(&backup);
    assert_eq!(content.total_bytes, (1 << 30) + (5 << 20));
    assert!(content.data_bytes < 1 << 20, "{}", content.data_bytes);
    assert!(backup.size < 1 << 16, "{} bytes are stored", backup.size);
    fs::remove_file(scene.live().join("sparse")).unwrap();
    scene.restored(&backup).await;
    assert_same(&before, &look(&scene.live()));
    assert!(fs::metadata(scene.live().join("sparse")).unwrap().blocks() * 512 < 1 << 20);
}

#[tokio::test]
async fn files_larger_than_a_part_are_split_and_put_together_again() {
    let scene = Scene::plain().await;
    let noise: Vec<u8> = (0..20u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    write(&scene.live().join("large"), &noise);
    let before = look(&scene.live());
    let backup = scene.backup().await;
    assert!(backup.manifest().unwrap().head.parts.len() > 1);
    fs::remove_file(scene.live().join("large")).unwrap();
    scene.restored(&backup).await;
    assert_same(&before, &look(&scene.live()));
}

#[tokio::test]
async fn what_is_no_file_is_left_out_and_named_and_no_file_lends_its_owner() {
    let scene = Scene::new().await;
    write(&scene.live().join("plain"), "x");
    no_files(&scene.live());
    write(&scene.live().join(".holdfast.sha256"), "of an extraction by hand");
    let backup = scene.backup().await;
    let left_out = content(&backup).left_out;
    assert_eq!(
        (left_out.count, left_out.first),
        (3, [".holdfast.sha256", "pipe", "socket"].map(str::to_owned).to_vec())
    );
    assert!(backup.message.as_deref().unwrap().contains("3 left out"), "{:?}", backup.message);
    scene.restored(&backup).await;
    let after = look(&scene.live());
    assert_eq!(after.keys().map(|k| k.as_slice()).collect::<Vec<_>>(), [&b""[..], b"plain", b"setuid"]);
    assert_eq!(after[&b"setuid"[..]].mode, 0o755);
}

#[tokio::test]
async fn every_depth_of_verification_reads_the_archive() {
    let scene = Scene::new().await;
    write(&scene.live().join("a/b"), "x");
    let backup = scene.backup().await;
    for depth in [Depth::Head, Depth::Read, Depth::Restore] {
        let verify = VerifyRequest { backup_id: backup.backup_id(), depth };
        let job = request::verify(&scene.test.app, &caller(), &verify, None).await.unwrap();
        let job = scene.test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{depth}: {:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified", "{depth}");
    }
    assert!(scene.beside().is_empty());
    let spool = scene.test.directory.path().join("spool");
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0, "the trial is removed");
}

#[tokio::test]
async fn a_directory_that_is_gone_or_elsewhere_fails_the_restore_and_changes_nothing() {
    let scene = Scene::new().await;
    write(&scene.live().join("a"), "x");
    let backup = scene.backup().await;
    fs::rename(scene.live(), scene.live().with_file_name("moved")).unwrap();
    let job = scene.test.restore(&backup).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("is not there"));
    // A link in its place is not followed.
    std::os::unix::fs::symlink("moved", scene.live()).unwrap();
    let job = scene.test.restore(&backup).await;
    assert_eq!(job.status, "failed");
    assert_eq!(scene.beside(), ["moved"]);
    let job = super::scene::back_up(&scene.test).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.unwrap().contains("symbolic link"));
}
