//! A bounded pipe from a task into the thread that reads a source. The end of the stream says nothing about success: whoever wrote says
//! that in [`Source::finish`](super::Source::finish).

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes that are gathered before they are handed over: small writes would wake the reader once each.
const CHUNK: usize = 256 << 10;
/// Chunks on their way. With the one being filled and the one being read, a pipe holds 1.5 MiB, and beyond that one write that is larger
/// than a chunk.
const CHUNKS: usize = 4;

/// The reader is gone: nobody wants the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the pipe any more")]
pub struct Closed;

/// Makes a pipe. The reader reaches its end when the writer is dropped, however that happened.
pub fn pipe() -> (PipeWriter, PipeReader) {
    let (chunks, chunks_in) = channel(CHUNKS);
    (PipeWriter { chunks, filling: BytesMut::new() }, PipeReader { chunks: chunks_in, current: Bytes::new() })
}

/// The writing end. Call [`finish`](Self::finish): what was gathered and not handed over is lost without it.
#[derive(Debug)]
pub struct PipeWriter {
    chunks: Sender<Bytes>,
    filling: BytesMut,
}

impl PipeWriter {
    /// Takes all of `bytes`, and waits while the pipe is full.
    ///
    /// # Errors
    /// The reader is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.filling.extend_from_slice(bytes);
        if self.filling.len() >= CHUNK { self.hand_over().await } else { Ok(()) }
    }

    /// Hands over what is left.
    ///
    /// # Errors
    /// The reader is gone.
    pub async fn finish(mut self) -> Result<(), Closed> {
        if self.filling.is_empty() { Ok(()) } else { self.hand_over().await }
    }

    async fn hand_over(&mut self) -> Result<(), Closed> {
        let chunk = self.filling.split().freeze();
        self.chunks.send(chunk).await.map_err(|_| Closed)
    }
}

/// The reading end. It blocks, so it is read on a thread that is not the runtime's.
#[derive(Debug)]
pub struct PipeReader {
    chunks: Receiver<Bytes>,
    current: Bytes,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_byte_comes_in_order_and_the_writer_waits_for_the_reader() {
        let (mut writer, mut reader) = pipe();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let task = tokio::spawn(async move {
            for piece in sent.chunks(777) {
                writer.write(piece).await.unwrap();
            }
            writer.finish().await.unwrap();
        });
        // Five megabytes do not fit, so without a reader the task stays where it is.
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        assert!(read.await.unwrap() == expected);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_writer_without_a_reader_is_told() {
        let (mut writer, reader) = pipe();
        drop(reader);
        assert_eq!(writer.write(&vec![0; CHUNK]).await, Err(Closed));
    }
}
