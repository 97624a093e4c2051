//! Copies made from copies: when a storage is back, twice, from a bad source, of a backup that goes away.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use holdfast::{
    clock::Clock,
    jobs::{repair_copies, request::Depth},
    storage::Pace,
};
use sqlx::Executor;

use super::{
    faulty_storage::Fault,
    scene::{Place, QUICK, Scene, key, rows, until},
};

#[tokio::test]
async fn a_storage_that_is_down_during_the_backup_gets_its_copy_when_it_is_back() {
    let mut scene = Scene::new(&QUICK).await;
    let clock = Clock::fixed("2026-11-21T10:30:00Z".parse().unwrap());
    scene.test.app.clock = clock.clone();
    scene.set("b", Fault::Down);
    let backup = scene.backup().await;
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "failed")]));
    assert_eq!(backup.copies_missing, 1);
    assert!(backup.message.as_ref().unwrap().contains("b: "), "{:?}", backup.message);
    let job = scene.repair().await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 3), "{:?}", job.error_message);
    let copy = scene.copy(&backup, "b").await;
    assert!(copy.message.unwrap().contains("injected fault"), "the reason is kept in the row");

    // Once an hour, whoever looks and however often.
    for _ in 0..2 {
        repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    }
    let waiting = scene.repair().await;
    assert_eq!(waiting.status, "failed");
    let count = scene.repairs().await.len();
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    assert_eq!(scene.repairs().await.len(), count, "not again within the hour");
    clock.advance(chrono::Duration::hours(1));
    scene.set("b", Fault::None);
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    assert_eq!(scene.repairs().await.len(), count + 1);
    let job = scene.repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert!(scene.look(&backup).await.is_complete());
    assert!(scene.place("b").holds(&key(&backup)));
    clock.advance(chrono::Duration::hours(1));
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    assert_eq!(scene.repairs().await.len(), count + 1, "nothing is wanting any more");
}

#[tokio::test]
async fn a_repair_that_runs_twice_ends_the_same_and_stores_once() {
    let scene = Scene::new(&QUICK).await;
    scene.set("b", Fault::Down);
    let backup = scene.backup().await;
    scene.set("b", Fault::None);
    let job = scene.repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let uploads = scene.place("b").created();
    // The worker was lost before it could write down what it had stored.
    for sql in [
        "UPDATE control_plane.backup_copies SET status = 'failed', locator = NULL, manifest_locator = NULL WHERE storage = 'b'",
        "UPDATE control_plane.jobs SET status = 'in_progress', finished_at = NULL, result = NULL, attempts = 1, \
         lease_token = gen_random_uuid(), lease_expires_at = now() - interval '1 second' WHERE type = 'repair_copies'",
    ] {
        scene.test.app.pool.execute(sql).await.unwrap();
    }
    let job = scene.repair().await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    assert_eq!(scene.place("b").created(), uploads, "taken over, not stored again");
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]));

    // Lost between the artifact and its manifest: the artifact is taken over, the manifest written.
    scene
        .place("b")
        .faulty
        .inner
        .delete(&holdfast::storage::Locator::Memory { key: key(&backup).manifest() })
        .await
        .unwrap();
    scene
        .test
        .app
        .pool
        .execute("UPDATE control_plane.backup_copies SET status = 'failed' WHERE storage = 'b'")
        .await
        .unwrap();
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    assert_eq!(scene.repair().await.status, "completed");
    assert_eq!(scene.place("b").created(), uploads + 1, "the manifest alone");
    assert!(scene.place("b").holds(&key(&backup)));
}

#[tokio::test]
async fn a_copy_that_takes_too_long_is_given_up_cleared_away_and_made_later() {
    let places = QUICK.map(|(name, pace)| Place::new(name, pace)).into();
    let mut scene = Scene::with(places, |config| config.backup.copy_timeout_seconds = 1).await;
    scene.set("b", Fault::Down);
    let backup = scene.backup().await;
    scene.set("b", Fault::HoldPuts);
    let job = scene.repair().await;
    assert_eq!(job.status, "failed", "{:?}", job.error_message);
    let told = scene.copy(&backup, "b").await.message.unwrap();
    assert!(told.contains(&format!("0 of {} bytes were stored within 1 s", backup.size)), "{told}");
    assert_eq!((scene.place("b").memory.uploads_open(), scene.place("b").memory.keys().len()), (0, 0));
    scene.set("b", Fault::None);
    Arc::make_mut(&mut scene.test.app.config).backup.copy_timeout_seconds = 60;
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    let job = scene.repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert!(scene.place("b").holds(&key(&backup)));
}

