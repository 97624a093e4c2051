//! Encryption in the age v1 format (age-encryption.org/v1) to X25519 recipients, so that `age -d -i KEY` opens it.

use std::{
    io::{self, BufReader, Read, Write},
    path::Path,
};

use ::age::{
    DecryptError, Decryptor, EncryptError, Encryptor,
    stream::{StreamReader, StreamWriter},
    x25519,
};

use super::{DecodeError, Sink};

/// Encrypts what is written into it. Without [`finish`](Sink::finish) the last chunk is missing and nobody can read the end.
pub struct AgeWriter {
    inner: StreamWriter<Box<dyn Sink>>,
}

impl AgeWriter {
    /// Writes the header at once. No recipients is an error: what nobody can open is no backup.
    pub fn new(recipients: &[x25519::Recipient], out: Box<dyn Sink>) -> io::Result<Self> {
        let inner = encryptor(recipients)?.wrap_output(out)?;
        Ok(Self { inner })
    }
}

/// An encryptor to all of `recipients`.
pub fn encryptor(recipients: &[x25519::Recipient]) -> io::Result<Encryptor> {
    Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn ::age::Recipient)).map_err(|error| match error {
        EncryptError::MissingRecipients => {
            io::Error::new(io::ErrorKind::InvalidInput, "encryption is on and there is no recipient")
        }
        other => io::Error::other(other.to_string()),
    })
}

impl Write for AgeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Sink for AgeWriter {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.inner.finish()?.finish()
    }
}

/// Decrypts `input`. Every chunk is authenticated before a byte of it is handed out, and the last one says that it is the last.
pub fn reader(identities: &Identities, input: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, DecodeError> {
    if identities.is_empty() {
        return Err(DecodeError::KeyUnavailable);
    }
    let input = BufReader::with_capacity(256 << 10, input);
    let decryptor = Decryptor::new_buffered(input).map_err(decode_error)?;
    Ok(Box::new(identities.decrypt(decryptor)?))
}

pub(crate) fn decode_error(error: DecryptError) -> DecodeError {
    match error {
        DecryptError::NoMatchingKeys => DecodeError::KeyMismatch,
        DecryptError::Io(error) => DecodeError::Io(error),
        other => DecodeError::Header(other.to_string()),
    }
}

/// The secret keys at hand; there may be none, as a server that only takes backups needs none.
#[derive(Clone, Default)]
pub struct Identities(Vec<x25519::Identity>);

/// Why a file is not an identity file. Never repeats its content.
#[derive(Debug, thiserror::Error)]
pub enum InvalidIdentity {
    #[error("cannot read the identity file {path} ({source})")]
    Io { path: String, source: io::Error },
    #[error("line {line} of the identity file is not an X25519 age identity: expected AGE-SECRET-KEY-1…")]
    Line { line: usize },
    #[error("the identity file holds no identity")]
    Empty,
}

impl Identities {
    /// No keys at all.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads an identity file as `age-keygen` writes it: one identity a line, empty lines and `#` comments between.
    pub fn load(path: &Path) -> Result<Self, InvalidIdentity> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| InvalidIdentity::Io { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of an identity file.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentity> {
        let mut identities = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                identities.push(line.parse().map_err(|_| InvalidIdentity::Line { line: index + 1 })?);
            }
        }
        if identities.is_empty() { Err(InvalidIdentity::Empty) } else { Ok(Self(identities)) }
    }

    /// Opens what one of these keys can open.
    pub(crate) fn decrypt<R: Read>(&self, decryptor: Decryptor<R>) -> Result<StreamReader<R>, DecodeError> {
        decryptor.decrypt(self.0.iter().map(|i| i as &dyn ::age::Identity)).map_err(decode_error)
    }

    /// The public halves.
    pub fn recipients(&self) -> Vec<x25519::Recipient> {
        self.0.iter().map(x25519::Identity::to_public).collect()
    }
}

impl From<x25519::Identity> for Identities {
    fn from(identity: x25519::Identity) -> Self {
        Self(vec![identity])
    }
}

/// Says how many there are, never which.
impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}
