//! The faulty proxy does what it is told, and nothing else.

use crate::support::{connection, faulty_proxy};

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Response},
};
use faulty_proxy::{End, Fault, FaultyProxy, RequestHead};
use futures::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;

const PATH: &str = "/bucket/a%2Fb/../c%20d?list-type=2&prefix=x%2F";

/// A server that gives back the body it is sent, and its request's head in a header; behind the proxy.
struct Scene {
    proxy: FaultyProxy,
    /// Requests that reached the server whole.
    done: Arc<AtomicUsize>,
    http: reqwest::Client,
    _server: AbortOnDropHandle<()>,
}

impl Scene {
    async fn new() -> Self {
        let done = Arc::new(AtomicUsize::new(0));
        let router = Router::new().fallback(echo).with_state(Arc::clone(&done));
        let (address, server) = connection::serve(router).await.unwrap();
        let proxy = FaultyProxy::start(address).await;
        Self { proxy, done, http: reqwest::Client::new(), _server: server }
    }

    fn always(&self, fault: Fault) {
        self.proxy.inject(fault, |_| true, 1);
    }

    async fn post(&self, body: Vec<u8>) -> reqwest::Result<reqwest::Response> {
        self.http.post(self.proxy.url().join("echo").unwrap()).body(body).send().await
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

async fn echo(State(done): State<Arc<AtomicUsize>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return Response::default() };
        bytes.extend(piece);
    }
    done.fetch_add(1, Ordering::SeqCst);
    let mut answer = Response::builder().header("x-uri", head.uri.to_string());
    for (name, value) in head.headers.iter().filter(|(name, _)| *name == "host" || *name == "authorization") {
        answer = answer.header(format!("x-{name}"), value);
    }
    answer.body(bytes.into()).unwrap()
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn requests_pass_unchanged() {
    let scene = Scene::new().await;
    let body = content(1_000_000);
    let host = scene.proxy.address().to_string();
    let answer = scene.post(body.clone()).await.unwrap();
    assert_eq!(answer.headers()["x-host"], host.as_str());
    assert_eq!(answer.content_length(), Some(body.len() as u64));
    assert!(answer.bytes().await.unwrap() == body, "the bytes differ");
    // A URL type would put this path in order: a connection does not.
    let head = format!(
        "GET {PATH} HTTP/1.1\r\nHost: bucket.example:9000\r\nAuthorization: AWS4 x\r\nConnection: close\r\n\r\n"
    );
    let mut stream = tokio::net::TcpStream::connect(scene.proxy.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    for line in [format!("x-uri: {PATH}"), "x-host: bucket.example:9000".into(), "x-authorization: AWS4 x".into()] {
        assert!(answer.contains(&line), "{line} is missing in {answer}");
    }
    assert_eq!((scene.proxy.requests(), scene.done()), (2, 2));
    assert_eq!(scene.proxy.heads()[1].uri, PATH);
}

#[tokio::test]
async fn a_fault_meets_the_requests_that_match_and_no_more() {
    let scene = Scene::new().await;
    let fault = Fault::Status { status: 503, content_type: "application/xml", body: "<Error/>".into() };
    let is_put = |head: &RequestHead| head.method == "PUT" && head.headers.contains_key("x-part");
    scene.proxy.inject(fault, is_put, 2);
    let url = scene.proxy.url();
    let mut headers = HeaderMap::new();
    headers.insert("x-part", 1.into());
    let mut seen = Vec::new();
    for headers in [HeaderMap::new(), headers.clone(), headers.clone(), headers] {
        let answer = scene.http.put(url.clone()).headers(headers).body(content(100_000)).send().await.unwrap();
        seen.push((answer.status().as_u16(), answer.bytes().await.unwrap().len()));
    }
    assert_eq!(seen, [(200, 100_000), (503, 8), (503, 8), (200, 100_000)]);
    assert_eq!((scene.proxy.requests(), scene.done(), scene.proxy.faults_left()), (4, 2, 0));
}

#[tokio::test]
async fn too_many_requests_says_when_to_come_again() {
    let scene = Scene::new().await;
    scene.always(Fault::TooManyRequests { retry_after: 3 });
    let answer = scene.post(content(10)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "3"));
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["parameters"]["retry_after"], 3);
    assert_eq!(scene.done(), 0);
}

#[tokio::test]
async fn a_reset_request_does_not_reach_the_server_whole() {
    let scene = Scene::new().await;
    for at in [0, 1000] {
        scene.always(Fault::ResetRequestAt(at));
        assert!(scene.post(content(5_000_000)).await.is_err());
    }
    assert_eq!(scene.done(), 0);
    assert_eq!(scene.post(content(10)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reset_answer_ends_in_the_middle() {
    let scene = Scene::new().await;
    let body = content(500_000);
    scene.always(Fault::ResetAnswerAt(123_456));
    let mut answer = scene.post(body.clone()).await.unwrap();
    assert_eq!(answer.content_length(), Some(500_000));
    let mut got = Vec::new();
    while let Ok(piece) = answer.chunk().await {
        got.extend(piece.expect("the end comes as an error"));
    }
    assert!(got.len() <= 123_456 && body.starts_with(&got), "{} bytes", got.len());
    assert_eq!(scene.done(), 1);
}

#[tokio::test]
async fn a_dropped_answer_leaves_its_effect() {
    let scene = Scene::new().await;
    scene.always(Fault::DropAnswer);
    assert!(scene.post(content(1000)).await.is_err());
    assert_eq!(scene.done(), 1);
}

#[tokio::test]
async fn a_truncated_answer_lies_about_its_length_or_is_cut_off() {
    let scene = Scene::new().await;
    scene.always(Fault::TruncateAnswer { keep: 700, end: End::Lies });
    let answer = scene.post(content(100_000)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(700)));
    assert_eq!(answer.bytes().await.unwrap(), content(700));
    scene.always(Fault::TruncateAnswer { keep: 700, end: End::Closes });
    let answer = scene.post(content(100_000)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(100_000)));
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn a_corrupted_answer_differs_in_one_byte() {
    let scene = Scene::new().await;
    let mut body = content(300_000);
    scene.always(Fault::CorruptAnswer { at: 200_000 });
    let got = scene.post(body.clone()).await.unwrap().bytes().await.unwrap();
    body[200_000] = !body[200_000];
    assert!(got == body, "more or less than one byte differs");
}

#[tokio::test]
async fn a_corrupted_request_arrives_with_one_other_byte() {
    let scene = Scene::new().await;
    let mut body = content(300_000);
    scene.always(Fault::CorruptRequest { at: 200_000 });
    // The server gives back what it got.
    let got = scene.post(body.clone()).await.unwrap().bytes().await.unwrap();
    body[200_000] = !body[200_000];
    assert!(got == body, "more or less than one byte differs");
}

#[tokio::test]
async fn a_slow_request_takes_its_time_and_is_whole() {
    let scene = Scene::new().await;
    scene.always(Fault::Slow { bytes_per_second: 200_000 });
    let began = Instant::now();
    let got = scene.post(content(20_000)).await.unwrap().bytes().await.unwrap();
    assert!(got == content(20_000), "the bytes differ");
    // A tenth of a second there and another one back.
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_that_hangs_is_not_done() {
    let scene = Scene::new().await;
    scene.always(Fault::Hang);
    let request = scene.http.post(scene.proxy.url()).body(content(10)).timeout(Duration::from_millis(200));
    assert!(request.send().await.unwrap_err().is_timeout());
    assert_eq!(scene.done(), 0);
}
