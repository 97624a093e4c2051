//! Dump, ruin, restore, compare: every format, compression and encryption, on a tenant of every awkward kind, and on the schemas of
//! real databases where `HOLDFAST_TEST_CORPORA` names a folder of them.

use crate::support;

use std::collections::BTreeMap;

use holdfast::{
    artifact::{Compression, Format},
    catalog::ProjectScope,
    demo::sample,
    jobs::request::{self, Depth, UndoRequest, VerifyRequest},
    postgres::connect::ConnectInfo,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use support::app::{TestApp, caller, export};

/// What must be the same before and after.
#[derive(Debug, PartialEq)]
struct Picture {
    definition: String,
    rows: BTreeMap<String, (i64, String)>,
    owners_and_grants: Vec<String>,
}

async fn picture(info: &ConnectInfo, schema: &str) -> Picture {
    let mut connection = info.connect().await.unwrap();
    let picture = Picture {
        definition: support::schema_dump(info, schema).await,
        rows: support::row_digests(&mut connection, schema).await,
        owners_and_grants: support::owners_and_grants(&mut connection, schema).await,
    };
    connection.close().await.unwrap();
    picture
}

fn assert_same(before: &Picture, after: &Picture, what: &str) {
    assert_eq!(before.rows, after.rows, "{what}: rows");
    assert_eq!(before.owners_and_grants, after.owners_and_grants, "{what}: owners and grants");
    if before.definition != after.definition {
        let (a, b): (Vec<_>, Vec<_>) = (before.definition.lines().collect(), after.definition.lines().collect());
        let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
        panic!("{what}: the dumps differ at line {at}:\n{:#?}\n{:#?}", a.get(at), b.get(at));
    }
}

/// Roles that a restore of this control plane made and that are still there. Others' are none of this test's business.
async fn scratch_roles(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_roles WHERE rolname IN (SELECT plan ->> 'role' FROM control_plane.restores)",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

async fn ruin(connection: &mut PgConnection, schema: &str) {
    sample::ruin(connection, schema).await.unwrap();
}

async fn round_trip(format: Format, compression: Compression, encrypted: bool) {
    let what = format!("{format} × {compression} × {}", if encrypted { "age" } else { "plain" });
    let test = TestApp::with(|config| config.encryption.enabled = encrypted).await;
    let mut connection = test.tenants().await;
    for (schema, seed) in [("tenant_acme", 1), ("tenant_globex", 2)] {
        sample::create_tenant(&mut connection, schema, seed).await.unwrap();
    }
    test.add_schema_project("acme", "tenant_acme").await;
    let before = picture(&test.app.control, "tenant_acme").await;
    let neighbour = picture(&test.app.control, "tenant_globex").await;

    let backup =
        test.backup(request::Export { format: Some(format), compression: Some(compression), ..export("acme") }).await;
    assert!(backup.table_count.unwrap() > 5 && backup.row_count.unwrap() > 100, "{what}: {backup:?}");
    ruin(&mut connection, "tenant_acme").await;
    assert_ne!(picture(&test.app.control, "tenant_acme").await.rows, before.rows, "{what}: ruined");

    let job = test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{what}: {:?}", job.error_message);
    let result = job.result.as_ref().unwrap();
    assert_eq!((&result["outcome"], &result["differences"]), (&"verified".into(), &serde_json::json!([])), "{what}");
    assert_same(&before, &picture(&test.app.control, "tenant_acme").await, &what);
    assert_same(&neighbour, &picture(&test.app.control, "tenant_globex").await, &format!("{what}: neighbour"));
}

macro_rules! round_trips {
    ($($name:ident: $format:ident, $compression:ident, $encrypted:literal;)+) => {
        $(#[tokio::test]
        async fn $name() {
            round_trip(Format::$format, Compression::$compression, $encrypted).await;
        })+
    };
}

round_trips! {
    sql_gzip_encrypted_comes_back: Sql, Gzip, true;
    sql_gzip_plain_comes_back: Sql, Gzip, false;
    sql_zstd_encrypted_comes_back: Sql, Zstd, true;
    sql_zstd_plain_comes_back: Sql, Zstd, false;
    sql_uncompressed_encrypted_comes_back: Sql, None, true;
    sql_uncompressed_plain_comes_back: Sql, None, false;
    tar_gzip_encrypted_comes_back: Tar, Gzip, true;
    tar_gzip_plain_comes_back: Tar, Gzip, false;
    tar_zstd_encrypted_comes_back: Tar, Zstd, true;
    tar_zstd_plain_comes_back: Tar, Zstd, false;
    tar_uncompressed_encrypted_comes_back: Tar, None, true;
    tar_uncompressed_plain_comes_back: Tar, None, false;
    custom_encrypted_comes_back: Custom, None, true;
    custom_plain_comes_back: Custom, None, false;
}

#[tokio::test]
async fn a_restore_is_undone_and_every_trial_leaves_nothing() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let good = picture(&test.app.control, "tenant_acme").await;
    let backup = test.backup(export("acme")).await;

    for depth in [Depth::Head, Depth::Read, Depth::Restore] {
        let request = VerifyRequest { backup_id: backup.backup_id(), depth };
        let job = request::verify(&test.app, &caller(), &request, None).await.unwrap();
        let job = test.run(job.job_id()).await;
        assert_eq!(job.status, "completed", "{depth}: {:?}", job.error_message);
        assert_eq!(job.result.unwrap()["outcome"], "verified", "{depth}");
    }
    let trials: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_database WHERE datname IN (SELECT plan -> 'target' ->> 'database' FROM control_plane.restores)",
    )
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(trials, 0);

    ruin(&mut connection, "tenant_acme").await;
    let ruined = picture(&test.app.control, "tenant_acme").await;
    let restore = test.restore(&backup).await;
    assert_same(&good, &picture(&test.app.control, "tenant_acme").await, "restored");
    let undo =
        request::undo(&test.app, &caller(), UndoRequest { restore_job_id: restore.job_id() }.restore_job_id, None)
            .await
            .unwrap();
    let undo = test.run(undo.job_id()).await;
    assert_eq!(undo.status, "completed", "{:?}", undo.error_message);
    assert_same(&ruined, &picture(&test.app.control, "tenant_acme").await, "undone");
    assert!(request::undo(&test.app, &caller(), restore.job_id(), None).await.is_err(), "an undo is not undone");
    assert_eq!(scratch_roles(&mut connection).await, 0);
}

