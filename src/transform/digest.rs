//! Size and SHA-256 of a run of bytes, taken while it passes and compared when it ends.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::artifact::{Fingerprint, Sha256Digest};

/// Takes the fingerprint of what passes.
#[derive(Clone, Default)]
pub struct Fingerprinter {
    hasher: Sha256,
    bytes: u64,
}

impl Fingerprinter {
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Bytes seen so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn finish(self) -> Fingerprint {
        Fingerprint { bytes: self.bytes, sha256: Sha256Digest(self.hasher.finalize().into()) }
    }
}

/// Hands out `inner`'s bytes and, where they should end, compares them with what was expected: a mismatch is an error in place of the end.
///
/// Never hands out more bytes than expected, so that a stream which unpacks without end is stopped early.
pub struct CheckedReader<R> {
    inner: R,
    seen: Option<Fingerprinter>,
    expected: Fingerprint,
}

impl<R: Read> CheckedReader<R> {
    pub fn new(inner: R, expected: Fingerprint) -> Self {
        Self { inner, seen: Some(Fingerprinter::default()), expected }
    }
}

impl<R: Read> Read for CheckedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // After the verdict: the end stays the end. A failed one failed for good.
        let Some(seen) = &mut self.seen else { return Ok(0) };
        let read = self.inner.read(buffer)?;
        let too_many = seen.bytes() + read as u64 > self.expected.bytes;
        if read > 0 && !too_many {
            seen.update(&buffer[..read]);
            return Ok(read);
        }
        if too_many {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the content goes on after the {} bytes that were recorded", self.expected.bytes),
            ));
        }
        if seen.bytes() < self.expected.bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the content ends after {} of {} bytes", seen.bytes(), self.expected.bytes),
            ));
        }
        if seen.clone().finish() != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the content is not what was recorded: SHA-256 differs",
            ));
        }
        self.seen = None;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_an_error_unless_size_and_digest_agree() {
        let expected = Fingerprint::of(b"content");
        let read = |bytes: &[u8]| {
            let mut reader = CheckedReader::new(bytes, expected);
            let mut out = Vec::new();
            let result = reader.read_to_end(&mut out);
            // What failed once does not end well when asked again.
            assert_eq!(result.is_ok(), reader.read(&mut [0; 8]).is_ok());
            result.map(|_| out).map_err(|e| e.to_string())
        };
        assert_eq!(read(b"content").unwrap(), b"content");
        assert!(read(b"conten").unwrap_err().contains("ends after 6 of 7"));
        assert!(read(b"content!").unwrap_err().contains("goes on"));
        assert!(read(b"c0ntent").unwrap_err().contains("SHA-256"));
        assert!(read(b"").is_err());
    }
}
