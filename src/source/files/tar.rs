//! The blocks of a tar archive (POSIX pax interchange format): headers, extended headers, and maps of sparse files as GNU tar writes them
//! (its format 1.0). Read as strictly as it is written: what this file does not write, it refuses.
//!
//! Sources: POSIX.1-2017, pax, "pax Interchange Format"; GNU tar manual, "Storing Sparse Files", PAX format, version 1.0.

use std::io;

/// Everything in an archive comes in blocks of this size.
pub const BLOCK: usize = 512;
/// Largest extended header that is read: two names of any length that a file system gives.
pub const MAX_EXTENDED: u64 = 1 << 20;
/// Most pieces of data in one sparse file; what comes after them is taken as one piece, holes included.
pub const MAX_PIECES: usize = 8192;
/// What an extended header is called, for programs that do not know it.
const EXTENDED_NAME: &[u8] = b"PaxHeaders/holdfast";

/// What a header describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    Directory,
    Symlink,
    /// Records for the header that comes next.
    Extended,
}

impl Type {
    const fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Directory => b'5',
            Self::Symlink => b'2',
            Self::Extended => b'x',
        }
    }
}

/// The fields of a header that count here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Type,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Whole seconds since 1970.
    pub mtime: i64,
    pub mtime_nanoseconds: u32,
    /// The real size of a sparse file, whose data begins with its map.
    pub sparse_size: Option<u64>,
}

/// Why bytes are no archive of ours.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive is refused: {0}")]
    Refused(String),
    #[error("{0}")]
    Read(#[from] io::Error),
}

pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, ArchiveError> {
    Err(ArchiveError::Refused(why.into()))
}

/// How many bytes fill the last block after `bytes`.
pub fn padding(bytes: u64) -> usize {
    (BLOCK - (bytes % BLOCK as u64) as usize) % BLOCK
}

