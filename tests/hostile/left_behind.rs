//! What a dump can leave in a database that was made for it, to keep it there or its rows out of reach.

use holdfast::{
    artifact::Format,
    ids::RestoreId,
    manifest::DumpScope,
    restore::{Engine, Plan, Recovery, Session, Target},
};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::with;
use crate::{
    faults::cluster::Cluster,
    restore_engine::scene::{HOUR, Scene, good, load, run},
};

async fn left(c: &mut sqlx::PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT 'transaction ' || gid FROM pg_prepared_xacts UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname ~ '^hf_' \
         UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^hf_'",
    )
    .fetch_all(c)
    .await
    .unwrap()
}

#[tokio::test]
async fn nothing_that_a_dump_prepares_or_says_of_a_new_database_keeps_it_there() {
    let cluster = Cluster::start().await;
    let mut c = cluster.info.connect().await.unwrap();
    for sql in [
        "ALTER SYSTEM SET max_prepared_transactions = 10",
        "CREATE DATABASE app TEMPLATE template0",
        "CREATE ROLE administrator LOGIN CREATEROLE CREATEDB PASSWORD 'known'",
        "CHECKPOINT",
    ] {
        run(&mut c, sql).await;
    }
    drop(c);
    cluster.crash().await;
    let mut c = cluster.info.connect().await.unwrap();
    let scene = Scene::over(cluster.info.with_database("app"), "app".to_owned()).await;
    scene.sql("CREATE SCHEMA shop; CREATE TABLE shop.orders AS SELECT generate_series(1, 10) AS n").await;
    let (bytes, proof) = scene.dump_scope(DumpScope::Database { database: "app".to_owned() }, Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    let weaker = scene.admin.with_user("administrator", SecretString::from("known"));
    let weaker = Engine { admin: weaker, ..scene.engine.clone() };
    let loaded = async |engine: &Engine, hostile: &str| -> (Session, Plan) {
        let plan = engine.plan_database(RestoreId::generate(), None).await.unwrap();
        let Target::Database { database } = &plan.target else { unreachable!() };
        let mut session = engine.open(&plan).await.unwrap();
        session.prepare(&proof, HOUR).await.unwrap();
        let content = with(&text, &hostile.replace("DATABASE_", database));
        session.load(&load(Format::Sql, good(&content))).await.unwrap();
        (session, plan)
    };

    const PREPARED: &str = "COMMIT; BEGIN; LOCK TABLE shop.orders IN ACCESS EXCLUSIVE MODE; DELETE FROM shop.orders; \
                            PREPARE TRANSACTION 'left'; BEGIN;";
    let everything = format!(
        "ALTER DATABASE DATABASE_ IS_TEMPLATE true; ALTER DATABASE DATABASE_ CONNECTION LIMIT 0; \
         ALTER DATABASE DATABASE_ SET statement_timeout = 1; ALTER DATABASE DATABASE_ SET search_path = shop; {PREPARED}"
    );
    for engine in [&scene.engine, &weaker] {
        for hostile in [PREPARED, everything.as_str()] {
            let (mut session, plan) = loaded(engine, hostile).await;
            // By the worker that made it, and by one that has the plan alone.
            if hostile == PREPARED {
                drop(session);
                session = engine.open(&plan).await.unwrap();
            }
            assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack, "{hostile}");
            session.close().await;
            assert_eq!(left(&mut c).await, Vec::<String>::new(), "{hostile}");
        }
    }

    // What is said of one that is finished: neither settings for whoever connects, nor rights, nor limits.
    run(&mut c, "CREATE ROLE stranger").await;
    let said = format!("{everything} GRANT ALL ON DATABASE DATABASE_ TO stranger;");
    let (mut session, plan) = loaded(&scene.engine, &said).await;
    session.finish(&proof, &CancellationToken::new()).await.unwrap();
    session.close().await;
    let Target::Database { database } = &plan.target else { unreachable!() };
    let (settings, rights, is_plain): (i64, bool, bool) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid), has_database_privilege('stranger', d.oid, 'CREATE'), \
                NOT d.datistemplate AND d.datallowconn AND d.datconnlimit = -1 AND has_database_privilege('stranger', d.oid, 'CONNECT') \
         FROM pg_database d WHERE d.datname = $1",
    )
    .bind(database)
    .fetch_one(&mut c)
    .await
    .unwrap();
    assert_eq!((settings, rights, is_plain), (0, false, true));
    run(&mut c, &format!("DROP DATABASE {database}")).await;
    run(&mut c, "DROP ROLE stranger").await;

    // One that is finished has no lock of the dump's in its way.
    let (mut session, plan) = loaded(&scene.engine, PREPARED).await;
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.differences, Vec::<String>::new());
    session.close().await;
    let Target::Database { database } = &plan.target else { unreachable!() };
    assert_eq!(left(&mut c).await, [format!("database {database}")]);
}
