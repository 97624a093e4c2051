//! The history of every backup: what was taken, where its copies are, what happened to it, and the restores made from it.

mod adopted;
mod backups;
mod copies;
mod deletions;
mod events;
mod ledger;
mod notices;
mod outbox;
mod recorded;
mod restores;
mod spare_ledger;
mod stats;

pub use self::{
    adopted::{FoundCopy, Holding, Recorded, add_copy, adopt, fill_in, holdings, recorded},
    backups::{
        Backup, BackupFilter, BackupStatus, Completed, NewBackup, close, complete, create, get, ids_between, list,
        set_s3_address, start, verified,
    },
    copies::{
        Copy, CopyStatus, Standing, WantingCopy, await_copy, copies, copy_failed, has_good_copy_in, hold_stored,
        judge_copy, mark_copy, put_copy, require_copies, settle_copies, wanting_copies,
    },
    deletions::{
        DoomedCopy, Held, StuckDeletion, bury, copy_deleted, copy_not_deleted, deletion_stuck, doomed_copies, hold,
        is_buried, set_status, stuck_deletions,
    },
    events::{Event, LogLine, PastEvent, PeopleEvent, events, job_log, job_log_lines, record, record_people},
    ledger::PgLedger,
    notices::{NewNotice, add_notice},
    outbox::{Flushed, Outbox, OutboxEntry, OutboxError, Waiting},
    recorded::{
        DatabaseRecord, FailedFile, ForeignFile, NOT_CHECKED, RecordError, StoredFile, record_failed, record_foreign,
        record_stored, require_project,
    },
    restores::{
        RestoreRow, RestoreState, finish_restore, insert_restore, restore_of_job, rolled_back, running_restores,
        set_kept, set_restore_state, untidy_restores,
    },
    spare_ledger::SpareLedger,
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
