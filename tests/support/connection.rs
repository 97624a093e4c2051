//! HTTP/1.1 over TCP where the server decides how a connection ends, a reset included: hyper alone can only close. Shared by the
//! stand-in of Telegram's Bot API and the faulty proxy.

#![allow(dead_code, reason = "each user uses a part")]

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::{Extension, Router, body::Body};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use tower::Layer as _;

/// The connection that a request came on; handlers find it among the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Wire(Arc<AtomicBool>);

impl Wire {
    /// Ends the connection with a reset (RST) as soon as the server touches it again, which writing any answer does.
    pub fn reset(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_reset(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A body that ends with a reset after its first `keep` bytes were handed to the system; of them, those arrive for which the other
    /// side had room.
    pub fn reset_after<E: std::error::Error + Send + Sync + 'static>(
        self,
        body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
        keep: u64,
    ) -> Body {
        let kept = first(body, keep).map(|chunk| chunk.map_err(io::Error::other));
        let mut flushed = false;
        let end = stream::poll_fn(move |context| {
            // Not ready once: hyper then writes out what it holds before it asks again.
            if !std::mem::replace(&mut flushed, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.reset();
            Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::ConnectionReset))))
        });
        Body::from_stream(kept.chain(end))
    }
}

/// The first `keep` bytes of a stream.
pub fn first<E: Send + 'static>(
    body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    keep: u64,
) -> impl Stream<Item = Result<Bytes, E>> + Send + 'static {
    body.scan(keep, |left, chunk| {
        let chunk = chunk.map(|mut bytes| {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
            bytes
        });
        // Empty when nothing is left: the stream ends there.
        std::future::ready(match chunk {
            Ok(bytes) if bytes.is_empty() && *left == 0 => None,
            chunk => Some(chunk),
        })
    })
}

/// Serves a router on a free loopback port, until the handle is dropped: then every connection is closed.
pub async fn serve(router: Router) -> io::Result<(SocketAddr, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((address, AbortOnDropHandle::new(tokio::spawn(accept(listener, router)))))
}

async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, router.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn connection(stream: TcpStream, router: Router) -> impl Future<Output = ()> + Send {
    // Small answers must not wait for the client's acknowledgement.
    _ = stream.set_nodelay(true);
    let wire = Wire::default();
    let service = TowerToHyperService::new(Extension(wire.clone()).layer(router));
    let io = TokioIo::new(Breakable { stream, wire });
    let connection = http1::Builder::new().serve_connection(io, service);
    // How it ended is the client's affair.
    async move { _ = connection.await }
}

/// A stream that fails once its [`Wire`] was reset, and then leaves without a goodbye.
struct Breakable {
    stream: TcpStream,
    wire: Wire,
}

impl Breakable {
    fn check(&self) -> io::Result<()> {
        if self.wire.is_reset() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if self.wire.is_reset() {
            // Closing a socket that does not linger sends RST instead of FIN.
            _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
