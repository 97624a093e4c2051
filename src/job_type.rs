//! The kinds of jobs. A file of its own, because the migrations check a platform's constraints against it.

crate::artifact::words! {
    /// The jobs that workers of this version know. Rows of other types are left to whoever put them there.
    JobType, "job type" {
        ExportBackup = "export_backup",
        RestoreBackup = "restore_backup",
        UndoRestore = "undo_restore",
        VerifyBackup = "verify_backup",
        /// Drops the schema that a restore replaced, after the undo window.
        DropReplaced = "drop_replaced",
    }
}

/// The same, as text, for queries.
pub const KNOWN_TYPES: &[&str] = &["export_backup", "restore_backup", "undo_restore", "verify_backup", "drop_replaced"];
