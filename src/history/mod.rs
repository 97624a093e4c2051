//! The history of every backup: what was taken, where its copies are, what happened to it, and the restores made from it.

mod adopted;
mod answers;
mod audit;
mod audit_chain;
mod audit_head;
mod audit_verify;
mod backups;
mod census;
mod copies;
mod deletions;
mod endpoints;
mod events;
mod keeping;
mod ledger;
mod notices;
mod outbox;
mod overview;
mod recorded;
mod restores;
mod single;
mod spare_ledger;
mod stale;
mod stats;

pub use self::{
    adopted::{FoundCopy, Holding, Recorded, add_copy, adopt, fill_in, holdings, recorded, require_found_copies},
    answers::{
        CallStanding, KeptAnswer, KeyedCall, begin_answer, forget_call, forget_old_answers, forget_other, keep_answer,
    },
    audit::{AuditEntry, AuditFilter, audit_entries},
    audit_chain::{ChainError, ChainKey, Head, chain_head, forget_links, link},
    audit_head::{Remembering, forget_head, parse_head, remember_head, remembered_head},
    audit_verify::{Finding, Verified, Wrong, verify_chain},
    backups::{
        Backup, BackupFilter, BackupStatus, Completed, NewBackup, close, complete, create, get, ids_between, list,
        next_trial, set_s3_address, start, tried, verified,
    },
    census::{LastSuccess, Troubles, last_successes, troubles},
    copies::{
        Copy, CopyStatus, Standing, WantingCopy, await_copy, copies, copy_failed, has_good_copy_in, hold_stored,
        judge_copy, manifest_locator, mark_copy, put_copy, require_copies, settle_copies, wanting_copies,
    },
    deletions::{
        DoomedCopy, Held, StuckDeletion, bury, copy_deleted, copy_not_deleted, deletion_stuck, doomed_copies, hold,
        is_buried, set_pinned, set_status, stuck_deletions,
    },
    endpoints::without_endpoints,
    events::{
        Event, LogLine, PastEvent, PeopleEvent, events, events_after, job_log, job_log_lines, job_log_tail,
        last_events, record, record_people,
    },
    keeping::{
        Expiring, KeptBackup, announce_expiring, hold_good, is_read, kept_backups, project_settings,
        projects_with_backups, set_expiry,
    },
    ledger::PgLedger,
    notices::{
        BackupFacts, Claim, DueNotice, NewNotice, NoticeCensus, NoticeEnd, NoticeRow, NoticeStatus, add_notice,
        backup_facts, claim_notices, end_notice, forget_notices, give_up_notices, notice_asked_for, notice_census,
        notices, postpone_notices, retry_notice,
    },
    outbox::{Flushed, Outbox, OutboxEntry, OutboxError, Waiting},
    overview::{
        Day, Kept, SoonGone, StandingFilter, StandingProject, days, kept_by_storage, merge_day_totals, soon_gone,
        standing_projects,
    },
    recorded::{
        DatabaseRecord, FailedFile, ForeignFile, NOT_CHECKED, RecordError, StoredFile, record_failed, record_foreign,
        record_stored, require_project,
    },
    restores::{
        RestoreRow, RestoreState, finish_restore, insert_restore, restore_of_job, rolled_back, running_restores,
        set_kept, set_restore_plan, set_restore_state, untidy_restores,
    },
    single::{forget, id_of_newest_good, id_of_number, is_name_taken, rename},
    spare_ledger::SpareLedger,
    stale::{
        ProtectedProject, StaleProject, end_stale, newest_notify_email, protected_projects, raise_stale, stale_count,
        stale_projects,
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
