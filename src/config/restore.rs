super::section! {
    /// How restores are done.
    RestoreConfig, "restore" {
        /// Hours for which the replaced schema is kept, so that the restore can be undone. Default: 24.
        undo_hours: u32 = 24;
        /// Longest time a restore may take, in seconds. Default: 14400 (4 hours).
        timeout_seconds: u64 = 4 * 60 * 60;
        /// Restore even with client tools older than 15.20, 16.16, 17.12 or 18.7, which can be made to run code from a crafted
        /// archive (CVE-2026-116314). Default: `false`.
        allow_vulnerable_clients: bool = false;
    }
}
