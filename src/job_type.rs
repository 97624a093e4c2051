//! The kinds of jobs. A file of its own, because the migrations check a platform's constraints against it.

crate::artifact::words! {
    /// The jobs that workers of this version know. Rows of other types are left to whoever put them there.
    JobType, "job type" {
        ExportBackup = "export_backup",
        RestoreBackup = "restore_backup",
        UndoRestore = "undo_restore",
        VerifyBackup = "verify_backup",
        /// Tidies up after a restore: drops what it replaced after the undo window, puts right what was lost half-way.
        DropReplaced = "drop_replaced",
        /// Makes the copies of a backup that are missing or damaged from one that is good. Touches no tenant, and may take hours.
        RepairCopies = "repair_copies",
        /// Deletes a backup: every copy in every storage, confirmed.
        DeleteBackup = "delete_backup",
    }
}

/// The same, as text, for queries.
pub const KNOWN_TYPES: &[&str] = &{
    let mut words = [""; JobType::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = JobType::ALL[at].as_str();
        at += 1;
    }
    words
};
