//! A stand-in of Telegram's Bot API on loopback, for tests and for `make demo-telegram`. It is not Telegram: it keeps the limits and
//! shapes of the cloud Bot API as its documentation and source describe them (each named where it is), gives back the bytes that it
//! was sent, and forgets everything when it ends. What it was not told it cannot know: how long Telegram keeps files, and when its
//! limits change.
//!
//! Stricter than the real thing where the documentation leaves room: captions are counted in UTF-16 units, a pin is announced by a
//! message that takes an id, a link ends after its hour, and every message shows a file under a `file_id` of its own.

#![allow(dead_code, unused_imports, reason = "each user uses a part")]

mod access;
mod answer;
mod control;
mod faults;
mod files;
mod methods;
mod request;
mod state;

#[path = "../connection.rs"]
#[allow(clippy::duplicate_mod, reason = "a test may use the faulty proxy too")]
mod connection;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State as Shared},
    http::{HeaderValue, Response, header},
};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use self::{
    answer::Refusal,
    connection::Wire,
    request::{Arguments, Unreadable},
    state::{Bot, State},
};
pub use self::{
    control::{Control, SeenMessage},
    faults::{Calls, Canned, DOWNLOAD, Fault},
    state::{Call, ChatKind, Content, Document, MESSAGES_A_MINUTE, Membership, Rights},
};

/// Shortest secret of a token. Source: `Client::start_up` in tdlib/telegram-bot-api, telegram-bot-api/Client.cpp.
const MIN_SECRET: usize = 24;

/// A running stand-in with one private channel, in which two bots are administrators. It ends when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    first: Bot,
    second: Bot,
    chat_id: i64,
    control: Control,
    _serving: AbortOnDropHandle<()>,
}

impl StandIn {
    /// Starts on a port that the system chooses.
    pub async fn start() -> Self {
        let mut state = State::new();
        let (first, second) = (state.add_bot(), state.add_bot());
        let chat_id = state.add_chat(ChatKind::Channel, &[first.id, second.id]);
        let api = Api(Arc::new(Mutex::new(state)));
        let router = Router::new().fallback(serve).with_state(api.clone());
        let (address, serving) = connection::serve(router).await.expect("a port on loopback");
        Self { address, first, second, chat_id, control: Control(api), _serving: serving }
    }