impl Header {
    /// The header as it is written: an extended one before it where a value needs it.
    pub fn encode(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut name = self.name.clone();
        let is_plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if std::str::from_utf8(&self.name).is_err() || std::str::from_utf8(&self.link).is_err() {
            record(&mut records, "hdrcharset", b"BINARY");
        }
        if let Some(size) = self.sparse_size {
            record(&mut records, "GNU.sparse.major", b"1");
            record(&mut records, "GNU.sparse.minor", b"0");
            record(&mut records, "GNU.sparse.name", &self.name);
            record(&mut records, "GNU.sparse.realsize", size.to_string().as_bytes());
            name = b"GNUSparseFile.0/data".to_vec();
        } else if !is_plain(&name) {
            record(&mut records, "path", &name);
        }
        if !is_plain(&self.link) {
            record(&mut records, "linkpath", &self.link);
        }
        if self.size > octal_max(12) {
            record(&mut records, "size", self.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if u64::from(id) > octal_max(8) {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        let fits = u64::try_from(self.mtime).is_ok_and(|seconds| seconds <= octal_max(12));
        if self.mtime_nanoseconds != 0 || !fits {
            record(&mut records, "mtime", time(self.mtime, self.mtime_nanoseconds).as_bytes());
        }
        let mut bytes = Vec::with_capacity(4 * BLOCK);
        if !records.is_empty() {
            bytes.extend(block(Type::Extended, EXTENDED_NAME, b"", 0o600, 0, 0, records.len() as u64, 0));
            let fill = padding(records.len() as u64);
            bytes.append(&mut records);
            bytes.resize(bytes.len() + fill, 0);
        }
        let mtime = u64::try_from(self.mtime).unwrap_or(0);
        bytes.extend(block(self.kind, &name, &self.link, self.mode, self.uid, self.gid, self.size, mtime));
        bytes
    }

    /// Reads one block. `None` is the block of zeros that ends an archive.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Option<Self>, ArchiveError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if checksum(block) != number(&block[148..156])? {
            return refused("a header's checksum is wrong");
        }
        if &block[257..265] != b"ustar\x0000" || block[345..].iter().any(|byte| *byte != 0) {
            return refused("a header is not as Holdfast writes it");
        }
        let kind = match block[156] {
            b'0' => Type::File,
            b'5' => Type::Directory,
            b'2' => Type::Symlink,
            b'x' => Type::Extended,
            other => return refused(format!("a member has the type {:?}", char::from(other))),
        };
        let small = |bytes: &[u8]| number(bytes).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Ok(Some(Self {
            kind,
            name: text(&block[..100]),
            link: text(&block[157..257]),
            mode: small(&block[100..108])?,
            uid: small(&block[108..116])?,
            gid: small(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: i64::try_from(number(&block[136..148])?).unwrap_or(i64::MAX),
            mtime_nanoseconds: 0,
            sparse_size: None,
        }))
    }

    /// Puts the records of an extended header into the header that it was written for.
    pub fn extend(&mut self, records: &[u8]) -> Result<(), ArchiveError> {
        let (mut sparse, mut rest, mut seen) = (0u8, records, Vec::new());
        while !rest.is_empty() {
            let (key, value, after) = next_record(rest)?;
            rest = after;
            if seen.contains(&key) {
                return refused("an extended header says something twice");
            }
            match key.as_str() {
                "path" => self.name = value.to_vec(),
                "linkpath" => self.link = value.to_vec(),
                "size" => self.size = decimal(value)?,
                "uid" => self.uid = narrow(value)?,
                "gid" => self.gid = narrow(value)?,
                "mtime" => (self.mtime, self.mtime_nanoseconds) = read_time(value)?,
                "hdrcharset" if value == b"BINARY" => {}
                "GNU.sparse.major" if value == b"1" => sparse |= 1,
                "GNU.sparse.minor" if value == b"0" => sparse |= 2,
                "GNU.sparse.name" => {
                    self.name = value.to_vec();
                    sparse |= 4;
                }
                "GNU.sparse.realsize" => {
                    self.sparse_size = Some(decimal(value)?);
                    sparse |= 8;
                }
                _ => return refused("an extended header says what Holdfast does not write"),
            }
            seen.push(key);
        }
        if sparse != 0 && (sparse != 15 || self.kind != Type::File || seen.iter().any(|key| key == "path")) {
            return refused("a sparse file is not described as one");
        }
        Ok(())
    }
}

/// A run of data in a sparse file; everything else in it is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub bytes: u64,
}

/// The map that comes before a sparse file's data, whole blocks.
pub fn encode_map(pieces: &[Piece], size: u64) -> Vec<u8> {
    // Like GNU tar, which ends the map of a file that ends in a hole with an empty piece.
    let ends_in_hole = pieces.last().is_none_or(|last| last.offset + last.bytes < size);
    let end = ends_in_hole.then_some(Piece { offset: size, bytes: 0 });
    let mut map = format!("{}\n", pieces.len() + usize::from(ends_in_hole));
    for piece in pieces.iter().chain(&end) {
        map.push_str(&format!("{}\n{}\n", piece.offset, piece.bytes));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// Reads a map, block by block; gives its pieces and its own size.
pub fn decode_map(
    size: u64,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK], ArchiveError>,
) -> Result<(Vec<Piece>, u64), ArchiveError> {
    let (mut blocks, mut buffer) = (0u64, Vec::new());
    let mut number = || -> Result<u64, ArchiveError> {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let digits: Vec<u8> = buffer.drain(..=end).collect();
                return decimal(&digits[..end]);
            }
            if buffer.len() > 24 {
                return refused("the map of a sparse file holds no numbers");
            }
            buffer.extend(next_block()?);
            blocks += 1;
        }
    };
    let count = number()?;
    if count > MAX_PIECES as u64 + 2 {
        return refused("the map of a sparse file is too long");
    }
    let (mut pieces, mut at) = (Vec::new(), 0);
    for _ in 0..count {
        let piece = Piece { offset: number()?, bytes: number()? };
        match piece.offset.checked_add(piece.bytes) {
            Some(end) if piece.offset >= at && end <= size => at = end,
            _ => return refused("the pieces of a sparse file are not in order, or beyond its size"),
        }
        if piece.bytes > 0 {
            pieces.push(piece);
        }
    }
    if buffer.iter().any(|byte| *byte != 0) {
        return refused("something hides behind the map of a sparse file");
    }
    Ok((pieces, blocks * BLOCK as u64))
}

