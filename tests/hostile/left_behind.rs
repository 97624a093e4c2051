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
        "CREATE ROLE helper LOGIN PASSWORD 'known'",
        "CREATE ROLE readers",
        "CREATE ROLE \"a reader\" IN ROLE readers",
        "REVOKE CONNECT ON DATABASE app FROM PUBLIC",
        "GRANT CONNECT ON DATABASE app TO administrator, \"a reader\"",
        "CHECKPOINT",
    ] {
        run(&mut c, sql).await;
    }
    drop(c);
    cluster.crash().await;
    let mut c = cluster.info.connect().await.unwrap();
    let scene = Scene::over(cluster.info.with_database("app"), "app".to_owned()).await;
    scene
        .sql(
            "CREATE SCHEMA shop; CREATE TABLE shop.orders AS SELECT generate_series(1, 10) AS n; \
             GRANT SELECT ON shop.orders TO readers",
        )
        .await;
    let (bytes, proof) = scene.dump_scope(DumpScope::Database { database: "app".to_owned() }, Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    let weaker = scene.admin.with_user("administrator", SecretString::from("known"));
    let weaker = Engine { admin: weaker, ..scene.engine.clone() };
    let loaded = async |engine: &Engine, hostile: &str| -> (Session, Plan) {
        let plan = engine.plan_database(RestoreId::generate(), None).await.unwrap();
        let Target::Database { database } = &plan.target else { unreachable!() };
        let mut session = engine.open(&plan).await.unwrap();
        session.prepare(&proof, HOUR).await.unwrap();
        let mut admin = cluster.info.connect().await.unwrap();
        let may_connect: bool = sqlx::query_scalar("SELECT has_database_privilege($1::name, 'app', 'CONNECT')")
            .bind(&plan.role)
            .fetch_one(&mut admin)
            .await
            .unwrap();
        assert!(!may_connect, "it has nothing to do there");
        if hostile.contains("SET ROLE helper") {
            run(&mut admin, &format!("GRANT helper TO {}", plan.role)).await;
        }
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

    // As another role, which a helper has lent.
    let theirs =
        PREPARED.replace("DELETE FROM shop.orders; ", "").replace("BEGIN; LOCK", "BEGIN; SET ROLE helper; LOCK");
    let theirs =
        format!("GRANT ALL ON SCHEMA shop TO helper; GRANT ALL ON shop.orders TO helper; {theirs} RESET ROLE;");
    let (mut session, _) = loaded(&scene.engine, &theirs).await;
    assert_eq!(left(&mut c).await.iter().filter(|what| *what == "transaction left").count(), 1);
    assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
    session.close().await;
    assert_eq!(left(&mut c).await, Vec::<String>::new());
    let (mut session, _) = loaded(&scene.engine, "SET ROLE helper; RESET ROLE;").await;
    let refused = session.finish(&proof, &CancellationToken::new()).await.unwrap_err();
    assert!(refused.code == "restore.outside" && refused.message.contains("helper"), "{refused}");
    assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
    session.close().await;

    // Whom the dump has let in is out before anything is compared, with all that he has not committed.
    let said = "GRANT ALL ON DATABASE DATABASE_ TO helper; GRANT ALL ON SCHEMA shop TO helper;";
    let (mut session, plan) = loaded(&scene.engine, said).await;
    let Target::Database { database } = &plan.target else { unreachable!() };
    let as_helper = cluster.info.with_database(database).with_user("helper", SecretString::from("known"));
    let mut helper = as_helper.connect().await.unwrap();
    run(&mut helper, "BEGIN; CREATE FUNCTION shop.late() RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.differences, Vec::<String>::new());
    // Whom the live one lets in by name, as it is closed to everybody, is told with the remedy; but nobody who has no part in what was restored.
    let remedy = format!("GRANT CONNECT ON DATABASE \"{database}\" TO \"a reader\"");
    assert!(finished.warnings.len() == 1 && finished.warnings[0].ends_with(&remedy), "{:?}", finished.warnings);
    session.close().await;
    sqlx::raw_sql("COMMIT").execute(&mut helper).await.unwrap_err();
    run(&mut c, &format!("DROP DATABASE {database}")).await;

    // What is said of one that is finished: neither settings for whoever connects, nor rights, nor limits. Everybody has the rights that he has to
    // the database of the URL.
    run(&mut c, "CREATE ROLE stranger").await;
    let said = format!("{everything} GRANT ALL ON DATABASE DATABASE_ TO stranger;");
    let (mut session, plan) = loaded(&scene.engine, &said).await;
    session.finish(&proof, &CancellationToken::new()).await.unwrap();
    session.close().await;
    let Target::Database { database } = &plan.target else { unreachable!() };
    let (settings, rights, is_plain): (i64, bool, bool) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid), has_database_privilege('stranger', d.oid, 'CREATE'), \
                NOT d.datistemplate AND d.datallowconn AND d.datconnlimit = -1 AND NOT has_database_privilege('stranger', d.oid, 'CONNECT') \
                AND has_database_privilege('stranger', d.oid, 'TEMPORARY') \
         FROM pg_database d WHERE d.datname = $1",
    )
    .bind(database)
    .fetch_one(&mut c)
    .await
    .unwrap();
    assert_eq!((settings, rights, is_plain), (0, false, true));
    run(&mut c, &format!("DROP DATABASE {database}")).await;
    run(&mut c, "DROP ROLE stranger").await;

    // Of a schema, the role is let into the one database that it goes to, and nothing of that is left.
    let rights = "SELECT datacl::text FROM pg_database WHERE datname = 'app'";
    let before: Option<String> = sqlx::query_scalar(rights).fetch_one(&mut c).await.unwrap();
    let (bytes, of_schema) = scene.dump_scope(DumpScope::Schema { schema: "shop".to_owned() }, Format::Sql).await;
    let plan = scene.engine.plan_schema(RestoreId::generate(), "shop").await.unwrap();
    let (mut session, restored) = scene.load(&plan, &of_schema, Format::Sql, good(&bytes)).await;
    restored.unwrap();
    assert_eq!(session.finish(&of_schema, &CancellationToken::new()).await.unwrap().differences, Vec::<String>::new());
    session.close().await;
    assert_eq!(sqlx::query_scalar::<_, Option<String>>(rights).fetch_one(&mut c).await.unwrap(), before);
    assert_eq!(left(&mut c).await, Vec::<String>::new());

    // One that is finished has no lock of the dump's in its way.
    let (mut session, plan) = loaded(&scene.engine, PREPARED).await;
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.differences, Vec::<String>::new());
    session.close().await;
    let Target::Database { database } = &plan.target else { unreachable!() };
    assert_eq!(left(&mut c).await, [format!("database {database}")]);
}
