//! The whole stack, forward and back, and through the stock tools.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use super::*;
use crate::artifact::{Fingerprint, Format};

/// Keeps what is written; fails every write after `room` bytes.
#[derive(Clone)]
pub(crate) struct Kept {
    pub bytes: Arc<Mutex<Vec<u8>>>,
    finished: Arc<Mutex<bool>>,
    room: usize,
}

impl Kept {
    pub fn new(room: usize) -> Self {
        Self { bytes: Arc::default(), finished: Arc::default(), room }
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.bytes.lock().unwrap();
        if kept.len() + bytes.len() > self.room {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the sink is full"));
        }
        kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Kept {
    fn finish(self: Box<Self>) -> io::Result<()> {
        *self.finished.lock().unwrap() = true;
        Ok(())
    }
}

fn identity() -> ::age::x25519::Identity {
    static IDENTITY: std::sync::OnceLock<::age::x25519::Identity> = std::sync::OnceLock::new();
    IDENTITY.get_or_init(::age::x25519::Identity::generate).clone()
}

fn options(compression: Compression, encryption: Encryption) -> EncodeOptions {
    EncodeOptions {
        encoding: Encoding { format: Some(Format::Sql), compression, encryption },
        zstd_level: 1,
        gzip_level: 6,
        threads: 2,
        recipients: vec![identity().to_public()],
    }
}

fn every() -> Vec<EncodeOptions> {
    let mut all = Vec::new();
    for compression in Compression::ALL {
        for encryption in Encryption::ALL {
            all.push(options(*compression, *encryption));
        }
    }
    all
}

fn encoded(options: &EncodeOptions, content: &[u8]) -> Vec<u8> {
    let kept = Kept::new(usize::MAX);
    let mut sink = encode(options, Box::new(kept.clone())).unwrap();
    for chunk in content.chunks(100_003) {
        sink.write_all(chunk).unwrap();
    }
    sink.finish().unwrap();
    assert!(*kept.finished.lock().unwrap());
    let bytes = kept.bytes.lock().unwrap();
    bytes.clone()
}

fn decoded(encoding: &Encoding, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut content = Vec::new();
    decode(encoding, &identity().into(), Box::new(io::Cursor::new(stored.to_vec())))?.read_to_end(&mut content)?;
    Ok(content)
}

/// Text that compresses, noise that does not, and lengths around every buffer.
fn contents() -> Vec<Vec<u8>> {
    let mut noise = 0x9e37_79b9_u64;
    let mut noisy = |length: usize, mask: u8| -> Vec<u8> {
        (0..length)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise as u8 | mask
            })
            .collect()
    };
    vec![
        Vec::new(),
        b"x".to_vec(),
        b"INSERT INTO t VALUES (1, 'same again');\n".repeat(60_000),
        noisy(1_000_000, 0),
        noisy(700_001, 0x80),
        noisy((256 << 10) - 1, 0),
        noisy(256 << 10, 0),
        noisy(64 << 10, 0),
    ]
}

#[test]
fn every_encoding_gives_back_what_went_in() {
    for options in every() {
        for content in contents() {
            let stored = encoded(&options, &content);
            assert!(decoded(&options.encoding, &stored).unwrap() == content, "{options:?} {}", content.len());
        }
    }
}

#[test]
fn every_gzip_level_keeps_noise_intact() {
    for level in 1..=9 {
        for content in contents() {
            let options = EncodeOptions { gzip_level: level, ..options(Compression::Gzip, Encryption::None) };
            assert!(decoded(&options.encoding, &encoded(&options, &content)).unwrap() == content, "level {level}");
        }
    }
}

/// Runs a program with `input` and gives its output.
fn through(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
    output.stdout
}

#[test]
fn stock_tools_open_what_is_stored() {
    use ::age::secrecy::ExposeSecret;
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, identity().to_string().expose_secret()).unwrap();
    for options in every() {
        for content in contents() {
            let mut bytes = encoded(&options, &content);
            if options.encoding.encryption == Encryption::Age {
                bytes = through("age", &["-d", "-i", key.to_str().unwrap()], &bytes);
            }
            bytes = match options.encoding.compression {
                Compression::None => bytes,
                Compression::Gzip => through("gunzip", &["-c"], &bytes),
                Compression::Zstd => through("zstd", &["-dcq"], &bytes),
            };
            assert!(bytes == content, "{options:?} {}", content.len());
        }
    }
}

#[test]
fn what_stock_tools_write_is_read() {
    let content = contents().swap_remove(2);
    let recipient = identity().to_public().to_string();
    let gzip = options(Compression::Gzip, Encryption::Age);
    let stored = through("age", &["-r", &recipient], &through("gzip", &["-c"], &content));
    assert!(decoded(&gzip.encoding, &stored).unwrap() == content);
    let zstd = options(Compression::Zstd, Encryption::None);
    assert!(decoded(&zstd.encoding, &through("zstd", &["-cq"], &content)).unwrap() == content);
    // Two members, as `cat a.gz b.gz` gives.
    let mut two = through("gzip", &["-c"], b"one ");
    two.extend(through("gzip", &["-c"], b"two"));
    let gzip = options(Compression::Gzip, Encryption::None);
    assert_eq!(decoded(&gzip.encoding, &two).unwrap(), b"one two");
}

