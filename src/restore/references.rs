//! Who outside a schema depends on it: foreign keys, views, partitions and functions of other schemas, publications. After a
//! restore they still point at the replaced schema, and dropping that with CASCADE would reach them.

use sqlx::PgConnection;

/// Everything that dropping the schema would drop and that does not belong to it, as `kind identity`.
/// `publications`: list the tables' places in publications too (dropping a table ends them harmlessly).
pub(super) async fn from_outside(
    c: &mut PgConnection,
    schema_oid: u32,
    publications: bool,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(include_str!("references.sql")).bind(i64::from(schema_oid)).bind(publications).fetch_all(c).await
}