#[tokio::test]
async fn what_may_not_be_deleted_does_not_fail_the_backup_and_is_replaced_when_it_may() {
    let scene = Scene::new(&QUICK).await;
    scene.set("b", Fault::AlterAndKeep);
    let backup = scene.backup().await;
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "failed")]));
    assert!(scene.place("b").memory.peek(&key(&backup)).is_some(), "it lies there");
    let job = scene.repair().await;
    assert_eq!(job.status, "failed");
    assert!(scene.copy(&backup, "b").await.message.unwrap().contains("denied"), "the deletion's refusal is remembered");
    scene.set("b", Fault::None);
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    assert_eq!(scene.repair().await.status, "completed");
    assert_eq!(scene.place("b").memory.peek(&key(&backup)), scene.place("a").memory.peek(&key(&backup)));
}

#[tokio::test]
async fn a_backup_that_is_deleted_while_its_copy_is_made_leaves_none_behind() {
    let scene = Scene::new(&QUICK).await;
    scene.set("b", Fault::Down);
    let backup = scene.backup().await;
    scene.set("b", Fault::HoldPuts);
    let job = scene.repairs().await.pop().unwrap();
    let delete = async {
        let held = scene.place("b").faulty.held.clone();
        until("a part is being stored", async || held.load(Ordering::SeqCst) > 0).await;
        scene.test.app.pool.execute("UPDATE control_plane.backups SET status = 'deleted'").await.unwrap();
        scene.set("b", Fault::None);
    };
    let (job, ()) = tokio::join!(scene.test.run(job.job_id()), delete);
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["repaired"], serde_json::json!([]));
    assert_eq!(scene.place("b").memory.keys(), Vec::<String>::new());
    assert_eq!(scene.copy(&backup, "b").await.status, "failed");
}

