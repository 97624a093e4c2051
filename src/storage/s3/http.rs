//! How requests reach the service: below the S3 library, so that this file alone decides what a hang, an answer in HTML or an error
//! becomes, that an error's body is read to a limit only, and that a redirect is not followed.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{
    Method,
    body::{Body, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH},
    http::{self, response::Parts},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::trouble::{Refusal, Trouble};
use crate::config::Secret;

/// What is handed to the connection at once, so that a slow line still shows progress.
const SLICE: usize = 64 << 10;
/// The most of an error's body that is read. Source: the largest answers of S3 with an error are a few KiB.
const MOST_OF_A_BODY: usize = 64 << 10;

/// One way to send requests. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
    /// Longest time in which no byte moves; then the request is sent once more on another connection. None where the caller keeps the time
    /// and a request must not be sent twice.
    stall: Option<Duration>,
    /// Whether completing a multipart upload asks that nothing be overwritten. The library has no way to say so; like its own
    /// conditions, the header is not signed.
    conditional: Arc<AtomicBool>,
    /// What is never repeated from an answer.
    secrets: Arc<[Secret]>,
}

impl Transport {
    pub(super) fn new(
        connect_timeout: Duration,
        conditional: Arc<AtomicBool>,
        secrets: Arc<[Secret]>,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            // The signature is for one host, and another one has no business with the bytes.
            .redirect(reqwest::redirect::Policy::none())
            // Parts in flight shall have a connection each.
            .http1_only()
            .build()?;
        Ok(Self { client, stall: None, conditional, secrets })
    }

    /// The same connections for objects that may be overwritten.
    pub(super) fn overwriting(&self) -> Self {
        Self { conditional: Arc::new(AtomicBool::new(false)), ..self.clone() }
    }

    /// The same connections with a limit to silence.
    pub(super) fn with_stall(&self, stall: Duration) -> Self {
        Self { stall: Some(stall), ..self.clone() }
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut waited = Duration::ZERO;
        loop {
            let refusal = match self.ask(request.clone()).await? {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let kind = match (refusal.retry_after(), self.stall) {
                // The library does not know what the service asked for. A long wait is the caller's, who is told of it.
                (Some(wait), Some(most)) if waited + wait <= most => {
                    waited += wait;
                    sleep(wait).await;
                    continue;
                }
                (Some(_), _) => HttpErrorKind::Unknown,
                // The kind that the library always sends again, as far as its settings allow.
                (None, _) if refusal.may_pass() => HttpErrorKind::Request,
                (None, _) => HttpErrorKind::Unknown,
            };
            return Err(HttpError::new(kind, Trouble::Refused(refusal)));
        }
    }
}

impl Transport {
    /// Sends a request until it is answered, once more after silence: success or the service's refusal.
    async fn ask(&self, request: HttpRequest) -> Result<Result<HttpResponse, Refusal>, HttpError> {
        let completes = completes_an_upload(&request);
        let (parts, body) = match self.send(request.clone(), completes).await? {
            Some(answer) => answer,
            None => self.send(request, completes).await?.ok_or_else(|| refuse(Trouble::Stalled))?,
        };
        let is_html = is_html(&parts.headers);
        if parts.status.is_success() && !is_html && !completes {
            return Ok(Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body))));
        }
        let text = read_some(body).await?;
        // Completing answers 200 before it is done, and may end with an error all the same.
        // Source: docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html.
        if parts.status.is_success() && !is_html && !text.contains("<Error>") {
            return Ok(Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(text))));
        }
        Ok(Err(Refusal::read(parts.status, &parts.headers, &text, is_html, &self.secrets)))
    }

    /// Sends a request; `None` when nothing moved for too long.
    async fn send(&self, request: HttpRequest, completes: bool) -> Result<Option<(Parts, Incoming)>, HttpError> {
        let (mut parts, body) = request.into_parts();
        if completes && self.conditional.load(Ordering::Relaxed) {
            parts.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let url = parts.uri.to_string().parse().map_err(|_| refuse(Trouble::broken("the request's URL is not one")))?;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        let progress = Arc::new(Progress::default());
        if body.content_length() > 0 {
            *outgoing.body_mut() = Some(reqwest::Body::wrap(Outgoing::new(body, Arc::clone(&progress))));
        }
        let answer = tokio::select! {
            answer = self.client.execute(outgoing) => answer.map_err(broken)?,
            () = progress.stalled(self.stall) => return Ok(None),
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        Ok(Some((parts, Incoming::new(body, self.stall))))
    }
}

/// Whether this is the one POST with an upload's id; beginning an upload has `uploads`.
fn completes_an_upload(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::POST && query.split('&').any(|pair| pair.starts_with("uploadId="))
}

/// An error that the library does not retry.
fn refuse(trouble: Trouble) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, trouble)
}

/// A connection's error. Everything that is sent this way is safe to send twice, so the library may; where it is not, it was told not to.
fn broken(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
    HttpError::new(kind, Trouble::of_connection(error))
}

fn is_html(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// The beginning of a body, as text.
async fn read_some(mut body: Incoming) -> Result<String, HttpError> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            let room = MOST_OF_A_BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() >= room {
                break;
            }
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a byte last moved.
#[derive(Debug)]
struct Progress(Mutex<Instant>);

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Progress {
    fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing has moved for `stall`; never without one.
    async fn stalled(&self, stall: Option<Duration>) {
        let Some(stall) = stall else { return std::future::pending().await };
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + stall;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A request's body in small slices, of which each one taken is a sign of life.
struct Outgoing {
    rest: HttpRequestBody,
    chunk: Bytes,
    left: u64,
    progress: Arc<Progress>,
}

impl Outgoing {
    fn new(body: HttpRequestBody, progress: Arc<Progress>) -> Self {
        Self { left: body.content_length() as u64, rest: body, chunk: Bytes::new(), progress }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.chunk.is_empty() {
            match ready!(Pin::new(&mut self.rest).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(frame) => self.chunk = frame?.into_data().unwrap_or_default(),
            }
        }
        let size = self.chunk.len().min(SLICE);
        let slice = self.chunk.split_to(size);
        self.left = self.left.saturating_sub(size as u64);
        self.progress.moved();
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer's body that is an error when nothing comes for too long. The time in which nobody asks does not count.
struct Incoming {
    body: Pin<Box<reqwest::Body>>,
    stall: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    fn new(body: reqwest::Body, stall: Option<Duration>) -> Self {
        Self { body: Box::pin(body), stall, waiting: None }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = self.body.as_mut().poll_frame(context) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        let Some(stall) = self.stall else { return Poll::Pending };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + stall)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Some(Err(refuse(Trouble::Stalled))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
