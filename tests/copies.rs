//! Several copies: one dump feeds them, what is missing is made from what is good, and a copy that is bad is neither read nor kept. Real
//! jobs on a real PostgreSQL.

mod reading;
mod regions;
mod repairs;
mod scene;

use crate::support::{self, faulty_storage, s3_server};

use std::time::{Duration, Instant};

use faulty_storage::Fault;
use holdfast::{
    byte_size::ByteSize,
    history,
    ids::BackupId,
    jobs::{
        queue, repair_copies,
        request::{self, Depth},
    },
    storage::{Limits, Pace},
};
use scene::{Place, QUICK, Scene, key, rows, until};
use support::app::{caller, everything, export};

#[tokio::test]
async fn a_slow_storage_is_not_fed_by_the_dump_and_gets_its_copy_from_a_quick_one() {
    // Its parts are cut as it likes them.
    let limits = Limits { part: ByteSize(3001), parts_in_flight: 1, artifact: None, pace: Pace::Afterwards };
    let scene = Scene::with(vec![Place::new("quick", Pace::Streamed), Place::with("slow", limits)], |_| {}).await;
    scene.set("slow", Fault::HoldPuts);
    let backup = scene.backup().await;
    let key = key(&backup);
    assert_eq!(scene.statuses(&backup).await, rows(&[("quick", "good"), ("slow", "pending")]));
    assert_eq!((backup.required_copies, backup.copies_missing, backup.is_complete()), (Some(2), 1, false));
    assert!(backup.message.as_ref().unwrap().contains("slow: to be made from a good copy"), "{:?}", backup.message);
    assert!(!scene.place("slow").memory.keys().contains(&key.to_string()));

    scene.set("slow", Fault::None);
    let job = scene.repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["repaired"], serde_json::json!(["slow"]));
    let now = scene.look(&backup).await;
    assert_eq!((now.copies_missing, now.message.as_deref(), now.is_complete()), (0, None, true));
    assert_eq!(scene.statuses(&backup).await, rows(&[("quick", "good"), ("slow", "good")]));
    assert!(scene.place("slow").holds(&key) && scene.place("quick").holds(&key));
    assert_eq!(scene.place("slow").memory.peek(&key), scene.place("quick").memory.peek(&key));
    assert!(scene.events(&backup).await.contains(&"copy_repaired".to_owned()));
    let verified = scene.verify(&backup, Depth::Read).await;
    assert_eq!(verified.result.unwrap()["outcome"], "verified");
}

#[tokio::test]
async fn a_projects_own_rate_slows_its_backups_and_their_repairs_whatever_the_storages_take() {
    let scene = Scene::new(&[("quick", Pace::Streamed), ("slow", Pace::Afterwards)]).await;
    let begun = Instant::now();
    let size = scene.backup().await.size;
    let mut unhurried = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(scene.repair().await.status, "completed");
    unhurried = unhurried.max(begun.elapsed());

    // At this rate either takes a second more than it did.
    let rate = (size as f64 / (unhurried + Duration::from_secs(1)).as_secs_f64()) as i64;
    assert!(rate >= 1024, "{size} bytes are too few to be slowed");
    sqlx::query("UPDATE control_plane.projects SET settings = jsonb_build_object('max_rate', $1::bigint)")
        .bind(rate)
        .execute(&scene.test.app.pool)
        .await
        .unwrap();
    let begun = Instant::now();
    let backup = scene.backup().await;
    let least = Duration::from_secs_f64(backup.size as f64 / rate as f64);
    let taken = begun.elapsed();
    assert!(taken >= least, "the backup took {taken:?} and should have taken {least:?}");
    let begun = Instant::now();
    assert_eq!(scene.repair().await.status, "completed");
    let taken = begun.elapsed();
    assert!(taken >= least, "the repair took {taken:?} and should have taken {least:?}");
}

#[tokio::test]
async fn slow_storages_alone_are_fed_the_first_by_the_dump_and_the_next_afterwards() {
    let scene = Scene::new(&[("one", Pace::Afterwards), ("two", Pace::Afterwards)]).await;
    scene.set("two", Fault::Down);
    let backup = scene.backup().await;
    assert_eq!(scene.copy(&backup, "one").await.status, "good");
    assert_ne!(scene.copy(&backup, "two").await.status, "good");
    scene.set("two", Fault::None);
    assert_eq!(scene.repair().await.status, "completed");
    assert!(scene.place("two").holds(&key(&backup)));
}

