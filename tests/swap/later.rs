//! What comes to be while a restore is under way, or after it: references from outside, and servers that are gone.

use holdfast::{
    artifact::Format,
    history,
    ids::{BackupId, JobId, RestoreId},
    jobs::drop_replaced,
    manifest::DumpScope,
    postgres::connect::ConnectInfo,
    restore::{Engine, Place, Plan, Recovery},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{TENANT, run};
use crate::{
    restore_engine::scene::{HOUR, Scene, good, load},
    support::{
        self,
        app::{TestApp, export},
    },
};

#[tokio::test]
async fn references_from_outside_that_are_made_during_the_load_refuse_the_restore_or_are_told_and_after_it_an_undo_tells_them()
 {
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

    // Where they are allowed, each is told once: by the step that found it.
    scene
        .sql(
            "CREATE VIEW platform.early AS SELECT * FROM tenant_acme.states;
             CREATE FUNCTION platform.of(tenant_acme.states) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        )
        .await;
    for one_transaction in [true, false] {
        let engine = Engine { one_transaction, allow_detached_references: true, ..scene.engine.clone() };
        let plan = engine.plan_schema(RestoreId::generate(), "tenant_acme").await.unwrap();
        let mut session = engine.open(&plan).await.unwrap();
        let told = session.prepare(&proof, HOUR).await.unwrap().join("\n");
        assert!(told.contains("platform.early") && told.contains("platform.of"), "{told}");
        session.load(&load(Format::Sql, good(&bytes))).await.unwrap();
        let aside = format!("hf_before_{}", plan.id.short());
        let live = if one_transaction { "tenant_acme" } else { aside.as_str() };
        scene.sql(&format!("CREATE VIEW platform.late AS SELECT * FROM {live}.states")).await;
        let finished = session.finish(&proof, &never).await.unwrap();
        let told = finished.warnings.join("\n");
        assert!(told.contains("platform.late") && told.contains("refers to the replaced schema"), "{told}");
        assert!(!told.contains("platform.early") && !told.contains("platform.of"), "{told}");
        let (name, oid) = session.undo(finished.schema_oid).await.unwrap().kept.unwrap();
        scene.sql("DROP VIEW platform.late").await;
        assert!(session.drop_side(&name, oid).await.unwrap());
        session.close().await;
    }
    scene.sql("DROP VIEW platform.early; DROP FUNCTION platform.of").await;

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
async fn what_a_trial_left_on_a_server_that_is_gone_keeps_nobody_from_being_backed_up_restored_or_tidied_up_after() {
    let test = TestApp::with(|config| config.worker.max_attempts = 1).await;
    let mut c = test.tenants().await;
    run(&mut c, TENANT).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    let gone: ConnectInfo = "postgres://nobody@127.0.0.1:1/gone".parse().unwrap();
    let sealed = test.app.keys.seal_database("gone", &gone).unwrap();
    holdfast::catalog::add_database(&test.app.pool, "gone", &sealed, "gone").await.unwrap();
    let of_job = JobId(backup.job_id.unwrap());
    let mut waiting = Vec::new();
    // And in a database of the tenant's own server that somebody has dropped.
    for (server, database) in [(Some("gone".to_owned()), None), (None, Some("dropped".to_owned()))] {
        let id = RestoreId::generate();
        let place = Place { server, database };
        let plan = Plan { place, ..Plan::database(id, Some(format!("hf_trial_{}", id.short()))) };
        let plan = serde_json::to_value(&plan).unwrap();
        history::insert_restore(&test.app.pool, id, of_job, BackupId(backup.id), "acme", &plan).await.unwrap();
        waiting.push(id.0);
    }

    run(&mut c, "UPDATE tenant_acme.states SET state = 2").await;
    let backup = test.backup(export("acme")).await;
    run(&mut c, "DELETE FROM tenant_acme.more").await;
    let job = test.restore(&backup).await;
    assert_eq!(job.result.as_ref().map(|r| r["outcome"].clone()), Some("verified".into()), "{:?}", job.error_message);
    // What that restore has replaced is dropped when its time is over; who tidies up after the others says that they cannot be reached.
    run(&mut c, "UPDATE control_plane.restores SET undo_until = now() - interval '1 second'").await;
    drop_replaced::enqueue_due(&test.app).await.unwrap();
    let tidying: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT id, (payload #>> '{request,restore_id}')::uuid FROM control_plane.jobs WHERE type = 'drop_replaced'",
    )
    .fetch_all(&test.app.pool)
    .await
    .unwrap();
    assert_eq!(tidying.len(), 3);
    for (job, restore) in tidying {
        let tidied = test.run(job.into()).await;
        if waiting.contains(&restore) {
            assert_eq!(tidied.status, "failed", "{:?}", tidied.result);
        } else {
            assert_eq!(tidied.status, "completed", "{:?}", tidied.error_message);
            assert!(tidied.result.unwrap()["dropped"].as_str().unwrap().starts_with("hf_before_"));
        }
    }
    let states: Vec<String> = sqlx::query_scalar("SELECT state FROM control_plane.restores WHERE id = ANY ($1)")
        .bind(&waiting)
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(states, ["running", "running"], "they wait for their databases");
    let told: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.project_logs WHERE message LIKE '%what an earlier job left on another server%'",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert!(told >= 6, "backup and restore tell of both, and who tidies up of those that are not his: {told}");
}