#[tokio::test]
async fn a_replaced_schema_is_dropped_when_its_window_has_passed_and_not_before() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "tenant_acme", 1).await.unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let backup = test.backup(export("acme")).await;
    test.restore(&backup).await;
    let kept = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'hf\\_before\\_%'";
    let count = |connection: PgConnection| async move {
        let mut connection = connection;
        sqlx::query_scalar::<_, i64>(kept).fetch_one(&mut connection).await.unwrap()
    };
    holdfast::jobs::drop_replaced::enqueue_due(&test.app).await.unwrap();
    assert_eq!(count(test.tenants().await).await, 1, "the window is open");
    sqlx::query("UPDATE control_plane.restores SET undo_until = now() - interval '1 second'")
        .execute(&test.app.pool)
        .await
        .unwrap();
    holdfast::jobs::drop_replaced::enqueue_due(&test.app).await.unwrap();
    holdfast::jobs::drop_replaced::enqueue_due(&test.app).await.unwrap();
    let jobs: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE type = 'drop_replaced'")
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
    assert_eq!(jobs.len(), 1, "however many workers look");
    let job = test.run(jobs[0].into()).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert_eq!(count(test.tenants().await).await, 0);
}

#[tokio::test]
async fn a_whole_database_comes_back_as_a_new_one() {
    let test = TestApp::new().await;
    let mut connection = test.tenants().await;
    sample::create_tenant(&mut connection, "shop", 1).await.unwrap();
    sample::create_tenant(&mut connection, "Back Office", 2).await.unwrap();
    test.add_project("platform", ProjectScope::WholeDatabase).await;
    let before = (picture(&test.app.control, "shop").await, picture(&test.app.control, "Back Office").await);
    for format in Format::DUMPS {
        let backup = test.backup(request::Export { format: Some(*format), ..export("platform") }).await;
        let job = test.restore(&backup).await;
        assert_eq!(job.status, "completed", "{format}: {:?}", job.error_message);
        let result = job.result.unwrap();
        assert_eq!(result["differences"], serde_json::json!([]), "{format}");
        let database = result["database"].as_str().unwrap();
        let info = test.app.control.with_database(database);
        assert_same(&before.0, &picture(&info, "shop").await, &format!("{format}: shop"));
        assert_same(&before.1, &picture(&info, "Back Office").await, &format!("{format}: Back Office"));
        let mut restored = info.connect().await.unwrap();
        let ours: bool = sqlx::query_scalar("SELECT to_regnamespace('control_plane') IS NOT NULL")
            .fetch_one(&mut restored)
            .await
            .unwrap();
        assert!(!ours, "{format}: the control plane is not part of a project's backup");
        restored.close().await.unwrap();
        let drop = format!("DROP DATABASE \"{database}\" WITH (FORCE)");
        connection.execute(AssertSqlSafe(drop)).await.unwrap();
    }
}

#[tokio::test]
async fn every_schema_of_real_databases_comes_back() {
    let Some(folder) = std::env::var_os("HOLDFAST_TEST_CORPORA") else {
        println!("HOLDFAST_TEST_CORPORA names no folder: nothing to load");
        return;
    };
    let mut dumps: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dump"))
        .collect();
    dumps.sort();
    assert!(!dumps.is_empty(), "the folder holds no dumps");
    for dump in dumps {
        let test = TestApp::new().await;
        support::app::load_custom_dump(&test.app.control, &dump).await;
        let mut connection = test.tenants().await;
        let schemas: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'control_plane')
             AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid) ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        assert!(!schemas.is_empty(), "{}", dump.display());
        for (number, schema) in schemas.iter().enumerate() {
            let id = format!("p{number}");
            test.add_schema_project(&id, schema).await;
            let before = picture(&test.app.control, schema).await;
            for format in Format::DUMPS {
                let what = format!("{} {schema} {format}", dump.display());
                let compression = if *format == Format::Custom { Compression::None } else { Compression::Zstd };
                let backup = test
                    .backup(request::Export { format: Some(*format), compression: Some(compression), ..export(&id) })
                    .await;
                let job = test.restore(&backup).await;
                assert_eq!(job.status, "completed", "{what}: {:?}", job.error_message);
                assert_eq!(job.result.unwrap()["differences"], serde_json::json!([]), "{what}");
                assert_same(&before, &picture(&test.app.control, schema).await, &what);
            }
        }
    }
}
