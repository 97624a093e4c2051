//! Walks a directory in the order of an archive. Of each member it knows what it is from its open descriptor, never from a name that was
//! looked at before: while it walks, the tenant's programs go on, and one of them may be hostile.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
};

use rustix::{
    fs::{FileType, SeekFrom, Stat},
    io::Errno,
};

use super::{
    beneath::{self, cause, join, kind_of},
    member::{Kind, LIST, Member, Meta, order, shown},
    read::allowed,
    tar::{MAX_PIECES, Piece},
    write::{Content, Gave},
};

/// Deepest tree that is walked. Beyond it the time grows with the square of the depth.
const DEEPEST: usize = 1024;
/// Most bytes of a tree's files, holes included: every one of them is hashed. A sparse file may claim exabytes.
const MOST_BYTES: u64 = 16 << 40;

/// Why a tree cannot be walked to its end.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("cannot read {path}: {}", cause(*errno))]
    Entry { path: String, errno: Errno },
    #[error("{0}: directories are nested more than {DEEPEST} deep")]
    TooDeep(String),
    #[error("{0}: the files up to here have more than 16 TiB, holes included")]
    TooLarge(String),
    /// What the visitor said.
    #[error("{0}")]
    Visit(#[from] io::Error),
}

/// Who is told of each member, in order.
pub trait Visitor {
    /// A directory or a symbolic link.
    fn member(&mut self, member: &Member) -> io::Result<()>;

    /// A file, to be read now. Says whether it gave everything.
    fn file(&mut self, member: &Member, content: &mut OpenFile) -> io::Result<Gave>;

    /// Something that is left out.
    fn left_out(&mut self, path: &[u8], why: LeftOut);
}

/// Why something is in the tree and not in the archive, or not as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// A socket, a pipe, a device; or a file that an earlier archive left.
    NoFile,
    /// Gone between being listed and being read.
    Vanished,
    /// It is in the archive, and was written to while it was read.
    Changed,
    /// It is in the archive, as a file of its own, and has other names.
    HardLinked,
}

/// A file under way. Its errors name it.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    path: String,
}

impl Content for OpenFile {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file
            .read_at(buffer, offset)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path)))
    }
}

/// A directory that is being walked.
struct Level {
    path: Vec<u8>,
    /// Names as they are in an archive: those of directories end with a slash.
    entries: VecDeque<Vec<u8>>,
}

/// Walks everything below `root`, which comes first itself.
pub fn walk(root: &OwnedFd, visitor: &mut dyn Visitor) -> Result<(), WalkError> {
    let failed = |path: &[u8], errno| WalkError::Entry { path: shown(path), errno };
    let stat = rustix::fs::fstat(root).map_err(|errno| failed(b"", errno))?;
    visitor.member(&member(Vec::new(), &stat, Kind::Directory))?;
    let entries = list(root).map_err(|errno| failed(b"", errno))?;
    let mut levels = vec![Level { path: Vec::new(), entries }];
    // The directory of the last level; opened again from the root after one below it.
    let mut current: Option<OwnedFd> = None;
    let mut left = MOST_BYTES;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.pop_front() else {
            levels.pop();
            current = None;
            continue;
        };
        let name = entry.strip_suffix(b"/").unwrap_or(&entry);
        let path = join(&level.path, name);
        let directory = match &current {
            Some(directory) => directory,
            None => match beneath::below(root, &level.path) {
                Ok(opened) => &*current.insert(opened),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    visitor.left_out(&path, LeftOut::Vanished);
                    continue;
                }
                Err(errno) => return Err(failed(&path, errno)),
            },
        };
        if path == LIST {
            visitor.left_out(&path, LeftOut::NoFile);
            continue;
        }
        let visited = if entry.ends_with(b"/") {
            below(directory, name, &path)
        } else {
            leaf(directory, name, &path, &mut left, visitor).map(|()| None)
        };
        match visited {
            Ok(None) => {}
            Ok(Some((found, opened, entries))) => {
                if levels.len() >= DEEPEST {
                    return Err(WalkError::TooDeep(shown(&path)));
                }
                visitor.member(&found)?;
                levels.push(Level { path, entries });
                current = Some(opened);
            }
            Err(Trouble::Io(error)) => return Err(error.into()),
            Err(Trouble::TooLarge) => return Err(WalkError::TooLarge(shown(&path))),
            // Gone, or something else by now.
            Err(Trouble::Errno(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                visitor.left_out(&path, LeftOut::Vanished);
            }
            Err(Trouble::Errno(errno)) => return Err(failed(&path, errno)),
        }
    }
    Ok(())
}

