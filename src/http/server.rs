//! Listens until told to stop, then lets running requests end.
//!
//! With a certificate every connection begins with a TLS handshake, which has as long as the head of a request.
//! The process that serves also works on jobs: connections are limited in number, all together and from one address; one that does not send
//! the head of its request in time, or takes its answer too slowly, is closed. So slow clients cannot take all descriptors, nor all places.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::Layer;

use super::{
    client, router_until, scrape,
    stalled::{Pace, Unstalled},
    tls::Tls,
};
use crate::{app::App, auth::jwt::Verifier};

/// Connections open at once. More wait in the system's queue. Well below the 1024 or more descriptors that a process has, of which
/// each download takes another.
const MAX_CONNECTIONS: usize = 512;

/// Time for the head of a request, from the connection's beginning or the end of the answer before.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Connections open at once from one address, or one /64 of IPv6 addresses, at the most: and only while no fewer places are free than it has.
/// So however many addresses take all that they get, one who has no connection yet finds a place: eight of them leave 56 free, and a
/// hundred leave 5. Proxies that are trusted bring many clients, and have no such limit.
const MAX_FROM_ONE: usize = 64;

/// How quickly an answer must be taken, while there is something to send: 1 KiB a second on average, which leaves a minute for a client that
/// takes none at times.
const WRITE_PACE: Pace = Pace { bytes: 60 << 10, within: Duration::from_secs(60) };

/// Connections open at once to the metrics' own address.
const MAX_SCRAPES: usize = 16;

/// Rest after an `accept` that failed, mostly for want of descriptors.
const REST: Duration = Duration::from_secs(1);

/// What a listener lets in.
#[derive(Clone, Debug)]
struct Limits {
    connections: usize,
    from_one: usize,
    /// Who may have as many connections as there are.
    trusted: Vec<IpNet>,
    head_within: Duration,
    write_pace: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            from_one: MAX_FROM_ONE,
            trusted: Vec::new(),
            head_within: HEAD_WITHIN,
            write_pace: WRITE_PACE,
        }
    }
}

/// How many connections are open from where.
#[derive(Clone, Debug, Default)]
struct Open(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// The place of one connection, until it is dropped.
struct Place {
    open: Open,
    block: IpAddr,
}

impl Open {
    /// A place for another connection from there, unless it has all that it may have while so many are `free`.
    fn place(&self, from: IpAddr, free: usize, limits: &Limits) -> Option<Place> {
        let from = from.to_canonical();
        let is_trusted = limits.trusted.iter().any(|network| network.contains(&from));
        let block = if is_trusted { from } else { client::block(from) };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&block).copied().unwrap_or(0);
        if count >= limits.from_one.min(free + 1) && !is_trusted {
            return None;
        }
        open.insert(block, count + 1);
        drop(open);
        Some(Place { open: self.clone(), block })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.block) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.block);
            }
        }
    }
}

/// Where connections come from, and whether they are encrypted.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
}

impl Listener {
    pub const fn new(tcp: TcpListener, tls: Option<Tls>) -> Self {
        Self { tcp, tls }
    }

    /// The address that it got.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None)
    }
}

/// Serves the API until `shutdown` is ready. Then no connection is taken any more, event streams end, and what still runs has
/// `worker.shutdown_seconds` to end by itself.
pub async fn serve(
    app: App,
    verifier: Verifier,
    listener: impl Into<Listener>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let grace = Duration::from_secs(app.config.worker.shutdown_seconds);
    let stopping = CancellationToken::new();
    // Checked when the configuration was read.
    let trusted = app.config.listen.trusted_networks().unwrap_or_default();
    let router = router_until(app, verifier, stopping.clone());
    let limits = Limits { trusted, ..Limits::default() };
    serve_router(router, listener.into(), limits, stopping, shutdown, grace).await;
    Ok(())
}

/// Serves the metrics, and whether this process works, until `shutdown` is ready: for the address that `metrics.listen` names.
pub async fn serve_metrics(app: App, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let limits = Limits { connections: MAX_SCRAPES, ..Limits::default() };
    let router = scrape::router(app);
    serve_router(router, listener.into(), limits, CancellationToken::new(), shutdown, Duration::from_secs(1)).await;
}

