//! The restore engine against a real server, with what `pg_dump` really writes.

pub mod scene;

use std::sync::Arc;

use holdfast::{
    artifact::Format,
    child::Command,
    ids::RestoreId,
    manifest::DumpScope,
    postgres::{
        inspect, quote,
        tools::{ChildEnvironment, ClientTool, Tools},
    },
    restore::{Recovery, Target},
};
use secrecy::SecretString;
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use scene::*;

#[tokio::test]
async fn what_was_dumped_is_what_is_there_after_a_restore_in_every_format() {
    let scene = Scene::new().await;
    let (before, neighbour) = (scene.text(Some(SCHEMA)).await, scene.text(Some("neighbour")).await);
    for format in [Format::Sql, Format::Tar, Format::Custom] {
        let (bytes, proof) = scene.dump(format).await;
        scene
            .sql(
                "TRUNCATE \"My \"\"Ten'ant\".accounts CASCADE; DROP VIEW \"My \"\"Ten'ant\".\"Odd View\"; \
                 CREATE TABLE \"My \"\"Ten'ant\".junk ()",
            )
            .await;
        let ruined = scene.text(Some(SCHEMA)).await;
        let plan = scene.plan().await;
        let (mut session, loaded) = scene.load(&plan, &proof, format, good(&bytes)).await;
        loaded.unwrap();
        let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
        assert_eq!(finished.differences, NONE, "{format}");
        pretty(&scene.text(Some(SCHEMA)).await, &before);
        pretty(&scene.text(Some("neighbour")).await, &neighbour);
        // A worker that takes over right after the end finds a finished restore, and leaves it.
        assert_eq!(session.roll_back().await.unwrap(), Recovery::Finished);
        pretty(&scene.text(Some(SCHEMA)).await, &before);

        let undone = session.undo(finished.schema_oid).await.unwrap();
        pretty(&scene.text(Some(SCHEMA)).await, &ruined);
        assert_eq!(session.undo(finished.schema_oid).await.unwrap(), undone);
        pretty(&scene.text(Some(SCHEMA)).await, &ruined);
        let (name, oid) = undone.kept.unwrap();
        assert_eq!(Some(oid), finished.schema_oid);
        assert_eq!(session.drop_side(&name, oid + 1).await.unwrap_err().code, "restore.not_a_side_schema");
        assert!(session.drop_side(&name, oid).await.unwrap());
        assert!(!session.drop_side(&name, oid).await.unwrap());
        session.close().await;

        // Leave the scene as it was, for the next format.
        let plan = scene.plan().await;
        let (mut session, loaded) = scene.load(&plan, &proof, format, good(&bytes)).await;
        loaded.unwrap();
        session.finish(&proof, &CancellationToken::new()).await.unwrap();
        let Target::Schema { side, live_oid, .. } = &plan.target else { unreachable!() };
        assert!(session.drop_side(side, live_oid.unwrap()).await.unwrap());
        session.close().await;
    }
    pretty(&scene.text(Some(SCHEMA)).await, &before);
    scene.clean().await;
}

#[tokio::test]
async fn a_schema_that_is_gone_is_restored_and_an_undo_takes_it_away() {
    let scene = Scene::new().await;
    let before = scene.text(Some(SCHEMA)).await;
    let (bytes, proof) = scene.dump(Format::Custom).await;
    scene.sql("DROP SCHEMA \"My \"\"Ten'ant\" CASCADE").await;
    let gone = scene.text(None).await;
    let plan = scene.plan().await;
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Custom, good(&bytes)).await;
    loaded.unwrap();
    assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
    assert_eq!(session.roll_back().await.unwrap(), Recovery::Nothing);
    scene.assert_untouched(&plan, &gone, "rolled back").await;
    session.close().await;

    let (mut session, loaded) = scene.load(&plan, &proof, Format::Custom, good(&bytes)).await;
    loaded.unwrap();
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    // The default privileges went with the schema's oid, and come back.
    assert_eq!(finished.differences, NONE);
    pretty(&scene.text(Some(SCHEMA)).await, &before);
    let undone = session.undo(finished.schema_oid).await.unwrap();
    assert_eq!(session.undo(finished.schema_oid).await.unwrap(), undone);
    let (name, oid) = undone.kept.unwrap();
    assert!(session.drop_side(&name, oid).await.unwrap());
    scene.assert_untouched(&plan, &gone, "undone and dropped").await;
    scene.clean().await;
}

