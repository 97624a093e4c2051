//! An S3 server that we did not write, in this process on loopback: s3s-fs, which checks signatures and keeps objects as files. Around it,
//! what a test needs to see and to break: operations denied to a key, answers lost or replaced, parts held back, the server taken down.

#![allow(dead_code, reason = "each test file uses its own share")]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use holdfast::config::{S3StorageConfig, Secret};
use hyper::{Method, Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::SimpleAuth,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// May do everything.
pub const ACCESS_KEY: &str = "AKIAHOLDFASTTEST";
pub const SECRET_KEY: &str = "canary-s3-secret-key-0123456789";
/// May do what no test has denied to it.
pub const OTHER_ACCESS_KEY: &str = "AKIARESTRICTED";
pub const OTHER_SECRET_KEY: &str = "canary-s3-other-secret-0123456789";
pub const BUCKET: &str = "backups-bucket";

/// What happens to the next request of an operation.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// It takes effect, and the connection ends without an answer.
    LoseAnswer,
    /// It is on its way until [`S3Server::late_requests_arrive`], and the connection ends without an answer.
    ComeLate,
    /// It does not take effect, and this is the answer.
    Answer(u16, &'static [(&'static str, &'static str)], &'static str),
}

/// What a test sees and steers.
#[derive(Debug)]
pub struct Control {
    denied: Mutex<Vec<(&'static str, &'static str)>>,
    mishaps: Mutex<VecDeque<(&'static str, Mishap)>>,
    seen: Mutex<Vec<&'static str>>,
    late: Mutex<Vec<Request<axum::body::Bytes>>>,
    parts_now: AtomicUsize,
    parts_peak: AtomicUsize,
    parts_pass: watch::Sender<bool>,
}

impl Control {
    /// From now on, this key may not do this operation (`GetObject`, `DeleteObject`, …).
    pub fn deny(&self, access_key: &'static str, operation: &'static str) {
        self.denied.lock().unwrap().push((access_key, operation));
    }

    pub fn allow_everything(&self) {
        self.denied.lock().unwrap().clear();
    }

    /// Befalls the next requests of the operation, in order.
    pub fn befall(&self, operation: &'static str, mishap: Mishap) {
        self.mishaps.lock().unwrap().push_back((operation, mishap));
    }

    /// How often an operation was asked for.
    pub fn count(&self, operation: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| **seen == operation).count()
    }

    /// Parts wait at the server until they may pass again.
    pub fn hold_parts(&self) {
        self.parts_pass.send_replace(false);
    }

    pub fn let_parts_pass(&self) {
        self.parts_pass.send_replace(true);
    }

    /// Parts that the server has begun to receive and not answered.
    pub fn parts_now(&self) -> usize {
        self.parts_now.load(Ordering::SeqCst)
    }

    pub fn parts_peak(&self) -> usize {
        self.parts_peak.load(Ordering::SeqCst)
    }
}

struct Access(Arc<Control>);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else { return Err(s3_error!(AccessDenied)) };
        let (key, operation) = (credentials.access_key.clone(), context.s3_op().name().to_owned());
        let is_denied = self.0.denied.lock().unwrap().iter().any(|(k, o)| *k == key && *o == operation);
        if is_denied { Err(s3_error!(AccessDenied, "denied by the test")) } else { Ok(()) }
    }
}

pub struct S3Server {
    pub control: Arc<Control>,
    pub root: TempDir,
    address: SocketAddr,
    service: S3Service,
    accepting: Option<JoinHandle<()>>,
}

