//! The history of every backup: what was taken, where its copies are, what happened to it, and the restores made from it.

mod backups;
mod copies;
mod events;
mod notices;
mod restores;
mod stats;

pub use self::{
    backups::{
        Backup, BackupFilter, BackupStatus, Completed, NewBackup, close, complete, create, get, ids_between, list,
        start, verified,
    },
    copies::{Copy, CopyStatus, copies, has_good_copy_in, mark_copy, put_copy},
    events::{Event, LogLine, PastEvent, events, job_log, job_log_lines, record},
    notices::{NewNotice, add_notice},
    restores::{
        RestoreRow, RestoreState, finish_restore, insert_restore, restore_of_job, rolled_back, running_restores,
        set_kept, set_restore_state, untidy_restores,
    },
    stats::{Stats, stats},
};

/// Why the history could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("there is no backup {0}")]
    NoSuchBackup(String),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}
