//! Dumps that are made to do harm: whatever is in one, nothing outside the tenant's new schema changes, and the restore fails, or succeeds
//! where it was harmless. The steps of the one transaction are of no use to a dump.

mod altered;
mod clients;
mod helped;
mod left_behind;

use std::path::Path;

use holdfast::{
    artifact::Format,
    jobs::request::Export,
    manifest::DatabaseContent,
    postgres::quote,
    restore::{Plan, Recovery, Way},
};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::{
    restore_engine::scene::{SCHEMA, Scene, good},
    support::{
        self,
        app::{TestApp, export},
    },
    swap::leftovers,
};

/// How a restore of this content ends, with everything put back unless it stands.
async fn attempt(
    scene: &Scene,
    plan: &Plan,
    proof: &DatabaseContent,
    format: Format,
    bytes: &[u8],
) -> Result<(), String> {
    let (mut session, loaded) = scene.load(plan, proof, format, good(bytes)).await;
    assert_eq!(*session.way(), Way::OneTransaction);
    let ended = match loaded {
        Ok(()) => session.finish(proof, &CancellationToken::new()).await.map(drop),
        Err(error) => Err(error),
    };
    if ended.is_err() {
        assert_eq!(session.roll_back().await.unwrap(), Recovery::RolledBack, "{ended:?}");
    }
    session.close().await;
    ended.map_err(|error| format!("{}: {error}", error.code))
}

/// A plain dump with something put in before its end.
fn with(text: &str, hostile: &str) -> Vec<u8> {
    let end = text.rfind("\\unrestrict").unwrap();
    format!("{}{hostile}\n{}", &text[..end], &text[end..]).into_bytes()
}

#[tokio::test]
async fn the_steps_of_the_one_transaction_are_of_no_use_to_a_dump() {
    let scene = Scene::new().await;
    let before = scene.text(None).await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    let tenant = quote::ident(SCHEMA);
    let swallowed = |sql: &str| format!("DO $hostile$ BEGIN {sql}; EXCEPTION WHEN OTHERS THEN NULL; END $hostile$;");
    // STEPS: the schema of the steps. Each would have the live schema replaced by half of a dump, or leave it renamed.
    let hostile = [
        "COMMIT;".to_owned(),
        "COMMIT AND CHAIN;".to_owned(),
        "END; BEGIN;".to_owned(),
        "ROLLBACK;".to_owned(),
        "ROLLBACK AND CHAIN;".to_owned(),
        "ROLLBACK; BEGIN; SELECT STEPS.step_aside('');".to_owned(),
        "PREPARE TRANSACTION 'hostile';".to_owned(),
        "SET CONSTRAINTS ALL IMMEDIATE;".to_owned(),
        format!("{}COMMIT;", swallowed("SET CONSTRAINTS ALL IMMEDIATE")),
        "SET session_replication_role = replica; COMMIT;".to_owned(),
        "SELECT STEPS.step_back('');".to_owned(),
        "SELECT STEPS.step_back(NULL);".to_owned(),
        "SELECT STEPS.step_aside(repeat('0', 64));".to_owned(),
        "ALTER TABLE STEPS.state DISABLE TRIGGER ALL; COMMIT;".to_owned(),
        "DELETE FROM STEPS.state; COMMIT;".to_owned(),
        "DROP SCHEMA STEPS CASCADE; COMMIT;".to_owned(),
        "CREATE OR REPLACE FUNCTION STEPS.watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            .to_owned(),
        "CREATE TABLE STEPS.mine (a int);".to_owned(),
        format!("DROP SCHEMA {tenant} CASCADE;"),
        format!("ALTER SCHEMA {tenant} RENAME TO elsewhere;"),
        format!("CREATE VIEW {tenant}.waits AS SELECT STEPS.step_back('') IS NULL AS x;"),
        format!(
            "CREATE FUNCTION {tenant}.waits() RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT STEPS.step_back(''); END;"
        ),
        // What is said after the dump becomes rows, a comment, a text.
        format!("CREATE TABLE {tenant}.eats (line text);\nCOPY {tenant}.eats FROM stdin;"),
        "/* ".to_owned(),
        "SELECT '".to_owned(),
        "SELECT $eats$".to_owned(),
    ];
    for (i, hostile) in hostile.iter().enumerate() {
        let plan = scene.plan().await;
        let said = hostile.replace("STEPS", &quote::ident(&plan.role));
        let ended = attempt(&scene, &plan, &proof, Format::Sql, &with(&text, &said)).await;
        assert!(ended.is_err(), "{hostile}");
        look(&scene, &plan, &before, i, hostile).await;
    }
    scene.assert_untouched(&scene.plan().await, &before, "all of it").await;
    scene.clean().await;
}