/// A directory, opened, and the names in it; `None` for everything else.
type Below = Option<(Member, OwnedFd, VecDeque<Vec<u8>>)>;

enum Trouble {
    Errno(Errno),
    Io(io::Error),
    TooLarge,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// A directory and what is in it.
fn below(directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Below, Trouble> {
    let opened = beneath::child(directory, name)?;
    let stat = rustix::fs::fstat(&opened)?;
    let entries = list(&opened)?;
    Ok(Some((member(path.to_vec(), &stat, Kind::Directory), opened, entries)))
}

/// Everything that is no directory. `left` is how many bytes may still come.
fn leaf(
    directory: &OwnedFd,
    name: &[u8],
    path: &[u8],
    left: &mut u64,
    visitor: &mut dyn Visitor,
) -> Result<(), Trouble> {
    let stat = beneath::look(directory, name)?;
    match kind_of(&stat) {
        FileType::RegularFile => {}
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes();
            return visitor.member(&member(path.to_vec(), &stat, Kind::Symlink { target })).map_err(Trouble::Io);
        }
        // It was no directory a moment ago: what is in it would come out of order.
        FileType::Directory => {
            visitor.left_out(path, LeftOut::Vanished);
            return Ok(());
        }
        _ => {
            visitor.left_out(path, LeftOut::NoFile);
            return Ok(());
        }
    }
    let (file, before) = match beneath::open_file(directory, name) {
        // A socket took the name.
        Err(Errno::NXIO) => {
            visitor.left_out(path, LeftOut::NoFile);
            return Ok(());
        }
        other => other?,
    };
    if kind_of(&before) != FileType::RegularFile {
        visitor.left_out(path, LeftOut::NoFile);
        return Ok(());
    }
    let size = u64::try_from(before.st_size).unwrap_or(0);
    *left = left.checked_sub(size).ok_or(Trouble::TooLarge)?;
    let pieces = pieces(&file, &before, size)?;
    let found = member(path.to_vec(), &before, Kind::File { size, pieces });
    let mut content = OpenFile { file, path: shown(path) };
    let gave = visitor.file(&found, &mut content).map_err(Trouble::Io)?;
    let after = rustix::fs::fstat(&content.file)?;
    let state = |s: &Stat| (s.st_size, s.st_mtime, s.st_mtime_nsec);
    if gave == Gave::Less || state(&before) != state(&after) {
        visitor.left_out(path, LeftOut::Changed);
    }
    if before.st_nlink > 1 {
        visitor.left_out(path, LeftOut::HardLinked);
    }
    Ok(())
}

fn member(path: Vec<u8>, stat: &Stat, kind: Kind) -> Member {
    let meta = Meta {
        mode: allowed(stat.st_mode & 0o7777, kind == Kind::Directory),
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    };
    Member { path, meta, kind }
}

/// The names in a directory, as they are in an archive and in its order.
fn list(directory: &OwnedFd) -> Result<VecDeque<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for mut name in beneath::names(directory)? {
        match beneath::look(directory, &name) {
            Ok(stat) if kind_of(&stat) == FileType::Directory => name.push(b'/'),
            Ok(_) => {}
            // Told when its turn comes.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        names.push(name);
    }
    names.sort_unstable_by(|one, other| order(one, other));
    Ok(names.into())
}

/// Where a file has data. A file with too many pieces, and one on a file system that does not tell, is taken whole from there on.
fn pieces(file: &File, stat: &Stat, size: u64) -> Result<Vec<Piece>, Errno> {
    let whole = |from: u64| (from < size).then_some(Piece { offset: from, bytes: size - from });
    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if allocated >= size {
        return Ok(whole(0).into_iter().collect());
    }
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < size {
        let offset = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(offset) => offset,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => {
                pieces.extend(whole(at));
                break;
            }
            Err(errno) => return Err(errno),
        };
        if offset >= size {
            break;
        }
        if pieces.len() + 1 >= MAX_PIECES {
            pieces.extend(whole(offset));
            break;
        }
        let end = rustix::fs::seek(file, SeekFrom::Hole(offset))?.min(size);
        if end <= offset {
            pieces.extend(whole(offset));
            break;
        }
        pieces.push(Piece { offset, bytes: end - offset });
        at = end;
    }
    Ok(pieces)
}
