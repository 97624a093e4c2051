use std::num::NonZeroU32;

use crate::{
    artifact::{Compression, Format},
    byte_size::ByteSize,
    proof_record::ProofLevel,
};

super::section! {
    /// How backups are taken, where a request or a project does not say otherwise.
    BackupConfig, "backup" {
        /// Longest time a dump may take, in seconds. Default: 1800 (30 minutes).
        timeout_seconds: u64 = 30 * 60;
        /// Longest time that one copy may take which is made from another, in seconds. One that is not whole by then begins anew later, from its
        /// first byte. Default: 604800 (a week).
        copy_timeout_seconds: u64 = 7 * 24 * 60 * 60;
        /// Largest stored artifact. Default: 10 GiB.
        max_size: ByteSize = ByteSize::gib(10);
        /// Days until a backup expires. Default: 30.
        retention_days: u32 = 30;
        /// `sql`, `tar` or `custom`. Default: `sql`.
        format: Format = Format::Sql;
        /// `gzip`, `zstd` or `none`; a `custom` dump is compressed by `pg_dump` alone. Default: `gzip`.
        compression: Compression = Compression::Gzip;
        /// zstd's level, 1 to 19. Default: 1, which on real tenants is 2.5 times cheaper than 3 and as small.
        zstd_level: i32 = 1;
        /// gzip's level, 1 to 9. Default: 6.
        gzip_level: u32 = 6;
        /// Names of the storages that take a project's backups. Default: every configured storage.
        storages: Vec<String> = Vec::new();
        /// Good copies without which a backup does not count as safe: with fewer it is completed, `copies_missing` tells how many are missing,
        /// and retention does not count it. Never more than the storages that take the backup. Default: a copy in each of them.
        required_copies: Option<NonZeroU32> = None;
        /// The project behind `/backup`: the configured database as a whole, made when an operator first asks for it. Its artifacts are called
        /// `backups/backup-{time}.{extension}`. Empty: there is none. Default: `holdfast-default`.
        default_project: String = "holdfast-default".to_owned();
        /// How much of a database is proved in the dump's snapshot, to be compared after a restore. `full`: a digest of every table's rows,
        /// which the formats `tar` and `custom` read a second time; `counts`: rows counted and definitions recorded; `off`: definitions
        /// alone. See `docs/proof.md`. Default: `full`.
        proof: ProofLevel = ProofLevel::Full;
        /// How long `pg_dump` waits for a table's lock, in seconds, before the attempt fails and is retried. Default: 60.
        lock_wait_seconds: u64 = 60;
    }
}