/// After each that nothing is left of the restore; after every few that nothing has changed, which takes longer.
async fn look(scene: &Scene, plan: &Plan, before: &str, i: usize, what: &str) {
    if i.is_multiple_of(6) {
        return scene.assert_untouched(plan, before, what).await;
    }
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1) + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^hf_')",
    )
    .bind(&plan.role)
    .fetch_one(&mut scene.admin.connect().await.unwrap())
    .await
    .unwrap();
    assert_eq!(left, 0, "{what}");
}

#[tokio::test]
async fn what_only_a_stronger_role_may_do_is_refused_and_changes_nothing() {
    let scene = Scene::new().await;
    scene.sql("CREATE EXTENSION dblink SCHEMA public").await;
    let before = scene.text(None).await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let touched = directory.path().join("touched");
    let (touch, admin, name) = (touched.display(), &scene.admin, &scene.name);
    let password = admin.password.as_ref().map(|p| p.expose_secret().to_owned()).unwrap_or_default();
    let way_in = format!("host={} port={} dbname={name} user={}", admin.host, admin.port, admin.user);
    let tenant = quote::ident(SCHEMA);
    let hostile = [
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION pg_catalog.pg_event_trigger_ddl_commands();".to_owned(),
        format!("ALTER ROLE {} SUPERUSER;", admin.user),
        format!("ALTER ROLE {} PASSWORD 'mine';", admin.user),
        format!("ALTER ROLE {name}_owner LOGIN PASSWORD 'mine';"),
        format!("GRANT {name}_owner TO CURRENT_USER;"),
        "GRANT pg_execute_server_program, pg_read_all_data TO CURRENT_USER;".to_owned(),
        // Before PostgreSQL 16 nobody refuses that at once.
        format!("DO $hostile$ BEGIN EXECUTE pg_catalog.format('GRANT %I TO {name}_app', current_user); END $hostile$;"),
        "ALTER ROLE CURRENT_USER SUPERUSER;".to_owned(),
        "ALTER ROLE CURRENT_USER VALID UNTIL 'infinity';".to_owned(),
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1;".to_owned(),
        format!("SET SESSION AUTHORIZATION {};", admin.user),
        format!("RESET ROLE; SET ROLE {};", admin.user),
        format!("COPY (SELECT 1) TO PROGRAM 'touch {touch}';"),
        format!("COPY (SELECT 1) TO '{touch}';"),
        format!("SELECT pg_catalog.lo_export(0, '{touch}');"),
        "SELECT pg_catalog.pg_read_file('PG_VERSION');".to_owned(),
        "ALTER SYSTEM SET log_statement = 'none';".to_owned(),
        format!("ALTER DATABASE {name} SET search_path = '';"),
        format!("SELECT public.dblink_connect('{way_in}');"),
        format!("SELECT public.dblink('{way_in} password=wrong', 'DROP SCHEMA neighbour CASCADE');"),
        format!("SELECT * FROM public.dblink('dbname={name}', 'SELECT 1') AS t(a int);"),
        "CREATE EXTENSION file_fdw;".to_owned(),
        "CREATE SERVER s FOREIGN DATA WRAPPER dblink_fdw;".to_owned(),
        "CREATE FUNCTION public.hostile() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DROP SCHEMA neighbour CASCADE';".to_owned(),
        "CREATE PUBLICATION hostile FOR ALL TABLES;".to_owned(),
        "CREATE SUBSCRIPTION hostile CONNECTION '' PUBLICATION p WITH (connect = false);".to_owned(),
        format!("ALTER DEFAULT PRIVILEGES FOR ROLE {name}_owner GRANT ALL ON TABLES TO PUBLIC;"),
        "ALTER TABLE neighbour.refers OWNER TO CURRENT_USER;".to_owned(),
        format!("CREATE TRIGGER t AFTER INSERT ON neighbour.refers FOR EACH ROW EXECUTE FUNCTION {tenant}.trig();"),
        "CREATE RULE r AS ON SELECT TO neighbour.countries DO ALSO NOTHING;".to_owned(),
        "CREATE POLICY p ON neighbour.refers USING (false);".to_owned(),
        format!("\\connect '{way_in}'"),
        format!("\\copy neighbour.refers TO '{touch}'"),
        format!("\\o {touch}"),
        format!("\\w {touch}"),
        format!("SELECT 'touch {touch}' \\gexec"),
        "\\set ON_ERROR_STOP off".to_owned(),
        "\\i /etc/passwd".to_owned(),
        "\\gset".to_owned(),
    ];
    for (i, hostile) in hostile.iter().enumerate() {
        let plan = scene.plan().await;
        let ended = attempt(&scene, &plan, &proof, Format::Sql, &with(&text, hostile)).await;
        assert!(ended.is_err(), "{hostile}");
        let said = ended.unwrap_err();
        assert!(!touched.exists(), "{hostile}");
        assert!(password.is_empty() || !said.contains(&password), "{hostile}: {said}");
        look(&scene, &plan, &before, i, hostile).await;
    }
    scene.assert_untouched(&scene.plan().await, &before, "all of it").await;
    scene.clean().await;
}

