//! Keys on disk and small secrets in the database: an age identity, random secrets, the key that seals manifests, and the sealing of what the
//! control plane keeps (URLs of projects' databases).
//!
//! A key file is made with mode 0600 and never overwritten, but by a rotation, which keeps what is still needed of the old one.

mod seal_file;

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use rand::{TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretString};

pub use self::seal_file::{generate_seal_file, load_seals, rotate_seal_file};
use crate::{clock::Clock, transform::Identities};

/// Bytes in a random secret: 256 bits, written as 64 hexadecimal digits.
const SECRET_BYTES: usize = 32;
/// Bytes in an XChaCha20 nonce, long enough to be random.
const NONCE_BYTES: usize = 24;
/// What a sealed secret begins with: the version of its form.
const SEALED_PREFIX: &str = "hf1:";

/// Why a key cannot be made, loaded or used. Never repeats a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {} is there already, and keys are never overwritten", .0.display())]
    Exists(PathBuf),
    #[error("cannot {what} the key file {} ({source})", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the key file {} is not valid: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error("the system gives no random numbers ({0})")]
    Random(String),
    /// Another key, another context, or altered text: which one, nobody can tell.
    #[error("the stored secret does not open with this secrets key")]
    CannotOpen,
}

impl KeyError {
    /// A stable word for logs and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exists(_) => "key.exists",
            Self::Io { .. } => "key.unavailable",
            Self::Invalid { .. } => "key.invalid",
            Self::Random(_) => "key.random",
            Self::CannotOpen => "key.mismatch",
        }
    }
}

/// Makes an age identity and writes it as `age-keygen` does. Gives the public half.
pub fn generate_identity_file(path: &Path, clock: &Clock) -> Result<age::x25519::Recipient, KeyError> {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public();
    let created = clock.now().format("%Y-%m-%dT%H:%M:%SZ");
    let text = SecretString::from(format!(
        "# created: {created}\n# public key: {recipient}\n{}\n",
        // Written to the file that this function is for.
        identity.to_string().expose_secret()
    ));
    write_new(path, text.expose_secret().as_bytes())?;
    Ok(recipient)
}

/// Loads an identity file, and warns when others may read it.
pub fn load_identities(path: &Path) -> Result<Identities, KeyError> {
    let text = read_private(path)?;
    Identities::parse(text.expose_secret())
        .map_err(|e| KeyError::Invalid { path: path.to_owned(), reason: e.to_string() })
}

/// Reads recipients (`age1…`) as they stand in the configuration.
pub fn parse_recipients<S: AsRef<str>>(texts: &[S]) -> Result<Vec<age::x25519::Recipient>, String> {
    let parse = |text: &S| {
        let text = text.as_ref().trim();
        // A secret key in the wrong place must not be repeated.
        let shown = if text.starts_with("age1") { text.chars().take(70).collect() } else { String::from("this text") };
        text.parse().map_err(|_| format!("{shown} is not an age recipient: expected age1…"))
    };
    texts.iter().map(parse).collect()
}

/// Makes a file with a random secret of 64 hexadecimal digits.
pub fn generate_secret_file(path: &Path) -> Result<(), KeyError> {
    let mut bytes = [0u8; SECRET_BYTES];
    random(&mut bytes)?;
    let mut text = String::with_capacity(2 * SECRET_BYTES + 1);
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    write_new(path, SecretString::from(text).expose_secret().as_bytes())
}

/// Loads a secret file's text without the line end, and warns when others may read it.
pub fn load_secret_file(path: &Path) -> Result<SecretString, KeyError> {
    let text = read_private(path)?;
    let trimmed = text.expose_secret().trim();
    if trimmed.is_empty() {
        return Err(KeyError::Invalid { path: path.to_owned(), reason: "it is empty".into() });
    }
    Ok(SecretString::from(trimmed.to_owned()))
}

fn random(bytes: &mut [u8]) -> Result<(), KeyError> {
    SysRng.try_fill_bytes(bytes).map_err(|e| KeyError::Random(e.to_string()))
}

/// Writes a new file that only its owner can read, and makes it durable. It gets its name only when it is whole: nobody who sees it,
/// now or after a crash, sees less than the key. What could not be written whole is removed.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    match write_beside(path, bytes)?.persist_noclobber(path) {
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyError::Exists(path.to_owned()));
        }
        other => other.map_err(|error| failed("make", path)(error.error))?,
    };
    make_durable(path)
}

/// The same in the place of a file that is there: whoever looks sees the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    write_beside(path, bytes)?.persist(path).map_err(|error| failed("replace", path)(error.error))?;
    make_durable(path)
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyError {
    move |source| KeyError::Io { what, path: path.to_owned(), source }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Mode 0600, whatever the umask allows beyond.
fn write_beside(path: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile, KeyError> {
    let mut builder = tempfile::Builder::new();
    let mut file = builder.prefix(".key-").suffix(".tmp").tempfile_in(parent(path)).map_err(failed("make", path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed("write", path))?;
    Ok(file)
}

fn make_durable(path: &Path) -> Result<(), KeyError> {
    File::open(parent(path)).and_then(|directory| directory.sync_all()).map_err(failed("make durable", path))
}

fn read_private(path: &Path) -> Result<SecretString, KeyError> {
    let failed = |source| KeyError::Io { what: "read", path: path.to_owned(), source };
    if others_may_read(path).map_err(failed)? {
        tracing::warn!(file = %path.display(), "others than its owner may read this key file: chmod 600 it");
    }
    std::fs::read_to_string(path).map(SecretString::from).map_err(failed)
}

/// Whether group or world may read or write a file.
pub fn others_may_read(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.mode() & 0o066 != 0)
}

/// The key that seals small secrets for the database, with XChaCha20-Poly1305 and a random nonce each time.
#[derive(Clone)]
pub struct SecretsKey {
    cipher: XChaCha20Poly1305,
    /// What other keys are derived with.
    root: hmac::Key,
}

impl std::fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretsKey(…)")
    }
}

