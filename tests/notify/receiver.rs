//! A program that takes webhooks, or does not.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response},
};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// What it answers.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    /// With `Retry-After` in seconds.
    After(u16, u64),
    Redirect(String),
    /// Never.
    Hang,
    /// 200, when somebody says so.
    Wait(Arc<Semaphore>),
    /// 200, and a body without an end.
    Endless,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone, Debug, Default)]
struct Shared {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Listens on loopback until it is dropped. Answers with what it was told to, one after the other, then with 200.
pub struct Receiver {
    pub address: SocketAddr,
    shared: Shared,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let shared = Shared { replies: Arc::new(Mutex::new(replies.into_iter().collect())), ..Shared::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(take).with_state(shared.clone());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
        Self { address, shared, _serving: serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?token=canary-in-the-url", self.address)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    shared.seen.lock().unwrap().push(Seen { headers, body });
    let reply = shared.replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(200));
    let builder = Response::builder();
    let answer = match reply {
        Reply::Status(status) => builder.status(status).body(Body::from("canary in the answer")),
        Reply::After(status, seconds) => builder.status(status).header("Retry-After", seconds).body(Body::empty()),
        Reply::Redirect(to) => builder.status(307).header("Location", to).body(Body::empty()),
        Reply::Hang => std::future::pending().await,
        Reply::Wait(word) => {
            word.acquire().await.unwrap().forget();
            builder.body(Body::empty())
        }
        Reply::Endless => {
            let chunks = futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096])));
            builder.body(Body::from_stream(chunks))
        }
    };
    answer.unwrap()
}
