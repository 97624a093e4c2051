//! How much is proved, and what an older manifest still says.

use holdfast::{
    artifact::Sha256Digest,
    demo::sample,
    jobs::request::Export,
    manifest::DatabaseContent,
    proof_record::{Proof, ProofLevel},
};

use super::scene::{Scene, differences, run};
use crate::support::app::{TestApp, export};

fn proof(content: &DatabaseContent) -> &Proof {
    content.proof.as_ref().unwrap()
}

#[tokio::test]
async fn each_level_finds_what_it_knows_of_and_calls_nothing_else_a_difference() {
    let scene = Scene::new().await;
    let mut c = scene.info.connect().await.unwrap();
    let full = scene.proved().await;
    let counts = scene.prove(&scene.info, ProofLevel::Counts).await.unwrap();
    let off = scene.prove(&scene.info, ProofLevel::Off).await.unwrap();
    let mut older = counts.clone();
    older.proof = None;

    assert_eq!((proof(&full).rows.len(), full.counted_rows()), (full.tables.len(), counts.counted_rows()));
    assert_eq!(full.tables, counts.tables);
    assert_eq!((proof(&counts).rows.len(), proof(&counts).definition.clone()), (0, proof(&full).definition.clone()));
    assert_eq!(proof(&counts).definition_sha256, proof(&full).definition_sha256);
    assert_eq!((off.counted_rows(), off.table_count), (None, full.table_count));
    assert_eq!((&proof(&off).definition, &off.tables), (&proof(&full).definition, &Vec::new()));
    // They are in the manifest, and come back from it.
    for content in [&full, &counts, &off, &older] {
        let text = serde_json::to_string(content).unwrap();
        assert_eq!(serde_json::from_str::<DatabaseContent>(&text).unwrap(), *content);
    }

    let none: [usize; 4] = [0; 4];
    for (sql, told) in [
        ("SELECT", none),
        ("UPDATE t.twins SET b = 'other' WHERE a = 3", [1, 0, 0, 0]),
        ("DELETE FROM t.twins WHERE a = 3", [1, 1, 0, 1]),
        ("ALTER TABLE t.twins ALTER b SET DEFAULT 'x'", [1, 1, 1, 0]),
        ("DROP TABLE t.twins", [3, 3, 3, 3]),
        ("ALTER SEQUENCE t.numbers RESTART 1", [1, 1, 1, 1]),
    ] {
        run(&mut c, &format!("BEGIN; {sql}")).await;
        let mut found = Vec::new();
        for content in [&full, &counts, &off, &older] {
            found.push(differences(&mut c, content).await);
        }
        run(&mut c, "ROLLBACK").await;
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), told, "{sql}: {found:#?}");
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_sequence_that_moved_during_the_dump_may_stand_anywhere_in_between() {
    let scene = Scene::new().await;
    let mut c = scene.info.connect().await.unwrap();
    run(&mut c, "CREATE SEQUENCE t.down INCREMENT -1; SELECT nextval('t.down'), nextval('t.down'), nextval('t.down')")
        .await;
    let mut content = scene.proved().await;
    assert_eq!(proof(&content).moved_sequences, []);
    for (sequence, reached) in [("numbers", 30), ("down", -6)] {
        let begin = content.sequences.iter().find(|s| s.sequence == sequence).unwrap();
        let end = holdfast::manifest::SequenceValue { last_value: reached, ..begin.clone() };
        content.proof.as_mut().unwrap().moved_sequences.push(end);
    }
    for (sequence, value, is_right) in [
        ("numbers", 10, true),
        ("numbers", 25, true),
        ("numbers", 30, true),
        ("numbers", 35, false),
        ("numbers", 5, false),
        ("down", -3, true),
        ("down", -6, true),
        ("down", -7, false),
        ("down", -2, false),
    ] {
        let name = format!("t.{sequence}");
        let before: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT last_value FROM {name}")))
            .fetch_one(&mut c)
            .await
            .unwrap();
        run(&mut c, &format!("SELECT setval('{name}', {value})")).await;
        let told = differences(&mut c, &content).await;
        assert_eq!(told.is_empty(), is_right, "{sequence} at {value}: {told:?}");
        run(&mut c, &format!("SELECT setval('{name}', {before})")).await;
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_database_in_another_encoding_is_proved_in_its_own() {
    let server = crate::support::server().await;
    let mut admin = server.connect().await.unwrap();
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = format!("proof_{}", uuid::Uuid::now_v7().simple());
        let create =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        run(&mut admin, &create).await;
        let info = server.with_database(&name);
        let mut c = info.connect().await.unwrap();
        // A byte that is no UTF-8.
        run(&mut c, "CREATE SCHEMA t; CREATE TABLE t.words (id int, word text)").await;
        run(&mut c, "SET client_encoding = SQL_ASCII; INSERT INTO t.words VALUES (1, E'caf\\351')").await;
        c = info.connect().await.unwrap();
        let scene = Scene { info: info.clone(), prefix: String::new() };
        let content = scene.proved().await;
        assert_eq!(proof(&content).encoding, encoding);
        assert_eq!(differences(&mut c, &content).await, Vec::<String>::new());
        run(&mut c, "SET client_encoding = SQL_ASCII; UPDATE t.words SET word = E'caf\\350'").await;
        c = info.connect().await.unwrap();
        assert_eq!(differences(&mut c, &content).await.len(), 1);
        drop(c);
        run(&mut admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

#[tokio::test]
async fn the_request_says_how_much_is_proved_then_the_project_then_the_configuration() {
    let test = TestApp::new().await;
    sample::create_tenant(&mut test.tenants().await, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let taken = async |export: Export| {
        let backup = test.backup(export).await;
        let level = backup.manifest().unwrap().body.database().unwrap().proof.as_ref().unwrap().level;
        (level, backup.row_count.is_some())
    };
    assert_eq!(taken(export("acme")).await, (ProofLevel::Full, true));
    sqlx::query("UPDATE control_plane.projects SET settings = '{\"proof\": \"off\"}' WHERE id = 'acme'")
        .execute(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(taken(export("acme")).await, (ProofLevel::Off, false));
    let counts = Export { proof: Some(ProofLevel::Counts), ..export("acme") };
    assert_eq!(taken(counts).await, (ProofLevel::Counts, true));
}

#[tokio::test]
async fn a_text_of_megabytes_is_recorded_by_its_digest_and_a_change_at_its_end_is_named() {
    let scene = Scene::with(
        "CREATE SCHEMA t; CREATE TABLE t.a (n int);
         DO $$ BEGIN EXECUTE format('COMMENT ON TABLE t.a IS %L', repeat('é', 2000000)); END $$;
         DO $$ BEGIN EXECUTE format('CREATE FUNCTION t.long() RETURNS text LANGUAGE plpgsql AS %L', 'BEGIN /*' || repeat('x', 2000000) || '*/ END'); END $$",
    )
    .await;
    let mut c = scene.info.connect().await.unwrap();
    let content = scene.proved().await;
    let table = proof(&content).definition.iter().find(|object| object.kind == "table").unwrap();
    let digest = Sha256Digest::of("é".repeat(2_000_000).as_bytes());
    let kept = format!("{}… (2000000 characters, SHA-256 {digest})", "é".repeat(60));
    assert_eq!(table.facts["comment"], kept);
    assert!(proof(&content).definition.iter().all(|o| o.facts.values().all(|text| text.chars().count() <= 240)));
    assert_eq!(differences(&mut c, &content).await, Vec::<String>::new());
    run(&mut c, "DO $$ BEGIN EXECUTE format('COMMENT ON TABLE t.a IS %L', repeat('é', 1999999) || 'e'); END $$").await;
    let told = differences(&mut c, &content).await;
    assert!(told.len() == 1 && told[0].starts_with("table t.a: comment is é"), "{} differences", told.len());
    scene.clean().await;
}
