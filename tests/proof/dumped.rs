//! The rows' digests out of the dump's own lines: the same as those of a second reading, or a second reading.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use holdfast::{
    artifact::{Format, Sha256Digest},
    manifest::{Content, DatabaseContent},
    postgres::{
        tools::{ClientTool, Tools},
        value_text,
    },
    proof_record::{ProofLevel, RowsDigest},
    source::{
        Source as _, SourceError,
        pg_dump::{PgDump, PgDumpOptions},
    },
};
use sha2::{Digest as _, Sha256};

use super::scene::{Scene, differences, options, run, scope};

/// Dumps, and gives the dump and what its manifest would say.
async fn dump(options: PgDumpOptions, tools: Tools) -> Result<(Vec<u8>, DatabaseContent), SourceError> {
    let mut source = Box::new(PgDump::new(Arc::new(tools), options).proving(ProofLevel::Full));
    let mut reader = source.start().await?;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = read.await.unwrap().unwrap();
    match source.finish().await?.holds {
        Content::Database(content) => Ok((bytes, content)),
        other => panic!("{other:?}"),
    }
}

async fn proved(scene: &Scene, format: Format) -> BTreeMap<String, RowsDigest> {
    let options = PgDumpOptions { format, ..options(&scene.info) };
    let (_, content) = dump(options, crate::support::tools().await).await.unwrap();
    let rows = content.proof.unwrap().rows;
    assert_eq!(rows.len(), content.tables.len());
    rows.into_iter().map(|digest| (digest.table.clone(), digest)).collect()
}

#[tokio::test]
async fn a_plain_dump_is_proved_as_one_that_is_read_twice_whatever_the_database_prefers() {
    let scene = Scene::new().await;
    let mut c = scene.info.connect().await.unwrap();
    run(
        &mut c,
        "CREATE TABLE t.relations (name regclass); INSERT INTO t.relations VALUES ('t.accounts'), ('t.relations')",
    )
    .await;
    let read_twice = proved(&scene, Format::Custom).await;
    let database = scene.info.database.clone();
    for setting in [
        "application_name = 'x'",
        "bytea_output = 'escape'",
        "TimeZone = 'Asia/Kolkata'",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'sql_standard'",
        "extra_float_digits = -3",
        "lc_monetary = 'C.UTF-8'",
        "quote_all_identifiers = on",
        "client_encoding = 'LATIN1'",
        "standard_conforming_strings = off",
        "search_path = t",
    ] {
        // The tenant has `money`, and the server may prefer any way to write it.
        run(
            &mut c,
            &format!("ALTER DATABASE {database} SET lc_monetary = 'C'; ALTER DATABASE {database} SET {setting}"),
        )
        .await;
        assert_eq!(proved(&scene, Format::Sql).await, read_twice, "{setting}");
        let (scope, changes_text) = (scope(), ["bytea", "lc_mo", "quote"].iter().any(|name| setting.starts_with(name)));
        let mut fresh = scene.info.connect().await.unwrap();
        let is_usual = value_text::is_the_same_by_default(&mut fresh, (&scope).into()).await.unwrap();
        assert_eq!(is_usual, !changes_text, "{setting}");
        run(&mut c, &format!("ALTER DATABASE {database} RESET ALL")).await;
    }
    // Only `money` is written by `lc_monetary`: as it is, and within an array, a domain, a row or a range.
    run(&mut c, &format!("ALTER DATABASE {database} SET lc_monetary = 'C.UTF-8'; ALTER TABLE t.accounts DROP amount"))
        .await;
    run(&mut c, "CREATE DOMAIN t.cost AS money; CREATE TYPE t.pays AS (to_whom text, how_much t.cost[])").await;
    run(&mut c, "CREATE TYPE t.costs AS RANGE (subtype = money)").await;
    for (column, is_usual) in [
        ("int", true),
        ("money[]", false),
        ("t.cost", false),
        ("t.pays", false),
        ("t.pays[]", false),
        ("t.costs", false),
    ] {
        run(&mut c, &format!("ALTER TABLE t.twins ADD it {column}")).await;
        let (scope, mut fresh) = (scope(), scene.info.connect().await.unwrap());
        let found = value_text::is_the_same_by_default(&mut fresh, (&scope).into()).await.unwrap();
        assert_eq!(found, is_usual, "{column}");
        run(&mut c, "ALTER TABLE t.twins DROP it").await;
    }
    scene.clean().await;
}

