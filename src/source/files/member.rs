//! What an archive of files holds, and what is told of it: one record for each member, in the archive's order. The records' digest proves a
//! whole tree, and the list of files that lies in the archive is for `sha256sum -c`.

use std::{cmp::Ordering, io::Write};

use sha2::{Digest as _, Sha256};

use super::tar::Piece;
use crate::artifact::Sha256Digest;

/// The archive's last member: SHA-256 and name of every file, as `sha256sum` writes them.
pub const LIST: &[u8] = b".holdfast.sha256";

/// What is known of a file beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permissions alone, without the bits that lend a file's owner to who runs it.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds after them.
    pub modified: (i64, u32),
}

/// A member without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Below the root; empty is the root itself. No component is empty, `.` or `..`.
    pub path: Vec<u8>,
    pub meta: Meta,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    File {
        /// With holes.
        size: u64,
        /// Where its data is; everything else is zeros.
        pieces: Vec<Piece>,
    },
}

impl Member {
    /// Its name in an archive: directories end with a slash. Members come in the order of these names' bytes, the root first, so that every
    /// directory comes before what is in it and no name comes twice.
    pub fn name(&self) -> Vec<u8> {
        match self.kind {
            Kind::Directory if self.path.is_empty() => b"./".to_vec(),
            Kind::Directory => [&self.path[..], b"/"].concat(),
            Kind::Symlink { .. } | Kind::File { .. } => self.path.clone(),
        }
    }
}

/// How members are ordered by their names.
pub fn order(one: &[u8], other: &[u8]) -> Ordering {
    let key = |name: &[u8]| (name != b"./", name.to_vec());
    key(one).cmp(&key(other))
}

/// Whether a restore brings times and permissions back, so that they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// In a directory.
    Kept,
    /// In a bucket, which has no permissions and gives its own times.
    Left,
}

/// What is proved of one member: everything but its owner, on one line and a bit:
/// `f 640 1700000000.000000000 7 SHA256\0path\0`, `d 750 TIME 0 -\0path\0`, `l - TIME 0 -\0path\0target\0`.
pub fn record(member: &Member, sha256: Option<Sha256Digest>, stamps: Stamps) -> Vec<u8> {
    let (kind, size, target): (_, _, &[u8]) = match &member.kind {
        Kind::Directory => ('d', 0, b""),
        Kind::Symlink { target } => ('l', 0, target),
        Kind::File { size, .. } => ('f', *size, b""),
    };
    let mode = match (stamps, &member.kind) {
        // A link has none of its own.
        (Stamps::Left, _) | (_, Kind::Symlink { .. }) => "-".to_owned(),
        (Stamps::Kept, _) => format!("{:o}", member.meta.mode),
    };
    let time = match stamps {
        Stamps::Kept => format!("{}.{:09}", member.meta.modified.0, member.meta.modified.1),
        Stamps::Left => "-".to_owned(),
    };
    let sha256 = sha256.map_or_else(|| "-".to_owned(), |digest| digest.to_string());
    let mut record = format!("{kind} {mode} {time} {size} {sha256}\0").into_bytes();
    record.extend(&member.path);
    record.push(0);
    if kind == 'l' {
        record.extend(target);
        record.push(0);
    }
    record
}

/// Sums up a tree, member by member.
#[derive(Clone)]
pub struct Tally {
    stamps: Stamps,
    hasher: Sha256,
    pub totals: Totals,
}

/// How much there is in a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub directories: u64,
    pub files: u64,
    pub links: u64,
    /// Of all files, holes counted.
    pub bytes: u64,
    /// Of all files, without holes.
    pub data_bytes: u64,
}

impl Tally {
    pub fn new(stamps: Stamps) -> Self {
        Self { stamps, hasher: Sha256::new(), totals: Totals::default() }
    }

    /// Adds a member and gives its record.
    pub fn add(&mut self, member: &Member, sha256: Option<Sha256Digest>) -> Vec<u8> {
        match &member.kind {
            Kind::Directory => self.totals.directories += 1,
            Kind::Symlink { .. } => self.totals.links += 1,
            Kind::File { size, pieces } => {
                self.totals.files += 1;
                self.totals.bytes = self.totals.bytes.saturating_add(*size);
                let data: u64 = pieces.iter().map(|piece| piece.bytes).sum();
                self.totals.data_bytes = self.totals.data_bytes.saturating_add(data);
            }
        }
        let record = record(member, sha256, self.stamps);
        self.hasher.update(&record);
        record
    }

    /// The digest of all records.
    pub fn digest(self) -> Sha256Digest {
        Sha256Digest(self.hasher.finalize().into())
    }
}

/// A line of the list, as `sha256sum` writes it: a name with a line break or a backslash is escaped, and the line begins with a backslash.
pub fn list_line(out: &mut impl Write, sha256: Sha256Digest, path: &[u8]) -> std::io::Result<()> {
    let is_awkward = path.iter().any(|byte| matches!(byte, b'\n' | b'\r' | b'\\'));
    let mut line = if is_awkward { format!("\\{sha256}  ./") } else { format!("{sha256}  ./") }.into_bytes();
    for byte in path {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            b'\\' => line.extend(b"\\\\"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    out.write_all(&line)
}

/// A name for people: bytes that are no text, and characters that a terminal would obey, are escaped.
pub fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok("") => ".".to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_the_root_first() {
        let mut names: Vec<&[u8]> = vec![b"a/b", b"a-b", b"!", b"a/", b"./", b"a/b/c", b"a.txt"];
        names.sort_by(|one, other| order(one, other));
        assert_eq!(names, [&b"./"[..], b"!", b"a-b", b"a.txt", b"a/", b"a/b", b"a/b/c"]);
    }

    #[test]
    fn names_are_shown_without_what_a_terminal_would_obey() {
        assert_eq!(shown("Straße".as_bytes()), "Straße");
        assert_eq!(shown(b"a\x1b[31m\n"), "a\\x1b[31m\\n");
        assert_eq!(shown(b"\xff"), "\\xff");
    }
}
