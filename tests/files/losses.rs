//! Workers that are lost at any point of a restore: what lies there tells how far it came.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use holdfast::{
    ids::RestoreId,
    jobs::{
        queue,
        request::{self, RestoreRequest},
    },
    restore::files::{self, FilesPlan, FilesRecovery},
    source::files::beneath::Place,
};
use secrecy::ExposeSecret as _;

use super::{
    scene::{Scene, assert_same, look, write},
    support::app::caller,
};

/// A live directory, and what was staged beside it.
struct Stage {
    above: tempfile::TempDir,
    plan: FilesPlan,
}

impl Stage {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        write(&above.path().join("live/old"), "old");
        let place = Place::find(&above.path().join("live"), &[]).unwrap();
        let mut plan = FilesPlan::directory(RestoreId::generate(), &place).unwrap();
        write(&above.path().join(plan.staged()).join("deep/new"), "new");
        plan.record_staged(&place).unwrap();
        Self { above, plan }
    }

    fn place(&self) -> Place {
        Place::find(&self.at("live"), &[]).unwrap()
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.above.path().join(name)
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.above.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn assert_rolled_back(&self) {
        for _ in 0..2 {
            assert_eq!(files::recover(&self.place(), &self.plan).unwrap(), FilesRecovery::RolledBack);
            assert_eq!(self.names(), ["live"]);
            assert!(self.at("live/old").exists());
        }
    }

    fn assert_finished(&self) {
        for _ in 0..2 {
            let recovered = files::recover(&self.place(), &self.plan).unwrap();
            assert!(matches!(recovered, FilesRecovery::Finished { .. }));
            assert_eq!(self.names(), [self.plan.kept(), "live".to_owned()]);
            assert!(self.at("live/deep/new").exists() && self.at(&self.plan.kept()).join("old").exists());
        }
    }
}

#[test]
fn before_the_swap_everything_goes_back() {
    let stage = Stage::new();
    stage.assert_rolled_back();
    // Lost before anything was staged.
    fs::remove_dir_all(stage.at(&stage.plan.staged())).ok();
    stage.assert_rolled_back();
}

#[test]
fn after_the_swap_it_stands() {
    let stage = Stage::new();
    files::swap(&stage.place(), &stage.plan).unwrap();
    stage.assert_finished();
}

#[test]
fn between_the_exchange_and_its_second_name_it_is_finished() {
    let stage = Stage::new();
    stage.rename("live", "aside");
    stage.rename(&stage.plan.staged(), "live");
    stage.rename("aside", &stage.plan.staged());
    stage.assert_finished();
}

#[test]
fn between_two_renames_the_name_comes_back() {
    let stage = Stage::new();
    stage.rename("live", &stage.plan.kept());
    stage.assert_rolled_back();
}

#[test]
fn a_directory_that_somebody_replaced_meanwhile_is_left_alone() {
    let stage = Stage::new();
    stage.rename("live", "elsewhere");
    write(&stage.at("live/theirs"), "x");
    let error = files::swap(&stage.place(), &stage.plan).unwrap_err();
    assert_eq!(error.code, "restore.target_moved");
    assert_eq!(files::recover(&stage.place(), &stage.plan).unwrap(), FilesRecovery::RolledBack);
    assert_eq!(stage.names(), ["elsewhere", "live"]);
    assert!(stage.at("live/theirs").exists() && stage.at("elsewhere/old").exists());
}

