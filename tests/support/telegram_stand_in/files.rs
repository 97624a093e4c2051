//! Bytes of documents, kept in files that have no name, so that large backups fit and nothing is left behind; and the names that
//! Telegram gives to documents.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;

/// How much is read at once for a download.
const CHUNK: usize = 64 * 1024;

/// The bytes of one document. Reading and writing block: they touch the page cache and take microseconds.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    pub bytes: u64,
}

impl Blob {
    pub fn empty() -> io::Result<Self> {
        Ok(Self { file: Arc::new(tempfile::tempfile()?), bytes: 0 })
    }

    pub fn of(content: &[u8]) -> io::Result<Self> {
        let mut blob = Self::empty()?;
        blob.append(content)?;
        Ok(blob)
    }

    pub fn append(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all_at(content, self.bytes)?;
        self.bytes += content.len() as u64;
        Ok(())
    }

    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(self.bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    /// Inverts the bits of one byte.
    pub fn flip(&self, at: u64) -> io::Result<()> {
        assert!(at < self.bytes, "byte {at} of {}", self.bytes);
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at)?;
        self.file.write_all_at(&[!byte[0]], at)
    }

    pub fn stream(&self) -> Body {
        let blob = self.clone();
        Body::from_stream(stream::try_unfold(0, move |at| {
            let chunk = blob.chunk(at);
            async move { Ok::<_, io::Error>(chunk?.map(|chunk| (chunk.clone(), at + chunk.len() as u64))) }
        }))
    }

    fn chunk(&self, at: u64) -> io::Result<Option<Bytes>> {
        let length = usize::try_from(self.bytes - at).unwrap_or(usize::MAX).min(CHUNK);
        let mut chunk = vec![0; length];
        self.file.read_exact_at(&mut chunk, at)?;
        Ok((length > 0).then(|| chunk.into()))
    }
}

/// A document's name as Telegram keeps it: the stem cut to 64 characters and the extension to 16, what could be special on some
/// system turned into a space, spaces and dots taken off both ends. Source: `clean_filename` in tdlib/td, tdutils/td/utils/filesystem.cpp.
pub fn clean_name(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, extension) = match base.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => (stem, extension),
        _ => (base, ""),
    };
    let (stem, extension) = (clean_part(stem, 64), clean_part(extension, 16));
    match (stem.is_empty(), extension.is_empty()) {
        (_, true) => stem,
        (true, false) => extension,
        (false, false) => format!("{stem}.{extension}"),
    }
}

fn clean_part(part: &str, most: usize) -> String {
    let is_kept = |c: char| match c {
        '<' | '>' | ':' | '"' | '/' | '\\' | '|' | '?' | '*' | '&' | '`' | '\'' => false,
        c if c.is_ascii() => !c.is_ascii_control(),
        c => c.is_alphanumeric(),
    };
    let is_edge = |c: &char| matches!(c, ' ' | '.');
    let cleaned = part.chars().map(|c| if is_kept(c) { c } else { ' ' });
    let cut: String = cleaned.skip_while(is_edge).take(most).collect();
    cut.trim_end_matches([' ', '.']).to_owned()
}
