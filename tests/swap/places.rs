//! Other places than the one that a backup was taken from.

use holdfast::{
    artifact::Format,
    catalog,
    history::Backup,
    jobs::{
        queue::Job,
        request::{self, Export, RestoreRequest},
    },
    proof_record::ProofLevel,
    tenant::{Caller, Role},
};

use super::{TENANT, leftovers, run};
use crate::{
    faults::cluster::Cluster,
    support::{
        self,
        app::{TestApp, caller, export},
    },
};

async fn with_acme(test: &TestApp) -> sqlx::PgConnection {
    let mut c = test.tenants().await;
    run(&mut c, TENANT).await;
    run(
        &mut c,
        "CREATE FUNCTION tenant_acme.wipe() RETURNS void LANGUAGE sql AS 'DELETE FROM tenant_acme.more';
         CREATE FUNCTION tenant_acme.harmless() RETURNS int LANGUAGE sql AS 'SELECT 1 AS xtenant_acmex';
         CREATE TYPE tenant_acme.mood AS ENUM ('good', 'bad');
         CREATE TABLE tenant_acme.\"Odd one\" (id serial PRIMARY KEY, mood tenant_acme.mood DEFAULT 'good' CHECK (mood <> 'bad'));
         INSERT INTO tenant_acme.\"Odd one\" (mood) SELECT 'good' FROM generate_series(1, 20)",
    )
    .await;
    test.add_schema_project("acme", "tenant_acme").await;
    c
}

async fn restore(test: &TestApp, request: &RestoreRequest) -> Job {
    let job = request::restore(&test.app, &caller(), request, None).await.unwrap();
    test.run(job.job_id()).await
}

fn asked(backup: &Backup) -> RestoreRequest {
    RestoreRequest::in_place(backup.backup_id())
}

#[tokio::test]
async fn a_copy_under_another_name_leaves_the_live_schema_alone_and_names_functions_that_mean_it() {
    let test = TestApp::new().await;
    let mut c = with_acme(&test).await;
    let backup = test.backup(export("acme")).await;
    run(&mut c, "UPDATE tenant_acme.states SET state = 2").await;
    let live = support::schema_dump(&test.app.control, "tenant_acme").await;
    let request = RestoreRequest { target_schema: Some("acme copy".to_owned()), ..asked(&backup) };
    let job = restore(&test, &request).await;
    let result = job.result.unwrap_or_default();
    assert_eq!(
        (job.status.as_str(), &result["outcome"]),
        ("completed", &"verified".into()),
        "{:?} {result}",
        job.error_message
    );
    assert_eq!((&result["schema"], &result["undo_until"]), (&"acme copy".into(), &serde_json::Value::Null));
    let warnings = result["warnings"].to_string();
    assert!(
        warnings.contains("wipe()") && warnings.contains("now_at()") && !warnings.contains("harmless"),
        "{warnings}"
    );
    assert!(support::schema_dump(&test.app.control, "tenant_acme").await == live, "the live schema is as it was");
    let states: (i64, i32) =
        sqlx::query_as("SELECT count(*), max(a) FROM \"acme copy\".both").fetch_one(&mut c).await.unwrap();
    assert_eq!(states, (1000, 1));
    assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());

    // It replaced nothing, so there is nothing to undo; and a second one finds the name taken.
    let undo = request::undo(&test.app, &caller(), job.id.into(), None).await.unwrap_err();
    assert_eq!(undo.code(), "restore.not_undoable");
    let again = restore(&test, &request).await;
    assert_eq!((again.status.as_str(), again.attempts), ("failed", 1));
    assert!(again.error_message.unwrap().contains("already is a schema"));
}

