//! Reads an archive of files, member by member, and refuses every one that Holdfast would not have written: names that lead out of the
//! tree, come twice or out of order, links to be written through, devices, sizes that were not recorded.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::{
    member::{Kind, LIST, Member, Meta, Stamps, Tally, Totals, list_line, order, shown},
    tar::{ArchiveError, BLOCK, Header, MAX_EXTENDED, Piece, Type, decode_map, padding, refused},
    write::{BUFFER, hash_zeros},
};
use crate::artifact::Sha256Digest;

/// Longest name of one file. Source: `NAME_MAX`, linux/limits.h.
const LONGEST_NAME: usize = 255;
/// Longest target of a symbolic link. Source: `PATH_MAX`, linux/limits.h.
const LONGEST_TARGET: usize = 4096;

/// An archive that is read. Ask for the [next](Self::next_member) member, and for a file's [`content`](Self::content) before the one after it.
pub struct ArchiveReader<R> {
    input: R,
    /// What the manifest says is in there: no archive gets to hold more.
    most_bytes: u64,
    last_name: Option<Vec<u8>>,
    tally: Tally,
    /// The list as it must be.
    list: Sha256,
    waiting: Option<Waiting>,
    buffer: Vec<u8>,
}

/// A file whose content was not read yet.
struct Waiting {
    member: Member,
    size: u64,
    pieces: Vec<Piece>,
    stored: u64,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads an archive whose files have `most_bytes` bytes in all.
    pub fn new(input: R, stamps: Stamps, most_bytes: u64) -> Self {
        let buffer = vec![0; BUFFER];
        Self {
            input,
            most_bytes,
            last_name: None,
            tally: Tally::new(stamps),
            list: Sha256::new(),
            waiting: None,
            buffer,
        }
    }

    /// The next member; `None` after the last one, when list, end and everything behind it were read and found good.
    ///
    /// # Errors
    /// The archive is not one of ours, or cannot be read. Nothing after an error is of any worth.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        if self.waiting.is_some() {
            return Err(io::Error::other("a file's content was not read").into());
        }
        let Some(header) = self.header()? else {
            return refused("it ends without its list of files");
        };
        if header.name == LIST {
            self.read_list(&header)?;
            return Ok(None);
        }
        let member = self.member(header)?;
        if !matches!(member.kind, Kind::File { .. }) {
            self.tally.add(&member, None);
        }
        Ok(Some(member))
    }

    /// Reads the content of the file that `next_member` gave last: `sink` gets each run of data with its place in the file, and an
    /// empty one every few MiB of a hole, so that it can end the work. Gives the SHA-256 of the
    /// whole file, holes included.
    pub fn content(
        &mut self,
        mut sink: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<Sha256Digest, ArchiveError> {
        let Some(Waiting { member, size, pieces, stored }) = self.waiting.take() else {
            return Err(io::Error::other("no file's content is waiting").into());
        };
        let (mut hasher, mut done) = (Sha256::new(), 0);
        for piece in pieces {
            hash_zeros(&mut hasher, piece.offset - done, || sink(done, &[]))?;
            let mut at = piece.offset;
            done = piece.offset + piece.bytes;
            while at < done {
                let want = usize::try_from(done - at).unwrap_or(BUFFER).min(BUFFER);
                self.input.read_exact(&mut self.buffer[..want])?;
                hasher.update(&self.buffer[..want]);
                sink(at, &self.buffer[..want])?;
                at += want as u64;
            }
        }
        hash_zeros(&mut hasher, size - done, || sink(done, &[]))?;
        self.skip_padding(stored)?;
        let sha256 = Sha256Digest(hasher.finalize().into());
        let mut line = Vec::new();
        list_line(&mut line, sha256, &member.path)?;
        self.list.update(&line);
        self.tally.add(&member, Some(sha256));
        Ok(sha256)
    }

    /// What was read so far.
    pub fn totals(&self) -> Totals {
        self.tally.totals
    }

    /// The digest of all members' records, once `next_member` has said that there are no more.
    pub fn tree(&self) -> Sha256Digest {
        self.tally.clone().digest()
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        self.input.read_exact(&mut block)?;
        Ok(block)
    }

    /// A header with what its extended one says; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let Some(first) = Header::decode(&self.block()?)? else { return Ok(None) };
        if first.kind != Type::Extended {
            return Ok(Some(first));
        }
        if first.size > MAX_EXTENDED {
            return refused("an extended header is too long");
        }
        let mut records = vec![0; first.size as usize];
        self.input.read_exact(&mut records)?;
        self.skip_padding(first.size)?;
        match Header::decode(&self.block()?)? {
            Some(mut header) if header.kind != Type::Extended => {
                header.extend(&records)?;
                Ok(Some(header))
            }
            _ => refused("an extended header stands alone"),
        }
    }

    fn member(&mut self, header: Header) -> Result<Member, ArchiveError> {
        let is_directory = header.kind == Type::Directory;
        let path = path(&header.name, is_directory)?;
        let name = shown(&path);
        if self.last_name.as_ref().is_some_and(|last| order(last, &header.name).is_ge()) {
            return refused(format!("{name} comes twice, or out of order"));
        }
        self.last_name = Some(header.name);
        if header.kind != Type::File && header.size != 0 {
            return refused(format!("{name} is no file and has content"));
        }
        if header.mode & !0o7777 != 0 {
            return refused(format!("{name} has permissions that do not exist"));
        }
        let meta = Meta {
            mode: allowed(header.mode, is_directory),
            uid: header.uid,
            gid: header.gid,
            modified: (header.mtime, header.mtime_nanoseconds),
        };
        let kind = match header.kind {
            Type::Directory => Kind::Directory,
            Type::Symlink
                if header.link.is_empty() || header.link.len() > LONGEST_TARGET || header.link.contains(&0) =>
            {
                return refused(format!("{name} is a link to nothing"));
            }
            Type::Symlink => Kind::Symlink { target: header.link },
            Type::File => self.file(header.size, header.sparse_size, &name)?,
            Type::Extended => return refused("an extended header stands alone"),
        };
        let member = Member { path, meta, kind };
        if let Kind::File { size, pieces } = &member.kind {
            let (size, pieces) = (*size, pieces.clone());
            self.waiting = Some(Waiting { member: member.clone(), size, pieces, stored: header.size });
        }
        Ok(member)
    }

    fn file(&mut self, stored: u64, sparse_size: Option<u64>, name: &str) -> Result<Kind, ArchiveError> {
        let size = sparse_size.unwrap_or(stored);
        if self.tally.totals.bytes.checked_add(size).is_none_or(|total| total > self.most_bytes) {
            return refused(format!("{name} has {size} bytes, more than were recorded of all files"));
        }
        if sparse_size.is_none() {
            let all = (stored > 0).then_some(Piece { offset: 0, bytes: stored });
            return Ok(Kind::File { size, pieces: all.into_iter().collect() });
        }
        let (pieces, map) = decode_map(size, || self.block())?;
        let data: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        if map + data != stored || data >= size {
            return refused(format!("the map of {name} does not fit its data"));
        }
        Ok(Kind::File { size, pieces })
    }

    fn skip_padding(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        let mut fill = [0; BLOCK];
        let fill = &mut fill[..padding(bytes)];
        self.input.read_exact(fill)?;
        if fill.iter().any(|byte| *byte != 0) { refused("something hides between members") } else { Ok(()) }
    }

    /// Reads list and end, and that nothing comes after them.
    fn read_list(&mut self, header: &Header) -> Result<(), ArchiveError> {
        if header.kind != Type::File || header.sparse_size.is_some() {
            return refused("its list of files is no file");
        }
        let (mut hasher, mut left) = (Sha256::new(), header.size);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            self.input.read_exact(&mut self.buffer[..want])?;
            hasher.update(&self.buffer[..want]);
            left -= want as u64;
        }
        if hasher.finalize() != self.list.clone().finalize() {
            return refused("its list of files is not that of its files");
        }
        self.skip_padding(header.size)?;
        for _ in 0..2 {
            if Header::decode(&self.block()?)?.is_some() {
                return refused("something comes after its list of files");
            }
        }
        // Also what lets the reader below compare all bytes that there were.
        match self.input.read(&mut self.buffer[..1])? {
            0 => Ok(()),
            _ => refused("something comes after its end"),
        }
    }
}

