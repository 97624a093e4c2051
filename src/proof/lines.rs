//! Lines out of pieces of a stream, without a copy of those that are whole in one piece.

use sha2::{Digest as _, Sha256};

/// Longest line, in bytes, that is put together when it comes in pieces. Longer than any statement that is looked for: the `COPY` of 1,600
/// columns (the server's limit) with names of 63 quotation marks, each written twice, is 210 KB.
const LONGEST: usize = 256 << 10;

/// A line, without its break.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// One that was too long to be kept: its digest.
    Long(Sha256),
}

/// Puts lines together. What comes after the last line break is no line.
#[derive(Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// The same of one that grew too long.
    long: Option<Sha256>,
}

impl Lines {
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let piece = &bytes[..end];
            bytes = &bytes[end + 1..];
            match self.long.take() {
                Some(long) => each(Line::Long(long.chain_update(piece))),
                None if self.begun.is_empty() => each(Line::Whole(piece)),
                None => {
                    self.begun.extend_from_slice(piece);
                    each(Line::Whole(&self.begun));
                    self.begun.clear();
                }
            }
        }
        match &mut self.long {
            Some(long) => long.update(bytes),
            None if self.begun.len() + bytes.len() <= LONGEST => self.begun.extend_from_slice(bytes),
            None => {
                self.long = Some(Sha256::new_with_prefix(&self.begun).chain_update(bytes));
                self.begun.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let long = "x".repeat(LONGEST + 1);
        let text = format!("one\n\n{long}\nlast\nno line");
        let expected: Vec<Vec<u8>> =
            ["one", "", &long, "last"].iter().map(|line| Sha256::digest(line).to_vec()).collect();
        for size in [1, 2, 7, 4096, LONGEST, text.len()] {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                lines.feed(piece, |line| {
                    found.push(match line {
                        Line::Whole(line) => Sha256::digest(line).to_vec(),
                        Line::Long(digest) => digest.finalize().to_vec(),
                    });
                });
            }
            assert_eq!(found, expected, "{size}");
            assert!(lines.begun.capacity() <= 2 * LONGEST);
        }
    }
}
