//! What others make under the names of a restore whose worker was lost is not taken for the restore's.

use holdfast::{
    artifact::Format,
    ids::RestoreId,
    jobs::request,
    manifest::DumpScope,
    restore::{Beside, Plan, Recovery, Target},
};
use tokio_util::sync::CancellationToken;

use super::{TENANT, run};
use crate::{
    restore_engine::scene::{NONE, SCHEMA, Scene, good},
    support::app::{TestApp, caller, export},
};

#[tokio::test]
async fn a_schema_or_database_of_the_same_name_is_no_finished_restore() {
    let scene = Scene::new().await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    let never = CancellationToken::new();
    let put_right = async |plan: &Plan| {
        let mut session = scene.engine.open(plan).await.unwrap();
        let recovery = session.roll_back().await.unwrap();
        let restored = session.restored_oid().await.unwrap();
        session.close().await;
        (recovery, restored)
    };

    // The worker is lost before it has touched anything, and somebody makes what the restore was to make.
    let beside = Beside { schema: "copy".to_owned(), tables: None };
    let plan = scene.engine.plan_beside(RestoreId::generate(), SCHEMA, beside.clone()).await.unwrap();
    scene.sql("CREATE SCHEMA copy; CREATE TABLE copy.theirs (a int)").await;
    assert_eq!(put_right(&plan).await.0, Recovery::Nothing);
    scene.sql("DROP TABLE copy.theirs; DROP SCHEMA copy").await;
    let plan = scene.engine.plan_database(RestoreId::generate(), None).await.unwrap();
    let Target::Database { database } = &plan.target else { unreachable!() };
    scene.sql(&format!("CREATE DATABASE {database} TEMPLATE template0")).await;
    assert_eq!(put_right(&plan).await.0, Recovery::Nothing);
    scene.sql(&format!("DROP DATABASE {database}")).await;

    // It is lost after the end: what it made stands, until somebody puts something else there.
    let plan = scene.engine.plan_beside(RestoreId::generate(), SCHEMA, beside).await.unwrap();
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    loaded.unwrap();
    let plan = session.plan().clone();
    let finished = session.finish(&proof, &never).await.unwrap();
    session.close().await;
    assert_eq!(put_right(&plan).await, (Recovery::Finished, finished.schema_oid));
    scene.sql("DROP SCHEMA copy CASCADE; CREATE SCHEMA copy").await;
    assert_eq!(put_right(&plan).await.0, Recovery::Nothing);
    scene.sql("DROP SCHEMA copy").await;

    // Whether functions name the old name cannot be found out any more: told, when all else was done and compared.
    let whole = DumpScope::Database { database: scene.name.clone() };
    let (bytes, proof) = scene.dump_scope(whole, Format::Sql).await;
    let plan = scene.engine.plan_database(RestoreId::generate(), None).await.unwrap();
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    loaded.unwrap();
    assert_eq!(session.finish(&proof, &never).await.unwrap().differences, NONE);
    assert_eq!(session.roll_back().await.unwrap(), Recovery::Finished);
    let Target::Database { database } = &plan.target else { unreachable!() };
    scene.sql(&format!("DROP DATABASE {database}")).await;
    assert_eq!(session.roll_back().await.unwrap(), Recovery::Nothing);
    session.close().await;
    let plan = Plan { schema_becomes: Some("another".to_owned()), ..plan };
    let mut session = scene.engine.open(&plan).await.unwrap();
    let told = session.bodies_that_name_another().await;
    assert!(told.len() == 1 && told[0].contains("is not known"), "{told:?}");
    session.close().await;
    scene.clean().await;
}

/// The last attempt's worker was lost between the swap and its writing down.
#[tokio::test]
async fn an_undo_leaves_alone_what_has_replaced_a_restore_whose_end_was_lost() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    run(&mut c, TENANT).await;
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    let job = test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    let restored: Option<i64> =
        sqlx::query_scalar("SELECT restored_oid FROM control_plane.restores").fetch_one(&mut c).await.unwrap();
    assert!(restored.is_some());
    run(
        &mut c,
        "UPDATE control_plane.restores SET state = 'running', outcome = NULL, differences = '[]', kept_schema = NULL, kept_oid = NULL, \
             restored_oid = NULL, undo_until = NULL;
         UPDATE control_plane.jobs SET status = 'pending', attempts = max_attempts, result = NULL, finished_at = NULL \
             WHERE type = 'restore_backup';
         DROP SCHEMA tenant_acme CASCADE; CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.theirs (a int)",
    )
    .await;
    let ended = test.run(job.job_id()).await;
    assert_eq!(ended.status, "completed", "{:?}", ended.error_message);
    assert!(ended.result.unwrap()["differences"].to_string().contains("lost"));
    let written: Option<i64> =
        sqlx::query_scalar("SELECT restored_oid FROM control_plane.restores").fetch_one(&mut c).await.unwrap();
    assert_eq!(written, restored, "what the restore had made, not what has its name now");
    let undo = request::undo(&test.app, &caller(), job.job_id(), None).await.unwrap();
    let undone = test.run(undo.job_id()).await;
    assert_eq!(undone.status, "failed", "{:?}", undone.result);
    assert!(undone.error_message.unwrap().contains("is not the one"));
    let theirs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'tenant_acme' AND tablename = 'theirs'")
            .fetch_one(&mut c)
            .await
            .unwrap();
    assert_eq!(theirs, 1);
}
