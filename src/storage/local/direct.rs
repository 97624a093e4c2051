//! A file that is written past the page cache where that is possible: an artifact is not read again soon, so keeping it there would only
//! drive out pages that the databases on the machine need, and copying it costs processor time.

use std::{
    fs::File,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{fs::OFlags, io::Errno};

/// What address and length of a write must be multiples of; open(2), "O_DIRECT". Disks with larger blocks refuse and are written to through
/// the cache.
const ALIGNMENT: usize = 4096;

/// A file to append to.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    /// Whether writes go past the cache. File systems that cannot do it say so when they are asked.
    is_direct: AtomicBool,
}

impl DirectFile {
    /// `file` is new and empty.
    pub fn new(file: File) -> Self {
        let is_direct = rustix::fs::fcntl_setfl(&file, OFlags::DIRECT).is_ok();
        Self { file, is_direct: AtomicBool::new(is_direct) }
    }

    /// Appends all bytes; gives how many of them went through the cache and have yet to reach the disk.
    pub fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut rest = bytes;
        while self.is_direct.load(Ordering::Relaxed) && !rest.is_empty() {
            let is_aligned = rest.as_ptr().addr().is_multiple_of(ALIGNMENT) && rest.len().is_multiple_of(ALIGNMENT);
            match if is_aligned { rustix::io::write(&self.file, rest) } else { Err(Errno::INVAL) } {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                // The last part, a part of another's making, or a disk that wants more: from here on through the cache.
                Err(Errno::INVAL) => {
                    rustix::fs::fcntl_setfl(&self.file, OFlags::empty())?;
                    self.is_direct.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        (&self.file).write_all(rest)?;
        Ok(rest.len() as u64)
    }

    /// Returns when the content is on the disk.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Returns when content and size are on the disk.
    pub fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_other_writes_end_up_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = DirectFile::new(File::create(&path).unwrap());
        let (mut expected, mut memory) = (Vec::new(), vec![0; 64 * ALIGNMENT]);
        let begin = memory.as_ptr().align_offset(ALIGNMENT);
        for (round, (from, length)) in
            [(begin, 8 * ALIGNMENT), (begin, 3 * ALIGNMENT), (begin, ALIGNMENT + 1), (begin + 1, ALIGNMENT), (begin, 7)]
                .into_iter()
                .enumerate()
        {
            let piece = &mut memory[from..from + length];
            piece.fill(round as u8 + 1);
            let cached = file.append(piece).unwrap();
            expected.extend_from_slice(piece);
            assert!(cached == 0 || cached == length as u64, "{cached} of {length}");
            // Once through the cache, always: the offset is no longer aligned.
            assert!(round < 2 || cached > 0);
        }
        file.sync_all().unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}
