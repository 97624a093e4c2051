//! `pg_dump`'s standard output, and what passed through it.

use std::{
    fs::File,
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::proof::DumpedRows;

/// Bytes of the end that are kept: the two empty blocks of a tar archive.
const TAIL: usize = 1024;

/// Bytes of the beginning that are kept: a custom archive's first word.
const HEAD: usize = 5;

/// What passed through the reader.
#[derive(Default)]
pub(super) struct Seen {
    pub bytes: AtomicU64,
    /// The first [`HEAD`] bytes.
    pub head: Mutex<Vec<u8>>,
    /// The last [`TAIL`] bytes.
    pub tail: Mutex<Vec<u8>>,
    /// How many tables' rows have passed, where they are looked for.
    pub tables: AtomicU64,
    /// Where the rows' digests come from the dump.
    pub rows: Mutex<Option<DumpedRows>>,
}

/// `pg_dump`'s standard output. It ends when `pg_dump` ends, well or not.
///
/// `pg_dump` writes 4 KiB at a time (stdio's buffer for a pipe), and a reader that waits in `read` is woken for each of them: on
/// a busy machine that costs as much as the digest. So after the pipe was emptied it is given time to fill again.
pub(super) struct DumpReader {
    stdout: File,
    seen: Arc<Seen>,
    /// How long: too short for the pipe to become full, so `pg_dump` never waits for it.
    pause: Duration,
    emptied: bool,
}

impl DumpReader {
    pub fn new(stdout: File, seen: Arc<Seen>) -> Self {
        // What a pipe has by default, pipe(7).
        let capacity = rustix::pipe::fcntl_getpipe_size(&stdout).unwrap_or(64 << 10);
        // At a gigabyte in a second, which is beyond what a backend formats.
        let pause = Duration::from_nanos(capacity as u64);
        Self { stdout, seen, pause, emptied: false }
    }
}

impl Read for DumpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.emptied {
            std::thread::sleep(self.pause);
        }
        let length = self.stdout.read(buffer)?;
        self.emptied = length < buffer.len();
        let new = &buffer[..length];
        if let Some(rows) = &mut *self.seen.rows.lock().unwrap_or_else(PoisonError::into_inner) {
            rows.feed(new);
            self.seen.tables.store(rows.passed(), Ordering::Release);
        }
        if self.seen.bytes.fetch_add(length as u64, Ordering::Release) < HEAD as u64 {
            let mut head = self.seen.head.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = HEAD - head.len();
            head.extend(new.iter().take(missing));
        }
        let mut tail = self.seen.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&new[new.len().saturating_sub(TAIL)..]);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
        Ok(length)
    }
}
