//! What comes to be while a restore is under way, or after it: references from outside, and servers that are gone.

use holdfast::{
    artifact::Format,
    history,
    ids::{BackupId, JobId, RestoreId},
    manifest::DumpScope,
    postgres::connect::ConnectInfo,
    restore::{Engine, Place, Plan, Recovery},
};
use tokio_util::sync::CancellationToken;

use super::{TENANT, run};
use crate::{
    restore_engine::scene::{HOUR, Scene, good, load},
    support::{
        self,
        app::{TestApp, export},
    },
};

#[tokio::test]
async fn references_from_outside_that_are_made_during_the_load_refuse_the_restore_and_after_it_an_undo_tells_them() {
    let scene = Scene::over(support::fresh_database("later").await, "later".to_owned()).await;
    scene.sql(TENANT).await;
    scene.sql("CREATE SCHEMA platform").await;
    let (bytes, proof) = scene.dump_scope(DumpScope::Schema { schema: "tenant_acme".to_owned() }, Format::Sql).await;
    let before = scene.text(Some("tenant_acme")).await;
    let never = CancellationToken::new();
    for one_transaction in [true, false] {
        let engine = Engine { one_transaction, ..scene.engine.clone() };
        let plan = engine.plan_schema(RestoreId::generate(), "tenant_acme").await.unwrap();
        let mut session = engine.open(&plan).await.unwrap();
        session.prepare(&proof, HOUR).await.unwrap();
        session.load(&load(Format::Sql, good(&bytes))).await.unwrap();
        let aside = format!("hf_before_{}", plan.id.short());
        let live = if one_transaction { "tenant_acme" } else { aside.as_str() };
        scene.sql(&format!("CREATE VIEW platform.late AS SELECT * FROM {live}.states")).await;
        let refused = session.finish(&proof, &never).await.unwrap_err();
        assert_eq!(refused.code, "restore.referenced_from_outside", "{refused}");
        assert!(refused.message.contains("platform.late"), "{refused}");
        assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
        session.close().await;
        // While it is there, pg_dump writes the same in another order.
        scene.sql("DROP VIEW platform.late").await;
        assert!(scene.text(Some("tenant_acme")).await == before, "everything is as it was");
    }

    let plan = scene.engine.plan_schema(RestoreId::generate(), "tenant_acme").await.unwrap();
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    loaded.unwrap();
    let finished = session.finish(&proof, &never).await.unwrap();
    scene.sql("CREATE VIEW platform.later AS SELECT * FROM tenant_acme.states").await;
    let undone = session.undo(finished.schema_oid).await.unwrap();
    assert!(undone.kept.is_some());
    assert!(undone.detached.iter().any(|what| what.contains("platform.later")), "{:?}", undone.detached);
    assert!(session.undo(finished.schema_oid).await.unwrap().detached.is_empty(), "it was undone before");
    session.close().await;
}

#[tokio::test]
async fn what_a_trial_left_on_a_server_that_is_gone_keeps_nobody_from_being_backed_up_or_restored() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    run(&mut c, TENANT).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    let gone: ConnectInfo = "postgres://nobody@127.0.0.1:1/gone".parse().unwrap();
    let sealed = test.app.keys.seal_database("gone", &gone).unwrap();
    holdfast::catalog::add_database(&test.app.pool, "gone", &sealed, "gone").await.unwrap();
    let id = RestoreId::generate();
    let place = Place { server: Some("gone".to_owned()), database: None };
    let plan = Plan { place, ..Plan::database(id, Some(format!("hf_trial_{}", id.short()))) };
    let (plan, of_job) = (serde_json::to_value(&plan).unwrap(), JobId(backup.job_id.unwrap()));
    history::insert_restore(&test.app.pool, id, of_job, BackupId(backup.id), "acme", &plan).await.unwrap();

    run(&mut c, "UPDATE tenant_acme.states SET state = 2").await;
    let backup = test.backup(export("acme")).await;
    run(&mut c, "DELETE FROM tenant_acme.more").await;
    let job = test.restore(&backup).await;
    assert_eq!(job.result.as_ref().map(|r| r["outcome"].clone()), Some("verified".into()), "{:?}", job.error_message);
    let state: String = sqlx::query_scalar("SELECT state FROM control_plane.restores WHERE id = $1")
        .bind(id.0)
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(state, "running", "it waits for its server");
    let told: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.project_logs WHERE message LIKE '%what an earlier job left on another server%'",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert!(told >= 2, "backup and restore tell of it: {told}");
}
