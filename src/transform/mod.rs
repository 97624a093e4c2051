//! What happens to a dump's bytes between the source and the storage: a stack of blocking writers that compress, then
//! encrypt, and the same stack reversed as readers.
//!
//! What always holds: the stored form opens with stock tools (`gunzip`, `zstd -d`, `age -d`), and a stored form that was cut,
//! extended or altered is an error of the reader, never a quiet end.

pub mod age;
pub mod digest;
pub mod gzip;
pub mod seal;
pub mod zstd;

use std::io::{self, Read, Write};

pub use self::{
    age::{Identities, InvalidIdentity},
    digest::{CheckedReader, Fingerprinter},
    seal::{SealError, SealKey, Seals},
};
use crate::artifact::{Compression, Encoding, Encryption};

/// A writer that must be closed: without [`finish`](Self::finish) what was written is incomplete and will not decode.
pub trait Sink: Write + Send {
    /// Writes what is still held back and finishes the sink below.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// How content becomes stored bytes.
#[derive(Clone)]
pub struct EncodeOptions {
    pub encoding: Encoding,
    /// 1 to 19.
    pub zstd_level: i32,
    /// 1 to 9.
    pub gzip_level: u32,
    /// Threads that compress, beside the one that writes.
    pub threads: usize,
    /// Who can decrypt; needed when the encoding says so.
    pub recipients: Vec<::age::x25519::Recipient>,
}

impl std::fmt::Debug for EncodeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodeOptions")
            .field("encoding", &self.encoding)
            .field("threads", &self.threads)
            .field("recipients", &self.recipients.len())
            .finish_non_exhaustive()
    }
}

/// Puts the stack on top of `out`. What is written into the result is compressed, then encrypted, then written to `out`.
pub fn encode(options: &EncodeOptions, out: Box<dyn Sink>) -> io::Result<Box<dyn Sink>> {
    let out = match options.encoding.encryption {
        Encryption::None => out,
        Encryption::Age => Box::new(age::AgeWriter::new(&options.recipients, out)?),
    };
    Ok(match options.encoding.compression {
        Compression::None => out,
        Compression::Gzip => Box::new(gzip::GzipWriter::new(options.gzip_level, options.threads, out)?),
        Compression::Zstd => Box::new(zstd::ZstdWriter::new(options.zstd_level, options.threads, out)?),
    })
}

/// Why stored bytes cannot be read as content.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the artifact is encrypted and no identity was given")]
    KeyUnavailable,
    #[error("the artifact is encrypted to other keys than the ones given")]
    KeyMismatch,
    #[error("the artifact's encryption header cannot be read ({0})")]
    Header(String),
    #[error("cannot read the artifact ({0})")]
    Io(#[from] io::Error),
}

impl DecodeError {
    /// A stable word for logs and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyUnavailable => "key.unavailable",
            Self::KeyMismatch => "key.mismatch",
            Self::Header(_) => "artifact.damaged",
            Self::Io(error) if is_damage(error) => "artifact.damaged",
            Self::Io(_) => "artifact.unreadable",
        }
    }
}

/// Whether a reader's error says that the bytes themselves are wrong, not that they could not be fetched.
pub fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::Other
    )
}

/// Reverses [`encode`]. Fails at once where no identity fits; fails while reading where the bytes are not whole.
pub fn decode(
    encoding: &Encoding,
    identities: &Identities,
    input: Box<dyn Read + Send>,
) -> Result<Box<dyn Read + Send>, DecodeError> {
    let input = match encoding.encryption {
        Encryption::None => input,
        Encryption::Age => age::reader(identities, input)?,
    };
    Ok(match encoding.compression {
        Compression::None => input,
        Compression::Gzip => gzip::reader(input),
        Compression::Zstd => zstd::reader(input)?,
    })
}

#[cfg(test)]
pub(crate) mod tests;