#[tokio::test]
async fn a_worker_that_is_lost_with_a_copy_of_a_deleted_backup_has_it_removed_by_the_next() {
    let scene = Scene::new(&QUICK).await;
    scene.set("b", Fault::Down);
    let backup = scene.backup().await;
    scene.set("b", Fault::None);
    let job = scene.repair().await;
    assert_eq!(job.status, "completed");
    assert!(scene.place("b").holds(&key(&backup)));
    // Stored, but never written down, and the backup's row went meanwhile.
    for sql in [
        "DELETE FROM control_plane.backups",
        "UPDATE control_plane.jobs SET status = 'in_progress', finished_at = NULL, result = NULL, attempts = 1, \
         lease_token = gen_random_uuid(), lease_expires_at = now() - interval '1 second' WHERE type = 'repair_copies'",
    ] {
        scene.test.app.pool.execute(sql).await.unwrap();
    }
    let job = scene.repair().await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    assert_eq!(scene.place("b").memory.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bad_source_is_found_out_before_anything_is_published_and_the_next_one_is_used() {
    for altered in [true, false] {
        let scene = Scene::new(&[("a", Pace::Streamed), ("b", Pace::Streamed), ("c", Pace::Streamed)]).await;
        scene.set("c", Fault::Down);
        let backup = scene.backup().await;
        let good = scene.place("a").memory.peek(&key(&backup)).unwrap();
        let mut bytes = good.to_vec();
        if altered {
            bytes[good.len() - 1] ^= 1;
        } else {
            bytes.truncate(good.len() / 2);
        }
        scene.place("a").memory.tamper(&key(&backup), bytes.into());
        scene.set("c", Fault::None);
        let first = scene.repairs().await.pop().unwrap();
        let job = scene.test.run(first.job_id()).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        assert_eq!(scene.place("c").memory.peek(&key(&backup)).unwrap(), good);
        // And the one that was found out is made good in its turn.
        let follow_up = scene.repair().await;
        assert_ne!(follow_up.id, first.id);
        assert_eq!(follow_up.status, "completed", "{:?}", follow_up.error_message);
        assert_eq!(scene.place("a").memory.peek(&key(&backup)).unwrap(), good);
        assert!(scene.look(&backup).await.is_complete());
    }
}

#[tokio::test]
async fn a_damaged_copy_is_not_removed_while_no_good_one_can_be_read() {
    let scene = Scene::new(&QUICK).await;
    let backup = scene.backup().await;
    let (half, other) = (Bytes::from_static(b"half of it"), Bytes::from_static(b"also bad"));
    scene.place("a").memory.tamper(&key(&backup), half.clone());
    let job = scene.verify(&backup, Depth::Head).await;
    assert_eq!(job.status, "completed");
    scene.place("b").memory.tamper(&key(&backup), other.clone());
    // Whatever was repaired meanwhile is bad again.
    scene.place("a").memory.tamper(&key(&backup), half.clone());
    scene
        .test
        .app
        .pool
        .execute("UPDATE control_plane.backup_copies SET status = 'damaged' WHERE storage = 'a'")
        .await
        .unwrap();
    scene.test.app.pool.execute("DELETE FROM control_plane.jobs WHERE type = 'repair_copies'").await.unwrap();
    repair_copies::enqueue_due(&scene.test.app).await.unwrap();
    let job = scene.repair().await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{:?}", job.error_message);
    assert_eq!(scene.place("a").memory.peek(&key(&backup)), Some(half), "it may be the best that is left");
    assert_eq!(scene.place("b").memory.peek(&key(&backup)), Some(other));
    assert_eq!(scene.look(&backup).await.status, "damaged");
}

/// Puts the backup's job back to the moment in which its worker was lost after the last byte, with so many attempts made.
async fn lose_the_end(scene: &Scene, attempts: i32) -> holdfast::ids::JobId {
    let pool = &scene.test.app.pool;
    for sql in [
        "DELETE FROM control_plane.backup_copies",
        "UPDATE control_plane.backups SET status = 'in_progress', manifest = NULL",
        "DELETE FROM control_plane.jobs WHERE type = 'repair_copies'",
    ] {
        pool.execute(sql).await.unwrap();
    }
    let id: uuid::Uuid = sqlx::query_scalar(
        "UPDATE control_plane.jobs SET status = 'in_progress', attempts = $1, finished_at = NULL, result = NULL,
             lease_token = gen_random_uuid(), lease_expires_at = now() - interval '1 second'
         WHERE type = 'export_backup' RETURNING id",
    )
    .bind(attempts)
    .fetch_one(pool)
    .await
    .unwrap();
    id.into()
}

#[tokio::test]
async fn what_an_earlier_attempt_stored_is_not_removed_because_it_cannot_be_read_now() {
    let scene = Scene::new(&QUICK).await;
    let backup = scene.backup().await;
    let job = lose_the_end(&scene, 1).await;
    let (bytes, uploads) = (scene.place("a").memory.peek(&key(&backup)), scene.place("a").created());
    scene.set("a", Fault::BreakRead(0, holdfast::storage::ErrorKind::Unavailable));
    let job = scene.test.run(job).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 2), "{:?}", job.error_message);
    assert_eq!(scene.look(&backup).await.sha256, backup.sha256, "taken over from the other");
    assert_eq!(scene.place("a").memory.peek(&key(&backup)), bytes, "it lies where it lay");
    scene.set("a", Fault::None);
    let repair = scene.repair().await;
    assert_eq!(repair.status, "completed", "{:?}", repair.error_message);
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]));
    assert_eq!(scene.place("a").created(), uploads, "and is taken over, not stored again");
}

#[tokio::test]
async fn a_backup_whose_last_worker_was_lost_after_the_last_byte_is_completed_and_not_cleared_away() {
    let scene = Scene::new(&QUICK).await;
    let backup = scene.backup().await;
    let job = lose_the_end(&scene, scene.test.app.config.worker.max_attempts).await;
    let job = scene.test.run(job).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let now = scene.look(&backup).await;
    assert!(now.is_complete() && now.sha256 == backup.sha256);
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]));
    assert!(scene.place("a").holds(&key(&backup)) && scene.place("b").holds(&key(&backup)));
}
