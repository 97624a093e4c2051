//! The live directory and the one beside it change names, forth and back. Each step can be found half done, and is finished or taken back by
//! what lies there.

use rustix::{fs::RenameFlags, io::Errno};

use super::{FilesPlan, FilesTarget, Identity, failed, identity};
use crate::{
    restore::RestoreError,
    source::files::beneath::{self, Place},
};

/// What [`recover`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesRecovery {
    /// The restored directory is live, and what it replaced is kept.
    Finished { restored: Identity },
    /// Everything is as it was before, and nothing is left of the attempt.
    RolledBack,
}

/// The directory that is replaced, and the one that takes its place.
fn of_plan(plan: &FilesPlan) -> Result<(Identity, Option<Identity>), RestoreError> {
    match &plan.files {
        FilesTarget::Directory { live, staged, .. } => Ok((*live, *staged)),
        FilesTarget::Prefix { .. } => Err(RestoreError::new("restore.plan", "the plan is one of a bucket")),
    }
}

/// The names of one plan at its place, and what has them.
struct Names<'a> {
    place: &'a Place,
    staged: Vec<u8>,
    kept: Vec<u8>,
    undone: Vec<u8>,
}

impl<'a> Names<'a> {
    fn of(place: &'a Place, plan: &FilesPlan) -> Self {
        let bytes = String::into_bytes;
        Self { place, staged: bytes(plan.staged()), kept: bytes(plan.kept()), undone: bytes(plan.undone()) }
    }

    fn at(&self, name: &[u8]) -> Result<Option<Identity>, RestoreError> {
        identity(self.place, name).map_err(|errno| failed(self.place, "look beside", errno))
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), RestoreError> {
        let parent = &self.place.parent;
        match rustix::fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
            // Without the flag a rename replaces an empty directory and nothing else.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rustix::fs::renameat(parent, from, parent, to),
            other => other,
        }
        .map_err(|errno| failed(self.place, "swap", errno))
    }

    /// Puts the directory called `new` in the live one's place and that one under `old`. `incoming` and `outgoing` are what they must be:
    /// whatever else is found, because somebody was quicker, goes back to its name.
    fn replace(
        &self,
        (new, incoming): (&[u8], Identity),
        (old, outgoing): (&[u8], Identity),
    ) -> Result<(), RestoreError> {
        let (parent, live) = (&self.place.parent, &self.place.name[..]);
        let exchange = || rustix::fs::renameat_with(parent, new, parent, live, RenameFlags::EXCHANGE);
        match exchange() {
            Ok(()) if self.at(live)? == Some(incoming) && self.at(new)? == Some(outgoing) => self.rename(new, old),
            Ok(()) => {
                exchange().map_err(|errno| failed(self.place, "swap back", errno))?;
                Err(self.moved())
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.in_two_steps((new, incoming), (old, outgoing)),
            Err(errno) => Err(failed(self.place, "swap", errno)),
        }
    }

    /// Between the two the name is gone, and a program that misses it may make it anew.
    fn in_two_steps(
        &self,
        (new, incoming): (&[u8], Identity),
        (old, outgoing): (&[u8], Identity),
    ) -> Result<(), RestoreError> {
        let live = &self.place.name[..];
        self.rename(live, old)?;
        if self.at(old)? != Some(outgoing) {
            self.give_back(old)?;
            return Err(self.moved());
        }
        if let Err(error) = self.rename(new, live) {
            self.give_back(old)?;
            return Err(error);
        }
        if self.at(live)? == Some(incoming) { Ok(()) } else { Err(self.moved()) }
    }

    /// Gives a directory its name back, also where an empty one has been made in its place.
    ///
    /// # Errors
    /// `restore.target_moved` where something was put into that one: both stay.
    fn give_back(&self, from: &[u8]) -> Result<(), RestoreError> {
        let parent = &self.place.parent;
        rustix::fs::renameat(parent, from, parent, &self.place.name[..]).map_err(|errno| match errno {
            Errno::EXIST | Errno::NOTEMPTY => {
                let (path, from) = (self.place.path.display(), from.escape_ascii());
                let message =
                    format!("directory {path} was made anew meanwhile: what was there before is {from} beside it");
                RestoreError::new("restore.target_moved", message)
            }
            errno => failed(self.place, "give its name back to", errno),
        })
    }

    fn moved(&self) -> RestoreError {
        let message = format!("directory {} was replaced while it was restored", self.place.path.display());
        RestoreError::new("restore.target_moved", message)
    }

    fn sync(&self) -> Result<(), RestoreError> {
        rustix::fs::fsync(&self.place.parent).map_err(|errno| failed(self.place, "make durable", errno))
    }
}

/// Makes the staged directory live. The live one is kept beside it.
///
/// # Errors
/// `restore.target_moved` when one of the two is not what the plan says: then they have the names that they had.
pub fn swap(place: &Place, plan: &FilesPlan) -> Result<Identity, RestoreError> {
    let (names, (live, recorded)) = (Names::of(place, plan), of_plan(plan)?);
    let staged = names.at(&names.staged)?;
    let staged = staged.ok_or_else(|| RestoreError::new("restore.staged", "what was restored has been removed"))?;
    if names.at(&place.name)? != Some(live) {
        return Err(names.moved());
    }
    if recorded != Some(staged) {
        return Err(RestoreError::new("restore.target_moved", "what was restored is not what was compared"));
    }
    names.replace((&names.staged, staged), (&names.kept, live))?;
    names.sync()?;
    Ok(staged)
}

