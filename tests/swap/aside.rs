//! Restores for which the server's lock table has no room: what is done in several transactions is reached by nobody before the last.

use std::time::Duration;

use holdfast::{artifact::Format, postgres::quote, restore::Engine};
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use super::run;
use crate::restore_engine::scene::{NONE, SCHEMA, Scene, good, load};

#[tokio::test]
async fn owners_that_are_given_back_in_parts_find_nothing_under_the_live_name_before_all_is_compared() {
    let scene = Scene::new().await;
    let (tenant, owner) = (quote::ident(SCHEMA), format!("{}_owner", scene.name));
    let table =
        |name: String| format!("CREATE TABLE {tenant}.{name} (n int); ALTER TABLE {tenant}.{name} OWNER TO {owner}");
    let many: Vec<String> = (1..=520).map(|i| table(format!("many_{i}"))).collect();
    scene.sql(&many.join(";")).await;
    scene.sql(&table("zz_last".to_owned())).await;
    // Where code of other schemas is called, whose owners nobody recorded, no other body passes.
    scene
        .sql(&format!(
            "DROP FUNCTION {tenant}.calls_twin(); CREATE FUNCTION {tenant}.asks() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END"
        ))
        .await;
    let before = scene.text(Some(SCHEMA)).await;
    let (bytes, mut proof) = scene.dump(Format::Sql).await;
    // A body of which the record does not tell enough: it passes, because definitions are compared, and must not bring all owners back at once.
    let asks = proof.ownership.iter_mut().find(|o| o.identity.contains(".asks()")).unwrap();
    asks.code = Some("0".repeat(32));
    let engine = Engine { one_transaction: false, ..scene.engine.clone() };
    let plan = scene.plan().await;
    let mut session = engine.open(&plan).await.unwrap();
    session.prepare(&proof, 3600).await.unwrap();
    session.load(&load(Format::Sql, good(&bytes))).await.unwrap();

    let made = i64::from(session_made(&mut scene.admin.connect().await.unwrap(), &plan.role).await);
    // The last table of the last part is held, so that the parts before it are done and the end is not.
    let mut holder = scene.admin.connect().await.unwrap();
    let mut held = holder.begin().await.unwrap();
    run(&mut held, &format!("LOCK TABLE {tenant}.zz_last IN ACCESS SHARE MODE")).await;
    let looked = async {
        let mut c = scene.admin.connect().await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let given = "SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 'many_1' AND relowner = $1::text::regrole \
                     AND relnamespace = $2::int8::oid";
        while sqlx::query_scalar::<_, i64>(given).bind(&owner).bind(made).fetch_one(&mut c).await.unwrap() == 0 {
            assert!(tokio::time::Instant::now() < deadline, "no owner is given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let live: (i64, i64) = sqlx::query_as(
            "SELECT n.oid::int8, (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid) \
             FROM pg_catalog.pg_namespace n WHERE n.nspname = $1",
        )
        .bind(SCHEMA)
        .fetch_one(&mut c)
        .await
        .expect("the live name is kept");
        assert!(live.0 != made && live.1 == 0, "what is not compared yet has the live name: {live:?}");
        run(&mut c, &format!("SET ROLE {owner}")).await;
        let waiting = quote::qualified(&plan.new_name(), "many_1");
        let refused = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT FROM {waiting}"))).fetch_all(&mut c).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("permission denied for schema"), "{refused}");
        held.rollback().await.unwrap();
    };
    let never = CancellationToken::new();
    let (finished, ()) = tokio::join!(session.finish(&proof, &never), looked);
    assert_eq!(finished.unwrap().differences, NONE);
    assert!(scene.text(Some(SCHEMA)).await == before, "everything has come back");
    session.close().await;
    scene.clean().await;
}

/// The oid of the schema that belongs to this role.
async fn session_made(c: &mut sqlx::PgConnection, role: &str) -> u32 {
    let oid: i64 =
        sqlx::query_scalar("SELECT oid::int8 FROM pg_catalog.pg_namespace WHERE nspowner = $1::text::regrole")
            .bind(role)
            .fetch_one(c)
            .await
            .unwrap();
    u32::try_from(oid).unwrap()
}