async fn serve_router(
    router: Router,
    listener: Listener,
    limits: Limits,
    stopping: CancellationToken,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let Listener { tcp, tls } = listener;
    if let Some(tls) = tls.clone() {
        tokio::spawn(tls.watch(stopping.clone()));
    }
    let room = Arc::new(Semaphore::new(limits.connections));
    let open = Open::default();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, tcp.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(place) = open.place(from.ip(), room.available_permits(), &limits) else {
                    tracing::debug!(%from, "there are too many connections from this address");
                    continue;
                };
                let (router, tls, stopping) = (router.clone(), tls.clone(), stopping.clone());
                // Below TLS, which would answer writes that are still in its buffers.
                let stream = Unstalled::new(stream, limits.write_pace);
                let connection = connection(router, tls, stream, from, limits.head_within, stopping);
                connections.spawn(async move {
                    connection.await;
                    drop((permit, place));
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
    drop(tcp);
    stopping.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(seconds = grace.as_secs(), "some requests did not end in time and are cut off");
    }
}

/// One connection, encrypted where there is a certificate.
async fn connection(
    router: Router,
    tls: Option<Tls>,
    stream: Unstalled<TcpStream>,
    from: SocketAddr,
    head_within: Duration,
    stopping: CancellationToken,
) {
    let Some(tls) = tls else { return requests(router, stream, from, head_within, stopping).await };
    let shaken = tokio::select! {
        shaken = timeout(head_within, tls.accept(stream)) => shaken,
        () = stopping.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => requests(router, stream, from, head_within, stopping).await,
        // Clients that do not trust us, are too old or speak no TLS: their affair.
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// As many requests as a connection brings.
async fn requests(
    router: Router,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
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

    /// More than the system takes for a client that does not read.
    const LARGE: usize = 64 << 20;

    /// A server that answers with the address that asks.
    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async |ConnectInfo(from): ConnectInfo<SocketAddr>| from.to_string()))
            .route("/never", get(std::future::pending::<&'static str>))
            .route("/large", get(async || vec![0u8; LARGE]));
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let grace = Duration::from_millis(200);
        let server = serve_router(router, listener.into(), limits, CancellationToken::new(), shutdown, grace);
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
        let limits = Limits { connections: 1, head_within: Duration::from_millis(200), ..Limits::default() };
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
    async fn a_client_that_takes_nothing_of_its_answer_is_closed_and_makes_room_for_the_next() {
        let write_pace = Pace { bytes: 1, within: Duration::from_millis(300) };
        let limits = Limits { connections: 1, write_pace, ..Limits::default() };
        let (address, stop, server) = start(limits).await;
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // Waits for the one place.
        let answer = timeout(Duration::from_secs(20), send(address, ASK)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut rest = Vec::new();
        let _ = deaf.read_to_end(&mut rest).await; // reset or ended
        assert!(rest.len() < LARGE, "{}", rest.len());
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_or_waits_long_is_served() {
        let write_pace = Pace { bytes: 1, within: Duration::from_millis(300) };
        let limits = Limits { write_pace, ..Limits::default() };
        let (address, stop, server) = start(limits).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut read, mut piece) = (0, vec![0u8; 4 << 20]);
        let started = std::time::Instant::now();
        loop {
            let count = slow.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            read += count;
            // Far slower in all than one write may wait.
            if started.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert!(read > LARGE && started.elapsed() > Duration::from_millis(300), "{read} in {:?}", started.elapsed());
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn one_address_has_so_many_connections_and_others_still_find_room() {
        let limits = Limits { from_one: 2, ..Limits::default() };
        let (address, stop, server) = start(limits).await;
        let first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(timeout(Duration::from_secs(5), third.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
        let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
        elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = elsewhere.connect(address).await.unwrap();
        other.write_all(ASK).await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("127.0.0.2:"), "{answer}");
        // One that leaves makes room.
        drop(first);
        let again = async {
            loop {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let mut answer = String::new();
                if stream.write_all(ASK).await.is_ok() && stream.read_to_string(&mut answer).await.is_ok_and(|n| n > 0)
                {
                    return answer;
                }
            }
        };
        assert!(timeout(Duration::from_secs(5), again).await.unwrap().starts_with("HTTP/1.1 200"));
        stop.cancel();
        server.await.unwrap();
    }

    #[test]
    fn a_network_of_64_bits_is_one_address_and_a_trusted_proxy_has_no_limit_of_its_own() {
        let limits = Limits { from_one: 2, trusted: vec!["10.0.0.0/8".parse().unwrap()], ..Limits::default() };
        let open = Open::default();
        let place = |from: &str| open.place(from.parse().unwrap(), 512, &limits);
        let (one, _two) = (place("2001:db8::1").unwrap(), place("2001:db8::2").unwrap());
        assert!(place("2001:db8::3").is_none() && place("2001:db8:0:1::3").is_some());
        drop(one);
        assert!(place("2001:db8::3").is_some());
        let many: Vec<Place> = (0..100).filter_map(|_| place("::ffff:10.1.2.3")).collect();
        assert_eq!(many.len(), 100);
        drop((many, _two));
        assert!(open.0.lock().unwrap().is_empty());
    }

    #[test]
    fn however_many_addresses_take_all_they_get_a_newcomer_finds_a_place() {
        for greedy in [8u8, 100, 200] {
            let (limits, open, mut taken) = (Limits::default(), Open::default(), Vec::new());
            let place = |from: [u8; 4], taken: usize| {
                // The newcomer's own place is not among the free ones.
                let free = (limits.connections - taken).checked_sub(1)?;
                open.place(IpAddr::from(from), free, &limits)
            };
            for address in (0..MAX_FROM_ONE).flat_map(|_| 0..greedy) {
                taken.extend(place([10, 0, 0, address], taken.len()));
            }
            assert!(taken.len() > limits.connections / 2, "{greedy}: {}", taken.len());
            for newcomer in 0..2 {
                let found = place([192, 0, 2, newcomer], taken.len());
                assert!(found.is_some(), "{greedy}: {} are taken", taken.len());
                taken.extend(found);
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_begin_its_handshake_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert"), directory.path().join("key"));
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener::new(tcp, Some(Tls::open(&cert, &key).unwrap()));
        let limits = Limits { connections: 1, head_within: Duration::from_millis(200), ..Limits::default() };
        let (never, stopping) = (std::future::pending(), CancellationToken::new());
        tokio::spawn(serve_router(Router::new(), listener, limits, stopping, never, Duration::ZERO));
        for beginning in [&b""[..], &[22, 3, 1]] {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(beginning).await.unwrap();
            let closed = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "{beginning:?}");
        }
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_at_once_and_cuts_off_requests_after_the_grace() {
        let limits = Limits { connections: 8, head_within: Duration::from_secs(60), ..Limits::default() };
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
