//! The digest of a table's rows: a sum, so that it does not depend on their order.

use sha2::{Digest as _, Sha256};

use crate::artifact::Sha256Digest;

/// The sum of the digests of lines of text `COPY`, each without its line break.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSum {
    pub rows: u64,
    /// A number of 256 bits, its least significant word first.
    sum: [u64; 4],
}

impl RowSum {
    pub fn add_line(&mut self, line: &[u8]) {
        self.add(Sha256::digest(line).into());
    }

    /// A line that came in pieces.
    pub fn add_digested(&mut self, line: Sha256) {
        self.add(line.finalize().into());
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

    /// A table's rows, beside those of others.
    pub fn add_table(&mut self, rows: u64, sum: Sha256Digest) {
        self.add(sum.0);
        self.rows = self.rows - 1 + rows;
    }

    pub fn digest(&self) -> Sha256Digest {
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

    fn sum(lines: &[&str]) -> (u64, Sha256Digest) {
        let mut sum = RowSum::default();
        lines.iter().for_each(|line| sum.add_line(line.as_bytes()));
        (sum.rows, sum.digest())
    }

    #[test]
    fn order_does_not_matter_but_every_row_counts() {
        let whole = sum(&["a\tb", "c\td", ""]);
        assert_eq!(whole.0, 3);
        assert_eq!(sum(&["c\td", "", "a\tb"]), whole);
        for other in
            [&["a\tb", "c\td"][..], &["a\tb", "c\te", ""], &["a\tb", "c\td", "", ""], &["a\tb", "a\tb", "c\td", ""]]
        {
            assert_ne!(sum(other), whole, "{other:?}");
        }
        assert_ne!(sum(&["x", "x"]).1, sum(&[]).1);
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
    fn rows_of_two_tables_are_summed_as_those_of_one() {
        let mut both = RowSum::default();
        for lines in [&["x", "y"][..], &[], &["z"]] {
            let (rows, digest) = sum(lines);
            both.add_table(rows, digest);
        }
        assert_eq!((both.rows, both.digest()), sum(&["x", "y", "z"]));
    }

    #[test]
    fn one_row_is_summed_to_its_own_digest() {
        assert_eq!(sum(&["abc"]).1, Sha256Digest::of(b"abc"));
    }
}
