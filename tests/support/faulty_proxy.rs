//! A small HTTP/1.1 proxy in front of a server on loopback, which lets requests go wrong where a test says so. Heads pass unchanged,
//! `Host` and `Authorization` included, and bodies are streamed: signed requests arrive as they were signed.

#![allow(dead_code, reason = "each user uses a part")]

#[path = "connection.rs"]
#[allow(clippy::duplicate_mod, reason = "a test may use the stand-in of Telegram's Bot API too")]
mod connection;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, Response, StatusCode, Uri, header},
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use connection::Wire;

/// What goes wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything works, at this rate in both directions.
    Slow { bytes_per_second: u64 },
    /// The connection is reset after this many bytes of the request's body, or at its end; the server gets no more of it.
    ResetRequestAt(u64),
    /// The server did it; the connection is reset after at most this many bytes of the answer's body.
    ResetAnswerAt(u64),
    /// The server is not asked; this is answered.
    Status { status: u16, content_type: &'static str, body: String },
    /// The server is not asked; 429 with a `Retry-After` header and the Bot API's `parameters.retry_after`, in seconds.
    TooManyRequests { retry_after: u64 },
    /// The answer has its status, but only this many bytes of its body.
    TruncateAnswer { keep: u64, end: End },
    /// The bits of this byte of the answer's body are inverted, where there is such a byte.
    CorruptAnswer { at: u64 },
    /// The bits of this byte of the request's body are inverted on the way to the server, where there is such a byte.
    CorruptRequest { at: u64 },
    /// The server did it; the connection is reset before the answer begins.
    DropAnswer,
    /// The server is not asked, and nothing is ever answered.
    Hang,
}

/// How a truncated answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `Content-Length` names what is there: nothing looks wrong.
    Lies,
    /// The connection is closed before `Content-Length` is reached.
    Closes,
}

/// What is known of a request before its body.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    pub headers: HeaderMap,
}

struct Rule {
    fault: Fault,
    matching: Box<dyn Fn(&RequestHead) -> bool + Send>,
    left: usize,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} × {}", self.fault, self.left)
    }
}

#[derive(Debug, Default)]
struct Shared {
    rules: Vec<Rule>,
    heads: Vec<RequestHead>,
}

