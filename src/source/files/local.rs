//! A directory's files into an archive.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    PipeWriter, Remarks,
    beneath::{Place, PlaceError},
    member::{Member, Stamps},
    walk::{LeftOut, OpenFile, Visitor, WalkError, walk},
    write::{ArchiveWriter, Gave},
};
use crate::{
    manifest::{FilesContent, FilesKind},
    source::SourceError,
};

struct Writing {
    archive: ArchiveWriter<PipeWriter>,
    remarks: Remarks,
}

impl Visitor for Writing {
    fn member(&mut self, member: &Member) -> io::Result<()> {
        self.archive.add(member)
    }

    fn file(&mut self, member: &Member, content: &mut OpenFile) -> io::Result<Gave> {
        self.archive.add_file(member, content)
    }

    fn left_out(&mut self, path: &[u8], why: LeftOut) {
        self.remarks.add(path, why);
    }
}

/// Writes the whole directory. Blocks.
pub(super) fn archive(
    directory: &Path,
    roots: &[PathBuf],
    list: File,
    out: PipeWriter,
) -> Result<FilesContent, SourceError> {
    let open = || Place::find(directory, roots).and_then(|place| place.open()).map_err(unusable);
    let root = open()?;
    let mut writing = Writing { archive: ArchiveWriter::new(out, Stamps::Kept, list), remarks: Remarks::default() };
    walk(&root, &mut writing).map_err(|error| unreadable(directory, &error))?;
    // Entries of a tree that was unmounted, moved or removed meanwhile look like ones that vanished.
    if !is_same(&root, &open()?).map_err(|errno| unwritable(&errno.into()))? {
        let message = format!("directory {} was replaced while it was read", directory.display());
        return Err(SourceError { message, may_pass: true, code: "source.directory" });
    }
    let written = writing.archive.finish().map_err(|error| unwritable(&error))?;
    Ok(writing.remarks.content(FilesKind::Directory, &written))
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

fn unusable(error: PlaceError) -> SourceError {
    let code = match error {
        PlaceError::Open { errno: Errno::ACCESS | Errno::PERM, .. } => "source.denied",
        PlaceError::Open { errno: Errno::NOENT, .. } => "source.no_directory",
        PlaceError::Open { .. } | PlaceError::Outside(_) => "source.directory",
    };
    SourceError { may_pass: error.may_pass(), message: error.to_string(), code }
}

/// A file that cannot be read fails the backup: one without it would not be good.
fn unreadable(directory: &Path, error: &WalkError) -> SourceError {
    let (may_pass, code) = match error {
        WalkError::Entry { errno: Errno::ACCESS | Errno::PERM, .. } => (false, "source.denied"),
        WalkError::Entry { .. } => (true, "source.read"),
        WalkError::TooLarge(_) => (false, "source.too_large"),
        WalkError::TooDeep(_) => (false, "source.too_deep"),
        WalkError::Visit(error) => return unwritable(error),
    };
    SourceError { message: format!("{}: {error}", directory.display()), may_pass, code }
}

/// Nobody reads the archive any more, a file's bytes cannot be read, or there is no room for the list of files.
pub(super) fn unwritable(error: &io::Error) -> SourceError {
    SourceError { message: format!("cannot read the files ({error})"), may_pass: true, code: "source.read" }
}
