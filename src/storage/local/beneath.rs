//! Files below a root and nowhere else: every component of a key is opened on its own, relative to the directory before it, and a
//! symbolic link is never followed. The root itself is the operator's word and may be one.

use std::{
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    Fail,
    /// Make it, readable to its owner alone, and durable.
    Make,
}

/// Opens the directory of these components below `root`.
pub fn directory<'a>(
    root: &Path,
    components: impl Iterator<Item = &'a str>,
    on_missing: OnMissing,
) -> Result<OwnedFd, Errno> {
    let mut at = rustix::fs::openat(CWD, root, DIRECTORY, Mode::empty())?;
    for component in components {
        at = match rustix::fs::openat(&at, component, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT) if on_missing == OnMissing::Make => {
                match rustix::fs::mkdirat(&at, component, Mode::RWXU) {
                    // Another upload made it at the same time.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                rustix::fs::fsync(&at)?;
                rustix::fs::openat(&at, component, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Makes a new file to write and read, mode 0600.
pub fn create(directory: &OwnedFd, name: &str) -> Result<std::fs::File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map(Into::into)
}

/// Opens a regular file to read. `NONBLOCK`: a fifo of that name must not hold the caller; it means nothing to a file.
pub fn open(directory: &OwnedFd, name: &str) -> Result<(std::fs::File, u64), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::NOTDIR);
    }
    Ok((file.into(), stat.st_size as u64))
}

/// Size of a regular file.
pub fn size(directory: &OwnedFd, name: &str) -> Result<u64, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat.st_size as u64),
        _ => Err(Errno::NOTDIR),
    }
}

/// Gives a file its final name, unless the name is taken, and makes that durable.
pub fn publish(directory: &OwnedFd, temporary: &str, name: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(directory, temporary, directory, name, RenameFlags::NOREPLACE) {
        // The file system or an old kernel does not know the flag: a hard link does not overwrite either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_instead(directory, temporary, name)?,
        other => other?,
    }
    rustix::fs::fsync(directory).inspect_err(|_| {
        // Visible, yet perhaps not after a power cut: take it back.
        let _ = remove(directory, name);
    })
}

fn link_instead(directory: &OwnedFd, temporary: &str, name: &str) -> Result<(), Errno> {
    rustix::fs::linkat(directory, temporary, directory, name, AtFlags::empty())?;
    remove(directory, temporary)
}

pub fn remove(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    rustix::fs::unlinkat(directory, name, AtFlags::empty())
}

/// One name in a directory; what is neither file nor directory is left out.
pub enum Entry {
    File(String),
    Directory(String),
}

/// The names in a directory. Names that are not UTF-8 are none of ours.
pub fn list(directory: &OwnedFd) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            },
            known => known,
        };
        match kind {
            FileType::RegularFile => entries.push(Entry::File(name.to_owned())),
            FileType::Directory if name != "." && name != ".." => entries.push(Entry::Directory(name.to_owned())),
            _ => {}
        }
    }
    Ok(entries)
}

/// When a file was last written.
pub fn modified(directory: &OwnedFd, name: &str) -> Result<SystemTime, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).ok_or(Errno::OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_rename_flag_a_link_does_not_overwrite_either() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory(root.path(), std::iter::empty(), OnMissing::Fail).unwrap();
        create(&directory, "one").unwrap();
        link_instead(&directory, "one", "final").unwrap();
        assert!(!root.path().join("one").exists() && root.path().join("final").exists());
        create(&directory, "two").unwrap();
        assert_eq!(link_instead(&directory, "two", "final").unwrap_err(), Errno::EXIST);
        assert!(root.path().join("two").exists());
    }
}
