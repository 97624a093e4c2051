//! What a dump of unknown origin is: encrypted or not, how it is compressed, in which of `pg_dump`'s formats; and how many bytes it unpacks to.

use std::io::{self, Read};

use super::super::context::JobError;
use crate::{
    artifact::{Compression, Encoding, Encryption, Fingerprint, Format},
    pipeline::Spooled,
    transform::{DecodeError, Fingerprinter, Identities, decode},
};

/// Where a tar archive says that it is one, in its first header. Source: POSIX.1, pax, "ustar Interchange Format".
const USTAR_AT: usize = 257;

/// As much as all signs need.
const HEAD: usize = 8192;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dump {
    pub encoding: Encoding,
    pub format: Format,
    pub content: Fingerprint,
}

/// Looks by the first bytes of each layer, then reads all of it once. Blocks.
///
/// # Errors
/// `import.format` when it is no dump; the key is not at hand; the bytes are not whole.
pub(super) fn look(spooled: &Spooled, identities: &Identities) -> Result<Dump, JobError> {
    let mut encoding = Encoding { format: None, compression: Compression::None, encryption: Encryption::None };
    let layer = |encoding: &Encoding| decode(encoding, identities, Box::new(spooled.reader())).map_err(undecoded);
    let head = |encoding: &Encoding| head(layer(encoding)?).map_err(|error| undecoded(error.into()));
    if head(&encoding)?.starts_with(b"age-encryption.org/v1\n") {
        encoding.encryption = Encryption::Age;
    }
    encoding.compression = compression(&head(&encoding)?);
    let format = format(&head(&encoding)?)?;
    encoding.format = Some(format);
    let content = fingerprint(layer(&encoding)?).map_err(|error| undecoded(error.into()))?;
    Ok(Dump { encoding, format, content })
}

fn undecoded(error: DecodeError) -> JobError {
    JobError::fail(error.code(), error)
}

fn head(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Sources: RFC 1952, section 2.3.1; RFC 8878, section 3.1.1.
fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// `PGDMP` is what `pg_dump -Fc` begins with. Source: src/bin/pg_dump/pg_backup_archiver.c, `WriteHead`.
fn format(head: &[u8]) -> Result<Format, JobError> {
    if head.starts_with(b"PGDMP") {
        return Ok(Format::Custom);
    }
    if head.get(USTAR_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        return Ok(Format::Tar);
    }
    if head.is_empty() || head.contains(&0) {
        let message = "it is no dump: neither SQL text nor an archive of pg_dump, as it is or behind gzip, zstd or age";
        return Err(JobError::fail("import.format", message));
    }
    Ok(Format::Sql)
}

fn fingerprint(mut reader: impl Read) -> io::Result<Fingerprint> {
    let (mut seen, mut buffer) = (Fingerprinter::default(), vec![0; 256 << 10]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(seen.finish()),
            Ok(length) => seen.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_known_by_its_first_bytes() {
        let mut tar = vec![b'x'; 600];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, expected) in [
            (&b"PGDMP\x01\x0e"[..], Some(Format::Custom)),
            (&tar, Some(Format::Tar)),
            (b"--\n-- PostgreSQL database dump\n", Some(Format::Sql)),
            (b"", None),
            (b"\x7fELF\0\0", None),
        ] {
            assert_eq!(format(bytes).ok(), expected, "{bytes:?}");
        }
        assert_eq!(compression(&[0x1f, 0x8b, 8]), Compression::Gzip);
        assert_eq!(compression(&[0x28, 0xb5, 0x2f, 0xfd]), Compression::Zstd);
        assert_eq!(compression(b"--"), Compression::None);
    }
}