/// The largest number in an octal field of this width, with its closing NUL.
const fn octal_max(width: u32) -> u64 {
    (1 << (3 * (width - 1))) - 1
}

#[allow(clippy::too_many_arguments, reason = "the fields of one block")]
fn block(kind: Type, name: &[u8], link: &[u8], mode: u32, uid: u32, gid: u32, size: u64, mtime: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, most: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(most)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let octal = |value: u64, width: u32| {
        let value = if value > octal_max(width) { 0 } else { value };
        format!("{value:0digits$o}", digits = width as usize - 1).into_bytes()
    };
    put(0, 100, name);
    put(100, 8, &octal(u64::from(mode), 8));
    put(108, 8, &octal(u64::from(uid), 8));
    put(116, 8, &octal(u64::from(gid), 8));
    put(124, 12, &octal(size, 12));
    put(136, 12, &octal(mtime, 12));
    put(148, 8, b"        ");
    put(156, 1, &[kind.flag()]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    let sum = format!("{:06o}\0 ", checksum(&block));
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

/// The sum of all bytes, the checksum's own counted as spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    block.iter().enumerate().map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum()
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn number(field: &[u8]) -> Result<u64, ArchiveError> {
    let digits = text(field);
    let digits = digits.trim_ascii();
    let parsed = std::str::from_utf8(digits).ok().filter(|d| !d.starts_with('+')).map(|d| u64::from_str_radix(d, 8));
    parsed.and_then(Result::ok).map_or_else(|| refused("a header holds something else than a number"), Ok)
}

fn decimal(value: &[u8]) -> Result<u64, ArchiveError> {
    let is_number = !value.is_empty() && value.len() <= 20 && value.iter().all(u8::is_ascii_digit);
    let parsed = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    parsed.map_or_else(|| refused("something else than a number where one belongs"), Ok)
}

fn narrow(value: &[u8]) -> Result<u32, ArchiveError> {
    u32::try_from(decimal(value)?).or_else(|_| refused("an id is too large"))
}

/// Seconds and their fraction; before 1970 both count backwards, as GNU tar has it.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if seconds >= 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    format!("-{}.{:09}", -total / 1_000_000_000, -total % 1_000_000_000)
}

fn read_time(value: &[u8]) -> Result<(i64, u32), ArchiveError> {
    let (is_negative, digits) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let fraction = digits.get(point + 1..).unwrap_or_default();
    if fraction.len() > 9 {
        return refused("a time is finer than nanoseconds");
    }
    let mut nanoseconds = if fraction.is_empty() { 0 } else { decimal(fraction)? };
    nanoseconds *= 10u64.pow(9 - fraction.len() as u32);
    let total = i128::from(decimal(&digits[..point])?) * 1_000_000_000 + i128::from(nanoseconds);
    let total = if is_negative { -total } else { total };
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).or_else(|_| refused("a time is out of reach"))?;
    Ok((seconds, total.rem_euclid(1_000_000_000) as u32))
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} {key}=").bytes());
    records.extend(value);
    records.push(b'\n');
}

