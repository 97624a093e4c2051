//! Restores a project's files: extracted and compared beside the live directory, then swapped with it in one step, and so that it can be
//! undone. Blocks; knows neither the control plane nor HTTP.
//!
//! ```text
//! plan        names and the live directory's identity; the caller stores it
//! extract     into .hf-restore-… beside it; every hostile member refused
//! (compare)   the caller reads the new directory back as for a backup, and compares the digest
//! (record)    the new directory's inode; the caller stores the plan again
//! swap        the names are exchanged; what was live is .hf-before-…
//!             …or recover, from any point: everything is as it was, or the swap is finished
//! undo        within the window: exchanged back; what was restored is .hf-undone-…
//! drop_kept   after the window
//! ```
//!
//! What always holds: nothing is written below the live directory; which directory is which is decided by inode, not by remembered state;
//! only the directory that was compared is ever called restored; the directory that was live is never removed by a recovery; a worker that
//! lost its job finds its staged directory gone and can swap nothing any more.

mod bucket;
mod extract;
mod swap;

use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use self::{
    bucket::{extract_to_prefix, remove_prefix},
    extract::{Extraction, extract},
    swap::{FilesRecovery, drop_kept, recover, swap, undo},
};
use super::RestoreError;
use crate::{
    ids::RestoreId,
    source::files::{
        beneath::{self, Place, PlaceError, kind_of},
        tar::ArchiveError,
    },
};

/// What a restore of files is going to do, written down before anything is touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPlan {
    pub id: RestoreId,
    /// Under a name that no plan of a database has.
    pub files: FilesTarget,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FilesTarget {
    Directory {
        directory: PathBuf,
        /// The directory that is replaced.
        live: Identity,
        /// The directory that takes its place, once it is there. Without it nothing is swapped.
        #[serde(default)]
        staged: Option<Identity>,
    },
    /// A bucket knows no swap: what is restored gets a prefix of its own, and the project is pointed there.
    Prefix { storage: String, prefix: String, restored: String },
}

/// A directory, whatever it is called, among those of one file system. Of which one is not remembered: its number need not be the same after
/// another mount, on another machine, or for another worker (NFS, btrfs, overlays). It is compared when it is looked at: see `identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub inode: u64,
}

impl FilesPlan {
    /// A plan for the directory at this place. Changes nothing.
    ///
    /// # Errors
    /// The directory is not there: its permissions and owner come from whoever makes it.
    pub fn directory(id: RestoreId, place: &Place) -> Result<Self, RestoreError> {
        let live = identity(place, &place.name).map_err(|errno| failed(place, "look at", errno))?;
        let live = live.ok_or_else(|| {
            let message = format!("directory {} is not there: make it, and restore again", place.path.display());
            RestoreError::new("restore.no_directory", message)
        })?;
        Ok(Self { id, files: FilesTarget::Directory { directory: place.path.clone(), live, staged: None } })
    }

    /// Notes which directory was extracted, before it is compared and swapped.
    ///
    /// # Errors
    /// It is not there.
    pub fn record_staged(&mut self, place: &Place) -> Result<(), RestoreError> {
        let found = identity(place, self.staged().as_bytes()).map_err(|errno| failed(place, "look beside", errno))?;
        let found = found.ok_or_else(|| RestoreError::new("restore.staged", "what was restored has been removed"))?;
        if let FilesTarget::Directory { staged, .. } = &mut self.files {
            *staged = Some(found);
        }
        Ok(())
    }

    /// A plan for a prefix.
    pub fn prefix(id: RestoreId, storage: String, prefix: String) -> Self {
        // A restore of what was restored does not pile up names.
        let base = match prefix.rsplit_once(".restored-") {
            Some((base, short)) if short.len() == id.short().len() && !base.is_empty() => base,
            _ => &prefix,
        };
        let restored = format!("{base}.restored-{}", id.short());
        Self { id, files: FilesTarget::Prefix { storage, prefix, restored } }
    }

    /// The plan of files in a row of `restores`; `None` when it is one of a database.
    pub fn read(plan: &serde_json::Value) -> Option<Self> {
        plan.get("files")?;
        Self::deserialize(plan).ok()
    }

    /// What is being restored, beside the live directory.
    pub fn staged(&self) -> String {
        format!(".hf-restore-{}", self.id.short())
    }

    /// What was replaced, while it waits for an undo.
    pub fn kept(&self) -> String {
        format!(".hf-before-{}", self.id.short())
    }

    /// What an undo took out of use.
    pub fn undone(&self) -> String {
        format!(".hf-undone-{}", self.id.short())
    }
}

/// Which directory has a name; `None` when nothing has it. One of another file system than what is around it cannot be swapped, and its
/// inode says nothing here: [`Errno::XDEV`].
fn identity(place: &Place, name: &[u8]) -> Result<Option<Identity>, Errno> {
    match beneath::look(&place.parent, name) {
        Ok(stat) if kind_of(&stat) == rustix::fs::FileType::Directory => {
            if stat.st_dev != rustix::fs::fstat(&place.parent)?.st_dev {
                return Err(Errno::XDEV);
            }
            Ok(Some(Identity { inode: stat.st_ino }))
        }
        Ok(_) => Err(Errno::NOTDIR),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn failed(place: &Place, what: &str, errno: Errno) -> RestoreError {
    let message = format!("cannot {what} {}: {}", place.path.display(), beneath::cause(errno));
    match errno {
        Errno::NOSPC | Errno::DQUOT => RestoreError::new("restore.no_space", message),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => RestoreError::new("restore.denied", message),
        Errno::IO | Errno::STALE | Errno::MFILE | Errno::NFILE => RestoreError::passing("restore.failed", message),
        _ => RestoreError::new("restore.failed", message),
    }
}

impl From<PlaceError> for RestoreError {
    fn from(error: PlaceError) -> Self {
        let make = if error.may_pass() { Self::passing } else { Self::new };
        make("restore.directory", error.to_string())
    }
}

impl From<ArchiveError> for RestoreError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Refused(_) => Self::new("restore.archive_refused", error.to_string()),
            ArchiveError::Read(error) => {
                let code = match error.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "restore.no_space",
                    std::io::ErrorKind::PermissionDenied => "restore.denied",
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => "artifact.damaged",
                    std::io::ErrorKind::Interrupted => return Self::cancelled(),
                    _ => "restore.failed",
                };
                Self::new(code, format!("cannot restore the files: {error}"))
            }
        }
    }
}
