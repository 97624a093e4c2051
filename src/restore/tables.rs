//! Single tables out of a whole backup, into a schema of their own: to look at, and to copy rows from.

use std::collections::{BTreeSet, HashSet};

use sqlx::{AssertSqlSafe, PgConnection};

use super::{RestoreError, altered};
use crate::{
    manifest::{DatabaseContent, DumpScope, ObjectOwnership},
    postgres::ownership,
    proof::{self, Difference},
};

/// What the backup holds of these tables.
pub(super) fn narrow(content: &DatabaseContent, only: &[String]) -> DatabaseContent {
    let mut narrow = content.clone();
    narrow.tables.retain(|table| only.contains(&table.table));
    // Where rows were not counted, none is listed.
    narrow.table_count = only.iter().collect::<BTreeSet<_>>().len() as u64;
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

/// The records of what is there: what was dropped was not asked for.
pub(super) async fn owners_of_what_is_there(
    c: &mut PgConnection,
    scope: &DumpScope,
    recorded: &[ObjectOwnership],
) -> Result<Vec<ObjectOwnership>, sqlx::Error> {
    let there = ownership::collect(c, scope).await?;
    let there: HashSet<(&str, &str)> = there.iter().map(|o| (o.kind.as_str(), o.identity.as_str())).collect();
    Ok(recorded.iter().filter(|o| there.contains(&(o.kind.as_str(), o.identity.as_str()))).cloned().collect())
}

/// Refuses what the dump's code has made of tables that belong to others, and gives what else of that kind was not in the backup (`whole`). What was
/// left out of the dump (triggers, rules, policies, row security) nobody but that code has put there.
///
/// # Errors
/// `restore.altered`, `restore.not_compared`.
pub(super) async fn refuse_additions(
    c: &mut PgConnection,
    whole: &DatabaseContent,
    server_version: u32,
    schema_oid: u32,
    found: Result<Vec<Difference>, sqlx::Error>,
) -> Result<Vec<String>, RestoreError> {
    if altered::is_compared(whole, server_version) {
        let found = found.map(altered::of_code);
        altered::refuse_definitions(c, whole, server_version, &found).await?;
        return Ok(proof::in_words(found));
    }
    // FORCE ROW LEVEL SECURITY comes with the table itself, and does nothing alone.
    let added: Vec<String> = sqlx::query_scalar(
        "WITH tables AS (SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relrowsecurity AS is_guarded \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.oid = $1::int8::oid AND c.relkind = 'r') \
         SELECT 'row security of ' || name FROM tables WHERE is_guarded \
         UNION ALL SELECT format('policy %I on %s', p.polname, t.name) FROM pg_catalog.pg_policy p JOIN tables t ON t.oid = p.polrelid \
         UNION ALL SELECT format('trigger %I on %s', g.tgname, t.name) \
             FROM pg_catalog.pg_trigger g JOIN tables t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal \
         UNION ALL SELECT format('rule %I on %s', r.rulename, t.name) FROM pg_catalog.pg_rewrite r JOIN tables t ON t.oid = r.ev_class \
         ORDER BY 1 LIMIT 20",
    )
    .bind(i64::from(schema_oid))
    .fetch_all(c)
    .await?;
    altered::refuse(&added)?;
    Ok(Vec::new())
}
