//! Names below a directory and nowhere else: every component is opened on its own, relative to the one before it, and no symbolic link is
//! ever followed. Names are bytes: a tenant's need not be text.

use std::{
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory by its parent and its own name, so that it can be swapped for another.
#[derive(Debug)]
pub struct Place {
    pub parent: OwnedFd,
    pub name: Vec<u8>,
    /// As configured, for people.
    pub path: PathBuf,
}

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("directory {} does not lie below one of files.roots", .0.display())]
    Outside(PathBuf),
    #[error("cannot open directory {}: {}", path.display(), cause(*errno))]
    Open { path: PathBuf, errno: Errno },
}

impl PlaceError {
    /// Whether trying again can help.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Open { errno: Errno::IO | Errno::STALE | Errno::NFILE | Errno::MFILE | Errno::HOSTDOWN, .. }
        )
    }
}

/// What an error of the file system says, links named as what they are.
pub fn cause(errno: Errno) -> String {
    match errno {
        Errno::XDEV => "another file system is mounted inside".to_owned(),
        Errno::LOOP | Errno::NOTDIR => "a component is a symbolic link, or no directory".to_owned(),
        other => std::io::Error::from(other).to_string(),
    }
}

impl Place {
    /// Finds a directory's parent. With `roots`, one of them must be above it, and from there on no component may be a symbolic link; without,
    /// the parent is the operator's word. The directory itself need not be there.
    pub fn find(directory: &Path, roots: &[PathBuf]) -> Result<Self, PlaceError> {
        let failed = |errno| PlaceError::Open { path: directory.to_owned(), errno };
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
            return Err(failed(Errno::INVAL));
        };
        let opened = if roots.is_empty() {
            rustix::fs::openat(CWD, parent, DIRECTORY, Mode::empty())
        } else {
            let below = roots.iter().find_map(|root| Some((root, parent.strip_prefix(root).ok()?)));
            let Some((root, rest)) = below else { return Err(PlaceError::Outside(directory.to_owned())) };
            let root = rustix::fs::openat(CWD, root.as_path(), DIRECTORY, Mode::empty()).map_err(failed)?;
            let rest = rest.as_os_str().as_bytes();
            self::directory(root, rest)
        };
        Ok(Self { parent: opened.map_err(failed)?, name: name.as_bytes().to_vec(), path: directory.to_owned() })
    }

    /// Opens the directory itself.
    pub fn open(&self) -> Result<OwnedFd, PlaceError> {
        child(&self.parent, &self.name).map_err(|errno| PlaceError::Open { path: self.path.clone(), errno })
    }
}

/// Opens a directory right below another.
pub fn child(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens the directory with this path below `root`; empty is the root itself.
pub fn directory(root: OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at = root;
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        at = child(&at, component)?;
    }
    Ok(at)
}

/// The same, where the root is still needed.
pub fn below(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    directory(rustix::io::fcntl_dupfd_cloexec(root, 0)?, path)
}

/// What there is under a name, itself and not what it may point to.
pub fn look(directory: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens a file to read. `NONBLOCK`: a fifo of that name must not hold the caller; it means nothing to a file.
pub fn open_file(directory: &OwnedFd, name: &[u8]) -> Result<(std::fs::File, Stat), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    Ok((file.into(), stat))
}

/// The names in a directory, `.` and `..` left out.
pub fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// A path of bytes from its parts.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Directory and name of a path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Removes a directory with everything in it. Follows no link and enters no other file system that is mounted inside: that is an error
/// ([`Errno::XDEV`]), and stays with what is above it. What is gone already is success.
pub fn remove_tree(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    make_writable(parent, name);
    let Some(root) = found(child(parent, name))? else { return Ok(()) };
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.last().cloned() {
        let Some(directory) = found(below(&root, &path))? else {
            pending.pop();
            continue;
        };
        let mut is_empty = true;
        for entry in names(&directory)? {
            match rustix::fs::unlinkat(&directory, &entry[..], AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM)
                    if look(&directory, &entry).is_ok_and(|stat| kind_of(&stat) == FileType::Directory) =>
                {
                    refuse_mount(&directory, &entry)?;
                    make_writable(&directory, &entry);
                    pending.push(join(&path, &entry));
                    is_empty = false;
                }
                Err(errno) => return Err(errno),
            }
        }
        if is_empty {
            pending.pop();
            if !path.is_empty() {
                let (above, last) = split(&path);
                if let Some(above) = found(below(&root, above))? {
                    found(rustix::fs::unlinkat(&above, last, AtFlags::REMOVEDIR))?;
                }
            }
        }
    }
    found(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)).map(drop)
}

/// An error where something else is mounted on a directory, be it of the same file system.
fn refuse_mount(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        // Before Linux 5.6, or behind a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) if look(parent, name)?.st_dev == rustix::fs::fstat(parent)?.st_dev => Ok(()),
        Err(Errno::NOSYS | Errno::PERM) => Err(Errno::XDEV),
        Err(errno) => Err(errno),
    }
}

/// Lets its owner into a directory that is to be removed.
fn make_writable(parent: &OwnedFd, name: &[u8]) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(directory) = rustix::fs::openat(parent, name, flags, Mode::empty())
        && rustix::fs::fstat(&directory).is_ok_and(|stat| stat.st_mode & 0o700 != 0o700)
    {
        // By its descriptor: whatever has the name by now is not touched. What cannot be changed is told when it cannot be opened.
        _ = rustix::fs::chmod(format!("/proc/self/fd/{}", directory.as_raw_fd()), Mode::RWXU);
    }
}

fn found<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