    /// In place of `https://api.telegram.org`.
    pub fn base_url(&self) -> Url {
        format!("http://{}/", self.address).parse().expect("a URL")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token of the bot that the other methods call the first.
    pub fn token(&self) -> String {
        self.first.token.clone()
    }

    /// Another bot's token, an administrator of the same channel.
    pub fn second_token(&self) -> String {
        self.second.token.clone()
    }

    /// The private channel.
    pub fn chat_id(&self) -> i64 {
        self.chat_id
    }

    /// What decides over the stand-in and looks into it.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

/// The state that requests and the control share.
#[derive(Clone, Debug)]
struct Api(Arc<Mutex<State>>);

impl Api {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a path means.
enum Target {
    Method { token: String, method: String },
    Download { token: String, file_path: String },
}

impl Target {
    /// `/bot<token>/<method>` or `/file/bot<token>/<file_path>`. Methods are not case-sensitive. Source:
    /// core.telegram.org/bots/api#making-requests and `Query::Query` in tdlib/telegram-bot-api, telegram-bot-api/Query.cpp.
    fn of(path: &str) -> Option<Self> {
        let (rest, is_download) = match path.strip_prefix("/file/bot") {
            Some(rest) => (rest, true),
            None => (path.strip_prefix("/bot")?, false),
        };
        let (token, rest) = rest.split_once('/')?;
        let token = token.replace("%3A", ":");
        let (id, secret) = token.split_once(':')?;
        if !id.parse::<u64>().is_ok_and(|id| id > 0) || id.starts_with('0') || secret.len() < MIN_SECRET {
            return None;
        }
        Some(if is_download {
            Self::Download { token, file_path: rest.to_owned() }
        } else {
            Self::Method { token, method: rest.to_lowercase() }
        })
    }

    /// What calls are counted and faults are matched by.
    fn name(&self) -> &str {
        match self {
            Self::Method { method, .. } => method,
            Self::Download { .. } => DOWNLOAD,
        }
    }
}

async fn serve(Shared(api): Shared<Api>, Extension(wire): Extension<Wire>, request: Request) -> Response<Body> {
    let target = Target::of(request.uri().path());
    let name = target.as_ref().map_or("", Target::name).to_owned();
    let (number, fault) = {
        let mut state = api.state();
        state.tick();
        let call = Call { method: name.clone(), at: state.now(), status: None };
        state.calls.push(call);
        (state.calls.len() - 1, state.fault(&name))
    };
    let mut response = match target {
        Some(target) => faulty(&api, target, wire.clone(), request, fault).await,
        // What the cloud says to a token that cannot be one: Robertof/perl-www-telegram-botapi issue 20. A server of one's own says
        // 401 `Unauthorized: invalid token specified` (`ClientManager::send` in tdlib/telegram-bot-api).
        None => answer::response(Err(Refusal::new(404, "Not Found"))),
    };
    let mut state = api.state();
    if !wire.is_reset() {
        state.calls[number].status = Some(response.status().as_u16());
    }
    let date = state.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert(header::DATE, HeaderValue::from_str(&date).expect("a date is plain ASCII"));
    response
}

/// Answers, or does what a fault says.
async fn faulty(api: &Api, target: Target, wire: Wire, request: Request, fault: Option<Fault>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let reset_at = match &fault {
        Some(Fault::ResetRequestAt(at)) => Some((*at, wire.clone())),
        _ => None,
    };
    let arguments = request::read(head.uri.query(), &head.headers, body, reset_at).await;
    match fault {
        Some(Fault::Answer(canned)) => canned.into_response(),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::ResetRequestAt(_)) => {
            // The body was shorter than that.
            wire.reset();
            Response::default()
        }
        Some(Fault::AnswerAfterEffect(canned)) => {
            answered(api, target, &wire, arguments);
            canned.into_response()
        }
        Some(Fault::DropAnswer) => {
            answered(api, target, &wire, arguments);
            wire.reset();
            Response::default()
        }
        Some(Fault::ResetAnswerAt(at)) => {
            answered(api, target, &wire, arguments).map(|body| wire.reset_after(body.into_data_stream(), at))
        }
        None => answered(api, target, &wire, arguments),
    }
}

fn answered(api: &Api, target: Target, wire: &Wire, arguments: Result<Arguments, Unreadable>) -> Response<Body> {
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(Unreadable::TooLarge) => return answer::response(Err(Refusal::new(413, "Request Entity Too Large"))),
        Err(Unreadable::Malformed(why)) => return answer::response(Err(Refusal::bad(why))),
        Err(Unreadable::Broken) => {
            // The client has gone: nothing is done.
            wire.reset();
            return Response::default();
        }
    };
    let mut state = api.state();
    match target {
        Target::Method { token, method } => answer::response(method_called(&mut state, &token, &method, &arguments)),
        Target::Download { token, file_path } => match download(&state, &token, &file_path) {
            Ok(response) => response,
            Err(refusal) => answer::response(Err(refusal)),
        },
    }
}

fn bot<'a>(state: &'a State, token: &str) -> Result<&'a Bot, Refusal> {
    state.bots.iter().find(|bot| bot.token == token).ok_or_else(|| Refusal::new(401, "Unauthorized"))
}

fn method_called(state: &mut State, token: &str, method: &str, arguments: &Arguments) -> Result<Value, Refusal> {
    let bot = bot(state, token)?.clone();
    methods::call(state, &bot, method, arguments)
}

fn download(state: &State, token: &str, file_path: &str) -> Result<Response<Body>, Refusal> {
    let bot = bot(state, token)?;
    let link = state.links.get(file_path).filter(|link| link.bot == bot.id && state.now() < link.until);
    let link = link.ok_or_else(|| Refusal::new(404, "Not Found"))?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, link.blob.bytes);
    Ok(response.body(link.blob.stream()).expect("headers that exist"))
}
