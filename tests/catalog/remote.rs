//! A control plane that was lost comes back from what is far away: from a bucket alone, and from a Telegram chat alone.

use std::sync::Arc;

use holdfast::{
    config::StorageConfig,
    demo::sample,
    history,
    ids::JobId,
    jobs::request::{self, Depth, VerifyRequest},
};

use super::{copies, numbers, pairs, rebuild};
use crate::{
    support::{
        app::{TestApp, caller, everything, export},
        row_digests,
        s3_server::S3Server,
        telegram_stand_in::StandIn,
    },
    telegram_jobs::channel,
};

/// A control plane with these storages and no others.
async fn keeping(storages: impl IntoIterator<Item = (&'static str, StorageConfig)>) -> TestApp {
    let named = |(name, storage): (&str, StorageConfig)| (name.to_owned(), storage);
    TestApp::with(|config| config.storages = storages.into_iter().map(named).collect()).await
}

#[tokio::test]
async fn a_lost_control_plane_comes_back_from_a_bucket_alone_and_from_a_chat_alone() {
    let (server, bot_api) = (S3Server::start().await, StandIn::start().await);
    let bucket = ("bucket", StorageConfig::S3(Box::new(server.config())));
    let chat = ("channel", StorageConfig::Telegram(Box::new(channel(&bot_api))));
    let lost = keeping([bucket.clone(), chat.clone()]).await;
    let mut tenants = lost.tenants().await;
    sample::create_tenant(&mut tenants, "tenant_acme", 1).await.unwrap();
    lost.add_schema_project("acme", "tenant_acme").await;
    let rows = row_digests(&mut tenants, "tenant_acme").await;
    let taken = lost.backup(export("acme")).await;
    // No dump waits for a chat: its copy is made from the bucket's.
    let repair: uuid::Uuid = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE type = 'repair_copies'")
        .fetch_one(&lost.app.pool)
        .await
        .unwrap();
    let job = lost.run(JobId(repair)).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(copies(&lost, &taken).await, pairs(&[("bucket", "good"), ("channel", "good")]));
    // Nothing of it is left but its keys.
    let keys = Arc::clone(&lost.app.keys);
    drop((lost, tenants));

    for (name, storage) in [bucket, chat] {
        let mut test = keeping([(name, storage)]).await;
        test.app.keys = Arc::clone(&keys);
        let report = rebuild(&test, &[name]).await.remove(0);
        assert_eq!(numbers(&report), (1, 1, 1, 1, 0, 0, 0), "{report:?}");
        let found = history::get(&test.app.pool, &everything(), taken.backup_id()).await.unwrap();
        assert_eq!(
            (&found.status, &found.sha256, &found.manifest, found.expires_at),
            (&taken.status, &taken.sha256, &taken.manifest, taken.expires_at),
            "{name}"
        );
        assert_eq!(copies(&test, &found).await, pairs(&[(name, "good")]));

        let verify = VerifyRequest { backup_id: found.backup_id(), depth: Depth::Read };
        let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
        let job = test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{name}: {:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified", "{name}");

        // Nothing is there to be replaced: the schema is made.
        let job = test.restore(&found).await;
        assert_eq!(job.status, "completed", "{name}: {:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified", "{name}");
        assert_eq!(row_digests(&mut test.tenants().await, "tenant_acme").await, rows, "{name}");
    }
}