#[tokio::test]
async fn content_that_is_cut_anywhere_commits_nothing() {
    let scene = Scene::new().await;
    let before = scene.text(None).await;
    for (format, cuts) in [(Format::Sql, 60), (Format::Tar, 8), (Format::Custom, 8)] {
        let (bytes, proof) = scene.dump(format).await;
        for i in 0..cuts {
            // The last cut is none: all bytes come, but the digest says that they are not the right ones.
            let at = bytes.len() * i / (cuts - 1);
            let plan = scene.plan().await;
            let (mut session, loaded) = scene.load(&plan, &proof, format, bad(&bytes[..at])).await;
            let error = loaded.unwrap_err();
            assert!(matches!(error.code, "restore.content" | "restore.load_failed"), "{format} cut at {at}: {error}");
            let committed: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE rolname = $1",
            )
            .bind(&plan.role)
            .fetch_one(&mut scene.admin.connect().await.unwrap())
            .await
            .unwrap();
            assert_eq!(committed, 0, "{format} cut at {at}");
            assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack, "{format} cut at {at}");
            session.close().await;
            if i % 10 == 0 || at == bytes.len() {
                scene.assert_untouched(&plan, &before, &format!("{format} cut at {at}")).await;
            }
        }
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_failing_statement_is_named_and_everything_is_as_before() {
    let scene = Scene::new().await;
    let before = scene.text(None).await;
    let (mut bytes, proof) = scene.dump(Format::Sql).await;
    bytes.extend_from_slice(b"SELECT 1/0;\n");
    let plan = scene.plan().await;
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    let error = loaded.unwrap_err();
    assert_eq!(error.code, "restore.load_failed");
    // The dump's own \unrestrict is not its last line any more, so it stays and is refused: see the next test for plain failures.
    assert!(!error.may_pass && error.message.contains("unrestrict"), "{error}");
    session.roll_back().await.unwrap();
    session.close().await;
    let text = String::from_utf8(scene.dump(Format::Sql).await.0).unwrap();
    let failing = text.replacen("\n\\unrestrict", "\nSELECT 1/0;\n\\unrestrict", 1);
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(failing.as_bytes())).await;
    let error = loaded.unwrap_err();
    assert!(!error.may_pass && error.message.contains("division by zero"), "{error}");
    session.roll_back().await.unwrap();
    scene.assert_untouched(&plan, &before, "failed").await;
    scene.clean().await;
}

