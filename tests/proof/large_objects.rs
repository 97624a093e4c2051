//! Large objects, which no schema's dump holds: where rows may refer to some, that is said.

use serde_json::json;

use super::scene::run;
use crate::support::app::{TestApp, export};

#[tokio::test]
async fn a_schema_whose_rows_may_refer_to_large_objects_says_so_when_it_is_backed_up_and_in_its_requirements() {
    let test = TestApp::new().await;
    let mut c = test.tenants().await;
    run(
        &mut c,
        "CREATE SCHEMA tenant_acme; CREATE DOMAIN tenant_acme.lo AS oid; CREATE DOMAIN tenant_acme.scan AS tenant_acme.lo CHECK (value > 0);
         CREATE TABLE tenant_acme.pictures (id int PRIMARY KEY, image oid);
         CREATE TABLE tenant_acme.papers (id int PRIMARY KEY, page tenant_acme.scan, pages oid[]);
         CREATE TABLE tenant_acme.names (id int PRIMARY KEY, name text)",
    )
    .await;
    test.add_schema_project("acme", "tenant_acme").await;
    // Numbers of something else, as long as there are no large objects.
    let taken = test.back_up(export("acme")).await;
    assert_eq!(taken.result.unwrap()["warnings"], json!([]));

    run(&mut c, "INSERT INTO tenant_acme.pictures VALUES (1, lo_from_bytea(0, 'picture'))").await;
    let taken = test.back_up(export("acme")).await;
    let warnings = taken.result.as_ref().unwrap()["warnings"].to_string();
    let expected = ["papers.page", "papers.pages", "pictures.image"]
        .map(|column| format!("large objects (tenant_acme.{column} may refer to some)"));
    assert!(expected.iter().all(|named| warnings.contains(named)) && !warnings.contains("names"), "{warnings}");
    let backup = test.backup(export("acme")).await;
    let manifest = backup.manifest().unwrap();
    assert_eq!(manifest.body.database().unwrap().requirements.not_restorable, expected);
    // The rows come back, and still name the object that nobody has touched.
    run(&mut c, "DELETE FROM tenant_acme.pictures").await;
    let job = test.restore(&backup).await;
    assert_eq!(job.result.as_ref().map(|r| &r["outcome"]), Some(&json!("verified")), "{:?}", job.error_message);
    let bytes: Vec<u8> =
        sqlx::query_scalar("SELECT lo_get(image) FROM tenant_acme.pictures").fetch_one(&mut c).await.unwrap();
    assert_eq!(bytes, b"picture");
}
