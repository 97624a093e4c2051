//! A stream that fails when what is written to it makes no progress, so that one who never reads does not keep a connection forever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Gives a write `within` until a byte is taken. While nothing is to be written no time runs.
#[derive(Debug)]
pub struct Unstalled<S> {
    stream: S,
    within: Duration,
    /// Since a write has waited.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    pub const fn new(stream: S, within: Duration) -> Self {
        Self { stream, within, waiting: None }
    }

    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What a write came to, or that it has waited too long.
    fn progress<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.within)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read what it is sent")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    const WITHIN: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails_after_its_time() {
        let (ours, _theirs) = duplex(4);
        let mut ours = Unstalled::new(ours, WITHIN);
        let started = Instant::now();
        let error = ours.write_all(b"12345").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= WITHIN);
    }

    #[tokio::test]
    async fn every_byte_that_is_taken_gives_time_anew_and_rest_takes_none() {
        let (ours, mut theirs) = duplex(1);
        let mut ours = Unstalled::new(ours, WITHIN);
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            while read.len() < 8 {
                sleep(WITHIN / 4).await;
                read.push(theirs.read_u8().await.unwrap());
            }
            read
        });
        ours.write_all(b"1234").await.unwrap();
        sleep(2 * WITHIN).await;
        ours.write_all(b"5678").await.unwrap();
        assert_eq!(reader.await.unwrap(), b"12345678");
    }
}
