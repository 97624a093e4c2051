//! Which copy is read, and what becomes of one whose bytes are bad.

use bytes::Bytes;
use holdfast::{
    demo::compare,
    history::{self, CopyStatus},
    jobs::request::Depth,
    storage::ErrorKind,
};

use super::{
    faulty_storage::Fault,
    scene::{QUICK, Scene, key, rows},
};

#[tokio::test]
async fn a_restore_reads_the_next_copy_when_bytes_are_bad_and_the_bad_one_is_made_good() {
    for what in ["altered", "cut", "longer", "gone"] {
        let scene = Scene::new(&QUICK).await;
        let backup = scene.backup().await;
        let key = key(&backup);
        let good = scene.place("a").memory.peek(&key).unwrap();
        let mut bytes = good.to_vec();
        match what {
            "altered" => bytes[good.len() / 2] ^= 1,
            "cut" => bytes.truncate(good.len() - 1),
            "longer" => bytes.extend_from_slice(b"\n-- more"),
            _ => {}
        }
        if what == "gone" {
            scene.place("a").faulty.inner.delete(&scene.copy(&backup, "a").await.locator().unwrap()).await.unwrap();
        } else {
            scene.place("a").memory.tamper(&key, Bytes::from(bytes));
        }
        // The repair that this asks for waits until it is looked at.
        scene.set("a", Fault::None);
        let job = scene.test.restore(&backup).await;
        assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{what}: {:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified", "{what}");
        let events = scene.events(&backup).await;
        assert!(events.contains(&"copy_damaged".to_owned()), "{what}: {events:?}");

        let repair = scene.repair().await;
        assert_eq!(repair.status, "completed", "{what}: {:?}", repair.error_message);
        assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]), "{what}");
        assert_eq!(scene.place("a").memory.peek(&key).unwrap(), good, "{what}");
        assert!(scene.place("a").holds(&key), "{what}");
        let now = scene.look(&backup).await;
        assert_eq!((now.status.as_str(), now.message), ("completed", None), "{what}");
    }
}

#[tokio::test]
async fn when_no_copy_is_good_the_backup_is_damaged_and_the_target_untouched() {
    let scene = Scene::new(&QUICK).await;
    let mut connection = scene.test.tenants().await;
    let backup = scene.backup().await;
    let before = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
    for place in &scene.places {
        place.memory.tamper(&key(&backup), Bytes::from_static(b"nothing of ours"));
    }
    let job = scene.test.restore(&backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{:?}", job.error_message);
    assert!(job.error_message.unwrap().contains("damaged"));
    let now = scene.look(&backup).await;
    assert_eq!((now.status.as_str(), now.copies_missing), ("damaged", 2));
    assert!(now.message.unwrap().starts_with("no good copy is left: a: "));
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "damaged"), ("b", "damaged")]));
    let restores: i64 = sqlx::query_scalar("SELECT count(*) FROM control_plane.restores")
        .fetch_one(&scene.test.app.pool)
        .await
        .unwrap();
    assert_eq!(restores, 0, "nothing was begun");
    let after = compare::snapshot(&mut connection, "tenant_acme").await.unwrap();
    assert_eq!(compare::diff(&before, &after), Vec::<String>::new());
}

#[tokio::test]
async fn a_storage_that_is_out_of_reach_is_passed_over_and_not_called_damaged() {
    let scene = Scene::new(&QUICK).await;
    let backup = scene.backup().await;
    for fault in [Fault::Down, Fault::NoRead, Fault::BreakRead(1, ErrorKind::Unavailable)] {
        scene.set("a", fault);
        let job = scene.test.restore(&backup).await;
        assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{fault:?}: {:?}", job.error_message);
        assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]), "{fault:?}");
    }
    for place in &scene.places {
        place.faulty.set(Fault::Down);
    }
    let job = scene.test.restore(&backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 3), "it may be back: {:?}", job.error_message);
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]));
    assert_eq!(scene.look(&backup).await.status, "completed");
}

