//! Where the chain of the audit trail ended, remembered in a file of this machine: whoever can change the database, and cuts the newest
//! entries off together with the head, does not reach it.

use std::{
    io::{self, Write},
    path::Path,
    str::FromStr,
};

use uuid::Uuid;

use super::audit_chain::{Head, hex, unhex};

/// The file below the data directory.
const FILE: &str = "audit.head";

/// `CHAIN SEQUENCE DIGEST`, as it is written into the file.
impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.chain_id, self.sequence, hex(&self.digest))
    }
}

impl FromStr for Head {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let (Some(chain), Some(sequence), Some(digest), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        Ok(Self {
            chain_id: chain.parse().map_err(|_| ())?,
            sequence: sequence.parse().ok().filter(|sequence| *sequence > 0).ok_or(())?,
            digest: unhex(digest).ok_or(())?,
        })
    }
}

/// `SEQUENCE:DIGEST`, as `holdfast audit verify` prints it, for a chain that is given.
pub fn parse_head(chain_id: Uuid, text: &str) -> Option<Head> {
    let (sequence, digest) = text.split_once(':')?;
    format!("{chain_id} {sequence} {digest}").parse().ok()
}

/// What this machine remembers. `None`: nothing yet.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn remembered_head(data_dir: &Path) -> io::Result<Option<Head>> {
    let text = match std::fs::read_to_string(data_dir.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the remembered head of the audit trail is damaged");
    text.parse().map(Some).map_err(|()| damaged())
}

/// What came of remembering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembering {
    Done,
    /// It was remembered before.
    Known,
    /// The chain is shorter than what is remembered, which stays.
    Shorter {
        remembered: i64,
    },
    /// Another chain is remembered, and stays so.
    Other {
        remembered: Uuid,
    },
}

/// Remembers a head in the place of the one before, for good: synced, then renamed.
///
/// # Errors
/// The file cannot be written, or what is there cannot be read.
pub fn remember_head(data_dir: &Path, head: &Head) -> io::Result<Remembering> {
    match remembered_head(data_dir)? {
        Some(before) if before.chain_id != head.chain_id => {
            return Ok(Remembering::Other { remembered: before.chain_id });
        }
        Some(before) if before.sequence > head.sequence => {
            return Ok(Remembering::Shorter { remembered: before.sequence });
        }
        Some(before) if before == *head => return Ok(Remembering::Known),
        Some(_) | None => {}
    }
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    writeln!(file, "{head}")?;
    file.as_file().sync_all()?;
    file.persist(data_dir.join(FILE)).map_err(|error| error.error)?;
    std::fs::File::open(data_dir)?.sync_all()?;
    Ok(Remembering::Done)
}

/// Forgets what is remembered, for a chain that begins anew.
///
/// # Errors
/// The file cannot be removed.
pub fn forget_head(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(data_dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_remembered_and_neither_goes_back_nor_changes_its_chain() {
        let directory = tempfile::tempdir().unwrap();
        let head = |sequence| Head { chain_id: Uuid::nil(), sequence, digest: [7; 32] };
        let remember = |head: &Head| remember_head(directory.path(), head).unwrap();
        assert_eq!(remembered_head(directory.path()).unwrap(), None);
        assert_eq!(remember(&head(5)), Remembering::Done);
        assert_eq!(remember(&head(5)), Remembering::Known);
        assert_eq!(remember(&head(4)), Remembering::Shorter { remembered: 5 });
        let other = Head { chain_id: Uuid::max(), ..head(9) };
        assert_eq!(remember(&other), Remembering::Other { remembered: Uuid::nil() });
        assert_eq!(remembered_head(directory.path()).unwrap(), Some(head(5)));
        assert_eq!(parse_head(Uuid::nil(), &format!("5:{}", "07".repeat(32))), Some(head(5)));
        forget_head(directory.path()).unwrap();
        assert_eq!(remember(&other), Remembering::Done);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for damaged in ["", "x", "0 1 2 3", &format!("{} 0 {}", Uuid::nil(), "07".repeat(32))] {
            std::fs::write(directory.path().join(FILE), damaged).unwrap();
            assert!(remembered_head(directory.path()).is_err(), "{damaged}");
        }
    }
}
