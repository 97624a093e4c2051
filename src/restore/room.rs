//! Whether the target's disk has room for what is restored beside what is there. Known only where the server runs on this machine and tells
//! its directory; elsewhere nothing is refused, and a full disk ends the load, which changes nothing.

use std::path::{Path, PathBuf};

use super::{RestoreError, Session};
use crate::byte_size::ByteSize;

impl Session {
    /// Refuses a restore for which the target's disk is too small. `dump_bytes` is the dump's size: about what its rows take, without
    /// their indexes.
    ///
    /// # Errors
    /// `restore.no_space`, or the database cannot be reached.
    pub async fn require_room(&mut self, dump_bytes: u64) -> Result<(), RestoreError> {
        let host = self.admin.host.as_str();
        let is_near = host.starts_with('/') || ["localhost", "127.0.0.1", "::1"].contains(&host);
        // Shown to superusers and pg_read_all_settings only. Source: postgresql.org/docs/current/view-pg-settings.html.
        let told: Option<String> =
            sqlx::query_scalar("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'")
                .fetch_optional(&mut self.c)
                .await?
                .flatten();
        let Some(directory) = told.map(PathBuf::from).filter(|directory| is_near && is_of(directory, self.admin.port))
        else {
            return Ok(());
        };
        // What cannot be asked is not known.
        let Ok(disk) = rustix::fs::statvfs(&directory) else { return Ok(()) };
        refuse(disk.f_bavail.saturating_mul(disk.f_frsize), dump_bytes, self.keep_free, &directory)
    }
}

/// Whether the server that listens on this port works in this directory: behind a loopback address can be a tunnel.
/// Source: `LOCK_FILE_LINE_PORT`, src/include/utils/pidfile.h: the fourth line.
fn is_of(directory: &Path, port: u16) -> bool {
    let written = std::fs::read_to_string(directory.join("postmaster.pid")).unwrap_or_default();
    written.lines().nth(3).is_some_and(|line| line.trim() == port.to_string())
}

fn refuse(free: u64, dump_bytes: u64, keep_free: u64, directory: &Path) -> Result<(), RestoreError> {
    let needed = dump_bytes.saturating_add(keep_free);
    if free >= needed {
        return Ok(());
    }
    Err(RestoreError::new(
        "restore.no_space",
        format!(
            "the database's disk ({}) has {} free, and the restore needs {}, {} of which stay free (restore.keep_free)",
            directory.display(),
            ByteSize(free),
            ByteSize(needed),
            ByteSize(keep_free)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_stay_free_is_counted() {
        let here = Path::new("/srv/db");
        assert!(refuse(100, 60, 40, here).is_ok());
        let error = refuse(100, 61, 40, here).unwrap_err();
        assert_eq!(error.code, "restore.no_space");
        assert!(error.message.contains("/srv/db") && !error.may_pass, "{error}");
        assert!(refuse(u64::MAX - 1, u64::MAX, u64::MAX, here).is_err());
    }
}
