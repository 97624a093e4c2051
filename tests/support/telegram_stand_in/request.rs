//! What a request brings: arguments from the query, a form, JSON or multipart form data, and uploaded files.
//! Source: core.telegram.org/bots/api#making-requests.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _},
};

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, header},
};
use bytes::{Buf as _, BytesMut};
use futures::TryStreamExt as _;
use serde_json::Value;
use url::form_urlencoded;

use super::{connection::Wire, files::Blob};

/// Largest request: "50 MB for other files". Source: core.telegram.org/bots/api#sending-files. Larger ones get 413.
pub const MAX_UPLOAD: u64 = 50 << 20;

/// Largest argument that is not a file.
const MAX_ARGUMENT: usize = 64 * 1024;

/// A file in a multipart body.
#[derive(Clone, Debug)]
pub struct Upload {
    pub file_name: String,
    pub content_type: Option<String>,
    pub blob: Blob,
}

/// A request's arguments, all of them text as in the server's own code, and its files.
#[derive(Debug, Default)]
pub struct Arguments {
    texts: BTreeMap<String, String>,
    files: BTreeMap<String, Upload>,
}

impl Arguments {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    pub fn file(&self, name: &str) -> Option<&Upload> {
        self.files.get(name)
    }
}

/// Why a request could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// More than [`MAX_UPLOAD`] bytes.
    TooLarge,
    /// Not what its content type says.
    Malformed(String),
    /// It ended in the middle, or was meant to.
    Broken,
}

impl From<io::Error> for Unreadable {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// Reads a whole request. With `reset_at`, the connection is reset after so many bytes of the body.
pub async fn read(
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
    reset_at: Option<(u64, Wire)>,
) -> Result<Arguments, Unreadable> {
    let mut arguments = Arguments::default();
    arguments.texts.extend(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned());
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut reader = Reader { body: body.into_data_stream(), buffer: BytesMut::new(), taken: 0, reset_at };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let read = match media_type {
        "multipart/form-data" => multipart(&mut reader, content_type, &mut arguments).await,
        "application/json" => reader.rest().await.and_then(|body| json(&body, &mut arguments)),
        "application/x-www-form-urlencoded" => reader.rest().await.map(|body| {
            arguments.texts.extend(form_urlencoded::parse(&body).into_owned());
        }),
        _ => reader.rest().await.map(drop),
    };
    // The rest is taken in: whoever is still sending could not read an answer.
    if !matches!(read, Err(Unreadable::Broken)) {
        while reader.more().await.unwrap_or_else(|error| matches!(error, Unreadable::TooLarge)) {
            reader.buffer.clear();
        }
    }
    read.map(|()| arguments)
}

/// Values that are no text are taken as their JSON, as arguments of a form would be.
fn json(body: &[u8], arguments: &mut Arguments) -> Result<(), Unreadable> {
    if body.is_empty() {
        return Ok(());
    }
    let object: serde_json::Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| Unreadable::Malformed("can't parse JSON object".to_owned()))?;
    arguments.texts.extend(object.into_iter().map(|(name, value)| match value {
        Value::String(text) => (name, text),
        value => (name, value.to_string()),
    }));
    Ok(())
}

