//! A dump with a helper: whoever may grant a role can grant it to the restore's role from another session, and take it back again.

use holdfast::{
    artifact::Format,
    postgres::quote,
    restore::{Engine, Recovery},
};
use tokio_util::sync::CancellationToken;

use super::with;
use crate::restore_engine::scene::{HOUR, NONE, SCHEMA, Scene, good, load, run};

#[tokio::test]
async fn what_a_dump_gives_away_or_makes_as_another_role_is_refused_before_it_is_compared() {
    let scene = Scene::new().await;
    let before = scene.text(None).await;
    let (name, tenant) = (&scene.name, quote::ident(SCHEMA));
    scene.sql(&format!("GRANT {name}_app TO {name}_other WITH ADMIN OPTION")).await;
    let mut helper = scene.admin.connect().await.unwrap();
    run(&mut helper, &format!("SET SESSION AUTHORIZATION {name}_other")).await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    let begin = format!("GRANT ALL ON SCHEMA {tenant} TO {name}_app; SET ROLE {name}_app;");
    let end = format!("RESET ROLE; REVOKE ALL ON SCHEMA {tenant} FROM {name}_app;");
    // What is said at the dump's end, whether the helper takes his role back after it, and what the refusal names.
    let cases = [
        (String::new(), false, format!("{name}_app")),
        (format!("{begin} CREATE TABLE {tenant}.theirs (); {end}"), true, "theirs".to_owned()),
        (format!("{begin} CREATE VIEW {tenant}.theirs AS SELECT 1 AS one; {end}"), true, "theirs".to_owned()),
        (
            format!("{begin} ALTER DEFAULT PRIVILEGES IN SCHEMA {tenant} GRANT ALL ON TABLES TO PUBLIC; {end}"),
            true,
            "default acl".to_owned(),
        ),
        // What was recorded, too: it would come back to its owner, as its owner for now has left it.
        (
            format!(
                "GRANT ALL ON SCHEMA {tenant} TO {name}_app; ALTER VIEW {tenant}.\"Odd View\" OWNER TO {name}_app; {end}"
            ),
            true,
            "Odd View".to_owned(),
        ),
        (format!("GRANT USAGE ON SCHEMA {tenant} TO PUBLIC;"), true, "USAGE for PUBLIC".to_owned()),
        (format!("GRANT CREATE ON SCHEMA {tenant} TO {name}_app;"), true, format!("CREATE for {name}_app")),
        // Whoever stays in it does not come back.
        (begin.clone(), true, "permission denied".to_owned()),
    ];
    for one_transaction in [true, false] {
        let engine = Engine { one_transaction, ..scene.engine.clone() };
        for (hostile, takes_back, named) in &cases {
            let plan = engine.plan_schema(holdfast::ids::RestoreId::generate(), SCHEMA).await.unwrap();
            let mut session = engine.open(&plan).await.unwrap();
            session.prepare(&proof, HOUR).await.unwrap();
            run(&mut helper, &format!("GRANT {name}_app TO {}", plan.role)).await;
            let loaded = session.load(&load(Format::Sql, good(&with(&text, hostile)))).await;
            if *takes_back {
                run(&mut helper, &format!("REVOKE {name}_app FROM {}", plan.role)).await;
            }
            let refused = match loaded {
                Ok(()) => session.finish(&proof, &CancellationToken::new()).await.unwrap_err(),
                Err(error) => error,
            };
            assert!(refused.message.contains(named.as_str()), "{hostile}: {refused}");
            assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack, "{hostile}");
            session.close().await;
        }
        scene.assert_untouched(&scene.plan().await, &before, "all of it").await;
    }
    drop(helper);

    // What a platform gives on each new schema is no dump's doing.
    scene
        .sql(
            "CREATE FUNCTION public.welcome() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made record; BEGIN \
             FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'schema' LOOP \
             EXECUTE format('GRANT ALL ON SCHEMA %s TO PUBLIC', made.object_identity); END LOOP; END $$; \
             CREATE EVENT TRIGGER welcome ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA') EXECUTE FUNCTION public.welcome()",
        )
        .await;
    for one_transaction in [true, false] {
        let engine = Engine { one_transaction, ..scene.engine.clone() };
        let plan = engine.plan_schema(holdfast::ids::RestoreId::generate(), SCHEMA).await.unwrap();
        let mut session = engine.open(&plan).await.unwrap();
        session.prepare(&proof, HOUR).await.unwrap();
        session.load(&load(Format::Sql, good(text.as_bytes()))).await.unwrap();
        let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
        assert_eq!(finished.differences, NONE);
        session.close().await;
    }
    scene.clean().await;
}