#[tokio::test]
async fn hostile_dumps_change_nothing_outside_their_schema() {
    let scene = Scene::new().await;
    scene.sql("GRANT CREATE ON SCHEMA public TO PUBLIC").await;
    let before = scene.text(None).await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let touched = directory.path().join("touched");
    let touch = touched.display();
    let end = text.rfind("\\unrestrict").unwrap();
    let key = text[end..].trim().strip_prefix("\\unrestrict ").unwrap();
    let server_user = &scene.admin.user;
    let hostile = [
        "COMMIT;".to_owned(),
        "COMMIT; BEGIN;".to_owned(),
        "ROLLBACK;".to_owned(),
        "RESET ROLE; DROP SCHEMA neighbour CASCADE;".to_owned(),
        "COMMIT; RESET ROLE; SET ROLE NONE; DROP TABLE neighbour.refers;".to_owned(),
        format!("SET SESSION AUTHORIZATION {server_user};"),
        format!("SET ROLE {server_user};"),
        format!("\\! touch {touch}"),
        format!("\\unrestrict {key}\n\\! touch {touch}"),
        format!("\\unrestrict\n\\! touch {touch}"),
        format!("SELECT 1 \\g |touch {touch}"),
        format!("COPY neighbour.refers TO PROGRAM 'touch {touch}';"),
        format!("CREATE TEMP TABLE x (a text); COPY x FROM PROGRAM 'touch {touch}';"),
        "DROP SCHEMA neighbour CASCADE;".to_owned(),
        "DELETE FROM neighbour.refers;".to_owned(),
        "INSERT INTO neighbour.countries VALUES ('XX');".to_owned(),
        "CREATE SCHEMA mine;".to_owned(),
        "CREATE ROLE mine;".to_owned(),
        "ALTER ROLE CURRENT_USER SUPERUSER;".to_owned(),
        "COMMIT; CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';".to_owned(),
        "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';".to_owned(),
        "SELECT pg_catalog.lo_create(0);".to_owned(),
        format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = '{server_user}';"
        ),
    ];
    for hostile in &hostile {
        let dump = format!("{}{hostile}\n{}", &text[..end], &text[end..]);
        let plan = scene.plan().await;
        let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(dump.as_bytes())).await;
        let result = match loaded {
            Ok(()) => session.finish(&proof, &CancellationToken::new()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(result.is_err(), "{hostile}");
        assert!(!touched.exists(), "{hostile}");
        assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack, "{hostile}");
        scene.assert_untouched(&plan, &before, hostile).await;
        session.close().await;
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_restore_whose_worker_or_psql_dies_is_put_right_from_the_plan_alone() {
    let scene = Scene::new().await;
    let before = scene.text(None).await;
    let (bytes, proof) = scene.dump(Format::Sql).await;

    // Another worker takes over while the first is in the middle of its load.
    let plan = scene.plan().await;
    let (content, go, mut here) = stopped(&bytes, bytes.len() * 2 / 3);
    let zombie = tokio::spawn({
        let (engine, plan, proof) = (scene.engine.clone(), plan.clone(), proof.clone());
        async move {
            let mut session = engine.open(&plan).await.unwrap();
            session.prepare(&proof, HOUR).await.unwrap();
            let loaded = session.load(&load(Format::Sql, content)).await;
            (loaded, session.roll_back().await)
        }
    });
    here.recv().await.unwrap();
    let mut other = scene.engine.open(&plan).await.unwrap();
    assert_eq!(other.roll_back().await.unwrap(), Recovery::RolledBack);
    assert_eq!(other.roll_back().await.unwrap(), Recovery::Nothing);
    scene.assert_untouched(&plan, &before, "taken over").await;
    drop(go);
    let (loaded, rolled_back) = zombie.await.unwrap();
    assert!(loaded.is_err() && rolled_back.is_err());
    scene.assert_untouched(&plan, &before, "the zombie woke up").await;
    other.close().await;

    // So many queue for the lock, whoever they are, that one after the other would take too long.
    let plan = scene.plan().await;
    let holder = scene.engine.open(&plan).await.unwrap();
    let mut watch = scene.admin.connect().await.unwrap();
    const KEYS: &str = "SELECT classid::int8::int4, objid::int8::bit(32)::int4 FROM pg_locks \
         WHERE locktype = 'advisory' AND classid::int8 = 18502 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let (class, key): (i32, i32) = sqlx::query_as(KEYS).fetch_one(&mut watch).await.unwrap();
    let mut queue = tokio::task::JoinSet::new();
    for _ in 0..21 {
        let mut waits = scene.admin.connect().await.unwrap();
        queue.spawn(async move {
            _ = sqlx::query("SELECT pg_advisory_lock($1, $2)").bind(class).bind(key).execute(&mut waits).await;
        });
    }
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid::int8::bit(32)::int4 = $1 \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while sqlx::query_scalar::<_, i64>(waiting).bind(key).fetch_one(&mut watch).await.unwrap() < 21 {
        assert!(tokio::time::Instant::now() < deadline, "they do not wait");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    scene.engine.open(&plan).await.unwrap().close().await;
    drop((holder, queue));

    // Cancelled half-way.
    let plan = scene.plan().await;
    let (content, go, mut here) = stopped(&bytes, bytes.len() / 2);
    let mut session = scene.engine.open(&plan).await.unwrap();
    session.prepare(&proof, HOUR).await.unwrap();
    let one = load(Format::Sql, content);
    let (loaded, ()) = tokio::join!(session.load(&one), async {
        here.recv().await.unwrap();
        one.cancel.cancel();
    });
    assert_eq!(loaded.unwrap_err().code, "restore.cancelled");
    drop(go);
    assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
    scene.assert_untouched(&plan, &before, "cancelled").await;
    session.close().await;

    // psql is killed half-way, and then the worker dies too.
    let plan = scene.plan().await;
    let (content, go, mut here) = stopped(&bytes, bytes.len() / 2);
    let mut session = scene.engine.open(&plan).await.unwrap();
    session.prepare(&proof, HOUR).await.unwrap();
    let one = load(Format::Sql, content);
    let (loaded, ()) = tokio::join!(session.load(&one), async {
        here.recv().await.unwrap();
        let psql = psql_of(&plan.role);
        rustix::process::kill_process(psql, rustix::process::Signal::KILL).unwrap();
        drop(go);
    });
    assert_eq!(loaded.unwrap_err().code, "restore.load_failed");
    drop(session);
    let mut session = scene.engine.open(&plan).await.unwrap();
    assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
    assert_eq!(session.roll_back().await.unwrap(), Recovery::Nothing);
    scene.assert_untouched(&plan, &before, "psql was killed").await;
    session.close().await;

    // The worker dies between prepare and load, and between load and finish.
    for loads in [false, true] {
        let plan = scene.plan().await;
        let mut session = scene.engine.open(&plan).await.unwrap();
        session.prepare(&proof, HOUR).await.unwrap();
        if loads {
            session.load(&load(Format::Sql, good(&bytes))).await.unwrap();
        }
        drop(session);
        let mut session = scene.engine.open(&plan).await.unwrap();
        assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
        scene.assert_untouched(&plan, &before, "the worker died").await;
    }
    scene.clean().await;
}

/// The process id of the psql whose environment names the role.
fn psql_of(role: &str) -> rustix::process::Pid {
    let user = format!("PGUSER={role}");
    let is_it = |path: &std::path::Path| {
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        name.trim() == "psql" && environment.split(|&b| b == 0).any(|v| v == user.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = entries.filter(|e| is_it(&e.path())).filter_map(|e| e.file_name().to_str()?.parse().ok());
    found.next().and_then(rustix::process::Pid::from_raw).expect("there is a psql of this restore")
}

#[tokio::test]
async fn a_replaced_schema_is_not_dropped_while_others_refer_to_it() {
    let mut scene = Scene::new().await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    scene
        .sql(
            "CREATE VIEW neighbour.looks AS SELECT id FROM \"My \"\"Ten'ant\".accounts;
             CREATE TABLE neighbour.points (id int REFERENCES \"My \"\"Ten'ant\".accounts (id), n int DEFAULT \"My \"\"Ten'ant\".secret())",
        )
        .await;
    let plan = scene.plan().await;
    let mut session = scene.engine.open(&plan).await.unwrap();
    let refused = session.prepare(&proof, HOUR).await.unwrap_err();
    assert_eq!(refused.code, "restore.referenced_from_outside");
    assert!(refused.message.contains("neighbour.looks") && refused.message.contains("neighbour.points"), "{refused}");
    session.close().await;
    scene.engine.allow_detached_references = true;
    let mut session = scene.engine.open(&plan).await.unwrap();
    let warnings = session.prepare(&proof, HOUR).await.unwrap().join("\n");
    assert!(warnings.contains("neighbour.looks") && warnings.contains("neighbour.points"), "{warnings}");
    session.load(&load(Format::Sql, good(&bytes))).await.unwrap();
    session.finish(&proof, &CancellationToken::new()).await.unwrap();
    let Target::Schema { side, live_oid, .. } = &plan.target else { unreachable!() };
    let refused = session.drop_side(side, live_oid.unwrap()).await.unwrap_err();
    assert_eq!(refused.code, "restore.referenced");
    for what in ["view", "foreign key", "default value"].iter().zip(["neighbour.looks", "constraint", "default value"])
    {
        assert!(refused.message.contains(what.1), "{what:?}: {refused}");
    }
    for name in ["neighbour", SCHEMA, "hf_before_x", "public"] {
        assert_eq!(session.drop_side(name, live_oid.unwrap()).await.unwrap_err().code, "restore.not_a_side_schema");
    }
    scene.sql("DROP VIEW neighbour.looks; DROP TABLE neighbour.points").await;
    assert!(session.drop_side(side, live_oid.unwrap()).await.unwrap());
    session.close().await;
    scene.clean().await;
}

#[tokio::test]
async fn an_extension_inside_the_schema_is_refused_before_anything_is_touched() {
    let scene = Scene::new().await;
    let (_, proof) = scene.dump(Format::Sql).await;
    scene.sql("CREATE EXTENSION citext SCHEMA \"My \"\"Ten'ant\"").await;
    let before = scene.text(None).await;
    let plan = scene.plan().await;
    let mut session = scene.engine.open(&plan).await.unwrap();
    assert_eq!(session.prepare(&proof, HOUR).await.unwrap_err().code, "restore.extension_inside");
    scene.assert_untouched(&plan, &before, "refused").await;
    assert_eq!(session.roll_back().await.unwrap(), Recovery::Nothing);
    session.close().await;
    scene.clean().await;
}

#[tokio::test]
async fn a_role_that_is_missing_is_a_named_difference() {
    let scene = Scene::new().await;
    let (bytes, mut proof) = scene.dump(Format::Sql).await;
    let object = proof.ownership.iter_mut().find(|o| o.kind == "table" && o.identity.ends_with(".\"a.b\"")).unwrap();
    object.owner = "nobody_of_this_name".to_owned();
    let plan = scene.plan().await;
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    loaded.unwrap();
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.differences.len(), 1, "{:?}", finished.differences);
    assert!(finished.differences[0].contains("nobody_of_this_name"));
    let owner: String =
        sqlx::query_scalar("SELECT tableowner::text FROM pg_tables WHERE schemaname = $1 AND tablename = 'a.b'")
            .bind(SCHEMA)
            .fetch_one(&mut scene.admin.connect().await.unwrap())
            .await
            .unwrap();
    assert_eq!(owner, format!("{}_owner", scene.name));
    session.close().await;
    scene.clean().await;
}

#[tokio::test]
async fn a_restore_administrator_need_not_be_a_superuser() {
    let mut scene = Scene::new().await;
    let name = scene.name.clone();
    scene
        .sql(&format!(
            "CREATE ROLE {name}_admin LOGIN CREATEROLE PASSWORD 'admin'; GRANT {name}_owner, {name}_other, {name}_app TO {name}_admin; \
             GRANT CREATE, CONNECT ON DATABASE {name} TO {name}_admin; GRANT USAGE ON SCHEMA neighbour TO {name}_admin WITH GRANT OPTION; \
             GRANT REFERENCES, SELECT ON neighbour.countries TO {name}_admin WITH GRANT OPTION; \
             GRANT EXECUTE ON FUNCTION neighbour.twin(int, text) TO {name}_admin WITH GRANT OPTION"
        ))
        .await;
    let (before, all) = (scene.text(Some(SCHEMA)).await, scene.text(None).await);
    let (bytes, proof) = scene.dump(Format::Sql).await;
    scene.engine.admin = scene.admin.with_user(format!("{name}_admin"), SecretString::from("admin"));
    let plan = scene.plan().await;
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    loaded.unwrap();
    assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
    scene.assert_untouched(&plan, &all, "rolled back").await;
    session.close().await;

    let (mut session, loaded) = scene.load(&plan, &proof, Format::Sql, good(&bytes)).await;
    loaded.unwrap();
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.differences, NONE);
    pretty(&scene.text(Some(SCHEMA)).await, &before);
    session.close().await;
    scene.sql(&format!("DROP OWNED BY {name}_admin; DROP ROLE {name}_admin")).await;
    scene.clean().await;
}

#[tokio::test]
async fn a_whole_database_is_restored_into_a_new_one() {
    let mut scene = Scene::new().await;
    scene
        .sql("CREATE SCHEMA ext; CREATE EXTENSION citext WITH SCHEMA ext; CREATE TABLE neighbour.c (a ext.citext); SELECT lo_create(4711)")
        .await;
    let before = scene.text(None).await;
    for format in [Format::Sql, Format::Custom, Format::Tar] {
        let (bytes, proof) = scene.dump_scope(DumpScope::Database { database: scene.name.clone() }, format).await;
        let plan = scene.engine.plan_database(RestoreId::generate(), None).await.unwrap();
        let Target::Database { database } = plan.target.clone() else { unreachable!() };

        let (mut session, loaded) = scene.load(&plan, &proof, format, bad(&bytes[..bytes.len() / 2])).await;
        loaded.unwrap_err();
        assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
        assert_eq!(session.roll_back().await.unwrap(), Recovery::Nothing);
        session.close().await;

        let (mut session, loaded) = scene.load(&plan, &proof, format, good(&bytes)).await;
        loaded.unwrap();
        let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
        assert_eq!(finished.differences, NONE, "{format}");
        assert_eq!(session.roll_back().await.unwrap(), Recovery::Finished);
        session.close().await;
        let again = scene.engine.plan_database(RestoreId::generate(), Some(database.clone())).await;
        assert_eq!(again.unwrap_err().code, "restore.name_taken");
        let original = std::mem::replace(&mut scene.admin.database, database.clone());
        pretty(&scene.text(None).await, &before);
        scene.admin.database = original;
        let mut c = test_server().await.connect().await.unwrap();
        run(&mut c, &format!("DROP DATABASE {database} WITH (FORCE)")).await;
        c.close().await.unwrap();
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_backup_of_an_older_server_leaves_its_owners_able_to_maintain_what_they_own() {
    let scene = Scene::new().await;
    let (bytes, mut proof) = scene.dump(Format::Custom).await;
    proof.server_version = 160_000;
    for grants in proof.ownership.iter_mut().filter_map(|object| object.grants.as_mut()) {
        grants.retain(|grant| grant.privilege != "MAINTAIN");
    }
    let plan = scene.plan().await;
    let (mut session, loaded) = scene.load(&plan, &proof, Format::Custom, good(&bytes)).await;
    loaded.unwrap();
    let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.differences, NONE);
    // Views with an access list and without one.
    for view in ["summary", "plain"] {
        let summary = quote::qualified(SCHEMA, view);
        scene.sql(&format!("SET ROLE {}_owner; REFRESH MATERIALIZED VIEW {summary}", scene.name)).await;
    }
    session.close().await;
    scene.clean().await;
}

#[tokio::test]
async fn an_archive_of_a_newer_pg_dump_is_read_by_a_pg_restore_as_new_where_there_is_one() {
    let mut scene = Scene::new().await;
    let (bytes, mut proof) = scene.dump(Format::Custom).await;
    proof.tool_version = 990_000;
    let real = scene.engine.tools.client(ClientTool::PgRestore, 140_000).unwrap().path;
    let restore = async |scene: &Scene| {
        let plan = scene.plan().await;
        let (mut session, loaded) = scene.load(&plan, &proof, Format::Custom, good(&bytes)).await;
        loaded.unwrap();
        session.finish(&proof, &CancellationToken::new()).await.unwrap();
        session.close().await;
    };
    // There is none: the server's own may do.
    restore(&scene).await;

    // There is one: the real program, which says that it is newer and tells that it was used.
    let directory = tempfile::tempdir().unwrap();
    let used = directory.path().join("used");
    let (program, real_directory) = (directory.path().join("pg_restore"), real.parent().unwrap().to_owned());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 'pg_restore (PostgreSQL) 99.0'; exit; }}\necho used >> '{}'\nexec '{}' \"$@\"\n",
        used.display(),
        real.display()
    );
    // By another process: see "text file busy" in execve(2), where a child of another test has our descriptor for a moment.
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]);
    assert!(shell.arg(&program).arg(&text).status().unwrap().success());
    scene.engine.tools = Arc::new(Tools::among(vec![real_directory, directory.path().into()]).await);
    restore(&scene).await;
    assert_eq!(std::fs::read_to_string(&used).unwrap(), "used\nused\n", "for the list and for the content");
    scene.clean().await;
}