impl S3Server {
    /// A server with one empty bucket.
    pub async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let control = Arc::new(Control {
            denied: Mutex::default(),
            mishaps: Mutex::default(),
            seen: Mutex::default(),
            late: Mutex::default(),
            parts_now: AtomicUsize::new(0),
            parts_peak: AtomicUsize::new(0),
            parts_pass: watch::channel(true).0,
        });
        let mut auth = SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
        auth.register(OTHER_ACCESS_KEY.to_owned(), OTHER_SECRET_KEY.into());
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(auth);
        builder.set_access(Access(Arc::clone(&control)));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { control, root, address, service: builder.build(), accepting: None };
        server.up().await;
        server
    }

    /// Listens, on the same port as before.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (service, control) = (self.service.clone(), Arc::clone(&self.control));
        self.accepting = Some(tokio::spawn(async move {
            // Ends the connections with this task.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (service, control) = (service.clone(), Arc::clone(&control));
                connections.spawn(async move {
                    let answer = hyper::service::service_fn(move |request| {
                        serve(service.clone(), Arc::clone(&control), request)
                    });
                    // A connection that the test ends is an error here.
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        }));
    }

    /// Refuses connections and ends those there are.
    pub async fn down(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The settings of a storage in this server's bucket, with parts as small as S3 allows.
    pub fn config(&self) -> S3StorageConfig {
        config_at(&self.endpoint())
    }

    /// The same with the other key.
    pub fn other_config(&self) -> S3StorageConfig {
        S3StorageConfig {
            access_key: Some(Secret::new(OTHER_ACCESS_KEY)),
            secret_key: Some(Secret::new(OTHER_SECRET_KEY)),
            ..self.config()
        }
    }

    /// The keys of all objects in the bucket, straight from the server's files.
    pub fn objects(&self) -> Vec<String> {
        let bucket = self.root.path().join(BUCKET);
        let mut found = Vec::new();
        files_below(&bucket, &mut |path| {
            found.push(path.strip_prefix(&bucket).unwrap().to_str().unwrap().to_owned());
        });
        found.sort();
        found
    }

    /// Serves what came late, and gives the statuses.
    pub async fn late_requests_arrive(&self) -> Vec<u16> {
        let late = std::mem::take(&mut *self.control.late.lock().unwrap());
        let mut statuses = Vec::new();
        for request in late {
            let answer = tower::Service::call(&mut self.service.clone(), request.map(Body::from)).await.unwrap();
            statuses.push(answer.status().as_u16());
            // The effect of some operations comes only with the body.
            let _ = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await;
        }
        statuses
    }

    /// Uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        let names = std::fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with(".upload-")).count()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// The settings of a storage at an endpoint.
pub fn config_at(endpoint: &str) -> S3StorageConfig {
    S3StorageConfig {
        bucket: BUCKET.to_owned(),
        region: Some("eu-central-1".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        access_key: Some(Secret::new(ACCESS_KEY)),
        secret_key: Some(Secret::new(SECRET_KEY)),
        part_size: holdfast::byte_size::ByteSize::mib(5),
        timeout_seconds: 20,
        ..S3StorageConfig::default()
    }
}

fn files_below(directory: &Path, found: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found(&path) }
    }
}

fn operation(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match *request.method() {
        Method::PUT if has("partNumber") => "UploadPart",
        Method::PUT => "PutObject",
        Method::POST if has("uploads") => "CreateMultipartUpload",
        Method::POST => "CompleteMultipartUpload",
        Method::DELETE if has("uploadId") => "AbortMultipartUpload",
        Method::DELETE => "DeleteObject",
        Method::HEAD => "HeadObject",
        _ if has("list-type") => "ListObjectsV2",
        _ => "GetObject",
    }
}

/// Counts a part as long as its request is under way, however it ends.
struct PartUnderWay(Arc<Control>);

impl PartUnderWay {
    fn new(control: &Arc<Control>) -> Self {
        let now = control.parts_now.fetch_add(1, Ordering::SeqCst) + 1;
        control.parts_peak.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(control))
    }
}

impl Drop for PartUnderWay {
    fn drop(&mut self) {
        self.0.parts_now.fetch_sub(1, Ordering::SeqCst);
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    service: S3Service,
    control: Arc<Control>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let operation = operation(&request);
    control.seen.lock().unwrap().push(operation);
    let _under_way = (operation == "UploadPart").then(|| PartUnderWay::new(&control));
    let mut request = request.map(Body::new);
    if operation == "UploadPart" {
        // Read first: a connection that its client ends is noticed only when nothing is left to read.
        let (parts, body) = request.into_parts();
        request = Request::from_parts(parts, Body::from(axum::body::to_bytes(body, usize::MAX).await?));
        control.parts_pass.subscribe().wait_for(|pass| *pass).await?;
    }
    let mishap = {
        let mut mishaps = control.mishaps.lock().unwrap();
        let at = mishaps.iter().position(|(of, _)| *of == operation);
        at.and_then(|at| mishaps.remove(at))
    };
    if let Some((_, Mishap::Answer(status, headers, body))) = mishap {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        return Ok(response.body(Body::from(body))?);
    }
    if let Some((_, Mishap::ComeLate)) = mishap {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await?;
        control.late.lock().unwrap().push(Request::from_parts(parts, body));
        return Err("the request is late".into());
    }
    let response = tower::Service::call(&mut service.clone(), request).await.map_err(|error| format!("{error:?}"))?;
    if let Some((_, Mishap::LoseAnswer)) = mishap {
        // The effect of some operations comes only with the body.
        let _ = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await;
        return Err("the answer is lost".into());
    }
    Ok(response.map(Body::new))
}

/// Something on loopback that is no S3 server: it gives every request this answer, or none at all.
pub async fn other_endpoint(answer: Option<&'static str>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut read = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(bytes) = socket.read(&mut buffer).await {
                    if bytes == 0 {
                        return;
                    }
                    read.extend_from_slice(&buffer[..bytes]);
                    if let Some(answer) = answer
                        && read.windows(4).any(|window| window == b"\r\n\r\n")
                    {
                        let _ = socket.write_all(answer.as_bytes()).await;
                        return;
                    }
                }
            });
        }
    });
    (endpoint, tasks)
}