#[derive(Clone, Debug)]
struct Proxy {
    upstream: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct FaultyProxy {
    address: SocketAddr,
    proxy: Proxy,
    _serving: AbortOnDropHandle<()>,
}

impl FaultyProxy {
    /// Starts in front of a server, on a port that the system chooses.
    pub async fn start(upstream: SocketAddr) -> Self {
        let proxy = Proxy { upstream, shared: Arc::default() };
        let router = Router::new().fallback(serve).with_state(proxy.clone());
        let (address, serving) = connection::serve(router).await.expect("a port on loopback");
        Self { address, proxy, _serving: serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// In place of the server's.
    pub fn url(&self) -> Url {
        format!("http://{}/", self.address).parse().expect("a URL")
    }

    /// Lets the next `times` requests that match go wrong. Of several faults that wait for a request, the first one meets it.
    pub fn inject(&self, fault: Fault, matching: impl Fn(&RequestHead) -> bool + Send + 'static, times: usize) {
        self.proxy.shared().rules.push(Rule { fault, matching: Box::new(matching), left: times });
    }

    /// From here on everything works.
    pub fn clear(&self) {
        self.proxy.shared().rules.clear();
    }

    /// How many injected faults have not been met yet.
    pub fn faults_left(&self) -> usize {
        self.proxy.shared().rules.iter().map(|rule| rule.left).sum()
    }

    /// How many requests came, those that went wrong included.
    pub fn requests(&self) -> usize {
        self.proxy.shared().heads.len()
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<RequestHead> {
        self.proxy.shared().heads.clone()
    }
}

impl Proxy {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a request; gives what goes wrong with it.
    fn meet(&self, head: RequestHead) -> Option<Fault> {
        let mut shared = self.shared();
        let rule = shared.rules.iter_mut().find(|rule| rule.left > 0 && (rule.matching)(&head));
        let fault = rule.map(|rule| {
            rule.left -= 1;
            rule.fault.clone()
        });
        shared.heads.push(head);
        fault
    }

    /// Sends a request on over a connection of its own.
    async fn forward(&self, request: Request) -> io::Result<Response<Body>> {
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It ends by itself with the answer's body.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok(answer.map(Body::new))
    }
}

async fn serve(State(proxy): State<Proxy>, Extension(wire): Extension<Wire>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let seen = RequestHead { method: head.method.clone(), uri: head.uri.clone(), headers: head.headers.clone() };
    let fault = proxy.meet(seen);
    let pass = async |body: Body| {
        let request = Request::from_parts(head.clone(), body);
        proxy
            .forward(request)
            .await
            .unwrap_or_else(|error| plain(StatusCode::BAD_GATEWAY, "text/plain", error.to_string()))
    };
    match fault {
        None => pass(body).await,
        Some(Fault::Slow { bytes_per_second }) => {
            let body = if body.is_end_stream() { body } else { paced(body, bytes_per_second) };
            let answer = pass(body).await;
            answer.map(|body| paced(body, bytes_per_second))
        }
        // A body where there was none would be another request.
        Some(Fault::CorruptRequest { .. }) if body.is_end_stream() => pass(body).await,
        Some(Fault::ResetRequestAt(at)) => pass(wire.reset_after(body.into_data_stream(), at)).await,
        Some(Fault::ResetAnswerAt(at)) => pass(body).await.map(|body| wire.reset_after(body.into_data_stream(), at)),
        Some(Fault::TruncateAnswer { keep, end }) => truncated(pass(body).await, keep, end),
        Some(Fault::CorruptAnswer { at }) => pass(body).await.map(|body| corrupted(body, at)),
        Some(Fault::CorruptRequest { at }) => pass(corrupted(body, at)).await,
        Some(Fault::DropAnswer) => {
            drain(pass(body).await.into_body()).await;
            wire.reset();
            Response::default()
        }
        Some(Fault::Status { status, content_type, body: said }) => {
            drain(body).await;
            plain(StatusCode::from_u16(status).expect("a status"), content_type, said)
        }
        Some(Fault::TooManyRequests { retry_after }) => {
            drain(body).await;
            let said = json!({
                "ok": false, "error_code": 429, "description": format!("Too Many Requests: retry after {retry_after}"),
                "parameters": { "retry_after": retry_after },
            });
            let mut answer = plain(StatusCode::TOO_MANY_REQUESTS, "application/json", said.to_string());
            answer.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
            answer
        }
        Some(Fault::Hang) => {
            drain(body).await;
            std::future::pending().await
        }
    }
}

fn plain(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, content_type);
    response.body(Body::from(body)).expect("headers that exist")
}

/// Takes in what is still sent: whoever is sending could not read an answer.
async fn drain(body: Body) {
    let mut pieces = body.into_data_stream();
    while let Some(Ok(_)) = pieces.next().await {}
}

fn truncated(answer: Response<Body>, keep: u64, end: End) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    let kept = connection::first(body.into_data_stream(), keep).map_err(io::Error::other);
    let body = match end {
        End::Lies => {
            head.headers.remove(header::TRANSFER_ENCODING);
            let whole = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            head.headers.insert(header::CONTENT_LENGTH, whole.unwrap_or(keep).min(keep).into());
            Body::from_stream(kept)
        }
        // Without a last chunk, and before the promised length.
        End::Closes => Body::from_stream(kept.chain(stream::once(async { Err(io::Error::other("cut off")) }))),
    };
    Response::from_parts(head, body)
}

fn corrupted(body: Body, at: u64) -> Body {
    let pieces = body.into_data_stream().scan(0, move |before, piece| {
        let piece = piece.map(|piece| {
            let mut bytes = Vec::from(piece);
            if let Some(byte) = usize::try_from(at.wrapping_sub(*before)).ok().and_then(|at| bytes.get_mut(at)) {
                *byte = !*byte;
            }
            *before += bytes.len() as u64;
            Bytes::from(bytes)
        });
        std::future::ready(Some(piece))
    });
    Body::from_stream(pieces)
}

/// The same bytes, in pieces of a twentieth of a second.
fn paced(body: Body, bytes_per_second: u64) -> Body {
    let most = usize::try_from(bytes_per_second / 20).unwrap_or(usize::MAX).max(1);
    let pieces = body.into_data_stream().map_ok(move |piece| {
        let count = piece.len().div_ceil(most);
        stream::iter((0..count).map(move |number| {
            let begin = number * most;
            Ok(piece.slice(begin..(begin + most).min(piece.len())))
        }))
    });
    let paced = pieces.try_flatten().then(move |piece: Result<Bytes, axum::Error>| async move {
        let bytes = piece.as_ref().map_or(0, Bytes::len);
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)).await;
        piece
    });
    Body::from_stream(paced)
}
