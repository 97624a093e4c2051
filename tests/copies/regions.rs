//! Copies in two regions: S3 storages at two endpoints, one of which is down during the backup.

use holdfast::config::{S3StorageConfig, StorageConfig};

use super::{
    s3_server::{BUCKET, S3Server},
    scene::{Scene, key, rows},
    support::app::TestApp,
};

#[tokio::test]
async fn a_region_that_is_down_during_the_backup_gets_its_copy_and_serves_the_restore_when_the_other_is_altered() {
    let (near, mut far) = (S3Server::start().await, S3Server::start().await);
    let test = TestApp::with(|config| {
        let storage = |server: &S3Server, region: &str| {
            StorageConfig::S3(Box::new(S3StorageConfig {
                region: Some(region.to_owned()),
                timeout_seconds: 2,
                ..server.config()
            }))
        };
        config.storages =
            [("near".to_owned(), storage(&near, "eu-central-1")), ("other".to_owned(), storage(&far, "us-east-2"))]
                .into();
        config.worker.shutdown_seconds = 0;
    })
    .await;
    let scene = Scene::of(test, Vec::new()).await;
    far.down().await;
    let backup = scene.backup().await;
    assert_eq!(scene.statuses(&backup).await, rows(&[("near", "good"), ("other", "failed")]));
    assert_eq!((backup.copies_missing, backup.is_complete()), (1, false));
    assert_eq!((backup.s3_region.as_deref(), backup.s3_bucket.as_deref()), (Some("eu-central-1"), Some(BUCKET)));
    assert!(backup.s3_url.as_ref().unwrap().starts_with(&near.endpoint()), "{:?}", backup.s3_url);
    assert!(
        backup.message.as_ref().unwrap().starts_with("stored, but not everywhere: other: "),
        "{:?}",
        backup.message
    );

    far.up().await;
    let job = scene.repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(scene.statuses(&backup).await, rows(&[("near", "good"), ("other", "good")]));
    assert!(scene.look(&backup).await.is_complete());
    let key = key(&backup);
    let file = |server: &S3Server| server.root.path().join(BUCKET).join(key.as_str());
    let good = std::fs::read(file(&near)).unwrap();
    assert_eq!(std::fs::read(file(&far)).unwrap(), good);
    assert_eq!(far.objects(), [key.to_string(), key.manifest().to_string()]);
    assert_eq!((near.uploads(), far.uploads()), (0, 0), "no upload is left open");

    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    std::fs::write(file(&near), altered).unwrap();
    let job = scene.test.restore(&backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{:?}", job.error_message);
    assert_eq!(job.result.unwrap()["outcome"], "verified");
    assert!(scene.events(&backup).await.contains(&"copy_damaged".to_owned()));
    let job = scene.repair().await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(std::fs::read(file(&near)).unwrap(), good, "made good from the other region");
}
