//! Faults on request: what a test wants to go wrong, and on which calls.

use axum::{
    body::Body,
    http::{Response, header},
};
use serde_json::json;

/// The name under which downloads are counted and matched: they are no method of the Bot API.
pub const DOWNLOAD: &str = "file";

/// An answer that is given instead of the true one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canned {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
    /// In seconds.
    pub retry_after: Option<u64>,
}

impl Canned {
    /// What the server in front of the Bot API says when the Bot API does not answer: HTML, not JSON.
    pub fn bad_gateway() -> Self {
        let body = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n\
             <hr><center>nginx/1.18.0</center>\r\n</body>\r\n</html>\r\n";
        Self { status: 502, content_type: "text/html", body: body.to_owned(), retry_after: None }
    }

    /// An error in the Bot API's own form.
    pub fn error(status: u16, description: &str) -> Self {
        let body = json!({ "ok": false, "error_code": status, "description": description });
        Self { status, content_type: "application/json", body: body.to_string(), retry_after: None }
    }

    /// "Flood control": core.telegram.org/bots/api#responseparameters, and `Query::set_retry_after_error` for the header.
    pub fn too_many_requests(retry_after: u64) -> Self {
        let body = json!({
            "ok": false, "error_code": 429, "description": format!("Too Many Requests: retry after {retry_after}"),
            "parameters": { "retry_after": retry_after },
        });
        Self { status: 429, content_type: "application/json", body: body.to_string(), retry_after: Some(retry_after) }
    }

    /// A status without a word.
    pub fn empty(status: u16) -> Self {
        Self { status, content_type: "application/json", body: String::new(), retry_after: None }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::builder().status(self.status).header(header::CONTENT_TYPE, self.content_type);
        if let Some(seconds) = self.retry_after {
            response = response.header(header::RETRY_AFTER, seconds);
        }
        response.body(Body::from(self.body)).expect("a status and headers that exist")
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and this is said.
    Answer(Canned),
    /// The call takes effect, and this is said all the same.
    AnswerAfterEffect(Canned),
    /// Nothing is done and nothing is ever said.
    Hang,
    /// The connection is reset after this many bytes of the request's body; nothing is done.
    ResetRequestAt(u64),
    /// The call takes effect; the connection is reset after at most this many bytes of the answer's body.
    ResetAnswerAt(u64),
    /// The call takes effect; the connection is reset before the answer begins.
    DropAnswer,
}

/// Which calls a fault meets.
#[derive(Clone, Debug)]
pub struct Calls {
    method: Option<String>,
    skip: usize,
    left: usize,
}

impl Calls {
    /// The next call of a method, [`DOWNLOAD`] included. Case does not matter, as in the Bot API.
    pub fn next(method: &str) -> Self {
        Self { method: Some(method.to_lowercase()), skip: 0, left: 1 }
    }

    /// The next call, whatever it is.
    pub fn any() -> Self {
        Self { method: None, skip: 0, left: 1 }
    }

    /// Lets so many go well first.
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Meets so many, one after the other.
    pub fn times(self, times: usize) -> Self {
        Self { left: times, ..self }
    }

    /// Takes one call, in lower case: whether the fault meets it.
    pub(super) fn take(&mut self, method: &str) -> bool {
        if self.method.as_deref().is_some_and(|name| name != method) || self.left == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.left -= 1;
        true
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}