#[tokio::test]
async fn single_tables_come_out_of_an_archive_into_a_schema_of_their_own() {
    let test = TestApp::new().await;
    let mut c = with_acme(&test).await;
    let live = support::schema_dump(&test.app.control, "tenant_acme").await;
    for format in [Format::Custom, Format::Tar] {
        let compression = (format == Format::Tar).then_some(holdfast::artifact::Compression::Zstd);
        let backup = test.backup(Export { format: Some(format), compression, ..export("acme") }).await;
        let tables = vec!["more".to_owned(), "Odd one".to_owned()];
        let job = restore(&test, &RestoreRequest { tables, ..asked(&backup) }).await;
        let result = job.result.unwrap_or_default();
        assert_eq!(
            (job.status.as_str(), &result["outcome"]),
            ("completed", &"verified".into()),
            "{:?} {result}",
            job.error_message
        );
        let schema = result["schema"].as_str().unwrap().to_owned();
        assert!(schema.starts_with("hf_tables_"), "{schema}");
        let relations: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind <> 'i' ORDER BY 1",
        )
        .bind(&schema)
        .fetch_all(&mut c)
        .await
        .unwrap();
        assert_eq!(relations, ["Odd one", "Odd one_id_seq", "more"], "{format}");
        let kinds: Vec<String> = sqlx::query_scalar(
            "SELECT contype::text FROM pg_constraint WHERE connamespace = $1::regnamespace AND contype <> 'n' ORDER BY 1",
        )
        .bind(&schema)
        .fetch_all(&mut c)
        .await
        .unwrap();
        assert_eq!(kinds, ["c", "p", "p"], "keys and checks, no foreign key");
        let sql = format!("SELECT (SELECT count(*) FROM {schema}.more), (SELECT count(*) FROM {schema}.\"Odd one\")");
        let rows: (i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&mut c).await.unwrap();
        assert_eq!(rows, (1000, 20), "{format}");
        run(&mut c, &format!("INSERT INTO {schema}.\"Odd one\" DEFAULT VALUES; DROP SCHEMA {schema} CASCADE")).await;
        assert!(
            support::schema_dump(&test.app.control, "tenant_acme").await == live,
            "{format}: the live schema is as it was"
        );
        assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());
    }
    // Of what is kept a recorded owner who is gone is told, and what is dropped has none to tell of.
    let gone = format!("gone_{}", uuid::Uuid::now_v7().simple());
    let owns = format!(
        "CREATE ROLE {gone}; ALTER TABLE tenant_acme.more OWNER TO {gone}; ALTER TABLE tenant_acme.states OWNER TO {gone}"
    );
    run(&mut c, &owns).await;
    let archive = Export { format: Some(Format::Custom), ..export("acme") };
    let owned = test.backup(archive.clone()).await;
    let uncounted = test.backup(Export { proof: Some(ProofLevel::Off), ..archive }).await;
    run(&mut c, &format!("REASSIGN OWNED BY {gone} TO CURRENT_USER; DROP OWNED BY {gone}; DROP ROLE {gone}")).await;
    let missing = format!("role \"{gone}\" does not exist: 1 owners or grants that name it were not given back");
    let not_counted = "no rows were counted to compare with (proof: off)".to_owned();
    for (backup, told) in [(&owned, vec![missing.clone()]), (&uncounted, vec![missing, not_counted])] {
        let tables = vec!["more".to_owned()];
        let job = restore(&test, &RestoreRequest { tables, ..asked(backup) }).await;
        let result = job.result.unwrap_or_default();
        assert_eq!((&result["outcome"], &result["differences"]), (&"differences".into(), &told.into()), "{result}");
        run(&mut c, &format!("DROP SCHEMA {} CASCADE", result["schema"].as_str().unwrap())).await;
    }
    // Where no rows were counted no list tells of a table that is missing, but the restore does.
    let request = RestoreRequest { tables: vec!["nothing".to_owned()], ..asked(&uncounted) };
    let job = restore(&test, &request).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    let message = job.error_message.unwrap();
    assert!(message.contains("\"nothing\"") && message.contains("did not come out of the backup"), "{message}");
    assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());
    // Not out of a text, and not what is not in it.
    let text = test.backup(export("acme")).await;
    let archive = test.backup(Export { format: Some(Format::Custom), ..export("acme") }).await;
    for (backup, table, what) in [(&text, "more", "one text"), (&archive, "nothing", "no rows of a table")] {
        let request = RestoreRequest { tables: vec![table.to_owned()], ..asked(backup) };
        let refused = request::restore(&test.app, &caller(), &request, None).await.unwrap_err();
        assert_eq!(refused.code(), "request.target");
        assert!(refused.to_string().contains(what), "{refused}");
    }
}

