//! Where a restore can be interrupted: the one list that the tests of faults go through. A debug build stops at a stage when the directory
//! that `HF_FAULTS` names holds a file of the stage's name; a release build has none of this.

crate::artifact::words! {
    /// How far a restore has come when something happens to it.
    Stage, "stage" {
        /// The plan is written down; nothing of the target was touched.
        Planned = "planned",
        /// The target's lock is held.
        Opened = "opened",
        /// The role is made, and the room or the steps that will make it.
        Prepared = "prepared",
        /// `psql` is in the middle of the dump.
        Loading = "loading",
        /// Every byte was fed and was good; COMMIT was not.
        Fed = "fed",
        /// The load is committed; nobody reads what it brought.
        Loaded = "loaded",
        /// The role is shut out.
        Shut = "shut",
        /// What was loaded waits under a name of its own, with the owners that one transaction could not have given back.
        Waiting = "waiting",
        /// Owners and names are right, in a transaction that is not committed.
        Swapping = "swapping",
        /// The restored schema is live; nobody has written that down.
        Finished = "finished",
        /// It is written down that the restore stands, and the job has ended.
        Recorded = "recorded",
    }
}

/// A restore has come to this stage.
#[allow(clippy::unused_async, reason = "a release build has nothing to wait for")]
pub async fn reached(stage: Stage) {
    #[cfg(debug_assertions)]
    while faults::holds(stage) {
        tokio::time::sleep(faults::PAUSE).await;
    }
    #[cfg(not(debug_assertions))]
    let _ = stage;
}

/// The same, on a thread that may block.
pub(super) fn reached_here(stage: Stage) {
    #[cfg(debug_assertions)]
    while faults::holds(stage) {
        std::thread::sleep(faults::PAUSE);
    }
    #[cfg(not(debug_assertions))]
    let _ = stage;
}

#[cfg(debug_assertions)]
mod faults {
    use std::{fs::File, path::PathBuf, sync::LazyLock, time::Duration};

    use super::Stage;

    pub const PAUSE: Duration = Duration::from_millis(5);

    static DIRECTORY: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("HF_FAULTS").map(PathBuf::from));

    /// Tells that the stage was reached (`loading.reached`), and whether to wait there (`loading` exists).
    pub fn holds(stage: Stage) -> bool {
        let Some(directory) = &*DIRECTORY else { return false };
        let here = directory.join(stage.as_str());
        // Whether anyone is told matters to the tests alone.
        let _ = File::create(here.with_extension("reached"));
        here.exists()
    }
}
