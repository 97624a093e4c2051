//! The user who runs the embedded server when we are root, and files in what belongs to that user: a link there may lead anywhere.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
};

use rustix::fs::OFlags;

use super::{EmbeddedError, file};

#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Reads a file of the server's as text, unless it is a link. What is not UTF-8 is replaced.
pub(super) fn read_unlinked(path: &Path) -> io::Result<String> {
    // Nor is a pipe waited for that nobody writes to.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut bytes = Vec::new();
    // The flags are small and positive: the cast only changes the type.
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file that only we can read, whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    write_owned(path, text, None)
}

/// Writes a file that only its owner can read, whole or not at all. The open file is given away, before it has its name: whoever
/// owns the directory can put another thing under a name, but not into an open file.
pub(super) fn write_owned(path: &Path, text: &str, owner: Option<&User>) -> Result<(), EmbeddedError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let _ = std::fs::remove_file(&temporary);
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        new.write_all(text.as_bytes())?;
        if let Some(user) = owner {
            fchown(&new, Some(user.uid), Some(user.gid))?;
        }
        new.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(file("write", path))
}

/// The user that runs PostgreSQL when we are root. `/etc/passwd` alone is asked: distributions keep both there.
pub(super) fn unprivileged_user() -> Result<User, EmbeddedError> {
    let path = Path::new("/etc/passwd");
    let users = std::fs::read_to_string(path).map_err(file("read", path))?;
    let find = |name| find_user(&users, name);
    find("postgres").or_else(|| find("nobody")).ok_or(EmbeddedError::NoUnprivilegedUser)
}

/// `name:password:uid:gid:…`, passwd(5).
fn find_user(users: &str, wanted: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| *name == wanted)?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then_some(User { name, uid, gid })
    })
}

/// The user must be able to pass through every directory above the cluster.
pub(super) fn check_traversable(data_dir: &Path, user: &User) -> Result<(), EmbeddedError> {
    for directory in data_dir.ancestors() {
        let data = directory.metadata().map_err(file("look at", directory))?;
        let search = match data {
            ref d if d.uid() == user.uid => 0o100,
            ref d if d.gid() == user.gid => 0o010,
            _ => 0o001,
        };
        if data.permissions().mode() & search == 0 {
            return Err(EmbeddedError::NotTraversable { user: user.name.clone(), directory: directory.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_is_never_root() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8:::\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n\
                     broken:x:y\ntoor:x:0:0:::\n";
        let user = find_user(users, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(find_user(users, "toor").is_none());
        assert!(find_user(users, "broken").is_none());
        assert!(find_user(users, "nobody").is_none());
    }
}