/// `pg_dump` writes their rows under the root's name, and a restore finds other partitions for them.
#[tokio::test]
async fn rows_of_partitions_by_the_hash_of_an_enum_are_read_twice() {
    let scene = Scene::with(
        "CREATE SCHEMA t; CREATE TYPE t.mood AS ENUM ('sad', 'ok', 'happy');
         CREATE TABLE t.a (id int, m t.mood) PARTITION BY RANGE (id);
         CREATE TABLE t.b PARTITION OF t.a FOR VALUES FROM (0) TO (10) PARTITION BY HASH (m);
         CREATE TABLE t.c PARTITION OF t.b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE t.d PARTITION OF t.b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE t.e PARTITION OF t.a FOR VALUES FROM (10) TO (20);
         INSERT INTO t.a VALUES (1, 'sad'), (2, 'ok'), (3, 'happy'), (11, 'ok')",
    )
    .await;
    let (bytes, content) = dump(options(&scene.info), crate::support::tools().await).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let through_root = text.lines().filter(|line| line.starts_with("COPY t.a (id, m) FROM stdin;")).count();
    assert_eq!((through_root, text.contains("COPY t.e ")), (2, true), "{text}");
    assert_eq!(content.counted_rows(), Some(4));
    assert_eq!(proved(&scene, Format::Sql).await, proved(&scene, Format::Custom).await);
    let mut c = scene.info.connect().await.unwrap();
    for (sql, expected) in [
        ("SELECT", None),
        // As a restore may find them: every row in the other partition.
        ("ALTER TABLE t.b DETACH PARTITION t.c; ALTER TABLE t.b DETACH PARTITION t.d; ALTER TABLE t.c RENAME TO x; ALTER TABLE t.d RENAME TO c;
          ALTER TABLE t.x RENAME TO d; ALTER TABLE t.b ATTACH PARTITION t.c FOR VALUES WITH (MODULUS 2, REMAINDER 1);
          ALTER TABLE t.b ATTACH PARTITION t.d FOR VALUES WITH (MODULUS 2, REMAINDER 0)", None),
        ("UPDATE t.a SET id = 4 WHERE id = 3", Some("table t.a with its partitions by hash has other rows")),
        ("DELETE FROM t.a WHERE id = 1", Some("table t.a with its partitions by hash has 2 rows instead of 3")),
    ] {
        run(&mut c, &format!("BEGIN; {sql}")).await;
        let told: Vec<_> =
            differences(&mut c, &content).await.into_iter().filter(|line| line.contains(" rows")).collect();
        run(&mut c, "ROLLBACK").await;
        assert_eq!(told.len(), usize::from(expected.is_some()), "{sql}: {told:?}");
        assert!(told.iter().zip(expected).all(|(line, begin)| line.starts_with(begin)), "{sql}: {told:?}");
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_dump_that_imitates_itself_is_read_twice() {
    let scene = Scene::with(
        "CREATE SCHEMA t; CREATE TABLE t.a (x text, \"B b\" int); CREATE TABLE t.b (y int); CREATE TABLE t.none ();
         CREATE TABLE t.\"two\nlines\" (x int, \"q\"\"q\" text); CREATE TABLE t.ordinary (\"in\nit\" int);
         INSERT INTO t.a SELECT 'line ' || i, i FROM pg_catalog.generate_series(1, 20) i; INSERT INTO t.b VALUES (1), (2);
         INSERT INTO t.\"two\nlines\" VALUES (1, 'x'); INSERT INTO t.none DEFAULT VALUES; INSERT INTO t.ordinary VALUES (1)",
    )
    .await;
    let mut c = scene.info.connect().await.unwrap();
    let imitation =
        |lines: &str| format!("CREATE FUNCTION t.f() RETURNS text LANGUAGE plpgsql AS $$ /*\n{lines}*/ BEGIN END $$");
    for sql in [
        "SELECT".to_owned(),
        imitation("COPY t.a (x, \"B b\") FROM stdin;\nforged\t1\n\\.\n"),
        imitation("COPY t.a (x, \"B b\") FROM stdin;\n"),
        imitation("COPY t.none  FROM stdin;\n"),
        imitation("COPY nothing FROM stdin;\n"),
        imitation("SET client_encoding = 'LATIN1';\n"),
        "INSERT INTO t.a VALUES ('COPY t.b (y) FROM stdin;')".to_owned(),
        "TRUNCATE t.a; ALTER TABLE t.a DROP \"B b\"; INSERT INTO t.a VALUES ('COPY t.b (y) FROM stdin;'), (E'\\\\.'), (E'a\\nb')"
            .to_owned(),
    ] {
        run(&mut c, &sql).await;
        let plain = proved(&scene, Format::Sql).await;
        assert_eq!(plain, proved(&scene, Format::Custom).await, "{sql}");
        assert_eq!(plain.len(), 5);
        run(&mut c, "DROP FUNCTION IF EXISTS t.f()").await;
    }
    scene.clean().await;
}

#[tokio::test]
async fn a_dump_that_lacks_a_row_or_a_table_is_no_backup_although_pg_dump_ended_well() {
    let scene = Scene::with(
        "CREATE SCHEMA t; CREATE TABLE t.a (x text); CREATE TABLE t.b (y int); INSERT INTO t.b VALUES (1);
         INSERT INTO t.a SELECT 'line ' || i FROM pg_catalog.generate_series(1, 20) i;
         CREATE TABLE t.large (x text); INSERT INTO t.large SELECT 'large ' || i FROM pg_catalog.generate_series(1, 20) i;
         UPDATE pg_catalog.pg_class SET relpages = 9000 WHERE oid = 't.large'::regclass",
    )
    .await;
    let mut c = scene.info.connect().await.unwrap();
    let server = holdfast::postgres::inspect::server_version(&mut c).await.unwrap();
    let real = crate::support::tools().await.client(ClientTool::PgDump, server).unwrap();
    for (filter, expected) in [
        ("cat", None),
        ("sed '/^line 7$/d'", Some(r#"wrote 19 of 20 rows of table "t"."a""#)),
        ("sed 's/^line 7$/line 7\\nline 7/'", Some(r#"wrote 21 of 20 rows of table "t"."a""#)),
        (r"sed '/^COPY t.b /,/^\\\.$/d'", Some(r#"wrote 0 of 1 rows of table "t"."b""#)),
        // Of large tables alone what the dump says is believed; that it says nothing of one is not.
        ("sed '/^large 7$/d'", None),
        (r"sed '/^COPY t.large /,/^\\\.$/d'", Some(r#"wrote 0 of 20 rows of table "t"."large""#)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pg_dump");
        let script = format!("#!/bin/sh\n'{}' \"$@\" | {filter}\n", real.path.display());
        // Written by another process, so that no descriptor of ours is open for writing when it is run.
        let mut writer = std::process::Command::new("/bin/sh");
        let write = "printf '%s' \"$1\" > \"$0\"; chmod 755 \"$0\"";
        assert!(writer.args(["-c", write]).arg(&path).arg(&script).status().unwrap().success());
        let tool = holdfast::postgres::tools::Tool { path, version: real.version };
        let options = PgDumpOptions { tool: Some(tool), ..options(&scene.info) };
        let told = dump(options, Tools::default()).await.map(drop).map_err(|e| (e.code, e.may_pass, e.message));
        match (expected, told) {
            (None, told) => assert_eq!(told, Ok(())),
            (Some(words), Err((code, may_pass, message))) => {
                assert_eq!((code, may_pass), ("source.incomplete", true), "{filter}");
                assert_eq!(message, format!("pg_dump ended with success but {words}"));
            }
            (Some(_), Ok(())) => panic!("{filter} passed"),
        }
    }
    scene.clean().await;
}

/// The way to repeat it that docs/proof.md tells, and the digest of version 1.
#[tokio::test]
async fn digests_can_be_repeated_from_the_dump_and_those_of_older_backups_are_compared() {
    let sum = |lines: &mut dyn Iterator<Item = String>| {
        let mut sum = [0_u16; 32];
        for line in lines {
            let digest = Sha256::digest(&line);
            let mut carry = 0;
            for (place, byte) in sum.iter_mut().zip(digest) {
                carry += *place + u16::from(byte);
                (*place, carry) = (carry & 0xff, carry >> 8);
            }
        }
        Sha256Digest(sum.map(|byte| byte as u8))
    };
    let scene = Scene::with(
        "CREATE SCHEMA t; CREATE TABLE t.a (z text, a int); INSERT INTO t.a VALUES ('x', 1), ('y', 2), ('y', 2), (NULL, 3)",
    )
    .await;
    let mut c = scene.info.connect().await.unwrap();
    let (dump, content) = dump(options(&scene.info), crate::support::tools().await).await.unwrap();
    let text = String::from_utf8(dump).unwrap();
    let lines = || text.lines().skip_while(|l| *l != "COPY t.a (z, a) FROM stdin;").skip(1).take_while(|l| *l != "\\.");
    let proof = content.proof.as_ref().unwrap();
    assert_eq!((proof.version, proof.rows[0].columns.len()), (2, 0));
    assert_eq!(proof.rows[0].sha256_sum, sum(&mut lines().map(str::to_owned)));

    let mut older = content.clone();
    let proof = older.proof.as_mut().unwrap();
    proof.version = 1;
    let by_name = |line: &str| line.split_once('\t').map(|(z, a)| format!("{a}\t{z}")).unwrap();
    proof.rows[0].sha256_sum = sum(&mut lines().map(by_name));
    for (sql, number) in [("SELECT", 0), ("UPDATE t.a SET z = 'other' WHERE a = 3", 1)] {
        run(&mut c, sql).await;
        for content in [&content, &older] {
            assert_eq!(differences(&mut c, content).await.len(), number, "{sql}");
        }
    }
    scene.clean().await;
}