#[test]
fn what_was_not_compared_is_neither_swapped_nor_called_restored() {
    // Somebody put another directory where the compared one was.
    let stage = Stage::new();
    stage.rename(&stage.plan.staged(), "compared");
    write(&stage.at(&stage.plan.staged()).join("theirs"), "x");
    assert_eq!(files::swap(&stage.place(), &stage.plan).unwrap_err().code, "restore.target_moved");
    assert!(stage.at("live/old").exists() && stage.at("compared/deep/new").exists());
    // Lost between two renames, and the tenant's program made its directory anew: an empty one gives way.
    let stage = Stage::new();
    stage.rename("live", &stage.plan.kept());
    fs::create_dir(stage.at("live")).unwrap();
    stage.assert_rolled_back();
    // One with something in it stays, and so does what was there before.
    let stage = Stage::new();
    stage.rename("live", &stage.plan.kept());
    write(&stage.at("live/theirs"), "x");
    for _ in 0..2 {
        let error = files::recover(&stage.place(), &stage.plan).unwrap_err();
        assert!(error.code == "restore.target_moved" && error.message.contains("made anew"), "{error}");
        assert!(stage.at("live/theirs").exists() && stage.at(&stage.plan.kept()).join("old").exists());
    }
    // Before anything is recorded nothing can have been swapped.
    let mut stage = Stage::new();
    stage.plan = FilesPlan::directory(stage.plan.id, &stage.place()).unwrap();
    assert_eq!(files::swap(&stage.place(), &stage.plan).unwrap_err().code, "restore.target_moved");
    stage.assert_rolled_back();
}

#[test]
fn the_directory_that_was_live_is_never_removed_whatever_is_found() {
    // Exchanged, and then somebody put a third one in its place.
    let stage = Stage::new();
    stage.rename("live", "aside");
    stage.rename("aside", &format!("{}.old", stage.plan.staged()));
    stage.rename(&stage.plan.staged(), "elsewhere");
    stage.rename(&format!("{}.old", stage.plan.staged()), &stage.plan.staged());
    write(&stage.at("live/theirs"), "x");
    assert_eq!(files::recover(&stage.place(), &stage.plan).unwrap_err().code, "restore.target_moved");
    assert!(stage.at(&stage.plan.staged()).join("old").exists() && stage.at("live/theirs").exists());
    // The name is free again: it comes back.
    fs::remove_dir_all(stage.at("live")).unwrap();
    assert_eq!(files::recover(&stage.place(), &stage.plan).unwrap(), FilesRecovery::RolledBack);
    assert_eq!(stage.names(), ["elsewhere", "live"]);
    assert!(stage.at("live/old").exists());
}

/// Some file systems give other inodes after a restart.
#[test]
fn with_other_inodes_than_were_written_down_nothing_is_removed() {
    let mut stage = Stage::new();
    files::swap(&stage.place(), &stage.plan).unwrap();
    stage.rename(&stage.plan.kept(), &stage.plan.staged());
    let mut json = serde_json::to_value(&stage.plan).unwrap();
    json["files"]["live"]["inode"] = 1.into();
    json["files"]["staged"]["inode"] = 2.into();
    stage.plan = FilesPlan::read(&json).unwrap();
    assert_eq!(files::recover(&stage.place(), &stage.plan).unwrap_err().code, "restore.target_moved");
    assert!(stage.at(&stage.plan.staged()).join("old").exists() && stage.at("live/deep/new").exists());
}

#[test]
fn a_paused_worker_cannot_swap_what_another_has_rolled_back() {
    let stage = Stage::new();
    files::recover(&stage.place(), &stage.plan).unwrap();
    assert_eq!(files::swap(&stage.place(), &stage.plan).unwrap_err().code, "restore.staged");
    stage.assert_rolled_back();
}

#[test]
fn an_undo_that_was_lost_half_way_is_finished() {
    let undone = |stage: &Stage, inode| {
        for _ in 0..2 {
            files::undo(&stage.place(), &stage.plan, inode).unwrap();
            assert_eq!(stage.names(), [stage.plan.undone(), "live".to_owned()]);
            assert!(stage.at("live/old").exists() && stage.at(&stage.plan.undone()).join("deep/new").exists());
        }
    };
    let swapped = || {
        let stage = Stage::new();
        let restored = files::swap(&stage.place(), &stage.plan).unwrap();
        (stage, restored.inode)
    };
    let (stage, inode) = swapped();
    undone(&stage, inode);
    // Exchanged, and not yet called what it should be.
    let (stage, inode) = swapped();
    stage.rename("live", "aside");
    stage.rename(&stage.plan.kept(), "live");
    stage.rename("aside", &stage.plan.kept());
    undone(&stage, inode);
    // In two renames, and lost between them.
    let (stage, inode) = swapped();
    stage.rename("live", &stage.plan.undone());
    undone(&stage, inode);
    // Another directory is live by now.
    let (stage, inode) = swapped();
    stage.rename("live", "elsewhere");
    write(&stage.at("live/theirs"), "x");
    assert_eq!(files::undo(&stage.place(), &stage.plan, inode).unwrap_err().code, "restore.target_moved");
    assert!(stage.at("live/theirs").exists() && stage.at(&stage.plan.kept()).exists());
}

