//! What a tenant's catalog says: how many tables and rows there are, where the sequences stand, and what a dump needs from
//! outside itself.
//!
//! Reads only, through a connection from [`ConnectInfo::connect`](super::connect::ConnectInfo::connect). Nothing here runs
//! code of the tenant: no view, function or cast of theirs is used, only catalogs, and `COPY` of ordinary tables, which plans nothing.

use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, Row,
    postgres::{PgRow, types::Oid},
};

use super::quote::{ident, literal, qualified};
use crate::manifest::{DumpScope, SequenceValue, TableRows};

pub use super::requirements::requirements;

/// Tables named in one statement: enough to save round trips, few enough for a short plan.
const BATCH: usize = 50;

/// Schemas that hold what a restore moved out of the way, or has not finished: never part of a backup.
pub const SIDE_SCHEMAS: [&str; 4] = ["hf_before_", "hf_undone_", "hf_new_", "hf_restore_"];

/// What to look at: a scope, less some schemas of a whole database. A plain `&DumpScope` will do where nothing is excluded.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    pub scope: &'a DumpScope,
    /// Names of schemas to leave out of a whole database. Does not apply to a single schema.
    pub exclude: &'a [String],
    pub locks: Locks,
    /// Only these relations. `None`: all.
    pub only: Option<&'a [Oid]>,
}

/// What becomes of the locks that counting takes. A count locks the table and each of its indexes until the transaction's end,
/// so that a thousand tables can use up the server's lock table ("out of shared memory").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locks {
    /// Each statement is its own transaction, or the caller does not mind.
    Left,
    /// Inside a transaction: given back by savepoints. Locks that the transaction had before stay.
    GivenBack,
}

/// A table, or what is like one: while its number stays the same it is the same, whatever it is called.
#[derive(Clone, PartialEq, Eq, Debug, sqlx::FromRow)]
pub struct Relation {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
}

impl<'a> From<&'a DumpScope> for Selection<'a> {
    fn from(scope: &'a DumpScope) -> Self {
        Self { scope, exclude: &[], locks: Locks::Left, only: None }
    }
}

/// The server's version as `server_version_num` counts: 150020.
pub async fn server_version(connection: &mut PgConnection) -> Result<u32, sqlx::Error> {
    let version: i32 = sqlx::query_scalar("SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4")
        .fetch_one(connection)
        .await?;
    Ok(version.unsigned_abs())
}

/// The schema of exactly this name, or `None`. While the number stays the same it is the same schema, whatever it is called.
pub async fn schema_oid(connection: &mut PgConnection, schema: &str) -> Result<Option<u32>, sqlx::Error> {
    // As text: compared as `name`, a longer one would be cut to 63 bytes and match another schema.
    let oid: Option<Oid> = sqlx::query_scalar("SELECT oid FROM pg_catalog.pg_namespace WHERE nspname::text = $1")
        .bind(schema)
        .fetch_optional(connection)
        .await?;
    Ok(oid.map(|oid| oid.0))
}

/// Schemas that look like a tenant's (`tenant_…`), in order of their names.
pub async fn schemas_like_tenant(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        r"SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname LIKE 'tenant\__%' ORDER BY nspname::text",
    )
    .fetch_all(connection)
    .await
}

/// The schemas of a selection: none when the one schema is missing; of a whole database all but the system's, the excluded
/// ones and the [`SIDE_SCHEMAS`].
pub async fn namespaces(connection: &mut PgConnection, selection: Selection<'_>) -> Result<Vec<Oid>, sqlx::Error> {
    match selection.scope {
        DumpScope::Schema { schema } => {
            Ok(schema_oid(connection, schema).await?.map(Oid).into_iter().collect())
        }
        DumpScope::Database { .. } => {
            sqlx::query_scalar(
                "SELECT oid FROM pg_catalog.pg_namespace \
                 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND nspname::text <> ALL ($1) \
                   AND NOT EXISTS (SELECT FROM pg_catalog.unnest($2) AS side WHERE pg_catalog.starts_with(nspname::text, side)) \
                 ORDER BY nspname::text",
            )
            .bind(selection.exclude)
            .bind(&SIDE_SCHEMAS[..])
            .fetch_all(connection)
            .await
        }
    }
}