#[tokio::test]
async fn another_database_is_restored_to_and_made_on_request_also_on_another_server() {
    let test = TestApp::new().await;
    let mut c = with_acme(&test).await;
    let backup = test.backup(export("acme")).await;
    let before = support::schema_dump(&test.app.control, "tenant_acme").await;
    let cluster = Cluster::start().await;
    let sealed = test.app.keys.seal_database("staging", &cluster.info).unwrap();
    catalog::add_database(&test.app.pool, "staging", &sealed, "staging").await.unwrap();
    let unique = uuid::Uuid::now_v7().simple().to_string();
    for (server, at) in [(None, &test.app.control), (Some("staging".to_owned()), &cluster.info)] {
        // Made for it, under the schema's own name and under another.
        for (i, becomes) in [None, Some("acme".to_owned())].into_iter().enumerate() {
            let database = format!("made_{i}_{unique}");
            let schema = becomes.clone().unwrap_or_else(|| "tenant_acme".to_owned());
            let request = RestoreRequest {
                target_server: server.clone(),
                target_database: Some(database.clone()),
                create_database: true,
                target_schema: becomes,
                ..asked(&backup)
            };
            let job = restore(&test, &request).await;
            let result = job.result.unwrap_or_default();
            assert_eq!(job.status, "completed", "{:?}", job.error_message);
            assert_eq!(result["outcome"], "verified", "{result}");
            assert_eq!(result["server"], server.clone().map_or(serde_json::Value::Null, Into::into));
            let text = support::schema_dump(&at.with_database(&database), &schema).await;
            if schema == "tenant_acme" {
                assert!(text == before || server.is_some(), "what is there is what was backed up");
            }
            assert!(text.contains("CREATE TABLE") && text.lines().filter(|line| line.ends_with("xxx")).count() == 1000);
            let warns = result["warnings"].to_string().contains("wipe()");
            assert_eq!(warns, schema != "tenant_acme", "{result}");
            // It is there now, so it is not made again.
            let again = restore(&test, &request).await;
            assert_eq!((again.status.as_str(), again.attempts), ("failed", 1));
            assert!(again.error_message.unwrap().contains("already is a database"));
        }
        // One that is there.
        let database = format!("there_{unique}");
        let mut admin = support::connect(at).await;
        run(&mut admin, &format!("CREATE DATABASE {database} TEMPLATE template0")).await;
        let request =
            RestoreRequest { target_server: server.clone(), target_database: Some(database.clone()), ..asked(&backup) };
        let job = restore(&test, &request).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        let mut there = support::connect(&at.with_database(&database)).await;
        let rows: i64 =
            sqlx::query_scalar("SELECT count(*) FROM tenant_acme.both").fetch_one(&mut there).await.unwrap();
        assert_eq!(rows, 1000);
        let kept = support::schema_dump(&at.with_database(&database), "tenant_acme").await;
        let again = restore(&test, &request).await;
        assert!(again.error_message.unwrap().contains("already is a schema"), "it replaces nothing elsewhere");
        let copy = restore(&test, &RestoreRequest { target_schema: Some("second".to_owned()), ..request }).await;
        assert_eq!(copy.status, "completed", "{:?}", copy.error_message);
        assert!(support::schema_dump(&at.with_database(&database), "tenant_acme").await == kept);
        assert_eq!(leftovers(&mut c, &test).await, Vec::<String>::new());
    }
    let missing = RestoreRequest { target_database: Some(format!("missing_{unique}")), ..asked(&backup) };
    let job = restore(&test, &missing).await;
    assert_eq!((job.status.as_str(), job.attempts), ("failed", 1));
    assert!(job.error_message.unwrap().contains("does not exist"));
    assert!(support::schema_dump(&test.app.control, "tenant_acme").await == before, "the live schema is as it was");
}

#[tokio::test]
async fn places_beside_ones_own_are_for_operators_and_a_schema_of_another_project_is_nobodys_target() {
    let test = TestApp::new().await;
    with_acme(&test).await;
    test.add_schema_project("globex", "tenant_globex").await;
    let backup = test.backup(export("acme")).await;
    let member = Caller { role: Role::Member, project_ids: vec!["acme".parse().unwrap()], ..caller() };
    for request in [
        RestoreRequest { target_database: Some("other".to_owned()), ..asked(&backup) },
        RestoreRequest { target_server: Some("other".to_owned()), ..asked(&backup) },
        RestoreRequest { target_schema: Some("other".to_owned()), ..asked(&backup) },
    ] {
        let refused = request::restore(&test.app, &member, &request, None).await.unwrap_err();
        assert_eq!(refused.code(), "restore.target_operator");
    }
    for (request, what) in [
        (RestoreRequest { target_server: Some("other".to_owned()), ..asked(&backup) }, "there is no database"),
        (RestoreRequest { target_schema: Some("tenant_globex".to_owned()), ..asked(&backup) }, "globex"),
        (RestoreRequest { target_schema: Some("tenant_acme".to_owned()), ..asked(&backup) }, "acme"),
        (RestoreRequest { target_schema: Some("hf_before_x".to_owned()), ..asked(&backup) }, "hf_before_"),
        (RestoreRequest { target_schema: Some("pg_x".to_owned()), ..asked(&backup) }, "PostgreSQL"),
        (RestoreRequest { create_database: true, ..asked(&backup) }, "target.database"),
    ] {
        let refused = request::restore(&test.app, &caller(), &request, None).await.unwrap_err();
        assert_eq!(refused.code(), "request.target", "{refused}");
        assert!(refused.to_string().contains(what), "{refused}");
    }
}
