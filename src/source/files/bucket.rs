//! What lies below a prefix in a bucket into an archive. The bucket is asked one directory at a time, so that members come in the
//! archive's order; an object is read in one content, the listed one or a
//! newer one, or is told as gone.

use std::{fs::File, io};

use bytes::{Buf as _, Bytes};
use futures::TryStreamExt as _;
use tokio::runtime::Handle;

use super::{
    PipeWriter, Remarks,
    local::unwritable,
    member::{Kind, LIST, Member, Meta, Stamps, order},
    tar::Piece,
    walk::LeftOut,
    write::{ArchiveWriter, Content, Gave},
};
use crate::{
    manifest::{FilesContent, FilesKind},
    source::SourceError,
    storage::{self, ByteStream, ErrorKind, Listed, Objects},
};

/// What objects are restored as where permissions count.
const MODE: u32 = 0o644;
/// Longest component that can be a file's name.
const LONGEST_NAME: usize = 255;

/// Something right below a prefix.
enum Entry {
    Object(Listed),
    Prefix(String),
}

/// Writes everything below `prefix`. Blocks, and waits for the bucket on `runtime`.
pub(super) fn archive(
    objects: &Objects,
    prefix: &str,
    list_of_files: File,
    out: PipeWriter,
    runtime: &Handle,
) -> Result<FilesContent, SourceError> {
    let mut archive = ArchiveWriter::new(out, Stamps::Left, list_of_files);
    let (mut remarks, root) = (Remarks::default(), format!("{prefix}/"));
    let mut pending = vec![list(objects, &root, &root, runtime)?];
    while let Some(entries) = pending.last_mut() {
        match entries.pop() {
            None => drop(pending.pop()),
            Some(Entry::Prefix(below)) => pending.push(list(objects, &below, &root, runtime)?),
            Some(Entry::Object(listed)) => one(objects, &listed, &root, &mut archive, &mut remarks, runtime)?,
        }
    }
    let written = archive.finish().map_err(|error| unwritable(&error))?;
    Ok(remarks.content(FilesKind::Prefix, &written))
}

/// What lies right below a prefix, the last of the archive's order first.
fn list(objects: &Objects, prefix: &str, root: &str, runtime: &Handle) -> Result<Vec<Entry>, SourceError> {
    let (found, prefixes) = runtime.block_on(objects.list(prefix)).map_err(of_storage)?;
    let below = |key: &str| key.strip_prefix(root).unwrap_or_default().as_bytes().to_vec();
    let mut entries: Vec<(Vec<u8>, Entry)> = found
        .into_iter()
        // The prefix itself may be an object, which marks a directory; the library has taken its slash.
        .filter(|listed| listed.key.starts_with(prefix))
        .map(|listed| (below(&listed.key), Entry::Object(listed)))
        .chain(prefixes.into_iter().map(|prefix| (below(&prefix), Entry::Prefix(prefix))))
        .collect();
    entries.sort_by(|(one, _), (other, _)| order(other, one));
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn one(
    objects: &Objects,
    listed: &Listed,
    root: &str,
    archive: &mut ArchiveWriter<PipeWriter>,
    remarks: &mut Remarks,
    runtime: &Handle,
) -> Result<(), SourceError> {
    let Some(path) = listed.key.strip_prefix(root) else { return Ok(()) };
    let is_name = |component: &str| {
        !matches!(component, "" | "." | "..") && component.len() <= LONGEST_NAME && !component.contains('\0')
    };
    if !path.split('/').all(is_name) || path.as_bytes() == LIST {
        remarks.add(path.as_bytes(), LeftOut::NoFile);
        return Ok(());
    }
    // Its content may be a newer one than when it was listed: then that one's size and time.
    let (listed, stream) = match runtime.block_on(objects.open(listed)) {
        Ok(Some(opened)) => opened,
        Ok(None) => {
            remarks.add(path.as_bytes(), LeftOut::Vanished);
            return Ok(());
        }
        Err(error) => return Err(of_storage(error)),
    };
    let meta = Meta { mode: MODE, uid: 0, gid: 0, modified: (listed.modified.timestamp(), 0) };
    let all = (listed.bytes > 0).then_some(Piece { offset: 0, bytes: listed.bytes });
    let kind = Kind::File { size: listed.bytes, pieces: all.into_iter().collect() };
    let member = Member { path: path.as_bytes().to_vec(), meta, kind };
    let mut content = Download { stream, chunk: Bytes::new(), runtime, failed: None };
    let added = archive.add_file(&member, &mut content);
    if let Some(error) = content.failed {
        return Err(of_storage(error));
    }
    if added.map_err(|error| unwritable(&error))? == Gave::Less {
        return Err(SourceError {
            message: format!("object {:?} ended before its {} bytes", listed.key, listed.bytes),
            may_pass: true,
            code: "source.read",
        });
    }
    Ok(())
}

/// An object's bytes, in order.
struct Download<'a> {
    stream: ByteStream,
    chunk: Bytes,
    runtime: &'a Handle,
    failed: Option<storage::Error>,
}

impl Content for Download<'_> {
    fn read_at(&mut self, _offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.stream.try_next()) {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => return Ok(0),
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.failed = Some(error);
                    return Err(told);
                }
            }
        }
        let taken = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

fn of_storage(error: storage::Error) -> SourceError {
    let code = match error.kind {
        ErrorKind::Denied => "source.denied",
        ErrorKind::NotFound => "source.no_bucket",
        kind if kind.may_pass() => "source.unreachable",
        _ => "source.read",
    };
    SourceError { may_pass: error.kind.may_pass(), message: format!("{error:#}"), code }
}