/// Relations of these kinds, as schema and name, without the members of extensions: those are not in a dump.
async fn relations(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    kinds: &[&str],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let found = identified(connection, selection, kinds).await?;
    Ok(found.into_iter().map(|relation| (relation.schema, relation.name)).collect())
}

async fn identified(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    kinds: &[&str],
) -> Result<Vec<Relation>, sqlx::Error> {
    let namespaces = namespaces(connection, selection).await?;
    sqlx::query_as(
        "SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relnamespace = ANY ($1) AND c.relkind::text = ANY ($2) AND ($3::pg_catalog.oid[] IS NULL OR c.oid = ANY ($3)) \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                           AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e') \
         ORDER BY 2, 3",
    )
    .bind(namespaces)
    .bind(kinds)
    .bind(selection.only)
    .fetch_all(connection)
    .await
}

/// Rows of every ordinary table, as the connection's snapshot sees them, in order of their names. A partitioned table has no
/// rows of its own: they are counted at its partitions.
///
/// # Errors
/// Also when row-level security would hide rows from this role.
pub async fn table_rows<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<Vec<TableRows>, sqlx::Error> {
    let selection = selection.into();
    let tables = relations(connection, selection, &["r"]).await?;
    rows_of(connection, selection, &tables).await
}

/// The same of the smallest tables, by what the last VACUUM or ANALYZE saw: as many as have this many pages together.
pub async fn small_table_rows(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    pages: i64,
) -> Result<Vec<TableRows>, sqlx::Error> {
    let namespaces = namespaces(connection, selection).await?;
    let small: Vec<(String, String)> = sqlx::query_as(
        "SELECT schema, \"table\" FROM ( \
             SELECT n.nspname::text AS schema, c.relname::text AS \"table\", \
                    pg_catalog.sum(GREATEST(c.relpages, 0)::pg_catalog.int8) OVER (ORDER BY c.relpages, c.oid) AS pages \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relnamespace = ANY ($1) AND c.relkind = 'r') t WHERE t.pages <= $2::pg_catalog.int8",
    )
    .bind(namespaces)
    .bind(pages)
    .fetch_all(&mut *connection)
    .await?;
    let small: std::collections::HashSet<_> = small.into_iter().collect();
    let mut tables = relations(connection, selection, &["r"]).await?;
    tables.retain(|table| small.contains(table));
    rows_of(connection, selection, &tables).await
}

async fn rows_of(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    tables: &[(String, String)],
) -> Result<Vec<TableRows>, sqlx::Error> {
    let encoding: String =
        sqlx::query_scalar("SELECT pg_catalog.current_setting('server_encoding')").fetch_one(&mut *connection).await?;
    let mut counted = Vec::with_capacity(tables.len());
    for batch in tables.chunks(BATCH) {
        if selection.locks == Locks::GivenBack {
            connection.execute("SAVEPOINT read_each").await?;
        }
        for (schema, table) in batch {
            let rows = count_rows(connection, schema, table, &encoding).await?;
            counted.push(TableRows { schema: schema.clone(), table: table.clone(), rows });
        }
        if selection.locks == Locks::GivenBack {
            connection.execute("ROLLBACK TO SAVEPOINT read_each; RELEASE SAVEPOINT read_each").await?;
        }
    }
    Ok(counted)
}

