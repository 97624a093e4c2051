use crate::byte_size::ByteSize;

super::section! {
    /// Trial restores by the clock: the oldest backup of each project in turn that no trial has proved yet is restored into a scratch
    /// database, compared with its proof, timed, and dropped again.
    TrialsConfig, "trials" {
        /// Minutes that trials may take together within 24 hours; when they are used up, none is begun. 0: none by the clock. Default: 60.
        budget_minutes: u32 = 60;
        /// Largest dump, in bytes of its content, that is tried by the clock. Default: 10 GiB.
        max_size: ByteSize = ByteSize::gib(10);
        /// The name of the database, as `holdfast database list` has it, beside which scratch databases are made: another server than the
        /// tenants', which needs their roles and extensions. `holdfast-control-plane`: beside Holdfast's own tables, in the embedded PostgreSQL
        /// where that is used. Empty: beside the project's own. Default: empty.
        database: String = String::new();
    }
}