#[tokio::test]
async fn code_that_runs_while_rows_are_loaded_reaches_nothing_and_what_is_harmless_succeeds() {
    let scene = Scene::new().await;
    let outside = scene.text(Some("neighbour")).await;
    let (bytes, proof) = scene.dump(Format::Sql).await;
    let text = String::from_utf8(bytes).unwrap();
    // In the dump, at the end, so that the record knows nothing of it: a volatile function in a CHECK constraint, run by a COPY; a cast
    // to text of the tenant's own type; a domain's check. Each swallows the refusal, so the restore goes on.
    let attack = "BEGIN DELETE FROM neighbour.refers; EXCEPTION WHEN OTHERS THEN NULL; END; \
                  BEGIN EXECUTE 'ALTER ROLE CURRENT_USER SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; \
                  BEGIN EXECUTE 'SET ROLE pg_read_all_data'; EXCEPTION WHEN OTHERS THEN NULL; END; \
                  BEGIN EXECUTE 'GRANT SELECT ON neighbour.countries TO PUBLIC'; EXCEPTION WHEN OTHERS THEN NULL; END;";
    let hostile = format!(
        "SET search_path = {tenant};
         CREATE FUNCTION pg_temp.attack() RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN {attack} RETURN true; END $f$;
         CREATE TEMP TABLE t (n int CHECK (pg_temp.attack()));
         COPY t FROM stdin;
1
2
\\.
         SELECT pg_temp.attack();
         SET search_path = '';",
        tenant = quote::ident(SCHEMA)
    );
    let plan = scene.plan().await;
    attempt(&scene, &plan, &proof, Format::Sql, &with(&text, &hostile)).await.unwrap();
    assert!(scene.text(Some("neighbour")).await == outside);

    // The same in the schema itself stays there: neither a function nor a table that nobody recorded is given to anybody.
    let hostile = hostile.replace("pg_temp.attack", &format!("{}.attack", quote::ident(SCHEMA)));
    let before = scene.text(None).await;
    for (hostile, named) in [(hostile.clone(), "attack"), (hostile.replace("TEMP TABLE", "TABLE"), ".t")] {
        let plan = scene.plan().await;
        let said = attempt(&scene, &plan, &proof, Format::Sql, &with(&text, &hostile)).await.unwrap_err();
        assert!(said.contains("restore.altered") && said.contains(named), "{said}");
        scene.assert_untouched(&plan, &before, "what was not recorded").await;
    }

    // The role can be given a password that the dump knows: it is gone with the job.
    let plan = scene.plan().await;
    let known = with(&text, "ALTER ROLE CURRENT_USER PASSWORD 'known';");
    attempt(&scene, &plan, &proof, Format::Sql, &known).await.unwrap();
    let as_role = scene.admin.with_user(&plan.role, SecretString::from("known"));
    let refused = as_role.connect().await.unwrap_err().to_string();
    assert!(refused.contains(&plan.role), "{refused}");
    scene.clean().await;
}