/// Counts by `COPY` of the narrowest column. A `SELECT` would be planned, and the planner runs immutable functions of the table's indexes with
/// constant arguments (`RelationGetIndexExpressions` in relcache.c): the tenant's code, as our role.
async fn count_rows(
    connection: &mut PgConnection,
    schema: &str,
    table: &str,
    encoding: &str,
) -> Result<u64, sqlx::Error> {
    // A table may have no column, or none but generated ones, which COPY does not give: then every row is an empty line.
    let column: Option<String> = sqlx::query_scalar(
        "SELECT a.attname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname::text = $1 AND c.relname::text = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated::text = '' \
         ORDER BY a.attlen < 0, a.attlen, a.attnum LIMIT 1",
    )
    .bind(schema)
    .bind(table)
    .fetch_optional(&mut *connection)
    .await?;
    let columns = column.map(|column| format!(" ({})", ident(&column))).unwrap_or_default();
    // Nothing is converted: a database may hold what its encoding does not allow.
    let statement =
        format!("COPY {}{columns} TO STDOUT WITH (ENCODING {})", qualified(schema, table), literal(encoding));
    let mut stream = connection.copy_out_raw(&statement).await?;
    let mut rows = 0;
    // Text COPY writes a line break inside a value as `\n`.
    while let Some(bytes) = stream.try_next().await? {
        rows += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Ok(rows)
}

/// Selects the same from each of these relations, in one statement; the rows come in their order, each with its position.
async fn read_each<T>(
    connection: &mut PgConnection,
    locks: Locks,
    relations: &[(String, String)],
    what: &str,
) -> Result<Vec<T>, sqlx::Error>
where
    T: Send + Unpin + for<'r> sqlx::FromRow<'r, PgRow>,
{
    let selects: Vec<String> = relations
        .iter()
        .enumerate()
        .map(|(position, (schema, name))| format!("SELECT {position}, {what} FROM ONLY {}", qualified(schema, name)))
        .collect();
    let statement = format!("{} ORDER BY 1", selects.join(" UNION ALL "));
    if locks == Locks::GivenBack {
        connection.execute("SAVEPOINT read_each").await?;
    }
    let rows = sqlx::query_as(AssertSqlSafe(statement)).persistent(false).fetch_all(&mut *connection).await?;
    if locks == Locks::GivenBack {
        connection.execute("ROLLBACK TO SAVEPOINT read_each; RELEASE SAVEPOINT read_each").await?;
    }
    Ok(rows)
}

/// Number of ordinary and partitioned tables.
pub async fn table_count<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<u64, sqlx::Error> {
    Ok(relations(connection, selection.into(), &["r", "p"]).await?.len() as u64)
}

/// Every ordinary and partitioned table, as the connection's snapshot sees them, in order of their names.
pub async fn tables<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<Vec<Relation>, sqlx::Error> {
    identified(connection, selection.into(), &["r", "p"]).await
}

/// Keeps what has these names as it is until the end of the transaction, with the lock that `pg_dump` takes too. Waits as long as the
/// connection's `lock_timeout` says. It takes no snapshot: that of a transaction which begins with it is newer than the locks (PostgreSQL
/// manual, LOCK, Description).
///
/// # Errors
/// [`sqlx::Error::Database`] where one of them is gone.
pub async fn lock(connection: &mut PgConnection, tables: &[Relation]) -> Result<(), sqlx::Error> {
    for batch in tables.chunks(BATCH) {
        let names: Vec<String> =
            batch.iter().map(|table| format!("ONLY {}", qualified(&table.schema, &table.name))).collect();
        let statement = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A view that takes a sequence's place between a look and a read would run the tenant's code as our role. Servers of August 2024 and later
/// refuse to read it, on a connection with this setting (CVE-2024-7348).
const NO_VIEWS: &str = "SELECT pg_catalog.set_config(name, 'view, foreign-table', false) FROM pg_catalog.pg_settings \
    WHERE name = 'restrict_nonsystem_relation_kind'";

/// Where every sequence stands, in order of their names. Sequences know no snapshots: the values are those of this moment. From here on the
/// connection reads no view of the tenant's.
pub async fn sequences<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<Vec<SequenceValue>, sqlx::Error> {
    let selection = selection.into();
    let found = relations(connection, selection, &["S"]).await?;
    connection.execute(NO_VIEWS).await?;
    let mut values = Vec::with_capacity(found.len());
    for batch in found.chunks(BATCH) {
        let rows: Vec<(i32, i64, bool)> =
            read_each(connection, selection.locks, batch, "last_value, is_called").await?;
        values.extend(batch.iter().zip(rows).map(|((schema, sequence), (_, last_value, is_called))| SequenceValue {
            schema: schema.clone(),
            sequence: sequence.clone(),
            last_value,
            is_called,
        }));
    }
    Ok(values)
}

/// The sequences that count down, as schema and name.
pub async fn descending_sequences<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let namespaces = namespaces(connection, selection.into()).await?;
    sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_sequence s \
         JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE s.seqincrement < 0 AND c.relnamespace = ANY ($1) ORDER BY 1, 2",
    )
    .bind(namespaces)
    .fetch_all(connection)
    .await
}

/// An ordinary table, and what a dump writes of its rows.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TableColumns {
    pub schema: String,
    pub table: String,
    /// Those that rows have in a dump: not what is generated.
    pub columns: Vec<String>,
    /// Whether a restored one may have them in another order: an inheritor's own come after those of its parents.
    pub order_may_change: bool,
    /// The partitioned table, quoted, under whose name `pg_dump` writes its rows, because they may belong to another of its partitions after
    /// a restore: the hash of an enum's label is not the same in two databases. Source: `getPartitioningInfo` and `forcePartitionRootLoad` in
    /// PostgreSQL's `pg_dump.c`.
    pub root: Option<String>,
}