impl SecretsKey {
    /// Loads a file of 64 hexadecimal digits.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = load_secret_file(path)?;
        let digest: crate::artifact::Sha256Digest = text.expose_secret().parse().map_err(|_| KeyError::Invalid {
            path: path.to_owned(),
            reason: "expected 64 hexadecimal digits".into(),
        })?;
        Ok(Self::from_bytes(digest.0))
    }

    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        Self { cipher: XChaCha20Poly1305::new(&Key::from(bytes)), root }
    }

    /// Another key, for this purpose alone: whoever has it learns nothing of this one, or of those for other purposes.
    pub fn derive(&self, purpose: &str) -> [u8; SECRET_BYTES] {
        let tag = hmac::sign(&self.root, format!("holdfast derived key: {purpose}").as_bytes());
        let mut key = [0u8; SECRET_BYTES];
        key.copy_from_slice(tag.as_ref());
        key
    }

    /// Seals a secret. `context` says what it is (`project acme: database url`); it opens under the same context only, so that one
    /// row's secret cannot be put into another row.
    pub fn seal(&self, secret: &SecretString, context: &str) -> Result<String, KeyError> {
        let mut nonce = [0u8; NONCE_BYTES];
        random(&mut nonce)?;
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: context.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| KeyError::CannotOpen)?;
        Ok(format!("{SEALED_PREFIX}{}", BASE64.encode([&nonce[..], &sealed].concat())))
    }

    /// Opens what [`seal`](Self::seal) gave.
    pub fn open(&self, sealed: &str, context: &str) -> Result<SecretString, KeyError> {
        let text = sealed.strip_prefix(SEALED_PREFIX).ok_or(KeyError::CannotOpen)?;
        let bytes = BASE64.decode(text).map_err(|_| KeyError::CannotOpen)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(KeyError::CannotOpen)?;
        let payload = Payload { msg: sealed, aad: context.as_bytes() };
        let secret = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| KeyError::CannotOpen)?;
        String::from_utf8(secret).map(SecretString::from).map_err(|_| KeyError::CannotOpen)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_identity_file_is_private_and_opens_with_stock_age() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("age.key");
        let recipient = generate_identity_file(&path, &Clock::default()).unwrap();
        assert_eq!(mode(&path), 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("# created: 2") && lines[0].ends_with('Z'), "{}", lines[0]);
        assert_eq!(lines[1], format!("# public key: {recipient}"));
        assert_eq!(load_identities(&path).unwrap().recipients().len(), 1);
        let cipher = directory.path().join("cipher");
        let run = |arguments: &[&str], input: &[u8]| {
            let mut child = Command::new("age")
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("age is installed");
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            output.stdout
        };
        run(&["-r", &recipient.to_string(), "-o", cipher.to_str().unwrap()], b"hello");
        assert_eq!(run(&["-d", "-i", path.to_str().unwrap(), cipher.to_str().unwrap()], b""), b"hello");
    }

    #[test]
    fn a_key_file_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        generate_secret_file(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(generate_secret_file(&path), Err(KeyError::Exists(_))));
        assert!(matches!(generate_identity_file(&path, &Clock::default()), Err(KeyError::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing is left of the attempts");
    }

    #[test]
    fn a_secret_file_is_private_and_holds_256_random_bits() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        generate_secret_file(&one).unwrap();
        generate_secret_file(&two).unwrap();
        assert_eq!(mode(&one), 0o600);
        let secret = load_secret_file(&one).unwrap();
        assert!(secret.expose_secret().len() == 64 && secret.expose_secret().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(secret.expose_secret(), load_secret_file(&two).unwrap().expose_secret());
        assert!(!others_may_read(&one).unwrap());
        std::fs::set_permissions(&one, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(others_may_read(&one).unwrap());
    }

    #[test]
    fn a_sealed_secret_opens_with_its_key_and_context_only() {
        let key = SecretsKey::from_bytes([7; 32]);
        let secret = SecretString::from("postgres://u:hunter2@h/d");
        let sealed = key.seal(&secret, "project acme").unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_ne!(sealed, key.seal(&secret, "project acme").unwrap());
        assert_eq!(key.open(&sealed, "project acme").unwrap().expose_secret(), secret.expose_secret());
        assert!(key.open(&sealed, "project other").is_err());
        assert!(SecretsKey::from_bytes([8; 32]).open(&sealed, "project acme").is_err());
        let mut altered = sealed.clone().into_bytes();
        let last = altered.len() - 4;
        altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
        for bad in [std::str::from_utf8(&altered).unwrap(), "", "hf1:", "hf1:AAAA", "hf1:!!", &sealed[4..]] {
            assert!(matches!(key.open(bad, "project acme"), Err(KeyError::CannotOpen)), "{bad}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for text in ["", "\n", "AGE-SECRET-KEY-1CANARY", "canary"] {
            std::fs::write(&path, text).unwrap();
            for error in [load_identities(&path).unwrap_err(), SecretsKey::load(&path).unwrap_err()] {
                assert!(!format!("{error} {error:?}").to_lowercase().contains("canary"), "{error}");
            }
        }
        assert!(!parse_recipients(&["AGE-SECRET-KEY-1CANARY"]).unwrap_err().contains("CANARY"));
        let recipient = age::x25519::Identity::generate().to_public().to_string();
        assert_eq!(parse_recipients(&[recipient]).unwrap().len(), 1);
    }
}