#[tokio::test]
async fn an_archive_whose_contents_were_edited_or_broken_changes_nothing_outside() {
    let scene = Scene::new().await;
    let directory = tempfile::tempdir().unwrap();
    let touched = directory.path().join("touched");
    let before = scene.text(None).await;
    let (bytes, proof) = scene.dump(Format::Custom).await;
    // Statements lie in the clear in the table of contents, each with its length before it: another of the same length takes its place.
    let found = b"COMMENT ON COLUMN \"My \"\"Ten'ant\".accounts.\"Mixed Case\" IS 'odd';\n";
    let at = bytes.windows(found.len()).position(|window| window == found).expect("the statement");
    for hostile in [
        "DROP SCHEMA neighbour CASCADE;",
        "DELETE FROM neighbour.refers;",
        "ALTER ROLE CURRENT_USER SUPERUSER;",
        "COMMIT; SELECT 1;",
        "\\! touch here",
        "RESET ROLE; SET ROLE pg_monitor;",
    ] {
        let mut edited = bytes.clone();
        let said = format!("{hostile:<width$}\n", width = found.len() - 1);
        edited[at..at + found.len()].copy_from_slice(said.as_bytes());
        let plan = scene.plan().await;
        let ended = attempt(&scene, &plan, &proof, Format::Custom, &edited).await;
        assert!(ended.is_err(), "{hostile}");
        scene.assert_untouched(&plan, &before, hostile).await;
    }
    assert!(!touched.exists() && !Path::new("here").exists());

    // Broken ones, which pg_restore may refuse or fall over: bytes of the head and the table of contents, by a fixed rule.
    let contents = bytes.len().min(12 * 1024);
    let mut number = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        number
    };
    let mut refused = 0;
    for round in 0..12_usize {
        let mut broken = bytes.clone();
        for _ in 0..=round % 4 {
            let at = next() as usize % contents;
            broken[at] = [0x00, 0xff, 0x7f, b';'][next() as usize % 4];
        }
        let plan = scene.plan().await;
        let (mut session, loaded) = scene.load(&plan, &proof, Format::Custom, good(&broken)).await;
        refused += usize::from(loaded.is_err());
        // Also what was loaded is not let in here: what broke may have been a row.
        session.roll_back().await.unwrap();
        session.close().await;
        look(&scene, &plan, &before, round, &format!("round {round}")).await;
    }
    scene.assert_untouched(&scene.plan().await, &before, "all rounds").await;
    assert!(refused >= 3, "{refused} of 12 were refused");
    scene.clean().await;
}

