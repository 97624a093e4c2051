//! Proof that a database holds what was dumped: taken in the snapshot that `pg_dump` uses, taken again after a restore, and compared.
//!
//! What always holds: nothing of the tenant's runs as our role. Rows are read by `COPY … TO STDOUT`, which calls the output function of each
//! column's type and evaluates nothing: no cast, operator, view, generated column or policy (where a policy would hide rows, COPY refuses).
//! Definitions are read from the catalogs, with names in full (`search_path` is empty), by the functions that `pg_dump` uses itself.

mod compare;
mod definition;
mod dumped;
mod lines;
mod row_sum;
mod rows;

use std::collections::HashMap;

use sqlx::PgConnection;

use self::dumped::Told;
pub use self::{
    compare::{Difference, FURTHER, TOO_MANY, told},
    dumped::DumpedRows,
};
use crate::{
    manifest::{DatabaseContent, DumpScope, Requirements, SequenceValue, TableRows},
    postgres::{
        inspect::{self, ColumnOrder, Selection, TableColumns},
        value_text,
    },
    proof_record::{Proof, ProofLevel, VERSION},
};

/// Settings by which the server writes the same value as the same text, whatever its role, database and configuration prefer. Those of
/// `pg_dump`, and `lc_monetary`, on which the type `money` depends.
pub const SETTINGS: &str = "SET search_path = ''; SET row_security = off; SET extra_float_digits = 3; SET TimeZone = 'UTC'; \
    SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
    SET quote_all_identifiers = off; SET xmlbinary = 'base64'";

/// How many pages of tables are counted beside a dump whose own lines tell of the rows: 64 MiB, with the usual pages. A `pg_dump` that leaves rows out and
/// says all is well would be noticed there; to count every row of large tables as well took up to a quarter of the dump's time.
const COUNTED_BESIDE: i64 = 8192;

/// What is looked at beside a scope's own objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// What belongs to the database and not to the dump, too: settings of roles in it, publications.
    Compared,
    /// For a scratch database, which has none of them.
    Ignored,
}

/// Rows and proof of what a dump holds.
#[derive(Clone, Debug)]
pub struct Taken {
    pub tables: Vec<TableRows>,
    pub proof: Proof,
}

/// What to take.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub level: ProofLevel,
    /// Whether the dump's own lines will tell of the rows, by [`complete`]: here only the smallest tables' are counted.
    pub rows_are_dumped: bool,
    /// Everything that is dumped.
    pub whole: Selection<'a>,
    /// The tables whose rows are dumped.
    pub filled: Selection<'a>,
    /// Whether it is only a part of the scope, of which no definition is taken.
    pub is_partial: bool,
    /// Roles and extensions that the scope needs.
    pub requirements: &'a Requirements,
}

/// Takes the proof, on a connection with these [`SETTINGS`], inside the snapshot of its transaction.
pub async fn take(connection: &mut PgConnection, request: Request<'_>) -> Result<Taken, sqlx::Error> {
    let encoding: String =
        sqlx::query_scalar("SELECT pg_catalog.current_setting('server_encoding')").fetch_one(&mut *connection).await?;
    let disk_bytes = inspect::disk_size(connection, request.whole).await?;
    // At every level: by them a restore tells what a dump's own code has changed of what belongs to others.
    let definition = if request.is_partial {
        Vec::new()
    } else {
        // Of more than memory should be given to nothing is recorded, and the missing digest tells.
        definition::read(connection, request.whole, request.requirements).await?.unwrap_or_default()
    };
    let definition_sha256 = (!definition.is_empty()).then(|| definition::digest(&definition));
    let (tables, rows) = match request.level {
        ProofLevel::Off => (Vec::new(), Vec::new()),
        ProofLevel::Counts | ProofLevel::Full if request.rows_are_dumped => {
            (inspect::small_table_rows(connection, request.filled, COUNTED_BESIDE).await?, Vec::new())
        }
        ProofLevel::Full => {
            let columns = inspect::table_columns(connection, request.filled, rows::order(None)).await?;
            rows::read(connection, columns, &encoding, None).await?
        }
        ProofLevel::Counts => (inspect::table_rows(connection, request.filled).await?, Vec::new()),
    };
    let proof = Proof {
        version: VERSION,
        level: request.level,
        encoding,
        rows,
        definition_sha256,
        definition,
        moved_sequences: Vec::new(),
        disk_bytes,
    };
    Ok(Taken { tables, proof })
}

/// The tables of whose rows a plain dump's own lines will tell at this level; `None`: they have to be read, because `pg_dump`'s session would write some
/// values otherwise than ours does. On a connection with these [`SETTINGS`].
pub async fn dumped_rows(
    connection: &mut PgConnection,
    filled: Selection<'_>,
    encoding: &str,
    level: ProofLevel,
) -> Result<Option<DumpedRows>, sqlx::Error> {
    if level == ProofLevel::Off
        || (level == ProofLevel::Full && !value_text::is_the_same_by_default(connection, filled).await?)
    {
        return Ok(None);
    }
    let tables = inspect::table_columns(connection, filled, ColumnOrder::OfTable).await?;
    Ok(Some(DumpedRows::of(tables, encoding, level)))
}

/// A table of which a dump has other rows than its snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWhole {
    pub schema: String,
    pub table: String,
    pub dumped: u64,
    pub rows: u64,
}