/// The permissions that are kept: a file does not lend its owner to who runs it; a directory keeps what it does for its own files.
pub fn allowed(mode: u32, is_directory: bool) -> u32 {
    mode & if is_directory { 0o3777 } else { 0o777 }
}

/// A member's path from its name, when it stays below the root.
fn path(name: &[u8], is_directory: bool) -> Result<Vec<u8>, ArchiveError> {
    if is_directory && name == b"./" {
        return Ok(Vec::new());
    }
    let path = match (is_directory, name.strip_suffix(b"/")) {
        (true, Some(path)) => path,
        (false, None) => name,
        (true, None) | (false, Some(_)) => {
            return refused(format!("{:?} is not named as what it is", name.escape_ascii().to_string()));
        }
    };
    let is_good = |component: &[u8]| {
        !component.is_empty()
            && component != b"."
            && component != b".."
            && component.len() <= LONGEST_NAME
            && !component.contains(&0)
    };
    if path.split(|byte| *byte == b'/').all(is_good) && path != LIST {
        Ok(path.to_vec())
    } else {
        refused(format!("{:?} is no path below the root", path.escape_ascii().to_string()))
    }
}

/// What reading a whole archive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub totals: Totals,
    pub tree: Sha256Digest,
}

/// Reads an archive to its end and throws it away. Blocks.
///
/// # Errors
/// As [`ArchiveReader::next_member`]; [`io::ErrorKind::Interrupted`] once `is_stopped` says so.
pub fn check(
    input: impl Read,
    stamps: Stamps,
    most_bytes: u64,
    is_stopped: impl Fn() -> bool,
) -> Result<Checked, ArchiveError> {
    let mut archive = ArchiveReader::new(input, stamps, most_bytes);
    while let Some(member) = archive.next_member()? {
        if matches!(member.kind, Kind::File { .. }) {
            archive.content(|_, _| if is_stopped() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) })?;
        }
    }
    Ok(Checked { totals: archive.totals(), tree: archive.tree() })
}
