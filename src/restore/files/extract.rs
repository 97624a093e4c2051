//! An archive into a new directory. Every name is opened on its own below that directory, no link is followed, nothing is overwritten.

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use tokio_util::sync::CancellationToken;

use super::{FilesPlan, failed};
use crate::{
    byte_size::ByteSize,
    manifest::FilesContent,
    restore::RestoreError,
    source::files::{
        beneath::{self, Place, split},
        member::{Kind, Member, Meta, Stamps, shown},
        read::ArchiveReader,
        tar::{ArchiveError, refused},
    },
};

/// What to extract, and how to stop and follow it.
pub struct Extraction<'a> {
    pub content: &'a FilesContent,
    pub cancel: &'a CancellationToken,
    /// Hears the bytes written so far.
    pub progress: &'a dyn Fn(u64),
}

/// Extracts into the plan's staged directory, which must not be there, and makes it durable. What is left after an error is for `recover`
/// to remove. Gives warnings.
///
/// # Errors
/// `restore.archive_refused` for an archive that Holdfast would not have written, `restore.no_space` before anything is made.
pub fn extract(
    place: &Place,
    plan: &FilesPlan,
    input: impl Read,
    how: &Extraction<'_>,
) -> Result<Vec<String>, RestoreError> {
    let about = |errno| failed(place, "restore beside", errno);
    let free = rustix::fs::fstatvfs(&place.parent).map_err(about)?;
    let needed = how.content.data_bytes;
    if free.f_bavail.saturating_mul(free.f_frsize) < needed {
        let message = format!("no space beside {}: {} are needed", place.path.display(), ByteSize(needed));
        return Err(RestoreError::new("restore.no_space", message));
    }
    let staged = plan.staged();
    rustix::fs::mkdirat(&place.parent, staged.as_str(), Mode::RWXU).map_err(about)?;
    let root = beneath::child(&place.parent, staged.as_bytes()).map_err(about)?;
    let mut target = Extractor {
        root,
        levels: Vec::new(),
        current: None,
        is_root: rustix::process::geteuid().is_root(),
        written: 0,
        not_owned: 0,
    };
    let mut archive = ArchiveReader::new(input, Stamps::Kept, how.content.total_bytes);
    while let Some(member) = archive.next_member()? {
        if how.cancel.is_cancelled() {
            return Err(RestoreError::cancelled());
        }
        target.add(&member, &mut archive, how)?;
    }
    target.leave_to(None).map_err(|error| RestoreError::from(ArchiveError::from(error)))?;
    if archive.tree() != how.content.tree_sha256 {
        let message = "the archive does not hold what its manifest says";
        return Err(RestoreError::new("restore.archive_refused", message));
    }
    rustix::fs::syncfs(&target.root).map_err(about)?;
    let warning = format!("{} files belong to the user that Holdfast runs as, not to their owners", target.not_owned);
    Ok((target.not_owned > 0).then_some(warning).into_iter().collect())
}

/// The new directory while it is filled.
struct Extractor {
    root: OwnedFd,
    /// From the root to the directory of the last member. Their permissions and times come when nothing more is put into them.
    levels: Vec<(Vec<u8>, Meta)>,
    /// The directory that was written to last.
    current: Option<(Vec<u8>, OwnedFd)>,
    is_root: bool,
    written: u64,
    not_owned: u64,
}

impl Extractor {
    fn add<R: Read>(
        &mut self,
        member: &Member,
        archive: &mut ArchiveReader<R>,
        how: &Extraction<'_>,
    ) -> Result<(), ArchiveError> {
        let Member { path, meta, kind } = member;
        if path.is_empty() {
            self.levels.push((Vec::new(), *meta));
            return Ok(());
        }
        let (directory, name) = split(path);
        self.leave_to(Some(directory))?;
        if self.levels.last().is_none_or(|(level, _)| level != directory) {
            return refused(format!("{} is in a directory that is not in the archive", shown(path)));
        }
        self.enter(directory)?;
        let Some((_, parent)) = &self.current else { return refused("there is no directory to write to") };
        let told = |errno: Errno| match errno {
            // The directory is new, and nobody else knows of it.
            Errno::EXIST => ArchiveError::Refused(format!("{} comes twice, as two kinds", shown(path))),
            _ => io::Error::new(io::Error::from(errno).kind(), format!("{}: {errno}", shown(path))).into(),
        };
        match kind {
            Kind::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(told)?;
                self.levels.push((path.clone(), *meta));
            }
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(&target[..], parent, name).map_err(told)?;
                if self.is_root {
                    let (owner, group) = owner(meta);
                    rustix::fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(told)?;
                }
                rustix::fs::utimensat(parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW).map_err(told)?;
            }
            Kind::File { size, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(told)?;
                let file = File::from(file);
                // Also what makes a hole at the end.
                file.set_len(*size)?;
                let mut written = self.written;
                archive.content(|offset, bytes| {
                    if how.cancel.is_cancelled() {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    file.write_all_at(bytes, offset)?;
                    written += bytes.len() as u64;
                    (how.progress)(written);
                    Ok(())
                })?;
                self.written = written;
                self.finish(&file.into(), meta)?;
            }
        }
        Ok(())
    }

    /// Finishes the directories that the next member is not in; all of them for `None`.
    fn leave_to(&mut self, directory: Option<&[u8]>) -> io::Result<()> {
        let is_above = |level: &[u8], directory: &[u8]| {
            level.is_empty() || directory == level || directory.strip_prefix(level).is_some_and(|r| r.starts_with(b"/"))
        };
        while let Some((level, meta)) =
            self.levels.pop_if(|(level, _)| directory.is_none_or(|directory| !is_above(level, directory)))
        {
            self.current = None;
            let opened = beneath::below(&self.root, &level)?;
            self.finish(&opened, &meta)?;
        }
        Ok(())
    }

    fn enter(&mut self, directory: &[u8]) -> io::Result<()> {
        let (above, name) = split(directory);
        let opened = match &self.current {
            Some((current, _)) if current == directory => return Ok(()),
            Some((current, opened)) if current == above && !directory.is_empty() => beneath::child(opened, name)?,
            Some(_) | None => beneath::below(&self.root, directory)?,
        };
        self.current = Some((directory.to_vec(), opened));
        Ok(())
    }

    /// Owner, permissions and times, in this order: each would change the one before it.
    fn finish(&mut self, opened: &OwnedFd, meta: &Meta) -> io::Result<()> {
        if self.is_root {
            let (owner, group) = owner(meta);
            rustix::fs::fchown(opened, owner, group)?;
        } else if rustix::fs::fstat(opened)?.st_uid != meta.uid {
            self.not_owned += 1;
        }
        rustix::fs::fchmod(opened, Mode::from_raw_mode(meta.mode))?;
        Ok(rustix::fs::futimens(opened, &times(meta))?)
    }
}

fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    // The largest number means "leave it" to the system.
    let id = |id: u32| (id != u32::MAX).then_some(id);
    (id(meta.uid).map(Uid::from_raw), id(meta.gid).map(Gid::from_raw))
}

fn times(meta: &Meta) -> Timestamps {
    let modified = Timespec { tv_sec: meta.modified.0, tv_nsec: i64::from(meta.modified.1) };
    Timestamps { last_access: modified, last_modification: modified }
}
