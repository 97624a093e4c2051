//! Zstandard, one frame per artifact, for `zstd -d`.

use std::io::{self, BufRead, BufReader, Read, Write};

use zstd::stream::{read::Decoder, write::Encoder};

use super::Sink;

/// Largest window a frame may ask for when it is read, as a power of two: 8 MiB, which level 19 uses. A larger one does not come
/// from us and would take that much memory.
const WINDOW_LOG_MAX: u32 = 23;

/// Compresses what is written into it. Without [`finish`](Sink::finish) the frame is cut short and will not decompress.
pub struct ZstdWriter {
    encoder: Encoder<'static, Box<dyn Sink>>,
}

impl ZstdWriter {
    /// `threads` compress beside the caller's, which goes on while they do.
    pub fn new(level: i32, threads: usize, out: Box<dyn Sink>) -> io::Result<Self> {
        let mut encoder = Encoder::new(out, level.clamp(1, 19))?;
        encoder.include_checksum(true)?;
        encoder.multithread(u32::try_from(threads.clamp(1, 16)).unwrap_or(1))?;
        Ok(Self { encoder })
    }
}

impl Write for ZstdWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encoder.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

impl Sink for ZstdWriter {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.encoder.finish()?.finish()
    }
}

/// Decompresses exactly one frame; anything before its end or after it that does not belong there is an error.
pub fn reader(input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut decoder = Decoder::with_buffer(BufReader::with_capacity(256 << 10, input))?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(OneFrame { decoder, began: false }))
}

struct OneFrame<R: BufRead> {
    decoder: Decoder<'static, R>,
    began: bool,
}

impl<R: BufRead> Read for OneFrame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if !self.began {
            // The decoder takes no bytes at all for an empty content.
            if self.decoder.get_mut().fill_buf()?.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zstd frame is missing"));
            }
            self.began = true;
        }
        let read = self.decoder.read(buffer)?;
        if read == 0 && !self.decoder.get_mut().fill_buf()?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there are bytes after the zstd frame"));
        }
        Ok(read)
    }
}
