//! A stream that fails when what is written to it is taken too slowly, so that one who reads nothing, or a byte now and then, does not keep a
//! connection forever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How quickly a client takes what it is sent, at the least.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So many bytes, …
    pub bytes: usize,
    /// … in so much time spent waiting for the client.
    pub within: Duration,
}

/// Lets writes wait for as long as the pace allows, all in all, until its bytes are taken; then anew. While nothing is to be written, or
/// everything is taken at once, no time runs.
#[derive(Debug)]
pub struct Unstalled<S> {
    stream: S,
    pace: Pace,
    /// How long writes have waited, and what was taken, since the pace was last met.
    waited: Duration,
    taken: usize,
    /// Since when a write waits, and when that is too long.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Unstalled<S> {
    pub const fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, waited: Duration::ZERO, taken: 0, waiting: None }
    }

    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What a write came to, or that all of them have waited too long.
    fn progress(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let Some((since, _)) = self.waiting.take() {
                self.waited += since.elapsed();
            }
            self.taken = self.taken.saturating_add(*written.as_ref().unwrap_or(&0));
            if self.taken >= self.pace.bytes {
                (self.waited, self.taken) = (Duration::ZERO, 0);
            }
            return Poll::Ready(written);
        }
        let left = self.pace.within.saturating_sub(self.waited);
        let (_, limit) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client is too slow to read what it is sent")))
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
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::JoinHandle,
    };

    use super::*;

    const WITHIN: Duration = Duration::from_millis(400);

    fn paced<S>(stream: S, bytes: usize) -> Unstalled<S> {
        Unstalled::new(stream, Pace { bytes, within: WITHIN })
    }

    /// Reads this many bytes, one at a time, with a rest before each.
    fn read_slowly(mut stream: DuplexStream, count: usize, rest: Duration) -> JoinHandle<Vec<u8>> {
        tokio::spawn(async move {
            let mut read = Vec::new();
            while read.len() < count {
                sleep(rest).await;
                match stream.read_u8().await {
                    Ok(byte) => read.push(byte),
                    Err(_) => break,
                }
            }
            read
        })
    }

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails_after_its_time() {
        let (ours, _theirs) = duplex(4);
        let mut ours = paced(ours, 1);
        let started = Instant::now();
        let error = ours.write_all(b"12345").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= WITHIN);
    }

    #[tokio::test]
    async fn every_byte_gives_time_anew_where_one_is_enough_and_rest_takes_none() {
        let (ours, theirs) = duplex(1);
        let mut ours = paced(ours, 1);
        let reader = read_slowly(theirs, 8, WITHIN / 4);
        ours.write_all(b"1234").await.unwrap();
        sleep(2 * WITHIN).await;
        ours.write_all(b"5678").await.unwrap();
        assert_eq!(reader.await.unwrap(), b"12345678");
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_too_slow_where_more_are_asked_for() {
        let (ours, theirs) = duplex(1);
        let mut ours = paced(ours, 1000);
        let reader = read_slowly(theirs, 100, WITHIN / 4);
        let started = Instant::now();
        let error = ours.write_all(&[7; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < 20 * WITHIN, "{:?}", started.elapsed());
        drop(ours);
        assert!(reader.await.unwrap().len() < 100);
    }

    #[tokio::test]
    async fn whoever_keeps_the_pace_may_take_as_long_as_it_likes() {
        let (ours, theirs) = duplex(1);
        // Ten bytes take half of the time that they have.
        let mut ours = paced(ours, 10);
        let reader = read_slowly(theirs, 60, WITHIN / 20);
        let started = Instant::now();
        ours.write_all(&[7; 60]).await.unwrap();
        assert_eq!(reader.await.unwrap().len(), 60);
        assert!(started.elapsed() > 2 * WITHIN);
    }
}
