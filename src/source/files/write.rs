//! Writes an archive of files: members in order, then the list of all files, then the end. Memory is one buffer, whatever the files' sizes.

use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, Write},
};

use sha2::{Digest as _, Sha256};

use super::{
    member::{Kind, LIST, Member, Meta, Stamps, Tally, Totals, list_line},
    tar::{BLOCK, Header, Piece, Type, encode_map, padding},
};
use crate::artifact::Sha256Digest;

/// What is read at once.
pub const BUFFER: usize = 256 << 10;
/// Bytes of a hole after which whoever waits is asked.
const ASKED_EVERY: u64 = 4 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file's content, read where its data is.
pub trait Content {
    /// Reads at most the buffer's length from `offset`; 0 where the file ends, though it should go on.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Whether a file gave all the bytes that it had when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gave {
    Everything,
    /// It shrank: zeros stand in for the rest.
    Less,
}

/// What a finished archive holds.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub totals: Totals,
    /// Of all members' records.
    pub tree: Sha256Digest,
}

/// An archive under way. Without [`finish`](Self::finish) it is cut short and no tool takes it for whole.
pub struct ArchiveWriter<W> {
    out: W,
    tally: Tally,
    /// The list of files grows with their number, so it waits in a private file.
    list: BufWriter<File>,
    buffer: Vec<u8>,
}

impl<W: Write> ArchiveWriter<W> {
    /// An archive that goes to `out`; `list` is an empty file to write to and read from.
    pub fn new(out: W, stamps: Stamps, list: File) -> Self {
        Self { out, tally: Tally::new(stamps), list: BufWriter::new(list), buffer: vec![0; BUFFER] }
    }

    /// Adds a directory or a symbolic link.
    pub fn add(&mut self, member: &Member) -> io::Result<()> {
        let kind = match member.kind {
            Kind::Directory => Type::Directory,
            Kind::Symlink { .. } => Type::Symlink,
            Kind::File { .. } => return Err(io::Error::other("a file is added with its content")),
        };
        self.out.write_all(&header(member, kind, 0, None).encode())?;
        self.tally.add(member, None);
        Ok(())
    }

    /// Adds a file with its content. Exactly as many bytes are written as the member says, whatever the content gives.
    pub fn add_file(&mut self, member: &Member, content: &mut dyn Content) -> io::Result<Gave> {
        let Kind::File { size, pieces } = &member.kind else {
            return Err(io::Error::other("only a file has content"));
        };
        let data: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        let stored = if data < *size {
            let map = encode_map(pieces, *size);
            let stored = map.len() as u64 + data;
            self.out.write_all(&header(member, Type::File, stored, Some(*size)).encode())?;
            self.out.write_all(&map)?;
            stored
        } else {
            self.out.write_all(&header(member, Type::File, *size, None).encode())?;
            *size
        };
        let (mut hasher, mut at, mut gave) = (Sha256::new(), 0, Gave::Everything);
        for piece in pieces {
            hash_zeros(&mut hasher, piece.offset - at, || self.out.flush())?;
            if self.add_piece(*piece, content, &mut hasher)? == Gave::Less {
                gave = Gave::Less;
            }
            at = piece.offset + piece.bytes;
        }
        // A flush is an error when nobody reads any more.
        hash_zeros(&mut hasher, size - at, || self.out.flush())?;
        self.out.write_all(&ZEROS[..padding(stored)])?;
        let sha256 = Sha256Digest(hasher.finalize().into());
        list_line(&mut self.list, sha256, &member.path)?;
        self.tally.add(member, Some(sha256));
        Ok(gave)
    }

    fn add_piece(&mut self, piece: Piece, content: &mut dyn Content, hasher: &mut Sha256) -> io::Result<Gave> {
        let (mut at, end) = (piece.offset, piece.offset + piece.bytes);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let read = match content.read_at(at, &mut self.buffer[..want]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&self.buffer[..read]);
            self.out.write_all(&self.buffer[..read])?;
            at += read as u64;
        }
        let gave = if at < end { Gave::Less } else { Gave::Everything };
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            hasher.update(&ZEROS[..want]);
            self.out.write_all(&ZEROS[..want])?;
            at += want as u64;
        }
        Ok(gave)
    }

    /// Writes the list of files and the archive's end.
    pub fn finish(mut self) -> io::Result<Written> {
        let mut list = self.list.into_inner().map_err(io::IntoInnerError::into_error)?;
        let size = list.stream_position()?;
        list.rewind()?;
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, modified: (0, 0) };
        let kind = Kind::File { size, pieces: Vec::new() };
        let member = Member { path: LIST.to_vec(), meta, kind };
        self.out.write_all(&header(&member, Type::File, size, None).encode())?;
        let copied = io::copy(&mut list.take(size), &mut self.out)?;
        if copied != size {
            return Err(io::Error::other("the list of files was cut short"));
        }
        self.out.write_all(&ZEROS[..padding(size) + 2 * BLOCK])?;
        self.out.flush()?;
        Ok(Written { totals: self.tally.totals, tree: self.tally.digest() })
    }
}

fn header(member: &Member, kind: Type, size: u64, sparse_size: Option<u64>) -> Header {
    let link = match &member.kind {
        Kind::Symlink { target } => target.clone(),
        Kind::Directory | Kind::File { .. } => Vec::new(),
    };
    let Meta { mode, uid, gid, modified } = member.meta;
    Header {
        kind,
        name: member.name(),
        link,
        mode,
        uid,
        gid,
        size,
        mtime: modified.0,
        mtime_nanoseconds: modified.1,
        sparse_size,
    }
}

/// Hashes a hole as what a reader sees of it. It may be huge: `go_on` is asked every few MiB.
pub(super) fn hash_zeros(
    hasher: &mut Sha256,
    mut bytes: u64,
    mut go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut unasked = 0;
    while bytes > 0 {
        let now = bytes.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..now as usize]);
        bytes -= now;
        unasked += now;
        if unasked >= ASKED_EVERY {
            go_on()?;
            unasked = 0;
        }
    }
    Ok(())
}