/// The order of columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnOrder {
    /// As the table has them, and its dump.
    OfTable,
    /// By the bytes of their names.
    ByName,
}

/// Every ordinary table, with its columns in this order.
pub async fn table_columns<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
    order: ColumnOrder,
) -> Result<Vec<TableColumns>, sqlx::Error> {
    let selection = selection.into();
    let tables = relations(connection, selection, &["r"]).await?;
    let namespaces = namespaces(connection, selection).await?;
    let columns: Vec<TableColumns> = sqlx::query_as(
        "SELECT n.nspname::text AS schema, c.relname::text AS \"table\", ARRAY( \
             SELECT a.attname::text FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
             ORDER BY CASE WHEN $2 THEN a.attname END, a.attnum) AS columns, \
             NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS order_may_change, \
             (SELECT pg_catalog.format('%I.%I', s.nspname, r.relname) \
              FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace \
              WHERE c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid) \
                AND EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a(oid) \
                    JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.oid \
                    JOIN pg_catalog.pg_opclass o ON o.oid = ANY (p.partclass) JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod \
                    WHERE o.opcname = 'enum_ops' AND o.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace AND m.amname = 'hash')) \
                 AS root \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relnamespace = ANY ($1) AND c.relkind = 'r' ORDER BY 1, 2",
    )
    .bind(namespaces)
    .bind(order == ColumnOrder::ByName)
    .fetch_all(connection)
    .await?;
    let wanted: std::collections::HashSet<_> = tables.iter().map(|(schema, table)| (schema, table)).collect();
    Ok(columns.into_iter().filter(|columns| wanted.contains(&(&columns.schema, &columns.table))).collect())
}

/// Bytes on disk of tables and indexes, as the last VACUUM or ANALYZE saw them: takes no locks.
pub async fn disk_size<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<u64, sqlx::Error> {
    let namespaces = namespaces(connection, selection.into()).await?;
    let bytes: i64 = sqlx::query_scalar(
        "SELECT COALESCE(sum(GREATEST(c.relpages, 0)::pg_catalog.int8 + COALESCE(t.relpages, 0)), 0)::pg_catalog.int8 \
             * pg_catalog.current_setting('block_size')::pg_catalog.int8 \
         FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid \
         WHERE c.relnamespace = ANY ($1) AND c.relkind IN ('r', 'm', 'i')",
    )
    .bind(namespaces)
    .fetch_one(connection)
    .await?;
    Ok(bytes.unsigned_abs())
}

/// Bytes on disk of all tables without their indexes: an estimate of the dump's size, for progress. Not to be called inside a
/// transaction. Where a table is locked by someone else, the size is what the last VACUUM or ANALYZE saw.
pub async fn content_size<'a>(
    connection: &mut PgConnection,
    selection: impl Into<Selection<'a>>,
) -> Result<u64, sqlx::Error> {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    let namespaces = namespaces(connection, selection.into()).await?;
    let sum = async |connection: &mut PgConnection, bytes: &str| -> Result<u64, sqlx::Error> {
        let statement = format!(
            "SELECT COALESCE(sum({bytes}), 0)::pg_catalog.int8 FROM pg_catalog.pg_class c \
             LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid \
             WHERE c.relnamespace = ANY ($1) AND c.relkind = 'r'"
        );
        let row = sqlx::query(AssertSqlSafe(statement)).bind(&namespaces).fetch_one(connection).await?;
        row.try_get::<i64, _>(0).map(i64::unsigned_abs)
    };
    sqlx::raw_sql("SET lock_timeout = '1s'").execute(&mut *connection).await?;
    let exact = sum(connection, "pg_catalog.pg_table_size(c.oid)").await;
    sqlx::raw_sql("SET lock_timeout = 0").execute(&mut *connection).await?;
    match exact {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
            let pages = "(c.relpages::pg_catalog.int8 + COALESCE(t.relpages, 0)) \
                         * pg_catalog.current_setting('block_size')::pg_catalog.int8";
            sum(connection, pages).await
        }
        exact => exact,
    }
}
