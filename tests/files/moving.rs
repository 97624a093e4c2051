//! Files that change, shrink, grow and vanish while they are read: the archive stays whole, and says which.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use holdfast::{
    manifest::{Content, FilesContent},
    source::{
        Source,
        files::{Files, Origin, member::Stamps, read},
    },
};

use super::scene::write;

/// Larger than everything that is read ahead.
const LARGE: usize = 16 << 20;

/// Archives a directory; `meanwhile` runs when the first file is being read.
async fn archive(directory: &Path, meanwhile: impl FnOnce() + Send + 'static) -> (Vec<u8>, FilesContent) {
    let origin = Origin::Directory { directory: directory.to_owned(), roots: Vec::new() };
    let mut source = Box::new(Files::new(origin, std::env::temp_dir()));
    let mut reader = source.start().await.unwrap();
    let bytes = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 4096];
        reader.read_exact(&mut bytes).unwrap();
        meanwhile();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let bytes = bytes.await.unwrap();
    let Content::Files(content) = source.finish().await.unwrap().holds else { panic!("files hold files") };
    let checked = read::check(&bytes[..], Stamps::Kept, content.total_bytes, || false).unwrap();
    assert_eq!(checked.tree, content.tree_sha256);
    (bytes, content)
}

#[tokio::test]
async fn a_file_that_shrinks_is_filled_up_and_named() {
    let place = tempfile::tempdir().unwrap();
    let large = place.path().join("a");
    write(&large, vec![1; LARGE]);
    write(&place.path().join("b"), "after it");
    let (bytes, content) =
        archive(place.path(), move || File::options().write(true).open(large).unwrap().set_len(8192).unwrap()).await;
    assert_eq!(content.changed_while_read.first, ["a"]);
    assert_eq!((content.file_count, content.total_bytes), (2, LARGE as u64 + 8));
    assert!(bytes.len() > LARGE);
    assert!(content.remark().unwrap().contains("1 changed while being read (a)"));
}

#[tokio::test]
async fn a_file_that_grows_or_is_written_to_is_cut_and_named() {
    let place = tempfile::tempdir().unwrap();
    let large = place.path().join("a");
    write(&large, vec![1; LARGE]);
    let (_, content) = archive(place.path(), move || {
        File::options().write(true).open(large).unwrap().set_len(2 * LARGE as u64).unwrap();
    })
    .await;
    assert_eq!((content.changed_while_read.first, content.total_bytes), (vec!["a".to_owned()], LARGE as u64));
}

#[tokio::test]
async fn what_vanishes_or_becomes_something_else_is_named_and_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().to_owned();
    write(&root.join("a"), vec![1; LARGE]);
    for name in ["file", "directory/inside", "to a link/inside", "to a file/inside", "later/z"] {
        write(&root.join(name), "x");
    }
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("inside"), "a secret of somebody else");
    let secret = outside.path().to_owned();
    let (bytes, content) = archive(&root.clone(), move || {
        fs::remove_file(root.join("file")).unwrap();
        fs::remove_dir_all(root.join("directory")).unwrap();
        fs::remove_dir_all(root.join("to a link")).unwrap();
        std::os::unix::fs::symlink(&secret, root.join("to a link")).unwrap();
        fs::remove_dir_all(root.join("to a file")).unwrap();
        fs::write(root.join("to a file"), "x").unwrap();
    })
    .await;
    assert_eq!(content.vanished.first, ["directory", "file", "to a file", "to a link"]);
    assert_eq!((content.file_count, content.directories), (2, 2), "a and later/z");
    assert!(!bytes.windows(8).any(|window| window == b"a secret"));
}

#[tokio::test]
async fn an_archive_that_nobody_reads_ends_with_its_run() {
    let place = tempfile::tempdir().unwrap();
    write(&place.path().join("a"), vec![1; LARGE]);
    let origin = Origin::Directory { directory: place.path().to_owned(), roots: Vec::new() };
    let mut source = Box::new(Files::new(origin.clone(), std::env::temp_dir()));
    let mut reader = source.start().await.unwrap();
    source.abort().await;
    let read = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()).unwrap()).await.unwrap();
    assert!(read < LARGE, "the reader ends early");
    // And without its reader it says that it did not succeed.
    let mut source = Box::new(Files::new(origin, std::env::temp_dir()));
    drop(source.start().await.unwrap());
    assert!(source.finish().await.unwrap_err().may_pass);
}

#[tokio::test]
async fn a_huge_hole_holds_nobody_after_the_run_was_ended() {
    let place = tempfile::tempdir().unwrap();
    File::create(place.path().join("a")).unwrap().set_len(8 << 40).unwrap();
    let origin = Origin::Directory { directory: place.path().to_owned(), roots: Vec::new() };
    let mut source = Box::new(Files::new(origin, std::env::temp_dir()));
    let mut reader = source.start().await.unwrap();
    let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()).unwrap());
    source.abort().await;
    let read = tokio::time::timeout(std::time::Duration::from_secs(60), reading).await;
    assert!(read.expect("the thread ends").unwrap() < LARGE);
}

#[tokio::test]
async fn a_directory_that_is_replaced_while_it_is_read_is_no_backup() {
    let above = tempfile::tempdir().unwrap();
    let (place, away) = (above.path().join("files"), above.path().join("away"));
    write(&place.join("a"), vec![1; LARGE]);
    let origin = Origin::Directory { directory: place.clone(), roots: Vec::new() };
    let mut source = Box::new(Files::new(origin, std::env::temp_dir()));
    let mut reader = source.start().await.unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        reader.read_exact(&mut [0; 4096]).unwrap();
        fs::rename(&place, away).unwrap();
        fs::create_dir(&place).unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap()
    });
    reading.await.unwrap();
    let error = source.finish().await.unwrap_err();
    assert!(error.may_pass && error.message.contains("replaced while it was read"), "{}", error.message);
}
