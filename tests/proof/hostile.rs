//! Code of the tenant that would run as the role that proves: it does not.

use std::time::Duration;

use holdfast::{
    manifest::DumpScope,
    postgres::{connect::ConnectInfo, inspect},
    proof_record::ProofLevel,
};
use secrecy::SecretString;

use super::scene::{Scene, differences, run};

/// Everything of a tenant's that a careless look would run. Each of it raises an error where it cannot write.
const HOSTILE: &str = r#"
CREATE SCHEMA t;
CREATE TABLE public.evidence (what text);
CREATE FUNCTION public.trap(what text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$ BEGIN
    INSERT INTO public.evidence VALUES (what); RAISE EXCEPTION 'the trap % was sprung', what; END $$;
SET search_path = t;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b mood);
CREATE FUNCTION mood_text(mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('cast to text'); RETURN ''; END $$;
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('cast to json'); RETURN '1'; END $$;
CREATE FUNCTION mood_jsonb(mood) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('cast to jsonb'); RETURN '1'; END $$;
CREATE FUNCTION mood_bytea(mood) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('cast to bytea'); RETURN ''; END $$;
CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood) AS IMPLICIT;
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
CREATE CAST (mood AS jsonb) WITH FUNCTION mood_jsonb(mood);
CREATE CAST (mood AS bytea) WITH FUNCTION mood_bytea(mood);
CREATE TABLE feelings (id int PRIMARY KEY, what mood, twofold pair, list mood[]);
CREATE FUNCTION row_text(feelings) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('row cast to text'); RETURN ''; END $$;
CREATE FUNCTION row_jsonb(feelings) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('row cast to jsonb'); RETURN '1'; END $$;
CREATE CAST (feelings AS text) WITH FUNCTION row_text(feelings) AS IMPLICIT;
CREATE CAST (feelings AS jsonb) WITH FUNCTION row_jsonb(feelings) AS IMPLICIT;
INSERT INTO feelings VALUES (1, 'sad', '(1,happy)', '{sad,happy}'), (2, NULL, NULL, NULL);
-- Kept in the catalog as a value of the tenant's own type.
ALTER TABLE feelings ADD COLUMN since mood DEFAULT 'happy';
CREATE FUNCTION same(mood, mood) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('operator'); RETURN true; END $$;
CREATE OPERATOR = (LEFTARG = mood, RIGHTARG = mood, FUNCTION = same);
-- Of a domain, so that no superuser is needed; found before the system's where the path says so.
CREATE FUNCTION sha256(text) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('sha256'); RETURN ''; END $$;
CREATE FUNCTION format(text, name, name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('format'); RETURN ''; END $$;
CREATE FUNCTION count(name) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('count'); RETURN 0; END $$;
CREATE FUNCTION hidden(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap('policy'); RETURN true; END $$;
ALTER TABLE feelings ENABLE ROW LEVEL SECURITY;
ALTER TABLE feelings FORCE ROW LEVEL SECURITY;
CREATE POLICY watch ON feelings USING (t.hidden(id));
CREATE FUNCTION seen() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM public.trap('view'); RETURN 1; END $$;
CREATE VIEW seen_rows AS SELECT id, t.seen() FROM feelings;
CREATE MATERIALIZED VIEW later AS SELECT id, t.seen() FROM feelings WITH NO DATA;
CREATE FUNCTION checked(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    IF current_setting('proof.armed', true) = 'yes' THEN PERFORM public.trap('check'); END IF; RETURN true; END $$;
CREATE DOMAIN careful AS int CHECK (t.checked(VALUE));
CREATE FUNCTION computed(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    IF current_setting('proof.armed', true) = 'yes' THEN PERFORM public.trap('generated'); END IF; RETURN $1; END $$;
CREATE TABLE many (id careful DEFAULT t.seen(), other int GENERATED ALWAYS AS (t.computed(3)) STORED, CHECK (t.checked(id)));
INSERT INTO many (id) SELECT i FROM pg_catalog.generate_series(1, 50) i;
CREATE INDEX indexed ON many (t.computed(id));
CREATE STATISTICS estimated ON (t.computed(id)), id FROM many;
SET search_path = '';
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = t, public', current_database());
    EXECUTE format('ALTER DATABASE %I SET proof.armed = ''yes''', current_database());
    EXECUTE format('ALTER DATABASE %I SET extra_float_digits = ''-15''', current_database());
    EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = on', current_database()); END $$;
"#;

#[tokio::test]
async fn nothing_of_the_tenants_runs_while_it_is_proved_by_a_superuser_or_by_a_dump_role() {
    let scene = Scene::with(HOSTILE).await;
    let mut c = scene.info.connect().await.unwrap();
    // The role that docs/operations.md tells to make.
    run(
        &mut c,
        &scene.named(
            "ALTER ROLE ROLE_app LOGIN BYPASSRLS PASSWORD 'proof'; GRANT pg_read_all_data TO ROLE_app; \
             ALTER ROLE ROLE_other LOGIN PASSWORD 'proof'; GRANT pg_read_all_data TO ROLE_other",
        ),
    )
    .await;
    let role = |name: &str| -> ConnectInfo {
        scene.info.with_user(format!("{}{name}", scene.prefix), SecretString::from("proof"))
    };
    let by_superuser = scene.proved().await;
    let by_dump_role = scene.prove(&role("app"), ProofLevel::Full).await.unwrap();
    let rows = |content: &holdfast::manifest::DatabaseContent| content.proof.clone().unwrap().rows;
    assert_eq!(rows(&by_superuser), rows(&by_dump_role));
    assert_eq!((by_superuser.row_count, by_dump_role.row_count), (52, 52));
    // Settings of the database make no difference either.
    assert_eq!(differences(&mut c, &by_superuser).await, Vec::<String>::new());
    // A role from whom the policy would hide rows gets an error, and no smaller count.
    let refused = scene.prove(&role("other"), ProofLevel::Full).await.unwrap_err();
    assert!(refused.message.contains("row-level security"), "{refused}");

    let evidence: Vec<String> = sqlx::query_scalar("SELECT what FROM public.evidence").fetch_all(&mut c).await.unwrap();
    assert_eq!(evidence, Vec::<String>::new());
    // The trap is no dummy.
    let sprung = sqlx::query("SELECT what::pg_catalog.text FROM t.feelings").fetch_all(&mut c).await.unwrap_err();
    assert!(sprung.to_string().contains("cast to text was sprung"), "{sprung}");

    // What no schema's dump has is listed.
    let lost = &by_superuser.requirements.not_restorable;
    assert!(lost.iter().any(|what| what == "cast (t.mood as jsonb)"), "{lost:?}");
    assert!(by_superuser.requirements.warnings().iter().any(|line| line.contains("cast (t.mood as")), "{lost:?}");
    scene.clean().await;
}

#[tokio::test]
async fn what_takes_a_sequences_place_while_it_is_looked_at_is_not_run() {
    let scene = Scene::with(
        "CREATE SCHEMA t; CREATE SEQUENCE t.numbers; CREATE TABLE t.evidence (who text);
         CREATE FUNCTION t.trap() RETURNS bool LANGUAGE sql VOLATILE AS
             'INSERT INTO t.evidence VALUES (current_user); SELECT true'",
    )
    .await;
    let (mut tenant, mut ours) = (scene.info.connect().await.unwrap(), scene.info.connect().await.unwrap());
    let is_known = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind')";
    if !sqlx::query_scalar::<_, bool>(is_known).fetch_one(&mut ours).await.unwrap() {
        // A server of before August 2024.
        return scene.clean().await;
    }
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut ours).await.unwrap();
    run(
        &mut tenant,
        "BEGIN; DROP SEQUENCE t.numbers; CREATE VIEW t.numbers AS SELECT 1::int8 AS last_value, t.trap() AS is_called",
    )
    .await;
    let looking =
        tokio::spawn(async move { inspect::sequences(&mut ours, &DumpScope::Schema { schema: "t".to_owned() }).await });
    // It has seen the sequence, and waits for it.
    let mut c = scene.info.connect().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waits).bind(pid).fetch_one(&mut c).await.unwrap() {
        assert!(tokio::time::Instant::now() < deadline, "nobody waits for the sequence");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run(&mut tenant, "COMMIT").await;
    let refused = looking.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("non-system view"), "{refused}");
    let evidence: Vec<String> = sqlx::query_scalar("SELECT who FROM t.evidence").fetch_all(&mut c).await.unwrap();
    assert_eq!(evidence, Vec::<String>::new());
    drop(tenant);
    scene.clean().await;
}
