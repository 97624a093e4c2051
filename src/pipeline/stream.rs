//! Two threads beside the reactor: one reads the source and digests the content, one compresses, encrypts, digests and cuts into
//! parts. They overlap, so that the source is never kept waiting by arithmetic.
//!
//! Memory: what was read ahead, what the transforms hold, and `PIECES` pieces beside those being filled and written.

use std::{
    io::{self, Read, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::Progress;
use crate::{
    artifact::Fingerprint,
    byte_size::ByteSize,
    manifest::Part,
    transform::{EncodeOptions, Fingerprinter, Sink, encode},
};

/// What is handed from thread to thread.
const CHUNK: usize = 256 << 10;
/// What may be on its way between the threads, so that rows which are quick to format but slow to compress do not stop the dump at once, and the
/// processors have something to do while the next rows are slow to format.
pub(super) const READ_AHEAD: ByteSize = ByteSize::mib(64);
/// The same where storages gather parts in memory: the whole shall stay within its bounds, and the storage sets the pace more often than not.
pub(super) const READ_AHEAD_OF_GATHERED_PARTS: ByteSize = ByteSize::mib(8);
/// Pieces that wait for an upload which is busy: together with those being filled and written as much as one part of most storages, so that
/// its next part is there when it has sent one.
const PIECES: usize = 2;
/// Parts begin at a multiple of this many bytes in memory, so that a disk can take them without a copy.
const PART_ALIGNMENT: usize = 4096;
/// How many content bytes pass between two reports of progress.
const REPORT_EVERY: u64 = 1 << 20;

/// A stream under way. Dropping it ends the threads: the transforming one at its next part, the reading one at its next chunk.
pub(super) struct Stream {
    /// The stored form in parts; its end says nothing, `outcome` does.
    pub parts: mpsc::Receiver<Bytes>,
    pub outcome: oneshot::Receiver<Result<Outcome, StreamError>>,
}

/// What came through.
pub(super) struct Outcome {
    pub content: Fingerprint,
    pub stored: Fingerprint,
    pub parts: Vec<Part>,
}

pub(super) enum StreamError {
    Read(io::Error),
    Encode(io::Error),
}

enum Message {
    Chunk(Vec<u8>),
    End,
    Failed(io::Error),
}

/// Starts both threads.
pub(super) fn start(
    reader: Box<dyn Read + Send>,
    options: EncodeOptions,
    part: ByteSize,
    read_ahead: ByteSize,
    progress: watch::Sender<Progress>,
) -> io::Result<Stream> {
    let count = usize::try_from(read_ahead.0).unwrap_or(usize::MAX) / CHUNK;
    let (chunks, chunks_in) = sync_channel(count);
    let (used, used_in) = sync_channel(count + 2);
    let (parts, parts_in) = mpsc::channel(PIECES);
    let (outcome, outcome_in) = oneshot::channel();
    std::thread::Builder::new().name("dump-read".into()).spawn(move || read(reader, &chunks, &used_in, &progress))?;
    std::thread::Builder::new().name("dump-encode".into()).spawn(move || {
        // Nobody waits any more when the attempt was given up.
        let _ = outcome.send(transform(&options, part, parts, &chunks_in, &used));
    })?;
    Ok(Stream { parts: parts_in, outcome: outcome_in })
}

fn read(
    mut reader: Box<dyn Read + Send>,
    chunks: &SyncSender<Message>,
    used: &Receiver<Vec<u8>>,
    progress: &watch::Sender<Progress>,
) {
    let (mut bytes, mut reported) = (0, 0);
    loop {
        let mut chunk = used.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        chunk.resize(CHUNK, 0);
        let filled = match fill(&mut *reader, &mut chunk) {
            Ok(filled) => filled,
            Err(error) => {
                let _ = chunks.send(Message::Failed(error));
                return;
            }
        };
        bytes += filled as u64;
        let ended = filled < CHUNK;
        if ended || bytes - reported >= REPORT_EVERY {
            reported = bytes;
            progress.send_modify(|p| p.content_bytes = reported);
        }
        chunk.truncate(filled);
        if filled > 0 && chunks.send(Message::Chunk(chunk)).is_err() {
            return;
        }
        if ended {
            let _ = chunks.send(Message::End);
            return;
        }
    }
}

/// Reads until the buffer is full or the stream ends: a pipe gives a few kilobytes at a time.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn transform(
    options: &EncodeOptions,
    part: ByteSize,
    parts: mpsc::Sender<Bytes>,
    chunks: &Receiver<Message>,
    used: &SyncSender<Vec<u8>>,
) -> Result<Outcome, StreamError> {
    let (cut, cut_in) = sync_channel(1);
    let size = usize::try_from(part.0).unwrap_or(usize::MAX).max(1);
    let bottom = PartWriter {
        size,
        part: Vec::new(),
        before: 0,
        parts,
        stored: Fingerprinter::default(),
        list: Vec::new(),
        cut,
    };
    let mut sink = encode(options, Box::new(bottom)).map_err(StreamError::Encode)?;
    let mut content = Fingerprinter::default();
    loop {
        match chunks.recv() {
            Ok(Message::Chunk(chunk)) => {
                content.update(&chunk);
                sink.write_all(&chunk).map_err(StreamError::Encode)?;
                let _ = used.try_send(chunk);
            }
            Ok(Message::End) => {
                sink.finish().map_err(StreamError::Encode)?;
                let (stored, parts) = cut_in.recv().map_err(|_| StreamError::Encode(stopped()))?;
                return Ok(Outcome { content: content.finish(), stored, parts });
            }
            Ok(Message::Failed(error)) => return Err(StreamError::Read(error)),
            // The reading thread is gone without a word: whatever came is not all.
            Err(_) => return Err(StreamError::Read(stopped())),
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("a thread of the backup stopped unexpectedly")
}

/// The bottom of the stack: digests, and parts of equal size but the last.
struct PartWriter {
    size: usize,
    part: Vec<u8>,
    /// Bytes in `part` before the first of its own.
    before: usize,
    parts: mpsc::Sender<Bytes>,
    stored: Fingerprinter,
    list: Vec<Part>,
    /// Takes the result at the end, as a sink's `finish` gives nothing back.
    cut: SyncSender<(Fingerprint, Vec<Part>)>,
}

impl PartWriter {
    fn send(&mut self) -> io::Result<()> {
        let part = Bytes::from(std::mem::take(&mut self.part)).slice(self.before..);
        self.stored.update(&part);
        self.list.push(Part { fingerprint: Fingerprint::of(&part) });
        self.parts.blocking_send(part).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload was given up"))
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.capacity() == 0 {
            // Whole at once, so that it never moves; of what is not written to, no memory is taken.
            self.part.reserve_exact(self.size + PART_ALIGNMENT);
            self.before = self.part.as_ptr().align_offset(PART_ALIGNMENT).min(PART_ALIGNMENT);
            self.part.resize(self.before, 0);
        }
        let taken = bytes.len().min(self.size + self.before - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() - self.before == self.size {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for PartWriter {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if self.part.len() > self.before {
            self.send()?;
        }
        let Self { stored, list, cut, .. } = *self;
        cut.send((stored.finish(), list)).map_err(|_| stopped())
    }
}
