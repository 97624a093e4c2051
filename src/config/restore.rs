use crate::byte_size::ByteSize;

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
        /// Load in one transaction where the server's lock table has room for all objects at once, so that whoever reads sees the old
        /// state until the restored one takes its place. `false`: the live schema is always moved away first. Default: `true`.
        one_transaction: bool = true;
        /// Bytes that a restore must leave free on the target database's disk, where that is a disk of this machine.
        /// Default: `256 MiB`.
        keep_free: ByteSize = ByteSize::mib(256);
    }
}