fn next_record(records: &[u8]) -> Result<(String, &[u8], &[u8]), ArchiveError> {
    let broken = || ArchiveError::Refused("an extended header is broken".to_owned());
    let space = records.iter().take(21).position(|byte| *byte == b' ').ok_or_else(broken)?;
    let length = usize::try_from(decimal(&records[..space])?).map_err(|_| broken())?;
    let line = records.get(space + 1..length).ok_or_else(broken)?.strip_suffix(b"\n").ok_or_else(broken)?;
    let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
    let key = String::from_utf8(line[..equals].to_vec()).map_err(|_| broken())?;
    Ok((key, &line[equals + 1..], &records[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(header: &Header) -> Header {
        let bytes = header.encode();
        let block = |at: usize| -> [u8; BLOCK] { bytes[at..at + BLOCK].try_into().unwrap() };
        let first = Header::decode(&block(0)).unwrap().unwrap();
        if first.kind != Type::Extended {
            return first;
        }
        let records = &bytes[BLOCK..BLOCK + first.size as usize];
        let mut second = Header::decode(&block(bytes.len() - BLOCK)).unwrap().unwrap();
        second.extend(records).unwrap();
        second
    }

    fn header() -> Header {
        Header {
            kind: Type::File,
            name: b"a".to_vec(),
            link: Vec::new(),
            mode: 0o640,
            uid: 1000,
            gid: 100,
            size: 7,
            mtime: 1_700_000_000,
            mtime_nanoseconds: 0,
            sparse_size: None,
        }
    }

    #[test]
    fn headers_round_trip_whatever_they_hold() {
        for header in [
            header(),
            Header { name: vec![b'n'; 100], ..header() },
            Header { name: vec![b'n'; 101], ..header() },
            Header { name: "ä".repeat(2000).into_bytes(), ..header() },
            Header { name: b"not \xff\xfe UTF-8".to_vec(), ..header() },
            Header { name: b"new\nline=1".to_vec(), mtime_nanoseconds: 1, ..header() },
            Header { size: 9 << 30, uid: u32::MAX - 1, gid: 1 << 21, ..header() },
            Header { mtime: -1, mtime_nanoseconds: 999_999_999, ..header() },
            Header { mtime: -5, ..header() },
            Header { mtime: 1 << 40, ..header() },
            Header { kind: Type::Symlink, link: vec![b'l'; 4095], size: 0, ..header() },
            Header { kind: Type::Directory, name: b"./".to_vec(), size: 0, ..header() },
            Header { sparse_size: Some(1 << 40), name: vec![b'n'; 300], ..header() },
        ] {
            assert_eq!(round_trip(&header), header);
        }
    }

    #[test]
    fn maps_round_trip_and_those_that_lead_astray_are_refused() {
        let decode = |map: &[u8], size| {
            let mut blocks = map.chunks(BLOCK).map(|block| <[u8; BLOCK]>::try_from(block).unwrap());
            decode_map(size, || blocks.next().ok_or_else(|| ArchiveError::Refused("no more".into())))
        };
        let many: Vec<Piece> = (0..2000).map(|at| Piece { offset: at * 8192, bytes: 4096 }).collect();
        for (pieces, size) in [(vec![], 10), (vec![Piece { offset: 5, bytes: 5 }], 10), (many, 1 << 30)] {
            let map = encode_map(&pieces, size);
            assert_eq!(decode(&map, size).unwrap(), (pieces, map.len() as u64));
        }
        for bad in ["1\n5\n6\n", "2\n5\n1\n3\n1\n", "1\n-1\n1\n", "9999999\n", "1\n5\n", "x\n", "0\nhidden"] {
            let mut map = bad.as_bytes().to_vec();
            map.resize(BLOCK, 0);
            assert!(decode(&map, 10).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_written_here_is_not_read() {
        let block = |change: fn(&mut [u8; BLOCK])| {
            let mut block: [u8; BLOCK] = header().encode().try_into().unwrap();
            change(&mut block);
            let sum = format!("{:06o}\0 ", checksum(&block));
            block[148..156].copy_from_slice(sum.as_bytes());
            Header::decode(&block)
        };
        assert!(block(|_| {}).is_ok());
        for flag in [b'1', b'3', b'4', b'6', b'7', b'L', b'K', b'S', b'g', 0] {
            let mut bytes: [u8; BLOCK] = header().encode().try_into().unwrap();
            bytes[156] = flag;
            let sum = format!("{:06o}\0 ", checksum(&bytes));
            bytes[148..156].copy_from_slice(sum.as_bytes());
            assert!(Header::decode(&bytes).is_err(), "{flag}");
        }
        assert!(block(|b| b[124] = 0x80).is_err(), "a size in base 256");
        assert!(block(|b| b[345] = b'/').is_err(), "a prefix");
        assert!(block(|b| b[257] = b'X').is_err());
        for records in ["9 path=a\n9 path=b\n", "30 comment=x\n", "8 uid=-1\n", "x", "5 a=\n", "99 path=a\n"] {
            assert!(header().extend(records.as_bytes()).is_err(), "{records:?}");
        }
    }
}
