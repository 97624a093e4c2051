//! What can be done about a failure, by the stable code under which it is known.

/// A sentence with the remedy. `code` is a job's, such as `storage.full`.
pub fn remedy(code: &str) -> &'static str {
    match code {
        "storage.full" => "Free space in the storage, or let retention keep less; then take another backup.",
        "storage.denied" => {
            "Check that the storage's key may still write, read and delete there: `holdfast storage test NAME`."
        }
        "storage.unknown" => "Configure the storage again, or take it out of the project's storages.",
        "key.unavailable" => "Run `holdfast doctor`: a key that this needs is not where it was.",
        "backup.damaged" | "backup.no_copy" => {
            "No copy of this backup is good: take another one now, and use an older one until then."
        }
        "backup.deleted" => "The backup was deleted meanwhile: use another one.",
        "backup.timed_out" | "restore.timeout" => {
            "It took longer than the limit: raise backup.timeout_seconds or restore.timeout_seconds, or find out what slows it down."
        }
        "backup.too_large" => "The backup grew beyond backup.max_size: raise it, or exclude tables' data.",
        "control_plane.unavailable" => "The control plane was out of reach: check its database, then ask again.",
        "worker.lost" | "worker.panic" => {
            "The worker ended or failed without a word: look at its log, and whether it ran out of memory."
        }
        "project.schema" => {
            "The project's schema is not in the database: check the project's settings, or set it inactive."
        }
        _ if code.starts_with("storage.") => {
            "Check the storage: `holdfast storage test NAME`; then take another backup."
        }
        _ if code.starts_with("source.") || code.starts_with("pg_dump.") => {
            "Check that the tenant's database answers and what the dump role may read: `holdfast doctor`; then take another backup."
        }
        _ if code.starts_with("restore.") => {
            "The target is as it was before, or is put right by the next attempt. Look at the job's log."
        }
        _ => {
            "Look at the job's log with `holdfast job logs ID`; `holdfast doctor` checks what backups and restores need."
        }
    }
}