#[tokio::test]
async fn a_verification_finds_the_bad_copy_and_has_it_made_good() {
    let scene = Scene::new(&QUICK).await;
    let backup = scene.backup().await;
    let good = scene.place("a").memory.peek(&key(&backup)).unwrap();
    for (depth, bytes) in [(Depth::Head, good.slice(1..)), (Depth::Read, Bytes::from(vec![7; good.len()]))] {
        scene.place("b").memory.tamper(&key(&backup), bytes);
        let job = scene.verify(&backup, depth).await;
        assert_eq!(job.status, "completed", "{depth}: {:?}", job.error_message);
        let copies = &job.result.unwrap()["copies"];
        assert_eq!((&copies[0]["good"], &copies[1]["good"]), (&true.into(), &false.into()), "{depth}");
        let repair = scene.repair().await;
        assert_eq!(repair.status, "completed", "{depth}: {:?}", repair.error_message);
        assert_eq!(scene.place("b").memory.peek(&key(&backup)).unwrap(), good, "{depth}");
        assert!(scene.look(&backup).await.is_complete(), "{depth}");
    }
    assert_eq!(scene.repairs().await.len(), 2, "one for each verification that found something");
}

#[tokio::test]
async fn a_size_that_agrees_does_not_clear_a_copy_that_is_known_to_be_damaged() {
    let scene = Scene::new(&QUICK[..1]).await;
    let backup = scene.backup().await;
    let good = scene.place("a").memory.peek(&key(&backup)).unwrap();
    scene.place("a").memory.tamper(&key(&backup), Bytes::from(vec![7; good.len()]));
    assert_eq!(scene.verify(&backup, Depth::Read).await.result.unwrap()["outcome"], "damaged");
    let job = scene.verify(&backup, Depth::Head).await;
    let result = job.result.unwrap();
    assert_eq!((&result["outcome"], &result["copies"][0]["good"]), (&"damaged".into(), &false.into()));
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "damaged")]));
    assert_eq!(scene.look(&backup).await.status, "damaged");
    // Its bytes do, when they are back.
    scene.place("a").memory.tamper(&key(&backup), good);
    assert_eq!(scene.verify(&backup, Depth::Read).await.result.unwrap()["outcome"], "verified");
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good")]));
}

#[tokio::test]
async fn a_verification_answers_with_what_it_could_read_after_its_last_attempt() {
    let scene = Scene::new(&QUICK).await;
    let backup = scene.backup().await;
    scene.set("a", Fault::Down);
    let job = scene.verify(&backup, Depth::Read).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 3), "{:?}", job.error_message);
    let result = job.result.unwrap();
    assert_eq!((&result["outcome"], &result["copies"][0]["good"]), (&"verified".into(), &serde_json::Value::Null));
    scene.set("b", Fault::Down);
    let job = scene.verify(&backup, Depth::Head).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 3));
    assert_eq!(scene.statuses(&backup).await, rows(&[("a", "good"), ("b", "good")]));
}

#[tokio::test]
async fn a_verdict_on_bytes_that_were_replaced_meanwhile_is_not_written() {
    let scene = Scene::new(&QUICK[..1]).await;
    let backup = scene.backup().await;
    let (pool, seen) = (&scene.test.app.pool, scene.copy(&backup, "a").await);
    // A repair has written the copy anew since it was looked at.
    let at = seen.locator().unwrap();
    history::put_copy(pool, backup.backup_id(), "a", Ok((&at, &at))).await.unwrap();
    assert!(!history::judge_copy(pool, &seen, CopyStatus::Damaged, Some("late")).await.unwrap());
    assert_eq!(scene.copy(&backup, "a").await.status, "good");
    let seen = scene.copy(&backup, "a").await;
    assert!(history::judge_copy(pool, &seen, CopyStatus::Damaged, Some("in time")).await.unwrap());
    assert_eq!(scene.copy(&backup, "a").await.status, "damaged");
}