#[tokio::test]
async fn a_restore_administrator_makes_new_databases_too() {
    let name = format!("t{}", RestoreId::generate().short());
    let server = test_server().await;
    let mut c = server.connect().await.unwrap();
    run(
        &mut c,
        &format!(
            "CREATE ROLE {name}_owner; CREATE ROLE {name}_admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin'; \
             GRANT {name}_owner TO {name}_admin"
        ),
    )
    .await;
    run(&mut c, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let mut scene = Scene::over(server.with_database(&name), name.clone()).await;
    scene
        .sql(&format!(
            "CREATE SCHEMA s; CREATE TABLE s.t (id serial PRIMARY KEY, word text); INSERT INTO s.t (word) VALUES ('one'), ('two'); \
             CREATE TABLE public.p AS SELECT 1 AS x; ALTER SCHEMA s OWNER TO {name}_owner; ALTER TABLE s.t OWNER TO {name}_owner; \
             ALTER TABLE public.p OWNER TO {name}_owner; GRANT SELECT ON s.t TO PUBLIC"
        ))
        .await;
    let before = scene.text(None).await;
    scene.engine.admin = scene.admin.with_user(format!("{name}_admin"), SecretString::from("admin"));
    for format in [Format::Sql, Format::Custom] {
        let (bytes, proof) = scene.dump_scope(DumpScope::Database { database: name.clone() }, format).await;
        let plan = scene.engine.plan_database(RestoreId::generate(), None).await.unwrap();
        let Target::Database { database } = plan.target.clone() else { unreachable!() };
        let (mut session, loaded) = scene.load(&plan, &proof, format, bad(&bytes[..bytes.len() / 2])).await;
        loaded.unwrap_err();
        assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack);
        session.close().await;

        let (mut session, loaded) = scene.load(&plan, &proof, format, good(&bytes)).await;
        loaded.unwrap();
        let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
        assert_eq!(finished.differences, NONE, "{format}");
        session.close().await;
        let original = std::mem::replace(&mut scene.admin.database, database.clone());
        pretty(&scene.text(None).await, &before);
        scene.admin.database = original;
        run(&mut c, &format!("DROP DATABASE {database} WITH (FORCE)")).await;
    }
    run(&mut c, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    run(&mut c, &format!("DROP OWNED BY {name}_admin; DROP ROLE {name}_admin; DROP ROLE {name}_owner")).await;
    c.close().await.unwrap();
}

#[tokio::test]
async fn a_new_database_has_the_encoding_and_the_locale_of_the_one_beside_it() {
    let name = format!("t{}", RestoreId::generate().short());
    let server = test_server().await;
    let mut c = server.connect().await.unwrap();
    let mut locales = vec!["ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"];
    if inspect::server_version(&mut c).await.unwrap() >= 170_000 {
        locales.push("ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'");
    }
    for locale in locales {
        run(&mut c, &format!("CREATE DATABASE {name} TEMPLATE template0 {locale}")).await;
        let scene = Scene::over(server.with_database(&name), name.clone()).await;
        scene.sql("CREATE TABLE public.words AS SELECT 'one'::text AS word").await;
        let (bytes, proof) = scene.dump_scope(DumpScope::Database { database: name.clone() }, Format::Custom).await;
        let plan = scene.engine.plan_database(RestoreId::generate(), None).await.unwrap();
        let Target::Database { database } = plan.target.clone() else { unreachable!() };
        let (mut session, loaded) = scene.load(&plan, &proof, Format::Custom, good(&bytes)).await;
        loaded.unwrap();
        let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
        assert_eq!(finished.differences, NONE, "{locale}");
        session.close().await;
        let look = "SELECT to_jsonb(d) - 'oid' - 'datname' - 'datdba' - 'datacl' - 'datfrozenxid' - 'datminmxid' \
                    FROM pg_database d WHERE datname = ANY ($1)";
        let two: Vec<serde_json::Value> =
            sqlx::query_scalar(look).bind(vec![&name, &database]).fetch_all(&mut c).await.unwrap();
        assert_eq!(two[0], two[1], "{locale}");
        run(&mut c, &format!("DROP DATABASE {database} WITH (FORCE)")).await;
        run(&mut c, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
    c.close().await.unwrap();
}

#[tokio::test]
async fn schemas_of_every_name_come_back_and_only_they_are_touched() {
    let long = "ü".repeat(31) + "x";
    let names = [
        "MySchema",
        "myschema",
        "tenant*",
        "tenant_1",
        "a.b",
        "q\"q",
        "-x",
        "--file=/x",
        "a|b",
        &long,
        "new\nline",
        "select",
        "$1",
        "a b",
        "a",
    ];
    let scene = Scene::new().await;
    for name in names {
        let quoted = quote::ident(name);
        scene
            .sql(&format!("CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.t (a) AS SELECT 1; COMMENT ON SCHEMA {quoted} IS 'it''s; one'"))
            .await;
    }
    let before = scene.text(None).await;
    for (i, name) in names.into_iter().enumerate() {
        for format in [Format::Sql, [Format::Tar, Format::Custom][i % 2]] {
            let (bytes, proof) = scene.dump_scope(DumpScope::Schema { schema: name.to_owned() }, format).await;
            scene.sql(&format!("TRUNCATE {}.t", quote::ident(name))).await;
            let plan = scene.engine.plan_schema(RestoreId::generate(), name).await.unwrap();
            let (mut session, loaded) = scene.load(&plan, &proof, format, good(&bytes)).await;
            loaded.unwrap();
            let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
            assert_eq!(finished.differences, NONE, "{name} {format}");
            let Target::Schema { side, live_oid, .. } = &plan.target else { unreachable!() };
            assert!(session.drop_side(side, live_oid.unwrap()).await.unwrap());
            session.close().await;
        }
    }
    pretty(&scene.text(None).await, &before);
    scene.clean().await;
}

/// Real schemas, where `HOLDFAST_TEST_CORPORA` names a folder of custom-format dumps.
#[tokio::test]
async fn every_schema_of_the_corpora_comes_back() {
    let Some(folder) = std::env::var_os("HOLDFAST_TEST_CORPORA") else { return };
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|e| e == "dump")) {
        let name = format!("t{}", RestoreId::generate().short());
        let mut c = test_server().await.connect().await.unwrap();
        run(&mut c, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        let scene = Scene::over(test_server().await.with_database(&name), name.clone()).await;
        let program = scene.engine.tools.client(ClientTool::PgRestore, 140_000).unwrap().path;
        let environment = ChildEnvironment::new(&scene.admin, &[]).unwrap();
        let mut filled = environment
            .apply(
                Command::new(program)
                    .args(["--no-owner", "--no-acl", "--exit-on-error"])
                    .arg(format!("--dbname={name}"))
                    .arg(&file),
            )
            .spawn()
            .await
            .unwrap();
        let exit = filled.wait().await.unwrap();
        assert!(exit.status.success(), "{}: {}", file.display(), exit.stderr);
        let schemas: Vec<String> = sqlx::query_scalar(
            "SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
             AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid)",
        )
        .fetch_all(&mut scene.admin.connect().await.unwrap())
        .await
        .unwrap();
        assert!(!schemas.is_empty(), "{}", file.display());
        for schema in schemas {
            let before = scene.text(Some(&schema)).await;
            for format in [Format::Sql, Format::Tar, Format::Custom] {
                let (bytes, proof) = scene.dump_scope(DumpScope::Schema { schema: schema.clone() }, format).await;
                let plan = scene.engine.plan_schema(RestoreId::generate(), &schema).await.unwrap();
                let (mut session, loaded) = scene.load(&plan, &proof, format, good(&bytes)).await;
                loaded.unwrap();
                let finished = session.finish(&proof, &CancellationToken::new()).await.unwrap();
                assert_eq!(finished.differences, NONE, "{} {schema} {format}", file.display());
                pretty(&scene.text(Some(&schema)).await, &before);
                session.undo(finished.schema_oid).await.unwrap();
                pretty(&scene.text(Some(&schema)).await, &before);
                session.close().await;
            }
        }
        run(&mut c, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}
