//! Trials in the embedded PostgreSQL: of tenants that live in it, and of others', where the configuration says so.

use holdfast::{
    catalog::{self, NewProject, ProjectScope},
    ids::RestoreId,
    jobs::request::{self, Depth, VerifyRequest},
    postgres::embedded::EmbeddedCluster,
};
use serde_json::json;

use super::scene::run;
use crate::support::{
    self,
    app::{TestApp, caller, export},
};

#[tokio::test]
async fn trials_go_to_the_embedded_server_and_leave_nothing_there() {
    let (data, tools) = (support::reachable_directory(), support::tools().await);
    let cluster = EmbeddedCluster::open(data.path(), &tools).await.unwrap();
    let elsewhere = support::fresh_database("tenants").await;
    let owner = format!("owner_{}", RestoreId::generate().short());
    for trials in ["", "holdfast-control-plane"] {
        let control = if trials.is_empty() { "one" } else { "two" };
        cluster.create_database_if_missing(control).await.unwrap();
        let at = cluster.connect_info(control);
        let test = TestApp::over(at.clone(), |config| config.trials.database = trials.to_owned()).await;
        let is_apart = !trials.is_empty();
        let mut tenants = if is_apart { elsewhere.connect().await.unwrap() } else { at.connect().await.unwrap() };
        run(
            &mut tenants,
            &format!(
                "CREATE ROLE {owner}; CREATE SCHEMA tenant_home AUTHORIZATION {owner}; SET ROLE {owner};
                 CREATE TABLE tenant_home.orders AS SELECT i AS id, repeat('x', i) AS note FROM generate_series(1, 100) i"
            ),
        )
        .await;
        if is_apart {
            let sealed = test.app.keys.seal_database("apart", &elsewhere).unwrap();
            catalog::add_database(&test.app.pool, "apart", &sealed, "apart").await.unwrap();
        }
        let new = NewProject {
            id: "home".parse().unwrap(),
            name: "home".to_owned(),
            slug: None,
            organization_id: None,
            scope: ProjectScope::Schema("tenant_home".to_owned()),
            database_name: is_apart.then(|| "apart".to_owned()),
        };
        catalog::add_project(&test.app.pool, &new).await.unwrap();
        let backup = test.backup(export("home")).await;
        let verify = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
        let job = request::verify(&test.app, &caller(), &verify, None).await.unwrap();
        let job = test.run(job.job_id()).await;
        let result = job.result.unwrap_or_default();
        assert_eq!(
            (job.status.as_str(), &result["outcome"]),
            ("completed", &json!("verified")),
            "{trials:?}: {:?} {result}",
            job.error_message
        );
        let (server, state): (Option<String>, String) =
            sqlx::query_as("SELECT plan -> 'place' ->> 'server', state FROM control_plane.restores")
                .fetch_one(&test.app.pool)
                .await
                .unwrap();
        assert_eq!((server.as_deref(), state.as_str()), (is_apart.then_some(trials), "rolled_back"));
        for at in [&at, &elsewhere] {
            let left: Vec<String> = sqlx::query_scalar(
                "SELECT name FROM (SELECT datname::text AS name FROM pg_database UNION ALL SELECT rolname::text FROM pg_roles) AS names \
                 WHERE name IN (SELECT unnest($1::text[]))",
            )
            .bind(
                sqlx::query_scalar::<_, String>(
                    "SELECT unnest(ARRAY[plan ->> 'role', plan -> 'target' ->> 'database']) FROM control_plane.restores",
                )
                .fetch_all(&test.app.pool)
                .await
                .unwrap(),
            )
            .fetch_all(&mut at.connect().await.unwrap())
            .await
            .unwrap();
            assert_eq!(left, Vec::<String>::new(), "{trials:?}");
        }
        test.app.pool.close().await;
    }
    let mut c = elsewhere.connect().await.unwrap();
    run(&mut c, &format!("DROP SCHEMA tenant_home CASCADE; DROP ROLE {owner}")).await;
    cluster.close().await.unwrap();
}