#[test]
fn only_the_directory_that_was_kept_is_dropped() {
    let stage = Stage::new();
    let restored = files::swap(&stage.place(), &stage.plan).unwrap();
    let kept = stage.plan.kept();
    for (name, inode) in [("live", restored.inode), (&*kept, restored.inode), ("../live", restored.inode)] {
        assert!(files::drop_kept(&stage.place(), name, inode).is_err(), "{name}");
    }
    stage.assert_finished();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(stage.at(&kept)).unwrap());
    // A link inside is removed, not followed.
    std::os::unix::fs::symlink(stage.at("live"), stage.at(&kept).join("link")).unwrap();
    for _ in 0..2 {
        files::drop_kept(&stage.place(), &kept, inode).unwrap();
        assert_eq!(stage.names(), ["live"]);
        assert!(stage.at("live/deep/new").exists());
    }
}

#[test]
fn what_is_mounted_inside_a_kept_directory_is_not_removed_with_it() {
    let stage = Stage::new();
    files::swap(&stage.place(), &stage.plan).unwrap();
    let kept = stage.at(&stage.plan.kept());
    write(&stage.at("share/theirs"), "x");
    fs::create_dir(kept.join("share")).unwrap();
    let mount = |arguments: &[&std::path::Path], program| {
        let done = Command::new(program).args(arguments).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let (bind, theirs, inside) = (Path::new("--bind"), stage.at("share"), kept.join("share"));
    if !mount(&[bind, &theirs, &inside], "mount") {
        // Only root may mount, and not in every container: nothing can be mounted inside then.
        return;
    }
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&kept).unwrap());
    let refused = files::drop_kept(&stage.place(), &stage.plan.kept(), inode);
    let is_there = stage.at("share/theirs").exists();
    assert!(mount(&[&inside], "umount"));
    assert!(is_there && refused.unwrap_err().message.contains("mounted inside"));
    files::drop_kept(&stage.place(), &stage.plan.kept(), inode).unwrap();
    assert!(!kept.exists() && stage.at("share/theirs").exists());
}

/// Writes a restore down as a worker does that is lost right afterwards.
async fn lost(scene: &Scene, backup: &holdfast::history::Backup) -> (FilesPlan, queue::Job) {
    let app = &scene.test.app;
    let request = RestoreRequest::in_place(backup.backup_id());
    let job = request::restore(app, &caller(), &request, None).await.unwrap();
    let place = Place::find(&scene.live(), &[]).unwrap();
    let plan = FilesPlan::directory(RestoreId::generate(), &place).unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    holdfast::history::insert_restore(&app.pool, plan.id, job.job_id(), backup.backup_id(), "acme", &json)
        .await
        .unwrap();
    (plan, job)
}

fn staged_by_hand(live: &Path, plan: &FilesPlan) {
    write(&live.with_file_name(plan.staged()).join("a"), "stored");
}

#[tokio::test]
async fn the_next_attempt_rolls_back_what_a_lost_one_staged_and_restores() {
    let scene = Scene::new().await;
    write(&scene.live().join("a"), "stored");
    let backup = scene.backup().await;
    let before = look(&scene.live());
    write(&scene.live().join("a"), "since");
    let (plan, job) = lost(&scene, &backup).await;
    staged_by_hand(&scene.live(), &plan);
    let job = scene.test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_same(&before, &look(&scene.live()));
    let kept = job.result.unwrap()["kept"].as_str().unwrap().to_owned();
    assert_eq!(scene.beside(), [&*kept]);
    assert_ne!(kept, plan.kept(), "the second attempt's own");
}

