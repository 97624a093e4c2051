//! Listens until told to stop, then lets running requests end.
//!
//! The process that serves also works on jobs: connections are limited in number, and one that does not send the head of its request
//! in time is closed, so that slow clients cannot take all descriptors.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Layer;

use super::router_until;
use crate::{app::App, auth::jwt::Verifier};

/// Connections open at once. More wait in the system's queue. Well below the 1024 or more descriptors that a process has, of which
/// each download takes another.
const MAX_CONNECTIONS: usize = 512;

/// Time for the head of a request, from the connection's beginning or the end of the answer before.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Rest after an `accept` that failed, mostly for want of descriptors.
const REST: Duration = Duration::from_secs(1);

/// What a listener lets in.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    head_within: Duration,
}

/// Serves the API until `shutdown` is ready. Then no connection is taken any more, event streams end, and what still runs has
/// `worker.shutdown_seconds` to end by itself.
pub async fn serve(
    app: App,
    verifier: Verifier,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let grace = Duration::from_secs(app.config.worker.shutdown_seconds);
    let stopping = CancellationToken::new();
    let router = router_until(app, verifier, stopping.clone());
    let limits = Limits { connections: MAX_CONNECTIONS, head_within: HEAD_WITHIN };
    serve_router(router, listener, limits, stopping, shutdown, grace).await;
    Ok(())
}

async fn serve_router(
    router: Router,
    listener: TcpListener,
    limits: Limits,
    stopping: CancellationToken,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let connection = connection(router.clone(), stream, from, limits.head_within, stopping.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    () = &mut shutdown => break,
                }
            }
        }
    }
    drop(listener);
    stopping.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(seconds = grace.as_secs(), "some requests did not end in time and are cut off");
    }
}

/// One connection, with as many requests as it brings.
async fn connection(
    router: Router,
    stream: TcpStream,
    from: SocketAddr,
    head_within: Duration,
    stopping: CancellationToken,
) {
    let service = TowerToHyperService::new(Extension(ConnectInfo(from)).layer(router));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_within);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // Clients that leave, are slow or speak no HTTP: their affair.
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    /// A server that answers with the address that asks.
    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async |ConnectInfo(from): ConnectInfo<SocketAddr>| from.to_string()))
            .route("/never", get(std::future::pending::<&'static str>));
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let grace = Duration::from_millis(200);
        let server = serve_router(router, listener, limits, CancellationToken::new(), shutdown, grace);
        (address, stop, tokio::spawn(server))
    }

    /// What comes back until the server closes.
    async fn send(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_head_is_closed_and_makes_room_for_the_next() {
        let limits = Limits { connections: 1, head_within: Duration::from_millis(200) };
        let (address, stop, server) = start(limits).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        // Waits for the one place.
        let answer = send(address, ASK).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("127.0.0.1:"), "{answer}");
        let mut rest = String::new();
        slow.read_to_string(&mut rest).await.unwrap();
        assert!(!rest.contains("200 OK"), "{rest}");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_at_once_and_cuts_off_requests_after_the_grace() {
        let limits = Limits { connections: 8, head_within: Duration::from_secs(60) };
        let (address, stop, server) = start(limits).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0u8; 12];
        idle.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        let mut endless = TcpStream::connect(address).await.unwrap();
        endless.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stop.cancel();
        server.await.unwrap();
        idle.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
