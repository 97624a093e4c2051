//! The digest of a table's rows.
//!
//! The server could compute it (`sha256(ROW(t.*)::text)`, summed), which would spare the network a second copy of the rows. It is computed
//! here, from `COPY … TO STDOUT`, because that evaluates no expression at all, needs nothing of the server but what `pg_dump` needs too (a row
//! that cannot be read this way cannot be dumped either), costs the server a quarter of the processor time (most of the rest goes into turning
//! digests into numbers: docs/proof.md), and can be repeated by anybody from a plain dump with standard tools. Both read the same pages at the same time, so the disk is read about once.

use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use crate::{
    artifact::Sha256Digest,
    postgres::{
        inspect::{self, Selection},
        quote::qualified,
    },
};

/// What was read of one table.
pub(super) struct ReadTable {
    pub schema: String,
    pub table: String,
    pub rows: u64,
    pub sum: Sha256Digest,
}

/// Reads every ordinary table of the selection. A partitioned table's rows are its partitions'.
pub(super) async fn read(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    encoding: &str,
) -> Result<Vec<ReadTable>, sqlx::Error> {
    let tables = inspect::table_columns(connection, selection).await?;
    let mut read = Vec::with_capacity(tables.len());
    for (schema, table, columns) in tables {
        let statement = super::copy_statement(&qualified(&schema, &table), &columns, encoding);
        let mut sum = RowSum::default();
        let mut stream = connection.copy_out_raw(&statement).await?;
        while let Some(bytes) = stream.try_next().await? {
            sum.feed(&bytes);
        }
        drop(stream);
        read.push(ReadTable { schema, table, rows: sum.rows, sum: sum.digest() });
    }
    Ok(read)
}

/// The sum of the digests of lines that come in pieces. Text `COPY` writes a line break inside a value as `\n`, so that one ends a row.
#[derive(Default)]
struct RowSum {
    rows: u64,
    /// A number of 256 bits, its least significant word first.
    sum: [u64; 4],
    /// The beginning of a line whose end has not come.
    begun: Option<Sha256>,
}

impl RowSum {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line = &bytes[..end];
            let digest = match self.begun.take() {
                None => Sha256::digest(line),
                Some(begun) => begun.chain_update(line).finalize(),
            };
            self.add(digest.into());
            bytes = &bytes[end + 1..];
        }
        if !bytes.is_empty() {
            self.begun.get_or_insert_default().update(bytes);
        }
    }

    /// A sum, not an exclusive or: two equal rows must not cancel each other out.
    fn add(&mut self, digest: [u8; 32]) {
        self.rows += 1;
        let mut carry = false;
        for (word, bytes) in self.sum.iter_mut().zip(digest.as_chunks::<8>().0) {
            let (with_digest, first) = word.overflowing_add(u64::from_le_bytes(*bytes));
            let (with_carry, second) = with_digest.overflowing_add(u64::from(carry));
            (*word, carry) = (with_carry, first || second);
        }
    }

    fn digest(&self) -> Sha256Digest {
        let mut bytes = [0; 32];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.sum) {
            *place = word.to_le_bytes();
        }
        Sha256Digest(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pieces: &[&str]) -> (u64, Sha256Digest) {
        let mut sum = RowSum::default();
        pieces.iter().for_each(|piece| sum.feed(piece.as_bytes()));
        (sum.rows, sum.digest())
    }

    #[test]
    fn order_and_pieces_do_not_matter_but_every_row_counts() {
        let whole = sum(&["a\tb\nc\td\n\n"]);
        assert_eq!(whole.0, 3);
        assert_eq!(sum(&["c\td\n", "\n", "a\tb\n"]), whole);
        assert_eq!(sum(&["a", "\tb\nc", "\td", "\n\n"]), whole);
        for other in [&["a\tb\nc\td\n"][..], &["a\tb\nc\te\n\n"], &["a\tb\nc\td\n\n\n"], &["a\tb\na\tb\nc\td\n\n"]] {
            assert_ne!(sum(other), whole, "{other:?}");
        }
        assert_ne!(sum(&["x\n", "x\n"]).1, sum(&[]).1);
    }

    #[test]
    fn the_sum_carries_from_word_to_word() {
        let mut all = RowSum { sum: [u64::MAX; 4], ..RowSum::default() };
        let mut one = [0; 32];
        one[0] = 1;
        all.add(one);
        assert_eq!(all.sum, [0; 4]);
        let mut low = RowSum { sum: [u64::MAX, 0, 0, 0], ..RowSum::default() };
        low.add(one);
        assert_eq!(low.sum, [0, 1, 0, 0]);
    }

    #[test]
    fn one_row_is_summed_to_its_own_digest() {
        assert_eq!(sum(&["abc\n"]).1, Sha256Digest::of(b"abc"));
    }
}
