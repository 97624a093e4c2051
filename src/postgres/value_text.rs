//! Whether two sessions write the same value as the same text.

use sqlx::{PgConnection, postgres::types::Oid};

use super::inspect::{self, Selection};

/// Whether a new session of this role, which has `DateStyle`, `IntervalStyle`, `extra_float_digits` and `TimeZone` set as `pg_dump` with
/// `PGTZ=UTC` has them, writes the values of these tables as one with all settings of the proof: whether neither server, database nor role
/// prefer something else. What a role or database has set is what `RESET` goes back to.
pub async fn is_the_same_by_default(
    connection: &mut PgConnection,
    selection: Selection<'_>,
) -> Result<bool, sqlx::Error> {
    let (is_usual, lc_monetary): (bool, String) = sqlx::query_as(
        "SELECT pg_catalog.bool_and(reset_val = CASE name WHEN 'bytea_output' THEN 'hex' ELSE 'off' END) \
                FILTER (WHERE name <> 'lc_monetary'), \
             pg_catalog.max(reset_val) FILTER (WHERE name = 'lc_monetary') \
         FROM pg_catalog.pg_settings WHERE name IN ('bytea_output', 'quote_all_identifiers', 'lc_monetary')",
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(is_usual && (matches!(lc_monetary.as_str(), "C" | "POSIX") || !has_money(connection, selection).await?))
}

/// Whether a value of these tables may hold one of the type `money`, which is written as `lc_monetary` says: as a column's type, or within an
/// array, domain, range or row.
async fn has_money(connection: &mut PgConnection, selection: Selection<'_>) -> Result<bool, sqlx::Error> {
    let namespaces: Vec<Oid> = inspect::namespaces(connection, selection).await?;
    sqlx::query_scalar(
        "WITH RECURSIVE used(type) AS ( \
             SELECT a.atttypid FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             WHERE c.relnamespace = ANY ($1) AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped \
             UNION \
             SELECT part.type FROM used JOIN pg_catalog.pg_type t ON t.oid = used.type CROSS JOIN LATERAL ( \
                 SELECT t.typelem UNION ALL SELECT t.typbasetype \
                 UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid) \
                 UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part(type) \
             WHERE part.type <> 0) \
         SELECT EXISTS (SELECT FROM used WHERE type = 'pg_catalog.money'::pg_catalog.regtype)",
    )
    .bind(namespaces)
    .fetch_one(connection)
    .await
}