#[tokio::test]
async fn the_next_attempt_finds_a_swap_that_was_done_and_does_not_restore_again() {
    let scene = Scene::new().await;
    write(&scene.live().join("a"), "stored");
    let backup = scene.backup().await;
    let (mut plan, job) = lost(&scene, &backup).await;
    staged_by_hand(&scene.live(), &plan);
    plan.record_staged(&Place::find(&scene.live(), &[]).unwrap()).unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    holdfast::history::set_restore_plan(&scene.test.app.pool, plan.id, &json).await.unwrap();
    files::swap(&Place::find(&scene.live(), &[]).unwrap(), &plan).unwrap();
    write(&scene.live().join("written since"), "x");
    let now = look(&scene.live());
    let job = scene.test.run(job.job_id()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["outcome"], "verified");
    assert_same(&now, &look(&scene.live()));
    assert_eq!(scene.beside(), [plan.kept()]);
    // It can be undone like any other.
    let undo = request::undo(&scene.test.app, &caller(), job.id.into(), None).await.unwrap();
    let undo = scene.test.run(undo.job_id()).await;
    assert_eq!(undo.status, "completed", "{:?}", undo.error_message);
    assert_eq!(scene.beside(), [plan.undone()]);
}

/// `holdfast worker` as a process of its own, with nothing in its environment but what it needs.
fn worker(scene: &Scene) -> std::process::Child {
    let test = &scene.test;
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("worker")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", test.app.control.to_url().expose_secret())
        .env("HOLDFAST_DATA_DIR", test.directory.path())
        .env("HOLDFAST_WORKER_LEASE_SECONDS", "2")
        .env("HOLDFAST_WORKER_POLL_SECONDS", "1")
        .env("HOLDFAST_WORKER_BACKOFF_SECONDS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether the job's log says that a stage was begun.
async fn has_begun(scene: &Scene, job: &queue::Job, stage: &str) -> bool {
    let lines: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.project_logs WHERE metadata ->> 'job_id' = $1::text AND message = $2",
    )
    .bind(job.id)
    .bind(stage)
    .fetch_one(&scene.test.app.pool)
    .await
    .unwrap();
    lines > 0
}

#[tokio::test]
async fn workers_killed_at_any_stage_leave_a_whole_tree_and_the_next_one_ends_the_job() {
    let scene = Scene::new().await;
    for at in 0..300u32 {
        let noise: Vec<u8> = (0..65_536u32).map(|byte| (byte.wrapping_mul(2_654_435_761 ^ at) >> 15) as u8).collect();
        write(&scene.live().join(format!("{}/{at}", at % 7)), noise);
    }
    let before = look(&scene.live());
    let backup = scene.backup().await;
    for stage in ["fetching", "extracting", "comparing", "swapping"] {
        fs::remove_dir_all(scene.live().join("3")).unwrap();
        let ruined = look(&scene.live());
        let request = RestoreRequest::in_place(backup.backup_id());
        let job = request::restore(&scene.test.app, &caller(), &request, None).await.unwrap();
        let mut lost = worker(&scene);
        let deadline = Instant::now() + Duration::from_secs(90);
        while !has_begun(&scene, &job, stage).await {
            assert!(Instant::now() < deadline, "{stage} is not reached");
            tokio::task::yield_now().await;
        }
        lost.kill().unwrap(); // SIGKILL: no chance to tidy up
        lost.wait().unwrap();
        // One or the other, and nothing between.
        let now = look(&scene.live());
        if now != ruined {
            assert_same(&before, &now);
        }
        let job = scene.test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{stage}: {:?}", job.error_message);
        assert_same(&before, &look(&scene.live()));
        let beside = scene.beside();
        assert!(beside.len() == 1 && beside[0].starts_with(".hf-before-"), "{stage}: {beside:?}");
        fs::remove_dir_all(scene.live().with_file_name(&beside[0])).unwrap();
    }
}