/// Puts right what a lost attempt left: finishes a swap that was begun, or removes what was staged.
///
/// # Errors
/// `restore.target_moved` when what lies there is neither: nothing is removed then, and a person has to look.
pub fn recover(place: &Place, plan: &FilesPlan) -> Result<FilesRecovery, RestoreError> {
    let (names, (live, recorded)) = (Names::of(place, plan), of_plan(plan)?);
    let (now, staged, kept) = (names.at(&place.name)?, names.at(&names.staged)?, names.at(&names.kept)?);
    let recovery = if recorded.is_some() && now == recorded {
        if staged == Some(live) {
            names.rename(&names.staged, &names.kept)?;
        } else if kept != Some(live) && (kept.is_some() || staged.is_some()) {
            return Err(unknown(&names));
        }
        now.map_or(FilesRecovery::RolledBack, |restored| FilesRecovery::Finished { restored })
    } else {
        // The directory that was live gets its name back, whatever name it has; it is never removed.
        if now != Some(live) && kept == Some(live) {
            names.give_back(&names.kept)?;
        } else if now != Some(live) && staged == Some(live) {
            names.give_back(&names.staged)?;
        } else if now != Some(live) && kept.is_some() {
            return Err(unknown(&names));
        }
        let left = names.at(&names.staged)?;
        // Nothing is swapped before it is recorded: until then the name is the attempt's own.
        if left == Some(live) || (recorded.is_some() && left.is_some() && left != recorded && now != Some(live)) {
            return Err(unknown(&names));
        }
        discard(&names, left)?;
        FilesRecovery::RolledBack
    };
    names.sync()?;
    Ok(recovery)
}

fn unknown(names: &Names<'_>) -> RestoreError {
    let (path, staged, kept) = (names.place.path.display(), names.staged.escape_ascii(), names.kept.escape_ascii());
    let message = format!(
        "which directory is which beside {path} cannot be told: look at {staged} and {kept}, give the right one the \
         name, and move the others away"
    );
    RestoreError::new("restore.target_moved", message)
}

/// Removes what was staged, under another name first: whoever still writes to it can swap it no more.
fn discard(names: &Names<'_>, staged: Option<Identity>) -> Result<(), RestoreError> {
    if staged.is_some() {
        names.rename(&names.staged, &names.undone)?;
    }
    beneath::remove_tree(&names.place.parent, &names.undone)
        .map_err(|errno| failed(names.place, "remove what was restored beside", errno))
}

/// Gives the replaced directory its name back. What had been restored is kept under the plan's `undone` name. Done before: the same answer.
///
/// # Errors
/// `restore.target_moved` when the live directory is not the restored one any more, or the replaced one is gone.
pub fn undo(place: &Place, plan: &FilesPlan, restored: u64) -> Result<Identity, RestoreError> {
    let (names, (live, _)) = (Names::of(place, plan), of_plan(plan)?);
    let is_restored = |found: Option<Identity>| found.filter(|found| found.inode == restored && *found != live);
    let (now, kept, undone) = (names.at(&place.name)?, names.at(&names.kept)?, names.at(&names.undone)?);
    let done = if let (Some(restored), true) = (is_restored(now), kept == Some(live)) {
        names.replace((&names.kept, live), (&names.undone, restored))?;
        restored
    } else if let (Some(restored), true) = (is_restored(kept), now == Some(live)) {
        names.rename(&names.kept, &names.undone)?;
        restored
    } else if let (Some(restored), true) = (is_restored(undone), now == Some(live)) {
        restored
    } else if let (Some(restored), true, None) = (is_restored(undone), kept == Some(live), now) {
        names.rename(&names.kept, &place.name)?;
        restored
    } else {
        let message =
            format!("directory {} was replaced since the restore, or what was kept is gone", place.path.display());
        return Err(RestoreError::new("restore.target_moved", message));
    };
    names.sync()?;
    Ok(done)
}

/// Removes a directory that was kept, if it is the one with this inode. Gone already is success.
pub fn drop_kept(place: &Place, name: &str, inode: u64) -> Result<(), RestoreError> {
    let about = |errno| failed(place, "remove what was kept beside", errno);
    // Only names of restores are removed, whatever a row says.
    let is_ours = [".hf-before-", ".hf-undone-"].iter().any(|prefix| name.starts_with(prefix)) && !name.contains('/');
    let other = || RestoreError::new("restore.kept", format!("{name} is not the directory that was kept"));
    if !is_ours {
        return Err(other());
    }
    match identity(place, name.as_bytes()).map_err(about)? {
        Some(found) if found.inode == inode => beneath::remove_tree(&place.parent, name.as_bytes()).map_err(about),
        Some(_) => Err(other()),
        None => Ok(()),
    }
}