#[test]
fn a_cut_stream_is_an_error_wherever_it_is_cut() {
    for options in every() {
        if options.encoding.compression == Compression::None && options.encoding.encryption == Encryption::None {
            continue; // Nothing in the bytes themselves tells: the fingerprints do.
        }
        for content in [b"some content".to_vec(), contents().swap_remove(3), contents().swap_remove(7)] {
            let stored = encoded(&options, &content);
            let ends = (0..stored.len()).step_by((stored.len() / 97).max(1)).chain([stored.len() - 1]);
            for end in ends {
                assert!(decoded(&options.encoding, &stored[..end]).is_err(), "{options:?} cut at {end}");
            }
        }
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for options in every() {
        if options.encoding.compression == Compression::None && options.encoding.encryption == Encryption::None {
            continue;
        }
        for content in contents() {
            for extra in [&b"x"[..], b"\0\0\0\0", &[0u8; 70_000]] {
                let mut stored = encoded(&options, &content);
                stored.extend_from_slice(extra);
                assert!(
                    decoded(&options.encoding, &stored).is_err(),
                    "{options:?} {} + {}",
                    content.len(),
                    extra.len()
                );
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_is_caught_by_the_fingerprint() {
    for options in every() {
        let content = contents().swap_remove(2);
        let stored = encoded(&options, &content);
        for at in (0..stored.len()).step_by((stored.len() / 61).max(1)) {
            let mut damaged = stored.clone();
            damaged[at] ^= 0x10;
            let mut read = Vec::new();
            let result = decode(&options.encoding, &identity().into(), Box::new(io::Cursor::new(damaged)))
                .map_err(|e| e.to_string())
                .and_then(|reader| {
                    CheckedReader::new(reader, Fingerprint::of(&content))
                        .read_to_end(&mut read)
                        .map_err(|e| e.to_string())
                });
            match result {
                Err(_) => {}
                // Header fields that decide nothing, such as gzip's time.
                Ok(_) => assert!(read == content, "{options:?} flipped at {at}"),
            }
        }
    }
}

#[test]
fn without_the_key_the_error_says_so() {
    let options = options(Compression::Zstd, Encryption::Age);
    let stored = encoded(&options, b"content");
    let open = |identities: &Identities| {
        decode(&options.encoding, identities, Box::new(io::Cursor::new(stored.clone()))).err().unwrap()
    };
    assert_eq!(open(&Identities::none()).code(), "key.unavailable");
    assert_eq!(open(&::age::x25519::Identity::generate().into()).code(), "key.mismatch");
}

#[test]
fn encryption_to_nobody_is_refused() {
    let options = EncodeOptions { recipients: Vec::new(), ..options(Compression::None, Encryption::Age) };
    assert!(encode(&options, Box::new(Kept::new(usize::MAX))).is_err());
}

#[test]
fn a_frame_that_asks_for_a_large_window_is_refused() {
    let large = through("zstd", &["-cq", "--ultra", "-22", "--long=27"], &contents().swap_remove(2));
    let encoding = options(Compression::Zstd, Encryption::None).encoding;
    // Read from a pipe, the content's size is not known to zstd, so the frame keeps its large window.
    match decoded(&encoding, &large) {
        Err(error) => assert_eq!(error.code(), "artifact.damaged"),
        Ok(_) => panic!("a window of 128 MiB was accepted"),
    }
}

#[test]
fn an_error_below_is_returned_and_dropping_the_stack_does_not_panic() {
    let content = contents().swap_remove(3);
    for options in every() {
        for room in [0, 5, 40, 300_000] {
            let kept = Kept::new(room);
            let result = encode(&options, Box::new(kept.clone())).and_then(|mut sink| {
                for chunk in content.chunks(50_000) {
                    sink.write_all(chunk)?;
                }
                sink.finish()
            });
            let error = result.unwrap_err();
            // The age crate wraps what happens while it writes its header.
            if room > 1_000 {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{options:?} {room}");
            }
            assert!(!*kept.finished.lock().unwrap());
        }
        let kept = Kept::new(usize::MAX);
        let mut sink = encode(&options, Box::new(kept.clone())).unwrap();
        sink.write_all(&content).unwrap();
        drop(sink);
        assert!(!*kept.finished.lock().unwrap());
        if options.encoding.compression != Compression::None {
            assert!(decoded(&options.encoding, &kept.bytes.lock().unwrap()).is_err(), "{options:?}");
        }
    }
}
