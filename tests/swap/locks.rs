//! A server whose lock table has no room for a whole schema: everything that is done to one is done there in parts.

use std::time::Duration;

use holdfast::{
    catalog::{self, NewProject, ProjectScope},
    ids::JobId,
    jobs::{
        drop_replaced,
        queue::{self, Job},
        request::{self, Depth, RestoreRequest, VerifyRequest},
    },
    proof_record::ProofLevel,
};
use serde_json::json;
use uuid::Uuid;

use super::run;
use crate::{
    faults::cluster::Cluster,
    support::{
        self,
        app::{TestApp, caller, everything, export},
    },
};

/// Works on a job to its end, and gives why it was not done in one transaction, as its progress told meanwhile.
async fn told(test: &TestApp, job: JobId) -> (Job, Option<String>) {
    let looking = async {
        loop {
            let now = queue::get(&test.app.pool, &everything(), job).await.unwrap();
            let because = now.progress.as_ref().and_then(|progress| progress["way_because"].as_str());
            if because.is_some() || now.is_final() {
                return because.map(str::to_owned);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::join!(test.run(job), looking)
}

#[tokio::test]
async fn where_few_locks_fit_a_schema_is_backed_up_tried_restored_undone_and_dropped() {
    let cluster = Cluster::start().await;
    let mut c = cluster.info.connect().await.unwrap();
    for sql in [
        "ALTER SYSTEM SET max_locks_per_transaction = 10",
        "ALTER SYSTEM SET max_connections = 20",
        "CREATE DATABASE app TEMPLATE template0",
        "CHECKPOINT",
    ] {
        run(&mut c, sql).await;
    }
    drop(c);
    cluster.crash().await;
    let tenants = cluster.info.with_database("app");
    let mut c = tenants.connect().await.unwrap();
    run(&mut c, "CREATE ROLE the_owner; CREATE SCHEMA tenant_acme AUTHORIZATION the_owner").await;
    // Few tables, as a manifest counts them; with their indexes more than the table of locks holds. Less would be too little for pg_dump, which
    // needs some hundred for the catalogs alone.
    for table in 0..18 {
        let name = format!("tenant_acme.t{table}");
        let indexes: Vec<String> = (0..80).map(|i| format!("CREATE INDEX i{table}_{i} ON {name} (n)")).collect();
        run(
            &mut c,
            &format!("CREATE TABLE {name} (n int); INSERT INTO {name} VALUES ({table}); {}", indexes.join(";")),
        )
        .await;
        run(&mut c, &format!("ALTER TABLE {name} OWNER TO the_owner")).await;
    }
    let at_once = sqlx::raw_sql("BEGIN; DROP SCHEMA tenant_acme CASCADE; ROLLBACK").execute(&mut c).await;
    assert!(at_once.is_err_and(|error| error.to_string().contains("out of shared memory")), "it fits");
    run(&mut c, "ROLLBACK").await;

    let test = TestApp::new().await;
    let sealed = test.app.keys.seal_database("small", &tenants).unwrap();
    catalog::add_database(&test.app.pool, "small", &sealed, "small").await.unwrap();
    let new = NewProject {
        id: "acme".parse().unwrap(),
        name: "acme".to_owned(),
        slug: None,
        organization_id: None,
        scope: ProjectScope::Schema("tenant_acme".to_owned()),
        database_name: Some("small".to_owned()),
    };
    catalog::add_project(&test.app.pool, &new).await.unwrap();
    let before = support::schema_dump(&tenants, "tenant_acme").await;
    let backup = test.backup(request::Export { proof: Some(ProofLevel::Full), ..export("acme") }).await;

    // What the backup tells lets one transaction be tried, which the server refuses.
    let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
    let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
    let (job, because) = told(&test, job.job_id()).await;
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{:?}", job.error_message);
    assert_eq!(job.result.as_ref().unwrap()["outcome"], "verified", "{:?}", job.result);
    assert_eq!(because.as_deref(), Some("the server's lock table was full"));

    run(&mut c, "UPDATE tenant_acme.t1 SET n = 77").await;
    let request = RestoreRequest::in_place(backup.backup_id());
    let job = request::restore(&test.app, &caller(), &request, None).await.unwrap();
    let (job, because) = told(&test, job.job_id()).await;
    let result = job.result.clone().unwrap_or_default();
    assert_eq!((job.status.as_str(), job.attempts), ("completed", 1), "{:?}", job.error_message);
    assert_eq!((&result["way"], &result["outcome"]), (&json!("renamed aside"), &json!("verified")), "{result}");
    assert!(because.as_ref().is_some_and(|because| because.contains("max_locks_per_transaction")), "{because:?}");
    assert_eq!(result["way_because"].as_str(), because.as_deref());
    assert!(support::schema_dump(&tenants, "tenant_acme").await == before, "everything has come back");
    let undo = request::undo(&test.app, &caller(), job.job_id(), None).await.unwrap();
    let undone = test.run(undo.job_id()).await;
    assert_eq!(undone.status, "completed", "{:?}", undone.error_message);
    let n: i32 = sqlx::query_scalar("SELECT n FROM tenant_acme.t1").fetch_one(&mut c).await.unwrap();
    assert_eq!(n, 77);

    sqlx::query("UPDATE control_plane.restores SET undo_until = now() - interval '1 second'")
        .execute(&test.app.pool)
        .await
        .unwrap();
    drop_replaced::enqueue_due(&test.app).await.unwrap();
    let tidying: Uuid = sqlx::query_scalar("SELECT id FROM control_plane.jobs WHERE type = 'drop_replaced'")
        .fetch_one(&test.app.pool)
        .await
        .unwrap();
    let tidied = test.run(tidying.into()).await;
    assert_eq!(tidied.status, "completed", "{:?}", tidied.error_message);
    assert!(tidied.result.unwrap()["dropped"].is_string());
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'hf\\_%' UNION ALL SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'hf\\_%' \
         UNION ALL SELECT datname::text FROM pg_database WHERE datname LIKE 'hf\\_%'",
    )
    .fetch_all(&mut c)
    .await
    .unwrap();
    assert_eq!(left, Vec::<String>::new());
}
