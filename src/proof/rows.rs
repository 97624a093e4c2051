//! Rows read from the database, where no dump's own lines tell of them.
//!
//! The server could compute the digests (`sha256(ROW(t.*)::text)`, summed), which would spare the network the rows. They are computed here, from
//! `COPY … TO STDOUT`, because that evaluates no expression at all, needs nothing of the server but what `pg_dump` needs too (a row that
//! cannot be read this way cannot be dumped either), costs the server a quarter of the processor time (most of the rest goes into turning
//! digests into numbers: docs/proof.md), and is what a plain dump holds.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use sqlx::PgConnection;

use super::{
    lines::{Line, Lines},
    row_sum::RowSum,
};
use crate::{
    manifest::TableRows,
    postgres::{
        inspect::{ColumnOrder, TableColumns},
        quote::{ident, literal, qualified},
    },
    proof_record::{Proof, RowsDigest},
};

/// The order of columns in which rows were read for this proof.
pub(super) fn order(proof: Option<&Proof>) -> ColumnOrder {
    if proof.is_some_and(|proof| proof.version == 1) { ColumnOrder::ByName } else { ColumnOrder::OfTable }
}

/// Reads these tables, which are in [`order`], as they were read for this proof, where there is one. A partitioned table's rows are its
/// partitions'.
pub(super) async fn read(
    connection: &mut PgConnection,
    tables: Vec<TableColumns>,
    encoding: &str,
    proof: Option<&Proof>,
) -> Result<(Vec<TableRows>, Vec<RowsDigest>), sqlx::Error> {
    let (mut counts, mut digests) = (Vec::with_capacity(tables.len()), Vec::with_capacity(tables.len()));
    let recorded = proof.map_or(&[][..], |proof| &proof.rows).iter().filter(|digest| !digest.columns.is_empty());
    let recorded: HashMap<_, _> = recorded.map(|digest| ((&digest.schema, &digest.table), &digest.columns)).collect();
    for mut table in tables {
        if let Some(recorded) = recorded.get(&(&table.schema, &table.table)) {
            reorder(&mut table.columns, recorded);
        }
        let sum = read_table(connection, &table, encoding).await?;
        counts.push(TableRows { schema: table.schema.clone(), table: table.table.clone(), rows: sum.rows });
        digests.push(digest(table, &sum));
    }
    Ok((counts, digests))
}

/// What is recorded of a table's rows.
pub(super) fn digest(table: TableColumns, sum: &RowSum) -> RowsDigest {
    let TableColumns { schema, table, columns, order_may_change, .. } = table;
    let columns = if order_may_change { columns } else { Vec::new() };
    RowsDigest { schema, table, columns, sha256_sum: sum.digest() }
}

/// Puts columns into this order, if they are the same ones.
fn reorder(columns: &mut Vec<String>, recorded: &[String]) {
    let sorted = |columns: &[String]| {
        let mut sorted = columns.to_vec();
        sorted.sort_unstable();
        sorted
    };
    if sorted(recorded) == sorted(columns) {
        *columns = recorded.to_vec();
    }
}

/// Reads one table.
pub(super) async fn read_table(
    connection: &mut PgConnection,
    table: &TableColumns,
    encoding: &str,
) -> Result<RowSum, sqlx::Error> {
    let statement = copy_statement(&qualified(&table.schema, &table.table), &table.columns, encoding);
    let (mut sum, mut lines) = (RowSum::default(), Lines::default());
    let mut stream = connection.copy_out_raw(&statement).await?;
    while let Some(bytes) = stream.try_next().await? {
        lines.feed(&bytes, |line| match line {
            Line::Whole(line) => sum.add_line(line),
            Line::Long(line) => sum.add_digested(line),
        });
    }
    Ok(sum)
}

/// A `COPY` that reads these columns of a table, by output functions alone.
fn copy_statement(table: &str, columns: &[String], encoding: &str) -> String {
    let columns: Vec<String> = columns.iter().map(|column| ident(column)).collect();
    // Without any column the list cannot be written, and is not needed.
    let list = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    format!("COPY {table}{list} TO STDOUT (ENCODING {})", literal(encoding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_columns_are_read_in_the_recorded_order() {
        for (columns, recorded, expected) in [
            (&["b", "a", "B"][..], &["a", "B", "b"][..], &["a", "B", "b"][..]),
            // Another table than it was.
            (&["b", "a"], &["a", "c"], &["b", "a"]),
            (&["b", "a"], &["a"], &["b", "a"]),
        ] {
            let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            let mut columns = names(columns);
            reorder(&mut columns, &names(recorded));
            assert_eq!(columns, names(expected), "{recorded:?}");
        }
    }
}