#[tokio::test]
async fn a_tenant_that_set_traps_in_its_own_schema_is_backed_up_and_restored_and_the_audit_says_what_was_refused() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    let directory = tempfile::tempdir().unwrap();
    let touched = directory.path().join("touched");
    let role = format!("tenant_{}", uuid::Uuid::now_v7().simple());
    let sql = format!(
        r#"CREATE ROLE {role};
         CREATE SCHEMA neighbour; CREATE TABLE neighbour.book (line text); INSERT INTO neighbour.book VALUES ('untouched');
         CREATE SCHEMA tenant_acme AUTHORIZATION {role};
         SET ROLE {role};
         CREATE FUNCTION tenant_acme.strike(what text) RETURNS bool LANGUAGE plpgsql AS $f$
         BEGIN
             BEGIN INSERT INTO neighbour.book VALUES (what || ' by ' || current_user); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN EXECUTE format('COPY neighbour.book TO PROGRAM %L', 'touch {touch}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             RETURN true;
         END $f$;
         CREATE TYPE tenant_acme.pair AS (a int, b int);
         CREATE FUNCTION tenant_acme.as_text(tenant_acme.pair) RETURNS text LANGUAGE plpgsql AS $f$
         BEGIN PERFORM tenant_acme.strike('a cast'); RETURN 'pair'; END $f$;
         CREATE CAST (tenant_acme.pair AS text) WITH FUNCTION tenant_acme.as_text(tenant_acme.pair) AS IMPLICIT;
         CREATE TABLE tenant_acme.checked (n int CHECK (tenant_acme.strike('a check')), p tenant_acme.pair);
         INSERT INTO tenant_acme.checked SELECT i, ROW(i, i)::tenant_acme.pair FROM generate_series(1, 10) i;
         CREATE TABLE tenant_acme.hidden (n int); INSERT INTO tenant_acme.hidden SELECT generate_series(1, 100);
         ALTER TABLE tenant_acme.hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE tenant_acme.hidden FORCE ROW LEVEL SECURITY;
         CREATE POLICY nothing ON tenant_acme.hidden USING (tenant_acme.strike('a policy') AND false);
         CREATE FUNCTION tenant_acme.waits() RETURNS bool LANGUAGE sql SECURITY DEFINER AS $f$ SELECT tenant_acme.strike('a definer') $f$;
         CREATE INDEX ON tenant_acme.hidden ((n + 1));
         CREATE TABLE tenant_acme."new
\! touch {touch}
line" ("\! touch {touch}" int, "; DROP SCHEMA neighbour CASCADE; --" text);
         INSERT INTO tenant_acme."new
\! touch {touch}
line" VALUES (1, E'\\.\n\\! touch {touch}\n\\.');
         COMMENT ON TABLE tenant_acme.checked IS E'\n\\! touch {touch}\nCOMMIT;';
         RESET ROLE"#,
        touch = touched.display()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut c).await.unwrap();
    // What the tenant itself did by its inserts is its own doing.
    sqlx::raw_sql("DELETE FROM neighbour.book WHERE line <> 'untouched'").execute(&mut c).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let before = support::schema_dump(&test.app.control, "tenant_acme").await;
    for format in [Format::Sql, Format::Custom, Format::Tar] {
        let backup = test.backup(Export { format: Some(format), ..export("acme") }).await;
        let job = test.restore(&backup).await;
        assert_eq!(job.status, "completed", "{format}: {:?}", job.error_message);
        // A schema's dump has no casts: the one thing that the proof finds to be missing, the first time.
        let result = job.result.unwrap();
        let differences: Vec<&str> =
            result["differences"].as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
        let is_told = match differences[..] {
            [cast] => format == Format::Sql && cast.starts_with("cast "),
            _ => format != Format::Sql && differences.is_empty(),
        };
        assert!(is_told, "{format}: {differences:?}");
        assert!(support::schema_dump(&test.app.control, "tenant_acme").await == before, "{format}");
        let book: Vec<String> = sqlx::query_scalar("SELECT line FROM neighbour.book").fetch_all(&mut c).await.unwrap();
        assert_eq!(book, ["untouched"], "{format}");
        assert!(!touched.exists(), "{format}");
        assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new(), "{format}");
    }
    // One that is refused: while it is loaded, it puts something of its own where the record knows another.
    sqlx::raw_sql(
        "CREATE FUNCTION tenant_acme.late() RETURNS bool LANGUAGE plpgsql AS $f$
         BEGIN
             IF current_user LIKE 'hf\\_restore\\_%' THEN
                 EXECUTE 'CREATE OR REPLACE FUNCTION tenant_acme.waits() RETURNS bool LANGUAGE sql SECURITY DEFINER AS ''SELECT NULL::bool''';
             END IF;
             RETURN true;
         END $f$;
         CREATE TABLE tenant_acme.trap (n int CHECK (tenant_acme.late())); INSERT INTO tenant_acme.trap VALUES (1)",
    )
    .execute(&mut c)
    .await
    .unwrap();
    let before = support::schema_dump(&test.app.control, "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    let job = test.restore(&backup).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1), "{:?}", job.result);
    let told: String = sqlx::query_scalar(
        "SELECT detail ->> 'message' FROM control_plane.backup_history WHERE event = 'restore_backup_failed' AND project_id = 'acme'",
    )
    .fetch_one(&test.app.pool)
    .await
    .unwrap();
    assert!(told.contains("changed code") && told.contains("waits"), "{told}");
    assert!(support::schema_dump(&test.app.control, "tenant_acme").await == before);
    assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "DROP SCHEMA tenant_acme CASCADE; DROP OWNED BY {role} CASCADE; DROP ROLE {role}"
    )))
    .execute(&mut c)
    .await
    .unwrap();
}
