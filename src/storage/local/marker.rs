//! What tells a storage's disk from the empty directory that stays behind when the disk is unmounted: a file in the root.
//!
//! It is made when a root without one is opened, so a program that was running when the disk went notices, and one that starts without the
//! disk does not.

use std::path::Path;

use rustix::{
    fs::{AtFlags, CWD},
    io::Errno,
};

use super::beneath::{self, OnMissing};
use crate::storage::{Error, ErrorKind};

/// The file's name, which no artifact may have.
pub const MARKER: &str = ".holdfast-storage";

/// Makes the marker unless it is there; whether there is one now. A root that cannot be written to is good for reading, and goes without.
pub fn make(root: &Path) -> bool {
    let made = beneath::directory(root, std::iter::empty(), OnMissing::Fail)
        .and_then(|directory| beneath::create(&directory, MARKER).and_then(|_| rustix::fs::fsync(&directory)));
    match made {
        Ok(()) | Err(Errno::EXIST) => true,
        Err(_) if is_there(root) => true,
        Err(errno) => {
            tracing::warn!(root = %root.display(), %errno, "cannot mark a storage's directory: that its disk is gone would go unnoticed");
            false
        }
    }
}

fn is_there(root: &Path) -> bool {
    rustix::fs::statat(CWD, root.join(MARKER), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// [`ErrorKind::Unavailable`] when a root that had a marker has none, or is missing itself: then nothing is known of what is missing in it.
pub fn check(root: &Path, is_marked: bool) -> Result<(), Error> {
    let is_known = if is_marked { is_there(root) } else { root.exists() };
    if is_known {
        return Ok(());
    }
    let context = format!("{} is not the storage's directory any more", root.display());
    let missing = if is_marked { "its marker is missing" } else { "it is missing" };
    Err(Error::new(ErrorKind::Unavailable, context).with_source(missing).with_hint("Is the disk mounted?"))
}
