//! Real schemas, where `HOLDFAST_TEST_CORPORA` names a folder of custom-format dumps: dumped, restored for a trial, compared.

use holdfast::{
    artifact::Format,
    catalog::ProjectScope,
    jobs::request::{Depth, Export, VerifyRequest},
};

use crate::support::{
    self,
    app::{TestApp, caller, export, load_custom_dump},
};

#[tokio::test]
async fn every_schema_of_the_corpora_is_proved_by_a_trial_restore() {
    for dump in support::corpora() {
        let test = TestApp::new().await;
        load_custom_dump(&test.app.control, &dump).await;
        let schemas: Vec<String> = sqlx::query_scalar(
            "SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname !~ '^pg_' \
             AND n.nspname NOT IN ('information_schema', 'control_plane') \
             AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r') ORDER BY 1",
        )
        .fetch_all(&test.app.pool)
        .await
        .unwrap();
        assert!(!schemas.is_empty(), "{}", dump.display());
        for (number, schema) in schemas.iter().enumerate() {
            let id = format!("corpus-{number}");
            test.add_project(&id, ProjectScope::Schema(schema.clone())).await;
            // In turns by the dump's own lines and by a second reading.
            let format = [Format::Sql, Format::Custom][number % 2];
            let backup = test.backup(Export { format: Some(format), ..export(&id) }).await;
            let request = VerifyRequest { backup_id: backup.backup_id(), depth: Depth::Restore };
            let job = holdfast::jobs::request::verify(&test.app, &caller(), &request, None).await.unwrap();
            let job = test.run(job.job_id()).await;
            assert_eq!(job.status, "completed", "{} {schema}: {:?}", dump.display(), job.error_message);
            let result = job.result.unwrap();
            assert_eq!(result["outcome"], "verified", "{} {schema}: {result:#}", dump.display());
        }
    }
}
