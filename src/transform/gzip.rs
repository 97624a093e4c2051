//! Gzip on several threads, one member per artifact, for `gunzip`.
//!
//! The content is cut into blocks that are compressed apart, each with the end of the block before it as dictionary, and joined by
//! sync flushes into one deflate stream, as pigz does. Written here and not taken from the crate gzp (2.0.4): that one gives each block a
//! buffer of 1.1 × its size and looks no further, finishes the stream in `drop`, and panics there when the writer below fails.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, FlushCompress, Status, bufread::MultiGzDecoder};

use super::Sink;

/// Content bytes in a block.
const BLOCK: usize = 256 << 10;
/// How far back deflate can refer.
const WINDOW: usize = 32 << 10;
/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// RFC 1951: a final block with fixed codes that holds the end-of-block code alone.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// Compresses what is written into it. Without [`finish`](Sink::finish) the trailer is missing and `gunzip` says so.
pub struct GzipWriter {
    out: Box<dyn Sink>,
    block: BytesMut,
    dictionary: Bytes,
    /// Closing it ends the workers.
    jobs: SyncSender<Job>,
    /// Blocks handed to workers, in the order of the content.
    waiting: VecDeque<Receiver<io::Result<Done>>>,
    most_waiting: usize,
    checksum: Crc,
}

struct Job {
    block: Bytes,
    dictionary: Bytes,
    done: SyncSender<io::Result<Done>>,
}

struct Done {
    compressed: Vec<u8>,
    checksum: Crc,
}

impl GzipWriter {
    /// `level` is 1 to 9; `threads` compress beside the caller's.
    pub fn new(level: u32, threads: usize, mut out: Box<dyn Sink>) -> io::Result<Self> {
        let threads = threads.clamp(1, 16);
        let most_waiting = threads * 2;
        let (jobs, queue) = sync_channel::<Job>(most_waiting);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("gzip".into()).spawn(move || work(&queue, level.clamp(1, 9)))?;
        }
        out.write_all(&HEADER)?;
        Ok(Self {
            out,
            block: BytesMut::with_capacity(BLOCK),
            dictionary: Bytes::new(),
            jobs,
            waiting: VecDeque::with_capacity(most_waiting),
            most_waiting,
            checksum: Crc::new(),
        })
    }

    /// Hands the gathered block to the workers, and first writes the oldest one when enough are under way.
    fn hand_over(&mut self) -> io::Result<()> {
        if self.waiting.len() >= self.most_waiting {
            self.write_oldest()?;
        }
        let block = std::mem::replace(&mut self.block, BytesMut::with_capacity(BLOCK)).freeze();
        let next_dictionary = block.slice(block.len().saturating_sub(WINDOW)..);
        let dictionary = std::mem::replace(&mut self.dictionary, next_dictionary);
        let (done, result) = sync_channel(1);
        self.jobs.send(Job { block, dictionary, done }).map_err(|_| stopped())?;
        self.waiting.push_back(result);
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        if let Some(oldest) = self.waiting.pop_front() {
            let done = oldest.recv().map_err(|_| stopped())??;
            self.checksum.combine(&done.checksum);
            self.out.write_all(&done.compressed)?;
        }
        Ok(())
    }
}

fn stopped() -> io::Error {
    io::Error::other("a compressing thread stopped unexpectedly")
}

fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    let mut compress = Compress::new(Compression::new(level), false);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let mut checksum = Crc::new();
        checksum.update(&job.block);
        let result = compress_block(&mut compress, &job).map(|compressed| Done { compressed, checksum });
        // Nobody waits any more when the writer was dropped.
        let _ = job.done.send(result);
    }
}

/// One block, ended by a sync flush so that the next begins at a byte.
fn compress_block(compress: &mut Compress, job: &Job) -> io::Result<Vec<u8>> {
    compress.reset();
    if !job.dictionary.is_empty() {
        compress.set_dictionary(&job.dictionary).map_err(io::Error::other)?;
    }
    let mut compressed = Vec::with_capacity(job.block.len() / 3 + 1024);
    let mut rest: &[u8] = &job.block;
    loop {
        let before = compress.total_in();
        let status = compress.compress_vec(rest, &mut compressed, FlushCompress::Sync).map_err(io::Error::other)?;
        let taken = usize::try_from(compress.total_in() - before).map_err(io::Error::other)?;
        rest = rest.get(taken..).ok_or_else(stopped)?;
        // zlib: the flush is complete when the call returns with room left in the output.
        if rest.is_empty() && compressed.len() < compressed.capacity() {
            return Ok(compressed);
        }
        if matches!(status, Status::StreamEnd) {
            return Err(stopped());
        }
        compressed.reserve(64 << 10);
    }
}

impl Write for GzipWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.hand_over()?;
        }
        Ok(taken)
    }

    /// Writes what the workers have; the block being gathered waits for its end.
    fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write_oldest()?;
        }
        self.out.flush()
    }
}

impl Sink for GzipWriter {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.block.is_empty() {
            self.hand_over()?;
        }
        while !self.waiting.is_empty() {
            self.write_oldest()?;
        }
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.checksum.sum().to_le_bytes())?;
        self.out.write_all(&self.checksum.amount().to_le_bytes())?;
        self.out.finish()
    }
}

/// Decompresses all members; what follows the last one must be the end.
pub fn reader(input: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
    Box::new(Members { decoder: MultiGzDecoder::new(BufReader::with_capacity(256 << 10, input)), began: false })
}

struct Members<R> {
    decoder: MultiGzDecoder<R>,
    began: bool,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.began {
            if self.decoder.get_mut().fill_buf()?.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the gzip member is missing"));
            }
            self.began = true;
        }
        self.decoder.read(buffer)
    }
}
