//! Archives that Holdfast would not have written: refused, with the live directory and everything around it untouched.

use std::{fs, path::Path};

use holdfast::{
    ids::RestoreId,
    manifest::{FilesContent, FilesKind, NamedFiles},
    restore::files::{self, Extraction, FilesPlan, FilesRecovery},
    source::files::{
        beneath::Place,
        member::{Kind, Member, Meta, Stamps},
        read,
        tar::{Header, Type},
        write::{ArchiveWriter, Content},
    },
};
use tokio_util::sync::CancellationToken;

use super::scene::{assert_same, look, write};

fn header(kind: Type, name: &[u8]) -> Header {
    Header {
        kind,
        name: name.to_vec(),
        link: Vec::new(),
        mode: 0o700,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 0,
        mtime_nanoseconds: 0,
        sparse_size: None,
    }
}

fn link(name: &[u8], target: &[u8]) -> Vec<u8> {
    Header { link: target.to_vec(), ..header(Type::Symlink, name) }.encode()
}

fn directory(name: &[u8]) -> Vec<u8> {
    header(Type::Directory, name).encode()
}

fn file(name: &[u8]) -> Vec<u8> {
    let mut bytes = Header { size: 5, ..header(Type::File, name) }.encode();
    bytes.extend(b"owned");
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The same member with another type.
fn as_type(mut bytes: Vec<u8>, flag: u8) -> Vec<u8> {
    bytes[156] = flag;
    bytes[148..156].fill(b' ');
    let sum: u64 = bytes[..512].iter().map(|byte| u64::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn told() -> FilesContent {
    let none = NamedFiles::default;
    FilesContent {
        kind: FilesKind::Directory,
        directories: 1,
        file_count: 1,
        link_count: 0,
        total_bytes: 5,
        data_bytes: 5,
        tree_sha256: holdfast::artifact::Sha256Digest::of(b""),
        changed_while_read: none(),
        vanished: none(),
        left_out: none(),
        hard_linked: none(),
    }
}

fn extract(live: &Path, archive: &[u8]) -> Result<Vec<String>, holdfast::restore::RestoreError> {
    let place = Place::find(live, &[]).unwrap();
    let plan = FilesPlan::directory(RestoreId::generate(), &place).unwrap();
    let (content, cancel) = (told(), CancellationToken::new());
    let how = Extraction { content: &content, cancel: &cancel, progress: &|_| {} };
    let result = files::extract(&place, &plan, archive, &how);
    assert_eq!(files::recover(&place, &plan).unwrap(), FilesRecovery::RolledBack);
    result
}

#[test]
fn hostile_archives_are_refused_and_nothing_is_touched() {
    let root = || directory(b"./");
    let end = vec![0; 1024];
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("an absolute name", vec![root(), file(b"/tmp/holdfast-hostile")]),
        ("a name that goes up", vec![root(), file(b"../outside")]),
        ("a name that goes up inside", vec![root(), directory(b"a/"), file(b"a/../../outside")]),
        ("a name with a dot", vec![root(), file(b"./a")]),
        ("an empty component", vec![root(), directory(b"a/"), file(b"a//b")]),
        ("a link and a file through it", vec![root(), link(b"a", b"../outside"), file(b"a/b")]),
        ("a link and a directory through it", vec![root(), link(b"a", b".."), directory(b"a/outside/")]),
        ("a link to write through", vec![root(), link(b"a", b"../outside/victim"), file(b"a")]),
        ("a directory and a link of one name", vec![root(), link(b"a", b".."), directory(b"a/"), file(b"a/outside2")]),
        ("a name that comes twice", vec![root(), file(b"a"), file(b"a")]),
        ("names out of order", vec![root(), file(b"b"), file(b"a")]),
        ("a file without its directory", vec![root(), file(b"a/b")]),
        ("no root", vec![file(b"a")]),
        ("a hard link", vec![root(), as_type(link(b"a", b"/etc/passwd"), b'1')]),
        ("a character device", vec![root(), as_type(file(b"a"), b'3')]),
        ("a block device", vec![root(), as_type(file(b"a"), b'4')]),
        ("a pipe", vec![root(), as_type(directory(b"a"), b'6')]),
        ("a GNU long name", vec![root(), as_type(file(b"a"), b'L')]),
        ("a global header", vec![root(), as_type(file(b"a"), b'g')]),
        ("a directory with content", vec![root(), Header { size: 5, ..header(Type::Directory, b"a/") }.encode()]),
        ("a directory that is called a file", vec![root(), directory(b"a")]),
        ("a link to nothing", vec![root(), link(b"a", b"")]),
        ("more bytes than were recorded", vec![root(), Header { size: 1 << 50, ..header(Type::File, b"a") }.encode()]),
        (
            "a hole larger than was recorded",
            vec![root(), Header { size: 512, sparse_size: Some(u64::MAX), ..header(Type::File, b"a") }.encode()],
        ),
        ("a name of 256 bytes", vec![root(), file(&[b'n'; 256])]),
        ("a NUL in a name", vec![root(), file(b"a\xff\0b")]),
        (
            "permissions that do not exist",
            vec![root(), Header { mode: 0o100_777, ..header(Type::File, b"a") }.encode()],
        ),
        ("our own list", vec![root(), directory(b".holdfast.sha256/")]),
        ("no list of files", vec![root(), file(b"a"), end.clone()]),
        ("a list of other files", vec![root(), file(b"a"), file(b".holdfast.sha256"), end.clone()]),
        ("nothing", vec![]),
        ("cut short", vec![root(), file(b"a")[..700].to_vec()]),
        ("no tar at all", vec![vec![b'x'; 4096]]),
    ];
    let above = tempfile::tempdir().unwrap();
    let live = above.path().join("live");
    write(&live.join("kept"), "x");
    write(&above.path().join("outside/victim"), "x");
    let before = look(above.path());
    for (what, members) in cases {
        let error = extract(&live, &members.concat()).expect_err(what);
        assert!(matches!(error.code, "restore.archive_refused" | "artifact.damaged"), "{what}: {error}");
        let mut after = look(above.path());
        // What was staged came and went.
        after.get_mut(&b""[..]).unwrap().modified = before[&b""[..]].modified;
        assert_same(&before, &after);
    }
    assert!(!Path::new("/tmp/holdfast-hostile").exists());
}

struct Bytes(&'static [u8]);

impl Content for Bytes {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.0[(offset as usize).min(self.0.len())..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }
}

/// A good archive with one file of five bytes.
fn good() -> (Vec<u8>, holdfast::artifact::Sha256Digest) {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, modified: (7, 7) };
    let mut bytes = Vec::new();
    let mut archive = ArchiveWriter::new(&mut bytes, Stamps::Kept, tempfile::tempfile().unwrap());
    archive.add(&Member { path: Vec::new(), meta, kind: Kind::Directory }).unwrap();
    let pieces = vec![holdfast::source::files::tar::Piece { offset: 0, bytes: 5 }];
    let member = Member { path: b"a".to_vec(), meta, kind: Kind::File { size: 5, pieces } };
    archive.add_file(&member, &mut Bytes(b"owned")).unwrap();
    let tree = archive.finish().unwrap().tree;
    (bytes, tree)
}

#[test]
fn a_good_archive_is_read_and_no_byte_of_it_can_change_unnoticed() {
    let (bytes, tree) = good();
    assert_eq!(read::check(&bytes[..], Stamps::Kept, 5, || false).unwrap().tree, tree);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let noticed = read::check(&changed[..], Stamps::Kept, 5, || false).map_or(true, |checked| checked.tree != tree);
        // Names of owners and devices are not used; the owner itself is not part of the proof.
        let counts = !matches!(at % 512, 108..124 | 148..156);
        assert!(noticed || !counts, "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(read::check(&bytes[..length], Stamps::Kept, 5, || false).is_err(), "{length} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(read::check(&longer[..], Stamps::Kept, 5, || false).is_err());
}

#[test]
fn an_archive_that_is_not_the_manifests_is_refused_after_all_was_extracted() {
    let above = tempfile::tempdir().unwrap();
    let live = above.path().join("live");
    fs::create_dir(&live).unwrap();
    let error = extract(&live, &good().0).unwrap_err();
    assert_eq!(error.code, "restore.archive_refused");
    assert!(error.message.contains("manifest"), "{error}");
    assert_eq!(fs::read_dir(above.path()).unwrap().count(), 1);
}
