//! Proof that a database holds what was dumped: taken in the snapshot that `pg_dump` uses, taken again after a restore, and compared.
//!
//! What always holds: nothing of the tenant's runs as our role. Rows are read by `COPY … TO STDOUT`, which calls the output function of each
//! column's type and evaluates nothing: no cast, operator, view, generated column or policy (where a policy would hide rows, COPY refuses).
//! Definitions are read from the catalogs, with names in full (`search_path` is empty), by the functions that `pg_dump` uses itself.

mod compare;
mod definition;
mod dumped;
mod expression;
mod lines;
mod row_sum;
mod rows;

use std::collections::HashSet;

use sqlx::PgConnection;

use self::dumped::Told;
pub use self::{
    compare::{Difference, FURTHER, TOO_MANY, told},
    dumped::DumpedRows,
};
use crate::{
    manifest::{DatabaseContent, DumpScope, Requirements, SequenceValue, TableRows},
    postgres::{
        inspect::{self, ColumnOrder, Selection},
        value_text,
    },
    proof_record::{Proof, ProofLevel, VERSION},
};

/// Settings by which the server writes the same value as the same text, whatever its role, database and configuration prefer. Those of
/// `pg_dump`, and `lc_monetary`, on which the type `money` depends.
pub const SETTINGS: &str = "SET search_path = ''; SET row_security = off; SET extra_float_digits = 3; SET TimeZone = 'UTC'; \
    SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
    SET quote_all_identifiers = off; SET xmlbinary = 'base64'";

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
    /// Whether the dump's own lines will tell the digests, by [`complete`]: here the rows are only counted.
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
    let definition = if request.level == ProofLevel::Off || request.is_partial {
        Vec::new()
    } else {
        // Of more than memory should be given to nothing is recorded, and the missing digest tells.
        definition::read(connection, request.whole, request.requirements).await?.unwrap_or_default()
    };
    let definition_sha256 = (!definition.is_empty()).then(|| definition::digest(&definition));
    let (tables, rows) = match request.level {
        ProofLevel::Off => (Vec::new(), Vec::new()),
        ProofLevel::Full if !request.rows_are_dumped => rows::read(connection, request.filled, &encoding, None).await?,
        ProofLevel::Counts | ProofLevel::Full => (inspect::table_rows(connection, request.filled).await?, Vec::new()),
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

/// The tables whose rows a plain dump's own lines will tell, if `pg_dump`'s session writes each value as ours does; `None`: they have to be
/// read. On a connection with these [`SETTINGS`].
pub async fn dumped_rows(
    connection: &mut PgConnection,
    filled: Selection<'_>,
    encoding: &str,
) -> Result<Option<DumpedRows>, sqlx::Error> {
    if !value_text::is_the_same_by_default(connection, filled).await? {
        return Ok(None);
    }
    let tables = inspect::table_columns(connection, filled, ColumnOrder::OfTable).await?;
    Ok(Some(DumpedRows::of(tables, encoding)))
}

/// A table of which a dump has other rows than its snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWhole {
    pub schema: String,
    pub table: String,
    pub dumped: u64,
    pub rows: u64,
}

/// Gives `proof` the digests of what was counted: by the dump's lines, and where they do not tell beyond doubt by reading, still inside the
/// snapshot. What the lines say is held against the counts, which know nothing of the dump.
///
/// # Errors
/// The database cannot be read. The inner one: the dump does not hold what its snapshot holds.
pub async fn complete(
    connection: &mut PgConnection,
    filled: Selection<'_>,
    counted: &[TableRows],
    dumped: &mut DumpedRows,
    proof: &mut Proof,
) -> Result<Result<(), NotWhole>, sqlx::Error> {
    let mut unknown = HashSet::new();
    for TableRows { schema, table, rows } in counted {
        let not_whole =
            |dumped| Ok(Err(NotWhole { schema: schema.clone(), table: table.clone(), dumped, rows: *rows }));
        match dumped.take(schema, table) {
            Told::Rows(_, sum) if sum.rows != *rows => return not_whole(sum.rows),
            Told::Missing if *rows > 0 => return not_whole(0),
            Told::Rows(table, sum) => proof.rows.push(rows::digest(table, &sum)),
            Told::Missing | Told::Unclear => drop(unknown.insert((schema.clone(), table.clone()))),
        }
    }
    if !unknown.is_empty() {
        tracing::info!(
            tables = unknown.len(),
            "rows are read a second time: the dump's own lines do not tell of them beyond doubt"
        );
        for table in inspect::table_columns(connection, filled, ColumnOrder::OfTable).await? {
            if unknown.contains(&(table.schema.clone(), table.table.clone())) {
                let sum = rows::read_table(connection, &table, &proof.encoding).await?;
                proof.rows.push(rows::digest(table, &sum));
            }
        }
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
    let (tables, rows) = match known {
        _ if level == ProofLevel::Off => (Vec::new(), Vec::new()),
        Some(proof) if is_full => rows::read(connection, selection, &proof.encoding, Some(proof)).await?,
        _ => (inspect::table_rows(connection, selection).await?, Vec::new()),
    };
    let definition = match known {
        Some(proof) if !proof.definition.is_empty() => {
            definition::read(connection, selection, &content.requirements).await?
        }
        _ => Some(Vec::new()),
    };
    let roots = inspect::table_columns(connection, selection, ColumnOrder::OfTable).await?;
    let roots = roots.into_iter().filter_map(|table| Some(((table.schema, table.table), table.root?))).collect();
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

/// What [`differences`] has found, in words; that the database could not be read is one of them.
pub fn in_words(found: Result<Vec<Difference>, sqlx::Error>) -> Vec<String> {
    match found {
        Ok(differences) => told(&differences),
        Err(error) => vec![format!("what was restored could not be compared: {error}")],
    }
}