async fn multipart(reader: &mut Reader, content_type: &str, arguments: &mut Arguments) -> Result<(), Unreadable> {
    let malformed = || Unreadable::Malformed("can't parse multipart form data".to_owned());
    let boundary = parameter(content_type, "boundary").ok_or_else(malformed)?;
    let delimiter = format!("\r\n--{boundary}");
    // The first boundary stands at the very beginning, without a line's end before it.
    reader.buffer.extend_from_slice(b"\r\n");
    reader.until(delimiter.as_bytes(), &mut Sink::Text(Vec::new())).await?;
    loop {
        let mut line = Sink::Text(Vec::new());
        reader.until(b"\r\n", &mut line).await?;
        if line.into_text().ok_or_else(malformed)?.starts_with("--") {
            return Ok(());
        }
        let (mut name, mut file_name, mut kind) = (None, None, None);
        loop {
            let mut line = Sink::Text(Vec::new());
            reader.until(b"\r\n", &mut line).await?;
            let line = line.into_text().ok_or_else(malformed)?;
            if line.is_empty() {
                break;
            }
            let (key, value) = line.split_once(':').ok_or_else(malformed)?;
            match key.to_ascii_lowercase().as_str() {
                "content-disposition" => {
                    name = parameter(value, "name");
                    file_name = parameter(value, "filename");
                }
                "content-type" => kind = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let name = name.ok_or_else(malformed)?;
        if let Some(file_name) = file_name {
            let mut file = Sink::File(Blob::empty()?);
            reader.until(delimiter.as_bytes(), &mut file).await?;
            let Sink::File(blob) = file else { unreachable!("made above") };
            arguments.files.insert(name, Upload { file_name, content_type: kind, blob });
        } else {
            let mut text = Sink::Text(Vec::new());
            reader.until(delimiter.as_bytes(), &mut text).await?;
            arguments.texts.insert(name, text.into_text().ok_or_else(malformed)?);
        }
    }
}

/// A parameter of a header's value, `name="a b"` or `name=ab`, percent-decoded. `filename*` is not known. Source: `HttpReader` in
/// tdlib/td, tdnet/td/net/HttpReader.cpp.
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once(';') {
        let (key, after) = after.split_once('=')?;
        let (text, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut text = String::new();
                let mut characters = quoted.char_indices();
                loop {
                    match characters.next()? {
                        (at, '"') => break (text, &quoted[at + 1..]),
                        (_, '\\') => text.push(characters.next()?.1),
                        (_, c) => text.push(c),
                    }
                }
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(percent_decoded(&text));
        }
        rest = after;
    }
    None
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                decoded.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                decoded.push(b'%');
                decoded.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Where the bytes before a delimiter go.
enum Sink {
    Text(Vec<u8>),
    File(Blob),
}

impl Sink {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        match self {
            Self::Text(text) if text.len() + bytes.len() > MAX_ARGUMENT => {
                Err(Unreadable::Malformed("an argument is too long".to_owned()))
            }
            Self::Text(text) => {
                text.extend_from_slice(bytes);
                Ok(())
            }
            Self::File(blob) => Ok(blob.append(bytes)?),
        }
    }

    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => String::from_utf8(text).ok(),
            Self::File(_) => None,
        }
    }
}

struct Reader {
    body: BodyDataStream,
    buffer: BytesMut,
    taken: u64,
    reset_at: Option<(u64, Wire)>,
}

impl Reader {
    /// Takes in another piece; `false` at the end.
    async fn more(&mut self) -> Result<bool, Unreadable> {
        if let Some((at, wire)) = &self.reset_at
            && self.taken >= *at
        {
            wire.reset();
            return Err(Unreadable::Broken);
        }
        let Some(piece) = self.body.try_next().await.map_err(|_| Unreadable::Broken)? else { return Ok(false) };
        self.taken += piece.len() as u64;
        if self.taken > MAX_UPLOAD {
            self.buffer.clear();
            return Err(Unreadable::TooLarge);
        }
        self.buffer.extend_from_slice(&piece);
        Ok(true)
    }

    async fn rest(&mut self) -> Result<BytesMut, Unreadable> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Moves everything before `delimiter` into the sink, and takes the delimiter away.
    async fn until(&mut self, delimiter: &[u8], sink: &mut Sink) -> Result<(), Unreadable> {
        loop {
            if let Some(at) = find(&self.buffer, delimiter) {
                sink.take(&self.buffer[..at])?;
                self.buffer.advance(at + delimiter.len());
                return Ok(());
            }
            // The delimiter may have begun in the last bytes.
            let sure = self.buffer.len().saturating_sub(delimiter.len() - 1);
            sink.take(&self.buffer[..sure])?;
            self.buffer.advance(sure);
            if !self.more().await? {
                return Err(Unreadable::Malformed("can't parse multipart form data".to_owned()));
            }
        }
    }
}

/// Where `needle`, which begins with CR, begins in `haystack`. Goes from CR to CR with the standard library's own search, which is
/// quick in a debug build too.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut rest = haystack;
    loop {
        let at = haystack.len() - rest.len();
        let skipped = rest.skip_until(b'\r').ok()?;
        let begin = (at + skipped).checked_sub(1)?;
        if skipped == 0 || haystack[begin] != b'\r' {
            return None;
        }
        if haystack[begin..].starts_with(needle) {
            return Some(begin);
        }
    }
}
