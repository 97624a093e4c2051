//! Trees, and what is seen of them without the code under test.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Permissions},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use holdfast::{
    artifact::{BackupType, Compression},
    catalog::{DirectorySource, FileSource},
    config::Config,
    history::Backup,
    jobs::{
        queue::Job,
        request::{self, ExportStorage},
    },
    manifest::FilesContent,
};
use sha2::{Digest as _, Sha256};

use super::support::app::{TestApp, caller, everything};

/// What is seen of one name: kind, permissions, time, and content or target.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: char,
    pub mode: u32,
    pub modified: (i64, i64),
    pub size: u64,
    pub content: Vec<u8>,
}

/// Everything below a directory, itself first.
pub fn look(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let (kind, size, content) = if data.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            ('d', 0, Vec::new())
        } else if data.is_symlink() {
            ('l', 0, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if data.is_file() {
            let mut hasher = Sha256::new();
            std::io::copy(&mut File::open(&path).unwrap(), &mut Hashing(&mut hasher)).unwrap();
            ('f', data.len(), hasher.finalize().to_vec())
        } else {
            ('?', 0, Vec::new())
        };
        let mode = if kind == 'l' { 0 } else { data.mode() & 0o7777 };
        let seen = Seen { kind, mode, modified: (data.mtime(), data.mtime_nsec()), size, content };
        found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), seen);
    }
    found
}

struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Compares two looks, and names what differs.
pub fn assert_same(before: &BTreeMap<Vec<u8>, Seen>, after: &BTreeMap<Vec<u8>, Seen>) {
    for (name, seen) in before {
        assert_eq!(after.get(name), Some(seen), "{}", name.escape_ascii());
    }
    for name in after.keys() {
        assert!(before.contains_key(name), "{} was not there", name.escape_ascii());
    }
}

pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanoseconds: u32) {
    let since = Duration::new(seconds.unsigned_abs(), nanoseconds);
    let time = if seconds < 0 { SystemTime::UNIX_EPOCH - since } else { SystemTime::UNIX_EPOCH + since };
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// A tree with everything that file systems allow and archives stumble over. What is no file (a socket, a pipe) is in it too.
pub fn awkward(root: &Path) {
    fs::create_dir_all(root).unwrap();
    for (name, content) in [
        (&b"plain.txt"[..], &b"plain"[..]),
        (b"new\nline", b"a line break in its name"),
        (b"back\\slash", b"x"),
        (b"return\r", b"x"),
        (b"tab\tand \x1b[31m colour", b"x"),
        (b" leading and trailing ", b"x"),
        (b"-rf", b"looks like an option"),
        (b"not UTF-8 \xff\xfe", b"bytes"),
        ("Straße & Überfluss 東京".as_bytes(), b"text"),
        (b"empty", b""),
        (b"exactly a block", &[7; 512]),
        (b"a block and a byte", &[7; 513]),
        // Sorts between a directory and what is in it, unless directories are named with their slash.
        (b"sub-", b"before sub/"),
        (b"sub.txt", b"before sub/"),
        (b"sub/in", b"inside"),
        (b"sub0", b"after sub/"),
    ] {
        write(&root.join(OsStr::from_bytes(name)), content);
    }
    write(&root.join("n".repeat(255)), "a name of 255 bytes");
    write(&root.join("n".repeat(101)), "a name of 101 bytes");
    // Deeper than PATH_MAX: made step by step, as no call takes the whole path.
    let mut deep = root.join("deep");
    for _ in 0..14 {
        deep.push("d".repeat(250));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();
    fs::create_dir_all(root.join("nested").join(vec!["x"; 100].join("/"))).unwrap();
    fs::create_dir(root.join("empty directory")).unwrap();
    // 10,000 files.
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for at in 0..10_000 {
        fs::write(many.join(format!("file {at}")), format!("{at}")).unwrap();
    }
    // Links: kept, never followed.
    for (name, target) in [
        ("to a file", "plain.txt"),
        ("to a directory", "sub"),
        ("to itself", "to itself"),
        ("one of a pair", "other of a pair"),
        ("other of a pair", "one of a pair"),
        ("up", "../../../../../../.."),
        ("passwd", "/etc/passwd"),
        ("root", "/"),
        ("nowhere", "no such file"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    symlink("t".repeat(4000), root.join("a long target")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\n"), root.join("an odd target")).unwrap();
    fs::hard_link(root.join("plain.txt"), root.join("plain's other name")).unwrap();
    // Permissions and times.
    for (name, mode) in [("0", 0o400), ("1", 0o777), ("2", 0o001), ("3", 0o640)] {
        let path = root.join(format!("mode {name}"));
        write(&path, name);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    for (name, seconds, nanoseconds) in
        [("then", 1, 0), ("fine", 1_700_000_000, 123_456_789), ("far", 5_000_000_000, 1), ("before", -86_400, 0)]
    {
        write(&root.join(name), name);
        set_time(&root.join(name), seconds, nanoseconds);
    }
    fs::create_dir(root.join("read only")).unwrap();
    write(&root.join("read only/inside"), "x");
    set_time(&root.join("read only"), 1_600_000_000, 5);
    fs::set_permissions(root.join("read only"), Permissions::from_mode(0o550)).unwrap();
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), Permissions::from_mode(0o3777)).unwrap();
    set_time(root, 1_650_000_000, 999_999_999);
}

/// Sockets, pipes, and a file that lends its owner.
pub fn no_files(root: &Path) {
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
    assert!(made.success());
    write(&root.join("setuid"), "x");
    fs::set_permissions(root.join("setuid"), Permissions::from_mode(0o4755)).unwrap();
}

/// A file of this size with three bytes in it.
pub fn sparse(path: &Path, bytes: u64) {
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    file.write_all_at(b"a", 0).unwrap();
    file.write_all_at(b"b", bytes / 3).unwrap();
    file.write_all_at(b"c", bytes / 2 + 12_345).unwrap();
}

/// A Holdfast with project `acme`, whose files are in a directory of their own.
pub struct Scene {
    pub test: TestApp,
    place: tempfile::TempDir,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Without encryption and compression, so that the stored artifact is the archive itself.
    pub async fn plain() -> Self {
        Self::with(|config| {
            config.encryption.enabled = false;
            config.backup.compression = Compression::None;
        })
        .await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let test = TestApp::with(change).await;
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("acme")).unwrap();
        test.add_schema_project("acme", "tenant_acme").await;
        let files = in_directory(&place.path().join("acme"));
        request::set_files(&test.app, &caller(), "acme", Some(&files)).await.unwrap();
        Self { test, place }
    }

    /// The live directory.
    pub fn live(&self) -> PathBuf {
        self.place.path().join("acme")
    }

    /// What lies beside the live directory.
    pub fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> =
            names.map(|name| name.into_string().unwrap()).filter(|name| name != "acme").collect();
        names.sort();
        names
    }

    pub async fn backup(&self) -> Backup {
        let job = back_up(&self.test).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        backup_of(&self.test, &job).await
    }

    pub async fn restored(&self, backup: &Backup) -> Job {
        let job = self.test.restore(backup).await;
        assert_eq!(job.status, "completed", "{:?}", job.error_message);
        assert_eq!(job.result.as_ref().unwrap()["outcome"], "verified");
        job
    }

    /// The one artifact that is stored.
    pub fn artifact(&self) -> PathBuf {
        let stored = self.test.stored_files();
        stored.into_iter().find(|path| !path.to_string_lossy().ends_with(".manifest.json")).unwrap()
    }
}

pub fn in_directory(directory: &Path) -> FileSource {
    FileSource::Directory(DirectorySource { directory: directory.to_str().unwrap().to_owned() })
}

/// Asks for a backup of acme's files and works on it to its end.
pub async fn back_up(test: &TestApp) -> Job {
    let asked = ExportStorage { project_id: "acme".to_owned(), ..ExportStorage::default() };
    let job = request::export(&test.app, &caller(), &asked, None).await.unwrap();
    test.run(job.job_id()).await
}

pub async fn backup_of(test: &TestApp, job: &Job) -> Backup {
    let id = serde_json::from_value(job.result.as_ref().unwrap()["backup_id"].clone()).unwrap();
    let backup = holdfast::history::get(&test.app.pool, &everything(), id).await.unwrap();
    assert_eq!(backup.r#type, BackupType::Storage.as_str());
    backup
}

pub fn content(backup: &Backup) -> FilesContent {
    backup.manifest().unwrap().body.files().unwrap().clone()
}