/// Puts into `taken` what the dump's lines tell of the rows. Of tables of which they do not tell beyond doubt the rows are read, still inside the snapshot;
/// tables whose rows were left out have none. What the lines say is held against what was counted, which knows nothing of the dump.
///
/// # Errors
/// The database cannot be read. The inner one: the dump does not hold what its snapshot holds.
pub async fn complete(
    connection: &mut PgConnection,
    dumped: DumpedRows,
    is_left_out: impl Fn(&str, &str) -> bool,
    tables: &mut Vec<TableRows>,
    proof: &mut Proof,
) -> Result<Result<(), NotWhole>, sqlx::Error> {
    let counted: HashMap<_, _> = std::mem::take(tables).into_iter().map(|t| ((t.schema, t.table), t.rows)).collect();
    let mut read_again = 0_usize;
    for (table, told) in dumped.told() {
        let (schema, name) = (table.schema.clone(), table.table.clone());
        if is_left_out(&schema, &name) {
            tables.push(TableRows { schema, table: name, rows: 0 });
            continue;
        }
        let (dumped, sum) = match told {
            Told::Rows(sum) => (Some(sum.rows), sum),
            Told::Missing | Told::Unclear => {
                read_again += 1;
                let sum = rows::read_table(connection, &table, &proof.encoding).await?;
                (matches!(told, Told::Missing).then_some(0), sum)
            }
        };
        let rows = counted.get(&(schema.clone(), name.clone())).copied().unwrap_or(sum.rows);
        if let Some(dumped) = dumped.filter(|dumped| *dumped != rows) {
            return Ok(Err(NotWhole { schema, table: name, dumped, rows }));
        }
        tables.push(TableRows { schema, table: name, rows: sum.rows });
        if proof.level == ProofLevel::Full {
            proof.rows.push(rows::digest(table, &sum));
        }
    }
    if read_again > 0 {
        let what = "rows are read a second time: the dump's own lines do not tell of them beyond doubt";
        tracing::info!(tables = read_again, "{what}");
    }
    Ok(Ok(()))
}

/// What a sequence reads now and read before, where that is not the same: for the end of a dump.
pub fn moved(before: &[SequenceValue], after: Vec<SequenceValue>) -> Vec<SequenceValue> {
    after.into_iter().filter(|now| !before.contains(now)).collect()
}

/// Everything that differs between `scope` as it is now and what a backup says of it; empty: proved. Owners and grants are compared by
/// [`ownership`](crate::postgres::ownership) alone. Changes nothing but the connection's settings.
///
/// # Errors
/// The database cannot be read: that says nothing about the content.
pub async fn differences(
    connection: &mut PgConnection,
    scope: &DumpScope,
    content: &DatabaseContent,
    surroundings: Surroundings,
) -> Result<Vec<Difference>, sqlx::Error> {
    sqlx::raw_sql(SETTINGS).execute(&mut *connection).await?;
    let selection = Selection::from(scope);
    let known = content.proof.as_ref().filter(|proof| proof.is_known());
    let level = content.proof.as_ref().map_or(ProofLevel::Counts, |proof| proof.level);
    let is_full = known.is_some_and(|proof| proof.level == ProofLevel::Full);
    let columns = inspect::table_columns(connection, selection, rows::order(known)).await?;
    let root_of = |table: &TableColumns| Some(((table.schema.clone(), table.table.clone()), table.root.clone()?));
    let roots = columns.iter().filter_map(root_of).collect();
    let (tables, rows) = match known {
        _ if level == ProofLevel::Off => (Vec::new(), Vec::new()),
        Some(proof) if is_full => rows::read(connection, columns, &proof.encoding, Some(proof)).await?,
        _ => (inspect::table_rows(connection, selection).await?, Vec::new()),
    };
    let definition = match known {
        Some(proof) if !proof.definition.is_empty() => {
            definition::read(connection, selection, &content.requirements).await?
        }
        _ => Some(Vec::new()),
    };
    let found = compare::Found {
        server_version: inspect::server_version(connection).await?,
        table_count: inspect::table_count(connection, selection).await?,
        sequences: inspect::sequences(connection, selection).await?,
        descending: inspect::descending_sequences(connection, selection).await?,
        tables,
        rows,
        roots,
        definition,
    };
    Ok(compare::compare(content, &found, surroundings))
}

/// What of the definitions in `scope` was not recorded, or not so, where only a part of a backup has been brought; what is missing is not told. Nothing
/// without a record. Changes nothing but the connection's settings.
///
/// # Errors
/// The database cannot be read, or has more definitions than are compared.
pub async fn additions(
    connection: &mut PgConnection,
    scope: &DumpScope,
    content: &DatabaseContent,
) -> Result<Vec<Difference>, sqlx::Error> {
    let known = content.proof.as_ref().filter(|proof| proof.is_known() && !proof.definition.is_empty());
    let Some(proof) = known else { return Ok(Vec::new()) };
    sqlx::raw_sql(SETTINGS).execute(&mut *connection).await?;
    let found = definition::read(connection, Selection::from(scope), &content.requirements).await?;
    let found = found.ok_or_else(|| sqlx::Error::Decode(TOO_MANY.into()))?;
    Ok(compare::additions(&proof.definition, &found))
}

/// What [`differences`] has found, in words; that the database could not be read is one of them.
pub fn in_words(found: Result<Vec<Difference>, sqlx::Error>) -> Vec<String> {
    match found {
        Ok(differences) => told(&differences),
        Err(error) => vec![format!("what was restored could not be compared: {error}")],
    }
}
