//! The kinds of jobs. A file of its own, because the migrations check a platform's constraints against it.

crate::artifact::words! {
    /// The jobs that workers of this version know. Rows of other types are left to whoever put them there.
    JobType, "job type" {
        ExportBackup = "export_backup",
        /// A backup of a project's rows of `project_logs`.
        ExportLogs = "export_logs",
        /// A backup of a project's files.
        ExportStorage = "export_storage",
        RestoreBackup = "restore_backup",
        UndoRestore = "undo_restore",
        VerifyBackup = "verify_backup",
        /// Tidies up after a restore: drops what it replaced after the undo window, puts right what was lost half-way.
        DropReplaced = "drop_replaced",
        /// Makes the copies of a backup that are missing or damaged from one that is good. Touches no tenant, and may take hours.
        RepairCopies = "repair_copies",
        /// Deletes a backup: every copy in every storage, confirmed.
        DeleteBackup = "delete_backup",
        /// Takes an artifact with its manifest back into the history, after every byte was compared.
        ImportBackup = "import_backup",
        /// Restores a dump of anybody's into a database that is made for it, and says what came out.
        TryImport = "try_import",
    }
}

impl JobType {
    /// Whether it takes a backup: from a source into the storages.
    pub const fn takes_backup(self) -> bool {
        matches!(self, Self::ExportBackup | Self::ExportLogs | Self::ExportStorage)
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
