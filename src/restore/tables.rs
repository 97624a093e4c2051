//! Single tables out of a whole backup, into a schema of their own: to look at, and to copy rows from.

use sqlx::{AssertSqlSafe, PgConnection};

use super::RestoreError;
use crate::manifest::DatabaseContent;

/// What the backup holds of these tables.
pub(super) fn narrow(content: &DatabaseContent, only: &[String]) -> DatabaseContent {
    let mut narrow = content.clone();
    narrow.tables.retain(|table| only.contains(&table.table));
    narrow.table_count = narrow.tables.len() as u64;
    narrow.row_count = narrow.tables.iter().map(|table| table.rows).sum();
    // Those that stay belong to a column or its default, and their values come with them.
    narrow.sequences.clear();
    if let Some(proof) = &mut narrow.proof {
        proof.rows.retain(|rows| only.contains(&rows.table));
        proof.definition.clear();
        proof.definition_sha256 = None;
        proof.moved_sequences.clear();
    }
    narrow
}

/// Drops every relation of the schema but these tables and the sequences: they were made because a table may need any other's type.
pub(super) async fn keep_only(
    c: &mut PgConnection,
    schema: &str,
    schema_oid: u32,
    only: &[String],
) -> Result<(), RestoreError> {
    let drops: Vec<String> = sqlx::query_scalar(
        "SELECT format('DROP %s IF EXISTS %I.%I CASCADE', \
                CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, \
                n.nspname, c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.oid = $1::int8::oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT (c.relkind = 'r' AND c.relname = ANY ($2)) \
         ORDER BY c.relkind = 'v' DESC, c.relkind = 'm' DESC, c.oid",
    )
    .bind(i64::from(schema_oid))
    .bind(only)
    .fetch_all(&mut *c)
    .await?;
    if !drops.is_empty() {
        sqlx::raw_sql(AssertSqlSafe(drops.join(";"))).execute(&mut *c).await?;
    }
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_catalog.pg_class WHERE relnamespace = $1::int8::oid AND relkind = 'r'",
    )
    .bind(i64::from(schema_oid))
    .fetch_all(c)
    .await?;
    match only.iter().find(|table| !there.contains(table)) {
        None => Ok(()),
        Some(table) => Err(RestoreError::new(
            "restore.no_such_table",
            format!("the table {table:?} of schema {schema:?} did not come out of the backup by itself"),
        )),
    }
}