#[tokio::test]
async fn a_key_that_may_only_write_makes_a_good_copy_that_was_not_read_back() {
    let scene = Scene::new(&QUICK[..1]).await;
    scene.set("a", Fault::NoRead);
    let backup = scene.backup().await;
    let copy = scene.copy(&backup, "a").await;
    assert_eq!((copy.status.as_str(), copy.message.as_deref()), ("good", Some("not read back: the key may not read")));
    assert!(backup.is_complete(), "{:?}", backup.message);
    let job = scene.verify(&backup, Depth::Read).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "nobody can say that it is good");
    scene.set("a", Fault::None);
    assert_eq!(scene.verify(&backup, Depth::Read).await.result.unwrap()["outcome"], "verified");
    assert_eq!(scene.copy(&backup, "a").await.message, None);
}

#[tokio::test]
async fn an_artifact_beyond_one_storages_limit_fails_that_copy_alone_and_is_not_tried_again() {
    let small =
        Limits { part: ByteSize::kib(4), parts_in_flight: 1, artifact: Some(ByteSize::kib(8)), pace: Pace::Streamed };
    let scene = Scene::with(vec![Place::new("large", Pace::Streamed), Place::with("small", small)], |_| {}).await;
    let backup = scene.backup().await;
    assert_eq!(scene.statuses(&backup).await, rows(&[("large", "good"), ("small", "failed")]));
    let job = scene.repair().await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "no attempt can help: {:?}", job.error_message);
    assert!(scene.copy(&backup, "small").await.message.unwrap().contains("8 KiB"));
    let count = scene.repairs().await.len();
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    assert_eq!(scene.repairs().await.len(), count, "it can never fit");
    assert_eq!(scene.place("small").memory.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn an_artifact_beyond_the_limit_of_all_backups_fails_the_backup() {
    let places = QUICK.iter().map(|(name, pace)| Place::new(name, *pace)).collect();
    let scene = Scene::with(places, |config| config.backup.max_size = ByteSize::kib(8)).await;
    let job = scene.test.back_up(export("acme")).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    assert!(scene.places.iter().all(|place| place.memory.keys().is_empty() && place.memory.uploads_open() == 0));
    assert_eq!(scene.repairs().await.len(), 0);
}

#[tokio::test]
async fn fewer_required_copies_make_a_backup_complete_and_the_others_are_made_all_the_same() {
    let places = || QUICK.iter().map(|(name, pace)| Place::new(name, *pace)).collect::<Vec<_>>();
    for (required, missing) in [(1, 0), (2, 1), (9, 1)] {
        let scene = Scene::with(places(), |config| config.backup.required_copies = required.try_into().ok()).await;
        scene.set("b", Fault::Down);
        let backup = scene.backup().await;
        assert_eq!((backup.copies_missing, backup.is_complete()), (missing, missing == 0), "{required}");
        scene.set("b", Fault::None);
        assert_eq!(scene.repair().await.status, "completed");
        assert!(scene.look(&backup).await.is_complete());
        assert!(scene.place("b").holds(&key(&backup)));
    }
}

#[tokio::test]
async fn a_running_backup_tells_how_far_each_storage_is() {
    let scene = Scene::new(&QUICK).await;
    scene.set("b", Fault::HoldPuts);
    let job = request::export(&scene.test.app, &caller(), &export("acme"), None).await.unwrap().job_id();
    let look = async {
        let mut progress = serde_json::Value::Null;
        until("both storages are told of", async || {
            progress = queue::get(&scene.test.app.pool, &everything(), job).await.unwrap().progress.unwrap_or_default();
            progress["storages"]["a"]["stored_bytes"].as_u64() > Some(0)
        })
        .await;
        assert_eq!(progress["storages"]["a"]["state"], "uploading");
        assert_eq!(progress["storages"]["b"], serde_json::json!({ "stored_bytes": 0, "state": "uploading" }));
        scene.set("b", Fault::None);
    };
    let (job, ()) = tokio::join!(scene.test.run(job), look);
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let id: BackupId = serde_json::from_value(job.result.unwrap()["backup_id"].clone()).unwrap();
    let backup = history::get(&scene.test.app.pool, &everything(), id).await.unwrap();
    assert!(backup.is_complete() && scene.place("b").holds(&key(&backup)));
}

#[tokio::test]
async fn a_failed_backup_remembers_where_its_leftovers_could_not_be_removed() {
    let scene = Scene::new(&QUICK[..1]).await;
    scene.set("a", Fault::AlterAndKeep);
    let job = scene.test.back_up(export("acme")).await;
    assert_eq!(job.status, "failed");
    let id: BackupId = serde_json::from_value(job.payload["backup_id"].clone()).unwrap();
    let backup = history::get(&scene.test.app.pool, &everything(), id).await.unwrap();
    assert_eq!(backup.status, "failed");
    let copy = scene.copy(&backup, "a").await;
    assert_eq!(copy.status, "failed");
    assert!(copy.message.unwrap().contains("could not be removed"));
}
